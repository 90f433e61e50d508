"""Rewriting by rules: patterns, rules, and the driver that applies them to a fixed point."""

from tdagger.transform.rewrite.pattern import constant, either, elementwise, number, only, op, spread
from tdagger.transform.rewrite.report import Match, Report, applied, found, rewritten
from tdagger.transform.rewrite.rule import Context, Rule, no, rule, rule_of

__all__ = [
    "Context",
    "Match",
    "Report",
    "Rule",
    "applied",
    "constant",
    "either",
    "elementwise",
    "found",
    "no",
    "number",
    "only",
    "op",
    "rewritten",
    "rule",
    "rule_of",
    "spread",
]
