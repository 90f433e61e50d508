"""Running and timing networks."""
