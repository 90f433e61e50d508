"""Dimensions of 1 entry that a file's numbers put beside a weight's, where they can only belong to their neighbour.

A program that was run at a batch of one had ``(s b) c`` where the file has the shape ``5 16``: of ``5 1 4 4`` made
``5 16`` nothing tells whether the 1 goes with what is before or behind it. Where what is behind is a dimension of a
weight it can't: a weight has the size that it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.terms import Axis, resolve
from tdagger.op import Op, Term, Value
from tdagger.ops.structure import Group, Ungroup
from tdagger.transform.axes.fills import fills_spread
from tdagger.transform.axes.unbatch import is_carried
from tdagger.transform.networks import N, rewritten

Pieces = list[list[int]]

#: What is grouped has to be right before it is known where it is split again.
_ROUNDS = 4


def rows_told(dag: N) -> N:
    """The network with such dimensions at their places, and weights that are one number spread over rows.

    Where both neighbours are dimensions of weights (a mask has as many entries as there are tokens), a 1 is put beside
    either if an input's dimension is only carried then: whatever the places, each row is computed alone, so other
    numbers of rows mean one thing.
    """
    if not _leaves_a_choice(dag):
        return fills_spread(dag)
    placed = _placed(dag)
    spread = fills_spread(placed)
    boldly = _placed(placed, boldly=True)
    if boldly is placed:
        return spread
    boldly = fills_spread(boldly)
    return boldly if _carried(boldly) > _carried(spread) else spread


def _carried(dag: Any) -> int:
    """How many dimensions of 1 entry of inputs are only carried."""
    axes = Axes(dag.graph)
    ones = [r[0] for terms in axes.inputs for t in terms if len(r := resolve(t)) == 1 and r[0].size == 1]
    return sum(is_carried(axes, axis) for axis in ones)


def ones_placed(dag: N) -> N:
    """The network with such dimensions beside the neighbour that is no weight's.

    Every value keeps its type and its numbers. Linear, and no axes are looked for where no node leaves the choice:
    ``dag.origins`` has all values that nodes made.
    """
    return _placed(dag) if _leaves_a_choice(dag) else dag


def _placed(dag: N, boldly: bool = False) -> N:
    """:func:`ones_placed` where there is a choice; ``boldly``: or beside one that is a weight's as well."""
    for _ in range(_ROUNDS):
        found = _once(dag, boldly)
        if found is dag:
            break
        dag = found
    return dag


def _leaves_a_choice(dag: Any) -> bool:
    alike = {(v.op, v.type): v for v in dag.origins if v.op.__class__ in (Group, Ungroup)}
    return any(map(_may_be_moved, alike.values()))


def _once(dag: N, boldly: bool) -> N:
    if not any(_may_be_moved(v) for v in dag.graph.values):
        return dag
    axes = Axes(dag.graph)
    own = {a for terms in axes.inputs for term in terms for a in resolve(term) if a.size == 1}
    moved = {v: op for v in dag.graph.values if _may_be_moved(v) and (op := _moved(axes, v, own, boldly)) is not None}
    if not moved:
        return dag
    of_graph = iter(dag.graph.values)

    def rule(value: Value) -> Value | None:
        found = moved.get(next(of_graph))  # the driver gives every value of the graph once, in order
        return None if found is None else found(*value.args)

    return rewritten(dag, rule)


def _pieces(value: Value) -> Pieces:
    """Of a group or ungroup: for every dimension of the coarser side, the places of the finer side's in it."""
    op, at = value.op, 0
    counts = op.counts if isinstance(op, Group) else [len(s) for s in op.sizes] if isinstance(op, Ungroup) else []
    found: Pieces = []
    for count in counts:
        found.append(list(range(at, at + count)))
        at += count
    return found


def _may_be_moved(value: Value) -> bool:
    """Whether a piece of more than one dimension begins or ends with one of 1 entry, beside another piece."""
    if not isinstance(value.op, Group | Ungroup):
        return False
    finer = value.args[0].shape if isinstance(value.op, Group) else value.shape
    pieces = _pieces(value)
    return any(
        len(piece) > 1
        and math.prod([finer[i] for i in piece]) > 1
        and ((k > 0 and finer[piece[0]] == 1) or (k + 1 < len(pieces) and finer[piece[-1]] == 1))
        for k, piece in enumerate(pieces)
    )


def _moved(axes: Axes, value: Value, own: set[Axis], boldly: bool) -> Op | None:
    """The op with dimensions of 1 entry moved from pieces that are a weight's to those that aren't.

    Where dimensions are grouped they are those of an input; where they are split an input's is in the other piece,
    which has fewer dimensions than axes.
    """
    grouped = isinstance(value.op, Group)
    fine, coarse = (value.args[0], value) if grouped else (value, value.args[0])
    terms, wholes = axes[fine], axes[coarse]
    weighty = [_is_rigid(term) for term in wholes]
    pieces = _pieces(value)

    def moves(i: int, to: int) -> bool:
        term = resolve(terms[i] if grouped else wholes[to])
        has_place = not grouped and len(pieces[to]) >= sum(a in own or a.size > 1 for a in term)
        return fine.shape[i] == 1 and (boldly or not weighty[to]) and not has_place and any(a in own for a in term)

    changed = False
    for k, piece in enumerate(pieces):
        if not weighty[k]:
            continue
        while k > 0 and len(piece) > 1 and moves(piece[0], k - 1):
            pieces[k - 1].append(piece.pop(0))
            changed = True
        while k + 1 < len(pieces) and len(piece) > 1 and moves(piece[-1], k + 1):
            pieces[k + 1].insert(0, piece.pop())
            changed = True
    return _op(grouped, pieces, fine.shape) if changed else None


def _op(grouped: bool, pieces: Pieces, shape: Sequence[int]) -> Op:
    if grouped:
        return Group(tuple([len(piece) for piece in pieces]))
    return Ungroup(tuple([tuple([shape[i] for i in piece]) for piece in pieces]))


def _is_rigid(term: Term) -> bool:
    """Whether a dimension is, in part, one of a parameter or buffer."""
    return any(a.rigid and a.size > 1 for a in resolve(term))
