"""Whole networks in other element types, autocast, integers, complex numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tdagger.frameworks.torch.capture.autocast import Region
from tdagger.tensordag import TensorDAG
from tdagger.tree import flatten
from tests.networks import NETWORKS, Fn
from tests.quick import in_turn
from tests.samples import to_numpy

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
#: How far a whole network may be off, of its largest number: some hundred units in the last place.
TOLERANCE = {"f16": 2e-2, "bf16": 1e-1, "f64": 1e-10, "f32": 1e-4}


def outputs(x: Any) -> list[Any]:
    """The tensors or arrays of a result, whatever it is in."""
    return flatten(x, lambda v: isinstance(v, torch.Tensor | np.ndarray))[0]


def assert_close(got: np.ndarray, want: torch.Tensor, tolerance: float) -> None:
    wanted = to_numpy(want)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    to = np.complex128 if wanted.dtype.kind == "c" else np.float64
    a, b = got.astype(to), wanted.astype(to)
    assert np.isfinite(b).all()
    assert np.abs(a - b).max(initial=0) <= tolerance * np.abs(b).max(initial=1e-30)


def both_ways(module: nn.Module, *args: torch.Tensor, tolerance: float | None = None) -> TensorDAG:
    """Import, come back exactly, and run in numpy."""
    dag = td.from_torch(module, args)
    with torch.no_grad():
        want = outputs(module(*args))
        back = outputs(dag.to_torch(fixed=True)(*args))
    for b, w in zip(back, want, strict=True):
        assert b.dtype == w.dtype
        torch.testing.assert_close(b, w, rtol=1e-6, atol=1e-6)
    for got, w in zip(outputs(dag.run(*[to_numpy(a) for a in args])), want, strict=True):
        name = str(w.dtype).rpartition(".")[2]
        short = {"float16": "f16", "bfloat16": "bf16", "float64": "f64", "complex128": "f64"}.get(name, "f32")
        assert_close(np.asarray(got), w, TOLERANCE[short] if tolerance is None else tolerance)
    return dag


# --- whole networks ----------------------------------------------------------------------------------------


def network(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    if name in NETWORKS:
        return NETWORKS[name](small=True, batch=1)
    import timm

    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, **({} if name == "test_resnet" else {"img_size": 64})).eval()
    return module, (torch.randn(1, 3, 64, 64),), {}


@pytest.mark.parametrize(
    ("name", "dtype"), in_turn(2, ("test_resnet", "test_vit", "BertModel", "LlamaForCausalLM", "LSTM"), DTYPES)
)
def test_whole_networks(name: str, dtype: str) -> None:
    module, args, kwargs = network(name)
    module = module.to(DTYPES[dtype])
    args, kwargs = torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda t: t.to(DTYPES[dtype]) if t.is_floating_point() else t, (args, kwargs)
    )
    dag = td.from_torch(module, args, kwargs)
    with torch.no_grad():
        want = outputs(module(*args, **kwargs))
        back = outputs(dag.to_torch(fixed=True)(*args, **kwargs))
    for b, w in zip(back, want, strict=True):
        torch.testing.assert_close(b, w, rtol=0, atol=0)
    np_args, np_kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, to_numpy, (args, kwargs))
    for got, w in zip(outputs(dag.run(*np_args, **np_kwargs)), want, strict=True):
        # Llama computes its norms and positions in float32, whatever its own element type
        assert_close(got, w, TOLERANCE["f32" if (name, dtype) == ("LlamaForCausalLM", "f64") else dtype])


# --- integers ----------------------------------------------------------------------------------------------


class Int8Linear(nn.Module):
    """Weights of 8 bits and a scale for each row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype) + self.bias.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_8_bits(dtype: torch.dtype) -> None:
    net = nn.Sequential(Int8Linear(nn.Linear(24, 16)), nn.ReLU(), Int8Linear(nn.Linear(16, 8)))
    dag = both_ways(net, torch.randn(5, 24).to(dtype))
    assert dag.graph.buffers["0.weight"].dtype.name == "i8"
    assert dag.to_torch(fixed=True).state_dict()["0.weight"].dtype == torch.int8


def test_dynamic_quantisation_by_hand() -> None:
    def quantised(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
        q = (x / scale).round().clamp(-128, 127).to(torch.int8)
        return (q.to(torch.int32) @ w.to(torch.int32).T).float() * scale

    both_ways(Fn(quantised), torch.randn(4, 16), torch.randint(-128, 128, (8, 16), dtype=torch.int8))


def test_images_of_bytes() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = image.permute(0, 3, 1, 2).float() / 255
            return self.conv((x - self.mean) / self.std)

    both_ways(Normalised(), torch.randint(0, 256, (2, 8, 9, 3), dtype=torch.uint8))


def test_masks_of_bools() -> None:
    def masked(x: torch.Tensor, keep: torch.Tensor, pad: torch.Tensor) -> Any:
        both = keep & ~pad[:, None] | torch.eye(5, dtype=torch.bool)
        scores = (x @ x.transpose(1, 2)).masked_fill(~both, float("-inf"))
        count = both.sum(-1)
        return scores.softmax(-1) @ x, count, both.any(1), both.all(-1), x[:, :, 0] * pad, both.float().mean()

    x, keep, pad = torch.randn(2, 5, 4), torch.rand(2, 5, 5) > 0.3, torch.rand(2, 5) > 0.7
    both_ways(Fn(masked), x, keep, pad)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_arithmetic_of_integers_wraps_as_torchs(dtype: torch.dtype) -> None:
    def mixed(x: torch.Tensor) -> Any:
        return x * 7 + x, x // 3, x % 5, x.sum(), x.float().mean(), x / 2, x << 1, x > 3, x.cumsum(0), -x

    info = torch.iinfo(dtype)
    both_ways(Fn(mixed), torch.tensor([info.min, info.min + 1, 0, 1, 2, 5, info.max], dtype=dtype), tolerance=1e-6)


# --- autocast ----------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """What autocast treats in every way: narrow, wide, by promotion, and not at all."""

    def __init__(self, einsum: bool = True) -> None:
        super().__init__()
        self.einsum = einsum
        self.first = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv1d(2, 2, 3, padding=1)
        self.bn = nn.BatchNorm1d(2)

    def parts(self, x: torch.Tensor) -> Any:
        y = self.first(x)
        n = self.norm(y)
        c = self.bn(self.conv(n + x))
        a = F.scaled_dot_product_attention(y, c, x)
        e = torch.einsum("bij,bkj->bik", x, y) if self.einsum else x @ y.transpose(1, 2)
        s = torch.cat([F.softmax(c, -1), x, y], 1)
        b = torch.baddbmm(e, x, y.transpose(1, 2))
        loss = F.mse_loss(y, c)
        p = torch.stack([y.mean(), loss])
        return y, n, c, a, e, s, b, loss, p, F.gelu(y) * 2, y @ y.transpose(1, 2), F.prelu(x, x.new_ones(1))

    def forward(self, x: torch.Tensor) -> Any:
        return self.parts(x)


class Inside(Mixed):
    def forward(self, x: torch.Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.first(x)
            with torch.autocast("cpu", enabled=False):
                z = y.float() @ x.transpose(1, 2)
            with torch.autocast("cpu", dtype=torch.float16):
                h = x @ y.transpose(1, 2)
            return (*self.parts(x), z, h), self.first(z @ x)


def assert_cast_alike(dag: TensorDAG, x: torch.Tensor, want: list[torch.Tensor]) -> None:
    back = outputs(dag.to_torch(fixed=True)(x))
    got = outputs(dag.run(x.numpy()))
    for i, (b, g, w) in enumerate(zip(back, got, want, strict=True)):
        assert b.dtype == w.dtype, i
        torch.testing.assert_close(b, w, rtol=1.6e-2, atol=1e-2, msg=lambda m, i=i: f"result {i}: {m}")
        assert_close(np.asarray(g), w.detach(), 2e-2)


def test_autocast_inside() -> None:
    net, x = Inside().eval(), torch.randn(3, 2, 8)
    dag = td.from_torch(net, x)
    with torch.no_grad():
        want = outputs(net(x))
    assert_cast_alike(dag, x, want)
    dtypes = {w.dtype for w in want}
    assert dtypes == {torch.float32, torch.bfloat16, torch.float16}


def test_autocast_around() -> None:
    net, x = Mixed().eval(), torch.randn(3, 2, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        want = outputs(net(x))
        dag = td.from_torch(net, x)
    plain = Mixed(einsum=False).eval()  # in a trace einsum is one op, whose casts inside are lost
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        traced = torch.jit.trace(plain, x, check_trace=False)
    with torch.no_grad():
        assert_cast_alike(dag, x, want)
        assert_cast_alike(td.from_torch(traced, x), x, outputs(traced(x)))
    assert td.from_torch(net, x).graph.outputs["0"].dtype.name == "f32"  # outside it is as it is


def test_autocast_for_another_device_does_nothing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=torch.cuda.is_available()):
                return self.linear(x)

    both_ways(Net(), torch.randn(2, 4))


def test_gradients_go_through_autocast() -> None:
    net, x = Inside().eval(), torch.randn(3, 2, 8)
    module = td.from_torch(net, x).to_torch(copy=True)
    for m in (net, module):
        sum(o.float().square().sum() for o in outputs(m(x))).backward()
    own = dict(module.named_parameters())
    for name, p in net.named_parameters():
        assert p.grad is not None
        assert own[name].grad is not None
        scale = float(p.grad.abs().max())
        assert float((own[name].grad - p.grad).abs().max()) <= 3e-2 * scale, name


def test_autocast_in_a_recurrent_net() -> None:
    net = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
    x = torch.randn(2, 4, 6)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        dag = td.from_torch(net, x)
    # torch.export sees the LSTM that is made of linear layers, whose states stay f32. Eager takes oneDNN's, in bf16,
    # and raises where the processor has none (before AVX-512).
    with torch.no_grad(), Region("cpu", torch.bfloat16).inside():
        want = outputs(net(x))
    got = [np.asarray(g) for g in outputs(dag.run(x.numpy()))]
    with torch.no_grad():
        back = outputs(dag.to_torch(fixed=True)(x))
    for g, b, w in zip(got, back, want, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(b, w.float(), rtol=2e-2, atol=1e-2)
        assert_close(g, b, 1e-2)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_lstm_of_one_dnn(reverse: bool) -> None:
    net = nn.LSTM(6, 5)
    state = torch.randn(2, 5), torch.randn(2, 5)
    layer = Fn(
        lambda x, h, c: torch.mkldnn_rnn_layer(
            x, *[w.detach() for w in net._flat_weights], h, c, reverse, [], 2, 5, 1, True, False, False, False
        )[:3]
    )
    both_ways(layer, torch.randn(4, 2, 6), *state, tolerance=1e-5)


def test_mixed_precision_training() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.body(x).mean()

    net, x = Net().train(), torch.randn(2, 3, 6, 6)
    module = td.from_torch(net, x).to_torch(copy=True)
    for _ in range(3):
        torch.testing.assert_close(module(x), net(x), rtol=0, atol=0)
    torch.testing.assert_close(module.state_dict(), net.state_dict(), rtol=0, atol=0)


# --- complex numbers ---------------------------------------------------------------------------------------


def rope_view(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions as Llama's first code has them."""
    freqs = 1.0 / 10000 ** (torch.arange(0, 8, 2).float() / 8)
    angles = torch.outer(torch.arange(x.shape[1]).float(), freqs)
    turns = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[None, :, None]).flatten(3).type_as(x)


def rope_made(x: torch.Tensor) -> torch.Tensor:
    angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
    z = torch.complex(x[..., :4], x[..., 4:]) * torch.complex(angles.cos(), angles.sin())[None, :, None]
    return torch.cat([z.real, z.imag], -1)


def rope_exp(x: torch.Tensor) -> torch.Tensor:
    angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1, 0.01, 0.001])
    z = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous()) * torch.exp(1j * angles)[None, :, None]
    return torch.view_as_real(z).flatten(-2)


@pytest.mark.parametrize("rope", [rope_view, rope_made, rope_exp])
def test_rotary_positions(rope: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = torch.randn(2, 5, 3, 8)
    dag = both_ways(Fn(rope), x, tolerance=1e-5)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(2, 5, 3, 8)
    (dag.to_torch(fixed=True)(a) * weights).sum().backward()
    (rope(b) * weights).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    script = dag.to_torchscript()
    torch.testing.assert_close(script(x), rope(x))


COMPLEX: dict[str, Callable[[torch.Tensor], Any]] = {
    "parts": lambda z: (z.real, z.imag, z.abs(), z.angle(), z.conj() * z, torch.view_as_real(z)),
    "arithmetic": lambda z: (z + 1, z * 2j, z / (z + 3), 1 / (z + 3), z - z.conj(), -z, z**2, z * z.real),
    "functions": lambda z: (z.exp(), (z + 5).log(), z.sqrt(), z.sin(), z.cos(), z.tanh(), torch.sgn(z), z.square()),
    "reductions": lambda z: (z.sum(), z.mean(1), z.prod(0), z.cumsum(1), z == z.conj(), z.abs().amax()),
    "products": lambda z: (z @ z.mT, z @ z.mH, torch.einsum("ij,kj->ik", z, z.conj()), torch.outer(z[0], z[1])),
    "structure": lambda z: (z.reshape(-1), torch.cat([z, z.conj()]), z.T, z[:, 1:], F.pad(z, (1, 1)), z.flip(0)),
    "casts": lambda z: (z.to(torch.complex128), z.real.to(torch.complex64) * z, z.real.double() * z.abs()),
    "made": lambda z: (torch.complex(z.real, z.imag), torch.polar(z.abs(), z.angle()), torch.zeros_like(z) + 1j),
    "where": lambda z: (torch.where(z.abs() > 1, z, 0), z.masked_fill(z.real > 0, 1.0), z.isfinite()),
}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers(name: str, dtype: torch.dtype) -> None:
    z = torch.randn(3, 4, dtype=dtype)
    both_ways(Fn(COMPLEX[name]), z, tolerance=1e-5 if dtype is torch.complex64 else 1e-12)


def test_a_linear_layer_of_complex_numbers() -> None:
    net = nn.Linear(4, 3, dtype=torch.complex64)
    x = torch.randn(2, 4, dtype=torch.complex64)
    dag = both_ways(net, x, tolerance=1e-5)
    module = dag.to_torch(copy=True)
    for m in (net, module):
        m(x).abs().sum().backward()
    torch.testing.assert_close(module.weight.grad, net.weight.grad)


class Numbers(nn.Module):
    """What Python makes of a size, in double precision; ``torch.jit.trace`` has it in single."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n = x.shape[-1]
        return x * n**-0.5, (1 - 1 / n) * x, x.long() * (n / 3), torch.full((2,), n / 3), x.where(x > 1 / n, x + n / 11)


@pytest.mark.parametrize("dtype", [*DTYPES.values(), torch.float32])
def test_numbers_of_sizes_are_python_s_in_what_is_traced_here(dtype: torch.dtype) -> None:
    x = torch.randn(3, 7).to(dtype)
    back = td.from_torch(Numbers(), x, via="trace").to_torch()
    for ours, eager in zip(back(x), Numbers()(x), strict=True):
        torch.testing.assert_close(ours, eager, rtol=2 * torch.finfo(eager.dtype).eps, atol=0)
