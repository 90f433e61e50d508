"""Writing networks as MIL programs."""
