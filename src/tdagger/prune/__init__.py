"""Structured pruning: which entries go together, which of them go, and the network without them."""
