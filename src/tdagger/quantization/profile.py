"""What a target computes in numbers of few bits, as data: one file each in :mod:`tdagger.quantization.profiles`.

A profile says for every op that is quantized which of its arguments are, in which element types, and what shares a
scale. A new target is a new file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tdagger.errors import AttributeValueError
from tdagger.library.quantized import GRIDS, Grid


@dataclass(frozen=True)
class Numbers:
    """How a tensor is quantized.

    ``dtype`` is the element type; ``symmetric``: the zero point is the middle (0 of signed types); ``per``: a scale for
    the ``tensor``, each ``channel``, or each ``block`` of ``block`` entries along the axis that is summed over;
    ``narrow`` leaves out the smallest integer, so that both ends are as far from 0. ``bits``: only the integers that
    have as many are used, where the element type has more. ``observer`` finds the range; ``fixed`` is one that the
    target's kernel has whatever the data, its smallest and largest number.
    """

    dtype: str
    symmetric: bool = False
    per: str = "tensor"
    block: int = 0
    narrow: bool = False
    bits: int = 0
    observer: str = "minmax"
    fixed: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in GRIDS:
            raise AttributeValueError(f"numbers aren't quantized to {self.dtype!r}; there are {', '.join(GRIDS)}")
        if self.per not in ("tensor", "channel", "block") or (self.per == "block") != (self.block > 0):
            raise AttributeValueError(
                f"a scale is per tensor, channel or block (of block= entries), not {self.per!r}, {self.block}"
            )
        if self.bits and (self.grid.is_float or not 1 < self.bits <= self.grid.bits):
            raise AttributeValueError(f"{self.dtype} has no integers of {self.bits} bits")

    @property
    def grid(self) -> Grid:
        return GRIDS[self.dtype]

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest number that is used."""
        grid = self.grid
        if grid.is_float:
            return grid.low, grid.high
        unused = 2 ** (grid.bits - self.bits if self.bits else 0)
        low, high = grid.low // unused, (grid.high + 1) // unused - 1
        return (low + 1 if self.narrow and low < 0 else low), high


@dataclass(frozen=True)
class Row:
    """An op that is computed in few bits.

    ``inputs`` are its arguments that are quantized, by place. ``weight`` is the one of them that may be a weight, with
    one scale for each entry of ``channel`` (negative: from the end) and products summed over ``summed``; ``bias`` the
    place of what is added as i32. ``output``: its result is quantized too. ``follows``: only where all it takes was
    made by ops whose results are. ``second``: how the second argument is quantized where it isn't a weight; ``result``:
    how the result is, where that isn't as all activations.
    """

    inputs: tuple[int, ...] = (0,)
    weight: int | None = None
    channel: int = 0
    summed: int = 1
    bias: int | None = None
    output: bool = False
    follows: bool = False
    second: Numbers | None = None
    result: Numbers | None = None


@dataclass(frozen=True)
class Profile:
    """What a target computes how; see the module.

    ``activation`` is None where only weights are quantized. ``rows``: ops by name (elementwise ones by their function).
    ``fused``: what is computed with the op before it, so that nothing is quantized between. ``shares``: ops that move
    or choose entries, whose result has the scale of what they take. ``dynamic``: scales of activations are found when
    the network runs. ``opened``: composites that are quantized as what they are made of. ``least``: a layer
    whose result is rounded is quantized where each number of that is a sum of at least so many products, or somebody
    takes it as integers; fewer don't pay for rounding the result and reading it.
    """

    name: str
    weight: Numbers
    activation: Numbers | None
    rows: Mapping[str, Row]
    fused: frozenset[str] = frozenset()
    shares: frozenset[str] = frozenset()
    dynamic: bool = False
    opened: tuple[str, ...] = ()
    least: int = 0
    about: str = field(default="", compare=False)

    def having(self, **changes: Any) -> Profile:
        """The profile with another ``least``, or other numbers: ``activation`` and ``weight`` (or element types)."""
        found: dict[str, Any] = {}
        for name, value in changes.items():
            if value is None:
                continue
            before = getattr(self, name)
            if name in ("activation", "weight") and isinstance(value, str):
                value = replace(before or Numbers(value), dtype=value)
            found[name] = value
        return replace(self, **found)
