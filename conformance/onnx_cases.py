"""The cases of onnx's backend suite: how one is read, what kind it is, and whether an engine's outputs are right."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

import tdagger as td
from tdagger.frameworks.onnx.file.tensors import DTYPES, HELD
from tdagger.frameworks.onnx.importer import from_onnx
from tdagger.frameworks.onnx.ops import find

Arrays = list[Any]
#: What runs a model on inputs by name: outputs in order.
Engine = Callable[[onnx.ModelProto, dict[str, Any]], Arrays]

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted", "real")

_SEQUENCES = {
    "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SequenceMap", "SplitToSequence", "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement",
}  # fmt: skip
_CONTROL = {"If", "Loop", "Scan"}
#: Operators with a result whose shape depends on the data.
DATA_DEPENDENT = {"NonZero", "Compress", "Unique", "NonMaxSuppression"}
_RANDOM = {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"}


class Case(NamedTuple):
    """One case: its model, and for each set of data inputs by name and outputs in order."""

    name: str
    kind: str
    model: onnx.ModelProto
    data: list[tuple[dict[str, Any], Arrays]]
    rtol: float
    atol: float


def cases(kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """The suite's cases by name, as onnx has them: :func:`read` reads one."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx makes them with numpy, which warns of overflows that are meant
        return {f"{kind}/{c.name}": c for kind in kinds for c in load_model_tests(kind=kind)}


def read(name: str, case: Any) -> Case:
    """A case with its data; that of the real models is made, as onnx's own runner does."""
    kind = name.partition("/")[0]
    if case.url:
        return _light(name, case)
    model = case.model if case.model is not None else onnx.load(os.path.join(case.model_dir, "model.onnx"))
    names = _input_names(model)
    if case.data_sets is not None:
        sets = case.data_sets
    else:
        folders = sorted(glob.glob(os.path.join(case.model_dir, "test_data_set*")))
        sets = [(_files(f, "input", model.graph.input), _files(f, "output", model.graph.output)) for f in folders]
    data = [(dict(zip(names, map(_array, i), strict=False)), list(map(_array, o))) for i, o in sets]
    return Case(name, kind, model, data, case.rtol, case.atol)


def _input_names(model: onnx.ModelProto) -> list[str]:
    held = {t.name for t in model.graph.initializer}
    return [i.name for i in model.graph.input if i.name not in held]


def _files(folder: str, kind: str, infos: Any) -> Arrays:
    count = len(glob.glob(os.path.join(folder, f"{kind}_*.pb")))
    return [_file(os.path.join(folder, f"{kind}_{i}.pb"), infos[i].type) for i in range(count)]


def _file(path: str, of: Any) -> Any:
    content = Path(path).read_bytes()
    if of.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if of.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(TensorProto.FromString(content))


def _array(x: Any) -> Any:
    return numpy_helper.to_array(x) if isinstance(x, TensorProto) else x


def _light(name: str, case: Any) -> Case:
    path = Path(onnx.__file__).parent.parent / case.url
    model = onnx.load(path)
    inputs: dict[str, Any] = {}
    held = {t.name for t in model.graph.initializer}
    for info in model.graph.input:
        if info.name not in held:
            dims = info.type.tensor_type.shape.dim
            shape = [d.dim_value if d.HasField("dim_value") else 1 for d in dims]
            size = int(np.prod(shape))
            inputs[info.name] = (np.arange(size).reshape(shape) / size).astype(np.float32)
    outputs = [
        numpy_helper.to_array(TensorProto.FromString(Path(f"{path.with_suffix('')}_output_{i}.pb").read_bytes()))
        for i in range(len(model.graph.output))
    ]
    return Case(name, "real", model, [(inputs, outputs)], case.rtol, case.atol)


# --- what kind of case it is -------------------------------------------------------------------------------


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a model, its functions and its subgraphs."""
    waiting = [*model.graph.node, *[n for f in model.functions for n in f.node]]
    while waiting:
        node = waiting.pop()
        yield node
        for a in node.attribute:
            for graph in (a.g, *a.graphs) if a.type in (a.GRAPH, a.GRAPHS) else ():
                waiting += graph.node


def group_of(case: Case) -> str:
    """plain, control flow or data-dependent shapes among the cases of plain tensors; else what they are of."""
    infos = [*case.model.graph.input, *case.model.graph.output]
    found = [(n.domain if n.domain != "ai.onnx" else "", n.op_type) for n in nodes(case.model)]
    if any(domain == "ai.onnx.ml" for domain, _ in found):
        return "ai.onnx.ml"
    if any(domain == "ai.onnx.preview.training" for domain, _ in found):
        return "training"
    if any(i.type.WhichOneof("value") != "tensor_type" for i in infos) or _is_any(found, _SEQUENCES):
        return "sequences and optionals"
    if any(i.type.tensor_type.elem_type == TensorProto.STRING for i in infos):
        return "strings"
    if _is_any(found, _CONTROL):
        return "control flow"
    return "data-dependent shapes" if _is_any(found, DATA_DEPENDENT) else "plain"


def _is_any(found: list[tuple[str, str]], names: set[str]) -> bool:
    return any(not domain and name in names for domain, name in found)


def has_control_flow(case: Case) -> bool:
    """Whether a case has If, Loop or Scan."""
    return _is_any([(n.domain, n.op_type) for n in nodes(case.model)], _CONTROL)


def is_random(case: Case) -> bool:
    """Whether outputs are random numbers, of which the suite has one engine's."""
    found = [(n.domain, n.op_type) for n in nodes(case.model)]
    dropped = "dropout" in case.name and "training" in case.name and "zero_ratio" not in case.name
    return _is_any(found, _RANDOM) or dropped


def operator_of(case: Case) -> str:
    """The operator that a case is of: of an expanded node the one in its name, else the model's first uncommon one."""
    if case.kind == "real":
        return "real models"
    listed = [n.op_type for n in case.model.graph.node]
    if "_expanded" in case.name and case.model.graph.node:
        wanted = case.name.partition("test_")[2].replace("_", "").lower()
        known = {s.name.lower(): s.name for s in onnx.defs.get_all_schemas() if not s.domain}
        fits = [n for n in known if wanted.startswith(n)]
        return known[max(fits, key=len)] if fits else listed[0]
    return next((n for n in listed if n not in ("Constant", "Identity")), listed[0] if listed else "none")


# --- what is a number --------------------------------------------------------------------------------------


def numbers(case: Case) -> list[str]:
    """The inputs that say how the network is built: what operators take as numbers, and what such are made of.

    Of control flow also what it asks: how many turns a loop has, which branch is taken.
    """
    versions = {o.domain if o.domain != "ai.onnx" else "": o.version for o in case.model.opset_import}
    every = list(nodes(case.model))
    makers = {o: n for n in every for o in n.output if o}
    waiting: list[str] = []
    for node in every:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if not domain and node.op_type in _ASKED:
            waiting += [n for i, n in enumerate(node.input) if n and i in _ASKED[node.op_type]]
        rule = find(domain, node.op_type, versions.get(domain, 1))
        if rule is None or (not domain and node.op_type in DATA_DEPENDENT):
            continue
        for parameter, name in zip(rule.inputs, node.input, strict=False):
            if parameter.number is not None and name:
                waiting.append(name)
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name in makers and makers[name].op_type not in ("Shape", "Size", "SequenceLength", "Loop", "Scan"):
                waiting += [i for i in makers[name].input if i]
                waiting += [o.name for a in makers[name].attribute if a.type == a.GRAPH for o in a.g.output]
    return [n for n in _input_names(case.model) if n in found]


#: Inputs of control flow and sequences that have to be numbers, by place.
_ASKED = {
    "If": (0,), "Loop": (0, 1), "SequenceAt": (1,), "SequenceErase": (1,), "SequenceInsert": (2,),
    "SplitToSequence": (1,),
}  # fmt: skip


# --- engines -----------------------------------------------------------------------------------------------


def held(array: Any, kind: int) -> Any:
    """An array as tdagger has it: of some element types in another that holds them."""
    return array.astype(HELD[kind].numpy) if kind in HELD else array


def imported(case: Case, inputs: Mapping[str, Any], fixed: Sequence[str]) -> td.TensorDAG:
    """The network of a case, with the shapes of ``inputs``, and those of ``fixed`` as constants."""
    return from_onnx(case.model, **_sizes(case, inputs, fixed))


def program_of(case: Case, inputs: Mapping[str, Any], fixed: Sequence[str]) -> td.Program:
    """The same as a program."""
    return td.Program.from_onnx(case.model, **_sizes(case, inputs, fixed))


def _sizes(case: Case, inputs: Mapping[str, Any], fixed: Sequence[str]) -> dict[str, Any]:
    kinds = {i.name: i.type.tensor_type.elem_type for i in case.model.graph.input}
    shapes = {n: shapes_of(a) for n, a in inputs.items() if n not in fixed}
    values = {n: held(inputs[n], kinds[n]) for n in fixed}
    return {"inputs": shapes, "values": values}


def shapes_of(array: Any) -> Any:
    """The shape of an array, those of a sequence's tensors, None for what isn't there."""
    return [shapes_of(a) for a in array] if isinstance(array, list) else None if array is None else np.shape(array)


def arguments(case: Case, inputs: Mapping[str, Any], fixed: Sequence[str], names: Iterable[str]) -> dict[str, Any]:
    """The arrays that a network is run on, whose inputs have these names; a seed among them where it draws."""
    kinds = {i.name: i.type.tensor_type.elem_type for i in case.model.graph.input}
    given: dict[str, Any] = {}
    for name, array in inputs.items():
        if isinstance(array, list):
            given |= {f"{name}.{i}": np.asarray(a) for i, a in enumerate(array)}
        elif name not in fixed and array is not None:
            given[name] = held(np.asarray(array), kinds[name])
    return {n: given.get(n, np.uint64(1)) for n in names}


def by_numpy(dag: td.TensorDAG, given: dict[str, Any]) -> Arrays:
    """The outputs by numpy, those of sequences one after the other."""
    leaves = [given[n] for n in dag.graph.inputs if n != "seed"]
    args, kwargs = dag.signature.inputs.unflatten([*leaves, *([given["seed"]] if "seed" in given else [])])
    return flat(dag.run(*args, **kwargs))


def by_torch(dag: td.TensorDAG, given: dict[str, Any]) -> Arrays:
    """The outputs of ``to_torch()``."""
    import torch

    from tdagger.frameworks.torch.aten import TORCH_DTYPES
    from tdagger.frameworks.torch.aten.calls import array_of
    from tdagger.frameworks.torch.runtime import from_numpy

    tensors = {
        n: from_numpy(np.ascontiguousarray(a).reshape(np.shape(a)), TORCH_DTYPES[dag.graph.inputs[n].dtype])
        for n, a in given.items()
    }
    module = dag.to_torch().eval()
    leaves = [tensors[n] for n in dag.graph.inputs if n != "seed"]
    args, kwargs = dag.signature.inputs.unflatten([*leaves, *([tensors["seed"]] if "seed" in given else [])])
    with torch.no_grad():
        return [array_of(t) for t in flat(module(*args, **kwargs))]


def flat(found: Any) -> Arrays:
    """Tensors in lists and tuples one after the other, without what isn't there."""
    if isinstance(found, tuple | list):
        return [t for part in found for t in flat(part)]
    return [] if found is None else [found]


# --- comparing ---------------------------------------------------------------------------------------------


def difference(case: Case, got: Arrays, want: Arrays, values: bool = True, ours: bool = True) -> str:
    """Where outputs differ from what the suite has, at the case's tolerance; "" if they don't.

    Without ``values`` only shapes and element types are compared. ``ours``: types are as tdagger holds them, and
    sequences' tensors one after the other.
    """
    if ours and any(w is None or isinstance(w, list) for w in want):
        wanted = flat(want)
        if len(got) != len(wanted):
            return f"{len(got)} tensors instead of {len(wanted)}"
        pairs = zip(got, wanted, strict=True)
        return next((f"tensor {i} {d}" for i, (g, w) in enumerate(pairs)
                     if (d := _different(case, g, w, None, values))), "")  # fmt: skip
    if len(got) != len(want):
        return f"{len(got)} outputs instead of {len(want)}"
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        kind = case.model.graph.output[i].type.tensor_type.elem_type
        why = _different(case, g, w, DTYPES[kind].numpy if ours else None, values)
        if why:
            return f"output {i} {why}"
    return ""


def _different(case: Case, got: Any, want: Any, of: Any, values: bool) -> str:
    if isinstance(want, list | tuple) or want is None:  # a sequence, or nothing at all
        if want is None or got is None or len(got) != len(want):
            return "" if got is None and want is None else "isn't as long, or not there"
        return next((d for g, w in zip(got, want, strict=True) if (d := _different(case, g, w, of, values))), "")
    got, expected = np.asarray(got), np.asarray(want)
    if expected.dtype.kind in "OUS":
        return "" if got.shape == expected.shape and got.tolist() == expected.tolist() else "isn't the same text"
    of = expected.dtype if of is None else of
    if got.shape != expected.shape or got.dtype != of:
        return f"is {got.dtype}{list(got.shape)} instead of {of}{list(expected.shape)}"
    why = _apart(got, expected, case.rtol, case.atol) if values else ""
    return f"differs: {why}" if why else ""


def _apart(got: Any, want: Any, rtol: float, atol: float) -> str:
    if got.dtype.kind == "V" or got.dtype.name.startswith(("bfloat", "float8", "float4", "int4", "uint4")):
        rtol = max(rtol, 2**-6) if got.dtype.name == "bfloat16" else rtol  # as onnx's own runner: two places
        got, want = got.astype(np.float32), want.astype(np.float32)
    if got.dtype.kind in "biu":
        got, want = got.astype(np.float64), want.astype(np.float64)
    try:
        np.testing.assert_allclose(got, want.astype(got.dtype), rtol=rtol, atol=atol)
    except AssertionError as e:
        return " ".join(str(e).split())[:300]
    return ""
