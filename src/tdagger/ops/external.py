"""The one escape: an op of one framework that tdagger doesn't know, with declared result types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tdagger.errors import UnsupportedError
from tdagger.names import shown
from tdagger.op import AxisRules, Op, Terms
from tdagger.types import ResultTypes, TensorType, ValueType


@dataclass(frozen=True)
class Slot:
    """Stands for tensor argument number ``index`` in the arguments of an external op."""

    index: int


class External(Op, core=True):
    """A named op of one framework: it goes back to that framework, and is refused by name anywhere else.

    ``arguments`` is the framework's argument list, nested tuples of constants with a :class:`Slot` for each
    tensor; ``keywords`` the keyword arguments as pairs; ``results`` the types of the results.
    """

    name = "external"
    framework: str
    target: str
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    results: tuple[TensorType, ...]

    def infer(self, *types: TensorType) -> ValueType:
        return self.results[0] if len(self.results) == 1 else ResultTypes(self.results)

    def axis_rule(self, rules: AxisRules, out: TensorType, *args: Terms) -> Terms:
        for terms in args:
            for term in terms:
                rules.mark(term, "hides")
        return tuple([rules.fresh(n, f"external {self.target}") for n in out.shape])

    def run(self, *arrays: Any) -> Any:
        raise UnsupportedError(
            f"{self.target} is an external op of {self.framework}: only {self.framework} can run it. "
            f"Go back with to_{self.framework}(), or add an importer rule for it (docs/importer-rule.md)"
        )

    def flops(self, out: TensorType, *types: TensorType) -> int:
        """Unknown: counts as 0 here, and the graph's ``external`` names it as uncounted."""
        return 0

    def __repr__(self) -> str:
        return f"external({shown(self.framework)}:{shown(self.target)})"
