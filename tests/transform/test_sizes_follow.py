"""Size-generic functions at other sizes, by the algebra alone: as eager torch has it, or not known, never another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tdagger as td
from tdagger.analysis.axes.doubts import doubts
from tdagger.errors import AxisError
from tdagger.graph import replayed
from tdagger.transform.axes.resize import resize
from tdagger.transform.networks import term_of

Function = Callable[..., Any]


class Calls(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def table(index: Any, rows: int = 7) -> Any:
    """Some table to look up in."""
    return F.embedding(index, torch.arange(rows * 3.0).view(rows, 3).sin())


def windows(x: Any) -> Any:
    b, _, c = x.shape
    w = x.reshape(b, -1, 2, c)
    return (w.softmax(2) * w).reshape(b, -1, c)


def unpool(x: Any) -> Any:
    y, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(y * 2, places, 2)


def written(x: Any) -> Any:
    y = x.clone()
    y[:, 1:-1] = 0.5
    y[:, -1] += 1
    return y


#: Of one tensor, [b n c]. Every one of these follows every axis, at the sizes of FREE, wherever eager can.
FOLLOWS: dict[str, Function] = {
    "both ends": lambda x: x[:, 1:-1].mean(1),
    "all but three": lambda x: x[:, :-3],
    "last two": lambda x: x[:, -2:],
    "between from the end": lambda x: x[:, -3:-1],
    "every other": lambda x: x[:, ::2],
    "every other from one": lambda x: x[:, 1::2],
    "every third to the end but one": lambda x: x[:, :-1:3],
    "all but the first": lambda x: x[:, 1:],
    "reversed": lambda x: x.flip(1),
    "reversed twice": lambda x: x.flip(1, 2) * x,
    "last": lambda x: x[:, -1] + x[:, 0],
    "last but one": lambda x: x.select(1, -2),
    "narrow from the end": lambda x: x.narrow(1, -3, 2),
    "differences": lambda x: x[:, 1:] - x[:, :-1],
    "diff": lambda x: torch.diff(x, dim=1),
    "shifted": lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1),
    "first of two chunks": lambda x: x.chunk(2, 1)[0],
    "glu by hand": lambda x: x.chunk(2, 1)[1].sigmoid(),
    "parts of three": lambda x: [p * 2 for p in x.tensor_split(3, 1)],
    "crop": lambda x: F.pad(x, (0, 0, -1, -1)),
    "crop and pad": lambda x: F.pad(x, (0, 0, -1, 2)),
    "written": written,
    "roll": lambda x: x.roll(2, 1),
    "roll by what it has": lambda x: x.roll(6, 1),
    "roll back": lambda x: x.roll(-1, 1),
    "cumsum": lambda x: x.cumsum(1)[:, -1:],
    "mean": lambda x: x.mean(1),
    "variance": lambda x: x.var(1),
    "deviation": lambda x: x.std(1, correction=0),
    "nanmean": lambda x: x.nanmean(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "softmax": lambda x: x.softmax(1),
    "cosine": lambda x: F.cosine_similarity(x, x + 1, dim=1),
    "mean loss": lambda x: F.mse_loss(x, x * 2),
    "smooth loss": lambda x: F.smooth_l1_loss(x, x * 2),
    "negative log likelihood": lambda x: F.cross_entropy(x.flatten(0, 1), x.flatten(0, 1).argmax(1)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "layer norm": lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
    "ones like": lambda x: x.sum(0) / torch.ones_like(x).sum(0),
    "count by hand": lambda x: x.sum(1) / torch.full_like(x, 2.0).sum(1),
    "zeros like, written": lambda x: torch.zeros_like(x).index_add(1, torch.tensor([0]), x[:, :1]),
    "rfft": lambda x: torch.fft.rfft(x, dim=1).abs(),
    "ifft": lambda x: torch.fft.ifft(torch.fft.fft(x, dim=1), dim=1).real,
    "fft ortho": lambda x: torch.fft.fft(x, dim=1, norm="ortho").abs(),
    "fft forward": lambda x: torch.fft.fft(x, dim=1, norm="forward").abs(),
    "fft2": lambda x: torch.fft.fft2(x, norm="ortho").abs(),
    "fftshift": lambda x: torch.fft.fftshift(x, 1),
    "ifftshift": lambda x: torch.fft.ifftshift(x, 1),
    "median": lambda x: x.median(1)[0],
    "median of all": lambda x: x.median(),
    "nanmedian": lambda x: x.nanmedian(1)[0],
    "quantile": lambda x: x.quantile(0.3, 1),
    "sorted": lambda x: x.sort(1)[0],
    "argsort": lambda x: x.argsort(1),
    "mode": lambda x: x.round().mode(1)[0],
    "kthvalue": lambda x: x.kthvalue(2, 1)[0],
    "topk": lambda x: x.topk(2, 1)[0],
    "argmax": lambda x: x.argmax(1),
    "argmax of all": lambda x: x.argmax(),
    "any": lambda x: (x > 0).any(1),
    "embedding": lambda x: table((x * 3).abs().long() % 7),
    "bags": lambda x: F.embedding_bag(
        (x[:, :, 0] * 3).abs().long() % 7, torch.arange(21.0).view(7, 3).sin(), mode="mean"
    ),
    "flatten": lambda x: x.flatten(1),
    "flatten and back": lambda x: x.flatten(1).unflatten(1, (-1, x.shape[2])),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1),
    "diagonal": lambda x: x.diagonal(0, 1, 2),
    "outer": lambda x: x[:, :, None] * x[:, None],
    "matmul": lambda x: x @ x.mT,
    "distances": lambda x: torch.cdist(x, x),
    "repeat": lambda x: x.repeat(1, 2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "stacked": lambda x: torch.stack([x, x * 2], 1).flatten(0, 1),
    "windows": lambda x: x.unfold(1, 2, 1).mean(-1),
    "avg_pool": lambda x: F.avg_pool1d(x.mT, 2, 1, 1),
    "max_pool": lambda x: F.max_pool1d(x.mT, 2, 2),
    "pool to one": lambda x: F.adaptive_avg_pool1d(x.mT, 1),
    "pad": lambda x: F.pad(x, (0, 0, 1, 2)),
    "reflect": lambda x: F.pad(x.mT, (1, 2), mode="reflect"),
    "replicate": lambda x: F.pad(x.mT, (1, 2), mode="replicate"),
    "circular": lambda x: F.pad(x.mT, (1, 2), mode="circular"),
    "nearest by two": lambda x: F.interpolate(x.mT, scale_factor=2.0, mode="nearest"),
    "linear by two": lambda x: F.interpolate(x.mT, scale_factor=2.0, mode="linear"),
    "bicubic by two": lambda x: F.interpolate(x[:, None], scale_factor=2.0, mode="bicubic"),
    "bilinear, corners": lambda x: F.interpolate(x[:, None], scale_factor=2.0, mode="bilinear", align_corners=True),
    "smooth": lambda x: F.interpolate(x[:, None], scale_factor=0.5, mode="bilinear", antialias=True),
    "masked": lambda x: x.masked_fill(x > 0, 0.0),
    "gather": lambda x: x.gather(1, x.argsort(1)),
    "running maximum": lambda x: x.cummax(1)[0],
    "positions": lambda x: x * torch.arange(x.shape[1])[:, None],
    "normalised": lambda x: F.normalize(x, dim=1),
    "group norm": lambda x: F.group_norm(x, 1),
    "instance norm": lambda x: F.instance_norm(x),
    "linear cross": lambda x: torch.einsum("bnc,bmc->bnm", x, x),
    "pixel shuffle": lambda x: F.pixel_shuffle(x[:, None].repeat(1, 4, 1, 1), 2),
    "unfold and fold": lambda x: F.unfold(x[:, None], 2),
}

#: These follow some axes at some sizes, and are refused or not known at others.
PARTLY: dict[str, Function] = {
    "first three": lambda x: x[:, :3],
    "half by hand": lambda x: x[:, : x.shape[1] // 2],
    "other half by hand": lambda x: x[:, x.shape[1] // 2 :],
    "all but one by hand": lambda x: x[:, : x.shape[1] - 1],
    "entry three": lambda x: x[:, 3],
    "the last by hand": lambda x: x[:, x.shape[1] - 1],
    "halves swapped by hand": lambda x: torch.cat([x[:, x.shape[1] // 2 :], x[:, : x.shape[1] // 2]], 1),
    "last of three chunks": lambda x: x.chunk(3, 1)[2],
    "split": lambda x: x.split(2, 1)[-1],
    "loop over parts": lambda x: torch.cat([c.softmax(0) for c in x.split(2, 1)], 1),
    "loop over entries": lambda x: sum(p * i for i, p in enumerate(x.unbind(1))),
    "split by sizes": lambda x: x.split([1, x.shape[1] - 1], 1)[1],
    "cut at": lambda x: x.tensor_split((2, 4), 1)[1],
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), dim=1),
    "pdist": lambda x: F.pdist(x[0]),
    "unpool": lambda x: unpool(x[:, None]),
    "squeeze": lambda x: x.squeeze(0) * 2,
    "squeeze all": lambda x: x.squeeze() * 2,
    "pool to three": lambda x: F.adaptive_avg_pool1d(x.mT, 3),
    "max pool to two, None": lambda x: F.adaptive_max_pool2d(x[:, None], (2, None)),
    "avg pool to two, None": lambda x: F.adaptive_avg_pool2d(x[:, None], (2, None)),
    "area": lambda x: F.interpolate(x.mT, scale_factor=0.5, mode="area"),
    "to its size": lambda x: F.interpolate(x.mT[..., ::2], size=x.shape[1]),
    "to a size": lambda x: F.interpolate(x.mT, size=12),
    "nearest by a fraction": lambda x: F.interpolate(x.mT, scale_factor=0.7),
    "linspace": lambda x: x * torch.linspace(0, 1, x.shape[1])[:, None],
    "linspace of c": lambda x: x * torch.linspace(-1, 1, x.shape[2]),
    "logspace": lambda x: x * torch.logspace(0, 1, x.shape[1])[:, None],
    "reversed positions": lambda x: x * torch.arange(x.shape[1] - 1, -1, -1)[:, None],
    "fractions of the size": lambda x: x * (torch.arange(x.shape[1])[:, None] / x.shape[1]),
    "scaled by the size": lambda x: x / x.shape[1],
    "eye": lambda x: x @ torch.eye(x.shape[2]),
    "identity of n": lambda x: torch.eye(x.shape[1]) @ x,
    "causal by hand": lambda x: (x @ x.mT).masked_fill(torch.ones(x.shape[1], x.shape[1]).tril() == 0, -9.0),
    "pairs": lambda x: x[:, torch.tril_indices(x.shape[1], x.shape[1], -1)[0]],
    "zeros, filled": lambda x: torch.zeros(x.shape[1], x.shape[2]).index_add(0, torch.tensor([0, 1]), x[0, :2]),
    "new zeros, filled": lambda x: x.new_zeros(x.shape[1]).index_add(0, torch.tensor([0, 1]), x[0, :2, 0]),
    "positions given out": lambda x: (x, torch.arange(x.shape[1])),
    "zeros given out": lambda x: (x, torch.zeros(x.shape[0], x.shape[1])),
    "expanded": lambda x: x[:1].expand(x.shape[0], -1, -1),
    "one hot": lambda x: F.one_hot((x * 3).abs().long() % 6, 6),
    "vander": lambda x: torch.vander(x[0, :, 0]),
    "meshgrid": lambda x: torch.meshgrid(x[0, :, 0], x[0, 0], indexing="ij")[0],
    "mesh of positions": lambda x: (
        torch.meshgrid(torch.arange(x.shape[1]), torch.arange(x.shape[2]), indexing="ij")[0] * x
    ),
    "products": lambda x: torch.cartesian_prod(x[0, :, 0], x[0, 0]),
    "buckets": lambda x: torch.bucketize(x, torch.linspace(-1, 1, 6)),
    "windows by view": windows,
    "windows by number": lambda x: x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2]).softmax(2).flatten(1, 2),
    "heads": lambda x: x.view(x.shape[0], -1, 2, x.shape[2]).transpose(1, 2),
    "two by hand": lambda x: x.view(x.shape[0], 2, -1, x.shape[2]).softmax(1),
    "transposed by view": lambda x: x.view(x.shape[0], 2, -1).mT.reshape(x.shape[0], -1, x.shape[2]),
    "affine grid": lambda x: F.grid_sample(
        x[:, None], F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), x[:, None].shape, False), align_corners=False
    ),
    "fold": lambda x: F.fold(F.unfold(x[:, None], 2), x.shape[1:], 2),
    "as strided": lambda x: x.as_strided((2, 2), (1, 2)),
    "cls and patches": lambda x: torch.cat([x[:, :1] * 0, x], 1)[:, 1:] + x,
    "repeat to its size": lambda x: x[:, :1].repeat(1, x.shape[1], 1),
    "permuted rows": lambda x: x.view(2, -1, x.shape[1], x.shape[2]).transpose(0, 1).reshape(x.shape) * 2,
    "relative positions": lambda x: (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])) * (x @ x.mT),
    "mean by hand": lambda x: torch.cumsum(x, 1)[:, -1] / x.shape[1],
    "stft": lambda x: torch.stft(x.flatten(1), 4, 2, window=torch.ones(4), return_complex=True).abs(),
}  # fmt: skip

FREE = (17, 10, 26)
#: Sizes that are equal, one, or as large as what the functions take.
COINCIDENCES = ((6, 6, 6), (1, 8, 2))
#: What no look at the program tells from another: numbers worked out of sizes of 1 and 2, and pads of 0.
#: Only the source does, asked again.
NEEDS_THE_SOURCE = {
    "smooth",  # torch's own, of two columns, mixes the rows
    "first three", "half by hand", "all but one by hand", "area", "fractions of the size", "scaled by the size",
    "zeros given out", "expanded", "windows by number", "transposed by view", "mean by hand", "stft", "fold",
    "vander", "as strided",
}  # fmt: skip


def outcomes(function: Function, shape: tuple[int, ...]) -> dict[tuple[int, ...], str]:
    """What comes of each axis at one more and twice as many entries: right, refused, not known, or what is wrong."""
    torch.manual_seed(0)
    model = Calls(function)
    program = torch.export.export(model, (torch.randn(shape),))
    dag = td.from_torch(program)
    (name,) = dag.graph.inputs
    found: dict[tuple[int, ...], str] = {}
    for axis, n in enumerate(shape):
        for m in (n + 1, 2 * n):
            new = (*shape[:axis], m, *shape[axis + 1 :])
            x = torch.randn(new)
            try:
                expected = model(x)
            except Exception:
                continue
            found[new] = _outcome(dag, name, x, expected)
    return found


def _outcome(dag: td.TensorDAG, name: str, x: Any, expected: Any) -> str:
    named = dag.axes()
    wanted = {(term_of(named, None, name, i), n) for i, n in enumerate(x.shape)}
    if len(dict(wanted)) < len(wanted):
        return "refused: one axis can't have two sizes"
    try:
        change = resize(named.axes, dict(wanted))
        graph = change.run()
    except AxisError as e:
        return f"refused: {e}"
    assert change.sizes is not None
    if guesses := list(doubts(named.axes, change.sizes)):
        return f"not known: {guesses[0].what}"
    try:
        got = dag.with_graph(graph).run(x.numpy())
    except Exception as e:
        return f"wrong: {type(e).__name__}: {e}"
    wanted = expected if isinstance(expected, tuple | list) else (expected,)
    have = got if isinstance(got, tuple | list) else (got,)
    for g, w in zip(have, wanted, strict=True):
        if g.shape != tuple(w.shape):
            return f"wrong: {g.shape} for {tuple(w.shape)}"
        if not np.allclose(g, w.numpy(), 1e-4, 1e-5, equal_nan=True):
            return "wrong: other values"
    return "right"


@pytest.mark.parametrize("name", FOLLOWS)
def test_follows(name: str) -> None:
    found = outcomes(FOLLOWS[name], FREE)
    assert found
    assert set(found.values()) == {"right"}, found


#: Those of which `test_follows` doesn't say more; of sizes that coincide in turn every fifth, the rest in the slow run.
OTHERS = [
    *[pytest.param(name, FREE, id=f"{name}-{FREE}") for name in PARTLY],
    *[
        pytest.param(name, shape, id=f"{name}-{shape}", marks=() if (i + j) % 5 == 0 else pytest.mark.slow)
        for i, name in enumerate({**FOLLOWS, **PARTLY})
        for j, shape in enumerate(COINCIDENCES)
    ],
]


@pytest.mark.parametrize(("name", "shape"), OTHERS)
def test_never_another(name: str, shape: tuple[int, ...]) -> None:
    if name in NEEDS_THE_SOURCE and shape != FREE:
        pytest.skip("needs the source")
    try:
        found = outcomes({**FOLLOWS, **PARTLY}[name], shape)
    except (RuntimeError, IndexError, ValueError):
        pytest.skip("eager has no such size")
    assert not [f"{new}: {what}" for new, what in found.items() if what.startswith("wrong")]


def imported(function: Function, *args: Any) -> td.TensorDAG:
    return td.from_torch(torch.export.export(Calls(function), args))


def test_squeeze_of_an_axis_that_grows_is_another_op() -> None:
    dag = imported(lambda x: x.squeeze(0) * 7, torch.randn(1, 5))
    with pytest.raises(AxisError, match="drops b of 1 entry by squeeze, which keeps it with 2"):
        dag.resize({"args_0": (2, 5)})
    assert dag.resize({"args_0": (1, 7)}).graph.outputs["out"].shape == (7,)


def test_a_loop_over_parts_has_as_many() -> None:
    dag = imported(lambda x: torch.cat([p.softmax(0) for p in x.split(2)]), torch.randn(6, 4))
    with pytest.raises(AxisError, match=r"split\(2\) of 12 entries gives 6 parts, but the network takes 3"):
        dag.resize({"args_0": (12, 4)})


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(2, 3, 5).transpose(0, 1).reshape(6, 5) * 2,
        lambda x: x.view(3, 2, 5).transpose(0, 1).reshape(6, 5),
        lambda x: x.view(2, 3, 5).transpose(0, 1) + 1,
    ],
)
def test_rows_in_another_order_are_not_carried(function: Function) -> None:
    dag = imported(function, torch.randn(6, 5))
    with pytest.raises(AxisError, match="gives in another order the entries of"):
        dag.unbatch(input="args_0", axis=0)


def test_rows_put_back_in_order_are_carried() -> None:
    x = torch.randn(6, 5)
    dag = imported(lambda x: (x.view(2, 3, 5).transpose(0, 1) * 2).transpose(0, 1).reshape(6, 5), x)
    out = dag.unbatch(input="args_0", axis=0).run(x[0].numpy())
    np.testing.assert_array_equal(out, (x[0] * 2).numpy())


def test_unpooling_is_each_sample_for_itself() -> None:
    x = torch.randn(2, 3, 8, 8)
    out = imported(unpool, x).unbatch(input="args_0", axis=0).run(x[1].numpy())
    np.testing.assert_array_equal(out, unpool(x)[1].numpy())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_two_batches_as_one_and_apart_again(size: int) -> None:
    def both(a: Any, b: Any) -> Any:
        p, q = torch.chunk(torch.cat([a, b]).tanh(), 2)
        return p * q

    dag = imported(both, torch.rand(size, 3), torch.rand(size, 3))
    a, b = torch.rand(3, 3), torch.rand(3, 3)
    out = dag.resize(b=3).run(a.numpy(), b.numpy())
    np.testing.assert_allclose(out, both(a, b).numpy(), rtol=1e-6)
    with pytest.raises(AxisError, match="concatenates b"):
        dag.unbatch("b")


def test_formulas_follow_a_factor_as_resize_does() -> None:
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8)
    dag = imported(lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), q, k)
    for sizes in ({"n": 8}, {"n2": 4}):
        graph = dag.resize(**sizes, assume=True).graph
        assert dag.cost_formula("flops", assume=True)(**sizes) == graph.total_flops()
        assert dag.cost_formula("reads", assume=True)(**sizes) == graph.total_memory_reads()


@pytest.mark.parametrize(
    "name",
    [
        "both ends", "last two", "reversed", "glu by hand", "parts of three", "last", "every other", "split", "squeeze",
        "heads", "linspace", "fftshift", "ifftshift", "median", "quantile", "pdist",
    ],
)  # fmt: skip
def test_what_follows_goes_there_and_back(name: str) -> None:
    dag = imported({**FOLLOWS, **PARTLY}[name], torch.randn(1 if name == "squeeze" else 3, 6, 4))
    again = td.from_torch(dag.to_torch(), torch.randn(dag.graph.inputs["args_0"].shape))
    renamed = replayed(dag.graph, {v: again.graph.inputs[n] for n, v in dag.graph.inputs.items()})
    assert list(again.graph.outputs.values()) == [renamed[v] for v in dag.graph.outputs.values()]
