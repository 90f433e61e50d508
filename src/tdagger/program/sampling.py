"""Samplers of text generators, and what their networks must have."""

from __future__ import annotations

from collections.abc import Callable

from tdagger.errors import AttributeValueError, GraphError, TypeMismatchError
from tdagger.graph import Graph
from tdagger.library.random import uniform
from tdagger.library.reduction import argmax, topk
from tdagger.library.shape import reshape
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.elementwise import cast, full_like, log, maximum, neg
from tdagger.ops.indexing import gather
from tdagger.ops.structure import concat
from tdagger.program.structure import nothing
from tdagger.types import TensorType

I64 = TensorType((), "i64")

#: What the names of a cache's tensors begin with.
CACHE = "past_key_values."


def greedy(logits: Value) -> Value:
    """The most likely token, the first of several: ``[vocabulary] -> i64[]``."""
    return reshape(argmax(logits, axis=0), shape=())


class TopK:
    """A sampler that draws one of the ``k`` most likely tokens, by what softmax of ``logits / temperature`` says.

    The numbers that it draws by are a function of the program's last input, ``seed``: one seed gives one text.

    >>> import tdagger as td
    >>> td.top_k(5, temperature=0.8)
    top_k(5, temperature=0.8)
    """

    def __init__(self, k: int, temperature: float = 1.0) -> None:
        if k < 1 or not temperature > 0:
            raise AttributeValueError(f"top_k: k is at least 1 and the temperature above 0, not {k} and {temperature}")
        self.k, self.temperature = k, temperature

    def __repr__(self) -> str:
        return f"top_k({self.k}, temperature={self.temperature})"

    def __call__(self, logits: Value, numbers: Value) -> Value:
        """A token of logits and ``k`` random numbers of 0 to 1, by the Gumbel-max trick."""
        if self.k > logits.shape[0]:
            raise TypeMismatchError(f"{self} of {logits.shape[0]} tokens")
        values, tokens = topk(logits, k=self.k, axis=0, stable=True)
        noise = neg(log(neg(log(maximum(numbers, full_like(numbers, 2.0**-24))))))
        best = argmax(cast(values, "f32") * (1.0 / self.temperature) + noise, axis=0)
        return gather(tokens, reshape(best, shape=()), 0)


def top_k(k: int, temperature: float = 1.0) -> TopK:
    """See :class:`TopK`."""
    return TopK(k, temperature)


Sampler = Callable[[Value], Value] | TopK


class Sampling:
    """What makes a token of logits at each place of a text."""

    def __init__(self, sampler: Sampler, places: int, seed: Value | None) -> None:
        self.sampler = sampler
        self.numbers: Value | None = None
        if isinstance(sampler, TopK):
            assert seed is not None
            self.numbers = uniform(seed, shape=(places, sampler.k))

    @staticmethod
    def inputs(sampler: Sampler) -> dict[str, TensorType]:
        """What a program takes besides for a sampler."""
        return {"seed": TensorType((), "u64")} if isinstance(sampler, TopK) else {}

    def token(self, logits: Value, place: Value) -> Value:
        """The token ``i64[]`` at a place of the text."""
        if isinstance(self.sampler, TopK):
            assert self.numbers is not None
            return self.sampler(logits, gather(self.numbers, place, 0))
        token = self.sampler(logits)
        if token.type is not I64:
            raise TypeMismatchError(f"generate: a sampler gives a token i64[], not {token.type}")
        return token


def needs(graph: Graph, inputs: tuple[str, ...], outputs: tuple[str, ...], name: str) -> None:
    """GraphError if a network doesn't take and give tensors of some names."""
    missing = [n for n in inputs if n not in graph.inputs] + [n for n in outputs if n not in graph.outputs]
    if missing:
        raise GraphError(
            f"generate: {shown(name)} has no {', '.join(missing)}; it takes {', '.join(list(graph.inputs)[:4])} and "
            f"gives {', '.join(list(graph.outputs)[:4])} (td.from_transformers(..., past=, mask=True))"
        )


def padded(cache: Value, size: int, front: bool = False) -> Value:
    """A cache with zeros behind its entries, or in front of them."""
    more = size - cache.shape[2]
    if not more:
        return cache
    zeros = nothing(TensorType((*cache.shape[:2], more, *cache.shape[3:]), cache.dtype))
    return concat([zeros, cache] if front else [cache, zeros], 2)
