"""coremltools' own tests of MIL ops through the importer: what each test expects, against the imported network.

    python -m conformance.coreml_ops                     # all (an hour)
    python -m conformance.coreml_ops --every 12          # one of 12 tests, chosen by name
    python -m conformance.coreml_ops table               # docs/conformance-coreml.md of what was found
    python -m conformance.coreml_ops --every 12 --of 5   # another twelfth; what was found of others is kept
    python -m conformance.coreml_ops -k test_pool        # options go to pytest; nothing is kept

PYMIL_TEST_TARGETS=neuralnetwork has the older neural networks, mlprogram (the default) ML programs. Each test that is
done is a line of JSON in ``conformance/results/``, so that a run that was stopped goes on where it was; remove the
file where the importer has changed.

The wheel of coremltools ships thousands of tests of MIL's ops, each of which builds a program, converts it to a model
(``mlprogram``, or the older ``neuralnetwork``) and says what it should give; the comparison itself is made on macOS
only. Here that comparison is made with the network that :func:`tdagger.from_coreml` makes of the model.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tdagger as td
from conformance.models import ROOT

TABLE = ROOT / "docs" / "conformance-coreml.md"
RESULTS = ROOT / "conformance" / "results"
Row = dict[str, Any]

#: Of fp16: what a test allows is for a GPU (0.5); numpy rounds every op to fp16.
HALF = 2e-2


class Skipped(Exception):
    """What isn't compared, and why."""


class Network(NamedTuple):
    """What was imported: inputs by name, names of outputs, a function that runs it, element types, what was given."""

    inputs: dict[str, td.TensorType]
    outputs: list[str]
    run: Callable[..., Any]
    dtypes: set[str]
    known: Mapping[str, Any] = {}


def imported(mlmodel: Any, values: Mapping[str, Any]) -> Network:
    """The network of a model, for inputs of these shapes.

    Where control flow depends on data it is a program; inputs that decide sizes are made constants (``values=``).
    """
    from tdagger.frameworks.coreml.asked import Asked
    from tdagger.frameworks.coreml.importer import imported as import_model
    from tdagger.frameworks.coreml.read import Model

    folder = Path(mlmodel.weights_dir).parent if mlmodel.weights_dir else None
    model = Model(mlmodel.get_spec(), "model.mlpackage", folder)
    shapes = {n: v.shape for n, v in values.items()}
    known: Mapping[str, Any] = {}
    try:
        dag = import_model(model, Asked(inputs=shapes))
    except td.UnsupportedError as error:
        e = error
        if "td.Program" in str(e):
            try:
                program = td.Program.from_coreml(model, inputs=shapes)
                inputs = {n: program.slots[n].type for n in program.inputs}
                dtypes = {s.type.dtype.name for s in program.slots.values()}
                return Network(inputs, [*program.outputs], program.run, dtypes)
            except td.UnsupportedError as error:
                e = error
        known = {n: v for n, v in values.items() if v.size <= _FEW and (v.dtype.kind in "iu" or _whole(v))}
        if not known or not any(w in str(e) for w in ("depends on data", "depend on data")):
            raise
        dag = import_model(model, Asked(inputs=shapes, values=known))
    inputs = {n: v.type for n, v in dag.graph.inputs.items()}
    dtypes = {v.dtype.name for v in dag.graph.values if isinstance(v.type, td.TensorType)}
    return Network(inputs, [*dag.graph.outputs], dag.run, dtypes, known)


def _whole(a: Any) -> bool:
    """Whether floats may be a size or an index: a number or a vector of whole ones."""
    return a.dtype.kind == "f" and a.ndim <= 1 and bool(np.all(a == np.floor(a)))


#: Inputs of at most so many whole numbers may say sizes.
_FEW = 16


def arrays_of(mlmodel: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as arrays of the described types: a single number is an array of one, for there is no rank of 0."""
    arrays = {f.name: f.type.multiArrayType for f in mlmodel.get_spec().description.input}
    found: dict[str, Any] = {}
    for name, value in values.items():
        a = np.asarray(value)
        described = arrays.get(name)
        if described is not None and a.ndim == 0 and len(described.shape) == 1:
            a = a.reshape(1)
        found[name] = a.astype(np.int32) if described is not None and described.dataType == _I32 else a
    return found


#: The number of 32-bit integers in descriptions of arrays.
_I32 = 131104


def compared(
    network: Network, values: Mapping[str, Any], expected: Any, atol: float, rtol: float, shapes: bool
) -> None:
    """AssertionError where the network gives something else than a test expects."""
    feeds = [values[n].astype(t.dtype.numpy) for n, t in network.inputs.items() if n in values]
    if len(feeds) < len(network.inputs):
        raise Skipped("random numbers are other ones")
    with np.errstate(all="ignore"):
        found = network.run(*feeds)
    named = dict(zip(network.outputs, found if isinstance(found, tuple) else (found,), strict=True))
    for place, (name, wanted) in enumerate(expected.items()):
        own = re.sub(r"[^a-zA-Z0-9_]", "_", name)
        got = np.asarray(named[name] if name in named else named[own] if own in named else list(named.values())[place])
        if isinstance(wanted, dict | str):
            raise Skipped("labels")
        wanted = np.asarray(wanted)
        if shapes and wanted.shape != got.shape and not (wanted.shape == () and got.shape == (1,)):
            raise AssertionError(f"{name}: shape {got.shape}, expected {wanted.shape}")
        np.testing.assert_allclose(got, wanted, atol=atol, rtol=rtol)


class Plugin:
    """Makes the comparison in coremltools' tests, and notes what came of it."""

    def __init__(self, every: int, of: int, done: Collection[str], note: Callable[[str, Row], None]) -> None:
        self.every, self.of, self.done, self.note = every, of, done, note
        self.rows: dict[str, Row] = {}
        self.now = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """One test of so many, chosen by its name, that isn't done."""
        items[:] = [i for i in items if part_of(i.nodeid, self.every) == self.of and i.nodeid not in self.done]

    def pytest_collection_finish(self, session: Any) -> None:
        from coremltools.converters.mil import testing_utils as base
        from coremltools.converters.mil.mil import Program
        from coremltools.converters.mil.mil.ops.tests import testing_utils as ops

        base.compare_backend = ops.compare_backend = self.compare
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("coremltools.") and hasattr(module, "compare_backend"):
                module.compare_backend = self.compare
        # In each conversion coremltools collects garbage, half a second where all tests' objects are looked through,
        # and after each of its 92 passes it looks whether the program is sound, a quarter of the rest.
        gc.freeze()
        Program.validate = lambda self, *args, **kwargs: None

    def pytest_runtest_setup(self, item: Any) -> None:
        self.now = item.nodeid

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.failed and report.nodeid not in self.rows:
            self.rows[report.nodeid] = {"status": "coremltools", "why": str(report.longrepr)[-300:]}
        row = self.rows.get(report.nodeid, {})
        if report.when == "call" and report.passed and row.get("raised"):  # as the test wants it
            row.update(status="pass", why="")
        if report.when == "teardown":
            self.note(report.nodeid, self.rows.get(report.nodeid, {"status": "none", "why": "it compares nothing"}))

    def compare(
        self, mlmodel: Any, input_key_values: Any, expected_outputs: Any, dtype: str = "fp32", atol: float = 1e-4,
        rtol: float = 1e-5, also_compare_shapes: bool = True, state: Any = None, allow_mismatch_ratio: float = 0.0,
    ) -> None:  # fmt: skip
        kind = mlmodel.get_spec().WhichOneof("Type")
        row: Row = {"kind": kind, "dtype": dtype, "status": "pass", "why": ""}
        previous = self.rows.get(self.now)
        try:
            if expected_outputs is None or state is not None:
                raise Skipped("no outputs are expected, or they are of several calls")
            if "invalid_indices" in self.now and "validate_indices=False" in self.now:
                raise Skipped("what indices out of range give isn't defined")
            values = arrays_of(mlmodel, input_key_values)
            network = imported(mlmodel, values)
            row["known"] = [*network.known]
            arrays = [*values.values(), *expected_outputs.values()]
            halves = "f16" in network.dtypes or any(getattr(a, "dtype", None) == np.float16 for a in arrays)
            least = HALF if halves else 0.0
            compared(network, values, expected_outputs, max(atol, least), max(rtol, least), also_compare_shapes)
        except Skipped as e:
            row.update(status="skipped", why=str(e))
        except td.UnsupportedError as e:
            row.update(status="refused", why=str(e).replace("\n", " ")[:400])
        except Exception as e:
            row.update(status="wrong", why=f"{type(e).__name__}: {str(e)[:600]}", raised=isinstance(e, IndexError))
        if previous is None or previous["status"] == "pass":
            self.rows[self.now] = row
        if row.get("raised"):  # some tests are of what no model can be run on, and look for CoreML's words
            raise RuntimeError(f"Unable to compute the prediction using ML Program: {row['why']}")


def part_of(test: str, every: int) -> int:
    """Which of so many parts a test is in, by its name."""
    return zlib.crc32(test.encode()) % every


def run(
    every: int, of: int, arguments: list[str], done: Collection[str], note: Callable[[str, Row], None]
) -> tuple[dict[str, Row], bool]:
    """Run the tests that aren't done and note each; rows of those that compare something, whether none is left."""
    os.environ.update(
        INCLUDE_MIL_FP32_UNIT_TESTS="1", PYMIL_TEST_TARGETS=os.environ.get("PYMIL_TEST_TARGETS", "mlprogram")
    )
    import logging

    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    plugin = Plugin(every, of, done, note)
    import importlib.util

    found = importlib.util.find_spec("coremltools")
    assert found is not None
    assert found.submodule_search_locations
    folder = Path(next(iter(found.submodule_search_locations))) / "converters/mil/mil/ops/tests"
    common = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--no-header",
        "-W",
        "ignore",
        "--tb=no",
        "-c",
        "/dev/null",
    ]
    ended = pytest.main(
        [
            *common,
            "--rootdir",
            str(folder),
            *([str(folder)] if not any(a.endswith(".py") for a in arguments) else []),
            *arguments,
        ],
        plugins=[plugin],
    )
    whole = ended in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    return plugin.rows, whole


def read(path: Path, every: int | None = None) -> tuple[int, dict[str, Row], list[int]]:
    """How many parts there are, a row for each test that is done, and the parts that are done wholly.

    Lines of other parts than one of ``every`` are of another run, and left out.
    """
    rows: dict[str, Row] = {}
    parts: set[int] = set()
    for line in map(json.loads, path.read_text().splitlines()) if path.exists() else ():
        every = every or line["every"]
        if line["every"] != every:
            continue
        if "done" in line:
            parts.add(line["done"])
        else:
            rows[line["test"]] = line["row"]
    return every or 1, rows, sorted(parts)


_INTRODUCTION = """# coremltools' tests of ops through the importer

coremltools 9.0 ships tests of MIL's ops, each of which builds a program, converts it and says what it gives; it makes
the comparison on macOS only. Here `td.from_coreml` imports the converted model, and numpy runs it. Made by
`make conformance-coreml` (`conformance/coreml_ops.py`); don't edit it by hand.

Models are ML programs in f32 and f16, at the operator set that a test asks for (iOS15 to iOS18), and the older neural
networks. Control flow by data is imported as a program; inputs that decide sizes (the begin of a slice) are given as
constants, `values=`, and counted. The tolerances are the tests' own; with f16 in a model 0.02, where coremltools has
0.5 for CoreML. **pass** of those that compare numbers; what is **refused** is named by the importer, **wrong** is
another result than expected: of `crop_resize` coremltools has 7.899 where its own formula gives 7.9, and the whole
image for a box from 2 to 1 of it.
"""


def page(found: Mapping[str, tuple[int, Mapping[str, Row], Sequence[int]]]) -> str:
    """The whole page, of parts that are done wholly; where none is, of all that is done."""
    parts = [_INTRODUCTION]
    for target, (of_all, done, whole) in found.items():
        rows = {n: r for n, r in done.items() if part_of(n, of_all) in whole} if whole else done
        counts = Counter(r["status"] for r in rows.values())
        compared = sum(counts[k] for k in ("pass", "refused", "wrong"))
        share = 100 * counts["pass"] / max(compared, 1)
        every = "" if whole else f", the first {len(rows)} tests, in their order"
        if whole and of_all > 1:
            which = f"{len(whole)} of {of_all} parts" if len(whole) > 1 else f"one of {of_all}"
            every = f", {which} of the tests, chosen by name"
        given = sum(r["status"] == "pass" and bool(r.get("known")) for r in rows.values())
        sizes = f" {given} of them with `values=`." if given else ""
        parts.append(f"## {target}\n\n{counts['pass']} of {compared} pass ({share:.1f} %{every}).{sizes}\n")
        if len(whole) > 1:
            parts.append(f"Each part: {', '.join(_share(rows, of_all, part) for part in whole)}.\n")
        parts.append("| tests | compared | pass | refused | wrong |\n|---|---|---|---|---|")
        files: dict[str, Counter[str]] = {}
        for name, r in rows.items():
            files.setdefault(name.split("::")[0].rpartition("/")[2][5:-3], Counter())[r["status"]] += 1
        for name, c in sorted(files.items()):
            numbers = (c["pass"] + c["refused"] + c["wrong"], c["pass"], c["refused"], c["wrong"])
            if numbers[0]:
                parts.append(f"| {name} | {' | '.join(map(str, numbers))} |")
        whys = Counter((r["status"], reason(r["why"])) for r in rows.values() if r["status"] in ("refused", "wrong"))
        if whys:
            parts.append("\nWhat doesn't pass:\n")
            parts += [f"- {n} {status}: {why}" for (status, why), n in whys.most_common()]
        parts.append("")
    return "\n".join(parts)


def _share(rows: Mapping[str, Row], every: int, part: int) -> str:
    """How many tests of a part pass, of those that compare numbers."""
    counts = Counter(r["status"] for n, r in rows.items() if part_of(n, every) == part)
    return f"{counts['pass']} of {counts['pass'] + counts['refused'] + counts['wrong']}"


def reason(why: str) -> str:
    """The reason without counts and places."""
    found = re.search(r"1 x (.*?) \(at ", why)
    return (found[1] if found else why.partition("\n")[0])[:160].strip()


def main() -> None:
    """The command line."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["table"]:
        targets = {t: RESULTS / f"coreml-ops-{t}.jsonl" for t in ("mlprogram", "neuralnetwork")}
        TABLE.write_text(page({t: read(p) for t, p in targets.items() if p.exists()}))
        return
    every, of = 1, 0
    if arguments[:1] == ["--every"]:
        every, arguments = int(arguments[1]), arguments[2:]
    if arguments[:1] == ["--of"]:
        of, arguments = int(arguments[1]), arguments[2:]
    path = RESULTS / f"coreml-ops-{os.environ.get('PYMIL_TEST_TARGETS', 'mlprogram')}.jsonl"
    done = {} if arguments else read(path, every)[1]

    def note(test: str, row: Row) -> None:
        if not arguments:
            append({"every": every, "test": test, "row": row})

    def append(line: Row) -> None:
        RESULTS.mkdir(exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    rows, whole = run(every, of, arguments, done, note)
    if whole and not arguments:
        append({"every": every, "done": of})
    print(dict(Counter(r["status"] for r in rows.values())))
    for name, r in rows.items():
        if r["status"] in ("refused", "wrong"):
            print(r["status"], name.rpartition("/")[2], reason(r["why"]))


if __name__ == "__main__":
    main()
