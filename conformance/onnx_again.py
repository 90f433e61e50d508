"""Networks as both of torch's exporters write them to ONNX: imported, and written again, as a module and as a file.

    python -m conformance.onnx_again timm             # what is not in the results yet; then the table
    python -m conformance.onnx_again transformers --again wrong

Each network is written by both of torch's exporters (dynamo's needs onnxscript: ``n/a`` without). What onnxruntime
gives of the file is compared with the module of ``to_torch()`` and with the file of ``to_onnx()``; names of inputs,
outputs and weights have to be those of the file. Results are lines of JSON in ``conformance/results/``;
docs/conformance-onnx-again.md is made from them.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

import tdagger as td
from conformance.axes import short
from conformance.check import tensors
from conformance.models import ROOT, command_line, listed
from conformance.onnx_export import session
from conformance.onnx_frozen import EXPORTERS, SUBJECTS, apart, by_exporter, refusal, written
from conformance.sweep import Row
from tests.networks import Network

TABLE = ROOT / "docs" / "conformance-onnx-again.md"
STEPS = ("torch", "onnx", "names")
#: Allowed of the largest number of an output.
ALLOWED = 1e-5
#: What stands behind the name of a weight whose numbers lie in another order, or in another shape.
_MOVED = re.compile(r"\.(T|iofc|zrh|\d+(x\d+)*)$")


def _steps(network: Network, folder: Path, exporter: str) -> dict[str, str]:
    """How each step went: ``ok``, ``wrong``, ``refused``, ``failed`` or ``n/a``, and why."""
    path, again = folder / "theirs.onnx", folder / "again.onnx"
    try:
        written(network, path, exporter)
        theirs = session(path)
    except Exception as e:  # torch's own and onnxruntime's, which are many
        return {"export": refusal(e)}
    leaves = tensors((network.args, network.kwargs))[0]
    given = {i.name: t.numpy() for i, t in zip(theirs.get_inputs(), leaves, strict=False)}
    wanted = theirs.run(None, given)

    def by_torch(dag: td.TensorDAG) -> str:
        module = dag.to_torch().eval()
        with torch.no_grad():
            found = module(*(torch.from_numpy(given[n]) for n in dag.graph.inputs))
        found = found if isinstance(found, tuple) else (found,)
        return _told(apart([t.numpy() for t in found], wanted))

    def by_onnx(dag: td.TensorDAG) -> str:
        dag.to_onnx(again)
        own = {i.name for i in session(again).get_inputs()}
        return _told(apart(session(again).run(None, {n: a for n, a in given.items() if n in own}), wanted))

    def by_name(dag: td.TensorDAG) -> str:
        return _names(onnx.load(path), onnx.load(again), dag)

    try:
        dag = td.from_onnx(path)
    except td.TDaggerError as e:
        return {"torch": f"refused: {short(str(e))}"}
    found: dict[str, str] = {}
    for step, run in zip(STEPS, (by_torch, by_onnx, by_name), strict=True):
        try:
            found[step] = run(dag)
        except td.TDaggerError as e:
            found[step] = f"refused: {short(str(e))}"
        except Exception as e:  # a sweep reports what went wrong and goes on
            found[step] = f"failed: {type(e).__name__}: {short(str(e))}"
    return found


def _told(error: float) -> str:
    return "ok" if error <= ALLOWED else f"wrong: {error:.1e}"


def _names(theirs: Any, ours: Any, dag: td.TensorDAG) -> str:
    """Whether inputs, outputs, parameters and tensors of the file written again are called as in the file."""
    for what in ("input", "output"):
        a, b = ([v.name for v in getattr(m.graph, what)] for m in (theirs, ours))
        if a != b:
            return f"wrong: {what}s {a} became {b}"
    own = {t.name for t in theirs.graph.initializer} | {n for node in theirs.graph.node for n in node.output}
    lost = [n for n in dag.state if n not in own]
    if lost:
        return f"wrong: weights {lost[:3]} are in no file"
    written_ = {t.name for t in ours.graph.initializer}
    kept = {*written_, *(_MOVED.sub("", n) for n in written_)}
    gone = [n for n, v in dag.graph.parameters.items() if n not in kept and v.op.attributes["leaf"] not in kept]
    return f"wrong: weights {gone[:3]} are written under no name of theirs" if gone else "ok"


_INTRODUCTION = f"""# Files of torch's exporters, written again

Networks as torch 2.13 writes them to ONNX, by its TorchScript exporter (operator set 17) and by its dynamo exporter,
imported by `td.from_onnx`. Made by `make conformance-onnx-again` (`conformance/onnx_again.py`); don't edit it by hand.
The reference is onnxruntime on the file; allowed: {ALLOWED:g} of the largest number of an output.

- **torch**: the module of `to_torch()`.
- **onnx**: the file of `to_onnx()`, run by onnxruntime.
- **names**: inputs, outputs and weights of that file are called as in the file.
"""


def page(found: Mapping[str, Mapping[str, Row]]) -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for library, rows in found.items():
        cells = [w.partition(":")[0] for r in rows.values() for e in EXPORTERS for w in r.get(e, {}).values()]
        told = ", ".join(f"{n} {k}" for k, n in Counter(cells).most_common())
        parts.append(f"## {library}\n\n{len(rows)} of {len(SUBJECTS[library]())} networks; steps: {told}\n")
        parts.append(f"| network | exporter | {' | '.join(STEPS)} |\n|{'---|' * (len(STEPS) + 2)}")
        for name, row in rows.items():
            for exporter in EXPORTERS:
                steps = row.get(exporter, {"export": row.get("error", "n/a")})
                shown = [steps.get(s, "") for s in STEPS] if "export" not in steps else [steps["export"], "", ""]
                parts.append("| " + " | ".join(c.replace("|", "\\|") for c in (name, exporter, *shown)) + " |")
        parts.append("")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(SUBJECTS, found)) + "\n")

    command_line(__doc__, SUBJECTS, functools.partial(by_exporter, _steps), "onnx-again-", write, arguments)


if __name__ == "__main__":
    main()
