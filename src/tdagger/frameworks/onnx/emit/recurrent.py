"""LSTM, GRU and RNN nodes, one for each layer, with the gates of weights in ONNX's order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tdagger.frameworks.onnx.emit.kernels import computed_in
from tdagger.frameworks.onnx.emit.moves import with_shape
from tdagger.frameworks.writing import unbroadcast
from tdagger.library import reshape
from tdagger.op import Array, Value
from tdagger.ops.structure import concat, permute, slice_axis, unsqueeze
from tdagger.types import DType, TensorType

if TYPE_CHECKING:
    from tdagger.frameworks.onnx.emit.writer import Writer


class Kind(NamedTuple):
    """An operator: how many states it has, the order of ours gates in ONNX, what that is called, and its options."""

    op: str
    states: int
    order: tuple[int, ...]
    suffix: str
    options: dict[str, Any]


KINDS: dict[str, Kind] = {
    "lstm": Kind("LSTM", 2, (0, 3, 1, 2), "iofc", {}),
    "gru": Kind("GRU", 1, (1, 0, 2), "zrh", {"linear_before_reset": 1}),
    "rnn": Kind("RNN", 1, (0,), "i", {}),
}


def is_network(f: dict[str, Any], types: Sequence[TensorType]) -> bool:
    """Floats of one element type that f32 holds, without a projection."""
    x = types[0]
    each = (2 + 2 * f["biases"]) * f["layers"] * (2 if f["bidirectional"] else 1)
    states = len(types) - 1 - each
    fits = len({t.dtype for t in types}) == 1 and x.dtype.is_float and x.dtype.name != "f64" and x.rank >= 2
    return fits and states in (1, 2) and not any(0 in t.shape for t in types) and _hidden(types, states)


def _hidden(types: Sequence[TensorType], states: int) -> bool:
    """Whether states are as long as what the weights make (a projection shortens them)."""
    gates, recurrent = types[1 + states], types[2 + states]
    return gates.rank == recurrent.rank == 2 and all(t.shape[-1] == recurrent.shape[1] for t in types[1 : 1 + states])


def network(w: Writer, v: Value, f: dict[str, Any]) -> Any:
    """Every layer as a node: what it gives is ``[t directions b h]``, which becomes ``[t b (directions h)]``."""
    kind = KINDS[v.op.name]
    x, *rest = v.args
    initial, weights = rest[: kind.states], rest[kind.states :]
    lead = x.rank - 2
    directions = 2 if f["bidirectional"] else 1
    each = 2 + 2 * f["biases"]
    if f["batch_first"]:
        x = permute(x, [x.rank - 2, *range(x.rank - 2), x.rank - 1])
    batch = x.shape[1:-1]
    x = reshape(x, shape=(x.shape[0], math.prod(batch), x.shape[-1]))
    initial = [reshape(s, shape=(s.shape[0], math.prod(batch), s.shape[-1])) for s in initial]
    dtype, to = x.dtype, computed_in(kind.op, x.dtype)
    hidden = initial[0].shape[-1]
    name = w.cast(w.ref(x), dtype, to)
    finals: list[list[str]] = [[] for _ in initial]
    for layer in range(f["layers"]):
        at = layer * directions * each
        own = weights[at : at + directions * each]
        inputs = [name, *[w.cast(p, dtype, to) if p else "" for p in _weights(w, kind, own, each)], ""]
        inputs += [_initial(w, s, layer * directions, directions, dtype, to) for s in initial]
        while not inputs[-1]:
            inputs.pop()
        out = w.node(
            kind.op, inputs, 1 + kind.states, hidden_size=int(hidden),
            direction="bidirectional" if directions == 2 else None, **_options(kind, f, directions),
        )  # fmt: skip
        name = _joined(w, out[0], directions)
        for found, last in zip(finals, out[1:], strict=True):
            found.append(last)
    states = [w.node("Concat", names, axis=0) if len(names) > 1 else names[0] for names in finals]
    shape = (x.shape[0], *batch, directions * hidden)
    flat = TensorType((x.shape[0], math.prod(batch), directions * hidden), to)
    name = with_shape(w, name, flat, shape)
    if f["batch_first"]:
        name = w.node("Transpose", [name], perm=(*range(1, lead + 1), 0, lead + 1))
    kept = [
        with_shape(w, s, TensorType((f["layers"] * directions, flat.shape[1], hidden), to), t.shape)
        for s, t in zip(states, list(v.type)[1:], strict=True)  # pyright: ignore[reportArgumentType]
    ]
    return tuple([w.cast(n, to, dtype) for n in (name, *kept)])


def _options(kind: Kind, f: dict[str, Any], directions: int) -> dict[str, Any]:
    if kind.op == "RNN" and f["nonlinearity"] == "relu":
        return {"activations": ("Relu",) * directions}
    return kind.options


def _joined(w: Writer, name: str, directions: int) -> str:
    """``[t directions b h]`` as ``[t b (directions h)]``."""
    if directions == 1:
        return w.node("Squeeze", [name, w.ints([1])])
    turned = w.node("Transpose", [name], perm=(0, 2, 1, 3))
    return w.node("Reshape", [turned, w.ints([0, 0, -1])])


def _initial(w: Writer, state: Value, start: int, count: int, dtype: DType, to: DType) -> str:
    """The first states of a layer; none where they are 0."""
    data = w.array(unbroadcast(state))
    if data is not None and not data.any():
        return ""
    own = state if state.shape[0] == count else slice_axis(state, 0, start, start + count)
    return w.cast(w.ref(own), dtype, to)


def _weights(w: Writer, kind: Kind, own: Sequence[Value], each: int) -> list[str]:
    """W, R and B of a layer: those of its directions one on the other."""
    rows = [own[i : i + each] for i in range(0, len(own), each)]
    found = [_stacked(w, kind, [[r[i]] for r in rows]) for i in range(2)]
    return [*found, _stacked(w, kind, [list(r[2:4]) for r in rows]) if each > 2 else ""]


def _stacked(w: Writer, kind: Kind, rows: Sequence[Sequence[Value]]) -> str:
    """``[directions gates ..]``: for each direction its tensors one after the other, the gates of each reordered."""
    leaves = [w.weight(v) for row in rows for v in row]
    if all(v is not None for v in leaves):
        flat = [v for row in rows for v in row]
        width = len(rows[0])
        shape = (len(rows), rows[0][0].shape[0] * width, *rows[0][0].shape[1:])

        def joined(*arrays: Array) -> Array:
            parts = [_reordered(a, kind.order) for a in arrays]
            stacks = [np.concatenate(parts[i : i + width]) for i in range(0, len(parts), width)]
            return np.stack(stacks)

        return w.combined(flat, kind.suffix, joined, flat[0].type.with_shape(shape))
    made = [concat([_turned(v, kind.order) for v in row], 0) for row in rows]
    return w.ref(concat([unsqueeze(m, (0,)) for m in made], 0))


def _reordered(a: Array, order: Sequence[int]) -> Array:
    gates = a.reshape(len(order), a.shape[0] // len(order), *a.shape[1:])
    return gates[list(order)].reshape(a.shape)


def _turned(v: Value, order: Sequence[int]) -> Value:
    size = v.shape[0] // len(order)
    return concat([slice_axis(v, 0, i * size, (i + 1) * size) for i in order], 0)
