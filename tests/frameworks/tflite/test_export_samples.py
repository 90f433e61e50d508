"""Every op of the table of samples as TFLite: LiteRT gives what the sample expects, or it is said why it can't be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.composite import composites
from tdagger.errors import UnsupportedError
from tdagger.op import core_ops
from tdagger.tensordag import TensorDAG
from tests.frameworks.onnx.test_export_samples import made, network_of
from tests.frameworks.tflite.litert import run
from tests.samples import Sample, all_samples, check

exporter = pytest.importorskip("tdagger.frameworks.tflite.exporter")

#: What TFLite has nothing for, and why.
REFUSED = {
    r"of (f64|c64|c128|u64|f8e4m3|f8e5m2)\b": "no kernels of the element type, and no wider one",
    r"has no (random|unary reciprocal|unary (real|imag|conj)|binary complex)\b": "what is made of these types",
    r"has no cast to (u64|c64|c128|f8e4m3|f8e5m2)": "no kernels of the element type, and no wider one",
    r"has no binary nextafter": "no operator tells the next number",
    r"has no (binary (floor_divide|bitwise_and|bitwise_xor|shift_right|pow)|bitcast)\b": "whole numbers of 64 bits",
    r"has no bitcast of": "bits of element types that it has no kernel for",
    r"has no entries": "an input or output without entries can't be allocated",
    r"works on \d axes|at most 5 axes|stays what it is": "more axes than kernels have",
}
#: Kernels that lose digits: units in the last place of the largest element that they may be off by.
OFF = {"unary tan": 64, "unary expm1": 64, "elu": 64, "selu": 64, "celu": 64, "tanh_shrink": 64}
#: XNNPACK's rsqrt of 0 is NaN, and powers of edges aren't what numpy says.
EDGES = {"rsqrt", "root", "xlogy", "xlog1py", "entr", "unary acosh", "sort", "argsort"}
#: So many samples of an op.
EACH = 10


def within(sample: Sample) -> Sample:
    """Without NaN and infinity, which kernels drop, hold to the largest number or put anywhere.

    Denormal numbers are 0 to XNNPACK, so there are none.
    """
    least, most = (1e-30, 3.2e38) if sample.op not in EDGES else (1e-4, 1e30)

    def plain(a: Any) -> Any:
        if a.dtype.kind not in "fV" or a.dtype.itemsize < 2:
            return a
        wide = np.abs(a.astype(np.float64))
        low, high = (least, most) if a.dtype.itemsize > 2 else (7e-5 if sample.op not in EDGES else 1e-3, 1e4)
        keep = (wide == 0 if sample.op not in EDGES else False) | ((wide > low) & (wide < high))
        return np.where(keep, a, np.ones((), a.dtype))

    units = max(sample.ulps, OFF.get(sample.op, 16))
    arrays = tuple([plain(a) for a in sample.arrays])
    return sample._replace(arrays=arrays, ulps=units, of_largest=True, signless_zero=True)


def ops() -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in all_samples():
        found.setdefault(sample.op, []).append(within(sample))
    return {op: some[:: -(-len(some) // EACH)] for op, some in found.items()}


def refusal(dag: TensorDAG) -> str | None:
    """Why a network can't go to TFLite; None if it can."""
    try:
        exporter.legalized(dag)
    except UnsupportedError as e:
        return str(e)
    return None


def compare(samples: Sequence[Sample]) -> None:
    """Run the samples as one network."""
    values = [made(s, i) for i, s in enumerate(samples)]
    got = run(network_of(values).to_tflite(), [a for s in samples for a in s.arrays])
    for sample, (_, out) in zip(samples, values, strict=True):
        count = len(out) if isinstance(out, tuple) else 1
        results, got = tuple(got[:count]), got[count:]
        if sample.op == "quantize":  # a quotient that is rounded in another way may be on the other side of a half
            whole = [np.asarray(a).astype(np.int64) for a in (results[0], sample.expected(*sample.arrays))]
            np.testing.assert_allclose(*whole, atol=1, err_msg=sample.name)
            continue
        if sample.op in ("logit", "unary atanh"):  # LiteRT's LOG of infinity is 88.4 on some processors
            want, a = sample.expected(*sample.arrays), results[0]
            far = np.isinf(want) & (np.sign(want) * a > 44)
            results = (np.where(far, want, a).astype(a.dtype),)
        check(sample, results if isinstance(out, tuple) else results[0])


@pytest.mark.parametrize(("op", "some"), ops().items())
def test_samples(op: str, some: list[Sample]) -> None:
    told = {s.name: refusal(network_of([made(s, 0)])) for s in some}
    unknown = [w for w in told.values() if w is not None and not any(re.search(r, w) for r in REFUSED)]
    assert not unknown
    together = [s for s in some if told[s.name] is None]
    if together:
        compare(together)


def test_every_core_op_has_a_row_or_is_rewritten() -> None:
    from tdagger.transform.legal.rewrites import IDENTITIES

    known = {name.split()[0] for name in (*exporter.ROWS, *IDENTITIES)}
    leaves = {"input", "parameter", "buffer", "const", "item", "group", "ungroup", "twice"}
    assert set(core_ops) - leaves - known == {"random", "external"}


def test_rows_are_of_composites() -> None:
    kinds = {"unary", "binary", "reduce", "scan", "scatter"}
    named = {n.removesuffix("_last") for n in exporter.ROWS if n.split()[0] not in kinds}
    assert named - set(composites) - set(core_ops) == set()
    assert td.__name__ == "tdagger"
