"""Programs of CoreML: a function with loops, branches and states, imported as blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tdagger.analysis.axes.doubts import of_sizes
from tdagger.errors import UnsupportedError
from tdagger.frameworks.coreml.asked import Asked
from tdagger.frameworks.coreml.importer import NETWORKS, Walk
from tdagger.frameworks.coreml.layers.network import Layers
from tdagger.frameworks.coreml.read import Model, read
from tdagger.frameworks.coreml.values import Tensors
from tdagger.graph import bulk
from tdagger.network import plain_signature
from tdagger.op import Value
from tdagger.ops.source import Input
from tdagger.program.program import Program
from tdagger.program.simplify import simplified
from tdagger.program.trace import Trace, traced


def from_coreml(
    model: str | Path | bytes | Any, *, inputs: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, Any] | None = None, function: str | None = None, external: bool = False, name: str = "",
) -> Program:  # fmt: skip
    """See :meth:`tdagger.program.program.Program.from_coreml`.

    The function is walked as always while a program is written: ``while_loop`` and ``cond`` end the block that is
    written, states are slots that begin as buffers.
    """
    found = model if isinstance(model, Model) else read(model)
    kind, asked = found.spec.WhichOneof("Type"), Asked(inputs, function, external, name, values=values)
    if kind not in ("mlProgram", *NETWORKS):
        raise UnsupportedError(f"{found.name} is a {kind}: mlProgram and neuralNetwork are imported, no others")
    walk = Layers(found, asked) if kind in NETWORKS else Walk(found, asked)
    trace = Trace("program")

    def written() -> tuple[dict[str, Value], dict[str, Value]]:
        given = walk.begin()
        for own, value in given.items():
            trace.taken(own, value.type)
        return given, walk.walked()

    with bulk():
        given, outputs = traced(trace, written)
    trace.name = walk.called_as
    signed = walk.with_seed(given, plain_signature(len(given), len(outputs)))
    if walk.seed is not None:
        trace.taken(cast(Input, walk.seed.op).leaf, walk.seed.type)
    trace.weights, trace.declared = Tensors({n: walk.held[n] for n in walk.state}), dict(walk.state)
    trace.origins, trace.order = dict(walk.origins), [*trace.order, *walk.order]
    trace.left_out = of_sizes(walk.left_out)
    return simplified(trace.finished(list(given), list(outputs.values()), signed, list(outputs)))
