"""What holds for every graph: unbatch undoes batch, a resize back undoes a resize, sizes multiply to shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tdagger as td
from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.sizes import solve
from tdagger.analysis.axes.terms import resolve, size_of
from tdagger.composite import Composite
from tdagger.graph import is_one, result_types
from tdagger.interpret import run
from tdagger.transform.axes.resize import resize
from tdagger.transform.axes.unbatch import batch, unbatch

_TOKENS = count()

Array = np.ndarray[Any, np.dtype[Any]]

#: Sizes of the axes of the inputs of a graph, and those it is resized to. The 4 is an axis of parameters.
SMALL, LARGE = (2, 5, 4), (3, 7, 4)
#: No value has more entries than so many in the small graph, or dimensions.
MOST, RANK = 4000, 5


class Pair(NamedTuple):
    """A value made by the same ops at both sizes; ``factors`` are what a dimension was grouped from, at both."""

    small: td.Value
    large: td.Value
    factors: tuple[tuple[tuple[int, int], ...] | None, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.small.shape, self.large.shape


def both(function: Callable[..., Any], *pairs: Pair) -> Pair:
    """A function applied at both sizes."""
    small, large = function(*[p.small for p in pairs]), function(*[p.large for p in pairs])
    return Pair(small, large, (None,) * small.rank)


def _bias(p: Pair) -> Pair | None:
    if not p.small.rank or p.small.shape[-1] != 4 or p.large.shape[-1] != 4:
        return None
    return both(lambda x: td.add(x, td.parameter("bias", (4,))), p)


def _linear(p: Pair) -> Pair | None:
    if not p.small.rank or p.small.shape[-1] != 4 or p.large.shape[-1] != 4:
        return None
    return both(lambda x: td.linear(x, td.parameter("w", (4, 4)), td.parameter("bias", (4,))), p)


def _permuted(p: Pair, order: tuple[int, ...]) -> Pair:
    out = both(lambda x: td.permute(x, order), p)
    return out._replace(factors=tuple(p.factors[i] for i in order))


def _grouped(p: Pair, axis: int) -> Pair | None:
    if p.small.rank < 2 or axis == p.small.rank - 1:
        return None
    counts = [1 + (i == axis) for i in range(p.small.rank - 1)]
    merged: tuple[tuple[int, int], ...] = ()
    for i in (axis, axis + 1):
        merged += p.factors[i] or ((p.small.shape[i], p.large.shape[i]),)
    out = both(lambda x: td.group(x, counts), p)
    return out._replace(factors=(*p.factors[:axis], merged, *p.factors[axis + 2 :]))


def _ungrouped(p: Pair, axis: int) -> Pair | None:
    factors = p.factors[axis]
    if factors is None or p.small.rank + len(factors) - 1 > RANK:
        return None
    small = td.ungroup(p.small, axis, [a for a, _ in factors])
    large = td.ungroup(p.large, axis, [b for _, b in factors])
    return Pair(small, large, (*p.factors[:axis], *(None for _ in factors), *p.factors[axis + 1 :]))


def _window(p: Pair, axis: int) -> Pair | None:
    if p.small.shape[axis] < 3:
        return None
    return both(lambda x: td.unfold(x, axis, 2), p)


def _shorter(p: Pair, axis: int, from_end: bool) -> Pair | None:
    if min(s[axis] for s in p.shapes) < 5:  # of a few entries nothing tells whether it takes the rest or the last
        return None
    return both(lambda x: td.slice_axis(x, axis, *((0, -1) if from_end else (1, None))), p)


def _padded(p: Pair, axis: int) -> Pair:
    return both(lambda x: td.pad(x, [(1, 2) if i == axis else None for i in range(x.rank)]), p)


def _counted(p: Pair, axis: int, baked: bool) -> Pair | None:
    if baked and p.small.shape[axis] < 3:  # two numbers don't tell that they count
        return None

    def add(x: td.Value) -> td.Value:
        n = x.shape[axis]
        numbers = td.const(np.arange(n, dtype="f4")) if baked else td.iota(n, "f32")
        return td.add(x, td.unsqueeze(numbers, range(1, x.rank - axis)))

    return both(add, p)


def _centred(p: Pair, axis: int) -> Pair:
    return both(lambda x: td.subtract(x, td.mean(x, axes=(axis,), keep=True)), p)


def _sum(p: Pair, axis: int, keep: bool) -> Pair:
    out = both(lambda x: td.reduce(x, "sum", (axis,), keep), p)
    return out._replace(factors=p.factors[:axis] + ((None,) if keep else ()) + p.factors[axis + 1 :])


def _product(p: Pair) -> Pair | None:
    if p.small.rank < 2:
        return None
    return both(lambda x: td.matmul(x, td.transpose(x, -1, -2)), p)


def _convolution(p: Pair) -> Pair | None:
    if p.small.rank < 3 or p.small.shape[-1] != 4 or p.large.shape[-1] != 4:
        return None

    def strided(x: td.Value) -> td.Value:
        x = td.transpose(x, -1, -2)
        return td.convolution(x, td.parameter("kernel", (4, 4, 3)), stride=(2,), padding=((1, 1),), dilation=(1,))

    return both(strided, p) if p.small.rank == 3 else None


def _token(p: Pair, axis: int) -> Pair:
    """Something in front that is the same for everything else, a parameter of its own each time."""
    name = f"token{next(_TOKENS)}"

    def put(x: td.Value) -> td.Value:
        shape = tuple(1 if i == axis else n for i, n in enumerate(x.shape))
        return td.concat([td.broadcast_to(td.parameter(name, ()), shape), x], axis)

    return both(put, p)


def _stepped(p: Pair, axis: int, step: int) -> Pair | None:
    if min(s[axis] for s in p.shapes) < 3:
        return None
    return both(lambda x: td.slice_axis(x, axis, None, None, step), p)


def _interleaved(p: Pair, axis: int) -> Pair:
    return both(lambda x: td.repeat_interleave(x, repeats=2, axis=axis), p)


def _triangle(p: Pair) -> Pair | None:
    if p.small.rank < 2 or any(s[-1] == s[-2] for s in p.shapes):  # a square says that rows and columns are one
        return None
    return both(td.tril, p)


def _outer(p: Pair) -> Pair | None:
    if p.small.rank >= RANK:
        return None
    return both(lambda x: td.einsum(x, x, equation="...i,...j->...ij"), p)


def _one_more(p: Pair, axis: int) -> Pair | None:
    if p.small.rank >= RANK:
        return None
    out = both(lambda x: td.unsqueeze(x, (axis,)), p)
    return out._replace(factors=(*p.factors[:axis], None, *p.factors[axis:]))


def _same(function: Callable[[td.Value], td.Value], p: Pair) -> Pair:
    return both(function, p)._replace(factors=p.factors)


#: Ops of one value and an axis of it; None where it can't be.
STEPS: dict[str, Callable[[Pair, int], Pair | None]] = {
    "sin": lambda p, i: _same(td.sin, p),
    "gelu": lambda p, i: _same(td.gelu, p),
    "bias": lambda p, i: _bias(p),
    "linear": lambda p, i: _linear(p),
    "permute": lambda p, i: _permuted(p, (*range(i), *range(i + 1, p.small.rank), i)),
    "group": _grouped,
    "ungroup": _ungrouped,
    "window": _window,
    "drop first": lambda p, i: _shorter(p, i, False),
    "drop last": lambda p, i: _shorter(p, i, True),
    "pad": _padded,
    "count": lambda p, i: _counted(p, i, False),
    "baked count": lambda p, i: _counted(p, i, True),
    "half": lambda p, i: _same(lambda x: td.multiply(x, td.const(np.full(x.shape, 0.5, "f4"))), p),
    "centre": _centred,
    "sum": lambda p, i: _sum(p, i, False),
    "sum, kept": lambda p, i: _sum(p, i, True),
    "softmax": lambda p, i: _same(lambda x: td.softmax(x, axis=i), p),
    "scan": lambda p, i: _same(lambda x: td.scan(x, "sum", i), p),
    "roll": lambda p, i: _same(lambda x: td.roll(x, shifts=(1,), axes=(i,)), p),
    "twice": lambda p, i: both(lambda x: td.concat([x, x], i), p),
    "matmul": lambda p, i: _product(p),
    "one more": _one_more,
    "convolution": lambda p, i: _convolution(p),
    "token": _token,
    "backwards": lambda p, i: _stepped(p, i, -1),
    "every other": lambda p, i: _stepped(p, i, 2),
    "interleave": _interleaved,
    "outer": lambda p, i: _outer(p),
    "triangle": lambda p, i: _triangle(p),
    "sort": lambda p, i: _same(lambda x: td.sort(x, axis=i)[0], p),
    "norm": lambda p, i: _same(lambda x: td.layer_norm(x, rank=1), p),
}

BINARY = (td.add, td.multiply, td.maximum)


@st.composite
def pairs(draw: st.DrawFn, steps: int = 15) -> tuple[td.Graph, td.Graph]:
    """A random graph built op by op at both sizes."""
    values: list[Pair] = []
    for name in ("x", "y"):
        small, large = td.input(name, SMALL), td.input(name, LARGE)
        values.append(Pair(small, large, (None,) * 3))
    inputs = values[:2]
    names = sorted(STEPS)
    for _ in range(draw(st.integers(steps // 3, steps))):
        p = values[-1 - draw(st.integers(0, min(3, len(values) - 1)))]
        same = [q for q in values if q.shapes == p.shapes]
        if draw(st.integers(0, 4)) == 0:
            values.append(both(draw(st.sampled_from(BINARY)), p, same[draw(st.integers(0, len(same) - 1))]))
        elif p.small.rank:
            step = STEPS[draw(st.sampled_from(names))]
            made = step(p, draw(st.integers(0, p.small.rank - 1)))
            if made is not None and made.small.type.size <= MOST:
                values.append(made)
    outputs = list(dict.fromkeys([values[-1], values[draw(st.integers(0, len(values) - 1))]]))

    def graph(at: int) -> td.Graph:
        return td.Graph({v.small.op.leaf: v[at] for v in inputs}, {str(i): v[at] for i, v in enumerate(outputs)})

    return graph(0), graph(1)


def weights(graph: td.Graph) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    leaves = sorted({v.op.leaf: v.shape for v in graph.values if v.op.name == "parameter"}.items())
    return {n: np.asarray(rng.normal(size=shape)).astype("f4") for n, shape in leaves}


def arrays_of(graph: td.Graph) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    return {n: rng.normal(size=v.shape).astype("f4") for n, v in graph.inputs.items()}


def labels(graph: td.Graph) -> Counter[str]:
    return Counter(v.op.name for v in graph.values if isinstance(v.op, Composite))


def resized(graph: td.Graph, like: td.Graph) -> td.Graph:
    """A graph with inputs of the sizes that those of another have."""
    axes = Axes(graph)
    return resize(axes, wanted(axes, like)).run()


def wanted(axes: Axes, like: td.Graph) -> dict[Any, int]:
    inputs = axes.graph.inputs.items()
    return {t: n for k, v in inputs for t, n in zip(axes[v], like.inputs[k].shape, strict=True)}


@given(pairs())
@settings(max_examples=200)
def test_unbatch_undoes_batch(pair: tuple[td.Graph, td.Graph]) -> None:
    graph, _ = pair
    axes = Axes(graph)
    big = batch(axes, 3, graph.inputs.values()).run()
    arrays = arrays_of(graph)
    stacked = {n: np.stack([a, -a, np.flip(a, 0)]) for n, a in arrays.items()}
    got, _ = run(big, stacked, weights(graph))
    for k in range(3):
        alone, _ = run(graph, {n: a[k] for n, a in stacked.items()}, weights(graph))
        for name, want in alone.items():
            has = big.outputs[name].rank > graph.outputs[name].rank
            np.testing.assert_allclose(got[name][k] if has else got[name], want, rtol=1e-4, atol=1e-4)
    inside = Axes(big)
    back = unbatch(inside, [a for v in big.inputs.values() for a in resolve(inside[v][0])]).run()
    if labels(big) == labels(graph):
        assert back == graph
    else:
        for name, want in run(graph, arrays, weights(graph))[0].items():
            np.testing.assert_allclose(run(back, arrays, weights(graph))[0][name], want, rtol=1e-4, atol=1e-4)


@given(pairs())
@settings(max_examples=200)
def test_resized_is_built_at_that_size(pair: tuple[td.Graph, td.Graph]) -> None:
    small, large = pair
    assert resized(small, large) == large
    assert resized(large, small) == small


@given(pairs())
@settings(max_examples=200)
def test_a_resize_back_undoes_a_resize(pair: tuple[td.Graph, td.Graph]) -> None:
    graph, like = pair
    assert resized(resized(graph, like), graph) == graph


@given(pairs())
@settings(max_examples=200)
def test_sizes_multiply_to_shapes(pair: tuple[td.Graph, td.Graph]) -> None:
    """Of every value, as it is and as it becomes."""
    graph, like = pair
    axes = Axes(graph)
    for value in graph.values:
        found = [tuple(map(size_of, terms)) for terms in axes.of(value)]
        assert found == [t.shape for t in result_types(value)]
    sizes = solve(axes, wanted(axes, like))
    change = resize(axes, wanted(axes, like))
    change.run()
    for value in graph.values:
        if value not in axes.static and is_one(value):
            assert tuple(map(sizes.of, axes[value])) == change.new[value].shape
