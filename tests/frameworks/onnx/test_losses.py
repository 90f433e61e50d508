"""ONNX's losses and optimizers: numpy and torch against onnxruntime or onnx's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from tests.frameworks.onnx.one_node import agree, floats, model, rng

SHAPES = [(4, 3), (2, 3, 5), (2, 3, 2, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("ignored", [None, 1, -100])
def test_losses(shape: tuple[int, ...], reduction: str, weighted: bool, ignored: int | None) -> None:
    x, labels = floats(*shape), rng().integers(0, shape[1], (shape[0], *shape[2:]))
    if ignored is not None:
        labels.reshape(-1)[0] = ignored
    inputs = [x, labels, *([np.abs(floats(3))] if weighted else [])]
    more: dict[str, Any] = {"reduction": reduction} | ({} if ignored is None else {"ignore_index": ignored})
    torch = len(shape) == 2
    agree("NegativeLogLikelihoodLoss", inputs, 13, torch=torch, **more)
    agree("SoftmaxCrossEntropyLoss", inputs, 13, torch=torch, outputs=(True, True), **more)


OPTIMIZERS: list[tuple[str, int, dict[str, Any]]] = [
    ("Adagrad", 3, {"norm_coefficient": 0.1, "epsilon": 1e-3, "decay_factor": 0.2}),
    ("Momentum", 3, {"norm_coefficient": 0.1, "alpha": 0.9, "beta": 0.3, "mode": "standard"}),
    ("Momentum", 3, {"norm_coefficient": 0.1, "alpha": 0.9, "beta": 0.3, "mode": "nesterov"}),
    ("Adam", 4, {"norm_coefficient": 0.1, "alpha": 0.9, "beta": 0.8, "epsilon": 1e-2, "norm_coefficient_post": 0.1}),
]


@pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda c: f"{c[0]}-{c[2].get('mode', '')}")
@pytest.mark.parametrize("count", [0, 3])
def test_optimizers(case: tuple[str, int, dict[str, Any]], count: int) -> None:
    op, kinds, attributes = case
    tensors = [np.abs(floats(n, seed=k)) if k > 1 else floats(n, seed=k) for k in range(kinds) for n in (2, 3)]
    inputs: list[Any] = [np.float32(0.1), np.int64(count), *tensors]
    more = {**attributes, "domain": "ai.onnx.preview.training", "outputs": (True,) * 2 * (kinds - 1)}
    made = model(op, inputs, 17, **more)
    wanted = ReferenceEvaluator(made).run(None, {f"x{i}": np.asarray(a) for i, a in enumerate(inputs)})
    agree(op, inputs, 17, expected=wanted, **more)
