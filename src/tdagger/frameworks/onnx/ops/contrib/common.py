"""What rules of onnxruntime's own operators share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tdagger.frameworks.onnx.ops.table import MICROSOFT, rule, unsupported
from tdagger.op import Value
from tdagger.ops.structure import permute


def contrib(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a rule of the domain."""
    return rule(*names, domain=MICROSOFT)


def takes(other: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What a rule has as ``**options`` are the attributes of another one."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in own}
        theirs = inspect.signature(other).parameters.values()
        added = [p for p in theirs if p.kind is p.KEYWORD_ONLY and p.name not in names]
        function.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        return function

    return mark


def refuse(**options: Any) -> None:
    """UnsupportedError names the options that are given and not imported."""
    given = [name for name, value in options.items() if value is not None and value is not False and value != 0]
    if given:
        raise unsupported(f"it isn't imported with {', '.join(given)}")


def as_nchw(x: Value) -> Value:
    """``[b .. c]`` as ``[b c ..]``."""
    return permute(x, (0, x.rank - 1, *range(1, x.rank - 1)))


def as_nhwc(x: Value) -> Value:
    """``[b c ..]`` as ``[b .. c]``."""
    return permute(x, (0, *range(2, x.rank), 1))
