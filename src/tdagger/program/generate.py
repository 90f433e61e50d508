"""A text generator of two networks: one that reads the prompt, one that adds a token with a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tdagger.errors import GraphError, TypeMismatchError
from tdagger.graph import Graph
from tdagger.library.reduction import argmax
from tdagger.library.shape import reshape
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.elementwise import cast, less, minimum, not_equal
from tdagger.ops.indexing import gather, scatter
from tdagger.ops.source import const, iota
from tdagger.ops.structure import broadcast_to, concat, slice_axis
from tdagger.program.define import applied, bounded, length, made, upto
from tdagger.program.program import Program
from tdagger.program.structure import nothing
from tdagger.program.trace import as_value
from tdagger.program.write import while_loop
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType

_I64 = TensorType((), "i64")
_CACHE = "past_key_values."


def greedy(logits: Value) -> Value:
    """The most likely token, the first of several: ``[vocabulary] -> i64[]``."""
    return reshape(argmax(logits, axis=0), shape=())


def generate_program(
    prefill: TensorDAG,
    decode: TensorDAG,
    sampler: Callable[[Value], Value] = greedy,
    end: int | None = None,
    name: str = "generate",
) -> Program:
    """A program that adds tokens to a prompt: ``program.run(prompt, count)`` gives the prompt and ``count`` more.

    ``prefill`` takes ``input_ids[1 s]`` and ``attention_mask``, ``decode`` one token after a cache of ``p`` entries,
    with ``position_ids`` and ``attention_mask``:
    ``td.from_transformers(model, seq=s)`` and ``td.from_transformers(model, past=p, mask=True)``. Prompts have 1 to
    ``s`` tokens, a text at most ``p + 1``. The cache has one size: entries that aren't there yet are masked.
    ``sampler`` makes a token of logits. ``end`` is the token after which a text ends. GraphError if the networks don't
    take and give what is needed.
    """
    _needs(prefill.graph, ("input_ids", "attention_mask"), ("logits",), prefill.name)
    _needs(decode.graph, ("input_ids", "attention_mask", "position_ids"), ("logits",), decode.name)
    caches = [n for n in decode.graph.inputs if n.startswith(_CACHE)]
    missing = [n for n in caches if n not in prefill.graph.outputs or n not in decode.graph.outputs]
    if not caches or missing:
        raise GraphError(f"generate: {shown(prefill.name)} and {shown(decode.name)} share no cache: {missing[:3]}")
    size = decode.graph.inputs["attention_mask"].shape[1] - 1
    if any(decode.graph.inputs[n].rank != 4 or decode.graph.inputs[n].shape[2] != size for n in caches):
        raise GraphError(f"generate: a cache of {shown(decode.name)} hasn't {size} entries, as its mask has")
    most = prefill.graph.inputs["input_ids"].shape[1]
    if most > size:
        raise GraphError(f"generate: a prompt may have {most} tokens, and the cache has {size} entries")

    def mask(count: Value, of: int, like: Graph, more: int = 0) -> Value:
        """Ones for the first entries, and for ``more`` behind all."""
        kind = like.inputs["attention_mask"].dtype
        first = cast(less(iota(of), broadcast_to(count, (of,))), kind)
        ones = [broadcast_to(const(np.ones((), kind.numpy), kind), (more,))] if more else []
        return reshape(concat([first, *ones], 0), shape=(1, of + more))

    def generate(prompt: Value, count: Value) -> Any:
        given = length(prompt)
        total = given + count
        out = applied(
            prefill,
            {"input_ids": reshape(prompt, shape=(1, most)), "attention_mask": mask(given, most, prefill.graph)},
        )
        token = _token(sampler, gather(reshape(out["logits"], shape=out["logits"].shape[1:]), given - 1, 0))
        start = {n: _padded(out[n], size) for n in caches}
        room = concat([prompt, nothing(TensorType((size + 1 - most,), "i64"))], 0)
        room = scatter(room, minimum(given, as_value(size)), token, 0)

        def going(k: Value, token: Value, room: Value, cache: Mapping[str, Value]) -> Value:
            del room, cache
            more = less(k, total)
            return more if end is None else more & not_equal(token, as_value(end))

        def step(k: Value, token: Value, room: Value, cache: Mapping[str, Value]) -> Any:
            at = k - 1
            told = {
                "input_ids": reshape(token, shape=(1, 1)),
                "position_ids": reshape(at, shape=(1, 1)),
                "attention_mask": mask(at, size, decode.graph, 1),
            }
            out = applied(decode, {**told, **cache})
            last = {n: slice_axis(out[n], 2, size, size + 1) for n in caches}
            new = {n: scatter(cache[n], at, reshape(v, shape=(*v.shape[:2], v.shape[3])), 2) for n, v in last.items()}
            token = _token(sampler, reshape(out["logits"], shape=out["logits"].shape[2:]))
            return k + 1, token, scatter(room, k, token, 0), new

        k, _, room, _ = while_loop(going, step, (given + 1, token, room, start))
        return bounded(room, minimum(k, total))

    return made(generate, {"prompt": (upto(most),), "count": _I64}, name=name, dtypes={"prompt": "i64"})


def _needs(graph: Graph, inputs: tuple[str, ...], outputs: tuple[str, ...], name: str) -> None:
    missing = [n for n in inputs if n not in graph.inputs] + [n for n in outputs if n not in graph.outputs]
    if missing:
        raise GraphError(
            f"generate: {shown(name)} has no {', '.join(missing)}; it takes {', '.join(list(graph.inputs)[:4])} and "
            f"gives {', '.join(list(graph.outputs)[:4])} (td.from_transformers(..., past=, mask=True))"
        )


def _token(sampler: Callable[[Value], Value], logits: Value) -> Value:
    token = sampler(logits)
    if token.type is not _I64:
        raise TypeMismatchError(f"generate: a sampler gives a token i64[], not {token.type}")
    return token


def _padded(cache: Value, size: int) -> Value:
    """A cache with zeros behind its entries."""
    more = size - cache.shape[2]
    if not more:
        return cache
    shape = (*cache.shape[:2], more, *cache.shape[3:])
    return concat([cache, nothing(TensorType(shape, cache.dtype))], 2)
