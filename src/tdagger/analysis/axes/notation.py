"""Terms and lines as people write them, and names as einops writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tdagger.analysis.axes.terms import Line, resolve
from tdagger.op import Term

#: A line of more parts isn't written out.
_MOST_PARTS = 12


def show_term(term: Term) -> str:
    """A term as people write it, of axes that have names: ``(h d)``, ``b``, 1 for nothing.

    >>> from tdagger.analysis.axes.terms import Axis
    >>> b, d = Axis(2, "input"), Axis(3, "input")
    >>> b.name, d.name = "b", "d"
    >>> show_term((b, d)), show_term((b,)), show_term(())
    ('(b d)', 'b', '1')
    """
    inner = _product(term)
    return f"({inner})" if " " in inner and not _is_closed(inner) else inner


def _product(term: Term) -> str:
    """A term without brackets around it; what is 1 is left out beside others."""
    names = [str(a) for a in resolve(term)]
    return " ".join([n for n in names if n != "1"]) or "1"


def _is_closed(text: str) -> bool:
    """Whether one pair of brackets is around all of it, or a fraction's above it."""
    return text.startswith("(") and " " not in re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", text)


def show_line(line: Line) -> str:
    """``(1 + s)``, ``h/2``; "" for one without axes. What pads add is one number at the end."""
    pieces: list[list[Any]] = []  # [text or number, how often]
    rest = line.offset
    for part in line.parts:
        if isinstance(part, int):
            rest += part
            continue
        text = _product(part)
        number = text.isdigit()
        if number and pieces and isinstance(pieces[-1][0], int):
            pieces[-1][0] += int(text)
        elif pieces and pieces[-1][0] == text:
            pieces[-1][1] += 1
        else:
            pieces.append([int(text) if number else text, 1])
        if len(pieces) > _MOST_PARTS:
            return ""
    if all(isinstance(p, int) for p, _ in pieces):
        return ""
    shown = [_times(text, count) for text, count in pieces]
    if line.divisor > 1 and len(shown) == 1 and abs(rest) < line.divisor:
        only = shown[0]
        return f"({only})/{line.divisor}" if " " in only and not _is_closed(only) else f"{only}/{line.divisor}"
    total = " + ".join(shown) + (f" {'+' if rest > 0 else '-'} {abs(rest)}" if rest else "")
    total = total if len(shown) == 1 and not rest else f"({total})"
    return f"{total}/{line.divisor}" if line.divisor > 1 else total


def _times(text: Any, count: int) -> str:
    if count == 1:
        return str(text)
    return f"{count}*({text})" if " " in str(text) and not _is_closed(text) else f"{count}*{text}"


def parse(pattern: str) -> list[list[str]]:
    """``b (h d) 1`` as a list of lists of names; ValueError says what is wrong."""
    parts: list[list[str]] = []
    inside: list[str] | None = None
    for token in re.findall(r"\.\.\.|[()]|[^\s()]+", pattern):
        if token == "(":
            if inside is not None:
                raise ValueError("brackets inside brackets")
            inside = []
        elif token == ")":
            if inside is None:
                raise ValueError("a bracket that closes nothing")
            parts.append(inside)
            inside = None
        elif token not in ("1", "...") and not token.isidentifier():
            raise ValueError(f"{token!r} is not a name")
        elif inside is not None:
            inside.append(token)
        else:
            parts.append([token])
    if inside is not None:
        raise ValueError("a bracket is open")
    if sum(p == ["..."] for p in parts) > 1 or any("..." in p and len(p) > 1 for p in parts):
        raise ValueError("... may stand once, outside of brackets")
    return parts


def runs(names: list[str], sizes: Mapping[str, int], most: int) -> list[str]:
    """``b=2``, ``c..c4=64``: names that follow one another with one size are one entry; ``most`` for each letter."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        letter, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
        groups.setdefault(letter, []).append((int(number or 1), name))
    out: list[str] = []
    for group in groups.values():
        found: list[str] = []
        run: list[str] = []
        for _, name in [*sorted(group), (0, "")]:
            if run and (not name or sizes[name] != sizes[run[0]]):
                found.append(f"{run[0]}{'..' + run[-1] if len(run) > 1 else ''}={sizes[run[0]]}")
                run = []
            run.append(name)
        out += found if len(found) <= most else [*found[: most - 1], "...", found[-1]]
    return out
