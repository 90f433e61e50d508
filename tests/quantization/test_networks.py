"""Networks in few bits: what comes out, in numpy, torch and onnxruntime; in and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import timm
import torch
from torch import nn

import tdagger as td
from tdagger.interpreter import Interpreter
from tdagger.quantization import prepare, repeated
from tdagger.quantization.profile import Numbers
from tdagger.quantization.quality.local import decibels
from tdagger.quantization.repairs import bias
from tdagger.quantization.repairs.bias import Lacking, Means, means


@cache
def network(name: str, seed: int = 0) -> tuple[td.TensorDAG, list[np.ndarray[Any, Any]]]:
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False).eval()
    for buffer_name, buffer in model.named_buffers():  # norms that do something
        if buffer_name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    data = [torch.randn(2, 3, 160, 160).numpy() for _ in range(3)]
    return td.from_torch(model, torch.from_numpy(data[0])), data


def session(dag: td.TensorDAG, exact: bool = True) -> Any:
    """A session of onnxruntime; ``exact``: sums of u8 times i8 don't saturate on processors without VNNI either."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1" if exact else "0")
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = dag.to_onnx()
    if exact:
        apart(model.graph)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def apart(graph: Any) -> None:
    """Give every node tensors of its own: exact sessions refuse shared ones."""
    tensors = {t.name: t for t in graph.initializer}
    for i, node in enumerate(graph.node):
        for j, name in enumerate(node.input):
            if name in tensors and tensors[name].data_type == 3:
                own = graph.initializer.add()
                own.CopyFrom(tensors[name])
                own.name = node.input[j] = f"{name}.{i}.{j}"


def quality(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return decibels(float(np.square(a).sum()), float(np.square(a - b).sum()))


@pytest.mark.parametrize(("name", "target"), [("test_resnet", "x86"), ("test_vit", "xnnpack")])
def test_static(name: str, target: str) -> None:
    dag, data = network(name)
    small = td.quantize(dag, data, target)
    wanted = dag.to_torch()(torch.from_numpy(data[0])).detach().numpy()
    by_torch = small.to_torch()(torch.from_numpy(data[0])).detach().numpy()
    run = session(small)
    found = run.run(None, {run.get_inputs()[0].name: data[0]})[0]
    assert quality(wanted, by_torch) > 22, quality(wanted, by_torch)
    assert quality(wanted, found) > 22, quality(wanted, found)
    layers = [v for v in dag.values if v.op.name in ("convolution", "linear")]
    codes = [w for w in small.weights.values() if w.dtype == np.int8]
    assert len(codes) >= len(layers)


def test_torch_and_numpy_agree() -> None:
    dag, data = network("test_resnet")
    small = td.quantize(dag, data, "x86")
    a = small.run(data[0])
    b = small.to_torch()(torch.from_numpy(data[0])).detach().numpy()
    assert quality(a, b) > 40


def test_numpy_calibrates_as_torch_does() -> None:
    dag, data = network("test_vit")
    by = [td.quantize(dag, data[:1], framework=f, activation=Numbers("u8"), correct=False) for f in ("numpy", "torch")]
    for a, b in zip(*[d.graph.constants for d in by], strict=True):
        np.testing.assert_allclose(a.op.data.astype(float), b.op.data.astype(float), rtol=1e-3, atol=1)


def test_dynamic_needs_no_data() -> None:
    dag, data = network("test_vit")
    small = td.quantize(dag, target="x86-dynamic")
    wanted = dag.to_torch()(torch.from_numpy(data[0])).detach().numpy()
    run = session(small)
    found = run.run(None, {run.get_inputs()[0].name: data[0]})[0]
    assert quality(wanted, found) > 25
    assert quality(wanted, small.to_torch()(torch.from_numpy(data[0])).detach().numpy()) > 25


def test_dynamic_with_data_makes_channels_alike() -> None:
    """Where one is far larger; a generator, which can't be read twice, and ``smooth=False`` leave them."""
    rng = np.random.default_rng(0)
    size = np.where(np.arange(32) == 3, 50, 1).astype("f")
    x = td.input("x", (8, 32))
    y = td.linear(td.layer_norm(x, td.parameter("s", (32,)), td.parameter("b", (32,))), td.parameter("w", (16, 32)))
    arrays = {"s": size, "b": np.zeros(32, "f"), "w": rng.normal(size=(16, 32)).astype("f")}
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}), arrays)
    data = [rng.normal(size=(8, 32)).astype("f") for _ in range(4)]
    wanted = dag.run(data[0])

    def sqnr(given: Any, **how: Any) -> float:
        found = td.quantize(dag, given, "x86-dynamic", **how).run(data[0])
        return decibels(float(np.square(wanted).sum()), float(np.square(found - wanted).sum()))

    assert sqnr(data) == sqnr(data, smooth=True) > sqnr(data, smooth=False) + 3
    assert sqnr(None) == sqnr(iter(data), correct=False) == sqnr(data, smooth=False)


def test_weights_in_blocks_of_four_bits() -> None:
    dag, data = network("test_vit")
    small = td.quantize(dag, target="gpu-weight-only")
    wanted = dag.to_torch()(torch.from_numpy(data[0])).detach().numpy()
    run = session(small)
    found = run.run(None, {run.get_inputs()[0].name: data[0]})[0]
    assert quality(wanted, found) > 10
    assert quality(small.run(data[0]), found) > 30  # onnxruntime's MatMulNBits rounds what it multiplies to i8
    proto = small.to_onnx()
    kinds = {t.data_type for t in proto.graph.initializer}
    assert {22} <= kinds  # INT4, two to a byte
    again = td.from_onnx(proto)
    assert quality(again.run(data[0]), small.run(data[0])) > 80


@pytest.mark.parametrize("target", ["x86", "gpu-weight-only"])
def test_files_come_back_as_quantized_values(target: str) -> None:
    dag, data = network("test_resnet")
    small = td.quantize(dag, data, target)
    again = td.from_onnx(small.to_onnx())
    assert td.op_counts(again.values)["dequantize"] == td.op_counts(small.values)["dequantize"]
    assert td.op_counts(again.values)["quantize"] == td.op_counts(small.values)["quantize"]
    floats = td.dequantize(again)
    assert "dequantize" not in td.op_counts(floats.values)
    wanted = dag.to_torch()(torch.from_numpy(data[0])).detach().numpy()
    assert quality(wanted, floats.to_torch()(torch.from_numpy(data[0])).detach().numpy()) > 20


def test_attention_stays_in_float_wherever_a_network_is_from() -> None:
    """A file has attention written out, as products of matrices: they aren't quantized either."""
    dag, data = network("test_vit")
    again = td.from_onnx(dag.to_onnx())
    assert {"matmul", "softmax"} <= td.op_counts(again.values).keys()
    assert "scaled_dot_product_attention" in td.op_counts(dag.values)
    taken = [Counter(v.op.name for v in td.prepare(d, "x86").placement.rows) for d in (dag, again)]
    assert taken[0] == taken[1]
    assert "matmul" not in taken[0]
    wanted = dag.to_torch()(torch.from_numpy(data[0])).detach().numpy()
    found = [quality(wanted, td.quantize(d, data).to_torch()(torch.from_numpy(data[0])).detach().numpy())
             for d in (dag, again)]  # fmt: skip
    assert min(found) > 20
    assert abs(found[0] - found[1]) < 1


def test_biases_bring_means_back() -> None:
    dag, data = network("test_resnet")
    a, b = (td.quantize(dag, data, correct=c).to_torch() for c in (False, True))
    model = dag.to_torch()
    away = [
        np.mean([(model(x) - m(x)).detach().numpy().mean(0) for x in map(torch.from_numpy, data)], 0) for m in (a, b)
    ]
    assert np.square(away[1]).sum() < 0.5 * np.square(away[0]).sum()


def certain(parts: Any, batches: int = 1) -> Any:
    lacking = Lacking()
    for part in np.split(parts, batches):
        lacking = lacking.and_(part)
    return lacking.certain()


def test_means_that_may_be_chance_are_no_errors() -> None:
    rng = np.random.default_rng(0)
    away = means(rng.normal(size=(16, 64, 100)), -1)
    assert away.shape == (8, 8, 100)
    np.testing.assert_allclose(away.mean((0, 1)), 0, atol=0.15)
    assert (certain(away) == 0).mean() > 0.8
    np.testing.assert_allclose(certain(away + 1), 1, atol=0.15)
    padding = np.zeros((8, 8, 1))
    padding[:, 6:] = 1  # of all examples, at some positions
    assert certain(padding)[0] == 0


@pytest.mark.parametrize("batches", [1, 2, 8])
def test_what_is_certain_is_the_same_of_sums_as_of_all_means(batches: int) -> None:
    """The mean, less two standard errors of it squared over it: by the variances among examples and positions."""
    parts = np.random.default_rng(0).normal(0.3, 1, (8, 5, 100))
    mean = parts.mean((0, 1))
    variance = parts.mean(1).var(0, ddof=1) / 8 + parts.mean(0).var(0, ddof=1) / 5
    wanted = np.maximum(1 - 4 * variance / np.square(mean), 0) * mean
    assert 0 < np.count_nonzero(wanted) < 100
    np.testing.assert_allclose(certain(parts, batches), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [3, 32, 33, 130, 1000])
def test_means_of_many_batches_take_no_more_than_those_of_few(count: int) -> None:
    parts = np.random.default_rng(0).normal(size=(count, 1, 2, 3))
    kept = Means()
    for each in parts:
        kept.add(each)
    assert len(kept.groups) <= 32
    assert len(kept.groups) == -(-count // kept.size)
    for i, group in enumerate(kept.groups):
        np.testing.assert_allclose(group, parts[i * kept.size : (i + 1) * kept.size].mean(0), atol=1e-12)


def test_biases_are_corrected_by_means_of_several_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    dag, data = network("test_resnet")
    data = [*data, *(x[::-1].copy() + np.float32(0.1) for x in data)]
    found: list[Any] = []
    for most in (32, 4):
        monkeypatch.setattr(bias, "_KEPT", most)
        prepared = td.prepare(dag).calibrate(data).correct(data)
        assert {m.size for m in prepared.means.values()} == {1 if most == 32 else 4}
        found.append(prepared.corrections)
    size = sum(float(np.square(c).sum()) for c in found[0].values())
    away = sum(float(np.square(c - d).sum()) for c, d in zip(*(f.values() for f in found), strict=True))
    assert 0 < away < 0.5 * size


class Asking(repeated.Repeated):
    """Remembers which weights were asked for."""

    def __init__(self, network: td.TensorDAG) -> None:
        super().__init__(network, "torch")
        self.asked: set[str] = set()

    def run_leaf(self, value: td.Value) -> Any:
        self.asked.add(value.op.attributes["leaf"])
        return super().run_leaf(value)


def test_weights_are_read_once_for_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of them changes no result, in whole or in part."""
    dag, data = network("test_resnet")
    small = td.quantize(dag, data, correct=False)
    wanted = [Interpreter(small, "torch").run(torch.from_numpy(x)) for x in data]
    most = repeated.KEPT
    for budget in (0, 5000, most):
        monkeypatch.setattr(repeated, "KEPT", budget)
        runner = Asking(small)
        assert all(torch.equal(runner.run(torch.from_numpy(x)), y) for x, y in zip(data, wanted, strict=True))
        assert sum(v.type.bytes for v in runner.made) <= budget
        assert bool(runner.made) == bool(budget)
        runner.asked = set()
        runner.run(torch.from_numpy(data[0]))
        codes = [n for n in small.weights if n.endswith("weight")]
        assert {0: len(codes), most: 0}.get(budget, 1) <= len(runner.asked & {*codes}) < len(codes) + (not budget)


def test_numbers_made_to_correct_biases_are_those_that_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    dag, data = network("test_resnet")
    found: list[dict[str, Any]] = []
    for room in (0, 20000, repeated.KEPT):
        monkeypatch.setattr(prepare, "KEPT", room)
        small = td.quantize(dag, data)
        found.append({n: np.array(w) for n, w in small.weights.items()})
    assert all(np.array_equal(a, found[0][n]) for other in found[1:] for n, a in other.items())


@pytest.mark.parametrize("target", ["x86", "x86-dynamic", "coreml-weight-only", "gpu-weight-only"])
def test_tied_weights_are_one_tensor_still(target: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(50, 96), nn.Linear(96, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.table(x)))

    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randint(0, 50, (2, 7))
    small = td.quantize(td.from_torch(model, x), [x], target)
    for dag in (small, td.dequantize(small)):
        table, head = dag.state["table.weight"], dag.state["head.weight"]
        assert head.alias_of == "table.weight"
        assert head.type is table.type
        assert np.array_equal(dag.weights["head.weight"], dag.weights["table.weight"])
    assert small.state["head.weight"].type.dtype.name == ("f32" if target == "gpu-weight-only" else "i8")
    held = small.to_torch().state_dict(keep_vars=True)
    assert held["table.weight"].data_ptr() == held["head.weight"].data_ptr()


def test_layers_with_weights_laid_out_for_them_give_what_the_network_gives() -> None:
    """Which are convolutions of images; others stay as they are."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1, bias=False),
        nn.Conv2d(12, 12, (3, 5), padding=(2, 4), dilation=2, groups=3), nn.ConvTranspose2d(12, 4, 2, 2), nn.Flatten(2),
        nn.Conv1d(4, 4, 3), nn.Linear(1726, 3),
    ).eval()  # fmt: skip
    x = torch.randn(2, 4, 35, 47)
    prepared = td.prepare(td.from_torch(model, x), "x86", framework="torch")
    for _ in range(2):
        assert torch.allclose(prepared(x), model(x), atol=1e-5)
    laid = [v.op.name for v, layer in prepared._runner.packed.items() if layer is not None]
    assert laid == ["convolution"] * 4
    prepared.convert()
    assert not prepared._runner.packed


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_rounding_and_reading_at_once_gives_the_same_bits(framework: str) -> None:
    rng = np.random.default_rng(0)
    x, w = td.input("x", (2, 3, 8, 8)), td.parameter("w", (4, 3, 3, 3))
    arrays = {"w": rng.normal(size=(4, 3, 3, 3)).astype("f")}
    y = td.convolution(td.relu(x) - td.neg(x), w, padding=1)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}), arrays)
    data = [rng.normal(size=(2, 3, 8, 8)).astype("f") for _ in range(2)]
    prepared = td.prepare(dag, "x86", framework=framework, least=0).calibrate(data)
    small, in_graph = prepared.convert(), prepared.conversion(in_graph=True).run()
    given = 3 * data[0]  # beyond the range
    given[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    runner = repeated.Repeated(in_graph, framework)
    assert len(runner.together) == 3
    assert {w.dtype.name for w in in_graph.weights.values()} == {"float32"}
    one = given if framework == "numpy" else torch.from_numpy(given)
    assert np.array_equal(np.asarray(runner.run(one)), np.asarray(Interpreter(small, framework).run(one)))


def test_data_is_run_until_corrections_are_settled() -> None:
    """More of it changes little then: what is corrected by all of it is nearly the same."""
    dag, data = network("test_resnet")
    rng = np.random.default_rng(0)
    data = [rng.normal(size=data[0].shape).astype(np.float32) for _ in range(24)]
    prepared = td.prepare(dag).calibrate(data)
    given: list[int] = []

    def counted() -> Iterator[Any]:
        for i, x in enumerate(data):
            given.append(i)
            yield x

    found = prepared.correct(counted()).corrections
    assert 3 <= len(given) < 20
    settled, bias._SETTLED = bias._SETTLED, 0.0
    try:
        wanted = prepared.correct(data).corrections
    finally:
        bias._SETTLED = settled
    size = sum(float(np.square(c).sum()) for c in wanted.values())
    away = sum(float(np.square(c - found[v]).sum()) for v, c in wanted.items())
    assert 0 < away < 0.2 * size
    with pytest.raises(td.InputError, match="there are more"):
        td.prepare(dag).calibrate(data[:1]).correct(data)
    with pytest.raises(td.InputError, match="24 batches, there are 2"):
        prepared.correct(data[:2])


@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 7, 3), -3), ((9, 4, 20), -2), ((3, 2, 4, 5, 6), -3), ((4, 6), -1)])
def test_means_of_parts_are_those_of_channels_moved_to_the_end(shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    np.testing.assert_allclose(means(x, axis), means(moved, -1), atol=1e-12)


@pytest.mark.parametrize(("positions", "parts"), [((8, 8), 8), ((7, 7), 7), ((1, 1), 1), ((1, 13), 8)])
def test_means_of_f32_are_of_parts_that_are_all_as_long(positions: tuple[int, int], parts: int) -> None:
    """Of 13 positions there are none such: they are 8 parts of one and two."""
    x = np.random.default_rng(0).normal(size=(2, 5, *positions)).astype(np.float32)
    found = means(x, -3)
    assert found.shape == (2, parts, 5)
    assert found.dtype == np.float64
    if parts != 8 or positions == (8, 8):
        each = np.moveaxis(x, 1, -1).astype(np.float64).reshape(2, parts, -1, 5).mean(2)
        np.testing.assert_allclose(found, each, atol=1e-6)


def test_corrections_that_help_no_result_are_dropped() -> None:
    """The result is of the first position alone, which is right; the others are clipped."""
    x, w = td.input("x", (4, 33, 8)), td.parameter("w", (8, 8))
    first = td.const(np.arange(33)[:, None] == 0, "f32")
    arrays = {"w": np.eye(8, dtype=np.float32)}
    data = [np.random.default_rng(0).uniform(0, 1, (4, 33, 8)).astype(np.float32)]
    data[0][:, 1:] += 3
    for out, helps in ((td.linear(x, w) * first, False), (td.linear(x, w), True)):
        dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}), arrays)
        prepared = td.prepare(dag, activation=Numbers("u8")).calibrate(data)
        for observer in prepared.observers.values():
            observer.high = 1.0
        assert bool(prepared.correct(data).corrections) == helps


def test_sensitivity_and_quality() -> None:
    dag, data = network("test_resnet")
    found = td.sensitivity(dag, data[:1], "x86")
    assert [f.sqnr for f in found] == sorted(f.sqnr for f in found)
    assert {f.op for f in found} >= {"convolution", "linear"}
    small = td.quantize(dag, data, target={"sqnr": 70})
    wanted = dag.to_torch()(torch.from_numpy(data[0])).detach().numpy()
    assert quality(wanted, small.to_torch()(torch.from_numpy(data[0])).detach().numpy()) > 69
    assert 0 < td.op_counts(small.values)["dequantize"] < td.op_counts(td.quantize(dag, data).values)["dequantize"]
    with pytest.raises(td.AttributeValueError, match="a quality is sqnr=dB, or drop=part"):
        td.quantize(dag, data, target={"speed": 3})


@pytest.mark.parametrize("after", ["nothing", "relu", "relu of what others read"])
def test_of_one_op_the_sensitivity_is_the_whole_network_s(after: str) -> None:
    """What it takes, its weight and what it gives are rounded; the largest channel makes the step of all."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(6, 3, 3, 3)).astype(np.float32)}
    arrays["w"][0] *= 100
    x = td.input("x", (2, 3, 8, 8))
    y = td.convolution(x, td.parameter("w", (6, 3, 3, 3)))
    outputs = {"y": td.relu(y) if after != "nothing" else y} | ({"z": y} if after[-4:] == "read" else {})
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, outputs), arrays)
    data = [rng.normal(size=x.shape).astype(np.float32) for _ in range(2)]
    small = td.quantize(dag, data, "x86", correct=False, least=0)
    runs = [[np.stack(d.run(i)) if "z" in outputs else d.run(i) for i in data] for d in (dag, small)]
    wanted, found = [np.stack(r)[:, 1] if "z" in outputs else np.stack(r) for r in runs]
    assert td.sensitivity(dag, data, "x86", least=0)[0].sqnr == pytest.approx(quality(wanted, found), abs=0.01)


def test_quality_by_choices_and_by_a_metric() -> None:
    rng = np.random.default_rng(0)
    x, a, b = td.input("x", (64, 8)), td.parameter("a", (32, 8)), td.parameter("b", (10, 32))
    arrays = {"a": rng.normal(size=(32, 8)).astype("f"), "b": rng.normal(size=(10, 32)).astype("f")}
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.linear(td.relu(td.linear(x, a)), b)}), arrays)
    data = [rng.normal(size=(64, 8)).astype("f") for _ in range(4)]
    wanted = [dag.run(d) for d in data]

    def drop(small: td.TensorDAG) -> float:
        pairs = zip(wanted, data, strict=True)
        return float(np.mean([(y.argmax(-1) != small.run(d).argmax(-1)).mean() for y, d in pairs]))

    two = Numbers("i2", symmetric=True, per="channel", narrow=True)
    how: dict[str, Any] = {"scheme": "x86", "weight": two, "correct": False}
    whole = drop(td.quantize(dag, data, "x86", weight=two, correct=False))
    mixed = td.quantize(dag, data, {"drop": 0.9 * whole}, **how)
    assert drop(mixed) <= 0.9 * whole
    assert sum(w.dtype == np.int8 for w in mixed.weights.values()) == 1
    same = td.quantize(dag, data, {"drop": 0.9 * whole, "metric": lambda d: -drop(d)}, **how)
    assert same.graph == mixed.graph
    assert "a" in td.quantize(dag, data, {"drop": 1.0}, **how).weights
    with pytest.raises(td.AttributeValueError, match=r"with one op quantized the drop is .*, at most 0 was asked for"):
        td.quantize(dag, data, {"drop": 0}, **how)


def test_kept_ops_stay() -> None:
    dag, data = network("test_vit")
    small = td.quantize(dag, data, keep=["blocks.0", "head.weight"])
    floats = {n for n, w in small.weights.items() if w.dtype == np.float32 and w.ndim > 1}
    assert "head.weight" in floats
    assert "blocks.0.attn.qkv.weight" in floats
    assert small.weights["blocks.1.attn.qkv.weight"].dtype == np.int8
    with pytest.raises(td.AttributeValueError, match="nothing that would be quantized is called 'heads'"):
        td.prepare(dag, keep=["heads"])


def test_weights_of_several_tensors_are_refused_by_name() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    made = TwoTensor(torch.zeros(3, 4), torch.zeros(3, 4))
    model = torch.nn.Linear(4, 3)
    model.weight = torch.nn.Parameter(made)
    with pytest.raises(td.UnsupportedError, match=r"the weight 'weight' is a .*TwoTensor, made of several tensors"):
        td.from_torch(model, torch.zeros(1, 4))
    kind = type("Int8Tensor", (TwoTensor,), {"__module__": "torchao.quantization"})
    model.weight = torch.nn.Parameter(kind(torch.zeros(3, 4), torch.zeros(3, 4)))
    with pytest.raises(td.UnsupportedError, match=r"with torchao\.utils\.unwrap_tensor_subclass\(model\)"):
        td.from_torch(model, torch.zeros(1, 4))


class Tied(torch.nn.Module):
    """A table of words that is the head's weight too, as in GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = torch.nn.Embedding(300, 16), torch.nn.Linear(16, 16)
        self.head = torch.nn.Linear(16, 300, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.layer(self.table(words))))


@pytest.mark.parametrize("target", ["x86", "x86-dynamic"])
def test_a_table_that_is_a_layer_s_weight_too_is_in_the_file_once(target: str) -> None:
    torch.manual_seed(0)
    data = [torch.randint(0, 300, (2, 5)) for _ in range(3)]
    small = td.quantize(td.from_torch(Tied().eval(), data[0]), data, target)
    proto = small.to_onnx()
    tables = [i for i in proto.graph.initializer if sorted(i.dims) == [16, 300]]
    assert [(i.name, i.data_type) for i in tables] == [("table.weight", 3)]
    session = ort.InferenceSession(proto.SerializeToString())
    theirs = session.run(None, {session.get_inputs()[0].name: data[0].numpy()})[0]
    wanted = small.to_torch()(data[0]).detach().numpy()
    back = td.from_onnx(proto).to_torch()(data[0]).detach().numpy()
    assert np.isclose(back, wanted, atol=1e-5).all()
    assert decibels(float(np.square(wanted).sum()), float(np.square(theirs - wanted).sum())) > 25
