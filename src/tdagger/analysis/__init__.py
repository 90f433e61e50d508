"""What can be said of a graph: its axes, what it costs at any size."""
