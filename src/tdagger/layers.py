"""Networks of functions over values, and single layers with new weights, for surgery and for tests.

>>> import tdagger as td
>>> dag = linear(4, 3, batch=2)
>>> dag.run(np.zeros((2, 4), "f")).shape
(2, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from tdagger import library as lib
from tdagger.errors import GraphError
from tdagger.graph import Graph
from tdagger.network import Signature, Weight
from tdagger.op import Array, Value
from tdagger.ops.source import Buffer, Input, Parameter
from tdagger.tensordag import TensorDAG
from tdagger.transform.surgery.weights import start
from tdagger.tree import flatten
from tdagger.types import DType, TensorType

#: A tensor's type, or its shape for f32.
Typed = TensorType | Sequence[int]


def network(
    function: Callable[..., Any],
    inputs: Mapping[str, Typed],
    parameters: Mapping[str, Any] | None = None,
    buffers: Mapping[str, Any] | None = None,
    name: str = "network",
) -> TensorDAG:
    """The network that a function of values computes; it gets the inputs by place, weights by their names.

    ``inputs`` have types, or shapes of f32; ``parameters`` and ``buffers`` arrays. Its result may nest. GraphError if
    the function doesn't give values.

    >>> import tdagger as td
    >>> dag = network(lambda x, weight: td.linear(x, weight), {"x": (2, 3)}, {"weight": np.ones((4, 3), "f")})
    >>> dag.run(np.ones((2, 3), "f"))[0]
    array([3., 3., 3., 3.], dtype=float32)
    """
    given = {n: Input(n, _type(t))() for n, t in inputs.items()}
    arrays: dict[str, Array] = {}
    state: dict[str, Weight] = {}
    leaves: dict[str, Value] = {}
    for data, leaf, is_parameter in ((parameters, Parameter, True), (buffers, Buffer, False)):
        for key, array in (data or {}).items():
            arrays[key] = np.asarray(array)
            type_ = TensorType(arrays[key].shape, DType.of(arrays[key].dtype))
            state[key] = Weight(type_, is_parameter)
            leaves[key] = leaf(key, type_)()
    results, tree = flatten(
        function(*given.values(), **leaves), lambda v: isinstance(v, Value), "the result", result=True
    )
    if not results:
        raise GraphError(f"network: {getattr(function, '__name__', function)} gives no values")
    names = tree.names("out")
    args = flatten((tuple(given), {}), lambda v: isinstance(v, str))[1]
    graph = Graph(given, dict(zip(names, results, strict=True)), name=name)
    return TensorDAG(graph, arrays, Signature(args, tree), state, name=name)


def _type(given: Typed) -> TensorType:
    return given if isinstance(given, TensorType) else TensorType(tuple(given), "f32")


def batch_norm(x: Value | TensorType | Sequence[int], *, axis: int = 1, eps: float = 1e-5) -> TensorDAG:
    """A batch norm that changes nothing so far, for what has the type of ``x``, its channels at ``axis``.

    >>> batch_norm((2, 8, 4, 4)).graph.outputs["out"].type
    f32[2 8 4 4]
    """
    type_ = _of(x)
    count, dtype = type_.shape[axis], type_.dtype.numpy
    ones, zeros = np.ones(count, dtype), np.zeros(count, dtype)

    def function(x: Value, running_mean: Value, running_var: Value, weight: Value, bias: Value) -> Value:
        return lib.batch_norm(x, running_mean, running_var, weight, bias, axis=axis, eps=eps)

    return network(
        function, {"x": type_}, {"weight": ones, "bias": zeros},
        {"running_mean": zeros.copy(), "running_var": ones.copy()}, "BatchNorm",
    )  # fmt: skip


def layer_norm(x: Value | TensorType | Sequence[int], *, rank: int = 1, eps: float = 1e-5) -> TensorDAG:
    """A layer norm over the last ``rank`` axes, for what has the type of ``x``.

    >>> layer_norm((2, 8)).graph.outputs["out"].type
    f32[2 8]
    """
    type_ = _of(x)
    shape = type_.shape[type_.rank - rank :]

    def function(x: Value, weight: Value, bias: Value) -> Value:
        return lib.layer_norm(x, weight, bias, rank=rank, eps=eps)

    weights = {"weight": np.ones(shape, type_.dtype.numpy), "bias": np.zeros(shape, type_.dtype.numpy)}
    return network(function, {"x": type_}, weights, name="LayerNorm")


def linear(
    x: Value | TensorType | Sequence[int] | int, outputs: int, *, bias: bool = True, batch: int = 1, seed: int = 0
) -> TensorDAG:
    """A linear layer, for what has the type of ``x``, or for ``[batch x]`` where that is a number.

    It begins as torch's does.

    >>> linear((2, 5, 4), 3).graph.outputs["out"].type
    f32[2 5 3]
    """
    type_ = TensorType((batch, x), "f32") if isinstance(x, int) else _of(x)
    shapes = {"weight": (outputs, type_.shape[-1]), **({"bias": (outputs,)} if bias else {})}
    bound = 1 / np.sqrt(max(type_.shape[-1], 1))

    def uniform(name: str, t: TensorType, random: Any) -> Array:
        return random.uniform(-bound, bound, t.shape)

    weights = {n: start(uniform, n, TensorType(s, type_.dtype), seed=seed) for n, s in shapes.items()}

    def function(x: Value, weight: Value, bias: Value | None = None) -> Value:
        return lib.linear(x, weight, bias)

    return network(function, {"x": type_}, weights, name="Linear")


def _of(x: Any) -> TensorType:
    return x.type if isinstance(x, Value) else _type(cast(Typed, x))


__all__ = ["batch_norm", "layer_norm", "linear", "network"]
