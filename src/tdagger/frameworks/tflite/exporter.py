"""To TFLite: a TensorDAG becomes a file that LiteRT runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from tdagger.errors import AxisError, UnsupportedError
from tdagger.frameworks.opening import Open, sizes_of
from tdagger.frameworks.tflite.emit.composites import COMPOSITES
from tdagger.frameworks.tflite.emit.core import CORE
from tdagger.frameworks.tflite.emit.flexible import opened, point_of
from tdagger.frameworks.tflite.emit.images import IMAGES
from tdagger.frameworks.tflite.emit.integers import INTEGERS, read_before
from tdagger.frameworks.tflite.emit.kernels import in_integers
from tdagger.frameworks.tflite.emit.recurrent import RECURRENT
from tdagger.frameworks.tflite.emit.save import Signature, serialized, write
from tdagger.frameworks.tflite.emit.share import share
from tdagger.frameworks.tflite.emit.writer import Part, Row, Writer
from tdagger.frameworks.tflite.layout import IDENTITIES
from tdagger.frameworks.writing import recognised, results_of, with_weights
from tdagger.names import shown
from tdagger.tensordag import TensorDAG
from tdagger.transform.legal import Problem, Target, legalize, narrowed, unsupported
from tdagger.transform.legal.single import SINGLE
from tdagger.transform.passes import fold_batch_norm, simplify

ROWS: dict[str, Row] = {**CORE, **COMPOSITES, **IMAGES, **RECURRENT, **INTEGERS}
#: Kernels of more axes end some processes, or are missing: no tensor that is computed has more.
RANK = 5
TARGET = Target(
    "TFLite",
    {name: row.accepts for name, row in ROWS.items()},
    rank=RANK,
    wider={"f16": ("f32",), "bf16": ("f32",), "i8": ("i32",), "u8": ("i32",), "i16": ("i32",), "u16": ("i32",),
           "bool": ("i32",), "u32": ("i64",)},
    identities={**IDENTITIES, **SINGLE, "dequantize": read_before},
    folds=True,
    last=True,
)  # fmt: skip


def to_tflite(dag: TensorDAG, path: str | Path | None = None, *, dynamic: Sequence[str] | str = ()) -> bytes | None:
    """Write a network as a TFLite file; without a path, give its bytes.

    Batch norms after convolutions are folded into them, images have their channels last inside, weights lie as the
    operators want them. Inputs and outputs keep their names (those of the signature ``serving_default``), types and
    the order of their axes. Buffers that change are outputs ``<name>.updated``. A network that is quantized
    (:func:`tdagger.quantize`) has integer kernels. UnsupportedError names all that TFLite can't have, at once.

    ``dynamic`` has names of axes (``dag.axes()``) of any size: the file says -1 of them, and has the network's sizes
    until a run asks for others (``resize_tensor_input``). AxisError says why an axis can't be of any size.
    """
    with_weights(dag)
    usual = sizes_of(dag, [dynamic] if isinstance(dynamic, str) else dynamic)
    parts, signature = _at_points(dag, usual) if usual else written(legalized(dag))
    name = dag.name or "network"
    if path is None:
        return serialized(parts, signature, name)
    write(parts, signature, Path(path), name)
    return None


def _at_points(dag: TensorDAG, usual: Mapping[str, int]) -> tuple[list[Part], Signature]:
    """The operators with open sizes: written at several sizes, which have to be the same ones."""
    try:
        found = Open.of(dag, usual)
        sizes = found.points()
        made: list[tuple[list[Part], Signature]] = []
        for own in sizes:
            target = replace(TARGET, varies=found.varies(own))
            network = legalized(dag.resize(**cast(Any, own)), target)
            made.append(written(narrowed(network, target), True, target.varies))
        points = [point_of(own, part, s.inputs) for own, ((part,), s) in zip(sizes, made, strict=True)]
        return [opened(points, found)], made[0][1]
    except (AxisError, UnsupportedError) as e:
        if isinstance(e, UnsupportedError):
            legalized(dag)  # what can't be had at any size is that error
        names = ", ".join(map(shown, usual))
        raise AxisError(f"{shown(dag.name)}: {names} can't be of any size in TFLite: {e}") from e


def legalized(dag: TensorDAG, target: Target = TARGET) -> TensorDAG:
    """The network with nothing but what the rows write."""
    ends = {**dag.graph.inputs, **dag.graph.outputs, **dag.graph.updates}
    empty = [
        Problem(shown(n), f"{v.type} has no entries", dag.origins.get(v)) for n, v in ends.items() if not v.type.size
    ]
    if empty:
        raise unsupported(dag.name, "TFLite", empty)
    return legalize(fold_batch_norm(simplify(recognised(dag))), target)


def written(
    dag: TensorDAG, open_: bool = False, varies: Collection[int] = ()
) -> tuple[list[Part], Signature]:  # fmt: skip
    """The subgraphs of a network that is legal; ``open_``: some of its sizes, ``varies``, are going to be open."""
    graph = dag.graph
    writer = Writer(graph, ROWS, dag.origins, dag.weights, open_, varies)
    outputs = results_of(graph)
    writer.write(outputs.values())
    if writer.problems:
        raise unsupported(dag.name, "TFLite", writer.problems, "written")
    found = writer.results(outputs)
    in_integers(writer, found.values())
    if not open_:  # what is the same at one size only isn't one
        share(writer.part, found.values())
    results = writer.kept(found)
    inputs = {n: writer.ref(v) for n, v in graph.inputs.items()}
    return writer.parts, Signature("serving_default", inputs, results)
