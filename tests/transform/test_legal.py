"""Networks brought to op sets: a small one runs nearly all samples, and what can't be had is named."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import tdagger as td
from tdagger.ops.structure import Unfold, slice_axis
from tdagger.transform.legal import Accepts, Target, label, legalize, types
from tdagger.transform.legal.pairs import in_pairs
from tdagger.transform.legal.rewrites import IDENTITIES
from tests.frameworks.onnx.test_export_samples import made, network_of
from tests.samples import Sample, all_samples, check

_NUMBERS = types("f32 f64 i32 i64 bool u8 i8 i16")
#: Ops that are enough for all others.
_FEW = """
    unary exp, unary log, unary sin, unary cos, unary sqrt, unary floor, unary tanh, unary abs, unary round, binary add,
    binary multiply, binary max, binary min, binary equal, binary less, binary mod, binary floor_divide, binary pow,
    binary bitwise_xor, binary shift_right, binary atan2, divide, subtract, where, cast, reduce sum, reduce max,
    reduce min, gather, concat, permute, reshape, repeat, argsort
""".strip().split(",")
SMALL = Target(
    "small",
    {n.strip(): Accepts(_NUMBERS) for n in _FEW} | {"cast": Accepts(types("f32 f64 i32 i64 bool u8 i8 i16 f16 bf16"))},
    wider={"f16": ("f32",), "bf16": ("f32",), "u16": ("i32",), "u32": ("i64",)},
)
#: What is said of samples that this set can't have.
REFUSED = re.compile(
    r"of (u64|u32|u16|c64|c128|f8e4m3|f8e5m2|f16|bf16)\b|has no (random|bitcast|binary (nextafter|complex))|"
    r"has no unary (real|imag|conj)"
)
#: Every so many of the samples of an op.
EACH = 4


def samples() -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in all_samples():
        found.setdefault(sample.op, []).append(sample)
    return {op: some[:: max(len(some) // EACH, 1)] for op, some in found.items()}


def brought(dag: td.TensorDAG) -> td.TensorDAG | str:
    """The network in few ops, or why it can't be."""
    try:
        return legalize(dag, SMALL)
    except td.UnsupportedError as e:
        return str(e)


@pytest.mark.parametrize(("op", "some"), samples().items())
def test_few_ops_are_enough(op: str, some: list[Sample]) -> None:
    for sample in some:
        after = brought(network_of([made(sample, 0)]))
        if isinstance(after, str):
            assert REFUSED.search(after), after
            continue
        there = {label(v) for v in after.graph.values if v.args} - {"item"}
        assert there <= SMALL.ops.keys()
        loose = sample._replace(signless_zero=True, ulps=max(sample.ulps, 8), of_largest=True)
        check(loose, after.run(*sample.arrays))


def test_rows_are_of_core_ops_and_einsum() -> None:
    known = {label(v) for s in all_samples() for v in network_of([made(s, 0)]).graph.values}
    assert known >= IDENTITIES.keys()


def test_fewer_axes() -> None:
    x = td.input("x", (2, 8, 8, 3))
    windows = td.ungroup(td.ungroup(x, 1, (2, 4)), 3, (2, 4))
    y = td.group(td.permute(td.softmax(windows, axis=-1), (0, 1, 3, 2, 4, 5)), (3, 1, 1, 1))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}))
    after = legalize(dag, Target("four", SMALL.ops, rank=4))
    assert max(v.rank for v in after.graph.values) == 4
    given = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("f")
    np.testing.assert_allclose(after.run(given), dag.run(given), rtol=1e-6)


def test_what_does_not_fit_where_it_is_held() -> None:
    held = Target("narrow", SMALL.ops, held={"i64": "i32"})
    x = td.input("x", (2,), "i64")
    fits = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": x + td.const([1, 2**31 - 1], "i64")}))
    assert legalize(fits, held).graph == fits.graph
    large = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": x + td.const([1, 2**40], "i64")}))
    with pytest.raises(td.UnsupportedError, match="const: 1 to 1099511627776 as i64, which narrow holds as i32"):
        legalize(large, held)


def test_everything_is_named_at_once() -> None:
    x = td.input("x", (2,))
    c = td.complex_(x, x)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.nextafter(x, x), "z": td.real(td.tan(c))}))
    with pytest.raises(td.UnsupportedError) as e:
        legalize(dag, SMALL)
    assert "small has no binary nextafter" in str(e.value)
    assert "small has no binary complex" in str(e.value)


def test_complex_numbers_are_two_real_ones_each() -> None:
    whole: set[str] = set()
    for sample in all_samples():
        if not any(a.dtype.kind == "c" for a in sample.arrays):
            continue
        dag = network_of([made(sample, 0)])
        pairs = in_pairs(dag)
        inside = {label(v) for v in pairs.graph.values if v.type.dtype.is_complex} - {"input", "binary complex"}
        whole |= {sample.op} if inside else set()
        with np.errstate(all="ignore"):
            wanted, found = dag.run(*sample.arrays), pairs.run(*sample.arrays)
        assert found.dtype == wanted.dtype
        large = max(np.abs(wanted[np.isfinite(wanted)]).max(initial=0), 1e-30)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * large, err_msg=sample.op)
    assert whole == {
        *("binary pow", "root", "unary sqrt", "unary sign"),
        *("unary sin", "unary cos", "unary tan", "unary tanh"),
    }


def test_half_a_transform_of_real_numbers_is_half_a_matrix() -> None:
    x = td.input("x", (3, 16))
    half = slice_axis(td.fft(td.cast(x, "c64"), axis=1), 1, 0, 9)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.real(half), "z": td.imag(half)}))
    pairs = in_pairs(dag)
    assert [v.args[1].shape for v in pairs.graph.values if label(v) == "matmul"] == [(16, 9)] * 2
    array = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    wanted = np.fft.rfft(array)
    for found, part in zip(pairs.run(array), (wanted.real, wanted.imag), strict=True):
        np.testing.assert_allclose(found, part, rtol=0, atol=1e-5)


def test_channels_last() -> None:
    x, w = td.input("x", (1, 3, 8, 8)), td.parameter("w", (4, 3, 1, 1))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.mean(td.relu(td.convolution(x, w)), axes=(2, 3))}))
    more = {n: Accepts(_NUMBERS) for n in ("convolution_last", "relu", "mean")}
    after = legalize(dag, Target("last", {**SMALL.ops, **more}, last=True))
    assert [label(v) for v in after.graph.values if v.args and label(v) != "reshape"][:3] == [
        "permute", "convolution_last", "relu",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "pieces"),
    [
        (20, 4, 4, 1, None), (22, 4, 4, 1, None), (20, 6, 4, 1, (2, 9, 2)), (23, 6, 2, 1, (2, 11, 2)),
        (20, 5, 1, 1, (2, 20)), (20, 4, 2, 2, (2, 20)), (20, 20, 3, 1, None), (20, 1, 1, 1, None),
    ],
)  # fmt: skip
def test_windows_are_gathered_in_pieces(
    size: int, kernel: int, stride: int, dilation: int, pieces: tuple[int, ...] | None
) -> None:
    """Of as many entries as divide the windows and their steps; not at all where they lie side by side."""
    x = td.input("x", (2, size))
    y = td.unfold(x, 1, kernel, stride, dilation)
    target = replace(SMALL, ops={**SMALL.ops, "slice": Accepts(_NUMBERS)})
    after = legalize(td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y})), target)
    assert [v.args[0].shape for v in after.values if v.op.name == "gather"] == ([pieces] if pieces else [])
    data = np.arange(2 * size, dtype="f").reshape(2, size)
    assert np.array_equal(after.run(data), data[:, Unfold(1, kernel, stride, dilation).places(size)])
