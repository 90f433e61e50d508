"""What a composite's body says of the factors of its arguments and results, found once for each op and types.

A body that ties no entries one by one says three things: which factors the dimensions of its arguments and results
are made of, which of those stay whole, and what it does with them (operations, sums). That is kept with the op, on
factors of its own, and applied to each call's by matching dimension for dimension, as the axis algebra does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tdagger.analysis.axes.terms import resolve, size_of
from tdagger.composite import Composite
from tdagger.op import Array, Value
from tdagger.prune.finding import factors
from tdagger.prune.finding.factors import Block, Factor, Term, Terms, Tie
from tdagger.prune.finding.zeros import Zeros
from tdagger.types import TensorType

if TYPE_CHECKING:
    from tdagger.prune.finding.entries import Entries


class Body(NamedTuple):
    """The terms of a body's inputs and results in factors that are nobody else's, and what is said of those."""

    inputs: tuple[Terms, ...]
    results: tuple[Terms, ...]
    zeros: tuple[Zeros, ...]
    blocked: tuple[tuple[Factor, str], ...]
    seen: tuple[tuple[Term, str], ...]
    work: tuple[tuple[int, Term], ...]


def body_of(
    entries: type[Entries], op: Composite, types: tuple[TensorType, ...], zeros: tuple[Any, ...], norm: bool
) -> Body | None:
    """What is known of a body whose arguments have removed entries that are ``zeros``; None if it has to be walked.

    ``norm``: it is a norm's, or in one.
    """
    key = (body_of, types, zeros, norm)
    if key not in op.found:
        op.found[key] = _read(entries, op, types, zeros, norm)
    return op.found[key]


def _read(
    entries: type[Entries], op: Composite, types: tuple[TensorType, ...], zeros: tuple[Any, ...], norm: bool
) -> Body | None:
    graph = op.body(*types)
    if op.has_branches or any(0 in v.type.shape for v in graph.inputs.values()):
        return None
    inner = entries.of_body(graph, norm)
    inputs, results, each = inner.walked(graph, zeros)
    while _kept_whole(inner.ties):
        pass
    if any(not _is_whole(resolve((t.factor,))) or not _is_whole(resolve(t.term)) for t in inner.ties):
        return None
    work: dict[Term, int] = {}
    counted = inner.work if op.definition.flops_each is None else [(op.definition.flops_each, results[0])]
    for times, terms in counted:
        free: list[Factor] = []
        for factor in [f for t in terms for f in resolve(t)]:
            if factor.block is None:
                free.append(factor)
            else:
                times *= factor.size
        work[tuple(free)] = work.get(tuple(free), 0) + times
    leaves = dict.fromkeys(f for factor in inner.all for f in resolve((factor,)))
    return Body(
        tuple([tuple(map(resolve, terms)) for terms in inputs]),
        tuple([tuple(map(resolve, terms)) for terms in results]),
        tuple(each),
        tuple([(f, f.block.how) for f in leaves if f.block is not None]),
        tuple([(resolve(s.term), s.how) for s in inner.seen]),
        tuple([(n, key) for key, n in work.items()]),
    )


def _is_whole(term: Term) -> bool:
    return all(f.block is not None for f in term)


def _kept_whole(ties: list[Tie]) -> bool:
    """Block what is tied to what stays whole; a factor if ties cover all its entries. Whether that was new."""
    new = False
    covered: dict[Term, list[Array]] = {}
    for tie in ties:
        one, other = resolve((tie.factor,)), resolve(tie.term)
        if _is_whole(other):
            if not _is_whole(one):
                covered.setdefault(one, []).append(np.arange(size_of(one)) if tie.places is None else tie.places)
        elif _is_whole(one):
            factors.block(other, _why(one))
            new = True
    for term, places in covered.items():
        if len(np.unique(np.concatenate(places))) == size_of(term):
            factors.block(term, Block(None, "holds entries that are taken one by one"))
            new = True
    return new


def _why(term: Term) -> Block:
    found = next((f.block for f in term if f.block is not None), None)
    return found or Block(None, "holds entries that are taken one by one")


def applied(entries: Entries, body: Body, outer: Value, terms: list[Terms]) -> list[Terms]:
    """The terms of the results of a call whose arguments have these."""
    known: dict[Factor, Term] = {}
    for inner, own in zip(body.inputs, terms, strict=True):
        for term, actual in zip(inner, own, strict=True):
            if not term:
                continue
            pieces = [actual] if len(term) == 1 else entries.split(actual, [f.size for f in term])
            for factor, piece in zip(term, pieces, strict=True):
                before = known.get(factor)
                if before is None:
                    known[factor] = piece
                else:
                    entries.join((before,), (piece,))
    for factor, how in body.blocked:
        why = Block(outer, how)
        if factor in known:
            factors.block(known[factor], why)
        else:
            known[factor] = entries.fresh_factor(factor.size, why)

    def outside(term: Term) -> Term:
        found: Term = ()
        for factor in term:
            if factor not in known:
                known[factor] = entries.fresh_factor(factor.size)
            found += known[factor]
        return found

    entries.work += [(times, (outside(term),)) for times, term in body.work]
    entries.see(outer, [(outside(term), how) for term, how in body.seen])
    return [tuple(map(outside, result)) for result in body.results]
