"""A view's JSON, which docs/view-json.md describes: the tree, its bodies and tables, and lists over the opened tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.cost.report import Cost
from tdagger.analysis.time.profile import Profile
from tdagger.analysis.time.timing import Device
from tdagger.graph import bulk
from tdagger.network import Network
from tdagger.op import Value
from tdagger.view import lists
from tdagger.view.changes import Changes
from tdagger.view.part import Part
from tdagger.view.tables import COLUMNS, Side, Tables
from tdagger.view.weights import Weights

VERSION = 1

#: Which boxes of a document are open at first.
Opened = Callable[[Mapping[str, Any]], list[list[int]]]


class Viewed(Network, Protocol):
    """What a view needs of a network: a :class:`tdagger.TensorDAG`."""

    @property
    def confirmed(self) -> frozenset[str]: ...
    def axes(self) -> NamedAxes: ...
    def cost(self) -> Cost: ...


class Measure(NamedTuple):
    """A number for some ops that somebody found: its name, its unit ("" for a share), and which end is the worst.

    ``each`` has the number of each op, a value of the network.
    """

    name: str
    unit: str
    worst: Literal["high", "low"]
    each: Mapping[Value, float]


class Said(NamedTuple):
    """What somebody found for some ops, and its name; ``each`` has that of each op, a value of the network.

    It is a text, or how numbers are spread: as :func:`tdagger.view.weights.histogram` has it.
    """

    name: str
    each: Mapping[Value, str | Mapping[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """What a view has besides structure and costs."""

    device: Device | None = None
    profiles: Sequence[Profile | None] = ()
    histograms: bool = False
    formulas: bool = True
    measures: Sequence[Measure] = ()
    weights: bool = True
    said: Sequence[Said] = ()


def document(networks: Sequence[Viewed], wanted: Wanted, opened: Opened) -> dict[str, Any]:
    """The JSON of one network, or of two compared."""
    with bulk():
        tables = Tables()
        sides = [Side(n, tables, n.cost(), wanted.formulas) for n in networks]
        part = Part(networks, sides, tables)
        weights = Weights(networks, sides, wanted.histograms)
        bodies = part.json()
        told = [_network(part, k, weights, wanted) for k in range(len(networks))]
        title = " | ".join([n.name for n in networks])
        notices = changed([part], told, weights, wanted) if len(networks) == 2 else []
        return whole(title, told, bodies, part.bodies.root, tables, weights, sides, opened, notices)


def changed(parts: Sequence[Part], told: list[dict[str, Any]], weights: Weights, wanted: Wanted) -> list[str]:
    """Add how far weights of two networks differ; in a sentence what was compared."""
    changes = Changes(parts, wanted.weights)
    weights.compare(changes)
    if changes.each:
        told[0].setdefault("measures", []).append(changes.measure())
    return [changes.notice] if changes.notice else []


def whole(
    title: str,
    networks: list[dict[str, Any]],
    bodies: list[dict[str, Any]],
    root: int,
    tables: Tables,
    weights: Weights,
    sides: Sequence[Side],
    opened: Opened,
    notices: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """A document of its parts; ``more`` are fields besides."""
    found: dict[str, Any] = {
        "schema": "tdagger.view", "version": VERSION, "title": title, "networks": networks,
        "types": tables.types.entries, "ops": tables.ops.entries, "texts": tables.texts.entries,
        "symbols": tables.formulas.symbols, "formulas": tables.formulas.table.entries,
        "conditions": tables.formulas.conditions, "cost_columns": list(COLUMNS),
        "costs": tables.costs.entries, "parameters": weights.table, "bodies": bodies, "root": root, **more,
    }  # fmt: skip
    found["notices"] = list(dict.fromkeys([*notices, *[n for side in sides for n in side.sizes.notices]]))
    found["open"] = opened(found)
    return found


def _network(part: Part, k: int, weights: Weights, wanted: Wanted) -> dict[str, Any]:
    network, side = part.networks[k], part.sides[k]
    graph = network.graph
    found: dict[str, Any] = {
        "name": network.name,
        "inputs": [{"name": n, "type": side.types(v)[0]} for n, v in graph.inputs.items()],
        "outputs": [{"name": n, "type": side.types(v)[0]} for n, v in graph.outputs.items()],
        "sizes": side.axes.sizes,
        "totals": lists.totals(network, side.cost, len(part.facts[k].shown)),
        "partial": dict(side.cost.partial),
        "slots": weights.of(part, k),
        "memory": lists.memory(part, k, side.cost),
    }
    if wanted.device is not None:
        found["predicted"] = lists.predicted(part, k, wanted.device)
    profile = wanted.profiles[k] if k < len(wanted.profiles) else None
    if profile is not None:
        found["measured"] = lists.measured(part, k, profile)
    if wanted.measures:
        found["measures"] = [
            {"name": m.name, "unit": m.unit, "worst": m.worst, "each": lists.found(part, k, m.each)}
            for m in wanted.measures
        ]
    if wanted.said:
        values = [leaf.values[k] for leaf in part.leaves]
        found["said"] = [
            {"name": s.name, "each": [None if v is None else s.each.get(v) for v in values]} for s in wanted.said
        ]
    return found
