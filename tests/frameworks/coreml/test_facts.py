"""What is easy to get wrong of MIL, measured with coremltools or said by its documentation."""

from __future__ import annotations

import numpy as np
import pytest

import tdagger as td
from tests.frameworks.coreml.programs import one, program, run

F = "float32"


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_slice_by_index_backwards_leaves_out_what_is_counted_from_the_end() -> None:
    x = np.arange(5, dtype=np.float32)
    got = run("slice_by_index", x, (F, (4,)), begin=[4], end=[-6], stride=[-1])
    assert got.tolist() == [4, 3, 2, 1]
    masked = run("slice_by_index", x, (F, (5,)), begin=[4], end=[-6], stride=[-1], end_mask=np.array([True]))
    assert masked.tolist() == [4, 3, 2, 1, 0]
    assert run("slice_by_index", x[:1], (F, (1,)), begin=[-1], end=[-2], stride=[-1]).tolist() == [0]
    assert run("slice_by_index", x[:1], (F, (0,)), begin=[-1], end=[-1], stride=[-1]).tolist() == []


def test_a_zero_of_reshape_copies_from_the_left_and_since_ios17_from_the_right() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    assert run("reshape", x, (F, (2, 12, 1)), shape=[0, 12, 1]).shape == (2, 12, 1)
    assert run("reshape", x, (F, (6, 4)), 17, shape=[6, 0]).shape == (6, 4)
    assert run("reshape", x[0], (F, (1, 1, 3, 4)), 17, shape=[1, 0, -1, 0]).shape == (1, 1, 3, 4)  # of no size: 1
    with pytest.raises(td.UnsupportedError, match="before iOS17"):
        one("reshape", x, (F, (6, 4)), 15, shape=[6, 0])


def test_inverse_and_log_have_epsilons_of_their_own() -> None:
    assert run("inverse", f32(1e-3), (F, (1,))).tolist() == pytest.approx([1 / (1e-3 + 1e-4)])
    assert run("inverse", f32(1e-3), (F, (1,)), epsilon=np.float32(0)).tolist() == pytest.approx([1000])
    assert run("log", f32(0), (F, (1,)))[0] == pytest.approx(-103.28, abs=0.01)
    assert run("rsqrt", f32(0), (F, (1,)))[0] == pytest.approx(1e6)


def test_elements_are_of_one_type() -> None:
    types = {"x": (F, (2,)), "y": ("int32", (2,))}
    model = program(types, [("add", {"x": "=x", "y": "=y"}, [("z", F, (2,))])], ["z"])
    with pytest.raises(td.UnsupportedError, match="add"):
        td.from_coreml(model)


def test_averages_leave_padding_out_when_they_are_told_to() -> None:
    x = np.ones((1, 1, 2), np.float32)
    how = {"kernel_sizes": [2], "strides": [1], "pad_type": "custom", "pad": [1, 1]}
    assert run("avg_pool", x, (F, (1, 1, 3)), **how).ravel().tolist() == [0.5, 1, 0.5]
    out = run("avg_pool", x, (F, (1, 1, 3)), **how, exclude_padding_from_average=np.bool_(True))
    assert out.ravel().tolist() == [1, 1, 1]


def test_same_pads_the_odd_entry_after_and_same_lower_before() -> None:
    x = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 5)
    how = {"kernel_sizes": [2], "strides": [2]}
    assert run("max_pool", x, (F, (1, 1, 3)), **how, pad_type="same").ravel().tolist() == [2, 4, 5]
    assert run("max_pool", x, (F, (1, 1, 3)), 16, **how, pad_type="same_lower").ravel().tolist() == [1, 3, 5]


def test_upsampling_goes_by_sizes_not_by_factors() -> None:
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
    how = {"scale_factor_height": np.float32(1), "scale_factor_width": np.float32(1.750025)}
    got = run("upsample_bilinear", x, (F, (1, 1, 1, 7)), **how, align_corners=np.bool_(False)).ravel()
    spacing = (np.arange(7) + 0.5) * 4 / 7 - 0.5
    assert got == pytest.approx(np.clip(spacing, 0, 3), abs=1e-6)


def test_nearest_entries_of_resize_are_at_the_middle_of_new_ones() -> None:
    x = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 1, 5)
    how = {"resized_dims": np.int32(2), "interpolation_mode": "NEAREST_NEIGHBOR"}
    for n in (2, 3, 8, 10):
        got = run("resize", x, (F, (1, 1, 1, n)), 17, shape=np.array([1, 1, 1, n], np.int32), **how)
        assert got.ravel().tolist() == [1 + (2 * i + 1) * 5 // (2 * n) for i in range(n)]


def test_neighbours_of_local_response_norm_are_along_the_third_axis_from_the_end() -> None:
    """Numbers of coremltools' own test, whose input has one entry there: of three axes the first, not the second."""
    x = np.array([[[1, -7], [5, -6], [-3, -5]]], np.float32)
    got = run("local_response_norm", x, (F, (1, 3, 2)), size=3)
    assert got[0] == pytest.approx(np.array(
        [[0.99997497, -6.99143696], [4.99687672, -5.99460602], [-2.99932504, -4.99687672]]), abs=1e-6)  # fmt: skip


def test_concat_interleaved_of_constants() -> None:
    model = program({"x": (F, (2,))}, [
        ("concat", {"values": ["=x", "=x"], "axis": np.int32(0), "interleave": np.bool_(True)}, [("y", F, (4,))]),
    ], ["y"])  # fmt: skip
    assert td.from_coreml(model).run(f32(1, 2)).tolist() == [1, 1, 2, 2]


def test_gates_of_lstm_are_input_forget_output_cell() -> None:
    """torch has the cell's third; there is one bias; in reverse the outputs are in the order of the steps."""
    torch = pytest.importorskip("torch")
    x, h, c = (torch.randn(*s) for s in ((3, 2, 4), (2, 5), (2, 5)))
    layer = torch.nn.LSTM(4, 5)
    wanted, (last, cell) = layer(x, (h[None], c[None]))

    def mil(weight: object) -> np.ndarray:
        i, f, g, o = np.split(weight.detach().numpy(), 4)  # type: ignore[attr-defined]
        return np.concatenate([i, f, o, g])

    weights = {
        "weight_ih": mil(layer.weight_ih_l0), "weight_hh": mil(layer.weight_hh_l0),
        "bias": mil(layer.bias_ih_l0) + mil(layer.bias_hh_l0),
    }  # fmt: skip
    for whole, direction in ((True, "forward"), (False, "forward"), (True, "reverse")):
        ops = [("lstm", {"x": "=x", "initial_h": "=h", "initial_c": "=c", **weights, "direction": direction,
                         "output_sequence": np.bool_(whole)},
                [("y", F, (3 if whole else 1, 2, 5)), ("yh", F, (2, 5)), ("yc", F, (2, 5))])]  # fmt: skip
        given = {"x": (F, (3, 2, 4)), "h": (F, (2, 5)), "c": (F, (2, 5))}
        dag = td.from_coreml(program(given, ops, ["y", "yh", "yc"]))
        entries = x.flip(0) if direction == "reverse" else x
        out, out_h, out_c = dag.run(entries.numpy(), h.numpy(), c.numpy())
        expected = wanted.detach().numpy() if whole else last.detach().numpy()
        assert np.abs(out - expected).max() < 1e-5
        assert np.abs(out_h - last[0].detach().numpy()).max() < 1e-5
        assert np.abs(out_c - cell[0].detach().numpy()).max() < 1e-5
        assert any(v.op.name == "lstm" for v in dag.values)


def test_gru_resets_before_or_after_its_weights() -> None:
    """Before is what MIL has; after (iOS18) is torch's."""
    torch = pytest.importorskip("torch")
    x, h = torch.randn(2, 1, 3), torch.randn(1, 4)
    layer = torch.nn.GRU(3, 4)

    def mil(weight: object) -> np.ndarray:
        r, z, n = np.split(weight.detach().numpy(), 3)  # type: ignore[attr-defined]
        return np.concatenate([r, n, z])

    given = {
        "weight_ih": mil(layer.weight_ih_l0), "weight_hh": mil(layer.weight_hh_l0), "bias": mil(layer.bias_hh_l0),
        "input_bias": mil(layer.bias_ih_l0), "reset_after": np.bool_(True), "output_sequence": np.bool_(True),
    }  # fmt: skip
    results = [("y", F, (2, 1, 4)), ("yh", F, (1, 4))]
    ops = [("gru", {"x": "=x", "initial_h": "=h", **given}, results)]
    model = program({"x": (F, (2, 1, 3)), "h": (F, (1, 4))}, ops, ["y"], 18)
    out = td.from_coreml(model).run(x.numpy(), h.numpy())
    assert np.abs(out - layer(x, h[None])[0].detach().numpy()).max() < 1e-5


def test_gelu_scatter_and_topk() -> None:
    x = f32(-1, 0.5, 2)
    sigmoid = run("gelu", x, (F, (3,)), mode="SIGMOID_APPROXIMATION")
    assert sigmoid == pytest.approx(x / (1 + np.exp(-1.702 * x)), rel=1e-6)
    ops = [("scatter", {"data": "=x", "indices": [0, 0], "updates": f32(1, 2), "mode": "sub"}, [("y", F, (3,))])]
    assert td.from_coreml(program({"x": (F, (3,))}, ops, ["y"])).run(x).tolist() == [-4, 0.5, 2]
    ops = [("topk", {"x": "=x", "k": np.int32(2)}, [("v", F, (2,)), ("i", "int32", (2,))])]
    values, places = td.from_coreml(program({"x": (F, (3,))}, ops, ["v", "i"])).run(x)
    assert (values.tolist(), places.tolist(), places.dtype) == ([2, 0.5], [2, 1], np.int32)


def test_l2_norm_is_over_the_last_three_axes_and_layer_norm_over_any() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    root = np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 1e-6)
    assert run("l2_norm", x, (F, x.shape)) == pytest.approx(x / root, rel=1e-5)
    gamma = np.arange(3, dtype=np.float32)
    got = run("layer_norm", x, (F, x.shape), axes=[1], gamma=gamma)
    left = x - x.mean(1, keepdims=True)
    norm = left / np.sqrt((left**2).mean(1, keepdims=True) + 1e-5)
    assert got == pytest.approx(norm * gamma.reshape(1, 3, 1, 1), abs=1e-5)


def test_layer_norm_of_f16_rounds_once_along_any_axes() -> None:
    rng = np.random.default_rng(0)
    x, gamma, beta = (rng.normal(size=n).astype(np.float16) * 60 for n in ((4, 6, 5), (4, 5), (4, 5)))
    how = {"gamma": gamma, "beta": beta, "axes": np.array([0, 2], np.int32), "epsilon": np.float16(0.01)}
    got = run("layer_norm", x, ("float16", (4, 6, 5)), 17, **how)
    wide, eps = x.astype(np.float64), float(np.float16(0.01))
    mean, square = (np.mean(a, (0, 2), keepdims=True) for a in (wide, wide * wide))
    want = (wide - mean) / np.sqrt(square - mean * mean + eps) * gamma[:, None] + beta[:, None]
    assert np.all(np.abs(got - want) <= np.abs(want) * 2.0**-11 + 1e-4)


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    ops = [("quantize", {"input": "=x", "scale": np.float32(1), "output_dtype": "int8"}, [("y", "int8", (4,))]),
           ("dequantize", {"input": "=y", "scale": np.float32(2)}, [("z", F, (4,))])]  # fmt: skip
    model = program({"x": (F, (4,))}, ops, ["y", "z"], 17)
    y, z = td.from_coreml(model).run(f32(0.5, 1.5, 2.5, 1000))
    assert (y.tolist(), z.tolist()) == ([0, 2, 2, 127], [0, 4, 4, 254])


def test_random_numbers_are_of_the_declared_type() -> None:
    ops = [
        ("random_normal", {"shape": [2], "mean": np.float16(0), "stddev": np.float16(1)}, [("r", "float16", (2,))]),
        ("random_bernoulli", {"shape": [3]}, [("y", F, (3,))]),
    ]
    dag = td.from_coreml(program({"x": (F, (2,))}, ops, ["r", "y"]))
    assert [str(v.type) for v in dag.graph.outputs.values()] == ["f16[2]", "f32[3]"]
    first, second = (dag.run(np.zeros(2, np.float32), seed=np.uint64(n))[0].tolist() for n in (1, 2))
    assert first != second


@pytest.mark.parametrize(
    ("op", "given"),
    [
        ("prelu", {"alpha": 4}), ("softplus_parametric", {"alpha": 4, "beta": 4}), ("elu", {"alpha": 0}),
        ("layer_norm", {"gamma": 4, "beta": 4}), ("batch_norm", {"mean": 4, "variance": 4, "gamma": 4, "beta": 4}),
        ("instance_norm", {"gamma": 4, "beta": 4}), ("scaled_tanh", {"alpha": 0, "beta": 0}),
    ],
)  # fmt: skip
def test_numbers_of_f16_beside_f32(op: str, given: dict[str, int]) -> None:
    """Since iOS17 what goes with x may be of another element type than x, whose type the result has."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1, 4, 3, 4)).astype(np.float32)
    numbers = {n: np.abs(draw.normal(size=(k,) if k else ())).astype(np.float16) for n, k in given.items()}
    more = {"axes": [3]} if op == "layer_norm" else {}
    own = run(op, x, (F, x.shape), 17, **numbers, **more)
    wide = run(op, x, (F, x.shape), 17, **{n: v.astype(np.float32) for n, v in numbers.items()}, **more)
    assert own.dtype == np.float32
    np.testing.assert_array_equal(own, wide)
    half = x.astype(np.float16)
    narrow = run(op, half, ("float16", x.shape), 17, **{n: v.astype(np.float32) for n, v in numbers.items()}, **more)
    np.testing.assert_allclose(narrow, wide, rtol=4e-3, atol=4e-3)
