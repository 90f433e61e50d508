"""ATen rules of what depends on order (medians, searching, running extremes), and of scattering that combines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.indices import non_negative
from tdagger.frameworks.torch.aten.table import RULES, floating, joining, promote, rule, unsupported
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import gather, iota_like, put_along, scan, scatter, take_along
from tdagger.ops.source import const, iota, scalar

# --- running extremes --------------------------------------------------------------------------------------


def _running(kind: str) -> Callable[..., tuple[Value, Value]]:
    def apply(self: Value, dim: int) -> tuple[Value, Value]:
        if not self.rank:
            return self, const(0, "i64")
        axis = normal_axis(dim, self.rank)
        best = scan(self, kind, axis)
        hit = e.equal(self, best)
        if self.dtype.is_float:
            hit = hit | e.isnan(self)
        return best, scan(e.where(hit, iota_like(self, axis), 0), "max", axis)

    return apply


RULES["cummax"], RULES["cummin"] = _running("max"), _running("min")

# --- the k-th in order -------------------------------------------------------------------------------------


def _line(self: Value) -> Value:
    return lib.reshape(self, shape=(-1,))


def _dropped(values: Sequence[Value], axis: int, keepdim: bool) -> tuple[Value, ...]:
    return tuple(v if keepdim else s.squeeze(v, (axis,)) for v in values)


@rule("kthvalue")
def _kthvalue(self: Value, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Value, ...]:
    if not self.rank:
        return self, const(0, "i64")
    axis = normal_axis(dim, self.rank)
    return _dropped(lib.kthvalue(self, axis=axis, k=k), axis, keepdim)


def _shared(x: Value, found: Value) -> Value:
    """``found`` with its gradient shared evenly among the entries of ``x`` that are equal to it."""
    whole = s.broadcast_to(found, x.shape)
    hit = e.equal(x, whole) | (e.isnan(x) & e.isnan(whole))
    axes = tuple(range(x.rank))
    count = s.reduce(e.cast(hit, x.dtype), "sum", axes, keep=False)
    return lib.straight_through(s.reduce(e.where(hit, x, 0.0), "sum", axes, keep=False) / count, found)


def _median(skip_nan: bool) -> Callable[..., Any]:
    def apply(self: Value, dim: int | None = None, keepdim: bool = False) -> Any:
        if dim is None:
            if not self.type.size:
                if self.dtype.is_float:
                    return const(math.nan, self.dtype)
                raise unsupported("the median of no integers isn't defined")
            middle = apply(_line(self), 0)[0]
            return _shared(self, middle) if self.dtype.is_float else middle
        if not self.rank:
            return self, const(0, "i64")
        axis = normal_axis(dim, self.rank)
        return _dropped(lib.median(self, axis=axis, skip_nan=skip_nan), axis, keepdim)

    return apply


RULES["median"] = RULES["median.dim"] = _median(False)
RULES["nanmedian"] = RULES["nanmedian.dim"] = _median(True)


@rule("quantile.scalar")
def _quantile(
    self: Value, q: float, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    x = self if dim is not None and self.rank else _line(self)
    axis = normal_axis(dim or 0, x.rank)
    out = lib.quantile(x, q=float(q), axis=axis, interpolation=interpolation)
    if dim is None or not self.rank:
        return lib.reshape(out, shape=(1,) * self.rank if keepdim else ())
    return _dropped((out,), axis, keepdim)[0]


@rule("mode")
def _mode(self: Value, dim: int = -1, keepdim: bool = False) -> tuple[Value, ...]:
    if not self.rank:
        return self, const(0, "i64")
    axis = normal_axis(dim, self.rank)
    return _dropped(lib.mode(self, axis=axis), axis, keepdim)


# --- searching ---------------------------------------------------------------------------------------------


def _search(line: Value, x: Value, right: bool, out_int32: bool) -> Value:
    """How many entries of the last axis of ``line`` stand before each entry of ``x``; their other axes agree."""
    axis = x.rank
    lines = s.unsqueeze(line, (line.rank - 1,)) if line.rank > 1 else line
    a, b = e.align(lines, s.unsqueeze(x, (axis,)))
    before = e.not_(e.greater(a, b) if right else e.greater_equal(a, b))
    return s.reduce(e.cast(before, "i32" if out_int32 else "i64"), "sum", (axis,), keep=False)


@rule("searchsorted")
def _searchsorted(
    sorted_sequence: Value, self: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Value | None = None,
) -> Value:  # fmt: skip
    if not isinstance(self, Value):
        self = const(scalar(self, sorted_sequence.dtype), sorted_sequence.dtype)
    if sorter is not None:
        sorted_sequence = take_along(sorted_sequence, sorter, sorted_sequence.rank - 1)
    line, x = promote(sorted_sequence, self)
    return _search(line, x, right or side == "right", out_int32)


@rule("bucketize")
def _bucketize(self: Any, boundaries: Value, *, out_int32: bool = False, right: bool = False) -> Value:
    return _searchsorted(boundaries, self, out_int32=out_int32, right=right)


@rule("nonzero_static")
def _nonzero_static(self: Value, *, size: int, fill_value: int = -1) -> Value:
    """The first ``size`` places, ``fill_value`` where there are fewer; those beyond go to a place that is cut off."""
    mask = _line(e.not_equal(self, e.zeros_like(self)))
    rank = scan(e.cast(mask, "i64"), "sum", 0) - 1
    target = e.where(mask & e.less(rank, size), rank, size)
    columns: list[Value] = []
    for axis in range(self.rank):
        places = _line(iota_like(self, axis))
        start = s.broadcast_to(const(fill_value, "i64"), (size + 1,))
        columns.append(s.slice_axis(scatter(start, target, places), 0, 0, size))
    return lib.stack(*columns, axis=1) if columns else s.broadcast_to(const(fill_value, "i64"), (size, 0))


@rule("masked_scatter")
def _masked_scatter(self: Value, mask: Value, source: Value) -> Value:
    x, mask = e.align(self, mask)
    if not source.type.size or not x.type.size:
        return x
    rank = scan(e.cast(_line(mask), "i64"), "sum", 0) - 1
    found = gather(_line(source), lib.clamp(rank, low=0, high=source.type.size - 1), 0)
    return e.where(mask, lib.reshape(found, shape=x.shape), x)


# --- scattering that combines ------------------------------------------------------------------------------

#: torch's names of reductions to scatter's kinds.
_KINDS = {"sum": "add", "add": "add", "prod": "multiply", "multiply": "multiply", "amax": "max", "amin": "min"}

Put = Callable[[Value, Value, str], Value]


def _start(kind: str, like: Value) -> Value:
    """What doesn't change the result of a kind of scatter, of the type of ``like``."""
    dtype = like.dtype
    if kind in ("max", "min"):
        return s.broadcast_to(s.reduce(s.slice_axis(_line(like), 0, 0, 0), kind, (0,), keep=False), like.shape)
    return e.full_like(like, 1 if kind == "multiply" else scalar(0, dtype))


def _combined(self: Value, source: Value, reduce: str, include_self: bool, put: Put) -> Value:
    """``put(x, updates, kind)`` scatters; what is there counts only with ``include_self``, or where nothing comes."""
    kind = joining("add" if reduce == "mean" else _KINDS[reduce], self.dtype)
    base = self if include_self else put(self, _start(kind, source), "set")
    out = put(base, source, kind)
    if reduce != "mean":
        return out
    ones = e.cast(e.full_like(self, 1), "i64")
    hits = e.cast(e.full_like(source, 1), "i64")
    count = put(ones if include_self else put(ones, e.zeros_like(hits), "set"), hits, "add")
    if out.dtype.is_int:
        return e.floor_divide(out, e.cast(count, out.dtype))
    return out / e.cast(count, out.dtype)


@rule("scatter_reduce", "scatter_reduce.two")
def _scatter_reduce(
    self: Value, dim: int, index: Value, src: Value, reduce: str, *, include_self: bool = True
) -> Value:
    if not self.rank:
        lines = [v if v.rank else s.unsqueeze(v, (0,)) for v in (self, index, src)]
        out = _scatter_reduce(lines[0], 0, lines[1], lines[2], reduce, include_self=include_self)
        return s.squeeze(out, (0,))
    axis = normal_axis(dim, self.rank)
    index = index if index.rank else s.unsqueeze(index, (0,))
    src = src if src.rank else s.unsqueeze(src, (0,))
    part = self
    for i, n in enumerate(index.shape):
        src = s.slice_axis(src, i, 0, n)
        part = part if i == axis else s.slice_axis(part, i, 0, n)
    out = _combined(part, src, reduce, include_self, lambda x, u, kind: put_along(x, index, u, axis, kind))
    for i, n in enumerate(self.shape):  # the rest, beyond the index, stays
        if out.shape[i] < n:
            kept = self
            for j in range(i):
                kept = s.slice_axis(kept, j, 0, self.shape[j])
            for j in range(i + 1, self.rank):
                kept = s.slice_axis(kept, j, 0, out.shape[j])
            out = s.concat((out, s.slice_axis(kept, i, out.shape[i], n)), i)
    return out


@rule("index_reduce")
def _index_reduce(
    self: Value, dim: int, index: Value, source: Value, reduce: str, *, include_self: bool = True
) -> Value:
    if not self.rank:
        line = lib.reshape(source, shape=(-1,))
        out = _index_reduce(s.unsqueeze(self, (0,)), 0, index, line, reduce, include_self=include_self)
        return s.squeeze(out, (0,))
    axis = normal_axis(dim, self.rank)
    places = non_negative(index if index.rank else s.unsqueeze(index, (0,)), self, axis)
    return _combined(self, source, reduce, include_self, lambda x, u, kind: scatter(x, places, u, axis, 0, kind))


@rule("put")
def _put(self: Value, index: Value, source: Value, accumulate: bool = False) -> Value:
    places = non_negative(_line(index), _line(self), 0)
    out = scatter(_line(self), places, _line(source), 0, 0, joining("add", self.dtype) if accumulate else "set")
    return lib.reshape(out, shape=self.shape)


# --- views written anew ------------------------------------------------------------------------------------


def scattered(self: Value, part: Callable[[Value], Value], src: Value) -> Value:
    """``self`` with ``src`` where ``part(self)`` was taken from; ``part`` only moves entries."""
    places = part(lib.reshape(iota(self.type.size), shape=self.shape))
    out = scatter(_line(self), _line(places), _line(s.broadcast_to(e.cast(src, self.dtype), places.shape)))
    return lib.reshape(out, shape=self.shape)


@rule("diagonal_scatter")
def _diagonal_scatter(self: Value, src: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    return scattered(self, lambda x: RULES["diagonal"](x, offset, dim1, dim2), src)


# --- distances and statistics ------------------------------------------------------------------------------


#: torch takes a Euclidean distance by a matrix product where one side has more rows than this.
_ROWS_OF_DIFFERENCES = 25


@rule("_cdist_forward")
def _cdist(x1: Value, x2: Value, p: float, compute_mode: int | None = None) -> Value:
    """``compute_mode`` 1 is a matrix product, 2 differences, 0 and None what the numbers of rows say."""
    rows = max(x1.shape[-2], x2.shape[-2])
    if p == 2 and x1.shape[-1] and (compute_mode == 1 or (not compute_mode and rows > _ROWS_OF_DIFFERENCES)):
        return _cdist_by_matmul(x1, x2)
    away = s.unsqueeze(x1, (x1.rank - 1,)) - s.unsqueeze(x2, (x2.rank - 2,))
    if not away.shape[-1]:
        return e.zeros_like(s.reduce(away, "sum", (-1,), keep=False))
    return lib.vector_norm(away, ord=float(p), axes=(away.rank - 1,))


def _cdist_by_matmul(x1: Value, x2: Value) -> Value:
    """The root of ``|x1|^2 + |x2|^2 - 2 x1 x2``, which rounding can make negative: then 0, without a gradient."""
    squares = [s.reduce(lib.square(x), "sum", (-1,)) for x in (x1, x2)]
    product = lib.matmul(x1, s.transpose(x2, -2, -1))
    total = RULES["add"](squares[0], s.transpose(squares[1], -2, -1))
    total = RULES["add"](product * -2.0, total)
    nothing = e.less_equal(total, e.zeros_like(total))
    return e.where(nothing, 0.0, e.sqrt(e.where(nothing, 1.0, total)))


@rule("cdist")
def _cdist_rule(x1: Value, x2: Value, p: float = 2, compute_mode: int | None = None) -> Value:
    return _cdist(x1, x2, p, compute_mode)


@rule("_pdist_forward", "pdist")
def _pdist(self: Value, p: float = 2) -> Value:
    return lib.pdist(self, ord=float(p))


@rule("cov")
def _cov(self: Value, *, correction: int = 1, fweights: Value | None = None, aweights: Value | None = None) -> Value:
    x = self if self.rank == 2 else lib.reshape(self, shape=(1, -1))
    x = floating(x)
    x = promote(x, aweights)[0] if aweights is not None else x
    weights = [e.cast(w, x.dtype) for w in (fweights, aweights) if w is not None]
    if not weights:
        count = x.shape[1]
        away = x - lib.mean(x, axes=(1,), keep=True)
        out = lib.matmul(away, s.transpose(away, 0, 1)) / max(float(count - correction), 0.0)
    else:
        w = weights[0] if len(weights) == 1 else weights[0] * weights[1]
        total = s.reduce(w, "sum", (0,), keep=False)
        mean = s.reduce(x * w, "sum", (1,)) / total
        if aweights is not None:
            each = s.reduce(w * e.cast(aweights, x.dtype), "sum", (0,), keep=False)
            left = total - each * float(correction) / total if correction else total
        else:
            left = total - float(correction)
        away = x - mean
        out = lib.matmul(away, s.transpose(away * w, 0, 1)) / e.maximum(left, 0.0)
    return lib.reshape(out, shape=()) if out.shape == (1, 1) else out


@rule("corrcoef")
def _corrcoef(self: Value) -> Value:
    covariance = _cov(self)
    if not covariance.rank:
        return covariance / covariance
    spread = e.sqrt(lib.diagonal(covariance, offset=0, axis0=0, axis1=1))
    out = covariance / s.unsqueeze(spread, (1,)) / s.unsqueeze(spread, (0,))
    return lib.clamp(out, low=-1.0, high=1.0) if out.dtype.is_float else out


@rule("histc")
def _histc(self: Value, bins: int = 100, min: Any = 0, max: Any = 0) -> Value:
    x = _line(self)
    is_float = x.dtype.is_float
    if not is_float:  # whole numbers, as torch counts them where it does (not on a CPU)
        x = e.cast(x, "i64")
    if min == max:
        if not x.type.size:
            return s.broadcast_to(const(0, self.dtype), (bins,))
        low, high = (s.reduce(x, k, (0,)) for k in ("min", "max"))
        flat = e.equal(low, high)
        low, high = e.where(flat, low - 1, low), e.where(flat, high + 1, high)
    else:
        low, high = (const([x.dtype.numpy.type(v)], x.dtype) for v in (min, max))
    inside = e.greater_equal(*e.align(x, low)) & e.less_equal(*e.align(x, high))
    place = (x - low) * bins / (high - low) if is_float else e.floor_divide((x - low) * bins, high - low)
    place = e.cast(e.where(inside, place, 0), "i64")
    place = e.where(inside, e.minimum(place, bins - 1), bins)
    counts = scatter(s.broadcast_to(const(0, "i64"), (bins + 1,)), place, e.cast(inside, "i64"), 0, 0, "add")
    return e.cast(s.slice_axis(counts, 0, 0, bins), self.dtype)
