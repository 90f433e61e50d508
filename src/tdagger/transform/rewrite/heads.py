"""What a pattern says at a glance: the labels of the ops at its root and below it, by which rules are looked up."""

from __future__ import annotations

from typing import Any, cast

from tdagger.composite import CompositeFunction
from tdagger.graph import label
from tdagger.op import Op, Value
from tdagger.ops.elementwise import BINARY, Where
from tdagger.transform.rewrite.pattern import Node, Pattern, Special

#: What the structural functions make: the last op of it.
GIVES: dict[str, tuple[str, ...]] = {
    "permute": ("permute",), "transpose": ("permute",), "group": ("group",), "ungroup": ("ungroup",),
    "squeeze": ("group", "ungroup"), "unsqueeze": ("group", "ungroup"), "slice_axis": ("slice",),
    "select": ("group", "ungroup"), "flip": ("slice",), "pad": ("pad", "slice"), "interleave": ("pad",),
    "stride": ("slice",), "repeat": ("repeat",), "broadcast_to": ("repeat", "group", "ungroup"),
    "reduce": ("reduce", "group", "ungroup"), "unfold": ("unfold",), "fold": ("fold",), "item": ("item",),
    "cast": ("cast",), "bitcast": ("bitcast",), "concat": ("concat",),
}  # fmt: skip
#: Under which every elementwise op is looked up.
ELEMENTWISE = "(elementwise)"


def is_number(x: Any) -> bool:
    """Whether something is a Python number, which stands for a constant."""
    return isinstance(x, bool | int | float | complex)


def labels(pattern: Any) -> frozenset[str] | None:
    """The labels of the ops that a pattern can match at its root; None for any."""
    if isinstance(pattern, Node):
        what = pattern.what
        if isinstance(what, str):
            return frozenset([what])
        if isinstance(what, Op):
            return frozenset([label(what)])
        if isinstance(what, CompositeFunction):
            return frozenset([cast(CompositeFunction[Any, Any], what).name])
        return frozenset(GIVES[what.__name__])
    if isinstance(pattern, Special):
        if pattern.kind in ("either", "only"):
            each = [labels(p) for p in pattern.parts]
            return None if None in each else frozenset[str]().union(*[e for e in each if e is not None])
        return frozenset([ELEMENTWISE]) if pattern.kind == "elementwise" else None
    return frozenset([label(pattern.op)]) if isinstance(pattern, Value) else None


#: The labels that each argument's op may have, None for any; one tuple for each order.
Arguments = tuple[tuple[frozenset[str] | None, ...], ...] | None


def argument_labels(pattern: Any) -> Arguments:
    """What the ops of the arguments may be where a pattern matches: None where that can't be told at a glance."""
    if not isinstance(pattern, Node) or not (isinstance(pattern.what, Op | str)):
        return None
    commutes = label(pattern.what) in BINARY if isinstance(pattern.what, Op) else pattern.what in BINARY
    found = tuple(
        [_seen(p, commutes or pattern.what == "where" or isinstance(pattern.what, Where)) for p in pattern.args]
    )
    name = pattern.what if isinstance(pattern.what, str) else label(pattern.what)
    return (found, found[::-1]) if name in BINARY and BINARY[name].commutes else (found,)


def _seen(pattern: Any, broadcasts: bool) -> frozenset[str] | None:
    if is_number(pattern) or (isinstance(pattern, Special) and pattern.kind == "number"):
        return frozenset(["const", "repeat", "group", "ungroup", "filled"])
    if isinstance(pattern, Node) and callable(pattern.what) and not isinstance(pattern.what, Op | CompositeFunction):
        return None  # a function that may give its argument
    found = labels(pattern) if isinstance(pattern, Pattern | Value) else None
    if found is None or ELEMENTWISE in found:
        return None
    return found | {"repeat", "group", "ungroup"} if broadcasts else found


def any_argument(wanted: Arguments, found: tuple[str, ...]) -> bool:
    """Whether arguments with these labels may match."""
    if wanted is None:
        return True
    return any(
        len(each) == len(found) and all(w is None or f in w for w, f in zip(each, found, strict=True))
        for each in wanted
    )
