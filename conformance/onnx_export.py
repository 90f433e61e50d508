"""25 families of timm and 15 kinds of transformers as ONNX files, run by onnxruntime, against the networks themselves.

    python -m conformance.onnx_export timm                    # what is not in the results yet; then the table
    python -m conformance.onnx_export transformers --again wrong

Each file is checked (``onnx.checker`` in full, strict shape inference), run on two inputs, and written once more with
the batch open, which is run at 1, 3 and 7. Results are lines of JSON in ``conformance/results/``;
docs/conformance-onnx-export.md is made from them.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch

import tdagger as td
from conformance.axes import DRAWS, at_shape, imported, outputs, short
from conformance.check import another, output_error, tensors
from conformance.models import ROOT, command_line, listed
from conformance.sweep import Row
from tdagger.transform import networks

TABLE = ROOT / "docs" / "conformance-onnx-export.md"
#: The largest difference that is allowed, relative to the largest number of an output.
ALLOWED = 1e-4
BATCHES = (1, 3, 7)

TIMM = """
    resnet10t convnext_zepto_rms densenet121 mobilenetv2_035 mobilenetv3_small_050 regnetx_002 rexnet_100
    ghostnet_050 deit_tiny_patch16_224 beit_base_patch16_224 swin_tiny_patch4_window7_224 maxvit_pico_rw_256
    mvitv2_tiny pvt_v2_b0 poolformerv2_s12 gmlp_ti16_224 hrnet_w18_small levit_128s mobilevit_xxs edgenext_xx_small
    coat_tiny davit_tiny inception_v3 nf_regnet_b0 legacy_seresnet18
""".split()  # noqa: SIM905
TRANSFORMERS = """
    bert gpt2 llama t5 clip vit mixtral wav2vec2 bart distilbert electra modernbert qwen2 gemma whisper
""".split()  # noqa: SIM905

SUBJECTS: dict[str, Callable[[], Sequence[str]]] = {"timm": lambda: TIMM, "transformers": lambda: TRANSFORMERS}


def session(path: Path) -> ort.InferenceSession:
    """A session on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(model: ort.InferenceSession, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of a session for tensors in the order of its inputs."""
    feeds = {i.name: t.detach().numpy() for i, t in zip(model.get_inputs(), leaves, strict=True)}
    return [torch.from_numpy(a) for a in model.run(None, feeds)]


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one subject."""

    def checked(name: str, report: Callable[..., None]) -> None:
        (module, args, kwargs), dag = imported(library, name, report)
        leaves, tree = tensors((args, kwargs))
        if len(leaves) != len(dag.graph.inputs):
            report(status="n/a", error=DRAWS)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            report(stage="export")
            start = time.process_time()
            dag.to_onnx(path)
            report(export=round(time.process_time() - start, 2), megabytes=round(path.stat().st_size / 1e6, 1))
            report(stage="check")
            onnx.checker.check_model(str(path), full_check=True)
            onnx.shape_inference.infer_shapes_path(str(path), str(path) + ".shapes", strict_mode=True, data_prop=True)
            report(nodes=len(onnx.load(str(path), load_external_data=False).graph.node), stage="run")
            model = session(path)
            errors = [
                output_error(outputs(module, a, k), run(model, tensors((a, k))[0]))
                for a, k in ((args, kwargs), another(args, kwargs))
            ]
            report(error_found=max(errors), status="ok" if max(errors) <= ALLOWED else "wrong", stage="dynamic")
            report(again=_again(path, Path(folder) / "again.onnx", tensors((args, kwargs))[0]), stage="batches")
            report(dynamic=_batches(dag, module, leaves, tree, Path(folder) / "dynamic.onnx"))

    return checked


def _again(path: Path, to: Path, leaves: Sequence[torch.Tensor]) -> str:
    """The difference of what is imported from a file and written once more, or why there is no such file."""
    try:
        td.from_onnx(path).to_onnx(to)
        onnx.checker.check_model(str(to), full_check=True)
    except td.TDaggerError as e:
        return short(str(e))
    return f"{output_error(run(session(path), leaves), run(session(to), leaves)):.1e}"


def _batches(dag: td.TensorDAG, module: Any, leaves: Any, tree: Any, path: Path) -> list[Any]:
    """What a file with the batch open gives at other batches: right, wrong, or why there is no such file."""
    try:
        dag.to_onnx(path, dynamic=("b",))
        onnx.checker.check_model(str(path), full_check=True)
    except td.TDaggerError as e:
        return [["refused", short(str(e))]]
    model, axes = session(path), dag.axes()
    found: list[Any] = []
    for size in BATCHES:
        graph, _ = networks.at_sizes(axes, {"b": size}, dag.origins)
        shapes = [v.shape for v in graph.inputs.values()]
        own, named = tree.unflatten([at_shape(*pair) for pair in zip(leaves, shapes, strict=True)])
        try:
            error = output_error(outputs(module, own, named), run(model, tensors((own, named))[0]))
        except Exception as e:  # onnxruntime's own, which are many
            found.append(["failed", f"b={size}: {type(e).__name__}: {short(str(e))}"])
            continue
        found.append(["right" if error <= ALLOWED else "wrong", f"b={size}: {error:.1e}"])
    return found


_INTRODUCTION = """# Networks as ONNX files

25 families of timm and 15 kinds of transformers, imported by `td.from_torch` and written by `dag.to_onnx(path)`.
Made by `make conformance-onnx-export` (`conformance/onnx_export.py`); don't edit it by hand. Every file passes
`onnx.checker.check_model(full_check=True)` and strict shape inference, and is run by onnxruntime on two inputs.

- **error**: the largest difference to the network itself, relative to the largest number of that output; allowed: 1e-4.
- **export s**: processor time of `to_onnx`, of the imported network.
- **again**: the difference to the file of `td.from_onnx(path).to_onnx(...)`.
- **b = 1, 3, 7**: what the file with the batch open (`dynamic=("b",)`) gives at these batches.
"""


_HEAD = "| network | status | nodes | MB | error | again | export s | b = 1, 3, 7 |"


def page(found: Mapping[str, Mapping[str, Row]]) -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for library, rows in found.items():
        counts = Counter(r["status"] for r in rows.values())
        right = sum(all(k == "right" for k, _ in r.get("dynamic", [["none", ""]])) for r in rows.values())
        told = ", ".join(f"{n} {k}" for k, n in counts.most_common())
        parts.append(f"## {library}\n\n{told} of {len(SUBJECTS[library]())}; any batch: {right}\n")
        parts.append(_HEAD + "\n|" + "---|" * _HEAD.count(" | ") + "---|")
        parts += [_row(name, row) for name, row in rows.items()]
        parts.append("")
    return "\n".join(parts)


def _row(name: str, row: Row) -> str:
    error = f"{row['error_found']:.1e}" if "error_found" in row else row.get("error", "")
    dynamic = row.get("dynamic", [])
    told = "right" if dynamic and all(k == "right" for k, _ in dynamic) else "; ".join(f"{k}: {w}" for k, w in dynamic)
    cells = (name, row["status"], row.get("nodes", ""), row.get("megabytes", ""), error, row.get("again", ""),
             row.get("export", ""), told)  # fmt: skip
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(SUBJECTS, found)) + "\n")

    command_line(__doc__, SUBJECTS, work, "onnx-export-", write, arguments)


if __name__ == "__main__":
    main()
