"""``tdagger inspect --tree``: the folded structure of a network, with bars."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from tdagger.analysis.numbers import quantity
from tdagger.cli.cost_table import dim
from tdagger.cli.layout import Column, bar, escape, say, share, table
from tdagger.names import shown
from tdagger.view.picture.reader import Node, Reader
from tdagger.view.picture.words import words
from tdagger.view.views import View


def show(console: Console, view: View) -> None:
    """Print what is seen of a view as a tree: a line for each box and op, with its part of the FLOPs."""
    reader = view.reader
    lines = list(_lines(view.seen(), 0))
    whole = reader.body_total(reader.document["root"], "flops")
    counts = [reader.total(node.item, "flops") for _, node in lines]
    partial = [">= " if reader.is_partial(node.item) else "" for _, node in lines]
    parameters = [reader.parameters(node) for _, node in lines]
    columns = [
        Column("", [_name(console, depth, node) for depth, node in lines], is_text=True),
        Column("FLOPs", [f"{p}{quantity(n)}" if n or p else "" for n, p in zip(counts, partial, strict=True)]),
        Column("", [f"[cyan]{bar(console, n, whole)}[/cyan]" for n in counts], 1, is_text=True),
        Column("share", [share(n, whole) for n in counts], 2),
        Column("params", [quantity(n) if n else "" for n in parameters], 3),
        dim("gives", [_gives(reader, node) for _, node in lines], 4),
        dim("class", [words(reader, node).detail for _, node in lines], 5),
    ]
    if reader.blocks():
        columns.append(dim("then", [shown(reader.next_of(node)) for _, node in lines], 6))
    network = reader.document["networks"][0]
    say(console, f"[bold]{escape(network['name'])}[/bold]  {network['totals']['ops']} ops")
    console.print(table(console, columns))
    for text in reader.document["notices"]:
        say(console, f"[yellow]{escape(text)}[/yellow]")


def _lines(node: Node, depth: int) -> Iterator[tuple[int, Node]]:
    for inner in node.inner or ():
        yield depth, inner
        yield from _lines(inner, depth + 1)


def _name(console: Console, depth: int, node: Node) -> str:
    sign = "x" if console.options.ascii_only else "×"
    times = f" [magenta]{sign}{node.times}[/magenta]" if node.times > 1 else ""
    closed = " ..." if "body" in node.item and node.inner is None else ""
    return f"{'  ' * depth}{escape(node.name)}{times}[dim]{closed}[/dim]"


def _gives(reader: Reader, node: Node) -> str:
    if "body" not in node.item:
        types = node.item["out"]
    else:
        types = [port["type"] for port in reader.bodies[node.item["body"]]["outputs"]]
    more = f" and {len(types) - 1} more" if len(types) > 1 else ""
    return shown(reader.types[types[0]]["axes"]) + more if types else ""
