"""ONNX's attention and rotary embeddings: numpy and torch against onnxruntime or onnx's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx.reference import ReferenceEvaluator

from tests.frameworks.onnx.one_node import agree, arguments, floats, model, rng


def against_reference(op: str, inputs: list[Any], opset: int, tolerance: float = 1e-5, **more: Any) -> None:
    made = model(op, inputs, opset, **more)
    args = arguments(inputs)
    wanted = ReferenceEvaluator(made).run(None, {i.name: a for i, a in zip(made.graph.input, args, strict=True)})
    agree(op, inputs, opset, expected=wanted, tolerance=tolerance, **more)


def qkv(b: int = 2, h: int = 3, kv: int = 3, q: int = 4, k: int = 6, d: int = 8, v: int = 8) -> list[Any]:
    return [floats(b, h, q, d), floats(b, kv, k, d, seed=1), floats(b, kv, k, v, seed=2)]


def mask(*shape: int) -> np.ndarray:
    return rng(sum(shape)).random(shape) < 0.7


ALL = (True,) * 4
ATTENTION: list[tuple[list[Any], int, dict[str, Any]]] = [
    (qkv(), 23, {}),
    (qkv(), 23, {"scale": 0.3}),
    (qkv(v=5), 23, {}),
    (qkv(), 23, {"is_causal": 1}),
    ([*qkv(), floats(4, 6)], 23, {}),
    ([*qkv(), mask(2, 1, 4, 6)], 23, {}),
    ([*qkv(), mask(1, 3, 4, 6)], 23, {"is_causal": 1}),
    ([*qkv(), floats(4, 6)], 23, {"softcap": 2.0}),
    (qkv(h=6, kv=2), 23, {}),
    (qkv(h=6, kv=2), 23, {"softcap": 3.0, "is_causal": 1}),
    ([floats(2, 4, 24), floats(2, 6, 24), floats(2, 6, 15)], 23, {"q_num_heads": 3, "kv_num_heads": 3}),
    ([floats(2, 4, 24), floats(2, 6, 8), floats(2, 6, 5)], 23, {"q_num_heads": 3, "kv_num_heads": 1, "is_causal": 1}),
    *(([*qkv(k=4), m, floats(2, 3, 5, 8), floats(2, 3, 5, 8, seed=7)], 23, {"is_causal": c, "outputs": (True,) * 3})
      for c in (0, 1) for m in (None, mask(4, 9))),
    # with a cap the reference gives the capped products as the raw ones
    *(([*qkv(), floats(4, 6)], 23, {"qk_matmul_output_mode": m, "softcap": 2.0 * (m > 0), "outputs": ALL})
      for m in range(4)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ATTENTION)))
def test_attention(number: int) -> None:
    inputs, opset, options = ATTENTION[number]
    against_reference("Attention", inputs, opset, **options)


@pytest.mark.parametrize("number", range(10))
def test_attention_in_onnxruntime(number: int) -> None:
    inputs, opset, options = ATTENTION[number]
    agree("Attention", inputs, opset, torch=False, **options)


LATER: list[tuple[list[Any], int, dict[str, Any]]] = [
    ([*qkv(), None, None, None, np.int64([4, 6])], 24, {}),
    ([*qkv(), None, None, None, np.int64([4, 6])], 24, {"is_causal": 1}),
    ([*qkv(), None, None, None, np.int64([2, 6])], 24, {"is_causal": 1}),
    ([*qkv(), mask(4, 5)], 24, {}),
    (qkv(k=4), 25, {"left_window_size": 1}),
    (qkv(), 25, {"left_window_size": 2, "right_window_size": 1}),
    ([*qkv(), None, None, None, np.int64([4, 6])], 25, {"left_window_size": 2, "is_causal": 1}),
]


@pytest.mark.parametrize("number", range(len(LATER)))
def test_attention_of_later_versions(number: int) -> None:
    inputs, opset, options = LATER[number]
    against_reference("Attention", inputs, opset, **options)


@pytest.mark.parametrize(
    ("x", "more"),
    [
        (floats(2, 3, 4, 8), {}),
        (floats(2, 3, 4, 8), {"interleaved": 1}),
        (floats(2, 4, 24), {"num_heads": 3}),
        (floats(2, 4, 24), {"num_heads": 3, "interleaved": 1, "rotary_embedding_dim": 6}),
        (floats(2, 3, 4, 8), {"rotary_embedding_dim": 4}),
    ],
)
@pytest.mark.parametrize("positions", [True, False])
def test_rotary(x: np.ndarray, more: dict[str, Any], positions: bool) -> None:
    half = more.get("rotary_embedding_dim", 8) // 2
    shape = (10, half) if positions else (2, 4, half)
    tables = [floats(*shape), floats(*shape, seed=3)]
    ids = [rng().integers(0, 10, (2, 4))] if positions else []
    agree("RotaryEmbedding", [x, *tables, *ids], 23, **more)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("per_key", [True, False])
def test_linear_attention(rule: str, per_key: bool) -> None:
    b, t, h, g, d, v = 2, 3, 4, 2, 3, 5
    decay = -np.abs(floats(b, t, g * d if per_key else g)) if rule.startswith("gated") else None
    beta = np.abs(floats(b, t, g if per_key else 1)) if rule.endswith("delta") else None
    state = floats(b, g, d, v) if per_key else None
    inputs = [floats(b, t, h * d), floats(b, t, g * d), floats(b, t, g * v), state, decay, beta]
    while inputs[-1] is None:
        inputs.pop()
    more = {"q_num_heads": h, "kv_num_heads": g, "update_rule": rule, "outputs": (True, True)}
    against_reference("LinearAttention", inputs, 27, **more)


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("past", [True, False])
def test_causal_convolution(activation: str, past: bool) -> None:
    inputs = [floats(2, 3, 5), floats(3, 1, 4), floats(3), floats(2, 3, 3) if past else None][: 4 if past else 3]
    against_reference("CausalConvWithState", inputs, 27, activation=activation, outputs=(True, True))


def test_half_precision() -> None:
    inputs = [a.astype(np.float16) for a in qkv()]
    agree("Attention", inputs, 23, kinds=[T.FLOAT16], tolerance=5e-3)


def test_flex_attention_with_a_graph_is_imported_by_its_body() -> None:
    import onnx
    from onnx import helper

    from tdagger.frameworks.onnx.importer import from_onnx

    inputs = qkv(k=4)
    shape = (2, 3, 4, 4)
    info = [helper.make_tensor_value_info(n, T.FLOAT, shape) for n in ("s", "t")]
    halved = helper.make_graph(
        [helper.make_node("Constant", [], ["half"], value_float=0.5), helper.make_node("Mul", ["s", "half"], ["t"])],
        "halved", info[:1], info[1:],
    )  # fmt: skip
    made = model("FlexAttention", inputs, 24, domain="ai.onnx.preview", score_mod=halved)
    wanted = from_onnx(model("FlexAttention", inputs, 24, domain="ai.onnx.preview", scale=0.5 / 8**0.5)).run(*inputs)
    assert isinstance(made, onnx.ModelProto)
    np.testing.assert_allclose(from_onnx(made).run(*inputs), wanted, 1e-5, 1e-5)
