"""The page that says what the sweeps over models found."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from conformance.check import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, ROUNDINGS

Row = dict[str, Any]

_INTRODUCTION = f"""# Model conformance

Real networks with random weights, imported by `td.from_torch` and brought back by `to_torch()`, each in a process
of its own with one thread. Made by `make conformance-timm` and `make conformance-transformers`
(`conformance/models.py`); don't edit it by hand.

- **outputs**: the largest difference on two inputs, relative to the largest number of that output; 0 means bit for
  bit. Allowed: {OUTPUT_TOLERANCE:g}. A `d` marks those compared in float64, where the difference in float32 is at
  most {ROUNDINGS} times that between the network's own float32 and its float64.
- **gradients** of the sum of all outputs, by parameter, relative to that parameter's largest; allowed:
  {GRADIENT_TOLERANCE:g}. A `d` marks those compared in float64, because in float32 sums that cancel leave only
  rounding. `-`: torch gives the network none.
- **GFLOPs** of the whole graph by tdagger's count; **products**: sums of products only, counted 2 each as
  torch's `FlopCounterMode` does, over what that counts in the original (1: the same number).
- **import s**: `td.from_torch`, over **export s**: `torch.export.export(strict=False)` alone; both once, import
  first, so what torch caches in a process is on import's bill. `benchmarks/` has the fair comparison.
- **peak MB**: memory that importing takes beyond what was held before.
- **via**: export, or trace where torch.export refuses and `from_torch(..., via="trace")` was used. `frozen` marks a
  network that decides by its data: torch.jit.trace's own result is wrong on other inputs too, so only the example
  is compared.

How the subjects were chosen, and what was changed after a first run failed:

- timm: by parameters, without timm's own `test_*` models. Three run on smaller images and levit_128s
  on a batch of 2 (`SMALLER` and `BATCH` in `conformance/timm_models.py`): at a batch of 1 torch's own gradient of
  it is not what finite differences give, ours is.
- transformers: of 605 kinds in the library, those that a shrunk config builds and that run on made-up inputs; 195 of
  the others failed before tdagger saw them, and torch.export alone took more than 90 s for timesfm2_5. Multimodal
  ones mostly run on text alone. Fields and inputs that could not be guessed are in
  `conformance/transformers_models.py`.
- Comparing gradients and outputs in float64, and leaving the second input of a `frozen` trace out, came after the
  first run.
- yoso is `wrong` by this comparison: its own backward is not the derivative of its forward, which finite differences
  show, and ours is; a capture keeps no such backward, and importing it warns.
- Both tables are of one run each, in one state of the code.

The state_dict has the same keys, shapes and types for every network that is `ok`.
"""


def page(results: Mapping[str, tuple[Sequence[str], Mapping[str, Row]]]) -> str:
    """The whole page: for each library its subjects and the rows there are."""
    parts = [_INTRODUCTION]
    for library, (names, rows) in results.items():
        parts.append(section(library, names, rows))
    return "\n".join(parts)


def section(library: str, names: Sequence[str], rows: Mapping[str, Row]) -> str:
    """The summary of one library, its networks, and why some are not ok."""
    found = [rows[n] for n in names if n in rows]
    lines = [f"## {library}", "", summary(names, found), ""]
    good = [r for r in found if r["status"] == "ok"]
    lines += [
        "| model | class | parameters | via | outputs | gradients | GFLOPs | products | import s | export s | MB |"
    ]
    lines += ["|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|"]
    lines += [_line(r) for r in good]
    bad = [r for r in found if r["status"] != "ok"]
    if bad:
        lines += ["", f"### {library}: not ok", "", "| model | what | why |", "|---|---|---|"]
        lines += [f"| {r['name']} | {r['status']} | {_why(r)} |" for r in bad]
    missing = [n for n in names if n not in rows]
    if missing:
        lines += ["", f"Not measured yet, {len(missing)} of {len(names)}: {', '.join(missing)}."]
    return "\n".join([*lines, ""])


def summary(names: Sequence[str], found: Sequence[Row]) -> str:
    """The figures of a library in a few sentences."""
    counts = Counter(r["status"] for r in found)
    exported = [r for r in found if r.get("exports") or r.get("via") == "export"]
    ok = [r for r in exported if r["status"] == "ok"]
    traced = [r for r in found if r not in exported and r.get("traces")]
    traced_ok = [r for r in traced if r["status"] == "ok"]
    shown = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    text = [f"{len(found)} of {len(names)} networks measured: {shown}."]
    if exported:
        text.append(
            f"Of the {len(exported)} that torch.export captures, {len(ok)} are ok ({len(ok) / len(exported):.1%})."
        )
    if traced:
        text.append(f"Of the {len(traced)} that only torch.jit.trace captures, {len(traced_ok)} are ok.")
    ratios = [r["import_s"] / r["export_s"] for r in found if r.get("via") == "export" and r.get("exports")]
    exact = sum(r.get("output_error") == 0 for r in found)
    text.append(f"{exact} give the same outputs bit for bit.")
    if ratios:
        text.append(f"Import over export alone: median {statistics.median(ratios):.2f}.")
    counted = [r for r in found if r.get("torch_flops")]
    same = sum(r["products"] == r["torch_flops"] for r in counted)
    text.append(f"The products of {same} of {len(counted)} are those torch counts, to the last one.")
    return " ".join(text)


def _line(row: Row) -> str:
    via = row["via"] + (" (frozen)" if row.get("frozen") else "")
    gradient = row.get("gradient_error")
    shown = "-" if gradient is None else f"{gradient:.0e}" if gradient else "0"
    shown += " d" if "gradient_error_f32" in row else ""
    output = _small(row["output_error"]) + (" d" if "output_error_f32" in row else "")
    ratio = row["products"] / row["torch_flops"] if row.get("torch_flops") else None
    cells = [
        row["name"], row.get("model", ""), f"{row['parameters']:,}", via, output, shown,
        f"{row['flops'] / 1e9:.3f}", "-" if ratio is None else f"{ratio:.4g}", f"{row['import_s']:.1f}",
        f"{row['export_s']:.1f}" if row.get("exports") else "refused", f"{row['peak_mb']:.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _small(number: float) -> str:
    return f"{number:.0e}" if number else "0"


def _why(row: Row) -> str:
    """The reason in one cell: no pipes, no line breaks, no paths of this machine."""
    reasons = [row.get("error", "")]
    if row.get("trace_error"):
        reasons.append("trace: " + row["trace_error"])
    text = "; ".join(" ".join(r.split()) for r in reasons if r)
    words = ["…" + w[w.index("site-packages") + 13 :] if "site-packages" in w else w for w in text.split()]
    shown = " ".join(words).replace("|", "\\|")
    return shown if len(shown) <= 400 else shown[:399] + "…"
