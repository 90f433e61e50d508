"""What a program of fixed sizes can't tell: the same program with numbers written out that it made of sizes.

``x[-x.shape[1] // 2:]`` of 2 columns is exported as ``x[-1:]``, a loop over ``n // 2`` steps, of 1, as nothing, and
``x if n > 4 else -x`` as one of them. Whoever has the export alone can't tell it from the program that says so. Numbers
up to 2 are in every program, so they are taken as said; a resize that is right for the program with these written out
is one that nobody could know to be wrong.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from conformance.fuzz.program import NAMES, Program, Step

#: Up to here a number is taken as said.
SMALL = 2
#: What may be in an expression of sizes.
_PLAIN = (ast.BinOp, ast.UnaryOp, ast.Constant, ast.operator, ast.unaryop)


def frozen(program: Program) -> Iterator[tuple[str, Program]]:
    """The program with what leaves no trace written out, and why there is none; nothing where all leaves one."""
    try:
        seen, loops = _values(program)
    except Exception:  # a program that can't be run with its numbers noted has none written out
        return
    untold: dict[str, dict[int, Any]] = {
        "a loop ran for no step": {k: n for k, n in seen.items() if k in loops and n <= 0},
        f"a number up to {SMALL} is made of a size": {
            k: n for k, n in seen.items() if type(n) is int and abs(n) <= SMALL and k not in loops
        },
        "sizes are compared": {k: n for k, n in seen.items() if isinstance(n, bool)},
    }
    found = [(why, numbers) for why, numbers in untold.items() if numbers]
    for some in range(1, len(found) + 1):
        for parts in itertools.combinations(found, some):
            numbers = {k: n for _, part in parts for k, n in part.items()}
            yield ", and ".join(why for why, _ in parts), _with(program, _Written(numbers))


def _values(program: Program) -> tuple[dict[int, Any], set[int]]:
    """What each expression of sizes is, where it is one number, by its place; and those that loops run over."""
    seen: dict[int, set[Any]] = {}

    def note(place: int, value: Any) -> Any:
        seen.setdefault(place, set()).add(value)
        return value

    noted = _Noted()
    changed = _with(program, noted)
    space = {**NAMES, "_size": note}
    exec(compile(changed.source, "<fuzz noted>", "exec"), space)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        space["Net"]().train(program.train)(*program.arguments())
    return {k: next(iter(v)) for k, v in seen.items() if len(v) == 1}, noted.loops


def _with(program: Program, visitor: ast.NodeTransformer) -> Program:
    steps: list[Step] = []
    for step in program.steps:
        lines = ast.unparse(visitor.visit(ast.parse("\n".join(step.lines)))).splitlines()
        steps.append(replace(step, lines=tuple(lines)))
    return replace(program, steps=tuple(steps))


def _reads_size(node: ast.AST) -> bool:
    """Whether it is ``x.shape[i]`` or ``x.size(i)``."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Attribute) and node.value.attr == "shape" and not _sliced(node)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "size"


def _sliced(node: ast.Subscript) -> bool:
    return isinstance(node.slice, ast.Slice)


def _of_sizes(node: ast.AST) -> bool:
    """Whether it is arithmetic on sizes and numbers alone, with a size in it."""
    reads, stack = False, [node]
    while stack:
        part = stack.pop()
        if _reads_size(part):
            reads = True
        elif isinstance(part, _PLAIN):
            stack.extend(ast.iter_child_nodes(part))
        else:
            return False
    return reads


def _compares(node: ast.AST) -> bool:
    """Whether it is a comparison of what sizes are in."""
    of = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) else node
    return isinstance(of, ast.Compare | ast.BinOp) and any(
        _reads_size(part) or (isinstance(part, ast.Attribute) and part.attr == "numel") for part in ast.walk(of)
    )


class _Places(ast.NodeTransformer):
    """Visits the largest expressions of sizes, and what is asked of sizes, each by its place in the program."""

    def __init__(self) -> None:
        self.count = 0
        #: Those that are all that a range is given.
        self.loops: set[int] = set()

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and any(map(_of_sizes, node.args[:1])):
            self.loops.add(self.count)
        if isinstance(node, ast.IfExp) and _compares(node.test):
            self.count += 1
            test = self.changed(self.count - 1, node.test)
            return ast.IfExp(test, self.visit(node.body), self.visit(node.orelse))
        if isinstance(node, ast.expr) and _of_sizes(node):
            self.count += 1
            return self.changed(self.count - 1, node)
        return self.generic_visit(node)

    def changed(self, place: int, node: ast.expr) -> ast.expr:
        raise NotImplementedError


class _Noted(_Places):
    def changed(self, place: int, node: ast.expr) -> ast.expr:
        return ast.Call(ast.Name("_size", ast.Load()), [ast.Constant(place), node], [])


class _Written(_Places):
    def __init__(self, numbers: dict[int, Any]) -> None:
        super().__init__()
        self.numbers = numbers

    def changed(self, place: int, node: ast.expr) -> ast.expr:
        if place not in self.numbers:
            return node
        number = self.numbers[place]
        return ast.Constant(number) if number >= 0 else ast.UnaryOp(ast.USub(), ast.Constant(-number))
