"""MIL's reductions and norms."""

from __future__ import annotations

from collections.abc import Callable

from tdagger import library as lib
from tdagger.frameworks.coreml.ops.table import Bool, Float, Int, Ints, Statistic, rule, unsupported
from tdagger.op import Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops.structure import permute, reduce


def _reduced(function: Callable[[Value, tuple[int, ...], bool], Value]) -> Callable[..., Value]:
    def call(x: Value, axes: Ints | None = None, keep_dims: Bool = False) -> Value:
        along = tuple(range(x.rank)) if axes is None else tuple([normal_axis(a, x.rank) for a in axes])
        return function(x, along, keep_dims)

    return call


def _mean(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    if x.dtype.is_float:
        return lib.mean(x, axes=axes, keep=keep)
    return e.cast(lib.mean(e.cast(x, "f32"), axes=axes, keep=keep), x.dtype)


def _norm(x: Value, axes: tuple[int, ...], keep: bool) -> Value:
    wide = x if x.dtype.is_float else e.cast(x, "f32")
    return e.cast(lib.vector_norm(wide, ord=2.0, axes=axes, keep=keep), x.dtype)


for _name, _function in {
    "sum": lambda x, a, k: reduce(x, "sum", a, k), "prod": lambda x, a, k: reduce(x, "prod", a, k),
    "max": lambda x, a, k: reduce(x, "max", a, k), "min": lambda x, a, k: reduce(x, "min", a, k), "mean": _mean,
    "l1_norm": lambda x, a, k: reduce(e.abs_(x), "sum", a, k), "l2_norm": _norm,
    "log_sum": lambda x, a, k: e.log(reduce(x, "sum", a, k)),
    "log_sum_exp": lambda x, a, k: lib.logsumexp(x, axes=a, keep=k),
    "sum_square": lambda x, a, k: reduce(lib.square(x), "sum", a, k),
}.items():  # fmt: skip
    rule(f"reduce_{_name}")(_reduced(_function))


# --- norms -------------------------------------------------------------------------------------------------


@rule("batch_norm")
def _batch_norm(
    x: Value, mean: Statistic, variance: Statistic, gamma: Value | None = None, beta: Value | None = None,
    epsilon: Float = 1e-5,
) -> Value:  # fmt: skip
    return e.cast(lib.batch_norm(x, mean, variance, gamma, beta, eps=epsilon), x.dtype)


@rule("instance_norm")
def _instance_norm(x: Value, gamma: Value | None = None, beta: Value | None = None, epsilon: Float = 1e-5) -> Value:
    return e.cast(lib.instance_norm(x, gamma, beta, eps=epsilon), x.dtype)


@rule("layer_norm")
def _layer_norm(
    x: Value, axes: Ints | None = None, gamma: Value | None = None, beta: Value | None = None, epsilon: Float = 1e-5
) -> Value:
    along = tuple(range(x.rank)) if axes is None else tuple(sorted([normal_axis(a, x.rank) for a in axes]))
    order = (*[i for i in range(x.rank) if i not in along], *along)
    last = x if order == tuple(range(x.rank)) else permute(x, order)
    found = lib.layer_norm(last, gamma, beta, rank=len(along), eps=epsilon)
    return found if last is x else permute(found, [order.index(i) for i in range(x.rank)])


@rule("l2_norm")
def _l2_norm(x: Value, epsilon: Float = 1e-6) -> Value:
    """Divided by the root of the squares of the last three axes, and epsilon."""
    axes = range(max(x.rank - 3, 0), x.rank)
    return lib.divide(x, e.sqrt(reduce(lib.square(x), "sum", axes, True) + epsilon))


@rule("local_response_norm")
def _local_response_norm(
    x: Value, size: Int, alpha: Float = 1e-4, beta: Float = 0.75, k: Float = 1.0
) -> Value:  # fmt: skip
    """Along the third axis from the end, whatever the rank: so runs of coremltools' own test say, not its words."""
    if x.rank < 3:
        raise unsupported(f"{x.type} has no channels with something after them")
    return lib.local_response_norm(x, size=size, alpha=alpha, beta=beta, k=k, axis=x.rank - 3)
