"""Rows of a table that were indexed: an embedding, whose indices may count from the end."""

from __future__ import annotations

from typing import Any

from tdagger.library.linear import embedding
from tdagger.transform.rewrite import no, op, rule


@rule
def rows(table: Any, index: Any) -> Any:
    """Rows of a matrix at indices."""
    return op("gather", table, index, axis=0, batch=0)


@rows.when
def _(table: Any) -> Any:
    return table.rank == 2 or no(f"{table.type} has no rows")


@rows.to
def _(table: Any, index: Any) -> Any:
    return embedding(table, index)


LOOKUPS = (rows,)
