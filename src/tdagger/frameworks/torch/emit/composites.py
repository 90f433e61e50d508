"""How each composite is written in torch: one row each. A composite without a row is written as its body.

A row is a template with the names of the composite's tensors and attributes in braces, or a function of
(writer, value, those by name). A condition says for which arguments the row holds; else the body is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tdagger.composite import Composite
from tdagger.frameworks.torch.emit.codegen import Row, Writer, is_reshape, number
from tdagger.frameworks.torch.emit.core import cannot, dtype_name, reshape
from tdagger.frameworks.torch.emit.legalize import legalize
from tdagger.graph import Graph
from tdagger.library.quantized import grid_of
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Iota, Leaf
from tdagger.ops.structure import Item
from tdagger.types import Sized, TensorType, in_numbers

Fields = dict[str, Any]
#: Whether the row holds, given the composite's attributes and the types of its arguments.
Condition = Callable[[Fields, Sequence[TensorType]], bool]


class Rule(NamedTuple):
    """A template or function, the kinds of element types torch's function takes, and what else must hold.

    ``takes`` has letters: f floats, i integers, b bool, c complex, u 64 bits (a seed).
    ``literals`` marks an elementwise composite:
    which of its tensors, all of one shape, may be written as Python numbers.
    """

    write: str | Callable[[Writer, Value, Fields], str]
    takes: str = "f"
    when: Condition | None = None
    literals: str | None = None


_FLOATS = ("f16", "bf16", "f32", "f64")


def _kind(t: TensorType) -> str:
    name = t.dtype.name
    if t.dtype.is_float:
        return "f" if name in _FLOATS else ""
    if t.dtype.is_int:
        return {"u16": "", "u32": "", "u64": "u"}.get(name, "i")
    return "c" if t.dtype.is_complex else "b"


# --- helpers for rows --------------------------------------------------------------------------------------


def _one_or_all(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else str(tuple(axes))


def _over_axes(template: str) -> Callable[[Writer, Value, Fields], str]:
    """A reduction with ``axes`` and ``keep``; torch takes no axes for all of them, so that is written out."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        return template.format(**{**f, "axes": _one_or_all(f["axes"]), "keep": ", keepdim=True" * f["keep"]})

    return write


def _has_axes(f: Fields, types: Sequence[TensorType]) -> bool:
    return len(f["axes"]) > 0


def _has_spread(f: Fields, types: Sequence[TensorType]) -> bool:
    """torch warns of a variance of too few entries; the body doesn't."""
    count = math.prod(types[0].shape[a] for a in f["axes"])
    return _has_axes(f, types) and count > f["correction"] and 0 not in types[0].shape


def _is_wide(f: Fields, types: Sequence[TensorType]) -> bool:
    """torch has most special functions for float32 and float64 only."""
    return types[0].dtype.bytes >= 4


def _first_of(function: str) -> Callable[[Writer, Value, Fields], str]:
    """The largest or smallest along an axis, with torch's gradient: it goes to the one of them that its index names."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        return f"torch.{function}({f['x']}, {f['axis']}{', keepdim=True' * f['keep']}).values"

    return write


def _has_entries(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[0].shape[f["axis"]] > 0


def _merged(x: str, rank: int, least: int, most: int) -> str:
    """``x`` of ``rank`` axes with ``least`` to ``most``: axes of size 1 added in front, or the first ones made one."""
    if rank > most:
        return f"{x}.flatten(0, {rank - most})"
    return x + ".unsqueeze(0)" * (least - rank)


def _unmerged(out: str, v: Value, least: int, most: int) -> str:
    """The result of a function on what :func:`_merged` made of the first argument, with the axes that one had."""
    x = v.args[0].type
    ahead = x.shape[: x.rank - most + 1]
    if isinstance(v.type, tuple) and not least <= x.rank <= most:
        count = 1 if x.rank > most else least - x.rank
        return f"runtime.unmerged({out}, {(0,) * len(v.type)}, {count}, {ahead if x.rank > most else ()})"
    if x.rank > most:
        return f"{out}.unflatten(0, {ahead})"
    return out + ".squeeze(0)" * (least - x.rank)


def _spatial(template: str, count: str) -> Callable[[Writer, Value, Fields], str]:
    """A function whose name ends in the number of spatial axes, ``{n}d``: as many as attribute ``count`` has entries.

    It takes the channels and at most one axis before them.
    """

    def write(w: Writer, v: Value, f: Fields) -> str:
        n = len(f[count])
        x = _merged(f["x"], v.args[0].rank, n + 1, n + 2)
        return _unmerged(template.format(**{**f, "x": x}, n=n), v, n + 1, n + 2)

    return write


def _channels(template: str) -> Callable[[Writer, Value, Fields], str]:
    """A function that takes one axis before the channels, which are at ``axis``.

    ``{rest}``: weight and bias as far as they were given.
    """

    def write(w: Writer, v: Value, f: Fields) -> str:
        given = {n: f[n] for n in ("weight", "bias") if f.get(n, "None") != "None"}
        rank = v.args[0].rank - f["axis"] + 1
        x = _merged(f["x"], v.args[0].rank, rank, rank)
        fields = {**f, "x": x, "rest": "".join(f", {n}={t}" for n, t in given.items())}
        return _unmerged(template.format(**fields), v, rank, rank)

    return write


# --- rows that are functions -------------------------------------------------------------------------------


def _clamp(w: Writer, v: Value, f: Fields) -> str:
    """Bounds of integers are written as such, or torch gives floats."""
    found = {n: f[k] for n, k in (("min", "low"), ("max", "high")) if f[k] is not None}
    bounds = [f"{n}={b if v.type.dtype.is_float else int(b)}" for n, b in found.items()]
    return f"{f['x']}.clamp({', '.join(bounds)})" if bounds else f["x"]


def _convolution(w: Writer, v: Value, f: Fields) -> str:
    """Padding that differs at the two ends is a pad of its own, as torch does it for padding="same"."""
    padding = f["padding"]
    n = len(padding)
    x = _merged(f["x"], v.args[0].rank, n + 1, n + 2)
    ends = tuple(low for low, _ in padding)
    if any(low != high for low, high in padding):
        x = f"F.pad({x}, {tuple(n for p in reversed(padding) for n in p)})"
        ends = (0,) * n
    options: list[tuple[str, Any, Any]] = [
        ("stride", f["stride"], (1,) * n), ("padding", ends, (0,) * n), ("dilation", f["dilation"], (1,) * n),
        ("groups", f["groups"], 1),
    ]  # fmt: skip
    rest = "".join(f", {name}={value}" for name, value, default in options if value != default)
    bias = "" if f["bias"] == "None" else f", {f['bias']}"
    return _unmerged(f"F.conv{n}d({x}, {f['weight']}{bias}{rest})", v, n + 1, n + 2)


def _aligned(f: Fields, types: Sequence[TensorType]) -> bool:
    """torch wants the rows of matrices at multiples of 16 bytes."""
    return all(t.dtype.name != "f64" and t.shape[-1] * t.dtype.bytes % 16 == 0 for t in types[:2]) and (
        types[1].shape[1] * types[1].dtype.bytes % 16 == 0 and 0 not in (*types[0].shape, *types[1].shape)
    )


def _batch_norm(w: Writer, v: Value, f: Fields) -> str:
    """Like nn.BatchNorm: statistics of the batch, and running ones, when the module that has them trains."""
    mean, variance = v.args[1:3]
    rank = v.args[0].rank - f["axis"] + 1
    x = _merged(f["x"], v.args[0].rank, rank, rank)
    stats = f"{f['mean']}, {f['variance']}, {f['weight']}, {f['bias']}"
    if w.trains or not (isinstance(mean.op, Buffer) and isinstance(variance.op, Buffer)):
        return _unmerged(f"F.batch_norm({x}, {stats}, eps={f['eps']})", v, rank, rank)
    owner = mean.op.leaf.rpartition(".")[0]
    training, momentum = w.training(v, owner), f["momentum"]
    counter = f"{owner}.num_batches_tracked" if owner else "num_batches_tracked"
    if counter in w.state:
        count = w.state_tensor(owner, "num_batches_tracked")
        w.before(f"if {training}:\n    {count}.add_(1)")
        if momentum is None:
            momentum = f"1.0 / float({count}) if {training} else 0.0"
    momentum = 0.0 if momentum is None else momentum
    return _unmerged(f"F.batch_norm({x}, {stats}, {training}, {momentum}, {f['eps']})", v, rank, rank)


def _normalise_and_update(w: Writer, v: Value, f: Fields) -> str:
    """A norm that moves its running statistics; it is what it is in inference when their module doesn't train."""
    mean = v.args[1] if f["mean"] != "None" else v
    flag = ""
    if isinstance(mean.op, Buffer):
        owner = mean.op.leaf.rpartition(".")[0]
        flag = f", {w.training(v, owner)}"
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            w.guards[f"{owner}.{name}" if owner else name] = owner
    rest = ", ".join(f[n] for n in ("mean", "variance", "weight", "bias"))
    flag += "" if f["axis"] == 1 else f", axis={f['axis']}"
    return f"runtime.{v.op.name}({f['x']}, {rest}, {f['momentum']}, {f['eps']}{flag})"


def _statistics(f: Fields, types: Sequence[TensorType]) -> bool:
    """torch takes both running statistics or none, and refuses one entry in training; the body doesn't."""
    return (f["mean"] is None) == (f["variance"] is None) and types[0].size > types[0].shape[f["axis"]]


def _drawn(*names: str) -> Callable[[Writer, Value, Fields], str]:
    """A function of the runtime with the seed and these attributes."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        shown = [dtype_name(f[n]) if n == "dtype" else str(f[n]) for n in names]
        return f"runtime.{v.op.name}({', '.join([f['seed'], *shown])})"

    return write


def _dropping(w: Writer, v: Value, f: Fields) -> str:
    axis = "" if f["axis"] == 1 else f", {f['axis']}"
    return f"runtime.{v.op.name}({f['x']}, {f['seed']}, {f['p']}, {f['features']}, {w.training(v)}{axis})"


def _trailing(function: str) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        shape = v.args[0].type.shape[-f["rank"] :]
        given = "".join(f", {n}={f[n]}" for n in ("weight", "bias") if f.get(n, "None") != "None")
        return f"F.{function}({f['x']}, {shape}{given}, eps={f['eps']})"

    return write


def _attention(w: Writer, v: Value, f: Fields) -> str:
    rest = "" if f["mask"] == "None" else f", {f['mask']}"
    rest += ", is_causal=True" if f["causal"] else ""
    rest += "" if f["scale"] is None else f", scale={f['scale']}"
    rest += ", enable_gqa=True" if f["grouped"] else ""
    return f"F.scaled_dot_product_attention({f['q']}, {f['k']}, {f['v']}{rest})"


def _avg_pool(w: Writer, v: Value, f: Fields) -> str:
    n = len(f["kernel"])
    divisor = "" if f["divisor"] is None else f", divisor_override={f['divisor']}"
    counted = "" if f["count_include_pad"] else ", count_include_pad=False"
    ceil = ", ceil_mode=True" if f["ceil"] else ""
    padding = f", padding={f['padding']}" if any(f["padding"]) else ""
    x = _merged(f["x"], v.args[0].rank, n + 1, n + 2)
    out = f"F.avg_pool{n}d({x}, {f['kernel']}, {f['stride']}{padding}{ceil}{counted}{divisor})"
    return _unmerged(out, v, n + 1, n + 2)


def _recurrent(function: str, states: int) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        tensors = list(f["tensors"])
        lead = v.args[0].rank - 2
        at = 0 if f["batch_first"] else 1  # the batch's axis in x; that of the states is axis 1
        if lead != 1:
            for i, axis in enumerate((at, *(1,) * states)):
                tensors[i] += f".unsqueeze({axis})" if not lead else f".flatten({axis}, {axis + lead - 1})"
        state = tensors[1] if states == 1 else f"({tensors[1]}, {tensors[2]})"
        name = function.format(nonlinearity=f.get("nonlinearity"))
        training = "False" if w.trains and f["dropout"] else w.training(v)
        flags = f"{f['biases']}, {f['layers']}, {f['dropout']}, {training}, {f['bidirectional']}"
        weights = ", ".join(tensors[1 + states :])
        out = f"torch.{name}({tensors[0]}, {state}, [{weights}], {flags}, {f['batch_first']})"
        batch = v.args[0].shape[at : at + lead]
        return out if lead == 1 else f"runtime.unmerged({out}, {(at, *(1,) * states)}, 1, {batch})"

    return write


_INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _interpolate(w: Writer, v: Value, f: Fields) -> str:
    mode: str = f["mode"]
    smooth = mode in ("linear", "cubic")
    n = len(f["size"])
    name = {"linear": _INTERPOLATIONS[n], "cubic": "bicubic"}.get(mode, mode)
    size = f"size={tuple(f['size'])}" if f["scale"] is None else f"scale_factor={f['scale']}"
    align = f", align_corners={f['align_corners']}" if smooth else ""
    smoothed = ", antialias=True" if f["antialias"] else ""
    x = _merged(f["x"], v.args[0].rank, n + 2, n + 2)
    return _unmerged(f"F.interpolate({x}, {size}, mode={name!r}{align}{smoothed})", v, n + 2, n + 2)


def _grid_sample(w: Writer, v: Value, f: Fields) -> str:
    rank = v.args[1].shape[-1] + 2
    x, grid = (_merged(f[n], v.args[0].rank, rank, rank) for n in ("x", "grid"))
    how = f"mode={f['mode']!r}, padding_mode={f['padding']!r}, align_corners={f['align_corners']}"
    return _unmerged(f"F.grid_sample({x}, {grid}, {how})", v, rank, rank)


def _pools_to_size(f: Fields, types: Sequence[TensorType]) -> bool:
    """torch has kernels for one to three spatial axes, and takes no channels only where nothing is before them."""
    n = len(f["size"])
    return n <= 3 and (types[0].rank < n + 2 or types[0].shape[-n - 1] > 0)


def _scale_gives_size(f: Fields, types: Sequence[TensorType]) -> bool:
    if f["scale"] is None or f["mode"] == "area":
        return f["scale"] is None
    scale = f["scale"] if isinstance(f["scale"], tuple) else (f["scale"],) * len(f["size"])
    pairs = zip(types[0].shape[-len(scale) :], scale, f["size"], strict=True)
    return all(s is not None and math.floor(n * s) == size for n, s, size in pairs)


def _resizes(f: Fields, types: Sequence[TensorType]) -> bool:
    """torch smooths no half precision on the CPU."""
    return len(f["size"]) <= 3 and _scale_gives_size(f, types) and not (f["antialias"] and types[0].dtype.bytes < 4)


def _pad_mode(mode: str) -> Rule:
    """torch pads the last one to three axes, of tensors with one or two axes more."""

    def count(widths: Any) -> int:
        return max((len(widths) - i for i, p in enumerate(widths) if any(p)), default=0)

    def when(f: Fields, types: Sequence[TensorType]) -> bool:
        return 1 <= count(f["widths"]) <= 3 and 0 not in types[0].shape

    def write(w: Writer, v: Value, f: Fields) -> str:
        n = min(max(count(f["widths"]), v.rank - 2), 3)
        flat = tuple(k for p in reversed(f["widths"][-n:]) for k in p)
        x = _merged(f["x"], v.rank, n + 1, n + 2)
        return _unmerged(f"F.pad({x}, {flat}, mode={mode!r})", v, n + 1, n + 2)

    return Rule(write, "f", when)


def _wide_floats(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[0].dtype.name in ("f32", "f64")


def _filled(w: Writer, v: Value, f: Fields) -> str:
    """A bool as 0 or 1: torch.jit.trace knows no ``full_like`` of a bool."""
    value = int(f["value"]) if v.dtype.name == "bool" else number(np.asarray(f["value"], v.dtype.numpy)[()], v.dtype)
    other = "" if v.dtype is v.args[0].dtype else f", dtype={dtype_name(v.dtype)}"
    return f"torch.full_like({f['x']}, {value}{other})"


def _rolled(w: Writer, v: Value, f: Fields) -> str:
    """Shifts by half of what there is are those of torch.fft."""
    halves = {(s.offsets, s.divisor) if isinstance(s, Sized) else None for s in v.op.attributes["shifts"]}
    for name, offset in (("fftshift", 0), ("ifftshift", 1)):
        if halves == {((offset,), 2)}:
            return f"torch.fft.{name}({f['x']}, {tuple(f['axes'])})"
    return f"torch.roll({f['x']}, {f['shifts']}, {f['axes']})"


def _one_hot(w: Writer, v: Value, f: Fields) -> str:
    return f"F.one_hot({f['index']}" + (".long()" if v.args[0].dtype.name != "i64" else "") + f", {f['classes']})"


def _linear_index(w: Writer, v: Value, f: Fields) -> str:
    """Every axis' index is checked by itself: one beyond its axis would be another entry of the others.

    Sizes are written as such, which may have no number; the tensor itself isn't needed.
    """
    total = ""
    for n, index, signed in zip(v.args[0].shape[f["axis"] :], v.args[1:], f["signed"], strict=False):
        place = f"runtime.place({w.ref(index)}, {n}, {signed})"
        place += "" if index.dtype is v.dtype else f".to({dtype_name(v.dtype)})"
        total = f"({total}) * {n} + {place}" if total else place
    return total


def _listed(template: str) -> Callable[[Writer, Value, Fields], str]:
    """``{xs}``: the tensors of a variadic composite."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        return template.format(**{**f, "xs": ", ".join(f["xs"])})

    return write


def _cast_to_bytes(template: str) -> Callable[[Writer, Value, Fields], str]:
    """torch finds no largest bool, so bools are read as bytes."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        x = f["x"] + (".to(torch.uint8)" if v.args[0].dtype.name == "bool" else "")
        return template.format(**{**f, "x": x, "keep": ", keepdim=True" * f["keep"]})

    return write


def _spatial_entries(f: Fields, types: Sequence[TensorType]) -> bool:
    """torch refuses to normalise over one entry in training; the body doesn't."""
    return math.prod(types[0].shape[f["axis"] + 1 :]) > 1


def _all_floats_alike(f: Fields, types: Sequence[TensorType]) -> bool:
    return len({t.dtype for t in types}) == 1


def _not_empty(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[0].size > 0  # torch leaves an empty tensor as it is


def _columns(template: str, after: int) -> Callable[[Writer, Value, Fields], str]:
    """A function of a tensor that has ``after`` axes after the batch, or of one without a batch."""

    def write(w: Writer, v: Value, f: Fields) -> str:
        x = _merged(f["x"], v.args[0].rank, after, after + 1)
        return _unmerged(template.format(**{**f, "x": x}), v, after, after + 1)

    return write


def _flat_image(f: Fields, types: Sequence[TensorType]) -> bool:
    return len(f["kernel"]) == 2


def _takes_maximum(f: Fields, types: Sequence[TensorType]) -> bool:
    """torch pads by half a window at most, counted without its dilation."""
    return len(f["kernel"]) <= 3 and all(2 * p <= k for p, k in zip(f["padding"], f["kernel"], strict=True))


def _averages(f: Fields, types: Sequence[TensorType]) -> bool:
    n = len(f["kernel"])
    return n <= 3 and (f["divisor"] is None or n > 1)


def _convolves(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[1].rank <= 5 and _all_floats_alike(f, types)


def _prelu(w: Writer, v: Value, f: Fields) -> str:
    """torch takes one weight for all, or one for each entry of axis 1."""
    if v.args[1].shape == (1,):
        return f"F.prelu({f['x']}, {f['weight']})"
    return _channels("F.prelu({x}, {weight})")(w, v, f)


def _of_ranks(*ranks: tuple[int, int]) -> Condition:
    """Whether the two factors after the bias have one of these pairs of ranks."""
    return lambda f, types: (types[1].rank, types[2].rank) in ranks and _all_floats_alike(f, types)


def _scaled_product(w: Writer, v: Value, f: Fields) -> str:
    """torch.addmm takes a matrix, torch.baddbmm a batch of them."""
    rank = 2 if v.op.name == "addmm" else 3
    x = _merged(f["x"], v.args[1].rank, rank, rank)
    y = _merged(f["y"], v.args[2].rank, rank, rank)
    out = f"torch.{v.op.name}({f['bias']}, {x}, {y}, beta={f['beta']}, alpha={f['alpha']})"
    return out + ".squeeze(0)" * (rank - v.args[1].rank)


def _along(f: Fields) -> str:
    return "" if f["axis"] is None else f", axis={f['axis']}" + f", block={f['block']}" * bool(f["block"])


def _quantize(w: Writer, v: Value, f: Fields) -> str:
    grid = grid_of(f["to"])
    low, high = (grid.low if f["low"] is None else f["low"], grid.high if f["high"] is None else f["high"])
    name = "quantize" if f["like"] == "onnx" else "quantize_by_reciprocal"
    given = f"{f['x']}, {f['scale']}, {f['zero_point']}, {low}, {high}, {dtype_name(v.dtype)}"
    return f"runtime.{name}({given}{_along(f)})"


def _dequantize(w: Writer, v: Value, f: Fields) -> str:
    return f"runtime.dequantize({f['x']}, {f['scale']}, {f['zero_point']}{_along(f)})"


_NUMBERS, _DATA = "fic", "fibc"
_POOL = "F.max_pool{n}d({x}, {kernel}, {stride}, {padding}, {dilation}, ceil_mode={ceil}"
_CONV_TRANSPOSE = (
    "F.conv_transpose{n}d({x}, {weight}, {bias}, stride={stride}, padding={padding}, "
    "output_padding={output_padding}, groups={groups}, dilation={dilation})"
)


def _cond(w: Writer, v: Value, f: Fields) -> str:
    """Both branches as functions in front of the call."""
    predicate, *operands = f["tensors"]
    for name in ("then", "otherwise"):
        w.before(_function(w, f"_{name}", f[name]))
    given = f"({operands[0]},)" if len(operands) == 1 else f"({', '.join(operands)})"
    return f"runtime.cond({predicate}, _then, _otherwise, {given})"


def _function(w: Writer, name: str, graph: Graph) -> str:
    """The source of a function that computes a graph; its constants are those of the module around it."""
    graph = legalize(graph, is_known, {})[0]
    inner = w.inside(graph)
    arguments = {x: f"a{i}" for i, x in enumerate(graph.inputs.values())}
    outputs = list(graph.outputs.values())
    body = inner.statements(outputs)
    end = [f"return {', '.join(map(inner.ref, outputs))}"]
    lines = inner.lines(body, end, arguments, lambda marked, _: w.state_of(marked), {})
    text = "".join(f"\n    {line}" for several in lines for line in several.split("\n"))
    return f"def {name}({', '.join(arguments.values())}):{text}"


def _branches_known(f: Fields, types: Sequence[TensorType]) -> bool:
    """Whether torch has every op of both branches."""
    graphs = [legalize(f[name], is_known, {})[0] for name in ("then", "otherwise")]
    core = [v for g in graphs for v in g.values if not isinstance(v.op, Composite | Leaf | Const | Iota | Item)]
    return all(cannot(v) is None for v in core)


COMPOSITES: dict[str, Rule] = {
    # arithmetic
    "subtract": Rule("{x} - {y}", _NUMBERS, literals="11"),
    "divide": Rule("{x} / {y}", "fc", literals="01"),
    "square": Rule("{x}.square()", _NUMBERS),
    "rsqrt": Rule("torch.rsqrt({x})", "fc"),
    "exp2": Rule("torch.exp2({x})", "fc"),
    "log2": Rule("torch.log2({x})", "fc"),
    "log10": Rule("torch.log10({x})", "fc"),
    "mean": Rule(_over_axes("{x}.mean({axes}{keep})"), "fc", _has_axes),
    "variance": Rule(_over_axes("{x}.var({axes}, correction={correction}{keep})"), "f", _has_spread),
    "std": Rule(_over_axes("{x}.std({axes}, correction={correction}{keep})"), "f", _has_spread),
    "argmax": Rule(_cast_to_bytes("{x}.argmax({axis}{keep})"), "fib"),
    "argmin": Rule(_cast_to_bytes("{x}.argmin({axis}{keep})"), "fib"),
    "logsumexp": Rule(_over_axes("torch.logsumexp({x}, {axes}{keep})"), "f", _has_axes),
    "vector_norm": Rule(_over_axes("torch.linalg.vector_norm({x}, {ord}, {axes}{keep})"), "f", _has_axes),
    "normalize": Rule(
        lambda w, v, f: f"F.normalize({f['x']}, {f['ord']}, {_one_or_all(f['axes'])}, {f['eps']})",
        "f",
        lambda f, t: _has_axes(f, t) and t[0].dtype.name != "f16",  # torch rounds an eps of 1e-12 to 0
    ),
    "trunc_divide": Rule('torch.div({x}, {y}, rounding_mode="trunc")', "fi", literals="01"),
    "lerp": Rule("torch.lerp({x}, {y}, {weight})", "f", literals="001"),
    "logaddexp": Rule("torch.logaddexp({x}, {y})", "f", literals="00"),
    "hypot": Rule("torch.hypot({x}, {y})", "f", literals="00"),
    "xlogy": Rule("torch.xlogy({x}, {y})", "f", literals="10"),
    "sinc": Rule("torch.sinc({x})", "f"),
    "entr": Rule("torch.special.entr({x})", "f"),
    "xlog1py": Rule("torch.special.xlog1py({x}, {y})", "f", literals="10"),
    "copysign": Rule("torch.copysign({x}, {y})", "f", literals="01"),
    "polar": Rule("torch.polar({size}, {angle})", "f", _is_wide),
    "at_least": Rule("{x}.clamp_min({low})", "fi", literals="01"),
    "at_most": Rule("{x}.clamp_max({high})", "fi", literals="01"),
    "largest": Rule(_first_of("max"), "fi", _has_entries),
    "smallest": Rule(_first_of("min"), "fi", _has_entries),
    "binary_cross_entropy": Rule('F.binary_cross_entropy({x}, {target}, reduction="none")', "f"),
    "huber_loss": Rule('F.huber_loss({x}, {y}, reduction="none", delta={delta})', "f"),
    "smooth_l1_loss": Rule('F.smooth_l1_loss({x}, {y}, reduction="none", beta={beta})', "f"),
    "fmax": Rule("torch.fmax({x}, {y})", "fi", literals="00"),
    "fmin": Rule("torch.fmin({x}, {y})", "fi", literals="00"),
    "heaviside": Rule("torch.heaviside({x}, {y})", "fi", literals="00"),
    "clamp": Rule(_clamp, "fi"),
    "nan_to_num": Rule("torch.nan_to_num({x}, {nan}, {posinf}, {neginf})", "fi"),
    "logcumsumexp": Rule("torch.logcumsumexp({x}, {axis})", "f"),
    "kthvalue": Rule("torch.kthvalue({x}, {k}, {axis}, keepdim=True)", "fi"),
    "mode": Rule("torch.mode({x}, {axis}, keepdim=True)", "fib"),
    "median": Rule(
        lambda w, v, f: f"torch.{'nan' * bool(f['skip_nan'])}median({f['x']}, {f['axis']}, keepdim=True)", "fi"
    ),
    "quantile": Rule(
        "torch.quantile({x}, {q}, {axis}, keepdim=True, interpolation='{interpolation}')",
        "f",
        _wide_floats,
    ),
    "sort": Rule("torch.sort({x}, dim={axis}, descending={descending}, stable=True)", "fib"),
    "topk": Rule("torch.topk({x}, {k}, {axis}, {largest})", "fi", lambda f, t: not f["stable"]),
    # activations
    "relu": Rule("F.relu({x})", "fi"),
    "relu6": Rule("F.relu6({x})"),
    "leaky_relu": Rule("F.leaky_relu({x}, {slope})"),
    "elu": Rule("F.elu({x}, {alpha})"),
    "selu": Rule("F.selu({x})"),
    "celu": Rule("F.celu({x}, {alpha})"),
    "prelu": Rule(_prelu, "f", _all_floats_alike),
    "gelu": Rule("F.gelu({x}, approximate={approximate!r})"),
    "silu": Rule("F.silu({x})"),
    "mish": Rule("F.mish({x})"),
    "sigmoid": Rule("torch.sigmoid({x})", "fc"),
    "log_sigmoid": Rule("F.logsigmoid({x})"),
    "hardtanh": Rule("F.hardtanh({x}, {low}, {high})"),
    "hard_sigmoid": Rule("F.hardsigmoid({x})"),
    "hard_swish": Rule("F.hardswish({x})"),
    "softplus": Rule("F.softplus({x}, {beta}, {threshold})"),
    "softsign": Rule("F.softsign({x})"),
    "softmax": Rule("F.softmax({x}, dim={axis})"),
    "log_softmax": Rule("F.log_softmax({x}, dim={axis})"),
    "glu": Rule("F.glu({x}, dim={axis})"),
    "tanh_shrink": Rule("F.tanhshrink({x})"),
    "soft_shrink": Rule("F.softshrink({x}, {lambd})"),
    "hard_shrink": Rule("F.hardshrink({x}, {lambd})"),
    "threshold": Rule("F.threshold({x}, {threshold}, {value})", "fi"),
    "gaussian": Rule("torch.exp(-{x}.square())", "f", lambda f, t: t[0].dtype.bytes > 2),  # else it rounds twice
    "logit": Rule("torch.logit({x}, {eps})"),
    "dropout": Rule(lambda w, v, f: f["x"] if w.trains else f"F.dropout({f['x']}, {f['p']}, {w.training(v)})", "fc"),
    # random numbers
    "stream": Rule("runtime.stream({seed}, {number})", "u"),
    "uniform": Rule(_drawn("shape", "dtype", "low", "high"), "u"),
    "normal": Rule(_drawn("shape", "dtype", "mean", "std"), "u"),
    "exponential": Rule(_drawn("shape", "dtype", "rate"), "u"),
    "random_integers": Rule(_drawn("shape", "low", "high", "dtype"), "u"),
    "permutation": Rule(_drawn("size"), "u"),
    "bernoulli": Rule(_drawn("p", "shape", "rate"), "uf"),
    "dropout_train": Rule(_dropping, "ufc"),
    "alpha_dropout_train": Rule(_dropping, "uf"),
    "stop_gradient": Rule("{x}.detach()", _DATA),
    "straight_through": Rule("runtime.straight_through({x}, {new})", _DATA),
    # special functions
    "airy_ai": Rule("torch.special.airy_ai({x}).masked_fill({x}.isinf(), 0)", "f", _is_wide),
    "bessel_i0": Rule("torch.special.i0({x})"),
    "bessel_i0e": Rule("torch.special.i0e({x})", "f", _is_wide),
    "bessel_i1": Rule("torch.special.i1({x})", "f", _is_wide),
    "bessel_i1e": Rule("torch.special.i1e({x})", "f", _is_wide),
    "bessel_j0": Rule("torch.special.bessel_j0({x})", "f", _is_wide),
    "bessel_j1": Rule("torch.special.bessel_j1({x})", "f", _is_wide),
    "bessel_k0": Rule("torch.special.modified_bessel_k0({x})", "f", _is_wide),
    "bessel_k0e": Rule("torch.special.scaled_modified_bessel_k0({x})", "f", _is_wide),
    "bessel_k1": Rule("torch.special.modified_bessel_k1({x})", "f", _is_wide),
    "bessel_k1e": Rule("torch.special.scaled_modified_bessel_k1({x})", "f", _is_wide),
    "bessel_y0": Rule("torch.special.bessel_y0({x})", "f", _is_wide),
    "bessel_y1": Rule("torch.special.bessel_y1({x})", "f", _is_wide),
    "spherical_bessel_j0": Rule("torch.special.spherical_bessel_j0({x})", "f", _is_wide),
    "digamma": Rule("torch.special.digamma({x})"),
    "erfcx": Rule("torch.special.erfcx({x})", "f", _is_wide),
    "log_ndtr": Rule("torch.special.log_ndtr({x})", "f", _is_wide),
    "ndtri": Rule("torch.special.ndtri({x})", "f", _is_wide),
    # shape
    "reshape": Rule("{x}.reshape({shape})", _DATA),
    "stack": Rule(_listed("torch.stack([{xs}], {axis})"), _DATA),
    "tile": Rule("{x}.repeat({repeats})", _DATA),
    "repeat_interleave": Rule("{x}.repeat_interleave({repeats}, {axis})", _DATA),
    "roll": Rule(_rolled, _DATA),
    "filled": Rule(_filled, _DATA),
    "linspace": Rule(
        lambda w, v, f: f"torch.linspace({f['start']}, {f['end']}, {f['steps']}, dtype={dtype_name(v.dtype)})"
    ),
    "pdist": Rule("F.pdist({x}, {ord})", "f", _wide_floats),
    "pixel_shuffle": Rule("F.pixel_shuffle({x}, {factor})", _DATA),
    "pixel_unshuffle": Rule("F.pixel_unshuffle({x}, {factor})", _DATA, _not_empty),
    "diagonal": Rule("{x}.diagonal({offset}, {axis0}, {axis1})", _DATA),
    "tril": Rule("{x}.tril({diagonal})", _DATA),
    "triu": Rule("{x}.triu({diagonal})", _DATA),
    "im2col": Rule(_columns("F.unfold({x}, {kernel}, {dilation}, {padding}, {stride})", 3), "f", _flat_image),
    "col2im": Rule(_columns("F.fold({x}, {output}, {kernel}, {dilation}, {padding}, {stride})", 2), "f", _flat_image),
    "reflect_pad": _pad_mode("reflect"),
    "replicate_pad": _pad_mode("replicate"),
    "circular_pad": _pad_mode("circular"),
    "one_hot": Rule(_one_hot, "i"),
    "linear_index": Rule(_linear_index, "fibc"),
    # linear
    "linear": Rule(
        lambda w, v, f: f"F.linear({f['x']}, {f['weight']}" + ("" if f["bias"] == "None" else f", {f['bias']}") + ")",
        _NUMBERS,
        _all_floats_alike,
    ),
    "fft": Rule(
        lambda w, v, f: (
            f'torch.fft.ifft({f["x"]}, dim={f["axis"]}, norm="forward")'
            if f["backward"]
            else f"torch.fft.fft({f['x']}, dim={f['axis']})"
        ),
        "c",
        lambda f, t: t[0].shape[f["axis"]] > 0,
    ),
    "matmul": Rule("{x} @ {y}", _NUMBERS, _all_floats_alike),
    "einsum": Rule(_listed("torch.einsum({equation!r}, {xs})"), "fc", _all_floats_alike),
    "bilinear": Rule("F.bilinear({x1}, {x2}, {weight}, {bias})", "f", _all_floats_alike),
    "addmm": Rule(_scaled_product, "f", _of_ranks((1, 2), (2, 2))),
    "baddbmm": Rule(_scaled_product, "f", _of_ranks((2, 2), (3, 3))),
    "grouped_matmul": Rule("runtime.grouped_matmul({x}, {weight}, {ends})", "fi", _aligned),
    "embedding": Rule(
        lambda w, v, f: (
            f"F.embedding({f['index']}, {f['weight']}"
            + ("" if f["padding"] is None else f", padding_idx={f['padding']}")
            + ")"
        ),
        "fi",
        lambda f, t: (
            t[0].dtype.is_float and t[1].dtype.name in ("i32", "i64") and (t[0].rank == 2 or f["padding"] is not None)
        ),
    ),
    # convolution
    "convolution": Rule(_convolution, "fc", _convolves),
    "convolution_transpose": Rule(_spatial(_CONV_TRANSPOSE, "stride"), "fc", _convolves),
    # norms
    "batch_norm": Rule(_batch_norm),
    "batch_norm_train": Rule(_normalise_and_update, "f", _statistics),
    "instance_norm_train": Rule(
        _normalise_and_update, "f", lambda f, t: _all_floats_alike(f, t) and _spatial_entries(f, t)
    ),
    "layer_norm": Rule(_trailing("layer_norm"), "f", _all_floats_alike),
    "rms_norm": Rule(_trailing("rms_norm"), "f", _all_floats_alike),
    "group_norm": Rule(_channels("torch.group_norm({x}, {groups}{rest}, eps={eps})"), "f", _all_floats_alike),
    "instance_norm": Rule(
        _channels("F.instance_norm({x}{rest}, eps={eps})"),
        "f",
        lambda f, t: _all_floats_alike(f, t) and _spatial_entries(f, t),
    ),
    "local_response_norm": Rule(
        _channels("F.local_response_norm({x}, {size}, {alpha}, {beta}, {k})"),
        "f",
        lambda f, t: t[0].rank > f["axis"] + 1 and t[0].dtype.bytes > 2,
    ),
    # attention
    "scaled_dot_product_attention": Rule(_attention, "fb"),
    # pooling
    "max_pool": Rule(_spatial(_POOL + ")", "kernel"), "f", _takes_maximum),
    "max_pool_with_indices": Rule(_spatial(_POOL + ", return_indices=True)", "kernel"), "f", _takes_maximum),
    "avg_pool": Rule(_avg_pool, "f", _averages),
    "adaptive_avg_pool": Rule(_spatial("F.adaptive_avg_pool{n}d({x}, {size})", "size"), "f", _pools_to_size),
    "adaptive_max_pool": Rule(_spatial("F.adaptive_max_pool{n}d({x}, {size})", "size"), "f", _pools_to_size),
    "adaptive_max_pool_with_indices": Rule(
        _spatial("F.adaptive_max_pool{n}d({x}, {size}, return_indices=True)", "size"), "f", _pools_to_size
    ),
    # numbers of few bits
    "quantize": Rule(_quantize, "fi", lambda f, t: not grid_of(f["to"]).is_float and not f["precision"]),
    "dequantize": Rule(_dequantize, "fi", lambda f, t: t[0].dtype.is_int and t[1].dtype.name == "f32" and not f["to"]),
    # choosing by data
    "cond": Rule(_cond, "fibcu", _branches_known),
    # recurrent
    "lstm": Rule(_recurrent("lstm", 2), "f", _all_floats_alike),
    "gru": Rule(_recurrent("gru", 1), "f", _all_floats_alike),
    "rnn": Rule(_recurrent("rnn_{nonlinearity}", 1), "f", _all_floats_alike),
    # resizing
    "interpolate": Rule(_interpolate, "f", _resizes),
    "grid_sample": Rule(_grid_sample, "f", _all_floats_alike),
}


def is_known(value: Value) -> bool:
    """Whether torch has the composite of ``value`` for arguments of these types."""
    op = value.op
    assert isinstance(op, Composite)
    rule = COMPOSITES.get(op.name)
    types = [in_numbers(a.type) for a in value.args]
    if rule is None or any(_kind(t) == "" or _kind(t) not in rule.takes for t in types):
        return False
    return rule.when is None or rule.when(
        {**_missing(op), **{n: in_numbers(a) for n, a in op.attributes.items()}}, types
    )


def _missing(op: Composite) -> Fields:
    if op.definition.variadic:
        return {}
    return {n: True if g else None for n, g in zip(op.definition.tensors, op.given, strict=True)}


def composite_row(value: Value) -> Row:
    """The row of a composite that :func:`is_known`."""
    if is_reshape(value):
        return reshape  # it looks at what its argument is made of
    rule = COMPOSITES[value.op.name]

    def row(w: Writer, v: Value) -> str:
        op = v.op
        assert isinstance(op, Composite)
        texts = w.operands(v.args, rule.literals) if rule.literals is not None else [w.ref(a) for a in v.args]
        fields: Fields = dict(op.attributes)
        if op.definition.variadic:
            fields[op.definition.tensors[0]] = texts
        else:
            rest = iter(texts)
            for name, given in zip(op.definition.tensors, op.given, strict=True):
                fields[name] = next(rest) if given else "None"
        text = rule.write.format(**fields) if isinstance(rule.write, str) else rule.write(w, v, fields)
        unsaid = UNSAID.get(op.name, "")
        return f"{text.removesuffix(unsaid)})" if unsaid and text.endswith(unsaid) else text

    return row


#: Ends of calls that say what torch takes anyway.
UNSAID = {
    "leaky_relu": ", 0.01)",
    "elu": ", 1.0)",
    "celu": ", 1.0)",
    "gelu": ", approximate='none')",
    "hardtanh": ", -1.0, 1.0)",
    "softplus": ", 1.0, 20.0)",
    "addmm": ", beta=1.0, alpha=1.0)",
    "baddbmm": ", beta=1.0, alpha=1.0)",
    "group_norm": ", eps=1e-05)",
    "instance_norm": ", eps=1e-05)",
    "layer_norm": ", eps=1e-05)",
}
