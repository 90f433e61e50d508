"""A fuzzer: random programs that run at any size, checked against eager in all that tdagger does with them."""
