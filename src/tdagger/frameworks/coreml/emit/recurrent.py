"""How recurrent networks are written as MIL: an op for each layer, whose weights are constants.

MIL's gates lie as input, forget, output, cell (torch: input, forget, cell, output), and there is one bias, the sum of
torch's two. A GRU is written as its body: MIL's adds the bias of the new state outside of what the reset gate scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tdagger.frameworks.coreml.emit.writer import Writer
from tdagger.frameworks.writing import Fields
from tdagger.graph import topological
from tdagger.op import Value
from tdagger.ops import structure as s
from tdagger.ops.elementwise import cast
from tdagger.ops.external import External
from tdagger.ops.source import Input, Random
from tdagger.ops.structure import Item
from tdagger.types import DType, TensorType


def _parts(f: Fields, kinds: int) -> tuple[Value, list[Value], list[list[Value]]]:
    """The input, the first states, and the weights of each layer and direction."""
    x, *rest = f["tensors"]
    weights = rest[kinds:]
    each = len(weights) // (f["layers"] * (2 if f["bidirectional"] else 1))
    return x, rest[:kinds], [weights[i : i + each] for i in range(0, len(weights), each)]


def _is_constant(weight: Value) -> bool:
    """Whether a weight is no input's and isn't kept in few bits, which a product with it keeps."""
    return not any(
        isinstance(v.op, Input | Random | External) or v.op.name == "dequantize" for v in topological([weight])
    )


def _fits(kinds: int, ways: int) -> Callable[[Value, Fields], str | None]:
    def when(v: Value, f: Fields) -> str | None:
        x, _, weights = _parts(f, kinds)
        if x.rank != 3 or any(not t.size for t in (x.type, *[a.type for a in v.args])):
            return "MIL's recurrent networks are of steps, a batch and entries"
        if len(weights[0]) != (4 if f["biases"] else 2):
            return "MIL's recurrent networks have no projection"
        if f["bidirectional"] and ways < 2:
            return "MIL has it in one direction"
        return None if all(_is_constant(w) for own in weights for w in own) else "its weights aren't constants"

    return when


def _weights(w: Writer, own: Sequence[Value], order: Sequence[int], back: str) -> dict[str, str]:
    """The inputs of an op that are weights: matrices of x and of the state, and the bias."""
    ih, hh, *biases = own
    made = {"weight_ih": ih, "weight_hh": hh}
    if biases:
        made["bias"] = biases[0] + biases[1]
    found: dict[str, str] = {}
    for name, value in made.items():
        gates = s.split(value, [value.shape[0] // len(order)] * len(order), 0)
        laid = s.concat([gates[i] for i in order], 0) if len(order) > 1 else value
        for v in topological([laid]):
            w.static.add(v)
        found[name + back] = w.ref(laid)
    return found


def _state(state: Value, layer: int, ways: int) -> Value:
    """Of a state ``[layers*ways b h]`` what a layer begins with, ``[b ways*h]``."""
    own = s.slice_axis(state, 0, layer * ways, (layer + 1) * ways)
    return s.select(own, 0, 0) if ways == 1 else s.group(s.permute(own, (1, 0, 2)), (1, 2))


def recurrent(op: str, kinds: int, order: Sequence[int]) -> Callable[[Writer, Value, Fields], Any]:
    """The row's function of a network with ``kinds`` states, whose gates lie in MIL in an ``order`` of torch's."""

    def write(w: Writer, v: Value, f: Fields) -> Any:
        x, states, weights = _parts(f, kinds)
        ways = 2 if f["bidirectional"] else 1
        x = s.permute(x, (1, 0, 2)) if f["batch_first"] else x
        (steps, batch, _), hidden = x.shape, states[0].shape[2]
        kind = w.type(v.args[0], (steps, batch, ways * hidden))
        end = w.type(kind, (batch, ways * hidden))
        out, ends = w.ref(x), list[tuple[str, ...]]()
        for layer in range(f["layers"]):
            own = weights[layer * ways : (layer + 1) * ways]
            more = {k: n for i, part in enumerate(own) for k, n in _weights(w, part, order, "_back" * i).items()}
            begun = {n: w.ref(_state(a, layer, ways)) for n, a in zip(("initial_h", "initial_c"), states, strict=False)}
            out, *last = w.op(
                op, (kind, *[end] * kinds), x=out, **begun, **more, **_functions(w, op, f),
                direction=w.text("bidirectional" if ways == 2 else "forward"), output_sequence=w.flag(True),
            )  # fmt: skip
            ends.append(tuple(last))
        results = [_transposed(w, out, kind) if f["batch_first"] else out]
        return (*results, *[_together(w, [e[k] for e in ends], end, ways) for k in range(kinds)])

    return write


def _functions(w: Writer, op: str, f: Fields) -> dict[str, str]:
    if op == "rnn":
        return {"activation": w.text(f["nonlinearity"])}
    return {"recurrent_activation": w.text("sigmoid"), "cell_activation": w.text("tanh"), "activation": w.text("tanh")}


def _together(w: Writer, ends: Sequence[str], kind: TensorType, ways: int) -> str:
    """The last states ``[b ways*h]`` of all layers as torch has them, ``[layers*ways b h]``."""
    batch, width = kind.shape
    apart = w.type(kind, (batch, ways, width // ways))
    each = [w.op("reshape", apart, x=e, shape=w.ints(apart.shape)) for e in ends]
    whole = w.type(kind, (batch, ways * len(ends), width // ways))
    joined = (
        each[0]
        if len(each) == 1
        else w.op("concat", whole, values=tuple(each), axis=w.int(1), interleave=w.flag(False))
    )
    return _transposed(w, joined, whole)


def _transposed(w: Writer, name: str, kind: TensorType) -> str:
    """A result with its first two axes swapped."""
    a, b, c = kind.shape
    return w.op("transpose", w.type(kind, (b, a, c)), x=name, perm=w.ints((1, 0, 2)))


def in_f32(v: Value) -> Any:
    """The network with numbers of f32, where they are narrower: MIL has it in f32 since the first operator set."""
    if v.args[0].dtype.name != "f16":
        return None
    f32 = DType.of("f32")
    made = v.op(*[cast(a, f32) for a in v.args])
    count = len(v.type) if isinstance(v.type, tuple) else 1
    return tuple([cast(Item(i)(made), v.args[0].dtype) for i in range(count)])


LSTM = recurrent("lstm", 2, (0, 1, 3, 2)), _fits(2, 2)
RNN = recurrent("rnn", 1, (0,)), _fits(1, 1)
