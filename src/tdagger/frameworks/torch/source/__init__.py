"""Networks by name and from files."""
