"""The network without some entries, of which zeros or constants count, and the proof that it computes the same."""
