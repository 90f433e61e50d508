"""Measured behaviour of the runtimes that is easy to get wrong: what is so there, and here.

DEF is the runtime as it is by default (XNNPACK), NOX without delegates, REF its reference kernels.
"""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as s

import tdagger as td
from tests.frameworks.tflite.build import KINDS, Build
from tests.frameworks.tflite.cases import CASES, Given, basic_lstm_u8, const, ints, lstm_i8, one, q, quantized, stateful
from tests.frameworks.tflite.runs import by_numpy, by_runtime, distance, interpreter, invoked

F = np.float32


def here(op: str, inputs: list[Any], out: Any = ("f32",), **options: Any) -> np.ndarray:
    """The first result as it is imported."""
    case = one(op, inputs, list(out), **options)
    return by_numpy(case.model, *case.inputs)[0]


def there(op: str, inputs: list[Any], out: Any = ("f32",), engine: str = "NOX", **options: Any) -> np.ndarray:
    case = one(op, inputs, list(out), **options)
    return by_runtime(case.model, *case.inputs, engine=engine)[0]


def both(op: str, inputs: list[Any], out: Any = ("f32",), engine: str = "NOX", **options: Any) -> np.ndarray:
    """What both give, which is the same."""
    own, wanted = here(op, inputs, out, **options), there(op, inputs, out, engine, **options)
    np.testing.assert_array_equal(own, wanted)
    return own


def refused(what: str, op: str, inputs: list[Any], out: Any = ("f32",), **options: Any) -> None:
    case = one(op, inputs, list(out), **options)
    with pytest.raises(td.UnsupportedError, match=what):
        td.from_tflite(case.model)


def a(*numbers: float, shape: Any = None) -> np.ndarray:
    return np.array(numbers, F).reshape(shape or (len(numbers),))


@pytest.mark.parametrize(("number", "name"), [(4, "TANH"), (5, "SIGN_BIT")])
def test_a_fused_activation_that_runtimes_leave_out_is_refused(number: int, name: str) -> None:
    x = a(-2, 0.5, 3)
    for engine in ("DEF", "NOX", "REF"):
        np.testing.assert_array_equal(there("ADD", [x, x], engine=engine, fusedActivationFunction=number), x + x)
    refused(f"fused activation is {name}", "ADD", [x, x], fusedActivationFunction=number)


def test_fully_connected_flattens() -> None:
    x = np.arange(6, dtype=F).reshape(2, 3)
    assert both("FULLY_CONNECTED", [x, const(np.ones((4, 6), F)), None]).shape == (1, 4)
    x = np.arange(24, dtype=F).reshape(2, 3, 4)
    assert both("FULLY_CONNECTED", [x, const(np.ones((5, 4), F)), None]).shape == (6, 5)


def test_a_filter_of_fewer_channels_has_groups() -> None:
    x, w = np.arange(36, dtype=F).reshape(1, 3, 3, 4), np.ones((2, 1, 1, 2), F)
    options = {"strideW": 1, "strideH": 1, "padding": 1}
    own = both("CONV_2D", [x, const(w), const(a(0, 0))], **options)
    np.testing.assert_array_equal(own[0, 0, 0], [x[0, 0, 0, :2].sum(), x[0, 0, 0, 2:].sum()])


def test_the_odd_pad_goes_after() -> None:
    x = np.arange(1, 6, dtype=F).reshape(1, 5, 1, 1)
    options = {"strideW": 1, "strideH": 3, "padding": 0}
    own = both("CONV_2D", [x, const(np.ones((1, 4, 1, 1), F)), const(a(0))], **options)
    np.testing.assert_array_equal(own.reshape(-1), [1 + 2 + 3, 3 + 4 + 5])  # pads 1 and 1
    own = both(
        "AVERAGE_POOL_2D",
        [
            x,
        ],
        strideW=1,
        strideH=2,
        filterWidth=1,
        filterHeight=2,
        padding=0,
    )
    np.testing.assert_array_equal(own.reshape(-1), [1.5, 3.5, 5])  # what is padded doesn't count


@pytest.mark.parametrize(("size", "padding", "wanted"), [
    (4, 0, [1, 10, 102, 20]), (3, 0, [10, 102, 20]), (6, 1, [1, 10, 102, 20, 200, 0]),
])  # fmt: skip
def test_transpose_conv_crops_at_the_end_first(size: int, padding: int, wanted: list[int]) -> None:
    x, w = a(1, 2, shape=(1, 2, 1, 1)), a(1, 10, 100, shape=(1, 3, 1, 1))
    inputs = [ints([1, size, 1, 1]), const(w), x]
    own = both("TRANSPOSE_CONV", inputs, strideH=2, strideW=1, padding=padding)
    np.testing.assert_array_equal(own.reshape(-1), wanted)


def test_transpose_conv_of_another_size_is_refused() -> None:
    x, w = a(1, 2, shape=(1, 2, 1, 1)), a(1, 10, 100, shape=(1, 3, 1, 1))
    inputs = [ints([1, 9, 1, 1]), const(w), x]
    refused("isn't of an input", "TRANSPOSE_CONV", inputs, strideH=2, strideW=1, padding=0)
    with pytest.raises(RuntimeError):
        there("TRANSPOSE_CONV", inputs, strideH=2, strideW=1, padding=0)


def test_rounding_is_within_a_step() -> None:
    """Halves go to even here; each runtime has its own way."""
    x = a(0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e10, -1e10)
    own = here("QUANTIZE", [x], [q("i8", 1.0)])
    np.testing.assert_array_equal(own, [0, 2, 2, 0, -2, -2, 127, -128])
    np.testing.assert_array_equal(there("QUANTIZE", [x], [q("i8", 1.0)], "DEF")[:6], own[:6])
    np.testing.assert_array_equal(there("QUANTIZE", [x], [q("i8", 1.0)], "REF")[:6], [1, 2, 3, -1, -2, -3])
    x8 = Given(np.array([[[[1], [2]], [[2], [1]]]], np.int8), False, {"scale": 1.0, "zero": 0})
    options = {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2, "padding": 1}
    for engine in ("DEF", "NOX", "REF"):
        wanted = there("AVERAGE_POOL_2D", [x8], [q("i8", 1.0)], engine, **options)
        assert abs(int(here("AVERAGE_POOL_2D", [x8], [q("i8", 1.0)], **options).item()) - int(wanted.item())) <= 1


def test_cast_saturates() -> None:
    x = a(1e20, -1e20, np.nan, 2.9, -2.9)
    own = both("CAST", [x], ["i32"], inDataType=0, outDataType=KINDS["i32"])
    np.testing.assert_array_equal(own, [2**31 - 1, -(2**31), 2**31 - 1, 2, -2])
    own = both("CAST", [a(300, -300, 2.9)], ["i8"], inDataType=0, outDataType=KINDS["i8"])
    np.testing.assert_array_equal(own, [127, -128, 2])
    own = both("CAST", [np.array([300, -300], np.int32)], ["i8"], inDataType=2, outDataType=KINDS["i8"])
    np.testing.assert_array_equal(own, np.array([300, -300]).astype(np.int8))
    raw = Given(np.array([4, -4], np.int8), False, {"scale": 0.25, "zero": 3})
    np.testing.assert_array_equal(both("CAST", [raw], ["f32"], inDataType=9, outDataType=0), [4, -4])


def test_nan_stays_where_runtimes_drop_it() -> None:
    x, y = a(np.nan, 1), a(1, np.nan)
    np.testing.assert_array_equal(there("MAXIMUM", [x, y]), [1, np.nan])  # the second operand
    assert np.isnan(here("MAXIMUM", [x, y])).all()
    options = {"strideW": 1, "strideH": 1, "filterWidth": 2, "filterHeight": 1, "padding": 1}
    x = a(np.nan, 1, shape=(1, 1, 2, 1))
    assert not np.isnan(there("MAX_POOL_2D", [x], engine="DEF", **options)).any()
    assert np.isnan(here("MAX_POOL_2D", [x], **options)).all()
    x = a(1, np.nan, 2)
    assert there("ARG_MAX", [x, ints(0)], ["i32"], outputType=2) == 2
    assert here("ARG_MAX", [x, ints(0)], ["i32"], outputType=2) == 1


BILINEAR = {(False, False): [0, 5 / 3, 10 / 3], (False, True): [1 / 3, 2, 11 / 3], (True, False): [0, 2, 4]}


@pytest.mark.parametrize(("align", "half"), BILINEAR)
def test_resize_bilinear(align: bool, half: bool) -> None:
    x = np.arange(5, dtype=F).reshape(1, 5, 1, 1)
    options = {"alignCorners": align, "halfPixelCenters": half}
    own, wanted = (f("RESIZE_BILINEAR", [x, ints([3, 1])], **options).reshape(-1) for f in (here, there))
    np.testing.assert_allclose(own, BILINEAR[align, half], rtol=1e-6)
    np.testing.assert_allclose(wanted, own, rtol=1e-6)


def test_resize_bilinear_of_both_conventions_is_refused() -> None:
    options = {"alignCorners": True, "halfPixelCenters": True}
    inputs = [np.ones((1, 5, 1, 1), F), ints([3, 1])]
    refused("align_corners and half_pixel_centers", "RESIZE_BILINEAR", inputs, **options)


NEAREST = {
    (False, False): [0, 1, 2], (False, True): [0, 2, 3], (True, False): [0, 2, 3], (True, True): [1, 2, 3],
}  # fmt: skip


@pytest.mark.parametrize(("align", "half"), NEAREST)
def test_resize_nearest(align: bool, half: bool) -> None:
    x = np.arange(4, dtype=F).reshape(1, 4, 1, 1)
    options = {"alignCorners": align, "halfPixelCenters": half}
    own = both("RESIZE_NEAREST_NEIGHBOR", [x, ints([3, 1])], **options)
    np.testing.assert_array_equal(own.reshape(-1), NEAREST[align, half])


def test_strided_slice_backwards_beyond_the_start_is_empty() -> None:
    x = np.arange(5, dtype=F)
    assert here("STRIDED_SLICE", [x, ints([-10]), ints([-100]), ints([-1])]).shape == (0,)
    assert both("STRIDED_SLICE", [x, ints([-1]), ints([-100]), ints([-1])]).shape == (5,)
    own = both("STRIDED_SLICE", [x, ints([1]), ints([2]), ints([1])], offset=True)
    np.testing.assert_array_equal(own, [1, 2])


def test_a_0_in_a_shape_copies_nothing() -> None:
    for shape in ([0], [0, -1]):
        case = one("RESHAPE", [np.ones((2, 3), F), ints(shape)], ["f32"])
        with pytest.raises(RuntimeError):
            by_runtime(case.model, *case.inputs)
        with pytest.raises(td.UnsupportedError, match="RESHAPE"):
            td.from_tflite(case.model)


def test_a_state_is_kept_over_calls() -> None:
    """An LSTM's states are variable tensors; a network updates buffers for them, a program has them as state."""
    b = Build()
    x = b.input((1, 1, 1))
    one_ = b.const(np.ones((1, 1), F))
    bias = b.const(np.zeros(1, F))
    states = [b.tensor((1, 1), variable=True) for _ in range(2)]
    out = b.tensor((1, 1, 1))
    b.op("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *[one_] * 8, -1, -1, -1, *[bias] * 4, -1, -1, *states], [out],
         fusedActivationFunction=4)  # fmt: skip
    b.output(out)
    model, x1 = b.bytes(), np.ones((1, 1, 1), F)
    runner = interpreter(model)
    wanted = [invoked(runner, x1)[0].item() for _ in range(3)]
    np.testing.assert_allclose(wanted[:2], [0.3696, 0.6505], atol=1e-4)
    program = td.Program.from_tflite(model).runner()
    np.testing.assert_allclose([program(x1).item() for _ in range(3)], wanted, rtol=1e-6)
    module = td.from_tflite(model).to_torch().eval()
    import torch

    np.testing.assert_allclose([module(torch.ones(1, 1, 1)).item() for _ in range(3)], wanted, rtol=1e-6)


def test_floats_beside_quantized_weights_are_rounded() -> None:
    x = a(1.0, 0.001, shape=(1, 2))
    w = const(np.array([[0, 100]]), np.int8, scale=0.01, zero=0)
    own = both("FULLY_CONNECTED", [x, w, None])
    assert own.item() == 0  # 0.001 beside 1.0 is lost


def test_select_picks_rows_and_select_v2_broadcasts() -> None:
    x, y = np.ones((2, 2), F), np.zeros((2, 2), F)
    rows = np.array([True, False])
    np.testing.assert_array_equal(both("SELECT", [rows, x, y]), [[1, 1], [0, 0]])
    np.testing.assert_array_equal(both("SELECT_V2", [rows, x, y]), [[1, 0], [1, 0]])


def test_division_by_0() -> None:
    """Of floats it is infinite, as by default; other kernels clamp to the largest number there is."""
    one_, zero = a(1), a(0)
    assert here("DIV", [one_, zero]) == np.inf
    assert there("DIV", [one_, zero], engine="DEF") == np.inf
    assert there("DIV", [one_, zero], engine="REF") == np.finfo(F).max
    i = [np.array([1], np.int32), np.array([0], np.int32)]
    for op in ("DIV", "FLOOR_DIV"):
        with pytest.raises(RuntimeError):
            there(op, i, ["i32"])


@pytest.mark.parametrize("index", [-1, 3])
def test_indices_that_are_known_to_be_out_of_range_are_refused(index: int) -> None:
    case = one("GATHER", [np.ones((3, 2), F), ints([index])], ["f32"])
    with pytest.raises(RuntimeError):
        by_runtime(case.model, *case.inputs)
    with pytest.raises(td.UnsupportedError, match="3 entries"):
        td.from_tflite(case.model)


def test_scatter_adds_duplicates_and_round_goes_to_even() -> None:
    index = np.array([[1], [1]], np.int32)
    np.testing.assert_array_equal(both("SCATTER_ND", [index, a(2, 3), ints([3])]), [0, 5, 0])
    np.testing.assert_array_equal(both("ROUND", [a(0.5, 1.5, 2.5, -0.5)]), [0, 2, 2, -0.0])


def test_alpha_of_a_response_norm_isnt_divided() -> None:
    x = np.ones((1, 1, 1, 3), F)
    options = {"radius": 1, "bias": 1.0, "alpha": 1.0, "beta": 1.0}
    own, wanted = (f("LOCAL_RESPONSE_NORMALIZATION", [x], **options) for f in (here, there))
    np.testing.assert_allclose(own.reshape(-1), [1 / 3, 1 / 4, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(wanted, own, rtol=1e-6)
    reference = there("LOCAL_RESPONSE_NORMALIZATION", [x], engine="REF", **options)
    assert not np.allclose(reference, own)  # drops the last neighbour


def test_the_low_half_of_a_byte_comes_first() -> None:
    b = Build()
    x = b.input((1, 4))
    w = b.const(np.array([0x21, 0xF8], np.uint8), s.TensorType.INT4, shape=(1, 4), scale=1.0, zero=0)
    out = b.tensor((1, 1))
    b.op("FULLY_CONNECTED", [x, w, -1], [out], keepNumDims=True)
    b.output(out)
    dag = td.from_tflite(b.bytes())
    (weight,) = dag.weights.values()
    np.testing.assert_array_equal(weight, [[1, 2, -8, -1]])


def test_another_size_than_the_files_needs_a_resize() -> None:
    b = Build()
    x = b.input((1, 3), signature=(-1, 3), name="x")
    out = b.tensor((1, 3), signature=(-1, 3))
    b.op("RELU", [x], [out])
    b.output(out)
    model = b.bytes()
    runner = interpreter(model)
    with pytest.raises(ValueError, match="Dimension mismatch"):
        runner.set_tensor(0, np.ones((2, 3), F))
    assert td.from_tflite(model).graph.inputs["x"].shape == (1, 3)
    assert td.from_tflite(model, sizes={"x.0": 2}).graph.inputs["x"].shape == (2, 3)


def test_a_quantized_bias_ignores_its_own_scale() -> None:
    x = Given(np.array([[2]], np.int8), False, {"scale": 0.5, "zero": 0})
    w = const([[4]], np.int8, scale=0.25, zero=0)
    bias = const([100], np.int32, scale=0.1275, zero=0)  # what runtimes still take beside 0.125
    own = both("FULLY_CONNECTED", [x, w, bias], [q("i8", 0.125)])
    assert own.item() == (2 * 0.5 * 4 * 0.25 + 100 * 0.125) / 0.125


@pytest.mark.parametrize(("op", "inputs"), [
    ("RESHAPE", [ints([4])]), ("SLICE", [ints([0, 0]), ints([2, 2])]), ("TRANSPOSE", [ints([0, 1])]),
    ("GATHER", [ints([0, 1])]), ("STRIDED_SLICE", [ints([0, 0]), ints([2, 2]), ints([1, 1])]),
])  # fmt: skip
def test_moving_entries_copies_integers_whatever_the_scales(op: str, inputs: list[Any]) -> None:
    x = Given(np.array([[1, 2], [3, 4]], np.int8), False, {"scale": 0.5, "zero": 0})
    own = both(op, [x, *inputs], [q("i8", 0.25, 7)])
    np.testing.assert_array_equal(own.reshape(-1), [1, 2, 3, 4])


def test_integers_of_different_scales_arent_joined() -> None:
    x, y = (Given(np.ones((1, 2), np.int8), False, {"scale": scale, "zero": 0}) for scale in (0.5, 0.25))
    case = one("CONCATENATION", [x, y], [q("i8", 0.5)], axis=0)
    with pytest.raises((RuntimeError, ValueError)):
        by_runtime(case.model, *case.inputs)
    refused("different scales", "CONCATENATION", [x, y], [q("i8", 0.5)], axis=0)


def test_rsqrt_of_0_and_a_row_that_is_masked_wholly() -> None:
    assert here("RSQRT", [a(0)]) == np.inf
    assert there("RSQRT", [a(0)]) == np.inf
    row = a(-np.inf, -np.inf)
    assert np.isnan(here("SOFTMAX", [row], beta=1.0)).all()
    assert np.isnan(there("SOFTMAX", [row], engine="DEF", beta=1.0)).all()


def test_negating_integers_whose_zero_point_isnt_0_is_refused() -> None:
    x = Given(np.array([3], np.int8), False, {"scale": 1.0, "zero": 2})
    assert there("NEG", [x], [q("i8", 1.0, 2)]).item() == -3  # and -(3 - 2) + 2 is 1
    refused("zero point", "NEG", [x], [q("i8", 1.0, 2)])


def test_inputs_are_in_the_order_of_the_subgraph() -> None:
    """Signature runners of the runtime sort them by name."""
    b = Build()
    z, y = b.input((1,), name="z:0"), b.input((1,), name="a:0")
    out = b.tensor((1,))
    b.op("SUB", [z, y], [out])
    b.output(out)
    b.signature("serving_default", {"z": z, "a": y}, {"difference": out})
    dag = td.from_tflite(b.bytes())
    assert list(dag.graph.inputs) == ["z", "a"]
    assert list(dag.graph.outputs) == ["difference"]
    assert dag.run(a(5), a(3)) == 2
    assert dag.run(a=a(3), z=a(5)) == 2


# --- integers in recurrent and hybrid kernels, and what kernels leave out -------------------------------------


def test_floor_division_of_quantized_integers_leaves_their_scales_out() -> None:
    x = Given(np.array([7, -7], np.int8), False, {"scale": 0.5, "zero": 0})
    y = Given(np.array([2, 2], np.int8), False, {"scale": 0.25, "zero": 0})
    assert there("FLOOR_DIV", [x, y], [q("i8", 1.0)]).tolist() == [3, -4]  # 3.5 // 0.5 is 7
    for op in ("FLOOR_DIV", "FLOOR_MOD"):
        refused("without their scales", op, [x, y], [q("i8", 1.0)])


def test_bytes_beside_floats_are_signed() -> None:
    """u8 weights of a hybrid kernel are i8 to the bit, as converters of 2018 wrote them; zero points are left out."""
    x, w = a(1, 0, shape=(1, 2)), const([[200, 0]], np.uint8, scale=1.0, zero=0)
    assert both("FULLY_CONNECTED", [x, w], engine="DEF").item() == 200 - 256
    other = const([[200, 0]], np.uint8, scale=1.0, zero=128)
    assert there("FULLY_CONNECTED", [x, other]).item() == 200 - 256
    refused("without a zero point", "FULLY_CONNECTED", [x, other])


@pytest.mark.parametrize(
    "name",
    ["UNIDIRECTIONAL_SEQUENCE_LSTM i8", "UNIDIRECTIONAL_SEQUENCE_LSTM norm i8", "SVDF i8", "SVDF hybrid",
     "UNIDIRECTIONAL_SEQUENCE_LSTM hybrid", "BIDIRECTIONAL_SEQUENCE_LSTM hybrid", "RNN hybrid", "SVDF hybrid u8"],
)  # fmt: skip
def test_state_of_integers_is_kept_over_calls(name: str) -> None:
    """A state of i8 begins as its zero point. What an LSTM's roundings differ in grows with the calls."""
    for seed in range(3):
        case = CASES[name](np.random.default_rng([seed, 7]))
        runtime, dag = interpreter(case.model), td.from_tflite(case.model)
        state = dict(dag.weights)
        for _ in range(4):
            wanted = invoked(runtime, *case.inputs)
            found, updates = td.interpret.run(dag.graph, dict(zip(dag.graph.inputs, case.inputs, strict=True)), state)
            assert max(map(distance, found.values(), wanted)) <= case.tolerance * (1 if "LSTM i8" not in name else 4)
            state |= updates


def test_results_of_a_basic_lstm_of_integers_are_within_a_step() -> None:
    """Its sums are the kernel's to the bit, which are rounded twice."""
    for seed in range(20):
        case = basic_lstm_u8(np.random.default_rng(seed))
        own, wanted = by_numpy(case.model, *case.inputs), by_runtime(case.model, *case.inputs)
        assert distance(own[0], wanted[0]) <= 1
        assert distance(own[2], wanted[2]) == 0
        assert np.mean(own[3] != wanted[3]) < 0.01


def test_integers_of_recurrent_networks_that_are_refused() -> None:
    """What kernels leave out, or take from wrong places."""
    rng = np.random.default_rng(0)
    weights = [const(np.ones(n), d, scale=0.1, zero=0) for n, d in (((2, 3), np.int8), ((2, 4), np.int16))]
    x, state = quantized(rng, (1, 3), "i8", 0.1, 0), {4: ((1, 8), ("i16", {"scale": 0.1}))}
    case = stateful(rng, "SVDF", [x, *weights, None, None], state, q("i8", 0.01, 3), rank=1, fusedActivationFunction=1)
    assert by_runtime(case.model, np.full((1, 3), -50, np.int8))[0].min() < 3  # below 0
    with pytest.raises(td.UnsupportedError, match="leaves out its activation RELU"):
        td.from_tflite(case.model)
    case = lstm_i8(rng, "UNIDIRECTIONAL_SEQUENCE_LSTM i8", peephole=True, projection=True)
    with pytest.raises(td.UnsupportedError, match="peephole of projected cells from wrong places"):
        td.from_tflite(case.model)
    with pytest.raises(td.UnsupportedError, match="its bias has another step than its products"):
        td.from_tflite(basic_lstm_u8(rng, bias_step=2).model)
    with pytest.raises(td.UnsupportedError, match=r"u8 in steps of 0.0078125 from 128"):
        td.from_tflite(basic_lstm_u8(rng, x_scale=0.01).model)


@pytest.mark.parametrize(
    ("op", "numbers", "step", "right"),
    [("LOG", [1, 4, 100, 1000], 0.0005, np.log), ("RSQRT", [1, 4, 100, 1000], 0.001, lambda v: v**-0.5)],
)
def test_functions_of_i16_are_what_they_are_called(op: str, numbers: list[int], step: float, right: Any) -> None:
    """Runtimes take small numbers of one table entry for each other: log(0.1) is -4.46 there."""
    x = Given(np.array(numbers, np.int16), False, {"scale": 0.001, "zero": 0})
    found = here(op, [x], [q("i16", step)]) * step
    np.testing.assert_allclose(found, right(0.001 * np.array(numbers)), rtol=0, atol=step)


def test_slopes_of_i16_are_kept() -> None:
    """Runtimes give 0 for half of a negative number."""
    x = Given(np.array([[-800, -400, 0, 100]], np.int16), False, {"scale": 0.001, "zero": 0})
    slope = Given(np.full(4, 16384, np.int16), True, {"scale": 2.0**-15, "zero": 0})
    assert here("PRELU", [x, slope], [q("i16", 0.001)]).tolist() == [[-400, -200, 0, 100]]
