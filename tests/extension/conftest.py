"""The package is imported by its tests alone, as a user's is: what it registers is gone after them."""

collect_ignore = ["own_ops"]
