"""Every op of the table of samples as ONNX: the checker takes it, and onnxruntime gives what the sample expects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.composite import composites
from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.emit.composites.table import COMPOSITES
from tdagger.frameworks.onnx.emit.core import CORE
from tdagger.network import plain_signature
from tdagger.op import core_ops
from tdagger.tensordag import TensorDAG
from tdagger.types import DType
from tests.frameworks.onnx.runs import checked, run
from tests.samples import Sample, all_samples, check
from tests.samples.core_structure import WEIGHTS

#: Composites and core ops that are refused for some arguments, and what is said then.
REFUSED = re.compile(
    r"onnxruntime has no complex numbers|bits of \w+ as \w+ need operator set 26|no operator that tells the next number"
)
#: onnxruntime drops NaN here, or puts it anywhere, and its MaxPool takes -inf for the lowest number: without these.
WITHOUT_NAN = {"max_pool", "max_pool_with_indices", "argmax", "argmin", "scatter max", "scatter min", "topk"}
#: Kernels of onnxruntime that lose digits: units in the last place of the largest element that they may be off by.
OFF: dict[str, float] = {
    "elu": 2, "selu": 2, "celu": 2,  # exp(x) - 1
    "hard_sigmoid": 2, "hard_swish": 2,  # x * (1 / 6)
    "sigmoid": 4, "silu": 4, "glu": 4, "log_softmax": 4,
    "log2": 2,  # log(x) * (1 / log(2))
    "unary sin": 2, "unary cos": 2, "unary tan": 64, "unary tanh": 2,
}  # fmt: skip
#: Positions beyond 2^31 entries, which onnxruntime takes modulo that.
WRONG = {"grid_sample-far away zeros-f32", "grid_sample-far away border-f32"}


def network_of(values: Sequence[tuple[Sequence[td.Value], Any]]) -> TensorDAG:
    """One network of the inputs and results of several samples."""
    inputs: dict[str, td.Value] = {}
    outputs: dict[str, td.Value] = {}
    for i, (given, out) in enumerate(values):
        inputs |= {f"{v.op.leaf}": v for v in given}
        results = out if isinstance(out, tuple) else (out,)
        outputs |= {f"out{i}_{j}": v for j, v in enumerate(results)}
    graph = td.Graph(inputs, outputs)
    return TensorDAG(graph, dict(WEIGHTS), plain_signature(len(inputs), len(outputs)))


def made(sample: Sample, number: int) -> tuple[list[td.Value], Any]:
    inputs = [td.input(f"x{number}_{i}", a.shape, DType.of(a.dtype)) for i, a in enumerate(sample.arrays)]
    return inputs, sample.build(*inputs)


def signless(sample: Sample) -> Sample:
    """onnxruntime's Where takes 0.0 for -0.0: no one says which zero it is."""
    units = OFF.get(sample.op)
    if units is not None:
        return sample._replace(ulps=max(sample.ulps, units), of_largest=True)
    return sample._replace(signless_zero=True)


def without_nan(sample: Sample) -> Sample:
    if sample.op not in WITHOUT_NAN:
        return sample
    arrays = [np.where((a != a) | (a == -np.inf), np.ones((), a.dtype), a) if a.dtype.kind in "fV" else a
              for a in sample.arrays]  # fmt: skip
    return sample._replace(arrays=tuple(arrays))


def compare(samples: Sequence[Sample], values: Sequence[tuple[Sequence[td.Value], Any]], model: Any) -> None:
    """Run the samples as one network."""
    got = run(checked(model), [a for s in samples for a in s.arrays])
    for sample, (_, out) in zip(samples, values, strict=True):
        count = len(out) if isinstance(out, tuple) else 1
        results, got = tuple(got[:count]), got[count:]
        check(signless(sample), results if isinstance(out, tuple) else results[0])


def ops() -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in all_samples():
        if sample.name not in WRONG:
            found.setdefault(sample.op, []).append(without_nan(sample))
    return found


def exported(dag: TensorDAG) -> Any:
    """The network as ONNX, or why it can't be."""
    try:
        return dag.to_onnx()
    except UnsupportedError as e:
        return str(e)


OPS = ops()
#: So many samples are one network.
TOGETHER = 40


@pytest.mark.parametrize("op", OPS)
def test_samples(op: str) -> None:
    for i in range(0, len(OPS[op]), TOGETHER):
        together = OPS[op][i : i + TOGETHER]
        values = [made(s, n) for n, s in enumerate(together)]
        model = exported(network_of(values))
        if isinstance(model, str):
            told = {s.name: exported(network_of([made(s, 0)])) for s in together}
            refused = {n: why for n, why in told.items() if isinstance(why, str)}
            assert all(REFUSED.search(why) for why in refused.values()), refused
            together = [s for s in together if s.name not in refused]
            values = [made(s, n) for n, s in enumerate(together)]
            model = network_of(values).to_onnx() if together else None
        if together:
            compare(together, values, model)


def test_every_core_op_has_a_row() -> None:
    leaves = {"input", "parameter", "buffer", "const", "item"}
    assert set(core_ops) - leaves - {"twice"} == set(CORE)


def test_rows_are_of_composites() -> None:
    assert set(COMPOSITES) - set(composites) == set()


@pytest.mark.parametrize("opset", [18, 21, 23, 26])
def test_operator_sets(opset: int) -> None:
    """The rows that ask which set it is, and what types a set has."""
    names = ("gelu", "rms_norm", "layer_norm", "pad", "softmax", "interpolate", "reduce max", "avg_pool", "bitcast",
             "grid_sample", "scaled_dot_product_attention")  # fmt: skip
    for sample in [s for n in names for s in OPS[n] if "f32" in s.id or n in ("interpolate", "avg_pool")]:
        if opset < 26 and sample.op == "bitcast":
            continue
        model = network_of([made(sample, 0)]).to_onnx(opset=opset)
        assert model.opset_import[0].version == opset
        got = run(checked(model), sample.arrays)
        check(signless(sample), tuple(got) if len(got) > 1 else got[0])
