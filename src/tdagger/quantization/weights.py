"""The data of quantized weights, made when it is asked for: nothing is kept, so a network streams weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tdagger.errors import InputError
from tdagger.network import Lazy, Weight
from tdagger.network import Weights as Weighed
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Leaf
from tdagger.quantization.scales import Affine, Weights

#: How a weight is rounded: its data, name, scales and how it is quantized to whole numbers of its shape. GPTQ and
#: AdaRound, which also ask what the weight is applied to, are functions of this kind.
Rounding = Callable[[Array, str, Affine, Weights], Array]


def nearest(weight: Array, name: str, scales: Affine, how: Weights) -> Array:
    """Each number to the nearest."""
    del name
    return how.rounded(weight, scales)


class Made(Lazy):
    """Arrays by name, each made by a function when it is asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], Array]]) -> None:
        self.makers = dict(makers)

    def __getitem__(self, name: str) -> Array:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def with_tied(
    state: Mapping[str, Weight], made: Mapping[str, Callable[[], Array]]
) -> tuple[dict[str, Weight], Weighed]:
    """A state in which what is tied to weights that were made is what these are, and all these weights, made lazily."""
    held = {n: n for n in made} | {n: w.alias_of for n, w in state.items() if w.alias_of in made and n not in made}
    told = {n: w if held.get(n, n) == n else replace(state[held[n]], alias_of=held[n]) for n, w in state.items()}
    by_name = Made(made)
    return told, Weighed({n: (by_name, of) for n, of in held.items()})


@dataclass
class Kept:
    """Numbers of weights that were made, with their scales; of several sources of the same weights and rounding.

    ``room``: so many bytes more may be kept.
    """

    room: int = 0
    #: Of the same weights, their scales before biases had to fit.
    scales: dict[tuple[str, Weights], Affine] = field(default_factory=dict[tuple[str, Weights], Affine])
    made: dict[tuple[str, Weights], tuple[Affine, Array]] = field(
        default_factory=dict[tuple[str, Weights], tuple[Affine, Array]]
    )

    def codes(self, key: tuple[str, Weights], scales: Affine, make: Callable[[], Array]) -> Array:
        """The numbers of a weight with these scales, which are kept if there is room."""
        if key in self.made:
            before, codes = self.made[key]
            if np.array_equal(before.scale, scales.scale) and np.array_equal(_zeros(before), _zeros(scales)):
                return codes
        codes = make()
        if codes.nbytes <= self.room:
            self.room -= codes.nbytes
            self.made[key] = scales, codes
        return codes


def _zeros(scales: Affine) -> Array:
    return np.zeros(()) if scales.zero_point is None else scales.zero_point


@dataclass
class Source:
    """Weights as they were and what their scales are; those of the last one asked for are kept."""

    weights: Mapping[str, Array]
    rounding: Rounding = nearest
    #: For a weight whose biases, one for each of its layers, must fit into i32: the least scales of channels.
    least: dict[tuple[str, Weights], list[Callable[[], Array]]] = field(
        default_factory=dict[tuple[str, Weights], list[Callable[[], Array]]]
    )
    #: Scales that were learned, by the weight and how it is quantized.
    given: Mapping[tuple[str, Weights], Affine] = field(default_factory=dict[tuple[str, Weights], Affine])
    kept: Kept = field(default_factory=Kept)
    _last: tuple[tuple[str, Weights], Affine] | None = None

    def data(self, name: str, leaf: Value) -> Array:
        """A weight, in f32; InputError if it isn't finite."""
        array = leaf.op.data if isinstance(leaf.op, Const) else self.weights[_name(leaf)]
        array = np.asarray(array, np.float32)
        if not np.isfinite(array).all():
            raise InputError(f"quantize: the weight {name!r} has numbers that aren't finite; keep it: keep=[{name!r}]")
        return array

    def scales(self, name: str, leaf: Value, how: Weights) -> Affine:
        """The scales of a weight."""
        key = (name, how)
        if self._last is None or self._last[0] != key:
            found = self.given.get(key) or self.kept.scales.get(key) or how.scales(self.data(name, leaf))
            if self.kept.room:
                self.kept.scales[key] = found
            for least in self.least.get(key, ()):
                found = Affine(np.asarray(np.maximum(found.scale, least())), found.zero_point)
            self._last = (key, found)
        return self._last[1]

    def codes(self, name: str, leaf: Value, how: Weights) -> Array:
        """A weight as the whole numbers it is rounded to."""
        scales = self.scales(name, leaf, how)
        return self.kept.codes((name, how), scales, lambda: self.rounding(self.data(name, leaf), name, scales, how))


def _name(leaf: Value) -> str:
    assert isinstance(leaf.op, Leaf)
    return leaf.op.leaf
