"""How the weights of convolutions lie in memory: torch's kernels for CPUs are faster where the channels are last."""

from __future__ import annotations

import numpy as np

from tdagger.library.conv import convolution
from tdagger.network import N, Weights, with_parts
from tdagger.op import Array
from tdagger.ops.source import Parameter
from tdagger.transform.passes.fold import has_data

#: By rank: images and volumes. torch has no such format of sequences.
_RANKS = (4, 5)


def channels_last_weights(dag: N) -> N:
    """The network with the weights of 2d and 3d convolutions channels last in memory; types and values stay.

    torch then gives what the convolutions make the same strides, and so on through the network.

    >>> import numpy as np, tdagger as td
    >>> w = {"weight": np.zeros((4, 2, 3, 3), "f")}
    >>> dag = td.network(lambda x, weight: td.convolution(x, weight), {"x": (1, 2, 5, 5)}, w)
    >>> [n // 4 for n in channels_last_weights(dag).weights["weight"].strides]
    [18, 1, 6, 2]
    """
    laid: dict[str, Array] = {}
    for value in dag.graph.values:
        if not isinstance(value.op, convolution.op):
            continue
        weight = value.args[1]
        if weight.rank not in _RANKS or not isinstance(weight.op, Parameter) or not has_data(dag, weight):
            continue
        data = dag.weights[weight.op.leaf]
        last = np.moveaxis(data, 1, -1)
        if not last.flags.c_contiguous:
            laid[weight.op.leaf] = np.moveaxis(np.array(last, order="C"), -1, 1)
    if not laid:
        return dag
    kept = Weights.of(dag.weights, {n: n for n in dag.weights if n not in laid})
    return with_parts(dag, weights=kept | Weights.of(laid, {n: n for n in laid}))
