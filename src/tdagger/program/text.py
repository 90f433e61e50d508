"""A program as text that people read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tdagger.names import shown
from tdagger.program.parts import Block, Goto, If, Raise, Return
from tdagger.view.text import lines

if TYPE_CHECKING:
    from tdagger.program.program import Program


def show(program: Program, *, axes: Any = None) -> str:
    """A program as text: what it takes and gives, its slots, and for each block its values, what it writes, its end.

    >>> import tdagger as td
    >>> @td.program({"x": ()})
    ... def doubled(x):
    ...     return td.while_loop(lambda x: x < 100.0, lambda x: x + x, x)
    >>> print(doubled)
    program doubled(x: f32[]) -> f32[]
    <BLANKLINE>
      slots
        x      f32[]
        x_2    f32[]
        again  bool[]
    <BLANKLINE>
    begin:
        x_2 <- x
        goto loop
    <BLANKLINE>
    loop:
        %1  bool[]  x_2 < 100.0
        again <- %1
        if again: body, else: done
    <BLANKLINE>
    body:
        %1  f32[]  x_2 + x_2
        x_2 <- %1
        goto loop
    <BLANKLINE>
    done:
        return x_2
    """
    slots = program.slots
    takes = ", ".join(f"{shown(n)}: {slots[n]}" for n in program.inputs)
    gives = ", ".join(str(slots[n]) for n in program.outputs)
    several = len(program.outputs) != 1
    out = [f"program {shown(program.name)}({takes}) -> {f'({gives})' if several else gives}", "", "  slots"]
    wide = max((len(shown(n)) for n in slots), default=0)
    out += [f"    {shown(n):{wide}}  {s}" for n, s in slots.items()]
    for name, block in program.blocks.items():
        out += ["", f"{shown(name)}:", *_block(program, block, axes)]
    return "\n".join(out)


def _block(program: Program, block: Block, axes: Any) -> list[str]:
    rows, names = lines(block.graph, program.origins, axes)
    wide = max((len(r.name) for r in rows), default=0)
    types = max((len(r.type) for r in rows if len(r.type) <= 32), default=0)
    out: list[str] = []
    section = ""
    for row in rows:
        where = ".".join(filter(None, (row.section, row.module)))
        if where != section:
            section = where
            out.append(f"    # {where}" if where else "    #")
        out.append(f"    {row.name:{wide}}  {row.type:{types}}  {row.text}")
    out += [f"    {shown(n)} <- {names[v]}" for n, v in block.graph.outputs.items()]
    return [*out, f"    {_end(program, block)}"]


def _end(program: Program, block: Block) -> str:
    end = block.end
    if isinstance(end, Return):
        return f"return {', '.join(map(shown, program.outputs))}"
    if isinstance(end, Raise):
        return f"raise {end.message!r}"
    if isinstance(end, Goto):
        return f"goto {shown(end.to)}"
    if isinstance(end, If):
        return f"if {shown(end.slot)}: {shown(end.then)}, else: {shown(end.otherwise)}"
    cases = [f"{i}: {shown(t)}" for i, t in enumerate(end.to[:-1])]
    return f"switch {shown(end.slot)}: {', '.join([*cases, f'else: {shown(end.to[-1])}'])}"
