"""Core ATen: every overload torch tags ``core`` imports and computes what torch computes, or says why it can't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tdagger as td
from conformance.coverage import core_overloads, coverage
from conformance.ops import Of, check
from tdagger.frameworks.torch.aten import RULES
from tdagger.frameworks.torch.aten.reasons import reason_of

B = True, False


def t(*shape: int, low: float = 0.1, high: float = 0.9) -> torch.Tensor:
    """Numbers that every function of real numbers takes, the same for the same arguments."""
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.rand(shape, generator=generator) * (high - low) + low


def i(*shape: int, below: int = 3) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(sum(shape)))


def b(*shape: int) -> torch.Tensor:
    return i(*shape, below=2).bool()


X, Y, M = t(2, 3, 4), t(2, 3, 4, low=-2.0), t(3, 4)
IMAGE, VOLUME, KERNEL = t(2, 4, 6, 7), t(1, 2, 4, 5, 6), t(6, 2, 3, 2)
POOLED, PLACES = torch.ops.aten.max_pool2d_with_indices.default(IMAGE, [2, 3], [2, 2], [1, 1])
NORMED = torch.ops.aten.native_group_norm.default(IMAGE, t(4), t(4), 2, 4, 42, 2, 1e-5)
LAYERED = torch.ops.aten.native_layer_norm.default(X, [4], t(4), t(4), 1e-5)
SPECTRUM = torch.fft.rfft(X)
LINE = torch.arange(2)

#: Overload to the arguments of its calls (the last may be a dict of keywords). What isn't here takes X, Y or X, 2.
CALLS: dict[str, list[tuple[Any, ...]]] = {
    "_adaptive_avg_pool2d.default": [(IMAGE, [3, 2]), (IMAGE[0], [3, 7])],
    "_adaptive_avg_pool2d_backward.default": [(t(2, 4, 3, 2), IMAGE), (t(4, 3, 7), IMAGE[0])],
    "_adaptive_avg_pool3d.default": [(VOLUME, [2, 2, 3])],
    "_cdist_forward.default": [(X, t(2, 5, 4), p, None) for p in (0.0, 1.0, 2.0, 3.0, float("inf"))],
    "_embedding_bag.default": [
        (M, i(7), torch.tensor([0, 2, 2, 5]), False, mode, False, None, *rest)
        for mode in (0, 1) for rest in [(), (True,), (False, 1)]
    ],
    "_fft_c2r.default": [(SPECTRUM, [2], 0, 4), (SPECTRUM, [0, 1, 2], 2, 5), (SPECTRUM, [1, 2], 1, 3)],
    "_fft_r2c.default": [(X, [2], 0, True), (X, [0, 2], 1, False), (X, [1], 2, True)],
    "_log_softmax.default": [(Y, 1, False)],
    "_softmax.default": [(Y, -1, False)],
    "_native_batch_norm_legit.default": [(IMAGE, t(4), t(4), t(4), t(4), train, 0.1, 1e-5) for train in B],
    "_native_batch_norm_legit.no_stats": [(IMAGE, t(4), t(4), True, 0.1, 1e-5)],
    "_native_batch_norm_legit_no_training.default": [(IMAGE, t(4), None, t(4), t(4), 0.1, 1e-5)],
    "_pdist_forward.default": [(M, 2.0), (M, 1.0), (M[:1], 2.0)],
    "_to_copy.default": [(X, {"dtype": torch.float64}), (X,)],
    "adaptive_avg_pool1d.default": [(X, [2]), (M, [3])],
    "addmm.default": [(t(5), M, t(4, 5), {"beta": 0.5, "alpha": 2})],
    "amax.default": [(Y,), (Y, [0, 2], True)],
    "amin.default": [(Y,), (Y, [1])],
    "any.default": [(b(3, 4),)],
    "any.dim": [(b(3, 4), 1, True)],
    "any.dims": [(b(3, 4), [0, 1])],
    "arange.start_step": [(1, 10, 3), (0.5, 2, 0.5)],
    "argmax.default": [(Y,), (Y, 1, True)],
    "argmin.default": [(Y,), (Y, -1)],
    "as_strided.default": [(X, [2, 2], [3, 5], 4), (X, [3, 3], [1, 1])],
    "atan2.out": [(X, Y, {"out": "a new tensor"})],
    "avg_pool1d.default": [(X, [2], [1], [1], True, False)],
    "avg_pool2d.default": [(IMAGE, [3, 2], [2, 2], [1, 1], True, False, None), (IMAGE, [2, 2], [], 0, False, True, 3)],
    "avg_pool2d_backward.default": [(t(2, 4, 3, 3), IMAGE, [2, 2], [2, 2], [0, 0], False, True, None),
                                    (t(2, 4, 4, 4), IMAGE, [3, 2], [2, 2], [1, 1], True, False, None)],
    "avg_pool3d.default": [(VOLUME, [2, 2, 2])],
    **{f"bitwise_{op}.{kind}": [(i(3, 4), 2 if kind == "Scalar" else i(3, 4, below=9)),
                                (b(3, 4), True if kind == "Scalar" else b(4, 3).T)]
       for op in ("and", "or", "xor") for kind in ("Scalar", "Tensor")},
    "bitwise_not.default": [(i(3, 4),), (b(3),)],
    "bmm.default": [(X, t(2, 4, 5))],
    "cat.default": [([X, Y], 1), ([X, i(2, 1, 4)], -2)],
    "clamp.default": [(Y, -0.5, 0.5), (Y, None, 0.2), (i(3, 4), 1, 1.5)],
    "clamp.Tensor": [(Y, X, None), (Y, t(4), X)],
    "col2im.default": [(t(1, 8, 12), [4, 5], [2, 2], [1, 1], [0, 0], [1, 1])],
    "constant_pad_nd.default": [(X, [1, 2, -1, 0], 3.5)],
    "convolution.default": [
        (IMAGE, KERNEL, t(6), [2, 1], [1, 0], [1, 2], False, [0, 0], 2),
        (IMAGE, t(4, 3, 2, 2), None, [2, 1], [1, 0], [1, 2], True, [1, 0], 2),
    ],
    "convolution_backward.default": [
        (t(2, 6, 3, 5), IMAGE, KERNEL, [6], [2, 1], [1, 0], [1, 2], False, [0, 0], 2, [True, True, True]),
        (t(2, 6, 12, 9), IMAGE, t(4, 3, 2, 2), None, [2, 1], [0, 0], [1, 2], True, [0, 0], 2, [True, True, False]),
        (t(2, 3, 3), t(2, 4, 7), t(3, 4, 2), None, [2], [0], [1], False, [0], 1, [False, True, False]),
    ],
    "copy.default": [(X, t(4)), (X, i(3, 4))],
    "cumsum.default": [(Y, 1), (i(3, 4), 0)],
    "diagonal.default": [(X, 1, 0, 2), (M,)],
    "div.Scalar_mode": [(Y, 0.3, {"rounding_mode": mode}) for mode in (None, "floor", "trunc")],
    "div.Tensor_mode": [(Y, X, {"rounding_mode": mode}) for mode in (None, "floor", "trunc")],
    "embedding.default": [(M, i(2, 3), 1)],
    "embedding_dense_backward.default": [(t(2, 3, 4), i(2, 3), 5, -1, False), (t(2, 3, 4), i(2, 3), 5, 1, True)],
    "empty.memory_format": [([2, 3],)],
    "empty_strided.default": [([2, 3], [3, 1])],
    "expand.default": [(t(3, 1), [2, -1, 4])],
    "flip.default": [(X, [0, 2])],
    "full.default": [([2, 3], 4), ([2], 1.5), ([], True)],
    "gather.default": [(X, 1, i(2, 2, 3))],
    "gelu.default": [(Y,), (Y, {"approximate": "tanh"})],
    "grid_sampler_2d.default": [(IMAGE, t(2, 3, 5, 2, low=-1.2, high=1.2), mode, pad, corners)
                                for mode, pad, corners in [(0, 0, False), (1, 1, True), (2, 2, False)]],
    "index.Tensor": [(X, [None, i(5)]), (X, [i(2, 1, below=2), None, i(3)]), (X, [i(4, below=2), i(4)])],
    "index_put.default": [(X, [None, torch.tensor([0, 2])], t(2, 2, 4)), (X, [i(5, below=2)], t(3, 4), True),
                          (X, [b(2, 3, 4)], t())],
    "index_select.default": [(X, 1, i(5))],
    "logical_and.default": [(b(3), i(3))],
    "logical_or.default": [(b(3), i(3))],
    "logical_xor.default": [(b(3), i(3))],
    "masked_scatter.default": [(X, b(3, 4), t(30))],
    "max.dim": [(Y, 1), (i(3, 4), 0, True)],
    "min.dim": [(Y, 1), (i(3, 4), 0, True)],
    "max_pool2d_with_indices.default": [(IMAGE, [2, 3], [2, 2], [1, 1]), (IMAGE[0], [2, 2], [1, 1], 0, 2, True)],
    "max_pool2d_with_indices_backward.default": [
        (t(*POOLED.shape), IMAGE, [2, 3], [2, 2], [1, 1], [1, 1], False, PLACES)
    ],
    "max_pool3d_with_indices.default": [(VOLUME, [2, 2, 2])],
    "mean.dim": [(X, [0, 2], True), (X, None)],
    "mm.default": [(M, t(4, 2))],
    "native_dropout.default": [(X, 0.5, False)],
    "native_group_norm.default": [(IMAGE, t(4), t(4), 2, 4, 42, 2, 1e-5), (IMAGE, None, None, 2, 4, 42, 4, 1e-5)],
    "native_group_norm_backward.default": [
        (t(*IMAGE.shape), IMAGE, NORMED[1], NORMED[2], t(4), 2, 4, 42, 2, [True, True, True])
    ],
    "native_layer_norm.default": [(X, [4], t(4), t(4), 1e-5), (X, [3, 4], None, None, 1e-5)],
    "native_layer_norm_backward.default": [
        (Y, X, [4], LAYERED[1], LAYERED[2], t(4), t(4), [True, True, True])
    ],
    "permute.default": [(X, [2, 0, 1])],
    "pow.Scalar": [(2.5, Y)],
    "pow.Tensor_Scalar": [(Y, 2), (X, -0.5), (X, 1.7), (i(3, 4), 3)],
    "pow.Tensor_Tensor": [(X, Y)],
    "prod.dim_int": [(X, 1, True), (i(3, 4), 0)],
    **{f"reflection_pad{n}d.default": [(x, [1, 2] * n)] for n, x in ((1, X), (2, IMAGE), (3, VOLUME))},
    **{f"replication_pad{n}d.default": [(x, [1, 2] * n)] for n, x in ((2, IMAGE), (3, VOLUME))},
    "repeat.default": [(X, [2, 1, 1, 3])],
    "resize_.default": [(X, [4, 6]), (X, [2, 5])],
    "scalar_tensor.default": [(2,), (2.5, {"dtype": torch.float64})],
    "scatter.src": [(X, 1, i(2, 2, 3), Y)],
    "scatter.value": [(X, 1, i(2, 2, 3), 7.0)],
    "scatter_add.default": [(X, 1, i(2, 2, 3), Y)],
    "scatter_reduce.two": [(X, 1, i(2, 2, 3), Y, kind, {"include_self": own})
                           for kind in ("sum", "prod", "mean", "amax", "amin") for own in B],
    "select.int": [(X, 1, -1)],
    "select_scatter.default": [(X, t(2, 4), 1, 2)],
    "slice.Tensor": [(X, 2, 1, -1, 2)],
    "slice_scatter.default": [(X, t(2, 3, 2), 2, 0, 4, 2)],
    "sort.default": [(Y, 1, True)],
    "split_with_sizes.default": [(X, [1, 3], 2)],
    "squeeze.dim": [(t(1, 3, 1), 0)],
    "squeeze.dims": [(t(1, 3, 1), [0, 2])],
    "sum.dim_IntList": [(X, [0, 2], True), (i(3, 4), [1])],
    "sym_numel.default": [(X,)],
    "sym_size.int": [(X, 1)],
    "topk.default": [(Y, 2, 1)],
    "unsqueeze.default": [(X, -1)],
    "upsample_bilinear2d.vec": [(IMAGE, [9, 5], False, None), (IMAGE, None, True, [2.0, 1.5])],
    "upsample_nearest2d.vec": [(IMAGE, [9, 5], None), (IMAGE, None, [2.0, 1.5])],
    "var.correction": [(X, [1], {"correction": 0, "keepdim": True}), (X,)],
    "var.dim": [(X, [0, 1], False)],
    "view.default": [(X, [4, -1])],
    "where.self": [(b(2, 3, 4), X, Y), (b(4), X, t())],
}  # fmt: skip

#: Results that are whatever was in memory, or notes for the gradient that differ between devices.
TYPES_ONLY = ("empty", "empty_strided")
FIRST_ONLY = ("_embedding_bag",)
RANDOM = ("rand", "randn", "randperm")


def calls_of(name: str, overload: Any) -> list[tuple[Any, ...]]:
    if name in CALLS:
        return CALLS[name]
    required = [a for a in overload._schema.arguments if not a.has_default_value()]
    kinds = [str(a.type) for a in required]
    second = [Y if kind == "Tensor" else 2 for kind in kinds[1:]]
    return [(X, *second)]


def as_function(overload: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """A call as a function of its tensors alone, that gives tensors alone."""
    kwargs = args[-1] if isinstance(args[-1], dict) else {}
    given = args[:-1] if kwargs else args
    leaves, spec = torch.utils._pytree.tree_flatten((given, kwargs))
    places = [n for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    base = overload._schema.name.partition("::")[2]
    arguments = overload._schema.arguments
    written = [n for n, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]

    def function(*tensors: torch.Tensor) -> Any:
        filled = list(leaves)
        for n, tensor in zip(places, tensors, strict=False):
            filled[n] = tensor
        positional, named = torch.utils._pytree.tree_unflatten(filled, spec)
        positional = [x.clone() if n in written else x for n, x in enumerate(positional)]
        if "out" in named:
            named["out"] = torch.empty_like(tensors[0])
        out = overload(*positional, **named)
        if not isinstance(out, torch.Tensor | tuple | list):
            return [tensors[0] * out]
        out = [out] if isinstance(out, torch.Tensor) else out
        return [x for x in out if isinstance(x, torch.Tensor)][: 1 if base in FIRST_ONLY else None]

    return function, tuple(leaves[n] for n in places) or (torch.zeros(1),)


CORE = core_overloads()
REFUSED = [n for n, o in CORE.items() if reason_of(o._schema.name[6:]) and o._schema.name[6:] not in RULES]


def test_core_is_what_it_was() -> None:
    assert len(CORE) == 193
    assert len({name.partition(".")[0] for name in CORE}) == 164


@pytest.mark.parametrize("name", [n for n in CORE if n not in REFUSED and n.partition(".")[0] not in RANDOM])
def test_every_core_overload_computes_what_torch_computes(name: str) -> None:
    for args in calls_of(name, CORE[name]):
        function, tensors = as_function(CORE[name], args)
        outcome = check(function, tensors, name.partition(".")[0] not in TYPES_ONLY, fixed=True)
        assert outcome == ("ok", "", ""), args


@pytest.mark.parametrize("name", [n for n in REFUSED if not n.startswith("sym_")])
def test_what_cannot_be_static_says_why(name: str) -> None:
    reason = reason_of(name.partition(".")[0])
    args = {"nonzero.default": (X,), "_local_scalar_dense.default": (torch.ones(()),)}.get(name, ([3],))
    args = (3,) if name == "randperm.default" else args
    function, tensors = as_function(CORE[name], args)
    with pytest.raises(td.UnsupportedError) as caught:
        td.from_torch(Of(function), tensors)
    assert reason is not None
    assert reason.why in str(caught.value)


def test_the_coverage_page_is_up_to_date() -> None:
    page = Path(__file__).parents[3] / "docs" / "coverage.md"
    assert page.read_text() == coverage(), "write it anew: python conformance/coverage.py"


# --- regressions -------------------------------------------------------------------------------------------


def ok(function: Any, *tensors: torch.Tensor) -> None:
    def listed(*given: torch.Tensor) -> Any:
        out = function(*given)
        return list(out) if isinstance(out, tuple) else [out]

    assert check(listed, tensors) == ("ok", "", "")


def test_writing_to_the_real_part_changes_the_whole() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> Any:
        z = torch.complex(x, y) * 1
        z.real = x * 3
        z.imag.add_(1)
        return z

    ok(function, X, Y)


def test_writing_to_the_bits_changes_the_number() -> None:
    def function(x: torch.Tensor) -> Any:
        y = x + 0
        y.view(torch.int32).bitwise_and_(-65536)
        return y

    ok(function, X)


def test_in_place_ops_that_change_the_shape() -> None:
    def function(x: torch.Tensor) -> Any:
        y = x + 0
        z = y.view(-1)
        y.unsqueeze_(0).transpose_(1, 2)
        y.squeeze_(0)
        y.mul_(2)
        return y, z

    ok(function, X)


def test_a_view_that_cannot_follow_is_refused() -> None:
    class Follows(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            y = x + 0
            z = y.as_strided((2, 2, 2), (1, 1, 1))
            y.add_(1)
            return z * 1

    with pytest.raises(td.TDaggerError, match="is a view of what was written to since: clone it first"):
        td.from_torch(Follows(), (X,))


def test_a_strided_view_follows_what_is_written() -> None:
    def function(x: torch.Tensor) -> Any:
        y = x + 0
        windows, part = y.as_strided((3, 2), (1, 1)), y.as_strided((2, 2), (8, 2), 1)
        y.add_(1)
        part.mul_(2)
        return y, windows * 1

    ok(function, X)


def test_in_place_and_out_variants_of_decomposed_ops() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> Any:
        out = torch.empty_like(x)
        torch.ldexp(x, y.round(), out=out)
        z = y + 0
        z.ldexp_(x.round())
        return out, z

    ok(function, X, Y)


def test_products_of_bools() -> None:
    ok(torch.mul, b(3, 4), b(3, 4))
    ok(lambda x: torch.isclose(x, x + 1e-9), X)


def test_negative_padding() -> None:
    ok(lambda x: torch.nn.functional.pad(x, (-2, 3, 1, -1), "replicate"), IMAGE)
    ok(lambda x: torch.nn.functional.pad(x, (-2, 3, 1, -1), "reflect"), IMAGE)


def test_medians_with_nan() -> None:
    x = torch.tensor([[1.0, float("nan"), -2.0, 4.0], [3.0, 1.0, 2.0, 2.5], [float("nan")] * 4])
    for function in (torch.median, torch.nanmedian):
        ok(lambda v, f=function: f(v), x)
        ok(lambda v, f=function: tuple(f(v, 1)), x[:2])
        ok(lambda v, f=function: f(v, 1).values, x)


def test_airy_functions() -> None:
    x = torch.tensor([-9.0, -5.0, -0.0, 0.0, 1.5, 2.0, 8.4, 104.0, float("inf"), float("-inf"), float("nan")])
    ok(torch.special.airy_ai, x)
    ok(torch.special.airy_ai, i(3, 4))
    ok(torch.special.airy_ai, b(2))


def test_hashes() -> None:
    for x in (t(2, 3, 5), Y.double(), Y.half(), i(7) - 9, b(3, 3), torch.tensor([200, 255], dtype=torch.uint8)):
        ok(torch.hash_tensor, x)
        ok(lambda v: torch.hash_tensor(v, -1, keepdim=True), x)
    ok(lambda v: torch.hash_tensor(v, [0, 2]), t(2, 3, 5))
    ok(lambda v: torch.hash_tensor(v, 1), t(0, 3))
    ok(torch.hash_tensor, torch.tensor(-0.0))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cross_entropy_of_a_linear_layer_in_chunks(reduction: str, dtype: torch.dtype) -> None:
    def function(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, *rest: torch.Tensor) -> Any:
        options = torch.nn.modules.linear_cross_entropy_options.LinearCrossEntropyOptions(
            batch_chunk_size=2, allow_retain_graph=True
        )
        bias, share = (*rest, None, None)[:2]
        return torch.nn.functional.linear_cross_entropy(
            x, weight, target, linear_bias=bias, weight=share, reduction=reduction, ignore_index=1, options=options
        )

    x, weight, target = t(5, 3, low=-1.0).to(dtype), t(4, 3).to(dtype), torch.tensor([0, 3, 1, 2, 3])
    ok(function, x, weight, target)
    ok(function, x, weight, target, t(4).to(dtype), t(4, low=0.5).to(dtype))
    ok(function, x[:2], weight, torch.tensor([1, 1]))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("scripted", [False, True])
def test_batch_norm_of_one_dimension_is_of_no_entries(training: bool, scripted: bool) -> None:
    """It has no channels: torch gives back what is empty, and raises of anything else."""
    module = _Norm(training)
    given = torch.jit.script(module) if scripted else module
    back = td.from_torch(given, torch.zeros(0)).to_torch()
    torch.testing.assert_close(back(torch.zeros(0)), module(torch.zeros(0)))
    with pytest.raises(td.UnsupportedError, match=r"normalises tensors of 2 dimensions|can't capture"):
        td.from_torch(given, torch.zeros(3))


class _Norm(nn.Module):
    def __init__(self, moving: bool) -> None:
        super().__init__()
        self.moving = moving
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("variance", torch.ones(0))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, training=self.moving)
