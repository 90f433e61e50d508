"""Why some ATen ops can't be imported: what a user is told, and what docs/coverage.md lists."""

from __future__ import annotations


def kind_of(message: str) -> str:
    """The kind of reason an import error gives."""
    return "no rule"
