"""What generated modules call where torch has no function of that meaning. No state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._compile import _disable_dynamo

from tdagger.errors import InputError, UnsupportedError
from tdagger.tree import Tree, aligned, flatten
from tdagger.types import DType

#: tdagger's element types in torch.
DTYPES: dict[str, torch.dtype] = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
    "f8e4m3": torch.float8_e4m3fn, "f8e5m2": torch.float8_e5m2,
    "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
    "u8": torch.uint8, "u16": torch.uint16, "u32": torch.uint32, "u64": torch.uint64,
    "bool": torch.bool, "c64": torch.complex64, "c128": torch.complex128,
}  # fmt: skip

# Element types numpy doesn't have of its own, by the integers that hold their bits.
_BITS = {torch.bfloat16: np.int16, torch.float8_e4m3fn: np.uint8, torch.float8_e5m2: np.uint8}


def from_numpy(array: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    """The tensor that shares memory with ``array`` (a copy if the array can't be written to)."""
    if not array.flags.writeable or any(s < 0 for s in array.strides):
        array = array.copy()
    bits = _BITS.get(dtype)
    return torch.from_numpy(array) if bits is None else torch.from_numpy(array.view(bits)).view(dtype)


class _ByNumpy(torch.autograd.Function):
    """An op's numpy reference, which has no derivative."""

    @staticmethod
    def forward(ctx: Any, op: Any, *tensors: Tensor) -> Any:
        ctx.op = op
        arrays = [to_numpy(t) for t in tensors]
        with np.errstate(all="ignore"):
            found = op.run(*arrays)
        several = found if isinstance(found, tuple) else (found,)
        made = [tensor_of(np.asarray(a), tensors[0].device if tensors else None) for a in several]
        ctx.mark_non_differentiable(*[t for t in made if not t.is_floating_point()])
        return tuple(made) if isinstance(found, tuple) else made[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise UnsupportedError(
            f"{ctx.op} is computed by numpy and has no derivative: say how torch computes it, "
            "tdagger.frameworks.torch.aten.extend.writes(...)"
        )


@_disable_dynamo  # torch.compiler.disable would import all of dynamo here, which takes a second
def by_numpy(op: Any, *tensors: Tensor) -> Any:
    """What an op that torch has no code for gives: computed by its numpy reference, on the CPU."""
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        raise UnsupportedError(f"{op} is computed by numpy: a trace would hold what it gave as a constant")
    return _ByNumpy.apply(op, *tensors)


def to_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A numpy array of a tensor's element type, on its memory where it lies on the CPU."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    bits = _BITS.get(plain.dtype)
    if bits is None:
        return plain.numpy()
    name = next(n for n, dtype in DTYPES.items() if dtype is plain.dtype)
    return plain.contiguous().view(torch.int16 if bits is np.int16 else torch.uint8).numpy().view(DType.of(name).numpy)


def tensor_of(array: np.ndarray[Any, Any], device: Any = None) -> Tensor:
    """The tensor of an array, on a device."""
    return from_numpy(array, DTYPES[DType.of(array.dtype).name]).to(device)


def check_sizes(holds: bool, message: str) -> None:
    """InputError with the message for sizes that the network can't have."""
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        if not holds:
            raise RuntimeError(message)
    else:
        _check_sizes(holds, message)


def _check_sizes(holds: Any, message: str) -> None:
    if _is_traced():
        holds = _untraced(lambda: bool(holds))
    if not holds:
        raise InputError(message)


def check(x: Tensor, name: str, expected: str, sizes: list[int]) -> None:
    """InputError if an input isn't a tensor of these sizes, -1 for any; ``expected`` says it to people.

    torch.fx records the call, a script has it too, and a trace or a compiled graph is made only where it passes.
    """
    if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
        if len(x.shape) != len(sizes):
            raise RuntimeError(f"input {name} must be {expected}, got {x.shape}")
        for axis in range(len(sizes)):
            if sizes[axis] != -1 and x.shape[axis] != sizes[axis]:
                raise RuntimeError(f"input {name} must be {expected}, got {x.shape}")
    else:
        _check(x, name, expected, sizes)


def _check(x: Any, name: str, expected: str, sizes: list[int]) -> None:
    if not isinstance(x, Tensor):
        raise InputError(f"input {name!r} must be {expected}, got {x!r}")
    shape: Any = x.shape
    if _is_traced():  # in which the sizes of inputs are tensors
        shape, sizes = _untraced(lambda: (x.shape, [int(n) for n in sizes]))
    if len(shape) != len(sizes):
        raise _wrong_input(name, expected, x, f"{len(shape)} axes, not {len(sizes)}")
    for axis, size in enumerate(sizes):
        if size != -1 and shape[axis] != size:
            raise _wrong_input(name, expected, x, f"axis {axis} is {shape[axis]}, not {size}")


def _is_traced() -> bool:
    return not torch.compiler.is_compiling() and torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


def _untraced(read: Callable[[], Any]) -> Any:
    """What is read in plain numbers, while a trace is made that would record it."""
    binding: Any = torch._C
    state = binding._get_tracing_state()
    binding._set_tracing_state(None)
    try:
        return read()
    finally:
        binding._set_tracing_state(state)


def _wrong_input(name: str, expected: str, got: Tensor, why: str) -> InputError:
    sizes = ", ".join(map(str, got.shape))
    return InputError(f"input {name!r} must be {expected}, got {got.dtype}[{sizes}]: {why}")


def check_constant(got: Any, name: str, expected: Any) -> None:
    """InputError if an argument isn't what it was when the network was imported."""
    if got is not expected if expected is None or isinstance(expected, bool) else got != expected:
        raise InputError(f"argument {name!r} was {expected!r} when the network was imported, got {got!r}")


def other(others: dict[str, Any], name: str, *default: Any) -> Any:
    """The keyword argument ``name``, which no parameter can be called, taken out of those that were given."""
    if name in others:
        return others.pop(name)
    if not default:
        raise InputError(f"argument {name!r} is missing")
    return default[0]


def refuse_others(others: dict[str, Any]) -> None:
    """InputError if there are keyword arguments that the network didn't have when it was imported."""
    if others:
        raise InputError(f"the network takes no argument {next(iter(others))!r}")


def filled(x: Tensor, name: str, sizes: list[int]) -> Tensor:
    """A tensor with zeros behind its entries, up to ``sizes``; an error if it has more."""
    widths: list[int] = []
    for i in range(len(sizes)):
        axis = len(sizes) - 1 - i
        if x.shape[axis] > sizes[axis]:
            raise RuntimeError(f"input {name} has {x.shape[axis]} entries in dimension {axis}, at most {sizes[axis]}")
        widths += [0, sizes[axis] - x.shape[axis]]
    return torch.nn.functional.pad(x, widths)


def unpack(name: str, value: Any, structure: Tree) -> list[Tensor]:
    """The tensors in a nested argument; InputError if it is nested otherwise than ``structure``."""
    leaves, tree = flatten(value, lambda v: isinstance(v, Tensor), name)
    return leaves if tree == structure else aligned(structure, tree, leaves, f"argument {name!r}")


def pad(x: Tensor, widths: tuple[tuple[int, int, int], ...], value: Any) -> Tensor:
    """``value`` before, after and between the entries of every axis: widths (before, after, between)."""
    shape = [a + n + max(n - 1, 0) * gap + b for n, (a, b, gap) in zip(x.shape, widths, strict=True)]
    inner = [
        slice(a, a + max(n - 1, 0) * (gap + 1) + min(n, 1), gap + 1)
        for n, (a, _, gap) in zip(x.shape, widths, strict=True)
    ]
    out = torch.full(shape, value, dtype=x.dtype, device=x.device)
    out[tuple(inner)] = x
    return out


def unfold(x: Tensor, axis: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """Windows along an axis, laid end to end."""
    span = (kernel - 1) * dilation + 1
    if x.shape[axis] < span:
        return x.narrow(axis, 0, 0)
    return x.unfold(axis, span, stride)[..., ::dilation].movedim(-1, axis + 1).flatten(axis, axis + 1)


def fold(x: Tensor, axis: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """Overlap-add of windows laid end to end along an axis; half precision is summed in float32."""
    windows = x.shape[axis] // kernel
    span = (kernel - 1) * dilation + 1
    shape = list(x.shape)
    shape[axis] = (windows - 1) * stride + span if windows else 0
    narrow = x.dtype in (torch.float16, torch.bfloat16)
    out = torch.zeros(shape, dtype=torch.float32 if narrow else x.dtype, device=x.device)
    starts = torch.arange(windows, device=x.device) * stride
    index = (starts[:, None] + torch.arange(kernel, device=x.device) * dilation).reshape(-1)
    return out.index_add(axis, index, x.to(out.dtype)).to(x.dtype)


def unmerged(
    results: tuple[Tensor, ...], axes: tuple[int, ...], count: int, shape: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Each result with axes of ``shape`` in place of ``count`` axes, from the axis of ``axes`` on."""
    return tuple(t.reshape([*t.shape[:a], *shape, *t.shape[a + count :]]) for t, a in zip(results, axes, strict=True))


def _with_batch(x: Tensor, axis: int) -> Tensor:
    """``x`` with all axes before ``axis`` as one."""
    return x if axis == 1 else x.reshape([math.prod(x.shape[:axis]), *x.shape[axis:]])


def _flat_index(x: Tensor, index: Tensor, axis: int, batch: int) -> tuple[Tensor, Tensor, list[int]]:
    """x as ``[batch n rest]``, the index as ``[batch i rest]``, and the order of x's axes for that."""
    order = [*range(batch), axis, *range(batch, axis), *range(axis + 1, x.ndim)]
    lead = math.prod(x.shape[:batch])
    moved = x.permute(order)
    rest = math.prod(moved.shape[batch + 1 :])
    flat = index.reshape(lead, math.prod(index.shape[batch:]), 1).long().expand(-1, -1, rest)
    return moved.reshape(lead, x.shape[axis], rest), flat, order


def gather(x: Tensor, index: Tensor, axis: int, batch: int) -> Tensor:
    """Entries of ``axis`` at ``index``; the first ``batch`` axes are shared. See tdagger's Gather."""
    flat, flat_index, order = _flat_index(x, index, axis, batch)
    out = flat.gather(1, flat_index)
    inner = index.ndim - batch
    out = out.reshape(*index.shape, *[x.shape[a] for a in order[batch + 1 :]])
    between = axis - batch  # the axes of x between the batch and the axis stand before the index's
    places = [*range(batch), *range(batch + inner, batch + inner + between), *range(batch, batch + inner)]
    return out.permute([*places, *range(batch + inner + between, out.ndim)])


_SCATTERS = {"multiply": "prod", "max": "amax", "min": "amin"}


def scatter(x: Tensor, index: Tensor, updates: Tensor, axis: int, batch: int, kind: str) -> Tensor:
    """x with updates put at ``index`` of ``axis``; see tdagger's Scatter."""
    flat, flat_index, order = _flat_index(x, index, axis, batch)
    inner, between = index.ndim - batch, axis - batch
    places = [*range(batch), *range(axis, axis + inner), *range(batch, axis)]
    moved = updates.permute([*places, *range(batch + between + inner, updates.ndim)]).reshape(flat_index.shape)
    if kind in ("set", "add"):
        out = flat.scatter(1, flat_index, moved) if kind == "set" else flat.scatter_add(1, flat_index, moved)
    else:
        out = flat.scatter_reduce(1, flat_index, moved, _SCATTERS[kind])
    back = [order.index(a) for a in range(x.ndim)]
    return out.reshape([x.shape[a] for a in order]).permute(back)


def place(index: Tensor, n: int, signed: bool) -> Tensor:
    """Indices into ``n`` entries, those below 0 counted from the end if ``signed``; IndexError for others.

    An entry is read at each from what has so many and takes no memory, so that torch checks it as it checks its own.
    """
    if signed:
        index = torch.where(index < 0, index + n, index)
    read = index.new_zeros(()).expand(n).index_select(0, index.reshape(-1).long())
    return index + read.reshape(index.shape)


def batch_norm_train(
    x: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor | None, bias: Tensor | None,
    momentum: float, eps: float, training: bool = True, axis: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Batch norm with the statistics of the batch, and the new running statistics; nothing is changed.

    Without running statistics, those of the batch. Unless ``training``, with the running statistics. The channels
    are at ``axis``.
    """
    shape, x = x.shape, _with_batch(x, axis)
    if mean is None or variance is None:
        axes = (0, *range(2, x.ndim))
        wide = x.float() if x.dtype.itemsize < 4 else x
        out = F.batch_norm(x, None, None, weight, bias, True, momentum, eps)
        return out if axis == 1 else out.reshape(shape), wide.mean(axes), wide.var(axes)
    mean, variance = mean.detach().clone(), variance.detach().clone()
    out = F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
    return out if axis == 1 else out.reshape(shape), mean, variance


def instance_norm_train(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, momentum: float,
    eps: float, training: bool = True, axis: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Instance norm like :func:`batch_norm_train`."""
    shape, x = x.shape, _with_batch(x, axis)
    mean, variance = mean.detach().clone(), variance.detach().clone()
    out = F.instance_norm(x, mean, variance, weight, bias, training, momentum, eps)
    return out if axis == 1 else out.reshape(shape), mean, variance


def straight_through(x: Tensor, new: Tensor) -> Tensor:
    """``new``, whose gradient goes to ``x``."""
    out = x.clone()
    out.detach().copy_(new.detach())
    return out


# --- numbers of few bits -------------------------------------------------------------------------------------


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int, dtype: torch.dtype,
    axis: int | None = None, block: int = 0,
) -> Tensor:  # fmt: skip
    """``round(x / scale) + zero_point`` in ``low`` to ``high``, NaN as ``low``: ONNX's QuantizeLinear."""
    return _to_whole(x.to(scale.dtype) / _spread(scale, x, axis, block), x, zero_point, low, high, dtype, axis, block)


def quantize_by_reciprocal(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int, dtype: torch.dtype,
    axis: int | None = None, block: int = 0,
) -> Tensor:  # fmt: skip
    """The same times the reciprocal of the scale, NaN as 0: torch's quantized_decomposed."""
    times = _spread(1.0 / scale, x, axis, block)
    times = times.float() if times.dim() == 0 else times
    return _to_whole(x.float() * times, x, zero_point, low, high, dtype, axis, block, 0)


def _to_whole(
    y: Tensor, x: Tensor, zero_point: Tensor | None, low: int, high: int, dtype: torch.dtype, axis: int | None,
    block: int, nothing: int | None = None,
) -> Tensor:  # fmt: skip
    y = (y.float() if y.element_size() < 4 else y).round()
    y = y.double() if dtype is torch.int32 else y  # whose ends float32 doesn't hold
    if zero_point is not None:
        y = y + _spread(zero_point, x, axis, block).to(y.dtype)
    return y.clamp_(low, high).nan_to_num_(low if nothing is None else nothing).to(dtype)


def dequantize(x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None = None, block: int = 0) -> Tensor:
    """``(x - zero_point) * scale``."""
    wide = torch.int64 if x.element_size() > 2 else torch.float32  # which holds differences of 16 bits
    less = x if zero_point is None else x.to(wide) - _spread(zero_point, x, axis, block).to(wide)
    return less.to(scale.dtype) * _spread(scale, x, axis, block)


def quantized_and_read(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int, axis: int | None, block: int
) -> Tensor:
    """``dequantize(quantize(x))`` without the integers between, of 16 bits at most; no gradients."""
    each = _spread(scale, x, axis, block)
    y = (x / each).round_()
    zero = None if zero_point is None else _spread(zero_point, x, axis, block).to(y.dtype)
    if zero is not None:
        y.add_(zero)
    y.clamp_(low, high).nan_to_num_(low)
    return (y if zero is None else y.sub_(zero)).mul_(each)


def _spread(v: Tensor, x: Tensor, axis: int | None, block: int) -> Tensor:
    """A scale in a shape that broadcasts with x: a number, one for each entry of an axis, or for each block of it."""
    if v.numel() == 1:
        return v.reshape(())
    if axis is None:
        return v
    if not block:
        return v.reshape(-1, *(1,) * (x.dim() - axis - 1))
    return v.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])


def shift_right(x: Tensor, by: Tensor | int) -> Tensor:
    """A logical shift of 64 bits held in int64 (0 for shifts of 64 and more)."""
    by = torch.as_tensor(by, device=x.device)
    mask = ~(torch.full_like(by, -1) << (64 - by.clamp(1, 64)))  # 64 - by ones
    shifted = (x >> by.clamp(0, 63)) & torch.where(by >= 64, 0, mask)
    return torch.where(by == 0, x, shifted)


# --- random numbers: bit for bit as tdagger's -----------------------------------------------------------------

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_STEP = 0x9E3779B97F4A7C15


def cond(predicate: Tensor, then: Callable[..., Any], otherwise: Callable[..., Any], operands: tuple[Any, ...]) -> Any:
    """What one of two functions gives: the one is called that the predicate says, and recorded as ``torch.cond``.

    A trace holds both and a ``where``, as do tensors without data.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return torch.cond(predicate, _copying(then), _copying(otherwise), operands)
    if not torch.jit.is_tracing() and not predicate.is_meta:  # pyright: ignore[reportPrivateImportUsage]
        return (then if predicate else otherwise)(*operands)
    a, b = then(*operands), otherwise(*operands)
    if isinstance(a, Tensor):
        return torch.where(predicate, a, b)
    return tuple(torch.where(predicate, x, y) for x, y in zip(a, b, strict=True))


def _copying(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its results never its arguments, as torch.cond wants it."""

    def call(*operands: Any) -> Any:
        out = function(*operands)
        return tuple(x.clone() for x in out) if isinstance(out, tuple) else out.clone()

    return call


def seed_of(seed: Tensor | int | None, like: Tensor | None) -> Tensor:
    """A seed as a uint64 of rank 0 on the device of ``like``; None draws one from torch's default generator."""
    device = None if like is None else like.device
    if seed is None:
        seed = torch.randint(2**63 - 1, ())
    elif isinstance(seed, int):
        seed = torch.tensor(seed % 2**64, dtype=torch.uint64)
    if seed.shape != () or seed.dtype not in (torch.uint64, torch.int64):
        raise InputError(f"the seed must be a whole number or a uint64 of rank 0, got {seed.dtype}{list(seed.shape)}")
    return seed.view(torch.uint64).to(device)


def stream(seed: Tensor, number: int) -> Tensor:
    """The seed of stream ``number`` of a seed."""
    return (seed.to(torch.int64) ^ (number * _STEP % 2**63)).to(torch.uint64)


def _bits(seed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """64 random bits for each place, as int64 (TorchScript can't trace a view as another element type)."""
    key = seed.to(torch.int64)
    k0, k1 = (key >> 32).to(torch.int32), (key & 0xFFFFFFFF).to(torch.int32)
    keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
    counter = torch.arange(math.prod(shape), device=seed.device)
    a = (counter >> 32).to(torch.int32) + keys[0]
    b = counter.to(torch.int32) + keys[1]
    for round_ in range(5):
        for r in _ROTATIONS[round_ % 2]:
            a = a + b
            b = ((b << r) | ((b >> (32 - r)) & ((1 << r) - 1))) ^ a
        a = a + keys[(round_ + 1) % 3]
        b = b + keys[(round_ + 2) % 3] + (round_ + 1)
    return ((a.to(torch.int64) << 32) | (b.to(torch.int64) & 0xFFFFFFFF)).reshape(shape)


def random_bits(seed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """64 random bits for each place (uint64), by Threefry-2x32."""
    return _bits(seed, shape).to(torch.uint64)


def _whole(seed: Tensor, shape: tuple[int, ...], bits: int) -> Tensor:
    """Random integers of 0 .. 2^bits - 1, int64."""
    return (_bits(seed, shape) >> (64 - bits)) & ((1 << bits) - 1)


_DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def uniform(seed: Tensor, shape: tuple[int, ...], dtype: torch.dtype, low: float, high: float) -> Tensor:
    """Random floats of ``low`` to ``high``."""
    digits = _DIGITS[dtype]
    x = _whole(seed, shape, digits).to(dtype) * 2.0**-digits
    if (low, high) == (0.0, 1.0):
        return x
    return ((x.float() if dtype.itemsize < 4 else x) * (high - low) + low).to(dtype)


def normal(seed: Tensor, shape: tuple[int, ...], dtype: torch.dtype, mean: float, std: float) -> Tensor:
    """Random floats of the normal distribution."""
    u = (_whole(seed, shape, 53).to(torch.float64) + 0.5) * 2.0**-52 - 1.0
    z = torch.erfinv(u) * (math.sqrt(2) * std)
    return (z + mean if mean else z).to(dtype)


def exponential(seed: Tensor, shape: tuple[int, ...], dtype: torch.dtype, rate: float) -> Tensor:
    """Random floats of the exponential distribution."""
    u = (_whole(seed, shape, 53).to(torch.float64) + 0.5) * 2.0**-53
    return (-torch.log(u) / rate).to(dtype)


def random_integers(seed: Tensor, shape: tuple[int, ...], low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Random integers of ``low`` to ``high - 1``."""
    return (_whole(seed, shape, 63) % (high - low) + low).to(dtype)


def permutation(seed: Tensor, size: int) -> Tensor:
    """The numbers 0 .. size - 1 in random order."""
    return torch.argsort(_whole(seed, (size,), 63), stable=True)


def bernoulli(seed: Tensor, p: Tensor | None, shape: tuple[int, ...], rate: float) -> Tensor:
    """True with the probability of each place, or ``rate`` everywhere."""
    if p is None:
        return _whole(seed, shape, 53) < round(rate * 2**53)
    return _whole(seed, tuple(p.shape), 53).to(torch.float64) * 2.0**-53 < p.to(torch.float64)


def _mask(x: Tensor, seed: Tensor, p: float, features: bool, axis: int) -> Tensor:
    shape = (*x.shape[: axis + 1], *(1,) * (x.ndim - axis - 1)) if features else tuple(x.shape)
    return bernoulli(seed, None, shape, 1 - p)


def dropout_train(x: Tensor, seed: Tensor, p: float, features: bool, training: bool, axis: int = 1) -> Tensor:
    """Dropout by a seed; ``x`` itself unless ``training``."""
    if not training:
        return x
    wide = x.float() if x.dtype.itemsize < 4 else x
    return torch.where(_mask(x, seed, p, features, axis), (wide * (1 / (1 - p) if p < 1 else 0.0)).to(x.dtype), 0.0)


_SATURATED = -1.7580993408473766


def alpha_dropout_train(x: Tensor, seed: Tensor, p: float, features: bool, training: bool, axis: int = 1) -> Tensor:
    """Alpha dropout by a seed; ``x`` itself unless ``training``."""
    if not training:
        return x
    a = 1 / math.sqrt((_SATURATED**2 * p + 1) * (1 - p)) if p < 1 else 0.0
    y = torch.where(_mask(x, seed, p, features, axis), x.float() if x.dtype.itemsize < 4 else x, _SATURATED)
    return (y * a - a * p * _SATURATED).to(x.dtype)


def grouped_matmul(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Each row of x ``[m k]`` times the matrix of its group, of weight ``[g k n]``; rows after the last end give 0.

    torch's own kernel leaves those rows unset, and in torch 2.13 can be compiled and exported for bfloat16 only.
    """
    group = torch.searchsorted(ends, torch.arange(x.shape[0], device=x.device, dtype=ends.dtype), right=True)
    if x.dtype is torch.bfloat16 or not torch.compiler.is_compiling():
        out = F.grouped_mm(x.contiguous(), weight, offs=ends.int())
    else:
        out = (x.unsqueeze(1) @ weight[group.clamp(max=weight.shape[0] - 1)]).squeeze(1)
    return out.masked_fill((group >= weight.shape[0]).unsqueeze(1), 0)


#: torch.fx records calls of what goes by shapes or looks at values, which its stand-ins don't have.
RECORDED = (
    "check", "check_sizes", "check_constant", "other", "refuse_others", "unpack", "pad", "unfold", "fold", "unmerged",
    "gather", "scatter", "place", "batch_norm_train", "instance_norm_train", "straight_through", "shift_right",
    "seed_of", "stream", "random_bits", "uniform", "normal", "exponential", "random_integers", "permutation",
    "bernoulli", "dropout_train", "alpha_dropout_train", "grouped_matmul", "by_numpy",
)  # fmt: skip
for _name in RECORDED:
    torch.fx.wrap(_name)
