"""A text generator of two networks: one that reads the prompt, one that adds a token with a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tdagger.errors import GraphError
from tdagger.graph import Graph
from tdagger.library.shape import reshape
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.elementwise import cast, less, minimum, not_equal
from tdagger.ops.indexing import gather, scatter
from tdagger.ops.source import const, iota
from tdagger.ops.structure import broadcast_to, concat, slice_axis
from tdagger.program.define import applied, bounded, length, made, upto
from tdagger.program.encoder import from_encoder
from tdagger.program.program import Program
from tdagger.program.sampling import CACHE, I64, Sampler, Sampling, greedy, needs, padded
from tdagger.program.structure import nothing
from tdagger.program.trace import as_value
from tdagger.program.write import while_loop
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType


def generate_program(
    prefill: TensorDAG,
    decode: TensorDAG,
    sampler: Sampler = greedy,
    end: int | None = None,
    name: str = "generate",
    start: Sequence[int] | None = None,
) -> Program:
    """A program that adds tokens to a prompt: ``program.run(prompt, count)`` gives the prompt and ``count`` more.

    ``prefill`` takes ``input_ids[1 s]`` and ``attention_mask``, ``decode`` one token after a cache of ``p`` entries,
    with ``position_ids`` and ``attention_mask``:
    ``td.from_transformers(model, seq=s)`` and ``td.from_transformers(model, past=p, mask=True)``. Prompts have 1 to
    ``s`` tokens, a text at most ``p + 1``. The cache has one size: entries that aren't there yet are masked.
    ``sampler`` makes a token of logits (greedy, :func:`top_k`). ``end`` is the token after which a text ends.
    GraphError if the networks don't take and give what is needed.

    Of an encoder and a decoder (T5, Whisper) ``prefill`` is ``td.from_transformers(model, seq=s, start=n)``, ``start``
    the ``n`` tokens that the decoder begins with: the program gives these and ``count`` more. It takes what the encoder
    does. A decoder has to take ``decoder_position_ids`` or to know distances alone; one with positions that are numbers
    in the network (BART, Marian) is refused.
    """
    if "decoder_input_ids" in prefill.graph.inputs:
        return from_encoder(prefill, decode, sampler, end, name, start)
    if start is not None:
        raise GraphError(f"generate: {shown(prefill.name)} has no decoder of its own that starts with tokens")
    needs(prefill.graph, ("input_ids", "attention_mask"), ("logits",), prefill.name)
    needs(decode.graph, ("input_ids", "attention_mask", "position_ids"), ("logits",), decode.name)
    caches = [n for n in decode.graph.inputs if n.startswith(CACHE)]
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

    def generate(prompt: Value, count: Value, seed: Value | None = None) -> Any:
        sampling = Sampling(sampler, size + 1, seed)
        given = length(prompt)
        total = given + count
        out = applied(
            prefill,
            {"input_ids": reshape(prompt, shape=(1, most)), "attention_mask": mask(given, most, prefill.graph)},
        )
        token = sampling.token(gather(reshape(out["logits"], shape=out["logits"].shape[1:]), given - 1, 0), given)
        start = {n: padded(out[n], size) for n in caches}
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
            token = sampling.token(reshape(out["logits"], shape=out["logits"].shape[2:]), k)
            return k + 1, token, scatter(room, k, token, 0), new

        k, _, room, _ = while_loop(going, step, (given + 1, token, room, start))
        return bounded(room, minimum(k, total))

    inputs = {"prompt": (upto(most),), "count": I64, **Sampling.inputs(sampler)}
    return made(generate, inputs, name=name, dtypes={"prompt": "i64"})
