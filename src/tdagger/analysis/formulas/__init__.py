"""Costs as formulas in the free axes."""
