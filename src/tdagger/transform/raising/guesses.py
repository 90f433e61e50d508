"""Which composites may end at a value, on arguments of which types, with which attributes: a table by the op there.

A guess costs a body that is traced once for its types, and need not be right: :mod:`tdagger.transform.raising.lift`.
To raise one more composite, add a function to :data:`TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable

from tdagger.graph import is_one, label
from tdagger.op import Value
from tdagger.transform.raising.cone import Cone, Guesses
from tdagger.transform.raising.entries import (
    along,
    arg,
    channels,
    elementwise,
    gelu,
    glu,
    last_axes,
    limits,
    normalize,
    reduction,
    roll,
    stack,
)
from tdagger.transform.raising.products import (
    adaptive,
    attention,
    convolution,
    embedding,
    linear,
    matmul,
    pools,
    reshape,
)
from tdagger.transform.raising.recurrent import recurrent


def guesses(value: Value) -> Guesses:
    """All guesses at a value."""
    if not is_one(value) or not value.args:
        return
    name = label(value.op)
    makers = [m for labels, m in TABLE if name in labels or (name == "cast" and "cast" not in labels)]
    if makers:
        cone = Cone(value)
        for maker in makers:
            yield from maker(cone)


#: By the labels of the ops that a body may end with in f32; all end with a cast for narrower floats.
TABLE: tuple[tuple[tuple[str, ...], Callable[[Cone], Guesses]], ...] = (
    (("max", "min"), elementwise("relu", "relu6")),
    (("max", "min"), limits),
    (("multiply",), elementwise("silu", "mish", "selu", "hard_swish", "square")),
    (("multiply",), gelu),
    (("multiply",), elementwise("divide", arguments=2)),
    (("multiply",), elementwise("hard_sigmoid", "log2", "log10", "softsign")),
    (("reciprocal",), elementwise("sigmoid", "rsqrt")),
    (("where",), elementwise("leaky_relu", "elu", "celu", "softplus")),
    (("add",), elementwise("subtract", arguments=2)),
    (("add",), elementwise("log_sigmoid", "tanh_shrink")),
    (("exp",), elementwise("gaussian")),
    (("multiply", "group", "ungroup"), reduction("mean", "variance")),
    (("sqrt",), reduction("std", "vector_norm")),
    (("add", "reduce"), reduction("logsumexp")),
    (("reduce", "group", "ungroup"), reduction("vector_norm", "logsumexp")),
    (("multiply", "add"), along("softmax", "log_softmax")),
    (("multiply",), glu),
    (("multiply",), normalize),
    (("multiply", "add"), last_axes),
    (("add", "multiply", "group"), channels),
    (("add", "group", "ungroup"), linear),
    (("group", "ungroup", "add"), matmul),
    (("concat",), stack),
    (("concat",), roll),
    (("reduce", "group"), arg),
    (("gather",), embedding),
    (("add", "group"), convolution),
    (("group", "multiply", "reduce"), pools),
    (("group", "multiply"), adaptive),
    (("group", "ungroup"), attention),
    (("ungroup",), reshape),
    (("concat", "permute", "ungroup"), recurrent),
)
