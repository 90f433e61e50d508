"""The program of a seed."""

from __future__ import annotations

from conformance.fuzz import build, steps_math, steps_nn, steps_shape, steps_size
from conformance.fuzz.program import Program
from conformance.fuzz.table import MAKERS, WEIGHTS

#: The modules whose makers are in the table.
FAMILIES = (steps_math, steps_shape, steps_nn, steps_size)

#: The ways into tdagger and how often each is taken: a module, its ExportedProgram (whose source isn't at hand), a
#: module traced, and TorchScript of both kinds.
ENTRANCES = {"module": 46.0, "program": 38.0, "trace": 8.0, "script": 5.0, "traced": 3.0}


def program(seed: int) -> Program:
    """The program of a seed, the same on every machine."""
    return build.generate(seed, MAKERS, WEIGHTS, ENTRANCES)
