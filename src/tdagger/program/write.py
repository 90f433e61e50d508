"""The words of a program: while_loop, if_, switch, scan, and its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from tdagger.errors import GraphError, TypeMismatchError
from tdagger.op import Value
from tdagger.ops.elementwise import less
from tdagger.ops.indexing import gather, scatter
from tdagger.ops.indexing import scan as running
from tdagger.ops.source import const
from tdagger.ops.structure import broadcast_to
from tdagger.program.trace import as_value, leaf_names, parameter_names, predicate, tracing, values_of
from tdagger.tree import Tree


def while_loop(cond: Callable[..., Any], body: Callable[..., Any], init: Any) -> Any:
    """What ``init`` is after ``body`` was applied as long as ``cond`` of it is true, perhaps never.

    ``init`` is a value, which both take, or a tuple or list of arguments, which may nest. ``body`` gives what it takes,
    of the same types. Values from around can be used inside. Python's numbers are i64, f32 and bool.

    >>> import tdagger as td
    >>> @td.program({"x": (), "n": td.TensorType((), "i64")})
    ... def power(x, n):
    ...     return td.while_loop(lambda i, y: i < n, lambda i, y: (i + 1, y * x), (0, 1.0))[1]
    >>> power.run(np.float32(2), np.int64(10))
    array(1024., dtype=float32)
    """
    trace = tracing("while_loop")
    several = isinstance(init, tuple | list)
    parts = _parts(init)
    found = [values_of(p) for p in parts]
    trees = [tree for _, tree in found]
    names = leaf_names(trees, parameter_names(body, len(parts)))

    def call(function: Callable[..., Any], *leaves: Value) -> Any:
        rest = list(leaves)
        return function(*_filled(trees, rest))

    def results(out: Any) -> list[Value]:
        new = [values_of(p) for p in (_parts(out) if several else (out,))]
        if [tree for _, tree in new] != trees:
            raise TypeMismatchError(
                f"while_loop: the body takes {Tree('tuple', tuple(range(len(trees))), tuple(trees)).what()} and gives "
                f"something nested otherwise: {[t.what() for _, t in new]}, not {[t.what() for t in trees]}"
            )
        return [v for values, _ in new for v in values]

    start = [v for values, _ in found for v in values]
    done = trace.loop(lambda *x: call(cond, *x), lambda *x: call(body, *x), start, names, results)
    filled = _filled(trees, done)
    if not several:
        return filled[0]
    return filled if isinstance(init, list) else tuple(filled)


def _parts(x: Any) -> Sequence[Any]:
    """The arguments that a tuple or list stands for, or the one that it is."""
    return cast(Sequence[Any], x) if isinstance(x, tuple | list) else (x,)


def _filled(trees: Sequence[Tree], leaves: Sequence[Any]) -> list[Any]:
    rest = list(leaves)
    out: list[Any] = []
    for tree in trees:
        count = tree.leaf_count()
        out.append(tree.unflatten(rest[:count]))
        rest = rest[count:]
    return out


def if_(p: Any, then: Callable[..., Any], otherwise: Callable[..., Any], *args: Any) -> Any:
    """What ``then`` gives on ``args`` if ``p`` is true, else what ``otherwise`` gives; only one of them is run.

    Both give the same structure of the same types; values from around can be used in them.

    >>> import tdagger as td
    >>> @td.program({"x": ()})
    ... def halved(x):
    ...     return td.if_(x > 1.0, lambda: x / 2.0, lambda: x)
    >>> [float(halved.run(np.float32(n))) for n in (3, 1)]
    [1.5, 1.0]
    """
    if isinstance(p, bool):
        return then(*args) if p else otherwise(*args)
    asked = predicate(p, "if_: what it chooses by")
    return _chosen(asked, (then, otherwise), args, ("then", "otherwise"), "if_")


def switch(i: Any, functions: Sequence[Callable[..., Any]], *args: Any) -> Any:
    """What the function number ``i`` gives on ``args``; the last one for a number that none has.

    >>> import tdagger as td
    >>> @td.program({"i": td.TensorType((), "i64"), "x": ()})
    ... def one_of(i, x):
    ...     return td.switch(i, [td.neg, lambda x: x + x], x)
    >>> [float(one_of.run(np.int64(n), np.float32(3))) for n in (0, 1, 7)]
    [-3.0, 6.0, 6.0]
    """
    if not functions:
        raise GraphError("switch: there is nothing to choose from")
    if isinstance(i, int):
        return functions[i if 0 <= i < len(functions) else -1](*args)
    if not isinstance(i, Value) or i.rank or not i.dtype.is_int:
        raise TypeMismatchError(f"switch chooses by an integer of rank 0, not by {getattr(i, 'type', i)}")
    if len(functions) == 1:
        return functions[0](*args)
    return _chosen(i, functions, args, [f"case{n}" for n in range(len(functions))], "switch")


def _chosen(
    asked: Value, functions: Sequence[Callable[..., Any]], args: Sequence[Any], names: Sequence[str], what: str
) -> Any:
    trace = tracing(what)
    trees: list[Tree] = []

    def called(function: Callable[..., Any]) -> Callable[[], list[Value]]:
        def call() -> list[Value]:
            leaves, tree = values_of(function(*args))
            trees.append(tree)
            if tree != trees[0]:
                raise TypeMismatchError(
                    f"{what}: one gives {trees[0].what()}, another {tree.what()}; they must nest alike"
                )
            return leaves

        return call

    found = trace.branch(asked, [called(f) for f in functions], names, what)
    return trees[0].unflatten(found)


def scan(body: Any, *args: Any, **options: Any) -> Any:
    """A loop over entries, ``scan(body, init, xs)``, see :func:`scan_loop`; or the op ``scan(x, kind, axis)``.

    >>> import tdagger as td
    >>> td.scan(td.input("x", (3,)), "sum", axis=0).op
    scan(kind='sum', axis=0, reverse=False)
    """
    function: Callable[..., Any] = scan_loop if callable(body) else running
    return function(body, *args, **options)


def scan_loop(body: Callable[..., Any], init: Any, xs: Any, length: int | None = None, reverse: bool = False) -> Any:
    """A loop over the entries of the first axis: ``carry, y = body(carry, x)``; gives the last carry and all ``y``.

    ``xs`` is a value, a structure of them with as many entries each, or None with ``length``. ``reverse`` goes from the
    last entry to the first; ``y`` stand where their ``x`` do.

    >>> import tdagger as td
    >>> @td.program({"xs": (3,)})
    ... def sums(xs):
    ...     return td.scan(lambda total, x: (total + x, total + x), 0.0, xs)
    >>> sums.run(np.array([1, 2, 3], "f"))
    (array(6., dtype=float32), array([1., 3., 6.], dtype=float32))
    """
    entries, tree = ([], None) if xs is None else values_of(xs)
    sizes = {v.shape[0] if v.rank else -1 for v in entries} | ({length} if length is not None else set[int]())
    if len(sizes) != 1 or -1 in sizes:
        raise TypeMismatchError(f"scan: xs and length must have one number of entries, got {sorted(map(str, sizes))}")
    (count,) = sizes
    assert count is not None
    shapes: list[Tree] = []
    made: list[Value] = []
    trace = tracing("scan")

    def turn(i: Value, carry: Any) -> Any:
        at = as_value(count - 1) - i if reverse else i
        x = None if tree is None else tree.unflatten([gather(v, at, 0) for v in entries])
        carry, y = body(carry, x)
        ys, shape = ([], Tree("constant")) if y is None else values_of(y)
        shapes.append(shape)
        for y in ys:
            nothing = broadcast_to(const(np.zeros((), y.dtype.numpy), y.dtype), (count, *y.shape))
            made.append(trace.carry("ys", nothing))
            trace.frames[-1].besides[made[-1]] = scatter(made[-1], at, y, 0)
        return i + 1, carry

    def going(i: Value, carry: Any) -> Value:
        del carry
        return less(i, as_value(count))

    _, carry = while_loop(going, turn, (0, init))
    return carry, shapes[0].unflatten(made)


def state(name: str) -> Value:
    """What a buffer of the program is now (``state={name: array}`` of :func:`program`)."""
    return tracing("state").state_of(name)


def set_state(name: str, value: Any) -> Value:
    """Give a buffer of the program another value, which it keeps after a run; the value."""
    trace = tracing("set_state")
    old, new = trace.state_of(name), as_value(value)
    if old.type is not new.type:
        raise TypeMismatchError(f"set_state: {name!r} is {old.type}, not {new.type}")
    trace.state[name] = new
    return new
