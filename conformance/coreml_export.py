"""25 families of timm and 15 kinds of transformers as CoreML packages, by an interpreter of MIL, against the networks.

    python -m conformance.coreml_export timm                    # what is not in the results yet; then the table
    python -m conformance.coreml_export transformers --again wrong

Each package is run on two inputs by :mod:`conformance.mil`, which shares nothing with the exporter, and imported again.
Results are lines of JSON in ``conformance/results/``; docs/conformance-coreml-export.md is made from them.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tdagger as td
from conformance.axes import DRAWS, imported, outputs
from conformance.check import another, error_as_held, error_of_file, tensors
from conformance.mil import Program
from conformance.models import ROOT, command_line, listed
from conformance.onnx_export import SUBJECTS
from conformance.sweep import Row

TABLE = ROOT / "docs" / "conformance-coreml-export.md"
#: The largest difference that is allowed, relative to the largest number of an output.
ALLOWED = 1e-4


def run(program: Program, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of a program for tensors in the order of its inputs."""
    feeds: dict[str, Any] = {}
    for (name, kind), leaf in zip(program.inputs, leaves, strict=True):
        array = leaf.detach().numpy()
        array = array.astype(np.int32) if array.dtype in (np.int64, np.bool_) else array
        feeds[name] = array.reshape([int(d.constant.size) for d in kind.dimensions])
    with np.errstate(all="ignore"):
        return [torch.from_numpy(np.array(a, order="C")) for a in program.run(feeds).values()]


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one subject."""

    def checked(name: str, report: Callable[..., None]) -> None:
        (module, args, kwargs), dag = imported(library, name, report)
        leaves, _ = tensors((args, kwargs))
        if len(leaves) != len(dag.graph.inputs):
            report(status="n/a", error=DRAWS)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.mlpackage"
            report(stage="export")
            start = time.process_time()
            dag.to_coreml(path)
            report(export=round(time.process_time() - start, 2))
            report(megabytes=round(sum(p.stat().st_size for p in path.rglob("*")) / 1e6, 1), stage="run")
            program = Program(path)
            ops = Counter(op.type for op in program.block.operations if op.type != "const")
            report(ops=sum(ops.values()), moves=ops["transpose"] + ops["reshape"])
            expected = [outputs(module, a, k) for a, k in ((args, kwargs), another(args, kwargs))]
            errors = [
                error_as_held(wanted, run(program, tensors(given)[0]))
                for wanted, given in zip(expected, ((args, kwargs), another(args, kwargs)), strict=True)
            ]
            report(error_found=max(errors), status="ok" if max(errors) <= ALLOWED else "wrong", stage="again")
            report(again=error_of_file(lambda: td.from_coreml(path), expected[0], leaves))

    return checked


_INTRODUCTION = """# Networks as CoreML packages

25 families of timm and 15 kinds of transformers, imported by `td.from_torch` and written by `dag.to_coreml(path)`.
Made by `make conformance-coreml-export` (`conformance/coreml_export.py`); don't edit it by hand. CoreML itself runs on
macOS only; the programs are run on two inputs by an interpreter of MIL (`conformance/mil.py`) that is written from the
specification of the ops, shares nothing with the exporter, and checks the declared type of each result.

- **error**: the largest difference to the network itself, relative to the largest number of that output; allowed: 1e-4.
- **ops**: those that aren't constants; **moves**: those of them that transpose or reshape.
- **export s**: processor time of `to_coreml`, of the imported network.
- **again**: the difference of what `td.from_coreml` makes of the package, run by numpy, to the network.
"""

_HEAD = "| network | status | ops | moves | MB | error | again | export s |"


def page(found: Mapping[str, Mapping[str, Row]]) -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for library, rows in found.items():
        counts = Counter(r["status"] for r in rows.values())
        told = ", ".join(f"{n} {k}" for k, n in counts.most_common())
        parts.append(f"## {library}\n\n{told} of {len(SUBJECTS[library]())}\n")
        parts.append(_HEAD + "\n|" + "---|" * _HEAD.count(" | ") + "---|")
        parts += [_row(name, row) for name, row in rows.items()]
        parts.append("")
    return "\n".join(parts)


def _row(name: str, row: Row) -> str:
    error = f"{row['error_found']:.1e}" if "error_found" in row else row.get("error", "")
    cells = (name, row["status"], row.get("ops", ""), row.get("moves", ""), row.get("megabytes", ""), error,
             row.get("again", ""), row.get("export", ""))  # fmt: skip
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(SUBJECTS, found)) + "\n")

    command_line(__doc__, SUBJECTS, work, "coreml-export-", write, arguments)


if __name__ == "__main__":
    main()
