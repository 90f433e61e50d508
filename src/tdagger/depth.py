"""Composites of composites, as deep as one likes: every so many levels go on in a thread of their own.

A composite's definition calls others from Python, so tracing one, counting it and running it go as deep as they are
nested. Each thread has a stack of its own, and only one of them runs at a time.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Depth(threading.local):
    levels = 0


_depth = _Depth()

#: So many levels are nested in one thread.
_LEVELS = 25


def nested(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which calls itself for what is inside: in a new thread where the stack would become too deep."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if _depth.levels >= _LEVELS:
            return _elsewhere(function, *args, **kwargs)
        _depth.levels += 1
        try:
            return function(*args, **kwargs)
        finally:
            _depth.levels -= 1

    return run


def _elsewhere(function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """What a function gives, called in a thread of its own with this one's context."""
    result: list[R] = []
    failed: list[BaseException] = []
    context = contextvars.copy_context()

    def call() -> None:
        try:
            result.append(context.run(function, *args, **kwargs))
        except BaseException as e:  # raised again by the thread that waits
            failed.append(e)

    thread = threading.Thread(target=call, name="tdagger nested composites")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return result[0]
