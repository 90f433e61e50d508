"""How each core op is written in torch: one row each. A row gives the expression for a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tdagger.errors import AxisError
from tdagger.frameworks.torch.emit.codegen import Row, Writer, number, unbroadcast
from tdagger.frameworks.torch.emit.parts import all_parts, is_part, part
from tdagger.frameworks.torch.emit.sizes import UnboundError
from tdagger.frameworks.torch.runtime import DTYPES
from tdagger.names import is_attribute, is_dotted, literal
from tdagger.op import Value
from tdagger.ops.elementwise import Binary, Unary
from tdagger.ops.external import External, Slot
from tdagger.ops.indexing import Gather, Scan
from tdagger.ops.source import Const
from tdagger.ops.structure import Group, Permute, Reduce, Slice, Ungroup
from tdagger.types import MARK, DType, Size, Sized


def dtype_name(dtype: DType) -> str:
    """``torch.float32`` for f32 ..."""
    return str(DTYPES[dtype.name])


def listed(numbers: Any) -> str:
    """Numbers as call arguments: ``2, 3``; ``()`` for none."""
    return ", ".join(map(str, numbers)) or "()"


# --- elementwise -------------------------------------------------------------------------------------------

#: Unary functions that torch calls otherwise than tdagger.
_UNARY = {
    "neg": "-{x}", "not": "~{x}", "conj": "torch.conj_physical({x})",
}  # fmt: skip


def _unary(w: Writer, v: Value) -> str:
    op: Any = v.op
    x = w.ref(v.args[0])
    if op.kind == "sign" and v.dtype.is_complex:
        return f"torch.sgn({x})"
    return _UNARY.get(op.kind, f"torch.{op.kind}({{x}})").format(x=x)


#: Binary functions: how they are written, and which arguments may be Python numbers.
_BINARY: dict[str, tuple[str, str]] = {
    "add": ("{0} + {1}", "11"),
    "multiply": ("{0} * {1}", "11"),
    "pow": ("{0} ** {1}", "01"),
    "max": ("torch.maximum({0}, {1})", ""),
    "min": ("torch.minimum({0}, {1})", ""),
    "mod": ("{0} % {1}", "01"),
    "rem": ("torch.fmod({0}, {1})", "01"),
    "floor_divide": ("{0} // {1}", "01"),
    "atan2": ("torch.atan2({0}, {1})", ""),
    "complex": ("torch.complex({0}, {1})", ""),
    "nextafter": ("torch.nextafter({0}, {1})", ""),
    "equal": ("{0} == {1}", "01"),
    "not_equal": ("{0} != {1}", "01"),
    "less": ("{0} < {1}", "01"),
    "less_equal": ("{0} <= {1}", "01"),
    "greater": ("{0} > {1}", "01"),
    "greater_equal": ("{0} >= {1}", "01"),
    "bitwise_and": ("{0} & {1}", "01"),
    "bitwise_or": ("{0} | {1}", "01"),
    "bitwise_xor": ("{0} ^ {1}", "01"),
    "shift_left": ("{0} << {1}", "01"),
    "shift_right": ("{0} >> {1}", "01"),
}


def _binary(w: Writer, v: Value) -> str:
    kind = v.op.attributes["kind"]
    template, literals = _BINARY[kind]
    if kind == "shift_right" and v.dtype.name == "u64":
        template = "runtime.shift_right({0}, {1})"
    if kind == "floor_divide" and v.dtype.is_float:
        template = 'torch.div({0}, {1}, rounding_mode="floor")'  # floor_divide, which // calls, has no derivative
    if kind == "pow" and not v.dtype.is_float and not v.dtype.is_complex:
        literals = ""  # torch takes no negative number as the exponent of integers, but takes a tensor
    return template.format(*w.operands(v.args, literals))


def _where(w: Writer, v: Value) -> str:
    literals = "010" if all(isinstance(unbroadcast(a).op, Const) for a in v.args[1:]) else "011"
    return "torch.where({}, {}, {})".format(*w.operands(v.args, literals))  # of two numbers torch picks the type


#: What torch computes in float32 if one of two tensors of half precision is a number.
_BY_NUMBER = {
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "floor_divide": 'torch.div({0}, {1}, rounding_mode="floor")',
    "trunc_divide": 'torch.div({0}, {1}, rounding_mode="trunc")',
}


def _kind(v: Value) -> str:
    return v.op.attributes["kind"] if isinstance(v.op, Binary) else v.op.name


def _half(v: Value, to: DType) -> Value | None:
    """The value of half precision that was cast to float32; None if it is another."""
    wide = v.op.name == "cast" and v.dtype.name == "f32" and v.args[0].dtype is to
    return v.args[0] if wide and to.bytes == 2 else None


def _by_number(w: Writer, v: Value) -> str | None:
    """Half precision and a number, which torch takes to float32 and rounds once: as it is written for torch."""
    to, out = v.dtype, v.args[0]
    if len(out.args) != 2 or not w.is_used_once(out):
        return None
    x, y = out.args
    half = _half(x, to)
    if half is not None and _kind(out) in _BY_NUMBER and isinstance(unbroadcast(y).op, Const):
        tensor, factor = w.operands([half, y], "01")
        return _BY_NUMBER[_kind(out)].format(tensor, factor)
    if half is None or _kind(out) not in ("add", "subtract") or _kind(y) != "multiply" or not w.is_used_once(y):
        return None
    other, factor = _half(y.args[0], to), unbroadcast(y.args[1])
    if other is None or not isinstance(factor.op, Const) or factor.type.size != 1:
        return None
    name = {"add": "add", "subtract": "sub"}[_kind(out)]
    a, b = w.operands([half, other])
    return f"torch.{name}({a}, {b}, alpha={number(factor.op.data.reshape(-1)[0], factor.dtype)})"


def _cast(w: Writer, v: Value) -> str:
    x, to = v.args[0], v.dtype
    by_number = _by_number(w, v)
    if by_number is not None:
        return by_number
    real = ".real" if x.dtype.is_complex and not to.is_complex and to.name != "bool" else ""
    return f"{w.ref(x)}{real}.to({dtype_name(to)})"


def _bitcast(w: Writer, v: Value) -> str:
    return f"{w.ref(v.args[0])}.view({dtype_name(v.dtype)})"


# --- structure ---------------------------------------------------------------------------------------------


def _permute(w: Writer, v: Value) -> str:
    op, x = v.op, v.args[0]
    along = _along(w, v)
    if along is not None:
        return along
    return f"{w.ref(x)}.permute({listed(op.attributes['order'])})"


def _along(w: Writer, v: Value) -> str | None:
    """``torch.gather`` for ``v = permute(gather(permute(x), permute(index)))``, None if it isn't that."""
    g = v.args[0]
    order: tuple[int, ...] = v.op.attributes["order"]
    if not (isinstance(g.op, Gather) and g.op.axis == g.op.batch == len(order) - 1 and w.is_used_once(g)):
        return None
    x, index = g.args
    if not (isinstance(x.op, Permute) and isinstance(index.op, Permute) and x.op is index.op):
        return None
    if [x.op.order[i] for i in order] != list(range(len(order))):
        return None
    return f"torch.gather({w.ref(x.args[0])}, {x.op.order[-1]}, {_long(w, index.args[0])})"


def _long(w: Writer, index: Value) -> str:
    return w.ref(index) + ("" if index.dtype.name == "i64" else ".long()")


def reshape(w: Writer, v: Value) -> str:
    """A chain of group, ungroup and reshape as one reshape, or as an option of what it starts from."""
    base = w.reshaped(v)
    shape = v.type.shape
    if base.type is v.type:
        return w.ref(base)
    if w.is_private(v, base):  # a reduction or slice that drops its axes right away
        if isinstance(base.op, Reduce) and shape == _dropped(base, base.op.axes):
            return reduction(w, base, keep=False)
        if isinstance(base.op, Slice):
            ones = [i for i, b in enumerate(base.op.bounds) if b is not None and base.type.shape[i] == 1]
            if ones and shape == _dropped(base, ones):
                return _sliced(w, base, set(ones))
    if isinstance(v.op, Group) and base is v.args[0] and (squeezed := _squeezed(v.op)):
        return f"{w.ref(base)}.squeeze({listed(squeezed) if len(squeezed) == 1 else tuple(squeezed)})"
    left_open = [i for i, n in enumerate(_factors(v)) if isinstance(n, Sized)]
    if isinstance(v.op, Ungroup) and len(left_open) == 1 and base is v.args[0] and (split := _split(v.op, shape)):
        return f"{w.ref(base)}.unflatten({split[0]}, ({listed(split[1])}))"
    if len(left_open) == 1:
        shape = tuple(-1 if i == left_open[0] else n for i, n in enumerate(shape))
    return f"{w.ref(base)}.reshape({listed(shape)})"


def _split(op: Ungroup, shape: Sequence[int]) -> tuple[int, list[int]] | None:
    """The one axis that is divided, and into what, beside open ones: where these have no entries, -1 says nothing."""
    split = [i for i, sizes in enumerate(op.sizes) if len(sizes) > 1]
    if len(split) != 1:
        return None
    sizes = shape[split[0] : split[0] + len(op.sizes[split[0]])]
    if any(isinstance(n, Size) for n in sizes) or not any(isinstance(n, Size) for n in shape):
        return None
    return split[0], [-1 if isinstance(n, Sized) else n for n in op.sizes[split[0]]]


def _squeezed(op: Group) -> list[int]:
    """The axes that a group drops by torch's squeeze."""
    found: list[int] = []
    at = 0
    for count in op.counts:
        mask = count.parts[1] if isinstance(count, Sized) and count.parts else 0
        found += [at + i for i in range(count) if mask >> i & 1]
        at += count
    return found


def _factors(v: Value) -> list[int]:
    return [n for sizes in v.op.sizes for n in sizes] if isinstance(v.op, Ungroup) and v.type.size else []


def _dropped(v: Value, axes: Any) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(v.type.shape) if i not in axes)


def _slice(w: Writer, v: Value) -> str:
    return _sliced(w, v, set())


def _sliced(w: Writer, v: Value, selected: set[int]) -> str:
    """``x[:, 0:3, 1]``; axes in ``selected`` have one entry and are dropped. torch has no negative steps.

    A tensor takes no stand-in of torch.fx for a size between brackets, but one in ``narrow``.
    """
    bounds: Any = v.op.attributes["bounds"]
    parts: list[str] = []
    narrow = ""
    flipped: list[int] = []
    for axis, b in enumerate(bounds):
        entries = range(0) if b is None else range(*b)
        size = v.args[0].type.shape[axis]
        if b is None:
            parts.append(":")
        elif is_part(b) and axis not in selected and len(bounds) - bounds.count(None) == 1:
            return f"{all_parts(w.ref(v.args[0]), axis, b[0])}[{part(b[0])}]"
        elif Size in (size.__class__, b[0].__class__, b[1].__class__):
            own, is_flipped = _open_slice(v, b, size, axis in selected)
            if MARK.search(own) and axis not in selected and b[2] == 1 and v.args[0] in w.held:
                low, high = (n.at(size) if isinstance(n, Sized) else n for n in b[:2])
                narrow += f".narrow({axis}, {low}, {high - low})"
                own = ":"
            parts.append(own)
            flipped += [axis - sum(s < axis for s in selected)] if is_flipped else []
        elif axis in selected:
            parts.append(str(_entry(b[0], size, entries[0])))
        elif not entries:
            parts.append("0:0")
        else:
            if b[2] < 0 and (len(entries) > 1 or isinstance(b[0], Sized)):
                flipped.append(axis - sum(s < axis for s in selected))
            low, high = min(entries[0], entries[-1]), max(entries[0], entries[-1])
            step = abs(b[2]) if len(entries) > 1 or isinstance(b[1], Sized) else 1
            start = (b[2] > 0 and _from_end(b[0])) or low or ""
            stop = (b[2] > 0 and _from_end(b[1])) or ("" if high + step >= size else str(high + 1))
            parts.append(f"{start}:{stop}" + (f":{step}" if step != 1 else ""))
    while parts and parts[-1] == ":":
        parts.pop()
    x = w.ref(v.args[0]) + narrow
    text = f"{x}[{', '.join(parts)}]" if parts else x
    return f"{text}.flip({listed(flipped)})" if flipped else text


def _open_slice(v: Value, bounds: Any, size: int, selected: bool) -> tuple[str, bool]:
    """Bounds of an axis whose size isn't a number, as between brackets, and whether it is flipped after that."""
    start, stop, step = bounds
    low, high = (b.at(size) if isinstance(b, Sized) else b for b in (start, stop))
    if selected:
        return str(_entry(start, size, low)), False
    if step < -1:
        raise AxisError(f"{v!r} takes every {-step}th entry from the end of an axis of {size}")
    if step == -1:
        first, last = high + 1, low + 1
        return f"{'' if first == 0 else first}:{'' if last == size else last}", True
    first, last = (_from_end(b) or n for b, n in ((start, low), (stop, high)))
    by = f":{step}" if step != 1 else ""
    return f"{'' if first == 0 else first}:{'' if last == size else last}{by}", False


def _entry(start: int, size: int, first: int) -> int:
    """The one entry from a bound on: counted from the end if there are so many, as a slice takes what there is."""
    end = _from_end(start)
    return first if end is None or -end > size else end


def _from_end(bound: int) -> int | None:
    """The negative number of a bound that counts from the end; None for others, and for the end itself."""
    if not isinstance(bound, Sized) or (bound.offsets, bound.divisor) != ((0,), 1):
        return None
    return bound.plus or None


def _pad(w: Writer, v: Value) -> str:
    op: Any = v.op
    x = w.ref(v.args[0])
    value = number(np.asarray(op.value, v.dtype.numpy)[()], v.dtype)
    widths = [p or (0, 0, 0) for p in op.widths]
    while widths and widths[0] == (0, 0, 0):
        widths.pop(0)
    if not widths:
        return x
    if any(p[2] for p in widths) or 0 in v.args[0].type.shape or v.dtype.is_complex:
        full = ((0, 0, 0),) * (v.rank - len(widths)) + tuple(widths)
        return f"runtime.pad({x}, {full}, {value})"
    flat = tuple(n for p in reversed(widths) for n in p[:2])
    return f"F.pad({x}, {flat}" + (")" if value in ("0", "0.0", "False") else f", value={value})")


def _concat(w: Writer, v: Value) -> str:
    return f"torch.cat([{', '.join(map(w.ref, v.args))}], {v.op.attributes['axis']})"


def _repeat(w: Writer, v: Value) -> str:
    base, sizes = unbroadcast(v), listed(v.type.shape)
    # a tensor takes no stand-in of torch.fx for its first size unless all are in brackets
    if isinstance(v.type.shape[0], Size) and base in w.held:
        return f"{w.ref(base)}.expand(({sizes}{',' if v.rank == 1 else ''}))"
    return f"{w.ref(base)}.expand({sizes})"


_REDUCTIONS = {"sum": "sum", "max": "amax", "min": "amin", "any": "any", "all": "all"}


def _reduce(w: Writer, v: Value) -> str:
    return reduction(w, v, keep=True)


def reduction(w: Writer, v: Value, keep: bool) -> str:
    """A reduction that keeps or drops its axes."""
    op: Any = v.op
    x, kind, axes = v.args[0], op.kind, op.axes
    if not axes:
        return w.ref(x)
    kept = ", keepdim=True" if keep else ""
    dtype = "" if x.dtype.is_float or x.dtype.is_complex else f", dtype={dtype_name(x.dtype)}"
    if w.reading is not None:
        dtype = ""
    if kind == "prod":
        rest = [i for i in range(x.rank) if i not in axes]
        text = f"{w.ref(x)}.permute({listed([*rest, *axes])}).flatten({len(rest)})"
        text = f"{text}.prod(-1{dtype})"
        return f"{text}.reshape({listed(v.type.shape)})" if keep else text
    if kind in ("max", "min") and 0 in (x.type.shape[a] for a in axes):
        shape = v.type.shape if keep else _dropped(v, axes)
        empty = number(Reduce(kind, (0,)).run(np.empty(0, x.dtype.numpy))[0], x.dtype)
        return f"torch.full({shape}, {empty}, dtype={dtype_name(v.dtype)}, device={w.ref(x)}.device)"
    dtype = dtype if kind == "sum" else ""
    named = str(axes[0]) if len(axes) == 1 else str(axes)
    return f"{w.ref(x)}.{_REDUCTIONS[kind]}({named}{kept}{dtype})"


def _windows(name: str) -> Row:
    def row(w: Writer, v: Value) -> str:
        op: Any = v.op
        return f"runtime.{name}({w.ref(v.args[0])}, {op.axis}, {op.kernel}, {op.stride}, {op.dilation})"

    return row


# --- indexing and sources ----------------------------------------------------------------------------------


def _gather(w: Writer, v: Value) -> str:
    op: Any = v.op
    x, index = v.args
    if op.batch == 0:
        counted = _from_the_end(index, x.shape[op.axis])
        if counted is not None and counted.rank:  # an index of torch is checked, and counts from the end
            return f"{w.ref(x)}[{':, ' * op.axis}{_long(w, counted)}]"
        if op.axis == 0 and x.rank == 2 and x.dtype.is_float and index.dtype.name in ("i32", "i64"):
            return f"F.embedding({w.ref(index)}, {w.ref(x)})"
        if index.rank == 0 and w.captured:
            return f"{w.ref(x)}.index_select({op.axis}, {_long(w, index)}.reshape(1)).squeeze({op.axis})"
        if index.rank == 1 and x.dtype.name not in ("u16", "u32", "u64"):
            return f"{w.ref(x)}.index_select({op.axis}, {_long(w, index)})"
        return f"{w.ref(x)}[{':, ' * op.axis}{_long(w, index)}]"
    if op.axis == op.batch == x.rank - 1 == index.rank - 1:
        return f"torch.gather({w.ref(x)}, {op.axis}, {_long(w, index)})"
    return f"runtime.gather({w.ref(x)}, {w.ref(index)}, {op.axis}, {op.batch})"


_ALONG = {"set": "scatter", "add": "scatter_add"}


def _from_the_end(index: Value, n: int) -> Value | None:
    """The indices into ``n`` entries that were made to count from the end where they are negative; None of others."""
    if index.op.name != "linear_index" or index.op.attributes["signed"] != (True,):
        return None
    x, given = index.args
    return given if x.shape[index.op.attributes["axis"]] == n else None


def _scatter(w: Writer, v: Value) -> str:
    op: Any = v.op
    x, index, updates = v.args
    if op.kind in _ALONG and op.axis == op.batch == x.rank - 1 == index.rank - 1:
        return f"{w.ref(x)}.{_ALONG[op.kind]}({op.axis}, {_long(w, index)}, {w.ref(updates)})"
    if op.kind == "add" and op.batch == 0 and index.rank == 1:
        return f"{w.ref(x)}.index_add({op.axis}, {_long(w, index)}, {w.ref(updates)})"
    args = ", ".join(map(w.ref, v.args))
    return f"runtime.scatter({args}, {op.axis}, {op.batch}, {op.kind!r})"


def _argsort(w: Writer, v: Value) -> str:
    op: Any = v.op
    return f"torch.argsort({w.ref(v.args[0])}, dim={op.axis}, descending={op.descending}, stable=True)"


_SCANS = {"sum": "cumsum({axis}{dtype})", "prod": "cumprod({axis}{dtype})", "max": "cummax({axis}).values",
          "min": "cummin({axis}).values"}  # fmt: skip


def _scan(w: Writer, v: Value) -> str:
    op = v.op
    assert isinstance(op, Scan)
    wide = v.dtype.is_float or v.dtype.is_complex or w.reading is not None
    dtype = "" if wide else f", dtype={dtype_name(v.dtype)}"
    flip = f".flip({op.axis})" if op.reverse else ""
    return f"{w.ref(v.args[0])}{flip}.{_SCANS[op.kind].format(axis=op.axis, dtype=dtype)}{flip}"


def _iota(w: Writer, v: Value) -> str:
    """Numbers from 0 on, as many as a size says: the others are constants."""
    like = next(iter(w.graph.inputs.values()), None)
    if like is None:
        size: Any = v.type.shape[0]
        raise UnboundError(size.formula)
    return f"torch.arange({v.type.shape[0]}, dtype={dtype_name(v.dtype)}, device={w.ref(like)}.device)"


def _random(w: Writer, v: Value) -> str:
    return f"runtime.random_bits({w.ref(v.args[0])}, {v.type.shape})"


# --- external ----------------------------------------------------------------------------------------------


def _external(w: Writer, v: Value) -> str:
    op = v.op
    assert isinstance(op, External)

    def shown(a: Any) -> str:
        if isinstance(a, Slot):
            return w.ref(v.args[a.index])
        if isinstance(a, tuple):
            return f"[{', '.join(map(shown, a))}]"
        if isinstance(a, DType):
            return dtype_name(a)
        if type(a).__module__ == "torch":  # a device, a layout, a format
            return f"torch.{a!r}" if type(a).__name__ == "device" else repr(a)
        return literal(a)

    args = [*map(shown, op.arguments), *(f"{k}={shown(a)}" for k, a in op.keywords)]
    return f"torch.ops.{_target(op)}({', '.join(args)})"


def _target(op: External) -> str:
    return op.target.replace("::", ".")


def by_numpy(w: Writer, v: Value) -> str:
    """An op without a row: its numpy reference, without a derivative."""
    return f"runtime.by_numpy({w.named(v.op)}, {', '.join(map(w.ref, v.args))})"


#: Every core op but the leaves and items, which are names.
CORE: dict[str, Row] = {
    "permute": _permute, "group": reshape, "ungroup": reshape, "slice": _slice, "pad": _pad, "concat": _concat,
    "repeat": _repeat, "reduce": _reduce, "unfold": _windows("unfold"), "fold": _windows("fold"),
    "unary": _unary, "binary": _binary, "where": _where, "cast": _cast, "bitcast": _bitcast,
    "iota": _iota, "gather": _gather, "scatter": _scatter, "argsort": _argsort, "scan": _scan, "random": _random,
    "external": _external,
}  # fmt: skip


# --- element types torch stores but hardly computes with ---------------------------------------------------

#: What torch does with unsigned and 8-bit float tensors as they are.
_NATIVE = {
    "permute", "group", "ungroup", "concat", "repeat", "cast", "bitcast", "random", "external", "where", "pad",
    "bitwise_and", "bitwise_or", "bitwise_xor",
}  # fmt: skip
#: What is right for u64 when computed in int64.
_SIGNED_ALIKE = {
    "add", "multiply", "neg", "not", "equal", "not_equal", "shift_left", "shift_right", "sum", "prod", "slice",
    "unfold", "fold", "gather", "scatter.set", "scatter.add", "scatter.multiply", "scan.sum", "scan.prod",
    "isnan", "isinf", "isfinite",
}  # fmt: skip
#: What compares u64: right in int64 with the highest bit turned, which keeps the order.
_ORDERED = {"less", "less_equal", "greater", "greater_equal", "max", "min", "argsort"}
_STORED = {"u16": "i64", "u32": "i64", "u64": "i64", "f8e4m3": "f32", "f8e5m2": "f32"}


def _label(v: Value) -> str:
    kind = v.op.attributes.get("kind")
    if isinstance(v.op, Unary | Binary | Reduce):
        return str(kind)
    return v.op.name if kind is None else f"{v.op.name}.{kind}"


def stored_only(v: Value) -> DType | None:
    """The element type among those of ``v`` and its arguments that torch can store but not compute with."""
    types: Any = [v.type, *(a.type for a in v.args)]
    found = [t.dtype for t in types if not isinstance(t, tuple) and t.dtype.name in _STORED]
    return found[0] if found and _label(v) not in _NATIVE else None


def cannot(v: Value) -> str | None:
    """Why torch can't compute a value of a core op, None if it can."""
    op = v.op
    if isinstance(op, External) and op.framework != "torch":
        return f"{op} is an op of {op.framework}"
    if isinstance(op, External) and not (is_dotted(_target(op)) and all(is_attribute(k) for k, _ in op.keywords)):
        return f"{op} can't be the name of an op of torch"
    dtype = stored_only(v)
    if dtype is not None and dtype.name == "u64" and _label(v) not in _SIGNED_ALIKE and not _is_ordered(v):
        return f"{op} of u64"
    return None


def _is_ordered(v: Value) -> bool:
    """Whether it compares u64, of which there are some."""
    return _label(v) in _ORDERED and 0 not in v.args[0].shape


def _compared(w: Writer, v: Value) -> str:
    """A comparison of u64 in int64."""
    op: Any = v.op
    turned = "^ (-9223372036854775807 - 1)"
    w.reading = lambda a, text: f"({text}.view(torch.int64) {turned})" if a.dtype.name == "u64" else text
    try:
        binary = isinstance(op, Binary)
        text = _BINARY[op.kind][0].format(*w.operands(v.args)) if binary else CORE[op.name](w, v)
    finally:
        w.reading = None
    return f"({text} {turned}).view(torch.uint64)" if v.dtype.name == "u64" else text


def widened(row: Callable[[Writer, Value], str], dtype: DType) -> Row:
    """A row that computes in a wider type where torch only stores ``dtype``."""
    as_bits = dtype.name == "u64"
    to = "torch.int64" if as_bits else dtype_name(DType.of(_STORED[dtype.name]))
    how = "view" if as_bits else "to"

    def wide(w: Writer, v: Value) -> str:
        w.reading = lambda a, text: f"{text}.{how}({to})" if a.dtype is dtype else text
        try:
            text = row(w, v)
        finally:
            w.reading = None
        return f"({text}).{how}({dtype_name(dtype)})" if v.type.dtype is dtype else text

    return wide


def core_row(v: Value) -> Row:
    """The row of a core op on arguments of these types; what has none is computed by its numpy reference."""
    row = CORE.get(v.op.name, by_numpy)
    dtype = stored_only(v)
    if dtype is not None and dtype.name == "u64" and _is_ordered(v):
        return _compared
    return row if dtype is None else widened(row, dtype)
