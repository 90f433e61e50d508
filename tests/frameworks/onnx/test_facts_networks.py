"""What is easy to get wrong of ONNX's layers: each a small case with its numbers written out.

Not here: what is of elementwise, structural and reducing operators (test_facts.py), of exporters and of tools.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T

from tdagger.frameworks.onnx.importer import from_onnx
from tests.frameworks.onnx.one_node import agree, arguments, floats, model, ours, theirs

INF = np.float32(np.inf)


def run(op: str, inputs: list[Any], opset: int, **more: Any) -> list[np.ndarray]:
    return ours(model(op, inputs, opset, **more), arguments(inputs, more.get("held", ())))


# --- attention ---------------------------------------------------------------------------------------------


def uniform(q: int, k: int, heads: int = 1) -> list[Any]:
    """Queries that like all keys alike, of values 0, 1, 2 ...: the mean of what is seen comes out."""
    values = np.arange(k, dtype=np.float32).reshape(1, 1, k, 1) + 10 * np.arange(heads).reshape(1, heads, 1, 1)
    return [np.zeros((1, heads, q, 4), np.float32), np.ones((1, heads, k, 4), np.float32), values.astype(np.float32)]


def test_causal_with_a_past_is_aligned_to_the_end() -> None:
    q, k, v = uniform(2, 2)
    past = [np.ones((1, 1, 2, 4), np.float32), np.float32([10, 20]).reshape(1, 1, 2, 1)]
    out, *_ = run("Attention", [q, k, v, None, *past], 23, is_causal=1, outputs=(True, True, True))
    np.testing.assert_allclose(out.reshape(-1), [(10 + 20 + 0) / 3, (10 + 20 + 0 + 1) / 4])


@pytest.mark.parametrize("mask", [np.bool_([[False] * 3, [True] * 3]), np.float32([[-np.inf] * 3, [0] * 3])])
def test_a_query_that_sees_nothing_gives_0(mask: np.ndarray) -> None:
    agree("Attention", [*uniform(2, 3), mask], 23, expected=[np.float32([0, 1]).reshape(1, 1, 2, 1)])


def test_the_cap_comes_before_the_mask() -> None:
    """A key that is masked stays so: minus infinity isn't capped."""
    q, k, v = uniform(1, 2)
    out, *_ = run("Attention", [q, k, v, np.float32([[-np.inf, 0]])], 23, softcap=2.0)
    np.testing.assert_allclose(out.reshape(-1), [1])


def test_grouped_heads_repeat_neighbours() -> None:
    q, _, _ = uniform(1, 1, 4)
    _, k, v = uniform(1, 1, 2)
    (out,) = run("Attention", [q, k, v + 5], 23)
    np.testing.assert_allclose(out.reshape(-1), [5, 5, 15, 15])


def test_keys_that_are_padding_move_what_is_causal() -> None:
    q, k, v = uniform(2, 4)
    (out,) = run("Attention", [q, k, v, None, None, None, np.int64([3])], 24, is_causal=1)
    np.testing.assert_allclose(out.reshape(-1), [(0 + 1) / 2, (0 + 1 + 2) / 3])


# --- resampling --------------------------------------------------------------------------------------------

LINE = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
PLANE = np.broadcast_to(LINE[:, :, None], (1, 1, 2, 5)).copy()
NONE: Any = np.zeros(0, np.float32)


def test_a_given_scale_is_used_as_it_is() -> None:
    """4 entries by 0.6 are 2: their places are 1 / 0.6 apart, not 2."""
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    (out,) = run("Resize", [x, NONE, np.float32([1, 1, 0.6])], 13, held=(1, 2), mode="linear")
    np.testing.assert_allclose(out.reshape(-1), [0.5 / 0.6 - 0.5, 1.5 / 0.6 - 0.5], 1e-5)


@pytest.mark.parametrize(("exclude", "wanted"), [(0, [0.375, 2, 3.625]), (1, [3 / 7, 2, 25 / 7])])
def test_antialias_repeats_the_edge_unless_told(exclude: int, wanted: list[float]) -> None:
    sizes = np.int64([1, 1, 2, 3])
    agree(
        "Resize", [PLANE, NONE, NONE, sizes], 18, held=(1, 2, 3), mode="linear", antialias=1,
        exclude_outside=exclude, expected=[np.broadcast_to(np.float32(wanted), (1, 1, 2, 3))],
    )  # fmt: skip


def test_corners_are_aligned_by_a_scale_that_is_no_whole_size() -> None:
    """4 entries by 0.6 are 2.4: the second is at 1 * 3 / 1.4, as in onnx's own tests; onnxruntime has 3."""
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    options: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    (out,) = run("Resize", [x, NONE, np.float32([1, 1, 0.6])], 13, held=(1, 2), **options)
    np.testing.assert_allclose(out.reshape(-1), [0, 3 / 1.4], 1e-5)


@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_old_resizing_counts_from_the_first_entry(op: str, opset: int) -> None:
    """By their own rules: onnx's version converter loses that they are asymmetric."""
    (out,) = run(op, [LINE[:, :, :2], np.float32([1, 1, 2])], opset, held=(1,), mode="linear")
    np.testing.assert_allclose(out.reshape(-1), [0, 0.5, 1, 1])


def test_only_images_of_twice_the_size_are_copied_without_their_scale() -> None:
    """3 entries by 2.3 are 6, at places 0, 0.4, 0.9, 1.3, 1.7, 2.2: torch would copy 0, 0, 0, 1, 1, 2."""
    x = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
    options: dict[str, Any] = {"held": (1, 2), "coordinate_transformation_mode": "asymmetric"}
    agree("Resize", [x, NONE, np.float32([1, 1, 2.3])], 13, **options)


def test_a_size_that_one_scale_of_all_axes_is_rounded_up_to() -> None:
    """4, 2 and 6 entries by 1/4: 1, 1 and 2, though 6 / 4 is less."""
    x = np.arange(48, dtype=np.float32).reshape(1, 1, 4, 2, 6)
    options: dict[str, Any] = {
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "ceil",
        "axes": [2, 3, 4],
    }
    sizes = np.int64([1, 1, 4])
    agree("Resize", [x, NONE, NONE, sizes], 18, held=(1, 2, 3), keep_aspect_ratio_policy="not_larger", **options)


def test_the_nearest_entry_is_rounded_before_it_is_reflected() -> None:
    """Place 4.5 of 0..3 is 4, reflected 3; torch would reflect first, to 2.5, and round that to 2."""
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    at = np.float32([[[[(2 * 4.5 + 1) / 4 - 1, (2 * 2 + 1) / 4 - 1]]]])
    agree("GridSample", [x, at], 16, mode="nearest", padding_mode="reflection", expected=[np.float32([[[[11]]]])])


# --- convolutions and pools --------------------------------------------------------------------------------


def test_same_padding_of_a_dilated_convolution() -> None:
    """onnxruntime refuses it."""
    x, w = LINE, np.ones((1, 1, 2), np.float32)
    for auto_pad, wanted in (("SAME_UPPER", [2, 3, 5, 2, 3]), ("SAME_LOWER", [1, 2, 3, 5, 2])):
        expected = np.float32(wanted).reshape(1, 1, 5)
        agree("Conv", [x, w], 11, auto_pad=auto_pad, dilations=[3], expected=[expected])


def test_same_padding_is_never_negative() -> None:
    """Windows of 1 entry with a stride of 3 begin at the first, as in TensorFlow; onnxruntime's begin at the second."""
    x = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
    for op in ("AveragePool", "LpPool", "MaxPool"):
        agree(op, [x], 12, kernel_shape=[1], strides=[3], auto_pad="SAME_UPPER", expected=[np.float32([[[0]]])])


def test_same_padding_of_a_transposed_convolution_gives_size_times_stride() -> None:
    """In onnxruntime what the windows reach: 5."""
    x, w = np.ones((1, 1, 2), np.float32), np.float32([[[1, 2]]])
    agree(
        "ConvTranspose", [x, w], 11, strides=[3], auto_pad="SAME_UPPER", expected=[np.float32([[[1, 2, 0, 1, 2, 0]]])]
    )


def test_the_odd_entry_of_an_output_shape_is_cut_off_at_the_start() -> None:
    x, w = np.ones((1, 1, 2), np.float32), np.float32([[[1, 2, 4]]])
    agree("ConvTranspose", [x, w], 11, output_shape=[3], expected=[np.float32([[[3, 6, 4]]])])


@pytest.mark.parametrize("dims", [1, 2])
def test_a_dilated_pool_padded_by_more_than_half_its_kernel(dims: int) -> None:
    """Its window has 5 entries: torch would refuse 2 of padding beside a kernel of 3."""
    x = np.arange(7**dims, dtype=np.float32).reshape(1, 1, *[7] * dims)
    agree("MaxPool", [x], 12, kernel_shape=[3] * dims, dilations=[2] * dims, pads=[2] * 2 * dims)


@pytest.mark.parametrize("pads", [[0, 0], [1, 1]])
def test_what_a_transposed_convolution_adds_may_be_as_much_as_its_stride(pads: list[int]) -> None:
    """Less than its dilation, as torch allows; onnxruntime doesn't."""
    x, w = LINE, np.float32([[[1, 2, 4]]])
    made = model("ConvTranspose", [x, w], 11, held=(1,), dilations=[2], output_padding=[1], pads=pads)
    (out,) = ours(made, [x])
    assert out.shape == (1, 1, 10 - 2 * pads[0])
    np.testing.assert_allclose(theirs(from_onnx(made).to_onnx(), [x])[0], out, 1e-6)


def test_integers_are_padded_with_their_zero_point() -> None:
    x, w = np.uint8([[[9, 8]]]), np.uint8([[[1, 1, 1]]])
    agree("ConvInteger", [x, w, np.uint8(7)], 10, pads=[1, 1], kinds=[T.INT32], expected=[np.int32([[[3, 3]]])])


def test_a_window_that_would_start_in_the_padding_at_the_end_is_left_out() -> None:
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    options: dict[str, Any] = {"kernel_shape": [2], "strides": [2], "pads": [0, 1], "ceil_mode": 1}
    agree("MaxPool", [x], 12, expected=[np.float32([[[1, 3]]])], **options)


def test_places_of_a_max_pool_count_over_the_batch_and_the_channels() -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    _, place = run("MaxPool", [x], 12, kernel_shape=[2], strides=[2], outputs=(True, True), kinds=[T.FLOAT, T.INT64])
    assert place.reshape(-1).tolist() == [1, 3, 5, 7]


def test_what_hangs_over_the_padding_is_never_counted() -> None:
    """The last window is of one entry, one of the padding, and one beyond it."""
    x = np.float32([[[2, 4, 6]]])
    options: dict[str, Any] = {"kernel_shape": [3], "strides": [2], "pads": [1, 1], "ceil_mode": 1}
    agree("AveragePool", [x], 19, count_include_pad=1, expected=[np.float32([[[2, 10 / 3]]])], **options)
    x = np.float32([[[2, 4, 6, 8]]])
    agree("AveragePool", [x], 19, count_include_pad=1, expected=[np.float32([[[2, 6, 4]]])], **options)


def test_a_pool_keeps_nan() -> None:
    """As torch does, and as no other operator here loses one; onnx leaves it open, and onnxruntime drops it."""
    x = np.float32([[[1, np.nan, 3, 4]]])
    (out,) = run("MaxPool", [x], 12, kernel_shape=[2], strides=[2])
    np.testing.assert_array_equal(out, np.float32([[[np.nan, 4]]]))


# --- norms -------------------------------------------------------------------------------------------------


def test_the_odd_neighbour_of_an_even_response_norm_is_the_next() -> None:
    x = np.float32([1, 2, 4]).reshape(1, 3, 1, 1)
    squares = np.float32([1 + 4, 4 + 16, 16])
    wanted = x / (1 + 0.5 / 2 * squares.reshape(x.shape)) ** 0.75
    agree("LRN", [x], 13, size=2, alpha=0.5, expected=[wanted])


@pytest.mark.parametrize(("op", "opset"), [("LayerNormalization", 17), ("RMSNormalization", 23)])
def test_statistics_of_half_precision_are_made_in_f32(op: str, opset: int) -> None:
    """The squares overflow in half precision."""
    x, scale = np.float16([[-1000, 1000]]), np.ones(2, np.float16)
    agree(op, [x, scale], opset, kinds=[T.FLOAT16], expected=[np.float16([[-1, 1]])], tolerance=1e-3)


def test_training_moves_the_variance_to_that_of_all() -> None:
    x = np.float32([[1], [3]])
    ones, zeros = np.ones(1, np.float32), np.zeros(1, np.float32)
    outputs: dict[str, Any] = {"outputs": (True, True, True), "training_mode": 1, "momentum": 0.5}
    _, mean, variance = run("BatchNormalization", [x, ones, zeros, zeros, zeros], 15, **outputs)
    assert (mean.item(), variance.item()) == (1.0, 0.5)  # of n - 1 it would be 1


def test_the_weights_of_groups_are_those_of_their_channels() -> None:
    """GroupNormalization 18 has one for each group; what onnx's version converter makes of it can't be loaded."""
    x = floats(1, 4, 3)
    old = run("GroupNormalization", [x, np.float32([1, 2]), np.float32([3, 4])], 18, num_groups=2)
    new = run("GroupNormalization", [x, np.float32([1, 1, 2, 2]), np.float32([3, 3, 4, 4])], 21, num_groups=2)
    np.testing.assert_array_equal(old[0], new[0])


def test_reversed_sequences_start_at_their_own_end() -> None:
    """A state that adds up what came: of a sequence of 2 in reverse first entry 1, then 0, and nothing of entry 2."""
    x = np.float32([[[1]], [[2]], [[4]]])
    one = np.ones((1, 1, 1), np.float32)
    out, last = run(
        "RNN", [x, one, one, None, np.int32([2])], 14, hidden_size=1, direction="reverse", activations=["Affine"],
        outputs=(True, True),
    )  # fmt: skip
    assert (out.reshape(-1).tolist(), last.item()) == ([3, 2, 0], 3)


# --- quantization ------------------------------------------------------------------------------------------


def test_a_last_block_may_be_short() -> None:
    x, scale = np.float32([[1, 2, 3]]), np.float32([[1, 3]])
    agree("QuantizeLinear", [x, scale], 21, axis=1, block_size=2, kinds=[T.UINT8], expected=[np.uint8([[1, 2, 1]])])


def test_halves_are_rounded_before_the_zero_point_is_added() -> None:
    """1.5 rounds to 2, plus 1 is 3; the other way round 2.5 would give 2."""
    a, one = np.uint8([[3]]), np.float32(1)
    zero, b = np.uint8(0), np.uint8([[1]])
    inputs = [a, np.float32(0.5), zero, b, one, zero, one, np.uint8(1)]
    agree("QLinearMatMul", inputs, 10, kinds=[T.UINT8], expected=[np.uint8([[3]])])


def test_zeros_are_quantized_by_a_scale_of_1() -> None:
    """As in onnxruntime: by the formula it is 0, by which nothing can be divided; onnx's reference has 1 / 255."""
    y, scale, zero = run(
        "DynamicQuantizeLinear", [np.zeros(3, np.float32)], 11, outputs=(True,) * 3, kinds=[T.UINT8, T.FLOAT, T.UINT8]
    )
    assert (y.tolist(), scale.item(), zero.item()) == ([0, 0, 0], 1.0, 0)
