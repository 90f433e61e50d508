"""What each layer of torch computes, as composites: a call that computes just that is written as the layer.

A row says of a composite which layers compute it, with which settings, and which of its tensors are the layer's state.
Settings are found in the graph alone. A row reads every attribute of its composite, so that the layer it names computes
no more and no less: ``tests/frameworks/torch/test_layers_back.py`` imports each. Layers that compute several values are
proven where they are found: :mod:`proven`.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from tdagger.composite import Composite
from tdagger.errors import AxisError
from tdagger.frameworks.torch.emit.blocks import Call, Layer, Passed
from tdagger.graph import Graph
from tdagger.network import Origin, Weight
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, Iota, Leaf, Parameter
from tdagger.ops.structure import Item, Pad
from tdagger.types import Size, TensorType, in_numbers

Settings = dict[str, Any]
#: Settings from the attributes and the types of the tensors, by their names; None where no layer has them.
Reader = Callable[[dict[str, Any], Mapping[str, TensorType]], Settings | None]


class Row(NamedTuple):
    """The layers of a composite, the first where the source had another: names in ``torch.nn``, ``{n}`` for a rank.

    ``state`` has the layer's names of the composite's tensors; the others are what the layer is called with.
    """

    layers: tuple[str, ...]
    settings: Reader = lambda f, t: {}
    state: Mapping[str, str] = {}
    #: The number of axes after the channels, for layers that have one class for each.
    spatial: Callable[[dict[str, Any], Mapping[str, TensorType]], int] | None = None
    #: Whether it does something else while it trains.
    trains: bool = False


def _renamed(**names: str) -> Reader:
    """Settings that are attributes under other names."""
    return lambda f, t: {setting: f[attribute] for setting, attribute in names.items()}


# --- settings ----------------------------------------------------------------------------------------------


def _convolution(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    weight, n = t["weight"].shape, len(f["padding"])
    if t["x"].rank not in (n + 1, n + 2):
        return None
    pads = f["padding"]
    padding: Any = tuple([low for low, _ in pads])
    if any(low != high for low, high in pads):
        totals = [d * (k - 1) for d, k in zip(f["dilation"], weight[2:], strict=True)]
        if any(s != 1 for s in f["stride"]) or pads != tuple([(n // 2, n - n // 2) for n in totals]):
            return None
        padding = "same"
    return {
        "in_channels": weight[1] * f["groups"], "out_channels": weight[0], "kernel_size": weight[2:],
        "stride": f["stride"], "padding": padding, "dilation": f["dilation"], "groups": f["groups"],
        "bias": "bias" in t,
    }  # fmt: skip


def _transposed(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    weight, n = t["weight"].shape, len(f["stride"])
    if t["x"].rank not in (n + 1, n + 2):
        return None
    same = {s: f[s] for s in ("stride", "padding", "output_padding", "groups")}
    channels = {"in_channels": weight[0], "out_channels": weight[1] * f["groups"], "kernel_size": weight[2:]}
    return {**channels, **same, "bias": "bias" in t, "dilation": f["dilation"]}


def _linear(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    if t["weight"].rank != 2:
        return None
    return {"in_features": t["weight"].shape[1], "out_features": t["weight"].shape[0], "bias": "bias" in t}


def _embedding(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    count, size = t["weight"].shape
    return {"num_embeddings": count, "embedding_dim": size, "padding_idx": f["padding"]}


def _batch_norm(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    affine = "weight" in t
    if f["axis"] != 1 or affine != ("bias" in t):
        return None
    running = "mean" in t
    settings = {"num_features": t["x"].shape[1], "eps": f["eps"], "affine": affine, "track_running_stats": running}
    return {**settings, "momentum": f["momentum"]}


def _instance_norm(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    affine = "weight" in t
    if f["axis"] != 1 or affine != ("bias" in t):
        return None
    return {"num_features": t["x"].shape[1], "eps": f["eps"], "affine": affine}


def _layer_norm(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    affine = "weight" in t
    if "bias" in t and not affine:
        return None
    shape = t["x"].shape[t["x"].rank - f["rank"] :]
    biased = {"bias": "bias" in t} if affine else {}
    return {"normalized_shape": shape, "eps": f["eps"], "elementwise_affine": affine, **biased}


def _rms_norm(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    shape = t["x"].shape[t["x"].rank - f["rank"] :]
    return {"normalized_shape": shape, "eps": f["eps"], "elementwise_affine": "weight" in t}


def _group_norm(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    affine = "weight" in t
    if f["axis"] != 1 or affine != ("bias" in t):
        return None
    return {"num_groups": f["groups"], "num_channels": t["x"].shape[1], "eps": f["eps"], "affine": affine}


def _local_response_norm(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    return {n: f[n] for n in ("size", "alpha", "beta", "k")} if f["axis"] == 1 else None


def _prelu(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    count = t["weight"].shape[0]
    return {"num_parameters": count} if t["weight"].rank == 1 and (count == 1 or f["axis"] == 1) else None


def _batched(read: Reader, count: str) -> Reader:
    """For layers that take the channels and at most one axis before them."""

    def settings(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
        return read(f, t) if t["x"].rank in (len(f[count]) + 1, len(f[count]) + 2) else None

    return settings


def _pad(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    widths = [(0, 0, 0) if w is None else (*w, 0)[:3] for w in f["widths"]]
    if len(widths) < 3 or any(widths[0] + widths[1]) or any(between for _, _, between in widths):
        return None
    pads = [(low, high) for low, high, _ in reversed(widths[2:])]
    value = {"value": f["value"]} if f.get("value") else {}
    return {"padding": tuple([n for pair in pads for n in pair]), **value}


def _axes(f: dict[str, Any], t: Mapping[str, TensorType]) -> int:
    return t["x"].rank - 2


_max_pool = _renamed(kernel_size="kernel", stride="stride", padding="padding", dilation="dilation", ceil_mode="ceil")


def _avg_pool(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    divisor = {} if f["divisor"] is None else {"divisor_override": f["divisor"]}
    read = _renamed(kernel_size="kernel", stride="stride", padding="padding", ceil_mode="ceil")
    return {**(read(f, t) or {}), "count_include_pad": f["count_include_pad"], **divisor}


def _upsample(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    n = len(f["size"])
    modes = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}.get(n), "cubic": "bicubic", "nearest": "nearest"}
    mode = modes.get(f["mode"], f["mode"] if f["mode"] == "nearest-exact" else None)
    if mode is None or f["antialias"] or t["x"].rank != n + 2:
        return None
    aligned = {"align_corners": f["align_corners"]} if f["mode"] in ("linear", "cubic") else {}
    if f["scale"] is not None and None in f["scale"]:
        return None
    size = {"size": tuple(f["size"])} if f["scale"] is None else {"scale_factor": tuple(map(float, f["scale"]))}
    return {**size, "mode": mode, **aligned}


def _channel_shuffle(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings | None:
    return {"groups": f["groups"]} if f["axis"] == 1 else None


def _windows(f: dict[str, Any], t: Mapping[str, TensorType]) -> Settings:
    return {"kernel_size": f["kernel"], **{n: f[n] for n in ("stride", "padding", "dilation")}}


def _count(name: str) -> Callable[[dict[str, Any], Mapping[str, TensorType]], int]:
    return lambda f, t: len(f[name])


_WEIGHTS = {"weight": "weight", "bias": "bias"}
_STATISTICS = {**_WEIGHTS, "mean": "running_mean", "variance": "running_var"}
#: How many batches a norm has seen in training, which formats other than torch's say nothing of.
COUNTER = "num_batches_tracked"
DROPOUTS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")

ROWS: dict[str, Row] = {
    "convolution": Row(("Conv{n}d",), _convolution, _WEIGHTS, _count("stride")),
    "convolution_transpose": Row(("ConvTranspose{n}d",), _transposed, _WEIGHTS, _count("stride")),
    "linear": Row(("Linear", "NonDynamicallyQuantizableLinear"), _linear, _WEIGHTS),
    "embedding": Row(("Embedding",), _embedding, {"weight": "weight"}),
    "batch_norm": Row(("BatchNorm{n}d",), _batch_norm, _STATISTICS, lambda f, t: max(t["x"].rank - 2, 1), trains=True),
    "batch_norm_train": Row(("BatchNorm{n}d",), _batch_norm, _STATISTICS, lambda f, t: max(t["x"].rank - 2, 1)),
    "instance_norm": Row(("InstanceNorm{n}d",), _instance_norm, _WEIGHTS, lambda f, t: t["x"].rank - 2),
    "layer_norm": Row(("LayerNorm",), _layer_norm, _WEIGHTS),
    "rms_norm": Row(("RMSNorm",), _rms_norm, {"weight": "weight"}),
    "group_norm": Row(("GroupNorm",), _group_norm, _WEIGHTS),
    "local_response_norm": Row(("LocalResponseNorm",), _local_response_norm),
    "relu": Row(("ReLU",)),
    "relu6": Row(("ReLU6",)),
    "leaky_relu": Row(("LeakyReLU",), _renamed(negative_slope="slope")),
    "elu": Row(("ELU",), _renamed(alpha="alpha")),
    "selu": Row(("SELU",)),
    "celu": Row(("CELU",), _renamed(alpha="alpha")),
    "prelu": Row(("PReLU",), _prelu, {"weight": "weight"}),
    "gelu": Row(("GELU",), _renamed(approximate="approximate")),
    "silu": Row(("SiLU",)),
    "mish": Row(("Mish",)),
    "sigmoid": Row(("Sigmoid",)),
    "log_sigmoid": Row(("LogSigmoid",)),
    "hardtanh": Row(("Hardtanh",), _renamed(min_val="low", max_val="high")),
    "hard_sigmoid": Row(("Hardsigmoid",)),
    "hard_swish": Row(("Hardswish",)),
    "softplus": Row(("Softplus",), _renamed(beta="beta", threshold="threshold")),
    "softsign": Row(("Softsign",)),
    "softmax": Row(("Softmax",), _renamed(dim="axis")),
    "log_softmax": Row(("LogSoftmax",), _renamed(dim="axis")),
    "glu": Row(("GLU",), _renamed(dim="axis")),
    "tanh_shrink": Row(("Tanhshrink",)),
    "soft_shrink": Row(("Softshrink",), _renamed(lambd="lambd")),
    "hard_shrink": Row(("Hardshrink",), _renamed(lambd="lambd")),
    "threshold": Row(("Threshold",), _renamed(threshold="threshold", value="value")),
    "dropout": Row(DROPOUTS, _renamed(p="p"), trains=True),
    "max_pool": Row(("MaxPool{n}d",), _batched(_max_pool, "kernel"), spatial=_count("kernel")),
    "avg_pool": Row(("AvgPool{n}d",), _batched(_avg_pool, "kernel"), spatial=_count("kernel")),
    "adaptive_avg_pool": Row(
        ("AdaptiveAvgPool{n}d",), _batched(_renamed(output_size="size"), "size"), spatial=_count("size")
    ),
    "adaptive_max_pool": Row(
        ("AdaptiveMaxPool{n}d",), _batched(_renamed(output_size="size"), "size"), spatial=_count("size")
    ),
    "pixel_shuffle": Row(("PixelShuffle",), _renamed(upscale_factor="factor")),
    "pixel_unshuffle": Row(("PixelUnshuffle",), _renamed(downscale_factor="factor")),
    "interpolate": Row(("Upsample",), _upsample),
    "tanh": Row(("Tanh",)),
    "pad": Row(("ZeroPad{n}d", "ConstantPad{n}d"), _pad, spatial=_axes),
    "reflect_pad": Row(("ReflectionPad{n}d",), _pad, spatial=_axes),
    "replicate_pad": Row(("ReplicationPad{n}d",), _pad, spatial=_axes),
    "circular_pad": Row(("CircularPad{n}d",), _pad, spatial=_axes),
    "channel_shuffle": Row(("ChannelShuffle",), _channel_shuffle),
    "im2col": Row(("Unfold",), _windows),
    "col2im": Row(("Fold",), lambda f, t: {"output_size": f["output"], **_windows(f, t)}),
    "adaptive_max_pool_with_indices": Row(
        ("AdaptiveMaxPool{n}d",), _batched(_renamed(output_size="size"), "size"), spatial=_count("size")
    ),
    "max_pool_with_indices": Row(("MaxPool{n}d",), _batched(_max_pool, "kernel"), spatial=_count("kernel")),
}

#: Layers of modules of torch that aren't in ``torch.nn``.
_ELSEWHERE: dict[str, Any] = {"NonDynamicallyQuantizableLinear": NonDynamicallyQuantizableLinear}


def class_of(name: str) -> Any:
    """The layer of that name, None if torch has none."""
    found: Any = _ELSEWHERE.get(name, getattr(nn, name, None))
    return found if inspect.isclass(found) and issubclass(found, nn.Module) else None


# --- finding -----------------------------------------------------------------------------------------------


def by_row(call: Call, name: str, trains: bool) -> Layer | None:
    """The layer of a call that is one composite or op with a row; ``name`` is the class of the source's, if any."""
    counter = COUNTER
    count = call.graph.updates.get(counter)
    values = [v for v in call.graph.values if not isinstance(v.op, Leaf | Item | Const | Iota) and v is not count]
    if len(values) != 1:
        return None
    main = values[0]
    found = read(main)
    if found is None or found.settings is None or (trains and found.row.trains):
        return None
    for own, value in found.named.items():
        if own in found.row.state:
            if not isinstance(value.op, Parameter | Buffer) or value.op.leaf != found.row.state[own]:
                return None
        elif not isinstance(value.op, Input):
            return None
    if not _updates_as_norm(call, main, counter):
        return None
    if any(map(_is_open, found.settings.values())):
        told = in_numbers(found.settings)
        raise AxisError(f"{call.path} is a layer with the setting {told}, which holds the size of an axis")
    fitting = [n for n in found.layers if _takes(class_of(n), found.settings)]
    related = not name or _SPATIAL.sub("{n}", name) in found.row.layers
    if not fitting or (found.row.trains and not related):  # it would be another when it trains
        return None
    kind = class_of(name if name in fitting else fitting[0])
    return Layer(kind, shortened(kind, found.settings), types=(main_type(main),), updates=tuple(call.graph.updates))


#: The number of axes in a layer's name.
_SPATIAL = re.compile(r"\d(?=d$)")


class Read(NamedTuple):
    """What a row says of a value: its tensors by name, the settings of layers, and their names."""

    row: Row
    named: dict[str, Value]
    settings: Settings | None
    layers: list[str]


def read(main: Value) -> Read | None:
    """What the table says of a value; None if it has no row."""
    op = main.op
    row = ROWS.get(op.name if isinstance(op, Composite | Pad) else str(op.attributes.get("kind")))
    if row is None:
        return None
    if isinstance(op, Composite):
        named = dict(zip(op.definition.argument_names(op.given, len(main.args)), main.args, strict=True))
    else:
        named = {"x": main.args[0]}
    types = {n: v.type for n, v in named.items()}
    n = "" if row.spatial is None else str(row.spatial(op.attributes, types))
    return Read(row, named, row.settings(op.attributes, types), [layer.format(n=n) for layer in row.layers])


@lru_cache(256)
def _parameters(kind: type) -> dict[str, bool]:
    """The settings that a layer takes, and whether it needs them."""
    return {n: p.default is inspect.Parameter.empty for n, p in inspect.signature(kind).parameters.items()}


def _takes(kind: Any, settings: Settings) -> bool:
    """Whether there is such a layer with these settings."""
    if kind is None:
        return False
    parameters = _parameters(kind)
    return settings.keys() <= parameters.keys() and all(n in settings for n, needed in parameters.items() if needed)


def _is_open(setting: Any) -> bool:
    """Whether a setting is a size without a number: no layer has it."""
    return isinstance(setting, Size) or (isinstance(setting, tuple) and any(map(_is_open, cast(Any, setting))))


def main_type(value: Value) -> TensorType:
    """The type of a value, or of the first result of an op with several."""
    types: Any = value.type
    return types[0] if isinstance(types, tuple) else types


def _updates_as_norm(call: Call, main: Value, counter: str) -> bool:
    """Whether what a call updates and gives is what a norm does: its two running statistics, and its count by one."""
    several = isinstance(main.type, tuple)
    if not several:
        return list(call.graph.outputs.values()) == [main] and not call.graph.updates
    updates = call.graph.updates
    if main.args[1:2] and not isinstance(main.args[1].op, Buffer):  # statistics of the batch alone
        return not updates and _is_item(next(iter(call.graph.outputs.values())), main, 0)
    places = {"running_mean": 1, "running_var": 2}
    moved = all(isinstance(updates.get(n), Value) and _is_item(updates[n], main, i) for n, i in places.items())
    outputs = list(call.graph.outputs.values())
    if not moved or len(outputs) != 1 or not _is_item(outputs[0], main, 0) or set(updates) != {*places, counter}:
        return False
    count = Buffer(counter, updates[counter].type)()
    return updates[counter] is count + 1


def _is_item(value: Value, of: Value, index: int) -> bool:
    return isinstance(value.op, Item) and value.op.index == index and value.args[0] is of


def shortened(kind: type, settings: Settings) -> tuple[tuple[str, Any], ...]:
    """The settings without those that a layer has anyway; pairs of one number as that number."""
    defaults = _defaults(kind)
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, tuple) and len(set(value)) == 1 and name not in _SHAPES and None not in value:
            value = int(value[0]) if isinstance(value[0], int) else value[0]
        elif isinstance(value, tuple):
            value = tuple([int(v) if isinstance(v, int) else v for v in value])
            value = value[0] if name == "normalized_shape" and len(value) == 1 else value
        elif isinstance(value, int) and not isinstance(value, bool):
            value = int(value)
        if name not in defaults or defaults[name] is inspect.Parameter.empty or defaults[name] != value:
            found.append((name, value))
    if dict(found).get("stride") == dict(found).get("kernel_size") and "Pool" in kind.__name__:
        found = [(n, v) for n, v in found if n != "stride"]
    return tuple(found)


def in_place(calls: Iterable[Call], graph: Graph, origins: Mapping[Value, Origin]) -> set[str]:
    """The paths of layers that the source ran in place, where nothing else reads what they are given.

    That is made anew by what doesn't read its result for a gradient.
    """
    uses = Counter([a for v in graph.values for a in v.args])
    uses.update((*graph.outputs.values(), *graph.updates.values()))
    found: set[str] = set()
    others: set[str] = set()
    for call in calls:
        if call.layer is None or "inplace" not in _parameters(call.layer.kind):
            continue
        written: Any = None
        if len(call.own) == 1 and call.own[0] in origins and call.own[0].args:
            given = call.own[0].args[0]
            while isinstance(given.op, Passed) and uses[given] == 1:
                (given,) = given.args
            kind = given.op.name if isinstance(given.op, Composite) else str(given.op.attributes.get("kind"))
            written = _IN_PLACE.search(origins[call.own[0]].op) and uses[given] == 1 and kind in _MADE_ANEW
        (found if written else others).add(call.path)
    return found - others


#: An op of torch that writes its result to its argument: ``aten.relu_.default``.
_IN_PLACE = re.compile(r"^aten\.\w+_\.")

_MADE_ANEW = frozenset({
    "add", "batch_norm", "convolution", "convolution_transpose", "group_norm", "instance_norm", "layer_norm", "linear",
})  # fmt: skip


#: Settings that are shapes: of one number in several places they are no number.
_SHAPES = frozenset({"normalized_shape", "unflattened_size"})


@lru_cache(256)
def _defaults(kind: Any) -> dict[str, Any]:
    return {n: p.default for n, p in inspect.signature(kind).parameters.items()}


def holds(layer: Layer, state: Mapping[str, Weight]) -> bool:
    """Whether a layer's state is that of the source's: the same names, shapes and kinds. Only torch's norms count."""
    made = _state_of(*layer.made)
    own = {n: (w.is_parameter, w.persistent, w.type.shape) for n, w in state.items()}
    return made == own or (counts(layer) and made == {**own, COUNTER: (False, True, ())})


def counts(layer: Layer) -> bool:
    """Whether a layer is a norm that counts its batches and reads that nowhere."""
    return COUNTER in _state_of(*layer.made) and dict(layer.settings).get("momentum", 0.1) is not None


@lru_cache(1024)
def _state_of(kind: Any, settings: tuple[tuple[str, Any], ...]) -> dict[str, tuple[bool, bool, tuple[int, ...]]]:
    made = made_layer(Layer(kind, settings))
    saved = made.state_dict()
    own = (*made.named_parameters(), *made.named_buffers())
    return {n: (isinstance(t, nn.Parameter), n in saved, tuple(t.shape)) for n, t in own}


def made_layer(layer: Layer) -> Any:
    """A new layer whose tensors have no data."""
    with torch.device("meta"):
        return layer.kind(**dict(layer.settings))
