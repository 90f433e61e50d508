"""25 families of timm and 12 encoders of transformers as TFLite files, run by LiteRT, against the networks themselves.

    python -m conformance.tflite_export timm           # what is not in the results yet; then the table
    python -m conformance.tflite_export transformers --again wrong
    python -m conformance.tflite_export timm-litert    # what litert-torch makes of the same, where it is installed

Each file is run on two inputs. Results are lines of JSON in ``conformance/results/``;
docs/conformance-tflite-export.md is made from them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import tdagger as td
from conformance.axes import DRAWS, build_timm, build_transformers, imported, outputs
from conformance.check import another, error_of_file, output_error, tensors
from conformance.models import ROOT, command_line, listed
from conformance.onnx_export import TIMM
from conformance.sweep import Row
from tests.networks import perturb

TABLE = ROOT / "docs" / "conformance-tflite-export.md"
#: The largest difference that is allowed, relative to the largest number of an output.
ALLOWED = 1e-4

TRANSFORMERS = """
    bert distilbert electra roberta albert mpnet vit deit dinov2 wav2vec2 modernbert convbert
""".split()  # noqa: SIM905

SUBJECTS: dict[str, Callable[[], Sequence[str]]] = {
    "timm": lambda: TIMM, "transformers": lambda: TRANSFORMERS,
    "timm-litert": lambda: TIMM, "transformers-litert": lambda: TRANSFORMERS,
}  # fmt: skip


def given(path: Path, leaves: Sequence[torch.Tensor]) -> Any:
    """An interpreter of a file, which has tensors as its inputs, in the order of the file."""
    interpreter: Any = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    for detail, tensor in zip(interpreter.get_input_details(), leaves, strict=True):
        array = np.ascontiguousarray(tensor.detach().numpy().astype(detail["dtype"]))  # litert-torch takes i32 for i64
        interpreter.set_tensor(detail["index"], array)
    return interpreter


def run(path: Path, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of a file for tensors in the order of its inputs."""
    interpreter = given(path, leaves)
    interpreter.invoke()
    return [torch.from_numpy(np.array(interpreter.get_tensor(d["index"]))) for d in interpreter.get_output_details()]


#: So much of the time of litert-torch's file ours may take.
SLOWER = 1.05
#: Two files are run by turns for so many seconds of the processor, and at least so many times.
SECONDS, ROUNDS = 6.0, 15


def latencies(paths: Sequence[Path], leaves: Sequence[torch.Tensor]) -> list[float]:
    """Milliseconds of the processor that a run of each file takes: the medians of many, by turns."""
    interpreters = [given(p, leaves) for p in paths]
    for interpreter in interpreters:
        interpreter.invoke()  # the first run packs weights
    times: list[list[float]] = [[] for _ in paths]
    start = time.process_time()
    while len(times[0]) < ROUNDS or time.process_time() - start < SECONDS:
        order = [*range(len(paths))]
        for k in order if len(times[0]) % 2 else reversed(order):
            begin = time.process_time()
            interpreters[k].invoke()
            times[k].append(1000 * (time.process_time() - begin))
    return [statistics.median(t) for t in times]


def operators(path: Path) -> Counter[str]:
    """How often a file has each operator."""
    root: Any = schema.Model.GetRootAs(path.read_bytes(), 0)
    names = {n: k for k, n in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    codes = [root.OperatorCodes(i) for i in range(root.OperatorCodesLength())]
    kinds = [names[max(c.BuiltinCode(), c.DeprecatedBuiltinCode())] for c in codes]
    graph = root.Subgraphs(0)
    return Counter(kinds[graph.Operators(i).OpcodeIndex()] for i in range(graph.OperatorsLength()))


def _told(path: Path, seconds: float) -> dict[str, Any]:
    counts = operators(path)
    return {
        "export": round(seconds, 2), "megabytes": round(path.stat().st_size / 1e6, 2),
        "operators": sum(counts.values()), "transposes": counts["TRANSPOSE"],
    }  # fmt: skip


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one subject."""
    return _by_litert(library.removesuffix("-litert")) if library.endswith("-litert") else _by_tdagger(library)


def _by_tdagger(library: str) -> Callable[[str, Callable[..., None]], None]:
    def checked(name: str, report: Callable[..., None]) -> None:
        (module, args, kwargs), dag = imported(library, name, report)
        leaves, _ = tensors((args, kwargs))
        if len(leaves) != len(dag.graph.inputs):
            report(status="n/a", error=DRAWS)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            report(stage="export")
            start = time.process_time()
            dag.to_tflite(path)
            report(**_told(path, time.process_time() - start), stage="run")
            given = ((args, kwargs), another(args, kwargs))
            expected = [outputs(module, a, k) for a, k in given]
            errors = [output_error(w, run(path, tensors(g)[0])) for w, g in zip(expected, given, strict=True)]
            report(error_found=max(errors), status="ok" if max(errors) <= ALLOWED else "wrong", stage="again")
            report(again=error_of_file(lambda: td.from_tflite(path), expected[0], leaves))

    return checked


def _by_litert(library: str) -> Callable[[str, Callable[..., None]], None]:
    def converted(name: str, report: Callable[..., None]) -> None:
        import litert_torch  # pyright: ignore[reportMissingImports]

        torch.manual_seed(0)
        network = {"timm": build_timm, "transformers": build_transformers}[library](name)
        perturb(network.module)
        module, args, kwargs = network._replace(module=network.module.eval())
        with tempfile.TemporaryDirectory() as folder:
            own, path = (Path(folder) / f"{n}.tflite" for n in ("own", "litert"))
            report(stage="export")
            start = time.process_time()
            td.from_torch(module, args, kwargs).to_tflite(own)
            report(own_conversion=round(time.process_time() - start, 2))
            start = time.process_time()
            made: Any = litert_torch.convert(module, args, sample_kwargs=kwargs or None)  # pyright: ignore
            made.export(str(path))
            report(**_told(path, time.process_time() - start), stage="run")
            leaves = tensors((args, kwargs))[0]
            error = output_error(outputs(module, args, kwargs), run(path, leaves))
            report(error_found=error, status="ok" if error <= ALLOWED else "wrong")
            if error <= ALLOWED:
                own_ms, peer_ms = latencies([own, path], leaves)
                report(own_ms=round(own_ms, 3), peer_ms=round(peer_ms, 3))

    return converted


_INTRODUCTION = """# Networks as TFLite files

25 families of timm and 12 encoders of transformers, imported by `td.from_torch` and written by `dag.to_tflite(path)`.
Made by `make conformance-tflite-export` (`conformance/tflite_export.py`); don't edit it by hand. Every file is run by
ai-edge-litert (XNNPACK, one thread) on two inputs. Zeros and ones among the weights are moved away first, so that no
branch is left out for being 0.

- **error**: the largest difference to the network itself, relative to the largest number of that output; allowed: 1e-4.
- **again**: the difference of what `td.from_tflite` makes of the file, run by numpy, to the network.
- **export s**: processor time of `to_tflite` of the imported network, **both s** with `td.from_torch` before it.
- **litert-torch**: what `litert_torch.convert` makes of the same network, where it was run (0.10.0): operators,
  transposes, MB, seconds, the capture by torch among them.
- **latency ms**: what a run of our file takes of the processor, and as a part of what litert-torch's takes: medians of
  at least 15 runs of each by turns in one process, by the interpreter with one thread.
"""
_HEAD = (
    "| network | status | error | again | operators | TRANSPOSE | MB | export s | both s | "
    "litert-torch: operators, TRANSPOSE, MB, s | latency ms | of its |"
)


def page(found: Mapping[str, Mapping[str, Row]]) -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for library in ("timm", "transformers"):
        rows, peers = found[library], found[f"{library}-litert"]
        counts = Counter(r["status"] for r in rows.values())
        told = ", ".join(f"{n} {k}" for k, n in counts.most_common())
        parts.append(f"## {library}\n\n{told} of {len(SUBJECTS[library]())}{_compared(rows, peers)}\n")
        parts.append(_HEAD + "\n|" + "---|" * 11)
        parts += [_row(name, row, peers.get(name, {})) for name, row in rows.items()]
        parts.append("")
    return "\n".join(parts)


def _compared(rows: Mapping[str, Row], peers: Mapping[str, Row]) -> str:
    """How files compare with litert-torch's, where both are."""
    both = [(r, peers[n]) for n, r in rows.items() if "operators" in r and peers.get(n, {}).get("status") == "ok"]
    if not both:
        return ""
    fewer = [sum(r[k] <= p[k] for r, p in both) for k in ("operators", "transposes", "megabytes")]
    times = [p["export"] / max(p["own_conversion"], 0.01) for _, p in both if "own_conversion" in p]
    ratios = [p["own_ms"] / p["peer_ms"] for _, p in both if "own_ms" in p]
    if not ratios:
        return ""
    right = sum(p.get("status") == "ok" for p in peers.values())
    return (
        f"; litert-torch writes {right} right. Of {len(both)} of both, {fewer[0]} have no more operators, "
        f"{fewer[1]} no more transposes, {fewer[2]} are no larger. Conversion takes it "
        f"{statistics.median(times):.0f} times as long (median of {len(times)}). A run of our file takes "
        f"{statistics.median(ratios):.2f} of its time (median of {len(ratios)}; at most {max(ratios):.2f}); "
        f"{sum(r <= SLOWER for r in ratios)} take at most {SLOWER} of it"
    )


def _row(name: str, row: Row, peer: Row) -> str:
    error = f"{row['error_found']:.1e}" if "error_found" in row else row.get("error", "")
    keys = ("operators", "transposes", "megabytes", "export")
    told = ", ".join(str(peer[k]) for k in keys) if "operators" in peer else peer.get("status", "")
    if peer.get("status") == "wrong":
        told += f" (wrong: {peer['error_found']:.1e})"
    faster = (peer["own_ms"], f"{peer['own_ms'] / peer['peer_ms']:.2f}") if "own_ms" in peer else ("", "")
    own = (*(row.get(k, "") for k in keys), peer.get("own_conversion", ""))
    cells = (name, row["status"], error, row.get("again", ""), *own, told, *faster)
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(SUBJECTS, found)) + "\n")

    command_line(__doc__, SUBJECTS, work, "tflite-export-", write, arguments)


if __name__ == "__main__":
    main()
