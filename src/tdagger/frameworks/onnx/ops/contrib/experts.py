"""Mixtures of experts of onnxruntime's own: a few layers of many for each token.

All experts are computed for all tokens, and those that a token hasn't chosen count 0: what a TDAG writes has no shapes
that depend on data.
"""

from __future__ import annotations

from typing import Any

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.contrib.common import contrib, refuse
from tdagger.frameworks.onnx.ops.contrib.quantized import unpacked
from tdagger.frameworks.onnx.ops.layers.windows import short
from tdagger.frameworks.onnx.ops.table import unsupported
from tdagger.op import Value
from tdagger.ops.elementwise import cast
from tdagger.ops.structure import reduce, select, slice_axis, split, transpose, ungroup, unsqueeze


@contrib("MoE")
def _moe(
    input: Value, router_probs: Value, fc1: Value, fc1_bias: Value | None, fc2: Value,
    fc2_bias: Value | None = None, fc3: Value | None = None, fc3_bias: Value | None = None, *,
    activation_alpha: float = 1.0, activation_beta: float = 0.0, activation_type: str = "relu", k: int = 1,
    normalize_routing_weights: int = 0, swiglu_fusion: int = 0, swiglu_limit: float = 0.0,
    swiglu_limit_after_activation: int = 0, use_sparse_mixer: int = 0,
) -> Value:  # fmt: skip
    refuse(use_sparse_mixer=use_sparse_mixer, swiglu_limit_after_activation=swiglu_limit_after_activation)
    gate = activation_type, short(activation_alpha), short(activation_beta), swiglu_fusion, short(swiglu_limit)
    chosen = _chosen(router_probs, None, k, bool(normalize_routing_weights))
    return _mixed(input, chosen, (fc1, fc1_bias), (fc2, fc2_bias), (fc3, fc3_bias), gate)


@contrib("QMoE")
def _qmoe(
    input: Value, router_probs: Value, fc1: Value, fc1_scales: Value | None, fc1_bias: Value | None, fc2: Value,
    fc2_scales: Value | None, fc2_bias: Value | None = None, fc3: Value | None = None,
    fc3_scales: Value | None = None, fc3_bias: Value | None = None, fc1_zero_points: Value | None = None,
    fc2_zero_points: Value | None = None, fc3_zero_points: Value | None = None, router_weights: Value | None = None,
    *more: Value, accuracy_level: int = 0, activation_alpha: float = 1.0, activation_beta: float = 0.0,
    activation_type: str = "relu", block_size: int = 0, expert_weight_bits: int = 4,
    fc1_expert_weight_bits: int = 0, fc2_expert_weight_bits: int = 0, fc3_expert_weight_bits: int = 0, k: int = 1,
    normalize_routing_weights: int = 0, quant_type: str = "int", swiglu_fusion: int = 0, swiglu_limit: float = 0.0,
    swiglu_limit_after_activation: int = 0, use_sparse_mixer: int = 0, weights_prepacked: int = 0,
) -> Value:  # fmt: skip
    """By weights of a few bits, with a scale for each row of an expert, or each block of a row."""
    del accuracy_level
    refuse(
        use_sparse_mixer=use_sparse_mixer, swiglu_limit_after_activation=swiglu_limit_after_activation,
        weights_prepacked=weights_prepacked > 0, **{f"quant_type {quant_type}": quant_type != "int"},
        **{"scales of activations": bool(more)},
    )  # fmt: skip

    def layer(w: Value | None, scales: Value | None, bias: Value | None, zeros: Value | None, bits: int) -> Any:
        if w is None:
            return None, bias
        if scales is None:
            raise unsupported("it has no scales of its weights")
        return _dequantized(w, scales, zeros, bits or expert_weight_bits, block_size), bias

    layers = (
        layer(fc1, fc1_scales, fc1_bias, fc1_zero_points, fc1_expert_weight_bits),
        layer(fc2, fc2_scales, fc2_bias, fc2_zero_points, fc2_expert_weight_bits),
        layer(fc3, fc3_scales, fc3_bias, fc3_zero_points, fc3_expert_weight_bits),
    )
    gate = activation_type, short(activation_alpha), short(activation_beta), swiglu_fusion, short(swiglu_limit)
    chosen = _chosen(router_probs, router_weights, k, bool(normalize_routing_weights))
    return _mixed(input, chosen, *layers, gate)


def _dequantized(w: Value, scales: Value, zeros: Value | None, bits: int, block: int) -> Value:
    """Weights ``[e n k]`` in f32 of those ``[e n k bits/8]``."""
    numbers = cast(unpacked(w, bits), "f32")
    blocks = scales.shape[2] if scales.rank == 3 else 1
    width = block or numbers.shape[2] // blocks
    zero: Any = float(2 ** (bits - 1))
    if zeros is not None:
        packed = zeros if zeros.rank == 3 else lib.reshape(zeros, shape=(w.shape[0], -1))
        found = cast(unpacked(packed, bits), "f32")
        zero = slice_axis(found, 2, 0, blocks) if zeros.rank == 3 else unsqueeze(found, (2,))
    scale = cast(scales if scales.rank == 3 else unsqueeze(scales, (2,)), "f32")
    parts = ungroup(numbers, 2, (blocks, width))
    less = parts - (unsqueeze(zero, (3,)) if isinstance(zero, Value) else zero)
    return lib.reshape(less * unsqueeze(scale, (3,)), shape=numbers.shape)


def _chosen(logits: Value, weights: Value | None, k: int, normalized: bool) -> Value:
    """How much each expert counts for each token, ``[t e]``: 0 but for the k with the largest probabilities."""
    logits = cast(logits, "f32")
    count = logits.shape[1]
    _, index = lib.topk(logits, k=k, axis=1, stable=True)
    taken = reduce(cast(lib.one_hot(index, classes=count), "f32"), "sum", (1,), keep=False)
    counted = (lib.softmax(logits, axis=1) if weights is None else cast(weights, "f32")) * taken
    return counted / reduce(counted, "sum", (1,), keep=True) if normalized else counted


def _mixed(
    x: Value, chosen: Value, first: tuple[Value, Value | None], second: tuple[Value, Value | None],
    third: tuple[Value | None, Value | None], gate: tuple[str, float, float, int, float],
) -> Value:  # fmt: skip
    """Each token through its experts, ``[.. d]``: two layers, with a gate from a third one or from the first."""
    tokens = cast(lib.reshape(x, shape=(-1, x.shape[-1])), "f32")
    hidden = _activated(_layer(tokens, *first), None if third[0] is None else _layer(tokens, *third), gate)
    out = _layer(hidden, *second)
    mixed = reduce(out * unsqueeze(transpose(chosen, 0, 1), (2,)), "sum", (0,), keep=False)
    return cast(lib.reshape(mixed, shape=x.shape), x.dtype)


def _layer(x: Value, weight: Any, bias: Value | None) -> Value:
    """``[t k]`` or ``[e t k]`` by weights ``[e n k]``, as ``[e t n]``."""
    y = lib.matmul(x, transpose(cast(weight, "f32"), 1, 2))
    return y if bias is None else y + unsqueeze(cast(bias, "f32"), (1,))


def _activated(x: Value, up: Value | None, gate: tuple[str, float, float, int, float]) -> Value:
    kind, alpha, beta, fusion, limit = gate
    if kind == "swiglu":
        if fusion == 1:  # one by one
            pairs = ungroup(x, 2, (x.shape[2] // 2, 2))
            x, up = (select(pairs, 3, i) for i in range(2))
        elif fusion == 2:
            x, up = split(x, [x.shape[2] // 2] * 2, 2)
        if up is None:
            raise unsupported("its gate has nothing to let through")
        if limit:
            x, up = lib.clamp(x, high=limit), lib.clamp(up, low=-limit, high=limit)
        return x * lib.sigmoid(x * alpha) * (up + beta)
    plain = {
        "relu": lib.relu,
        "gelu": lambda v: lib.gelu(v, approximate="tanh"),
        "silu": lib.silu,
        "identity": lambda v: v,
    }
    if kind not in plain:
        raise unsupported(f"its activation_type {kind} is none of {', '.join(plain)}, swiglu")
    found = plain[kind](x)
    return found if up is None else found * up
