"""Networks that are trained in numbers of few bits."""
