"""How many entries of a mask are true, for masks that are made of constants alone, without writing the mask out.

What is repeated is computed once: a tensor here has one entry along axes on which it doesn't depend. An elementwise
result of more than ``SMALL`` entries that is larger than its arguments (each query against each key) isn't computed
but remembered, and counted in blocks, 8 times as small along every axis at each step: what a block's smallest and
largest arguments can give tells whether all of it is true or nothing, and only other blocks are cut up. A causal mask,
a window or a mask of blocks over n x n entries takes some n steps; at single entries the numbers are exact.

>>> import tdagger as td
>>> row, column = td.unsqueeze(td.iota(100_000), (1,)), td.unsqueeze(td.iota(100_000), (0,))
>>> count_true(row >= column) == 100_000 * 100_001 // 2
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tdagger.analysis.attention.ranges import Range, range_of, without_nan
from tdagger.composite import Composite
from tdagger.graph import topological
from tdagger.op import Array, Op, Value
from tdagger.ops.elementwise import Binary, Cast, Unary, Where
from tdagger.ops.indexing import Argsort, Scan
from tdagger.ops.source import Const, Input, Iota, Leaf
from tdagger.ops.structure import Concat, Group, Item, Permute, Reduce, Repeat, Slice, Ungroup
from tdagger.types import TensorType

#: What has more entries than this and than its arguments isn't computed, but counted in blocks.
SMALL = 2**16
#: A mask that takes more blocks than this isn't counted.
MOST_BLOCKS = 2**23
_EDGE = 8


class _TooLargeError(Exception):
    """What would have to be computed has more entries than ``SMALL``."""


@dataclass(frozen=True, eq=False)
class _Later:
    """An elementwise op on tensors of one rank (1 entry along axes that they don't depend on), not yet computed."""

    op: Op
    args: tuple[Any, ...]
    shape: tuple[int, ...]


#: An array with 1 entry along axes on which it doesn't depend, or what is to be one.
_Tensor = Any


def count_true(mask: Value, known: dict[Value, _Tensor] | None = None) -> int | None:
    """The true entries of a bool tensor that depends on no input or weight; None if it can't be told cheaply.

    ``known`` keeps what was computed, for the next mask.
    """
    known = {} if known is None else known
    try:
        with np.errstate(all="ignore"):
            for value in topological([mask]):
                if value not in known:
                    known[value] = _evaluate(value, [known[a] for a in value.args])
            found = known[mask]
            count = _count_blocks(found) if isinstance(found, _Later) else int(np.count_nonzero(found))
    except _TooLargeError:
        return None
    if count is None or not mask.type.size:
        return count and 0
    return count * (mask.type.size // math.prod(found.shape))


# --- computing without repeating ---------------------------------------------------------------------------

_MOVES = (Permute, Group, Ungroup, Repeat, Slice)


def _evaluate(value: Value, args: list[_Tensor]) -> _Tensor:
    op = value.op
    if isinstance(op, Leaf):
        raise _TooLargeError(f"{op} isn't known")
    if isinstance(op, Const | Iota):
        return op.run()
    if isinstance(op, Binary | Unary | Where | Cast):
        shape = np.broadcast_shapes(*[a.shape for a in args])
        if any(isinstance(a, _Later) for a in args) or math.prod(shape) > max(SMALL, *[a.size for a in args]):
            return _Later(op, tuple(args), shape)
        return op.run(*args)
    if isinstance(op, _MOVES):
        return _moved(op, value.args[0].type, args[0])
    if isinstance(op, Item):
        return args[0][op.index]
    if isinstance(op, Composite):
        return _body(op, [a.type for a in value.args], args)
    axes: Sequence[int] | None = None  # those along which all entries are needed; None for all of them
    if isinstance(op, Scan | Argsort):
        axes = (op.axis,)
    elif isinstance(op, Reduce):
        axes = op.axes
    elif isinstance(op, Concat):  # the others must fit one another
        shapes = [a.shape for a in args]
        axes = [i for i, n in enumerate(zip(*shapes, strict=True)) if i == op.axis or len(set(n)) > 1]
    elif value.type.size > max(SMALL, *[a.type.size for a in value.args], 0):
        raise _TooLargeError(f"{value} would have to be written out")
    spread = [
        _spread(x, a.type, range(a.rank) if axes is None else axes) for x, a in zip(args, value.args, strict=True)
    ]
    return np.asarray(op.run(*spread))


def _body(op: Composite, types: list[TensorType], args: list[_Tensor]) -> Any:
    """A composite's result, or a tuple of them."""
    body = op.body(*types)
    known: dict[Value, _Tensor] = dict(zip(body.inputs.values(), args, strict=True))
    for value in body.values:
        if not isinstance(value.op, Input):
            known[value] = _evaluate(value, [known[a] for a in value.args])
    results = tuple(known[v] for v in body.outputs.values())
    return results[0] if len(results) == 1 else results


def _spread(x: _Tensor, type_: TensorType, axes: Sequence[int]) -> Array:
    """``x`` with all its entries along ``axes``."""
    if isinstance(x, _Later):
        raise _TooLargeError
    shape = tuple([type_.shape[i] if i in axes else n for i, n in enumerate(x.shape)])
    if math.prod(shape) > max(SMALL, x.size):
        raise _TooLargeError
    return np.broadcast_to(x, shape)


def _moved(op: Any, of: TensorType, x: _Tensor) -> _Tensor:
    """A move of ``x``, which stands for a tensor of type ``of``."""
    if not isinstance(x, _Later):
        return _moved_array(op, of, x)
    done: dict[int, _Tensor] = {}
    for node in _nodes(x):
        if isinstance(node, _Later):
            args = tuple(done[id(a)] for a in node.args)
            done[id(node)] = _Later(node.op, args, np.broadcast_shapes(*[a.shape for a in args]))
        else:
            done[id(node)] = _moved_array(op, of, node)
    return done[id(x)]


def _moved_array(op: Any, of: TensorType, x: Array) -> Array:
    if isinstance(op, Repeat):
        return x
    if isinstance(op, Permute):
        return x.transpose(op.order)
    if isinstance(op, Slice):
        pairs = zip(op.bounds, x.shape, of.shape, strict=True)
        return Slice(tuple([b if n == whole else None for b, n, whole in pairs])).run(x)
    if isinstance(op, Ungroup):
        pairs = zip(x.shape, of.shape, op.sizes, strict=True)
        return x.reshape([m for n, whole, sizes in pairs for m in (sizes if n == whole else (1,) * len(sizes))])
    shape: list[int] = []
    wanted: list[int] = []
    at = 0
    for count in op.counts:
        own = x.shape[at : at + count]
        wanted += range(at, at + count) if math.prod(own) != 1 else ()
        at += count
    x = _spread(x, of, wanted)
    at = 0
    for count in op.counts:
        shape.append(math.prod(x.shape[at : at + count]))
        at += count
    return x.reshape(shape)


def _nodes(x: _Tensor) -> list[_Tensor]:
    """All that ``x`` is made of, arguments first, each once."""
    order: list[_Tensor] = []
    seen: set[int] = set()
    stack: list[tuple[_Tensor, bool]] = [(x, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((a, False) for a in (node.args if isinstance(node, _Later) else ()))
    return order


# --- counting in blocks ------------------------------------------------------------------------------------


def _count_blocks(mask: _Later) -> int | None:
    """True entries of what isn't computed; None if that takes too many blocks."""
    axes = [i for i, n in enumerate(mask.shape) if n > 1]
    sizes = [mask.shape[i] for i in axes]
    nodes = _nodes(mask)
    levels = math.ceil(math.log(max(sizes, default=1), _EDGE))
    ranges = {
        id(x): _pyramid(x.reshape([x.shape[i] for i in axes]), levels) for x in nodes if not isinstance(x, _Later)
    }
    places = np.zeros((len(axes), 1), np.int64)
    total = blocks = 0
    for level in range(levels, -1, -1):
        edge = _EDGE**level
        if level < levels:
            blocks += places.shape[1] * _EDGE ** len(axes)
            if blocks > MOST_BLOCKS:
                return None
            places = _cut(places, [-(-n // edge) for n in sizes])
        low, high = _ranges(nodes, ranges, level, places)
        low, high = np.broadcast_to(low, places.shape[1:]), np.broadcast_to(high, places.shape[1:])
        counted = places[:, low]
        volume = [np.minimum(edge, n - p * edge) for n, p in zip(sizes, counted, strict=True)]
        total += int(np.sum(np.multiply.reduce(volume) if volume else low))
        places = places[:, high & ~low]
        if not places.size:
            break
    return total


def _cut(places: Array, counts: list[int]) -> Array:
    """The parts of blocks, as far as there are: ``counts`` of them along each axis in all."""
    offsets = np.indices((_EDGE,) * len(places)).reshape(len(places), -1)
    parts = (places[:, :, None] * _EDGE + offsets[:, None, :]).reshape(len(places), -1)
    return parts[:, (parts < np.array(counts)[:, None]).all(0)]


def _pyramid(x: Array, levels: int) -> list[Range]:
    """The least and largest entries of blocks, of single entries first."""
    found: list[Range] = [(x, x)]
    for _ in range(levels):
        pair = list(without_nan(found[-1]))
        for axis, n in enumerate(x.shape):
            if n > 1:
                starts = list(range(0, pair[0].shape[axis], _EDGE))
                pair = [f.reduceat(p, starts, axis) for f, p in zip((np.minimum, np.maximum), pair, strict=True)]
        found.append((pair[0], pair[1]))
    return found


def _ranges(nodes: list[_Tensor], known: dict[int, list[Range]], level: int, places: Array) -> Range:
    done: dict[int, Range] = {}
    last: Range = (False, True)
    for node in nodes:
        if isinstance(node, _Later):
            args = [done[id(a)] for a in node.args]
            if level:
                last = without_nan(range_of(node.op, args))
            else:  # single entries: the least is the most
                exact = node.op.run(*[low for low, _ in args])
                last = (exact, exact)
        else:
            low, high = known[id(node)][level]
            at = tuple([p if n > 1 else 0 for p, n in zip(places, low.shape, strict=True)])
            last = (low[at], high[at])
        done[id(node)] = last
    return last
