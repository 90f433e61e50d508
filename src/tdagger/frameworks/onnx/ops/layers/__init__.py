"""Rules of operators that are layers: convolutions, products, norms, pools, attention, recurrent networks."""
