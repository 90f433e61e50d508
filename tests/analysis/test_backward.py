"""What the backward pass costs, against closed forms by hand and against what torch's autograd really dispatches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tdagger as td
from tdagger.analysis.cost.backward import BackwardWork, backward, has_gradient, leaves
from tdagger.analysis.cost.report import Cost
from tdagger.composite import composites
from tdagger.errors import AttributeValueError, GraphError
from tdagger.graph import replayed
from tdagger.ops.external import External, Slot
from tests.analysis.dispatched import backward_products
from tests.closed_forms import CLOSED, Closed, conv
from tests.frameworks.torch.test_exporter import dag_of
from tests.samples import Sample, all_samples, to_torch


class Of(nn.Module):
    """A function of tensors as a module: those of floats are its parameters, others its buffers."""

    def __init__(self, function: Callable[..., Any], *tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        self.names = [f"p{i}" for i in range(len(tensors))]
        for name, tensor in zip(self.names, tensors, strict=True):
            if tensor.is_floating_point() or tensor.is_complex():
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self) -> Any:
        return self.function(*[getattr(self, n) for n in self.names])


class Net(nn.Module):
    """Layers, and what is done with them: ``forward(net, *inputs)``."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = forward

    def forward(self, *args: Tensor) -> Any:
        return self.function(self, *args)


def r(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.rand(*shape, dtype=dtype)


def cost_and_torch(
    module: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None, inputs: bool = False
) -> tuple[Cost, int]:
    """What we count, and the multiply-adds that torch dispatches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is imported, about itself
        dag = td.from_torch(module, args, kwargs)
        if inputs:
            args = tuple([a.clone().requires_grad_() if a.is_floating_point() else a for a in args])
        seen = backward_products(module, args, kwargs)
    return dag.cost(backward="inputs" if inputs else True), sum(seen.values())


# --- every kind of contraction: module, inputs, multiply-adds for weights alone, for inputs too -----------------


def _recurrent(gates: int, inputs: bool) -> int:
    """Two layers in two directions on 7 steps of 2 x 3, states of 5; the first state is given to nobody back."""
    b, t, i, h = 2, 7, 3, 5
    first = b * gates * h * i * t * (2 if inputs else 1)
    second = b * gates * h * (2 * h) * t * 2
    states = b * gates * h * h * (t + t - 1)
    return 2 * (first + second + 2 * states)


_both_ways = {"num_layers": 2, "bidirectional": True, "batch_first": True}
_sequence = (r(2, 7, 3),)
_scores = 2 * 4 * 5 * 5 * 8
_grouped = F.grouped_mm if hasattr(F, "grouped_mm") else torch._grouped_mm
_ends = torch.tensor([2, 2, 7], dtype=torch.int32)
_bf16 = partial(r, dtype=torch.bfloat16)

CONTRACTIONS: dict[str, tuple[nn.Module, tuple[Any, ...], int, int]] = {
    "linear": (nn.Linear(7, 5), (r(2, 3, 7),), 210, 420),
    "linear, two": (nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)), (r(2, 7),), 70 + 60, 140 + 60),
    "linear, bf16": (nn.Linear(7, 5).bfloat16(), (_bf16(3, 7),), 105, 210),
    "conv": (nn.Conv2d(3, 8, 3, padding=1), (r(2, 3, 10, 12),), 51840, 103680),
    "conv, groups and stride": (nn.Conv2d(4, 6, (3, 5), stride=2, groups=2), (r(2, 4, 9, 11),), 5760, 11520),
    "conv, dilation": (nn.Conv2d(3, 8, 3, dilation=2), (r(1, 3, 10, 10),), 36 * 8 * 27, 2 * 36 * 8 * 27),
    "conv, depthwise": (nn.Conv1d(6, 6, 4, groups=6), (r(2, 6, 9),), 288, 576),
    "conv, same": (nn.Conv1d(3, 4, 4, padding="same"), (r(2, 3, 9),), 2 * 9 * 4 * 12, 2 * 2 * 9 * 4 * 12),
    "conv3d": (nn.Conv3d(2, 3, 2), (r(1, 2, 3, 4, 5),), 1152, 2304),
    "transposed conv": (nn.ConvTranspose2d(4, 6, 3, stride=2), (r(2, 4, 5, 7),), 15120, 30240),
    "transposed conv, groups": (
        nn.ConvTranspose1d(4, 6, 5, stride=3, padding=2, groups=2, output_padding=1), (r(2, 4, 5),), 600, 1200,
    ),
    "matmul": (Of(torch.matmul, r(5, 7), r(7, 3)), (), 210, 210),
    "matmul, broadcast": (Of(torch.matmul, r(4, 1, 2, 3), r(6, 3, 5)), (), 2 * 4 * 6 * 30, 2 * 4 * 6 * 30),
    "matmul with its own transpose": (Of(lambda x: x @ x.mT, r(4, 3)), (), 2 * 48, 2 * 48),
    "matmul, complex": (Of(torch.matmul, r(2, 3, dtype=torch.complex64), r(3, 4, dtype=torch.complex64)), (), 48, 48),
    "addmm": (Of(torch.addmm, r(2, 5), r(2, 3), r(3, 5)), (), 60, 60),
    "baddbmm": (
        Of(partial(torch.baddbmm, beta=0.5, alpha=2.0), r(4, 2, 5), r(4, 2, 3), r(4, 3, 5)), (), 240, 240,
    ),
    "einsum": (Of(partial(torch.einsum, "bqhd,bkhd->bhqk"), r(2, 5, 4, 3), r(2, 6, 4, 3)), (), 1440, 1440),
    "einsum of three": (Of(partial(torch.einsum, "ij,jk,kl->il"), r(2, 3), r(3, 4), r(4, 5)), (), 128, 128),
    "grouped matmul": (
        Of(lambda x, w: _grouped(x, w, offs=_ends).exp(), _bf16(7, 16), _bf16(3, 16, 8)), (), 2 * 896, 2 * 896,
    ),
    "attention of products": (
        Of(lambda q, k, v: (q @ k.mT).softmax(-1) @ v, r(2, 4, 5, 8), r(2, 4, 5, 8), r(2, 4, 5, 3)), (),
        2 * (_scores + _scores * 3 // 8), 2 * (_scores + _scores * 3 // 8),
    ),
    "embedding": (nn.Embedding(10, 4), (torch.tensor([[1, 2, 3]]),), 0, 0),
    "norms": (nn.Sequential(nn.LayerNorm(6), nn.BatchNorm1d(3), nn.GroupNorm(3, 3)), (r(2, 3, 6),), 0, 0),
    "cdist": (Of(torch.cdist, r(2, 5, 3), r(2, 7, 3)), (), 0, 0),
    "outer": (Of(torch.outer, r(7), r(5)), (), 0, 0),
    "lstm": (nn.LSTM(3, 5, **_both_ways), _sequence, _recurrent(4, False), _recurrent(4, True)),
    "gru": (nn.GRU(3, 5, **_both_ways), _sequence, _recurrent(3, False), _recurrent(3, True)),
    "rnn": (nn.RNN(3, 5, **_both_ways), _sequence, _recurrent(1, False), _recurrent(1, True)),
    "lstm with a projection": (  # 7 steps of 4: inputs, states of 2, projections
        nn.LSTM(3, 5, proj_size=2), (r(7, 4, 3),),
        7 * 4 * 60 + 13 * 4 * 40 + 2 * 7 * 4 * 10, 2 * 7 * 4 * 60 + 13 * 4 * 40 + 2 * 7 * 4 * 10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions(name: str) -> None:
    module, args, weights, inputs = CONTRACTIONS[name]
    for macs, with_inputs in ((weights, False), (inputs, True)):
        cost, dispatched = cost_and_torch(module, args, inputs=with_inputs)
        assert (cost.backward_macs, cost.backward_contraction_flops) == (macs, 2 * macs)
        assert (dispatched, cost.recomputed_flops) == (macs, 0)


def test_of_vectors_by_hand() -> None:
    """The gradient of a matrix times a vector is a product without a sum, ``mul`` in torch; it counts as any other."""
    assert cost_and_torch(Of(torch.mv, r(5, 7), r(7)))[0].backward_macs == 35 + 35
    assert cost_and_torch(Of(torch.dot, r(7), r(7)))[0].backward_macs == 7 + 7


def test_bilinear_by_hand() -> None:
    """Two contractions: x1 with the weight, then x2. (torch's own backward pass works the first out again.)"""
    dag = td.from_torch(nn.Bilinear(3, 4, 5), (r(2, 3), r(2, 4)))
    assert dag.cost().macs == 2 * 5 * 3 * 4 + 2 * 5 * 4
    assert dag.cost(backward=True).backward_macs == 2 * 5 * 3 * 4 + 2 * 5 * 4  # of the weight, and of what x2 takes
    assert dag.cost(backward="inputs").backward_macs == 2 * (2 * 5 * 3 * 4 + 2 * 5 * 4)


# --- attention ---------------------------------------------------------------------------------------------


def _attend(*shapes: tuple[int, ...], **options: Any) -> Of:
    return Of(partial(F.scaled_dot_product_attention, **options), *[r(*s) for s in shapes])


_heads = ((2, 4, 5, 8), (2, 4, 5, 8), (2, 4, 5, 8))
_bool_mask = torch.ones(5, 5, dtype=torch.bool).tril()

#: Attention that torch has a fused backward pass of, on a CPU.
FUSED: dict[str, nn.Module] = {
    "plain": _attend(*_heads),
    "causal": _attend(*_heads, is_causal=True),
    "grouped queries": _attend((2, 4, 5, 8), (2, 2, 5, 8), (2, 2, 5, 8), enable_gqa=True),
    "a mask": Of(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, _bool_mask), *[r(*s) for s in _heads]),
    "views": Of(
        lambda x: F.scaled_dot_product_attention(*x.view(2, 5, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind()), r(2, 5, 96)
    ),
}
#: Attention that torch takes apart.
APART: dict[str, nn.Module] = {
    "no heads": _attend((8, 5, 8), (8, 5, 8), (8, 5, 8)),
    "a mask with a gradient": Of(F.scaled_dot_product_attention, *[r(*s) for s in _heads], r(5, 5)),
    "dropout": _attend(*_heads, dropout_p=0.5),
    "over channels": Of(
        lambda x: F.scaled_dot_product_attention(*x.view(2, 8, 3, 4, 5).permute(2, 0, 3, 4, 1).unbind()), r(2, 8, 60)
    ),
    "every other entry": Of(
        lambda x: F.scaled_dot_product_attention(*x[..., ::2].chunk(3, 1)), r(2, 12, 5, 16)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_works_scores_out_again(name: str) -> None:
    cost, dispatched = cost_and_torch(FUSED[name])
    assert (cost.macs, cost.backward_macs, cost.recomputed_flops) == (2 * _scores, 4 * _scores, 2 * _scores)
    assert dispatched == 5 * _scores


@pytest.mark.parametrize("name", APART)
def test_attention_that_torch_takes_apart(name: str) -> None:
    cost, dispatched = cost_and_torch(APART[name])
    assert (cost.backward_macs, cost.recomputed_flops) == (2 * cost.macs, 0)
    assert dispatched == 2 * cost.macs


def test_fused_attention_gives_gradients_nobody_needs() -> None:
    q, k = r(2, 4, 5, 8), r(2, 4, 5, 8)
    cost, dispatched = cost_and_torch(Of(lambda v: F.scaled_dot_product_attention(q, k, v), r(2, 4, 5, 8)))
    assert (cost.backward_macs, cost.recomputed_flops) == (_scores, 2 * 4 * _scores)
    assert dispatched == 5 * _scores


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention(is_training: bool, need_weights: bool) -> None:
    net = Net(
        lambda net, x: net.attention(x, x, x, need_weights=need_weights)[0],
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
    )
    cost, dispatched = cost_and_torch(net.train(is_training), (r(2, 5, 8),))
    products = 2 * 5 * 8 * 24 + 2 * (2 * 5 * 5 * 8) * 2 + 2 * (2 * 5 * 8 * 8)
    assert cost.backward_macs == products
    assert dispatched == products + cost.recomputed_flops // 2


# --- who needs a gradient ----------------------------------------------------------------------------------


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))


def test_a_perceptron_by_hand() -> None:
    """Of every layer the weight's gradient, and the input's but for the first."""
    cost, dispatched = cost_and_torch(_mlp(), (r(3, 4),))
    assert cost.backward_macs == dispatched == 3 * (32 + 2 * 48 + 2 * 12)


def test_frozen_parameters_save_their_gradients() -> None:
    net = _mlp()
    net[2].requires_grad_(False)
    cost, dispatched = cost_and_torch(net, (r(3, 4),))
    assert cost.backward_macs == dispatched == 3 * (32 + 48 + 2 * 12)  # through the frozen layer to the first
    net[0].requires_grad_(False)
    cost, dispatched = cost_and_torch(net, (r(3, 4),))
    assert cost.backward_macs == dispatched == 3 * 12  # only the last layer's weight
    net.requires_grad_(False)
    net[2].bias.requires_grad_(True)
    cost, dispatched = cost_and_torch(net, (r(3, 4),))
    assert cost.backward_macs == dispatched == 3 * 12  # a bias: no product, but one to get there
    net.requires_grad_(False)
    cost, dispatched = cost_and_torch(net, (r(3, 4),))
    assert cost.backward_macs == dispatched == 0


def test_tied_weights_have_a_product_for_each_use() -> None:
    def forward(net: Any, tokens: Tensor) -> Tensor:
        return net.out(net.hidden(net.hidden(net.tokens(tokens))))

    net = Net(forward, tokens=nn.Embedding(11, 4), hidden=nn.Linear(4, 4), out=nn.Linear(4, 11, bias=False))
    net.out.weight = net.tokens.weight
    cost, dispatched = cost_and_torch(net, (torch.tensor([1, 2, 3]),))
    assert cost.backward_macs == dispatched == 2 * 3 * (16 + 16 + 44)


def _branch(function: Callable[[Tensor], Any]) -> Net:
    """The first layer's result goes through a function and a second layer; a third takes it as it is."""

    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = net.first(x)
        return net.second(function(x).float()), net.third(x)

    return Net(forward, first=nn.Linear(4, 4), second=nn.Linear(4, 6), third=nn.Linear(4, 2))


#: Functions, and whether a gradient goes on through them to what they take: 0 is one too.
THROUGH: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "tanh": (torch.tanh, True),
    "floor": (torch.floor, True),
    "round": (torch.round, True),
    "sign": (torch.sign, True),
    "remainder": (lambda x: torch.remainder(x, 2.0), True),
    "clamp": (lambda x: x.clamp(0, 1), True),
    "half precision": (lambda x: x.bfloat16(), True),
    "masked": (lambda x: x.masked_fill(x > 0, 0.5), True),
    "sorted": (lambda x: x.sort(-1).values, True),
    "topk": (lambda x: x.topk(4).values, True),
    "written to": (lambda x: torch.zeros(3, 4).index_add(0, torch.tensor([2, 0, 1]), x), True),
    "scan": (lambda x: x.cumsum(-1), True),
    "sort's indices": (lambda x: x.argsort(-1), False),
    "compared": (lambda x: x > 0, False),
    "rounded to integers": (lambda x: x.int(), False),
    "detached": (lambda x: x.detach(), False),
    "only its sizes": (lambda x: torch.ones_like(x), False),
    "bits": (lambda x: x.view(torch.int32), False),
}


@pytest.mark.parametrize("name", THROUGH)
def test_what_gradients_go_through(name: str) -> None:
    function, goes_on = THROUGH[name]
    net = _branch(function)
    cost, dispatched = cost_and_torch(net, (r(3, 4),))
    # the first layer's weight, the second's, the third's and the way back; through the function if it is one
    assert cost.backward_macs == dispatched == 3 * (16 + 24 * (1 + goes_on) + 2 * 8)


def test_no_gradient_goes_through_a_no_grad_region() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = net.first(x)
        return net.second(x)

    cost, dispatched = cost_and_torch(Net(forward, first=nn.Linear(4, 4), second=nn.Linear(4, 6)), (r(3, 4),))
    assert cost.backward_macs == dispatched == 3 * 24


def test_complex_numbers_have_gradients() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        z = torch.view_as_complex(net.first(x).view(3, 2, 2))
        return net.second(torch.view_as_real(z * z).flatten(1) + z.abs().repeat(1, 2) + torch.cat([z.real, z.imag], 1))

    cost, dispatched = cost_and_torch(Net(forward, first=nn.Linear(4, 4), second=nn.Linear(4, 6)), (r(3, 4),))
    assert cost.backward_macs == dispatched == 3 * (16 + 2 * 24)


def test_a_branch_to_integers_alone_has_no_gradient() -> None:
    net = Net(
        lambda net, x: (net.first(x), net.second(x).argmax(-1)), first=nn.Linear(4, 2), second=nn.Linear(4, 6)
    )  # fmt: skip
    cost, dispatched = cost_and_torch(net, (r(3, 4),))
    assert cost.backward_macs == dispatched == 3 * 8


def test_an_entry_of_a_result_gives_a_gradient_to_all_of_it() -> None:
    net = Net(lambda net, x: net.out(net.rnn(x)[0][0]), rnn=nn.GRU(3, 5), out=nn.Linear(5, 2))
    cost, dispatched = cost_and_torch(net, (r(7, 4, 3),))
    # the other steps' is 0 and goes back all the same; nobody wants that of the first state
    assert cost.backward_macs == dispatched == 7 * 4 * 45 + 13 * 4 * 75 + 2 * 4 * 10


def test_what_is_differentiated_can_be_named() -> None:
    def forward(net: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return net.first(a), net.second(net.first(b))

    net = Net(forward, first=nn.Linear(4, 4), second=nn.Linear(4, 6))
    net.second.weight.requires_grad_(False)
    dag = td.from_torch(net, (r(3, 4), r(5, 4)))
    first, second = dag.graph.outputs
    assert dag.cost(backward=True).backward_macs == 3 * 16 + 5 * (16 + 24)
    assert dag.cost(backward=True, outputs=[first]).backward_macs == 3 * 16
    assert dag.cost(backward=True, outputs=first).backward_macs == 3 * 16
    assert dag.cost(backward=True, outputs=[second]).backward_macs == 5 * (16 + 24)
    a, b = dag.graph.inputs
    assert dag.cost(backward="inputs").backward_macs == 3 * 2 * 16 + 5 * (2 * 16 + 24)
    assert dag.cost(backward=[b]).backward_macs == 5 * (16 + 24)
    assert dag.cost(backward=[a, "second.weight"]).backward_macs == 3 * 16 + 5 * 24  # frozen, but asked for
    assert dag.cost(backward=[]).backward_macs == 0


def test_what_can_not_be_differentiated_is_named() -> None:
    net = Net(lambda net, t: (net.e(t), t + 1), e=nn.Embedding(11, 4))
    dag = td.from_torch(net, (torch.tensor([1, 2, 3]),))
    (tokens,), (_, count) = dag.graph.inputs, dag.graph.outputs
    with pytest.raises(GraphError, match=f"can't differentiate by 'w'; there are {tokens}, e.weight"):
        dag.cost(backward=["w"])
    with pytest.raises(GraphError, match=f"'{tokens}': .*i64.* has no gradient, only floats have"):
        dag.cost(backward=[tokens])
    with pytest.raises(GraphError, match=f"can't differentiate '{count}': .*i64.* has no gradient"):
        dag.cost(backward=True, outputs=[count])
    with pytest.raises(AttributeValueError, match="backward: True, \"inputs\" or a list of names, not 'all'"):
        dag.cost(backward="all")
    with pytest.raises(AttributeValueError, match=r"outputs are differentiated with cost\(backward=True\)"):
        dag.cost(outputs=[count])
    with pytest.raises(AttributeValueError, match=r"ask for it with cost\(backward=True\)"):
        _ = dag.cost().backward_macs


# --- every op ----------------------------------------------------------------------------------------------

#: Where torch says otherwise, and why.
OTHERWISE = {
    "heaviside": "torch has no derivative; it is 0, as that of floor",
    "copysign": "torch gives a gradient of zeros to the sign",
    **dict.fromkeys(("batch_norm", "batch_norm_train", "instance_norm_train"), "running statistics have none in torch"),
    "bilinear": "torch works the first product out again",
    "fft": "a product here, none of matrices in torch",
    "pixel_shuffle": "torch's gradient of an empty tensor fails",
    **{name: "torch.special has no derivative" for name in composites if name.startswith(("bessel", "airy"))},
    "spherical_bessel_j0": "torch.special has no derivative",
    **dict.fromkeys(("integer_linear", "integer_convolution"), "kernels of integers have no derivative"),
}


def _of_floats() -> dict[str, Sample]:
    """A sample of every op that takes floats, for which torch says the same."""
    found: dict[str, Sample] = {}
    for sample in all_samples():
        if any(has_gradient(x.type) for x in sample.inputs()) and sample.op not in OTHERWISE:
            found.setdefault(sample.op, sample)
    return found


OF_FLOATS = _of_floats()


@pytest.mark.parametrize("name", sorted(OF_FLOATS))
def test_every_op_gives_gradients_to_whom_torch_does(name: str) -> None:
    sample = OF_FLOATS[name]
    inputs = sample.inputs()
    dag = dag_of(sample.build(*inputs), inputs=inputs)
    args = [to_torch(a) for a in sample.arrays]
    args = [a.requires_grad_() if a.is_floating_point() or a.is_complex() else a for a in args]
    seen = backward_products(dag.to_torch(), tuple(args))
    # each input through a neg: a neg is on the way back if its input gets a gradient
    graph, negs = _through_negs(dag.graph)
    works = backward(graph, {v for v in graph.inputs.values() if has_gradient(v.type)})
    got = {x for x, neg in negs.items() if neg in works}
    assert got == {x for x, a in zip(graph.inputs, args, strict=True) if a.grad is not None}
    assert sum(w.macs + w.recomputed for w in works.values()) == sum(seen.values())


def _through_negs(graph: td.Graph) -> tuple[td.Graph, dict[str, td.Value]]:
    """The graph with every input of floats negated, and the negations."""
    negs = {n: td.neg(v) for n, v in graph.inputs.items() if has_gradient(v.type)}
    new = replayed(graph, {v: negs.get(n, v) for n, v in graph.inputs.items()})
    return td.Graph(graph.inputs, {n: new[v] for n, v in graph.outputs.items()}), negs


# --- rows, and what isn't counted ---------------------------------------------------------------------------


def test_rows_add_up() -> None:
    net = nn.Sequential(_mlp(), nn.Linear(2, 3))
    cost = td.from_torch(net, (r(3, 4),)).cost(backward=True)
    for rows in (cost.by_op, cost.by_value):
        assert sum(row.backward_macs for row in rows) == cost.backward_macs
    modules = {row.name: row.backward_macs for row in cost.by_module}
    assert modules == {"": 3 * (32 + 96 + 24 + 12), "0": 3 * (32 + 96 + 24), "0.0": 96, "0.1": 0, "0.2": 288,
                       "0.3": 0, "0.4": 72, "1": 36}  # fmt: skip
    assert "backward_contraction_flops" in str(cost)
    assert "backward" not in str(td.from_torch(net, (r(3, 4),)).cost())


def test_an_external_op_passes_gradients_on_and_is_named() -> None:
    x, w = td.input("x", (2, 3)), td.parameter("w", (5, 3))
    y = External("torch", "lib.f", (Slot(0),), (), (td.TensorType((2, 3), "f32"),))(td.linear(x, w))
    graph = td.Graph({"x": x}, {"y": y})
    assert backward(graph, leaves(graph, ["w"])) == {y.args[0]: BackwardWork(30), y: BackwardWork()}
    assert graph.external == {"torch:lib.f": 1}


def test_a_long_chain_needs_no_recursion() -> None:
    x, w = td.input("x", (2, 3)), td.parameter("w", (3, 3))
    y = x
    for _ in range(3000):
        y = td.relu(td.linear(y, w))
    graph = td.Graph({"x": x}, {"y": y})
    assert sum(work.macs for work in backward(graph, leaves(graph, ["w"])).values()) == 18 * (2 * 3000 - 1)


# --- networks ----------------------------------------------------------------------------------------------

#: Networks at small sizes, and the flops of layers that take an input: nobody wants its gradient.
NETWORKS: dict[str, tuple[Closed, int]] = {
    "resnet": (CLOSED["resnet50"].at(batch=2, pixels=64, layers=(1, 1, 1, 1), classes=10), conv(3, 64, 49, 2 * 32**2)),
    "vit": (
        CLOSED["vit_b16"].at(batch=2, pixels=32, patch=8, width=24, layers=2, heads=3, classes=10),
        conv(3, 24, 64, 2 * 16),
    ),
    "gpt2": (CLOSED["gpt2"].at(batch=2, length=8, width=32, layers=2, heads=4, vocabulary=97), 0),
    "bert": (CLOSED["bert"].at(batch=2, length=8, width=32, layers=2, heads=4, inner=64), 0),
    "llama": (
        CLOSED["llama"].at(batch=2, length=8, width=32, layers=2, heads=4, kv_heads=2, inner=64, vocabulary=97), 0,
    ),
    "t5": (
        CLOSED["t5_small"].at(
            batch=2, length=8, target=6, width=32, layers=2, heads=4, head=8, inner=64, vocabulary=97
        ), 0,
    ),
    "whisper": (
        CLOSED["whisper_tiny"].at(frames=32, target=6, width=32, layers=1, heads=4, mels=8, vocabulary=97),
        conv(8, 32, 3, 32),
    ),
    "clip": (
        CLOSED["clip_b32"].at(
            texts=2, images=2, length=8, pixels=32, patch=8, width=32, heads=4, text_width=32, text_heads=4, layers=1,
            projection=16, vocabulary=97,
        ), conv(3, 32, 64, 2 * 16),
    ),
    "mixtral": (
        CLOSED["mixtral_8x7b"].at(
            batch=2, length=8, width=32, layers=1, heads=4, kv_heads=2, inner=64, vocabulary=97
        ), 0,
    ),
    "convnext": (
        CLOSED["convnext_tiny"].at(pixels=32, layers=(1, 1, 1, 1), width=16, classes=10), conv(3, 16, 16, 8**2),
    ),
    "swin": (CLOSED["swin_tiny"].at(pixels=56, layers=(2, 2), width=24, heads=2), conv(3, 24, 16, 14**2)),
    "mamba": (CLOSED["mamba_130m"].at(length=8, layers=1, width=32, vocabulary=97), 0),
}  # fmt: skip


#: How many of a network's attentions, the first, have a mask with a gradient: all that know positions by a bias.
MASKED = {"t5": 2, "swin": 2}


WITHOUT_ATTENTION = ("resnet", "convnext", "mamba")


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        pytest.param(n, a, marks=() if (i + j) % 3 == 0 else pytest.mark.slow)
        for i, n in enumerate(NETWORKS)
        for j, a in enumerate(("eager", "sdpa"))
        if n not in WITHOUT_ATTENTION or a == "eager"
    ],
)
def test_networks(name: str, attention: str) -> None:
    """Everything twice but what takes an input; attention's scores a third time if it is fused."""
    closed, first = NETWORKS[name]
    module, args, kwargs = closed.build(attention, "cpu")
    cost, dispatched = cost_and_torch(module, args, kwargs)
    assert cost.backward_contraction_flops == 2 * closed.flops - first
    assert dispatched == cost.backward_macs + cost.recomputed_flops // 2
    works = closed.work(**closed.sizes).attention
    works = works[MASKED.get(name, 0) :]
    assert cost.recomputed_flops == (sum(w.flops() for w in works) // 2 if attention == "sdpa" else 0)


@pytest.mark.parametrize("name", ["resnet", "gpt2"])
def test_networks_in_training(name: str) -> None:
    """With batch statistics, and with dropout, which torch takes fused attention apart for."""
    closed, first = NETWORKS[name]
    module, args, kwargs = closed.build("sdpa", "cpu")
    cost, dispatched = cost_and_torch(module.train(), args, kwargs)
    assert (cost.backward_contraction_flops, cost.recomputed_flops) == (2 * closed.flops - first, 0)
    assert dispatched == cost.backward_macs
