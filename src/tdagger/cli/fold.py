"""Modules that cost the same, as the layers of a network do, told as one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tdagger.cli.rows import Line


def folded(line: Line, same: Sequence[str]) -> Line:
    """The line with numbered modules that are alike told as one line, see :func:`_are_alike`.

    A list of modules that then has one line is told in one with it, as ``layers.0-31``.
    """
    groups: dict[str, list[list[Line]]] = {}
    order: list[list[Line]] = []
    for inner in [folded(i, same) for i in line.inner]:
        kind = inner.kind if inner.name.isdigit() else f"name {inner.name}"
        group = next((g for g in groups.setdefault(kind, []) if _are_alike(g[0], inner, same)), None)
        if group is None:
            group = list[Line]()
            groups[kind].append(group)
            order.append(group)
        group.append(inner)
    return replace(line, inner=[_without_list(_together(of, line.path)) for of in order])


#: What modules have to have in common exactly, and how much numbers may be apart otherwise, of the larger.
_EXACT, _APART = ("macs", "parameters"), 0.01


def _are_alike(a: Line, b: Line, same: Sequence[str]) -> bool:
    """Whether modules have the same inner modules, multiply-adds and parameters, and nearly the same other costs.

    What several equal modules share is computed once, by the first: it costs a little more than the others. ``same``
    are the numbers that may differ by so little.
    """
    if _signature(a) != _signature(b):
        return False
    pairs = [(a.numbers.get(name, 0), b.numbers.get(name, 0)) for name in same]
    return all(abs(x - y) <= _APART * max(x, y) for x, y in pairs)


def _signature(line: Line) -> Any:
    exact = {k: n for k, n in line.numbers.items() if k.endswith(_EXACT)}
    return line.kind, line.times, line.partial, exact, [(i.name, _signature(i)) for i in line.inner]


def _without_list(line: Line) -> Line:
    """The only line inner to one that is no module that runs and does nothing itself, for both."""
    if line.kind or line.own or len(line.inner) != 1:
        return line
    inner = line.inner[0]
    return replace(inner, name=f"{line.name}.{inner.name}", times=line.times * inner.times)


def _together(lines: Sequence[Line], outer: str) -> Line:
    """Modules that are alike as one, in a module of path ``outer``."""
    first = lines[0]
    if len(lines) == 1:
        return first
    name = _ranges([i.name for i in lines])
    return _added(lines, f"{outer}.{name}".lstrip("."), times=len(lines), name=name)


def _added(lines: Sequence[Line], path: str, **changes: Any) -> Line:
    """Lines that are alike, and what is inner to them, as one."""
    first = lines[0]
    names = {k: None for i in lines for k in i.numbers}  # of pruned units only some of them may have any
    numbers = {k: (max if k.endswith("peak_bytes") else sum)(i.numbers.get(k, 0) for i in lines) for k in names}
    inner = [_added(of, f"{path}.{of[0].name}") for of in zip(*[i.inner for i in lines], strict=True)]
    own = [i.own for i in lines if i.own is not None]
    partial = sum(i.partial for i in lines)
    all_own = _added(own, path) if own else None
    return replace(first, path=path, numbers=numbers, inner=inner, own=all_own, partial=partial, **changes)


def _ranges(names: Sequence[str]) -> str:
    """Numbers in short.

    >>> _ranges(["0", "1", "2", "5"]), _ranges(["1", "3", "5", "7", "9"])
    ('0-2,5', '1,3,…,9')
    """
    runs: list[tuple[int, int]] = []
    for n in map(int, names):
        if runs and n == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], n
        else:
            runs.append((n, n))
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ",".join(shown) if len(shown) <= 3 else f"{shown[0]},{shown[1]},…,{shown[-1]}"
