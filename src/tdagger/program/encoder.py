"""Text generators of an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tdagger.errors import GraphError
from tdagger.interpret import run
from tdagger.library.shape import reshape
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.elementwise import cast, less, less_equal, minimum, not_equal
from tdagger.ops.indexing import scatter
from tdagger.ops.source import const, iota
from tdagger.ops.structure import broadcast_to, concat, slice_axis
from tdagger.program.define import applied, bounded, length, made, upto
from tdagger.program.program import Program
from tdagger.program.sampling import CACHE, I64, Sampler, Sampling, needs, padded
from tdagger.program.structure import nothing
from tdagger.program.trace import as_value
from tdagger.program.write import while_loop
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType

#: The names of caches of a decoder: of its own tokens, and of the encoder's.
_OWN, _CROSS = f"{CACHE}self_attention_cache.", f"{CACHE}cross_attention_cache."


def from_encoder(
    prefill: TensorDAG, decode: TensorDAG, sampler: Sampler, end: int | None, name: str, start: Sequence[int] | None
) -> Program:
    """A program of an encoder and a decoder; see :func:`generate_program`.

    The cache of the decoder stands at its end, so that tokens are as far from each other as in a shorter one.
    """
    needs(prefill.graph, ("decoder_input_ids",), ("logits",), prefill.name)
    needs(decode.graph, ("decoder_input_ids", "decoder_attention_mask"), ("logits",), decode.name)
    begin = prefill.graph.inputs["decoder_input_ids"].shape[1]
    if start is None or len(start) != begin:
        raise GraphError(
            f"generate: {shown(prefill.name)} begins with {begin} tokens of a decoder: start=[...] says which"
        )
    own = [n for n in decode.graph.inputs if n.startswith(_OWN)]
    cross = [n for n in decode.graph.inputs if n.startswith(_CROSS)]
    missing = [n for n in (*own, *cross) if n not in prefill.graph.outputs]
    if not own or missing or any(n not in decode.graph.outputs for n in own):
        raise GraphError(f"generate: {shown(prefill.name)} and {shown(decode.name)} share no cache: {missing[:3]}")
    size = decode.graph.inputs["decoder_attention_mask"].shape[1] - 1
    if any(decode.graph.inputs[n].rank != 4 or decode.graph.inputs[n].shape[2] != size for n in own) or begin > size:
        raise GraphError(f"generate: a cache of {shown(decode.name)} hasn't {size} entries, as its mask has")
    takes = {n: v.type for n, v in prefill.graph.inputs.items() if not n.startswith("decoder_")}
    tokens = takes.get("input_ids")
    varies = tokens is not None and "attention_mask" in takes and "attention_mask" in decode.graph.inputs
    known = {"decoder_input_ids", "decoder_attention_mask", "decoder_position_ids", "attention_mask", *own, *cross}
    unknown = [n for n in decode.graph.inputs if n not in known and n.rpartition(".")[2] != "last_hidden_state"]
    if unknown:
        raise GraphError(f"generate: {shown(decode.name)} takes {', '.join(unknown)}, and nobody gives it")

    if "decoder_position_ids" not in decode.graph.inputs:
        _refuse_fixed_positions(prefill, decode, start)

    def ones(count: Value, of: int, like: Value, last: bool) -> Value:
        """Ones for the first entries, or the last."""
        places = iota(of)
        limit = broadcast_to(const(of, "i64") - count if last else count, (of,))
        return reshape(cast(less_equal(limit, places) if last else less(places, limit), like.dtype), shape=like.shape)

    def generate(*values: Value) -> Any:
        given = dict(zip(inputs, values, strict=True))
        count, seed = given.pop("count"), given.pop("seed", None)
        sampling = Sampling(sampler, size + 1, seed)
        called = {**given, "decoder_input_ids": const(np.asarray([start]), "i64")}
        if varies:
            assert tokens is not None
            prompt = given["input_ids"]
            called["attention_mask"] = ones(
                length(prompt), tokens.shape[1], prefill.graph.inputs["attention_mask"], False
            )
            called["input_ids"] = reshape(prompt, shape=tokens.shape)
        for other in [n for n in prefill.graph.inputs if n not in called]:
            raise GraphError(f"generate: {shown(prefill.name)} takes {other}, and nobody gives it")
        out = applied(prefill, called)
        fixed = {n: out[n] for n in cross}
        if "attention_mask" in decode.graph.inputs:
            fixed["attention_mask"] = called["attention_mask"]
        for hidden in [n for n in decode.graph.inputs if n.rpartition(".")[2] == "last_hidden_state"]:
            fixed[hidden] = out["encoder_last_hidden_state"]
        token = sampling.token(_last(out["logits"]), as_value(begin))
        room = concat([const(np.asarray(start), "i64"), nothing(TensorType((size + 1 - begin,), "i64"))], 0)
        room = scatter(room, as_value(min(begin, size)), token, 0)
        total = minimum(count + begin, as_value(size + 1))

        def going(k: Value, token: Value, room: Value, cache: Mapping[str, Value]) -> Value:
            del room, cache
            more = less(k, total)
            return more if end is None else more & not_equal(token, as_value(end))

        def step(k: Value, token: Value, room: Value, cache: Mapping[str, Value]) -> Any:
            told = {
                "decoder_input_ids": reshape(token, shape=(1, 1)),
                "decoder_position_ids": reshape(k - 1, shape=(1, 1)),
                "decoder_attention_mask": ones(k, size + 1, decode.graph.inputs["decoder_attention_mask"], True),
            }
            told = {n: v for n, v in told.items() if n in decode.graph.inputs}
            out = applied(decode, {**told, **fixed, **cache})
            new = {n: slice_axis(out[n], 2, 1, size + 1) for n in own}
            token = sampling.token(_last(out["logits"]), k)
            return k + 1, token, scatter(room, k, token, 0), new

        before = {n: padded(out[n], size, front=True) for n in own}
        k, _, room, _ = while_loop(going, step, (as_value(begin + 1), token, room, before))
        return bounded(room, minimum(k, total))

    inputs: dict[str, Any] = {n: t for n, t in takes.items() if not (varies and n == "attention_mask")}
    if varies:
        assert tokens is not None
        inputs["input_ids"] = (upto(tokens.shape[1]),)
    inputs |= {"count": I64, **Sampling.inputs(sampler)}
    return made(generate, inputs, name=name, dtypes={"input_ids": "i64"})


def _refuse_fixed_positions(prefill: TensorDAG, decode: TensorDAG, start: Sequence[int]) -> None:
    """GraphError if the decoder's positions are numbers in ``decode``, which are those behind a full cache.

    That shows where the first token comes after nothing: it has to give what ``prefill`` gives. Networks without
    weights aren't asked.
    """
    if any(n not in dag.weights for dag in (prefill, decode) for n in (*dag.graph.parameters, *dag.graph.buffers)):
        return
    given = {n: np.ones(v.shape, v.dtype.numpy) for n, v in prefill.graph.inputs.items()}
    before, _ = run(prefill.graph, {**given, "decoder_input_ids": np.asarray([start])}, prefill.weights)
    told = {n: np.zeros(v.shape, v.dtype.numpy) for n, v in decode.graph.inputs.items()}
    told["decoder_input_ids"][:] = start[0]
    told["decoder_attention_mask"][:, -1] = 1
    for name, array in told.items():
        if name.startswith(_CROSS):
            told[name] = before[name]
        elif name.rpartition(".")[2] == "last_hidden_state":
            told[name] = before["encoder_last_hidden_state"]
        elif name == "attention_mask":
            array[:] = 1
    after, _ = run(decode.graph, told, decode.weights)
    found, want = (np.asarray(x["logits"][0, 0], "f8") for x in (after, before))
    exact = decode.graph.outputs["logits"].dtype.bytes >= 4
    if np.abs(found - want).max() > (1e-3 if exact else 5e-2) * np.abs(want).max():
        raise GraphError(
            f"generate: {shown(decode.name)} takes no decoder_position_ids, and its positions are numbers, those after "
            "a full cache: its first token gives other logits than the network has that reads the prompt. A cache of "
            "one size can't be filled with such a decoder"
        )


def _last(logits: Value) -> Value:
    """The logits of the last token: ``[1 n vocabulary] -> [vocabulary]``."""
    n = logits.shape[1]
    return reshape(slice_axis(logits, 1, n - 1, n), shape=logits.shape[2:])
