"""Operators of com.microsoft: numpy and torch against onnxruntime, whose own they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T

from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.importer import from_onnx
from tests.frameworks.onnx.one_node import agree, floats, model, rng

F = floats
MS = "com.microsoft"
Case = tuple[str, list[Any], dict[str, Any]]


def integers(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    info = np.iinfo(dtype)
    return rng(seed + sum(shape)).integers(info.min, int(info.max) + 1, shape).astype(dtype)


def ids(high: int, *shape: int) -> np.ndarray:
    return rng(sum(shape)).integers(0, high, shape).astype(np.int32)


X, W = F(2, 4, 6), F(6)
FLOATS: list[Case] = [
    ("Gelu", [X], {}),
    ("BiasGelu", [X, W], {}),
    ("FastGelu", [X], {}),
    ("FastGelu", [X, W], {}),
    ("QuickGelu", [X], {}),
    ("QuickGelu", [X], {"alpha": 1.0}),
    ("GatedRMSNorm", [X, F(3), F(2, 4, 6, seed=1)], {}),
    ("LinearAttention", [F(1, 3, 8), F(1, 3, 4), F(1, 3, 6)],
     {"q_num_heads": 4, "kv_num_heads": 2, "update_rule": "linear", "outputs": (True, True)}),
    ("CausalConvWithState", [F(2, 3, 5), F(3, 1, 4), F(3), F(2, 3, 3)],
     {"activation": "silu", "outputs": (True, True)}),
    ("SkipLayerNormalization", [X, F(2, 4, 6, seed=1), W, F(6, seed=1)], {}),
    ("SkipLayerNormalization", [X, F(2, 4, 6, seed=1), W, None, F(6, seed=1)],
     {"epsilon": 0.1, "outputs": (True, False, False, True)}),
    ("SkipSimplifiedLayerNormalization", [X, F(2, 4, 6, seed=1), W, F(6, seed=1)],
     {"outputs": (True, False, False, True)}),
    ("EmbedLayerNormalization", [ids(9, 2, 4), ids(2, 2, 4), F(9, 6), F(5, 6), F(2, 6), W, F(6, seed=1)],
     {"outputs": (True, True), "kinds": [T.FLOAT, T.INT32]}),
    ("EmbedLayerNormalization",
     [ids(9, 2, 4), None, F(9, 6), F(5, 6), None, W, F(6, seed=1), np.int32([[1, 1, 0, 0], [1, 1, 1, 1]]),
      ids(5, 2, 4)],
     {"outputs": (True, True, True), "kinds": [T.FLOAT, T.INT32, T.FLOAT]}),
    ("FusedMatMul", [F(2, 3, 4), F(2, 5, 3)], {"transA": 1, "transB": 1, "alpha": 0.5}),
    ("FusedMatMul", [F(3, 2, 4), F(2, 4, 5)], {"transBatchA": 1}),
    ("TransposeMatMul", [F(2, 3, 4), F(2, 3, 5)], {"transA": 1}),
    ("FusedGemm", [F(2, 3), F(3, 4), F(4)], {"activation": "LeakyRelu", "activation_alpha": 0.3}),
    ("FusedConv", [F(1, 2, 5, 5), F(3, 2, 3, 3), F(3)], {"activation": "Relu", "pads": [1, 1, 1, 1]}),
    ("FusedConv", [F(1, 2, 5, 5), F(3, 2, 3, 3), F(3), F(1, 3, 3, 3)], {"activation": "Relu"}),
    ("FusedConv", [F(1, 2, 5, 5), F(3, 2, 3, 3)], {"activation": "Clip", "activation_params": [-0.5, 0.5]}),
    ("FusedConv", [F(1, 2, 5, 5), F(3, 2, 3, 3)], {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]}),
    ("NhwcMaxPool", [integers(1, 5, 5, 3)], {"kernel_shape": [2, 2], "kinds": [T.UINT8]}),
    ("Inverse", [F(2, 3, 3)], {"tolerance": 1e-4}),
    ("Inverse", [np.float32([[0, 1], [2, 0]])], {}),
    ("Trilu", [F(2, 3, 4), np.int64(1)], {"held": (1,), "upper": 0}),
    ("BiasSoftmax", [F(2, 3, 4), F(2, 3, 4)], {"axis": 2, "is_inner_broadcast": 1, "cpu": False}),
    ("CDist", [F(3, 4), F(5, 4)], {"metric": "euclidean"}),
    ("CDist", [F(3, 4), F(5, 4)], {}),
]  # fmt: skip

S, Z = np.float32(0.05), np.uint8(120)
BYTES: list[Case] = [
    *((op, [integers(2, 3, 4), S, Z, integers(3, 4), np.float32(0.03), np.uint8(99), np.float32(0.07), np.uint8(110)],
       {"kinds": [T.UINT8]}) for op in ("QLinearAdd", "QLinearMul")),
    ("QLinearAdd", [integers(3, dtype=np.int8), S, np.int8(3), integers(3, dtype=np.int8, seed=1), S, np.int8(0),
                    np.float32(0.09), np.int8(-5)], {"kinds": [T.INT8]}),
    ("QLinearSigmoid", [integers(2, 30), S, Z, np.float32(1 / 256), np.uint8(0)],
     {"kinds": [T.UINT8], "held": (1, 2, 3, 4)}),
    ("QLinearLeakyRelu", [integers(2, 30), S, Z, S, np.uint8(90)],
     {"kinds": [T.UINT8], "alpha": 0.2, "held": (1, 2, 3, 4)}),
    ("QLinearAveragePool", [integers(1, 2, 6, 6), S, Z, S, np.uint8(90)],
     {"kinds": [T.UINT8], "kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0]}),
    ("QLinearAveragePool", [integers(1, 6, 6, 2), S, Z, S, np.uint8(90)],
     {"kinds": [T.UINT8], "kernel_shape": [2, 2], "channels_last": 1, "steps": 1}),
    ("QLinearGlobalAveragePool", [integers(2, 3, 6, 6), S, Z, np.float32(0.02), np.uint8(90)], {"kinds": [T.UINT8]}),
    ("QLinearGlobalAveragePool", [integers(2, 6, 6, 3), S, Z, np.float32(0.02), np.uint8(90)],
     {"kinds": [T.UINT8], "channels_last": 1}),
    ("QLinearConcat", [S, Z, integers(2, 3), np.float32(0.03), np.uint8(9), integers(2, 4), S, Z],
     {"kinds": [T.UINT8], "axis": 1, "held": (0, 1, 3, 4, 6, 7)}),
    ("QLinearSoftmax", [integers(2, 3, 4), S, Z, np.float32(1 / 256), np.uint8(0)],
     {"kinds": [T.UINT8], "axis": 1, "opset": 13, "held": (1, 2, 3, 4)}),
    ("QLinearSoftmax", [integers(2, 3, 4), S, Z, np.float32(1 / 256), np.uint8(0)],
     {"kinds": [T.UINT8], "axis": 1, "opset": 12, "held": (1, 2, 3, 4)}),
    ("QLinearWhere", [rng().random((2, 3)) < 0.5, integers(2, 3), S, Z, integers(2, 3, seed=1), np.float32(0.03),
                      np.uint8(3), np.float32(0.06), np.uint8(8)], {"kinds": [T.UINT8], "held": (2, 3, 5, 6, 7, 8)}),
    ("QLinearConv", [integers(1, 5, 5, 2), S, Z, integers(3, 2, 3, 3), S, np.uint8(99), np.float32(3.3), np.uint8(10)],
     {"kinds": [T.UINT8], "channels_last": 1, "pads": [1, 1, 1, 1]}),
    ("QGemm", [integers(2, 3), S, Z, integers(3, 4, dtype=np.int8), S, np.int8(0),
               ids(999, 4), np.float32(0.4), np.uint8(20)], {"kinds": [T.UINT8]}),
    ("QGemm", [integers(2, 3), S, Z, integers(4, 3, dtype=np.int8), S, np.int8(0)], {"transB": 1}),
    ("QuantizeLinear", [X, S, Z], {"kinds": [T.UINT8]}),
    ("DequantizeLinear", [integers(2, 3), S, Z], {}),
    ("MatMulIntegerToFloat", [integers(2, 3), integers(3, 4), S, S, Z, np.uint8(7), F(4)], {}),
    ("MatMulIntegerToFloat",
     [integers(2, 3, 5), integers(5, 4, dtype=np.int8), S, np.abs(F(4)), Z, np.zeros(4, np.int8)],
     {"held": (1, 2, 3, 4, 5)}),
    ("DynamicQuantizeMatMul", [F(2, 5, 6), integers(6, 4), S, np.uint8(99), F(4)], {"held": (1, 2, 3)}),
    ("DynamicQuantizeMatMul", [F(2, 6), integers(6, 4, dtype=np.int8), np.abs(F(4))], {"held": (1, 2)}),
]  # fmt: skip


def _name(case: Case) -> str:
    op, inputs, options = case
    shown = {k: v for k, v in options.items() if k not in ("kinds", "held", "outputs")}
    return f"{op}-{len(inputs)}-{shown}".replace(" ", "")


@pytest.mark.parametrize("case", [*FLOATS, *BYTES], ids=_name)
def test_agrees_with_onnxruntime(case: Case) -> None:
    op, inputs, options = case
    options = {**options}
    if options.pop("cpu", True):
        agree(op, inputs, 17, domain=MS, **options)
    else:  # onnxruntime has it on GPUs only
        total = inputs[0] + inputs[1]
        e = np.exp(total - total.max(-1, keepdims=True))
        agree(op, inputs, 17, domain=MS, expected=[e / e.sum(-1, keepdims=True)], **options)


@pytest.mark.parametrize("together", [True, False])
def test_a_gate(together: bool) -> None:
    """Limited on one side, what it lets through on both; onnxruntime has it on GPUs only."""
    gate, up = np.split(X, 2, -1)
    g, u = np.minimum(gate, 0.7), np.clip(up, -0.7, 0.7)
    more = {"activation_alpha": 1.702, "activation_beta": 1.0, "limit": 0.7}
    wanted = g / (1 + np.exp(-1.702 * g)) * (u + 1)
    agree("SwiGLU", [X] if together else [gate, up], 17, domain=MS, expected=[wanted], **more)


# --- weights of few bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "zero"), [(4, "none"), (4, "packed"), (4, "floats"), (8, "none"), (8, "packed")])
def test_matmul_of_few_bits(bits: int, zero: str) -> None:
    n, k, block = 5, 40, 16
    blocks = -(-k // block)
    inputs: list[Any] = [F(2, 3, k), integers(n, blocks, block * bits // 8), np.abs(F(n, blocks))]
    if zero == "packed":
        inputs.append(integers(n, -(-blocks * bits // 8)))
    if zero == "floats":
        inputs.append(np.round(8 * np.abs(F(n, blocks))).astype(np.float32))
    held = tuple(range(1, len(inputs)))
    agree("MatMulNBits", inputs, 17, domain=MS, K=k, N=n, bits=bits, block_size=block, held=held, tolerance=1e-4)


@pytest.mark.parametrize("kind", [0, 1])
def test_matmul_of_codes(kind: int) -> None:
    n, k, block = 5, 32, 16
    inputs = [F(2, 3, k), integers(n * k // 2), np.abs(F(n * k // block))]
    more: dict[str, Any] = {"K": k, "N": n, "block_size": block, "quant_type": kind, "held": (1, 2)}
    agree("MatMulBnb4", inputs, 17, domain=MS, tolerance=1e-4, **more)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [True, False])
def test_rows_of_few_bits(bits: int, zero: bool) -> None:
    n, k, block = 5, 32, 16
    inputs: list[Any] = [integers(n, k * bits // 8), np.int64([[0, 4], [-1, 2]]), np.abs(F(n, k // block))]
    inputs += [integers(n, -(-k // block * bits // 8))] if zero else []
    more: dict[str, Any] = {"bits": bits, "block_size": block, "quantize_axis": 1, "gather_axis": 0}
    agree("GatherBlockQuantized", inputs, 21, domain=MS, held=(0, 2, 3)[: 3 if zero else 2], **more)


def test_rows_of_four_bit_integers() -> None:
    import ml_dtypes

    data = rng().integers(-8, 8, (5, 32)).astype(ml_dtypes.int4)
    inputs = [data, np.int64([3, 1]), np.abs(F(5, 2))]
    more: dict[str, Any] = {"block_size": 16, "quantize_axis": 1, "gather_axis": 0, "held": (0, 2)}
    agree("GatherBlockQuantized", inputs, 21, domain=MS, **more)


# --- attention ---------------------------------------------------------------------------------------------

B, Q, H, D = 2, 4, 3, 8
N = H * D
ATTENTION: list[Case] = [
    ("Attention", [F(B, Q, 5), F(5, 3 * N), F(3 * N)], {}),
    ("Attention", [F(B, Q, 5), F(5, 3 * N), F(3 * N)], {"unidirectional": 1, "scale": 0.2}),
    ("Attention", [F(B, Q, 5), F(5, 3 * N), F(3 * N), np.int32([2, 4])], {}),
    ("Attention", [F(B, Q, 5), F(5, 3 * N), F(3 * N), np.int32([[1, 1, 0, 0], [0, 1, 1, 1]])], {}),
    ("Attention", [F(B, Q, 5), F(5, 3 * N), F(3 * N), np.int32([3, 4, 1, 0])], {}),
    ("Attention", [F(B, Q, 5), F(5, 2 * N + H * 4), F(2 * N + H * 4)], {"qkv_hidden_sizes": [N, N, H * 4]}),
    ("Attention", [F(B, Q, 5), F(5, 3 * N), F(3 * N), None, F(2, B, H, 3, D)],
     {"outputs": (True, True), "unidirectional": 1}),
    ("Attention", [F(B, Q, 5), F(5, 3 * N), F(3 * N), None, None, F(1, H, Q, Q)], {}),
    ("MultiHeadAttention", [F(B, Q, N), F(B, 6, N), F(B, 6, N, seed=1)], {}),
    ("MultiHeadAttention", [F(B, Q, N), F(B, 6, N), F(B, 6, N, seed=1), F(3 * N)], {"scale": 0.4}),
    ("MultiHeadAttention",
     [F(B, Q, N), F(B, 6, N), F(B, 6, N, seed=1), None, np.int32([[1] * 6, [1, 1, 1, 0, 0, 0]])], {}),
    ("MultiHeadAttention", [F(B, Q, N), F(B, 6, N), F(B, 6, N, seed=1), None, None, F(B, H, Q, 6)], {}),
    ("MultiHeadAttention", [F(B, Q, N), F(B, H, 6, D), F(B, H, 6, D, seed=1)], {}),
    ("MultiHeadAttention",
     [F(B, Q, N), F(B, Q, N), F(B, Q, N, seed=1), None, None, None, F(B, H, 3, D), F(B, H, 3, D, seed=2)],
     {"outputs": (True, True, True)}),
    ("MultiHeadAttention", [F(B, Q, N), F(B, Q, N), F(B, Q, N, seed=1)], {"unidirectional": 1}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ATTENTION)))
def test_attention(number: int) -> None:
    op, inputs, options = ATTENTION[number]
    agree(op, inputs, 17, domain=MS, num_heads=H, tolerance=1e-4, **options)


def test_quantized_attention() -> None:
    inputs = [integers(B, Q, 5), integers(5, 3 * N, dtype=np.int8), F(3 * N), np.float32(0.02), np.float32(0.02),
              np.int32([2, 4]), Z, np.int8(0)]  # fmt: skip
    agree("QAttention", inputs, 17, domain=MS, num_heads=H, held=(1, 2, 3, 4, 6, 7), tolerance=1e-4)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("four", [True, False])
def test_rotary(interleaved: int, offset: bool, four: bool) -> None:
    x = F(B, H, Q, D) if four else F(B, Q, N)
    positions = np.int64([3]) if offset else rng().integers(0, 9, (B, Q))
    inputs = [x, positions, F(9, D // 2), F(9, D // 2, seed=1)]
    agree("RotaryEmbedding", inputs, 17, domain=MS, interleaved=interleaved)


G, E = 6, 16  # heads of queries for 2 of keys, entries of a head


def grouped(new: int, had: int, lengths: list[int], total: int, packed: bool = False) -> list[Any]:
    b = len(lengths)
    q, k, v = F(b, new, G * E), F(b, new, 2 * E), F(b, new, 2 * E, seed=1)
    past = [F(b, 2, had, E), F(b, 2, had, E, seed=3)]
    start = [np.concatenate([q, k, v], 2), None, None] if packed else [q, k, v]
    return [*start, *(past if had else (None, None)), np.int32(lengths) - 1, np.int32(total)]


ROTARY = [F(16, E // 2), F(16, E // 2, seed=1)]
GROUPED: list[tuple[list[Any], dict[str, Any]]] = [
    (grouped(4, 0, [4, 4], 4), {}),
    (grouped(4, 0, [4, 4], 4, True), {"scale": 0.2}),
    ([*grouped(4, 0, [4, 4], 4), *ROTARY], {"do_rotary": 1}),
    ([*grouped(4, 0, [4, 4], 4), *ROTARY], {"do_rotary": 1, "rotary_interleaved": 1}),
    ([*grouped(1, 5, [6, 6], 6), *ROTARY], {"do_rotary": 1}),
    (grouped(1, 5, [6, 6], 6), {"softcap": 1.5}),
    (grouped(4, 0, [4, 4], 4), {"local_window_size": 2}),
    (grouped(1, 5, [6, 6], 6), {"local_window_size": 3}),
    ([*grouped(1, 5, [6, 6], 6), None, None, None, F(1, G, 1, 6)], {}),
    ([*grouped(4, 0, [4, 4], 4), None, None, None, None, F(G)], {}),
    (grouped(4, 0, [4, 4], 4), {"smooth_softmax": 1}),
    (grouped(3, 5, [8], 8), {}),
]


@pytest.mark.parametrize("number", range(len(GROUPED)))
def test_grouped_queries(number: int) -> None:
    inputs, options = GROUPED[number]
    agree(
        "GroupQueryAttention", inputs, 17, domain=MS, num_heads=G, kv_num_heads=2, outputs=(True,) * 3, held=(6,),
        tolerance=1e-4, **options,
    )  # fmt: skip


def test_grouped_queries_of_rows_that_are_not_equally_long() -> None:
    """A row of 4 tokens so far in a cache of 5: the new one stands at place 3, and place 4 isn't seen."""
    inputs = grouped(1, 5, [6, 4], 6)
    made = model(
        "GroupQueryAttention", inputs, 17, domain=MS, num_heads=G, kv_num_heads=2, outputs=(True,) * 3, held=(6,)
    )
    args = [a for i, a in enumerate(inputs) if a is not None and i != 6]
    out, k, v = from_onnx(made).run(*args)
    short = [a[1:2] if i < 3 else a[1:2, :, :3] if i < 5 else a for i, a in enumerate(inputs[:5])]
    alone = [*short, np.int32([3]), np.int32(4)]
    one = model(
        "GroupQueryAttention", alone, 17, domain=MS, num_heads=G, kv_num_heads=2, outputs=(True,) * 3, held=(6,)
    )
    wanted = from_onnx(one).run(*alone[:6])
    np.testing.assert_allclose(out[1:], wanted[0], 1e-5, 1e-5)
    np.testing.assert_array_equal(k[1:, :, :4], wanted[1])
    np.testing.assert_array_equal(v[1:, :, :4], wanted[2])


def test_an_lstm_of_bytes() -> None:
    """Weights that have no zero point of their own, and inputs that are left out."""
    t, b, i, h = 3, 2, 4, 5
    weights = [integers(1, n, 4 * h, dtype=np.int8) for n in (i, h)]
    scales = [np.float32([0.01]), np.int8([0])]
    inputs = [F(t, b, i), *weights, F(1, 8 * h), None, None, None, None, *scales, *scales]
    agree(
        "DynamicQuantizeLSTM", inputs, 17, domain=MS, hidden_size=h, outputs=(True, True, True),
        held=(1, 2, 3, 8, 9, 10, 11), tolerance=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("op", "inputs", "options", "why"),
    [
        ("ConvTransposeWithDynamicPads", [F(1, 2, 3, 3), F(2, 2, 3, 3), np.int64([0] * 4)], {}, "its padding is data"),
        ("RotaryEmbedding", [F(B, Q, N), np.int64([0]), F(9, 4), F(9, 4)], {"is_packed_batching": 1}, "packed"),
        ("Attention", [F(B, Q, 5), F(5, 3 * N), F(3 * N)], {"do_rotary": 1, "num_heads": H}, "do_rotary"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(op: str, inputs: list[Any], options: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        from_onnx(model(op, inputs, 17, domain=MS, **options))
