"""Batching and unbatching every op of the table of samples: each entry is computed for itself, and back again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import tdagger as td
from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.axes.terms import resolve, size_of
from tdagger.composite import Composite
from tdagger.errors import AxisError
from tdagger.graph import topological
from tdagger.interpret import run
from tdagger.op import core_ops
from tdagger.ops.external import External, Slot
from tdagger.ops.indexing import Scatter
from tdagger.ops.source import Random
from tdagger.transform.axes.resize import resize
from tdagger.transform.axes.unbatch import batch, unbatch
from tests.samples import Array, Sample, all_samples, by_op, close, each, numbers
from tests.samples.core_structure import WEIGHTS

#: Entries of the new dimension.
COUNT = 3

_DTYPES = re.compile(r"\b(bf16|[fc]\d+\w*|[iu]\d+|bool)\b")


def _one_dtype() -> list[Sample]:
    """The samples with inputs, each in the first element type it has."""
    found: dict[Any, Sample] = {}
    for sample in all_samples():
        if sample.arrays:
            shapes = tuple(a.shape for a in sample.arrays)
            found.setdefault((sample.op, _DTYPES.sub("", sample.id), shapes), sample)
    return list(found.values())


def written_otherwise(sample: Sample) -> bool:
    """What comes back says the same in other words."""
    implicit = sample.op == "einsum" and "->" not in sample.id  # the result's letters are spelled out
    return implicit or sample.name == "group-(0, 1) (0,) f32"  # unsqueeze writes an ungroup


def drops_ones(graph: td.Graph) -> bool:
    """It drops an input's last dimension: one of size 1 is an axis too, so a part of the result carries it."""
    return any(v.op.name == "reshape" and v.rank == 0 and v.args[0].rank for v in graph.values)


def graph_of(sample: Sample) -> td.Graph:
    inputs = sample.inputs()
    built = sample.build(*inputs)
    outputs = built if isinstance(built, tuple) else (built,)
    return td.Graph({v.op.leaf: v for v in inputs}, {str(i): v for i, v in enumerate(outputs)})


def entries(array: Array) -> list[Array]:
    """An array and others with the same numbers elsewhere, so that all of them fit the op."""
    if array.dtype.kind == "i" and array.ndim == 1 and (np.diff(array) >= 0).all():
        return [array] * COUNT  # the ends of groups must rise
    return [np.roll(array.reshape(-1), k).reshape(array.shape) for k in range(COUNT)]


def results(graph: td.Graph, arrays: dict[str, Array]) -> dict[str, Array]:
    with np.errstate(all="ignore"):
        return run(graph, arrays, WEIGHTS)[0]


def labels(graph: td.Graph) -> Counter[str]:
    return Counter(v.op.name for v in graph.values if isinstance(v.op, Composite))


def is_random(graph: td.Graph) -> bool:
    """Whether it draws random numbers, in the bodies of its composites too."""
    ops = [(v.op, v.args) for v in graph.values]
    return any(
        isinstance(op, Random) or (isinstance(op, Composite) and is_random(op.body(*[a.type for a in args])))
        for op, args in ops
    )


def batched_first(graph: td.Graph, names: list[str], size: int = COUNT) -> td.Graph:
    return batch(Axes(graph), size, [graph.inputs[n] for n in names]).run()


def check_batched(sample: Sample, graph: td.Graph, names: list[str]) -> None:
    """``batch`` of some inputs gives what each entry alone gives; ``unbatch`` of it is the graph again."""
    big = batched_first(graph, names)
    arrays = dict(zip(graph.inputs, sample.arrays, strict=True))
    each = {n: entries(arrays[n]) for n in names}
    got = results(big, {**arrays, **{n: np.stack(a) for n, a in each.items()}})
    loose = sample._replace(ulps=2 * max(sample.ulps, 4), signless_zero=True)  # sums may be taken in another order
    for k in range(COUNT):
        alone = results(graph, {**arrays, **{n: a[k] for n, a in each.items()}})
        for name, want in alone.items():
            has = graph.outputs[name].rank < big.outputs[name].rank
            close(np.asarray(got[name][k] if has else got[name]), np.asarray(want), loose, f"{sample.name} entry {k}")
    axes = Axes(big)
    back = unbatch(axes, [a for n in names for a in resolve(axes[big.inputs[n]][0])]).run()
    if labels(big) == labels(graph) and not written_otherwise(sample) and not drops_ones(graph):
        assert back == graph, f"{sample.name}:\n{list(graph.values)}\n{list(big.values)}\n{list(back.values)}"
        return
    again = results(back, arrays)
    for name, want in results(graph, arrays).items():
        found = np.asarray(again[name])
        close(
            found.reshape(want.shape) if drops_ones(graph) else found, np.asarray(want), loose, f"{sample.name} again"
        )


SAMPLES = by_op(_one_dtype())


@pytest.mark.parametrize("op", SAMPLES)
def test_batch_and_back(op: str) -> None:
    each(SAMPLES[op][::2], _batch_and_back)


@pytest.mark.slow
@pytest.mark.parametrize("op", SAMPLES)
def test_batch_and_back_of_the_others(op: str) -> None:
    each(SAMPLES[op][1::2], _batch_and_back)


def _batch_and_back(sample: Sample) -> None:
    graph = graph_of(sample)
    if is_random(graph):  # entries would share their numbers, or not be those of each alone: neither is what was there
        with pytest.raises(AxisError, match="random"):
            batched_first(graph, list(graph.inputs))
        return
    for count in dict.fromkeys([len(graph.inputs), 1]):
        check_batched(sample, graph, list(graph.inputs)[:count])


def test_random_numbers_are_among_the_samples() -> None:
    assert any(is_random(graph_of(s)) for s in SAMPLES["dropout_train"])


# --- every core op: its axis rule and its adapt rule ----------------------------------------------------------


class Case(NamedTuple):
    """A core op on inputs that have a first dimension ``b``, or not, and a dimension of ``n`` entries.

    ``build(b, n)`` takes ``b`` as the tuple of first sizes. ``given`` names the dimensions of input x (with b);
    ``shown`` is what the result has, ``_`` for a name that was not given. Where an op can't follow, ``dropped``,
    ``added`` and ``resized`` are what is said of it.
    """

    build: Callable[[tuple[int, ...], int], td.Value]
    given: str
    shown: str
    dropped: str = ""
    added: str = ""
    resized: str = ""


def x_of(*shape: int, name: str = "x", dtype: str = "f32") -> td.Value:
    return td.input(name, shape, dtype)


def index_of(*shape: int) -> td.Value:
    return x_of(*shape, name="index", dtype="i64")


def _external(b: tuple[int, ...], n: int) -> td.Value:
    result = td.TensorType((*b, n), td.DType.of("f32"))
    return External("torch", "lib.f", (Slot(0),), (), (result,))(x_of(*b, n))


def _random(b: tuple[int, ...], n: int) -> td.Value:
    return td.add(x_of(*b, n, dtype="u64"), Random((*b, n))(x_of(name="seed", dtype="u64")))


def _scatter(b: tuple[int, ...], n: int) -> td.Value:
    return Scatter(len(b), len(b), "add")(x_of(*b, 4, n), index_of(*b, 3), x_of(*b, 3, n, name="updates"))


def _whole(b: tuple[int, ...]) -> tuple[None, ...]:
    return (None,) * len(b)


CORE: dict[str, Case] = {
    "input": Case(lambda b, n: x_of(*b, n), "b n", "b n"),
    "parameter": Case(
        lambda b, n: td.add(x_of(*b, n), td.parameter("p", (*b, n))),
        "b n", "b n", "parameter 'p'", "", "of p has",
    ),
    "buffer": Case(
        lambda b, n: td.add(x_of(*b, n), td.buffer("p", (*b, n))),
        "b n", "b n", "buffer 'p'", "", "of p has",
    ),
    "const": Case(lambda b, n: td.add(x_of(*b, n), td.const(np.full((*b, n), 3.0, "f4"))), "b n", "b n"),
    "iota": Case(lambda b, n: td.add(x_of(*b, n, dtype="i64"), td.broadcast_to(td.iota(n), (*b, n))), "b n", "b n"),
    "random": Case(_random, "b n", "b n", "draws random numbers along b"),
    "unary": Case(lambda b, n: td.sin(x_of(*b, n)), "b n", "b n"),
    "binary": Case(lambda b, n: td.add(x_of(*b, n), x_of(*b, n, name="y")), "b n", "b n"),
    "where": Case(
        lambda b, n: td.where(x_of(*b, n, dtype="bool"), x_of(*b, n, name="y"), x_of(*b, n, name="z")), "b n", "b n"
    ),
    "cast": Case(lambda b, n: td.cast(x_of(*b, n), "f64"), "b n", "b n"),
    "bitcast": Case(lambda b, n: td.bitcast(x_of(*b, n), "i32"), "b n", "b n"),
    "permute": Case(lambda b, n: td.permute(x_of(*b, n, 3), (*range(len(b)), -1, -2)), "b n s", "b s n"),
    "group": Case(lambda b, n: td.group(x_of(*b, n, 3), (*(1 for _ in b), 2)), "b n s", "b (n s)"),
    "ungroup": Case(lambda b, n: td.ungroup(x_of(*b, n, 4), -1, (2, 2)), "b n (s t)", "b n s t"),
    "slice": Case(lambda b, n: td.slice_axis(x_of(*b, n), -1, 1, n), "b n", "b (n - 1)"),
    "pad": Case(lambda b, n: td.pad(x_of(*b, n), [*_whole(b), (1, 2)]), "b n", "b (n + 3)"),
    "concat": Case(lambda b, n: td.concat([x_of(*b, n), x_of(*b, 3, name="y")], len(b)), "b n", "b (n + _)"),
    "repeat": Case(lambda b, n: td.repeat(x_of(*b, n, 1), (*_whole(b), None, 4)), "b n _", "b n _"),
    "reduce": Case(lambda b, n: td.reduce(x_of(*b, n, 3), "sum", (len(b) + 1,)), "b n s", "b n 1"),
    "unfold": Case(lambda b, n: td.unfold(x_of(*b, n), len(b), 3), "b n", "b ((n - 2) _)"),
    "fold": Case(lambda b, n: td.fold(td.group(x_of(*b, n, 3), (*(1 for _ in b), 2)), len(b), 3), "b n s", "b (n + 2)"),
    "item": Case(lambda b, n: td.sort(x_of(*b, n, 3), axis=-1)[1], "b n s", "b n s"),
    "gather": Case(lambda b, n: td.gather(x_of(*b, 4, n), index_of(*b, 3), len(b), len(b)), "b s n", "b _ n"),
    "scatter": Case(_scatter, "b s n", "b s n"),
    "argsort": Case(lambda b, n: td.argsort(x_of(*b, n), -1), "b n", "b n"),
    "scan": Case(lambda b, n: td.scan(x_of(*b, n), "sum", -1), "b n", "b n"),
    "external": Case(_external, "b n", "_ _", "hides b", "external", "external"),
}  # fmt: skip


def core_graph(case: Case, b: tuple[int, ...], n: int) -> td.Graph:
    out = case.build(b, n)
    leaves = [v for v in topological([out]) if v.op.name == "input"]
    return td.Graph({v.op.leaf: v for v in leaves}, {"out": out})


def same_or(refusal: str, change: Callable[[], td.Graph], wanted: td.Graph) -> None:
    """Either the change is refused with these words or it gives the graph that is wanted."""
    if refusal:
        with pytest.raises(AxisError, match=re.escape(refusal)):
            change()
    else:
        assert change() == wanted


def test_every_core_op_is_here() -> None:
    assert set(CORE) == set(core_ops)


@pytest.mark.parametrize("name", CORE)
def test_core_op(name: str) -> None:
    """Types and terms; with a dimension dropped, added, resized: what building it so gives."""
    case = CORE[name]
    graph, without = core_graph(case, (3,), 6), core_graph(case, (), 6)
    named = NamedAxes(Axes(graph), {"x": case.given})
    out = graph.outputs["out"]
    assert any(isinstance(v.op, core_ops[name]) for v in graph.values)
    assert re.fullmatch(re.escape(case.shown).replace("_", r"\w+"), named.shape(out)), named.shape(out)
    assert tuple(map(size_of, named[out])) == out.shape
    inputs = [v for v in without.inputs.values() if v.op.leaf != "seed"]
    same_or(case.dropped, lambda: unbatch(named.axes, named.term("b")).run(), without)
    same_or(case.resized, lambda: resize(named.axes, {named.term("n"): 9}).run(), core_graph(case, (3,), 9))
    same_or(case.resized, lambda: resize(named.axes, {named.term("b"): 5}).run(), core_graph(case, (5,), 6))
    if name == "external":
        same_or(case.added, lambda: batch(Axes(without), 3, inputs).run(), graph)
        return
    check_added(name, without, inputs)


def check_added(name: str, graph: td.Graph, inputs: list[td.Value]) -> None:
    """Every entry of a new first dimension is computed for itself."""
    big = batch(Axes(graph), COUNT, inputs).run()
    assert any(isinstance(v.op, core_ops[name]) for v in big.values)
    one = {n: numbers(v.shape, v.dtype.name, 0, 3) for n, v in graph.inputs.items()}
    each = {v.op.leaf: entries(one[v.op.leaf]) for v in inputs}
    weights = {v.op.leaf: numbers(v.shape) for v in graph.values if v.op.name in ("parameter", "buffer")}
    got = run(big, {**one, **{n: np.stack(a) for n, a in each.items()}}, weights)[0]["out"]
    for k in range(COUNT):
        alone = run(graph, {**one, **{n: a[k] for n, a in each.items()}}, weights)[0]["out"]
        np.testing.assert_array_equal(got[k], alone)
