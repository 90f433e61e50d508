"""What a network costs, counted: contractions, flops, traffic, the backward pass."""
