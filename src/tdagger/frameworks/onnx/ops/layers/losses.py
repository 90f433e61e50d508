"""ONNX's losses, and the optimizers of its preview domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.onnx.ops.table import rule, unsupported
from tdagger.op import Value
from tdagger.ops.elementwise import cast, equal, full_like, neg, not_equal, sqrt, where
from tdagger.ops.indexing import Gather, take_along
from tdagger.ops.structure import reduce, squeeze, unsqueeze

TRAINING = "ai.onnx.preview.training"

# --- losses ------------------------------------------------------------------------------------------------


def _likelihood(log_p: Value, target: Value, weight: Value | None, reduction: str, ignore_index: int | None) -> Value:
    """The negative log likelihood of classes, at axis 1; a target that is ignored costs nothing and weighs nothing."""
    if reduction not in ("none", "mean", "sum"):
        raise unsupported(f"its reduction {reduction} is none of none, mean, sum")
    labels = cast(target, "i64")
    kept = None if ignore_index is None else not_equal(labels, ignore_index)
    labels = labels if kept is None else where(kept, labels, 0)
    loss = neg(squeeze(take_along(log_p, unsqueeze(labels, (1,)), 1), (1,)))
    each = full_like(loss, 1.0) if weight is None else Gather(0, 0)(weight, labels)
    each = each if kept is None else where(kept, each, 0.0)
    # times the weight and not by a choice of 0, but for what is ignored: there the entry of class 0 doesn't matter
    loss = loss * each if weight is not None else loss
    loss = loss if kept is None else where(kept, loss, 0.0)
    if reduction == "none":
        return loss
    total = reduce(loss, "sum", keep=False)
    if reduction == "sum":
        return total
    return total / reduce(each, "sum", keep=False)


@rule("NegativeLogLikelihoodLoss", since=12)
def _nll_loss(
    input: Value, target: Value, weight: Value | None = None, *, ignore_index: int | None = None,
    reduction: str = "mean",
) -> Value:  # fmt: skip
    return _likelihood(input, target, weight, reduction, ignore_index)


@rule("SoftmaxCrossEntropyLoss", since=12)
def _cross_entropy(
    scores: Value, labels: Value, weights: Value | None = None, *, ignore_index: int | None = None,
    reduction: str = "mean", wanted: Sequence[bool],
) -> Any:  # fmt: skip
    log_p = lib.log_softmax(scores, axis=1)
    loss = _likelihood(log_p, labels, weights, reduction, ignore_index)
    return (loss, log_p) if any(wanted[1:]) else loss


# --- optimizers --------------------------------------------------------------------------------------------


def _columns(inputs: Sequence[Value], count: int) -> list[Sequence[Value]]:
    """Tensors that come as all of one kind, then all of the next."""
    if len(inputs) % count:
        raise unsupported(f"it has {len(inputs)} tensors, not {count} for each that it optimizes")
    n = len(inputs) // count
    return [inputs[i * n : (i + 1) * n] for i in range(count)]


@rule("Adagrad", domain=TRAINING)
def _adagrad(
    R: Value, T: Value, *inputs: Value, decay_factor: float = 0.0, epsilon: float = 0.0, norm_coefficient: float = 0.0
) -> tuple[Value, ...]:
    """New tensors and sums of squares of (rate, count of updates, tensors, gradients, sums)."""
    rate = R / (1.0 + cast(T, R.dtype) * decay_factor)
    results: list[tuple[Value, Value]] = []
    for x, g, h in zip(*_columns(inputs, 3), strict=True):
        gradient = x * norm_coefficient + g
        squares = h + gradient * gradient
        results.append((x - lib.reshape(rate, shape=()) * gradient / (sqrt(squares) + epsilon), squares))
    return _by_kind(results)


@rule("Momentum", domain=TRAINING)
def _momentum(
    R: Value, T: Value, *inputs: Value, alpha: float, beta: float, mode: str, norm_coefficient: float
) -> tuple[Value, ...]:
    """New tensors and momentums; the first update (T = 0) takes all of its gradient."""
    if mode not in ("standard", "nesterov"):
        raise unsupported(f"its mode {mode} is neither standard nor nesterov")
    results: list[tuple[Value, Value]] = []
    rate = lib.reshape(R, shape=())
    share = where(equal(lib.reshape(T, shape=()), 0), 1.0, full_like(rate, beta))
    for x, g, v in zip(*_columns(inputs, 3), strict=True):
        gradient = x * norm_coefficient + g
        momentum = v * alpha + gradient * share
        step = momentum if mode == "standard" else gradient + momentum * alpha
        results.append((x - rate * step, momentum))
    return _by_kind(results)


@rule("Adam", domain=TRAINING)
def _adam(
    R: Value, T: Value, *inputs: Value, alpha: float = 0.9, beta: float = 0.999, epsilon: float = 0.0,
    norm_coefficient: float = 0.0, norm_coefficient_post: float = 0.0,
) -> tuple[Value, ...]:  # fmt: skip
    """New tensors and averages of gradients and of their squares; the rate is corrected from the second update on."""
    rate, count = lib.reshape(R, shape=()), cast(lib.reshape(T, shape=()), R.dtype)
    corrected = rate * sqrt(1.0 - full_like(rate, beta) ** count) / (1.0 - full_like(rate, alpha) ** count)
    rate = where(count > 0.0, corrected, rate)
    results: list[tuple[Value, ...]] = []
    for x, g, v, h in zip(*_columns(inputs, 4), strict=True):
        gradient = x * norm_coefficient + g
        average = v * alpha + gradient * (1 - alpha)
        squares = h * beta + gradient * gradient * (1 - beta)
        new = x - rate * average / (sqrt(squares) + epsilon)
        results.append((new * (1 - norm_coefficient_post), average, squares))
    return _by_kind(results)


def _by_kind(results: Sequence[Sequence[Value]]) -> tuple[Value, ...]:
    return tuple([v for kind in zip(*results, strict=True) for v in kind])
