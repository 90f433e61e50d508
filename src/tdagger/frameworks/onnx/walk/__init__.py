"""The walk over a graph of a model: its names, its tensors, its nodes and how these call their rules."""
