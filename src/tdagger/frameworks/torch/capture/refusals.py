"""Why a network can't be captured, in words: the line of its own code that stops it, and what to write instead."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from tdagger.errors import OWN
from tdagger.frameworks.torch.capture import checks

#: What else to try with a network that torch.export can't capture.
TRACE = (
    "from_torch(..., via='trace') may capture it; what it decides from the data is then fixed as for the example inputs"
)


class _Reason(NamedTuple):
    """What torch's words mean, and what to do."""

    pattern: re.Pattern[str]
    what: str
    advice: str


def _reason(pattern: str, what: str, advice: str) -> _Reason:
    return _Reason(re.compile(pattern), what, advice)


#: What keeps control flow on data as it is.
_PROGRAM = (
    "Or keep it: td.Program.from_torchscript(torch.jit.script(model), inputs) imports such Python as blocks of a "
    "program, and td.Program.from_torch takes torch.cond, while_loop and scan"
)

#: Statements that ask for data, as (what they do, what to write instead).
_BRANCH = (
    "it decides by the data what to do next",
    "Write torch.where(condition, a, b), or torch.cond for branches that cost much. If a branch only raises or warns, "
    f"let it do nothing else, and import takes it as passed. {_PROGRAM}",
)
_LOOP = (
    "the number of turns of a loop depends on the data",
    f"Loop as often as at most needed, and choose with torch.where. {_PROGRAM}",
)
_NUMBER = (
    "it makes a Python number of data",
    f"Keep it a tensor: x / x.max() instead of x / float(x.max()), torch.clamp with tensors, torch.where. {_PROGRAM}",
)

#: torch's words -> what they mean. The first that fits counts.
_REASONS = (
    _reason(
        r"\bdeepcopy\b",
        "it copies tensors with copy.deepcopy",
        "Write x.detach().clone(), or copy before the network runs",
    ),
    _reason(
        r"Creating a new Tensor subclass",
        "it makes a tensor of a class of its own",
        "Compute with plain tensors, or pass what the class adds beside them",
    ),
    _reason(
        r"We don't have an op for aten::",
        "it writes as torch.jit.trace can't record: through a view as another type, or a bool into bools",
        "from_torch(..., via='export') takes it; or write x = torch.where(...), x = x.to(...) instead of in place",
    ),
    _reason(
        r"fake tensor in the exported program constant",
        "it uses a tensor that torch.export loses track of: one made in a torch.func transform, or kept between runs",
        "Compute it inside forward from the inputs and the parameters, or register it as a buffer",
    ),
    _reason(
        r"unsupported format string passed to (Sym|FakeTensor)",
        "it writes data into a text",
        "Leave the text out while it is captured: if not torch.compiler.is_compiling(): ...",
    ),
    _reason(
        r"\.numpy\(\) is not supported|Cannot convert.*numpy|can't convert.*numpy|\.tolist\(\) is not supported"
        r"|NumPy|numpy",
        "it takes data out of torch, to numpy or a list",
        "Compute it with torch",
    ),
    _reason(
        r"[Cc]annot access data pointer|data_ptr|Cannot access storage",
        "it hands a tensor's memory to code that isn't torch's",
        "Compute it with torch, or register the code as an op: torch.library.custom_op, with register_fake",
    ),
    _reason(
        r"no fake impl|no meta kernel|'Meta' backend|register_fake|UnsupportedOperatorException",
        "it calls an op that torch can't run without data",
        "Replace the op, or register what shape it gives: torch.library.register_fake",
    ),
    _reason(
        r"DynamicOutputShape|nonzero|unique",
        "the shape of what it computes depends on the data",
        "Keep the shape and mask: torch.where(mask, x, 0) instead of x[mask]",
    ),
    _reason(
        r"aten\._local_scalar_dense|DataDependentOutput",
        *_NUMBER,
    ),
)  # fmt: skip

_LIBRARIES = (OWN, *(str(Path(p)) + "/" for p in (Path(torch.__file__).parent, sysconfig.get_paths()["stdlib"])))
_PACKAGES = re.compile(r"site-packages/(numpy|einops|einx|functorch)/")


def is_own(file: str) -> bool:
    """Whether a file is the user's: not torch's, Python's or a library's of tensors."""
    stdlib = file.startswith(_LIBRARIES[2]) and "site-packages" not in file
    return not (stdlib or file.startswith((*_LIBRARIES[:2], "<frozen", "<string>")) or _PACKAGES.search(file))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _frame_of(error: BaseException) -> TracebackType | None:
    """The innermost line of the user's that an error came through."""
    for one in _chain(error):
        found: TracebackType | None = None
        at = one.__traceback__
        while at is not None:
            if is_own(at.tb_frame.f_code.co_filename):
                found = at
            at = at.tb_next
        if found is not None and "forward" in _names(one):
            return found
    return None


def _names(error: BaseException) -> set[str]:
    names: set[str] = set()
    at = error.__traceback__
    while at is not None:
        names.add(at.tb_frame.f_code.co_name)
        at = at.tb_next
    return names


def _asks(at: TracebackType) -> tuple[str, str]:
    """What the statement does that asks for data."""
    found = checks.expression_at(at.tb_frame, at.tb_lasti)
    if found is None:
        return _NUMBER
    node, source = found
    while not isinstance(node, ast.stmt):
        around = source.parents[node]
        match around:
            case ast.If(test=test) | ast.IfExp(test=test) | ast.Assert(test=test) if test is node:
                return _BRANCH
            case ast.While(test=test) if test is node:
                return _LOOP
            case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return _BRANCH
            case _:
                pass
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("range", "enumerate"):
                return _LOOP
            if node.func.id in ("bool", "any", "all", "max", "min", "sorted", "sum"):
                return _BRANCH
        node = around
    return _LOOP if isinstance(node, ast.For) else _NUMBER


def explained(error: BaseException) -> tuple[str, str]:
    """What stops a capture, with the user's line that it is at, and what to do ("" where there is nothing to say)."""
    at = _frame_of(error)
    chain = list(_chain(error))
    words = " ".join(f"{type(e).__name__}: {e} {' '.join(_names(e))}" for e in chain)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    reason = next((r for r in _REASONS if r.pattern.search(words)), None)
    guards = "GuardOnDataDependentSymNode" in words or "data-dependent" in words
    if guards:
        what, advice = _asks(at) if at is not None else _BRANCH
        advice += _apart(error, at)
    elif reason is not None:
        what, advice = reason.what, reason.advice
    else:
        what, advice = f"{type(error).__name__}: {first}", ""
    return f"{what}{_where(at)}", advice


def _apart(error: BaseException, at: TracebackType | None) -> str:
    """What to do where the line is a library's, which nobody rewrites: say in whose forward it is."""
    if at is None or "site-packages" not in at.tb_frame.f_code.co_filename:
        return ""
    modules = [type(m) for one in _chain(error) for m in _modules(one.__traceback__)]
    own = [k.__name__ for k in modules if not k.__module__.startswith(("torch.", "tdagger."))]
    return f". Or import by themselves the modules that {own[-1]} calls before that" if own else ""


def _modules(at: TracebackType | None) -> Iterator[torch.nn.Module]:
    """The modules whose methods a traceback goes through, outer ones first."""
    while at is not None:
        found = at.tb_frame.f_locals.get("self")
        if isinstance(found, torch.nn.Module):
            yield found
        at = at.tb_next


def _where(at: Any) -> str:
    if at is None:
        return ""
    place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}"
    line = checks.line_at(place)
    return f" (at {place}{': ' if line else ''}{line})"
