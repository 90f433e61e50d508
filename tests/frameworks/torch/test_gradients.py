"""What a capture keeps of a network's gradients, on both entrances, and what it says of the rest."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.utils.checkpoint as checkpoints
from torch import Tensor, nn
from torch.nn import functional as F

import tdagger as td

WAYS: tuple[Literal["export", "trace"], ...] = ("export", "trace")
both = pytest.mark.parametrize("via", WAYS)


class _Net(nn.Module):
    """Two layers and a function between them, that sees the network."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x)))


def _gradients(module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    x = x.clone().requires_grad_()
    module.zero_grad()
    module(x).square().sum().backward()
    return {"x": x.grad, **{n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}}


def _same_gradients(module: nn.Module, via: Literal["export", "trace"], x: Tensor | None = None) -> td.TensorDAG:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)) if x is None else x
    dag = td.from_torch(module, x.clone().requires_grad_(), via=via)
    back = dag.to_torch()
    torch.testing.assert_close(back(x), module(x))
    want, got = _gradients(module, x), _gradients(back, x)
    assert {n for n, g in got.items() if g is not None} == {n for n, g in want.items() if g is not None}
    torch.testing.assert_close(got, want)
    return dag


# --- regions without gradients -----------------------------------------------------------------------------


def _no_grad(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = net.c(x).abs().amax()
    return x / scale


def _nested(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x.sin()
        with torch.enable_grad():
            z = net.c(x)
        y = y * z.cos()
    return x * y + z


def _switched(net: Any, x: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    y = net.c(x)
    torch.set_grad_enabled(before)
    return x + y


def _inference(net: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = net.c(x.detach()).exp()
    return x * y.clone()


@torch.no_grad()
def _decorated(net: Any, x: Tensor) -> Tensor:
    return net.c(x)


def _in_place(net: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    with torch.no_grad():
        y.add_(net.c(x)).mul_(2)
        y[:, 1] = x[:, 0]
    return x * y


def _detached(net: Any, x: Tensor) -> Tensor:
    return x * net.c(x.detach()) + net.c(x).detach()


@torch.inference_mode()
def _inferred(net: Any, x: Tensor) -> Tensor:
    return net.c(x)


REGIONS = (
    lambda n, x: x + _inferred(n, x.detach()).clone(),
    _no_grad,
    _nested,
    _switched,
    _inference,
    lambda n, x: x + _decorated(n, x),
    _in_place,
    _detached,
)


@both
@pytest.mark.parametrize("between", REGIONS)
def test_regions_without_gradients_stay_so(between: Any, via: Any) -> None:
    _same_gradients(_Net(between), via)


@both
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_it_is_the_same_when_imported_without_gradients(around: Any, via: Any) -> None:
    net, x = _Net(_nested), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    with around():
        dag = td.from_torch(net, x.clone(), via=via)
    back = dag.to_torch()
    want, got = _gradients(net, x), _gradients(back, x)
    torch.testing.assert_close(got, want)


def test_a_trace_ends_every_region() -> None:
    def left(net: Any, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return x * 2

    try:
        dag = td.from_torch(_Net(left), torch.ones(2, 4), via="trace")
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
    assert not dag.to_torch()(torch.ones(2, 4)).requires_grad


# --- checkpoints -------------------------------------------------------------------------------------------


def _checkpointed(reentrant: bool) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, x: checkpoints.checkpoint(lambda y: net.c(y).sin(), x, use_reentrant=reentrant) + net.c(x)


def _sequence(net: Any, x: Tensor) -> Tensor:
    layers = nn.Sequential(net.c, nn.Tanh(), net.a, nn.Sigmoid())
    return checkpoints.checkpoint_sequential(layers, 2, x, use_reentrant=True)


def _checkpoint_in_checkpoint(net: Any, x: Tensor) -> Tensor:
    inner = lambda y: checkpoints.checkpoint(net.c, y.cos(), use_reentrant=True) * y  # noqa: E731
    return checkpoints.checkpoint(inner, x, use_reentrant=True)


def _checkpoint_without_gradients(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = checkpoints.checkpoint(net.c, x, use_reentrant=True)
    return x + y


@both
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # torch, when eager runs
@pytest.mark.parametrize(
    "between",
    [_checkpointed(True), _checkpointed(False), _sequence, _checkpoint_in_checkpoint, _checkpoint_without_gradients],
)
def test_checkpoints_have_the_gradients_of_what_they_run(between: Any, via: Any) -> None:
    _same_gradients(_Net(between), via)


@both
def test_a_checkpoint_costs_its_backward(via: Any) -> None:
    net = _Net(lambda net, x: checkpoints.checkpoint(net.c, x, use_reentrant=True))
    dag = td.from_torch(net, torch.ones(2, 4), via=via)
    assert dag.cost(backward=True).backward_macs == 3 * 2 * (2 * 4 * 4) - 2 * 4 * 4


@both
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # of transformers, for torch.jit.trace looks at all
def test_transformers_checkpoints_of_a_training_network(reentrant: bool, via: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, use_cache=False,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    ids = torch.arange(6).reshape(1, 6)
    back = td.from_torch(model, (), {"input_ids": ids}, via=via).to_torch()
    for m in (model, back):
        m(input_ids=ids).logits.square().sum().backward()
    for (name, p), (own, q) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert name == own
        assert p.grad is not None, name
        assert q.grad is not None, name
        torch.testing.assert_close(q.grad, p.grad)


# --- autograd functions ------------------------------------------------------------------------------------


class _FakeQuantize(torch.autograd.Function):
    """Rounds, with a straight-through gradient and a scale found without gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.abs().max() / 7
        ctx.save_for_backward(scale)
        return torch.round(x / scale) * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _Reversed(torch.autograd.Function):
    """The gradient reversal layer of domain adaptation, in the newer style."""

    @staticmethod
    def forward(x: Tensor, by: float = 1.0) -> Tensor:
        with torch.no_grad():
            return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.by = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return -ctx.by * grads[0], None


class _OfModule(torch.autograd.Function):
    """Runs a module that isn't among its tensors."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: Tensor) -> Tensor:
        ctx.needs = ctx.needs_input_grad
        with torch.enable_grad():
            return module(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, grads[0]


class _Own(_FakeQuantize):
    @classmethod
    def apply(cls, *args: Any) -> Any:
        return super().apply(*args)


_quantize, _partly = _FakeQuantize.apply, functools.partial(_Reversed.apply, by=0.5)


class _Holder:
    def __init__(self) -> None:
        self.function = _Reversed.apply


_held = _Holder()

FUNCTIONS = {
    "_FakeQuantize": lambda n, x: _FakeQuantize.apply(x),
    "_FakeQuantize ": lambda n, x: _quantize(x),
    "_Reversed": lambda n, x: _Reversed.apply(x, 2.0),
    "_Reversed ": lambda n, x: _partly(x),
    "_Reversed  ": lambda n, x: _held.function(x),
    "_OfModule": lambda n, x: _OfModule.apply(n.c, x),
    "_Own": lambda n, x: _Own.apply(x),
}


@both
@pytest.mark.parametrize("name", FUNCTIONS)
def test_autograd_functions_are_named_however_they_are_called(name: str, via: Any) -> None:
    net, x = _Net(FUNCTIONS[name]), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    with pytest.warns(UserWarning, match=rf"autograd functions with a backward of their own \({name.strip()}\), which"):
        back = td.from_torch(net, x, via=via).to_torch()
    torch.testing.assert_close(back(x), net(x))
    found = _gradients(back, x)  # what comes after the function has its gradients
    torch.testing.assert_close(found["b.weight"], _gradients(net, x)["b.weight"])


@both
def test_one_after_another_keeps_the_region_around_them(via: Any) -> None:
    def between(net: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = _FakeQuantize.apply(net.c(x)) * x
        return x * y

    with pytest.warns(UserWarning, match="_FakeQuantize"):
        _same_gradients(_Net(between), via)


@both
def test_a_function_leaves_everything_as_it_was(via: Any) -> None:
    functions = torch.autograd.function
    owners: list[Any] = [torch._C, torch, torch.autograd, functions, torch.Tensor, functions._SingleLevelFunction]
    before = [dict(vars(o)) for o in owners]
    with pytest.warns(UserWarning, match="_FakeQuantize"):
        td.from_torch(_Net(FUNCTIONS["_FakeQuantize"]), torch.ones(2, 4), via=via)
    assert [dict(vars(o)) for o in owners] == before
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


# --- hooks -------------------------------------------------------------------------------------------------


def _hook_on_tensor(net: Any, x: Tensor) -> Tensor:
    x.register_hook(lambda g: g * 2) if x.requires_grad else None
    return x


def _parameter_hook(net: nn.Module) -> Any:
    net.a.weight.register_hook(lambda g: g * 2)  # pyright: ignore[reportAttributeAccessIssue]


def _accumulated_hook(net: Any) -> Any:
    net.b.bias.register_post_accumulate_grad_hook(lambda p: None)


HOOKS: dict[str, Callable[[Any], Any]] = {
    r"a.weight: register_hook": _parameter_hook,
    r"b.bias: register_post_accumulate_grad_hook": _accumulated_hook,
    r"a: register_full_backward_hook": lambda net: net.a.register_full_backward_hook(lambda m, i, o: None),
    r"the top module: register_full_backward_pre_hook": lambda net: net.register_full_backward_pre_hook(
        lambda m, g: None
    ),
}


@both
@pytest.mark.parametrize("name", HOOKS)
def test_hooks_on_gradients_are_named(name: str, via: Any) -> None:
    net = _Net(lambda n, x: x)
    HOOKS[name](net)
    if via == "trace" and name.endswith("full_backward_hook"):
        with pytest.raises(td.UnsupportedError, match="Modules that have backward hooks"):
            td.from_torch(net, torch.ones(2, 4), via=via)
        return
    with pytest.warns(UserWarning, match=rf"hooks on gradients \({name}\), which aren't kept"):
        td.from_torch(net, torch.ones(2, 4), via=via)


@both
def test_hooks_in_forward_are_named_by_line(via: Any) -> None:
    def between(net: Any, x: Tensor) -> Tensor:
        handle = x.register_hook(lambda g: g * 2)
        handle.remove()
        return x

    with pytest.warns(UserWarning, match=r"hooks on gradients \(\S*test_gradients.py:\d+: register_hook\)"):
        td.from_torch(_Net(between), torch.ones(2, 4), via=via)


@both
def test_forward_hooks_that_detach_are_kept(via: Any) -> None:
    net = _Net(lambda n, x: x + n.c(x))
    net.c.register_forward_hook(lambda m, args, out: out.detach())
    net.b.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    _same_gradients(net, via)


# --- gradients taken inside --------------------------------------------------------------------------------


class _Forces(nn.Module):
    def __init__(self, take: Callable[..., Any]) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.take = take

    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            e = self.energy(x).sum()
            return e, -self.take(e, x)


def _backward(e: Tensor, x: Tensor) -> Tensor:
    e.backward(retain_graph=True)
    assert x.grad is not None
    return x.grad


_grad = torch.autograd.grad


@both
@pytest.mark.parametrize(
    "take",
    [
        lambda e, x: torch.autograd.grad(e, x, create_graph=True)[0],
        lambda e, x: _grad(e, x)[0],
        _backward,
    ],
)
def test_gradients_taken_in_forward_are_refused(take: Any, via: Any) -> None:
    with pytest.raises(td.UnsupportedError) as e:
        td.from_torch(_Forces(take), torch.ones(4, 3), via=via)
    assert "the network takes a gradient while it runs (torch.autograd at " in str(e.value)
    assert "test_gradients.py:" in str(e.value)


def test_the_advice_for_them_works() -> None:
    model = _Forces(lambda e, x: torch.autograd.grad(e, x, create_graph=True)[0])
    energy = td.from_torch(model.energy, torch.ones(4, 3)).to_torch()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (force,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
    torch.testing.assert_close(-force, model(x)[1])
    force.square().sum().backward()
    want = torch.autograd.grad(model(x)[1].square().sum(), list(model.parameters()), allow_unused=True)
    for (_, p), w in zip(energy.named_parameters(), want, strict=True):
        assert (p.grad is None) == (w is None)
        if w is not None:
            torch.testing.assert_close(p.grad, w)


# --- the fast path of attention ----------------------------------------------------------------------------


class _Attention(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        if self.kind == "layer":
            return self.layer(x, src_mask=bias)
        if self.kind == "padding":
            return self.layer(x, src_key_padding_mask=bias[0].expand(2, -1))
        return self.attention(x, x, x, attn_mask=bias, need_weights=self.kind == "weights")[0]


@both
@pytest.mark.parametrize("kind", ["layer", "padding", "attention", "weights"])
def test_masks_of_floats_are_added_to_the_scores(kind: str, via: Any) -> None:
    module = _Attention(kind).eval()
    x, bias = torch.randn(2, 5, 8), -torch.rand(5, 5)
    want = module(x, bias)
    with torch.no_grad():  # where torch would take its fast path
        dag = td.from_torch(module, (x, bias), via=via)
    torch.testing.assert_close(dag.to_torch(fixed=True)(x, bias), want)


def test_no_warning_where_nothing_is_lost() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for via in WAYS:
            td.from_torch(_Net(lambda n, x: F.relu(x)), torch.ones(2, 4), via=via)
