"""Two versions of a network compared: what computes the same, the first value that doesn't, and what is to blame.

``classes`` numbers what graphs compute, ``align`` pairs values of both, ``exact`` executes without rounding, ``inputs``
makes and matches inputs, ``judge`` compares values and says which ops differ, ``amends`` which differences are made
good soon after, ``words`` puts it in words.
"""
