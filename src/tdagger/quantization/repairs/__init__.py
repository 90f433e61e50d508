"""Repairs: what makes a quantized network better, in the float one before it or as its weights are rounded."""
