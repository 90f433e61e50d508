"""Random numbers that a network draws from others than torch: they are in a capture as plain numbers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from tdagger.errors import warn
from tdagger.frameworks.torch.capture.attributes import Attributes, Box
from tdagger.frameworks.torch.capture.checks import line_at
from tdagger.frameworks.torch.capture.refusals import is_own
from tdagger.frameworks.torch.capture.surroundings import GENERATORS, RandomState


def sources(attributes: Attributes) -> list[RandomState]:
    """All generators that a network may draw from: the global ones, and those that it holds."""
    known = attributes.found.get("generators")
    if known is None:
        known = attributes.found["generators"] = _sources(attributes.boxes)
    return known


def _sources(boxes: Iterable[Box]) -> list[RandomState]:
    found: dict[int, RandomState] = {}
    for box in boxes:
        for key, x in box.seen().items():
            if isinstance(x, random.Random):
                found[id(x)] = (f"{box.joined(key)} (a random.Random)", x.getstate, x.setstate)
            elif isinstance(x, _OF_NUMPY):
                bits: Any = x.bit_generator if isinstance(x, np.random.Generator) else x
                found[id(x)] = (f"{box.joined(key)} (of numpy)", *_state_of(bits))
    return [*GENERATORS, *found.values()]


_OF_NUMPY = (np.random.Generator, np.random.RandomState)


def _state_of(x: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    if isinstance(x, np.random.RandomState):
        return x.get_state, x.set_state
    return (lambda: x.state), (lambda state: setattr(x, "state", state))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


class Draws:
    """Which generators a run of a network drew from, and at which lines."""

    def __init__(self, attributes: Attributes) -> None:
        self._sources = sources(attributes)
        self.drawn: dict[str, dict[str, None]] = {}
        #: Whether to find out the lines too, which is slow.
        self.watched = False

    @contextmanager
    def noted(self) -> Generator[None, None, None]:
        """Run a network inside; the generators are left as they were."""
        self.drawn = {}
        before = [get() for _, get, _ in self._sources]
        trace = sys.gettrace()
        if self.watched:
            sys.settrace(self._watching())
        try:
            yield
        finally:
            if self.watched:
                sys.settrace(trace)
            for (name, get, set_), was in zip(self._sources, before, strict=True):
                if not _same(get(), was):
                    self.drawn.setdefault(name, {})
                    set_(was)

    def _watching(self) -> Callable[[FrameType, str, Any], Any]:
        """What Python calls at every line of the network's own code."""
        last = ""
        states = [get() for _, get, _ in self._sources]

        def at_line(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal last
            for i, (name, get, _) in enumerate(self._sources):
                now = get()
                if not _same(now, states[i]):
                    states[i] = now
                    self.drawn.setdefault(name, {})[last] = None
            at = frame.f_back if event == "return" else frame
            while at is not None and not is_own(at.f_code.co_filename):  # what called goes on
                at = at.f_back
            if at is not None:
                last = f"{at.f_code.co_filename}:{at.f_lineno}"
            return at_line

        def at_call(frame: FrameType, event: str, arg: Any) -> Any:
            return at_line(frame, event, arg) if is_own(frame.f_code.co_filename) else None

        return at_call

    def tell(self) -> None:
        """Warn of numbers that stay as they were drawn."""
        if self.drawn:
            told = "; ".join(
                f"{name} at {', '.join(f'{p}: {line_at(p)}' for p in places) or 'a line that is not known'}"
                for name, places in self.drawn.items()
            )
            warn(
                "the network draws random numbers outside of torch, and the imported one always has those that import "
                f"drew: {told}. Draw them with torch (torch.rand, torch.randint), and they are drawn anew"
            )
