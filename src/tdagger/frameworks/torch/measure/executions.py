"""Executions of a network by torch, to be compared value by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdagger.errors import InputError
from tdagger.frameworks.torch.aten.calls import array_of
from tdagger.frameworks.torch.capture.attributes import left_as_it_was
from tdagger.frameworks.torch.runtime import DTYPES, from_numpy
from tdagger.op import Array, Value
from tdagger.tensordag import Signature, TensorDAG
from tdagger.transform.diff.measure import Measure, graph_of_all
from tdagger.tree import Tree, flatten
from tdagger.types import DType


def by_torch(dag: TensorDAG) -> Measure:
    """The execution by the module of ``to_torch``, which gives all values."""
    graph, kept = graph_of_all(dag.graph)
    outputs = Tree("tuple", tuple(range(len(kept))), (Tree("leaf"),) * len(kept))
    whole = replace(dag.with_graph(graph), signature=Signature(dag.signature.inputs, outputs))
    return _measure(whole.to_torch(fixed=True).eval(), dag, kept)


def by_call(function: Callable[..., Any], dag: TensorDAG) -> Measure:
    """The execution by a function of tensors (the module itself, say), which gives the outputs."""
    return _measure(function, dag, list(dag.graph.outputs.values()))


def _measure(function: Callable[..., Any], dag: TensorDAG, values: Sequence[Value]) -> Measure:
    def measure(inputs: Mapping[str, Array]) -> Mapping[Value, Any]:
        leaves = [from_numpy(inputs[n], DTYPES[v.dtype.name]).clone() for n, v in dag.graph.inputs.items()]
        args, kwargs = dag.signature.inputs.unflatten(leaves)
        arrays = _called(function, args, kwargs)
        if len(arrays) != len(values):
            raise InputError(f"the run gave {len(arrays)} tensors, {dag.name} has {len(values)} outputs")
        return dict(zip(values, arrays, strict=True))

    return measure


def outputs(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> list[Array]:
    """The outputs of a function of tensors for arguments that hold arrays."""
    leaves, tree = flatten((args, dict(kwargs)), lambda x: isinstance(x, np.ndarray | np.generic))
    tensors = [from_numpy(np.array(x), DTYPES[DType.of(x.dtype).name]) for x in leaves]
    return _called(function, *tree.unflatten(tensors))


def _called(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> list[Array]:
    """The outputs of a function, which begins as it was and stays so if it is a module."""
    with torch.no_grad(), ExitStack() as stack:
        if isinstance(function, torch.nn.Module):
            stack.enter_context(left_as_it_was(function, parameters=True))
        found, _ = flatten(function(*args, **kwargs), _is_tensor, "the result", result=True)
        return [array(x).copy() for x in found]


def array(tensor: Tensor) -> Array:
    """The data of a tensor, wherever it is."""
    return array_of(tensor.detach().cpu().contiguous())


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
