"""Removing, adding and resizing axes, by the graph's word or the source's."""
