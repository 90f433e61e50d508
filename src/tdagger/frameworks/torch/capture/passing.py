"""Modules that give back what they take (identities, drop path in eval mode): who reads their results.

Such a call leaves nothing in a captured graph. While torch.export runs, its result is another tensor on the same
memory, which stands for the same node; a node made of it notes through which modules it reads which of its arguments.
"""

from __future__ import annotations

import dis
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental import proxy_tensor
from torch.utils import _pytree as pytree

from tdagger.frameworks.torch.capture.gradients import replaced

#: The modules that a call is in as torch keeps them: a key for each call, the module's path and its class.
Stack = tuple[tuple[str, tuple[str, Any]], ...]
#: The settings of a module that do nothing here, but do when it trains.
Settings = tuple[tuple[str, Any], ...]
#: The calls that a tensor went through, the first one first.
Steps = tuple[tuple[Stack, Settings], ...]

#: Where a node keeps through which calls it reads its arguments: (number of the argument among all leaves, calls).
META = "tdagger_passed"
#: Where a tensor keeps through which calls it went.
_ATTRIBUTE = "_tdagger_passed"


class Called:
    """The calls of modules that hold no others; torch.export puts a module's own dicts back, not an object's."""

    def __init__(self) -> None:
        self.stacks: dict[Stack, None] = {}


class _Passed(NamedTuple):
    steps: Steps
    #: How often its memory was written when it went through them.
    version: int


class _Proxy(torch.fx.Proxy):
    """Stands for the node of another proxy, read through calls."""

    passed: Tensor | None = None


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to."""
    return 0 if tensor.is_inference() else tensor._version


def steps_of(x: Any) -> Steps:
    """The calls that a tensor of a capture went through, if it wasn't written since."""
    passed: _Passed | None = vars(x).get(_ATTRIBUTE) if isinstance(x, Tensor) else None
    return passed.steps if passed is not None and passed.version == version_of(x) else ()


@contextmanager
def noting(found: Called) -> Generator[None, None, None]:
    """Note inside which modules without modules are called, and who reads what went through one."""
    found.stacks.clear()
    tracer: Any = torch.fx.Tracer
    call_module, create_proxy = tracer.call_module, tracer.create_proxy

    def called(self: Any, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if vars(module).get("_modules"):
            return call_module(self, module, forward, args, kwargs)

        def run(*args: Any, **kwargs: Any) -> Any:
            one = args[0] if len(args) == 1 and not kwargs else None
            version = version_of(one) if isinstance(one, Tensor) else 0
            result = forward(*args, **kwargs)
            stack: Stack = tuple(self.module_stack.items())
            found.stacks.setdefault(stack)
            if result is not one or not isinstance(one, Tensor) or version_of(one) != version:
                return result
            return _through(self, one, (stack, _settings(module)))

        return call_module(self, module, run, args, kwargs)

    def made(self: Any, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        proxy = create_proxy(self, kind, target, args, kwargs, *more, **options)
        if kind == "call_function" and any(isinstance(a, _Proxy | list | tuple) for a in (*args, *kwargs.values())):
            leaves = pytree.tree_leaves((args, kwargs))
            through = [(i, steps_of(a.passed)) for i, a in enumerate(leaves) if isinstance(a, _Proxy)]
            if through:
                proxy.node.meta[META] = tuple(through)
        return proxy

    with replaced(tracer, "call_module", called), replaced(tracer, "create_proxy", made):
        yield


def _calling() -> CodeType:
    """The code outside of torch that calls a module."""
    frame: Any = sys._getframe(3)
    inside = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame = frame.f_back
    return frame.f_code


@lru_cache(1024)
def _asks_which(code: CodeType) -> bool:
    """Whether code compares what isn't a constant by identity: another tensor would be another answer."""
    before = ""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IS_OP" and before not in ("LOAD_CONST", "LOAD_GLOBAL"):
            return True
        before = instruction.opname
    return False


def _settings(module: nn.Module) -> Settings:
    return (("p", float(module.p)),) if isinstance(module, nn.modules.dropout._DropoutNd) else ()


def _through(tracer: Any, x: Any, step: tuple[Stack, Settings]) -> Any:
    """A tensor that is ``x``, and went through one more call; ``x`` itself where that can't be told apart."""
    if isinstance(x, nn.Parameter) or not torch.is_grad_enabled() or _asks_which(_calling()):
        return x
    slot: Any = proxy_tensor.get_proxy_slot(x, tracer, None)
    if slot is None or type(x) is Tensor:
        return x
    with proxy_tensor.disable_proxy_modes_tracing():
        same = torch.ops.aten.alias.default(x)
    proxy = _Proxy(slot.proxy.node, tracer)
    proxy.passed = same
    vars(same)[_ATTRIBUTE] = _Passed((*steps_of(x), step), version_of(same))
    proxy_tensor.set_proxy_slot(same, tracer, replace(slot, proxy=proxy))
    return same
