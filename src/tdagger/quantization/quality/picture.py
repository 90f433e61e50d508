"""What quantizing does to each layer, in a picture of the network: its own SQNR, what is clipped, ranges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tdagger.quantization.prepare import Prepared
from tdagger.quantization.quality.report import layers
from tdagger.view.document import Measure, Said
from tdagger.view.views import View


def view(prepared: Prepared, data: Iterable[Any] | None = None, **options: Any) -> View:
    """A picture of the network with each layer's SQNR in dB, and what is clipped and at an end of the range, as shares.

    The panel tells the range that data had and the one that is told apart. ``data`` are batches as
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
    ]
    return View([prepared.dag], measures=told, said=said, **options)


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4g} … {ends[1]:.4g}"
