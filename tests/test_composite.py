"""Composites: one definition, from which types, execution and costs follow."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.composite import Composite, CompositeFunction, composite, composites
from tdagger.errors import AttributeValueError, GraphError, NoInverseError, TypeMismatchError
from tdagger.interpret import run
from tdagger.op import Array, Value, functions
from tdagger.types import TensorType, f32

Define = Callable[..., CompositeFunction[..., Any]]


@pytest.fixture
def define() -> Iterator[Define]:
    """``composite`` for the time of one test: other tests look at the table of all composites."""
    before, before_functions = dict(composites), dict(functions)
    yield composite
    for table, old in ((composites, before), (functions, before_functions)):
        table.clear()
        table.update(old)


X = TensorType((2, 3), f32)


def value(*shape: int, name: str = "x", dtype: str = "f32") -> Value:
    return td.input(name, shape, dtype)


# --- calling -------------------------------------------------------------------------------------------------


def test_one_node(define: Define) -> None:
    @define
    def double(x: Value, *, times: int = 1) -> Value:
        for _ in range(times):
            x = x + x
        return x

    x = value(2, 3)
    y = double(x, times=3)
    assert y.args == (x,)
    assert y.type is X
    assert isinstance(y.op, Composite)
    assert y.op.attributes == {"times": 3}
    assert repr(y.op) == "double(times=3)"
    assert repr(double(x).op) == "double"  # defaults are not shown
    assert y is double(x, times=3)
    assert y is not double(x)
    assert composites["double"] is functions["double"] is double
    assert repr(double).startswith("<composite double(x: ")


def test_definition_is_traced_once_for_each_type(define: Define) -> None:
    traced: list[tuple[int, ...]] = []

    @define
    def same(x: Value) -> Value:
        traced.append(x.shape)
        return x * 1.0

    ys = [same(value(2, name=n)) for n in "abc"] + [same(value(3))]
    assert traced == [(2,), (3,)]
    assert ys[0].op is ys[3].op
    body = ys[0].op.body(TensorType((2,), f32))
    assert body is ys[0].op.body(TensorType((2,), f32))
    assert list(body.inputs) == ["x"]
    assert list(body.outputs) == ["out"]
    assert traced == [(2,), (3,)]


def test_optional_tensors(define: Define) -> None:
    @define
    def affine(x: Value, weight: Value | None = None, bias: Value | None = None, *, by: float = 1.0) -> Value:
        x = x * by if weight is None else x * weight
        return x if bias is None else x - bias

    x, w, b = (value(3, name=n) for n in "xwb")
    assert affine(x).args == (x,)
    assert affine(x, w).args == affine(x, weight=w).args == (x, w)
    assert affine(x, w, b) is affine(x, bias=b, weight=w)
    only_bias = affine(x, None, b)
    assert only_bias.args == (x, b)
    assert only_bias is affine(x, bias=b)
    assert only_bias.op is not affine(x, w).op
    assert list(only_bias.op.body(x.type, b.type).inputs) == ["x", "bias"]
    data = {n: np.asarray([i + 1.0] * 3, np.float32) for i, n in enumerate("xwb")}
    out, _ = run(td.Graph({"x": x, "b": b}, {"y": only_bias}), data, {})
    assert out["y"].tolist() == [-2, -2, -2]


def test_any_number_of_tensors(define: Define) -> None:
    @define
    def total_of(*xs: Value, by: float = 1.0) -> Value:
        out = xs[0] * by
        for x in xs[1:]:
            out = out + x
        return out

    xs = [value(2, name=n) for n in "abc"]
    y = total_of(*xs, by=2.0)
    assert y.args == tuple(xs)
    assert y.op is total_of(*xs[:2], by=2.0).op
    assert list(y.op.body(*[x.type for x in xs]).inputs) == ["xs0", "xs1", "xs2"]


def test_several_results(define: Define) -> None:
    @define
    def both(x: Value, *, axis: int) -> tuple[Value, Value]:
        return td.reduce(x, "max", [axis]), td.reduce(x, "min", [axis])

    high, low = both(value(2, 3), axis=-1)
    assert high.shape == low.shape == (2, 1)
    assert high.args == low.args
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    out, _ = run(td.Graph({"x": value(2, 3)}, {"high": high, "low": low}), {"x": data}, {})
    assert out["high"].tolist() == [[2], [5]]
    assert out["low"].tolist() == [[0], [3]]


def test_axes_are_counted_from_the_front(define: Define) -> None:
    @define
    def along(x: Value, *, axis: int = -1, axes: tuple[int, ...] = ()) -> Value:
        return td.reduce(x, "sum", axes)

    x = value(2, 3, 4)
    assert along(x).op.attributes == {"axis": 2, "axes": ()}
    assert along(x, axis=0, axes=[-1, 0]).op.attributes == {"axis": 0, "axes": (0, 2)}
    with pytest.raises(AttributeValueError, match="axis 3 is out of range for a tensor of rank 3"):
        along(x, axis=3)


def test_prepare(define: Define) -> None:
    def prepare(x: Value, y: Any, *, power: int | str = 1) -> Any:
        return (x, td.broadcast_to(y, x.shape)), {"power": int(power)}

    @define(prepare=prepare)
    def powers(x: Value, y: Value, *, power: int = 1) -> Value:
        return x * y

    y = powers(value(2, 3), value(3, name="y"), power="2")
    assert y.args[1].shape == (2, 3)
    assert y.op.attributes == {"power": 2}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (1, {}, "halved needs the attribute times"),
        (1, {"times": 1, "size": 2}, r"halved takes \(x.*, \*, times.*\).*, got"),
        (2, {"times": 1}, r"halved takes \(x.*, \*, times"),
    ],
)
def test_wrong_calls(define: Define, args: int, kwargs: dict[str, int], message: str) -> None:
    @define
    def halved(x: Value, *, times: int) -> Value:
        return x * 0.5**times

    with pytest.raises(AttributeValueError, match=message):
        halved(*[value(2)] * args, **kwargs)


def test_errors_of_the_definition_come_out(define: Define) -> None:
    @define
    def needs_bools(x: Value) -> Value:
        return td.reduce(x, "any")

    for _ in range(2):
        with pytest.raises(TypeMismatchError, match="any and all take bools"):
            needs_bools(value(2))


def test_wrong_number_of_types(define: Define) -> None:
    @define
    def of_one(x: Value) -> Value:
        return x

    with pytest.raises(TypeMismatchError, match=r"of_one on \(f32\[2 3\], f32\[2 3\]\): takes 1 tensors \(x\)"):
        of_one(value(2, 3)).op.body(X, X)


# --- what follows from the body ------------------------------------------------------------------------------


def test_execution_follows_from_the_body_or_a_numpy_rule(define: Define) -> None:
    calls: list[Any] = []

    @define
    def gained(x: Value, bias: Value | None = None, *, gain: float = 2.0) -> Value:
        return x * gain if bias is None else x * gain + bias

    y = gained(value(2), bias=value(2, name="b"), gain=3.0)
    data = [np.asarray([1, 2], np.float32), np.asarray([5, 5], np.float32)]
    assert y.op.run(*data).tolist() == y.op.run_body(*data).tolist() == [8, 11]

    @gained.numpy
    def rule(x: Array, bias: Array | None, *, gain: float) -> Array:
        calls.append((bias is None, gain))
        return x * np.float32(gain) + (0 if bias is None else bias)

    assert y.op.run(*data).tolist() == [8, 11]
    assert gained(value(2)).op.run(data[0]).tolist() == [2, 4]
    assert calls == [(False, 3.0), (True, 2.0)]


def test_costs_follow_from_the_body(define: Define) -> None:
    @define
    def squares(x: Value) -> Value:
        return td.reduce(x * x, "sum")

    y = squares(value(2, 3))
    assert y.op.flops(y.type, X) == 6 + 5
    assert y.op.reads(y.type, X) == (6,)  # x is read twice, but at the boundary only once


def test_flops_of_what_executes_as_itself(define: Define) -> None:
    @define(flops_each=1)
    def difference(x: Value, y: Value) -> Value:
        return x + -y

    y = difference(value(2, 3), value(2, 3, name="y"))
    assert y.op.flops(y.type, X, X) == 6


def test_views(define: Define) -> None:
    @define
    def flat(x: Value) -> Value:
        return td.group(x, [2])

    y = flat(value(2, 3))
    assert y.op.moves_nothing(X)
    g = td.Graph({"x": value(2, 3)}, {"y": y})
    assert g.total_memory_reads() == g.total_memory_writes() == 0


def test_inverse_and_adjoint(define: Define) -> None:
    @define
    def scaled(x: Value, *, by: float) -> Value:
        return x * by

    x = value(2)
    op = scaled(x, by=4.0).op
    for ask, name in ((op.inverse, "inverse"), (op.adjoint, "adjoint")):
        with pytest.raises(NoInverseError, match=rf"scaled\(by=4\.0\) has no {name}"):
            ask()
    scaled.inverse(lambda op, *types: lambda y: scaled(y, by=1 / op.by))
    scaled.adjoint(lambda op, *types: op)
    assert op.inverse()(x) is scaled(x, by=0.25)
    assert op.adjoint() is op


def test_composites_of_composites(define: Define) -> None:
    @define
    def inner(x: Value) -> Value:
        return td.exp(x)

    @define
    def outer(x: Value) -> Value:
        return inner(x) + inner(inner(x))

    y = outer(value(2))
    assert y.op.flops(y.type, y.type) == 2 * 3
    expected = np.exp(np.float32(0.5)) + np.exp(np.exp(np.float32(0.5)))
    np.testing.assert_allclose(y.op.run(np.full(2, 0.5, np.float32)), expected, rtol=1e-6)


# --- copying and freeing -------------------------------------------------------------------------------------


def test_pickle_is_by_name(define: Define) -> None:
    @define
    def named(x: Value, bias: Value | None = None, *, by: float = 2.0) -> Value:
        return x * by

    y = named(value(2), by=3.0)
    assert pickle.loads(pickle.dumps(y.op)) is copy.deepcopy(y.op) is y.op
    g = td.Graph({"x": value(2)}, {"y": y})
    data = pickle.dumps(g)
    assert pickle.loads(data) == g
    del composites["named"]
    with pytest.raises(GraphError, match="there is no composite called 'named'; import the module that defines it"):
        pickle.loads(data)


def test_bodies_are_freed(define: Define) -> None:
    @define
    def temporary(x: Value) -> Value:
        return td.sin(td.sin(x))

    y = temporary(value(11))
    ref = weakref.ref(y.op.body(y.type).outputs["out"])
    assert ref() is not None
    del y
    gc.collect()
    assert ref() is None
