"""What can be done to a graph: removing, adding and resizing axes."""
