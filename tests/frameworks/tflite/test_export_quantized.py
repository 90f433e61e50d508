"""Quantized networks as TFLite: which kernels are of integers, that they give what the network gives, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tdagger import library as lib
from tdagger.ops.structure import slice_axis
from tdagger.quantization.profile import Numbers, Profile, Row
from tdagger.quantization.profiles import profile_of
from tests.frameworks.tflite.build import Build
from tests.frameworks.tflite.litert import DEFAULT, PLAIN, counts, interpreter, run

BORDERS = {"QUANTIZE", "DEQUANTIZE", "DELEGATE"}


class Fn(nn.Module):
    """A function of an input and modules."""

    def __init__(self, function: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x, *self.inner)


def kernels(model: bytes) -> set[tuple[str, str]]:
    """The operators of a file but for its borders, and the element types of their results."""
    made = interpreter.Interpreter(model_content=model)
    types = {d["index"]: np.dtype(d["dtype"]).name for d in made.get_tensor_details()}
    ops = made._get_ops_details()
    return {(o["op_name"], types[o["outputs"][0]]) for o in ops if o["op_name"] not in BORDERS}


def quantized(module: nn.Module, *shape: int) -> tuple[td.TensorDAG, bytes, list[np.ndarray]]:
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=0.4)
    data = [torch.randn(*shape) for _ in range(3)]
    small = td.quantize(td.from_torch(module.eval(), data[0]), data, target="tflite")
    return small, small.to_tflite(), [d.numpy() for d in data]


def conv(i: int, o: int, k: int = 1, **more: Any) -> nn.Module:
    return nn.Conv2d(i, o, k, **more)


CASES: dict[str, tuple[nn.Module, tuple[int, ...], set[str]]] = {
    "convolution": (nn.Sequential(conv(3, 8, 3, stride=2, padding=1), nn.ReLU6()), (2, 3, 9, 9), {"CONV_2D"}),
    "groups": (conv(4, 8, 3, groups=2), (1, 4, 9, 9), {"CONV_2D"}),
    "depthwise": (conv(4, 8, 3, groups=4, dilation=2, bias=False), (1, 4, 9, 9), {"DEPTHWISE_CONV_2D"}),
    "sequence": (nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU()), (1, 3, 19), {"CONV_2D", "RESHAPE"}),
    "linear": (nn.Sequential(nn.Linear(8, 4, bias=False), nn.ReLU()), (2, 3, 8), {"FULLY_CONNECTED"}),
    "max pool": (nn.Sequential(conv(3, 8), nn.MaxPool2d(3, 2, 1), conv(8, 4)), (1, 3, 8, 8),
                 {"CONV_2D", "PADV2", "MAX_POOL_2D"}),
    "average pool": (nn.Sequential(conv(3, 8), nn.AvgPool2d(3), conv(8, 4)), (1, 3, 9, 9),
                     {"CONV_2D", "AVERAGE_POOL_2D"}),
    "mean": (Fn(lambda x, a, b: b(a(x).mean((2, 3))), conv(3, 8), nn.Linear(8, 4)), (2, 3, 6, 6),
             {"CONV_2D", "MEAN", "FULLY_CONNECTED"}),
    "concat": (Fn(lambda x, a, b, c: c(torch.cat([torch.sigmoid(a(x)), b(x)], 1)), conv(3, 4), conv(3, 4), conv(8, 2)),
               (1, 3, 6, 6), {"CONV_2D", "LOGISTIC", "CONCATENATION"}),
    "sum": (Fn(lambda x, a, b: a(x) + b(x), conv(3, 4), conv(3, 4)), (1, 3, 6, 6), {"CONV_2D", "ADD"}),
    "silu": (nn.Sequential(conv(3, 8), nn.SiLU()), (1, 3, 6, 6), {"CONV_2D", "LOGISTIC", "MUL"}),
    "gate": (Fn(lambda x, a, b: (y := a(x)) * torch.sigmoid(b(y.mean((2, 3), keepdim=True))), conv(3, 8), conv(8, 8)),
             (1, 3, 6, 6), {"CONV_2D", "MEAN", "LOGISTIC", "MUL"}),
    "softmax": (Fn(lambda x, a: torch.softmax(a(x), -1), nn.Linear(8, 6)), (4, 8), {"FULLY_CONNECTED", "SOFTMAX"}),
    "tanh": (nn.Sequential(nn.Linear(8, 6), nn.Tanh()), (64, 8), {"FULLY_CONNECTED", "TANH"}),
    "leaky": (nn.Sequential(conv(3, 8), nn.LeakyReLU(0.2)), (1, 3, 6, 6), {"CONV_2D", "LEAKY_RELU"}),
    "padding": (Fn(lambda x, a, b: b(F.pad(a(x), (1, 1, 1, 1), value=0.3)), conv(3, 8), conv(8, 4)), (1, 3, 6, 6),
                {"CONV_2D", "PADV2"}),
    "products": (Fn(lambda x, a, b: a(x) @ b(x).transpose(-1, -2), nn.Linear(8, 8), nn.Linear(8, 8)), (2, 5, 8),
                 {"FULLY_CONNECTED", "BATCH_MATMUL"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_of_integers(name: str) -> None:
    module, shape, wanted = CASES[name]
    small, model, data = quantized(module, *shape)
    assert kernels(model) - {("TRANSPOSE", "int8")} == {(k, "int8") for k in wanted}
    step = float(next(iter(small.graph.outputs.values())).args[1].op.data)
    back = td.from_tflite(model)
    for x in data:
        expected = small.run(x)
        for how in (DEFAULT, PLAIN):
            error = np.abs(run(model, [x], how)[0] - expected) / step
            # a layer may take what an operator before it rounded otherwise by a step
            assert (error < 1.001).mean() >= 0.97
            assert error.max() < 3.001
        # the same numbers, summed with channels last: what lies between two steps may be rounded the other way
        error = np.abs(back.run(x) - expected) / step
        assert (error < 1.001).mean() >= 0.97
        assert error.max() < 3.001


def test_scales_are_as_kernels_want_them() -> None:
    _, model, _ = quantized(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid()), 1, 3, 6, 6)
    made = interpreter.Interpreter(model_content=model)
    steps = {d["name"]: (d["quantization_parameters"], d["dtype"]) for d in made.get_tensor_details()}
    sigmoid = next(q for n, (q, _) in steps.items() if "quantize" in n and q["scales"][:1] == np.float32(1 / 256))
    assert sigmoid["zero_points"].tolist() == [-128]
    weight, bias = (next(q for q, t in steps.values() if q["scales"].size == 8 and t is k) for k in (np.int8, np.int32))
    assert not weight["zero_points"].any()
    assert weight["quantized_dimension"] == 0
    x = next(q for n, (q, _) in steps.items() if n == "0/quantize")
    np.testing.assert_array_equal(bias["scales"], weight["scales"] * x["scales"])


def test_a_residual_network() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    data = [torch.randn(1, 3, 64, 64) for _ in range(2)]
    dag = td.from_torch(timm.create_model("resnet18").eval(), data[0])
    small = td.quantize(dag, data, target="tflite")
    model = small.to_tflite()
    assert {t for _, t in kernels(model)} == {"int8"}
    assert len(model) < 0.27 * len(dag.to_tflite())
    step = float(next(iter(small.graph.outputs.values())).args[1].op.data)
    x = torch.randn(1, 3, 64, 64).numpy()
    error = np.abs(run(model, [x])[0] - small.run(x)) / step
    assert (error < 1.001).mean() >= 0.999


def test_what_has_no_kernel_stays_in_float() -> None:
    """Between QUANTIZE and DEQUANTIZE; a constant that isn't quantized isn't rounded."""
    small, model, data = quantized(
        Fn(lambda x, a, b: b(a(x) + torch.linspace(0, 1, 6)), conv(3, 8), conv(8, 4)), 1, 3, 6, 6
    )
    assert {k for k in kernels(model) if k[1] == "float32"} == {("ADD", "float32")}
    step = float(next(iter(small.graph.outputs.values())).args[1].op.data)
    np.testing.assert_allclose(td.from_tflite(model).run(data[0]), small.run(data[0]), rtol=0, atol=3.001 * step)


def test_weights_alone() -> None:
    """They are stored as integers and read; nothing else is rounded."""
    rows = {**profile_of("tflite").rows, "embedding": Row((0,), weight=0, channel=0, summed=1)}
    numbers = Numbers("i8", symmetric=True, per="channel", narrow=True)
    module = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    x = torch.randint(0, 50, (2, 9))
    dag = td.from_torch(module, x)
    small = td.quantize(dag, [x], target=Profile("weights", numbers, None, rows), correct=False)
    model = small.to_tflite()
    made = interpreter.Interpreter(model_content=model)
    shapes = {tuple(d["shape"]) for d in made.get_tensor_details() if d["dtype"] is np.int8}
    assert shapes == {(50, 16), (32, 16), (4, 32)}
    np.testing.assert_allclose(run(model, [x.numpy()])[0], small.run(x.numpy()), rtol=1e-5, atol=1e-6)


def test_integers_in_and_out() -> None:
    """As files of others have it: entries are moved as integers, state too."""
    x, old = td.input("x", (1, 2, 4), "i8"), td.buffer("state", (1, 2, 4), "i8")
    scale, zero = td.const(0.5, "f32"), td.const(3, "i8")
    both = td.concat([old, x], 1)
    read = lib.dequantize(td.permute(both, (0, 2, 1)), scale, zero)
    out = lib.quantize(lib.relu(read), scale, zero, to="i8")
    graph = td.Graph({"x": x}, {"y": out}, {"state": td.slice_axis(both, 1, 2, 4)})
    dag = td.TensorDAG.of_graph(graph, weights={"state": np.full((1, 2, 4), -7, np.int8)})
    model = dag.to_tflite()
    assert {t for _, t in kernels(model)} == {"int8"}
    given = np.arange(-4, 4, dtype=np.int8).reshape(1, 2, 4)
    np.testing.assert_array_equal(run(model, [given])[0], np.asarray(dag.run(given)))


def test_what_is_rounded_before_is_rounded_once() -> None:
    """A tensor that is rounded for an operator, and later moved and rounded: the first is taken, where it stands."""
    x, scale = td.input("x", (2, 4)), td.const(0.1, "f32")
    small = lib.dequantize(lib.quantize(x, scale, to="i8"), scale)
    moved = lib.dequantize(lib.quantize(td.reshape(x, shape=(4, 2)), scale, to="i8"), scale)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.sin(small), "z": td.cos(moved)}))
    model, data = dag.to_tflite(), np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    assert counts(model)["QUANTIZE"] == 1
    for own, wanted in zip(run(model, [data]), dag.run(data), strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-6)


def test_one_input_of_two_scales() -> None:
    x = td.input("x", (4,), "i8")
    a, b = (lib.dequantize(x, td.const(s, "f32")) for s in (0.5, 0.25))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": a + b}))
    given = np.array([-128, -1, 3, 127], np.int8)
    np.testing.assert_array_equal(run(dag.to_tflite(), [given])[0], dag.run(given))


def test_moved_integers_of_different_scales_are_refused() -> None:
    x, y = (td.input(n, (1, 4), "i8") for n in "xy")
    read = [lib.dequantize(v, td.const(s, "f32")) for v, s in ((x, 0.5), (y, 0.25))]
    graph = td.Graph({"x": x, "y": y}, {"a": read[0], "b": read[1], "c": td.concat([x, y], 0)})
    with pytest.raises(td.UnsupportedError, match="CONCATENATION of integers of different scales"):
        td.TensorDAG.of_graph(graph).to_tflite()


def read(x: td.Value, scale: float, zero: int, to: str = "i8") -> td.Value:
    """Rounded and read."""
    steps = td.const(scale, "f32"), td.const(zero, to)
    return lib.dequantize(lib.quantize(x, *steps, to=to), *steps)


WEIGHT = lib.dequantize(td.const(np.arange(-16, 16).reshape(2, 4, 2, 2), "i8"), td.const(0.03, "f32"))
BY_HAND: dict[str, tuple[Callable[[td.Value], td.Value], tuple[float, int]]] = {
    "TRANSPOSE_CONV": (lambda x: lib.convolution_transpose(x, WEIGHT, stride=2), (0.02, 5)),
    "RESIZE_BILINEAR": (lambda x: lib.interpolate(x, size=(7, 9), mode="linear"), (0.02, 3)),
    "RELU": (lambda x: lib.relu(x), (0.015, -128)),
    "RELU6": (lambda x: lib.relu6(x), (0.02, -120)),
    "GELU": (lambda x: lib.gelu(x), (0.015, -90)),
    "SUB": (lambda x: lib.subtract(x, td.permute(x, (0, 1, 3, 2))), (0.03, 1)),
    "GATHER": (lambda x: td.gather(x, td.const(np.array([1, 0, 1]), "i64"), 1), (0.02, 3)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_one_kernel(name: str) -> None:
    function, (scale, zero) = BY_HAND[name]
    x = td.input("x", (1, 2, 4, 4))
    image = lib.convolution(read(x, 0.02, 3), td.const(np.eye(2).reshape(2, 2, 1, 1), "f32"))  # channels go last
    out = read(function(read(image, 0.02, 3)), scale, zero)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": out}))
    model = dag.to_tflite()
    assert {t for k, t in kernels(model) if k == name} == {"int8"}
    given = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    for how in (DEFAULT, PLAIN):
        assert np.abs(run(model, [given], how)[0] - dag.run(given)).max() < 1.001 * scale


WIDE: dict[str, tuple[Callable[[td.Value], td.Value], float]] = {
    "TRANSPOSE_CONV": (BY_HAND["TRANSPOSE_CONV"][0], 2e-4),
    "SUB": (BY_HAND["SUB"][0], 3e-4),
    "BATCH_MATMUL": (lambda x: lib.matmul(x, td.permute(x, (0, 1, 3, 2))), 2e-3),
    "TANH": (td.tanh, 2.0**-15),
    "MEAN": (lambda x: lib.mean(x, axes=(2, 3), keep=True), 1e-4),
    "GATHER": (BY_HAND["GATHER"][0], 2e-4),
    "PAD": (lambda x: td.pad(x, (None, None, (1, 1), None)), 2e-4),
    "REVERSE_V2": (lambda x: td.flip(x, (2,)), 2e-4),
    "STRIDED_SLICE": (lambda x: slice_axis(x, 2, 0, None, 2), 2e-4),
    "RESIZE_NEAREST_NEIGHBOR": (lambda x: lib.interpolate(x, size=(8, 8), mode="nearest"), 2e-4),
}


@pytest.mark.parametrize("name", WIDE)
def test_one_kernel_of_i16(name: str) -> None:
    function, scale = WIDE[name]
    x = td.input("x", (1, 2, 4, 4))
    image = lib.convolution(read(x, 2e-4, 0, "i16"), td.const(np.eye(2).reshape(2, 2, 1, 1), "f32"))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": read(function(read(image, 2e-4, 0, "i16")), scale, 0, "i16")}))
    model = dag.to_tflite()
    assert {t for k, t in kernels(model) if k == name} == {"int16"}
    given = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    for how in (DEFAULT, PLAIN):  # TANH is by a table
        assert np.abs(run(model, [given], how)[0] - dag.run(given)).max() < (4.001 if name == "TANH" else 1.001) * scale


def unsigned() -> bytes:
    """A network of u8 as TensorFlow 1 wrote them: weights with a zero point."""
    rng = np.random.default_rng(0)
    b = Build()

    def layer(op: str, x: int, size: tuple[int, ...], out: tuple[int, ...], scale: float, **options: Any) -> int:
        weight = b.const(rng.integers(0, 256, size).astype(np.uint8), scale=0.01, zero=131)
        bias = b.const(rng.integers(-500, 500, size[0]).astype(np.int32), scale=scale * 0.01)
        y = b.tensor(out, "u8", scale=0.05, zero=120)
        b.op(op, [x, weight, bias], [y], **options)
        return y

    x = b.input((1, 8, 8, 3), "u8", name="x", scale=0.02, zero=120)
    strides = {"strideH": 1, "strideW": 1}
    y = layer("CONV_2D", x, (4, 3, 3, 3), (1, 8, 8, 4), 0.02, padding=0, dilationHFactor=1, dilationWFactor=1,
              fusedActivationFunction=1, **strides)  # fmt: skip
    for op in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        half = (1, b.graph.tensors[y].shape[1] // 2, b.graph.tensors[y].shape[2] // 2, 4)
        pooled = b.tensor(half, "u8", scale=0.05, zero=120)
        b.op(op, [y], [pooled], padding=1, filterHeight=2, filterWidth=2, strideH=2, strideW=2)
        y = pooled
    flat = b.tensor((1, 16), "u8", scale=0.05, zero=120)
    b.op("RESHAPE", [y, b.const(np.array([1, 16], np.int32))], [flat], newShape=[1, 16])
    y = layer("FULLY_CONNECTED", flat, (5, 16), (1, 5), 0.05)
    out = b.tensor((1, 5), "u8", name="y", scale=1 / 256, zero=0)
    b.op("SOFTMAX", [y], [out], beta=1.0)
    b.output(out)
    return b.bytes()


def test_kernels_of_u8() -> None:
    """A file of others of u8 is read and written again as the operators that it was, with the same results."""
    dag = td.from_tflite(unsigned())
    again = dag.to_tflite()
    assert counts(again) == counts(unsigned())
    for seed in range(5):
        x = np.random.default_rng(seed).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
        (ours,), (theirs,) = run(again, [x], PLAIN), run(unsigned(), [x], PLAIN)
        np.testing.assert_array_equal(ours, theirs)
        assert np.abs(theirs.astype(int) - dag.run(x)).max() <= 1
    small = td.from_tflite(dag.resize(b=2).to_tflite())
    assert [v.shape for v in small.graph.outputs.values()] == [(2, 5)]


def wide() -> bytes:
    """A network of i16 with weights of i8, as converters write it (int16x8)."""
    rng = np.random.default_rng(0)
    b = Build()

    def layer(op: str, x: int, size: tuple[int, ...], out: tuple[int, ...], **options: Any) -> int:
        axis, count = (3, size[3]) if op[0] == "D" else (0, size[0])
        steps = rng.uniform(0.005, 0.02, count)
        weight = b.const(rng.integers(-127, 128, size).astype(np.int8), scale=steps, axis=axis)
        bias = b.const(rng.integers(-9000, 9000, count).astype(np.int64), scale=steps * 0.001)
        y = b.tensor(out, "i16", scale=0.001)
        b.op(op, [x, weight, bias], [y], **options)
        return y

    def made(op: str, inputs: list[int], out: tuple[int, ...], scale: float = 0.001, **options: Any) -> int:
        y = b.tensor(out, "i16", scale=scale)
        b.op(op, inputs, [y], **options)
        return y

    windows = {"strideH": 1, "strideW": 1, "padding": 0}
    x = b.input((1, 8, 8, 3), "i16", name="x", scale=0.001)
    y = layer("CONV_2D", x, (4, 3, 3, 3), (1, 8, 8, 4), fusedActivationFunction=1, **windows)
    z = layer("DEPTHWISE_CONV_2D", y, (1, 3, 3, 4), (1, 8, 8, 4), depthMultiplier=1, **windows)
    y = made("ADD", [y, z], (1, 8, 8, 4), 0.002, potScaleInt16=False)
    gate = made("LOGISTIC", [y], (1, 8, 8, 4), 2**-15)
    y = made("MUL", [y, gate], (1, 8, 8, 4))
    y = made("AVERAGE_POOL_2D", [y], (1, 4, 4, 4), filterHeight=2, filterWidth=2, strideH=2, strideW=2, padding=1)
    y = made("MAX_POOL_2D", [y], (1, 2, 2, 4), filterHeight=2, filterWidth=2, strideH=2, strideW=2, padding=1)
    y = made("RESHAPE", [y, b.const(np.array([1, 16], np.int32))], (1, 16), newShape=[1, 16])
    y = layer("FULLY_CONNECTED", y, (5, 16), (1, 5))
    y = made("SOFTMAX", [y], (1, 5), 2**-15, beta=1.0)
    b.output(y)
    return b.bytes()


def test_kernels_of_i16() -> None:
    """So is one of i16, with the same results."""
    dag = td.from_tflite(wide())
    again = dag.to_tflite()
    assert counts(again) == counts(wide())
    for seed in range(5):
        x = np.random.default_rng(seed).integers(-(2**15), 2**15, (1, 8, 8, 3)).astype(np.int16)
        (ours,), (theirs,) = run(again, [x], PLAIN), run(wide(), [x], PLAIN)
        np.testing.assert_array_equal(ours, theirs)
        assert np.abs(theirs.astype(int) - dag.run(x)).max() <= 2  # the functions are tables there
    small = td.from_tflite(dag.resize(b=2).to_tflite())
    assert [v.shape for v in small.graph.outputs.values()] == [(2, 5)]
