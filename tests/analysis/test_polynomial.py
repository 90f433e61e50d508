"""Polynomials in numbers of entries: arithmetic agrees with that of the numbers, comparisons are never wrong."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdagger.analysis.formulas.formula import to_sympy
from tdagger.analysis.formulas.polynomial import Number, Point, Poly, Symbol, divided, never_negative, symbol, variable
from tdagger.types import least, most

SYMBOLS = [Symbol(name, 5) for name in "bhw"]

leaves = st.one_of(st.integers(-3, 9), st.sampled_from(SYMBOLS).map(variable))


def combined(inner: st.SearchStrategy[Number]) -> st.SearchStrategy[Number]:
    both = st.tuples(inner, inner)
    return st.one_of(
        both.map(lambda p: p[0] + p[1]),
        both.map(lambda p: p[0] - p[1]),
        both.map(lambda p: p[0] * p[1]),
        st.tuples(inner, st.integers(1, 6)).map(lambda p: p[0] // p[1]),
    )


numbers = st.recursive(leaves, combined, max_leaves=8)
sizes = st.tuples(*[st.integers(1, 40)] * 3)


def at(number: Number, values: tuple[int, ...]) -> int:
    return Point(dict(zip(SYMBOLS, values, strict=True))).of(number)


@given(numbers, numbers, st.integers(1, 9), sizes)
def test_arithmetic_is_that_of_the_numbers(a: Number, b: Number, n: int, values: tuple[int, ...]) -> None:
    x, y = at(a, values), at(b, values)
    assert at(a + b, values) == x + y
    assert at(a - b, values) == x - y
    assert at(a * b, values) == x * y
    assert at(a // n, values) == x // n
    assert at(a % n, values) == x % n


@given(numbers, numbers, sizes)
def test_division_undoes_multiplication(a: Number, b: Number, values: tuple[int, ...]) -> None:
    if b != 0:
        assert divided(a * b, b) == a


@given(numbers, numbers, sizes)
def test_least_and_most(a: Number, b: Number, values: tuple[int, ...]) -> None:
    nonnegative = [v for v in (a, b) if never_negative(v)]
    for number in nonnegative:
        assert at(number, values) >= 0
    assert at(least(a, b), values) == min(at(a, values), at(b, values))
    assert at(most(a, b), values) == max(at(a, values), at(b, values))


def test_what_is_left_of_a_variable_is_an_int() -> None:
    h = symbol("h", 5)
    assert type(h - h) is int
    assert h - h == 0
    assert type(h * 0 + 3) is int
    assert (h * h - 1) // (h - 1) == h + 1


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (lambda h: (h + 1) // 2, "floor((1 + h)/2)"),
        (lambda h: (h + 6 - 7) // 2 + 1, "floor((1 + h)/2)"),
        (lambda h: ((h + 1) // 2 + 2 - 3) // 2 + 1, "floor((3 + h)/4)"),
        (lambda h: (2 * h + 3) // 4, "floor((1 + h)/2)"),
        (lambda h: 3 * h // 3, "h"),
        (lambda h: (h - 1).bit_length(), "bits(-1 + h)"),
        (lambda h: 2 * h * h - h - 7, "-7 - h + 2*h*h"),
    ],
)
def test_one_way_to_write_what_is_the_same(number: object, shown: str) -> None:
    assert str(number(symbol("h", 5))) == shown  # type: ignore[operator]


def test_certain_comparisons_leave_no_minimum() -> None:
    b, h, w = (symbol(n, 5) for n in "bhw")
    half = (h + 1) // 2
    assert least(b * half * ((w + 1) // 2), b * h * w) == b * half * ((w + 1) // 2)
    assert most(b * half - b, 0) == b * half - b
    assert str(least(b, h)) == "min(b, h)"


def test_a_product_of_floors_is_not_bounded_by_negative_bounds() -> None:
    # each floor is 0 at h = w = 1 though the product of (h - 3)/4 and (w - 3)/4 is 1/4 there
    h, w = symbol("h", 5), symbol("w", 5)
    assert not never_negative((h // 4) * (w // 4) * 8 - 2)


def test_sympy_has_the_same_numbers() -> None:
    rng = random.Random(0)
    h, w = Symbol("h", 5), Symbol("w", 5)
    x, y = variable(h), variable(w)
    number = 3 * x * y * ((x + 1) // 2) + least(x, y) - most(x - 3, y) + (y - 1).bit_length() * x + 7
    assert isinstance(number, Poly)
    shown = to_sympy(number)
    for _ in range(20):
        values = {h: rng.randint(1, 99), w: rng.randint(1, 99)}
        point = {s: values[h] if s.name == "h" else values[w] for s in shown.free_symbols}
        assert shown.subs(point) == Point(values).of(number)
