"""What two networks are called with: inputs of one that stand for those of the other, or random ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from tdagger.errors import InputError
from tdagger.graph import Graph
from tdagger.interpret import run
from tdagger.op import Array, Value
from tdagger.ops.elementwise import Cast
from tdagger.ops.structure import Group, Permute, Repeat, Slice, Ungroup
from tdagger.transform.diff.align import Result
from tdagger.transform.diff.exact import unit
from tdagger.types import TensorType

#: Numbers of this relative distance are of outputs that go together.
_CLOSE = 1e-2
_MOVES = (Cast, Group, Permute, Repeat, Slice, Ungroup)


def paired_inputs(a: Graph, b: Graph) -> dict[str, str]:
    """The inputs of B with those of A, by name or else in order. InputError names both lists if they don't fit."""
    return {n: m for m, n in _paired("inputs", a.inputs, b.inputs)}


Pairs = list[tuple[str, str]]


def typed(graph: Graph, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays for the inputs of a graph in its own types."""
    return {n: arrays[n].astype(v.dtype.numpy) for n, v in graph.inputs.items()}


def taken(b: Graph, pairs: Mapping[str, str], given: Mapping[str, Array]) -> dict[str, Array]:
    """What B takes where A is given arrays: floats as they are, integers and what is true as B has them.

    InputError names an input that can't hold a number.
    """
    found: dict[str, Array] = {}
    for name, of in pairs.items():
        type_ = b.inputs[name].type
        array = given[of]
        if _sort(type_) == "whole":
            own = array.astype(type_.dtype.numpy)
            lost = own != array
            if lost.any():
                raise InputError(
                    f"the input {name!r} of B is {type_}, which can't hold {array[lost].flat[0]} of A's {of!r}"
                )
            array = own
        found[name] = array
    return found


def paired_outputs(a: Any, b: Any, inputs: Mapping[str, str], drawn: Mapping[str, Array]) -> Pairs:
    """The names of the outputs of two networks that go together: equal ones, or in order, or else by what they are.

    ``inputs`` are the names of B's inputs with those of A, ``drawn`` what A's are. Of outputs that are called otherwise
    and have another order (files of one network in two formats), those of one type go together that come out alike.
    InputError names both lists if the types don't fit.
    """
    one, other = a.graph.outputs, b.graph.outputs
    kinds = [Counter(map(_kind, outputs.values())) for outputs in (one, other)]
    in_order = all(_fits(x.type, y.type) for x, y in zip(one.values(), other.values(), strict=False))
    if set(one) == set(other) or in_order or kinds[0] != kinds[1]:
        return _paired("outputs", one, other)
    own = typed(a.graph, drawn)
    theirs = typed(b.graph, taken(b.graph, inputs, own))
    found: list[dict[tuple[Any, ...], list[tuple[float, str]]]] = [{}, {}]
    for groups, network, arrays in zip(found, (a, b), (own, theirs), strict=True):
        for name, array in run(network.graph, arrays, network.weights)[0].items():
            groups.setdefault(_kind(network.graph.outputs[name]), []).append((_mark(array), name))
    other_of = dict(p for kind, marked in found[0].items() for p in _alike(sorted(marked), sorted(found[1][kind])))
    return [(n, other_of[n]) for n in one]


def _kind(value: Value) -> tuple[Any, ...]:
    """What outputs of two networks have in common that may go together."""
    return value.type.shape, _sort(value.type)


def _sort(type_: TensorType) -> str:
    """Formats hold floats, integers and what is true as their own types of the sort (CoreML i32 for all but floats)."""
    dtype = type_.dtype
    return "float" if dtype.is_float else dtype.name if dtype.is_complex else "whole"


def _mark(array: Array) -> float:
    """A number for what an array holds, close where arrays are."""
    flat = np.nan_to_num(np.asarray(array).reshape(-1).astype(np.float64))
    return float(flat @ np.random.default_rng(0).standard_normal(flat.size))


def _alike(a: list[tuple[float, str]], b: list[tuple[float, str]]) -> Pairs:
    """Names by their numbers, both in order: those of close ones, then the rest in order."""
    pairs: Pairs = []
    own, theirs = list[str](), list[str]()
    i = j = 0
    while i < len(a) and j < len(b):
        (x, m), (y, n) = a[i], b[j]
        if abs(x - y) <= _CLOSE * max(abs(x), abs(y)):
            pairs.append((m, n))
            i, j = i + 1, j + 1
        elif x < y:
            own.append(m)
            i += 1
        else:
            theirs.append(n)
            j += 1
    own += [m for _, m in a[i:]]
    theirs += [n for _, n in b[j:]]
    return pairs + list(zip(own, theirs, strict=True))


def paired_results(a: Graph, b: Graph, outputs: Pairs) -> list[Result]:
    """The outputs of both by the names that go together, and the updated buffers, by name or else in order."""
    updates = _paired("changed buffers", a.updates, b.updates)
    found = [Result(m, a.outputs[m], b.outputs[n]) for m, n in outputs]
    return [*found, *[Result(m, a.updates[m], b.updates[n]) for m, n in updates]]


def _paired(what: str, a: Mapping[str, Value], b: Mapping[str, Value]) -> Pairs:
    pairs = [(n, n) for n in a] if set(a) == set(b) else list(zip(a, b, strict=False))
    if len(a) != len(b) or any(not _fits(a[m].type, b[n].type) for m, n in pairs):
        listed = [", ".join(f"{n}: {v.type}" for n, v in one.items()) or "none" for one in (a, b)]
        raise InputError(
            f"the networks can't be compared, they have other {what}\n  A: {listed[0]}\n  B: {listed[1]}\n"
            "import both with inputs of one shape; structure=True shows how their graphs differ"
        )
    return pairs


def _fits(a: TensorType, b: TensorType) -> bool:
    """Whether two types are alike but for how exact floats and how long integers are; 1 is true."""
    return a.shape == b.shape and _sort(a) == _sort(b)


def random_inputs(a: Graph, b: Graph, pairs: Mapping[str, str], seed: int) -> dict[str, Array]:
    """Inputs of A: normal floats that both types hold exactly, bools, and integers that fit what they are indices of.

    Integers that index nothing are 0 or 1; those called a mask are 1, and 0 at the last place.
    """
    random = np.random.default_rng(seed)
    other = {m: b.inputs[n].type for n, m in pairs.items()}
    return {n: _drawn(random, n, v, other[n], least_indexed(a, v)) for n, v in a.inputs.items()}


def _drawn(random: np.random.Generator, name: str, value: Value, other: TensorType, below: int) -> Array:
    type_ = value.type
    if type_.dtype.is_complex:
        drawn = random.standard_normal((2, *type_.shape))
        return (drawn[0] + 1j * drawn[1]).astype(type_.dtype.numpy)
    if type_.dtype.is_float:
        coarser = max(type_.dtype, other.dtype, key=unit)
        return random.standard_normal(type_.shape).astype(coarser.numpy).astype(type_.dtype.numpy)
    if type_.dtype.is_int and "mask" in name and type_.rank:
        mask = np.ones(type_.shape, type_.dtype.numpy)
        mask[..., max(type_.shape[-1] - 1, 1) :] = 0
        return mask
    for dtype in (type_.dtype, other.dtype):
        below = min(below, 2 if dtype.name == "bool" else np.iinfo(dtype.numpy).max)
    return random.integers(0, below, type_.shape).astype(type_.dtype.numpy)


def least_indexed(graph: Graph, value: Value) -> int:
    """The least size of what a value is an index into, directly or moved and cast; 2 if it indexes nothing."""
    found: list[int] = []
    stack, seen = [value], {value}
    while stack:
        at = stack.pop()
        for user in graph.users[at]:
            if user.op.name in ("gather", "embedding", "linear_index") and at in user.args[1:]:
                axis: int = user.op.attributes.get("axis", 0) + user.args[1:].index(at)
                found.append(user.args[0].type.shape[axis])
            elif (isinstance(user.op, _MOVES) or user.op.name == "reshape") and user not in seen:
                seen.add(user)
                stack.append(user)
    return min(found, default=2)


def given_inputs(graph: Graph, arrays: Mapping[str, Any]) -> dict[str, Array]:
    """Arrays as inputs of A, floats of any type. InputError says what is missing or has another type."""
    found: dict[str, Array] = {}
    for name, value in graph.inputs.items():
        if name not in arrays:
            raise InputError(
                f"the input {name!r} ({value.type}) was not given; there are {', '.join(arrays) or 'none'}"
            )
        array = np.asarray(arrays[name])
        own = TensorType(array.shape, array.dtype.name)
        as_exact = own.dtype is value.dtype or (own.dtype.is_float and value.dtype.is_float)
        if own.shape != value.shape or not as_exact:
            raise InputError(f"the input {name!r} is declared {value.type}, got {own}")
        found[name] = array
    return found
