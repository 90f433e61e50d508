"""Who reads a value through modules that give back what they take.

The graph has no value for the call of an identity. What reads its result has a note of it in its origin
(:class:`tdagger.network.Pass`), made here; where a note would be true of one reader and false of another that is the
same value, there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.frameworks.torch.capture.passing import META, Steps
from tdagger.network import Origin, Pass, maker
from tdagger.op import Value
from tdagger.ops.source import Const, Iota, Leaf


class Step(NamedTuple):
    """A call of a module that gives back what it takes."""

    module: str
    calls: tuple[tuple[str, int], ...]
    settings: tuple[tuple[str, Any], ...] = ()


#: What a call reads: each value with the steps it is read through, None if it is read in two ways.
Reading = dict[Value, "tuple[Step, ...] | None"]

#: Ops that give another tensor, also where it has the value of their argument. Others (``to``, ``flatten``) may
#: give the very same; then torch takes all who read the argument later to read the result, and the capture tells.
_ANOTHER = frozenset({
    "dropout", "view", "slice", "alias", "expand", "permute", "transpose", "squeeze", "unsqueeze", "select", "clone",
    "pad", "constant_pad_nd",
})  # fmt: skip


class Passing:
    """Notes for an import; ``place`` gives the path and calls of a stack of modules, ``leaves`` hold no modules."""

    def __init__(
        self, place: Callable[[Any], tuple[str, tuple[tuple[str, int], ...]]], leaves: Collection[str]
    ) -> None:
        self._place = place
        self._leaves = leaves
        #: What values read their arguments through, by the number of the argument.
        self._readers: dict[Value, dict[int, tuple[Step, ...]]] = {}
        #: Values that are read through anything.
        self._passed: set[Value] = set()

    def of(self, ref: Ref, more: Steps = ()) -> tuple[Step, ...]:
        """What a tensor went through: what the import found, and ``more`` that the capture noted."""
        steps: tuple[Step, ...] = ()
        if ref.passed is not None and ref.passed[0] is ref.read():
            steps = ref.passed[1]
        return (*steps, *[Step(*self._place(stack), settings) for stack, settings in more])

    def reading(self, node: torch.fx.Node, args: Any, kwargs: Any) -> Reading:
        """What a call reads, before it is made."""
        noted = dict(node.meta.get(META, ()))
        found: Reading = {}
        for i, leaf in enumerate(pytree.tree_leaves((args, kwargs))):
            if isinstance(leaf, Ref):
                value = leaf.read()
                steps = self.of(leaf, noted.get(i, ())) if leaf.passed is not None or i in noted else ()
                found[value] = steps if found.get(value, steps) == steps else None
        return found

    def read(
        self,
        result: Any,
        reading: Reading,
        target: OpOverload,
        args: Any,
        origin: Origin,
        origins: Mapping[Value, Origin],
    ) -> Any:
        """Note what the values behind a call's result read; results that are an argument have gone through it."""
        if any(reading.values()) or not self._passed.isdisjoint(reading):
            self._note([r.read() for r in pytree.tree_leaves(result) if isinstance(r, Ref)], reading, origin, origins)
        if not isinstance(result, Ref) or (value := result.read()) not in reading:
            return result
        before = reading[value]
        if before is None:
            return result
        name = target._schema.name.partition("::")[2]
        settings = (("p", float(args[1])),) if name == "dropout" else ()
        after = Ref(value, result.cell, result.ops)
        after.apart = result.apart
        own = (
            (Step(origin.module, origin.calls, settings),) if name in _ANOTHER and origin.module in self._leaves else ()
        )
        after.passed = value, (*before, *own)
        return after

    def _note(
        self, results: Iterable[Value], reading: Reading, origin: Origin, origins: Mapping[Value, Origin]
    ) -> None:
        stack = [v for v in results if v not in reading]
        seen = set(stack)
        while stack:
            value = stack.pop()
            steps: dict[int, tuple[Step, ...]] = {}
            for i, a in enumerate(value.args):
                through = reading.get(a)
                if through and not isinstance(a.op, Const | Iota):
                    kept = tuple([s for s in through if (s.module, s.calls) != (origin.module, origin.calls)])
                    if kept:
                        steps[i] = kept
                        self._passed.add(a)
                if a not in reading and a not in seen and not isinstance(a.op, Leaf):
                    seen.add(a)
                    stack.append(a)
            is_known = value in self._readers or origins.get(value) is not origin
            if not is_known:
                self._readers[value] = steps
            elif self._readers.get(value, steps) != steps:  # one value for two readers
                self._readers[value] = {}

    def told(
        self, origins: Mapping[Value, Origin], outputs: Mapping[str, Value], given: Mapping[str, tuple[Step, ...]]
    ) -> dict[Value, Origin]:
        """The origins with the notes; ``given`` has what outputs went through."""
        found: dict[int, dict[Pass, None]] = {}
        for value, steps in self._readers.items():
            for i, through in steps.items():
                own = found.setdefault(id(origins[value]), {})
                own.update(dict.fromkeys(_passes(through, i, maker(value.args[i], origins))))
        for name, through in given.items():
            origin = origins.get(outputs[name])
            if through and origin is not None:
                found.setdefault(id(origin), {}).update(dict.fromkeys(_passes(through, -1, name)))
        if not found:
            return dict(origins)
        made = {id(o): o._replace(passes=tuple(found[id(o)])) for o in origins.values() if id(o) in found}
        self._leave_out_wrong(origins, made)
        return {v: made.get(id(o), o) for v, o in origins.items()}

    def _leave_out_wrong(self, origins: Mapping[Value, Origin], made: dict[int, Origin]) -> None:
        """Leave out notes that would be taken for those of another argument."""
        for value, origin in origins.items():
            new = made.get(id(origin))
            if new is None:
                continue
            for i, a in enumerate(value.args):
                of = maker(a, origins)
                through = new.through(i, of) if origins.get(a) is not origin else []
                if tuple(through) != _passes(self._readers.get(value, {}).get(i, ()), i, of):
                    left = tuple([p for p in new.passes if (p.argument, p.of) != (i, of)])
                    new = made[id(origin)] = new._replace(passes=left)


def _passes(steps: Iterable[Step], index: int, of: str) -> tuple[Pass, ...]:
    return tuple([Pass(s.module, index, of, s.calls, s.settings) for s in steps])
