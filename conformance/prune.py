"""Structured pruning of real networks: what is found, whether FLOPs go, and whether what is left is right.

    python -m conformance.prune timm                    # what is not in the results yet; then the table
    python -m conformance.prune transformers --again failed
    python -m conformance.prune timm --only swin --again ok
    python -m conformance.prune timm-folded             # what goes counts as the constant that it is
    python -m conformance.prune timm-torch-pruning      # by Torch-Pruning (pip install -r benchmarks/pruning.txt)

Every network is imported at one batch (timm 1, transformers 2) with its zeros and ones moved away. Two plans are made:
60 % of the FLOPs are left, by l2; and 30 % of the units of every group go at random, also those that more than norms
count. Each is applied, its FLOPs and parameters are counted and compared with those the plan predicts, and
``plan.check()`` runs both networks in double precision. ``-folded`` is the same with ``constants="fold"``. Results are
lines of JSON in ``conformance/results/``; docs/conformance-prune.md is made from them.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tdagger as td
from conformance import prune_peer, timm_models, transformers_models
from conformance.axes import imported, short
from conformance.models import ROOT, command_line, listed
from conformance.sweep import Row

TABLE = ROOT / "docs" / "conformance-prune.md"

#: The part of the FLOPs that is to be left, and the part of each group's units that goes at random.
LEFT, RANDOM = 0.6, 0.3
#: FLOPs cut that count as pruned, and the number of kinds of transformers, the best known first.
CUT, KINDS = 0.3, 60


#: After a library's name: constants are folded. And what is Torch-Pruning's.
FOLDED, PEER = "-folded", "timm-torch-pruning"


def planned(dag: td.TensorDAG, report: Callable[..., None], constants: str = "zero") -> Any:
    """The plan of so many FLOPs, of groups that only norms count if they suffice; None if there is none.

    Where fewer than 40 % can go, 30 % do.
    """
    for inexact, left in itertools.product(("norms", "all"), (LEFT, 1 - CUT)):
        try:
            plan = dag.prune_plan(flops=left, inexact=inexact, constants=constants)
        except td.AttributeValueError as e:
            report(no_plan=str(e)[:500])
        else:
            report(inexact=inexact)
            return plan
    return None


def at_random(dag: td.TensorDAG, constants: str = "zero") -> Any:
    """A plan in which some units of every group go."""
    rng = np.random.default_rng(0)
    groups = [g for g in dag.prunable() if g.size > 1]
    entries = {g.name: rng.choice(g.size, max(int(g.size * RANDOM), 1), replace=False) for g in groups}
    return dag.prune_plan(entries=entries, constants=constants)


def judged(plan: Any) -> dict[str, Any]:
    """What becomes of a plan: its costs, and a verdict."""
    start = time.process_time()
    small = plan.apply()
    seconds = time.process_time() - start
    counted = {
        "flops": small.graph.total_flops(),
        "parameters": sum(w.type.size for w in small.state.values() if w.is_parameter and not w.alias_of),
    }
    predicted = {k: plan.found.cost[k](plan.found.left(plan.gone)) for k in counted}
    start = time.process_time()
    check = plan.check()
    known, norms = plan.found.why(plan.gone, constants=plan.constants == "fold")
    norms &= set(plan.why) <= set(known)  # else constants aren't the same everywhere
    told = bool(plan.why) or bool(check.helped)
    if not check.passed:
        verdict = "wrong"
    elif check.exact:
        verdict = "exact"
    else:
        verdict = ("norms" if norms else "told") if told else "wrong"
    return {
        "verdict": verdict, "error": check.error, "unlike": check.unlike, "helped": len(check.helped),
        "why": list(plan.why)[:4], "seconds_apply": round(seconds, 2),
        "cut": 1 - counted["flops"] / plan.before["flops"],
        "cut_parameters": 1 - counted["parameters"] / plan.before["parameters"],
        "mispredicted": {k: [predicted[k], counted[k]] for k in counted if predicted[k] != counted[k]},
        "seconds_check": round(time.process_time() - start, 2),
    }  # fmt: skip


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one subject."""
    if library == PEER:
        importlib.import_module("torch_pruning")  # without it no network would be one that it can't prune
        return prune_peer.work

    def run(name: str, report: Callable[..., None]) -> None:
        constants = "fold" if library.endswith(FOLDED) else "zero"
        _, dag = imported(library.removesuffix(FOLDED), name, report)
        report(stage="prunable", flops=dag.graph.total_flops())
        start = time.process_time()
        found = dag.prunable()
        groups = found.groups
        report(
            seconds_found=round(time.process_time() - start, 2), groups=len(groups), units=sum(g.size for g in groups)
        )
        report(stops=Counter(s.why.split(":")[0][:60] for s in found.stopped).most_common(3))
        report(stage="plan")
        start = time.process_time()
        plan = planned(dag, report, constants)
        report(seconds_plan=round(time.process_time() - start, 2))
        if plan is not None:
            report(stage="apply")
            report(plan=judged(plan))
        report(stage="random")
        report(random=judged(at_random(dag, constants)))

    return run


def verdict(row: Row) -> str:
    """Of a network: that of its plan of so many FLOPs; wrong if either plan is; else why there is none."""
    plans = [row[k]["verdict"] for k in ("plan", "random") if k in row]
    if "wrong" in plans:
        return "wrong"
    if row.get("status") != "ok":
        return row.get("status", "?")
    return plans[0] if "plan" in row else "no plan"


def page(results: dict[str, dict[str, Row]]) -> str:
    """The table."""
    lines = [
        "# Structured pruning of real networks",
        "",
        "Made by `make conformance-prune` (`conformance/prune.py`); don't edit it by hand.",
        "",
        f"- **cut**: the part of FLOPs that went where {LEFT:.0%} were to be left, by l2, counted in what was made.",
        "- **exact**: in float64 the outputs are those of the network with zeros in the place of what went (1e-9 of",
        "  the largest). *norms*: the same where norms, which count what goes and say so, are given in both what is",
        "  left. *told*: the same where other ops that see all entries (a softmax, a maximum), named by the plan, are",
        "  given so.",
        f"- **random**: the same of a plan in which {RANDOM:.0%} of the units of every group go at random, also those",
        "  that more than norms count.",
        "- **s**: seconds of processor time to find groups, plan and make the smaller network.",
        f'- **{FOLDED[1:]}**: with `constants="fold"`, against the network in which the constants stay; *told* is then',
        "  zero padding, which makes a constant another one at borders, if nothing else is said below the table. New",
        "  biases are in no plan's FLOPs.",
    ]
    for library, rows in results.items():
        if not rows:
            continue
        if library == PEER:
            ours = {n: (verdict(r), f"{r['plan']['cut']:.0%}") for n, r in results["timm"].items() if "plan" in r}
            lines += prune_peer.lines(rows, ours, len(LIBRARIES[library]()))
            continue
        count = Counter(verdict(r) for r in rows.values())
        right = sum(count[k] for k in ("exact", "norms", "told"))
        cut = sum(
            r.get("plan", {}).get("cut", 0) >= CUT and verdict(r) in ("exact", "norms", "told") for r in rows.values()
        )
        lines += [
            "", f"## {library}", "", *_so_far(library, rows),
            f"- groups found: {sum(bool(r.get('groups')) for r in rows.values())} of {len(rows)}",
            f"- pruned and right: {right} of {len(rows)} ({', '.join(f'{n} {k}' for k, n in count.most_common())})",
            f"- of these with at least {CUT:.0%} of FLOPs cut: {cut}",
            f"- silently wrong: {count['wrong']}",
            _off(library, rows),
            "",
            "| network | groups | units | cut | verdict | random | error | s |", "|---|--:|--:|--:|---|---|--:|--:|",
        ]  # fmt: skip
        lines += [_line(name, row) for name, row in rows.items()]
        lines += ["", *_reasons(rows)]
    return "\n".join(lines) + "\n"


def _so_far(library: str, rows: dict[str, Row]) -> list[str]:
    whole = len(LIBRARIES[library]())
    return [] if len(rows) == whole else [f"- networks so far: {len(rows)} of {whole}"]


def _off(library: str, rows: dict[str, Row]) -> str:
    off = {n: r[k]["mispredicted"] for n, r in rows.items() for k in ("plan", "random")
           if r.get(k, {}).get("mispredicted")}  # fmt: skip
    if library.endswith(FOLDED):
        most = max((now / said - 1 for o in off.values() for said, now in o.values()), default=0.0)
        return f"- FLOPs or parameters more than planned, for new biases: {most:.1%} at most"
    what = "FLOPs or parameters other than groups' polynomials say (plans count what is made)"
    return f"- {what}: {len(off)} {', '.join(off)}".rstrip()


def _line(name: str, row: Row) -> str:
    plan, other = row.get("plan", {}), row.get("random", {})
    seconds = sum(row.get(k, 0) for k in ("seconds_found", "seconds_plan")) + plan.get("seconds_apply", 0)
    error = max([p["error"] for p in (plan, other) if p], default=None)
    cells = [
        name, row.get("groups", ""), row.get("units", ""), f"{plan['cut']:.0%}" if plan else "", verdict(row),
        other.get("verdict", ""), "" if error is None else f"{error:.0e}", f"{seconds:.1f}",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _reasons(rows: dict[str, Row]) -> list[str]:
    found: list[str] = []
    for name, row in rows.items():
        if row.get("status") != "ok":
            found.append(f"- {name}: {row.get('status')}: {short(row.get('error', ''))}")
        elif "plan" not in row:
            found.append(f"- {name}: {short(row.get('no_plan', ''))}")
        for kind in ("plan", "random"):
            plan = row.get(kind, {})
            why = plan.get("why", ())
            padded = bool(why) and all("pads constants" in w for w in why)
            if plan.get("verdict") == "wrong" or (plan.get("verdict") == "told" and not padded):
                said = "; ".join(why) or f"off by {plan['unlike']:.1e}"
                found.append(f"- {name}, {kind}, {plan['verdict']}: {short(said)}")
    return found


LIBRARIES: dict[str, Callable[[], Sequence[str]]] = {
    "timm": timm_models.names,
    "transformers": lambda: transformers_models.names()[:KINDS],
    f"timm{FOLDED}": timm_models.names,
    PEER: timm_models.names,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(LIBRARIES, found)))

    command_line(__doc__, LIBRARIES, work, "prune-", write, arguments)


if __name__ == "__main__":
    main()
