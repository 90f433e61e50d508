"""Ops and values: interning, attributes, what is freed, what is refused."""

import copy
import gc
import pickle
import weakref
from typing import NamedTuple

import numpy as np
import pytest

import tdagger as td
from tdagger.errors import AttributeValueError, NoInverseError, TDaggerError, TypeMismatchError
from tdagger.op import Op, Value, core_ops, interned, normal_axis
from tdagger.ops.elementwise import Binary, Unary
from tdagger.ops.external import External, Slot
from tdagger.ops.source import Input
from tdagger.ops.structure import Pad, Permute, Slice
from tdagger.types import TensorType, ValueType, f32


class Scaled(Op):
    """An op of this test alone, to see attributes of any kind."""

    name = "scaled"
    by: object
    more: object

    def infer(self, x: TensorType) -> ValueType:
        return x


# --- ops ---------------------------------------------------------------------------------------------------


def test_ops_are_interned() -> None:
    assert Permute((1, 0)) is Permute(order=(1, 0))
    assert Permute((1, 0)) is not Permute((0, 1))
    assert Scaled(1, more=2) is Scaled(by=1, more=2)
    assert Unary("exp") is not Unary("log")
    assert Binary("max") is not Unary("abs")


@pytest.mark.parametrize("value", [0.0, -0.0, 0, False, 0j, float("nan"), (0.0, 1), (0, 1), (False, True), "0", None])
def test_attributes_keep_sign_and_kind(value: object) -> None:
    """0, 0.0, -0.0 and False are equal in Python but not as attributes; NaN is not equal but is the same one."""
    others = [0.0, -0.0, 0, False, 0j, float("nan"), (0.0, 1), (0, 1), (False, True), "0", None]
    ops = [Scaled(other, 1) for other in others]
    same = [op for op in ops if op is Scaled(copy.deepcopy(value), 1)]
    assert len(same) == 1
    assert repr(getattr(same[0], "by")) == repr(value)  # noqa: B009
    assert len(set(map(id, ops))) == len(others)


def test_numpy_numbers_are_python_numbers() -> None:
    assert Scaled(np.float64(-0.0), np.int64(2)) is Scaled(-0.0, 2)
    assert Scaled(np.float32(0.0), np.bool_(True)) is Scaled(0.0, True)
    assert Scaled(np.float64(-0.0), 2) is not Scaled(0.0, 2)


def test_named_tuples_are_not_tuples() -> None:
    class Pair(NamedTuple):
        a: float
        b: int

    assert Scaled(Pair(0.0, 1), 1) is Scaled(Pair(0.0, 1), 1)
    assert Scaled(Pair(0.0, 1), 1) is not Scaled((0.0, 1), 1)
    assert Scaled(Pair(0.0, 1), 1) is not Scaled(Pair(-0.0, 1), 1)


def test_external_arguments_are_not_tensors_places() -> None:
    t = (TensorType((2,), f32),)
    place, number = (External("torch", "f", (a,), (), t) for a in (Slot(0), (0,)))
    assert place is not number
    assert place is External("torch", "f", (Slot(0),), (), t)


def test_attributes() -> None:
    op = Pad(((1, 2, 0), None), 0.5)
    assert op.attributes == {"widths": ((1, 2, 0), None), "value": 0.5}
    assert repr(op) == "pad(widths=((1, 2, 0), None), value=0.5)"
    assert Pad.fields == ("widths", "value")


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"by": 2}), ((1, 2), {"size": 3})], ids=str
)
def test_wrong_attributes(args: tuple[int, ...], kwargs: dict[str, int]) -> None:
    with pytest.raises(AttributeValueError, match=r"scaled has the attributes \('by', 'more'\), got"):
        Scaled(*args, **kwargs)


def test_checked_before_it_is_known() -> None:
    for _ in range(2):
        with pytest.raises(AttributeValueError, match=r"permute: order \(0, 0\) does not name each axis once"):
            Permute((0, 0))


def test_ops_are_immutable() -> None:
    with pytest.raises(AttributeError, match=r"permute\(order=\(1, 0\)\) is immutable, can't set order"):
        Permute((1, 0)).order = (0, 1)  # pyright: ignore[reportAttributeAccessIssue]


def test_ops_are_copied_as_themselves() -> None:
    for op in (Permute((1, 0)), td.const([1.0, 2.0]).op, td.input("x", (2,)).op, Slice((None, (0, 1, 1)))):
        assert pickle.loads(pickle.dumps(op)) is op
        assert copy.copy(op) is copy.deepcopy(op) is op


def test_constants_stay_constant() -> None:
    data = pickle.dumps(td.const([1.0, 2.0]).op)
    gc.collect()
    again = pickle.loads(data)
    assert again.data.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        again.data[0] = 3


def test_core_ops() -> None:
    assert core_ops["permute"] is Permute
    assert all(op.name == name for name, op in core_ops.items())
    assert "scaled" not in core_ops


def test_owed_rules_are_refused_by_name() -> None:
    op = Scaled(1, 2)
    with pytest.raises(NotImplementedError, match="scaled has no reference execution"):
        op.run()
    with pytest.raises(NoInverseError, match=r"scaled\(by=1, more=2\) has no inverse"):
        op.inverse()
    with pytest.raises(NoInverseError, match="is not linear"):
        op.adjoint()
    with pytest.raises(NoInverseError, match=r"needs the type of the argument: \.adjoint\(x\.type\)"):
        Slice((None,)).adjoint()


@pytest.mark.parametrize(("axis", "rank", "normal"), [(0, 1, 0), (-1, 3, 2), (2, 3, 2), (-3, 3, 0)])
def test_normal_axis(axis: int, rank: int, normal: int) -> None:
    assert normal_axis(axis, rank) == normal


@pytest.mark.parametrize(("axis", "rank"), [(0, 0), (3, 3), (-4, 3)])
def test_no_such_axis(axis: int, rank: int) -> None:
    with pytest.raises(AttributeValueError, match=f"axis {axis} is out of range for a tensor of rank {rank}"):
        normal_axis(axis, rank)


# --- values ------------------------------------------------------------------------------------------------


def test_values_are_interned() -> None:
    x, y = td.input("x", (2, 3)), td.input("y", (2, 3))
    assert td.exp(x) is td.exp(x)
    assert x + y is x + y
    assert x + y is not y + x
    assert x is not y
    assert td.input("x", (2, 3)) is x
    assert td.input("x", (2, 3), "f64") is not x
    assert copy.copy(x + y) is copy.deepcopy(x + y) is x + y


def test_value_attributes() -> None:
    y = td.exp(td.input("x", (2, 3), "f64"))
    assert (y.shape, y.dtype.name, y.rank, y.op, len(y.args)) == ((2, 3), "f64", 2, Unary("exp"), 1)
    assert repr(y) == "<exp(f64[2 3]) -> f64[2 3]>"


def test_values_that_do_not_fit() -> None:
    x, y = td.input("x", (2, 3)), td.input("y", (3, 2))
    message = r"add on \(f32\[2 3\], f32\[3 2\]\): both arguments must have one shape and element type"
    for _ in range(2):
        with pytest.raises(TypeMismatchError, match=message):
            Binary("add")(x, y)


def test_values_are_not_iterable() -> None:
    with pytest.raises(TypeMismatchError, match=r"can't be iterated over: <input x\(\) -> f32\[2\]>"):
        list(td.input("x", (2,)))


def test_values_are_not_pickled_alone() -> None:
    with pytest.raises(TDaggerError, match="can't be pickled alone, pickle or save the graph it belongs to"):
        pickle.dumps(td.input("x", (2,)))


def test_operators() -> None:
    x, y = td.input("x", (2,)), td.input("y", (2,))
    assert x * y is td.multiply(x, y)
    assert x + 1 is td.add(x, 1.0)
    assert 1 + x is td.add(1.0, x)
    assert -x is td.neg(x)
    assert abs(x) is td.abs_(x)
    assert x**2 is td.pow_(x, 2.0)
    assert (x < y, x <= y, x > y, x >= y) == (
        td.less(x, y),
        td.less_equal(x, y),
        td.greater(x, y),
        td.greater_equal(x, y),
    )
    a, b = x < y, x > y
    assert (a & b, a | b, a ^ b, ~a) == (
        td.bitwise_and(a, b),
        td.bitwise_or(a, b),
        td.bitwise_xor(a, b),
        td.not_(a),
    )
    i, j = td.input("i", (2,), "i64"), td.input("j", (2,), "i64")
    assert (i // j, i % j) == (td.floor_divide(i, j), td.mod(i, j))


# --- memory ------------------------------------------------------------------------------------------------


def test_values_are_freed() -> None:
    """A value goes when the last who holds it lets go, and takes its arguments along; no collector needed."""
    gc.disable()
    try:
        x = td.input("freed", (7,))
        y = td.exp(x) + x
        refs = [weakref.ref(v) for v in (x, y.args[0], y)]
        ops = [v.op for v in (x, y.args[0], y)]
        own = [op.values.keys() & {v.args} for op, v in zip(ops, (x, y.args[0], y), strict=True)]
        assert all(own)
        own.clear()
        del x, y
        assert [ref() for ref in refs] == [None] * 3
        assert not any(arg.op is ops[0] for op in ops for args in op.values for arg in args)
        assert not ops[0].values
    finally:
        gc.enable()


def test_ops_are_freed() -> None:
    op = Scaled("freed", 1)
    y = op(td.input("x", (2,)))
    ref = weakref.ref(op)
    del op
    assert ref() is y.op
    del y
    gc.collect()
    assert ref() is None
    assert interned((Scaled, ("freed", 1))) is None


def test_constants_share_data_and_are_freed() -> None:
    data = np.arange(1000, dtype=np.float32)
    x = td.const(data)
    assert td.const(data.copy()) is x
    data[0] = 5
    assert x.op.run()[0] == 0
    ref = weakref.ref(x.op.run())
    del x
    gc.collect()
    assert ref() is None


def test_made_again_after_it_was_freed() -> None:
    x = td.input("again", (3,))
    for _ in range(3):
        y = td.exp(x)
        assert y is td.exp(x)
        assert len(Unary("exp").values.keys() & {(x,)}) == 1
        del y
        assert not Unary("exp").values.keys() & {(x,)}


def test_input_of_any_name() -> None:
    op = Input("a.b/c 1", TensorType((), f32))
    assert repr(op) == "input a.b/c 1"
    assert isinstance(op(), Value)
