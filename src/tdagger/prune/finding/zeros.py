"""What stands where entries were removed, if those of all parameters are zero: is it zero too?

For every dimension of a value one of three is known: that the removed entries are :data:`ZERO`, that they are some
:data:`NUMBER`, or that they are :data:`NOTHING`, as 1 / 0 is. A dimension that several were grouped into may say it of
each: a tuple of ``(size, which)``, outermost first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tdagger.interpret import computed
from tdagger.op import Op, Value
from tdagger.ops.elementwise import POINTWISE, Cast
from tdagger.ops.indexing import Gather, Scatter
from tdagger.ops.source import Const
from tdagger.ops.structure import Concat, Fold, Group, Pad, Permute, Reduce, Repeat, Slice, Unfold, Ungroup

NUMBER, ZERO, NOTHING = 0, 1, 2

#: Of a dimension, or of each that was grouped into it.
Flag = Any
#: Of every dimension of a value.
Zeros = tuple[Flag, ...]


def is_zero(value: Value) -> bool:
    """Whether what is made of constants alone plainly is 0."""
    source = _source(value).op
    return isinstance(source, Const) and not source.data.any()


def _source(value: Value) -> Value:
    """What a value is moved, repeated or cast from."""
    while isinstance(value.op, Repeat | Group | Ungroup | Permute | Slice | Cast) or value.op.name == "stop_gradient":
        value = value.args[0]
    return value


def _number(value: Value) -> Any:
    """The number that all entries are, where that is plain; None elsewhere."""
    source = _source(value)
    if not isinstance(source.op, Const) or source.type.size != 1:
        return None
    while value.type.size != 1:
        value = value.args[0]
    return computed(value).item()


def whole(flag: Flag) -> int:
    """What is known of a dimension as one.

    >>> whole(((2, ZERO), (3, NUMBER))), whole(ZERO)
    (0, 1)
    """
    return flag if isinstance(flag, int) else _of_all([f for _, f in flag])


def _of_all(flags: Sequence[int]) -> int:
    return NOTHING if NOTHING in flags else min(flags, default=ZERO)


#: Numbers beside a 0, to see what a function gives.
_BESIDE = (-2.5, -1.0, 0.5, 1.0, 3.0)


def of_zeros(op: Op, value: Value, flags: Sequence[int]) -> int:
    """What a pointwise op gives where its arguments are such; a number that is plain is that number.

    >>> import tdagger as td
    >>> x = td.input("x", (2,))
    >>> of_zeros((x * x).op, x * x, (ZERO, NUMBER)), of_zeros(td.log(x).op, td.log(x), (ZERO,))
    (1, 2)
    >>> [of_zeros(y.op, y, (ZERO, NUMBER)) for y in (x**3.0, x**-1.0, td.minimum(x, 6.0), td.minimum(x, -6.0))]
    [1, 2, 1, 0]
    """
    if NOTHING in flags:
        return NOTHING
    types = tuple([a.dtype for a in value.args])
    plain = tuple([_number(a) for a in value.args])
    key = (op, types, tuple(flags), plain)
    found = _FOUND.get(key)
    if found is None:

        def out(zero: bool, beside: float) -> Any:
            given = [beside if n is None else n for n in plain]
            numbers = [0 if f == ZERO and zero else n for f, n in zip(flags, given, strict=True)]
            return op.run(*[np.asarray([n]).astype(t.numpy) for n, t in zip(numbers, types, strict=True)])

        with np.errstate(all="ignore"):
            pairs = [(out(True, b), out(False, b)) for b in _BESIDE]
        lost = any(np.isfinite(b).all() and not np.isfinite(a).all() for a, b in pairs)
        found = NOTHING if lost else ZERO if ZERO in flags and not any(np.any(a != 0) for a, _ in pairs) else NUMBER
        _FOUND[key] = found
    return found


_FOUND: dict[Any, int] = {}


def _pointwise(op: Op, value: Value, flags: tuple[Flag, ...]) -> Flag:
    """The same of one dimension."""
    pieces = {tuple([n for n, _ in f]) for f in flags if not isinstance(f, int)}
    if len(pieces) != 1:
        return of_zeros(op, value, [whole(f) for f in flags])
    (sizes,) = pieces
    return tuple(
        [(n, of_zeros(op, value, [f if isinstance(f, int) else f[i][1] for f in flags])) for i, n in enumerate(sizes)]
    )


def _pieces(flag: Flag, size: int) -> tuple[tuple[int, int], ...]:
    return ((size, flag),) if isinstance(flag, int) else flag


def _grouped(flags: Sequence[Flag], sizes: Sequence[int]) -> Flag:
    found = tuple([p for f, n in zip(flags, sizes, strict=True) if n != 1 for p in _pieces(f, n)])
    same = {f for _, f in found}
    return found if len(same) > 1 else next(iter(same), ZERO)


def _ungrouped(flag: Flag, sizes: Sequence[int]) -> list[Flag]:
    if isinstance(flag, int):
        return [flag] * len(sizes)
    rest = list(flag)
    out: list[Flag] = []
    for size in sizes:
        own: list[tuple[int, int]] = []
        need = size
        while need > 1 and rest:
            n, which = rest.pop(0)
            if n % need == 0 and n > need:  # a part of a piece
                rest.insert(0, (n // need, which))
                n = need
            elif need % n:
                break
            need //= n
            own.append((n, which))
        if need != 1:  # pieces that aren't split so
            return [whole(flag)] * len(sizes)
        out.append(_grouped([f for _, f in own], [n for n, _ in own]))
    return out


def after(op: Op, value: Value, zeros: Sequence[Zeros]) -> Zeros:
    """What stands where entries of a core op's result were removed, of what stands in its arguments."""
    x = zeros[0] if zeros else ()
    match op:
        case _ if isinstance(op, POINTWISE):
            return tuple([_pointwise(op, value, each) for each in zip(*zeros, strict=True)])
        case Permute():
            return tuple([x[i] for i in op.order])
        case Group():
            shape, out, at = value.args[0].shape, list[Flag](), 0
            for count in op.counts:
                out.append(_grouped(x[at : at + count], shape[at : at + count]))
                at += count
            return tuple(out)
        case Ungroup():
            return tuple([f for z, sizes in zip(x, op.sizes, strict=True) for f in _ungrouped(z, sizes)])
        case Slice():
            return x
        case Pad():
            return x if op.value == 0 else tuple([min(whole(z), 2 * (whole(z) == NOTHING)) for z in x])
        case Concat():
            return tuple([_of_all([whole(z) for z in each]) for each in zip(*zeros, strict=True)])
        case Repeat():
            own = int(is_zero(value.args[0]))
            return tuple([own if n is not None else z for z, n in zip(x, op.sizes, strict=True)])
        case Reduce():
            return tuple([NUMBER if i in op.axes else z for i, z in enumerate(x)])
        case Gather():  # places that data decides lose no entries
            inner = len(zeros[1]) - op.batch
            return (*x[: op.axis], *(x[op.axis] if inner == 1 else NUMBER,) * inner, *x[op.axis + 1 :])
        case Scatter():
            after_axis = op.axis + len(zeros[1]) - op.batch
            own = zeros[2][op.axis : after_axis]
            put = (*zeros[2][: op.axis], own[0] if len(own) == 1 else x[op.axis], *zeros[2][after_axis:])
            return tuple([_of_all([whole(a), whole(b)]) for a, b in zip(x, put, strict=True)])
        case Unfold() | Fold() if op.kernel == op.stride == 1:
            return x
        case _:
            return (NUMBER,) * value.rank
