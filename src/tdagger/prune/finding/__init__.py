"""Which entries go together: factors and ties from the core ops' rules, units, groups, and what they cost."""
