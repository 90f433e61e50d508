"""Sizes that are certain: the source is asked; without one what the graph leaves open is refused."""

import itertools
import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger import AxisError
from tests.quick import in_turn


class Fn(nn.Module):
    def __init__(self, function, *inner):
        super().__init__()
        self.function = function
        self.inner = nn.ModuleList(inner)

    def forward(self, *args):
        return self.function(*self.inner, *args)


def padded(x):
    """To a multiple of 4, by a number of Python's."""
    return nn.functional.pad(x, (0, -x.shape[1] % 4)).view(x.shape[0], -1, 4).sum(2)


def steps(x):
    """A loop over a size."""
    out = x[:, 0]
    for i in range(1, x.shape[1]):
        out = out * 0.5 + x[:, i]
    return out


def relative(x):
    """Distances between positions."""
    n = x.shape[1]
    place = torch.arange(n)
    return x @ (place[:, None] - place[None]).abs().float().div(n)


#: Networks in which Python computes with the size of dimension 1, and what a graph alone can't know of them.
PYTHON = {
    "the first half": lambda x: x[:, : x.shape[1] // 2],
    "all but three": lambda x: x[:, : x.shape[1] - 3],
    "a mean by hand": lambda x: x.sum(1) / x.shape[1],
    "scaled": lambda x: x * x.shape[1] ** -0.5,
    "logarithm": lambda x: x * math.log(x.shape[1]),
    "padded": padded,
    "a loop": steps,
    "relative": relative,
    "linspace": lambda x: x * torch.linspace(-1, 1, x.shape[1]),
    "rolled": lambda x: x.roll(x.shape[1] // 2, 1),
    "ones": lambda x: x.sum(1) / torch.ones(x.shape[1]).sum(),
    "windows": lambda x: x.unfold(1, x.shape[1] // 2, 1).sum(2),
    "pooled": lambda x: nn.functional.avg_pool1d(x[None], x.shape[1] // 2)[0],
    "top": lambda x: x.topk(x.shape[1] // 2, 1)[0],
    "parity": lambda x: x * 2 if x.shape[1] % 2 else x + 1,
    "threshold": lambda x: x[:, :8].sum(1) if x.shape[1] > 8 else x.mean(1),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "squeezed": lambda x: x[:, :1].squeeze(1),
}


#: Those of which a trace keeps a number, or a way taken.
DECIDED = ("a loop", "parity", "threshold", "relative", "padded", "rolled", "logarithm", "pooled")

#: Those that leave nothing in a graph to see.
UNSEEN = ("parity", "threshold", "padded")


@pytest.mark.parametrize(("name", "via"), in_turn(2, PYTHON, ["export", "trace", "script"]))
def test_what_python_computed_follows(name, via):
    module = Fn(PYTHON[name])
    example = torch.randn(2, 6)
    if via == "script":
        if name in DECIDED:
            return  # a trace holds what Python made of a size, and is the source itself
        dag = td.from_torch(torch.jit.trace(module, example, check_trace=False), example)
    else:
        dag = td.from_torch(module, example, via=via)
    for shape in ((2, 7), (2, 12), (5, 6), (3, 13)):
        x = torch.randn(shape)
        resized = dag.resize({next(iter(dag.graph.inputs)): shape})
        torch.testing.assert_close(resized.to_torch(fixed=True)(x), module(x))


@pytest.mark.parametrize("name", [n for n in PYTHON if n not in UNSEEN])
def test_alone_it_is_right_or_refused(name):
    """From a file of a stranger nothing can be asked."""
    module = Fn(PYTHON[name])
    dag = td.from_torch(torch.export.export(module, (torch.randn(2, 6),)))
    assert dag.source is None
    for n in (7, 12):
        x = torch.randn(2, n)
        try:
            resized = dag.resize({next(iter(dag.graph.inputs)): tuple(x.shape)})
        except AxisError:
            continue
        torch.testing.assert_close(resized.to_torch(fixed=True)(x), module(x))


@pytest.mark.parametrize("name", ["the first half", "a mean by hand", "scaled", "ones", "windows"])
def test_what_is_not_known_is_said(name):
    dag = td.from_torch(Fn(PYTHON[name]), torch.randn(2, 6), sizes="alone")
    found = dag.resizable_axes()
    axis = next(n for n, size in dag.axes().sizes.items() if size == 6)
    assert axis in found.unknown
    assert "b" in found.free
    assert f"not known: {axis}: <" in str(found) or f"not known: {axis}: const" in str(found)
    with pytest.raises(AxisError, match=r"not known, as no source is there to ask:\n  .*\ngive the source, resize"):
        dag.resize({"input0": (2, 12)})


def test_no_other_axis_makes_room():
    """Every second entry of all is written: so many as before would be had by another width, which nobody asked for."""

    def function(x):
        y = x * 1
        y.flatten()[::2] = 0
        return y

    dag = td.from_torch(Fn(function), torch.randn(5, 2))
    x = torch.randn(10, 2)
    torch.testing.assert_close(dag.resize(h=10).to_torch()(x), function(x))
    alone = td.from_torch(Fn(function), torch.randn(5, 2), sizes="alone")
    with pytest.raises(AxisError, match=r"\(h w\), 5 x 2 entries, would need 10 but is made of 10 x \?"):
        alone.resize(h=10)
    with pytest.raises(AxisError, match="h"):
        alone.cost_formula("flops")(h=10)


def test_the_place_of_a_doubt_is_told():
    dag = td.from_torch(Fn(PYTHON["a mean by hand"]), torch.randn(2, 6), sizes="alone")
    (why,) = dag.resizable_axes().unknown.values()
    assert "test_certain.py:" in why
    assert "1 / 6" in why or "is 6" in why


def test_a_caller_can_assume():
    dag = td.from_torch(Fn(PYTHON["the first half"]), torch.randn(2, 6), sizes="alone")
    (name,) = dag.graph.inputs
    assert dag.resize({name: (2, 12)}, assume=True).graph.inputs[name].shape == (2, 12)


def test_the_model_can_be_given_later():
    module = Fn(PYTHON["the first half"])
    dag = td.from_torch(module, torch.randn(2, 6), sizes="alone")
    (name,) = dag.graph.inputs
    x = torch.randn(2, 12)
    torch.testing.assert_close(dag.resize({name: (2, 12)}, source=module).to_torch()(x), module(x))
    assert dag.resizable_axes(source=module).unknown == {}
    with pytest.raises(td.InputError, match=r"a source is an nn\.Module or a TorchScript module"):
        dag.resize({name: (2, 12)}, source=torch.export.export(module, (torch.randn(2, 6),)))


def test_another_model_is_no_source():
    dag = td.from_torch(Fn(PYTHON["the first half"]), torch.randn(2, 6))
    (name,) = dag.graph.inputs
    with pytest.raises(AxisError, match="the source isn't what this network was imported from"):
        dag.resize({name: (2, 12)}, source=Fn(PYTHON["halves"]))


def test_a_model_that_was_changed_is_no_source():
    module = nn.Sequential(Fn(PYTHON["halves"]), nn.Linear(6, 6))
    dag = td.from_torch(module, torch.randn(2, 6))
    module[1] = nn.Identity()
    with pytest.raises(AxisError, match=r"of 1\.weight has 6 entries and can't have 12"):
        dag.resize({next(iter(dag.graph.inputs)): (2, 12)})


def test_a_model_that_filled_a_cache_is_not_asked():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.randn(3))
            self.cache = {}

        def forward(self, x):
            if not self.cache:
                self.cache["bias"] = self.bias * 2
            return x.flatten(1) + self.cache["bias"].repeat(2)

    module = Cached().eval()
    with torch.no_grad():
        dag = td.from_torch(module, torch.randn(1, 2, 3), via="trace")
        x = torch.randn(4, 2, 3)
        expected = module(x)
        torch.testing.assert_close(dag.resize(b=4).to_torch()(x), expected)


def test_the_mode_is_that_of_the_import():
    module = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    dag = td.from_torch(module, torch.randn(1, 3, 8))
    module.train()
    x = torch.randn(2, 3, 11)
    found = dag.resize({"input": (2, 3, 11)})
    assert all(m.training for m in module.modules())
    torch.testing.assert_close(found.to_torch()(x), module.eval()(x))
    assert "seed" not in found.graph.inputs


def test_a_changed_network_is_not_asked_of():
    module = Fn(lambda x: x.sum(1) / x.shape[1])
    single = td.from_torch(module, torch.randn(2, 6, 3)).unbatch("b")
    assert single.source is None
    (name,) = single.graph.inputs
    with pytest.raises(AxisError, match="not known"):
        single.resize({name: (12, 3)})


def test_certain_sizes_outlive_the_source():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))
    dag = td.from_torch(module, torch.randn(1, 3, 8, 8), sizes="certain")
    assert dag.source.count == [2]
    assert dag.confirmed >= {"b", "h", "w"}
    assert dag.resizable_axes().free == ("b", "h", "w")
    assert dag.source.count == [2]
    assert dag.cost_formula("flops")(b=3, h=16) == dag.resize(b=3, h=16).graph.total_flops()
    alone = td.TensorDAG(**{f: getattr(dag, f) for f in dag.__dataclass_fields__ if f != "source"})
    x = torch.randn(3, 3, 12, 20)
    torch.testing.assert_close(alone.resize(b=3, h=12, w=20).to_torch()(x), module(x))


def test_certain_sizes_say_what_python_decides():
    dag = td.from_torch(Fn(PYTHON["the first half"]), torch.randn(2, 6), sizes="certain")
    (_, axis) = dag.axes().shape(next(iter(dag.graph.inputs.values()))).split()
    assert dag.confirmed == {"b"}
    assert axis in dag.resizable_axes().free  # the source is there to ask
    assert dag.cost_formula("reads").names == {"b": 2}
    with pytest.raises(AxisError, match=rf"the reads at other {axis} aren't known: its source does"):
        dag.cost_formula("reads")(**{axis: 12})


def test_sizes_that_the_source_cannot_have():
    class Fixed(nn.Module):
        def forward(self, x):
            assert x.shape[1] == 6, "six entries"
            return x[:, :3]

    dag = td.from_torch(Fixed(), torch.randn(2, 6))
    with pytest.raises(AxisError, match=r"the source itself raises AssertionError: six entries"):
        dag.resize({"x": (2, 12)})
    found = dag.resizable_axes()
    assert found.free == ("b",)
    assert any("six entries" in why for why in found.fixed.values())


def test_entries_of_the_examples_stay_in_their_range():
    """Indices, and offsets, of a resized example are some of the example's."""
    module = nn.Embedding(7, 3)
    dag = td.from_torch(module, torch.tensor([[1, 6], [0, 2]]), via="trace")
    x = torch.randint(0, 7, (5, 9))
    torch.testing.assert_close(dag.resize({"input": (5, 9)}).to_torch()(x), module(x))


def test_a_name_that_is_no_way():
    with pytest.raises(td.InputError, match="from_torch knows sizes as 'asked', 'certain', 'alone', not 'sure'"):
        td.from_torch(nn.ReLU(), torch.randn(2), sizes="sure")


def even(x):
    if x.shape[1] % 2:
        raise ValueError(f"an even width is needed, not {x.shape[1]}")
    return x * 2


def exact(x):
    assert x.shape[1] == 6, "of 6"
    return x * 2


def checked(x):
    torch._check(x.shape[1] % 2 == 0, lambda: "of an even width")
    return x * 2


def tabled(x):
    return x * {6: 2.0, 12: 3.0}[x.shape[1]]


#: Networks that run at some sizes of dimension 1 only: what they say at others, and sizes at which they run.
GUARDED = {
    "an odd width": (even, 7, "ValueError: an even width is needed, not 7", 12),
    "an assert": (exact, 12, "AssertionError: of 6", None),
    "a check of torch's": (checked, 13, "RuntimeError: of an even width", 12),
    "a table": (tabled, 7, "KeyError: 7", 12),
    "too few": (lambda x: nn.functional.pad(x[None], (3, 3), mode="reflect")[0], 2, "Padding size should be less", 12),
}


@pytest.mark.parametrize(("name", "via"), in_turn(2, GUARDED, ["module", "program"]))
def test_where_the_source_itself_raises_it_is_refused(name, via):
    function, wrong, said, right = GUARDED[name]
    module, example = Fn(function), torch.randn(2, 6)
    dag = td.from_torch(module, example)
    given = {}
    if via == "program":
        dag, given = td.from_torch(torch.export.export(module, (example,))), {"source": module}
    given_name = next(iter(dag.graph.inputs))
    with pytest.raises(AxisError, match=rf"the source itself raises .*{said}"):
        dag.resize({given_name: (2, wrong)}, **given)
    if right is not None:
        x = torch.randn(2, right)
        torch.testing.assert_close(dag.resize({given_name: (2, right)}, **given).to_torch(fixed=True)(x), module(x))


@pytest.mark.parametrize("name", GUARDED)
def test_the_open_module_runs_where_the_source_runs(name):
    module = Fn(GUARDED[name][0])
    back = td.from_torch(module, torch.randn(2, 6)).to_torch()
    for n in (1, 2, 3, 4, 7, 12, 13):
        x = torch.randn(2, n)
        try:
            want = module(x)
        except Exception:
            with pytest.raises(td.InputError):
                back(x)
        else:
            if name != "a table":  # it has no other size that can be told from its runs
                torch.testing.assert_close(back(x), want)


def test_so_few_entries_as_the_source_takes_are_taken():
    def several(x):
        if x.shape[1] < 4:
            raise ValueError("too short")
        return x * 2

    back = td.from_torch(Fn(several), torch.randn(2, 6)).to_torch()
    assert back(torch.ones(2, 4)).shape == (2, 4)
    with pytest.raises(td.InputError, match="with 3 entries the source itself raises ValueError: too short"):
        back(torch.ones(2, 3))


def halved(x):
    while x.shape[1] > x.shape[2]:
        x = nn.functional.avg_pool1d(x.mT, 2).mT
    return x


class Limited(nn.Module):
    limit = 9

    def forward(self, x):
        return x * 2 if x.shape[1] <= self.limit else x * 3


#: What a source asks of the sizes of two axes, behind which it goes another way.
ASKING = {
    "twice": lambda x: x.shape[1] == 2 * x.shape[2],
    "one more": lambda x: x.shape[1] == x.shape[2] + 1,
    "not three times": lambda x: x.shape[1] != 3 * x.shape[2],
    "larger": lambda x: x.size(1) > x.size(2),
    "a sum": lambda x: x.shape[1] + x.shape[2] == 20,
    "a product": lambda x: x.shape[1] * x.shape[2] == 35,
    "an even sum": lambda x: (x.shape[1] + x.shape[2]) % 2 == 0,
    "a rest": lambda x: bool(x.shape[1] % 3),
    "a half": lambda x: x.shape[1] // 2 == x.shape[2],
    "a ratio": lambda x: x.shape[1] / x.shape[2] == 2,
    "a larger ratio": lambda x: x.shape[1] / x.shape[2] > 1.5,
    "rounded up": lambda x: math.ceil(x.shape[1] / 4) == x.shape[2],
    "a difference": lambda x: abs(x.shape[1] - x.shape[2]) > 3,
    "two at once": lambda x: x.shape[1:] == (8, 6),
    "one and the other": lambda x: x.shape[1] == 7 and x.shape[2] > 9,
    "one of several": lambda x: x.shape[1] in (11, 13),
    "entries": lambda x: x.numel() == 84,
    "rows": lambda x: len(x) == 5,
    "of what was made": lambda x: (x[:, 1:] * 2).relu().shape[1] == x.shape[2] + 2,
    "the largest": lambda x: max(x.shape[1:]) > 13,
}


#: Of what no result is made of, sizes that are others where there is less, or that Python worked out.
ASIDE = {
    "the first": lambda x: len(x) == x[:, :5].shape[1],
    "the last": lambda x: len(x) == x[:, -5:].shape[1],
    "some in the middle": lambda x: len(x) == x[:, 1:4].shape[1],
    "half": lambda x: len(x) == x[:, : x.shape[1] // 2].shape[1],
    "every second": lambda x: len(x) == x[:, ::2].shape[1],
    "a part": lambda x: len(x) == x.chunk(2, 1)[0].shape[1],
    "a pool": lambda x: len(x) == x.unfold(1, 1, 2).shape[1],
    "the largest": lambda x: len(x) == x.topk(min(3, x.shape[1]), 1)[0].shape[1],
    "the less": lambda x: len(x) == min(3, x.shape[1]),
    "a diagonal": lambda x: len(x) == x.diagonal().shape[0] + 1,
    "joined": lambda x: 2 * len(x) + 1 == torch.cat([x, x[:, :2]], 1).shape[1],
    "entries": lambda x: x[:, :4].numel() == 3 * len(x) + 1,
}


@pytest.mark.parametrize("shape", [(3, 3), (2, 7), (4, 1)])
@pytest.mark.parametrize("name", ASIDE)
def test_what_is_compared_of_what_no_result_is_made_of(name, shape):
    """It is right where such a size is known, and else it isn't compared at other sizes."""
    asks = ASIDE[name]
    module = Fn(lambda x: x * 2 if asks(x) else x * 3)
    back = td.from_torch(module, torch.randn(shape)).to_torch()
    assert back(torch.randn(shape)) is not None
    for sizes in itertools.product((1, 2, 3, 4, 5, 7), (1, 2, 3, 4, 5, 6, 8)):
        x = torch.randn(sizes)
        with suppress(td.InputError):
            torch.testing.assert_close(back(x), module(x), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 8, 6), (2, 5, 7)])
@pytest.mark.parametrize("name", [*ASKING, "a loop", "a limit"])
def test_the_open_module_goes_no_other_way_than_its_source(name, shape):
    """Comparisons of sizes are read as the source makes them, and it is asked behind each."""
    asks = ASKING.get(name)
    module = Fn(lambda x: x * 2 if asks(x) else x * 3) if asks else Fn(halved) if name == "a loop" else Limited()
    back = td.from_torch(module, torch.randn(shape)).to_torch()
    runs = 0
    for b, h, w in itertools.product((1, 2, 5), (1, 3, 4, 5, 7, 8, 9, 11, 12, 14, 16), (1, 2, 3, 4, 5, 6, 7, 8, 12)):
        x = torch.randn(b, h, w)
        with suppress(td.InputError):
            torch.testing.assert_close(back(x), module(x))
            runs += 1
    assert runs > 1


def test_comparisons_leave_tensors_and_lists_as_they_were():
    """What says the sizes while they are read is gone afterwards, also where the source raises."""

    def failing(x):
        if len(x) == 2 and x.shape[1] > 3:
            return x * x.numel()
        raise ValueError("no")

    before = torch.Tensor.shape, torch.Tensor.size, torch.Tensor.numel, len
    kept = []
    module = Fn(lambda x: (kept.append(x.shape[1]), failing(x))[1])
    dag = td.from_torch(module, torch.randn(2, 6))
    dag.open_axes  # noqa: B018
    assert (torch.Tensor.shape, torch.Tensor.size, torch.Tensor.numel, len) == before
    assert not {"shape", "size", "numel"} & vars(torch.Tensor).keys()
    assert all(type(n + 1) is int for n in kept)


def test_an_axis_that_the_source_has_at_one_size_is_fixed():
    found = td.from_torch(Fn(exact), torch.randn(2, 6)).resizable_axes()
    assert "AssertionError: of 6" in found.fixed["n"]
    assert "b" in found.free


def test_a_source_that_raised_is_as_it_was():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("n", torch.zeros(1))

        def forward(self, x):
            self.n += 1
            return even(x) + self.n

    module = Counting()
    dag = td.from_torch(module, torch.randn(2, 6))
    with pytest.raises(AxisError, match="the source itself raises"):
        dag.resize({"x": (2, 7)})
    assert module.n.item() == 0


class UpToAnother(nn.Module):
    """The size of one dimension is where another is cut: all of it here, a part where the one has fewer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 1 : x.shape[-1]]


def test_a_bound_beyond_all_entries_may_be_another_size() -> None:
    x = torch.randn(2, 4, 6)
    alone = td.from_torch(torch.export.export(UpToAnother(), (x,)), axes="b n c")
    with pytest.raises(td.AxisError, match="up to 6, which are all at 4"):
        alone.resize(c=3)
    asked = td.from_torch(UpToAnother(), x, axes="b n c").resize(c=3)
    assert asked.graph.outputs["out"].shape == (2, 2, 3)


class Remembers(nn.Module):
    """Keeps what it computed of a parameter, in a dict and in an attribute, as attention biases are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(2, 9))
        self.kept: dict[str, torch.Tensor] = {}
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "bias" not in self.kept:
            self.kept["bias"] = self.table[:, torch.arange(4)]
        self.last = self.kept["bias"]
        return torch.cat([x[:, :1], x[:, 1:]], 1) + self.last


def test_what_a_run_left_in_the_source_is_not_what_was_imported() -> None:
    source, x = Remembers().eval(), torch.rand(1, 2, 4)
    dag = td.from_torch(source, (x,))
    with torch.no_grad():
        wanted = source(x.repeat(3, 1, 1))
    held = dict(source.kept), source.last
    made = dag.resize(b=3)
    np.testing.assert_array_equal(made.run(x.repeat(3, 1, 1).numpy()), wanted.numpy())
    assert source.kept["bias"] is held[0]["bias"]
    assert source.last is held[1]


class Keeping(nn.Module):
    """It keeps what it made of its weights, or not, and compares a size of what no result is made of."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.keeps = keeps
        self.bias = nn.Parameter(torch.arange(4.0))
        self.kept: dict[str, torch.Tensor] = {}

    def forward(self, x):
        kept = self.kept if self.keeps else {}
        if "bias" not in kept:
            kept["bias"] = self.bias[torch.tensor([0, 2])].sum()
        ahead = x.mT.unfold(0, 1, 2).shape[0]
        return (x * 2 if len(x) == ahead else x * 3) + kept["bias"]


def test_a_network_that_keeps_what_it_made_is_asked_as_often_as_one_that_does_not():
    """It is run twice at each size; the second time nobody knows its inputs, and the run was made again without."""
    dags = [td.from_torch(Keeping(keeps).eval(), torch.randn(3, 3)) for keeps in (True, False)]
    with_one, without = [dag.to_torch().fixed_axes for dag in dags]
    assert with_one.keys() == without.keys() == {"b", "n"}
    counts = [dag.source.count[0] for dag in dags]
    assert counts[0] == counts[1]
