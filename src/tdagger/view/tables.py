"""The tables of a view's JSON: types, ops, texts, formulas, costs. What is equal is there once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby
from typing import Any

from tdagger.analysis.cost.report import Cost, Row
from tdagger.analysis.formulas.formula import Costs, costs_of
from tdagger.analysis.formulas.polynomial import Atom, Generator, Number, Point, Poly, Symbol
from tdagger.analysis.formulas.work import WorkFormulas
from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, AxisError, UnsupportedError
from tdagger.graph import Graph, flops, is_view, label, result_types, traffic
from tdagger.op import Op, Value
from tdagger.ops.external import External
from tdagger.types import TensorType, each_type
from tdagger.view import text
from tdagger.view.expressions import attributes

#: What is counted of an op, in this order.
COLUMNS = ("flops", "macs", "attention_flops", "transcendental", "reads", "writes")

#: Of the body of a composite no more lines are shown.
_LINES = 60


class Table:
    """Entries by number, each once."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def put(self, entry: Any, key: Hashable | None = None) -> int:
        """The number of an entry; ``key`` says which are equal, itself unless told."""
        key = entry if key is None else key
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.entries)
            self.entries.append(entry)
        return found

    def known(self, key: Hashable) -> int | None:
        """The number of the entry of a key that is there."""
        return self._numbers.get(key)


class Formulas:
    """Costs of networks as formulas in one table, with the symbols they are in."""

    def __init__(self) -> None:
        self.table = Table()
        self.symbols: list[dict[str, Any]] = []
        self.conditions: list[dict[str, Any]] = []
        self._numbers: dict[Any, int] = {}

    def symbol(self, name: str, size: int, certain: bool) -> int:
        """The number of a free axis; of the second of two networks, that of the same name."""
        key = ("axis", name)
        if key not in self._numbers:
            self._numbers[key] = len(self.symbols)
            self.symbols.append({"name": name, "size": size, "axis": True, "certain": certain})
        else:
            known = self.symbols[self._numbers[key]]
            known["certain"] = known["certain"] and certain
            if known["size"] != size:
                known["sizes"] = [known["size"], size]
        return self._numbers[key]

    def runs(self, block: str) -> int:
        """The number of the symbol that says how often a block of a program is run, once unless told."""
        key = ("runs", block)
        if key not in self._numbers:
            self._numbers[key] = len(self.symbols)
            self.symbols.append({"name": block, "size": 1, "axis": True, "certain": True, "runs": True})
        return self._numbers[key]

    def number(self, value: int, unknown: bool = False) -> int:
        """A number; ``unknown``: what it is at other sizes nobody knows."""
        entry = {"value": value, "unknown": True} if unknown else {"value": value}
        return self.table.put(entry, (value, unknown))

    def formula(self, number: Number, value: int, sizes: Sizes) -> int:
        """The number of a formula that is ``value`` at the network's own sizes."""
        if not isinstance(number, Poly):
            return self.number(value)
        terms = [[n, *self._powers(monomial, sizes)] for monomial, n in number.terms.items()]
        return self.table.put({"value": value, "terms": terms}, (value, tuple(map(tuple, terms))))

    def _powers(self, monomial: tuple[Generator, ...], sizes: Sizes) -> list[int]:
        pairs = [(self._generator(g, sizes), sum(1 for _ in same)) for g, same in groupby(monomial)]
        return [n for pair in pairs for n in pair]

    def _generator(self, g: Generator, sizes: Sizes) -> int:
        if isinstance(g, Symbol):
            return sizes.of[g]
        of = [self.formula(a, sizes.point.of(a), sizes) if isinstance(a, Poly) else self.number(a) for a in g.args]
        key = (g.function, *of)
        if key not in self._numbers:
            self._numbers[key] = len(self.symbols)
            size = sizes.point.of(_alone(g))
            self.symbols.append({"function": g.function, "of": of, "size": size})
        return self._numbers[key]


def _alone(g: Atom) -> Poly:
    return Poly({(g,): 1})


class Sizes:
    """The free axes of a network: a formula for the cost of every op, and for every size."""

    def __init__(self, network: Any, formulas: Formulas, wanted: bool) -> None:
        self.formulas = formulas
        self.notices: list[str] = []
        self.of: dict[Symbol, int] = {}
        self.nodes: dict[Value, Any] = {}
        self.copies: dict[Value, list[Any]] = {}
        self.traffic: dict[Any, Any] = {}
        self.work: WorkFormulas | None = None
        costs = self._costs(network) if wanted else None
        self.point = Point({s: s.size for s in costs.symbols.values()} if costs else {})
        if costs is None or not costs.symbols:
            return
        certain = network.certain_dimensions and network.confirmed
        for name, symbol in costs.symbols.items():
            self.of[symbol] = formulas.symbol(name, symbol.size, bool(certain) and name in certain)
        self._walk(costs, network.graph)

    def _costs(self, network: Any) -> Costs | None:
        try:
            return costs_of(network.graph, network.axes()) if network.axis_names else network.graph.costs
        except (AxisError, UnsupportedError, AttributeValueError) as e:
            self.notices.append(f"there are no formulas: {e}")
            return None

    def _walk(self, costs: Costs, graph: Graph) -> None:
        try:
            walk = costs.walk()
            moved = traffic(walk.nodes)  # type: ignore[arg-type]
        except (AxisError, UnsupportedError) as e:
            self.notices.append(f"there are no formulas: {e}")
            return
        single = {v: nodes[0] for v, nodes in walk.copies.items() if len(nodes) == 1}
        self.nodes, self.traffic = {**single, **walk.of}, dict(moved)
        self.copies = dict(walk.copies)
        self.work = WorkFormulas(graph, self.nodes)
        for c in costs.conditions:
            formula = self.formulas.formula(c.number, self.point.of(c.number), self)
            self.formulas.conditions.append({"formula": formula, "is": c.kind, "why": c.message})

    def types(self, value: Value) -> list[tuple[int, list[int]]]:
        """The formulas of the bytes and of the sizes of each result."""
        node = self.nodes.get(value)
        if node is None:
            each = result_types(value)
            return [(self._plain(t.bytes), [self._plain(n) for n in t.shape]) for t in each]
        found: Sequence[Any] = each_type(node.type)
        out: list[tuple[int, list[int]]] = []
        for shaped, plain in zip(found, result_types(value), strict=True):
            sizes = [self._formula(n, m) for n, m in zip(shaped.shape, plain.shape, strict=True)]
            out.append((self._formula(shaped.bytes, plain.bytes), sizes))
        return out

    def cost(self, row: Row) -> tuple[int, ...]:
        """The formulas of what is counted of an op, in the order of :data:`COLUMNS`."""
        numbers = [row.total_flops, row.macs, row.attention_flops, row.transcendental, row.reads, row.writes]
        found = [self._plain(n) for n in numbers]
        node = self.nodes.get(row.value) if row.value is not None else None
        if node is not None and row.value is not None:
            work = self.work.of(row.value) if self.work is not None else None
            if work is not None:
                attention = 2 * work.macs if row.attention_flops == 2 * row.macs else 0
                for i, number in ((1, work.macs), (2, attention), (3, work.transcendental)):
                    found[i] = self._counted(number, numbers[i])
        nodes = [node] if node is not None else []
        nodes = nodes if row.value is None else self.copies.get(row.value, nodes)
        if nodes:
            moved = [self.traffic[n] for n in nodes]
            found[0] = self._formula(sum([flops(n) for n in nodes]), row.total_flops)
            found[4] = self._formula(sum([m.reads for m in moved]), row.reads)
            found[5] = self._formula(sum([m.writes for m in moved]), row.writes)
        return tuple(found)

    def _counted(self, number: Number, value: int) -> int:
        """A formula that has the value that was counted; where it hasn't, nobody knows it at other sizes."""
        return self._formula(number, value) if self.point.of(number) == value else self._plain(value)

    def _plain(self, n: int) -> int:
        return self.formulas.number(n, unknown=bool(self.of) and n != 0)

    def _formula(self, number: Number, value: int) -> int:
        return self.formulas.formula(number, value, self)


class Tables:
    """What a document's bodies refer to by number."""

    def __init__(self) -> None:
        self.types, self.ops, self.texts, self.costs = Table(), Table(), Table(), Table()
        self.formulas = Formulas()

    def op(self, value: Value) -> int:
        """The number of an op with its attributes."""
        types = tuple([a.type for a in value.args])
        key = (value.op, types if isinstance(value.op, Composite) else ())
        known = self.ops.known(key)
        return self.ops.put(self._op(value.op, value), key) if known is None else known

    def _op(self, op: Op, value: Value) -> dict[str, Any]:
        entry: dict[str, Any] = {"op": label(op), "attributes": attributes(op)}
        if isinstance(op, Composite):
            body = op.body(*[a.type for a in value.args])
            entry["text"] = self.texts.put(text.show(body, axes=False, max_lines=_LINES))
        else:
            entry["core"] = True
        if is_view(value):
            entry["view"] = True
        if isinstance(op, External):
            entry["external"] = True
        return entry


class Side:
    """One network of a view: the numbers of its types and costs."""

    def __init__(self, network: Any, tables: Tables, cost: Cost, formulas: bool) -> None:
        self.network, self.tables, self.cost = network, tables, cost
        self.axes = network.axes()
        self.sizes = Sizes(network, tables.formulas, formulas)
        self.rows = {row.value: row for row in cost.by_value}
        self._types: dict[Value, list[int]] = {}
        self._formal: dict[Value, Hashable] = {}
        self._costs: dict[Value, int | None] = {}

    def types(self, value: Value) -> list[int]:
        """The numbers of the types of all results."""
        found = self._types.get(value)
        if found is None:
            plain = result_types(value)
            named = self.axes.shape(value).split(", ") if len(plain) > 1 else [self.axes.shape(value)]
            formulas = self.sizes.types(value)
            self._formal[value] = (value.type, tuple([(size, *shape) for size, shape in formulas]))
            found = self._types[value] = [
                self._type(f"{t.dtype.name}[{names}]", str(t), formula)
                for names, t, formula in zip(named, plain, formulas, strict=True)
            ]
        return found

    def plain(self, type_: TensorType) -> int:
        """The number of a type that no value has."""
        number = self.tables.formulas.number
        return self._type(str(type_), str(type_), (number(type_.bytes), [number(n) for n in type_.shape]))

    def formal(self, value: Value) -> Hashable:
        """The types of all results, as formulas, whatever their axes are called: every layer has some of its own."""
        self.types(value)
        return self._formal[value]

    def _type(self, axes: str, numbers: str, formula: tuple[int, list[int]]) -> int:
        size, shape = formula
        entry = {"numbers": numbers, "axes": axes, "bytes": size, "shape": shape}
        return self.tables.types.put(entry, (axes, numbers, size, *shape))

    def cost_of(self, value: Value) -> int | None:
        """The number of what is counted of an op; None if something isn't."""
        if value not in self._costs:
            row = self.rows.get(value)
            partial = row is None or bool(_partial(value))
            self._costs[value] = None if partial else self.tables.costs.put(self.sizes.cost(row)) if row else None
        return self._costs[value]


def _partial(value: Value) -> bool:
    """Whether nothing is known of an op, or of one inside of it."""
    if isinstance(value.op, External):
        return True
    return any(graph.external for graph in value.op.inside(*[a.type for a in value.args]))
