"""A smaller vocabulary: rows of an embedding and classes of a head that is tied to it, by their numbers.

>>> import tdagger as td
>>> ids, table = td.input("ids", (1, 3), "i64"), td.parameter("embed.weight", (10, 4))
>>> h = td.embedding(table, ids)
>>> dag = td.TensorDAG.of_graph(td.Graph({"ids": ids}, {"logits": td.linear(h, table)}))
>>> with_vocabulary(dag, [0, 2, 5]).graph.outputs["logits"].type
f32[1 3 3]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tdagger.analysis.axes.terms import resolve
from tdagger.errors import AttributeValueError, GraphError
from tdagger.library.linear import embedding
from tdagger.names import shown
from tdagger.network import N, Network
from tdagger.op import Array, Value
from tdagger.ops.indexing import Gather
from tdagger.ops.source import Input, Parameter
from tdagger.prune.finding.entries import Entries
from tdagger.prune.finding.units import Units
from tdagger.prune.removing.apply import without
from tdagger.transform.networks import place
from tdagger.transform.surgery.edit import Edit, finished


def tables(dag: Network) -> list[str]:
    """The parameters whose rows inputs choose by their numbers: embeddings of tokens."""
    found: dict[str, None] = {}
    for value in dag.graph.values:
        table = _table(value)
        if table is not None and isinstance(value.args[1].op, Input):
            found[table] = None
    return list(found)


def _table(value: Value) -> str | None:
    """The parameter whose rows an op takes."""
    if not (value.op.name == embedding.name or (isinstance(value.op, Gather) and value.op.axis == 0)):
        return None
    leaf = value.args[0].op
    return leaf.leaf if isinstance(leaf, Parameter) else None


def with_vocabulary(dag: N, keep: Sequence[int], *also: str) -> N:
    """The network of fewer tokens; see :meth:`tdagger.TensorDAG.with_vocabulary`."""
    names = tables(dag)
    if len(names) != 1 and not also:
        raise GraphError(
            f"{shown(dag.name)}: name the embedding whose rows go; inputs choose rows of {names or 'none'}"
        )
    names = list(dict.fromkeys(also if len(names) != 1 else [*names, *also]))
    for name in names:
        if name not in dag.graph.parameters:
            raise GraphError(f"{shown(dag.name)} has no parameter {name!r} in use")
    sizes = {n: dag.graph.parameters[n].shape[0] for n in names}
    (size, *others) = set(sizes.values())
    rows = np.unique(np.asarray(keep, np.int64))
    if others or len(rows) != len(keep) or not len(rows) or rows[0] < 0 or rows[-1] >= size:
        raise AttributeValueError(
            f"with_vocabulary: keep is rows of {sizes}, each once, got {len(keep)} of {min(keep, default='none')} to "
            f"{max(keep, default='none')}"
        )
    if list(rows) != [int(k) for k in keep]:
        raise AttributeValueError(
            "with_vocabulary: keep is in rising order: the rows' new numbers are their places in it"
        )
    _refuse_readers(dag, set(names))
    entries = Entries(dag.graph, rows_of=frozenset(names))
    units = Units(entries)
    gone = np.ones(size, bool)
    gone[rows] = False
    classes: list[int] = []
    for name in names:
        term = resolve(entries.scope.terms[dag.graph.parameters[name]][0])
        if len(term) != 1 or term[0].block is not None:
            why = next((f.block for f in term if f.block is not None), None)
            told = (
                f"{why.value.op.name} {why.how}{place(dag.origins)(why.value)}" if why and why.value else "it is split"
            )
            raise GraphError(f"{shown(dag.name)}: rows of {name!r} can't go: {told}")
        own = units.of[term[0].number + np.flatnonzero(gone)]
        stays = np.flatnonzero(gone)[units.fixed[term[0].number + np.flatnonzero(gone)]]
        if len(stays):
            raise GraphError(f"{shown(dag.name)}: row {int(stays[0])} of {name!r} is taken by its number and can't go")
        classes += own.tolist()
    small = without(dag, units, units.removed(np.array(classes, np.int64)))[0]
    return _with_padding(small, set(names), rows)


def _with_padding(dag: N, names: set[str], rows: Array) -> N:
    """Embeddings whose padding, a row that isn't trained, has its new number."""
    edit = Edit(dag)

    def rule(value: Value, args: tuple[Value, ...]) -> Value | None:
        padding = value.op.attributes.get("padding") if value.op.name == embedding.name else None
        if padding is None or _table(value) not in names:
            return None
        now = np.flatnonzero(rows == padding)
        return embedding(*args, padding=int(now[0]) if len(now) else None)

    graph = edit.run(rule).graph()
    return dag if graph == dag.graph else finished(dag, graph, edit.origins, checks=edit.checks())


def _refuse_readers(dag: Network, names: set[str]) -> None:
    """GraphError where something else reads the inputs that choose rows: numbers of tokens may stand in it."""
    for value in dag.graph.values:
        if _table(value) not in names:
            continue
        index = value.args[1]
        for user in dag.graph.users[index]:
            if _table(user) is None or user.args[1] is not index:
                where = place(dag.origins)(user)
                raise GraphError(
                    f"{shown(dag.name)}: {user.op.name}{where} reads the numbers of tokens too, and would read the new "
                    "ones; put in their place what it computes of them (an attention mask as an input), then prune"
                )
        if not isinstance(index.op, Input):
            raise GraphError(
                f"{shown(dag.name)}: the rows of {_table(value)!r} are chosen by {index!r}{place(dag.origins)(index)}, "
                "which is computed; only an input's numbers can be others"
            )
