"""docs/coverage.md: how every op of core ATen is imported, and why some ops can't be.

python conformance/coverage.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tdagger.frameworks.torch.aten.calls import plan_of
from tdagger.frameworks.torch.aten.reasons import REASONS, reason_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coverage.md"


def core_overloads() -> dict[str, Any]:
    """Every overload that torch tags ``core``, by ``name.overload``."""
    found: dict[str, Any] = {}
    for full in sorted(torch._C._dispatch_get_all_op_names()):
        namespace, _, name = full.partition("::")
        base, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, base), overload or "default", None) if namespace == "aten" else None
        if op is not None and torch.Tag.core in op.tags:
            found[f"{base}.{overload or 'default'}"] = op
    return found


def coverage() -> str:
    """The text of the page."""
    core = core_overloads()
    by_rule = [n for n, op in core.items() if plan_of(op).rule is not None]
    refused = [n for n in core if n not in by_rule and reason_of(n.partition(".")[0])]
    decomposed = [n for n in core if n not in by_rule and n not in refused]
    lines = [
        "# Which PyTorch ops are imported",
        "",
        "Written by `python conformance/coverage.py` from the table of rules and the table of reasons; a test holds",
        "it to them, and `tests/frameworks/torch/test_aten.py` calls every core overload.",
        "",
        f"Of the {len(core)} overloads torch tags `core` ({len({n.partition('.')[0] for n in core})} names)",
        f"{len(by_rule)} have a rule, {len(decomposed)} are imported through torch's own decomposition, and"
        f" {len(refused)} can't be static. Ops beyond core ATen are imported by a rule, or through torch's",
        "decomposition into ops that have one. What torch's own op database says of them is in",
        "[conformance-ops.md](conformance-ops.md).",
        "",
        "## What can't be imported, and why",
        "",
        "This is also the error a user gets. Names of core ATen are bold. Ops beyond these that have neither a rule",
        "nor a decomposition are reported by name; `external=True` keeps them as they are.",
    ]
    named = {n.partition(".")[0] for n in refused}
    for reason in dict.fromkeys(REASONS.values()):
        names = sorted(n for n, r in REASONS.items() if r == reason and (n in named or not _has_rule(n)))
        if names:
            shown = ", ".join(f"**{n}**" if n in named else n for n in names)
            lines += ["", f"### {reason.kind}: {reason.why}", "", shown]
    for title, names in (("Core ATen by a rule", by_rule), ("Core ATen by torch's decomposition", decomposed)):
        groups: dict[str, list[str]] = {}
        for name in names:
            base, _, overload = name.partition(".")
            groups.setdefault(base, []).append(overload)
        shown = ", ".join(n if o == ["default"] else f"{n} ({', '.join(o)})" for n, o in groups.items())
        lines += ["", f"## {title}", "", shown or "none"]
    return "\n".join(lines) + "\n"


def _has_rule(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and any(plan_of(getattr(packet, o)).rule is not None for o in packet.overloads())


if __name__ == "__main__":
    PAGE.write_text(coverage())
