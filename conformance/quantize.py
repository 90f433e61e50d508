"""Static quantization of one network of every timm family: the SQNR, or why it isn't quantized.

    python -m conformance.quantize timm                 # what is not in the results yet; then the table
    python -m conformance.quantize timm --only swin --again ok

Each network is quantized for x86 by two batches of noise and measured on two others, by torch. Weights are timm's
random ones with zeros and ones moved away. Results are lines of JSON in ``conformance/results/``;
docs/conformance-quantize.md is made from them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from conformance import timm_models
from conformance.axes import imported, short
from conformance.models import ROOT, command_line, listed
from conformance.sweep import Row
from tdagger.quantization.prepare import prepared_by
from tdagger.quantization.quality.sensitivity import ranked, sqnr

TABLE = ROOT / "docs" / "conformance-quantize.md"
#: dB that count as good.
GOOD = 20.0


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one network."""

    def run(name: str, report: Callable[..., None]) -> None:
        network, dag = imported(library, name, report)
        torch.manual_seed(1)
        data = [tuple(torch.randn_like(a) for a in network.args) for _ in range(4)]
        report(stage="quantize")
        start = time.process_time()
        prepared = prepared_by(dag, data[:2], "x86")
        small = prepared.convert()
        report(seconds=round(time.process_time() - start, 1), ops=len(prepared.placement.rows))
        report(stage="measure")
        found = sqnr(prepared, small, data[2:])
        report(sqnr=found)
        if found < GOOD:
            report(worst=[[f.module or f.op, f.op, f.sqnr] for f in ranked(prepared, data[:1])[:3]])

    return run


def page(results: dict[str, dict[str, Row]]) -> str:
    """The table."""
    lines = [
        "# Static quantization of one network of every timm family",
        "",
        "Made by `make conformance-quantize` (`conformance/quantize.py`); don't edit it by hand. Target x86: u8",
        "activations, i8 weights per channel; two batches of noise to calibrate, two others to measure; weights are",
        "random.",
        "Where the SQNR is below 20 dB, the ops that lose most by themselves are named with what they have alone.",
    ]
    for library, rows in results.items():
        if not rows:
            continue
        good = sum(r.get("sqnr", -1) >= GOOD for r in rows.values())
        states = Counter(r.get("status", "?") for r in rows.values())
        lines += [
            "", f"## {library}", "", f"- at least {GOOD:.0f} dB: {good} of {len(rows)}",
            f"- {', '.join(f'{n} {k}' for k, n in states.items())}", "",
            "| network | ops | SQNR dB | s | |", "|---|--:|--:|--:|---|", *[_line(n, r) for n, r in rows.items()],
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(name: str, row: Row) -> str:
    why = ", ".join(f"{m} ({op}) {q:.1f}" for m, op, q in row.get("worst", ()))
    if row.get("status") != "ok":
        why = f"{row.get('status')}: {short(row.get('error', ''))}"
    found: Any = row.get("sqnr")
    cells = [name, row.get("ops", ""), "" if found is None else f"{found:.1f}", row.get("seconds", ""), why]
    return f"| {' | '.join(map(str, cells))} |"


LIBRARIES: dict[str, Callable[[], Sequence[str]]] = {"timm": timm_models.names}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(LIBRARIES, found)))

    command_line(__doc__, LIBRARIES, work, "quantize-", write, arguments)


if __name__ == "__main__":
    main()
