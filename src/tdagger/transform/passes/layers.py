"""Layers merged into the one before: norms, scales and linear layers into convolutions and linear layers.

Each rule writes the new weights as what they are computed from; :func:`fold_weights` then works them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from tdagger.graph import topological
from tdagger.library.arithmetic import divide, rsqrt, subtract
from tdagger.library.conv import convolution, convolution_transpose
from tdagger.library.linear import linear, matmul, wide
from tdagger.library.norm import batch_norm
from tdagger.library.shape import reshape
from tdagger.network import N, Weights
from tdagger.op import Array, Value
from tdagger.ops.elementwise import add, multiply
from tdagger.ops.external import External
from tdagger.ops.source import Buffer, Input, Leaf, Parameter, Random
from tdagger.ops.structure import Group, Permute, broadcast_to, unsqueeze
from tdagger.transform.passes.fold import fold_weights, has_data, static_ends
from tdagger.transform.rewrite import Rule, applied, no, only, op, rule, spread


def fold_batch_norm(dag: N) -> N:
    """The network with batch norms merged into the convolution or linear layer before, if only they use what it gives.

    The layer keeps the name of its weight, and gets a bias ``layer.bias`` if it has none. As in inference: nothing
    brings the statistics of training back. Weights of less than 32 bits and weights without data stay.
    """
    return _merged(dag, NORMS)


def fold_scales(dag: N) -> N:
    """The network with scales and shifts of channels, and numbers, merged into the layer before."""
    return _merged(dag, SCALES)


def merge_linear(dag: N) -> N:
    """The network with linear layers that follow one another as one, where that is less work."""
    return _merged(dag, CHAINS)


def _merged(dag: N, rules: Iterable[Rule]) -> N:
    usable = [n for n, v in {**dag.graph.parameters, **dag.graph.buffers}.items() if _usable(dag, n, v)]
    weights = Weights.of(dag.weights, {n: n for n in usable})
    merged, report = applied(dag, rules, weights)
    return fold_weights(merged, besides=static_ends(dag)) if len(report) else dag


def _usable(dag: Any, name: str, leaf: Value) -> bool:
    return name not in dag.graph.updates and has_data(dag, leaf)


def _known(weights: Mapping[str, Array], *values: Value | None) -> Any:
    """Whether all values are computed from weights that have data and don't change, of at least 32 bits."""
    for value in values:
        if value is None:
            continue
        if not value.dtype.is_float or value.dtype.bytes < 4:
            return no(f"{value.type} would be rounded another way")
        for v in topological([value]):
            if isinstance(v.op, Input | Random | External):
                return no(f"{value!r} isn't known before a run")
            if isinstance(v.op, Parameter | Buffer) and cast(Leaf, v.op).leaf not in weights:
                return no(f"{v!r} has no data, or changes in a run")
    return True


# --- what a scale and a shift of its output channels make of a layer -----------------------------------------


def _scaled_convolution(w: Value, scale: Value) -> Value:
    return w * unsqueeze(scale, range(1, w.rank))


def _scaled_transposed(w: Value, scale: Value) -> Value:
    return w * unsqueeze(scale, range(1, w.rank - 1))


def _axis_of_convolution(x: Value, w: Value) -> int:
    return x.rank - w.rank + 1


def _last(x: Value, w: Value) -> int:
    del w
    return x.rank - 1


#: Of each layer: how its weight is scaled, and which axis of its output has the channels.
LAYERS: dict[Any, tuple[Callable[[Value, Value], Value], Callable[[Value, Value], int]]] = {
    convolution: (_scaled_convolution, _axis_of_convolution),
    convolution_transpose: (_scaled_transposed, _axis_of_convolution),
    linear: (_scaled_convolution, _last),
}


def _fits(x: Value, w: Value, layer: Mapping[str, Any], axis: int, where: Callable[[Value, Value], int]) -> Any:
    if w.rank < 2 or axis != where(x, w):
        return no("it isn't along the channels of the layer")
    if layer.get("groups", 1) != 1 and "output_padding" in layer:
        return no("the outputs of transposed groups lie in another order")
    return True


def _norm(layer: Any, grouped: bool = False) -> Rule:
    """A batch norm of what a layer gives; ``grouped``: its other axes are made one in between, as in LeViT."""
    scaled, where = LAYERS[layer]

    @rule
    def norm(
        x: Any, w: Any, mean: Any, var: Any, kept: Any, bn: Any, b: Any = None, gamma: Any = None, beta: Any = None,
        counts: Any = None,
    ) -> Any:  # fmt: skip
        made = only(layer(x, w, b, **kept))
        made = only(op("group", made, counts=counts)) if grouped else made
        return batch_norm(made, mean, var, gamma, beta, **bn)

    @norm.when
    def known(w: Any, b: Any, mean: Any, var: Any, gamma: Any, beta: Any, graph: Any) -> Any:
        return _known(graph.weights, w, b, mean, var, gamma, beta)

    @norm.when
    def fits(x: Any, w: Any, kept: Any, bn: Any, counts: Any, root: Value) -> Any:
        if grouped and (bn["axis"] != root.rank - 1 or counts[-1] != 1):
            return no("the channels aren't an axis of their own")
        return _fits(x, w, kept, where(x, w) if grouped else bn["axis"], where)

    @norm.to
    def _(
        x: Any, w: Any, b: Any, mean: Any, var: Any, gamma: Any, beta: Any, kept: Any, bn: Any, counts: Any
    ) -> Any:  # fmt: skip
        scale = rsqrt(wide(var) + bn["eps"])
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if b is None else (b - mean) * scale
        made = layer(x, scaled(w, scale), shift if beta is None else shift + beta, **kept)
        return Group(counts)(made) if grouped else made

    norm.name = f"batch_norm{'_of_rows' if grouped else ''}_into_{layer.name}"
    return norm


def _scale(layer: Any, function: Any, moved: bool) -> Rule:
    """A number or a vector along the channels that is multiplied with, added to (...) what a layer gives.

    ``moved``: a transpose is between them.
    """
    scaled, where = LAYERS[layer]

    @rule
    def scale(x: Any, w: Any, by: Any, kept: Any, b: Any = None, order: Any = None) -> Any:
        made = only(layer(x, w, b, **kept))
        return function(only(op("permute", made, order=order)) if moved else made, spread(by))

    @scale.when
    def known(w: Any, b: Any, by: Any, graph: Any) -> Any:
        return _known(graph.weights, w, b, by)

    @scale.when
    def fits(x: Any, w: Any, by: Any, kept: Any, order: Any, root: Value) -> Any:
        axis = order.index(where(x, w)) if moved else where(x, w)
        sizes = (1,) * (root.rank - by.rank) + by.shape
        if any(n != 1 for i, n in enumerate(sizes) if i != axis):
            return no(f"{by.type} isn't along the channels")
        return _fits(x, w, kept, where(x, w), where)

    @scale.to
    def _(x: Any, w: Any, b: Any, by: Any, kept: Any, order: Any, root: Value) -> Any:
        channels = root.shape[order.index(where(x, w)) if moved else where(x, w)]
        by = reshape(by, shape=(channels,) if by.type.size == channels else (1,))
        by = broadcast_to(by, (channels,))
        if function in (multiply, divide):
            times = by if function is multiply else 1.0 / by
            made = layer(x, scaled(w, times), b if b is None else b * times, **kept)
        else:
            shift = by if function is add else -by
            made = layer(x, w, shift if b is None else b + shift, **kept)
        return Permute(order)(made) if moved else made

    scale.name = f"{function.__name__}{'_of_permuted' if moved else ''}_into_{layer.name}"
    return scale


@rule
def linear_after_linear(x: Any, v: Any, w: Any, a: Any = None, b: Any = None) -> Any:
    """``linear(linear(x, v, a), w, b)``."""
    return linear(only(linear(x, v, a)), w, b)


@linear_after_linear.when
def _(v: Any, w: Any, a: Any, b: Any, graph: Any) -> Any:
    if v.rank != 2 or w.rank != 2 or w.shape[0] * v.shape[1] > w.shape[1] * (v.shape[1] + w.shape[0]):
        return no("one layer would be more work than two")
    return _known(graph.weights, v, w, a, b)


@linear_after_linear.to
def _(x: Any, v: Any, w: Any, a: Any, b: Any) -> Any:
    return linear(x, matmul(w, v), b if a is None else linear(a, w, b))


NORMS = (*[_norm(layer) for layer in LAYERS], _norm(linear, grouped=True))
SCALES = tuple(
    _scale(layer, f, moved) for layer in LAYERS for f in (multiply, divide, add, subtract) for moved in (False, True)
)
CHAINS = (linear_after_linear,)
