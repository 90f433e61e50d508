"""What calls leave open of other sizes that no value in a graph shows.

``x[:3]`` of 3 entries, padding by 0, rolling by a whole turn, ``x.T.reshape(x.shape)`` of a square change nothing, and
``x.reshape(2, -1)`` of 2 x 3 x 4 keeps its first dimension: whether for the number's sake or because it is 2 isn't
known. Padding on one side by 3 may be up to a multiple. So it is kept beside the graph.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from tdagger.analysis.axes.doubts import SQUEEZED, LeftOut
from tdagger.frameworks.left_out import of_padding, of_parts, of_shape, of_slice, of_split, of_unsqueeze
from tdagger.op import Value
from tdagger.ops.structure import OPEN
from tdagger.types import Sized

_Finder = Callable[..., LeftOut | None]


def _slice(out: Value, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> LeftOut | None:
    del step
    return of_slice(out, x, dim, start, end)


def _split(out: Any, x: Value, sizes: int | Sequence[int], dim: int = 0) -> LeftOut | None:
    del out
    return None if isinstance(sizes, int) else of_split(x, dim, sizes)


def _squeeze(out: Value, x: Value, dim: Any = None) -> LeftOut | None:
    named = range(x.rank) if dim is None else [d % x.rank for d in (dim if isinstance(dim, Sequence) else [dim])]
    wide = tuple([d for d in named if x.shape[d] > 1]) if x.rank else ()
    return LeftOut(x, wide, SQUEEZED, only=1) if wide else None


def _unsqueeze(out: Value, x: Value, dim: int) -> LeftOut | None:
    del x
    return of_unsqueeze(out, [dim])


def _view(out: Value, x: Value, shape: Sequence[Any] | torch.dtype) -> LeftOut | None:
    return None if isinstance(shape, torch.dtype) else of_shape(out, x, shape)  # a type: the same bits as other numbers


def _unflatten(out: Value, x: Value, dim: int, sizes: Sequence[int]) -> LeftOut | None:
    del out
    return of_parts(x, dim, sizes)


def _view_as(out: Value, x: Value, other: Value) -> LeftOut | None:
    return _view(out, x, other.shape)


def _as_strided(out: Any, x: Value, size: Sequence[int], *_: Any, **__: Any) -> LeftOut | None:
    """By numbers alone; where they are those of its sizes, all different, they are told from one another."""
    del out
    own = sorted(map(int, size)) == sorted(x.shape)
    alike = tuple(i for i, n in enumerate(x.shape) if not own or n == 1 or x.shape.count(n) > 1)
    return LeftOut(x, alike, f"is given the shape {tuple(map(int, size))} and strides as numbers") if alike else None


def _pad(out: Value, x: Value, pad: Sequence[int], *_: Any) -> LeftOut | None:
    sides = list(zip(pad[::2], pad[1::2], strict=True))
    return of_padding(out, x, {x.rank - 1 - i: side for i, side in enumerate(sides)}, pad)


def _roll(out: Value, x: Value, shifts: Any, dims: Any = ()) -> LeftOut | None:
    del out
    numbers, along = [[n] if isinstance(n, int) else list(n) for n in (shifts, dims)]
    sizes = [x.shape[d] for d in along] or [x.type.size]
    whole = [i for i, (shift, n) in enumerate(zip(numbers, sizes, strict=True)) if not n or shift % n == 0]
    if not whole or (not any(numbers) and not along):
        return None
    turned = tuple(along[i] % x.rank for i in whole) if along else tuple(range(x.rank))
    return LeftOut(x, turned, f"is rolled by {numbers}, whole turns")


def _alias(out: Value, x: Value) -> LeftOut | None:
    del out
    return LeftOut(x, tuple(range(x.rank)), "is what torch left of an index that takes all of it, and may take less")


def _fill(out: Any, x: Value, value: Any, dtype: Any = None) -> LeftOut | None:
    del dtype
    like = isinstance(out, Value) and out.op.name == "filled"
    dims = tuple(range(x.rank)) if isinstance(value, Value) and not like else ()
    return LeftOut(x, dims, "is filled with what has none of its dimensions") if dims else None


def _fold(
    out: Any, x: Value, output_size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any = 1
) -> LeftOut | None:
    """From windows apart, several sizes may have come."""
    del out, kernel, dilation, padding
    steps = [stride] if isinstance(stride, int) else stride
    what = f"is folded to {output_size}, which is not all that as many windows are cut from"
    return LeftOut(x, (x.rank - 1,), what) if any(n > 1 for n in steps) else None


def _inverse_fft(out: Any, x: Value, n: Any = None, dim: int = -1, norm: Any = None) -> LeftOut | None:
    """Half of a spectrum is as long for an odd number as for the even one before it."""
    del out, norm
    if n is None or isinstance(n, Sized):
        return None
    return LeftOut(x, (dim % x.rank,), f"is half of a spectrum, of {n} entries")


def _of_classes(
    out: Any, x: Value, target: Value, weight: Any = None, reduction: int = 1, ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> LeftOut | None:  # fmt: skip
    del out, weight, ignore_index
    classes = (min(x.rank - 1, 1),)
    if label_smoothing:
        return LeftOut(x, classes, "is counted by torch for label_smoothing")
    divided = reduction == 1 and not target.dtype.is_int  # of probabilities the mean is over entries / classes
    return LeftOut(x, classes, "has classes that torch divides by", only=0) if divided else None


#: By the name of an op, what says how its numbers could matter at other sizes.
_FOUND: dict[str, _Finder] = {
    "alias": _alias,  # of a slice of all entries, among others
    "slice": _slice,
    "view": _view,
    "reshape": _view,
    "_unsafe_view": _view,
    "as_strided": _as_strided,
    "unflatten": _unflatten,
    "view_as": _view_as,
    "reshape_as": _view_as,
    "constant_pad_nd": _pad,
    "pad": _pad,
    "roll": _roll,
    "cross_entropy_loss": _of_classes,
    "split": _split,
    "split_with_sizes": _split,
    "squeeze": _squeeze,
    "squeeze_": _squeeze,
    "squeeze_copy": _squeeze,
    "unsqueeze": _unsqueeze,
    "unsqueeze_": _unsqueeze,
    "unsqueeze_copy": _unsqueeze,
    "fill": _fill,
    "fill_": _fill,
    "col2im": _fold,
    "fft_irfft": _inverse_fft,
    "fft_hfft": _inverse_fft,
}


def left_out(
    name: str, result: Any, args: Sequence[Any], kwargs: dict[str, Any], read: Callable[[Any], Any] = lambda x: x
) -> list[LeftOut]:
    """What a call leaves open without showing it in its result; None for the result of what torch decomposes.

    ``read`` gives the values of arguments that are refs.
    """
    found = _FOUND.get(name)
    if found is None:
        return []
    left = found(result, *map(read, args), **{k: read(v) for k, v in kwargs.items()})
    return [] if left is None else [left]


# --- what only the line in the source shows -------------------------------------------------------------------

#: Ops that an index is made of, and those that write to one.
INDEXING = frozenset({"slice", "select", "unsqueeze", "index", "copy_", "fill_", "index_put_"})

#: Longer lines aren't read.
_LINE = 400


def unseen(name: str, x: Value, args: Sequence[Any], code: str) -> list[LeftOut]:
    """What a program doesn't have of an index, as torch leaves out slices that take everything: by its line of code.

    ``name`` is one of :data:`INDEXING`. ``x[:1, 1:]`` of 1 x 7 is a slice of the second dimension, ``x[n - 1:]`` of 1
    one without bounds.
    """
    if len(code) > _LINE:
        return []
    own = int(args[0]) % x.rank if name == "slice" and args and x.rank else None
    whole = own is not None and len(args) == 3 and not args[1] and int(args[2]) >= OPEN  # no step
    indices = _indices(code)
    bounded = [(d, part) for index in indices for d, part in _bounded(index, x.rank) if d != own or whole]
    dims = {d for d, _ in bounded}
    for d, part in bounded:  # a bound that is worked out may be of another dimension, which then cuts where it is less
        if any(b is not None and _number(b) is None for b in (part.lower, part.upper)):
            dims |= {i for i, n in enumerate(x.shape) if 2 * n >= x.shape[d]}
    if whole and not indices:  # somewhere else
        dims.add(cast(int, own))
    what = "is indexed, and torch leaves out a slice that takes all of it"
    return [LeftOut(x, tuple(sorted(dims)), what)] if dims else []


def _indices(code: str) -> list[list[ast.expr]]:
    """The indices in a line of Python, each by its dimensions; none if it is only a part of a statement."""
    code = code.strip()
    try:
        tree = ast.parse(code + " pass" if code.endswith(":") else code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    return [index.elts if isinstance(index, ast.Tuple) else [index] for index in found]


def _bounded(index: Sequence[ast.expr], rank: int) -> list[tuple[int, ast.Slice]]:
    """The dimensions at which an index has a slice that may take all of few entries, and that."""
    parts = [p for p in index if not (isinstance(p, ast.Constant) and p.value is None)]
    rest = next((i for i, p in enumerate(parts) if isinstance(p, ast.Constant) and p.value is ...), None)
    if rest is not None:
        parts[rest : rest + 1] = [ast.Slice()] * (rank - len(parts) + 1)
    return [(i, p) for i, p in enumerate(parts[:rank]) if isinstance(p, ast.Slice) and _may_be_all(p)]


def _may_be_all(part: ast.Slice) -> bool:
    """Whether a slice has bounds, and such that of few entries all are between them."""
    first, last = (None if bound is None else _number(bound) for bound in (part.lower, part.upper))
    if (part.lower is None or first == 0) and part.upper is None:
        return False
    return not (first is not None and first > 0) and not (last is not None and last < 0)


def _number(node: ast.expr) -> int | None:
    """The integer that an expression is, if it is written as one."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int) else None
