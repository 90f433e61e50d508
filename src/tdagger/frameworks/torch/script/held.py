"""Which attributes of a script hold the lists, dicts and tensors that its nodes change, read from its graph."""

from __future__ import annotations

from typing import Any

#: What changes the list or dict that it is given first.
_CHANGES = frozenset(
    f"aten::{n}" for n in (
        "_set_item", "append", "insert", "pop", "extend", "reverse", "clear", "Delete", "remove", "sort", "update",
        "popitem", "setdefault",
    )
)  # fmt: skip
#: What gives what it is given first, or a part of it.
_THROUGH = frozenset({
    "aten::__getitem__", "aten::get", "aten::values", "aten::_unwrap_optional", "prim::unchecked_unwrap_optional",
    "prim::unchecked_cast", "prim::TupleIndex", "prim::TupleUnpack", "prim::ListUnpack",
})  # fmt: skip


def changed_by(node: Any) -> set[str]:
    """The names of the attributes that hold what a node changes in place; none if they hold nothing that it does."""
    kind: str = node.kind()
    in_place = kind.startswith("aten::") and kind.endswith("_") and not kind.endswith("__")
    if kind not in _CHANGES and not in_place:
        return set()
    return _holders(next(node.inputs()))


def _holders(value: Any) -> set[str]:
    """The names of the attributes that a value may come from, as it is or a part of it."""
    found: set[str] = set()
    seen: set[int] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        if value.unique() in seen:
            continue
        seen.add(value.unique())
        node, place = value.node(), value.offset()
        kind = node.kind()
        if kind == "prim::GetAttr":
            found.add(node.s("name"))
        elif kind in _THROUGH:
            stack.append(next(node.inputs()))
        elif kind == "prim::If":
            stack += [list(b.outputs())[place] for b in node.blocks()]
        elif kind == "prim::Loop":
            stack += [list(next(node.blocks()).outputs())[place + 1], list(node.inputs())[place + 2]]
        elif kind == "prim::Param":
            around = node.owningBlock().owningNode()
            if around is not None and around.kind() == "prim::Loop" and place:
                stack += [list(next(around.blocks()).outputs())[place], list(around.inputs())[place + 1]]
    return found
