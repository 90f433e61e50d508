"""Networks as TFLite: how many operators, layouts, names, files, what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tests.frameworks.tflite.litert import DEFAULT, PLAIN, counts, interpreter, run
from tests.networks import Fn, perturb

exporter = pytest.importorskip("tdagger.frameworks.tflite.exporter")
save = pytest.importorskip("tdagger.frameworks.tflite.emit.save")


class Small(nn.Module):
    """A bit of everything that is merged or kept apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish())
        self.fc = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        return self.fc(self.blocks(x).mean((2, 3)))


def written(module: nn.Module, *args: torch.Tensor) -> bytes:
    return td.from_torch(module.eval(), args).to_tflite()


def same(module: nn.Module, *args: torch.Tensor, kernels: Any = DEFAULT, model: bytes | None = None) -> bytes:
    """What the file gives is what the module gives."""
    model = written(module, *args) if model is None else model
    with torch.no_grad():
        wanted = module(*args)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for got, want in zip(run(model, [a.numpy() for a in args], kernels), wanted, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-4, atol=1e-5)
    return model


@pytest.mark.parametrize("kernels", [DEFAULT, PLAIN], ids=["default", "plain"])
def test_a_small_network(kernels: Any) -> None:
    model = same(Small().eval(), torch.rand(2, 3, 8, 8), kernels=kernels)
    assert counts(model) == {
        "TRANSPOSE": 1, "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "HARD_SWISH": 1, "MEAN": 1, "FULLY_CONNECTED": 1,
    }  # fmt: skip


def test_names_of_the_signature() -> None:
    made = interpreter.Interpreter(model_content=written(Small(), torch.rand(1, 3, 8, 8)))
    signature = made.get_signature_list()["serving_default"]
    assert signature == {"inputs": ["image"], "outputs": ["out"]} or signature["inputs"] == ["image"]
    image = np.zeros((1, 3, 8, 8), np.float32)
    assert made.get_signature_runner()(image=image)[signature["outputs"][0]].shape == (1, 5)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2)),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2, groups=2),
        nn.Conv2d(4, 8, 3, stride=2, groups=4),
        nn.Conv2d(4, 4, 4, stride=3, padding=1, bias=False),
        nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(4, 2, 3)),
        nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False),
        nn.ConvTranspose2d(4, 6, (2, 3), stride=(3, 2), output_padding=(2, 1)),
        nn.ConvTranspose2d(4, 4, 3, groups=2, stride=2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.MaxPool2d(3, 1, 1, dilation=1),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 5)),
        nn.AdaptiveMaxPool2d(1),
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=(5, 7), mode="bilinear"),
        nn.Upsample(size=(17, 13), mode="bilinear", align_corners=True),
        nn.Upsample(scale_factor=1.7, mode="nearest"),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(1),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.BatchNorm2d(4),
        nn.LocalResponseNorm(3),
        nn.PReLU(4),
        nn.ChannelShuffle(2),
        nn.Unfold(3),
    ],
    ids=str,
)
def test_layers_of_images(module: nn.Module) -> None:
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    same(module.eval(), torch.rand(2, 4, 9, 10))


@pytest.mark.parametrize(
    "module",
    [nn.Conv1d(4, 6, 3, stride=2, padding=1), nn.MaxPool1d(2), nn.AvgPool1d(3, 1, 1), nn.ConvTranspose1d(4, 2, 4, 2)],
    ids=str,
)
def test_layers_of_sequences(module: nn.Module) -> None:
    same(module.eval(), torch.rand(2, 4, 9))


@pytest.mark.parametrize("module", [nn.Conv3d(2, 3, 2), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1)], ids=str)
def test_layers_of_volumes(module: nn.Module) -> None:
    same(module.eval(), torch.rand(1, 2, 4, 5, 6))


def test_channels_last_stays_through_a_network() -> None:
    """One transpose goes in; the rest of an image network has its channels last."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm, self.up = nn.GroupNorm(2, 8), nn.Upsample(scale_factor=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            z = self.norm(self.b(F.pad(y, (1, 0, 1, 0))))[:, :, 1:, 1:]
            gate = torch.sigmoid(z.mean((2, 3), keepdim=True))
            return self.up(torch.cat([y, z * gate, y * 2], 1)).amax((2, 3))

    assert counts(same(Net().eval(), torch.rand(2, 3, 8, 8)))["TRANSPOSE"] == 1


def test_linear_after_flattening() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4, 2))
    assert "RESHAPE" not in counts(same(module.eval(), torch.rand(2, 3, 5, 5)))


@pytest.mark.parametrize(
    "module", [Small(), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)], ids=["images", "text"]
)
def test_there_and_back(module: nn.Module) -> None:
    """What is read again gives the same, and is written again in as few operators."""
    x = torch.rand(2, 3, 8, 8) if isinstance(module, Small) else torch.rand(2, 5, 16)
    model = same(module.eval(), x)
    again = td.from_tflite(model)
    with torch.no_grad():
        want = module(x).numpy()
    np.testing.assert_allclose(again.run(x.numpy()), want, rtol=1e-4, atol=1e-5)
    assert sum(counts(same(module, x, model=again.to_tflite())).values()) <= sum(counts(model).values())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_networks(kind: Any) -> None:
    net = kind(3, 4, bidirectional=True, batch_first=True)
    same(Fn(lambda x: net(x)[0]).eval(), torch.rand(2, 5, 3))


def test_fully_masked_rows_are_zero() -> None:
    def attend(q: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, q, q, attn_mask=seen)

    q, seen = torch.rand(1, 2, 3, 4), torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    dag = td.from_torch(Fn(attend), (q, seen))
    for kernels in (DEFAULT, PLAIN):
        got = run(dag.to_tflite(), [q.numpy(), seen.numpy()], kernels)[0]
        np.testing.assert_allclose(got, dag.run(q.numpy(), seen.numpy()), rtol=1e-5, atol=1e-6)
        assert (got[:, :, 1] == 0).all()


def test_another_batch() -> None:
    """A network that was made for one image, for three."""
    module, x = Small().eval(), torch.rand(3, 3, 8, 8)
    dag = td.from_torch(module, x[:1])
    same(module, x, model=dag.resize(b=3).to_tflite())


def test_training_gives_what_buffers_become() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    x = torch.rand(2, 3, 4, 4)
    dag = td.from_torch(module, x)
    made = interpreter.Interpreter(model_content=dag.to_tflite())
    names = made.get_signature_list()["serving_default"]["outputs"]
    got = made.get_signature_runner()(**{next(iter(dag.graph.inputs)): x.numpy()})
    assert {f"{n}.updated" for n in dag.graph.updates} < set(names)
    module(x)
    np.testing.assert_allclose(got["1.running_mean.updated"], module[1].running_mean.numpy(), rtol=1e-4)


def test_outputs_that_are_inputs_weights_and_one_another() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.rand(3))

        def forward(self, x: torch.Tensor) -> Any:
            y = x * 2
            return x, y, self.w, y

    same(Odd(), torch.rand(3))


def test_an_unused_input_stays() -> None:
    dag = td.network(lambda x, y: td.exp(x), {"x": (2,), "y": (3,)})
    np.testing.assert_allclose(run(dag.to_tflite(), [np.zeros(2, "f"), np.zeros(3, "f")])[0], [1, 1])


def test_a_long_chain() -> None:
    x = td.input("x", (2,))
    y = x
    for i in range(1000):
        y = td.permute(td.sin(y) + float(i % 7), (0,)) if i % 3 else td.reshape(td.unsqueeze(y, (0,)), shape=(2,)) * 0.5
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}))
    np.testing.assert_allclose(run(dag.to_tflite(), [np.ones(2, "f")])[0], dag.run(np.ones(2, "f")), rtol=1e-4)


def test_a_weight_that_several_layers_share_is_one_tensor() -> None:
    embed = nn.Embedding(50, 16)
    module = Fn(lambda ids: embed(ids) @ embed.weight.T)
    module.embed = embed
    model = same(module, torch.randint(0, 50, (2, 3)))
    assert len(model) < 1.5 * embed.weight.nbytes


# --- files -------------------------------------------------------------------------------------------------


def test_a_file_is_what_the_bytes_are(tmp_path: Path) -> None:
    dag = td.from_torch(Small().eval(), torch.rand(2, 3, 8, 8))
    path = tmp_path / "m.tflite"
    assert dag.to_tflite(path) is None
    assert path.read_bytes() == dag.to_tflite()


def test_weights_behind_the_flatbuffer(tmp_path: Path) -> None:
    """As of more than 2 GB: their places are offsets in the file."""
    module, x = Small().eval(), torch.rand(2, 3, 8, 8)
    parts, signature = exporter.written(exporter.legalized(td.from_torch(module, x)))
    path = tmp_path / "m.tflite"
    save.write(parts, signature, path, "m", largest=0)
    with torch.no_grad():
        want = module(x).numpy()
    np.testing.assert_allclose(run(str(path), [x.numpy()])[0], want, rtol=1e-4, atol=1e-5)


def test_weights_are_loaded_once_and_not_kept(tmp_path: Path) -> None:
    """One weight after the other: no more is held than the largest and what is beside the data."""
    import tracemalloc

    count, n = 8, 256
    names = [f"w{i}" for i in range(count)]
    x = td.input("x", (1, n))
    y = x
    for name in names:
        y = td.linear(y, td.parameter(name, (n, n)))
    weights = {name: np.ones((n, n), np.float32) for name in names}
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}), weights)
    dag.to_tflite(tmp_path / "first.tflite")
    tracemalloc.start()
    dag.to_tflite(tmp_path / "m.tflite")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * n * n * 4


# --- what is refused ---------------------------------------------------------------------------------------


def test_everything_that_cannot_go_is_named_at_once() -> None:
    x = td.input("x", (2,))
    c = td.complex_(x, x)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"z": td.nextafter(x, x), "c": td.real(td.tan(c))}))
    with pytest.raises(td.UnsupportedError) as e:
        dag.to_tflite()
    assert "can't go to TFLite" in str(e.value)
    assert "TFLite has no binary nextafter" in str(e.value)
    assert "TFLite has no binary complex" in str(e.value)


def test_random_numbers_and_what_has_no_entries() -> None:
    with pytest.raises(td.UnsupportedError, match="x: f32\\[0\\] has no entries"):
        td.network(lambda x: td.exp(x), {"x": (0,)}).to_tflite()
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    with pytest.raises(td.UnsupportedError, match="TFLite has no random"):
        td.from_torch(module, torch.rand(2, 2)).to_tflite()


def test_missing_weights() -> None:
    x, w = td.input("x", (2,)), td.parameter("w", (2,))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": x + w}))
    with pytest.raises(td.InputError, match="the weights have no w"):
        dag.to_tflite()


# --- measured behaviour of runtimes that the rows keep clear of ----------------------------------------------


def test_tanh_is_never_fused() -> None:
    """A fused TANH is legal in the schema and ignored by kernels."""
    same(Fn(lambda x: torch.tanh(x + 1.0)), torch.rand(2, 3))


def test_linear_keeps_all_axes() -> None:
    same(nn.Linear(4, 5), torch.rand(2, 3, 4))


def test_whole_numbers_of_64_bits_that_are_known_to_be_small() -> None:
    """FLOOR_DIV has no kernel of i64: places divided by a count are computed in i32."""
    same(Fn(lambda x: x.topk(3, -1)[1] // 2 + x.argsort(-1)[..., :3] // 4), torch.rand(2, 9))
    same(Fn(lambda x: torch.div(x.argmax(-1) * 5 - 7, -3, rounding_mode="trunc") % 4 // 2), torch.rand(2, 9))
    x = td.input("x", (3,), "i64")
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.floor_divide(x, 2)}))
    with pytest.raises(td.UnsupportedError, match="TFLite has no binary floor_divide of i64"):
        dag.to_tflite()


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (4, 5), (3, 3)])
def test_a_step_of_one_entry_ends_there(shape: tuple[int, int]) -> None:
    """Beside an axis of which several entries are taken: with a step of 1 the other went on to its end."""
    x = torch.rand(shape)
    for net in (Fn(lambda x: x[1::2, 1::2]), Fn(lambda x: x[1:2, ::2]), Fn(lambda x: x[::2, -1:])):
        np.testing.assert_array_equal(run(written(net, x), [x.numpy()])[0], net(x).numpy())


def test_slices_backwards_reach_the_first_entry() -> None:
    same(Fn(lambda x: x.flip(0)[::2]), torch.rand(5))


def test_division_is_never_by_zero_at_run_time() -> None:
    x, y = td.input("x", (3,), "i32"), td.input("y", (3,), "i32")
    dag = td.TensorDAG.of_graph(td.Graph({"x": x, "y": y}, {"z": td.maximum(x, y)}))
    assert run(dag.to_tflite(), [np.array([1, 2, 3], "i4"), np.array([3, 2, 1], "i4")])[0].tolist() == [3, 2, 3]


def test_scatter_where_indices_are_twice() -> None:
    """SCATTER_ND adds what comes twice; here the last one wins."""

    def put(x: torch.Tensor) -> torch.Tensor:
        return x.index_copy(0, torch.tensor([1, 3]), x[:2] * 2)

    same(Fn(put), torch.rand(4, 3))
    x = td.input("x", (4,))
    y = td.scatter(x, td.const([1, 1], "i64"), td.const([5.0, 7.0], "f32"))
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": y}))
    assert run(dag.to_tflite(), [np.zeros(4, "f")])[0].tolist() == [0, 7, 0, 0]


@pytest.mark.parametrize("kernels", [DEFAULT, PLAIN], ids=["default", "plain"])
def test_an_index_of_several_axes_is_checked_in_each(kernels: Any) -> None:
    """Beyond an inner axis is another entry where they lie end to end."""
    module, x = Fn(lambda x, i, j: x[:, i, j]), torch.rand(2, 3, 3)
    i, j = torch.tensor([0, 1, -3]), torch.tensor([2, -3, 1])
    model = same(module, x, i, j, kernels=kernels)
    for beyond in (3, -4):
        with pytest.raises(RuntimeError, match="index out of bounds"):
            run(model, [x.numpy(), i.numpy(), j.where(j != 1, beyond).numpy()], kernels)


def test_ranks_that_kernels_lack() -> None:
    def windows(x: torch.Tensor) -> torch.Tensor:
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)

    model = same(Fn(windows), torch.rand(2, 4, 6, 3))
    assert counts(model)["TRANSPOSE"] == 1
    assert math.prod((2, 4, 6, 3)) == 144


def test_fourier_transforms() -> None:
    """As products with matrices; of real numbers with as many columns as there are results."""

    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = torch.stft(x, 16, 8, window=torch.hann_window(16), return_complex=True)
            return found.abs(), torch.fft.irfft(torch.fft.rfft(x) * 2)

    x = torch.rand(2, 48)
    assert counts(same(Spectrum(), x))["FULLY_CONNECTED"] == 6
    again = td.from_tflite(written(Spectrum(), x)).run(x.numpy())
    np.testing.assert_allclose(again[1], 2 * x.numpy(), rtol=0, atol=1e-5)


def test_windows_of_a_sequence() -> None:
    """Rows are gathered, and one transpose lays them out: entries one by one took a fifth of ConvBERT's time."""

    class Windows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.unfold(x.transpose(1, 2).unsqueeze(-1), kernel_size=[9, 1], padding=[4, 0])
            return y.transpose(1, 2).reshape(-1, 8, 9)

    model = same(Windows(), torch.rand(2, 12, 16))
    assert counts(model) == {"PAD": 1, "GATHER": 1, "RESHAPE": 3, "TRANSPOSE": 1}
    frames = same(Fn(lambda x: x.unfold(-1, 400, 160)), torch.rand(2, 16000))
    assert counts(frames) == {"SLICE": 1, "RESHAPE": 2, "GATHER": 1}


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_resize_without_its_batch(mode: str) -> None:
    """Its channels are the axis before those that are resized, whatever else there is."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=(1.5, 2), mode=mode)).eval()
    x = torch.rand(2, 3, 6, 8)
    dag = td.from_torch(module, x).unbatch("b")
    (own,) = run(dag.to_tflite(), [x[0].numpy()])
    np.testing.assert_allclose(own, module(x)[0].detach().numpy(), atol=1e-5)
    assert counts(dag.to_tflite())["TRANSPOSE"] == 2


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv3d(2, 4, 3, padding=1),
        nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 0), bias=False),
        nn.Conv3d(2, 4, 2, dilation=(1, 2, 1)),
        nn.Sequential(nn.Conv3d(2, 4, (3, 1, 1), padding="same"), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 3, 2)),
        nn.Sequential(nn.Conv3d(2, 4, 3, groups=2), nn.ReLU(), nn.MaxPool3d(2)),
    ],
    ids=["same", "strides", "dilation", "block", "groups"],
)
@pytest.mark.parametrize("kernels", [DEFAULT, PLAIN], ids=["default", "plain"])
def test_volumes(module: nn.Module, kernels: Any) -> None:
    """A convolution of volumes is CONV_3D, but for one with groups, which has no kernel."""
    model = same(module.eval(), torch.rand(2, 2, 5, 6, 7), kernels=kernels)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv3d) and m.groups == 1]
    assert counts(model).get("CONV_3D", 0) == len(convolutions)
    assert "RELU" not in counts(model) or not convolutions
    back = td.from_tflite(model)
    x = torch.rand(2, 2, 5, 6, 7)
    np.testing.assert_allclose(back.run(x.numpy()), module(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("slope", [0.1, 0.11])
def test_a_file_with_norms_folded_and_channels_last_differs_by_rounding_alone(slope: float) -> None:
    """What is flattened lies otherwise, and holds what weights with a norm in them, rounded to f32, have made of it."""
    pooled = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 16, 1),
        nn.BatchNorm2d(16), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    perturb(pooled)
    dag = td.from_torch(pooled.eval(), torch.rand(1, 3, 16, 16))
    pooled[6].negative_slope = slope
    back = td.from_tflite(written(pooled, torch.rand(1, 3, 16, 16)))
    diff = td.diff(dag, back)
    assert diff.verdict == ("rounding" if slope == 0.1 else "different"), str(diff)
    assert ("attribute slope: 0.1 in A, 0.11 in B" in str(diff)) == (slope == 0.11)
