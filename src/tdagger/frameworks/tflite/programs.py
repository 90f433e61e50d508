"""Programs of TFLite: a model with loops, branches and variables, imported as blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from tdagger.analysis.axes.doubts import of_sizes
from tdagger.frameworks.tflite.importer import Asked, Walk
from tdagger.frameworks.tflite.read import opened
from tdagger.graph import bulk
from tdagger.network import plain_signature
from tdagger.op import Value
from tdagger.ops.source import Input
from tdagger.program.program import Program
from tdagger.program.simplify import simplified
from tdagger.program.trace import Trace, traced


def from_tflite(
    model: Any, *, sizes: Mapping[str, int] | None = None, inputs: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, Any] | None = None, signature: str | None = None, external: bool = False, name: str = "",
) -> Program:  # fmt: skip
    """See :meth:`tdagger.program.program.Program.from_tflite`.

    The subgraph is walked as always while a program is written: WHILE and IF end the block that is written, and what
    is kept from call to call are slots that begin as buffers.
    """
    walk = Walk(opened(model), Asked(sizes, inputs, values, signature, external, name))
    trace = Trace("program")

    def written() -> tuple[dict[str, Value], dict[str, Value], str]:
        given, _, _, frame = walk.begin()
        for own, value in given.items():
            trace.taken(own, value.type)
        walk.walk(frame)
        return given, walk.ended(frame), walk.title(frame)

    with bulk():
        given, outputs, title = traced(trace, written)
    trace.name = title
    signed = walk.with_seed(given, plain_signature(len(given), len(outputs)))
    if walk.seed is not None:
        trace.taken(cast(Input, walk.seed.op).leaf, walk.seed.type)
    trace.weights, trace.declared = walk.tensors.part(walk.state), dict(walk.state)
    trace.origins, trace.modules = dict(walk.origins), walk.paths()
    trace.order, trace.left_out = [*trace.order, *walk.order], of_sizes(walk.left_out)
    return simplified(trace.finished(list(given), list(outputs.values()), signed, list(outputs)))
