"""Operators of com.microsoft that few files have: against onnxruntime, or what the operator is said to be."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T

from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.importer import from_onnx
from tdagger.frameworks.onnx.ops import RULES
from tdagger.frameworks.onnx.ops.table import REASONS
from tests.frameworks.onnx.one_node import agree, floats, model, rng

F = floats
MS = "com.microsoft"
X, W = F(2, 4, 6), F(6)


def i64(*numbers: Any) -> np.ndarray:
    return np.array(numbers[0] if len(numbers) == 1 else numbers, np.int64)


def B(*shape: int) -> np.ndarray:
    return rng(sum(shape)).integers(0, 256, shape).astype(np.uint8)


CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("ExpandDims", [X, np.int32(-1)], {"held": (1,)}),
    ("ExpandDims", [X, np.int32(1)], {"held": (1,)}),
    ("GatherND", [X, i64([[0, 1], [1, 3]])], {}),
    ("Pad", [F(2, 3), i64([0, 2, 1, 0])], {"held": (1,)}),
    ("Pad", [F(2, 3), i64([0, 2, 1, 0]), np.float32([1.5])], {"held": (1, 2)}),
    ("Pad", [F(3, 4), i64([0, 2, 1, 0])], {"held": (1,), "mode": "reflect"}),
    ("Range", [np.float32(1), np.float32(4), np.float32(0.5)], {"held": (0, 1, 2)}),
    ("Range", [np.int32(1), np.int32(4)], {"held": (0, 1), "kinds": [T.INT32]}),
    ("Unique", [np.float32([2, 1, 1, 3, 4, 3])],
     {"held": (0,), "outputs": (True, True, True), "kinds": [T.FLOAT, T.INT64, T.INT64]}),
    ("UnfoldTensor", [F(2, 9)], {"size": 3, "step": 2}),
    ("UnfoldTensor", [F(2, 5, 3)], {"size": 2, "dim": 1}),
    ("MatMulInteger16", [rng().integers(-999, 999, (2, 3, 4)).astype(np.int16),
                         rng().integers(-999, 999, (4, 5)).astype(np.int16)], {"kinds": [T.INT32]}),
    ("BranchwiseRMSNorm", [F(2, 3, 4), F(3, 4)], {}),
    ("BranchwiseRMSNorm", [F(2, 12), F(12)], {"num_branches": 3, "epsilon": 0.1}),
    ("BranchwiseRMSNorm", [F(2, 12), F(4)], {"num_branches": 3}),
    ("ScaledSiLU", [X], {"alpha": 1.7}),
    ("ScaledSiLU", [X, np.float32(0.3)], {}),
    ("GatedAdd", [X, F(2, 4, 6, seed=1), F(2, 4, 1)], {}),
    ("LinearAttentionGate", [X, W, F(6, seed=1), F(2, 4, 6, seed=2)], {"outputs": (True, True)}),
    *(("MoE", [F(7, 8), F(7, 4), F(4, 12, 8), F(4, 12), F(4, 8, 12 if kind != "swiglu" else 6), F(4, 8)],
       {"k": k, "activation_type": kind, "normalize_routing_weights": n, "tolerance": 1e-4,
        **({"swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_limit": 0.7}
           if kind == "swiglu" else {})})
      for kind, k, n in (("relu", 1, 0), ("silu", 2, 1), ("swiglu", 3, 1), ("gelu", 2, 0), ("identity", 4, 1))),
    *(("QMoE", [F(5, 32), F(5, 4), rng(b).integers(0, 256, (4, 32, 32 * b // 8)).astype(np.uint8), np.abs(F(4, 32)) / 9,
                F(4, 32), rng(b + 1).integers(0, 256, (4, 32, 16 * b // 8)).astype(np.uint8), np.abs(F(4, 32)) / 9,
                F(4, 32)],
       {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "expert_weight_bits": b, "tolerance": 2e-3,
        "normalize_routing_weights": 1, "held": (2, 3, 4, 5, 6, 7)}) for b in (4, 8)),
    ("QMoE", [F(5, 32), F(5, 4), rng().integers(0, 256, (4, 64, 16)).astype(np.uint8), np.abs(F(4, 64, 2)) / 9,
              None, rng(1).integers(0, 256, (4, 32, 16)).astype(np.uint8), np.abs(F(4, 32, 2)) / 9],
     {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "block_size": 16, "tolerance": 2e-3,
      "normalize_routing_weights": 1, "held": (2, 3, 5, 6)}),
    ("DecoderMaskedMultiHeadAttention",
     [F(2, 1, 8), F(2, 1, 8, seed=1), F(2, 1, 8, seed=2), None, None, F(2, 2, 5, 4), F(2, 2, 5, 4, seed=1),
      np.int32([3]), None, None, F(24)],
     {"num_heads": 2, "outputs": (True, True, True), "past_present_share_buffer": 1, "held": (7,)}),
    *(("MRotaryEmbedding", [F(2, 3, 16), i64(rng().integers(0, 9, (3, 2, 3)).tolist()), F(9, 4), F(9, 4, seed=1)],
       {"mrope_section": section, "mrope_layout": layout, "num_heads": 2})
      for layout, section in ((0, [2, 1, 1]), (1, [2, 1, 1]))),
    ("QEmbedLayerNormalization",
     [np.int32([[1, 2, 0], [3, 1, 1]]), np.int32([[0, 1, 1], [0, 0, 1]]), B(5, 8), B(4, 8), B(2, 8), B(8), B(8),
      np.int32([[1, 1, 0], [1, 1, 1]]), *np.float32([0.1, 0.2, 0.1, 0.05, 0.1]), *np.uint8([9, 99, 120, 30, 128])],
     {"outputs": (True, True), "kinds": [T.FLOAT, T.INT32], "held": tuple(range(2, 7)) + tuple(range(8, 18))}),
    ("DecoderMaskedMultiHeadAttention", [F(2, 1, 8), F(2, 2, 5, 4), F(2, 2, 5, 4, seed=1)], {"num_heads": 2}),
]  # fmt: skip


def _name(case: tuple[str, list[Any], dict[str, Any]]) -> str:
    op, inputs, options = case
    return f"{op}-{len(inputs)}-{[v for k, v in options.items() if k not in ('kinds', 'held', 'outputs')]}"


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_agrees_with_onnxruntime(case: tuple[str, list[Any], dict[str, Any]]) -> None:
    op, inputs, options = case
    agree(op, inputs, 17, domain=MS, **options)


# --- what onnxruntime has on GPUs only: against what the operator is said to be ---------------------------------


def told(op: str, inputs: list[Any], expected: list[Any], **options: Any) -> None:
    agree(op, inputs, 17, domain=MS, expected=expected, **options)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("last", [True, False])
def test_the_norm_of_a_sum(last: bool) -> None:
    x, skip, gamma, beta, bias = F(2, 3, 4, 6), F(2, 6), F(6), F(6, seed=1), F(6, seed=2)
    total = x + skip[:, None, None] + bias
    parts = total.reshape(2, 12, 3, 2)
    mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    y = ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * gamma + beta
    y = y / (1 + np.exp(-y))
    turned = (lambda a: a) if last else (lambda a: np.ascontiguousarray(a.transpose(0, 3, 1, 2)))
    given = [turned(x), gamma, beta, skip, *([bias] if last else [])]
    if not last:
        total = x + skip[:, None, None]
        parts = total.reshape(2, 12, 3, 2)
        mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
        y = ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * gamma + beta
        y = y / (1 + np.exp(-y))
    more = {"groups": 3, "activation": 1, "channels_last": int(last)}
    told("SkipGroupNorm", given, [turned(y), turned(total)], outputs=(True, True), **more)


ENDS = np.int32([0, 1, 4])


def _within(q: np.ndarray, k: np.ndarray, v: np.ndarray, count: int) -> np.ndarray:
    """Attention of each text alone, ``[t d]``."""
    found: list[np.ndarray] = []
    for first, end in itertools.pairwise(ENDS):
        a, b, c = (x[first:end].reshape(end - first, count, -1).transpose(1, 0, 2) for x in (q, k, v))
        y = softmax(a @ b.transpose(0, 2, 1) / np.float32(a.shape[-1] ** 0.5)) @ c
        found.append(y.transpose(1, 0, 2).reshape(end - first, -1))
    return np.concatenate(found)


def test_texts_without_padding() -> None:
    """Two texts of one and three tokens."""
    x, w, b = F(4, 6), F(6, 24), F(24)
    offset = np.int32([[0, 4, 5, 6], [1, 2, 3, 7]])  # of 2 x 4 places: 0; 4, 5, 6; padding
    wanted = _within(*np.split(x @ w + b, 3, 1), 2)
    told("PackedAttention", [x, w, b, offset, ENDS], [wanted], num_heads=2, tolerance=1e-4)
    q, k, v = F(4, 8), F(4, 8, seed=1), F(4, 8, seed=2)
    told("PackedMultiHeadAttention", [q, k, v, None, offset, ENDS], [_within(q, k, v, 2)], num_heads=2)
    one = np.stack([a.reshape(4, 2, 4) for a in (q, k, v)], 2)
    biased = _within(q + b[:8], k + b[8:16], v + b[16:], 2)
    told("PackedMultiHeadAttention", [one, None, None, b, offset, ENDS], [biased], num_heads=2)
    restored = np.zeros((8, 6), np.float32)
    restored[[0, 4, 5, 6]] = x
    told("RestorePadding", [x, offset], [restored.reshape(2, 4, 6)])


def test_a_gated_bias_of_positions() -> None:
    layer, bias, positions, w, b, a = F(2, 3, 8), F(8), F(1, 2, 3, 3), F(4, 6), F(6), F(1, 2, 1, 1)
    q = (layer + bias).reshape(2, 3, 2, 4).transpose(0, 2, 1, 3)
    gates = 1 / (1 + np.exp(-(q @ w + b).reshape(2, 2, 3, 2, 3).sum(-1)))
    wanted = (gates[..., :1] * (gates[..., 1:] * a - 1) + 2) * positions
    told("GatedRelativePositionBias", [layer, bias, positions, w, b, a], [wanted], num_heads=2)


def test_complex_numbers_in_pairs() -> None:
    x = F(2, 8)
    spectrum = np.fft.rfft(x)
    pairs = np.stack([spectrum.real, spectrum.imag], -1).astype(np.float32)
    told("Rfft", [x], [pairs], signal_ndim=1)
    told("Irfft", [pairs], [x], signal_ndim=1)
    a, b = F(3, 4, 2), F(3, 4, 2, seed=1)
    c, d = a[..., 0] + 1j * a[..., 1], b[..., 0] + 1j * b[..., 1]
    for op, product in (("ComplexMul", c * d), ("ComplexMulConj", c * d.conj())):
        told(op, [a, b], [np.stack([product.real, product.imag], -1).astype(np.float32)])


def _packed(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of 4 bits ``[n 1 16]`` of 32 numbers each, their scales, and the floats they stand for."""
    bytes_ = rng(seed).integers(0, 256, (n, 1, 16)).astype(np.uint8)
    scales = np.abs(F(n, 1, seed=seed))
    whole = np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(n, 32).astype(np.float32)
    return bytes_, scales, (whole - 8) * scales


def test_products_of_what_is_normalized_once() -> None:
    x, skip, scale = F(2, 32), F(2, 32, seed=1), F(32)
    total = x + skip
    y = total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-6) * scale
    (q, qs, qw), (k, ks, kw), (v, vs, vw) = (_packed(n, i) for i, n in enumerate((6, 4, 4)))
    more = {"K": 32, "bits": 4, "block_size": 32, "tolerance": 1e-3}
    wanted = [y @ qw.T + F(6), y @ kw.T, y @ vw.T, total]
    told("MatMulNBitsQkv", [x, skip, scale, q, qs, F(6), k, ks, None, v, vs], wanted,
         Nq=6, Nkv=4, epsilon=1e-6, outputs=(True,) * 4, **more)  # fmt: skip
    x = x / 9
    gate = x @ kw.T
    told("MatMulNBitsMlp", [x, None, None, k, ks, None, v, vs], [gate / (1 + np.exp(-gate)) * (x @ vw.T)],
         N=4, activation="silu", **more)  # fmt: skip


def test_every_operator_has_a_rule_or_a_reason() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    names = {s.name for s in get_all_operator_schema() if s.domain == MS}
    rules = {n for d, n in RULES if d == MS}
    reasons = {n for d, n in REASONS if d == MS}
    assert not rules & reasons
    assert names <= rules | reasons, sorted(names - rules - reasons)


def test_layouts_of_a_processor_are_refused() -> None:
    made = model("Conv", [F(1, 8, 5, 5), F(8, 8, 3, 3)], 17, domain="com.microsoft.nchwc")
    with pytest.raises(UnsupportedError, match="at the level extended"):
        from_onnx(made)


def test_sums_and_rows() -> None:
    x = rng().integers(-128, 128, (2, 3, 4)).astype(np.int8)
    told("ReduceSumInteger", [x], [x.sum(1, dtype=np.int32)], axes=[1], keepdims=0, kinds=[T.INT32])
    told("TorchEmbedding", [F(5, 3), i64([[1, 4]])], [F(5, 3)[[[1, 4]]]])
