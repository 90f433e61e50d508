"""Programs of ONNX: a model with If, Loop and Scan on data, imported as blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from tdagger.frameworks.onnx.file.read import Model, read
from tdagger.frameworks.onnx.importer import Asked, Walk, imported_by
from tdagger.program.imported import program_of, renamed
from tdagger.program.program import Program
from tdagger.program.schedule import named
from tdagger.program.trace import Trace, traced
from tdagger.program.whole import changed


def from_onnx(
    model: str | Path | bytes | onnx.ModelProto | Model,
    *,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, Any] | None = None,
    external: bool = False,
    name: str = "",
    turns: Mapping[str, int] | int | None = None,
) -> Program:
    """See :meth:`tdagger.program.program.Program.from_onnx`.

    The model is imported as always, while a program is written: an If or Loop on data ends the block that is written,
    and its results stand for slots.
    """
    found = model if isinstance(model, Model) else read(model)
    trace = Trace("program", mark="~")
    walk = Walk(found, external, turns)
    asked = Asked(sizes, inputs, values, external, name)
    dag = traced(trace, lambda: imported_by(walk, found, asked))
    program = program_of(trace, dag, walk.lengths)
    if walk.rules:
        program = changed(program, lambda dag: dag.rewrite(walk.rules))
    program = renamed(program, _names(program, list(dag.graph.outputs)))
    given = {n: axes for n, axes in dag.axis_names.items() if n in program.inputs}
    return replace(program, axis_names=given)


def _names(program: Program, outputs: Sequence[str]) -> dict[str, str]:
    """What slots are called instead: outputs as in the file, others without the mark of their import."""
    taken, found = {*program.inputs}, dict[str, str]()
    for slot, name in zip(program.outputs, outputs, strict=True):
        if slot not in found and slot not in taken:
            found[slot] = named(name, taken)
    for slot in program.slots:
        if slot not in found and slot not in program.inputs:
            found[slot] = named(slot.rstrip("~"), taken)
    return found
