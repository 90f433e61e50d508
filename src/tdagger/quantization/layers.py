"""Layers found again where a file has what they are made of.

A target has one integer kernel for a product and a sum. Attention is one op, which targets have in float: so it is in
networks of torch, and where it is written out (ONNX) its two products would be quantized.
"""

from __future__ import annotations

from typing import Any

from tdagger.library import linear, matmul
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Parameter
from tdagger.ops.structure import permute
from tdagger.tensordag import TensorDAG
from tdagger.transform.idioms import ATTENTION
from tdagger.transform.rewrite import no, rule, spread


def _is_weight(value: Value, rank: int) -> bool:
    return isinstance(value.op, Parameter | Buffer | Const) and value.rank == rank


@rule
def product_and_bias(x: Any, w: Any, b: Any) -> Any:
    """``x @ w + b`` of weights is a linear layer, of the matrix transposed."""
    return matmul(x, w) + spread(b)


@product_and_bias.when
def _(x: Value, w: Value, b: Value) -> Any:
    if not (_is_weight(w, 2) and _is_weight(b, 1) and b.shape[0] == w.shape[1]):
        return no("it isn't a product with a matrix and a sum with a vector")
    return x.rank >= 2 or no("a vector has no rows")


@product_and_bias.to
def _(x: Value, w: Value, b: Value) -> Value:
    return linear(x, permute(w, (1, 0)), b)


def as_layers(dag: TensorDAG) -> TensorDAG:
    """The network with linear layers in the place of products and sums of weights, and with attention as one op.

    >>> import tdagger as td
    >>> x, w, b = td.input("x", (2, 3)), td.parameter("w", (3, 4)), td.parameter("b", (4,))
    >>> dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.matmul(x, w) + b}))
    >>> [v.op.name for v in as_layers(dag).values if v.args]
    ['permute', 'linear']
    """
    return dag.rewrite((product_and_bias, *ATTENTION))
