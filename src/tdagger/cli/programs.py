"""Files whose control flow depends on data, on a command line: they are programs, of several networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tdagger.analysis.cost.report import Cost
from tdagger.cli import tables
from tdagger.errors import AttributeValueError
from tdagger.names import shown
from tdagger.program.program import Program
from tdagger.program.text import show
from tdagger.tensordag import TensorDAG
from tdagger.types import TensorType


def refuse(program: Program, options: Mapping[str, Any]) -> None:
    """AttributeValueError for an option that was given and is for one network."""
    for name in [n for n, given in options.items() if given]:
        raise AttributeValueError(f"{name} is for one network; {shown(program.name)} is a program, of several")


def output_types(dag: TensorDAG | Program) -> dict[str, TensorType]:
    """The types of outputs by name; of sizes that vary the largest."""
    if isinstance(dag, Program):
        return {n: dag.slots[n].type for n in dag.outputs}
    return {n: v.type for n, v in dag.graph.outputs.items()}


def listed(program: Program, axes: bool | None) -> str:
    """The blocks as text, with named axes unless they aren't wanted, and what is not known of these if they are."""
    if axes is False:
        return str(program)
    named = program.axes()
    told = show(program, axes=named)
    return "\n".join([told, "", *tables.opaque(named.opaque)]) if axes else told


def reported(program: Program, source: str) -> dict[str, Any]:
    """What ``inspect --json`` says of a program."""
    cost = program.cost()
    blocks = {
        name: {"ends": type(block.end).__name__.lower(), "next": list(block.end.targets), "loops": cost.loops[name],
               "flops": cost.blocks[name].total_flops, "macs": cost.blocks[name].macs}
        for name, block in program.blocks.items()
    }  # fmt: skip
    slots = {n: str(s) for n, s in program.slots.items()}
    return {
        "name": program.name, "source": source, "inputs": {n: slots[n] for n in program.inputs},
        "outputs": {n: slots[n] for n in program.outputs}, "slots": slots, "blocks": blocks,
        "parameters": _parameters(program), "flops": cost.formula(),
    }  # fmt: skip


def _parameters(program: Program) -> int:
    return sum([w.type.size for w in program.state.values() if w.is_parameter and not w.alias_of])


def inspected(program: Program) -> str:
    """What ``inspect`` prints of a program."""
    takes, gives = (", ".join(f"{shown(n)}: {program.slots[n]}" for n in names)
                    for names in (program.inputs, program.outputs))  # fmt: skip
    head = f"{shown(program.name)}: a program of {len(program.blocks)} blocks, {_parameters(program):,} parameters"
    return f"{head}\n  in   {takes}\n  out  {gives}\n\n{program.cost()}\n\n--text shows the blocks"


def priced(program: Program, source: str) -> dict[str, Any]:
    """What ``cost --json`` says of a program."""
    cost = program.cost()
    return {
        "name": program.name,
        "source": source,
        "parameters": _parameters(program),
        "blocks": {n: {"loops": cost.loops[n], **_costs(c)} for n, c in cost.blocks.items()},
        "formulas": {n: cost.formula(n) for n in ("total_flops", "macs")},
        "partial": {n: dict(c.partial) for n, c in cost.blocks.items() if c.partial},
    }


def rows(program: Program) -> tuple[list[str], list[dict[str, Any]]]:
    """What ``cost --csv`` says of a program: the columns, and a row for a turn of each block."""
    cost = program.cost()
    found = [{"block": n, "loops": cost.loops[n], **_costs(c)} for n, c in cost.blocks.items()]
    return list(found[0]), found


def _costs(cost: Cost) -> dict[str, int]:
    return {
        "total_flops": cost.total_flops, "macs": cost.macs, "contraction_flops": cost.contraction_flops,
        "elementwise_flops": cost.elementwise_flops, "reads": cost.reads, "writes": cost.writes,
        "peak_bytes": cost.peak_bytes,
    }  # fmt: skip
