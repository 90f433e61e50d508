"""What rounding may do to a case: whether outputs that differ from the suite's are as good as these, or as any.

What onnx's backend suite expects is rounded too, and some of its networks lose all that is exact on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from conformance.onnx_cases import Arrays, Case, arguments, by_numpy, difference, flat, imported, nodes
from tdagger.errors import UnsupportedError
from tdagger.interpreter import Interpreter
from tdagger.op import Value

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def is_nearer(case: Case, inputs: Mapping[str, Any], got: Arrays, want: Arrays) -> bool:
    """Whether outputs, where they differ, are as near as the suite's to those of onnx's reference in double precision.

    Some outputs of the suite are rounded more coarsely than its tolerance: then being as exact is what can be asked.
    """
    from onnx.reference import ReferenceEvaluator

    truth: Any = ReferenceEvaluator(_in_doubles(case.model)).run(None, _widened(inputs))
    for g, w, t in zip(got, want, truth, strict=True):
        if not _is_float(w):
            if not np.array_equal(g, w):
                return False
            continue
        g, w = g.astype(np.float64), w.astype(np.float64)
        apart = ~np.isclose(g, w, rtol=case.rtol, atol=case.atol, equal_nan=True)
        if not (abs(g - t)[apart] <= abs(w - t)[apart]).all():
            return False
    return True


def is_lost(case: Case, inputs: Mapping[str, Any], fixed: Sequence[str], want: Arrays) -> bool:
    """Whether rounding alone, of each result of an operator to single precision, decides what a network gives.

    So it is if in double precision the network gives the suite's outputs, and doesn't any more where each result that
    isn't exact is rounded up or down at random: then no engine of single precision is bound to give them.
    """
    wide = case._replace(model=_in_doubles(case.model))
    given = _widened(inputs)
    try:
        dag = imported(wide, given, fixed)
    except UnsupportedError:  # there is no such op of doubles
        return False
    ready = arguments(wide, given, fixed, dag.graph.inputs)
    args, kwargs = dag.signature.inputs.unflatten([ready[n] for n in dag.graph.inputs])
    exact, rounded = by_numpy(dag, ready), flat(_Faithful(dag).run(*args, **kwargs))
    return not _differs(case, exact, want) and _differs(case, rounded, want)


def _differs(case: Case, got: Arrays, want: Arrays) -> bool:
    narrow = [g.astype(w.dtype) if _is_float(w) else g for g, w in zip(got, want, strict=True)]
    return bool(difference(case, narrow, want))


class _Faithful(Interpreter):
    """Double precision, each result rounded to one of its two neighbours in single precision, by lot."""

    lots = np.random.default_rng(0)

    def run_value(self, value: Value, args: list[Any]) -> Any:
        out = super().run_value(value, args)
        return tuple(map(self.rounded, out)) if isinstance(out, tuple) else self.rounded(out)

    def rounded(self, x: Any) -> Any:
        if np.asarray(x).dtype != np.float64:
            return x
        with np.errstate(over="ignore"):
            near = np.asarray(x).astype(np.float32)
            other = np.nextafter(near, np.where(x > near, np.inf, -np.inf).astype(np.float32))
        keeps = (near == x) | ~np.isfinite(near) | (self.lots.random(near.shape) < 0.5)
        return np.where(keeps, near, other).astype(np.float64)


def _widened(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {n: a.astype(np.float64) if _is_float(a) else a for n, a in inputs.items()}


def _is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and (a.dtype.kind == "f" or a.dtype.name == "bfloat16")


def _in_doubles(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model with double in the place of narrower floats."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for info in (*copy.graph.input, *copy.graph.output):
        if info.type.tensor_type.elem_type in _FLOATS:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    copy.graph.ClearField("value_info")
    tensors = list(copy.graph.initializer)
    for node in nodes(copy):
        for a in node.attribute:
            if a.type == a.TENSOR:
                tensors.append(a.t)
            elif a.name in ("value_float", "value_floats"):
                array = np.asarray(a.f if a.name == "value_float" else list(a.floats), np.float64)
                a.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))
            elif a.name in ("to", "dtype") and a.i in _FLOATS:
                a.i = TensorProto.DOUBLE
    for t in tensors:
        if t.data_type in _FLOATS:
            t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float64), t.name))
    return copy
