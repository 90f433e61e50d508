"""Programs of torch: a network with loops and branches on data, imported as blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tdagger.frameworks.torch.importer import from_torch as network_of
from tdagger.later import later
from tdagger.program.imported import program_of
from tdagger.program.program import Program
from tdagger.program.trace import Trace, traced
from tdagger.tensordag import TensorDAG


def from_torch(model: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Program:
    """See :meth:`tdagger.program.program.Program.from_torch`.

    The network is imported as always, while a program is written: what is a loop or branch on data ends the block that
    is written, and its results stand for slots.
    """
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        return later("torch.program_from_torchscript")(model, args, kwargs, **options)
    trace = Trace("program", mark="~")
    dag: TensorDAG = traced(trace, lambda: network_of(model, args, kwargs, **options, sizes="alone"))
    return program_of(trace, dag)
