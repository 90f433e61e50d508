"""ATen rules that move, index and make data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from tdagger import library as lib
from tdagger.frameworks.indices import may_be_negative, non_negative
from tdagger.frameworks.known import number_of
from tdagger.frameworks.torch.aten.functional import complex_of, write_back
from tdagger.frameworks.torch.aten.reasons import NUMBER, SHAPE
from tdagger.frameworks.torch.aten.table import (
    DTYPES,
    RULES,
    expand,
    joining,
    number,
    promote,
    rule,
    tuple_of,
    unsupported,
)
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.indexing import counts_along, gather, iota_like, put_along, scan, scatter, take_along
from tdagger.ops.source import const, iota, scalar
from tdagger.types import DType, sized

# --- axes --------------------------------------------------------------------------------------------------


@rule("permute", "permute_copy")
def _permute(self: Value, dims: Sequence[int]) -> Value:
    return s.permute(self, dims)


@rule("transpose", "transpose.int", "swapaxes", "swapdims", "transpose_copy")
def _transpose(self: Value, dim0: int, dim1: int) -> Value:
    return s.transpose(self, dim0, dim1)


@rule("numpy_T")
def _reversed(self: Value) -> Value:
    return s.permute(self, tuple(reversed(range(self.rank))))


@rule("t", "mT", "t_copy")
def _t(self: Value) -> Value:
    return s.transpose(self, -1, -2) if self.rank > 1 else self


@rule("mH", "adjoint", "matrix_H")
def _adjoint(self: Value) -> Value:
    turned = _t(self)
    return e.conj(turned) if turned.dtype.is_complex else turned


@rule("movedim", "movedim.int", "moveaxis")
def _movedim(self: Value, source: Any, destination: Any) -> Value:
    sources = [d % self.rank for d in tuple_of(source, 1)]
    targets = [d % self.rank for d in tuple_of(destination, 1)]
    rest = iter(i for i in range(self.rank) if i not in sources)
    placed = dict(zip(targets, sources, strict=True))
    return s.permute(self, [placed[i] if i in placed else next(rest) for i in range(self.rank)])


@rule(
    "view",
    "reshape",
    "_unsafe_view",
    "view_copy",
    "_reshape_copy",
    "_reshape_alias",
    "view.default",
    "reshape.default",
)
def _reshape(self: Value, shape: Sequence[int], *_: Any) -> Value:
    return lib.reshape(self, shape=tuple(shape))


@rule("view_as", "reshape_as")
def _reshape_as(self: Value, other: Value) -> Value:
    return lib.reshape(self, shape=other.shape)


@rule("flatten", "flatten.using_ints")
def _flatten(self: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    if not self.rank:
        return s.unsqueeze(self, (0,))
    a, b = normal_axis(start_dim, self.rank), normal_axis(end_dim, self.rank)
    return s.group(self, [*(1,) * a, b - a + 1, *(1,) * (self.rank - b - 1)])


@rule("unflatten", "unflatten.int")
def _unflatten(self: Value, dim: int, sizes: Sequence[int]) -> Value:
    return s.ungroup(self, dim, sizes)


@rule("squeeze", "squeeze.dim", "squeeze.dims", "squeeze_copy")
def _squeeze(self: Value, dim: Any = None) -> Value:
    named = range(self.rank) if dim is None else [d % self.rank for d in tuple_of(dim, 1)] if self.rank else []
    return s.squeeze(self, [d for d in named if self.shape[d] == 1], only_ones=True)


@rule("unsqueeze", "unsqueeze_copy")
def _unsqueeze(self: Value, dim: int) -> Value:
    return s.unsqueeze(self, (dim,))


@rule("expand", "expand_copy")
def _expand(self: Value, size: Sequence[int], *, implicit: bool = False) -> Value:
    return expand(self, size)


@rule("expand_as")
def _expand_as(self: Value, other: Value) -> Value:
    return expand(self, other.shape)


@rule("broadcast_to")
def _broadcast_to(self: Value, size: Sequence[int]) -> Value:
    return expand(self, size)


@rule("broadcast_tensors")
def _broadcast_tensors(tensors: Sequence[Value]) -> tuple[Value, ...]:
    shape = torch.broadcast_shapes(*[t.shape for t in tensors])
    return tuple(expand(t, shape) for t in tensors)


@rule("meshgrid", "meshgrid.indexing")
def _meshgrid(tensors: Sequence[Value], *, indexing: str = "ij") -> tuple[Value, ...]:
    lines = [t if t.rank else s.unsqueeze(t, (0,)) for t in tensors]
    n = len(lines)
    order = list(range(n))
    if indexing == "xy" and n >= 2:
        order[:2] = [1, 0]
    shape = [lines[order.index(i)].shape[0] for i in range(n)]
    return tuple(expand(s.unsqueeze(t, [i for i in range(n) if i != order[k]]), shape) for k, t in enumerate(lines))


# --- parts -------------------------------------------------------------------------------------------------


@rule("slice", "slice.Tensor", "slice_copy")
def _slice(self: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    return s.slice_axis(self, dim, start, end, step)


@rule("select", "select.int", "select_copy")
def _select(self: Value, dim: int, index: int) -> Value:
    return s.select(self, dim, index)


@rule("narrow", "narrow_copy")
def _narrow(self: Value, dim: int, start: int, length: int) -> Value:
    if isinstance(start, Value):
        raise unsupported(NUMBER.why)
    stop = start + length
    return s.slice_axis(self, dim, start, None if start < 0 and not stop else stop)


def _parts(x: Value, dim: int, how: str, by: int, steps: Sequence[tuple[tuple[int, ...], int]]) -> tuple[Value, ...]:
    """The parts that an axis is cut into, from the offsets and the number (see ``Sized``) of where each starts."""
    axis = normal_axis(dim, x.rank)
    n = x.shape[axis]
    starts = [sized(n, offsets, by if offsets else 1, plus, (how, by, len(steps))) for offsets, plus in steps]
    return tuple(s.slice_axis(x, axis, a, b) for a, b in pairwise([*starts, None]))


@rule("split", "split.Tensor", "split_copy")
def _split(self: Value, split_size: Any, dim: int = 0) -> tuple[Value, ...]:
    if not isinstance(split_size, int):
        return s.split(self, split_size, dim)
    n = self.shape[dim]
    if not n:
        return (self,)
    return _parts(self, dim, "split", split_size, [((), i) for i in range(0, n, split_size)])


@rule("split_with_sizes", "split_with_sizes_copy", "split.sizes")
def _split_with_sizes(self: Value, split_sizes: Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    return s.split(self, split_sizes, dim)


@rule("chunk")
def _chunk(self: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    n = self.shape[dim]
    if not n:
        return (self,) * chunks
    count = -(-n // -(-n // chunks))
    return _parts(self, dim, "chunk", chunks, [((chunks - 1,) * i, 0) for i in range(count)])


@rule("tensor_split", "tensor_split.sections", "tensor_split.indices")
def _tensor_split(self: Value, how: Any, dim: int = 0) -> tuple[Value, ...]:
    n = self.shape[dim]
    if isinstance(how, int):
        return _parts(self, dim, "tensor_split", how, [(tuple(range(how - 1, how - 1 - i, -1)), 0) for i in range(how)])
    if isinstance(how, Value):
        raise unsupported(SHAPE.why)
    ends = [0, *how, n]
    return tuple(s.slice_axis(self, dim, a, b) for a, b in pairwise(ends))


@rule("unbind", "unbind_copy")
def _unbind(self: Value, dim: int = 0) -> tuple[Value, ...]:
    return tuple(s.select(self, dim, i) for i in range(self.shape[dim]))


@rule("unfold", "unfold_copy")
def _unfold(self: Value, dimension: int, size: int, step: int) -> Value:
    if not self.rank:
        return s.unsqueeze(self, (0,))
    axis = normal_axis(dimension, self.rank)
    out = s.ungroup(s.unfold(self, axis, size, step), axis, (-1, size))
    return s.permute(out, [*range(axis + 1), *range(axis + 2, out.rank), axis + 1])


@rule("diagonal", "diagonal_copy")
def _diagonal(self: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    return lib.diagonal(self, offset=offset, axis0=normal_axis(dim1, self.rank), axis1=normal_axis(dim2, self.rank))


@rule("fill_diagonal")
def _fill_diagonal(self: Value, fill_value: Any, wrap: bool = False) -> Value:
    """A number where all positions are the same; with ``wrap`` a tall matrix goes on with the next row but one."""
    first = iota_like(self, 0)
    if wrap and self.rank == 2:
        first = e.mod(first, e.full_like(first, self.shape[1] + 1))
    same = e.equal(first, iota_like(self, 1))
    for axis in range(2, self.rank):
        same = same & e.equal(first, iota_like(self, axis))
    return e.where(same, e.as_value(number(fill_value, self.dtype), self), self)


@rule("tril")
def _tril(self: Value, diagonal: int = 0) -> Value:
    return lib.tril(self, diagonal=diagonal)


@rule("triu")
def _triu(self: Value, diagonal: int = 0) -> Value:
    return lib.triu(self, diagonal=diagonal)


@rule("flip")
def _flip(self: Value, dims: Sequence[int]) -> Value:
    return s.flip(self, dims)


@rule("fliplr")
def _fliplr(self: Value) -> Value:
    return s.flip(self, (1,))


@rule("roll")
def _roll(self: Value, shifts: Any, dims: Any = ()) -> Value:
    steps, axes = tuple_of(shifts, 1), tuple_of(dims, 1)
    if not axes:
        flat = lib.reshape(self, shape=(-1,))
        return lib.reshape(lib.roll(flat, shifts=steps, axes=(0,)), shape=self.shape)
    # one roll over sorted axes, the shifts of an axis named twice added up
    total: dict[int, int] = {}
    for step, axis in zip(steps, axes, strict=True):
        total[axis % self.rank] = total.get(axis % self.rank, 0) + step
    named = tuple(sorted(total))
    return lib.roll(self, shifts=tuple(total[a] for a in named), axes=named)


# --- joining and padding -----------------------------------------------------------------------------------


@rule("cat", "concat", "concatenate")
def _cat(tensors: Sequence[Value], dim: int = 0) -> Value:
    kept = [t for t in tensors if t.shape != (0,)] or list(tensors[:1])
    return s.concat(promote(*kept) if len({t.dtype for t in tensors}) > 1 else kept, dim)


@rule("stack")
def _stack(tensors: Sequence[Value], dim: int = 0) -> Value:
    xs = promote(*tensors)
    return lib.stack(*xs, axis=normal_axis(dim, xs[0].rank + 1))


@rule("hstack")
def _hstack(tensors: Sequence[Value]) -> Value:
    xs = [t if t.rank else s.unsqueeze(t, (0,)) for t in promote(*tensors)]
    return s.concat(xs, 0 if xs[0].rank == 1 else 1)


@rule("vstack")
def _vstack(tensors: Sequence[Value]) -> Value:
    xs = [s.broadcast_to(t, (1, *(t.shape or (1,)))) if t.rank < 2 else t for t in promote(*tensors)]
    return s.concat(xs, 0)


@rule("repeat")
def _repeat(self: Value, repeats: Sequence[int]) -> Value:
    return lib.tile(self, repeats=tuple(repeats))


@rule("tile")
def _tile(self: Value, dims: Sequence[int]) -> Value:
    return lib.tile(self, repeats=(1,) * (self.rank - len(dims)) + tuple(dims))


@rule("repeat_interleave.self_int")
def _repeat_interleave(self: Value, repeats: int, dim: int | None = None, *, output_size: int | None = None) -> Value:
    x, axis = (lib.reshape(self, shape=(-1,)), 0) if dim is None else (self, dim)
    return lib.repeat_interleave(x, repeats=repeats, axis=axis)


@rule("repeat_interleave.self_Tensor")
def _repeat_interleave_by(self: Value, repeats: Value, dim: int | None = None, *, output_size: Any = None) -> Value:
    times = number_of(repeats)  # a trace writes sizes as tensors
    if times is None:
        raise unsupported(SHAPE.why)
    return _repeat_interleave(self, int(times.real), dim)


def _pairs(pad: Sequence[int], rank: int) -> list[tuple[int, int] | None]:
    """torch's flat padding, last axis first, as a pair for each axis."""
    widths: list[tuple[int, int] | None] = [None] * rank
    for i in range(len(pad) // 2):
        widths[rank - 1 - i] = (pad[2 * i], pad[2 * i + 1])
    return widths


@rule("constant_pad_nd")
def _constant_pad(self: Value, pad: Sequence[int], value: Any = 0) -> Value:
    return s.pad(self, _pairs(pad, self.rank), number(value, self.dtype))


@rule("pad")
def _pad(self: Value, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Value:
    if mode == "constant":
        return _constant_pad(self, pad, 0 if value is None else value)
    function = {"reflect": lib.reflect_pad, "replicate": lib.replicate_pad, "circular": lib.circular_pad}[mode]
    widths = [w or (0, 0) for w in _pairs(pad, self.rank)]
    cut = [(min(low, 0), min(high, 0)) for low, high in widths]
    cuts = any(map(any, cut))
    x = s.pad(self, cut, 0) if cuts and mode == "circular" else self  # what is cut off doesn't come round
    out = function(x, widths=tuple((max(low, 0), max(high, 0)) for low, high in widths))
    return s.pad(out, cut, 0) if cuts and mode != "circular" else out


@rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def _reflection_pad(self: Value, padding: Sequence[int]) -> Value:
    return _pad(self, padding, "reflect")


@rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def _replication_pad(self: Value, padding: Sequence[int]) -> Value:
    return _pad(self, padding, "replicate")


# --- sources -----------------------------------------------------------------------------------------------


def _full(shape: Sequence[int], value: Any, dtype: torch.dtype | DType | None) -> Value:
    if isinstance(value, Value):
        to = value.dtype if dtype is None else DTYPES[dtype] if isinstance(dtype, torch.dtype) else dtype
        return s.broadcast_to(e.cast(value, to), shape)
    if dtype is None:
        dtype = torch.get_default_dtype() if isinstance(value, float) else torch.tensor(value).dtype
    ours = DTYPES[dtype] if isinstance(dtype, torch.dtype) else dtype
    return s.broadcast_to(const(number(value, ours), ours), tuple(shape))


@rule("full")
def _full_rule(size: Sequence[int], fill_value: Any, *, dtype: torch.dtype | None = None) -> Value:
    return _full(size, fill_value, dtype)


@rule("zeros", "_efficientzerotensor", "empty", "empty.memory_format", "empty_strided", "empty_permuted")
def _zeros(size: Sequence[int], *_: Any, dtype: torch.dtype | None = None) -> Value:
    return _full(size, 0, dtype or torch.get_default_dtype())


@rule("ones")
def _ones(size: Sequence[int], *, dtype: torch.dtype | None = None) -> Value:
    return _full(size, 1, dtype or torch.get_default_dtype())


@rule("new_zeros", "new_empty", "new_empty_strided")
def _new_zeros(self: Value, size: Sequence[int], *_: Any, dtype: torch.dtype | None = None) -> Value:
    return _full(size, 0, dtype or self.dtype)


@rule("_new_zeros_with_same_feature_meta")
def _zero_tangent(self: Value, other: Value, *, self_num_batch_dims: int = 0) -> Value:
    return _full((*self.shape[:self_num_batch_dims], *other.shape), 0, other.dtype)


@rule("new_ones")
def _new_ones(self: Value, size: Sequence[int], *, dtype: torch.dtype | None = None) -> Value:
    return _full(size, 1, dtype or self.dtype)


@rule("new_full")
def _new_full(self: Value, size: Sequence[int], fill_value: Any, *, dtype: torch.dtype | None = None) -> Value:
    return _full(size, fill_value, dtype or self.dtype)


@rule("scalar_tensor")
def _scalar_tensor(s: Any, *, dtype: torch.dtype | None = None) -> Value:
    return _tensor(s, dtype=dtype or torch.get_default_dtype())


@rule("tensor")
def _tensor(value: Any, *, dtype: torch.dtype | None = None) -> Value:
    if isinstance(value, Value):
        return value if dtype is None else e.cast(value, DTYPES[dtype])
    return const(value, DTYPES[dtype or torch.tensor(value).dtype])


@rule("arange", "arange.start", "arange.start_step")
def _arange(start: Any, end: Any = None, step: Any = 1, *, dtype: torch.dtype | None = None) -> Value:
    if end is None:
        start, end = 0, start
    if any(isinstance(v, Value) for v in (start, end, step)):
        raise unsupported(SHAPE.why)
    if dtype is None:
        whole = all(isinstance(v, int) for v in (start, end, step))
        dtype = torch.int64 if whole else torch.get_default_dtype()
    said = start, end, step
    if not (dtype.is_floating_point or dtype.is_complex):  # torch cuts fractions off, of i64 before it counts
        start, end, step = [n if isinstance(n, int) else int(n) for n in said]
    first, last, by = (start, end, step) if dtype is torch.int64 else said
    count = max(math.ceil((last - first) / by), 0)
    to = DTYPES[dtype]
    if isinstance(start, int) and isinstance(step, int):
        line = iota(count, "i64")
        if step == -1 and start == count - 1 > 0:
            return e.cast(s.flip(line, (0,)), to)
        line = line if step == 1 else line * step
        return e.cast(line if start == 0 else line + start, to)
    line = e.cast(iota(count, "i64"), "f64")
    return e.cast(line * float(step) + float(start), to)


@rule("linspace")
def _linspace(start: Any, end: Any, steps: int, *, dtype: torch.dtype | None = None) -> Value:
    if isinstance(start, Value) or isinstance(end, Value):
        return _line_between(start, end, steps, DTYPES[dtype or torch.get_default_dtype()])
    to = DTYPES[dtype or torch.get_default_dtype()]
    if to.name in ("f32", "f64") and steps > 1:
        return lib.linspace(start=float(start), end=float(end), steps=steps, dtype=to)
    line = torch.linspace(start, end, steps, dtype=dtype)  # torch counts from both ends: its own numbers
    return const(line.view(torch.uint8).numpy().view(DTYPES[line.dtype].numpy) if steps else line.numpy())


def _line_between(start: Any, end: Any, steps: int, dtype: DType) -> Value:
    """As torch has it: counted from both ends, to the middle."""
    exact = dtype if dtype.is_float or dtype.is_complex else DType.of("f32")
    first, last = (e.cast(v, exact) if isinstance(v, Value) else const(scalar(v, exact), exact) for v in (start, end))
    if dtype.is_int:
        first, last = (e.cast(e.cast(v, dtype), exact) for v in (first, last))
    if steps < 2:
        return e.cast(s.broadcast_to(s.unsqueeze(first, (0,)), (steps,)), dtype)
    step = (last - first) / float(steps - 1)
    at = e.cast(iota(steps, "i64"), exact)
    low, high = first + step * at, last - step * (steps - 1 - at)
    return e.cast(e.where(e.less(at, float(steps // 2)), low, high), dtype)


@rule("logspace")
def _logspace(start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: torch.dtype | None = None) -> Value:
    if isinstance(start, Value) or isinstance(end, Value):
        to = DTYPES[dtype or torch.get_default_dtype()]
        exact = to if to.is_float or to.is_complex else DType.of("f32")
        line = _line_between(start, end, steps, exact)
        return e.cast(e.pow_(e.full_like(line, base), line), to)
    line = torch.logspace(start, end, steps, base, dtype=dtype)
    return const(line.view(torch.uint8).numpy().view(DTYPES[line.dtype].numpy) if steps else line.numpy())


@rule("eye", "eye.m")
def _eye(n: int, m: int | None = None, *, dtype: torch.dtype | None = None) -> Value:
    columns = n if m is None else m
    shape = s.broadcast_to(const(0, "i64"), (n, columns))
    same = e.equal(iota_like(shape, 0), iota_like(shape, 1))
    return e.cast(same, DTYPES[dtype or torch.get_default_dtype()])


# --- indexing ----------------------------------------------------------------------------------------------


def _linear_index(self: Value, indices: Sequence[Value | None]) -> tuple[Value, Value, int, list[int]]:
    """x with the indexed axes grouped into one, the index into it, its axis, and the order used.

    Follows numpy: where indexed axes aren't neighbours, the index's axes come first.
    """
    named = [i for i, index in enumerate(indices) if index is not None]
    neighbours = named == list(range(named[0], named[-1] + 1))
    at = named[0] if neighbours else 0
    rest = [i for i in range(self.rank) if i not in named]
    order = [*rest[:at], *named, *rest[at:]]
    x = s.permute(self, order)
    places = [
        e.cast(i, "i64") if i.dtype.name in ("u8", "i8", "i16") else i for i in e.align(*[indices[i] for i in named])
    ]
    signed = tuple(map(may_be_negative, places))
    plain = len(places) == 1 and not signed[0]
    total = places[0] if plain else lib.linear_index(x, *places, axis=at, signed=signed)
    x = s.group(x, [*(1,) * at, len(named), *(1,) * (len(rest) - at)])
    return x, total, at, order


def _no_masks(indices: Sequence[Value | None]) -> None:
    if any(i is not None and i.dtype.name == "bool" for i in indices):
        raise unsupported("indexing with a bool mask has a result whose shape depends on the data")


@rule("index", "index.Tensor", "_unsafe_index", "_unsafe_index.Tensor")
def _index(self: Value, indices: Sequence[Value | None]) -> Value:
    _no_masks(indices)
    if all(i is None for i in indices):
        return self
    counted = _counted(self, indices)
    if counted:
        return _index_batched(self, indices, counted)
    x, index, axis, _ = _linear_index(self, indices)
    return gather(x, index, axis)


def _counted(self: Value, indices: Sequence[Value | None]) -> dict[int, int]:
    """The indexed axes whose index only counts through them, along an axis of the index: ``x[arange(b)[:, None], i]``.

    Such an axis is carried, not indexed. Axis of ``self`` -> axis of the indices, broadcast.
    """
    named = [i for i, index in enumerate(indices) if index is not None]
    found: dict[int, int] = {}
    for axis, index in zip(named, e.align(*[indices[i] for i in named]), strict=True):
        along = counts_along(index)
        if along is not None and index.shape[along] == self.shape[axis] and along not in found.values():
            found[axis] = along
    return found


def _index_batched(self: Value, indices: Sequence[Value | None], counted: dict[int, int]) -> Value:
    """Indexing where some axes are carried: those become axes of the batch of a gather, or nothing is to gather."""
    named = [i for i, index in enumerate(indices) if index is not None]
    neighbours = named == list(range(named[0], named[-1] + 1))
    rest = [i for i in range(self.rank) if i not in named]
    at = named[0] if neighbours else 0
    shape = e.align(*[indices[i] for i in named])[0].shape
    batch = sorted(counted, key=lambda axis: counted[axis])
    other = [j for j in range(len(shape)) if j not in counted.values()]
    picked = [indices[i] if i in named and i not in counted else None for i in range(len(indices))]
    if all(i is None for i in picked):
        x = s.permute(self, [*rest[:at], *batch, *rest[at:]])
        x = s.unsqueeze(x, [at + j for j in other])
        return s.repeat(x, [shape[i - at] if i - at in other else None for i in range(x.rank)])
    x = s.permute(self, [*batch, *rest[:at], *[i for i in named if i not in counted], *rest[at:]])
    own = [None] * (len(batch) + at) + [i for i in picked if i is not None]
    x, index, axis, _ = _linear_index(x, own)
    order = [*[counted[i] for i in batch], *other]
    out = gather(x, s.permute(s.broadcast_to(index, shape), order), axis, len(batch))
    # [batch, before, other, after] -> [before, the index's axes in order, after]
    n = len(batch)
    places = {j: i for i, j in enumerate(order[:n])} | {j: n + at + i for i, j in enumerate(other)}
    inner = [places[j] for j in range(len(shape))]
    return s.permute(out, [*range(n, n + at), *inner, *range(n + at + len(other), out.rank)])


def _put_where(self: Value, mask: Value, values: Value, accumulate: bool) -> Value:
    """Values where the mask holds: one for all, or one for each place in order, as many as there are places."""
    rest = self.shape[mask.rank :]
    wide = s.unsqueeze(mask, range(mask.rank, self.rank))
    if values.rank > len(rest) and values.shape[0] != 1:
        rank = scan(e.cast(lib.reshape(mask, shape=(-1,)), "i64"), "sum", 0) - 1
        if not values.type.size:
            return self
        rows = s.broadcast_to(values, (values.shape[0], *rest))
        values = lib.reshape(gather(rows, lib.clamp(rank, low=0, high=values.shape[0] - 1)), shape=self.shape)
    elif values.rank > len(rest):
        values = s.squeeze(values, (0,))
    return e.where(wide, RULES["add"](self, values) if accumulate else values, self)


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def _index_put(self: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False, *_: Any) -> Value:
    values = e.cast(values, self.dtype)
    if len(indices) == 1 and indices[0] is not None and indices[0].dtype.name == "bool":
        return _put_where(self, indices[0], values, accumulate)
    _no_masks(indices)
    x, index, axis, order = _linear_index(self, indices)
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    kind = joining("add", self.dtype) if accumulate else "set"
    out = scatter(x, index, s.broadcast_to(values, shape), axis, 0, kind)
    out = lib.reshape(out, shape=tuple(self.shape[i] for i in order))
    return s.permute(out, [order.index(i) for i in range(self.rank)])


@rule("index_select")
def _index_select(self: Value, dim: int, index: Value) -> Value:
    if not self.rank:
        return self
    axis = normal_axis(dim, self.rank)
    flat = index if index.rank else s.unsqueeze(index, (0,))
    return gather(self, flat, axis)


@rule("take")
def _take(self: Value, index: Value) -> Value:
    line = lib.reshape(self, shape=(-1,))
    return gather(line, non_negative(index, line, 0), 0)


@rule("embedding")
def _embedding(weight: Value, indices: Value, padding_idx: int = -1, *_: Any) -> Value:
    return lib.embedding(weight, indices, padding=None if padding_idx < 0 else padding_idx)


@rule("gather")
def _gather(self: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    if not self.rank:
        return s.broadcast_to(self, index.shape)
    axis = normal_axis(dim, self.rank)
    for i, n in enumerate(index.shape):  # torch reads only as much of the other axes as the index has
        if i != axis:
            self = s.slice_axis(self, i, 0, n)
    return take_along(self, index, axis)


@rule("take_along_dim")
def _take_along_dim(self: Value, indices: Value, dim: int | None = None) -> Value:
    if dim is None:
        return take_along(lib.reshape(self, shape=(-1,)), lib.reshape(indices, shape=(-1,)), 0)
    axis = normal_axis(dim, self.rank)
    indices = non_negative(indices, self, axis)
    shape = list(torch.broadcast_shapes(*[(*v.shape[:axis], 1, *v.shape[axis + 1 :]) for v in (self, indices)]))
    own, other = list(shape), list(shape)
    own[axis], other[axis] = self.shape[axis], indices.shape[axis]
    return take_along(s.broadcast_to(self, own), s.broadcast_to(indices, other), axis)


def _scatter(self: Value, dim: int, index: Value, src: Any, kind: str) -> Value:
    if not self.rank:
        self, index = s.unsqueeze(self, (0,)), s.unsqueeze(index, (0,))
        src = s.unsqueeze(src, (0,)) if isinstance(src, Value) else src
        return s.squeeze(_scatter(self, 0, index, src, kind), (0,))
    axis = normal_axis(dim, self.rank)
    if isinstance(src, Value):
        for i, n in enumerate(index.shape):
            src = s.slice_axis(src, i, 0, n)
    else:
        src = s.broadcast_to(const(number(src, self.dtype), self.dtype), index.shape)
    part = self
    for i, n in enumerate(index.shape):
        if i != axis:
            part = s.slice_axis(part, i, 0, n)
    out = put_along(part, index, src, axis, joining(kind, self.dtype))
    return out if part is self else write_back(self, part, out)


@rule("scatter", "scatter.src", "scatter.value", "scatter.reduce", "scatter.value_reduce")
def _scatter_rule(self: Value, dim: int, index: Value, src: Any, *, reduce: str | None = None) -> Value:
    return _scatter(self, dim, index, src, reduce or "set")


@rule("scatter_add")
def _scatter_add(self: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter(self, dim, index, src, "add")


def _put_at(self: Value, dim: int, index: Value, source: Value, kind: str) -> Value:
    """Entries of an axis at a line of indices; a tensor of rank 0 has one axis of one entry, as torch has it."""
    if not self.rank:
        line = lib.reshape(source, shape=index.shape or (1,))
        return s.squeeze(_put_at(s.unsqueeze(self, (0,)), 0, index, line, kind), (0,))
    axis = normal_axis(dim, self.rank)
    index = index if index.rank else s.unsqueeze(index, (0,))
    source = s.broadcast_to(source, (*self.shape[:axis], index.shape[0], *self.shape[axis + 1 :]))
    return scatter(self, non_negative(index, self, axis), source, axis, 0, joining(kind, self.dtype))


@rule("index_add")
def _index_add(self: Value, dim: int, index: Value, source: Value, *, alpha: Any = 1) -> Value:
    if alpha != 1:
        source = RULES["mul"](source, const(number(alpha, self.dtype), self.dtype))
    return _put_at(self, dim, index, source, "add")


@rule("index_copy")
def _index_copy(self: Value, dim: int, index: Value, source: Value) -> Value:
    return _put_at(self, dim, index, source, "set")


@rule("index_fill", "index_fill.int_Scalar")
def _index_fill(self: Value, dim: int, index: Value, value: Any) -> Value:
    return _put_at(self, dim, index, _full((), value, self.dtype), "set")


@rule("slice_scatter")
def _slice_scatter(
    self: Value, src: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    part = s.slice_axis(self, dim, start, end, step)
    return write_back(self, part, s.broadcast_to(e.cast(src, self.dtype), part.shape))


@rule("select_scatter")
def _select_scatter(self: Value, src: Value, dim: int, index: int) -> Value:
    part = s.select(self, dim, index)
    return write_back(self, part, s.broadcast_to(e.cast(src, self.dtype), part.shape))


@rule("triu_indices")
def _triu_indices(row: int, col: int, offset: int = 0, *, dtype: torch.dtype | None = None) -> Value:
    return const(torch.triu_indices(row, col, offset, dtype=dtype or torch.int64).numpy())


@rule("tril_indices")
def _tril_indices(row: int, col: int, offset: int = 0, *, dtype: torch.dtype | None = None) -> Value:
    return const(torch.tril_indices(row, col, offset, dtype=dtype or torch.int64).numpy())


@rule("embedding_renorm")
def _embedding_renorm(self: Value, indices: Value, max_norm: float, norm_type: float) -> Value:
    """The rows that are looked up, scaled down to ``max_norm`` where they are longer."""
    flat = lib.reshape(indices, shape=(-1,))
    asked = scatter(s.broadcast_to(const(False), (self.shape[0],)), flat, s.broadcast_to(const(True), flat.shape))
    norm = lib.vector_norm(self, ord=float(norm_type), axes=(1,), keep=True)
    long = s.unsqueeze(asked, (1,)) & e.greater(norm, float(max_norm))
    return e.where(s.broadcast_to(long, self.shape), self * (float(max_norm) / (norm + 1e-7)), self)


@rule("one_hot")
def _one_hot(self: Value, num_classes: int = -1) -> Value:
    if num_classes < 0:
        raise unsupported(SHAPE.why + "; give one_hot num_classes")
    return lib.one_hot(self, classes=num_classes)


@rule("complex")
def _complex(real: Value, imag: Value) -> Value:
    return complex_of(real, imag)


@rule("polar")
def _polar(abs: Value, angle: Value) -> Value:
    to = "f64" if abs.dtype.name == "f64" else "f32"
    return lib.polar(e.cast(abs, to), e.cast(angle, to))


@rule("view_as_complex", "view_as_complex_copy")
def _view_as_complex(self: Value) -> Value:
    return _complex(s.select(self, -1, 0), s.select(self, -1, 1))


@rule("view_as_real", "view_as_real_copy")
def _view_as_real(self: Value) -> Value:
    return lib.stack(e.real(self), e.imag(self), axis=self.rank)
