"""How much: a part (``50%``, ``0.5``) or a number (``2G``, ``3ms``), as text says it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from tdagger.errors import AttributeValueError

_NUMBER = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(%|[a-zA-Z]*)\s*")
_TIMES = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SECONDS = {"": 1, "s": 1, "ms": 1e-3, "us": 1e-6}


class Amount(NamedTuple):
    """A number, or a part of what there is."""

    number: float
    is_part: bool


def amount_of(text: str, option: str, seconds: bool = False) -> Amount:
    """What the text of an option or argument means: a percentage or a number up to 1 without unit is a part.

    AttributeValueError if it is neither. ``seconds``: the units are those of time.

    >>> amount_of("50%", "--flops"), amount_of("0.5", "--flops"), amount_of("2.5G", "--flops")
    (Amount(number=0.5, is_part=True), Amount(number=0.5, is_part=True), Amount(number=2500000000.0, is_part=False))
    >>> amount_of("0.5ms", "--time", seconds=True)
    Amount(number=0.0005, is_part=False)
    """
    units, example = (_SECONDS, "50% or 3ms") if seconds else (_TIMES, "50%, 0.5 or 2G")
    match = _NUMBER.fullmatch(text)
    unit = match[2] if match else ""
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:  # 1.2.3
        number = math.nan
    if not 0 < number < math.inf or unit not in (*units, "%") or (unit == "%" and number > 100):
        raise AttributeValueError(f"{option} takes a part or a number such as {example}, got {text!r}")
    if unit == "%":
        return Amount(number / 100, True)
    return Amount(number * units[unit], unit == "" and number <= 1)


def ratio_of(texts: Sequence[str]) -> float | dict[str, float]:
    """What ``--ratio`` says: a part for every group, or parts by the groups' names; what has no name is for the rest.

    >>> ratio_of(["30%"]), ratio_of(["30%", "layer1.*=50%"])
    (0.3, {'layer1.*': 0.5, '*': 0.3})
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, part = text.rpartition("=")
        if (name or "*") in found:
            raise AttributeValueError(f"--ratio has {name or 'a part for every group'} twice")
        amount = amount_of(part, "--ratio")
        if not amount.is_part or amount.number >= 1:
            raise AttributeValueError(f"--ratio is the part of units that goes, less than 1: 30%, got {text!r}")
        found[name or "*"] = amount.number
    rest = found.pop("*", None)
    if rest is None:
        return found
    return {**found, "*": rest} if found else rest
