"""Getting a graph out of torch, and leaving everything as it was."""
