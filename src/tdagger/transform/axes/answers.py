"""What a source answers who is asked whether it does at some sizes what the axes say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.formulas.polynomial import Point
from tdagger.analysis.formulas.symbolic import Condition
from tdagger.transform.axes.asking import Asking
from tdagger.transform.axes.open import TRIED, symbol_of
from tdagger.transform.axes.points import far, multiple_of
from tdagger.transform.axes.sources import SourceRaises
from tdagger.transform.networks import own_axes
from tdagger.types import readable

#: By axis of which multiples it has as many entries, and why.
Steps = Mapping[str, tuple[int, str]]


class Answers:
    """Why a source doesn't do what the axes say, at some sizes of axes, where the others have their own; kept."""

    def __init__(self, named: NamedAxes, ask: Asking | None) -> None:
        self.named = named
        #: What the graph asks of sizes.
        self.conditions: tuple[Condition, ...] = ()
        self._own = {symbol_of(n): named.sizes[n] for n in own_axes(named)}
        self._ask = ask
        self._known: dict[tuple[tuple[str, int], ...], str] = {}

    def point(self, sizes: Mapping[str, int]) -> Point:
        """Some sizes, and the own ones of other axes."""
        return Point({**self._own, **{symbol_of(n): size for n, size in sizes.items()}})

    def fit(self, sizes: Mapping[str, int]) -> bool:
        """Whether the graph may have such sizes."""
        point = self.point(sizes)
        return all(c.holds(point) for c in self.conditions)

    def fewer(self, name: str, least: Mapping[str, tuple[int, str]], steps: Steps) -> Iterator[int]:
        """The sizes below its own that an axis may have where the others have their own, the least first."""
        step, first = steps.get(name, (1,))[0], least.get(name, (1,))[0]
        sizes = range(-(-first // step) * step, self.named.sizes[name], step)
        return (n for n in sizes if self.fit({name: n}))

    def many(self, names: Sequence[str], steps: Steps) -> dict[str, int]:
        """Sizes far beyond the own ones, where the graph takes such: else the largest that it takes."""
        found = far(self.named, [n for n in names if n not in steps]) or {}
        for name in names:
            own, step = self.named.sizes[name], steps.get(name, (1,))[0]
            if name not in found or not self.fit({name: found[name]}):
                more = range(multiple_of(own, step) if step > 1 else own + TRIED, own, -step)
                found[name] = next((n for n in more if self.fit({name: n})), own)
        return found

    def fitting(self, sizes: Mapping[str, int], given: Mapping[str, int] | None = None) -> dict[str, int]:
        """Those of some sizes that the graph takes, one after the other, beside those that are given."""
        found = dict(given or {})
        for name, size in sizes.items():
            found |= {name: size} if self.fit(found | {name: size}) else {}
        return found

    def given(self, few: Mapping[str, int], many: Mapping[str, int]) -> dict[str, int]:
        """The largest sizes on the way from ``many`` to the own ones at which, beside few, anything is given at all."""
        while self.why_not({**few, **many}) == _NOTHING and any(n > self.named.sizes[a] for a, n in many.items()):
            less = {a: (n + self.named.sizes[a]) // 2 for a, n in many.items()}
            many = less if self.fit({**few, **less}) else {a: self.named.sizes[a] for a in many}
        return dict(many)

    def why_not(self, sizes: Mapping[str, int]) -> str:
        """Nothing if it does the same. Sketches are asked first, which are cheap."""
        key = tuple(sorted(sizes.items()))
        if key not in self._known:
            self._known[key] = self._why_not(sizes)
        return self._known[key]

    def differs(self, sizes: Mapping[str, int]) -> str:
        """As :meth:`why_not`, but nothing where one of them gives nothing: beyond a table of positions."""
        why = self.why_not(sizes)
        return "" if why == _NOTHING else why

    def _why_not(self, sizes: Mapping[str, int]) -> str:
        if self._ask is None or self._ask(sizes, cheaply=True):
            return ""
        if error := self._ask.raises(sizes):
            return f"the source itself raises {error}"
        try:
            same = self._ask(sizes)
            return "" if same else _NOTHING if same is None else "the source does something else"
        except SourceRaises as e:
            return readable(str(e)).splitlines()[0]


def shown(sizes: Mapping[str, int]) -> str:
    """Sizes as people read them."""
    return ", ".join(f"{n}={size}" for n, size in sizes.items())


#: What is said where the source, or the graph, has no such sizes.
_NOTHING = "the source gives nothing that can be compared"
