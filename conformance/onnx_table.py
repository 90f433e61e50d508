"""The backend suite's part of docs/conformance-onnx.md: totals, reasons, a table of operators."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from conformance.sweep import Row

Rows = Mapping[str, Row]

#: What is between these lines of the page is written; the rest is left alone.
BEGIN = "<!-- backend suite: written by conformance/onnx_backend.py -->"
END = "<!-- end of the backend suite -->"
#: The groups in the page's order. The first is what the goal is about.
GROUPS = (
    "plain", "control flow", "data-dependent shapes", "strings", "sequences and optionals", "ai.onnx.ml", "training",
)  # fmt: skip
_WRONG = ("wrong", "failed", "crashed", "timeout", "memory")


def write(path: Path, found: Mapping[str, Rows]) -> None:
    """Put the suite's part into the page, which is made if it isn't there."""
    text = path.read_text() if path.exists() else f"# ONNX\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text:
        text = f"{text}\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    path.write_text(before + BEGIN + "\n" + "\n".join(page(found)) + END + rest.partition(END)[2])


def page(found: Mapping[str, Rows]) -> list[str]:
    """The lines of the suite's part."""
    import onnx

    ours = found["tdagger"]
    plain = [r for r in ours.values() if r.get("group") == "plain"]
    right = sum(r["status"] == "ok" for r in plain)
    nearer = sum(r["status"] == "ok" and r.get("nearer", False) for r in ours.values())
    lost = sum(r["status"] == "ok" and r.get("lost", False) for r in ours.values())
    return [
        "## onnx's backend suite",
        "",
        "Written by `make conformance-onnx` (conformance/onnx_backend.py says how); not by hand.",
        "",
        *_SAID.format(count=len(ours), version=onnx.__version__, nearer=nearer, lost=lost).splitlines(),
        "",
        f"**{right} of {len(plain)} plain cases are right ({_percent(right, len(plain))}).**",
        "",
        *_totals(found),
        "",
        *(_NOTE.splitlines() if "onnxruntime" in found else []),
        "",
        *_programs(ours),
        *_reasons(ours),
        *_wrong(ours),
        *_operators(found),
        "",
    ]


_SAID = """\
The {count} cases of onnx {version}, each imported and run by numpy and by `to_torch()`. A case is right if both give
the suite's outputs, shapes and element types at the suite's tolerance. Inputs that say how a network is built (the
shape of a Reshape, the axes of a reduction) are given as constants, `from_onnx(values=...)`. Of random numbers only
shapes and types are compared. What is of an element type that there is none of here (int4, float4, the float8 types
but e4m3fn and e5m2) is compared as it is held, in one that has all its numbers. {nearer} are right though they differ
by more than the tolerance, which is below the rounding of their element type: onnx's own reference in double precision
is nearer to ours than to the suite's. Right by what they give in double precision are {lost} more, of which single
precision says nothing: what comes out is another thing when each operator's result, where it isn't exact, is rounded up
or down by lot. real/test_squeezenet is such a case on processors on which a matrix product sums its rows in different
orders: the weights of its last layer are one number, so its thousand scores are one, 9.5e9, and a step of single
precision between two of them, 1024, leaves nothing of the softmax, 0.001 for each.

Plain are tensors of numbers without control flow and data-dependent shapes (results of NonZero, Compress, Unique,
NonMaxSuppression); a case is of the first group that fits, from the bottom up."""
_NOTE = """\
onnxruntime (CPU) refuses above all what it has no kernel for; wrong are outputs that are not the suite's, its float8
taken for what its bytes say. Where the suite and the specification are at odds, an engine that follows the latter
counts as wrong. onnx2torch isn't installed with the project, and is in the table where somebody put it on the path;
tinygrad's frontend isn't measured (its CPU device needs clang)."""


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _totals(found: Mapping[str, Rows]) -> list[str]:
    engines = list(found)
    head = "| cases of | | " + " | ".join(f"{e}: right | refused | wrong" for e in engines) + " |"
    lines = [head, "|---|---" + "|---|---|---" * len(engines) + "|"]
    for group in (*GROUPS, "all"):
        names = [n for n, r in found["tdagger"].items() if group in ("all", r.get("group"))]
        cells: list[str] = []
        for rows in found.values():
            counts = Counter(_kind(rows[n]) for n in names if n in rows)
            cells += [f"{counts['ok']} ({_percent(counts['ok'], len(names))})", str(counts["unsupported"])]
            cells.append(str(counts["wrong"]))
        if names:
            lines.append(f"| {group} | {len(names)} | " + " | ".join(cells) + " |")
    return lines


def _kind(row: Row) -> str:
    return "wrong" if row["status"] in _WRONG else row["status"]


def _programs(rows: Rows) -> list[str]:
    """What becomes of cases with control flow as programs."""
    found = [r for r in rows.values() if r.get("program")]
    if not found:
        return []
    right, again = (sum(r.get(k) == "ok" for r in found) for k in ("program", "again"))
    return [
        f"Of the {len(found)} cases with If, Loop or Scan {right} are right as a `td.Program` run by numpy, and",
        f"{again} as what `program.to_onnx()` writes of it, run by onnxruntime. What they ask (turns, branches)",
        "is a constant there; sequences and optional values are lists of tensors.",
        "",
    ]


def _reasons(rows: Rows) -> list[str]:
    lines = ["### Why cases are refused", "", "| cases | of | reason |", "|---|---|---|"]
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows.values():
        if row["status"] == "unsupported":
            groups[_without_names(row.get("error", ""))][row["group"]] += 1
    for reason, counts in sorted(groups.items(), key=lambda item: -item[1].total()):
        of = ", ".join(counts)
        lines.append(f"| {counts.total()} | {of} | {_cell(reason)} |")
    return [*lines, ""]


def _without_names(reason: str) -> str:
    """A reason as it is for other inputs and models."""
    reason = re.sub(r"^input \S+ is", "an input is", reason)
    return re.sub(r"(depends on data) \([^)]*\)", r"\1", re.sub(r"test_\w+ can't", "it can't", reason))


def _wrong(rows: Rows) -> list[str]:
    wrong = [f"| {n} | {r['status']} | {_cell(r.get('error', ''))} |" for n, r in rows.items() if _kind(r) == "wrong"]
    return ["### Wrong", "", "| case | | |", "|---|---|---|", *wrong, ""] if wrong else ["No case is wrong.", ""]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())[:240]


def _operators(found: Mapping[str, Rows]) -> list[str]:
    engines = list(found)
    lines = [
        "### By operator",
        "",
        "All cases, the expanded ones with the operator whose body they are. Right / refused / wrong.",
        "",
        "| operator | cases | " + " | ".join(engines) + " |",
        "|---|---" + "|---" * len(engines) + "|",
    ]
    by: dict[str, list[str]] = defaultdict(list)
    for name, row in found["tdagger"].items():
        by[row.get("operator", "?")].append(name)
    for operator, names in sorted(by.items()):
        cells: list[str] = []
        for rows in found.values():
            counts = Counter(_kind(rows[n]) for n in names if n in rows)
            cells.append(f"{counts['ok']} / {counts['unsupported']} / {counts['wrong']}")
        lines.append(f"| {operator} | {len(names)} | " + " | ".join(cells) + " |")
    return lines
