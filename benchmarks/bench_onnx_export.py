"""ONNX files of the same networks by tdagger and by torch.onnx.export(dynamo=True): time, memory, nodes, latency.

    python benchmarks/bench_onnx_export.py                     # the 40 networks of conformance/onnx_export.py
    python benchmarks/bench_onnx_export.py --only 'resnet|vit' --latency 30
    python benchmarks/bench_onnx_export.py --json rows.jsonl   # in parts: goes on where it stopped

Needs onnxscript for torch's side, and onnxsim to count its nodes after simplification, neither of which tdagger needs:
``pip install --target FOLDER --no-deps onnxscript onnxsim`` and FOLDER in PYTHONPATH.

Each export runs in a process of its own after a small network was exported, so that what is loaded once isn't counted:
processor seconds from the module to the file (tdagger: ``from_torch`` and ``to_onnx``), and how far memory rose beyond
what was held before. Latencies are processor seconds of the files in one process, in turns; medians of pairs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def built(library: str, name: str) -> Any:
    """A network, with its zeros and ones moved away, in eval mode."""
    import torch

    from conformance import timm_models, transformers_models
    from tests.networks import perturb

    torch.manual_seed(0)
    network = {"timm": timm_models.build, "transformers": transformers_models.build}[library](name)
    perturb(network.module)
    network.module.eval()
    config = getattr(network.module, "config", None)
    if getattr(config, "use_cache", False):  # torch.onnx writes no networks that give caches
        config.use_cache = False
    return network


def by_tdagger(module: Any, args: Any, kwargs: Any, path: str) -> None:
    import tdagger as td

    td.from_torch(module, args, kwargs).to_onnx(path)


def by_tdagger_optimized(module: Any, args: Any, kwargs: Any, path: str) -> None:
    import tdagger as td

    td.from_torch(module, args, kwargs).optimize().to_onnx(path)


def by_torch(module: Any, args: Any, kwargs: Any, path: str) -> None:
    import torch

    torch.onnx.export(module, args, path, kwargs=kwargs, dynamo=True, verbose=False, external_data=False, optimize=True)


TOOLS: dict[str, Callable[..., None]] = {
    "tdagger": by_tdagger,
    "optimized": by_tdagger_optimized,
    "torch": by_torch,
}


def export(tool: str, library: str, name: str, path: str) -> dict[str, Any]:
    """Processor seconds and peak memory of one export."""
    import contextlib
    import io
    import logging

    import torch

    from conformance.check import peak, peak_reset

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    with contextlib.redirect_stdout(io.StringIO()):
        TOOLS[tool](small, (torch.rand(1, 3, 8, 8),), {}, path)
        module, args, kwargs = built(library, name)
        before, start = peak_reset(), time.process_time()
        TOOLS[tool](module, args, kwargs, path)
        seconds, high = time.process_time() - start, peak()
    return {"seconds": seconds, "megabytes": (high - before) / 1e6}


def nodes(path: str) -> dict[str, Any]:
    """How many nodes a file has, and has left after onnxsim."""
    import onnx

    model = onnx.load(path)
    found: dict[str, Any] = {"nodes": len(model.graph.node)}
    try:
        import onnxsim

        found["simplified"] = len(onnxsim.simplify(model)[0].graph.node)
    except ImportError:
        pass
    return found


def latencies(paths: Sequence[str], library: str, name: str, turns: int) -> list[tuple[float, float]]:
    """Of each file, run in turns on the same inputs: median seconds, and the median of its ratios to the last one."""
    import onnxruntime as ort

    from conformance.check import tensors

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions = [ort.InferenceSession(p, options, providers=["CPUExecutionProvider"]) for p in paths]
    _, args, kwargs = built(library, name)
    arrays = [t.detach().numpy() for t in tensors((args, kwargs))[0]]
    feeds = [dict(zip([i.name for i in s.get_inputs()], arrays, strict=False)) for s in sessions]
    taken: list[list[float]] = [[] for _ in sessions]
    order = random.Random(0)
    for turn in range(turns + 2):
        for i in order.sample(range(len(sessions)), len(sessions)):  # what ran last finds the caches warm
            start = time.process_time()
            sessions[i].run(None, feeds[i])
            if turn >= 2:
                taken[i].append(time.process_time() - start)
    pairs = [(t, [a / b for a, b in zip(t, taken[-1], strict=True)]) for t in taken]
    return [(statistics.median(t), statistics.median(ratios)) for t, ratios in pairs]


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """What a function gives in a process of its own; an error's text if it fails."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        try:
            return pool.apply(function, args)
        except Exception as e:  # of any of the tools
            return f"{type(e).__name__}: {str(e).splitlines()[0][:160] if str(e) else ''}"


def compared(library: str, name: str, turns: int, tools: Sequence[str]) -> dict[str, Any]:
    """One row: every tool on one network."""
    row: dict[str, Any] = {"name": name}
    with tempfile.TemporaryDirectory() as folder:
        for tool in tools:
            path = f"{folder}/{tool}.onnx"
            found = apart(export, tool, library, name, path)
            row[tool] = found | apart(nodes, path) if isinstance(found, dict) else {"error": found}
        there = [t for t in tools if "error" not in row[t]]
        taken = apart(latencies, [f"{folder}/{t}.onnx" for t in there], library, name, turns) if turns else []
        if isinstance(taken, list):
            for tool, (seconds, ratio) in zip(there, taken, strict=False):
                row[tool] |= {"latency": seconds, "ratio": ratio}
    return row


def told(rows: Sequence[dict[str, Any]]) -> None:
    """The medians and how often each goal is met."""
    both = [r for r in rows if "error" not in r["tdagger"] and "error" not in r["torch"]]
    for what, best in (("seconds", 1 / 3), ("megabytes", 1 / 2), ("latency", 1.0)):
        for tool in ("tdagger", "optimized"):
            pairs = [(r[tool], r["torch"]) for r in both if what in r.get(tool, {}) and what in r["torch"]]
            ratios = [a["ratio"] if what == "latency" else a[what] / b[what] for a, b in pairs if b[what] > 0]
            if ratios:
                met = sum(r <= best for r in ratios)
                print(f"{what:10} {tool} / torch: median {statistics.median(ratios):.2f}, "
                      f"largest {max(ratios):.2f}; {met} of {len(ratios)} at most {best:.2f}")  # fmt: skip
    for tool, own in (("tdagger", "nodes"), ("tdagger", "simplified"), ("optimized", "nodes")):
        pairs = [(r[tool][own], r["torch"]["simplified"]) for r in both
                 if own in r.get(tool, {}) and "simplified" in r["torch"]]  # fmt: skip
        if pairs:
            met = sum(a <= b for a, b in pairs)
            median = statistics.median(a / b for a, b in pairs)
            print(f"nodes      {tool} ({own}) / torch simplified: median {median:.2f}; {met} of {len(pairs)} at most 1")


def main() -> None:
    from conformance.onnx_export import SUBJECTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only networks this is found in")
    parser.add_argument("--latency", type=int, default=20, help="turns of each file; 0: none")
    parser.add_argument("--tools", nargs="*", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument(
        "--json", default="", help="a file that rows are added to; networks that it has aren't run again"
    )
    options = parser.parse_args()
    before = Path(options.json).read_text().splitlines() if options.json and Path(options.json).exists() else []
    rows: list[dict[str, Any]] = list(map(json.loads, before))
    done = {row["name"] for row in rows}
    for library, names in SUBJECTS.items():
        for name in names():
            if name in done or not re.search(options.only, name):
                continue
            row = compared(library, name, options.latency, options.tools)
            rows.append(row)
            if options.json:
                with open(options.json, "a") as file:
                    file.write(json.dumps(row) + "\n")
            parts = [f"{name:28}"]
            for tool in options.tools:
                f = row[tool]
                parts.append(f"{tool} " + (f["error"] if "error" in f else " ".join(
                    f"{k} {f[k]:.2f}" if isinstance(f[k], float) else f"{k} {f[k]}" for k in f)))  # fmt: skip
            print(" | ".join(parts), flush=True)
    told(rows)


if __name__ == "__main__":
    main()
