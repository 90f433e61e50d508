"""Counting the true entries of masks: by hand, and against the mask written out."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tdagger as td
from tdagger.analysis.attention import masks
from tdagger.analysis.attention.masks import count_true
from tdagger.interpret import computed

NARROW = ("f16", "bf16")


def places(rows: int, columns: int) -> tuple[td.Value, td.Value]:
    row, column = td.unsqueeze(td.iota(rows), (1,)), td.unsqueeze(td.iota(columns), (0,))
    return td.broadcast_to(row, (rows, columns)), td.broadcast_to(column, (rows, columns))


def written_out(mask: td.Value) -> int:
    return int(np.count_nonzero(computed(mask)))


def examples(n: int, m: int) -> dict[str, td.Value]:
    """Masks of n x m entries of every kind that networks have."""
    row, column = places(n, m)
    causal = row >= column
    low = td.where(causal, 0.0, -math.inf)
    found = {
        "causal": causal,
        "window": causal & (row - column < 5),
        "both sides": td.abs_(row - column) < 3,
        "prefix": causal | (column < m // 3),
        "blocks": td.equal(row // 4, column // 4),
        "dilated": causal & td.equal((row - column) % 3, 0),
        "not": ~causal | td.equal(row, column),
        "numbers": low > -1e4,
        "scaled": low * 0.5 + 0.0 * td.cast(row, "f32") > -1e4,
        "turned": td.permute(causal, (1, 0)),
        "in a batch": td.broadcast_to(td.unsqueeze(causal, (0, 1)), (2, 3, n, m)),
        "sliced": td.slice_axis(causal, 0, n // 2, None),
        "grouped": td.group(td.broadcast_to(td.unsqueeze(causal, (0,)), (3, n, m)), (2, 1)),
        "running": td.equal(*[td.scan(td.cast(x % 4 < 1, "i64"), "sum", i) for i, x in enumerate((row, column))]),
        "nothing": causal & ~causal,
        "composite": td.greater(td.clamp(td.cast(row - column, "f32"), low=-1.0, high=2.0), 1.0),
    }
    return found | {f"numbers, {t}": td.cast(low, t) > -1e4 for t in NARROW}


@pytest.mark.parametrize("small", [0, 100, masks.SMALL])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (8, 8), (13, 70), (65, 20)])
def test_against_the_mask_written_out(n: int, m: int, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, mask in examples(n, m).items():
        expected = written_out(mask)
        with monkeypatch.context() as patched:
            patched.setattr(masks, "SMALL", small)
            found = count_true(mask)
        # what would have to be written out isn't known
        assert found == expected or (found is None and small < 65536 and name in ("grouped", "running")), name


def test_of_100_000_by_hand() -> None:
    n, w = 131_072, 4096
    row, column = places(n, n)
    causal = row >= column
    start = time.process_time()
    assert count_true(causal) == n * (n + 1) // 2
    assert count_true(causal & (row - column < w)) == w * (w + 1) // 2 + (n - w) * w
    assert count_true(causal | (column < 1000)) == n * (n + 1) // 2 + 1000 * 999 // 2
    assert count_true(td.equal(row // 128, column // 128)) == n * 128
    assert count_true(td.where(causal, 0.0, -3e38) > -1e4) == n * (n + 1) // 2
    assert time.process_time() - start < 20  # the mask has 17 thousand million entries


def test_what_takes_too_long_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    row, column = places(1000, 1000)
    monkeypatch.setattr(masks, "MOST_BLOCKS", 1000)
    assert count_true(td.equal(row * column % 7, 3)) is None
    assert count_true(row * 0 >= column * 0) == 1_000_000


def test_of_nothing() -> None:
    row, column = places(0, 5)
    assert count_true(row >= column) == 0


def test_of_constants_that_are_written_out() -> None:
    data = np.tril(np.ones((300, 300), np.bool_))
    mask = td.const(data) & ~td.const(np.eye(300, dtype=np.bool_))
    assert count_true(mask) == 300 * 299 // 2
    numbers = td.const(np.where(data, 0.0, -np.inf).astype(np.float32))
    assert count_true(numbers > -1e4) == 300 * 301 // 2


def test_nan_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    row, column = places(40, 40)
    monkeypatch.setattr(masks, "SMALL", 0)
    zero_or_one = td.cast(row >= column, "f32")
    nan_where_zero = zero_or_one * td.const(math.inf)
    for mask in (nan_where_zero > 1.0, ~(nan_where_zero > 1.0), td.isnan(nan_where_zero)):
        assert count_true(mask) in (40 * 41 // 2, 40 * 39 // 2)
        assert count_true(mask) == written_out(mask)


@st.composite
def random_masks(draw: st.DrawFn) -> td.Value:
    n, m = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    numbers = [*places(n, m)]
    for _ in range(draw(st.integers(0, 4))):
        x, y = draw(st.sampled_from(numbers)), draw(st.sampled_from(numbers))
        k = draw(st.integers(1, 9))
        numbers.append(draw(st.sampled_from([x + y, x - y, x // k, x % k, x * k, td.neg(x), td.maximum(x, y), x * y])))
    compare = draw(st.sampled_from([td.less, td.less_equal, td.equal, td.not_equal, td.greater]))
    bools = [compare(draw(st.sampled_from(numbers)), draw(st.sampled_from(numbers))) for _ in range(3)]
    for _ in range(draw(st.integers(0, 3))):
        x, y = draw(st.sampled_from(bools)), draw(st.sampled_from(bools))
        bools.append(draw(st.sampled_from([x & y, x | y, ~x, td.where(x, y, ~y)])))
    return bools[-1]


@given(random_masks())
@settings(max_examples=150, deadline=None)
def test_any_mask(mask: td.Value) -> None:
    small, masks.SMALL = masks.SMALL, 0
    try:
        found = count_true(mask)
    finally:
        masks.SMALL = small
    assert found == written_out(mask)
