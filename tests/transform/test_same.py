"""Graphs that are the same network though one expands a mask and the other broadcasts it."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tdagger as td
from tdagger.interpret import run
from tdagger.ops.source import random_bits
from tdagger.transform.axes import same as module
from tdagger.transform.axes.same import repeated_late, same


def graph(f: Callable[..., td.Value]) -> td.Graph:
    x, m = td.input("x", (4, 3, 5)), td.input("m", (1, 3, 1))
    return td.Graph({"x": x, "m": m}, {"y": f(x, m)})


ALIKE: dict[str, tuple[Callable[..., td.Value], Callable[..., td.Value]]] = {
    "product": (lambda x, m: x * m, lambda x, m: x * td.repeat(m, (4, None, None))),
    "before what is done to each": (
        lambda x, m: td.where(td.exp(m) > 1.0, x, 0.0),
        lambda x, m: td.where(td.exp(td.repeat(m, (4, None, None))) > 1.0, x, 0.0),
    ),
    "transposed": (
        lambda x, m: td.permute(x, (0, 2, 1)) + td.permute(m, (0, 2, 1)),
        lambda x, m: td.permute(x, (0, 2, 1)) + td.permute(td.repeat(m, (4, None, None)), (0, 2, 1)),
    ),
    "with another dimension": (
        lambda x, m: td.unsqueeze(x, (1,)) * td.unsqueeze(m, (1,)),
        lambda x, m: td.unsqueeze(x, (1,)) * td.unsqueeze(td.repeat(m, (4, None, None)), (1,)),
    ),
}

ALIKE["tiled"] = (
    lambda x, m: x * td.library.shape.tile(m, repeats=(1, 1, 1)),
    lambda x, m: x * td.library.shape.tile(m, repeats=(4, 1, 1)),
)

OTHER: dict[str, tuple[Callable[..., td.Value], Callable[..., td.Value]]] = {
    "summed": (
        lambda x, m: x * td.reduce(m, "sum", (0,)),
        lambda x, m: x * td.reduce(td.repeat(m, (4, None, None)), "sum", (0,)),
    ),
    "another number": (lambda x, m: x * m + 1.0, lambda x, m: x * td.repeat(m, (4, None, 5)) + 2.0),
    "merged": (
        lambda x, m: td.reshape(x, shape=(12, 5)) * td.reshape(td.repeat(m, (4, None, None)), shape=(12, 1)),
        lambda x, m: (
            td.reshape(x, shape=(12, 5))
            * td.reshape(td.permute(td.repeat(m, (4, None, None)), (1, 0, 2)), shape=(12, 1))
        ),
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_where_entries_are_repeated_doesnt_matter(name: str) -> None:
    a, b = map(graph, ALIKE[name])
    assert a != b
    assert same(a, b)


@pytest.mark.parametrize("name", OTHER)
def test_what_else_is_done_does(name: str) -> None:
    assert not same(*map(graph, OTHER[name]))


class Masked(nn.Module):
    """Attention whose mask is expanded to the batch, as in models of text."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.place = nn.Embedding(16, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, ids: Tensor) -> Tensor:
        n = ids.shape[1]
        x = self.table(ids) + self.place(torch.arange(n))
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        mask = torch.ones(n, n, dtype=torch.bool).tril()[None].expand(ids.shape[0], n, n)
        return nn.functional.scaled_dot_product_attention(x, x, x, mask)


@pytest.fixture(scope="module")
def masked() -> tuple[nn.Module, td.TensorDAG]:
    torch.manual_seed(0)
    model = Masked().eval()
    return model, td.from_torch(model, torch.arange(6)[None])


def test_a_batch_of_one_is_left_open_where_a_mask_is_expanded_to_it(masked: tuple[nn.Module, td.TensorDAG]) -> None:
    model, dag = masked
    assert set(dag.open_axes.names) == {"b", "s"}
    ids = torch.randint(0, 20, (3, 9))
    torch.testing.assert_close(dag.to_torch()(ids), model(ids))


@pytest.mark.parametrize("how", ["optimize", "inline", "raise"])
def test_a_changed_network_asks_its_source_at_other_sizes(how: str, masked: tuple[nn.Module, td.TensorDAG]) -> None:
    model, dag = masked
    changed = {
        "optimize": lambda: dag.optimize(free=("b", "s")),
        "inline": lambda: dag.inline(),
        "raise": lambda: dag.inline().raise_(),
    }[how]()
    assert set(changed.resizable_axes().free) == {"b", "s"}
    ids = torch.randint(0, 20, (3, 9))
    want = model(ids).detach().numpy()
    np.testing.assert_allclose(changed.resize(b=3, s=9).run(ids.numpy()), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(changed.to_torch()(ids), model(ids), rtol=1e-4, atol=1e-5)


#: What is done to entries that a batch of 1 doesn't repeat, and a larger one does before.
REPEATED: dict[str, Callable[..., Tensor]] = {
    "a token": lambda x, w: torch.cat([(w.expand(x.shape[0], -1, -1) * 2).exp(), x], 1),
    "a token times weights": lambda x, w: torch.cat([w.expand(x.shape[0], -1, -1), x], 1) @ w[0, 0].diag(),
    "a mask": lambda x, w: x.masked_fill(torch.ones(x.shape, dtype=torch.bool).tril() ^ True, 0.5),
    "a state": lambda x, w: (torch.zeros(x.shape[0], 5) + 1).tanh() + x[:, 0],
    "an entry of all": lambda x, w: (w.max().expand_as(x) + 1).sigmoid() * x,
    "places in windows": lambda x, w: x + F.conv1d(torch.ones(x.shape).cumsum(2), w.expand(4, 4, 5), padding=2),
    "windows of places": lambda x, w: x + F.conv_transpose1d(torch.ones(x.shape), w.expand(4, 4, 5), padding=2),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_resized_network_costs_what_the_formula_says(name: str) -> None:
    weight = nn.Parameter(torch.randn(1, 1, 5))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor) -> Tensor:
            return REPEATED[name](x, self.weight)

    model = Net()
    dag = td.from_torch(model, torch.randn(1, 4, 5))
    formula = dag.cost_formula("flops")
    assert "b" in dag.open_axes.names
    for n in (2, 7):
        x = torch.randn(n, 4, 5)
        resized = dag.resize(b=n)
        assert resized.graph.total_flops() == formula(b=n)
        torch.testing.assert_close(resized.to_torch(fixed=True)(x), model(x))


def test_what_is_worked_out_has_the_sizes_that_the_network_has(masked: tuple[nn.Module, td.TensorDAG]) -> None:
    _, dag = masked
    small = dag.optimize()
    assert len(small.values) < len(dag.optimize(free=("s",)).values)
    assert set(small.resizable_axes().free) == {"b"}
    assert small.resize(b=3).graph.outputs["out"].shape == (3, 6, 8)
    with pytest.raises(td.AxisError, match="no axis is named 'nosuch'"):
        dag.optimize(free=("nosuch",))
    with pytest.raises(td.AxisError, match="isn't the whole of a dimension of an input"):
        dag.optimize(free=("c",))


class Truncated(nn.Module):
    """Gradients go back through the part of a sequence that its length says."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return (y.detach() if x.shape[1] > 5 else y) * y


def gradient(model: Callable[..., Any], weight: Tensor, x: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(model(x).sum(), [weight])
    return found


def test_what_differs_in_gradients_alone_is_another_network() -> None:
    x = td.input("x", (4,))
    a, b = (td.Graph({"x": x}, {"y": f(x) * x}) for f in (td.exp, lambda x: td.stop_gradient(td.exp(x))))
    assert not same(a, b)
    model = Truncated()
    dag = td.from_torch(model, torch.randn(1, 3, 4))
    assert "something else" in dag.open_axes.why["n"]
    with pytest.raises(td.InputError, match="axis 1 is 7, not 3"):
        dag.to_torch()(torch.randn(1, 7, 4))


@pytest.mark.parametrize("how", ["inline", "raise", "optimize"])
def test_changes_keep_where_gradients_stop(how: str) -> None:
    model, x = Truncated(), torch.randn(2, 7, 4)
    dag = td.from_torch(model, x)
    changed = {"inline": dag.inline, "raise": lambda: dag.inline().raise_(), "optimize": dag.optimize}[how]()
    back = changed.to_torch()
    want = gradient(model, model.linear.weight, x)
    torch.testing.assert_close(gradient(back, back.get_parameter("linear.weight"), x), want, rtol=1e-4, atol=1e-5)


class Merged(nn.Module):
    """What is merged into the weights when it is optimized depends on a size."""

    def __init__(self, divided: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.divided = divided

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y / x.shape[1] if self.divided else y + torch.ones(8, 4)[: x.shape[1]]


@pytest.mark.parametrize("divided", [True, False])
def test_numbers_of_sizes_that_are_merged_into_weights(divided: bool) -> None:
    model = Merged(divided)
    small = td.from_torch(model, torch.randn(2, 6, 4)).optimize()
    with pytest.raises(td.AxisError, match=r"merged into the weight 'linear.*depends on sizes: resize first"):
        small.resize({"x": (2, 1, 4)})
    with pytest.raises(td.InputError, match="axis 1 is 1, not 6"):
        small.to_torch()(torch.randn(2, 1, 4))
    assert set(small.open_axes.names) == {"b"}
    x = torch.randn(3, 6, 4)
    want = model(x).detach().numpy()
    np.testing.assert_allclose(small.resize(b=3).run(x.numpy()), want, rtol=1e-4, atol=1e-5)


#: Functions whose gradient where an input is 0 isn't that of their formula.
AT_ZERO: dict[str, Callable[[Tensor], Tensor]] = {
    "norm": lambda x: x.norm(dim=1),
    "norm of order 3": lambda x: torch.linalg.vector_norm(x, 3, dim=1),
    "cosine": lambda x: nn.functional.cosine_similarity(x, x + 1, dim=1),
    "distance": lambda x: torch.cdist(x, x),
    "entropy": torch.special.entr,
    "cross entropy": lambda x: nn.functional.binary_cross_entropy(x, x.detach()),
    "hypotenuse": lambda x: torch.hypot(x, x),
    "limit": lambda x: torch.clamp(x, max=x.detach()),
    "largest": lambda x: x.max(1)[0],
}


class AtZero(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return AT_ZERO[self.name](x)


@pytest.mark.parametrize("name", AT_ZERO)
def test_inlined_gradients_at_zero(name: str) -> None:
    x = torch.zeros(3, 4, requires_grad=True)
    dag = td.from_torch(AtZero(name), x)
    want = gradient(AtZero(name), x, x)
    for changed in (dag.inline(), dag.inline().raise_()):
        torch.testing.assert_close(gradient(changed.to_torch(), x, x), want, equal_nan=True)


# --- random graphs of core ops ---------------------------------------------------------------------------------

SHAPE = (2, 3, 4)


class Walk:
    """A random graph of ops on values of rank 3: dimensions of 1 entry are repeated somewhere."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.inputs = {
            f"x{i}": td.input(f"x{i}", tuple([n if self.dice.random() < 0.5 else 1 for n in SHAPE]), "f64")
            for i in range(3)
        }
        self.inputs["seed"] = td.input("seed", (), "u64")
        self.values = [v for v in self.inputs.values() if v.rank == 3]

    def graph(self, steps: int = 12) -> td.Graph:
        for _ in range(steps):
            x = self.dice.choice(self.values)
            made = self.dice.choice(STEPS)(self, x)
            if made is not None:
                self.values.append(made)
        ends = self.values[-4:]
        outputs = {f"y{i}": v for i, v in enumerate(ends[1:])}
        return td.Graph(self.inputs, outputs, {"state": ends[0]})

    def repeated(self, x: td.Value, all_of_them: bool = False) -> td.Value:
        """Some dimensions of 1 entry repeated, to sizes that others have, 1 and 0 too."""
        sizes = [
            self.dice.choice([*SHAPE, 1, 0]) if n == 1 and (all_of_them or self.dice.random() < 0.7) else None
            for n in x.shape
        ]
        return td.repeat(x, tuple(sizes)) if any(n is not None for n in sizes) else x

    def other(self, x: td.Value) -> td.Value | None:
        """Another value that can be broadcast to the shape of one, and is."""
        fits = [v for v in self.values if all(n in (1, m) for n, m in zip(v.shape, x.shape, strict=True))]
        if not fits:
            return None
        v = self.dice.choice(fits)
        return td.repeat(v, tuple([m if n == 1 and m != 1 else None for n, m in zip(v.shape, x.shape, strict=True)]))

    def axis(self) -> int:
        return self.dice.randrange(3)

    def index(self, shape: tuple[int, ...], size: int) -> td.Value | None:
        """Indices into ``size`` entries, of which some dimensions are repeated."""
        if not size:
            return None
        few = tuple([1 if self.dice.random() < 0.6 else n for n in shape])
        places = td.const(np.random.default_rng(self.dice.randrange(99)).integers(0, size, few))
        return td.repeat(places, tuple([n if m == 1 and n != 1 else None for m, n in zip(few, shape, strict=True)]))


def _binary(w: Walk, x: td.Value) -> td.Value | None:
    y = w.other(x)
    return None if y is None else w.dice.choice([td.add, td.multiply, td.maximum])(x, y)


def _chosen(w: Walk, x: td.Value) -> td.Value | None:
    y, z = w.other(x), w.other(x)
    return None if y is None or z is None else td.where(y > 0.0, x, z)


def _merged(w: Walk, x: td.Value) -> td.Value:
    """Two dimensions as one, changed, and two again."""
    first = w.dice.random() < 0.5
    a, b, c = x.shape
    y = td.reshape(x, shape=(a * b, c) if first else (a, b * c))
    y = td.repeat(y, tuple([2 if n == 1 else None for n in y.shape])) if w.dice.random() < 0.3 else y
    if y.shape == (a * b, c) if first else y.shape == (a, b * c):
        return td.reshape(td.scan(y, "sum", w.dice.randrange(2)), shape=x.shape)
    return td.unsqueeze(y, (0,))


def _gathered(w: Walk, x: td.Value) -> td.Value | None:
    batch = w.dice.randrange(3)
    axis = w.dice.randrange(batch, 3)
    index = w.index((*x.shape[:batch], w.dice.choice([1, 2])), x.shape[axis])
    return None if index is None else td.gather(x, index, axis, batch)


def _joined(w: Walk, x: td.Value) -> td.Value | None:
    y = w.other(x)
    return None if y is None else td.concat([x, y], w.axis())


def _drawn(w: Walk, x: td.Value) -> td.Value | None:
    """Each entry of what is there now its own random number."""
    bits = random_bits(w.inputs["seed"], x.shape)
    return x + td.cast(bits % td.const(7, "u64"), "f64")


def _branched(w: Walk, x: td.Value) -> td.Value | None:
    y = w.other(x)
    flag = td.reduce(td.reshape(x, shape=(x.type.size,)), "sum", (0,))
    if y is None:
        return None
    given = {n: td.input(n, x.shape, "f64") for n in "ab"}
    a, b = given.values()
    then, otherwise = (td.Graph(given, dict(zip("yz", out, strict=True))) for out in ((a + b, a), (a, b - a)))
    return td.cond(td.reshape(flag, shape=()) > 0.0, x, y, then=then, otherwise=otherwise)[w.dice.randrange(2)]


STEPS: list[Callable[[Walk, td.Value], td.Value | None]] = [
    Walk.repeated,
    Walk.repeated,
    Walk.repeated,
    _binary,
    _binary,
    _chosen,
    lambda w, x: td.permute(x, tuple(w.dice.sample(range(3), 3))),
    lambda w, x: td.reduce(x, w.dice.choice(["sum", "max"]), (w.axis(),)) if x.type.size else None,
    lambda w, x: td.scan(x, "sum", w.axis()),
    lambda w, x: td.cast(td.argsort(x, w.axis()), "f64"),
    lambda w, x: td.flip(x, (w.axis(),)),
    lambda w, x: td.pad(x, [(1, 0) if i == w.axis() else (0, 0) for i in range(3)], 2.0),
    _merged,
    _gathered,
    _joined,
    _drawn,
    _branched,
    lambda w, x: td.unsqueeze(td.squeeze(x, (0,)), (w.axis(),)) if x.shape[0] == 1 else None,
]


@pytest.mark.parametrize("seed", range(60))
def test_entries_repeated_late_are_the_same_entries(seed: int) -> None:
    graph = Walk(seed).graph()
    late = repeated_late(graph)
    entries = np.random.default_rng(seed)
    data = {n: entries.integers(-3, 4, v.shape).astype("f8") for n, v in graph.inputs.items() if v.rank}
    data["seed"] = np.array(seed, "u8")
    for want, found in zip(run(graph, data, {}), run(late, data, {}), strict=True):
        assert want.keys() == found.keys()
        for name in want:
            np.testing.assert_array_equal(found[name], want[name], strict=True)
    assert repeated_late(late) == late


def test_a_deep_network_is_put_in_another_form_only_where_it_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def deep(whole: bool, add: float) -> td.Graph:
        x, m = td.input("x", (1, 3, 5)), td.input("m", (1, 3, 1))
        mask = td.exp(td.unsqueeze(td.squeeze(m, (0,)), (0,)) if whole else td.repeat(m, (1, None, None)))
        y = x
        for _ in range(40):
            y = td.exp(y * mask) + td.repeat(mask, (1, None, None)) * add if whole else td.exp(y * mask) + mask * add
        return td.Graph({"x": x, "m": m}, {"y": y})

    seen: list[int] = []

    def counted(graph: td.Graph) -> td.Graph:
        seen.append(len(graph.values))
        return repeated_late(graph)

    monkeypatch.setattr(module, "repeated_late", counted)
    assert same(deep(True, 2.0), deep(False, 2.0))
    assert sum(seen) < 40
    assert not same(deep(True, 2.0), deep(False, 3.0))


def test_a_mask_that_is_repeated_for_a_batch_before_it_is_made_is_put_in_another_form_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def deep(early: bool, other: bool = False) -> td.Graph:
        x, m = td.input("x", (4, 2, 5, 3)), td.input("m", (1, 1, 5, 5))
        whole = td.repeat(m, (4, None, None, None)) if early else m
        mask = td.exp(whole * whole) > (2.0 if other else 1.0)
        y = x
        for _ in range(40):
            y = td.exp(td.scaled_dot_product_attention(y, y, y, mask))
        return td.Graph({"x": x, "m": m}, {"y": y})

    seen: list[int] = []
    own = module._lately  # pyright: ignore[reportPrivateUsage]

    def counted(graph: td.Graph) -> Any:
        seen.append(len(graph.values))
        return own(graph)

    monkeypatch.setattr(module, "_lately", counted)
    assert same(deep(True), deep(False))
    assert sum(seen) < 30
    assert not same(deep(True), deep(False, other=True))


def test_one_value_may_be_the_same_as_two() -> None:
    """The search for where graphs differ went from one of the two to the other for ever."""
    m, x, y = td.input("m", (1, 1, 3)), td.input("x", (4, 5, 3)), td.input("y", (4, 5, 3))
    inputs = {"m": m, "x": x, "y": y}
    late = td.exp(td.repeat(m, (4, 5, None)))
    first = td.repeat(td.exp(td.repeat(m, (4, None, None))), (None, 5, None))
    second = td.repeat(td.exp(td.repeat(m, (None, 5, None))), (4, None, None))
    for _ in range(40):  # so much is looked at
        y = td.exp(y)
    a = td.Graph(inputs, {"out": td.concat([late, late, y], 0)})
    b = td.Graph(inputs, {"out": td.concat([first, second, y], 0)})
    assert same(a, b)
    assert not same(a, td.Graph(inputs, {"out": td.concat([first, second, x], 0)}))
