"""What activations take: their lives, an order, places."""
