"""MIL's products, convolutions, pools and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.coreml.ops.table import Bool, Int, Ints, Str, Values, rule, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops.structure import pad, slice_axis, transpose, unsqueeze

Pairs = tuple[tuple[int, int], ...]

# --- products ----------------------------------------------------------------------------------------------


def _alike(*values: Value | None) -> list[Any]:
    """Values in one element type: floats before whole numbers, the wider before the narrower."""
    given = [v.dtype for v in values if v is not None]
    to = max(given, key=lambda d: (d.is_float, d.bytes))
    return [v if v is None or v.dtype is to else e.cast(v, to) for v in values]


@rule("linear")
def _linear(x: Value, weight: Value, bias: Value | None = None, *, dtypes: Any) -> Value:
    """Of several element types (iOS17) the result has the declared one, as that of ``matmul`` has."""
    return e.cast(lib.linear(*_alike(x, weight, bias)), dtypes[0])


@rule("matmul")
def _matmul(x: Value, y: Value, transpose_x: Bool = False, transpose_y: Bool = False, *, dtypes: Any = ()) -> Value:
    a, b = _alike(x, y)
    a = transpose(a, -2, -1) if transpose_x and a.rank > 1 else a
    b = transpose(b, -2, -1) if transpose_y and b.rank > 1 else b
    return e.cast(lib.matmul(a, b), dtypes[0] if dtypes else a.dtype)


@rule("einsum")
def _einsum(values: Values, equation: Str) -> Value:
    return lib.einsum(*values, equation=equation.replace(" ", ""))


@rule("scaled_dot_product_attention")
def _attention(query: Value, key: Value, value: Value, attn_mask: Value | None = None) -> Value:
    return lib.scaled_dot_product_attention(query, key, value, attn_mask)


# --- convolutions ------------------------------------------------------------------------------------------


def per_axis(given: Sequence[int] | None, count: int, what: str) -> tuple[int, ...]:
    """A number for each spatial axis, 1 where none are given."""
    found = tuple(given) if given is not None else (1,) * count
    if len(found) != count or any(n < 1 for n in found):
        raise unsupported(f"its {what} {list(found)} should be {count} numbers above 0")
    return found


def padding(
    kind: str, given: Sequence[int] | None, sizes: Sequence[int], span: Sequence[int], stride: Sequence[int]
) -> Pairs:
    """What is padded before and after each spatial axis: with ``same`` the odd entry goes after, or before."""
    count = len(sizes)
    if kind == "valid":
        return ((0, 0),) * count
    if kind == "custom":
        if given is None or len(given) != 2 * count:
            raise unsupported(f"its pad {given} should be two numbers for each of {count} axes")
        return tuple(zip(given[::2], given[1::2], strict=True))
    if kind not in ("same", "same_lower"):
        raise unsupported(f"its pad_type {kind} is none of valid, custom, same, same_lower")
    found: list[tuple[int, int]] = []
    for n, k, s in zip(sizes, span, stride, strict=True):
        total = max(0, s * -(-n // s) - n + k - s)
        few = total // 2
        found.append((few, total - few) if kind == "same" else (total - few, few))
    return tuple(found)


def _spans(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    return tuple([(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)])


def _checked(x: Value, weight: Value) -> int:
    if x.rank != weight.rank or x.rank < 3:
        raise unsupported(f"its input {x.type} and weight {weight.type} should have one rank, of 3 or more")
    return x.rank - 2


@rule("conv")
def _conv(
    x: Value, weight: Value, bias: Value | None = None, strides: Ints | None = None, pad_type: Str = "valid",
    pad: Ints | None = None, dilations: Ints | None = None, groups: Int = 1,
) -> Value:  # fmt: skip
    n = _checked(x, weight)
    stride, dilation = per_axis(strides, n, "strides"), per_axis(dilations, n, "dilations")
    pairs = padding(pad_type, pad, x.shape[2:], _spans(weight.shape[2:], dilation), stride)
    return lib.convolution(x, weight, bias, stride=stride, padding=pairs, dilation=dilation, groups=groups)


@rule("conv_transpose")
def _conv_transpose(
    x: Value, weight: Value, bias: Value | None = None, pad: Ints | None = None, output_shape: Ints | None = None,
    pad_type: Str = "valid", strides: Ints | None = None, dilations: Ints | None = None, groups: Int = 1,
) -> Value:  # fmt: skip
    """The convolution's adjoint. With an ``output_shape`` or ``same`` what is beyond that is cut off on both sides."""
    n = _checked(x, weight)
    stride, dilation = per_axis(strides, n, "strides"), per_axis(dilations, n, "dilations")
    span = _spans(weight.shape[2:], dilation)
    full = [(m - 1) * s + w for m, s, w in zip(x.shape[2:], stride, span, strict=True)]
    cut = _cut_off(pad_type, pad, output_shape, x.shape[2:], stride, full)
    low = tuple([a for a, _ in cut])
    more = tuple([a - b for a, b in cut])
    same: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups}
    if all(a >= 0 and 0 <= o < max(s, d) for a, o, s, d in zip(low, more, stride, dilation, strict=True)):
        return lib.convolution_transpose(x, weight, bias, padding=low, output_padding=more, **same)
    out = lib.convolution_transpose(x, weight, padding=0, output_padding=0, **same)
    out = _resized(out, [(-a, -b) for a, b in cut])
    return out if bias is None else out + unsqueeze(bias, range(1, 1 + n))


def _resized(x: Value, widths: Sequence[tuple[int, int]]) -> Value:
    return pad(x, [(0, 0)] * (x.rank - len(widths)) + list(widths))


def _cut_off(
    kind: str, given: Sequence[int] | None, output_shape: Sequence[int] | None, sizes: Sequence[int],
    stride: Sequence[int], full: Sequence[int],
) -> Pairs:  # fmt: skip
    n = len(sizes)
    if kind == "custom" and given is not None and len(given) == 2 * n:
        pairs = list(zip(given[::2], given[1::2], strict=True))
    else:
        pairs = [(0, 0)] * n
    wanted = None if output_shape is None else tuple(output_shape)[-n:]
    if wanted is None and kind in ("same", "same_lower"):
        wanted = tuple([m * s for m, s in zip(sizes, stride, strict=True)])
    if wanted is None:
        return tuple(pairs)
    found: list[tuple[int, int]] = []
    for f, w, (a, _) in zip(full, wanted, pairs, strict=True):
        total = f - w
        if kind == "custom":
            found.append((a, total - a))
        elif kind == "valid":
            found.append((0, total))
        else:
            few = total // 2
            found.append((few, total - few) if kind == "same" else (total - few, few))
    return tuple(found)


# --- pools -------------------------------------------------------------------------------------------------


def _windows(x: Value, kernel: Sequence[int], strides: Ints | None, kind: str, given: Ints | None, up: bool) -> Any:
    n = x.rank - 2
    if len(kernel) != n or n < 1:
        raise unsupported(f"its kernel_sizes {list(kernel)} don't fit its input {x.type}")
    stride = per_axis(strides, n, "strides")
    pairs = padding(kind, given, x.shape[2:], kernel, stride)
    plain = all(a == b and a <= k // 2 for (a, b), k in zip(pairs, kernel, strict=True))
    options: dict[str, Any] = {"kernel": tuple(kernel), "stride": stride, "ceil": up}
    options["padding"] = tuple([a for a, _ in pairs]) if plain else (0,) * n
    if up and not plain:
        raise unsupported(f"its sizes are rounded up, and its padding {list(pairs)} isn't that of both sides")
    return pairs, plain, options


@rule("max_pool")
def _max_pool(
    x: Value, kernel_sizes: Ints, strides: Ints | None = None, pad_type: Str = "valid", pad: Ints | None = None,
    ceil_mode: Bool = False,
) -> Value:  # fmt: skip
    pairs, plain, options = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    y = x if plain else _padded(x, pairs, -math.inf)
    return lib.max_pool(y, dilation=(1,) * len(kernel_sizes), **options)


def _padded(x: Value, pairs: Pairs, fill: float) -> Value:
    return pad(x, [(0, 0), (0, 0), *pairs], fill)


@rule("avg_pool")
def _avg_pool(
    x: Value, kernel_sizes: Ints, strides: Ints | None = None, pad_type: Str = "valid", pad: Ints | None = None,
    exclude_padding_from_average: Bool = False, ceil_mode: Bool = False,
) -> Value:  # fmt: skip
    pairs, plain, options = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    if plain:
        return lib.avg_pool(x, count_include_pad=not exclude_padding_from_average, **options)
    total = lib.avg_pool(_padded(x, pairs, 0.0), **options)
    if not exclude_padding_from_average:
        return total
    inside = _padded(e.full_like(slice_axis(slice_axis(x, 0, 0, 1), 1, 0, 1), 1.0), pairs, 0.0)
    return lib.divide(total, lib.avg_pool(inside, **options))


@rule("l2_pool")
def _l2_pool(
    x: Value, kernel_sizes: Ints, strides: Ints | None = None, pad_type: Str = "valid", pad: Ints | None = None,
    ceil_mode: Bool = False,
) -> Value:  # fmt: skip
    """The root of the sum of the squares of each window."""
    pairs, _, options = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    options["padding"] = (0,) * len(kernel_sizes)
    y = _padded(lib.square(x), pairs, 0.0) if any(map(any, pairs)) else lib.square(x)
    return e.sqrt(lib.avg_pool(y, **options) * float(math.prod(kernel_sizes)))
