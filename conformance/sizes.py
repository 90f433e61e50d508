"""What to_torch() gives at sizes other than the example's, against the network itself.

    python -m conformance.sizes timm                    # what is not in the results yet; then the table
    python -m conformance.sizes transformers --again wrong

Every network is imported at one batch (timm 1, transformers 2) and goes back to torch once. The module is called with
batches of 1, 3 and 7, and with h, w and s of other sizes where the network itself runs so; a module that refuses a
size does so at its door. Results are lines of JSON in ``conformance/results/``; docs/conformance-sizes.md is made from
them.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence

import tdagger as td
from conformance.axes import ALLOWED, DRAWS, LIBRARIES, at_shape, imported, outputs, runs, short
from conformance.check import output_error, tensors
from conformance.models import ROOT, command_line, listed
from conformance.sweep import Row
from tdagger.transform import networks

TABLE = ROOT / "docs" / "conformance-sizes.md"


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one subject."""

    def run(name: str, report: Callable[..., None]) -> None:
        (module, args, kwargs), dag = imported(library, name, report)
        leaves, tree = tensors((args, kwargs))
        if len(leaves) != len(dag.graph.inputs):
            report(status="n/a", error=DRAWS)
            return
        report(stage="to_torch")
        start = time.perf_counter()
        back = dag.to_torch()
        report(stage="calls", seconds_back=round(time.perf_counter() - start, 2))
        axes = dag.axes()
        found: list[tuple[str, int, str]] = []

        def tried(axis: str, size: int) -> str:
            try:
                graph, _ = networks.at_sizes(axes, {axis: size}, dag.origins)
                shapes = [v.shape for v in graph.inputs.values()]
            except td.AxisError:
                dims = [axes[v] for v in dag.graph.inputs.values()]
                term = axes.term(axis)
                shapes = [
                    tuple(size if t == term else n for t, n in zip(ts, v.shape, strict=True))
                    for ts, v in zip(dims, dag.graph.inputs.values(), strict=True)
                ]
            own, named = tree.unflatten([at_shape(*pair) for pair in zip(leaves, shapes, strict=True)])
            if not runs(module, own, named):
                return "n/a"
            expected = outputs(module, own, named)
            try:
                given = outputs(back, own, named)
            except td.InputError:
                return "refused"
            except Exception as e:  # not at the door
                report(failed=f"{axis}={size}: {type(e).__name__}: {short(str(e))}")
                return "failed"
            error = output_error(expected, given)
            if error > 10 * ALLOWED:
                report(wrong=f"{axis}={size}: {error}")
            return "right" if error <= 10 * ALLOWED else "wrong"

        for axis in networks.own_axes(axes):
            if axis != "b" and not re.fullmatch(r"[hws]\d*", axis):
                continue
            size = axes.sizes[axis]
            for other in (1, 3, 7) if axis == "b" else (2 * size, size + 1, size + 32):
                found.append((axis, other, tried(axis, other)))
                report(found=found)  # what was found before a limit is kept

    return run


def page(results: dict[str, dict[str, Row]]) -> str:
    """The table."""
    lines = [
        "# Other sizes than the example's",
        "",
        "Made by `make conformance-sizes` (`conformance/sizes.py`); don't edit it by hand.",
        "",
        "One module by `to_torch()`, called with other sizes: right (as the network itself), refused (at the door),",
        "failed (inside), wrong; n/a where the network itself doesn't run so.",
    ]
    for library, rows in results.items():
        done = {n: r for n, r in rows.items() if "found" in r or r.get("status") != "ok"}
        if not done:
            continue
        whole = sum({w for a, _, w in r.get("found", ()) if a == "b"} == {"right"} for r in done.values())
        lines += ["", f"## {library}", "", f"- batches of 1, 3 and 7: {whole} of {len(done)} networks right"]
        count = Counter(w for r in done.values() for a, _, w in r.get("found", ()) if a != "b")
        lines.append(f"- h, w and s: {', '.join(f'{n} {w}' for w, n in sorted(count.items()))}")
        lines += ["", "| network | batch | h, w, s | to_torch, s |", "|---|---|---|--:|"]
        for name, row in done.items():
            found = row.get("found", ())
            batch = " ".join(f"{s} {w}" for a, s, w in found if a == "b" and w != "right") or "right"
            other = Counter(w for a, _, w in found if a != "b")
            cells = [batch if found else row.get("status", ""), ", ".join(f"{n} {w}" for w, n in sorted(other.items()))]
            lines.append(f"| {name} | {cells[0]} | {cells[1]} | {row.get('seconds_back', '')} |")
        why = [(n, k, r[k]) for n, r in done.items() for k in ("error", "failed", "wrong") if r.get(k)]
        lines += ["", *[f"- {n}, {k}: {short(str(w))}" for n, k, w in why]]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(LIBRARIES, found)))

    command_line(__doc__, LIBRARIES, work, "sizes-", write, arguments)


if __name__ == "__main__":
    main()
