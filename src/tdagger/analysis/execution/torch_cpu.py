"""What torch's kernels on the CPU make and hold: the declared table of the backend ``torch-cpu``.

For one thread, without gradients, in float32 on a processor with vectors of 16 floats (AVX-512): oneDNN lays channels
out in blocks of 16. ``docs/memory.md`` says of every kind of kernel why it holds what it holds, and how well the
table does. All sizes are of torch's allocator; a few bytes for numbers (a divisor, a flag) aren't listed.
"""

from __future__ import annotations

import math

from tdagger.analysis.execution.layout import (
    channels_last,
    contiguous,
    is_channels_last,
    is_contiguous,
    is_dense,
    like,
)
from tdagger.analysis.execution.torch_products import LANES as LANES
from tdagger.analysis.execution.torch_products import (
    attention,
    attribute,
    convolution,
    copy_of,
    einsum,
    linear,
    lstm,
    matmul,
    recurrent,
    transposed_convolution,
)
from tdagger.analysis.execution.tracing import (
    STRUCTURE,
    Backend,
    Call,
    Kernel,
    Made,
    Rule,
    elementwise,
    part_of_complex,
    reshape,
    trace,
)
from tdagger.ops.source import Const, Iota, Leaf

#: The sum of two sides up to which an image is resized with its channels last.
_SMALL_IMAGE = 128


def _itself(c: Call) -> Kernel:
    return c.view(c.strides[0])


def _unary(c: Call) -> Kernel:
    return part_of_complex(c) or elementwise(c)


def _bitcast(c: Call) -> Kernel:
    """A view of any strides, as entries stay as large."""
    return _itself(c)


def _of_contiguous(c: Call) -> Kernel:
    """A kernel that takes a contiguous first argument, copies it if need be, and makes contiguous results."""
    return c.contiguous(copy_of(c))


def _slice(c: Call) -> Kernel:
    """torch has no views with negative steps: the entries are flipped in a copy."""
    if any(b is not None and b[2] < 0 and len(range(*b)) > 1 for b in attribute(c, "bounds")):
        return elementwise(c)
    return STRUCTURE["slice"](c)


def _preserving(c: Call) -> Kernel:
    """What ``empty_like`` makes: the argument's strides if it is dense."""
    shape, strides = c.types[0].shape, c.strides[0]
    return c.fresh(strides if is_dense(shape, strides) else like(shape, [strides]))


def _cast(c: Call) -> Kernel:
    return _itself(c) if c.types[0].dtype is c.out[0].dtype else _preserving(c)


# --- norms, pools, the rest --------------------------------------------------------------------------------


def _layer_norm(c: Call) -> Kernel:
    """Mean and root of every row; torch wants rows side by side."""
    x = c.types[0]
    rows = math.prod(x.shape[: x.rank - attribute(c, "rank")])
    return c.contiguous(copy_of(c) + 8 * rows)


def _rms_norm(c: Call) -> Kernel:
    """Squares, their mean, the scaled rows, then times the weight: one after the other."""
    return c.contiguous(c.out[0].bytes)


def _batch_norm(c: Call) -> Kernel:
    x = c.types[0]
    last = is_channels_last(x.shape, c.strides[0])
    scratch = 0 if last or is_dense(x.shape, c.strides[0]) else copy_of(c)
    channels = x.shape[int(attribute(c, "axis"))]
    return c.fresh(c.strides[0] if last else contiguous(x.shape), scratch + 8 * channels)


def _group_norm(c: Call) -> Kernel:
    x = c.types[0]
    last = is_channels_last(x.shape, c.strides[0])
    scratch = 0 if last else copy_of(c)
    batch = math.prod(x.shape[: attribute(c, "axis")])
    return c.fresh(c.strides[0] if last else contiguous(x.shape), scratch + 8 * batch * attribute(c, "groups"))


def _pooled(c: Call, scratch: int = 0) -> Kernel:
    """A pool: its result has the channels where the argument has them."""
    out = c.out[0]
    last = is_channels_last(c.types[0].shape, c.strides[0])
    strides = channels_last(out.shape) if last else contiguous(out.shape)
    copied = 0 if last else copy_of(c)
    return Kernel(tuple([Made(strides, None, t.bytes) for t in c.out]), scratch + copied)


def _max_pool(c: Call) -> Kernel:
    """torch also notes where each maximum was, in int64; not along one axis."""
    notes = len(c.out) == 1 and len(c.op.attributes.get("kernel", (1, 1))) > 1
    return _pooled(c, 8 * c.out[0].size if notes else 0)


def _interpolate(c: Call) -> Kernel:
    """Small images go by way of channels last; smoothing goes axis by axis; cubic has a table for each axis."""
    x, out = c.types[0], c.out[0]
    mode, size = attribute(c, "mode"), attribute(c, "size")
    if attribute(c, "antialias"):
        return _pooled(c, math.prod((*x.shape[:-1], out.shape[-1])) * x.dtype.bytes)
    if len(size) == 2 and mode in ("nearest", "linear") and sum(size) <= _SMALL_IMAGE:
        return _pooled(c, 0 if is_channels_last(x.shape, c.strides[0]) else x.bytes + out.bytes)
    return _pooled(c, 48 * sum(size) if mode == "cubic" else 0)


def _roll(c: Call) -> Kernel:
    """Along one axis the two parts are joined; along several, one after the other."""
    return c.contiguous(c.types[0].bytes if len(attribute(c, "axes")) > 1 else copy_of(c))


def _concat(c: Call) -> Kernel:
    shape = c.out[0].shape
    last = len(shape) == 4 and all(is_channels_last(t.shape, s) for t, s in zip(c.types, c.strides, strict=True))
    return c.fresh(channels_last(shape) if last else contiguous(shape))


def _pad(c: Call) -> Kernel:
    """A larger tensor filled and copied into; without widths the argument itself."""
    if c.types[0] is c.out[0]:
        return _itself(c)
    last = is_channels_last(c.types[0].shape, c.strides[0])
    return c.fresh(channels_last(c.out[0].shape) if last else contiguous(c.out[0].shape))


def _normalize(c: Call) -> Kernel:
    """The norm, clamped, repeated, then the quotient."""
    return c.fresh(like(c.out[0].shape, c.strides[:1]))


def _logsumexp(c: Call) -> Kernel:
    """The maximum, and the exp of the differences from it."""
    return c.contiguous(c.types[0].bytes + c.out[0].bytes)


def _median(c: Call) -> Kernel:
    """Rows are picked from in a copy, unless the axis is the last one of a contiguous argument."""
    x = c.types[0]
    last = attribute(c, "axis") == x.rank - 1 and is_contiguous(x.shape, c.strides[0])
    return c.contiguous(0 if last else x.bytes)


def _quantile(c: Call) -> Kernel:
    """The argument sorted, the places of its entries in int64, and a row of both while it is sorted."""
    x = c.types[0]
    row = int(x.shape[int(attribute(c, "axis"))]) * (x.dtype.bytes + 4)
    return c.contiguous(max(x.bytes + 8 * x.size + row - c.out[0].bytes, 0))


def _linear_index(c: Call) -> Kernel:
    """What was counted so far; which indices are negative, and these counted from the end."""
    out = c.out[0]
    signed = any(attribute(c, "signed"))
    return c.contiguous((len(c.types) > 2) * out.bytes + signed * (out.bytes + out.size))


def _unfolded(c: Call) -> Kernel:
    """torch makes a tensor like the argument first and then a larger one."""
    return c.contiguous(c.types[0].bytes)


def _bilinear(c: Call) -> Kernel:
    """Without the bias first."""
    return c.contiguous(c.out[0].bytes)


def _grouped(c: Call) -> Kernel:
    """The product, then with the rows of no group zero; and the group of every row."""
    return c.contiguous(copy_of(c) + c.out[0].bytes + 9 * c.types[0].shape[0])


def _quantized(c: Call) -> Kernel:
    """The quotient rounded, within the ends, and without NaN, each in f32 at least, then the integers."""
    x, out = c.types[0], c.out[0]
    wide = 8 if out.dtype.name == "i32" else max(x.dtype.bytes, 4)
    return c.fresh(like(out.shape, c.strides[:1]), 2 * wide * x.size - out.bytes)


def _dequantized(c: Call) -> Kernel:
    """The difference from the zero point, in f32 or of long integers in longer ones, then the product."""
    x, out = c.types[0], c.out[0]
    extra = out.bytes if len(c.types) < 3 else 4 * x.size if x.dtype.bytes <= 2 else 8 * x.size + out.bytes
    return c.fresh(like(out.shape, c.strides[:1]), extra)


def _integer_convolution(c: Call) -> Kernel:
    """Channels last, as which its input is copied unless it is so."""
    x, out = c.types[0], c.out[0]
    return c.fresh(channels_last(out.shape), 0 if is_channels_last(x.shape, c.strides[0]) else x.bytes)


def _cond(c: Call) -> Kernel:
    """Either branch; the one that needs more."""
    branches = (attribute(c, "then"), attribute(c, "otherwise"))
    most = max(trace(branch, TORCH_CPU).peak_bytes for branch in branches)
    return c.contiguous(max(most - sum(t.bytes for t in c.out), 0))


def _diagonal(c: Call) -> Kernel:
    strides = c.strides[0]
    a, b = (int(attribute(c, n)) % len(strides) for n in ("axis0", "axis1"))
    return c.view((*[s for i, s in enumerate(strides) if i not in (a, b)], strides[a] + strides[b]))


#: Kernels that make one entry of the result of one of each argument, with nothing besides.
_ELEMENTWISE = (
    "unary", "binary", "where", "subtract", "divide", "square", "rsqrt", "exp2", "log2", "log10", "trunc_divide",
    "lerp", "logaddexp", "hypot", "xlogy", "sinc", "entr", "xlog1py", "copysign", "polar", "at_least", "at_most",
    "binary_cross_entropy", "huber_loss", "smooth_l1_loss", "fmax", "fmin", "heaviside", "clamp", "nan_to_num",
    "relu", "relu6",
    "leaky_relu", "elu", "selu", "celu", "prelu", "gelu", "silu", "mish", "sigmoid", "log_sigmoid", "hardtanh",
    "hard_sigmoid", "hard_swish", "softplus", "softsign", "tanh_shrink", "soft_shrink", "hard_shrink", "threshold",
    "logit", "airy_ai", "bessel_i0", "bessel_i0e", "bessel_i1", "bessel_i1e", "bessel_j0", "bessel_j1", "bessel_k0",
    "bessel_k0e", "bessel_k1", "bessel_k1e", "bessel_y0", "bessel_y1", "spherical_bessel_j0", "digamma", "erfcx",
    "log_ndtr", "ndtri",
)  # fmt: skip

#: Kernels whose results are contiguous, with nothing worth counting besides.
_PLAIN = (
    "tile", "glu", "mean", "variance", "std", "argmax", "argmin", "largest", "smallest", "vector_norm",
    "logcumsumexp", "sort", "topk",
    "stack", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle", "tril", "triu", "reflect_pad", "replicate_pad",
    "circular_pad", "one_hot", "fft", "addmm", "baddbmm", "embedding", "local_response_norm", "grid_sample", "gaussian",
    "stream", "uniform", "normal", "exponential", "random_integers", "permutation", "bernoulli", "dropout_train",
    "alpha_dropout_train", "batch_norm_train", "instance_norm_train", "integer_linear",
)  # fmt: skip

_RULES: dict[str, Rule] = {
    **STRUCTURE,
    **dict.fromkeys(_ELEMENTWISE, elementwise),
    "unary": _unary,
    "bitcast": _bitcast,
    "filled": _preserving,
    "linspace": Call.contiguous,
    "pdist": _of_contiguous,
    "kthvalue": _median,
    "median": _median,
    "mode": _median,
    "quantile": _quantile,
    "linear_index": _linear_index,
    "slice": _slice,
    "reshape": reshape,
    "cast": _cast,
    "dropout": _itself,
    "stop_gradient": _itself,
    "diagonal": _diagonal,
    "pad": _pad,
    "concat": _concat,
    "straight_through": elementwise,
    "roll": _roll,
    # products
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": attention,
    "convolution": convolution,
    "convolution_transpose": transposed_convolution,
    "integer_convolution": _integer_convolution,
    # norms
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _of_contiguous,
    "softmax": _of_contiguous,
    "log_softmax": _of_contiguous,
    "normalize": _normalize,
    # pools
    "max_pool": _max_pool,
    "max_pool_with_indices": _max_pool,
    "avg_pool": _pooled,
    "adaptive_avg_pool": _pooled,
    "adaptive_max_pool": _max_pool,
    "adaptive_max_pool_with_indices": _max_pool,
    "interpolate": _interpolate,
    "logsumexp": _logsumexp,
    "im2col": _unfolded,
    "col2im": _unfolded,
    "einsum": einsum,
    "cond": _cond,
    "quantize": _quantized,
    "dequantize": _dequantized,
    "bilinear": _bilinear,
    "grouped_matmul": _grouped,
    "lstm": lstm,
    "gru": recurrent,
    "rnn": recurrent,
    **dict.fromkeys(_PLAIN, Call.contiguous),
}

#: What the module of :meth:`TensorDAG.to_torch` holds. Iotas are ready, composites torch hasn't are their bodies.
TORCH_CPU = Backend("torch-cpu", _RULES, inlines=True, held=(Leaf, Const, Iota))
