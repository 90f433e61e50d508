"""Scripts whose control flow depends on the data, read as programs."""
