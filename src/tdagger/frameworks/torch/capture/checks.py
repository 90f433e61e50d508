"""Checks of data that only raise, warn or print: ``assert not x.isnan().any()``, the validation of torch.distributions.

A capture has no data. Where Python asks whether a tensor is true, the source says what hangs on the answer: if one
outcome leads to nothing but an error or a message, the other is the answer, and the condition stays in the captured
graph as an assertion, which :class:`tdagger.frameworks.torch.aten.calls.Caller` finds there.
"""

from __future__ import annotations

import ast
import builtins
import dis
import linecache
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch.distributions import constraints

#: Where torch and this package lie: their frames are looked through, and aren't the user's.
from tdagger.errors import OWN

_TORCH = str(Path(torch.__file__).parent) + "/"

#: Calls whose statement only tells something.
_TELLING = frozenset({
    "warn", "warning", "warning_once", "warn_once", "print", "info", "info_once", "debug", "error", "critical",
    "exception", "log",
})  # fmt: skip

#: Functions that hand on the truth of their argument, or of every element of it.
_TRUTH = frozenset({"bool", "all", "any"})


class Check(NamedTuple):
    """What is asked, where (``file:line``), the answer that passes, and what is raised otherwise.

    ``whole`` says whether the answer is the whole of the condition; of ``if a and b: raise`` the first is only half.
    """

    condition: str
    place: str
    passes: bool
    error: str
    whole: bool = True

    @property
    def message(self) -> str:
        """What the assertion in the graph says: the error as eager raises it, and where."""
        return f"{self.error} [{self.place}: {self.condition}]"


# --- which expression ------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """A parsed file: the innermost expression at each position, and the node around each node."""

    at: dict[tuple[int, int, int, int], ast.AST]
    parents: dict[ast.AST, ast.AST]


@lru_cache(maxsize=32)
def _parsed(text: str) -> _Source | None:
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a notebook's cell with magics, a file that changed since
        return None
    at: dict[tuple[int, int, int, int], ast.AST] = {}
    parents: dict[ast.AST, ast.AST] = {}
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.expr):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            at[node.lineno, node.end_lineno, node.col_offset, node.end_col_offset] = node
        for child in ast.iter_child_nodes(node):
            parents[child] = node
            stack.append(child)
    return _Source(at, parents)


@lru_cache(maxsize=256)
def _positions(code: CodeType) -> dict[int, tuple[int, int, int, int]]:
    """Where in the source the value comes from that each instruction calls for, or whose truth it asks for."""
    found: dict[int, tuple[int, int, int, int]] = {}
    instructions = list(dis.get_instructions(code))
    ends = [i.offset for i in instructions[1:]] + [len(code.co_code)]
    before: Any = None
    for instruction, end in zip(instructions, ends, strict=True):
        asks = "JUMP" in instruction.opname or instruction.opname in ("UNARY_NOT", "TO_BOOL")
        where: Any = before if asks else instruction.positions
        if where is not None and None not in where:
            place = (where.lineno, where.end_lineno, where.col_offset, where.end_col_offset)
            found.update(dict.fromkeys(range(instruction.offset, end, 2), place))  # a call stands at what it caches
        before = instruction.positions
    return found


def expression_at(frame: FrameType, instruction: int | None = None) -> tuple[ast.AST, _Source] | None:
    """The expression that a frame is at, or was at an instruction of it, and its file; None if there is no source."""
    source = _parsed("".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
    place = _positions(frame.f_code).get(frame.f_lasti if instruction is None else instruction)
    node = source.at.get(place) if source is not None and place is not None else None
    return None if source is None or node is None else (node, source)


# --- what hangs on it ------------------------------------------------------------------------------------------


def _ends(body: Sequence[ast.stmt]) -> bool:
    """Whether statements always end in an error."""
    match body[-1] if body else None:
        case ast.Raise() | ast.Assert(test=ast.Constant(value=False)):
            return True
        case ast.If(body=then, orelse=otherwise):
            return _ends(then) and _ends(otherwise)
        case ast.With(body=inner):
            return _ends(inner)
        case _:
            return False


def _tells(body: Sequence[ast.stmt]) -> bool:
    """Whether statements do nothing but tell something, or end in an error."""
    return bool(body) and (_ends(body) or all(map(_is_telling, body)))


def _is_telling(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
            return name in _TELLING
        case ast.If(body=then, orelse=otherwise):
            return _tells(then) and (not otherwise or _tells(otherwise))
        case _:
            return False


def _leaves(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Return | ast.Continue | ast.Break)


def _after(statement: ast.stmt, source: _Source) -> list[ast.stmt]:
    """The statements that follow one in its function, up to the end of its block."""
    for _, block in ast.iter_fields(source.parents[statement]):
        if isinstance(block, list) and statement in block:
            return block[block.index(statement) + 1 :]  # pyright: ignore[reportUnknownVariableType]
    return []


def _outcome(statement: ast.If, source: _Source) -> tuple[bool, Sequence[ast.stmt]] | None:
    """The truth of an if's test with which the network goes on, and what the other leads to."""
    then, otherwise = statement.body, statement.orelse
    if _tells(then) and not (_ends(then) and otherwise and _ends(otherwise)):
        return False, then
    if otherwise and _tells(otherwise):
        return True, otherwise
    rest = _after(statement, source)
    if not otherwise and _leaves(then) and _ends(rest):
        return True, rest
    return None


def _said(statement: ast.If, source: _Source) -> bool | None:
    """What a function gives if a test is true, where it gives only True and False; else None."""
    match statement.body, statement.orelse or _after(statement, source):
        case [ast.Return(value=ast.Constant(value=bool(then)))], [ast.Return(value=ast.Constant(value=bool(other)))]:
            return then if then is not other else None
        case _:
            return None


def _is_caught(node: ast.AST, source: _Source) -> bool:
    """Whether an error at a node may be caught in its function."""
    child = node
    while not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Module):
        around = source.parents[child]
        if isinstance(around, ast.Try) and child in around.body and any(not _ends(h.body) for h in around.handlers):
            return True
        if isinstance(around, ast.With) and any("suppress" in ast.unparse(i.context_expr) for i in around.items):
            return True
        child = around
    return False


def _error(body: Sequence[ast.stmt], scope: Mapping[str, Any]) -> str:
    """What statements raise, as ``ValueError: text``; "" if they raise nothing."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Raise) and node.exc is not None:
                call = node.exc if isinstance(node.exc, ast.Call) else None
                kind = ast.unparse(call.func if call else node.exc)
                return f"{kind}: {_text(call.args[0], scope)}" if call and call.args else kind
            if isinstance(node, ast.Assert):
                return "AssertionError" + (f": {_text(node.msg, scope)}" if node.msg is not None else "")
    return ""


def _text(message: ast.expr, scope: Mapping[str, Any]) -> str:
    """A message as far as it is known without data."""
    match message:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(p.value if isinstance(p, ast.FormattedValue) else p, scope) for p in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, scope) + _text(right, scope)
        case ast.Name(id=name) if isinstance(scope.get(name), str | int | float):
            return str(scope[name])
        case _:
            return f"{{{ast.unparse(message)}}}"


class _End(NamedTuple):
    """Where a condition ends: the truth of the whole that passes, the condition, its frame, what is raised."""

    passes: bool
    condition: str
    node: ast.AST
    source: _Source
    frame: FrameType
    error: str
    steps: tuple[str, ...]


def _climb(node: ast.AST, source: _Source, frame: FrameType, steps: tuple[str, ...] = ()) -> _End | None:
    """Follow the truth of an expression to the statement that acts on it; None if that isn't only a check."""
    while True:
        around = source.parents.get(node)
        match around:
            case ast.UnaryOp(op=ast.Not()):
                steps = (*steps, "not")
            case ast.BoolOp(op=op):
                steps = (*steps, "and" if isinstance(op, ast.And) else "or")
            case ast.Call(func=ast.Name(id=name)) if name in _TRUTH and node in around.args:
                steps = (*steps, {"all": "and", "any": "or"}.get(name, "same"))
            case ast.ListComp(elt=elt) | ast.GeneratorExp(elt=elt) if elt is node and _is_counted(around, source):
                if frame.f_code.co_name in ("<listcomp>", "<genexpr>") and frame.f_back is not None:
                    frame = frame.f_back
            case ast.List() | ast.Tuple() if _is_counted(around, source):
                pass
            case ast.NamedExpr():
                pass
            case ast.Assert(test=test) if test is node:
                return _End(True, ast.unparse(test), around, source, frame, _error([around], frame.f_locals), steps)
            case ast.If(test=test) if test is node and (said := _said(around, source)) is not None:
                steps = (*steps, "same" if said else "not")
                caller = _caller(frame)
                at = expression_at(caller) if caller is not None else None
                if caller is None or at is None:
                    return None
                (node, source), frame = at, caller
                continue
            case ast.If(test=test) if test is node:
                found = _outcome(around, source)
                if found is None:
                    return None
                return _End(found[0], ast.unparse(test), around, source, frame, _error(found[1], frame.f_locals), steps)
            case ast.Return() | ast.Lambda():
                caller = _caller(frame)
                at = expression_at(caller) if caller is not None else None
                if caller is None or at is None:
                    return None
                (node, source), frame = at, caller
                continue
            case ast.Assign(targets=[ast.Name(id=name)]):
                return _of_name(name, around, source, frame, steps)
            case _:
                return None
        node = around


def _is_counted(several: ast.AST, source: _Source) -> bool:
    """Whether several values are asked for together, by ``all`` or ``any``."""
    around = source.parents[several]
    return isinstance(around, ast.Call) and isinstance(around.func, ast.Name) and around.func.id in ("all", "any")


def _caller(frame: FrameType) -> FrameType | None:
    """The frame that called, None at the end of the network's own code."""
    caller = frame.f_back
    return None if caller is None or caller.f_code.co_filename.startswith(OWN) else caller


def _of_name(name: str, at: ast.AST, source: _Source, frame: FrameType, steps: tuple[str, ...]) -> _End | None:
    """The check that a variable is for, if it is set once and everything that uses it is one."""
    function = at
    while not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
        function = source.parents[function]
    uses = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name]
    if sum(isinstance(n.ctx, ast.Store) for n in uses) != 1:
        return None
    ends: list[_End] = []
    for use in uses:
        if isinstance(use.ctx, ast.Store) or _is_told(use, source):
            continue
        end = _climb(use, source, frame, steps)
        if end is None:
            return None
        ends.append(end)
    return ends[0] if ends and len({_asked(e) for e in ends}) == 1 else None


def _is_told(node: ast.AST, source: _Source) -> bool:
    """Whether a node stands in what is raised or told."""
    while not isinstance(node, ast.stmt):
        node = source.parents[node]
    return isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and _is_telling(node))


def _asked(end: _End) -> tuple[bool, bool]:
    """The answer with which the whole condition passes, and whether it is the whole of it."""
    wanted, whole = end.passes, True
    for step in reversed(end.steps):
        if step == "not":
            wanted = not wanted
        elif (step == "and" and not wanted) or (step == "or" and wanted):
            whole = False
    return wanted, whole


#: Functions of torch that ask for the truth of data, and the answer with which they go on.
_ANSWERS: dict[CodeType, bool] = {
    constraints._Symmetric.check.__code__: True,
    constraints._PositiveDefinite.check.__code__: True,
}


def check_at(frame: FrameType, of_number: bool = False) -> Check | None:
    """The check that a frame is at, which asks for the truth of a value; None if more hangs on the answer.

    ``of_number``: it asks for a number, which is compared then.
    """
    answer = _ANSWERS.get(frame.f_code)
    if answer is not None:
        place = place_of(frame)
        return Check(line_at(place), place, answer, "ValueError")
    at = expression_at(frame)
    if at is not None and of_number:
        at = _compared(*at)
    end = _climb(*at, frame) if at is not None else None
    if end is None or _is_caught(end.node, end.source) or any(map(_catches, _callers(end.frame))):
        return None
    passes, whole = _asked(end)
    place, condition = place_of(end.frame), end.condition
    if end.frame.f_code.co_filename.startswith(_TORCH):  # what a call of torch checks
        condition = line_at(place) or condition
    return Check(condition, place, passes, end.error, whole and bool(end.error))


def _compared(node: ast.AST, source: _Source) -> tuple[ast.AST, _Source]:
    """The comparison that a number is part of."""
    while isinstance(around := source.parents[node], ast.expr):
        node = around
        if isinstance(around, ast.Compare):
            break
    return node, source


def is_told_at(frame: FrameType) -> bool:
    """Whether what a frame asks for is only printed or logged."""
    while frame.f_code.co_filename.startswith(_TORCH) and frame.f_back is not None:
        frame = frame.f_back
    at = expression_at(frame)
    return at is not None and _is_told(*at)


def _callers(frame: FrameType) -> Iterator[FrameType]:
    caller = _caller(frame)
    while caller is not None:
        if not caller.f_code.co_filename.startswith(_TORCH):
            yield caller
        caller = _caller(caller)


def _catches(frame: FrameType) -> bool:
    at = expression_at(frame)
    return at is not None and _is_caught(*at)


def place_of(frame: FrameType) -> str:
    """``file:line`` of the innermost frame that isn't torch's."""
    found = frame
    while found.f_code.co_filename.startswith(_TORCH):
        caller = _caller(found)
        if caller is None:
            found = frame
            break
        found = caller
    return f"{found.f_code.co_filename}:{found.f_lineno}"


def line_at(place: str) -> str:
    """The source at ``file:line``, "" if there is none."""
    file, _, line = place.rpartition(":")
    return linecache.getline(file, int(line)).strip() if line.isdecimal() else ""


# --- while a capture runs --------------------------------------------------------------------------------------


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Generator[None, None, None]:
    """Another attribute of a class or module for a while."""
    own = vars(owner).get(name, _MISSING)
    setattr(owner, name, new)
    try:
        yield
    finally:
        if own is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


_MISSING = object()


def _never(_mask: Any, is_causal: bool | None = None, _size: int | None = None) -> bool:
    return is_causal is True


@contextmanager
def kernels_left_open() -> Generator[None, None, None]:
    """Let torch's transformers not look at masks: whether one is the causal one, or pads, only picks a kernel.

    Nor take the fast path, which takes a float mask for a bool one.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with replaced(sys.modules["torch.nn.modules.transformer"], "_detect_is_causal_mask", _never):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def exception_of(message: str) -> tuple[type[Exception], str]:
    """The exception and text that an assertion's message asks for."""
    name, _, text = message.partition(": ")
    kind = getattr(builtins, name.partition(" ")[0], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return kind, text
    return RuntimeError, message
