"""ONNX's normalisations, and dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.known import number_of
from tdagger.frameworks.onnx.ops.layers.windows import short
from tdagger.frameworks.onnx.ops.table import Ints, Statistic, rule, unsupported
from tdagger.library.linear import wide
from tdagger.op import Value
from tdagger.ops.elementwise import cast, equal, full_like, greater_equal, not_equal, sqrt, where
from tdagger.ops.structure import flip
from tdagger.types import bool_

# --- batch norm --------------------------------------------------------------------------------------------


@rule("BatchNormalization", since=7)
def _batch_norm_7(
    X: Value, scale: Value, B: Value, mean: Statistic, var: Statistic, *, epsilon: float = 1e-5,
    momentum: float = 0.9, spatial: int = 1, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """More outputs than one mean training, which these versions don't say enough of."""
    if any(wanted[1:]):
        raise unsupported("its outputs of training are of a version that doesn't say which variance they have")
    if not spatial:
        return _of_each_place(X, scale, B, mean, var, epsilon)
    return _batch_norm(X, scale, B, mean, var, epsilon, momentum)


def _of_each_place(X: Value, scale: Value, B: Value, mean: Value, var: Value, epsilon: float) -> Value:
    """With spatial = 0 there are statistics of each place: ``[c h w]``."""
    factor = scale / sqrt(var + epsilon)
    return (X - mean) * factor + B


def _batch_norm(X: Value, scale: Value, B: Value, mean: Value, var: Value, epsilon: float, momentum: float) -> Value:
    return lib.batch_norm(X, mean, var, scale, B, eps=short(epsilon), momentum=short(1 - short(momentum)))


@rule("BatchNormalization", since=14)
def _batch_norm_14(
    X: Value, scale: Value, B: Value, input_mean: Statistic, input_var: Statistic, *, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0, wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """In training by the batch's own statistics; the running variance moves to that of n (torch: of n - 1)."""
    if not training_mode:
        if any(wanted[1:]):
            raise unsupported("it has outputs of training, with training_mode 0")
        return _batch_norm(X, scale, B, input_mean, input_var, epsilon, momentum)
    out = lib.batch_norm_train(X, None, None, scale, B, eps=short(epsilon))[0]
    axes = (0, *range(2, X.rank))
    x = wide(X)
    new = (lib.mean(x, axes=axes), lib.variance(x, axes=axes, correction=0.0))
    part = short(momentum)
    moved = [cast(wide(o) * part + n * (1 - part), o.dtype) for o, n in zip((input_mean, input_var), new, strict=True)]
    return out, *moved


# --- others ------------------------------------------------------------------------------------------------


@rule("InstanceNormalization")
def _instance_norm(input: Value, scale: Value, B: Value, *, consumed_inputs: Ints = (), epsilon: float = 1e-5) -> Value:
    del consumed_inputs
    return lib.instance_norm(input, scale, B, eps=short(epsilon))


def _normal(axis: int, x: Value) -> int:
    if not -x.rank <= axis < x.rank:
        raise unsupported(f"there is no axis {axis} in {x.type}")
    return axis % x.rank


def scaled(norm: Callable[..., Value], X: Value, weights: Sequence[Value | None], rank: int, epsilon: float) -> Value:
    """A norm over the last axes with its weights, which may have fewer axes than those and be broadcast."""
    shape = X.shape[X.rank - rank :]
    if all(w is None or (w.shape == shape and w.dtype is X.dtype) for w in weights):
        return norm(X, *weights, rank=rank, eps=short(epsilon))
    out = norm(wide(X), rank=rank, eps=short(epsilon))
    scale, *bias = weights
    out = out if scale is None else out * cast(scale, out.dtype)
    out = out if not bias or bias[0] is None else out + cast(bias[0], out.dtype)
    return cast(out, X.dtype)


def check_stash(stash_type: int) -> None:
    """Statistics are of f32 at least here, of f64 where the data is."""
    if stash_type not in (1, 11):
        raise unsupported(f"its stash_type {stash_type} is neither float nor double")


def layer_norm(X: Value, Scale: Value, B: Value | None, axis: int, epsilon: float, wanted: Sequence[bool]) -> Any:
    """The layer norm, and where they are wanted the means and the reciprocals of the deviations (f32)."""
    first = _normal(axis, X)
    out = scaled(lib.layer_norm, X, (Scale, B), X.rank - first, epsilon)
    if not any(wanted[1:]):
        return out
    axes, x = tuple(range(first, X.rank)), wide(X)
    deviation = sqrt(lib.variance(x, axes=axes, correction=0.0, keep=True) + short(epsilon))
    return out, cast(lib.mean(x, axes=axes, keep=True), "f32"), cast(1.0 / deviation, "f32")


@rule("LayerNormalization", since=1)
def _layer_norm(
    X: Value, Scale: Value, B: Value | None = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1,
    wanted: Sequence[bool],
) -> Any:  # fmt: skip
    """Its first version is of opset 17; onnxruntime wrote it into older files too."""
    check_stash(stash_type)
    return layer_norm(X, Scale, B, axis, epsilon, wanted)


@rule("SimplifiedLayerNormalization")
def simplified_layer_norm(
    X: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, wanted: Sequence[bool]
) -> Any:
    """onnxruntime's, in the domain of ONNX: an RMSNormalization."""
    check_stash(stash_type)
    first = _normal(axis, X)
    out = scaled(lib.rms_norm, X, (scale,), X.rank - first, epsilon)
    if not any(wanted[1:]):
        return out
    x = wide(X)
    squares = lib.mean(x * x, axes=tuple(range(first, X.rank)), keep=True)
    return out, cast(1.0 / sqrt(squares + short(epsilon)), "f32")


@rule("RMSNormalization", since=23)
def _rms_norm(X: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Value:
    check_stash(stash_type)
    return scaled(lib.rms_norm, X, (scale,), X.rank - _normal(axis, X), epsilon)


@rule("GroupNormalization", since=18)
def _group_norm_18(X: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5, num_groups: int) -> Value:
    """With a weight for each group."""
    each = X.shape[1] // num_groups
    weight, shift = (lib.repeat_interleave(w, repeats=each, axis=0) for w in (scale, bias))
    return _group_norm(X, weight, shift, epsilon, num_groups)


def _group_norm(X: Value, scale: Value, bias: Value, epsilon: float, num_groups: int) -> Value:
    return lib.group_norm(X, scale, bias, groups=num_groups, eps=short(epsilon))


@rule("GroupNormalization", since=21)
def _group_norm_21(
    X: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1
) -> Value:
    check_stash(stash_type)
    return _group_norm(X, scale, bias, epsilon, num_groups)


@rule("LpNormalization")
def _lp_normalization(input: Value, *, axis: int = -1, p: int = 2) -> Value:
    """Where the norm is 0 the result is 0 too, as in onnxruntime."""
    norm = lib.vector_norm(input, ord=float(p), axes=(_normal(axis, input),), keep=True)
    return input / where(equal(norm, 0.0), 1.0, norm)


@rule("MeanVarianceNormalization", since=9)
def _mean_variance(X: Value, *, axes: Ints = (0, 2, 3)) -> Value:
    over = tuple(sorted(_normal(a, X) for a in axes))
    x = wide(X)
    centred = x - lib.mean(x, axes=over, keep=True)
    deviation = sqrt(lib.variance(x, axes=over, correction=0.0, keep=True))
    return cast(centred / (deviation + 1e-9), X.dtype)


@rule("LRN")
def _lrn(X: Value, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Value:
    """Of an even size the odd neighbour is the next channel (torch: the one before)."""
    options: dict[str, Any] = {"size": size, "alpha": short(alpha), "beta": short(beta), "k": short(bias)}
    if size % 2:
        return lib.local_response_norm(X, **options)
    return flip(lib.local_response_norm(flip(X, (1,)), **options), (1,))


# --- dropout -----------------------------------------------------------------------------------------------


@rule("Dropout")
def _dropout_1(
    data: Value, *, consumed_inputs: Ints = (), is_test: int = 0, ratio: float = 0.5, wanted: Sequence[bool]
) -> Any:
    """Inference is asked for by an attribute."""
    del consumed_inputs
    if not is_test:
        raise unsupported("it is of a version that trains unless is_test is 1")
    return _dropout_7(data, ratio=ratio, wanted=wanted)


@rule("Dropout", since=7)
def _dropout_7(data: Value, *, ratio: float = 0.5, wanted: Sequence[bool]) -> Any:
    """Does nothing in inference, drops in training; the mask is of the data's type."""
    out = lib.dropout(data, p=short(ratio))
    return (out, full_like(data, 1)) if any(wanted[1:]) else out


@rule("Dropout", since=10)
def _dropout_10(data: Value, *, ratio: float = 0.5, wanted: Sequence[bool]) -> Any:
    out = lib.dropout(data, p=short(ratio))
    return (out, lib.filled(data, value=True, dtype=bool_)) if any(wanted[1:]) else out


@rule("Dropout", since=12)
def _dropout_12(
    data: Value, ratio: Value | None = None, training_mode: Value | None = None, *, seed: int | None = None,
    wanted: Sequence[bool], draw: Callable[[], Value],
) -> Any:  # fmt: skip
    """In training the numbers come from the network's own seed; the attribute ``seed`` promises no certain ones.

    The ratio and whether it trains may be data.
    """
    del seed
    rate: Any = 0.5 if ratio is None else number_of(ratio)
    trains: Any = False if training_mode is None else number_of(training_mode)
    rate = None if rate is None else short(rate)
    if trains is False or rate == 0:
        out = lib.dropout(data, p=short(rate)) if rate is not None else data
        return (out, lib.filled(data, value=True, dtype=bool_)) if any(wanted[1:]) else out
    stream = draw()
    if rate is not None:
        mask = not_equal(lib.dropout_train(full_like(data, 1), stream, p=rate), 0)
        out = lib.dropout_train(data, stream, p=rate)
    else:
        assert ratio is not None
        share = cast(lib.reshape(ratio, shape=()), "f64")
        mask = greater_equal(lib.uniform(stream, shape=data.shape, dtype="f64"), share)
        kept = where(share < 1.0, 1.0 - share, 1.0)
        out = where(mask, cast(cast(data, "f64") / kept, data.dtype), 0)
    if trains is None:
        assert training_mode is not None
        on = lib.reshape(training_mode, shape=())
        out, mask = where(on, out, data), mask | ~on
    return (out, mask) if any(wanted[1:]) else out
