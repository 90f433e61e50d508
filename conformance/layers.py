"""The layers of real networks there and back: whether each is a module of its class at its path, and called as it was.

    python -m conformance.layers timm                  # what is not in the results yet; then the table
    python -m conformance.layers transformers --again unnamed
    python -m conformance.layers table                 # only write the table

Every module that holds no others and is called in the source is looked for at its path in what ``to_torch()`` gives,
and both are watched by forward hooks: the same class, as many calls, the same tensors in and out. Results are lines of
JSON in ``conformance/results/``; docs/conformance-layers.md is made from them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from conformance.axes import short
from conformance.check import (
    GRADIENT_TOLERANCE,
    OUTPUT_TOLERANCE,
    capture,
    gradient_error,
    gradient_error_f64,
    output_error,
    output_errors_f64,
    results,
)
from conformance.models import LIBRARIES, ROOT, command_line, listed
from conformance.sweep import Row
from tests.networks import perturb

TABLE = ROOT / "docs" / "conformance-layers.md"

#: How many kinds of transformers are looked at, evenly among all of them in their order.
KINDS = 60


class Seen(NamedTuple):
    """One call of a module: the tensors it was given, and those it gave."""

    inputs: list[Tensor]
    outputs: list[Tensor]


def watched(module: nn.Module, paths: Sequence[str], run: Callable[[], Any], take: Callable[[str, Seen], None]) -> None:
    """Give ``take`` what hooks on the modules at ``paths`` see while the network runs."""

    def kept(x: Any) -> list[Tensor]:
        return [t.detach().clone() for t in tree_leaves(x) if isinstance(t, Tensor)]

    def watch(path: str) -> Any:
        before: list[list[Tensor]] = []

        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            before.append(kept((args, kwargs)))  # now: the module may write to what it was given

        def leave(_: nn.Module, args: Any, out: Any) -> None:
            take(path, Seen(before.pop(), kept(out)))

        own = module.get_submodule(path)
        return own.register_forward_pre_hook(enter, with_kwargs=True), own.register_forward_hook(leave)

    handles = [h for path in paths for h in watch(path)]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()


def leaves_of(module: nn.Module) -> list[str]:
    """The paths of the modules that hold no others."""
    return [p for p, m in module.named_modules() if p and not list(m.children())]


def is_same_class(own: nn.Module, source: nn.Module) -> bool:
    """Whether a module is of the source's class: of torch's itself, or of a generated one of the name."""
    kind = type(source)
    return type(own) is kind if kind.__module__.startswith("torch.nn.") else type(own).__name__ == kind.__name__


def difference(want: Seen, got: Seen) -> str:
    """What a hook could tell two calls by; "" for nothing."""
    for what in ("outputs", "inputs"):
        a, b = getattr(want, what), getattr(got, what)
        if not _alike(a, b):
            fewer = all(any(_alike([x], [y]) for x in a) for y in b)
            return f"without {what} that nothing needs" if fewer else f"other {what}"
    return ""


class Compared:
    """What hooks see of a network, held against what they saw of its source."""

    def __init__(self, source: nn.Module, run: Callable[[], Any]) -> None:
        self._source = source
        self.wanted: dict[str, list[Seen]] = {p: [] for p in leaves_of(source)}
        self._differ: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        watched(source, list(self.wanted), run, lambda path, seen: self.wanted[path].append(seen))
        self.called = [p for p, calls in self.wanted.items() if calls]

    def _take(self, path: str, seen: Seen) -> None:
        at, calls = self._counts[path], self.wanted[path]
        self._counts[path] += 1
        if at < len(calls) and (why := difference(calls[at], seen)):
            self._differ.setdefault(path, why)

    def against(self, back: nn.Module, run: Callable[[], Any]) -> dict[str, str]:
        """What is other than in the source, by the paths of modules."""
        held = {p for p, _ in back.named_modules()}
        watched(back, [p for p in self.called if p in held], run, self._take)
        found: dict[str, str] = {}
        for path in self.called:
            count, wanted = self._counts[path], len(self.wanted[path])
            if path not in held:
                found[path] = "not there"
            elif not is_same_class(back.get_submodule(path), self._source.get_submodule(path)):
                found[path] = "of another class"
            elif count != wanted:
                found[path] = f"called {count} times for {wanted}"
            elif path in self._differ:
                found[path] = self._differ[path]
        return found


def _alike(want: Sequence[Tensor], got: Sequence[Tensor]) -> bool:
    types = [(t.shape, t.dtype) for t in want] == [(t.shape, t.dtype) for t in got]
    return types and output_error(want, got) <= OUTPUT_TOLERANCE


def is_named(path: str, code: str) -> bool:
    """Whether a comment of the code names a module, by its path or the end of it."""
    parts = path.split(".")
    ends = "|".join(re.escape(".".join(parts[i:])) for i in range(len(parts)))
    return re.search(rf"# ({ends}) \(", code) is not None


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one network."""
    build = LIBRARIES[library][1]

    def run(name: str, report: Callable[..., None]) -> None:
        torch.manual_seed(0)
        report(stage="build")
        module, args, kwargs = build(name)
        perturb(module)
        module.eval()
        captured = capture(module, args, kwargs, report)
        if captured is None:
            return
        dag, via = captured
        back = dag.to_torch()
        report(stage="layers")
        compared = Compared(module, lambda: module(*args, **kwargs))
        called = compared.called
        code = back.code
        lost = [
            (path, type(module.get_submodule(path)).__name__, why, is_named(path, code))
            for path, why in compared.against(back, lambda: back(*args, **kwargs)).items()
        ]
        own = [p for p in called if next(module.get_submodule(p).parameters(), None) is not None]
        missing = {p for p, *_ in lost}
        report(
            leaves=len(called),
            back=len(called) - len(lost),
            with_parameters=len(own),
            with_parameters_back=len([p for p in own if p not in missing]),
            unnamed=sum(not named for *_, named in lost),
            lost=lost[:400],
        )
        compared.wanted.clear()
        report(stage="outputs")
        wrong = list(_wrong(module, back, args, kwargs, via, report))
        if wrong:
            report(status="wrong", error="; ".join(wrong))
        elif any(not named for *_, named in lost):
            report(status="unnamed")
        report(stage="done")

    return run


def _wrong(module: nn.Module, back: nn.Module, args: Any, kwargs: Any, via: Any, report: Any) -> Iterator[str]:
    with torch.no_grad():
        want, got = (results(m(*args, **kwargs))[0] for m in (module, back))
    error = output_error(want, got)
    if error > OUTPUT_TOLERANCE:
        wide, rounding = output_errors_f64(module, args, kwargs, via)
        error = wide if error <= 2 * rounding else error
    report(output_error=error, stage="gradients")
    if not error <= OUTPUT_TOLERANCE:
        yield f"outputs differ by {error:.1e}"
    found, where = gradient_error(module, back, args, kwargs)
    if found is not None and not found <= GRADIENT_TOLERANCE:
        report(gradient_error_f32=found)
        found, where = gradient_error_f64(module, args, kwargs, via)
    report(gradient_error=found)
    if found is not None and not found <= GRADIENT_TOLERANCE:
        yield f"gradients differ by {found:.1e} ({where})"


# --- the page ----------------------------------------------------------------------------------------------


def page(found: dict[str, dict[str, Row]]) -> str:
    """The table."""
    lines = [
        "# Layers there and back",
        "",
        "Made by `make conformance-layers` (`conformance/layers.py`); don't edit it by hand.",
        "",
        "Of every network, the modules that hold no others and are called. **Back**: what `to_torch()` has at the path",
        "is of the source's class (torch's own, or a generated one of that name), and hooks on both see the same",
        f"tensors in and out ({OUTPUT_TOLERANCE:g}), as often. **Unnamed**: neither back nor named in a comment of the",
        "generated code.",
        "",
        "A graph has what outputs need: a module may be called without an input that tells it only a type (rotary",
        "embeddings), or give less than its source (routers of experts). Experts see the rows of one expert in another",
        "order where torch sorts them by an order that isn't stable.",
        "",
        f"Outputs and gradients are compared as for `docs/conformance-models.md` ({OUTPUT_TOLERANCE:g}, "
        f"{GRADIENT_TOLERANCE:g}).",
    ]
    for library, rows in found.items():
        done = [r for r in rows.values() if "leaves" in r]
        if not rows:
            continue
        lines += [
            "",
            f"## {library}",
            "",
            f"{len(rows)} of {len(SUBJECTS[library]())} networks so far. {_summary(done)}",
        ]
        why = Counter((kind, how) for r in done for _, kind, how, _ in r["lost"])
        lines += ["", "| layer | what | how many |", "|---|---|--:|"]
        lines += [f"| {kind} | {how} | {n} |" for (kind, how), n in why.most_common()]
        lines += ["", "| network | leaves | back | with parameters | back | unnamed | outputs | gradients | |"]
        lines += ["|---|--:|--:|--:|--:|--:|--:|--:|---|"]
        lines += [_line(name, row) for name, row in rows.items()]
    return "\n".join([*lines, ""])


def _summary(rows: Sequence[Row]) -> str:
    leaves, back, own, own_back, unnamed = (
        sum(r[k] for r in rows) for k in ("leaves", "back", "with_parameters", "with_parameters_back", "unnamed")
    )
    wrong = sum(r["status"] == "wrong" or (r.get("output_error") or 0.0) > OUTPUT_TOLERANCE for r in rows)
    traced = sum(r.get("via") == "trace" for r in rows)
    return (
        f"Of {len(rows)} that are captured ({traced} by a trace) {back:,} of {leaves:,} leaf modules are back "
        f"({back / max(leaves, 1):.1%}), {own_back:,} of {own:,} with parameters ({own_back / max(own, 1):.1%}); "
        f"{unnamed} are not named; outputs or gradients of {wrong} differ."
    )


def _line(name: str, row: Row) -> str:
    cells = [name, *[str(row.get(k, "")) for k in ("leaves", "back", "with_parameters", "with_parameters_back")]]
    errors = [row.get("output_error"), row.get("gradient_error")]
    cells += [str(row.get("unnamed", "")), *["-" if e is None else "0" if e == 0 else f"{e:.0e}" for e in errors]]
    status = row.get("status", "")
    notes = [*(["trace"] if row.get("via") == "trace" else []), *([status] if status != "ok" else [])]
    if row.get("error"):
        notes.append(short(row["error"]))
    return f"| {' | '.join(cells)} | {': '.join(notes)} |"


def some_transformers() -> list[str]:
    """Kinds of transformers, evenly among all."""
    names = list(LIBRARIES["transformers"][0]())
    return [names[i * len(names) // KINDS] for i in range(KINDS)]


SUBJECTS: dict[str, Callable[[], Sequence[str]]] = {"timm": LIBRARIES["timm"][0], "transformers": some_transformers}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(SUBJECTS, found)))

    command_line(__doc__, SUBJECTS, work, "layers-", write, arguments)


if __name__ == "__main__":
    main()
