"""A graph as text that people read."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from tdagger.analysis.axes.algebra import Axes
from tdagger.analysis.axes.names import NamedAxes
from tdagger.analysis.numbers import quantity
from tdagger.graph import Graph, flops, result_types
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Input, Parameter
from tdagger.ops.structure import Item
from tdagger.view.expressions import constant, expression

#: FLOPs are shown of values that take at least this share of the whole.
HEAVY = 0.005

#: What is wider doesn't make the column of types wide.
WIDEST = 32

#: Ops that spread one number over a shape, when applied to one number.
_SPREAD = ("repeat", "group", "ungroup", "reshape")


class Line(NamedTuple):
    """One value as it is shown: the section and the module below it, name, type, expression, flops."""

    section: str
    module: str
    name: str
    type: str
    text: str
    flops: int


def show(
    network: Any,
    origins: Mapping[Value, Any] | None = None,
    name: str = "",
    *,
    modules: Mapping[str, str] | None = None,
    structure: Any = None,
    parameters: bool = False,
    max_lines: int | None = None,
    axes: Any = True,
) -> str:
    """A :class:`Graph` or TensorDAG as text: a header with totals, one line a value, the outputs.

    Values are numbered; inputs, parameters and buffers stand inline under their own names, and so do
    numbers, also where they were repeated to a shape that another argument shows. Module paths are headings;
    the last name of a path stands before the first of its values, and ``|`` before the next ones. FLOPs are
    shown of what takes at least half a percent of them. ``parameters`` lists those too; ``max_lines`` cuts
    the listing. Dimensions are shown by the names of their axes, whose sizes are in the header; ``axes`` is
    False for sizes instead, or a :class:`~tdagger.analysis.axes.names.NamedAxes`. Linear in the number of values.

    >>> import tdagger as td
    >>> x = td.input("x", (2, 3))
    >>> print(show(td.Graph({"x": x}, {"y": td.sin(td.exp(x))})))
    graph
      in   x: f32[b=2 n=3]
      out  y: f32[b=2 n=3]
      2 ops, 12 FLOPs; reads 48 B, writes 48 B
      axes  b=2  n=3
    <BLANKLINE>
                     FLOPs
      %1  f32[b n]       6  exp(x)
      %2  f32[b n]       6  sin(%1)
    <BLANKLINE>
      return {y: %2}
    """
    graph: Graph = network if isinstance(network, Graph) else network.graph
    if not isinstance(network, Graph):
        origins = network.origins if origins is None else origins
        modules = network.modules if modules is None else modules
        structure = network.signature.outputs if structure is None else structure
        name = name or network.name
    if axes is True:
        axes = NamedAxes(Axes(graph)) if isinstance(network, Graph) else network.axes()
    named: NamedAxes | None = axes or None
    rows, names = lines(graph, {} if origins is None else origins, named)
    out = [shown(name or graph.name), *_header(graph, len(rows), named)]
    if parameters:
        out += ["", "  parameters and buffers", *_parameters(graph, named)]
    listed = rows if max_lines is None else rows[:max_lines]
    out += _layout(listed, modules or {}, sum(row.flops for row in rows))
    if len(listed) < len(rows):
        out.append(f"  ... {len(rows) - len(listed)} more")
    return "\n".join([*out, "", *_results(graph, names, structure)])


def called(graph: Graph) -> dict[str, Value]:
    """The values by the names under which :func:`show` lists them: ``%1``, and leaves by their own.

    >>> import tdagger as td
    >>> x = td.input("x", (2, 3))
    >>> called(td.Graph({"x": x}, {"y": td.exp(x)}))["%1"]
    <exp(f32[2 3]) -> f32[2 3]>
    """
    _, names = lines(graph, {}, None)
    return {name: value for value, name in names.items()}


def _header(graph: Graph, count: int, axes: NamedAxes | None) -> list[str]:
    def listed(label: str, values: Mapping[str, Value]) -> list[str]:
        types = [v.type if axes is None else axes.show(v, sizes=True) for v in values.values()]
        return [
            f"  {label if not i else '':3}  {shown(k)}: {t}" for i, (k, t) in enumerate(zip(values, types, strict=True))
        ]

    size = sum(v.type.size for v in graph.parameters.values())
    nbytes = sum(v.type.bytes for v in graph.parameters.values())
    totals = [f"{quantity(size)} parameters ({quantity(nbytes, 'B')})"] if graph.parameters else []
    totals += [f"{count} op{'' if count == 1 else 's'}", quantity(graph.total_flops(), "FLOPs")]
    traffic = [quantity(n, "B") for n in (graph.total_memory_reads(), graph.total_memory_writes())]
    external = [f"  external, not counted: {', '.join(f'{shown(k)} x{n}' for k, n in graph.external.items())}"]
    return [
        *listed("in", graph.inputs),
        *listed("out", graph.outputs),
        f"  {', '.join(totals)}; reads {traffic[0]}, writes {traffic[1]}",
        *(external if graph.external else []),
        *(_sizes(graph, axes) if axes is not None else []),
    ]


def _sizes(graph: Graph, axes: NamedAxes) -> list[str]:
    """The sizes of the axes that values carry, in lines of about a hundred characters."""
    told = axes.summary([v for v in graph.values if not isinstance(v.op, Parameter | Buffer | Const)])
    return textwrap.wrap(told, 110, initial_indent="  axes  ", subsequent_indent="        ", break_on_hyphens=False)


def _parameters(graph: Graph, axes: NamedAxes | None) -> list[str]:
    leaves = {shown(n): v for n, v in (*graph.parameters.items(), *graph.buffers.items())}
    wide = max((len(n) for n in leaves), default=0)
    return [f"    {n:{wide}}  {v.type if axes is None else axes.show(v, sizes=True)}" for n, v in leaves.items()]


def lines(graph: Graph, origins: Mapping[Value, Any], axes: NamedAxes | None) -> tuple[list[Line], dict[Value, str]]:
    """The lines of all values that get one, and how every value is written as an argument."""
    paths = [o.module if (o := origins.get(v)) else "" for v in graph.values]
    parents = {p.rpartition(".")[0] for p in set(paths) if p}
    inline = numbers(graph)
    names: dict[Value, str] = {}
    found: list[Line] = []
    for value, path in zip(graph.values, paths, strict=True):
        op = value.op
        if isinstance(op, Input | Parameter | Buffer):
            names[value] = shown(op.leaf)
        elif value in inline:
            names[value] = inline[value]
        elif isinstance(op, Item):
            names[value] = f"{names[value.args[0]]}.{op.index}"
        else:
            names[value] = name = f"%{len(found) + 1}"
            section, _, last = ("", "", "") if not path else path.rpartition(".")
            if path in parents:
                section, last = path, ""
            types = result_types(value)
            type_ = str(types[0]) if len(types) == 1 else f"({', '.join(map(str, types))})"
            type_ = type_ if axes is None else axes.show(value)
            text = expression(value, [names[a] for a in value.args])
            found.append(Line(shown(section), shown(last), name, type_, text, flops(value)))
    return found, names


def numbers(graph: Graph) -> dict[Value, str]:
    """Constants of one element, and their repetitions where another argument shows the shape."""
    spread: dict[Value, str] = {}
    for value in graph.values:
        if isinstance(value.op, Const) and value.type.size == 1:
            spread[value] = constant(value.op)
        elif value.op.name in _SPREAD and value.args[0] in spread:
            spread[value] = spread[value.args[0]]
    unclear: set[Value] = {*graph.outputs.values(), *graph.updates.values()}
    for user in graph.values:
        if user.op.name in _SPREAD:
            continue
        shapes = {t.shape for a in user.args if a not in spread for t in result_types(a)}
        for arg in user.args:
            if arg in spread and arg.rank and arg.type.shape not in shapes:
                unclear.add(arg)
    # what is unclear gets a line of its own, and so does what it is made of
    for value in reversed(graph.values):
        if value in unclear and value in spread and not isinstance(value.op, Const):
            unclear.update(value.args)
    return {v: t for v, t in spread.items() if v not in unclear or not v.rank}


def _layout(lines: Sequence[Line], modules: Mapping[str, str], total: int) -> list[str]:
    """The lines in columns: module, name, type, FLOPs if they count, expression; a heading for each section."""
    heavy = [quantity(n.flops) if total and n.flops >= HEAVY * total else "" for n in lines]
    module = max((len(n.module) for n in lines if len(n.module) <= 26), default=0)
    name = max((len(n.name) for n in lines), default=0)
    type_ = max((len(n.type) for n in lines if len(n.type) <= WIDEST), default=0)
    out: list[str] = ["", f"  {'':{module + 2 if module else 0}}{'':{name}}  {'':{type_}}  {'FLOPs':>6}"]
    section = label = ""
    kinds = {shown(path): shown(kind) for path, kind in modules.items()}
    for line, cost in zip(lines, heavy, strict=True):
        if line.section != section:
            heading = f"{line.section}  {kinds.get(line.section, '')}".strip()
            out += ["", *([heading] if heading else [])]
            section, label = line.section, ""
        own = line.module if line.module != label else "|" if label else ""
        label = line.module
        start = f"  {own:{module}}  " if module else "  "
        out.append(f"{start}{line.name:{name}}  {line.type:{type_}}  {cost:>6}  {line.text}")
    return out


def _results(graph: Graph, names: Mapping[Value, str], structure: Any) -> list[str]:
    if structure is None:
        returned = f"{{{', '.join(f'{shown(k)}: {names[v]}' for k, v in graph.outputs.items())}}}"
    else:
        returned = _fill(structure, iter([names[v] for v in graph.outputs.values()]))
    updates = [f"  {shown(k)} <- {names[v]}" for k, v in graph.updates.items()]
    return [f"  return {returned}", *updates]


def _fill(tree: Any, leaves: Any) -> str:
    """The nesting of the outputs (a :class:`tdagger.tree.Tree`) with names as leaves."""
    if tree.kind == "leaf":
        return next(leaves)
    if tree.kind == "constant":
        return repr(tree.constant)
    items = [_fill(c, leaves) for c in cast(Sequence[Any], tree.children)]
    if tree.kind == "tuple":
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if tree.kind == "list":
        return f"[{', '.join(items)}]"
    kind = shown(tree.type.rpartition(":")[2].rpartition(".")[2])
    sign = ": " if tree.kind == "dict" and not kind else "="
    pairs = ", ".join(f"{shown(k)}{sign}{i}" for k, i in zip(tree.keys, items, strict=True))
    return f"{kind}({pairs})" if sign == "=" else f"{{{pairs}}}"
