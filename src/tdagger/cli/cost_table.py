"""What a network costs, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from rich import markup
from rich.console import Console
from rich.table import Table

from tdagger.analysis.cost.report import Cost
from tdagger.analysis.cost.traffic import MODELS
from tdagger.analysis.numbers import duration, quantity
from tdagger.analysis.time.timing import Prediction
from tdagger.cli.layout import Column, bar, escape, say, share, table
from tdagger.cli.rows import Line, Numbers, Traffic, intensities
from tdagger.names import shown
from tdagger.tensordag import TensorDAG

#: How many characters of inputs or outputs are listed.
_MOST = 160


def heading(console: Console, dag: TensorDAG, source: str) -> None:
    """Print a network's name, inputs and outputs."""
    say(console, f"[bold]{escape(dag.name)}[/bold]  [dim]{escape(source)}[/dim]")
    for label, values in (("inputs", dag.graph.inputs), ("outputs", dag.graph.outputs)):
        each = [f"{shown(name)}: {value.type}" for name, value in values.items()]
        ends = list(accumulate(len(one) + 2 for one in each))
        count = sum(end <= _MOST for end in ends) or 1
        more = f" ... {len(each) - count} more" if len(each) > count else ""
        say(console, f"[dim]{label:8}[/dim] {', '.join(map(escape, each[:count])) + more}")
    console.print()


# --- totals ------------------------------------------------------------------------------------------------

#: The totals in the order of their weight: the number, how it is called, and whether it says something when it is 0.
TOTALS = (
    ("predicted_seconds", "predicted time", False),
    ("total_flops", "FLOPs", True),
    ("contraction_flops", "  contractions", True),
    ("attention_flops", "    attention", False),
    ("attention_flops_causal", "    attention, causal", False),
    ("elementwise_flops", "  elementwise", True),
    ("transcendental", "    transcendental", False),
    ("macs", "multiply-adds", True),
    ("backward_contraction_flops", "backward contractions", False),
    ("recomputed_flops", "  recomputed besides", False),
    ("backward_macs", "backward multiply-adds", False),
    ("parameters", "parameters", True),
    ("weight_bytes", "weights", True),
    ("peak_bytes", "peak activations", True),
    ("in_place_bytes", "  written in place", False),
    ("sum_bytes", "  without any reuse", False),
)
#: What is known whatever isn't counted.
_CERTAIN = ("ops", "parameters", "weight_bytes", "parameter_bytes", "buffer_bytes", "constant_bytes", "input_bytes")


def unit(name: str) -> str:
    """The unit that a number is shown in."""
    return "B" if name.endswith(("_bytes", "_reads", "_writes")) and "_elements_" not in name else ""


def amount(name: str, n: float) -> str:
    """A number for people, in its unit."""
    return duration(n) if name.endswith("_seconds") else quantity(n, unit(name))


def bounded(name: str, n: float, partial: bool) -> str:
    """A number for people; with ``partial`` it is a lower bound, if ops that aren't counted can make it larger."""
    return f"{'>= ' if partial and name not in _CERTAIN else ''}{amount(name, n)}"


def totals(console: Console, numbers: Numbers, cost: Cost, at: str, traffic: Traffic, time: Prediction | None) -> None:
    """Print every total; ``at`` is the op that needs the peak."""
    notes = {
        "weight_bytes": f"buffers {quantity(numbers['buffer_bytes'], 'B')}, "
        f"constants {quantity(numbers['constant_bytes'], 'B')}",
        "peak_bytes": f"at {at}" if at else "",
        "predicted_seconds": f"on {time.device.title}" if time else "",
    }
    rows = [(n, label) for n, label, always in TOTALS if always or numbers.get(n)]
    columns = [
        Column("", [label for _, label in rows], is_text=True),
        Column("", [bounded(n, numbers[n], bool(cost.partial)) for n, _ in rows]),
        Column("", [f"[dim]{numbers[n]:,}[/dim]" if isinstance(numbers[n], int) else "" for n, _ in rows], rank=1),
        Column("", [f"[dim]{escape(notes.get(n, ''))}[/dim]" if n in notes else "" for n, _ in rows], 2, True),
    ]
    grid = table(console, columns)
    grid.show_header = False
    console.print(grid)
    console.print()
    console.print(_models(console, numbers, bool(cost.partial), traffic.suffix))
    warnings(console, cost)
    for notice in time.notices if time else ():
        say(console, f"\n[yellow]time: {escape(notice)}[/yellow]")
    console.print()


def warnings(console: Console, cost: Cost, of: str = "") -> None:
    """Say what isn't counted, and what is counted as its most expensive branch, if there is anything."""
    warning(console, "PARTIAL", f"the costs{of} are lower bounds, not counted:", cost.partial)
    warning(console, "AT MOST", f"data decide what is run, the branch with most FLOPs counts{of}:", cost.at_most)


def warning(console: Console, word: str, why: str, found: Mapping[str, int]) -> None:
    """Say that something is so of some ops, and how often they occur, if there are any."""
    if found:
        names = ", ".join(f"{escape(name)} ({n} {'time' if n == 1 else 'times'})" for name, n in found.items())
        say(console, f"\n[bold yellow]{word}[/bold yellow] [yellow]{why} {names}[/yellow]")


def _models(console: Console, numbers: Numbers, partial: bool, suffix: str) -> Table:
    ratios = intensities(numbers)

    def shown(name: str) -> str:
        return bounded(name, numbers[name], partial)

    return table(
        console,
        [
            Column("elements" if suffix else "traffic", [f"  {m}" for m in MODELS], is_text=True),
            *[Column(k, [shown(f"{m}{suffix}_{k}") for m in MODELS]) for k in ("reads", "writes")],
            Column("FLOPs/B", [_ratio(ratios[f"{m}_intensity"]) for m in MODELS]),
        ],
    )


def _ratio(n: float | None) -> str:
    return "" if n is None else quantity(n) if n >= 1000 else f"{n:.1f}"


# --- rows --------------------------------------------------------------------------------------------------


def rows(
    console: Console, lines: Sequence[tuple[int, Line]], whole: Numbers, what: str, traffic: Traffic, by: str
) -> None:
    """Print a table of lines, each with how deep it is inside others.

    ``whole`` are the totals, ``what`` a line is, ``traffic`` which reads and writes to show, and ``by`` the number
    whose share has a bar.
    """

    def numbers(name: str) -> list[str]:
        return [cell(line, name) for _, line in lines]

    reads, writes, ratio = traffic.reads, traffic.writes, traffic.intensity
    known = {
        "predicted_seconds": ("time", 1),
        "total_flops": ("FLOPs", 1 if by == "predicted_seconds" else 0),
        "parameters": ("params", 3),
        reads: ("reads", 2),
        writes: ("writes", 2),
        ratio: ("FLOPs/B", 4),
        "macs": ("MACs", 7),
        "peak_bytes": ("peak", 6),
        "backward_contraction_flops": ("backward", 2),
        "ops": ("ops", 8),
    }
    hidden = {"ops"} if what == "value" else set[str]()
    hidden |= set(known) - {*whole, ratio}  # a backward pass that isn't counted
    columns = {n: Column(header, numbers(n), rank) for n, (header, rank) in known.items() if n not in hidden}
    columns[ratio] = columns[ratio]._replace(cells=[_ratio_of(line, ratio) for _, line in lines])
    if by in columns:
        columns[by] = columns[by]._replace(rank=0)
    else:
        columns[by] = Column(by, numbers(by))
    shares = [(line.numbers.get(by, 0), whole.get(by, 0)) for _, line in lines]
    shown = [
        Column("op" if what == "value" else what, [name(console, depth, line) for depth, line in lines], is_text=True),
        columns.pop(by),
        Column("", [f"[cyan]{bar(console, *s)}[/cyan]" for s in shares], 1, is_text=True),
        Column("share", [share(*s) for s in shares]),
        *columns.values(),
        *(_kinds(lines) if what == "value" else [dim("class", [line.kind for _, line in lines], 5)]),
    ]
    console.print(table(console, shown))


def _kinds(lines: Sequence[tuple[int, Line]]) -> list[Column]:
    """Which values these are."""
    return [dim("type", [line.kind for _, line in lines], 1), dim("module", [line.path for _, line in lines], 0)]


def dim(header: str, texts: Sequence[str], rank: int) -> Column:
    """A column of texts that matter less."""
    return Column(header, [f"[dim]{escape(t)}[/dim]" if t else "" for t in texts], rank, is_text=True)


def name(console: Console, depth: int, line: Line) -> str:
    """A line's name, further in the deeper it is, and for how many modules it stands."""
    sign = "x" if console.options.ascii_only else "×"
    times = f" [magenta]{sign}{line.times}[/magenta]" if line.times > 1 else ""
    return f"{'  ' * depth}{escape(line.name)}{times}"


def cell(line: Line, name: str, side: str = "") -> str:
    """A number of a line, of a ``side`` if it is of two; nothing for nothing."""
    n, partial = line.numbers.get(side + name, 0), line.numbers.get(f"{side}partial", line.partial)
    return bounded(name, n, partial > 0) if n else ""


def _ratio_of(line: Line, ratio: str) -> str:
    return _ratio(intensities(line.numbers)[ratio]) if line.numbers["total_flops"] else ""


# --- formulas ----------------------------------------------------------------------------------------------


def formulas(console: Console, sizes: Mapping[str, int], found: Mapping[str, tuple[str, int]], unit: str) -> None:
    """Print formulas, and what each is at these sizes of the axes; reads and writes are in a ``unit``."""
    at = ", ".join(f"{n}={k}" for n, k in sizes.items())
    units = {"flops": "FLOPs", "bytes": "B"}
    for what, (formula, n) in found.items():
        shown = quantity(n, units.get(what, "B" if unit == "bytes" else "elements"))
        console.print(f"[bold]{what}[/bold] = {markup.escape(formula)}", soft_wrap=True)
        console.print(f"[dim]{' ' * len(what)} = {shown} ({n:,}) at {escape(at)}[/dim]\n", soft_wrap=True)
