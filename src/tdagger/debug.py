"""Looking into a run: the first value that isn't finite, statistics of all values, every value as it is computed.

>>> import tdagger as td
>>> dag = td.network(lambda x: td.exp(td.log(x)) * 2.0, {"x": (2,)})
>>> print(first_nonfinite(dag, np.array([1.0, -1.0], "f")))
log(f32[2]) -> f32[2]: 1 of 2 entries is nan, the first at [1]; no argument has one: argument 0 is from -1 to 1
>>> print(statistics(dag, np.array([1.0, 2.0], "f"))[1])
log                      f32[2]                        0     0.6931     0.3466     0.3466
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.graph import label, result_types
from tdagger.interpreter import Interpreter
from tdagger.names import shown
from tdagger.op import Array, Value
from tdagger.ops.source import Const, Leaf
from tdagger.tensordag import TensorDAG


def _several(result: Any) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", result) if isinstance(result, tuple) else (result,)


def _is_inexact(array: Array) -> bool:
    return array.dtype.kind in "fcV" or array.dtype.name.startswith(("bfloat", "float8"))


# --- what isn't finite -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nonfinite:
    """The first value of a run with NaNs or infinities that none of its arguments has.

    ``kind`` is "nan" or "inf", ``count`` how many entries, ``index`` the first of them. ``module`` and ``source`` are
    where the value came from, ``inside`` the op of a composite's body that made it first.
    """

    value: Value
    kind: str
    count: int
    index: tuple[int, ...]
    module: str
    source: str
    inside: str
    ranges: tuple[tuple[float, float] | None, ...]

    def __str__(self) -> str:
        value = self.value
        types = ", ".join(str(a.type) for a in value.args)
        what = f"{label(value.op)}({types}) -> {value.type}" if value.args else f"{value.op}: {value.type}"
        place = ", ".join(p for p in (self.module, self.source) if p)
        size = sum(t.size for t in result_types(value))
        lines = [f"{what}{f' ({place})' if place else ''}: {self.count} of {size} entries "]
        lines.append(f"{'is' if self.count == 1 else 'are'} {self.kind}, the first at {list(self.index)}")
        if value.args:
            known = [(i, r) for i, r in enumerate(self.ranges) if r is not None]
            told = [f"argument {i} is from {least:.6g} to {most:.6g}" for i, (least, most) in known]
            lines.append(f"; no argument has one: {', '.join(told) or 'none has floats'}")
        if self.inside:
            lines.append(f"; in its body by {self.inside}")
        return "".join(lines)


_HAS: dict[str, Callable[[Array], Any]] = {"nan": np.isnan, "inf": np.isinf}


class _Hunt(Interpreter):
    """Stops at the first value with what isn't finite."""

    def __init__(self, network: TensorDAG, framework: str, infinities: bool) -> None:
        super().__init__(network, framework)
        self.infinities = infinities
        self.kinds: dict[Value, set[str]] = {}
        self.found: tuple[Value, str, Array, list[Any]] | None = None

    def run_value(self, value: Value, args: list[Any]) -> Any:
        result = super().run_value(value, args)
        arrays = [self.framework.array(r) for r in _several(result)]
        kinds = {kind for a in arrays if _is_inexact(a) for kind, has in _HAS.items() if has(a).any()}
        self.kinds[value] = kinds
        before = {k for a in value.args for k in self.kinds.get(a, ())}
        new = "nan" if "nan" in kinds - before else "inf" if kinds and not before and self.infinities else ""
        if new and self.found is None and not isinstance(value.op, Const):
            array = next(a for a in arrays if _is_inexact(a) and _HAS[new](a).any())
            self.found = (value, new, array, args)
            raise _FoundError
        return result


class _FoundError(Exception):
    """Ends a run: what it was for is known."""


def first_nonfinite(
    dag: TensorDAG, *args: Any, framework: str = "numpy", infinities: bool = True, **kwargs: Any
) -> Nonfinite | None:
    """The first value that has NaNs or infinities though no argument of it has; None if there is none.

    It names the value, its module and source line, and in a composite the op of its body. Constants are left out: masks
    hold infinities on purpose; ``infinities=False`` looks for NaNs alone. Arguments are the network's, arrays, or
    torch's tensors with ``framework="torch"``.
    """
    hunt = _Hunt(dag, framework, infinities)
    with contextlib.suppress(_FoundError):
        hunt.run(*args, **kwargs)
    if hunt.found is None:
        return None
    value, kind, array, given = hunt.found
    origin = dag.origins.get(value)
    where = np.argwhere(_HAS[kind](array))
    arrays = [hunt.framework.array(a) for a in given]
    ranges = tuple(_range(a) for a in arrays)
    module, source = (origin.module, origin.source) if origin else ("", "")
    index = tuple(int(i) for i in where[0])
    return Nonfinite(value, kind, len(where), index, module, source, _inside(value, arrays), ranges)


def _range(array: Array) -> tuple[float, float] | None:
    if not _is_inexact(array) or not array.size or array.dtype.kind == "c":
        return None
    wide = array.astype(np.float64)
    return float(wide.min()), float(wide.max())


def _inside(value: Value, args: list[Array]) -> str:
    """The op of a composite's body that first has what isn't finite."""
    if not isinstance(value.op, Composite) or value.op.has_branches:
        return ""
    body = TensorDAG.of_graph(value.op.body(*[a.type for a in value.args]))
    hunt = _Hunt(body, "numpy", True)
    with contextlib.suppress(_FoundError):
        hunt.run_graph(dict(zip(body.graph.inputs, args, strict=True)))
    return "" if hunt.found is None else label(hunt.found[0].op)


# --- statistics --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistic:
    """What one value of a run holds: extremes, mean and standard deviation of its finite entries, and how many aren't.

    ``zeros`` is the share of entries that are 0. Of an op with several results there is one for each.
    """

    value: Value
    index: int
    module: str
    least: float
    most: float
    mean: float
    std: float
    zeros: float
    nonfinite: int

    def __str__(self) -> str:
        type_ = str(result_types(self.value)[self.index])
        name = label(self.value.op) if self.value.args else str(self.value.op)
        numbers = " ".join(f"{n:>10.4g}" for n in (self.least, self.most, self.mean, self.std))
        odd = f"  {self.nonfinite} not finite" if self.nonfinite else ""
        return f"{shown(name)[:24]:24} {type_:20} {numbers}{odd}  {shown(self.module)}".rstrip()


class _Statistics(Interpreter):
    def __init__(self, network: TensorDAG, framework: str) -> None:
        super().__init__(network, framework)
        self.rows: list[Statistic] = []

    def run_value(self, value: Value, args: list[Any]) -> Any:
        result = super().run_value(value, args)
        if value.op.name != "item" and not isinstance(value.op, Const):
            origin = self.network.origins.get(value) if isinstance(self.network, TensorDAG) else None
            for i, r in enumerate(_several(result)):
                self.rows.append(_statistic(value, i, origin.module if origin else "", self.framework.array(r)))
        return result


def _statistic(value: Value, index: int, module: str, array: Array) -> Statistic:
    wide = np.abs(array).astype(np.float64) if array.dtype.kind == "c" else array.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    least, most, mean, std = (float(f(finite)) if finite.size else 0.0 for f in (np.min, np.max, np.mean, np.std))
    zeros = float((wide == 0).mean()) if wide.size else 0.0
    return Statistic(value, index, module, least, most, mean, std, zeros, int(wide.size - finite.size))


def statistics(dag: TensorDAG, *args: Any, framework: str = "numpy", **kwargs: Any) -> list[Statistic]:
    """What every value of a run holds, in the order of the network, constants left out; each prints as a line.

    Complex numbers count by their size. ``framework``: see :func:`first_nonfinite`.
    """
    run = _Statistics(dag, framework)
    run.run(*args, **kwargs)
    return run.rows


# --- printing ----------------------------------------------------------------------------------------------


class _Trace(Interpreter):
    def __init__(self, network: TensorDAG, framework: str, tell: Callable[[str], None]) -> None:
        super().__init__(network, framework)
        self.tell = tell

    def run_value(self, value: Value, args: list[Any]) -> Any:
        result = super().run_value(value, args)
        if value.op.name != "item" and not isinstance(value.op, Leaf | Const):
            for i, r in enumerate(_several(result)):
                self.tell(str(_statistic(value, i, self.where(value).strip(" ()"), self.framework.array(r))))
        return result


def trace(
    dag: TensorDAG, *args: Any, framework: str = "numpy", tell: Callable[[str], None] = print, **kwargs: Any
) -> Any:
    """Run a network and ``tell`` a line for every op as it is computed; what the network gives.

    >>> import tdagger as td
    >>> _ = trace(td.network(td.exp, {"x": (2,)}), np.zeros(2, "f"))
    exp                      f32[2]                        1          1          1          0
    """
    return _Trace(dag, framework, tell).run(*args, **kwargs)


__all__ = ["Nonfinite", "Statistic", "first_nonfinite", "statistics", "trace"]
