"""What quantizing does to each layer, in a picture of the network: its own SQNR, what is clipped, ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tdagger.op import Value
from tdagger.quantization.observers import Histogram
from tdagger.quantization.prepare import Prepared
from tdagger.quantization.quality.report import Layer, layers, observed
from tdagger.view.document import Measure, Said
from tdagger.view.views import View
from tdagger.view.weights import BINS


def view(prepared: Prepared, data: Iterable[Any] | None = None, **options: Any) -> View:
    """A picture of the network with each layer's SQNR in dB, and what is clipped and at an end of the range, as shares.

    The panel tells the range that data had and the one that is told apart, and how what an op takes is spread where the
    observer keeps that (minmax and moving don't). ``data`` are batches as
    :meth:`Prepared.calibrate` takes them; without any there is neither SQNR nor what is at an end. Options are those of
    :class:`tdagger.view.views.View`.

    >>> import numpy as np, tdagger as td
    >>> weights = {"w": np.linspace(-1, 1, 16, dtype="f").reshape(4, 4)}
    >>> dag = td.network(lambda x, w: td.linear(x, w), {"x": (2, 4)}, weights)
    >>> data = [np.ones((2, 4), "f")]
    >>> found = view(td.prepare(dag).calibrate(data), data).document["networks"][0]["measures"]
    >>> [(m["name"], m["unit"], len(m["each"])) for m in found]
    [('clipped', '', 1), ('SQNR', 'dB', 1), ('saturated', '', 1)]
    """
    rows = dict(zip(prepared.placement.rows, layers(prepared, data), strict=True))
    told = [Measure("clipped", "", "high", {v: row.clipped for v, row in rows.items()})]
    if data is not None:
        told.append(Measure("SQNR", "dB", "low", {v: row.sqnr for v, row in rows.items() if row.sqnr is not None}))
        ends = {v: row.saturated for v, row in rows.items() if row.saturated is not None}
        told.append(Measure("saturated", "", "high", ends))
    said = [
        Said("range of what it takes, on data", {v: _range(row.seen) for v, row in rows.items() if row.seen}),
        Said("range told apart", {v: _range(row.range) for v, row in rows.items() if row.range}),
        Said("what it takes, on data", dict(_spreads(prepared, rows))),
    ]
    return View([prepared.dag], measures=told, said=said, **options)


def _spreads(prepared: Prepared, rows: Mapping[Value, Layer]) -> Iterator[tuple[Value, dict[str, Any]]]:
    for value, row in rows.items():
        root = observed(prepared, value)
        seen = None if root is None else prepared.observers[root]
        if isinstance(seen, Histogram):
            yield value, _spread(seen) | ({"range": list(row.range)} if row.range else {})


def _spread(seen: Histogram) -> dict[str, Any]:
    """What an observer counted, as :func:`tdagger.view.weights.histogram` says it of numbers."""
    numbers = np.clip(np.append(seen.centres, 0.0), seen.low, seen.high)
    counts = np.append(seen.bins, seen.zeros)
    mean = float(np.average(numbers, weights=counts))
    std = float(np.sqrt(np.average(np.square(numbers - mean), weights=counts)))
    bins, edges = np.histogram(numbers, BINS, (seen.low, seen.high), weights=counts)
    return {
        "low": float(edges[0]), "high": float(edges[-1]), "counts": bins.tolist(), "mean": mean, "std": std,
        "zeros": seen.zeros, "nonfinite": 0,
    }  # fmt: skip


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4g} … {ends[1]:.4g}"
