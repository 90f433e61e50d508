"""One op applied to named arguments, written as a person would: infix, einops patterns, Python slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.names import shown
from tdagger.op import Op, Value
from tdagger.ops.source import Const
from tdagger.types import DType, Sized

#: Functions of two values that have an operator sign.
INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "pow": "**", "floor_divide": "//",
    "mod": "%", "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=",
    "greater": ">", "greater_equal": ">=",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "shift_left": "<<", "shift_right": ">>",
}  # fmt: skip

#: Attributes of core ops that are left out when they have this value.
DEFAULTS: dict[tuple[str, str], Any] = {
    ("gather", "batch"): 0,
    ("scatter", "batch"): 0,
    ("unfold", "stride"): 1,
    ("unfold", "dilation"): 1,
    ("fold", "stride"): 1,
    ("fold", "dilation"): 1,
    ("argsort", "descending"): False,
    ("scan", "reverse"): False,
}


def expression(value: Value, args: Sequence[str]) -> str:
    """``value`` written with the names of its arguments.

    >>> import tdagger as td
    >>> x = td.input("x", (2, 3, 4))
    >>> expression(td.permute(x, (2, 0, 1)), ["x"]), expression(td.slice_axis(x, 1, 0, 2), ["x"])
    ('permute(x, a b c -> c a b)', 'x[:, :2]')
    """
    op = value.op
    function = op.attributes["kind"] if op.name in ("unary", "binary") else op.name
    if len(args) == 2 and function in INFIX:
        return f"{args[0]} {INFIX[function]} {args[1]}"
    if function == "neg":
        return f"-{args[0]}"
    own = _WRITERS.get(op.name)
    if own is not None:
        return own(value, args)
    if isinstance(op, Composite):
        named = _optional(op, args)
        written = [f"{k}={v}" for k, v in attributes(op).items()]
        return f"{op.name}({', '.join([*named, *written])})"
    if op.name in ("unary", "binary", "where"):
        return f"{function}({', '.join(args)})"
    written = [f"{k}={v}" for k, v in attributes(op).items()]
    return f"{op.name}({', '.join([*args, *written])})"


def attributes(op: Op) -> dict[str, str]:
    """The attributes of an op that aren't the default, as text; numbers that are the same for all axes once."""
    if not isinstance(op, Composite):
        return {k: attribute(v) for k, v in op.attributes.items() if DEFAULTS.get((op.name, k)) is not v}
    pairs = [(k, _per_axis(k, v)) for k, v in op.attributes.items() if op.definition.is_shown(k, v)]
    return {k: attribute(v) for k, v in pairs if (k, v) not in _NEUTRAL}


#: Attributes with one number per spatial axis: shown as one number if all are the same.
_PER_AXIS = ("kernel", "stride", "padding", "dilation", "output_padding")

#: Those that change nothing with this number, and are left out then.
_NEUTRAL = (("padding", 0), ("dilation", 1), ("output_padding", 0))


def _per_axis(name: str, value: Any) -> Any:
    if name not in _PER_AXIS or not isinstance(value, tuple):
        return value
    items = cast(tuple[Any, ...], value)
    numbers: set[Any] = set()
    for item in items:
        numbers.update(cast(tuple[Any, ...], item) if isinstance(item, tuple) else (item,))
    return numbers.pop() if len(numbers) == 1 else items


def _optional(op: Composite, args: Sequence[str]) -> list[str]:
    """Arguments of a composite; those after a tensor that wasn't given are named."""
    if op.definition.variadic or False not in op.given[: len(args)]:
        return list(args)
    names = op.definition.argument_names(op.given, len(args))
    plain = op.given.index(False)
    return [a if i < plain else f"{n}={a}" for i, (n, a) in enumerate(zip(names, args, strict=True))]


def attribute(value: Any) -> str:
    """An attribute as text: numbers short, names without quotes, nested tuples as they are."""
    if isinstance(value, float):
        text = f"{value:.6g}"
        return f"{text}.0" if text.lstrip("-").isdigit() else text
    if isinstance(value, tuple):
        items = [attribute(v) for v in cast(tuple[Any, ...], value)]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    return shown(value) if isinstance(value, str | DType) else repr(value)


def constant(op: Const) -> str:
    """A constant's data, in one line: a number, or its first and last entries."""
    data = op.data
    if data.size == 1:
        return attribute(data.reshape(()).astype(np.float32 if data.dtype.kind == "V" else data.dtype).item())
    flat = data.reshape(-1)
    if data.size > 0 and (flat == flat[0]).all():
        return f"const(all {attribute(flat[0].item())})"
    entries = [attribute(v.item()) for v in (flat if data.size <= 8 else [*flat[:4], flat[-1]])]
    if data.size > 8:
        entries.insert(4, "...")
    return f"const([{' '.join(entries)}])"


def letters(rank: int) -> list[str]:
    """Names for axes: a b c ..."""
    return [chr(ord("a") + i) if i < 26 else f"a{i}" for i in range(rank)]


def _permute(value: Value, args: Sequence[str]) -> str:
    names = letters(value.rank)
    order: tuple[int, ...] = value.op.attributes["order"]
    return f"permute({args[0]}, {' '.join(names)} -> {' '.join(names[i] for i in order)})"


def _together(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"({' '.join(names)})" if names else "1"


def _named(groups: Sequence[Sequence[int]]) -> tuple[str, str, list[str]]:
    """Axes written apart and together, and the sizes of the letters; a size 1 beside others is a plain 1."""
    names = iter(letters(sum(len(g) for g in groups)))
    apart: list[str] = []
    together: list[str] = []
    sizes: list[str] = []
    for group in groups:
        real = [n != 1 or (i == 0 and all(n == 1 for n in group)) for i, n in enumerate(group)]
        own = [next(names) if r else "1" for r in real]
        apart += own
        kept = [name for name, r in zip(own, real, strict=True) if r]
        together.append(_together(kept))
        sizes += [f"{name}={n}" for name, n in zip(own, group, strict=True) if name != "1"] if len(kept) > 1 else []
    return " ".join(apart), " ".join(together), sizes


def _group(value: Value, args: Sequence[str]) -> str:
    shape, at, groups = value.args[0].shape, 0, list[tuple[int, ...]]()
    for count in value.op.attributes["counts"]:
        groups.append(shape[at : at + count])
        at += count
    apart, together, _ = _named(groups)
    return f"group({args[0]}, {apart} -> {together})"


def _ungroup(value: Value, args: Sequence[str]) -> str:
    apart, together, sizes = _named(value.op.attributes["sizes"])
    return f"ungroup({', '.join([args[0], f'{together} -> {apart}', *sizes[:-1]])})"


def _bounds(bounds: tuple[int, int, int] | None, size: int) -> str:
    if bounds is None:
        return ":"
    start, stop, step = bounds
    if step > 0:
        start, stop = (b - size if isinstance(b, Sized) and b.plus < 0 and b < size else b for b in (start, stop))
        first, last = "" if start == 0 else str(start), "" if stop >= size else str(stop)
    else:
        first, last = "" if start == size - 1 else str(start), "" if stop < 0 else str(stop)
    return f"{first}:{last}" + (f":{step}" if step != 1 else "")


def _slice(value: Value, args: Sequence[str]) -> str:
    written = [_bounds(b, n) for b, n in zip(value.op.attributes["bounds"], value.args[0].shape, strict=True)]
    while len(written) > 1 and written[-1] == ":":
        written.pop()
    return f"{args[0]}[{', '.join(written)}]"


def _pad(value: Value, args: Sequence[str]) -> str:
    fill = value.op.attributes["value"]
    widths = [
        f"{letter}=({', '.join(map(str, w if w[2] else w[:2]))})"
        for letter, w in zip(letters(value.rank), value.op.attributes["widths"], strict=True)
        if w is not None
    ]
    written = [args[0], *widths, *([f"value={attribute(fill)}"] if fill != 0 or fill != fill else [])]
    return f"pad({', '.join(written)})"


def _repeat(value: Value, args: Sequence[str]) -> str:
    sizes = value.op.attributes["sizes"]
    names = iter(letters(value.rank))
    old = ["1" if n is not None else next(names) for n in sizes]
    new = [name if n is None else str(n) for n, name in zip(sizes, old, strict=True)]
    return f"repeat({args[0]}, {' '.join(old)} -> {' '.join(new)})"


def _reduce(value: Value, args: Sequence[str]) -> str:
    names = letters(value.rank)
    axes: tuple[int, ...] = value.op.attributes["axes"]
    over = " ".join(names[i] for i in axes)
    return f"{value.op.attributes['kind']}({args[0]}, over {over} of {' '.join(names)})"


def _concat(value: Value, args: Sequence[str]) -> str:
    return f"concat({', '.join(args)}, axis={value.op.attributes['axis']})"


def _const(value: Value, args: Sequence[str]) -> str:
    return constant(cast(Const, value.op))


def _iota(value: Value, args: Sequence[str]) -> str:
    return f"iota({value.op.attributes['size']})"


def _cast(value: Value, args: Sequence[str]) -> str:
    return f"{value.op.name}({args[0]}, {value.op.attributes['dtype']})"


def _random(value: Value, args: Sequence[str]) -> str:
    return f"random(seed={args[0]})"


def _scan(value: Value, args: Sequence[str]) -> str:
    a = value.op.attributes
    return f"scan({args[0]}, {a['kind']}, axis={a['axis']}{', reverse=True' if a['reverse'] else ''})"


def _external(value: Value, args: Sequence[str]) -> str:
    a = value.op.attributes
    return f"external({', '.join([shown(a['framework'] + ':' + a['target']), *args])})"


def _leaf(value: Value, args: Sequence[str]) -> str:
    return str(value.op)


def _item(value: Value, args: Sequence[str]) -> str:
    return f"{args[0]}.{value.op.attributes['index']}"


_WRITERS: dict[str, Callable[[Value, Sequence[str]], str]] = {
    "permute": _permute, "group": _group, "ungroup": _ungroup, "slice": _slice, "pad": _pad,
    "repeat": _repeat, "reduce": _reduce, "concat": _concat, "const": _const, "iota": _iota, "cast": _cast,
    "bitcast": _cast, "random": _random, "scan": _scan, "external": _external, "input": _leaf,
    "parameter": _leaf, "buffer": _leaf, "item": _item,
    "block": lambda value, args: f"{shown(value.op.attributes['title'])}({', '.join(args)})",
}  # fmt: skip
