"""What executions hold, by the declared table of a backend."""
