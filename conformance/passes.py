"""Every pass of the library on networks: the same outputs and names of weights, nothing more to do the second time.

    python -m conformance.passes timm                  # what is not in the results yet; then the table
    python -m conformance.passes transformers --again wrong
    python -m conformance.passes table                 # only write the table

Each network runs in a process of its own, before and after every pass, value by value with torch's kernels. Results are
lines of JSON in ``conformance/results/``; docs/conformance-passes.md is made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

import tdagger as td
from conformance.axes import short
from conformance.check import capture
from conformance.models import LIBRARIES, ROOT, command_line, listed
from conformance.sweep import Row
from tdagger import passes
from tdagger.graph import result_types
from tdagger.interpret import run
from tdagger.op import Array
from tdagger.transform.passes.pipeline import difference, random_inputs
from tests.networks import NETWORKS, Network, perturb

TABLE = ROOT / "docs" / "conformance-passes.md"

Pass = Callable[[td.TensorDAG], td.TensorDAG]
#: The arrays that a network gives for arrays, by name, new values of buffers among them.
Outputs = Callable[[td.TensorDAG, Mapping[str, Array]], dict[str, Array]]

#: How far outputs may be off, relative to the largest entry of each.
TOLERANCE = 1e-6
#: What is off by more, but by less than this, is rounding if it is gone in double precision.
ROUNDED = 1e-3
#: "Gone": less than this in double precision.
WIDE_TOLERANCE = 1e-11


def _to_rank(limit: int) -> Pass:
    def to_rank(dag: td.TensorDAG) -> td.TensorDAG:
        new = passes.to_rank(dag, limit)
        assert max(t.rank for v in new.graph.values for t in result_types(v)) <= limit
        return new

    return to_rank


def _outline(dag: td.TensorDAG) -> td.TensorDAG:
    new, told = passes.outline(dag, report=True)
    assert (new.unwrap() if told else new).graph == dag.graph
    return new


def _decompose(dag: td.TensorDAG) -> td.TensorDAG:
    there = td.op_counts(dag.values)
    names = [n for n in ("layer_norm", "batch_norm", "gelu", "silu", "softmax", "relu", "rms_norm") if n in there]
    return passes.decompose(dag, *names) if names else dag


def _inline_raise(dag: td.TensorDAG) -> td.TensorDAG:
    return dag.inline().raise_()


EVERY: dict[str, Pass] = {
    **{p.__name__: p for p in dict.fromkeys(passes.DEFAULT)},
    "optimized": passes.optimized,
    "sink_transposes": passes.sink_transposes,
    "decompose": _decompose,
    "freeze": passes.freeze,
    "outline": _outline,
    "to_rank(4)": _to_rank(4),
    "to_rank(5)": _to_rank(5),
    "channels_last": passes.channels_last,
    "channels_first": passes.channels_first,
}
#: What takes a network to its core ops besides, where running it by numpy takes long.
MORE: dict[str, Pass] = {"unfreeze": passes.unfreeze, "inline, raise_": _inline_raise}
#: What gives the same numbers to the bit: the same functions on the same entries.
EXACT = {"simplify", "drop_unused_results", "freeze", "outline", "to_rank(4)", "to_rank(5)"}
#: What leaves the names in the state as they are.
SAME_STATE = {"simplify", "outline", "to_rank(4)", "to_rank(5)", "channels_last", "channels_first", "sink_transposes"}


def by_numpy(dag: td.TensorDAG, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the reference gives."""
    with np.errstate(all="ignore"):
        out, updates = run(dag.graph, dict(inputs), dag.weights)
    return {**out, **updates}


def by_torch(dag: td.TensorDAG, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What torch's kernels give, value by value."""
    interpreter = td.Interpreter(dag, "torch")
    with torch.no_grad():
        out = interpreter.run_graph({n: torch.from_numpy(np.asarray(a)) for n, a in inputs.items()})
    return {n: np.asarray(t.resolve_conj().resolve_neg().numpy()) for n, t in {**out, **interpreter.updates}.items()}


class Examined(NamedTuple):
    """What a pass did: nodes after it, the largest error (None where it changed nothing), and what is wrong."""

    nodes: int
    error: float | None
    wide: bool
    wrong: tuple[str, ...]


def examined(
    dag: td.TensorDAG, title: str, step: Pass, inputs: Mapping[str, Array], outputs: Outputs,
    exact: Iterable[str] = EXACT,
) -> Examined:  # fmt: skip
    """What a pass does to a network, compared on ``inputs``."""
    new = step(dag)
    if new.graph == dag.graph:
        return Examined(len(dag.graph), None, False, ())
    before, after = outputs(dag, inputs), outputs(new, inputs)
    error = max((difference(before[n], after[n]) for n in before), default=0.0)
    wide = title not in exact and TOLERANCE < error < ROUNDED
    if wide:
        error = _wide_error(dag, step, inputs, outputs)
    wrong: list[str] = []
    if [*before] != [*after]:
        wrong.append("other names of outputs")
    if error > (0.0 if title in exact else WIDE_TOLERANCE if wide else TOLERANCE):
        wrong.append(f"error {error:.1e}")
    if step(new).graph != new.graph:
        wrong.append("not idempotent")
    kept = {n: v.type for n, v in {**new.graph.parameters, **new.graph.buffers}.items() if n in dag.state}
    if any(dag.state[n].type is not t for n, t in kept.items()):
        wrong.append("a weight has another type under its name")
    if title in SAME_STATE and [*new.state] != [*dag.state]:
        wrong.append("other names in the state")
    return Examined(len(new.graph), error, wide, tuple(wrong))


def _wide_error(dag: td.TensorDAG, step: Pass, inputs: Mapping[str, Array], outputs: Outputs) -> float:
    """The error of a pass in double precision."""
    wide = passes.convert_dtype(dag, "f64", inputs=True)
    there = {n: a.astype(wide.graph.inputs[n].dtype.numpy) for n, a in inputs.items()}
    before, after = (outputs(d, there) for d in (wide, step(wide)))
    return max(difference(before[n], after[n]) for n in before)


# --- the sweep ---------------------------------------------------------------------------------------------


def _evenly(names: Sequence[str], count: int) -> list[str]:
    return [names[i * len(names) // count] for i in range(count)]


def _recurrent(name: str) -> Network:
    return NETWORKS[name](small=True, batch=2)


#: Names of the subjects.
SUBJECTS: dict[str, Callable[[], Sequence[str]]] = {
    "timm": lambda: _evenly(LIBRARIES["timm"][0](), 18),
    "transformers": lambda: _evenly(LIBRARIES["transformers"][0](), 10),
    "recurrent": lambda: ("LSTM", "GRU"),
}
BUILD: dict[str, Callable[[str], Network]] = {**{k: b for k, (_, b) in LIBRARIES.items()}, "recurrent": _recurrent}


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one network."""

    def run_all(name: str, report: Callable[..., None]) -> None:
        torch.manual_seed(0)
        report(stage="build")
        network = BUILD[library](name)
        perturb(network.module)
        network.module.eval()
        captured = capture(network.module, network.args, network.kwargs, report)
        if captured is None:
            return
        dag = captured[0]
        inputs = random_inputs(dag.graph)
        found: dict[str, Any] = {}
        for title, step in {**EVERY, **MORE}.items():
            report(stage=title)
            try:
                found[title] = examined(dag, title, step, inputs, by_torch, exact=())._asdict()
            except td.UnsupportedError as e:
                found[title] = {"refused": short(str(e))}
            report(found=found)
        wrong = [f"{title}: {why}" for title, e in found.items() for why in e.get("wrong", ())]
        report(nodes=len(dag.graph), stage="done", **({"status": "wrong", "error": "; ".join(wrong)} if wrong else {}))

    return run_all


# --- the page ----------------------------------------------------------------------------------------------


def page(found: Mapping[str, Mapping[str, Row]]) -> str:
    """The table."""
    titles = [*EVERY, *MORE]
    lines = [
        "# Passes on networks",
        "",
        "Made by `make conformance-passes` (`conformance/passes.py`); don't edit it by hand.",
        "",
        "Every pass of the library on networks with random weights: the smallest of every fifth family of timm, kinds",
        "of transformers, recurrent ones. Networks run value by value with torch's kernels before and after, on one",
        f"random input. Allowed is an error of {TOLERANCE:g}, relative to the largest entry of an output; if there is",
        f"more in float32, {WIDE_TOLERANCE:g} where all is in double precision; these are marked `d`.",
        "",
        "Each pass is run on what it gave: nothing may change. A weight that is left under its name has its type, and",
        f"{', '.join(f'`{t}`' for t in EVERY if t in SAME_STATE)} leave all names.",
        "",
        "A cell is the number of values after the pass and the largest error; `.`: nothing to do; `refused`: below.",
        "`inline, raise_` is to the core ops and back, run only after it.",
    ]
    refused: list[str] = []
    every = [r for rows in found.values() for r in rows.values()]
    good = [r for r in every if r["status"] == "ok"]
    cells = [e for r in good for e in r["found"].values() if e.get("error") is not None]
    lines += [
        "",
        f"{len(good)} of {len(every)} networks are right by all {len(titles)} passes; {len(cells)} times a pass "
        f"changed something, {sum(e['wide'] for e in cells)} of them compared in double precision.",
        "",
        f"| network | values | {' | '.join(titles)} |",
        f"|---|--:|{'--:|' * len(titles)}",
    ]
    for rows in found.values():
        for name, row in rows.items():
            told = row.get("found", {})
            lines.append(f"| {name} | {row.get('nodes', '')} | {' | '.join(_cell(told.get(t)) for t in titles)} |")
            refused += [f"| {name} | {t} | {e['refused']} |" for t, e in told.items() if "refused" in e]
    bad = [r for r in every if r["status"] != "ok"]
    if bad:
        lines += ["", "| not ok | | why |", "|---|---|---|"]
        lines += [f"| {r['name']} | {r['status']} | {short(r.get('error', ''))} |" for r in bad]
    if refused:
        lines += ["", "| refused | by | why |", "|---|---|---|", *refused]
    return "\n".join([*lines, ""])


def _cell(e: Mapping[str, Any] | None) -> str:
    if e is None:
        return ""
    if "refused" in e:
        return "refused"
    if e["wrong"]:
        return "**wrong**"
    if e["error"] is None:
        return "."
    return f"{e['nodes']} {'0' if not e['error'] else format(e['error'], '.0e')}{' d' if e['wide'] else ''}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(SUBJECTS, found)))

    command_line(__doc__, SUBJECTS, work, "passes-", write, arguments)


if __name__ == "__main__":
    main()
