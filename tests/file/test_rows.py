"""Streams of rows: whatever repeats in them, they come back as they were."""

from __future__ import annotations

import random

from tdagger.file.rows import Row, expanded, packed


def nearly_repeated(seed: int) -> list[Row]:
    """Rows that repeat, but for a reference or a number here and there."""
    draw = random.Random(seed)
    block = [(draw.randrange(4), draw.choice((0, -1, -2, -3))) for _ in range(draw.randrange(2, 12))]
    rows: list[Row] = []
    for _ in range(draw.randrange(2, 12)):
        for number, back in block:
            i = len(rows)
            ref = i + back if back else draw.randrange(i + 1) if draw.random() < 0.3 else 0
            ref = max(min(ref, i - 1), 0)
            rows.append(((number if draw.random() < 0.97 else 9,), (ref,)))
    return rows


def test_streams_hold_their_rows() -> None:
    """A reference that ends a repeat says nothing of the rows before it."""
    for seed in range(600):
        rows = nearly_repeated(seed)
        flat = expanded(packed(rows), 10**6, "rows")
        pairs = zip(flat[::2], flat[1::2], strict=True)
        found: list[Row] = [((n,), (ref if ref >= 0 else i + ref,)) for i, (n, ref) in enumerate(pairs)]
        assert found == rows, seed
