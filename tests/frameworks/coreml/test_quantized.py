"""Quantized networks as CoreML packages: run by the interpreter of MIL, read again as the same integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger import library as lib
from tdagger.quantization.profile import Numbers
from tests.frameworks.coreml import programs

torch = pytest.importorskip("torch")
from conformance.mil import Program  # noqa: E402

DRAW = np.random.default_rng(0)


class Attention(torch.nn.Module):
    """Words to logits by one layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(50, 32)
        self.layer = torch.nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, dropout=0)
        self.head = torch.nn.Linear(32, 50)

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(self.words(x)))


def _convs() -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(),
        nn.ConvTranspose2d(8, 16, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 40),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "convolutions": (_convs, lambda: torch.randn(2, 3, 8, 8)),
    "linear": (lambda: torch.nn.Sequential(torch.nn.Linear(96, 64), torch.nn.GELU(), torch.nn.Linear(64, 32)),
               lambda: torch.randn(4, 96)),
    "attention": (Attention, lambda: torch.randint(0, 50, (2, 5))),
}  # fmt: skip

KINDS: dict[str, dict[str, Any]] = {
    "activations and weights": {"target": "coreml"},
    "i8 weights": {"target": "coreml-weight-only"},
    "u8 weights": {"target": "coreml-weight-only", "weight": Numbers("u8", per="tensor")},
    "i4 weights in blocks": {"target": "gpu-weight-only"},
    "u4 weights in blocks": {"target": "gpu-weight-only", "weight": Numbers("u4", per="block", block=16)},
}


def quantized(name: str, kind: str) -> tuple[td.TensorDAG, np.ndarray]:
    """A network in numbers of a kind, and an input."""
    torch.manual_seed(0)
    make, draw = NETWORKS[name]
    data = [draw() for _ in range(3)]
    dag = td.from_torch(make().eval(), data[0])
    return td.quantize(dag, data, **KINDS[kind]), data[0].numpy()


def by_mil(path: Path, x: np.ndarray) -> np.ndarray:
    """The output of a package."""
    program = Program(path)
    ((name, _),) = program.inputs
    return next(iter(program.run({name: x.astype(np.int32) if x.dtype == np.int64 else x}).values()))


def ops(path: Path) -> list[str]:
    return [op.type for op in Program(path).block.operations if op.type != "const"]


def weight_bytes(path: Path) -> int:
    return (path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").stat().st_size


def integers(dag: td.TensorDAG) -> dict[str, np.ndarray]:
    """The weights that are quantized."""
    held = {n: np.asarray(w) for n, w in dag.weights.items() if not n.endswith("_zero_point")}
    return {n: w for n, w in held.items() if w.dtype in (np.int8, np.uint8)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_quantized_network_there_and_back(tmp_path: Path, name: str, kind: str) -> None:
    dag, x = quantized(name, kind)
    path = tmp_path / "q.mlpackage"
    dag.to_coreml(path)
    wanted = dag.run(x)
    step = np.abs(wanted).max() / 127
    assert np.abs(by_mil(path, x) - wanted).max() <= step
    back = td.from_coreml(path)
    found = back.run(x.astype(np.int32) if x.dtype == np.int64 else x)
    assert np.abs(found - wanted).max() <= step
    held, again = integers(dag), integers(back)
    assert held
    assert set(held) == set(again)
    assert all(np.array_equal(held[n], again[n]) for n in held)
    count = [sum(v.op.name == "quantize" for v in d.graph.values) for d in (dag, back)]
    assert count[0] == count[1]
    assert (count[0] > 0) == (kind == "activations and weights")
    floats = [td.dequantize(d) for d in (dag, back)]
    for n in held:
        assert np.allclose(floats[0].weights[n], floats[1].weights[n], rtol=1e-6, atol=0)
    plain = tmp_path / "f.mlpackage"
    floats[0].to_coreml(plain)
    saved = sum(w.size * (3.5 if "4 weights" in kind else 4) * 3 / 4 for w in held.values())
    scales = sum(128 + 4 * w.nbytes for n, w in dag.weights.items() if n.endswith(("_scale", "_zero_point")))
    assert weight_bytes(path) <= weight_bytes(plain) - saved + scales


@pytest.mark.parametrize("kind", ["activations and weights", "i8 weights", "i4 weights in blocks"])
def test_in_f16_within_a_step_or_two(tmp_path: Path, kind: str) -> None:
    dag, x = quantized("linear", kind)
    dag.to_coreml(tmp_path / "q.mlpackage", precision="f16", minimum_target="iOS18")
    assert ops(tmp_path / "q.mlpackage").count("constexpr_blockwise_shift_scale") == 2
    wanted = dag.run(x)
    assert np.abs(by_mil(tmp_path / "q.mlpackage", x) - wanted).max() <= 2 * np.abs(wanted).max() / 127


def test_the_first_operator_set_that_has_the_numbers(tmp_path: Path) -> None:
    for kind, version, op in (
        ("activations and weights", 8, "constexpr_affine_dequantize"),
        ("i8 weights", 7, "constexpr_affine_dequantize"),
        ("i4 weights in blocks", 9, "constexpr_blockwise_shift_scale"),
    ):
        dag, _ = quantized("linear", kind)
        path = tmp_path / f"{version}.mlpackage"
        dag.to_coreml(path)
        assert Program(path).model.specificationVersion == version
        assert ops(path).count(op) == 2


def test_what_an_operator_set_does_not_have(tmp_path: Path) -> None:
    dag, _ = quantized("linear", "activations and weights")
    with pytest.raises(td.UnsupportedError, match=r"2 x quantize: MIL has it since iOS17 \(minimum_target='iOS17'\)"):
        dag.to_coreml(minimum_target="iOS16")
    dag, x = quantized("linear", "i4 weights in blocks")
    path = tmp_path / "q.mlpackage"
    with pytest.warns(UserWarning, match=r"written as floats: 0.weight, 2.weight \(MIL has scales for blocks since"):
        dag.to_coreml(path, minimum_target="iOS17")
    assert "constexpr_affine_dequantize" not in ops(path)
    assert np.allclose(by_mil(path, x), dag.run(x), atol=1e-5)
    dag, x = quantized("linear", "i8 weights")
    with pytest.warns(UserWarning, match="MIL has weights of few bits since iOS16"):
        dag.to_coreml(path, minimum_target="iOS15")


def test_refusals() -> None:
    x = td.input("x", (2, 8))
    scale = td.const(0.1, "f32")

    def refused(value: td.Value, match: str) -> None:
        dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": value}))
        with pytest.raises(td.UnsupportedError, match=match):
            dag.to_coreml(minimum_target="iOS18")

    def there_and_back(scale: td.Value, **how: Any) -> td.Value:
        reading = {k: v for k, v in how.items() if k in ("axis", "block")}
        return lib.dequantize(lib.quantize(x, scale, **how), scale, **reading)

    refused(there_and_back(scale, to="i16"), "MIL rounds what is computed to i8 and u8, not i16")
    refused(there_and_back(scale, to="i4"), "not i4: quantize activations to i8")
    refused(
        there_and_back(td.const(np.ones((2, 2)), "f32"), to="i8", axis=1, block=4), "scales in blocks for weights alone"
    )
    refused(there_and_back(td.const(np.ones((2, 8)), "f32"), to="i8"), "entries of several axes")
    refused(there_and_back(td.const(0.0, "f32"), to="i8"), "MIL's are above 0")
    refused(there_and_back(td.const(np.ones(8), "f32"), to="i8", axis=1, low=-4), "with several scales")
    codes, own, zero = lib.quantize_dynamic(x)
    refused(lib.dequantize(codes, own, zero), "its scale depends on data")


ROUNDED: dict[str, Callable[[td.Value], td.Value]] = {
    "u8 with a zero point": lambda x: _read(x, td.const(0.05, "f32"), td.const(100, "u8"), to="u8"),
    "i8 along an axis": lambda x: _read(
        x, td.const([0.01, 0.02, 0.03], "f32"), td.const(np.array([1, -2, 3], np.int8), "i8"), to="i8", axis=-2),
    "one scale and several zero points": lambda x: _read(
        x, td.const(0.02, "f32"), td.const(np.array([1, 2, 3, 4], np.uint8), "u8"), to="u8", axis=2),
    "within narrower bounds": lambda x: _read(x, td.const(0.01, "f32"), td.const(5, "i8"), to="i8", low=-100, high=90),
    "as torch rounds": lambda x: _read(x, td.const(0.05, "f32"), None, to="i8", like="torch"),
    "fake": lambda x: lib.fake_quantize(x, td.const(0.05, "f32"), to="i8"),
    "moved as integers": lambda x: lib.dequantize(
        td.slice_axis(td.group(td.permute(_bytes(x), (2, 0, 1)), (1, 2)), 1, 1, 5), td.const(0.05, "f32")),
}  # fmt: skip


def _bytes(x: td.Value) -> td.Value:
    return lib.quantize(x, td.const(0.05, "f32"), to="i8")


def _read(x: td.Value, scale: td.Value, zero: td.Value | None, **how: Any) -> td.Value:
    axis = how.get("axis")
    return lib.dequantize(lib.quantize(x, scale, zero, **how), scale, zero, axis=axis)


@pytest.mark.parametrize("name", ROUNDED)
def test_what_is_computed_is_rounded(tmp_path: Path, name: str) -> None:
    dag = td.network(lambda x: ROUNDED[name](x), {"x": (2, 3, 4)})
    x = DRAW.normal(size=(2, 3, 4)).astype(np.float32) * 3
    path = tmp_path / "q.mlpackage"
    dag.to_coreml(path)
    assert ops(path).count("quantize") == ops(path).count("dequantize") == 1
    assert np.array_equal(by_mil(path, x), dag.run(x))
    assert np.array_equal(td.from_coreml(path).run(x), dag.run(x))


def _leaf(name: str, array: np.ndarray) -> tuple[td.Value, dict[str, np.ndarray]]:
    return td.buffer(name, array.shape, td.DType.of(array.dtype)), {name: array}


#: A weight [6 8] in numbers of some kind: element type, shape of scales, attributes, whether there are zero points.
WEIGHTS: dict[str, tuple[str, tuple[int, ...], dict[str, Any], bool]] = {
    "one scale": ("i8", (), {}, False),
    "one scale, a zero point": ("u8", (), {}, True),
    "each row": ("i8", (6,), {"axis": 0}, True),
    "each column": ("u8", (8,), {"axis": -1}, True),
    "each row, of 4 bits": ("i8", (6,), {"axis": 0, "of": "i4"}, False),
    "of 2 bits": ("u8", (8,), {"axis": 1, "of": "u2"}, False),
    "blocks": ("u8", (6, 2), {"axis": 1, "block": 4, "of": "u4"}, True),
    "a short last block": ("i8", (2, 8), {"axis": 0, "block": 4}, True),
    "one block": ("i8", (6, 1), {"axis": 1, "block": 32, "of": "i4"}, False),
}
MOVES: dict[str, Callable[[td.Value], td.Value]] = {
    "as it is": lambda w: w,
    "permuted": lambda w: td.permute(w, (1, 0)),
    "with more axes": lambda w: td.unsqueeze(w, (0, 2)),
    "permuted with more axes": lambda w: td.permute(td.unsqueeze(w, (1,)), (2, 1, 0)),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_in_every_form(tmp_path: Path, kind: str, move: str) -> None:
    dtype, shape, how, has_zero = WEIGHTS[kind]
    low, high = {"": (-100, 100), "i4": (-8, 8), "u4": (0, 16), "u2": (0, 4)}[how.get("of", "")]
    codes = DRAW.integers(max(low, 0 if dtype == "u8" else low), high, (6, 8)).astype(td.DType.of(dtype).numpy)
    parts = [_leaf("w", codes), _leaf("w_scale", DRAW.uniform(0.1, 1, shape).astype(np.float32))]
    parts += [_leaf("w_zero_point", DRAW.integers(0, 4, shape).astype(codes.dtype))] if has_zero else []
    read = lib.dequantize(*[v for v, _ in parts], **how)
    x = td.input("x", MOVES[move](read).shape)
    graph = td.Graph({"x": x}, {"y": x + MOVES[move](read)})
    dag = td.TensorDAG.of_graph(graph, {n: a for _, held in parts for n, a in held.items()})
    given = np.zeros(x.shape, np.float32)
    path = tmp_path / "q.mlpackage"
    dag.to_coreml(path, minimum_target="iOS18")
    assert ops(path)[0] == "constexpr_blockwise_shift_scale"
    back = td.from_coreml(path)
    for found in (by_mil(path, given), back.run(given)):
        assert np.allclose(found, dag.run(given), rtol=1e-6, atol=1e-6)
    assert np.array_equal(np.sort(back.weights["w"], None), np.sort(codes, None))
    (again,) = [v for v in back.graph.values if v.op.name == "dequantize"]
    assert again.op.attributes["of"] == how.get("of", "").replace("2", "4")
    if "block" not in kind:
        dag.to_coreml(path, minimum_target="iOS16")
        assert ops(path)[0] == "constexpr_affine_dequantize"
        for found in (by_mil(path, given), td.from_coreml(path).run(given)):
            assert np.allclose(found, dag.run(given), rtol=1e-6, atol=1e-6)


def test_scales_that_take_as_much_are_said(tmp_path: Path) -> None:
    w, held = _leaf("w", np.ones((4, 8), np.int8))
    scale, more = _leaf("s", np.ones((4, 8), np.float32))
    x = td.input("x", (4, 8))
    own, few = _leaf("few", np.ones(1, np.int8))  # too small to be worth a word
    y = x + lib.dequantize(w, scale) + lib.dequantize(own, td.const(0.5, "f32"))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}), held | more | few)
    with pytest.warns(UserWarning, match=r"floats: w \(it has as many scales as that takes no less\)"):
        dag.to_coreml(tmp_path / "q.mlpackage", minimum_target="iOS18")


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    w, held = _leaf("w", np.full((4, 32), 9, np.int8))
    x = td.input("x", (4, 32))
    read = lib.dequantize(w, td.const(0.5, "f32"), of="i4")
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": x + read}), held)
    with pytest.raises(td.UnsupportedError, match="9 to 9 aren't all of int4"):
        dag.to_coreml(tmp_path / "q.mlpackage")


def test_small_scales_stay_in_f32(tmp_path: Path) -> None:
    """f16 has few digits of 1e-7."""
    dag = td.network(lambda x: _read(x, td.const(1e-7, "f32"), None, to="i8"), {"x": (2, 8)})
    x = (DRAW.normal(size=(2, 8)) * 1e-6).astype(np.float32)
    dag.to_coreml(tmp_path / "q.mlpackage", precision="f16")
    assert np.array_equal(by_mil(tmp_path / "q.mlpackage", x), dag.run(x))


def test_open_axes(tmp_path: Path) -> None:
    dag, x = quantized("linear", "activations and weights")
    path = tmp_path / "q.mlpackage"
    dag.to_coreml(path, dynamic=("b",))
    for n in (1, 5):
        more = np.resize(x, (n, *x.shape[1:]))
        wanted = dag.resize(b=n).run(more)
        assert np.abs(by_mil(path, more) - wanted).max() <= np.abs(wanted).max() / 127


def test_blocks_of_files_of_others() -> None:
    """Scales of convolutions are of blocks of channels; those of blocks along two axes are worked out."""
    codes = DRAW.integers(-8, 8, (4, 6, 2, 2)).astype(np.int8)

    def read(scale: np.ndarray, **more: Any) -> td.TensorDAG:
        op = (
            "constexpr_blockwise_shift_scale",
            {"data": codes, "scale": scale, **more},
            [("w", "float32", codes.shape)],
        )
        add = ("add", {"x": "=x", "y": "=w"}, [("y", "float32", codes.shape)])
        return td.from_coreml(programs.program({"x": ("float32", codes.shape)}, [op, add], ["y"], 18))

    def scaled(scale: np.ndarray) -> np.ndarray:
        return codes * np.kron(scale, np.ones([n // s for n, s in zip(codes.shape, scale.shape, strict=True)]))

    for shape, is_quantized in (
        ((4, 3, 1, 1), True), ((4, 1, 1, 1), True), ((1, 1, 1, 1), True), ((4, 1, 2, 1), True), ((2, 3, 1, 1), False),
    ):  # fmt: skip
        scale = DRAW.uniform(0.1, 1, shape).astype(np.float32)
        dag = read(scale)
        assert np.allclose(dag.run(np.zeros(codes.shape, np.float32)), scaled(scale), rtol=1e-6)
        assert any(v.op.name == "dequantize" for v in dag.graph.values) == is_quantized
    half = read(np.full((4, 1, 1, 1), 0.5, np.float32), offset=np.full((4, 1, 1, 1), 0.5, np.float32))
    assert np.allclose(half.run(np.zeros(codes.shape, np.float32)), (codes - 0.5) / 2)
    assert half.weights["w"].dtype == np.float32
