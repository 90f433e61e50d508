"""The axis algebra: what each dimension is, how sizes follow one another, and what a graph leaves open."""
