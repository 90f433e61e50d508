"""Rules of torch's ops of higher order, whose arguments are graphs: ``torch.cond``, loops and ``flex_attention``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tdagger import library as lib
from tdagger.frameworks.torch.aten import number_of
from tdagger.frameworks.torch.aten.calls import Caller, decomposed, refused, run_fx
from tdagger.frameworks.torch.aten.functional import Ref
from tdagger.graph import Graph, topological
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops.source import Input, Leaf
from tdagger.ops.structure import broadcast_to, group, reduce, squeeze, transpose, unsqueeze
from tdagger.program.trace import is_tracing
from tdagger.program.write import if_, scan_loop, while_loop
from tdagger.tensordag import Origin

_OriginOf = Callable[[torch.fx.Node], Origin]


def _cond(args: Sequence[Any], caller: Caller, origin_of: _OriginOf, origin: Origin) -> Any:
    """``torch.cond`` as the composite ``cond``, its branches as graphs; the one branch where it is known which."""
    predicate, *branches, operands = args
    known = number_of(predicate.read()) if isinstance(predicate, Ref) else predicate
    if known is not None:
        return run_fx(branches[0 if known else 1], operands, caller, origin_of)
    if is_tracing():
        arms = [_pure(b, operands, caller, origin_of, origin, "cond") for b in branches]
        chosen = if_(lib.reshape(predicate.read(), shape=()), lambda: arms[0]([]), lambda: arms[1]([]))
        caller.note(chosen, origin)
        return tuple(map(Ref, chosen))
    given = [x for x in operands if isinstance(x, Ref)]
    inputs = [Input(f"x{i}", x.read().type)() for i, x in enumerate(given)]
    found: list[list[Value]] = []
    for branch in branches:
        own = [Ref(x) for x in inputs]
        places = iter(own)
        results = run_fx(branch, [next(places) if isinstance(x, Ref) else x for x in operands], caller, origin_of)
        if any(x.cell.version for x in own):
            raise refused("cond", "a branch writes to its arguments", caller, origin)
        if not all(isinstance(x, Ref) for x in results):
            raise refused("cond", "a branch gives what isn't a tensor", caller, origin)
        found.append([x.read() for x in results])
    reached = topological([v for values in found for v in values])
    others = [v for v in reached if isinstance(v.op, Input) and v not in inputs]  # the seed of random numbers
    named = {v.op.leaf: v for v in (*inputs, *others) if isinstance(v.op, Leaf)}
    then, otherwise = (
        Graph(named, {str(i): v for i, v in enumerate(values)}, name=name)
        for name, values in zip(("then", "otherwise"), found, strict=True)
    )
    chooses = lib.reshape(predicate.read(), shape=())
    value = lib.cond(chooses, *[x.read() for x in given], *others, then=then, otherwise=otherwise)
    chosen: tuple[Value, ...] = value if isinstance(value, tuple) else (value,)
    caller.note(chosen, origin)
    return tuple(map(Ref, chosen))


#: What to do where a loop is met that no TDAG has.
_AS_PROGRAM = "a loop on data, which a TDAG doesn't have: td.Program.from_torch imports it as blocks"


def _pure(
    graph: Any, besides: Sequence[Any], caller: Caller, origin_of: _OriginOf, origin: Origin, name: str
) -> Callable[[Sequence[Value]], tuple[Value, ...]]:
    """What a graph gives on values, and on what it takes ``besides``; refused if it writes to any of it."""

    def call(values: Sequence[Value]) -> tuple[Value, ...]:
        given = [*map(Ref, values), *besides]
        before = [(x.cell, x.cell.version) for x in given if isinstance(x, Ref)]
        drawn = caller.streams
        results = run_fx(graph, given, caller, origin_of)
        if caller.streams != drawn and name != "cond":
            raise refused(name, "it draws random numbers, which would be the same in each turn", caller, origin)
        results = results if isinstance(results, tuple | list) else (results,)
        if any(cell.version != version for cell, version in before):
            raise refused(name, "what is inside writes to its arguments", caller, origin)
        if not all(isinstance(x, Ref) for x in results):
            raise refused(name, "what is inside gives what isn't a tensor", caller, origin)
        found = tuple([x.read() for x in results])
        caller.note(found, origin)
        return found

    return call


def _tensors(x: Any, name: str, caller: Caller, origin: Origin) -> list[Value]:
    """The values of a list of tensors; refused if something else is among them."""
    if not all(isinstance(v, Ref) for v in x):
        raise refused(name, "it carries what isn't a tensor", caller, origin)
    return [v.read() for v in x]


def _while_loop(args: Sequence[Any], caller: Caller, origin_of: _OriginOf, origin: Origin) -> Any:
    """``while_loop`` as blocks of the program that is imported."""
    if not is_tracing():
        raise refused("while_loop", _AS_PROGRAM, caller, origin)
    test, body, carried, *more = args
    besides = more[0] if more else ()
    going = _pure(test, besides, caller, origin_of, origin, "while_loop")
    turn = _pure(body, besides, caller, origin_of, origin, "while_loop")
    start = tuple(_tensors(carried, "while_loop", caller, origin))
    found = while_loop(lambda *x: lib.reshape(going(x)[0], shape=()), lambda *x: turn(x), start)
    return tuple(map(Ref, found))


def _scan(args: Sequence[Any], caller: Caller, origin_of: _OriginOf, origin: Origin) -> Any:
    """``scan``: the last carries, then what each turn gives."""
    if not is_tracing():
        raise refused("scan", _AS_PROGRAM, caller, origin)
    body, init, xs, *more = args
    turn = _pure(body, more[0] if more else (), caller, origin_of, origin, "scan")
    count = len(init)

    def step(carry: Any, x: Any) -> Any:
        found = turn([*carry, *x])
        return found[:count], found[count:] or None

    start, entries = (tuple(_tensors(v, "scan", caller, origin)) for v in (init, xs))
    carry, ys = scan_loop(step, start, entries)
    return tuple(map(Ref, (*carry, *(ys or ()))))


def _map(args: Sequence[Any], caller: Caller, origin_of: _OriginOf, origin: Origin) -> Any:
    """``map``: what a function gives of each entry."""
    if not is_tracing():
        raise refused("map", _AS_PROGRAM, caller, origin)
    body, xs, *more = args
    turn = _pure(body, more[0] if more else (), caller, origin_of, origin, "map")
    _, ys = scan_loop(lambda carry, x: (carry, turn(x)), (), tuple(_tensors(xs, "map", caller, origin)))
    return tuple(map(Ref, ys))


def _flex_attention(args: Sequence[Any], caller: Caller, origin_of: _OriginOf, origin: Origin) -> Any:
    """All scores, changed and masked by the functions given: ``[b h m d]``, ``[b k n d]``, ``[b k n e] -> [b h m e]``.

    Besides the logarithm to base 2 of the sum of exponentials of each row, and its maximum as one. A row without any
    key gives 0.
    """
    query, key, value = (x.read() for x in args[:3])
    score_mod, block_mask, scale = args[3:6]
    dtype = "f64" if query.dtype.name == "f64" else "f32"
    key, value = (_heads(x, query.shape[1]) for x in (key, value))
    scores = lib.matmul(e.cast(query, dtype), transpose(e.cast(key, dtype), -2, -1)) * float(scale)
    buffers: list[tuple[Any, ...]] = [tuple(x) for x in (*args[7:9], (), ())[:2]]
    mods = (score_mod, block_mask[-1], *buffers)
    graph = decomposed(_scores, (Ref(scores), *mods), {})
    if isinstance(graph, str):
        raise refused("flex_attention", graph, caller, origin)
    tensors = [Ref(scores), *[x for several in buffers for x in several if isinstance(x, Ref)]]
    changed, allowed = (x.read() for x in run_fx(graph, tensors, caller, lambda _: origin))
    masked = e.where(broadcast_to(allowed, changed.shape), changed, e.full_like(changed, -math.inf))
    highest = reduce(masked, "max", (-1,))
    empty = e.equal(highest, e.full_like(highest, -math.inf))
    weights = lib.softmax(masked, axis=-1)
    weights = e.where(broadcast_to(empty, weights.shape), e.zeros_like(weights), weights)
    out = lib.matmul(e.cast(weights, query.dtype), e.cast(value, query.dtype))
    total = squeeze(lib.logsumexp(masked, axes=(3,), keep=True), (3,)) / math.log(2)
    results = (out, total, squeeze(highest, (3,)) / math.log(2))
    caller.note(results, origin)
    return tuple(map(Ref, results))


def _heads(x: Value, count: int) -> Value:
    """``[b k n d]`` with every head as often as makes ``count``."""
    batch, heads, *rest = x.shape
    if heads == count:
        return x
    repeated = broadcast_to(unsqueeze(x, (2,)), (batch, heads, count // heads, *rest))
    return group(repeated, (1, 2, 1, 1))


def _scores(scores: Any, score_mod: Any, mask_mod: Any, buffers: Any, mask_buffers: Any) -> Any:
    """The scores as ``score_mod`` changes each, and which pairs ``mask_mod`` allows; both are of single entries."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
    from torch.nn.attention.flex_attention import _vmap_for_bhqkv

    places = [torch.arange(n, device=scores.device) for n in scores.shape]
    with TransformGetItemToIndex():
        changed = _vmap_for_bhqkv(score_mod, prefix=(0,), suffix=(None,) * len(buffers))(scores, *places, *buffers)
        allowed = _vmap_for_bhqkv(mask_mod, prefix=(), suffix=(None,) * len(mask_buffers))(*places, *mask_buffers)
    return changed, allowed


#: Name -> rule(arguments, caller, what tells a node's origin, the op's origin).
HIGHER_ORDER: dict[str, Callable[[Sequence[Any], Caller, _OriginOf, Origin], Any]] = {
    "cond": _cond,
    "map_impl": _map,
    "scan": _scan,
    "while_loop": _while_loop,
    "flex_attention": _flex_attention,
}
