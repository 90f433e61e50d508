"""A network as boxes in boxes: by its modules, by structure where it has none, with equal ones found."""
