"""A network brought to what a target runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import AttributeValueError, TypeMismatchError, UnsupportedError
from tdagger.graph import Graph, bulk, is_one, result_types
from tdagger.names import shown
from tdagger.network import N, Network, Origin
from tdagger.op import Op, Value
from tdagger.ops.elementwise import cast as cast_to
from tdagger.ops.external import External
from tdagger.ops.source import Buffer, Const, Input, Iota, Leaf, Parameter, Random, scalar
from tdagger.ops.structure import Item, Pad, Slice
from tdagger.transform.legal.pairs import in_pairs
from tdagger.transform.legal.rewrites import IDENTITIES
from tdagger.transform.legal.target import Target, label
from tdagger.transform.passes.layout import IMAGES, LAST, channels_last
from tdagger.transform.passes.rank import lowest_rank, to_rank
from tdagger.transform.passes.results import drop_unused_results
from tdagger.transform.passes.transposes import join_transposes
from tdagger.transform.surgery.edit import down_to, each, finished, with_checks
from tdagger.types import DType, TensorType, readable

#: Core ops whose numbers another element type than their own would change.
_BITS = frozenset({"bitcast", "random", "cast"})


class Problem(NamedTuple):
    """What a target can't have, why, and where it came from."""

    op: str
    why: str
    origin: Origin | None


def legalize(dag: N, target: Target) -> N:
    """The network with nothing but what a target accepts; UnsupportedError names all that can't be had, at once.

    An op that isn't accepted becomes, whichever comes first, the op in a wider element type (``target.wider``), an
    identity of the target's or of everyone (:data:`tdagger.transform.legal.rewrites.IDENTITIES`), or the body of a
    composite; what that is made of is looked at in turn. ``target.last`` brings the channels of images last, and
    ``target.rank`` takes tensors of more axes in other pieces (:func:`tdagger.transform.passes.to_rank`). Inputs,
    outputs and weights stay what they are, complex numbers inside are two real ones each (``pairs.in_pairs``);
    constants and weights of a type that the target holds in a narrower one (``target.held``) must fit there.

    >>> import tdagger as td
    >>> from tdagger.transform.legal.target import Accepts, Target, types
    >>> f32 = Accepts(types("f32"))
    >>> ops = ("unary exp", "binary add", "divide", "unary neg", "repeat", "reshape")
    >>> target = Target("T", dict.fromkeys(ops, f32))
    >>> made = legalize(td.network(lambda x: td.sigmoid(x), {"x": (2,)}), target)
    >>> [label(v) for v in made.values if label(v) in target.ops]
    ['reshape', 'repeat', 'unary neg', 'unary exp', 'binary add', 'divide']
    >>> legalize(td.network(lambda x: td.sin(td.nextafter(x, x)), {"x": (2,)}), target)
    Traceback (most recent call last):
    ...
    tdagger.errors.UnsupportedError: network can't go to T: 2 ops of 2 kinds can't be had:
         1 x binary nextafter: T has no binary nextafter
         1 x unary sin: T has no unary sin
    """
    _check_held(dag, target)
    dag = _walked(in_pairs(drop_unused_results(dag)), target, whole=False)
    if target.last:
        dag = channels_last(dag)
    dag = join_transposes(dag, target.rank)
    for _ in range(4):
        if target.rank is not None:
            dag = to_rank(_walked(dag, target, whole=False, laid=True), target.rank)
        after = _walked(dag, target, laid=True)
        if target.rank is None or _fits(after, target.rank):
            return after
        dag = after
    raise UnsupportedError(f"{shown(dag.name)} can't go to {target.name}: its axes can't be had in {target.rank}")


def _fits(dag: Network, rank: int) -> bool:
    return all(t.rank <= rank for v in dag.graph.values for t in result_types(v))


def unsupported(name: str, target: str, problems: Sequence[Problem], verb: str = "had") -> UnsupportedError:
    """The error that names all that a target can't have, with counts and places."""
    counts = Counter((p.op, readable(p.why)) for p in problems)
    lines = [f"{shown(name)} can't go to {target}: {sum(counts.values())} ops of {len(counts)} kinds can't be {verb}:"]
    for (op, why), count in counts.most_common():
        places = [shown(p.origin.module or p.origin.source) for p in problems
                  if (p.op, readable(p.why)) == (op, why) and p.origin is not None]  # fmt: skip
        told = [p for p in dict.fromkeys(places) if p]
        at = f" (at {'; '.join(told[:3])}{'; ...' if len(told) > 3 else ''})" if told else ""
        lines.append(f"  {count:4} x {op}: {why}{at}")
    return UnsupportedError("\n".join(lines))


def is_static(value: Value, static: Collection[Value], changing: Collection[str], varies: Collection[int] = ()) -> bool:
    """Whether a value is made of what is static: of constants, and of weights other than the buffers that change.

    What has no entries is always static; what is counted to a number that varies, or sliced up to one, never is.
    """
    op = value.op
    if not isinstance(op, Leaf) and is_one(value) and not value.type.size:
        return True
    if varies and isinstance(op, Iota | Slice):
        counted = [op.size] if isinstance(op, Iota) else [len(range(*b)) for b in op.bounds if b is not None]
        if not frozenset(counted).isdisjoint(varies):
            return False
    if isinstance(op, Input | Random | External) or (isinstance(op, Buffer) and op.leaf in changing):
        return False
    return all(a in static for a in value.args)


# --- the walk ----------------------------------------------------------------------------------------------


def _walked(dag: N, target: Target, whole: bool = True, laid: bool = False) -> N:
    """Every value as the target accepts it; ``whole``: with as few axes, ``laid``: with channels last."""
    graph = with_checks(dag)
    walk = _Walk(target, whole, laid, set(graph.updates))
    new: dict[Value, Any] = {}
    with bulk():
        for value in graph.values:
            new[value] = walk.put(value, [new[a] for a in value.args], dag.origins.get(value), ())
    if walk.problems:
        raise unsupported(dag.name, target.name, walk.problems)
    order = [v for result in new.values() for v in each(result)]
    inputs, outputs, updates = ({k: new[v] for k, v in d.items()} for d in (graph.inputs, graph.outputs, graph.updates))
    return finished(dag, Graph(inputs, outputs, updates, graph.name, order), walk.origins)


class _Step(NamedTuple):
    """An op that isn't accepted, by its label and the types of its arguments and results, and why."""

    label: str
    types: tuple[TensorType, ...]
    why: str


class _Walk:
    """What becomes of every value."""

    def __init__(self, target: Target, whole: bool, laid: bool, changing: Collection[str]) -> None:
        self.target, self.whole, self.laid, self.changing = target, whole, laid, changing
        self.static: set[Value] = set()
        self.origins: dict[Value, Origin] = {}
        self.problems: list[Problem] = []

    def put(self, value: Value, args: list[Any], origin: Origin | None, path: tuple[_Step, ...]) -> Any:
        """What stands for a value on other arguments; ``path`` has what this is made for."""
        op = value.op
        if isinstance(op, Item) and isinstance(args[0], tuple):
            return cast(Any, args[0])[op.index]
        same = all(a is b for a, b in zip(args, value.args, strict=True))
        current = value if same else op(*args)
        why = None if self._is_static(current) else self._refusal(current)
        if why is None:
            if origin is not None and not isinstance(op, Leaf):
                self.origins.setdefault(current, origin)
            return current
        step = _Step(label(current), (*_argument_types(current), *result_types(current)), why)
        if any(step[:2] == s[:2] for s in path):  # round in a circle: what it was made for last is what isn't there
            return self._refused(current, path[-1].why, origin, path[-1].label)
        made = self._instead(current)
        if made is None:
            return self._refused(current, why, origin, step.label)
        results = each(made)
        inner: dict[Value, Any] = {a: a for a in current.args}
        for v in down_to(list(results), set(inner)):
            if v not in inner:
                inner[v] = self.put(v, [inner[a] for a in v.args], origin, (*path, step))
        found = tuple([inner[v] for v in results])
        return found if isinstance(made, tuple) else found[0]

    def _is_static(self, value: Value) -> bool:
        """Whether no input is behind a value, and the target's writer works it out."""
        if not self.target.folds or not is_static(value, self.static, self.changing, self.target.varies):
            return False
        self.static.add(value)
        return True

    def _refusal(self, value: Value) -> str | None:
        op = value.op
        if isinstance(op, Item | Const | Input | Parameter | Buffer):
            return None
        target = self.target
        last = f"{op.name}{LAST}"
        if target.last and not self.laid and op.name in IMAGES and (last in target.ops or last in target.identities):
            return None
        why = target.refusal(value)
        if why is None or self.whole or target.rank is None:
            return why
        # what has too many axes and else is accepted is left for to_rank, if that can take it
        most = max([t.rank for t in (*_argument_types(value), *result_types(value))])
        if most <= target.rank or label(value) not in target.ops:
            return why
        types_ = tuple([a.type for a in value.args])
        moves = label(value) == "reshape"
        low = lowest_rank(op, types_) if isinstance(op, Composite) and not moves else 0
        return None if low <= target.rank else why

    def _refused(self, value: Value, why: str, origin: Origin | None, name: str) -> Any:
        self.problems.append(Problem(name, why, origin))
        names = [f"\0{len(self.problems)}.{i}" for i in range(len(result_types(value)))]
        unknown = tuple([Input(n, t)() for n, t in zip(names, result_types(value), strict=True)])
        return unknown[0] if is_one(value) else unknown

    def _instead(self, value: Value) -> Any:
        """What stands for a value that isn't accepted; None if nothing does."""
        name, op = label(value), value.op
        accepts = self.target.ops.get(name)
        if accepts is not None and accepts.final:
            return None
        for function in (self._wider, *self._identities(name)):
            try:
                made = function(value)
            except TypeMismatchError:  # an identity of real numbers, or of floats
                made = None
            if made is not None:
                return made
        if not isinstance(op, Composite):
            return None
        body = op.body(*[a.type for a in value.args])
        inner: dict[Value, Value] = dict(zip(body.inputs.values(), value.args, strict=True))
        for v in body.values:
            if v not in inner:
                inner[v] = v.op(*[inner[a] for a in v.args])
        results = tuple([inner[v] for v in body.outputs.values()])
        return results[0] if len(results) == 1 else results

    def _identities(self, name: str) -> Sequence[Any]:
        return [table[name] for table in (self.target.identities, IDENTITIES) if name in table]

    def _wider(self, value: Value) -> Any:
        """The op on arguments of a wider element type, its result in the one it had."""
        kinds = [t.dtype for t in _argument_types(value)] or [t.dtype for t in result_types(value)]
        for narrow in dict.fromkeys(kinds):
            for name in self.target.wider.get(narrow.name, ()):
                made = self._widened(value, narrow, DType.of(name))
                if made is not None:
                    return made
        return None

    def _widened(self, value: Value, narrow: DType, to: DType) -> Any:
        op = value.op
        if op.name in _BITS or (isinstance(op, Composite) and not narrow.is_float):
            return None
        made = _in(op, [cast_to(a, to) if is_one(a) and a.dtype is narrow else a for a in value.args], narrow, to)
        known = label(made) in self.target.ops if made is not None else False
        if made is None or not (known or (narrow.is_float and not isinstance(op, Composite))):
            return None  # floats are computed in the wider type by identities too, and rounded once
        if is_one(made):
            return cast_to(made, value.dtype) if made.dtype is to else made
        results = zip([Item(i)(made) for i in range(len(result_types(made)))], result_types(value), strict=True)
        return tuple([cast_to(r, t.dtype) for r, t in results])


def _in(op: Op, args: list[Value], narrow: DType, to: DType) -> Value | None:
    """An op on arguments of another element type, with what its attributes say of the old one in the new."""
    if isinstance(op, Iota):
        return Iota(op.size, to)()
    if isinstance(op, Pad) and narrow.name == "bool":
        op = Pad(op.widths, scalar(bool(op.value), to))
    if isinstance(op, Composite) and op.attributes.get("dtype") is narrow:
        op = cast(Any, type(op))(*[to if f == "dtype" else getattr(op, f) for f in op.fields])
    try:
        return op(*args)
    except (TypeMismatchError, AttributeValueError):
        return None  # a function of bools, or of whole numbers, that the wider type hasn't


def _argument_types(value: Value) -> list[TensorType]:
    return [t for a in value.args for t in result_types(a)]


# --- types that are held in others -------------------------------------------------------------------------


def _check_held(dag: Network, target: Target) -> None:
    """UnsupportedError names constants and weights with numbers that the type they are held in doesn't have."""
    found: list[Problem] = []
    for value in dag.graph.values:
        op = value.op
        if not is_one(value) or value.dtype.name not in target.held or not value.dtype.is_int:
            continue
        to = DType.of(target.held[value.dtype.name])
        info = np.iinfo(to.numpy)
        data = op.data if isinstance(op, Const) else None
        if isinstance(op, Parameter | Buffer):
            data = np.asarray(dag.weights[op.leaf])
        if isinstance(op, Iota) and op.size:
            data = np.array(op.size - 1)
        if data is not None and data.size and (data.min() < info.min or data.max() > info.max):
            why = f"{int(data.min())} to {int(data.max())} as {value.dtype}, which {target.name} holds as {to}"
            found.append(Problem(getattr(op, "leaf", op.name), why, dag.origins.get(value)))
    if found:
        raise unsupported(dag.name, target.name, found)


def held_in(target: Target, weights: Mapping[str, Any], name: str) -> Any:
    """A weight in the element type that a target holds it in."""
    data = np.asarray(weights[name])
    to = target.held.get(DType.of(data.dtype).name)
    return data if to is None else data.astype(DType.of(to).numpy)
