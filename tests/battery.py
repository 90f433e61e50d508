"""Awkward ops and what their contractions cost, worked out by hand: the one table of tests and benchmarks.

>>> case = BATTERY["mv"]()
>>> type(case.module).__name__, case.macs, case.flops
('Apply', 35, 70)

A case is made anew by calling its entry. ``REFUSED`` are what tdagger doesn't count: it refuses them by the name given
or, kept as external ops, names them as uncounted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Case(NamedTuple):
    """A module in eval mode, its arguments, and the multiply-adds of its contractions."""

    module: nn.Module
    args: tuple[Any, ...]
    macs: int

    @property
    def flops(self) -> int:
        """Flops of contractions, 2 for each multiply-add."""
        return 2 * self.macs


class Apply(nn.Module):
    """A function as a module; ``inner``, if there is one, is its first argument."""

    def __init__(self, function: Callable[..., Any], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.function = function
        self.inner = inner

    def forward(self, *args: Any) -> Any:
        return self.function(*args) if self.inner is None else self.function(self.inner, *args)


def r(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers between 0 and 1."""
    return torch.rand(*shape, dtype=torch.float32).to(dtype)


def _fn(function: Callable[..., Any], args: tuple[Any, ...], macs: int, inner: nn.Module | None = None) -> Case:
    return Case(Apply(function, inner).eval(), args, macs)


def _nn(module: nn.Module, args: tuple[Any, ...], macs: int) -> Case:
    return Case(module.eval(), args, macs)


# --- pieces of formulas: b batch, t and s lengths, d width ----------------------------------------------------


def _self_attention(b: int, t: int, d: int) -> int:
    """Projections to q, k, v and back, scores, and their products with the values."""
    return b * (t * d * 3 * d + 2 * t * t * d + t * d * d)


def _cross_attention(b: int, t: int, s: int, d: int) -> int:
    return b * (t * d * d + 2 * s * d * d + 2 * t * s * d + t * d * d)


def _encoder(b: int, t: int, d: int, f: int) -> int:
    return _self_attention(b, t, d) + b * 2 * t * d * f


def _decoder(b: int, t: int, s: int, d: int, f: int) -> int:
    return _self_attention(b, t, d) + _cross_attention(b, t, s, d) + b * 2 * t * d * f


def _both_ways(gates: int, b: int, t: int, i: int, h: int) -> int:
    """A recurrent network of two layers in two directions; the second takes both directions of the first."""
    return 2 * t * b * gates * h * ((i + h) + (2 * h + h))


# --- modules and functions that need more than a line -------------------------------------------------------


def _torch(path: str, *first: Any, **options: Any) -> Callable[..., Any]:
    """A function of torch, looked up when it is called: some counters put another in its place."""
    return lambda *args: reduce(getattr, path.split("."), torch)(*first, *args, **options)


def _sdpa(**options: Any) -> Callable[..., Any]:
    return _torch("nn.functional.scaled_dot_product_attention", **options)


_RECURRENT: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True}


def _encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def _encoder_stack() -> nn.Module:
    return nn.TransformerEncoder(_encoder_layer(), 2)


def _padded(m: nn.Module, x: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
    return m(x, src_key_padding_mask=pad)


def _unfolded_convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten(1) @ F.unfold(x, 3, padding=1)


def _called_with(m: nn.Module, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(m, {"weight": weight}, (x,))


def _ensemble(m: nn.Module, weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.vmap(lambda w: _called_with(m, w, x))(weights)


def _mapped_mm(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.vmap(lambda a, b: torch.mm(a, b))(x, y)


def _mapped_sdpa(*qkv: torch.Tensor) -> torch.Tensor:
    return torch.vmap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))(*qkv)


def _checkpointed(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    from torch.utils.checkpoint import checkpoint

    return checkpoint(m, x, use_reentrant=False)


def _branches(first: nn.Module, second: nn.Module) -> nn.Module:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda y: self.first(y), lambda y: self.second(y), (x,))

    return Branches()


def _flex(**options: Any) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return lambda q, k, v: flex_attention(q, k, v, **options)


def _lower(score: torch.Tensor, b: Any, h: Any, i: Any, j: Any) -> torch.Tensor:
    return torch.where(i >= j, score, -float("inf"))


def _block_mask() -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(lambda b, h, i, j: i >= j, None, None, 16, 16, device="cpu")


def _grouped() -> Case:
    """16 rows in 4 groups: every row is multiplied by the matrix of its group alone."""
    ends = torch.tensor([3, 8, 12, 16], dtype=torch.int32)
    args = (r(16, 8, dtype=torch.bfloat16), r(4, 8, 24, dtype=torch.bfloat16), ends)
    return _fn(lambda x, w, e: F.grouped_mm(x, w, offs=e), args, 16 * 8 * 24)


def _int8(*shape: int) -> torch.Tensor:
    return torch.randint(-4, 5, shape, dtype=torch.int8)


def _float8(*shape: int) -> torch.Tensor:
    return r(*shape).to(torch.float8_e4m3fn)


def _scaled(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch._scaled_mm(x, y.t(), a, b, out_dtype=torch.bfloat16)


#: Name -> what makes the case.
BATTERY: dict[str, Callable[[], Case]] = {
    # attention
    "sdpa": lambda: _fn(_sdpa(), (r(2, 4, 5, 8), r(2, 4, 6, 8), r(2, 4, 6, 3)), 2 * 4 * 5 * 6 * (8 + 3)),
    "sdpa, causal": lambda: _fn(_sdpa(is_causal=True), (r(2, 4, 5, 8),) * 3, 2 * 4 * 5 * 5 * (8 + 8)),
    "sdpa, bool mask": lambda: _fn(
        _sdpa(), (r(2, 4, 5, 8), r(2, 4, 6, 8), r(2, 4, 6, 8), r(2, 1, 5, 6) > 0.3), 2 * 4 * 5 * 6 * (8 + 8)
    ),
    "sdpa, grouped queries": lambda: _fn(
        _sdpa(enable_gqa=True), (r(2, 4, 5, 8), r(2, 2, 6, 8), r(2, 2, 6, 8)), 2 * 4 * 5 * 6 * (8 + 8)
    ),
    "flex_attention": lambda: _fn(_flex(), (r(1, 2, 16, 32), r(1, 2, 24, 32), r(1, 2, 24, 32)), 2 * 2 * 16 * 24 * 32),
    "flex_attention, score_mod": lambda: _fn(_flex(score_mod=_lower), (r(1, 2, 16, 32),) * 3, 2 * 2 * 16 * 16 * 32),
    "flex_attention, block mask": lambda: _fn(
        _flex(block_mask=_block_mask()), (r(1, 2, 16, 32),) * 3, 2 * 2 * 16 * 16 * 32
    ),
    "MultiheadAttention": lambda: _nn(
        nn.MultiheadAttention(8, 2, batch_first=True), (r(2, 5, 8),) * 3, 2 * _self_attention(1, 5, 8)
    ),
    "MultiheadAttention, no weights": lambda: _fn(
        lambda m, x: m(x, x, x, need_weights=False)[0], (r(2, 5, 8),), _self_attention(2, 5, 8),
        nn.MultiheadAttention(8, 2, batch_first=True),
    ),
    "MultiheadAttention, k and v of other widths": lambda: _nn(
        nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=7), (r(2, 5, 8), r(2, 3, 6), r(2, 3, 7)),
        2 * (5 * 8 * 8 + 3 * 6 * 8 + 3 * 7 * 8 + 2 * 5 * 3 * 8 + 5 * 8 * 8),
    ),
    "TransformerEncoderLayer": lambda: _nn(_encoder_layer(), (r(2, 5, 8),), _encoder(2, 5, 8, 16)),
    "TransformerEncoder, padded": lambda: _fn(
        _padded, (r(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)), 2 * _encoder(2, 5, 8, 16), _encoder_stack()
    ),
    "TransformerDecoderLayer": lambda: _nn(
        nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), (r(2, 5, 8), r(2, 3, 8)), _decoder(2, 5, 3, 8, 16)
    ),
    "Transformer": lambda: _nn(
        nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (r(2, 3, 8), r(2, 5, 8)),
        _encoder(2, 3, 8, 16) + _decoder(2, 5, 3, 8, 16),
    ),
    # recurrent
    "LSTM": lambda: _nn(nn.LSTM(3, 5, **_RECURRENT), (r(2, 7, 3),), _both_ways(4, 2, 7, 3, 5)),
    "LSTM, projected": lambda: _nn(
        nn.LSTM(3, 5, proj_size=2), (r(7, 4, 3),), 7 * 4 * (4 * 5 * 3 + 4 * 5 * 2 + 2 * 5)
    ),
    "GRU": lambda: _nn(nn.GRU(3, 5, **_RECURRENT), (r(2, 7, 3),), _both_ways(3, 2, 7, 3, 5)),
    "RNN": lambda: _nn(nn.RNN(3, 5, **_RECURRENT), (r(2, 7, 3),), _both_ways(1, 2, 7, 3, 5)),
    "LSTMCell": lambda: _nn(nn.LSTMCell(3, 5), (r(2, 3),), 2 * 4 * 5 * (3 + 5)),
    "GRUCell": lambda: _nn(nn.GRUCell(3, 5), (r(2, 3),), 2 * 3 * 5 * (3 + 5)),
    "RNNCell": lambda: _nn(nn.RNNCell(3, 5), (r(2, 3),), 2 * 5 * (3 + 5)),
    # convolutions: a transposed one has products for each entry of its argument
    "conv, dilated and grouped": lambda: _nn(
        nn.Conv2d(4, 6, (3, 5), stride=2, dilation=(2, 1), groups=2), (r(2, 4, 9, 11),), 2 * (3 * 4) * 6 * 2 * 15
    ),
    "conv, padding same": lambda: _nn(nn.Conv2d(3, 4, 3, padding="same", dilation=2), (r(1, 3, 6, 6),), 36 * 4 * 27),
    "conv, no bias, unbatched": lambda: _nn(nn.Conv1d(3, 4, 5, bias=False), (r(3, 9),), 5 * 4 * 3 * 5),
    "transposed conv 1d": lambda: _nn(
        nn.ConvTranspose1d(4, 6, 5, stride=3, padding=2, output_padding=1, groups=2), (r(2, 4, 5),),
        2 * 5 * 4 * (6 // 2) * 5,
    ),
    "transposed conv 2d": lambda: _nn(
        nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, dilation=2), (r(2, 4, 5, 7),), 2 * (5 * 7) * 4 * 6 * 9
    ),
    "transposed conv 3d": lambda: _nn(
        nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2), (r(1, 4, 3, 2, 5),), (3 * 2 * 5) * 4 * (6 // 2) * 8
    ),
    "conv by unfold and matmul": lambda: _fn(_unfolded_convolution, (r(2, 3, 6, 6), r(4, 3, 3, 3)), 2 * 36 * 4 * 27),
    "conv_tbc": lambda: _fn(_torch("conv_tbc"), (r(5, 2, 3), r(3, 3, 4), r(4)), 3 * 2 * 4 * 3 * 3),
    # products
    "linear, one row": lambda: _nn(nn.Linear(7, 5), (r(7),), 7 * 5),
    "mv": lambda: _fn(_torch("mv"), (r(5, 7), r(7)), 5 * 7),
    "addmv": lambda: _fn(_torch("addmv"), (r(5), r(5, 7), r(7)), 5 * 7),
    "dot": lambda: _fn(_torch("dot"), (r(7), r(7)), 7),
    "vdot": lambda: _fn(_torch("vdot"), (r(7), r(7)), 7),
    "inner": lambda: _fn(_torch("inner"), (r(3, 7), r(5, 7)), 3 * 5 * 7),
    "vecdot": lambda: _fn(_torch("linalg.vecdot"), (r(3, 7), r(3, 7)), 3 * 7),
    "matmul, broadcast": lambda: _fn(_torch("matmul"), (r(3, 1, 2, 4), r(5, 4, 6)), 3 * 5 * 2 * 4 * 6),
    "matmul, complex": lambda: _fn(
        _torch("mm"), (torch.randn(3, 4, dtype=torch.complex64), torch.randn(4, 5, dtype=torch.complex64)), 3 * 4 * 5
    ),
    "matmul, int8": lambda: _fn(_torch("_int_mm"), (_int8(32, 16), _int8(16, 8)), 32 * 16 * 8),
    "matmul, int8 weights": lambda: _fn(
        _torch("_weight_int8pack_mm"), (r(4, 32, dtype=torch.bfloat16), _int8(16, 32), r(16, dtype=torch.bfloat16)),
        4 * 32 * 16,
    ),
    "matmul, scaled float8": lambda: _fn(
        _scaled, (_float8(16, 32), _float8(48, 32), torch.tensor(1.5), torch.tensor(0.5)), 16 * 32 * 48
    ),
    "matmul, grouped": lambda: _grouped(),
    "matmul, grouped by a batch": lambda: _fn(
        _torch("_grouped_mm"), (r(3, 16, 8, dtype=torch.bfloat16), r(3, 8, 24, dtype=torch.bfloat16)), 3 * 16 * 8 * 24
    ),
    "baddbmm": lambda: _fn(
        _torch("baddbmm", beta=0.5, alpha=2.0), (r(4, 2, 5), r(4, 2, 3), r(4, 3, 5)), 4 * 2 * 3 * 5
    ),
    "addbmm": lambda: _fn(_torch("addbmm"), (r(2, 5), r(4, 2, 3), r(4, 3, 5)), 4 * 2 * 3 * 5),
    "bilinear": lambda: _nn(nn.Bilinear(3, 4, 5), (r(2, 3), r(2, 4)), 2 * 5 * 3 * 4 + 2 * 5 * 4),
    "tensordot": lambda: _fn(
        _torch("tensordot", dims=([1, 2], [0, 1])), (r(3, 4, 5), r(4, 5, 6)), 3 * (4 * 5) * 6
    ),
    "einsum": lambda: _fn(
        _torch("einsum", "bqhd,bkhd->bhqk"), (r(2, 5, 4, 3), r(2, 6, 4, 3)), 2 * 4 * 5 * 6 * 3
    ),
    "einsum of three": lambda: _fn(  # from left to right
        _torch("einsum", "ij,jk,kl->il"), (r(2, 3), r(3, 4), r(4, 5)), 2 * 3 * 4 + 2 * 4 * 5
    ),
    "einsum of a diagonal": lambda: _fn(_torch("einsum", "ii,ij->j"), (r(4, 4), r(4, 5)), 4 * 5),
    "einsum, ellipsis": lambda: _fn(
        _torch("einsum", "...ij,...jk->...ik"), (r(2, 3, 4, 5), r(2, 3, 5, 6)), 2 * 3 * 4 * 5 * 6
    ),
    "matrix_power": lambda: _fn(_torch("matrix_power", n=5), (r(4, 4),), 3 * 4**3),  # a2 = aa, a2 a2, times a
    "multi_dot": lambda: _fn(  # 10x30, 30x5, 5x60, 60x2: a(b(cd)) has the fewest
        lambda *x: torch.linalg.multi_dot(x), (r(10, 30), r(30, 5), r(5, 60), r(60, 2)),
        5 * 60 * 2 + 30 * 5 * 2 + 10 * 30 * 2,
    ),
    "cdist": lambda: _fn(_torch("cdist"), (r(2, 5, 3), r(2, 7, 3)), 0),  # a norm of differences
    "cdist by matmul": lambda: _fn(_torch("cdist"), (r(2, 30, 3), r(2, 7, 3)), 2 * 30 * 7 * 3),  # more than 25 rows
    "cosine_similarity": lambda: _fn(_torch("nn.functional.cosine_similarity"), (r(3, 7), r(3, 7)), 3 * 7),
    "product and sum": lambda: _fn(lambda x, y: (x * y).sum(-1), (r(3, 7), r(3, 7)), 3 * 7),
    # functions of functions
    "vmap of mm": lambda: _fn(_mapped_mm, (r(2, 3, 4), r(2, 4, 5)), 2 * 3 * 4 * 5),
    "vmap of a module": lambda: _fn(
        lambda m, x: torch.vmap(m)(x), (r(3, 2, 3, 6, 6),), 3 * 2 * (4 * 4) * 5 * 3 * 9, nn.Conv2d(3, 5, 3)
    ),
    "vmap of sdpa": lambda: _fn(_mapped_sdpa, (r(3, 2, 4, 5, 8),) * 3, 3 * 2 * 4 * 5 * 5 * (8 + 8)),
    "functional_call": lambda: _fn(_called_with, (r(5, 4), r(2, 4)), 2 * 4 * 5, nn.Linear(4, 5)),
    "ensemble by vmap and functional_call": lambda: _fn(
        _ensemble, (r(3, 5, 4), r(2, 4)), 3 * 2 * 4 * 5, nn.Linear(4, 5)
    ),
    "checkpoint": lambda: _fn(_checkpointed, (r(2, 4),), 2 * 4 * 5, nn.Linear(4, 5)),
    "compiled module": lambda: _nn(torch.compile(_encoder_layer()), (r(2, 5, 8),), _encoder(2, 5, 8, 16)),
    "compiled module inside": lambda: _nn(
        nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 5))), (r(2, 4),), 2 * 4 * 4 + 2 * 4 * 5
    ),
    "cond": lambda: _nn(_branches(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())), (r(2, 4),), 2 * 4 * 4),
    "cond, one branch costs more": lambda: _nn(  # the most that a run can take
        _branches(nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 4)), nn.Linear(4, 4)), (r(2, 4),), 2 * (4 * 7 + 7 * 4)
    ),
    # no contraction
    "outer": lambda: _fn(_torch("outer"), (r(7), r(5)), 0),
    "addr": lambda: _fn(_torch("addr"), (r(7, 5), r(7), r(5)), 0),
    "kron": lambda: _fn(_torch("kron"), (r(2, 3), r(4, 5)), 0),
    "fold": lambda: _fn(lambda x: F.fold(x, (4, 4), (2, 2)), (r(1, 12, 9),), 0),
    "EmbeddingBag": lambda: _nn(nn.EmbeddingBag(10, 4, mode="sum"), (torch.randint(0, 10, (3, 5)),), 0),
}  # fmt: skip


def _spd(n: int) -> torch.Tensor:
    x = r(n, n)
    return x @ x.mT + torch.eye(n)


def _sparse_weight() -> nn.Module:
    module = nn.Module()
    module.register_buffer("weight", torch.eye(4).to_sparse())
    return Apply(lambda m, x: m.weight @ x, module)


#: What isn't counted: name -> (what makes module and arguments, what the refusal or the uncounted op is called).
REFUSED: dict[str, tuple[Callable[[], tuple[nn.Module, tuple[Any, ...]]], str]] = {
    "solve": (lambda: (Apply(_torch("linalg.solve")), (_spd(4), r(4, 2))), "linalg_solve"),
    "triangular solve": (
        lambda: (Apply(_torch("linalg.solve_triangular", upper=True)), (_spd(4), r(4, 2))),
        "linalg_solve_triangular",
    ),
    "inv": (lambda: (Apply(_torch("linalg.inv")), (_spd(4),)), "linalg_inv"),
    "cholesky": (lambda: (Apply(_torch("linalg.cholesky")), (_spd(4),)), "linalg_cholesky"),
    "qr": (lambda: (Apply(_torch("linalg.qr")), (r(4, 4),)), "linalg_qr"),
    "eigh": (lambda: (Apply(_torch("linalg.eigh")), (_spd(4),)), "linalg_eigh"),
    "svd": (lambda: (Apply(_torch("linalg.svd")), (r(4, 4),)), "linalg_svd"),
    "det": (lambda: (Apply(_torch("det")), (r(4, 4),)), "det"),
    "matrix_exp": (lambda: (Apply(_torch("matrix_exp")), (r(4, 4),)), "matrix_exp"),
    "sparse matmul": (lambda: (Apply(_torch("sparse.mm")), (torch.eye(4).to_sparse(), r(4, 5))), "sparse"),
    "sparse weight": (lambda: (_sparse_weight(), (r(4, 5),)), "sparse"),
    "matmul, grouped along the sum": (
        lambda: (
            Apply(lambda x, y, e: torch._grouped_mm(x, y, e)),
            (r(16, 32, dtype=torch.bfloat16), r(32, 16, dtype=torch.bfloat16),
             torch.tensor([8, 32], dtype=torch.int32)),
        ),
        "_grouped_mm",
    ),
}  # fmt: skip
