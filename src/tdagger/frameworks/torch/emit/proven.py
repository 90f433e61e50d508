"""Finding the layer that a call is: by its one composite, or by trying settings and importing the layer.

Layers that compute several values are proven on the types they are called with: what the importer makes of the layer is
what the call computes, value by value.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tdagger.errors import TDaggerError
from tdagger.frameworks.modules import class_of as named_by
from tdagger.frameworks.torch.emit.blocks import Call, Layer
from tdagger.frameworks.torch.emit.layers import (
    DROPOUTS,
    Settings,
    by_row,
    class_of,
    holds,
    made_layer,
    main_type,
    read,
    shortened,
)
from tdagger.frameworks.torch.importer import from_torch
from tdagger.frameworks.torch.runtime import DTYPES
from tdagger.network import Weight
from tdagger.op import Op, Value
from tdagger.ops.source import Buffer, Const, Leaf, Parameter
from tdagger.ops.structure import Pad, Slice
from tdagger.tree import Tree
from tdagger.types import Size, Sized, TensorType, in_numbers


def layer_of(call: Call, name: str, state: Mapping[str, Weight], trains: bool) -> Layer | None:
    """The layer that computes what a call computes; ``name`` is the class of the source's, ``state`` what it holds.

    None if the source's was no layer of torch, or none computes just this. In a network that ``trains``, one that was
    imported in eval mode is none: it would change with the others. Where no source said what the class is (its name
    is what the path gives), it is the layer of its one composite.
    """
    if call.children:
        return None
    if class_of(name) is None:
        found = by_row(call, "", trains) if name == named_by(call.path) else None
        return found if found is not None and holds(found, state) else None
    found = _giving_back(call, name, trains) or by_row(call, name, trains)
    if (found is None or found.kind is not class_of(name)) and not (trains and _TRAINED.search(name)):
        found = _by_import(call, name, state, trains) or found
    return found if found is not None and holds(found, state) else None


#: Layers that do something else when they train.
_TRAINED = re.compile("BatchNorm|InstanceNorm|Dropout")


def _giving_back(call: Call, name: str, trains: bool) -> Layer | None:
    """The layer of a call that gives back what it takes: an identity, or a dropout that does nothing here."""
    if call.passed is None or name not in ("Identity", *DROPOUTS):
        return None
    settings: Settings = {} if name == "Identity" else dict(call.passed.settings)
    axes = {"Dropout1d": 3, "Dropout2d": 4, "Dropout3d": 5}.get(name)
    if (trains and settings.get("p")) or (axes is not None and call.results[0].type.rank != axes):
        return None
    kind = class_of(name)
    return Layer(kind, shortened(kind, settings), types=(call.results[0].type,))


# --- layers that compute several values ---------------------------------------------------------------------


def _by_import(call: Call, name: str, state: Mapping[str, Weight], trains: bool) -> Layer | None:
    """A layer whose settings are tried, each proven by what the importer makes of it on the same types."""
    guess = GUESSES.get(name, _around_main)
    if call.graph.updates:
        return None
    types = tuple([in_numbers(v.type) for v in call.args])
    kind = class_of(name)
    for settings, arguments in itertools.islice(guess(call, {n: w.type for n, w in state.items()}, name), _TRIES):
        settings = in_numbers(settings)
        if (trains and settings.get("dropout")) or not _fits(kind, settings, state):
            continue
        proof = _imported(kind, shortened(kind, settings), arguments, types)
        if proof is None:
            continue
        new: dict[Value, Value] = dict(zip(call.graph.inputs.values(), proof.inputs, strict=True))
        for value in call.graph.values:
            op = value.op
            if isinstance(op, Parameter | Buffer):
                new[value] = type(op)(f"layer.{op.leaf}", op.type)()
        _rebuilt(call.graph.values, new)
        results = [new[v] for v in call.graph.outputs.values()]
        if all(r in proof.outputs for r in results):
            picks = tuple([proof.outputs.index(r) for r in results])
            outputs = [v.type for v in proof.outputs]
            for i, value in zip(picks, call.graph.outputs.values(), strict=True):
                outputs[i] = value.type
            return Layer(kind, shortened(kind, settings), arguments, proof.targets, tuple(outputs), picks)
    return None


def _fits(kind: Any, settings: Settings, state: Mapping[str, Weight]) -> bool:
    """Whether there is a layer with these settings, and its state is the source's."""
    try:
        return holds(Layer(kind, shortened(kind, settings)), state)
    except (RuntimeError, ValueError, TypeError, AssertionError):  # what layers of torch raise for settings
        return False


def _in_numbers(op: Op) -> Op:
    """The same op with plain numbers for sizes that have formulas, or that follow an axis: a layer is proven here."""
    if isinstance(op, Const):
        return op
    own = [getattr(op, f) for f in type(op).fields]
    new = list(map(_plain_number, own))
    return op if all(a is b for a, b in zip(own, new, strict=True)) else type(op)(*new)


def _plain_number(attribute: Any) -> Any:
    if attribute.__class__ is tuple:
        new = tuple(map(_plain_number, attribute))
        return attribute if all(a is b for a, b in zip(attribute, new, strict=True)) else new
    return int(attribute) if isinstance(attribute, Size | Sized) else attribute


def _rebuilt(values: Iterable[Value], new: dict[Value, Value]) -> None:
    """Values on others for their leaves, in plain numbers."""
    for value in values:
        if value not in new:
            args = [new[a] for a in value.args]
            new[value] = value if isinstance(value.op, Leaf) else _in_numbers(value.op)(*args)


class _Proof(NamedTuple):
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    targets: str


@lru_cache(256)
def _imported(
    kind: Any, settings: tuple[tuple[str, Any], ...], arguments: str, types: tuple[TensorType, ...]
) -> _Proof | None:
    """What a layer in eval mode computes of arguments of these types; None where it takes no such arguments."""
    try:
        layer = made_layer(Layer(kind, settings)).to_empty(device="cpu").eval()
        for tensor in layer.parameters():
            tensor.data.zero_()
        floats = [DTYPES[t.dtype.name] for t in types if t.dtype.is_float]
        layer = layer.to(floats[0]) if floats else layer
        tensors = tuple([torch.zeros(t.shape, dtype=DTYPES[t.dtype.name]) for t in types])
        with torch.autocast("cpu", enabled=False):  # the layer is proven as it is where nothing casts
            dag = from_torch(_Called(layer, arguments), tensors, sizes="alone")
    except (TDaggerError, RuntimeError, ValueError, TypeError, AssertionError):
        return None
    places = iter(range(len(dag.graph.outputs)))
    plain: dict[Value, Value] = {}
    _rebuilt(dag.graph.values, plain)
    outputs = tuple([plain[v] for v in dag.graph.outputs.values()])
    return _Proof(tuple(dag.graph.inputs.values()), outputs, _targets(dag.signature.outputs, places))


class _Called(nn.Module):
    """A layer called with tensors as a template of arguments says: one tensor may be several arguments."""

    def __init__(self, layer: nn.Module, arguments: str) -> None:
        super().__init__()
        self.layer = layer
        self.arguments = arguments

    def forward(self, *tensors: torch.Tensor) -> Any:
        places = [f"tensors[{i}]" for i in range(len(tensors))]
        return eval(f"layer({self.arguments.format(*places)})", {"layer": self.layer, "tensors": tensors})


def _targets(tree: Tree, places: Iterator[int]) -> str:
    if tree.kind == "leaf":
        return f"{{{next(places)}}}"
    if tree.kind == "constant":
        return "_"
    inner = [(_targets(c, places), bool(c.children)) for c in tree.children]
    return ", ".join(f"({text})" if nests else text for text, nests in inner)


#: How many settings are tried at most.
_TRIES = 64
#: Settings, and how the layer is called with the call's arguments: of the call, the types of its state, its class.
Guess = Callable[[Call, Mapping[str, TensorType], str], Iterator[tuple[Settings, str]]]


def _flatten(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    if len(call.args) == len(call.results) == 1:
        before, after = call.args[0].type.shape, call.results[0].type.shape
        merged = len(before) - len(after)
        for start in sorted(range(len(after)), key=lambda a: a != 1):
            end = start + merged
            if before[:start] == after[:start] and before[end + 1 :] == after[start + 1 :]:
                yield {"start_dim": start, "end_dim": -1 if end == len(before) - 1 else end}, "{0}"


def _recurrent(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    found = [v for v in call.graph.values if v.op.name in ("lstm", "gru", "rnn")]
    weight = state.get("weight_ih_l0")
    if len(found) != 1 or weight is None:
        return
    f = found[0].op.attributes
    hidden = state["weight_hh_l0"].shape[0] // {"lstm": 4, "gru": 3, "rnn": 1}[found[0].op.name]
    settings: Settings = {"input_size": weight.shape[1], "hidden_size": hidden, "num_layers": f["layers"]}
    settings |= {n: f[n] for n in ("nonlinearity",) if n in f}
    settings |= {"bias": f["biases"], "batch_first": f["batch_first"], "dropout": f["dropout"]}
    settings |= {"bidirectional": f["bidirectional"]}
    if "weight_hr_l0" in state:
        settings["proj_size"] = state["weight_hr_l0"].shape[0]
    yield settings, {1: "{0}", 2: "{0}, {1}", 3: "{0}, ({1}, {2})"}.get(len(call.args), "{0}")


#: Ops that contract the entries of a head.
_SCORES = frozenset({"scaled_dot_product_attention", "matmul"})


def _heads(call: Call, embed: int) -> Sequence[int]:
    """The numbers of heads that attention inside may have: sizes that its values have, and what these leave of it.

    Those that leave as much of it as is contracted somewhere, if there are such: each try is an import.
    """
    values = call.graph.values
    sizes = {n for v in values for n in main_type(v).shape if n.__class__ is int and n > 0}
    contracted = {main_type(v.args[0]).shape[-1] for v in values if v.op.name in _SCORES}
    heads = {h for n in sizes if embed % n == 0 for h in (n, embed // n)}
    return sorted([h for h in heads if embed // h in contracted] or heads)


def _attention(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    out = state.get("out_proj.weight")
    if out is None or len(call.args) > 4 or call.args[0].type.rank not in (2, 3):
        return
    embed = out.shape[0]
    kdim, vdim = (state[n].shape[1] if n in state else embed for n in ("k_proj_weight", "v_proj_weight"))
    sizes = {"kdim": kdim, "vdim": vdim} if (kdim, vdim) != (embed, embed) or "q_proj_weight" in state else {}
    more = {"bias": "out_proj.bias" in state, "add_bias_kv": "bias_k" in state}
    count = len(call.args)
    one, two = "{0}, {0}, {0}", "{0}, {1}, {1}"
    calls: dict[int, tuple[str, ...]] = {
        1: (one,),
        2: (two, "{0}, {0}, {1}", f"{one}, attn_mask={{1}}", f"{one}, key_padding_mask={{1}}"),
        3: ("{0}, {1}, {2}", f"{two}, attn_mask={{2}}", f"{two}, key_padding_mask={{2}}"),
    }
    weights = (", need_weights=False", "", ", average_attn_weights=False")
    for heads in _heads(call, embed):
        for more_weights, first, arguments in itertools.product(weights, (True, False), calls.get(count, ())):
            settings = {"embed_dim": embed, "num_heads": heads, **more, **sizes, "batch_first": first}
            yield settings, arguments + more_weights


def _plain(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    yield {}, "{0}"


#: Modes of padding, and the composites that pad so.
_MODES = {"reflect_pad": "reflect", "replicate_pad": "replicate", "circular_pad": "circular"}


def _around_main(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    """The settings of the one composite that a layer is named for, where more is around it: an axis for the batch."""
    for value in call.graph.values:
        found = read(value)
        if found is None or found.settings is None or name not in found.layers or len(call.args) != 1:
            continue
        pads = [v for v in call.graph.values if v.op.name in _MODES]
        if pads:
            widths = pads[0].op.attributes["widths"][2:]
            padding = tuple([low for low, _ in widths])
            yield {**found.settings, "padding": padding, "padding_mode": _MODES[pads[0].op.name]}, "{0}"
        yield found.settings, "{0}"
        if value.op.name == "max_pool_with_indices":
            yield {**found.settings, "return_indices": True}, "{0}"


def _of_softmax(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    for value in call.graph.values:
        if value.op.name == "softmax":
            yield {"dim": value.op.attributes["axis"]}, "{0}"


def _upsampling(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    for value in call.graph.values:
        found = read(value)
        if found is not None and found.settings is not None and value.op.name == "interpolate":
            yield {n: v for n, v in found.settings.items() if n in ("size", "scale_factor")}, "{0}"


def _local_response(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    """Size from the windows, and the numbers there are in any order, after those that a layer has anyway."""
    sizes = {max(v.op.attributes["kernel"]) for v in call.graph.values if v.op.name == "avg_pool"}
    numbers = dict.fromkeys(float(str(v.op.data.reshape(-1)[0])) for v in call.graph.values if isinstance(v.op, Const))
    for size in sizes:
        yield {"size": size}, "{0}"
        for alpha, beta, k in itertools.permutations(dict.fromkeys((*numbers, 0.5, 1.0)), 3):
            yield {"size": size, "alpha": alpha, "beta": beta, "k": k}, "{0}"


def _unflatten(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    if len(call.args) == len(call.results) == 1:
        before, after = call.args[0].type.shape, call.results[0].type.shape
        more = len(after) - len(before)
        for dim in range(len(before)):
            if before[:dim] == after[:dim] and before[dim + 1 :] == after[dim + more + 1 :]:
                yield {"dim": dim, "unflattened_size": after[dim : dim + more + 1]}, "{0}"


def _padded(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    """Of padding that cuts off at some ends: what slices leave out and what is padded, from the last axis on."""
    if len(call.args) != 1:
        return
    sides = [[0, 0] for _ in call.args[0].type.shape]
    number: Any = 0.0
    for value in call.graph.values:
        if isinstance(value.op, Slice):
            for side, bounds, n in zip(sides, value.op.bounds, value.args[0].type.shape, strict=True):
                if bounds is not None:
                    side[0] -= int(bounds[0])
                    side[1] -= int(n) - int(bounds[1])
        elif isinstance(value.op, Pad):
            number = value.op.value
            for side, widths in zip(sides, value.op.widths, strict=True):
                if widths is not None:
                    side[0] += int(widths[0])
                    side[1] += int(widths[1])
    padding = tuple([n for side in sides[: -int(name[-2]) - 1 : -1] for n in side])
    yield {"padding": padding, **({"value": number} if name.startswith("Constant") else {})}, "{0}"


def _cell(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    weight, hidden = state.get("weight_ih"), state.get("weight_hh")
    if weight is None or hidden is None:
        return
    settings: Settings = {"input_size": weight.shape[1], "hidden_size": hidden.shape[1], "bias": "bias_ih" in state}
    form = {1: "{0}", 2: "{0}, {1}", 3: "{0}, ({1}, {2})"}.get(len(call.args), "{0}")
    for order in itertools.permutations(["{0}", "{1}", "{2}"][: len(call.args)]):  # they come as they are used
        yield settings, form.format(*order)
        if name == "RNNCell":
            yield {**settings, "nonlinearity": "relu"}, form.format(*order)


def _bilinear(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    weight = state.get("weight")
    if weight is not None and weight.rank == 3:
        sizes = dict(zip(("out_features", "in1_features", "in2_features"), weight.shape, strict=True))
        yield {**sizes, "bias": "bias" in state}, "{0}, {1}"


def _numbers(call: Call) -> Sequence[float]:
    """The numbers in a call, as short as float32 has them: constants of one entry, and what others are at least."""
    found = [
        v.op.data.reshape(-1)[0].item() for v in call.graph.values if isinstance(v.op, Const) and v.op.data.size == 1
    ]
    found += [v.op.attributes["low"] for v in call.graph.values if v.op.name == "clamp"]
    return list(dict.fromkeys(float(str(np.float32(n))) for n in found if isinstance(n, float)))


def _similarity(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    """Along each axis, with each number there is; called with one thing or two."""
    if 0 < len(call.args) <= 2:
        arguments = "{0}, {1}" if len(call.args) == 2 else "{0}, {0}"
        for dim, eps in itertools.product(range(call.args[0].type.rank), _numbers(call)):
            yield {"dim": dim, "eps": eps}, arguments


def _distance(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    if len(call.args) == 2:
        numbers = dict.fromkeys((*_numbers(call), 1e-6, 1.0, 2.0))
        for p, eps, keep in itertools.product(numbers, numbers, (False, True)):
            yield {"p": p, "eps": eps, "keepdim": keep}, "{0}, {1}"


def _bag(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    """Called with ids, offsets where these are one list, and weights, in the order in which they are used."""
    weight = state.get("weight")
    if weight is None or weight.rank != 2:
        return
    sizes: Settings = dict(zip(("num_embeddings", "embedding_dim"), weight.shape, strict=True))
    one = [
        v.op.data.reshape(-1)[0].item() for v in call.graph.values if isinstance(v.op, Const) and v.op.data.size == 1
    ]
    skipped = [{}, *({"padding_idx": n} for n in dict.fromkeys(one) if isinstance(n, int) and 0 <= n < weight.shape[0])]
    forms = {
        1: [({}, "{0}")],
        2: [({}, "{0}, {1}"), ({}, "{1}, {0}"), ({}, "{0}, None, {1}"), ({}, "{1}, None, {0}"),
            ({"include_last_offset": True}, "{0}, {1}"), ({"include_last_offset": True}, "{1}, {0}")],
        3: [({}, ", ".join(order)) for order in itertools.permutations(["{0}", "{1}", "{2}"])],
    }  # fmt: skip
    for (more, form), mode, skip in itertools.product(forms.get(len(call.args), []), ("mean", "sum", "max"), skipped):
        yield {**sizes, "mode": mode, **more, **skip}, form


def _power_pool(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    for value in call.graph.values:
        if value.op.name == "avg_pool":
            f = value.op.attributes
            settings = {"kernel_size": f["kernel"], "stride": f["stride"], "ceil_mode": f["ceil"]}
            for p in dict.fromkeys((2.0, 1.0, 3.0, *_numbers(call))):
                yield {"norm_type": int(p) if p.is_integer() else p, **settings}, "{0}"


#: Kernels and strides that are tried, those first of which windows don't overlap, then those that leave nothing out.
_WINDOWS = sorted(itertools.product(range(1, 8), range(1, 8)), key=lambda ks: (ks[0] != ks[1], ks[0] < ks[1], ks))


def _unpool(call: Call, state: Mapping[str, TensorType], name: str) -> Iterator[tuple[Settings, str]]:
    """Windows that make so many entries of those that there are."""
    n = int(name[-2])
    each: list[list[tuple[int, int, int]]] = []
    for before, after in zip(call.args[0].type.shape[-n:], call.results[0].type.shape[-n:], strict=True):
        extents = [(k, s, int(before - 1) * s + k - int(after)) for k, s in _WINDOWS]
        each.append([(k, s, cut // 2) for k, s, cut in extents if cut % 2 == 0 and 0 <= cut <= k])
    for found in zip(*each, strict=False):
        kernel, stride, padding = map(tuple, zip(*found, strict=True))
        for arguments in ("{0}, {1}", "{1}, {0}"):  # they come as they are used
            yield {"kernel_size": kernel, "stride": stride, "padding": padding}, arguments


GUESSES: dict[str, Guess] = {
    "EmbeddingBag": _bag,
    **{f"LPPool{n}d": _power_pool for n in (1, 2, 3)},
    **{f"MaxUnpool{n}d": _unpool for n in (1, 2, 3)},
    "Bilinear": _bilinear,
    "CosineSimilarity": _similarity,
    "PairwiseDistance": _distance,
    "Softsign": _plain,
    "Tanhshrink": _plain,
    "Softmin": _of_softmax,
    "Softmax2d": _plain,
    "UpsamplingBilinear2d": _upsampling,
    "UpsamplingNearest2d": _upsampling,
    "LocalResponseNorm": _local_response,
    "Unflatten": _unflatten,
    "LSTMCell": _cell,
    "GRUCell": _cell,
    "RNNCell": _cell,
    **{f"{kind}Pad{n}d": _padded for kind in ("Zero", "Constant") for n in (1, 2, 3)},
    "Flatten": _flatten,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "MultiheadAttention": _attention,
}
