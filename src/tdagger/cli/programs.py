"""Files whose control flow depends on data, on a command line: they are programs, of several networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tdagger.cli import common
from tdagger.cli.measure import Difference, differences
from tdagger.errors import SourceError
from tdagger.frameworks.source import Source
from tdagger.names import shown
from tdagger.op import Array
from tdagger.program.program import Program


@runtime_checkable
class MayBeProgram(Protocol):
    """A source that may be a program."""

    def program(self) -> Program | None:
        """The program, None if a network is all there is."""
        ...


@runtime_checkable
class HasProgram(MayBeProgram, Protocol):
    """A source that may be a program and is run in its own runtime."""

    def random_arrays(self, program: Program, seed: int) -> dict[str, Array]:
        """Arrays for its inputs."""
        ...

    def run_arrays(self, given: Mapping[str, Array]) -> list[Array]:
        """The outputs of the file itself."""
        ...

    def run_again(self, program: Program, given: Mapping[str, Array]) -> list[Array]:
        """The outputs of what the program becomes in the file's own format."""
        ...

    def run_program(self, program: Program, given: Mapping[str, Array]) -> list[Array]:
        """The outputs of the program, executed with numpy."""
        ...


def program_of(source: Source) -> Program | None:
    """The program that a source is, None if it is one network."""
    if not isinstance(source, MayBeProgram):
        return None
    with common.progress(f"importing {source.name}"):
        return source.program()


def changed(program: Program, unbatch: bool, sizes: str | None, optimize: bool) -> Program:
    """The program without its batch, at other sizes, optimised, as the options say."""
    with common.progress(f"changing {program.name}"):
        program = program.unbatch() if unbatch else program
        program = program.resize(assume=False, **common.sizes_of(sizes, "--resize")) if sizes else program
        return program.optimize() if optimize else program


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


def verified(
    source: HasProgram, program: Program, seeds: Sequence[int], reference: bool
) -> dict[str, list[Difference]]:
    """The largest differences between the file in its own runtime and the program, by the way it is run."""
    worst: dict[str, list[Difference]] = {}
    for seed in seeds:
        given = source.random_arrays(program, seed)
        expected = source.run_arrays(given)
        found = {"round trip": source.run_again(program, given)}
        if reference:
            found["numpy"] = source.run_program(program, given)
        for way, arrays in found.items():
            own = differences(expected, arrays)
            worst[way] = [a.worse(b) for a, b in zip(worst.get(way, own), own, strict=True)]
    return worst


def saved(program: Program, path: Path, form: str, options: Mapping[str, Any]) -> None:
    """Write a program in a form that there is for it; SourceError for others."""
    if "dynamic" in options:
        raise SourceError(f"{shown(path)}: --dynamic is for networks; sizes of a program vary where it says so")
    if form == ".tdag":
        program.save(path)
    elif form == ".onnx":
        program.to_onnx(path, **options)
    elif form in (".pt", ".ts"):
        program.to_torchscript().save(str(path))
    else:
        raise SourceError(f"{shown(path)}: a program is written as .onnx, .tdag, .pt or .ts, not as {form}")
