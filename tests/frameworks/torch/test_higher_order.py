"""torch's ops of higher order: ``torch.cond`` and ``flex_attention``, there and back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import tdagger as td
from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.emit.save import save
from tdagger.ops.external import External, Slot


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Without torch's warnings about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Branches(nn.Module):
    """``then`` where the sum is positive, else ``otherwise``: both take the module and x."""

    def __init__(self, then: Callable[..., Any], otherwise: Callable[..., Any]) -> None:
        super().__init__()
        self.big, self.small = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 4)), nn.Linear(4, 4)
        self.then, self.otherwise = then, otherwise

    def forward(self, x: torch.Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda y: self.then(self, y), lambda y: self.otherwise(self, y), (x,))


def _network() -> Branches:
    torch.manual_seed(0)
    return Branches(lambda m, x: m.big(x), lambda m, x: m.small(x).relu()).eval()


_PLUS = torch.rand(2, 4)
_BOTH = [_PLUS, -_PLUS]


# --- cond --------------------------------------------------------------------------------------------------


def _programs() -> dict[str, td.TensorDAG]:
    module = _network()
    return {
        "module": td.from_torch(module, _PLUS),
        "program": td.from_torch(torch.export.export(module, (_PLUS,), strict=False)),
    }


def test_cond_comes_in_and_goes_back() -> None:
    module = _network()
    for dag in _programs().values():
        assert [v.op.name for v in dag.graph.values].count("cond") == 1
        back = dag.to_torch(fixed=True)
        for x in _BOTH:
            torch.testing.assert_close(back(x), module(x))
            np.testing.assert_allclose(dag.run(x.numpy()), module(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_cond_goes_back_as_cond() -> None:
    module = _network()
    dag = td.from_torch(module, _PLUS)
    program = dag.to_exported_program()
    assert any(getattr(n.target, "__name__", "") == "cond" for n in program.graph.nodes)
    again = td.from_torch(program)
    script = dag.to_torchscript()
    for x in _BOTH:
        torch.testing.assert_close(program.module()(x), module(x))
        torch.testing.assert_close(again.to_torch(fixed=True)(x), module(x))
        torch.testing.assert_close(script(x), module(x))
    assert again.cost().macs == dag.cost().macs


def test_cond_is_saved_as_source(tmp_path: Path) -> None:
    module = _network()
    save(td.from_torch(module, _PLUS), tmp_path / "net.py", ".py")
    code = (tmp_path / "net.py").read_text()
    assert "def _then(" in code
    scope: dict[str, Any] = {"__file__": str(tmp_path / "net.py"), "__name__": "net"}
    exec(compile(code, "net.py", "exec"), scope)
    for x in _BOTH:
        torch.testing.assert_close(scope["load"]()(x), module(x))


def test_only_one_branch_is_differentiated() -> None:
    """The derivative of the other branch is infinite at 0, and 0 times that is NaN."""
    module = Branches(lambda m, x: m.small(x), lambda m, x: (x - x).abs().sqrt()).eval()
    x, y = (_PLUS.clone().requires_grad_() for _ in range(2))
    module(x).sum().backward()
    td.from_torch(module, _PLUS).to_torch(fixed=True)(y).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(y.grad, x.grad)


def test_several_results_and_constants() -> None:
    table = torch.arange(4.0)
    module = Branches(lambda m, x: (x + table, x.sum(0)), lambda m, x: (x * table, m.small(x)[0])).eval()
    dag = td.from_torch(module, _PLUS)
    for x in _BOTH:
        for a, b in zip(dag.to_torch(fixed=True)(x), module(x), strict=True):
            torch.testing.assert_close(a, b)


def test_a_known_predicate_leaves_one_branch() -> None:
    class Known(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(torch.tensor(3) > 2, lambda y: y + 1, lambda y: y * 2, (x,))

    dag = td.from_torch(Known(), _PLUS)
    assert "cond" not in {v.op.name for v in dag.graph.values}
    torch.testing.assert_close(dag.to_torch(fixed=True)(_PLUS), _PLUS + 1)


def test_random_numbers_in_a_branch() -> None:
    module = Branches(lambda m, x: nn.functional.dropout(x, 0.5, True), lambda m, x: x * 2.0).eval()
    dag = td.from_torch(module, _PLUS)
    back = dag.to_torch(fixed=True)
    ones = torch.ones(2, 4)
    assert set(back(ones, seed=1).flatten().tolist()) <= {0.0, 2.0}
    torch.testing.assert_close(back(ones, seed=1), torch.from_numpy(dag.run(ones.numpy(), seed=np.uint64(1))))
    torch.testing.assert_close(back(-ones, seed=1), -2 * ones)


def test_cond_counts_the_branch_with_the_most_flops() -> None:
    for dag in _programs().values():
        cost = dag.cost()
        assert cost.macs == 2 * (4 * 7 + 7 * 4)
        assert cost.total_flops == dag.graph.total_flops()
        assert cost.at_most == {"cond": 1}
        assert "AT MOST: data decide what is run" in str(cost)
        rows = {row.name: row for row in cost.by_op}
        assert rows["cond"].macs == cost.macs
        assert cost.composite.reads <= cost.materialised.reads


def test_branches_that_cost_the_same_are_exact() -> None:
    module = Branches(lambda m, x: m.small(x), lambda m, x: nn.functional.linear(x, m.small.weight, m.small.bias))
    cost = td.from_torch(module.eval(), _PLUS).cost()
    assert (cost.macs, cost.at_most) == (2 * 4 * 4, {})
    assert "AT MOST" not in str(cost)


def test_what_isn_t_counted_in_a_branch_is_named() -> None:
    x = td.input("x", (2, 3))
    unknown = External("torch", "lib.f", (Slot(0),), (), (x.type,))(x)
    branches = [td.Graph({"x": x}, {"y": y}) for y in (unknown, td.exp(x))]
    y = td.cond(td.input("p", (), "bool"), x, then=branches[0], otherwise=branches[1])
    graph = td.Graph({"p": y.args[0], "x": x}, {"y": y})
    assert graph.external == {"torch:lib.f": 1}


class Gated(nn.Module):
    """A choice that knows nothing of x's batch."""

    def __init__(self) -> None:
        super().__init__()
        self.big, self.small = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 4)), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> Any:
        return torch.cond(gate.sum() > 0, lambda y: self.big(y), lambda y: self.small(y).relu(), (x,))


def test_a_choice_without_its_batch_is_a_choice_still() -> None:
    torch.manual_seed(0)
    module, gate = Gated().eval(), torch.ones(3)
    dag = td.from_torch(module, (_PLUS, gate), axes={"x": "b c"})
    for changed, x in ((dag.unbatch("b"), torch.randn(4)), (dag.resize(b=8), torch.randn(8, 4))):
        assert [v.op.name for v in changed.graph.values if v.op.name in ("cond", "where")] == ["cond"]
        assert changed.cost().macs == x.numel() // 4 * (4 * 7 + 7 * 4)
        for g in (gate, -gate):
            wanted = module(x, g).detach().numpy()
            np.testing.assert_allclose(changed.run(x.numpy(), g.numpy()), wanted, rtol=1e-5, atol=1e-6)


def test_choices_of_a_batch_are_made_one_by_one() -> None:
    torch.manual_seed(0)
    module, gate = Gated().eval(), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    batched = td.from_torch(module, (_PLUS, gate[0])).batch(2)
    x = torch.randn(2, 2, 4)
    wanted = torch.stack([module(a, g) for a, g in zip(x, gate, strict=True)]).detach().numpy()
    np.testing.assert_allclose(batched.run(x.numpy(), gate.numpy()), wanted, rtol=1e-5, atol=1e-6)


def test_a_compiled_choice() -> None:
    module = _network()
    back = torch.compile(td.from_torch(module, _PLUS).to_torch(fixed=True), backend="eager", fullgraph=True)
    for x in _BOTH:
        torch.testing.assert_close(back(x), module(x))


def test_branches_must_be_alike() -> None:
    x = td.input("x", (2, 3))
    one, other = td.Graph({"x": x}, {"y": x}), td.Graph({"x": x}, {"y": td.exp(x) > 1.0})
    predicate = td.input("p", (), "bool")
    with pytest.raises(td.TypeMismatchError, match="which must be alike"):
        td.cond(predicate, x, then=one, otherwise=other)
    with pytest.raises(td.TypeMismatchError, match="chooses by a bool of rank 0"):
        td.cond(x, x, then=one, otherwise=one)
    with pytest.raises(td.TypeMismatchError, match="takes"):
        td.cond(predicate, then=one, otherwise=one)


def test_loops_on_data_are_refused_by_name() -> None:
    class Loop(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            from torch._higher_order_ops.while_loop import while_loop

            return while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2), (torch.tensor(0), x))

    with pytest.raises(UnsupportedError, match="while_loop: a loop on data"):
        td.from_torch(Loop(), _PLUS)


# --- flex_attention ----------------------------------------------------------------------------------------


class Flex(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        return flex_attention(q, k, v, **self.options)


_BIAS = torch.linspace(-1, 1, 4 * 16 * 24).reshape(4, 16, 24)
FLEX: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": lambda: {"scale": 0.3},
    "scores changed by a function": lambda: {"score_mod": lambda s, b, h, i, j: torch.tanh(s / 2) * 2 + 0.1 * h},
    "scores changed by a tensor": lambda: {"score_mod": lambda s, b, h, i, j: s + _BIAS[h, i, j]},
    "a mask that leaves a row nothing": lambda: {
        "block_mask": create_block_mask(lambda b, h, i, j: (i + 8 >= j) & (i != 3), 2, None, 16, 24, device="cpu"),
        "return_lse": True,
    },
}


@pytest.mark.parametrize("name", FLEX)
def test_flex_attention(name: str) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 16, 8), torch.randn(2, 2, 24, 8), torch.randn(2, 2, 24, 5)
    module = Flex(enable_gqa=True, **FLEX[name]())
    dag = td.from_torch(module, (q, k, v))
    found, wanted = dag.to_torch(fixed=True)(q, k, v), module(q, k, v)
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b)
    assert dag.cost().macs == 2 * 4 * 16 * 24 * (8 + 5)
    first = dag.run(q.numpy(), k.numpy(), v.numpy())
    first = first[0] if isinstance(first, tuple) else first
    expected = wanted[0] if isinstance(wanted, tuple) else wanted
    np.testing.assert_allclose(first, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert math.isfinite(float(np.abs(first).max()))


# --- products that torch hides -----------------------------------------------------------------------------


def _half(*shape: int) -> torch.Tensor:
    return torch.rand(*shape).bfloat16()


_int8 = torch.randint(-4, 5, (32, 16), dtype=torch.int8)
PRODUCTS: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "_int_mm": (torch._int_mm, (_int8, _int8.t().contiguous())),
    "_weight_int8pack_mm": (torch._weight_int8pack_mm, (_half(4, 16), _int8, _half(32))),
    "_scaled_mm": (
        lambda x, y, a, b: torch._scaled_mm(x, y.t(), a, b, out_dtype=torch.bfloat16),
        (torch.rand(16, 32).to(torch.float8_e4m3fn), torch.rand(48, 32).to(torch.float8_e4m3fn), torch.tensor(1.5),
         torch.tensor(0.5)),
    ),
    "_grouped_mm of a batch": (torch._grouped_mm, (_half(3, 16, 8), _half(3, 8, 24))),
    "conv_tbc": (lambda x, w, b: torch.conv_tbc(x, w, b, 1), (torch.rand(5, 2, 3), torch.rand(3, 3, 4), torch.rand(4))),
    "cdist by matmul": (torch.cdist, (torch.rand(2, 30, 3), torch.rand(2, 7, 3))),
    "cdist by matmul, asked for": (
        lambda x, y: torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist"), (torch.rand(5, 3), torch.rand(7, 3)),
    ),
    "cdist by differences, asked for": (
        lambda x, y: torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"),
        (torch.rand(30, 3), torch.rand(7, 3)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    function, args = PRODUCTS[name]

    class Apply(nn.Module):
        def forward(self, *xs: torch.Tensor) -> Any:
            return function(*xs)

    torch.testing.assert_close(td.from_torch(Apply(), args).to_torch(fixed=True)(*args), function(*args))


def test_the_gradient_of_no_distance_is_zero() -> None:
    torch.manual_seed(0)

    class Distances(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cdist(x, x)

    points = torch.randint(-3, 4, (30, 4)).float()  # exact in float32, so that every distance to itself is 0
    x, y = (points.clone().requires_grad_() for _ in range(2))
    Distances()(x).square().sum().backward()
    td.from_torch(Distances(), points).to_torch(fixed=True)(y).square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
