"""What random programs found wrong at other sizes and with a batch more."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

import tdagger as td


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(x.mean().detach())
        return x + self.seen


class _Chunks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum((t.mean() for t in x.chunk(3, -1)), torch.zeros(()))


class _Halves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, _ = torch.split(x, (x.size(1) + 1) // 2, 1)
        return a


def test_a_batch_that_a_buffer_would_get_is_refused() -> None:
    dag = td.from_torch(_Counting(), (torch.randn(3, 2),))
    with pytest.raises(td.AxisError, match=r"buffer 'seen', f32\[\], is given .*test_fuzzed.py:\d+.* in every run"):
        dag.batch(2)


def test_a_formula_of_uneven_chunks_is_what_is_counted_or_refused() -> None:
    dag = td.from_torch(_Chunks(), (torch.randn(2, 8),))
    formula = dag.cost_formula("flops")
    (name,) = [n for n, size in formula.names.items() if size == 8]
    for n in (9, 15, 18):
        assert formula(**{name: n}) == dag.resize(x=(2, n)).graph.total_flops()
    with pytest.raises(td.AxisError, match="takes floor"):
        formula(**{name: 16})  # 6, 6 and 4: not a third, rounded down


class _Uneven(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = sum((t.mean() for t in x.chunk(3, -1)), torch.zeros(()))
        return mean, torch.nn.functional.adaptive_max_pool2d(x, 1)


class _Windows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, -3:-1] - x[..., :-1:2]


@pytest.mark.parametrize(
    ("module", "shape", "other", "match"),
    [(_Uneven(), (2, 8, 6, 3), 4, "cut into 3 parts"), (_Windows(), (1, 2), 3, "takes floor")],
    ids=["two chunks instead of three", "two of three where one of two was taken"],
)
def test_no_formula_where_slices_take_other_numbers_of_entries(
    module: nn.Module, shape: tuple[int, ...], other: int, match: str
) -> None:
    dag = td.from_torch(module, torch.randn(shape))
    formula = dag.cost_formula("flops")
    name = dag.axes().show(dag.graph.inputs["x"]).split("[")[1].rstrip("]").split()[-1]
    with pytest.raises(td.AxisError, match=match):
        formula(**{name: other})
    twice = dag.resize({"x": (*shape[:-1], 2 * shape[-1])})
    assert formula(**{name: 2 * shape[-1]}) == twice.graph.total_flops()


def test_a_formula_of_two_axes_of_one_size_tells_them_apart() -> None:
    """What was counted for one of them, of which no formula holds, isn't given for the other."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.nn.functional.adaptive_avg_pool1d(x[..., -1], 2), x @ x.transpose(-1, -2)

    dag = td.from_torch(Net(), torch.randn(3, 4, 6, 6))
    formula = dag.cost_formula("flops")
    _, _, h, w = dag.axes().show(dag.graph.inputs["x"]).split("[")[1].rstrip("]").split()
    for sizes in ((7, 6), (12, 6), (6, 7), (6, 12), (7, 12)):
        resized = dag.resize({"x": (3, 4, *sizes)})
        assert formula(**dict(zip((h, w), sizes, strict=True))) == resized.graph.total_flops()


def test_a_script_that_fails_at_other_sizes_is_no_source_for_them() -> None:
    x = torch.randn(3, 2)
    dag = td.from_torch(torch.jit.trace(_Halves(), x), (x,))
    found = dag.resizable_axes()
    assert len(found.free) == len(found.fixed) == 1


def _formula_is_what_is_counted(dag: td.TensorDAG, shape: tuple[int, ...]) -> bool:
    """The formula at another shape of x is what is counted there (True), or refused (False)."""
    names = dag.axes().show(dag.graph.inputs["x"]).split("[")[1].rstrip("]").split()
    counted = dag.resize(x=shape).graph.total_flops()
    try:
        found = dag.cost_formula("flops")(**dict(zip(names, shape, strict=True)))
    except td.AxisError:
        return False
    assert found == counted
    return True


def test_a_formula_counts_what_a_composite_broadcasts_once() -> None:
    """Of 1 entry in the example, both the axis of the input and the pooled one: repeats aren't summed over."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.adaptive_avg_pool2d(x, 1)
            return torch.einsum("abcd,dycw->dby", y, y)

    dag = td.from_torch(Net(), torch.randn(1, 1, 3, 4))
    for shape in ((2, 1, 3, 4), (3, 1, 3, 4), (1, 1, 6, 5)):
        assert _formula_is_what_is_counted(dag, shape)


class _ViewsSquares(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.permute(1, 0).reshape(x.shape).relu_()
        return x


@pytest.mark.parametrize("size", [2, 3])
def test_what_depends_on_two_sizes_being_the_same_is_not_certain(size: int) -> None:
    """The source is asked at sizes that differ, also where the example's are the same."""
    with pytest.warns(UserWarning, match="writes to its inputs"):
        dag = td.from_torch(_ViewsSquares(), torch.randn(size, size))
    assert not dag.confirmed
    assert not dag.cost_formula("flops").names


def test_a_formula_of_an_axis_that_may_be_as_long_as_another() -> None:
    dag = td.from_torch(_ViewsSquares(), torch.randn(2, 4))
    assert dag.resize(x=(4, 4)).graph.total_flops() == 16
    assert dag.graph.total_flops() == 0
    assert not _formula_is_what_is_counted(dag, (4, 4))


def test_axes_of_one_size_are_asked_at_an_odd_number_more() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.shape[1] % 2 else x * 2

    dag = td.from_torch(Net(), torch.randn(2, 2, 1))
    for shape in ((2, 3, 1), (3, 5, 1), (3, 4, 1)):
        _formula_is_what_is_counted(dag, shape)


def test_a_product_of_axes_is_asked_at_another_rest() -> None:
    """13 * 14 leaves by 8 what 2 * 3 leaves."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(-2)
            return nn.functional.pad(x, (0, -x.shape[1] % 8))

    for own in ((2, 2, 3), (1, 4, 6), (3, 5, 7), (1, 3, 5)):
        net = td.from_torch(Net(), torch.randn(own)).to_torch()
        for h in range(own[1], own[1] + 9):
            for w in range(own[2], own[2] + 9):
                x = torch.randn(own[0], h, w)
                try:
                    out = net(x)
                except td.InputError:
                    continue
                assert torch.equal(out, Net()(x))


def test_a_script_that_raises_at_other_sizes_does_so_on_data() -> None:
    """TorchScript's interpreter reads the data that a tensor without any doesn't have, which ended the process."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.exp2(x)
            y = torch.zeros_like(x)
            y[-x.shape[0] // 2 :] = x[-x.shape[0] // 2 :]
            return torch.atan2(y[torch.tensor([-1]), ..., 0], x[:, -2:, -3:-1].abs())

    dag = td.from_torch(torch.jit.script(Net()), (torch.randn(1, 2, 4),))
    with pytest.raises(td.AxisError, match="RuntimeError"):
        dag.resize(x=(1, 3, 4))


@pytest.mark.parametrize(
    ("shape", "parts"),
    [((2,), lambda x: x.unflatten(0, (2, x.shape[0] // 2))), ((2, 5), lambda x: x.view(2, x.shape[0] // 2, 5))],
)
def test_half_of_two_entries_is_not_taken_for_a_new_dimension(shape: tuple[int, ...], parts: Any) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return parts(x)

    dag = td.from_torch(torch.export.export(Net(), (torch.randn(shape),)))
    with pytest.raises(td.AxisError, match="may be meant as a number"):
        dag.resize(x=(4, *shape[1:]))
    assert dag.resize(x=(4, *shape[1:]), source=Net()).graph.outputs["out"].shape == (2, 2, *shape[1:])


def _contrasted(x: torch.Tensor) -> torch.Tensor:
    z = nn.functional.normalize(x.mean(1), dim=-1)
    return nn.functional.cross_entropy(z @ z.T * 10, torch.arange(x.shape[0]))


#: What an export alone can't know of an axis: functions of x, the other shape, and the doubt.
ALONE = {
    "far from the diagonal": (
        lambda x: x @ x.transpose(1, 2) * torch.ones(x.shape[1], x.shape[1]).triu(x.shape[1] // 2),
        (2, 7, 8),
        "diagonal=3",
    ),
    "far in a product": (
        lambda x: (x @ x.transpose(1, 2)).diagonal(x.shape[1] // 2, 1, 2),
        (2, 7, 8),
        "offset=3",
    ),
    "rolled constants": (lambda x: x[:, torch.arange(x.shape[1]).roll(x.shape[1] // 2)], (2, 7, 8), "3"),
    "a count of targets": (_contrasted, (4, 6, 8), "nothing ties them to an axis"),
    "a last index": (
        lambda x: x.gather(1, (x[:, :1] > 0).long() + torch.arange(4)[None, :, None].clamp(max=x.shape[1] - 1)),
        (2, 3, 8),
        "high=5",
    ),
}


def test_parts_of_which_one_is_all_are_doubted() -> None:
    """A third of two entries is none, and the rest all."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.split([x.shape[1] // 3, x.shape[1] - x.shape[1] // 3], 1)[1]

    dag = td.from_torch(torch.export.export(Net(), (torch.randn(2, 2),)))
    with pytest.raises(td.AxisError, match="is split into parts of 0, 2 entries"):
        dag.resize(x=(2, 4))


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = torch.zeros(x.shape[0], 3)
        for i in range(x.shape[1]):
            state = self.cell(x[:, i], state)
        return state, y[torch.tensor([0, y.shape[0] - 1])].frac()


def test_a_formula_is_of_what_resize_gives_of_several_axes() -> None:
    """At another batch of y resize gives the source's network, which computes first states of x for each sample."""
    dag = td.from_torch(_Recurrent(), (torch.randn(1, 2, 2), torch.randn(1, 4)))
    names = [dag.axes().show(v).split("[")[1].split()[0] for v in dag.graph.inputs.values()]
    formula = dag.cost_formula("flops")
    assert formula(**{names[0]: 2}) == dag.resize(x=(2, 2, 2)).graph.total_flops()
    with pytest.raises(td.AxisError, match="aren't known"):
        formula(**dict.fromkeys(names, 2))


@pytest.mark.parametrize("name", ALONE)
def test_numbers_that_constants_are_made_with_are_doubted(name: str) -> None:
    function, shape, doubt = ALONE[name]

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    dag = td.from_torch(torch.export.export(Net(), (torch.randn(2, 6, 8),)))
    with pytest.raises(td.AxisError, match=f"not known(.|\n)*{doubt}"):
        dag.resize(x=shape)


def test_how_many_are_taken_may_be_another_with_other_sizes() -> None:
    """Ops of several results that differ are compared as such: it was an error of Python's."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.kthvalue((x.shape[1] + 1) // 2, 1)[0]

    dag = td.from_torch(Net(), torch.randn(2, 6, 8))
    net = dag.to_torch()
    x = torch.randn(3, 6, 4)
    assert torch.equal(net(x), Net()(x))
    with pytest.raises(td.InputError, match="axis 1 is 8, not 6"):
        net(torch.randn(2, 8, 8))
    x = torch.randn(2, 8, 8)
    assert torch.equal(dag.resize(x=(2, 8, 8)).to_torch()(x), Net()(x))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("axis", [1, 2])
def test_what_lies_in_a_triangle_is_by_all_that_a_row_is_made_of(batch: int, axis: int) -> None:
    """Entries of a product of axes were numbered as if one of these were all of it."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(x.shape[0], -1).triu(1)

    dag = td.from_torch(Net(), torch.randn(batch, 2, 8))
    with pytest.raises(td.AxisError, match=r"takes <iota\(size=16.*which numbers"):
        dag.unbatch(input="x", axis=axis)


#: What is done to one axis by the size of another; nothing is at the example's sizes, as at many others.
BY_ANOTHER: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "up to one less": lambda x: x[:, : x.shape[2] - 1],
    "up to twice": lambda x: x[:, : 2 * x.shape[2]],
    "the lesser": lambda x: x.narrow(1, 0, min(x.shape[1], x.shape[2])),
    "of three": lambda x: x[:, : x.shape[0] + x.shape[2]],
    "the batch": lambda x: x[: x.shape[1]],
    "the last ones": lambda x: x[:, -x.shape[2] :] + 0,
    "the last ones, twice": lambda x: x[:, :, -2 * x.shape[1] :],
    "parts": lambda x: torch.cat(x.split(x.shape[1], 2)[::-1], 2),
    "as many": lambda x: x * 2 if x.shape[1] == x.shape[2] else x * 3,
    "as many as rows": lambda x: x * 2 if x.shape[0] == x.shape[2] else x * 3,
    "a multiple": lambda x: x * 2 if x.shape[1] % x.shape[2] else x * 3,
    "in common": lambda x: x * math.gcd(x.shape[1], x.shape[2]),
    "padded": lambda x: nn.functional.pad(x, (0, 0, 0, max(0, x.shape[1] - x.shape[2]))),
}


@pytest.mark.parametrize("name", BY_ANOTHER)
@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 3, 3), (1, 5, 2)])
def test_a_module_where_one_axis_is_few_beside_another_or_as_many(name: str, shape: tuple[int, int, int]) -> None:
    """It was asked where all axes have many entries or all have few, so that one never ended the other."""
    function = BY_ANOTHER[name]

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    net = td.from_torch(Net(), torch.randn(shape)).to_torch()
    for sizes in product((1, 2, 3, 5, 11), (1, 2, 4, 9), (1, 3, 4, 12)):
        x = torch.randn(sizes)
        try:
            out = net(x)
        except td.InputError:
            continue
        assert torch.equal(out, Net()(x))


def test_a_part_of_an_input_makes_no_room_for_another_axis() -> None:
    """Of 3 x (2 x 2) every second entry is written: with 6 rows the columns, split in two, became half as many."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.reshape(*x.shape[:-1], 2, -1).flatten(-2) * 1
            y.flatten(0, -1)[::2] = 0
            return y

    dag = td.from_torch(Net(), torch.randn(3, 4))
    (rows,) = [n for n, size in dag.axes().sizes.items() if size == 3]
    for n in (4, 6):
        counted = dag.resize(x=(n, 4)).graph.total_flops()
        with suppress(td.AxisError):
            assert dag.cost_formula("flops")(**{rows: n}) == counted


#: What is done to a flattened matrix of one row, and whether the export alone tells what that is with more rows.
OF_ONE_ROW: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], bool]] = {
    "written": (lambda x: _written(x * 2).view(x.shape), True),
    "rolled": (lambda x: torch.cat([x.flatten()[1:], x.flatten()[:1]]).view(x.shape), True),
    "one more and less": (lambda x: torch.cat([x.flatten(), x.flatten()[:1]])[:-1].view(x.shape), True),
    "one more for each row": (lambda x: torch.cat([x.flatten(), x[:, 0]]).view(x.shape[0], x.shape[1] + 1), False),
}


def _written(x: torch.Tensor) -> torch.Tensor:
    x.view(-1)[1:] = 0
    return x


@pytest.mark.parametrize("name", OF_ONE_ROW)
def test_the_rows_of_a_matrix_that_was_flattened_are_where_they_were(name: str) -> None:
    """They were behind the 1 that a view gave them, ``1 14`` for ``2 7``."""
    function, told = OF_ONE_ROW[name]

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    dag = td.from_torch(torch.export.export(Net(), (torch.randn(1, 7),)))
    if not told:
        with pytest.raises(td.AxisError, match=r"not known(.|\n)*of 1 entry is a factor of what"):
            dag.resize(x=(2, 7))
        return
    x = torch.randn(2, 7)
    assert torch.equal(dag.resize(x=(2, 7)).to_torch()(x), Net()(x))


def test_as_many_of_the_largest_as_there_are() -> None:
    """``k`` is no more than there are: the op took what it got, so that the graph was the source's in its results."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.topk(min(3, x.shape[0]), 0)

    dag = td.from_torch(Net(), torch.randn(3, 4))
    for rows in (1, 2, 5):
        x = torch.randn(rows, 4)
        values, places = dag.resize(x=(rows, 4)).to_torch(fixed=True)(x)
        assert torch.equal(values, Net()(x)[0])
        assert torch.equal(places, Net()(x)[1])
    with pytest.raises(td.AxisError, match=r"topk\(k=3, axis=0\).* can't follow: on f32\[2 4\]"):
        td.from_torch(Net(), torch.randn(3, 4), sizes="alone").resize(x=(2, 4), assume=True)


#: What takes so many entries of an axis that a file doesn't say whether another size has as many.
TAKING: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], tuple[int, ...]]] = {
    "a third": (lambda x: x.topk(x.shape[1] // 3, 1)[0], (2, 9, 3)),
    "a part of both": (lambda x: torch.hstack([x, x]).topk(2 * x.shape[1] // 3, 1)[0], (2, 6, 3)),
    "a quantile": (lambda x: x.kthvalue(3 * x.shape[1] // 4, 1)[0], (2, 12, 3)),
    "unpooled": (
        lambda x: _raised(nn.functional.max_unpool1d(*nn.functional.max_pool1d(x, 2, return_indices=True), 2)),
        (1, 4, 2),
    ),
}


def _raised(x: torch.Tensor) -> torch.Tensor:
    x.flatten()[::2] += 1
    return x


@pytest.mark.parametrize("name", TAKING)
def test_how_many_are_taken_is_not_known_of_a_file(name: str) -> None:
    function, shape = TAKING[name]

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    larger = (shape[0], 2 * shape[1], shape[2])
    dag = td.from_torch(torch.export.export(Net(), (torch.randn(shape),)))
    with pytest.raises(td.AxisError, match=r"not known(.|\n)*(takes k=|is unpooled to)"):
        dag.resize({"x": larger})
    x = torch.randn(larger)
    assert torch.equal(dag.resize({"x": larger}, source=Net()).to_torch()(x), Net()(x))


def test_pools_of_no_channels() -> None:
    """torch pools no channels where there is no batch, and refuses a batch of none."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x[: x.shape[0] // 2 * 2 : 2] + x[1::2]
            return nn.functional.adaptive_max_pool2d(y, (None, 2)) + nn.functional.adaptive_avg_pool2d(y, (None, 2))

    dag = td.from_torch(Net(), torch.randn(4, 3, 5))
    for rows in (1, 2, 6):
        x = torch.randn(rows, 3, 5)
        torch.testing.assert_close(dag.resize(x=(rows, 3, 5)).to_torch(fixed=True)(x), Net()(x))


#: What a source does otherwise with few entries, and so costs: a slice takes what there is, an `if`, products as sums.
OF_FEW: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "slice": lambda x: x[:2] * 3,
    "slice in the middle": lambda x: x[1:3] - x[1:3].mean(),
    "branch": lambda x: x[..., :1] if x.shape[0] > 4 else x + 1,
    "einsum": lambda x: torch.einsum("ik,jk->ij", x, x),
}


@pytest.mark.parametrize("name", OF_FEW)
def test_a_formula_of_few_entries_is_what_resize_gives(name: str) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return OF_FEW[name](x)

    dag = td.from_torch(Net(), torch.randn(6, 3))
    formula = dag.cost_formula("flops")
    for rows, columns in product((1, 2, 4, 7, 12), (1, 2, 3, 5)):
        graph = dag.resize(x=(rows, columns)).graph
        names = dag.axes().show(dag.graph.inputs["x"]).split("[")[1].rstrip("]").split()
        given = {n: k for n, k in zip(names, (rows, columns), strict=True) if n in formula.names}
        if len(given) == 2 or columns == 3:
            assert formula(**given) == graph.total_flops()
            assert dag.cost_formula("reads")(**given) == graph.total_memory_reads()


@pytest.mark.parametrize("every", [2, 3, 5, 8])
def test_what_few_entries_hide_is_not_in_a_formula(every: int) -> None:
    """Every second of 1, 2 and of no more entries is one; the source is asked where there are more than a few."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.embedding(torch.arange(0, x.shape[0], every), x)

    dag = td.from_torch(Net(), torch.randn(1, 3))
    for rows in (2, 3, 5, 9, 16):
        _formula_is_what_is_counted(dag, (rows, 3))


def test_a_formula_of_two_axes_of_one_entry_that_are_added() -> None:
    """Each alone is spread over the other; both together are one axis."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.MultiheadAttention(2, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            z = self.mix(x, x, x, need_weights=False)[0] + y
            return z.clamp(-1, 1).cumprod(-3) + y

    dag = td.from_torch(
        Net(), (torch.randn(1, 3, 2), torch.randn(1, 3, 2)), axes={"x": "a n d", "y": "b n d"}, via="trace"
    )
    formula = dag.cost_formula("flops")
    assert {"a", "b"}.issubset(formula.names)
    for n in (2, 5):
        counted = dag.resize({"x": (n, 3, 2), "y": (n, 3, 2)}).graph.total_flops()
        assert formula(a=n, b=n) == counted


def test_a_formula_of_fewer_entries_than_a_slice_takes_is_refused_without_a_source() -> None:
    dag = td.from_torch(torch.export.export(_Firsts(), (torch.randn(8, 5),)), axes={"x": "r c"})
    formula = dag.cost_formula("flops", assume=True)
    assert formula(r=3) == dag.resize(x=(3, 5), assume=True).graph.total_flops()
    with pytest.raises(td.AxisError, match="takes 3 entries from 0, but there are 2"):
        formula(r=2)


class _Firsts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:3] * 3


def test_a_copy_that_nobody_reads_may_be_a_view_of_one_entry() -> None:
    """What is written to it is in no graph, but where it shares memory with the result."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.sin()
            x.transpose(0, 1).flatten(0, 1).relu_()
            return x

    dag = td.from_torch(torch.export.export(Net(), (torch.randn(2, 4, 3),)))
    with pytest.raises(td.AxisError, match="is copied here, and shares memory where it has 1 entry"):
        dag.resize(x=(1, 4, 3))
    x = torch.randn(1, 4, 3)
    with pytest.raises(td.InputError, match="b: the network may be another where it has 1 entry"):
        dag.to_torch()(x)
    assert torch.equal(dag.resize({"x": (1, 4, 3)}, source=Net()).to_torch()(x), Net()(x))
    assert torch.equal(dag.to_torch()(x.expand(5, 4, 3)), Net()(x.expand(5, 4, 3)))


def test_a_reshape_that_fits_at_some_sizes_alone_fixes_them() -> None:
    """So many windows as there are entries here: it was an IndexError."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3)
            return nn.functional.unfold(x, 2, stride=2).reshape(-1, 2)

    x = torch.randn(1, 6, 4, 4)
    net = td.from_torch(Net(), x).to_torch()
    torch.testing.assert_close(net(x), Net()(x))
    for shape in ((2, 6, 4, 4), (1, 6, 7, 4), (1, 6, 10, 10)):
        x = torch.randn(shape)
        with suppress(td.InputError):
            torch.testing.assert_close(net(x), Net()(x))


class _NumbersInARow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return flat + torch.tensor([float(3 * i) for i in range(flat.shape[1])])


@pytest.mark.parametrize("axis", [1, 2])
def test_numbers_that_count_on_along_merged_axes_are_those_of_no_single_one(axis: int) -> None:
    dag = td.from_torch(_NumbersInARow(), torch.randn(2, 4, 3))
    with pytest.raises(td.AxisError, match="differs along dimension 0, of which a part is to go"):
        dag.unbatch(input="x", axis=axis)


class _MergedAndNew(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(0, 1)[None] * 0.5


def test_a_new_dimension_is_none_of_one_entry_that_was_merged() -> None:
    x = torch.randn(1, 2, 3)
    alone = td.from_torch(torch.export.export(_MergedAndNew(), (x,)))
    with pytest.raises(td.AxisError, match="is a new dimension"):
        alone.resize({"x": (2, 2, 3)})
    resized = td.from_torch(_MergedAndNew(), x).resize({"x": (2, 2, 3)})
    assert resized.graph.outputs["out"].shape == (1, 4, 3)


class _Sizes(nn.Module):
    """What it reads a size of is no part of its result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        last = x[:, -2:]
        return x * 0.5 if x.size(0) == last.size(-1) + 2 else x + 1


def test_what_is_read_of_a_slice_is_less_where_there_is_less() -> None:
    module = td.from_torch(_Sizes(), torch.randn(3, 3)).to_torch()
    for shape in ((3, 3), (3, 5), (6, 2), (1, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(module(x), _Sizes()(x))
    for shape in ((4, 3), (3, 1)):
        with pytest.raises(td.InputError, match="the source does something else"):
            module(torch.randn(shape))


class _FirstChunks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x[:, 1:].chunk(3, 1)[:2]
        return first.sum() + second.sum() + x


def test_chunks_of_no_entries_are_as_many_as_asked_for() -> None:
    resized = td.from_torch(_FirstChunks(), torch.randn(2, 7)).resize({"x": (2, 1)})
    x = torch.randn(2, 1)
    torch.testing.assert_close(resized.to_torch()(x), _FirstChunks()(x))


class _TurnedSquares(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(-1, -3).reshape(x.shape)


def test_a_shape_that_moves_the_axis_of_one_entry_leaves_it_open() -> None:
    x = torch.randn(1, 4, 4)
    with pytest.raises(td.AxisError, match="is given the shape 1 x 4 x 4"):
        td.from_torch(torch.export.export(_TurnedSquares(), (x,))).resize({"x": (2, 4, 4)})
    resized = td.from_torch(_TurnedSquares(), x).resize({"x": (2, 4, 4)})
    more = torch.randn(2, 4, 4)
    torch.testing.assert_close(resized.to_torch(fixed=True)(more), _TurnedSquares()(more))


class _UpToAnother(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[None, : x.shape[1] - 1] * 0.5


def test_a_slice_that_is_left_out_may_be_up_to_another_size() -> None:
    """Of 2 x 7 all rows are taken, and torch leaves no slice; of 2 x 2 it is one."""
    x = torch.randn(2, 7)
    with pytest.raises(td.AxisError, match="leaves out a slice"):
        td.from_torch(torch.export.export(_UpToAnother(), (x,))).resize({"x": (2, 2)})
    less = torch.randn(2, 2)
    resized = td.from_torch(_UpToAnother(), x).resize({"x": (2, 2)})
    torch.testing.assert_close(resized.to_torch(fixed=True)(less), _UpToAnother()(less))


class _Grid(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        theta = torch.eye(2, 3)[None].expand(x.shape[0], -1, -1)
        grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
        return nn.functional.grid_sample(x, grid, align_corners=False)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 1, 4), (2, 1, 3, 4)])
def test_a_decomposition_that_makes_numbers_of_its_own(shape: tuple[int, ...]) -> None:
    """Of one row torch makes a tensor for its place, which has no data where it is traced without."""
    x = torch.randn(shape)
    dag = td.from_torch(torch.export.export(_Grid(), (x,)))
    torch.testing.assert_close(dag.to_torch(fixed=True)(x), _Grid()(x))
