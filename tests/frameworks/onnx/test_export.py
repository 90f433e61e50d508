"""Networks as ONNX: names, ties, sizes of any number, files, what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tdagger.frameworks.onnx.emit.save import _varint  # pyright: ignore[reportPrivateUsage]
from tdagger.ops.external import External, Slot
from tests.frameworks.onnx import small
from tests.frameworks.onnx.runs import checked, run, session
from tests.networks import Fn


class Small(nn.Module):
    """A bit of everything that is merged or kept apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4), nn.Hardswish())
        self.fc = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        return self.fc(self.blocks(x).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, d = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(out.transpose(1, 2).reshape(b, s, d))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.head = nn.Linear(6, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.embed(ids)))


def exported(module: nn.Module, *args: torch.Tensor, **options: Any) -> tuple[onnx.ModelProto, td.TensorDAG]:
    dag = td.from_torch(module.eval(), args)
    return checked(dag.to_onnx(**options)), dag


def same(model: Any, module: nn.Module, *args: torch.Tensor) -> None:
    with torch.no_grad():
        wanted = module(*args)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for got, want in zip(run(model, [a.numpy() for a in args]), wanted, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-4, atol=1e-5)


def counts(model: onnx.ModelProto) -> dict[str, int]:
    return dict(Counter(n.op_type for n in model.graph.node))


# --- names and nodes ---------------------------------------------------------------------------------------


def test_a_small_network() -> None:
    module, x = Small(), torch.rand(2, 3, 8, 8)
    model, dag = exported(module, x)
    same(model, module, x)
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == list(dag.graph.outputs)
    assert [n.name for n in model.graph.node] == [
        "/conv1/Conv", "/bn1/BatchNormalization", "/Relu", "/blocks/0/Conv", "/blocks/1/HardSwish", "/ReduceMean",
        "/fc/Gemm",
    ]  # fmt: skip
    kept = {n for n, _ in module.named_parameters()} | {"bn1.running_mean", "bn1.running_var"}
    assert {i.name for i in model.graph.initializer} - kept <= {"constant_0"}
    told = {p.key: p.value for p in model.graph.node[0].metadata_props}
    assert told["tdagger.module"] == "conv1"
    assert model.opset_import[0].version == 20


def test_without_metadata() -> None:
    model, _ = exported(Small(), torch.rand(2, 3, 8, 8), metadata=False)
    assert not any(n.metadata_props for n in model.graph.node)


def test_attention_is_few_nodes() -> None:
    module, x = Attention(), torch.rand(2, 5, 16)
    model, _ = exported(module, x)
    same(model, module, x)
    found = counts(model)
    assert found["MatMul"] == 4
    assert found["Softmax"] == 1
    assert "Expand" not in found
    names = {i.name for i in model.graph.initializer}
    assert {"qkv.weight.T", "qkv.bias", "proj.weight.T", "norm.weight"} <= names


def test_ties_are_one_tensor() -> None:
    module, ids = Tied(), torch.randint(0, 20, (2, 3))
    model, _ = exported(module, ids)
    same(model, module, ids)
    assert [i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT] == ["embed.weight"]


@pytest.mark.parametrize(
    ("function", "ops"),
    [
        (lambda x: x * 2.0 + torch.ones(4), {"Mul": 1, "Add": 1}),
        (lambda x: x + x.mean(-1, keepdim=True), {"ReduceMean": 1, "Add": 1}),
        (lambda x: x[:, 1], {"Gather": 1}),
        (lambda x: torch.cat(x.chunk(2, -1)[::-1], -1), {"Split": 1, "Concat": 1}),
        (lambda x: x.flip(1), {"Slice": 1}),
        (lambda x: x.transpose(0, 1).transpose(1, 2), {"Transpose": 1}),
        (lambda x: x.reshape(6, 4).reshape(2, 12), {"Reshape": 1}),
        (lambda x: x.unsqueeze(0).squeeze(0) + 1, {"Add": 1}),
        (lambda x: x.sum(1), {"ReduceSum": 1}),
        (lambda x: torch.gather(x, 1, torch.zeros(2, 3, 4, dtype=torch.int64)), {"GatherElements": 1}),
        (lambda x: F.silu(x), {"Sigmoid": 1, "Mul": 1}),
        (lambda x: x.topk(2, -1)[0], {"TopK": 1}),
        (lambda x: torch.where(x > 0, x, 0.0), {"Greater": 1, "Where": 1}),
        (lambda x: x.cumsum(1), {"CumSum": 1}),
        (lambda x: F.pad(x, (1, 2)), {"Pad": 1}),
        (lambda x: x.tril(), {"Trilu": 1}),
    ],
)
def test_as_few_nodes_as_there_are_operators(function: Any, ops: dict[str, int]) -> None:
    module, x = Fn(function), torch.rand(2, 3, 4)
    model, _ = exported(module, x)
    assert counts(model) == ops
    same(model, module, x)


def _put(x: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[:, i, j] = 1.0
    return x


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x, i, j: x[i, j], "GatherND"),
        (lambda x, i, j: x[:, i, j], "Gather"),
        (lambda x, i, j: x[..., i, :, j], "GatherND"),
        (lambda x, i, j: x[torch.arange(3)[:, None], i, j], "GatherND"),
        (_put, "ScatterElements"),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_index_of_several_axes_is_checked_in_each(function: Any, kind: str, dynamic: bool) -> None:
    """Beyond an inner axis is another entry where they lie end to end."""
    module = Fn(function)
    x = torch.rand(3, 3, 3, 3)
    i, j = torch.tensor([[0, 1], [2, -1], [0, 0]]), torch.tensor([[0, -3], [1, 2], [0, 0]])
    model, _ = exported(module, x, i, j, dynamic=dynamic)
    assert counts(model)[kind] >= 1
    same(model, module, x, i, j)
    for beyond in (3, -4):
        for given in ((x, i, j.where(j != 1, beyond)), (x, i.where(i != 1, beyond), j)):
            with pytest.raises(Exception, match=r"invalid index|out of data bounds"):
                run(model, [a.numpy() for a in given])


def test_tuples_of_indices_go_back_as_they_came() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> m (float[3, 4, 5] x, int64[2, 2] i) => (float[2, 5] y) '
        "{ y = GatherND(x, i) }"
    )
    again = td.from_onnx(model).to_onnx()
    assert [n.op_type for n in again.graph.node] == ["GatherND"]


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_padding_behind_a_transpose_is_of_every_axis(mode: str) -> None:
    """onnxruntime moves Transposes behind Pads, and loses which axes several Pads that share their numbers are for."""

    def function(x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = F.pad(F.relu(x.permute(0, 2, 3, 1)), (0, 2, 1, 0), mode=mode).permute(0, 3, 1, 2)
        return x

    x = torch.rand(1, 3, 2, 2)
    model, _ = exported(Fn(function), x)
    same(model, Fn(function), x)
    pads = [n for n in model.graph.node if n.op_type == "Pad"]
    assert len(pads) == (2 if mode != "circular" else 0)
    assert all(len(n.input) < 4 for n in pads)  # without axes


def test_outputs_that_are_inputs_weights_and_one_another() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.rand(3))

        def forward(self, x: torch.Tensor) -> Any:
            y = x * 2
            return x, y, self.w, y

    module, x = Odd(), torch.rand(3)
    model, dag = exported(module, x)
    same(model, module, x)
    assert [o.name for o in model.graph.output] == list(dag.graph.outputs)


def test_an_unused_input_stays() -> None:
    dag = td.network(lambda x, y: td.exp(x), {"x": (2,), "y": (3,)})
    model = checked(dag.to_onnx())
    assert [i.name for i in model.graph.input] == ["x", "y"]
    np.testing.assert_allclose(run(model, [np.zeros(2, "f"), np.zeros(3, "f")])[0], [1, 1])


def test_a_weight_called_like_an_input() -> None:
    x, w = td.input("x", (2,)), td.parameter("x", (2,))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": x + w}), {"x": np.array([1, 2], "f")})
    np.testing.assert_allclose(run(checked(dag.to_onnx()), [np.zeros(2, "f")])[0], [1, 2])


# --- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [18, 20, 23])
@pytest.mark.parametrize("causal", [False, True])
def test_masks_are_added_once_for_all_layers(opset: int, causal: bool) -> None:
    """A Where on the scores takes several times as long as adding, so one makes the mask, which both layers add."""

    def function(q: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        if causal:
            return F.scaled_dot_product_attention(q, F.scaled_dot_product_attention(q, q, q, is_causal=True), q,
                                                  is_causal=True)  # fmt: skip
        inner = F.scaled_dot_product_attention(q, q, q, attn_mask=seen)
        return F.scaled_dot_product_attention(q, inner, q, attn_mask=seen)

    seen = torch.rand(2, 1, 5, 5) > 0.4
    seen[0, :, 2] = False
    module, x = Fn(function), torch.rand(2, 3, 5, 8) * 40 - 20
    model, _ = exported(module, x, seen, opset=opset)
    same(model, module, x, seen)
    found = counts(model)
    assert (found.get("Where", 0), found["Add"], found.get("ReduceMax", 0)) == ((0, 2, 0) if causal else (1, 2, 1))


def test_fully_masked_rows_are_zero() -> None:
    def attend(q: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, q, q, attn_mask=seen)

    q, seen = torch.rand(1, 2, 3, 4), torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    model, dag = exported(Fn(attend), q, seen)
    got = run(model, [q.numpy(), seen.numpy()])[0]
    np.testing.assert_allclose(got, dag.run(q.numpy(), seen.numpy()), rtol=1e-5, atol=1e-6)
    assert (got[:, :, 1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    module = Attention().to(dtype)
    x = torch.rand(2, 5, 16).to(dtype)
    dag = td.from_torch(module.eval(), x)
    array = np.asarray(x.float().numpy()).astype(next(iter(dag.graph.inputs.values())).dtype.numpy)
    got = run(checked(dag.to_onnx()), [array])[0].astype(np.float32)
    with torch.no_grad():
        want = module.float()(x.float()).numpy()
    np.testing.assert_allclose(got, want, atol=0.02)


def test_random_numbers_are_those_of_the_seed() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Dropout(0.5)).train()
    x = torch.rand(8, 4)
    dag = td.from_torch(module, x)
    model = checked(dag.to_onnx())
    assert [i.name for i in model.graph.input][-1] == "seed"
    for seed in (0, 7, 2**63 + 5):
        array = np.array(seed, np.uint64)
        want = dag.run(x.numpy(), seed=array)
        np.testing.assert_allclose(run(model, [x.numpy(), array])[0], want, rtol=1e-5, atol=1e-6)


def test_training_gives_what_buffers_become() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    x = torch.rand(2, 3, 4, 4)
    dag = td.from_torch(module, x)
    model = checked(dag.to_onnx())
    names = [o.name for o in model.graph.output]
    assert set(names[1:]) == {f"{n}.updated" for n in dag.graph.updates}
    got = dict(zip(names, run(model, [x.numpy()]), strict=True))
    module(x)
    np.testing.assert_allclose(got["1.running_mean.updated"], module[1].running_mean.numpy(), rtol=1e-4)
    np.testing.assert_allclose(got["1.running_var.updated"], module[1].running_var.numpy(), rtol=1e-4)


class _Swapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.rand(3))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x, "x": y * 2, "x_": x + y, "z": x * self.z}


def test_outputs_that_are_called_as_inputs_are_called_otherwise() -> None:
    """One name can't be both in a model: it was written, and no runtime takes it."""
    module, x, y = _Swapped(), torch.rand(2, 3), torch.rand(2, 3)
    model = checked(td.from_torch(module, (x, y)).to_onnx())
    assert [o.name for o in model.graph.output] == ["y_", "x_", "x__", "z"]
    for got, want in zip(run(model, [x.numpy(), y.numpy()]), module(x, y).values(), strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks(kind: Any) -> None:
    net = kind(5, 6, num_layers=2, bidirectional=True, batch_first=True)

    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)[0]

    x = torch.rand(2, 7, 5)
    model, _ = exported(Outputs(), x)
    assert counts(model)[kind.__name__] == 2
    same(model, Outputs(), x)


def test_choosing_by_data() -> None:
    x, p = td.input("x", (3,)), td.input("p", (), "bool")
    double, root = (td.Graph({"x": x}, {"y": y}) for y in (x + x, td.exp(td.sqrt(x)) + 1.0))
    dag = td.TensorDAG.of_graph(td.Graph({"p": p, "x": x}, {"y": td.cond(p, x, then=double, otherwise=root)}))
    model = checked(dag.to_onnx())
    assert counts(model) == {"If": 1}
    for chosen in (True, False):
        given = [np.array(chosen), np.array([1, 4, 9], "f")]
        np.testing.assert_allclose(run(model, given)[0], dag.run(*given), rtol=1e-6)


def test_a_long_chain() -> None:
    x = td.input("x", (2,))
    y = x
    for i in range(3000):
        y = td.permute(td.sin(y) + float(i % 7), (0,)) if i % 3 else td.reshape(td.unsqueeze(y, (0,)), shape=(2,)) * 0.5
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}))
    np.testing.assert_allclose(run(dag.to_onnx(), [np.ones(2, "f")])[0], dag.run(np.ones(2, "f")), rtol=1e-4)


# --- any size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [Small(), Attention()], ids=["small", "attention"])
def test_any_batch(module: nn.Module) -> None:
    shape = (3, 8, 8) if isinstance(module, Small) else (5, 16)
    model, _ = exported(module, torch.rand(2, *shape), dynamic=("b",))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "b"
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "b"
    for size in (1, 3, 7):
        same(model, module, torch.rand(size, *shape))


def test_all_that_can_be_of_any_size() -> None:
    module = Attention()
    model, _ = exported(module, torch.rand(2, 5, 16), dynamic=True)
    dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert all(isinstance(d, str) for d in dims[:2])
    assert dims[2] == 16
    for b, s in ((1, 3), (3, 9)):
        same(model, module, torch.rand(b, s, 16))


def test_sizes_are_worked_out_where_they_are_needed() -> None:
    def windows(x: torch.Tensor) -> torch.Tensor:
        b, s, d = x.shape
        halves = x.reshape(b, s // 2, 2 * d)
        return torch.cat([halves, torch.ones(b, 1, 2 * d)], 1) + torch.arange(s // 2 + 1)[:, None]

    model, _ = exported(Fn(windows), torch.rand(2, 6, 4), dynamic=True)
    for b, s in ((1, 4), (3, 10)):
        same(model, Fn(windows), torch.rand(b, s, 4))


@pytest.mark.parametrize("shift", [1, 2])
def test_a_roll_of_an_axis_of_any_size(shift: int) -> None:
    """onnxruntime makes m / n of m * (1 / n), also of whole numbers: of the sizes that this works out."""
    module = Fn(lambda x: x.roll(shift, 1) + x.std(1, keepdim=True))
    model, _ = exported(module, torch.rand(2, 6, 4), dynamic=True)
    for size in (3, 7):
        same(model, module, torch.rand(2, size, 4))


def test_one_is_never_divided() -> None:
    x = td.input("x", (6,), "i64")
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.floor_divide(1, x) * x, "z": td.trunc_divide(1, x) * x}))
    given = np.array([1, 2, 7, -1, -2, 1])
    for got, want in zip(run(dag.to_onnx(), [given]), dag.run(given), strict=True):
        np.testing.assert_array_equal(got, want)


def test_an_axis_that_cannot_be_free_is_named() -> None:
    dag = td.from_torch(Small().eval(), torch.rand(2, 3, 8, 8))
    with pytest.raises(td.AxisError, match="axis nonsense can't be of any size; those that can be are"):
        dag.to_onnx(dynamic=("nonsense",))


def test_a_body_that_takes_a_size_as_a_number_is_named() -> None:
    class Mixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(x, dim=1).real

    net = nn.Sequential(nn.Linear(4, 4), Mixed()).eval()
    dag = td.from_torch(net, torch.rand(2, 6, 4))
    axis = str(dag.axes().show(dag.graph.inputs["input"])).split()[1]
    told = rf"{axis} can't be of any size: fft \(1, .*\) takes a size as a number, and {axis} has none"
    with pytest.raises(td.AxisError, match=told):
        dag.to_onnx(dynamic=(axis,))


# --- files -------------------------------------------------------------------------------------------------


def test_a_file_is_what_the_proto_is(tmp_path: Path) -> None:
    module, x = Small(), torch.rand(2, 3, 8, 8)
    dag = td.from_torch(module.eval(), x)
    path = tmp_path / "m.onnx"
    assert dag.to_onnx(path) is None
    assert onnx.load(str(path)) == dag.to_onnx()
    same(str(path), module, x)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_external_data(tmp_path: Path) -> None:
    module, x = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 2)), torch.rand(3, 32)
    dag = td.from_torch(module.eval(), x)
    path = tmp_path / "m.onnx"
    dag.to_onnx(path, external_data=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    onnx.checker.check_model(str(path), full_check=True)
    same(str(path), module, x)
    raw = onnx.load(str(path), load_external_data=False)
    apart = {t.name: {e.key: e.value for e in t.external_data} for t in raw.graph.initializer if t.external_data}
    assert set(apart) == {"0.weight"}
    assert apart["0.weight"]["location"] == "m.onnx.data"
    assert int(apart["0.weight"]["offset"]) % 64 == 0


def test_a_failure_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    x, w = td.input("x", (2,)), td.parameter("w", (2,))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": x + w}), {"w": np.zeros(3, "f")})
    with pytest.raises(td.UnsupportedError, match=r"the weight w is float32\(3,\), not f32\[2\]"):
        dag.to_onnx(path)
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_lengths_of_fields() -> None:
    assert _varint(300) == b"\xac\x02"


# --- what is refused ---------------------------------------------------------------------------------------


def test_everything_that_cannot_go_is_named_at_once() -> None:
    x = td.input("x", (2,))
    c = td.complex_(x, x)
    y = External("torch", "aten::odd", (Slot(0),), (), (x.type,))(x)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y, "z": td.nextafter(x, y), "c": td.real(td.tan(c))}))
    with pytest.raises(td.UnsupportedError) as e:
        dag.to_onnx()
    told = str(e.value)
    assert "external: it is an external op of torch (aten::odd)" in told
    assert "binary nextafter: ONNX has no operator that tells the next number" in told
    assert "onnxruntime has no complex numbers" in told


def test_fourier_transforms() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.fft.rfft(x).abs(), torch.fft.irfft(torch.fft.rfft(x) * 2)

    x = torch.rand(2, 48)
    same(td.from_torch(Spectrum(), x).to_onnx(), Spectrum(), x)


def test_fourier_transforms_of_any_batch() -> None:
    module = Fn(lambda x: torch.stft(x, 8, 4, window=torch.hann_window(8), return_complex=True).abs())
    dag = td.from_torch(module, torch.rand(2, 64))
    model = checked(dag.to_onnx(dynamic=("b", "t")))
    for b, t in ((2, 64), (1, 80), (3, 96)):
        same(model, module, torch.rand(b, t))
    along = td.from_torch(Fn(lambda x: torch.fft.fft(x, dim=1).abs()), torch.rand(2, 12))
    same(checked(along.to_onnx(dynamic=("b",))), Fn(lambda x: torch.fft.fft(x, dim=1).abs()), torch.rand(5, 12))
    with pytest.raises(td.AxisError, match=r"fft \(.*\) takes a size as a number, and n has none"):
        along.to_onnx(dynamic=("n",))


def test_norms_that_are_written_out_are_the_operators() -> None:
    """onnxruntime makes one kernel of these nodes, and not of those that people write."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    module, x = Norm(), torch.rand(2, 3, 8)
    for dynamic in (False, True):
        model, _ = exported(module, x, dynamic=dynamic)
        same(model, module, x)
        assert counts(model) == {"Pow": 1, "ReduceMean": 1, "Add": 1, "Sqrt": 1, "Div": 1, "Mul": 1}
    model, _ = exported(module, x, opset=23)
    same(model, module, x)
    assert counts(model) == {"RMSNormalization": 1}


def test_what_is_made_of_tables_is_worked_out() -> None:
    """A buffer that no state_dict has is no weight: angles of positions are, as constants."""

    class Angles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("slow", torch.rand(3), persistent=False)
            self.register_buffer("kept", torch.rand(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            angle = torch.arange(x.shape[1])[:, None] * self.slow
            return x * angle.cos() + self.kept.sin()

    module, x = Angles(), torch.rand(2, 4, 3)
    model, _ = exported(module, x)
    same(model, module, x)
    assert counts(model) == {"Mul": 1, "Sin": 1, "Add": 1}
    assert "kept" in {i.name for i in model.graph.initializer}


def test_an_external_op_of_onnx_goes_back() -> None:
    x = td.input("x", (2, 3))
    y = External("onnx", "com.microsoft::QuickGelu", (Slot(0),), (("alpha", 1.702),), (x.type,))(x)
    model = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y})).to_onnx()
    assert model.graph.node[0].domain == "com.microsoft"
    assert session(model).run(None, {"x": np.zeros((2, 3), "f")})[0].shape == (2, 3)


@pytest.mark.parametrize("opset", [17, 99])
def test_operator_sets_that_are_not_written(opset: int) -> None:
    with pytest.raises(td.AttributeValueError, match="to_onnx writes operator sets 18 to 26"):
        td.network(lambda x: td.exp(x), {"x": (2,)}).to_onnx(opset=opset)


def test_missing_weights() -> None:
    x, w = td.input("x", (2,)), td.parameter("w", (2,))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": x + w}))
    with pytest.raises(td.InputError, match="the weights have no w"):
        dag.to_onnx()


def test_names_of_nodes_that_a_file_numbered_itself() -> None:
    """Two nodes of one name, of which the second would be called as another is."""
    for names in (["/Concat", "/Concat_1", "/Concat"], ["/Concat", "/Concat", "/Concat_1"]):
        nodes = [
            small.node(op, inputs, output, name)
            for op, inputs, output, name in zip(
                ["Concat", "Relu", "Concat"], ["x x", "a", "b b"], ["a", "b", "y"], names, strict=True
            )
        ]
        for one in (nodes[0], nodes[2]):
            one.attribute.append(onnx.helper.make_attribute("axis", 0))
        made = td.from_onnx(small.model(nodes, {"x": (2, 3)})).to_onnx()
        written = [node.name for node in made.graph.node]
        assert len(set(written)) == len(written) == 3
        assert written[0] == "/Concat"


def test_an_entry_from_the_end_that_is_beyond_it_is_a_slice() -> None:
    """``x[-3:-1]`` of one row is nothing that is written to: the rest begins at -3, where a Gather fails."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x * 1
            y = x.reshape(-1)
            x[-3:-1, :-1] = 0
            return y

    x = torch.randn(1, 1)
    (out,) = run(checked(td.from_torch(Net(), x).to_onnx()), [x.numpy()])
    np.testing.assert_array_equal(out, x.numpy().ravel())
