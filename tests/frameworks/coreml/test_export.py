"""Networks written as CoreML packages, run by an interpreter of MIL, and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger import library as lib

torch = pytest.importorskip("torch")
from conformance.mil import Program  # noqa: E402

DRAW = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return DRAW.normal(size=shape).astype(np.float32)


def by_mil(path: Path, *arrays: np.ndarray) -> list[np.ndarray]:
    """The outputs of a package."""
    program = Program(path)
    feeds = {n: a for (n, _), a in zip(program.inputs, arrays, strict=True)}
    with np.errstate(all="ignore"):
        return list(program.run(feeds).values())


def both(dag: td.TensorDAG, path: Path, *arrays: np.ndarray, **options: Any) -> None:
    """The package gives what the network does, and so does what is read of it."""
    wanted = dag.run(*arrays)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    dag.to_coreml(path, **options)
    given = [a.astype(np.int32) if a.dtype in (np.int64, np.bool_) else a for a in arrays]
    back = td.from_coreml(path)
    again = back.run(*[a.astype(v.dtype.numpy) for a, v in zip(given, back.graph.inputs.values(), strict=True)])
    for found in (by_mil(path, *given), again if isinstance(again, tuple) else (again,)):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.norm = torch.nn.BatchNorm2d(4)
        self.up = torch.nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=1, padding=1)
        self.head = torch.nn.Linear(4, 5)
        self.ln = torch.nn.LayerNorm(5)

    def forward(self, x: Any) -> Any:
        x = torch.nn.functional.hardswish(self.norm(self.conv(x)))
        x = torch.nn.functional.interpolate(self.up(x), scale_factor=2, mode="nearest")
        return self.ln(self.head(x.mean((2, 3)))).softmax(-1)


def network() -> td.TensorDAG:
    torch.manual_seed(0)
    return td.from_torch(Net().eval(), torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("minimum_target", ["iOS15", "iOS16", "iOS17", "iOS18"])
def test_a_network_to_every_operator_set(tmp_path: Path, minimum_target: str) -> None:
    both(network(), tmp_path / "a.mlpackage", floats(2, 3, 8, 8), minimum_target=minimum_target)


#: What there is no op of MIL for, or not in this form: bodies and identities stand for it.
OPS: dict[str, tuple[Any, tuple[np.ndarray, ...]]] = {
    "erfc": (td.erfc, (floats(7),)),
    "trunc": (td.trunc, (floats(7) * 3,)),
    "log1p": (td.log1p, (np.abs(floats(7)),)),
    "isinf": (lambda x: td.isinf(x), (np.array([1, np.inf, np.nan], np.float32),)),
    "reciprocal": (td.reciprocal, (floats(5),)),
    "log_softmax": (lambda x: lib.log_softmax(x, axis=1), (floats(2, 5) * 40,)),
    "group_norm": (lambda x: lib.group_norm(x, groups=2), (floats(2, 4, 5),)),
    "rms_norm": (lambda x: lib.rms_norm(x), (floats(2, 4, 5),)),
    "six axes": (lambda x: td.group(td.permute(td.ungroup(td.ungroup(x, 1, (2, 4)), 3, (2, 4)), (0, 1, 3, 2, 4, 5)),
                                    (3, 1, 1, 1)), (floats(2, 8, 8, 3),)),
    "unfold": (lambda x: td.unfold(x, 1, 3, 2), (floats(2, 9),)),
    "fold": (lambda x: td.fold(x, 1, 3, 2), (floats(2, 12),)),
    "interior pad": (lambda x: td.pad(x, [(1, 0, 2), (0, 1, 0)]), (floats(3, 4),)),
    "whole pad": (lambda x: td.pad(x, [(1, 2)], 7), (np.arange(4),)),
    "gather": (lambda x, i: td.gather(x, i, 1), (floats(2, 6, 3), np.array([[5, 0], [3, 3]]))),
    "gather of batches": (lambda x, i: td.gather(x, i, 1, 1), (floats(2, 6, 3), np.array([[5, 0], [3, 3]]))),
    "take_along": (lambda x, i: td.take_along(x, i, 1), (floats(2, 6), np.array([[5, 0], [3, 3]]))),
    "scatter": (lambda x, i: td.scatter(x, i, td.slice_axis(x, 0, 0, 2), 0, kind="add"), (
        floats(4, 3), np.array([3, 0]))),
    "flip and stride": (lambda x: td.slice_axis(td.flip(x, (1,)), 1, 1, None, 2), (floats(2, 7),)),
    "split": (lambda x: td.split(x, (2, 3), 1), (floats(2, 5),)),
    "whole numbers": (lambda x: (x // 3, x % 3, td.maximum(x, 2), x < 2), (np.arange(-5, 6),)),
    "bools": (lambda x: (td.bitwise_and(x > 0, x < 1), td.not_(x > 0), td.equal(x > 0, x < 1)), (floats(6),)),
    "sort": (lambda x: lib.sort(x, axis=1), (floats(3, 5),)),
    "topk": (lambda x: lib.topk(x, k=2, axis=1, largest=False), (floats(3, 5),)),
    "cumsum": (lambda x: td.scan(x, "sum", 1, True), (floats(3, 5),)),
    "cumprod": (lambda x: td.scan(x, "prod", 1), (floats(3, 5),)),
    "any": (lambda x: td.reduce(x > 1, "any", (1,)), (floats(3, 5),)),
    "lstm": (lambda x, h, c, *w: lib.lstm(x, h, c, *w, layers=1), (
        floats(3, 2, 4), floats(1, 2, 5), floats(1, 2, 5), floats(20, 4), floats(20, 5), floats(20), floats(20))),
    "attention": (lambda q, k, v: lib.scaled_dot_product_attention(q, k, v, causal=True), (
        floats(2, 2, 5, 4), floats(2, 2, 5, 4), floats(2, 2, 5, 4))),
    "attention, masked": (lambda q, k, m: lib.scaled_dot_product_attention(q, k, k, m > 0), (
        floats(2, 5, 4), floats(2, 5, 4), floats(5, 5))),
    "pools": (lambda x: (lib.max_pool(x, kernel=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(1, 1)),
                         lib.avg_pool(x, kernel=(3, 2), stride=(2, 2), padding=(1, 0), count_include_pad=False),
                         lib.adaptive_avg_pool(x, size=(3, 2))), (floats(2, 3, 7, 6),)),
    "resize": (lambda x: (lib.interpolate(x, size=(9, 5), mode="linear"),
                          lib.interpolate(x, size=(9, 5), mode="nearest"),
                          lib.interpolate(x, size=(12, 8), mode="cubic")), (floats(1, 2, 6, 4),)),
    "constant output": (lambda x: (x, td.const([1.0, 2.0], "f32"), x), (floats(2),)),
    "rank 0": (lambda x: td.reduce(x, "sum", (0,), False), (floats(3),)),
}  # fmt: skip


@pytest.mark.parametrize("name", OPS)
def test_ops(tmp_path: Path, name: str) -> None:
    function, arrays = OPS[name]
    kinds = {f"x{i}": td.TensorType(a.shape, td.DType.of(a.dtype)) for i, a in enumerate(arrays)}
    both(td.network(function, kinds), tmp_path / "a.mlpackage", *arrays)


def test_names_are_made_valid_and_come_back(tmp_path: Path) -> None:
    x = td.input("x.1-y", (2, 3))
    weight, other = td.parameter("1.weight", (4, 3)), td.parameter("1_weight", (4,))
    graph = td.Graph({"x.1-y": x}, {"state": lib.linear(x, weight, other), "1out": x + 1.0})
    dag = td.TensorDAG.of_graph(graph, {"1.weight": floats(4, 3), "1_weight": floats(4)})
    path = tmp_path / "a.mlpackage"
    both(dag, path, floats(2, 3))
    program = Program(path)
    assert [n for n, _ in program.inputs] == ["x_1_y"]
    assert list(program.block.outputs) == ["state_0", "_1out"]
    back = td.from_coreml(path)
    assert list(back.graph.inputs) == ["x.1-y"]
    assert list(back.graph.outputs) == ["state", "1out"]
    assert set(back.weights) == {"1.weight", "1_weight"}
    told = json.loads(program.model.description.metadata.userDefined["tdagger.names"])
    assert told["x_1_y"] == "x.1-y"


def test_the_batch_is_open_in_a_range_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage"
    dag = network()
    dag.to_coreml(path, dynamic=("b",))
    for size in (1, 3):
        x = floats(size, 3, 8, 8)
        assert np.allclose(by_mil(path, x)[0], dag.resize(b=size).run(x), atol=1e-5)
    back = td.from_coreml(path, inputs={"x": (5, 3, 8, 8)})
    assert back.run(floats(5, 3, 8, 8)).shape == (5, 5)
    assert back.resize(b=7).run(floats(7, 3, 8, 8)).shape == (7, 5)
    dag.to_coreml(path, dynamic={"b": (1, 4)})
    with pytest.raises(td.InputError, match="1 to 4 entries in dimension 0, not 5"):
        td.from_coreml(path, inputs={"x": (5, 3, 8, 8)})
    dag.to_coreml(path, dynamic={"b": [1, 4]})
    with pytest.raises(td.InputError, match="may have the shapes 1x3x8x8, 2x3x8x8, 4x3x8x8, not"):
        td.from_coreml(path, inputs={"x": (3, 3, 8, 8)})
    with pytest.raises(td.AxisError, match="axis c can't be of any size"):
        dag.to_coreml(path, dynamic=("c",))


class Expanded(torch.nn.Module):
    """What repeats constants over the batch: states, positions, queries, masks, places that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.table = torch.nn.GRU(8, 8, batch_first=True), torch.nn.Embedding(5, 8)
        self.query = torch.nn.Parameter(torch.randn(3, 8))
        self.attend = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b = x.shape[0]
        places = torch.arange(5).expand(b, -1)
        x = self.gru(x)[0] + self.table(places)
        x = x.masked_fill(places[..., None].expand(b, 5, 8) > 3, 0.5)
        x = torch.cat([x.gather(1, (places * 2 % 5)[..., None].expand(b, 5, 8)), torch.zeros(b, 1, 8)], 1)
        return self.attend(self.query.expand(b, -1, -1), x, x)[0]


def test_constants_repeated_over_the_batch_follow_it(tmp_path: Path) -> None:
    module, path = Expanded().eval(), tmp_path / "a.mlpackage"
    td.from_torch(module, torch.rand(2, 5, 8)).to_coreml(path, dynamic=("b",), minimum_target="iOS17")
    for b in (1, 2, 7):
        x = torch.rand(b, 5, 8)
        (found,) = by_mil(path, x.numpy())
        np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_size_is_worked_out_of_the_shape_of_an_input(tmp_path: Path) -> None:
    """A token for each image is repeated as often as there are images."""

    class Token(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = torch.nn.Parameter(torch.rand(1, 1, 40))

        def forward(self, x: Any) -> Any:
            return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1).reshape(-1, 8)

    dag = td.from_torch(Token().eval(), torch.rand(2, 3, 40))
    dag.to_coreml(tmp_path / "a.mlpackage", dynamic=("b",))
    x = floats(5, 3, 40)
    assert np.allclose(by_mil(tmp_path / "a.mlpackage", x)[0], dag.resize(b=5).run(x))


def test_half_keeps_what_does_not_fit(tmp_path: Path) -> None:
    """x + 1e6 and x * 1e-9 stay f32; -inf is one of f16; integers that were cast stay exact."""
    x = td.input("x", (3,))
    n = td.input("n", (3,), "i64")
    outputs = {
        "a": x + 1e6,
        "b": x * 1e-9,
        "c": td.where(x > 0, x, -np.inf),
        "d": td.cast(n, "f32") + 1.0,
        "e": x * 3.0,
    }
    dag = td.TensorDAG.of_graph(td.Graph({"x": x, "n": n}, outputs))
    arrays = np.array([-1, 0.1, 2], np.float32), np.array([4097, 3, 5])
    path = tmp_path / "a.mlpackage"
    dag.to_coreml(path, precision="f16")
    a, b, c, d, e = by_mil(path, arrays[0], arrays[1].astype(np.int32))
    assert a.tolist() == (arrays[0] + np.float32(1e6)).tolist()
    assert b.tolist() == (arrays[0] * np.float32(1e-9)).tolist()
    assert c.tolist() == [-np.inf, np.float16(0.1), 2]
    assert d.tolist() == [4098, 4, 6]
    assert e[1] == np.float32(np.float16(0.1) * np.float16(3))
    assert {o.dtype for o in (a, b, c, d, e)} == {np.dtype(np.float32)}


def test_half_is_half_as_large(tmp_path: Path) -> None:
    dag = td.from_torch(torch.nn.Linear(300, 300).eval(), torch.rand(2, 300))
    sizes: dict[str, int] = {}
    for precision in ("f32", "f16"):
        path = tmp_path / f"{precision}.mlpackage"
        dag.to_coreml(path, precision=precision)
        sizes[precision] = sum(p.stat().st_size for p in path.rglob("*"))
    assert sizes["f16"] < 0.52 * sizes["f32"]
    x = floats(2, 300)
    assert np.allclose(by_mil(path, x)[0], dag.run(x), atol=3e-3)
    assert set(td.from_coreml(path).weights) == {"weight", "bias"}


def test_refusals(tmp_path: Path) -> None:
    x, n = td.input("x", (2,)), td.input("n", (2,), "i64")
    big = td.TensorDAG.of_graph(td.Graph({"n": n}, {"y": n + 2**40}))
    with pytest.raises(td.UnsupportedError, match="1099511627776"):
        big.to_coreml(tmp_path / "a.mlpackage")
    wide = td.TensorDAG.of_graph(td.Graph({"x": td.cast(x, "f32")}, {"y": td.cast(x, "f64")}))
    with pytest.raises(td.UnsupportedError, match="output y is f64"):
        wide.to_coreml(tmp_path / "a.mlpackage")
    two = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.nextafter(x, x), "z": td.cast(td.cast(x, "i8"), "f32")}))
    with pytest.raises(td.UnsupportedError, match=r"(?s)nextafter.*cast|cast.*nextafter"):
        two.to_coreml(tmp_path / "a.mlpackage")
    with pytest.raises(td.AttributeValueError, match="iOS15, iOS16"):
        network().to_coreml(tmp_path / "a.mlpackage", minimum_target="iOS14")
    with pytest.raises(td.AttributeValueError, match="mlpackage, not"):
        network().to_coreml(tmp_path / "a.mlmodel")
    (tmp_path / "b.mlpackage").mkdir()
    (tmp_path / "b.mlpackage" / "mine.txt").write_text("mine")
    with pytest.raises(td.SourceError, match="is there, and is no"):
        network().to_coreml(tmp_path / "b.mlpackage")
    assert [p.name for p in tmp_path.iterdir()] == ["b.mlpackage"]


def test_a_model_in_memory_is_the_same(tmp_path: Path) -> None:
    dag = network()
    model = dag.to_coreml()
    x = floats(2, 3, 8, 8)
    assert np.allclose(td.from_coreml(model).run(x), dag.run(x), atol=1e-5)
    assert np.allclose(td.from_coreml(model.SerializeToString()).run(x), dag.run(x), atol=1e-5)


class Streaming(torch.nn.Module):
    """What it gives depends on what was before."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Module()
        self.inner.register_buffer("kept", torch.zeros(1, 8, 4))
        self.register_buffer("count", torch.zeros(1))
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        self.inner.kept.copy_(torch.cat([self.inner.kept[:, 2:], self.layer(x)], 1))
        self.count.add_(1)
        return self.inner.kept.mean(1) + self.count


@pytest.mark.parametrize("as_program", [False, True])
def test_buffers_that_change(as_program: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = Streaming().eval(), torch.rand(1, 2, 4)
    source = td.Program.from_torch(module, x) if as_program else td.from_torch(module, x)
    path = tmp_path / "a.mlpackage"
    source.to_coreml(path)
    program = Program(path)
    found = program.run({program.inputs[0][0]: x.numpy()})
    assert {n: a.shape for n, a in found.items() if "updated" in n} == {
        "count_updated": (1,), "inner_kept_updated": (1, 8, 4),
    }  # fmt: skip
    source.to_coreml(path, states=True)
    program, back = Program(path), td.from_coreml(path)
    assert list(back.graph.updates) == ["count", "inner.kept"]
    again, runner = back.to_torch(), td.Program.from_coreml(path).runner()
    for _ in range(6):
        x = torch.rand(1, 2, 4)
        wanted = module(x).detach().numpy()
        by_states = next(iter(program.run({program.inputs[0][0]: x.numpy()}).values()))
        for found in (by_states, again(x).detach().numpy(), runner(x.numpy())):  # states are f16
            np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3)


def test_what_no_state_can_be(tmp_path: Path) -> None:
    begun = Streaming().eval()
    begun.count.fill_(2)
    with pytest.raises(td.UnsupportedError, match="count is not zeros at first"):
        td.from_torch(begun, torch.rand(1, 2, 4)).to_coreml(states=True)
    with pytest.raises(td.UnsupportedError, match="states since iOS18"):
        td.from_torch(begun, torch.rand(1, 2, 4)).to_coreml(states=True, minimum_target="iOS17")


class Spectrum(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        found = torch.stft(x, 16, 8, window=torch.hann_window(16), return_complex=True)
        return found.abs(), torch.fft.irfft(torch.fft.rfft(x) * 2).cumsum(1)


def test_fourier_transforms(tmp_path: Path) -> None:
    x = torch.rand(2, 48)
    both(td.from_torch(Spectrum(), x), tmp_path / "a.mlpackage", x.numpy())
    td.from_torch(Spectrum(), x).to_coreml(precision="f16")


def test_what_has_no_entries_is_left_out(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.cat([x[:, :0], x, x[:, 3:]], 1)

    x = torch.rand(2, 3)
    both(td.from_torch(Net(), x), tmp_path / "a.mlpackage", x.numpy())


class Recurrent(torch.nn.Module):
    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.layer = getattr(torch.nn, kind)(5, 7, **options)

    def forward(self, x: Any, *states: Any) -> Any:
        out, last = self.layer(x, states[0] if len(states) == 1 else states or None)
        return (out, *last) if isinstance(last, tuple) else (out, last)


@pytest.mark.parametrize(
    ("kind", "options", "states", "ops"),
    [
        ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}, 0, {"lstm": 2}),
        ("LSTM", {"num_layers": 3, "bias": False}, 2, {"lstm": 3}),
        ("LSTM", {"proj_size": 3}, 0, {}),
        ("RNN", {"num_layers": 2, "nonlinearity": "relu"}, 1, {"rnn": 2}),
        ("RNN", {"bidirectional": True}, 0, {}),
        ("GRU", {"bidirectional": True}, 0, {}),
    ],
)
def test_recurrent_networks(
    kind: str, options: dict[str, Any], states: int, ops: dict[str, int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    given = [torch.randn(6, 2, 5), *[torch.randn(options.get("num_layers", 1), 2, 7)] * states]
    dag = td.from_torch(Recurrent(kind, **options).eval(), tuple(given))
    path = tmp_path / "a.mlpackage"
    both(dag, path, *[a.numpy() for a in given])
    types = [op.type for op in Program(path).block.operations]
    assert {n: types.count(n) for n in ("lstm", "rnn", "gru") if n in types} == ops
    half = dag.to_coreml(precision="f16")
    assert len(half.mlProgram.functions["main"].block_specializations) == 1


def test_steps_of_an_lstm_are_open(tmp_path: Path) -> None:
    """Its states have the batch alone, and its op any number of steps."""
    torch.manual_seed(0)
    module = Recurrent("LSTM", batch_first=True).eval()
    path = tmp_path / "a.mlpackage"
    td.from_torch(module, torch.randn(1, 6, 5)).to_coreml(path, dynamic=("n",))
    x = torch.randn(1, 9, 5)
    wanted = [y.detach().numpy() for y in module(x)]
    back = td.from_coreml(path, inputs={"x": (1, 9, 5)}).run(x.numpy())
    for found in (by_mil(path, x.numpy()), back):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_norm_by_the_mean_square_is_five_ops(tmp_path: Path) -> None:
    """Written out or not."""
    x, w = td.input("x", (2, 8)), td.parameter("w", (8,))
    plain = x * td.rsqrt(td.mean(td.square(x), axes=(1,), keep=True) + 1e-6) * w
    for y in (plain, td.rms_norm(x, w, eps=1e-6)):
        dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}), {"w": np.arange(8, dtype=np.float32)})
        dag.to_coreml(tmp_path / "a.mlpackage")
        program = Program(tmp_path / "a.mlpackage")
        ops = [o.type for o in program.block.operations if o.type != "const"]
        assert sorted(ops) == ["add", "mul", "mul", "reduce_mean", "rsqrt", "square"]


def test_a_weight_that_is_laid_otherwise_is_called_by_its_name(tmp_path: Path) -> None:
    """As those of other formats are, which have channels last."""
    x, w = td.input("x", (1, 3, 8, 8)), td.parameter("net.w", (4, 5, 5, 3))
    graph = td.Graph({"x": x}, {"y": td.convolution(x, td.permute(w, (0, 3, 1, 2)))})
    dag = td.TensorDAG.of_graph(graph, {"net.w": np.ones((4, 5, 5, 3), np.float32)})
    dag.to_coreml(tmp_path / "a.mlpackage")
    assert list(td.from_coreml(tmp_path / "a.mlpackage").weights) == ["net.w.permute"]
