"""Networks as torch writes them to ONNX, frozen at a batch of one: imported, and their batch changed.

    python -m conformance.onnx_frozen timm             # what is not in the results yet; then the table
    python -m conformance.onnx_frozen transformers --again wrong

Each network is written by both of torch's exporters (dynamo's needs onnxscript: ``n/a`` without), with every size fixed
and the batch 1. The file is imported, and run by the module of ``to_torch()``; then the batch is resized to 8, opened
(``dynamic``) and run at 3 and 7, and removed, and what is written back is run by onnxruntime. The reference is
onnxruntime on the file itself, row by row. Results are lines of JSON in ``conformance/results/``;
docs/conformance-onnx-frozen.md is made from them.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import torch

import tdagger as td
from conformance import timm_models, transformers_models
from conformance.axes import short
from conformance.check import tensors
from conformance.models import ROOT, command_line, listed
from conformance.onnx_export import ALLOWED, TIMM, TRANSFORMERS, session
from conformance.sweep import Row
from tests.networks import Network, perturb

TABLE = ROOT / "docs" / "conformance-onnx-frozen.md"
SUBJECTS: dict[str, Callable[[], Sequence[str]]] = {"timm": lambda: TIMM, "transformers": lambda: TRANSFORMERS}
EXPORTERS = ("torchscript", "dynamo")
STEPS = ("import", "resize", "dynamic", "unbatch")
_RESIZED = 8
_BATCHES = (3, 7)
_COLOUR = re.compile(r"\x1b\[\d*m")  # what torch colours its messages with


class File(NamedTuple):
    """A frozen file: its session, what it is as a network, its batch axis, and one row of inputs."""

    frozen: ort.InferenceSession
    dag: td.TensorDAG
    batch: str
    given: Mapping[str, Any]


def build(library: str, name: str) -> Network:
    """A network with a batch of one, its zeros and ones moved away."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    network = {"timm": timm_models.build, "transformers": transformers_models.build}[library](name)
    perturb(network.module)
    network.module.eval()

    def first(x: Any) -> Any:
        return x[:1] if isinstance(x, torch.Tensor) and x.dim() else x

    return network._replace(
        args=tuple(map(first, network.args)), kwargs={k: first(x) for k, x in network.kwargs.items()}
    )


class _Plain(torch.nn.Module):
    """A network that gives a tuple of tensors, without caches, which torch's exporters can't write."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *args: Any) -> tuple[torch.Tensor, ...]:
        own = len(args) - len(self.names)
        found = self.module(*args[:own], **dict(zip(self.names, args[own:], strict=True)))
        leaves = tensors(found.to_tuple() if hasattr(found, "to_tuple") else found)[0]
        return tuple(t for t in leaves if t.is_floating_point())


def written(network: Network, path: Path, exporter: str) -> None:
    """The file of one of torch's exporters."""
    named = {k: x for k, x in network.kwargs.items() if isinstance(x, torch.Tensor)}
    rest = {k: x for k, x in network.kwargs.items() if k not in named}
    module: Any = network.module
    if rest:
        forward = module.forward
        module.forward = functools.partial(forward, **rest)
    plain = _Plain(module, tuple(named)).eval()
    how: dict[str, Any] = {"dynamo": True} if exporter == "dynamo" else {"dynamo": False, "opset_version": 17}
    torch.onnx.export(plain, (*network.args, *named.values()), str(path), **how)


def by_exporter(steps: Callable[[Network, Path, str], dict[str, str]], library: str) -> Callable[..., None]:
    """What is done with one subject: ``steps`` with the file of each exporter, in a folder of its own."""

    def checked(name: str, report: Callable[..., None]) -> None:
        found: dict[str, dict[str, str]] = {}
        for exporter in EXPORTERS:
            report(stage=exporter)
            if exporter == "dynamo" and importlib.util.find_spec("onnxscript") is None:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found[exporter] = steps(build(library, name), Path(folder), exporter)
            report(**{exporter: found[exporter]})
        kinds = {w.partition(":")[0] for each in found.values() for w in each.values()}
        report(status=next((k for k in ("wrong", "failed", "refused") if k in kinds), "ok"))

    return checked


def _steps(network: Network, folder: Path, exporter: str) -> dict[str, str]:
    """How each step went: ``ok``, ``wrong``, ``refused`` or ``n/a``, and why."""
    path = folder / "frozen.onnx"
    try:
        written(network, path, exporter)
        frozen = session(path)
    except Exception as e:  # torch's own and onnxruntime's, which are many
        return {"export": refusal(e)}
    leaves = tensors((network.args, network.kwargs))[0]
    given = {i.name: t.numpy() for i, t in zip(frozen.get_inputs(), leaves, strict=False)}
    try:
        dag = td.from_onnx(path)
    except td.TDaggerError as e:
        return {"import": f"refused: {short(str(e))}"}
    axes = dag.axes()
    term = axes[next(iter(dag.graph.inputs.values()))][0]
    batch = next((n for n in axes.sizes if axes.term(n) == term), "")
    file = File(frozen, dag, batch, given)
    found: dict[str, str] = {}
    for step in STEPS:
        try:
            error = globals()[f"_{step}"](file, folder / f"{step}.onnx")
            found[step] = "ok" if error <= ALLOWED else f"wrong: {error:.1e}"
        except td.TDaggerError as e:
            found[step] = f"refused: {short(str(e))}"
        except Exception as e:  # a sweep reports what went wrong and goes on
            found[step] = f"failed: {type(e).__name__}: {short(str(e))}"
    return found


def refusal(error: Exception) -> str:
    """What an exporter or onnxruntime says of a network that it doesn't take."""
    return f"n/a: {type(error).__name__}: {_COLOUR.sub('', short(str(error)))[:100]}"


def _import(file: File, path: Path) -> float:
    module = file.dag.to_torch(fixed=True).eval()
    with torch.no_grad():
        found = module(*(torch.from_numpy(file.given[n]) for n in file.dag.graph.inputs))
    found = found if isinstance(found, tuple) else (found,)
    return apart([t.numpy() for t in found], file.frozen.run(None, dict(file.given)))


def _resize(file: File, path: Path) -> float:
    wide = file.dag.resize({file.batch: _RESIZED})
    wide.to_onnx(path)
    return _against_rows(file, session(path), wide, _RESIZED)


def _dynamic(file: File, path: Path) -> float:
    file.dag.to_onnx(path, dynamic=(file.batch,))
    model = session(path)
    return max(_against_rows(file, model, file.dag.resize({file.batch: n}), n) for n in _BATCHES)


def _unbatch(file: File, path: Path) -> float:
    file.dag.unbatch(file.batch).to_onnx(path)
    model = session(path)
    shapes = {i.name: i.shape for i in model.get_inputs()}
    given = {n: a.reshape(shapes[n]) for n, a in file.given.items() if n in shapes}
    wanted = file.frozen.run(None, dict(file.given))
    found = model.run(None, given)
    return apart([a.reshape(b.shape) for a, b in zip(found, wanted, strict=True)], wanted)


def _against_rows(file: File, model: ort.InferenceSession, wide: td.TensorDAG, size: int) -> float:
    """What a file gives for many rows, against the frozen one's results of each."""
    inputs, outputs = wide.graph.inputs, wide.graph.outputs
    own = {n: _widened(v, inputs[n]) for n, v in file.dag.graph.inputs.items()}
    places = {n: _widened(v, outputs[n]) for n, v in file.dag.graph.outputs.items()}
    rows = [
        {n: a if own[n] is None else np.roll(a, k, axis=-1) for n, a in file.given.items() if n in own}
        for k in range(size)
    ]
    whole = {n: a if own[n] is None else np.concatenate([r[n] for r in rows], own[n]) for n, a in rows[0].items()}
    each = [file.frozen.run(None, dict(file.given) | r) for r in rows]
    wanted = [
        each[0][i] if at is None else np.concatenate([r[i] for r in each], at) for i, at in enumerate(places.values())
    ]
    return apart(model.run(None, whole), wanted)


def _widened(old: td.Value, new: td.Value) -> int | None:
    """The dimension that is another one, if any."""
    return next((i for i, (a, b) in enumerate(zip(old.shape, new.shape, strict=True)) if a != b), None)


def apart(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest difference, relative to the largest number of an output; infinity where shapes differ."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape:
            return float("inf")
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0)
        worst = max(worst, float(apart / max(np.abs(b).max(initial=0), 1e-6)))
    return worst


_INTRODUCTION = f"""# Frozen ONNX files

Networks as torch 2.13 writes them at a batch of 1 with every size fixed, by its TorchScript exporter (operator set
17) and by its dynamo exporter, imported by `td.from_onnx`. Made by `make conformance-onnx-frozen`
(`conformance/onnx_frozen.py`); don't edit it by hand. The reference is onnxruntime on the file itself, row by row;
allowed: {ALLOWED:g} of the largest number.

- **import**: the module of `to_torch(fixed=True)`.
- **resize**: the batch made {_RESIZED}, written back, run by onnxruntime.
- **dynamic**: the batch opened, run at 3 and 7.
- **unbatch**: the batch removed, written back, run by onnxruntime.
"""


def page(found: Mapping[str, Mapping[str, Row]]) -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    head = "| network | exporter | " + " | ".join(STEPS) + " |"
    for library, rows in found.items():
        cells = [w.partition(":")[0] for r in rows.values() for e in EXPORTERS for w in r.get(e, {}).values()]
        told = ", ".join(f"{n} {k}" for k, n in Counter(cells).most_common())
        parts.append(f"## {library}\n\n{len(rows)} of {len(SUBJECTS[library]())} networks; steps: {told}\n")
        parts.append(f"{head}\n|{'---|' * (len(STEPS) + 2)}")
        for name, row in rows.items():
            for exporter in EXPORTERS:
                steps = row.get(exporter, {"export": row.get("error", "n/a")})
                shown = [steps.get(s, "") for s in STEPS] if "export" not in steps else [steps["export"], "", "", ""]
                parts.append("| " + " | ".join(c.replace("|", "\\|") for c in (name, exporter, *shown)) + " |")
        parts.append("")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(SUBJECTS, found)) + "\n")

    command_line(__doc__, SUBJECTS, functools.partial(by_exporter, _steps), "onnx-frozen-", write, arguments)


if __name__ == "__main__":
    main()
