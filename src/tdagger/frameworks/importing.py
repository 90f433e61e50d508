"""What every importer keeps as it calls the rules of its table: origins, the source's order, problems, random streams.

An importer of a framework is a table of rules (:mod:`tdagger.frameworks.torch.aten`,
:mod:`tdagger.frameworks.onnx.ops`) and a walk over the framework's program that calls them. What can't be imported is
noted and told at the end, all at once. docs/add-a-framework.md says how a new one is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, cast

from tdagger import library as lib
from tdagger.errors import UnsupportedError
from tdagger.names import shown, untaken
from tdagger.network import Origin, Signature, with_seed
from tdagger.op import Value
from tdagger.ops.external import External
from tdagger.ops.source import Input, Leaf
from tdagger.ops.structure import items
from tdagger.types import TensorType


class Problem(NamedTuple):
    """One op that can't be imported: its name, why, and where it stands."""

    op: str
    why: str
    where: str


class Importing:
    """One network as it is imported.

    ``external`` says what becomes of ops without a rule: True keeps them as external ops of the framework, False
    collects them for one error at the end. ``taken`` are the names of the network's own inputs.
    """

    def __init__(self, external: bool = False, taken: Collection[str] = ()) -> None:
        self.external = external
        self.taken = taken
        self.origins: dict[Value, Origin] = {}
        #: The results of the calls, in the source's order.
        self.order: list[Value] = []
        self.problems: list[Problem] = []
        #: The input that random numbers come from, None as long as nothing is random; how many streams were drawn.
        self.seed: Value | None = None
        self.streams = 0

    def draw(self) -> Value:
        """The seed of a random stream that nothing else draws from."""
        if self.seed is None:
            name = untaken(lib.SEED, self.taken)
            self.seed = Input(name, TensorType((), "u64"))()
        self.streams += 1
        return lib.stream(self.seed, number=self.streams)

    def with_seed(self, inputs: dict[str, Value], signature: Signature) -> Signature:
        """The signature with the seed as its last keyword argument if anything is random; ``inputs`` get it too."""
        if self.seed is None:
            return signature
        assert isinstance(self.seed.op, Input)
        name = self.seed.op.leaf
        inputs[name] = self.seed
        return with_seed(signature, name)

    def note(self, result: Any, origin: Origin) -> None:
        """Give ``origin`` to every new value behind a result, and the result its place in the order."""
        origins = self.origins
        stack: list[Any] = [*cast(list[Any], result)] if isinstance(result, tuple | list) else [result]
        self.order.extend(v for v in stack if isinstance(v, Value))
        while stack:
            value: Any = stack.pop()
            if isinstance(value, Value) and value not in origins and not isinstance(value.op, Leaf):
                origins[value] = origin
                stack.extend(value.args)

    def stand_in(
        self,
        framework: str,
        target: str,
        arguments: tuple[Any, ...],
        keywords: tuple[tuple[str, Any], ...],
        results: Sequence[TensorType],
        tensors: Sequence[Value],
        origin: Origin,
    ) -> tuple[Value, ...]:
        """The results of an external op; ``arguments`` and ``keywords`` as :class:`External` has them."""
        value = External(framework, target, arguments, keywords, tuple(results))(*tensors)
        found = (value,) if len(results) == 1 else items(value)
        self.note(found, origin)
        return found

    def error(self, more: str = "", what: str = "calls") -> UnsupportedError:
        """One error that names every problem, with counts and the first places."""
        counts = Counter((p.op, p.why) for p in self.problems)
        lines = [f"{len(self.problems)} {what} of {len(counts)} ops can't be imported:"] if counts else []
        for (op, why), count in counts.most_common():
            places = [p.where for p in self.problems if (p.op, p.why) == (op, why)]
            named = "; ".join(dict.fromkeys(places[:3])) + ("; ..." if len(set(places)) > 3 else "")
            lines.append(f"  {count:4} x {op}: {why} (at {named})")
        if more:
            lines.append(more)
        lines.append(
            "Import with external=True to keep such ops as external ones, or add a rule (docs/importer-rule.md)."
        )
        return UnsupportedError("\n".join(lines))


def place_of(origin: Origin) -> str:
    """Where a value came from, for an error."""
    return f"{shown(origin.module) or 'the top module'}, {shown(origin.source) or 'source unknown'}"


#: A rule of an importer's table.
Rule = Callable[..., Any]
