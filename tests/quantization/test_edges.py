"""Ranges, scales and weights at their ends, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tdagger as td
from tdagger import library as lib
from tdagger.quantization.convert import rounded
from tdagger.quantization.observers import OBSERVERS, Histogram, observer_of
from tdagger.quantization.placement import place
from tdagger.quantization.profile import Numbers
from tdagger.quantization.profiles import PROFILES, profile_of
from tdagger.quantization.reading import read_as, told_apart
from tdagger.quantization.scales import Weights, affine, ends

U8, I8 = Numbers("u8"), Numbers("i8", symmetric=True, narrow=True)


def linear(weight: Any, bias: Any = None) -> td.TensorDAG:
    weight = np.asarray(weight, np.float32)
    arrays = {"w": weight} if bias is None else {"w": weight, "b": np.asarray(bias, np.float32)}
    x = td.input("x", (2, weight.shape[1]))
    out = td.linear(x, *[td.parameter(n, a.shape) for n, a in arrays.items()])
    return td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), arrays)


@pytest.mark.parametrize(
    ("low", "high", "numbers", "zero"),
    [(0, 0, U8, 0), (-3, -1, U8, 255), (1, 5, U8, 0), (-1, 1, U8, 128), (-1e-40, 0, U8, None), (-3e38, 3e38, U8, None),
     (0, 6, Numbers("i8"), -128), (-2, 1, I8, None), (0, 448, Numbers("f8e4m3"), None)],
)  # fmt: skip
def test_ranges(low: float, high: float, numbers: Numbers, zero: int | None) -> None:
    scale, found = affine(low, high, numbers)
    assert np.isfinite(scale)
    assert scale > 0
    if zero is not None:
        assert int(found if found is not None else 0) == zero or abs(int(found) - zero) <= 1
    first, last = ends(scale, found, numbers)
    assert first <= min(low, 0) * (1 - 1e-2) + 1e-12
    assert last >= max(high, 0) * (1 - 1e-2) - 1e-12


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers(name: str) -> None:
    rng = np.random.default_rng(0)
    observer = observer_of(name)
    for i in range(5):
        observer.update(rng.normal(size=20000).astype(np.float32) * (1 + i))
    low, high = observer.range(U8)
    assert observer.low <= low < -1.9
    assert 1.9 < high <= observer.high
    if isinstance(observer, Histogram):
        assert observer.bins.sum() + observer.zeros == 100000
        assert observer.clipped(low, high) < 0.05
        outlier = np.float32([1e6])
        observer.update(outlier)
        assert observer.bins.sum() + observer.zeros == 100001
        assert len(observer.bins) == 2048


def test_outliers_are_clipped_by_the_squared_error() -> None:
    x = np.random.default_rng(0).normal(size=100000).astype(np.float32)
    x[0] = 100
    whole, least = observer_of("minmax"), observer_of("mse")
    whole.update(x)
    least.update(x)

    def error(observer: Any) -> float:
        scale, zero = affine(*observer.range(U8), U8)
        y = np.clip(np.round(x / scale) + zero, 0, 255) - zero.astype(float)
        return float(np.square(y * scale - x).mean())

    assert error(least) <= 1.01 * error(whole)
    x[0] = 30  # worth less than the steps that it would cost
    whole, least = observer_of("minmax"), observer_of("mse")
    whole.update(x)
    least.update(x)
    assert error(least) < 0.9 * error(whole)


@pytest.mark.parametrize("layout", ["C", "F"])
def test_of_large_tensors_some_numbers_are_counted(layout: Any) -> None:
    """All of the outer half, and so many of the others that ranges are as good."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(4, size=(64, 71, 97)).astype(np.float32)
    parts, whole = observer_of("mse"), observer_of("mse")
    assert isinstance(parts, Histogram)
    assert isinstance(whole, Histogram)
    parts.update(np.asarray(x, order=layout))
    for some in np.split(x.reshape(-1), 32):  # each small enough to be counted whole
        whole.update(some, (float(x.min()), float(x.max())))
    outer = parts.centres > x.max() / 2 + parts.width
    assert np.array_equal(parts.bins[outer], whole.bins[outer])
    assert parts.bins.min() >= 0
    assert parts.bins.sum() + parts.zeros == pytest.approx(x.size, rel=0.01)
    assert parts.range(U8) == pytest.approx(whole.range(U8), rel=0.1)

    def error(observer: Any) -> float:
        scale, zero = affine(*observer.range(U8), U8)
        y = np.clip(np.round(x / scale) + zero, 0, 255) - zero.astype(float)
        return float(np.square(y * scale - x).mean())

    assert error(parts) < 1.01 * error(whole)


def test_what_is_read_as_a_function_is_rounded_for_its_results() -> None:
    """All that is below -3 becomes 0: it needs no numbers of its own."""
    rng = np.random.default_rng(0)
    arrays = {"v": rng.normal(size=(16, 4, 1, 1)).astype(np.float32)}
    x = td.input("x", (2, 4, 9, 9))
    y = td.convolution(x, td.parameter("v", (16, 4, 1, 1))) - 6.0
    data = [3 * rng.normal(size=x.shape).astype(np.float32) for _ in range(3)]

    def away(observer: str, also: dict[str, td.Value]) -> float:
        dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.hard_swish(y), **also}), arrays)
        small = td.quantize(dag, data, "x86", activation=Numbers("u8", observer=observer), correct=False, least=0)
        pairs = [[np.asarray(n.run(d) if not also else n.run(d)[0]) for n in (small, dag)] for d in data]
        return sum(float(np.square(a - b).sum()) for a, b in pairs)

    whole = away("mse", {"itself": y})
    assert away("mse", {}) < 0.75 * whole
    assert away("read", {}) < 0.6 * whole


FUNCTIONS = {
    "relu6": td.relu6, "hard_swish": td.hard_swish, "silu": td.silu, "gelu": td.gelu, "sigmoid": td.sigmoid,
    "tanh": td.tanh, "elu": td.elu, "double": lambda x: x * 2.0, "hill": lambda x: td.exp(-x * x), "sine": td.sin,
    "step": lambda x: td.where(x > 0.5, x * 0.0 + 1.0, x * 0.0),
}  # fmt: skip


@pytest.mark.parametrize(("low", "high"), [(-20.0, 20.0), (-300.0, 2.0), (-0.1, 900.0), (0.0, 5.0), (-7.0, 0.0)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_range_is_cut_where_that_changes_no_more_than_rounding(name: str, low: float, high: float) -> None:
    x = td.input("x", (1,))
    y = td.linear(x, td.parameter("w", (1, 1)))
    graph = td.Graph({"x": x}, {"y": FUNCTIONS[name](y)})
    read = read_as(graph, y)
    assert read is not None
    first, last = told_apart(read, low, high, 255)
    assert low <= first <= 0 <= last <= high

    def worst(a: float, b: float) -> float:
        scale, zero = affine(a, b, U8)
        step = np.linspace(low, high, 20001).astype(np.float32)
        rounded = (np.clip(np.round(step / scale) + zero, 0, 255) - zero.astype(float)) * scale
        return float(np.abs(read(rounded.astype(np.float32)) - read(step)).max())

    assert worst(first, last) <= 1.02 * worst(low, high) + 1e-7
    if name in ("relu6", "hard_swish", "silu") and (low, high) == (-300.0, 2.0):
        assert first >= -8
    if name == "double":
        assert (first, last) == (low, high)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(value: float) -> None:
    dag = linear(np.ones((3, 4)))
    prepared = td.prepare(dag)
    with pytest.raises(td.InputError, match=r"calibration: .*input x.* has (NaN|an infinity) in batch 1; leave"):
        prepared(torch.full((2, 4), value))
    with pytest.raises(td.InputError, match="the weight 'w' has numbers that aren't finite"):
        dict(td.quantize(linear([[1, value, 2, 3]]), [np.ones((2, 4), "f")], correct=False).weights)


def test_what_is_missing_is_said() -> None:
    dag = linear(np.ones((3, 4)))
    with pytest.raises(td.InputError, match="no data was seen"):
        td.prepare(dag).convert()
    with pytest.raises(td.InputError, match="give data, or a target that needs none"):
        td.quantize(dag)
    with pytest.raises(td.InputError, match="data is read twice"):
        td.quantize(dag, iter([np.ones((2, 4), "f")]))
    with pytest.raises(td.AttributeValueError, match="no target 'x87'; there are arm"):
        td.quantize(dag, [], "x87")
    with pytest.raises(td.InputError, match="quantizes nothing of it"):
        td.prepare(td.network(td.exp, {"x": (2,)}))
    with pytest.raises(td.InputError, match="has no quantized values"):
        td.dequantize(dag)
    with pytest.raises(td.AttributeValueError, match="aren't quantized to 'i3'"):
        td.prepare(dag, weight="i3")


def test_dead_channels_and_large_biases() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    weight[1] = 0
    weight[2] = 1e-30
    bias = np.float32([0, 1e6, -1e9, 3])
    dag = linear(weight, bias)
    data = [np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32) for _ in range(2)]
    small = td.quantize(dag, data, correct=False)
    found, wanted = small.run(data[0]), dag.run(data[0])
    np.testing.assert_allclose(found, wanted, rtol=2e-2, atol=0.15)
    assert small.weights["b"].dtype == np.int32


@pytest.mark.parametrize(
    "numbers",
    [I8, Numbers("i4", symmetric=True, per="block", block=3), Numbers("u4", per="channel"),
     Numbers("i2", per="channel", observer="mse"), Numbers("f8e5m2", per="channel")],
)  # fmt: skip
def test_weights_are_within_half_a_step(numbers: Numbers) -> None:
    weight = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    how = Weights(numbers, 0, 1)
    scales = how.scales(weight)
    assert scales.scale.shape == how.shape(weight.shape)
    read = how.read(how.rounded(weight, scales), scales)
    if numbers.grid.is_float:
        np.testing.assert_allclose(read, weight, rtol=0.13, atol=1e-3)
    elif numbers.observer != "mse":
        from tdagger.library.quantized import spread_array

        step = np.broadcast_to(spread_array(scales.scale, weight.shape, how.axis, how.block), weight.shape)
        assert (np.abs(read - weight) <= 0.51 * step + 1e-6).all()


def test_gradients_go_straight_through() -> None:
    x = td.input("x", (5,))
    made = rounded(x, [td.const(0.1, "f32"), td.const(3, "i8")], Numbers("i8"), None, 0, fake=True)
    module = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": made})).to_torch()
    given = torch.tensor([0.04, 0.06, -100.0, 100.0, -3.0], requires_grad=True)
    out = module(given)
    out.sum().backward()
    assert given.grad is not None
    assert given.grad.tolist() == [1, 1, 0, 0, 1]
    expected = torch.fake_quantize_per_tensor_affine(given.detach(), 0.1, 3, -128, 127)
    torch.testing.assert_close(out.detach(), expected)


def test_profiles_are_data() -> None:
    for name, profile in PROFILES.items():
        assert profile_of(name) is profile
        assert profile.name == name
        assert profile.about
    assert profile_of("x86").having(activation="i8").activation == Numbers("i8", observer="mse")


def test_seed_example() -> None:
    """Prepare, run batches through, convert: the first documents' example of fbgemm."""
    dag = linear(np.random.default_rng(0).normal(size=(3, 4)))
    prepared = td.prepare(dag, "x86", activation=Numbers("u8", observer="minmax"))
    data = [torch.randn(2, 4) for _ in range(4)]
    for batch in data:
        prepared(batch)
    quantized = prepared.convert()
    assert quantized.weights["w"].dtype == np.int8
    assert np.abs(quantized.run(data[0].numpy()) - dag.run(data[0].numpy())).max() < 0.1


def test_tied_weights_are_quantized_once_and_kept_where_they_are_read() -> None:
    w = td.parameter("w", (6, 6))
    x = td.input("x", (2, 6))
    tied = td.linear(td.relu(td.linear(x, w)), w)
    arrays = {"w": np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)}
    once = td.quantize(td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": tied}), arrays), [np.ones((2, 6), "f")])
    assert [n for n, a in once.weights.items() if a.dtype == np.int8] == ["w"]
    z = td.input("z", (6, 6))
    both = td.Graph({"x": x, "z": z}, {"y": td.linear(x, w), "sum": z + w})
    kept = td.quantize(td.TensorDAG.of_graph(both, arrays), [(np.ones((2, 6), "f"), arrays["w"])])
    assert {n: a.dtype.name for n, a in kept.weights.items()}["w"] == "float32"
    assert sum(a.dtype == np.int8 for a in kept.weights.values()) == 1


def test_weights_are_made_one_at_a_time() -> None:
    made: list[str] = []

    class Lazy(dict[str, Any]):
        def part(self, names: Any) -> Any:
            return self

        def __getitem__(self, name: str) -> Any:
            made.append(name)
            return np.ones((8, 32), np.float32)

    x = td.input("x", (2, 32))
    out = td.linear(x, td.parameter("a", (8, 32))) + td.linear(x, td.parameter("b", (8, 32)))
    dag = td.TensorDAG(td.Graph({"x": x}, {"y": out}), Lazy(a=None, b=None), td.layers.linear(2, 2).signature)
    small = td.quantize(dag, target="gpu-weight-only")
    made.clear()  # passes ask whether there is data
    assert small.weights["a"].dtype == np.int8
    assert set(made) == {"a"}


def _few(x: td.Value, w: td.Value, v: td.Value, act: Any) -> td.Value:
    """Two convolutions, of 27 and 72 products, each followed by ``act``."""
    return act(td.convolution(act(td.convolution(x, w)), v))


@pytest.mark.parametrize(
    ("made", "least", "quantized"),
    [
        (lambda x, w, v: _few(x, w, v, td.silu), None, ["v"]),  # 27 products aren't worth it: SiLU reads them
        (lambda x, w, v: _few(x, w, v, td.silu), 0, ["w", "v"]),
        (lambda x, w, v: _few(x, w, v, td.silu), 73, []),
        (lambda x, w, v: _few(x, w, v, td.relu), None, ["w", "v"]),  # the second takes them as integers
        (lambda x, w, v: _few(x, w, v, td.relu), 73, []),  # nor does it then: the first is read in float too
        (lambda x, w, v: _few(x, w, v, lambda y: td.max_pool(y, kernel=2)), None, ["w", "v"]),  # moved on the way
        (lambda x, w, v: td.silu(td.convolution(x, w) + td.convolution(x, w)), None, ["w"]),  # their sum does
        (lambda x, w, v: td.silu(td.convolution(x, w)) + td.convolution(x, w), None, []),  # theirs doesn't
    ],
)  # fmt: skip
def test_layers_of_few_products_stay_in_float_where_they_are_read_so(
    made: Any, least: int | None, quantized: list[str]
) -> None:
    x, w, v = td.input("x", (1, 3, 14, 14)), td.parameter("w", (8, 3, 3, 3)), td.parameter("v", (8, 8, 3, 3))
    graph = td.Graph({"x": x}, {"y": made(x, w, v)})
    found = place(graph, profile_of("x86").having(least=least), lambda value: False)
    assert [plan.leaf.op.leaf for plan in found.weights.values()] == quantized


def test_what_is_padded_with_infinities_stays_in_float() -> None:
    """A max pool of "same" padding: its result may be quantized, what it takes can't."""
    x, v, w = td.input("x", (1, 3, 7, 7)), td.parameter("v", (4, 3, 1, 1)), td.parameter("w", (2, 4, 1, 1))
    rng = np.random.default_rng(0)
    arrays = {"v": rng.normal(size=v.shape).astype("f"), "w": rng.normal(size=w.shape).astype("f")}
    padded = td.pad(td.convolution(x, v), [None, None, (0, 1), (0, 1)], float("-inf"))
    out = td.convolution(td.max_pool(padded, kernel=2), w)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), arrays)
    data = [rng.normal(size=(1, 3, 7, 7)).astype("f") for _ in range(3)]
    small = td.quantize(dag, data, "x86", least=0)
    away = small.run(data[0]) - dag.run(data[0])
    assert np.square(away).sum() < 1e-3 * np.square(dag.run(data[0])).sum()


@pytest.mark.parametrize("per", ["tensor", "channel"])
def test_one_scale_for_a_weight(per: str) -> None:
    dag = linear(np.random.default_rng(0).normal(size=(3, 4)), np.ones(3))
    data = [np.random.default_rng(1).normal(size=(2, 4)).astype("f")]
    small = td.quantize(dag, data, "x86", weight=Numbers("i8", symmetric=True, narrow=True, per=per))
    assert small.weights["w_scale"].shape == (() if per == "tensor" else (3,))
    out = small.to_torch()(torch.from_numpy(data[0])).detach().numpy()
    np.testing.assert_allclose(out, dag.run(data[0]), atol=0.05)


def test_every_bias_of_a_shared_weight_fits() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, 8)).astype(np.float32)
    w[3] *= 1e-6  # products with a scale that the second bias has too many of
    arrays = {"w": w, "a": np.zeros(8, np.float32), "b": np.float32([0, 0, 0, 50, 0, 0, 0, 0])}
    x, weight, a, b = td.input("x", (4, 8)), *(td.parameter(n, v.shape) for n, v in arrays.items())
    out = td.linear(td.tanh(td.linear(x, weight, a)), weight, b)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), arrays)
    data = [rng.normal(size=(4, 8)).astype(np.float32) for _ in range(4)]
    found = td.quantize(dag, data, "x86", correct=False).run(data[0])
    np.testing.assert_allclose(found[:, 3], 50, rtol=1e-6)
    np.testing.assert_allclose(found, dag.run(data[0]), atol=0.1)


def read_again(x: td.Value, scale: float, zero: int, other: float | None = None, to: str = "u8") -> td.Value:
    """A value rounded and read, perhaps with another scale."""
    made = lib.quantize(x, td.const(scale, "f32"), td.const(zero, to), to=to)
    return lib.dequantize(made, td.const(scale if other is None else other, "f32"), td.const(zero, to))


@pytest.mark.parametrize(
    ("zero", "to", "ends"),
    [(0, "u8", (0.0, 2.55)), (-128, "i8", (0.0, 2.55)), (255, "u8", (-2.55, 0.0)), (3, "u8", None)],
)
def test_a_relu_that_rounding_does_stays_in_float(zero: int, to: str, ends: Any) -> None:
    """Quantizers leave activations out before what rounds to one side of 0."""
    x, w = td.input("x", (2, 3)), td.parameter("w", (4, 3))
    out = read_again(td.linear(x, w), 0.01, zero, to=to)
    out = read_again(td.permute(out, (1, 0)), 0.01, zero, to=to)
    weights = {"w": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)}
    back = td.dequantize(td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), weights))
    clipped = [(v.op.attributes["low"], v.op.attributes["high"]) for v in back.values if v.op.name == "clamp"]
    if ends is None:
        assert not clipped
    else:
        np.testing.assert_allclose(clipped[0], ends, rtol=1e-6)
    assert len(clipped) == {None: 0, 0.0: 1}.get(ends and ends[0], 2)
    given = np.float32([[1, -2, 3], [-4, 5, -6]])
    wanted = (given @ weights["w"].T).T
    np.testing.assert_allclose(back.run(given), wanted if ends is None else wanted.clip(*ends), rtol=1e-5, atol=1e-6)


def test_what_is_read_with_another_scale_stays() -> None:
    """Nobody rounds to read so: QLinearConv is written as sums that are rounded with the scale 1."""
    x = td.input("x", (2, 3))
    graph = td.Graph({"x": x}, {"y": read_again(x, 1.0, 3, 0.5), "z": read_again(x, 0.5, 3)})
    dag = td.TensorDAG.of_graph(graph, {})
    given = np.float32([[1, -2, 3], [-1, 5, -3]])
    back = td.dequantize(dag).run(given)
    assert np.array_equal(back[0], given / 2)
    assert np.array_equal(back[1], given)
    alone = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": read_again(x, 1.0, 3, 0.5)}), {})
    with pytest.raises(td.InputError, match="has no quantized values that are read in float as they were rounded"):
        td.dequantize(alone)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("batch", [np.ones((1, 4), "f"), np.ones((2, 4), "d"), np.ones((2, 4), int), np.ones(4, "f")])
def test_data_that_doesn_t_fit_is_refused_by_name(framework: str, batch: Any) -> None:
    """Sizes that run all the same would be calibrated on, and f64 be of no use."""
    dag = td.layers.linear(4, 3).resize({"x": (2, 4)})
    with pytest.raises(td.InputError, match=r"input 'x' is f32\[2 4\], data has .* for it; give batches"):
        td.quantize(dag, [np.ones((2, 4), "f"), batch], framework=framework)


def test_what_is_of_one_entry_by_chance_is_no_function_of_numbers() -> None:
    """A pool of one entry gives it back: no function that a vector can be given to, so it has no say in ranges."""
    x, w = td.input("x", (1, 3, 3, 3)), td.parameter("w", (4, 3, 3, 3))
    pooled = td.adaptive_avg_pool(td.silu(td.convolution(x, w)), size=(1, 1))
    graph = td.Graph({"x": x}, {"y": pooled})
    read = read_as(graph, next(v for v in graph.values if v.op.name == "convolution"))
    assert read is not None
    np.testing.assert_allclose(read(np.float32([0, 1])), [0, 1 / (1 + np.exp(-1))], rtol=1e-6)
    dag = td.TensorDAG.of_graph(graph, {"w": np.ones((4, 3, 3, 3), "f")})
    assert td.op_counts(td.quantize(dag, [np.ones((1, 3, 3, 3), "f")], least=0).values)["quantize"] > 0


def test_what_is_clipped_since_nobody_tells_it_apart_is_no_error_of_an_op() -> None:
    """Far below 0 SiLU makes 0 of all numbers: the convolution before it isn't what changes the results."""
    rng = np.random.default_rng(0)
    x, w, b = td.input("x", (1, 8, 6, 6)), td.parameter("w", (4, 8, 3, 3)), td.parameter("b", (4,))
    arrays = {"w": rng.normal(size=(4, 8, 3, 3)).astype("f"), "b": np.float32([-40, -20, 0, 5])}
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.silu(td.convolution(x, w, b))}), arrays)
    data = [rng.normal(size=x.shape).astype("f") for _ in range(2)]
    small = td.quantize(dag, data, correct=False)
    away = sum(float(np.square(small.run(d) - dag.run(d)).sum()) for d in data)
    whole = 10 * np.log10(sum(float(np.square(dag.run(d)).sum()) for d in data) / away)
    assert td.sensitivity(dag, data)[0].sqnr == pytest.approx(whole, abs=0.1)


def test_a_picture_has_how_what_ops_take_is_spread() -> None:
    from tdagger.quantization.quality.picture import view

    dag = linear(np.ones((3, 4)))
    data = [np.float32([[0, 0, 1, 2], [-1, 0, 3, 7]]), np.float32([[0, 0, 1, 1], [2, 2, 3, 4]])]
    prepared = td.prepare(dag, "x86").calibrate(data)
    found = {s["name"]: s["each"] for s in view(prepared).document["networks"][0]["said"]}
    (spread,) = [each for each in found["what it takes, on data"] if each is not None]
    everything = np.concatenate(data)
    assert (spread["low"], spread["high"], spread["zeros"], sum(spread["counts"])) == (-1.0, 7.0, 5, 16)
    wanted = np.histogram(everything, 32)[0]
    assert np.abs(np.cumsum(spread["counts"]) - np.cumsum(wanted)).max() <= 3  # a number at an edge may be in the next
    np.testing.assert_allclose([spread["mean"], spread["std"]], [everything.mean(), everything.std()], atol=0.01)
    assert " … ".join(f"{end:.4g}" for end in spread["range"]) in found["range told apart"]
    plain = td.prepare(dag, "x86", activation=Numbers("u8")).calibrate(data)  # minmax keeps no more than two numbers
    said = view(plain).document["networks"][0]["said"]
    assert [s["name"] for s in said if any(s["each"])] == ["range of what it takes, on data", "range told apart"]
