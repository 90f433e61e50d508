"""Other ways to a smaller network: low rank, blocks, branches, vocabulary, and the tables of learned gates."""
