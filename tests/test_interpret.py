"""The loop that walks a graph, and numpy execution by it."""

import gc
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given

import tdagger as td
from tdagger.errors import InputError, TypeMismatchError
from tdagger.interpret import interpret, run
from tdagger.op import Array, Op, Value
from tdagger.types import ResultTypes, TensorType, ValueType
from tests.graphs import graphs


class Result:
    """Something to count: how many are alive."""


def peak(g: td.Graph) -> int:
    """The largest number of results alive at once."""
    alive: weakref.WeakSet[Result] = weakref.WeakSet()
    most = 0

    def rule(value: Value, args: list[Result]) -> Result:
        nonlocal most
        result = Result()
        alive.add(result)
        most = max(most, len(alive))
        return result

    gc.disable()
    try:
        interpret(g, rule)
    finally:
        gc.enable()
    return most


def test_results_are_freed_after_their_last_use() -> None:
    x = td.input("x", (2,))
    y = x
    for _ in range(50):
        y = td.sin(y)
    assert peak(td.Graph({"x": x}, {"y": y})) <= 3
    assert peak(td.Graph({"x": x}, {"y": y + x})) <= 4
    middle = y.args[0].args[0]
    assert peak(td.Graph({"x": x}, {"y": y, "middle": middle})) <= 4


def test_results_that_nobody_uses_are_freed() -> None:
    inputs = {f"x{i}": td.input(f"x{i}", (2,)) for i in range(20)}
    assert peak(td.Graph(inputs, {"y": td.exp(inputs["x0"])})) <= 4


@given(graphs())
def test_rule_sees_every_value_once_with_its_arguments(g: td.Graph) -> None:
    seen: list[Value] = []

    def rule(value: Value, args: list[Any]) -> Value:
        assert tuple(args) == value.args
        seen.append(value)
        return value

    outputs, updates = interpret(g, rule)
    assert seen == g.values
    assert (outputs, updates) == (g.outputs, g.updates)


@given(graphs())
def test_results_have_the_declared_types(g: td.Graph) -> None:
    rng = np.random.default_rng(0)
    data = {
        k: rng.normal(size=v.shape).astype(np.float32) for k, v in {**g.inputs, **g.parameters, **g.buffers}.items()
    }
    for named, results in zip((g.outputs, g.updates), run(g, data, data), strict=True):
        assert named.keys() == results.keys()
        for name, value in named.items():
            assert TensorType(results[name].shape, results[name].dtype.name) is value.type


def test_an_output_that_is_an_input_and_one_twice() -> None:
    x = td.input("x", (2,))
    data = np.asarray([1, 2], np.float32)
    out, updates = run(td.Graph({"x": x}, {"a": x, "b": -x, "c": -x}, {"d": x}), {"x": data}, {})
    assert out["a"] is data
    assert out["b"] is out["c"]
    assert updates["d"] is data


def test_weights_and_inputs_are_apart() -> None:
    x, w = td.input("same", (2,)), td.parameter("same", (2,))
    one, two = np.ones(2, np.float32), np.full(2, 2, np.float32)
    out, _ = run(td.Graph({"same": x}, {"y": x - w}), {"same": one}, {"same": two})
    assert out["y"].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("inputs", "weights", "message"),
    [
        ({}, {"w": np.ones(2, np.float32)}, r"input 'x' \(f32\[2\]\) was not given; there are none"),
        ({"x": np.ones(2, np.float32)}, {"v": np.ones(2)}, r"parameter 'w' \(f32\[2\]\) was not given; there are v"),
        ({"x": np.ones(3, np.float32)}, {}, r"input 'x' is declared f32\[2\], got float32\[3\]"),
        ({"x": np.ones(2)}, {}, r"input 'x' is declared f32\[2\], got float64\[2\]"),
    ],
)
def test_what_was_not_given(inputs: dict[str, Array], weights: dict[str, Array], message: str) -> None:
    x, w = td.input("x", (2,)), td.parameter("w", (2,))
    with pytest.raises(InputError, match=message):
        run(td.Graph({"x": x}, {"y": x * w}), inputs, weights)


class Broken(Op):
    name = "broken"

    def infer(self, x: TensorType) -> ValueType:
        return x

    def run(self, x: Array) -> Array:
        return x.reshape(-1, 7)


class Two(Op):
    name = "two"

    def infer(self, x: TensorType) -> ValueType:
        return ResultTypes((x, x.with_shape(())))

    def run(self, x: Array) -> tuple[Array, Array]:
        return x, np.asarray(x.sum(), x.dtype)


def test_errors_tell_the_value() -> None:
    x = td.input("x", (2,))
    with pytest.raises(ValueError, match="cannot reshape") as caught:
        run(td.Graph({"x": x}, {"y": Broken()(x)}), {"x": np.ones(2, np.float32)}, {})
    assert caught.value.__notes__ == ["while running <broken(f32[2]) -> f32[2]>"]


def test_numpy_says_nothing() -> None:
    x = td.input("x", (2,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        g = td.Graph({"x": x}, {"log": td.log(x), "inverse": td.reciprocal(x)})
        out, _ = run(g, {"x": np.asarray([0, -1], np.float32)}, {})
    assert out["log"].tolist()[0] == -np.inf
    assert out["inverse"].tolist() == [np.inf, -1]


def test_several_results() -> None:
    x = td.input("x", (2,))
    both = Two()(x)
    first, second = td.items(both)
    assert first.type is x.type
    assert second.shape == ()
    out, _ = run(td.Graph({"x": x}, {"a": first, "b": second}), {"x": np.asarray([1, 2], np.float32)}, {})
    assert (out["a"].tolist(), out["b"].tolist()) == ([1, 2], 3)


def test_only_item_takes_several_results() -> None:
    both = Two()(td.input("x", (2,)))
    message = "an op with 2 results has no one dtype; take one with item"
    with pytest.raises(TypeMismatchError, match=message):
        td.exp(both)
    with pytest.raises(TypeMismatchError, match="an op with 2 results has no one shape"):
        both.shape  # noqa: B018
    with pytest.raises(TypeMismatchError, match="there is no result 2"):
        td.item(both, 2)
    with pytest.raises(TypeMismatchError, match="there is no result 0"):
        td.item(td.input("x", (2,)), 0)
