"""Attention found by what it computes, and what its masks let through."""
