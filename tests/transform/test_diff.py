"""Two versions of a network: the op that differs is found, and what is only rounded otherwise is said to be so."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tdagger.graph import Graph, label, replayed
from tdagger.ops.source import Buffer, Parameter
from tdagger.transform.diff.spelling import spelled_alike
from tests.networks import perturb
from tests.transform import diff_cases as cases

torch.set_num_threads(1)


@cache
def network(name: str) -> tuple[nn.Module, tuple[Any, ...], td.TensorDAG]:
    module, args = cases.built(name)
    return module, args, td.from_torch(module, args)


def faults(name: str) -> list[cases.Fault]:
    """Five faults of different kinds, other ones for every network, each somewhere else."""
    start = list(cases.NETWORKS).index(name)
    found: list[cases.Fault] = []
    for i in range(len(cases.FAULTS)):
        each = list(cases.FAULTS[(start + i) % len(cases.FAULTS)](network(name)[2]))
        if each and len(found) < 5:
            found.append(each[(start + i) % max(len(each) // 2, 1)])
    return found


SLOW = [pytest.param(n, marks=pytest.mark.slow) if n == "ResNet" else n for n in cases.NETWORKS]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("name", SLOW)
def test_a_fault_is_found_where_it_is(name: str, number: int) -> None:
    _, args, dag = network(name)
    fault = faults(name)[number]
    diff = td.diff(dag, fault.network, args)
    assert diff.verdict == "different", f"{fault.kind} {fault.places}\n{diff}"
    assert cases.is_found(diff, fault), f"{fault.kind} {fault.places}\n{diff}"


def test_every_network_has_five_kinds() -> None:
    for name in cases.NETWORKS:
        if name != "ResNet":
            assert len({f.kind for f in faults(name)}) == 5


def core(dag: td.TensorDAG) -> td.TensorDAG:
    """The network over core ops alone."""
    spelled, _ = spelled_alike(dag, td.network(lambda x: td.exp(x), {"x": (1,)}))
    return dag.with_graph(spelled.graph, {v: dag.origins[o] for v, o in spelled.owner.items() if o in dag.origins})


@pytest.mark.parametrize("name", ["ViT", "GPT-2", "LSTM", "U-Net"])
def test_a_fault_is_found_where_composites_are_bodies(name: str) -> None:
    _, args, dag = network(name)
    for fault in faults(name)[:2]:
        (a, b), *_ = fault.places
        first = td.diff(dag, core(fault.network), args).first
        assert first is not None
        if a is not None:
            assert first.a is a
        else:
            assert first.b is not None
            assert first.b.op is b.op


def renamed(dag: td.TensorDAG) -> td.TensorDAG:
    """The network with other names of weights, and nothing known of where values came from."""
    weights = [v for v in dag.graph.values if isinstance(v.op, Parameter | Buffer)]
    new = {v: type(v.op)(f"w{i}", v.type)() for i, v in enumerate(weights)}
    into = replayed(dag.graph, {**{v: v for v in dag.graph.inputs.values()}, **new})
    graph = Graph(dict(dag.graph.inputs), {k: into[v] for k, v in dag.graph.outputs.items()}, name=dag.name)
    held = {n.op.leaf: dag.weights[v.op.leaf] for v, n in new.items()}
    return replace(dag, graph=graph, weights=held, origins={}, state={})


@pytest.mark.parametrize("name", ["BERT", "GRU", "U-Net"])
def test_names_may_be_others(name: str) -> None:
    _, args, dag = network(name)
    assert td.diff(dag, renamed(dag), args).verdict == "same"
    for fault in [f for f in faults(name) if f.kind != "swap"][:2]:
        first = td.diff(dag, renamed(fault.network), args).first
        assert first is not None
        a, b = fault.places[0]
        assert first.a is a
        assert a is not None or first.b.op is b.op


# --- what isn't a difference -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SLOW)
def test_a_network_is_itself(name: str) -> None:
    module, args, dag = network(name)
    diff = td.diff(dag, copy.deepcopy(module), args)
    assert diff.verdict == "same"
    assert not diff.found.differences
    assert str(diff).startswith("same: ")


@pytest.mark.parametrize("name", SLOW)
def test_bf16_is_rounding(name: str) -> None:
    module, args, _ = network(name)
    assert td.diff(module, copy.deepcopy(module).bfloat16(), args).verdict == "rounding"


@pytest.mark.parametrize("name", SLOW)
def test_another_spelling_is_rounding(name: str) -> None:
    _, args, dag = network(name)
    assert td.diff(dag, core(dag), args).verdict == "rounding"


@pytest.mark.parametrize("name", SLOW)
def test_another_backend_is_rounding(name: str) -> None:
    module, args, dag = network(name)

    def plain(*tensors: torch.Tensor) -> Any:
        before = torch.backends.mkldnn.enabled
        torch._C._set_mkldnn_enabled(False)
        try:
            return module(*tensors)
        finally:
            torch._C._set_mkldnn_enabled(before)

    assert td.diff(dag, dag, args, runs=("numpy", "torch")).verdict == "rounding"
    assert td.diff(dag, dag, args, runs=("torch", plain)).verdict in ("same", "rounding")


class Small(nn.Module):
    """A block in two spellings: as torch has it, or in another order and by hand."""

    def __init__(self, by_hand: bool = False, eps: float = 1e-5, heads: int = 2) -> None:
        super().__init__()
        self.by_hand, self.heads = by_hand, heads
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.qkv, self.norm, self.out = nn.Linear(8, 24), nn.LayerNorm(8, eps=eps), nn.Linear(8, 4)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if not self.by_hand:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            y = scores.softmax(-1) @ v
        return y.transpose(1, 2).reshape(b, n, -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.by_hand:
            x = self.bn(self.conv(x)).flatten(2).transpose(1, 2)
            return self.out(F.gelu(self.norm(x + self.attention(x))))
        scale = self.bn.weight / (self.bn.running_var + self.bn.eps).sqrt()
        weight = self.conv.weight * scale[:, None, None, None]
        x = F.conv2d(x, weight, (self.conv.bias - self.bn.running_mean) * scale + self.bn.bias, padding=1)
        x = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 8)
        x = self.attention(x) + x
        centred = x - x.sum(-1, keepdim=True) / 8
        x = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.norm.eps)
        x = x * self.norm.weight + self.norm.bias
        x = 0.5 * x * (1 + torch.erf(x * 0.5**0.5))
        w = self.out.weight.T
        return x[..., :3] @ w[:3] + (x[..., 3:] @ w[3:] + self.out.bias)


def small(**options: Any) -> Small:
    torch.manual_seed(1)
    module = Small(**options)
    cases.perturb(module)
    return module.eval()


IMAGE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_sums_in_another_order_and_formulas_by_hand_are_rounding() -> None:
    diff = td.diff(small(), small(by_hand=True), IMAGE)
    assert diff.verdict == "rounding", str(diff)
    assert td.diff(small(by_hand=True), small(), IMAGE).verdict == "rounding"


@pytest.mark.parametrize("options", [{"eps": 1e-3}, {"heads": 4}])
def test_faults_among_other_spellings_are_found(options: dict[str, Any]) -> None:
    diff = td.diff(small(), small(by_hand=True, **options), IMAGE)
    assert diff.verdict == "different"


class Product(nn.Module):
    """A layer, written as one or as a product with the transposed weight; as wide as it is long, shapes don't tell."""

    def __init__(self, wide: int, by_hand: bool = False, eps: float = 1e-5, slope: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm, self.head = nn.Linear(4, wide), nn.LayerNorm(wide, eps=eps), nn.Linear(wide, 3)
        self.by_hand, self.slope = by_hand, slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        y = x @ layer.weight.T + layer.bias if self.by_hand else layer(x)
        return self.head(F.leaky_relu(self.norm(y), self.slope))


@pytest.mark.parametrize("wide", [4, 6])
def test_a_matrix_that_lies_otherwise_is_no_difference(wide: int) -> None:
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    diff = td.diff(Product(wide), Product(wide, by_hand=True), x)
    assert diff.verdict == "rounding", str(diff)
    assert not diff.found.differences
    diff = td.diff(Product(wide), Product(wide, by_hand=True, eps=1e-3), x)
    assert [diff.module(d) for d in diff.differences] == ["norm"], str(diff)
    turned = Product(wide, by_hand=True)
    with torch.no_grad():
        turned.layer.weight.copy_(turned.layer.weight.flip(0))
    first = td.diff(Product(wide), turned, x).first
    assert first is not None
    assert td.diff(Product(wide), turned, x).module(first) == "layer"


def test_a_number_that_a_file_rounds_is_rounding() -> None:
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    held = float(np.float32(0.1))
    assert td.diff(Product(4), Product(4, slope=held), x).verdict == "rounding"
    assert td.diff(Product(4), Product(4, slope=held + 1e-7), x).verdict == "different"
    exact = Product(4).double(), Product(4, slope=held).double()
    assert td.diff(*exact, x.double()).verdict == "different"


def test_folded_weights_are_rounding() -> None:
    module = small().eval()
    folded = torch.nn.utils.fusion.fuse_conv_bn_eval(module.conv, module.bn)
    diff = td.diff(nn.Sequential(module.conv, module.bn).eval(), folded, IMAGE)
    assert diff.verdict == "rounding", str(diff)
    with torch.no_grad():
        folded.bias[0] += 1e-4
    assert td.diff(nn.Sequential(module.conv, module.bn).eval(), folded, IMAGE).verdict == "different"


class Blocks(nn.Module):
    """A convolution and its norm, then blocks of masked means, layers and norms."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.late = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 3, padding=1)
        self.ups = nn.ModuleList(nn.Linear(4, 8) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(8, 4) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(2))
        self.head = nn.Linear(4, 4)
        perturb(self)
        self.eval()

    def masked(self, scores: torch.Tensor) -> torch.Tensor:
        n = scores.shape[-1]
        return scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), float("-inf"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        x = (self.late(torch.relu(x)) + x).transpose(1, 2)
        for up, down, norm in zip(self.ups, self.downs, self.norms, strict=True):
            y = norm(self.masked(x @ x.transpose(1, 2)).softmax(-1) @ x)
            x = x + down(torch.relu(up(y)))
        return self.head(x)


class Filed(Blocks):
    """The same as files have it: norms in the weights before them, weights turned under other names, another mask."""

    def __init__(self, of: Blocks) -> None:
        super().__init__()
        folded = torch.nn.utils.fusion.fuse_conv_bn_eval(of.conv, of.bn)
        self.conv, self.bn, self.late, self.norms = folded, nn.Identity(), of.late, of.norms
        self.held = nn.ParameterDict()
        for layers in ("ups", "downs"):
            for i, layer in enumerate(getattr(of, layers)):
                self._hold(f"{layers}_{i}", layer)
            delattr(self, layers)
        self._hold("head", of.head)
        del self.head

    def _hold(self, name: str, layer: Any) -> None:
        self.held[f"{name}_w"] = layer.weight.detach().T.contiguous()
        if layer.bias is not None:
            self.held[f"{name}_b"] = layer.bias.detach().clone()

    def layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        y = x @ self.held[f"{name}_w"]
        return y + self.held[f"{name}_b"] if f"{name}_b" in self.held else y

    def masked(self, scores: torch.Tensor) -> torch.Tensor:
        n = scores.shape[-1]
        return scores + torch.full((n, n), float("-inf")).triu(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = (self.late(torch.relu(x)) + x).transpose(1, 2)
        for i, norm in enumerate(self.norms):
            y = norm(self.masked(x @ x.transpose(1, 2)).softmax(-1) @ x)
            x = x + self.layer(f"downs_{i}", torch.relu(self.layer(f"ups_{i}", y)))
        return self.layer("head", x)


def _other_row(layer: Any) -> None:
    layer.weight.data[0] = layer.weight.data[0].flip(0)


def _other_eps(layer: Any) -> None:
    layer.eps *= 1000


def _padded(layer: Any) -> None:
    layer.padding_mode = "replicate"


#: Where a fault is, and what it is.
FAULTS_IN_FILES: list[tuple[str, Callable[[Any], None]]] = [
    ("late", _other_row), ("late", _padded), ("norms.0", _other_eps), ("ups.0", _other_row), ("downs.0", _other_row),
    ("norms.1", _other_eps), ("ups.1", _other_row), ("downs.1", _other_row), ("head", _other_row),
]  # fmt: skip


def test_what_files_write_otherwise_is_rounding() -> None:
    x = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    diff = td.diff(Blocks(), Filed(Blocks()), x)
    assert diff.verdict == "rounding", str(diff)


@pytest.mark.parametrize(("path", "fault"), FAULTS_IN_FILES)
def test_what_files_write_otherwise_hides_no_fault(path: str, fault: Callable[[Any], None]) -> None:
    x = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    wrong = Blocks()
    fault(wrong.get_submodule(path))
    diff = td.diff(Blocks(), Filed(wrong), x)
    first = diff.first
    assert first is not None
    assert diff.module(first) == path, str(diff)


class Laid(nn.Module):
    """A convolution and its norm; ``of`` another one, as files have it: of images, folded, the channels last."""

    def __init__(self, of: Laid | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.head = nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Linear(4, 4)
        perturb(self)
        self.eval()
        self.of = of is not None
        if of is not None:
            folded = torch.nn.utils.fusion.fuse_conv_bn_eval(of.conv, of.bn)
            self.conv, self.bn, self.head = folded, nn.Identity(), of.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.of:
            y = F.conv2d(x[:, :, None], self.conv.weight[:, :, None], self.conv.bias, padding=(0, 1))
            return self.head(y.permute(0, 2, 3, 1)[:, 0])
        return self.head(self.bn(self.conv(x)).transpose(1, 2))


def test_a_fault_behind_what_is_only_moved_otherwise_is_found() -> None:
    x = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    assert td.diff(Laid(), Laid(Laid()), x).verdict == "rounding"
    wrong = Laid()
    _other_row(wrong.conv)
    diff = td.diff(Laid(), Laid(wrong), x)
    first = diff.first
    assert first is not None
    assert diff.module(first) == "conv", str(diff)


class Masked(nn.Module):
    """Causal attention with a mask of finite numbers, as one op or written out; ``fault`` is what is wrong with it."""

    def __init__(self, never: float, by_hand: bool, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.never, self.by_hand, self.fault = never, by_hand, fault

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        never = max(self.never, torch.finfo(q.dtype).min)
        mask = torch.full((x.shape[1], x.shape[1]), never, dtype=q.dtype).triu(1)
        scale = 0.36 if self.fault == "scale" else 8**-0.5
        if self.fault == "v":
            v = v * 1.001
        if self.fault == "k":
            k = k.bfloat16().float()
        if self.by_hand:
            scores = (q @ k.transpose(1, 2)) * scale + mask
            y = scores.softmax(1 if self.fault == "axis" else -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
        return self.out(y)


@pytest.mark.parametrize("never", [-1e9, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_mask_of_large_numbers_hides_no_fault(never: float, by_hand: bool) -> None:
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    right = Masked(never, by_hand)
    for fault, name in {"scale": "", "v": "multiply", "k": "cast", "axis": "softmax"}.items():
        if fault == "axis" and not by_hand:
            continue
        diff = td.diff(right, Masked(never, by_hand, fault), x)
        assert diff.verdict == "different"
        assert len(diff.differences) == 1, f"{fault}\n{diff}"
        if name:
            b = diff.differences[0].b
            assert b is not None
            assert label(b.op) == name
        else:
            assert "0.353553 in A, 0.36 in B" in str(diff).replace("0.3535533905932738", "0.353553"), str(diff)
    assert td.diff(right, Masked(never, not by_hand), x).verdict == "rounding"
    assert td.diff(right, copy.deepcopy(right).bfloat16(), x).verdict == "rounding"
    other = Masked(never, not by_hand, "scale")
    assert td.diff(right, other, x).verdict == "different"


# --- two faults, and words ---------------------------------------------------------------------------------


def test_every_fault_is_listed_in_order() -> None:
    a, b = small(), small(eps=1e-4)
    b.conv.padding_mode = "circular"
    with torch.no_grad():
        b.out.weight[0, 0] += 0.5
    diff = td.diff(a, b, IMAGE)
    assert [diff.module(d) for d in diff.differences] == ["conv", "norm", "out"]
    text = str(diff)
    assert "attribute eps: 1e-05 in A, 0.0001 in B" in text
    assert "weight out.weight: its data differs by" in text
    assert "the first of 3 differences" in text
    assert "in norm (LayerNorm)" in text


def test_swapped_data_is_named() -> None:
    a = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    b = nn.Sequential(*[copy.deepcopy(m) for m in (a[1], a[0])])
    text = str(td.diff(a, b, torch.randn(2, 4)))
    assert "weight 0.weight: it holds what A has in 1.weight" in text


def test_names_are_escaped() -> None:
    class Odd(nn.Module):
        def __init__(self, eps: float) -> None:
            super().__init__()
            self.add_module("a\x1b[31m", nn.LayerNorm(4, eps=eps))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return getattr(self, "a\x1b[31m")(x)

    text = str(td.diff(Odd(1e-5), Odd(1e-3), torch.randn(2, 4)))
    assert "different: " in text
    assert "\x1b" not in text
    assert "\x1b" not in td.diff(Odd(1e-5), Odd(1e-3), torch.randn(2, 4)).listing


def test_what_has_no_effect_is_said_to_have_none() -> None:
    a = nn.Hardtanh(-5.0, 100.0)
    diff = td.diff(a, nn.Hardtanh(-5.0, 101.0), torch.zeros(2, 4))
    assert diff.verdict == "rounding"
    assert diff.first is None
    assert "without effect on these inputs" in str(diff)


def test_structure_runs_nothing() -> None:
    diff = td.diff(small(), small(eps=1e-4), IMAGE, structure=True)
    assert diff.verdict == ""
    lines = str(diff).splitlines()
    assert [line[0] for line in lines if line[:2] in ("- ", "+ ")] == ["-", "+"]
    assert any(line.startswith("+ ") and "eps=0.0001" in line for line in lines)
    assert "ops, all written alike" in td.diff(small(), small(), IMAGE, structure=True).listing


def test_structure_needs_no_weights() -> None:
    with torch.device("meta"):
        a, b = Small(), Small(eps=1e-4)
        x = torch.zeros(2, 3, 4, 4)
    assert "eps=0.0001" in str(td.diff(a.eval(), b.eval(), x, structure=True))


# --- inputs ------------------------------------------------------------------------------------------------


def test_inputs_are_drawn_from_the_types() -> None:
    _, _, dag = network("GPT-2")
    fault = faults("GPT-2")[0]
    assert td.diff(dag, fault.network).verdict == "different"
    assert td.diff(dag, dag, seed=3).verdict == "same"


def test_inputs_may_be_arrays() -> None:
    dag = td.from_torch(small(), (IMAGE,))
    assert (
        td.diff(dag, small(eps=1e-4), IMAGE).found.errors
        == td.diff(dag, td.from_torch(small(eps=1e-4), (IMAGE,)), IMAGE.numpy()).found.errors
    )


def test_other_signatures_are_refused_with_both() -> None:
    a, b = nn.Linear(4, 3), nn.Linear(4, 2)
    x = torch.zeros(1, 4)
    with pytest.raises(td.InputError, match=r"other outputs\n  A: .*f32\[1 3\]\n  B: .*f32\[1 2\]"):
        td.diff(a, b, x)
    dag = td.from_torch(nn.Linear(5, 3), (torch.zeros(1, 5),))
    with pytest.raises(td.InputError, match=r"other inputs\n  A: .*f32\[1 4\]\n  B: .*f32\[1 5\]"):
        td.diff(td.from_torch(a, (x,)), dag)
    with pytest.raises(td.InputError, match="declared"):
        td.diff(dag, dag, np.zeros((2, 5), np.float32))
    with pytest.raises(td.AttributeValueError, match="takes no runs"):
        td.diff(dag, dag, structure=True, runs=("numpy", "torch"))
    with pytest.raises(td.AttributeValueError, match='"numpy", "torch" or a function'):
        td.diff(dag, dag, runs=("numpy", "jax"))


def _marked(ids: str, mask: str, out: str, by: float = 1.0) -> td.TensorDAG:
    """A text with a mask, of inputs and a result in given element types."""
    i, m = td.input("ids", (2, 5), ids), td.input("mask", (2, 5), mask)
    x = td.gather(td.parameter("w", (9, 4)), td.cast(i, "i64"), 0)
    kept = td.where(td.unsqueeze(td.cast(m, "bool"), (2,)), x, 0.0) * by
    best = td.cast(td.argmax(kept, axis=-1), out)
    weights = {"w": np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)}
    return td.TensorDAG.of_graph(td.Graph({"ids": i, "mask": m}, {"best": best, "kept": kept}), weights)


def test_integers_and_what_is_true_may_be_held_in_other_types() -> None:
    """CoreML has i32 for all of them."""
    theirs = _marked("i32", "i32", "i32")
    for a, b in ((_marked("i64", "bool", "i64"), theirs), (theirs, _marked("i64", "bool", "i64"))):
        found = td.diff(a, b)
        assert found.verdict == "rounding", found
        assert all(error == 0 for error, _, _ in found.found.errors.values())
    assert td.diff(_marked("i64", "bool", "i64", -1.0), theirs).verdict == "different"
    ids = np.full((2, 5), 3)
    with pytest.raises(td.InputError, match=r"'mask' of B is bool\[2 5\], which can't hold 7 of A's 'mask'"):
        td.diff(theirs, _marked("i64", "bool", "i64"), (ids.astype(np.int32), np.full((2, 5), 7, np.int32)))


def test_outputs_of_other_names_and_order_go_together_by_what_they_are() -> None:
    """As files of one network in two formats have them: nothing but the numbers says which is which."""

    def network(names: str, order: tuple[int, ...], scale: float = 1.0) -> td.TensorDAG:
        x = td.input("x", (1, 4))
        found = [td.exp(x), td.tanh(x) * scale, td.reshape(x, shape=(4,)), -td.tanh(x)]
        graph = td.Graph({"x": x}, {n: found[i] for n, i in zip(names, order, strict=True)})
        return td.TensorDAG.of_graph(graph)

    first = network("abcd", (0, 1, 2, 3))
    assert td.diff(first, network("pqrs", (2, 3, 1, 0))).verdict == "same"
    other = td.diff(first, network("pqrs", (2, 3, 1, 0), 1.5))
    assert other.verdict == "different"
    assert [k for k, (error, bound, _) in other.found.errors.items() if error > bound] == ["b"]
    with pytest.raises(td.InputError, match="other outputs"):
        td.diff(first, network("pqr", (2, 3, 1)))


def test_a_run_that_is_wrong_is_found() -> None:
    dag = td.from_torch(small(), (IMAGE,))
    diff = td.diff(dag, dag, IMAGE, runs=("numpy", small(eps=1e-2)))
    assert diff.verdict == "different"
    assert diff.first is not None
    assert diff.first.kind == "run"
    assert "the runs of A and B are" in str(diff)


def chain(length: int, last: float) -> td.TensorDAG:
    x = y = td.input("x", (2,))
    for i in range(length):
        y = td.sin(y) + float(i)
    graph = Graph({"x": x}, {"y": y * last})
    tree = td.from_torch(nn.ReLU(), (torch.zeros(2),)).signature
    return td.TensorDAG(graph, {}, tree)


def test_long_chains() -> None:
    started = time.process_time()
    diff = td.diff(chain(3000, 1.0), chain(3000, 2.0))
    assert diff.verdict == "different"
    assert len(diff.differences) == 1
    assert time.process_time() - started < 20
    assert "+ " in diff.listing


class Keys(nn.Module):
    """Attention by hand over one head: a bias of its keys changes no result, for a softmax takes it away."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.q(x) @ self.k(x).transpose(-2, -1)).softmax(-1) @ x


def test_a_value_that_no_result_shows_is_a_difference() -> None:
    a, b = Keys(True), Keys(False)
    b.load_state_dict(a.state_dict(), strict=False)
    diff = td.diff(a, b, torch.randn(1, 5, 4))
    assert diff.verdict == "different"
    assert diff.first is not None
    assert diff.module(diff.first) == "k"
    assert "bias: k.bias in A, none in B" in str(diff)


class Biased(nn.Module):
    """Attention with a bias that is made of parameters alone, and a mask that masks nothing here."""

    def __init__(self, narrow: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(6, 8) * 0.01)
        self.q, self.k, self.position = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.narrow = narrow

    def _made(self, name: str, x: torch.Tensor) -> torch.Tensor:
        y = getattr(self, name)(x)
        return y.bfloat16().float() if self.narrow == name else y

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, table = self._made("q", x), self._made("k", x), self._made("position", self.table)
        scores = q @ k.transpose(-2, -1) + table @ table.T
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) @ x


@pytest.mark.parametrize("name", ["q", "position"])
def test_a_mask_that_masks_nothing_hides_no_fault(name: str) -> None:
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 6, 6, dtype=torch.bool)
    diff = td.diff(Biased(), Biased(name), (x, mask))
    assert diff.verdict == "different"
    assert [label(d.b.op) for d in diff.differences if d.b is not None] == ["cast"], str(diff)


def test_what_takes_no_such_numbers_is_a_difference() -> None:
    """An op on the other network's arguments may be given indices that it hasn't."""
    ids = np.array([[3, 1, 2]], np.int32)
    weights = {"table": np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)}

    def rows(before: int) -> td.TensorDAG:
        table, x = td.parameter("table", (6, 4)), td.input("ids", ids.shape, "i32")
        held = td.slice_axis(table, axis=0, start=before, stop=6) if before else table
        return td.TensorDAG.of_graph(td.Graph({"ids": x}, {"y": td.gather(held, x + (2 - before), 0)}), weights)

    assert td.diff(rows(0), rows(2), ids).verdict == "rounding"
    assert td.diff(rows(0), rows(1), ids).verdict == "rounding"
    wrong = replace(rows(2), weights={"table": weights["table"] + 1.0})
    assert td.diff(rows(0), wrong, ids).verdict == "different"


@pytest.mark.slow
def test_a_sum_without_what_is_nothing_is_rounding(tmp_path: Path) -> None:
    """torch's exporter leaves out MPNet's mask, which is 0: its scores' sum of three is one of two, in other layers."""
    import transformers

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
    config = transformers.MPNetConfig(num_attention_heads=2, attn_implementation="eager", **sizes)
    torch.manual_seed(0)
    module = transformers.MPNetModel(config)
    perturb(module)
    ids, file = torch.arange(14).reshape(2, 7), tmp_path / "mpnet.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (ids,), str(file), dynamo=False)
    diff = td.diff(module, td.from_onnx(file), ids)
    assert diff.verdict == "rounding", str(diff)
    late = copy.deepcopy(module)
    late.get_submodule("encoder.layer.1.attention.LayerNorm").eps = 1e-3
    first = td.diff(late, td.from_onnx(file), ids)
    assert [first.module(d) for d in first.differences] == ["encoder.layer.1.attention.LayerNorm"], str(first)
    turned = copy.deepcopy(module)
    for layer in ("encoder.layer.0.attention.attn.q", "encoder.layer.1.attention.attn.k"):
        weight = turned.get_submodule(layer).weight
        weight.data = weight.data.flip(0).contiguous()
        both = td.diff(turned, td.from_onnx(file), ids)
        assert both.module(both.differences[0]) == "encoder.layer.0.attention.attn.q", str(both)
    assert both.module(both.differences[1]) == "encoder.layer.1.attention.attn.k", str(both)


class Images(nn.Module):
    """Convolutions with norms, activations, a gate of channels and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        deep, wide = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1)
        self.two = nn.Sequential(deep, nn.BatchNorm2d(16), wide, nn.BatchNorm2d(16), nn.SiLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        x = x + self.two(x)
        return self.head((x * self.gate(x).sigmoid()).mean((2, 3)))


def _put(path: str, module: nn.Module) -> Any:
    return lambda m: m.set_submodule(path, module)


@pytest.mark.parametrize(
    ("fault", "at"),
    [
        (lambda m: setattr(m.one[1], "eps", 0.01), "one"),
        (_put("one.2", nn.LeakyReLU(0.01)), "one.2"),
        (lambda m: m.two[0].weight.data[0].mul_(1.01), "two"),
        (lambda m: setattr(m.two[0], "padding_mode", "replicate"), "two.0"),
        (_put("two.4", nn.LeakyReLU(0.01)), "two.4"),
        (_put("gate.2", nn.GELU()), "gate.2"),
        (lambda m: setattr(m.gate[3], "bias", None), "gate.3"),
        (lambda m: m.head.weight.data[0].mul_(1.01), "head"),
    ],
)
def test_a_fault_is_found_where_channels_lie_last(fault: Callable[[Any], Any], at: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Images().eval().requires_grad_(False)
    perturb(net)
    x = torch.randn(1, 3, 8, 8)
    dag = td.from_torch(net, x)

    def as_file(module: nn.Module) -> td.TensorDAG:
        td.from_torch(module, x).to_tflite(tmp_path / "net.tflite")
        return td.from_tflite(tmp_path / "net.tflite")

    assert td.diff(dag, as_file(net), x).verdict == "rounding"
    wrong = copy.deepcopy(net)
    if at == "two.0":
        wrong.two[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]  # pyright: ignore[reportPrivateUsage]
    fault(wrong)
    diff = td.diff(dag, as_file(wrong), x)
    assert diff.first is not None
    assert diff.module(diff.first).startswith(at), str(diff)
