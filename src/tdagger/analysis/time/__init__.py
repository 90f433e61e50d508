"""Predicted and measured time."""
