"""More of what is easy to get wrong of TFLite; the first part is in test_facts.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.frameworks.tflite.read import opened
from tests.frameworks.tflite.cases import Given, const, ints, numbers, one, q, quantized
from tests.frameworks.tflite.runs import by_runtime, distance
from tests.frameworks.tflite.test_facts import both, here, there

F = np.float32


def test_nan_stays_in_a_reduction() -> None:
    """Runtimes drop it or not by its place."""
    for x in ([np.nan, 1, 2], [1, np.nan, 2], [1, 2, np.nan]):
        assert np.isnan(here("REDUCE_MAX", [np.array(x, F), ints([0])]))


@pytest.mark.parametrize(("op", "options"), [
    ("ADD", {}), ("MUL", {}), ("MEAN", {"keepDims": True}), ("FULLY_CONNECTED", {"keepNumDims": True}),
])  # fmt: skip
@pytest.mark.parametrize("engine", ["DEF", "NOX", "REF"])
def test_results_of_integers_are_within_a_step_of_every_runtime(op: str, options: Any, engine: str) -> None:
    """Each rounds halves in its own way."""
    rng = np.random.default_rng(0)
    x = quantized(rng, (4, 8), "i8", 0.5, 0)
    others = {
        "ADD": [quantized(rng, (4, 8), "i8", 0.5, 0)], "MUL": [quantized(rng, (4, 8), "i8", 0.5, 0)],
        "MEAN": [ints([1])],
        "FULLY_CONNECTED": [const(rng.integers(-9, 9, (3, 8)), np.int8, scale=0.5, zero=0), None],
    }[op]  # fmt: skip
    case = one(op, [x, *others], [q("i8", 1.0)], 1, engine, **options)
    (own,) = [td.from_tflite(case.model).run(*case.inputs)]
    (wanted,) = by_runtime(case.model, *case.inputs, engine=engine)
    assert distance(own, wanted) <= 1


@pytest.mark.parametrize(("op", "scale", "zero"), [("LOGISTIC", 1 / 256, -128), ("SOFTMAX", 1 / 256, -128),
                                                   ("TANH", 1 / 128, 0)])  # fmt: skip
def test_the_scales_that_kernels_of_functions_give(op: str, scale: float, zero: int) -> None:
    """With others the result is what the file's scale says; runtimes refuse these, or not."""
    x = quantized(np.random.default_rng(0), (2, 8), "i8", 0.05, 3)
    more = {"beta": 1.0} if op == "SOFTMAX" else {}
    assert distance(here(op, [x], [q("i8", scale, zero)], **more), there(op, [x], [q("i8", scale, zero)], **more)) <= 1
    own = here(op, [x], [q("i8", 0.02, 5)], **more)
    real = (x.array.astype(F) - 3) * 0.05
    sums = np.exp(real).sum(-1, keepdims=True)
    wanted = {"LOGISTIC": 1 / (1 + np.exp(-real)), "TANH": np.tanh(real), "SOFTMAX": np.exp(real) / sums}[op]
    assert np.abs((own.astype(F) - 5) * 0.02 - wanted).max() <= 0.0101


@pytest.mark.parametrize("index", [-1, 3])
def test_a_known_place_outside_of_a_table_is_refused(index: int) -> None:
    case = one("EMBEDDING_LOOKUP", [ints([index]), const(np.ones((3, 2), F))], ["f32"])
    with pytest.raises(RuntimeError):
        by_runtime(case.model, *case.inputs)
    with pytest.raises(td.UnsupportedError, match="3 entries"):
        td.from_tflite(case.model)


@pytest.mark.parametrize(("op", "inputs", "options"), [
    ("MAX_POOL_2D", [], {"strideW": 1, "strideH": 1, "filterWidth": 2, "filterHeight": 2, "padding": 1}),
    ("RESIZE_NEAREST_NEIGHBOR", [ints([4, 4])], {}),
])  # fmt: skip
def test_pools_and_resizes_of_unequal_scales(op: str, inputs: list[Any], options: Any) -> None:
    x = Given(np.array([1, 2, 3, 4], np.int8).reshape(1, 2, 2, 1), False, {"scale": 0.5, "zero": 0})
    both(op, [x, *inputs], [q("i8", 0.25, 7)], **options)


def test_how_many_filters_a_channel_has_is_counted() -> None:
    """Whatever depth_multiplier says."""
    x, w = numbers(np.random.default_rng(0), (1, 3, 3, 2)), numbers(np.random.default_rng(1), (1, 2, 2, 4))
    options = {"strideW": 1, "strideH": 1, "padding": 1}
    own = here("DEPTHWISE_CONV_2D", [x, const(w), const(np.zeros(4, F))], depthMultiplier=1, **options)
    wanted = there("DEPTHWISE_CONV_2D", [x, const(w), const(np.zeros(4, F))], depthMultiplier=2, **options)
    np.testing.assert_allclose(own, wanted, rtol=1e-5, atol=1e-6)


def test_integers_are_never_compared_in_a_file() -> None:
    """Kernels that compare i8 end the process of some runtimes: they are compared in 32 bits."""
    model = td.network(lambda x, y: td.less(x, y), {"x": td.TensorType((4,), "i8"), "y": td.TensorType((4,), "i8")})
    data = model.to_tflite()
    x, y = np.array([-5, 3, 7, 0], np.int8), np.array([1, 3, -9, 4], np.int8)
    assert by_runtime(data, x, y)[0].tolist() == (x < y).tolist()
    (graph,) = opened(data).subgraphs
    assert {n.op for n in graph.nodes} >= {"CAST", "LESS"}
