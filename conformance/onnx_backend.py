"""onnx's backend suite through the importer and other engines: which cases are right, which are refused, and why.

    python -m conformance.onnx_backend                     # what is not in the results yet; then the page
    python -m conformance.onnx_backend --only resize --again unsupported wrong failed
    python -m conformance.onnx_backend --engine onnxruntime

Every case (:mod:`conformance.onnx_cases`) is imported and run by numpy and by ``to_torch()``, in a process of its own
with limits, and compared with the suite's outputs at the case's tolerance. Inputs that say how a network is built (the
shape of a Reshape) are given as constants. Of random numbers only shapes and element types are compared. Results are
lines of JSON in ``conformance/results/``; the suite's part of docs/conformance-onnx.md is made from them.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance import onnx_engines as engines
from conformance.onnx_cases import (
    Case,
    arguments,
    by_numpy,
    by_torch,
    cases,
    difference,
    flat,
    group_of,
    has_control_flow,
    imported,
    is_random,
    numbers,
    operator_of,
    program_of,
    read,
)
from conformance.onnx_engines import checked
from conformance.onnx_rounding import is_lost, is_nearer
from conformance.onnx_table import write
from conformance.sweep import Limits, Row, sweep
from conformance.sweep import read as read_rows
from tdagger.errors import InputError, UnsupportedError

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "conformance" / "results"

Report = Callable[..., None]


def check(case: Case, report: Report, torch_too: bool = True) -> None:
    """Import a case and compare it both ways."""
    values = not is_random(case)
    fixed = numbers(case)
    for inputs, want in case.data:
        report(stage="import")
        try:
            dag = imported(case, inputs, fixed)
        except (UnsupportedError, InputError) as e:
            report(status="unsupported", error=reason(e))
            return
        given = arguments(case, inputs, fixed, dag.graph.inputs)
        for name, run in (("numpy", by_numpy), ("torch", by_torch))[: 2 if torch_too else 1]:
            report(stage=name)
            try:
                got = run(dag, given)
            except UnsupportedError as e:
                report(status="unsupported", error=f"{name}: {reason(e)}")
                return
            why = difference(case, got, want, values)
            if " differs: " in why and is_nearer(case, inputs, got, want):
                report(nearer=True)
            elif " differs: " in why and is_lost(case, inputs, fixed, want):
                report(lost=True)
            elif why:
                report(status="wrong", error=f"{name}: {why}")
                return
        if has_control_flow(case) and torch_too:
            report(stage="program")
            report(**as_program(case, inputs, want))


def as_program(case: Case, inputs: dict[str, Any], want: list[Any]) -> dict[str, str]:
    """What becomes of a case with control flow as a program: run by numpy, and as a file again by onnxruntime."""
    from onnxruntime import InferenceSession, SessionOptions

    fixed = numbers(case)
    found: dict[str, str] = {}
    program = program_of(case, inputs, fixed)
    given = arguments(case, inputs, fixed, program.inputs)
    args, kwargs = program.called.inputs.unflatten([given[n] for n in program.inputs])
    found["program"] = difference(case, flat(program.run(*args, **kwargs)), want) or "ok"
    quiet = SessionOptions()
    quiet.log_severity_level = 4
    try:
        model = program.to_onnx().SerializeToString()
        session = InferenceSession(model, quiet, providers=["CPUExecutionProvider"])
        got = [_array(v) for v in session.run_with_ort_values(None, _ort_values(given))]
    except Exception as e:  # onnxruntime's own errors share no class
        return {**found, "again": f"{type(e).__name__}: {str(e).splitlines()[0][:200]}"}
    return {**found, "again": difference(case, got, want) or "ok"}


def _array(value: Any) -> Any:
    """What onnxruntime gives as an array; numpy has no bfloat16 of its own."""
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    import ctypes

    import ml_dtypes

    size = int(np.prod(value.shape()))
    raw = (ctypes.c_uint16 * size).from_address(value.data_ptr())
    return np.array(raw, np.uint16).view(ml_dtypes.bfloat16).reshape(value.shape())


def _ort_values(given: dict[str, Any]) -> dict[str, Any]:
    """Arrays as onnxruntime takes them, bfloat16 by its number."""
    from onnxruntime import OrtValue

    out: dict[str, Any] = {}
    for name, array in given.items():
        whole = np.ascontiguousarray(array).reshape(np.shape(array))
        bf16 = whole.dtype.name == "bfloat16"
        out[name] = (
            OrtValue.ortvalue_from_numpy_with_onnx_type(whole.view(np.uint16), 16)
            if bf16
            else (OrtValue.ortvalue_from_numpy(whole))
        )
    return out


def reason(error: Exception) -> str:
    """Why an import is refused, without counts and places."""
    lines = [line.strip() for line in str(error).splitlines()]
    found = [re.sub(r"^\d+ x ", "", re.sub(r" \(at .*\)$", "", line)) for line in lines if re.match(r"^\d+ x ", line)]
    return "; ".join(found) or lines[0]


ENGINES: dict[str, Callable[[Case, Report], None]] = {
    "tdagger": check,
    **{name: checked(engine) for name, engine in engines.ENGINES.items()},
}


def work(engine: str, suite: dict[str, Any]) -> Callable[[str, Report], None]:
    """What is done with the case of a name."""

    def run(name: str, report: Report) -> None:
        warnings.simplefilter("ignore")
        report(stage="read")
        case = read(name, suite[name])
        report(group=group_of(case), operator=operator_of(case))
        with np.errstate(all="ignore"):
            ENGINES[engine](case, report)

    return run


def main(given: Sequence[str] | None = None) -> int:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description="onnx's backend suite through tdagger")
    parser.add_argument("--engine", default="tdagger", choices=ENGINES)
    parser.add_argument("--only", default="", help="a regular expression of names; the page isn't written")
    parser.add_argument("--again", nargs="*", default=[], help="statuses to run anew")
    parser.add_argument("--page", action="store_true", help="only write the page, of what is in the results")
    parser.add_argument("--seconds", type=float, default=120, help="for one case (default 120)")
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(given)
    if options.page:
        _write_page()
        return 0
    suite = cases()
    names = [n for n in suite if re.search(options.only, n)]
    warm_up(options.engine)
    path = RESULTS / f"onnx-backend-{options.engine}.jsonl"
    rows = sweep(names, work(options.engine, suite), path, Limits(options.seconds), options.again, options.quiet)
    for line in summary(rows):
        print(line)
    if not options.only:
        _write_page()
    return int(any(r["status"] in ("wrong", "failed") for r in rows.values()))


def _write_page() -> None:
    found = {e: read_rows(RESULTS / f"onnx-backend-{e}.jsonl") for e in ENGINES}
    write(ROOT / "docs" / "conformance-onnx.md", {e: r for e, r in found.items() if r})


def warm_up(engine: str) -> None:
    """Load what every case needs, so that the processes of cases needn't."""
    if engine != "tdagger":
        importlib.import_module(engine)
        return
    import onnx
    import torch
    from onnx import helper

    from tdagger.frameworks.onnx.importer import from_onnx

    torch.set_num_threads(1)
    info = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [info], [])
    graph.output.add().name = "y"
    from_onnx(helper.make_model(graph)).to_torch()(torch.ones(2))


def summary(rows: dict[str, Row]) -> list[str]:
    """How many cases are what, by group."""
    from collections import Counter

    lines: list[str] = []
    for group in sorted({r.get("group", "?") for r in rows.values()}):
        counts = Counter(r["status"] for r in rows.values() if r.get("group", "?") == group)
        lines.append(f"{group}: " + ", ".join(f"{n} {status}" for status, n in counts.most_common()))
    return lines


if __name__ == "__main__":
    sys.exit(main())
