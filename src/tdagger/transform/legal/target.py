"""Op sets as data: what a target runs, of which element types, with how many axes.

A target says of each op by its label (:func:`label`) what it accepts. :func:`tdagger.transform.legal.legalize` brings
a network there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tdagger.graph import label as kind_of
from tdagger.graph import result_types
from tdagger.op import Value
from tdagger.types import each_type

#: What stands for a value by an identity: another value, several for an op with several results, None if it can't.
Identity = Callable[[Value], Any]


def label(value: Value) -> str:
    """What a target calls an op: its kind after its name where it has one, a block's title, else its name.

    ``group`` and ``ungroup`` are ``reshape``: the same entries in the same order.

    >>> import tdagger as td
    >>> x = td.input("x", (2,))
    >>> [label(v) for v in (td.exp(x), x + x, td.reduce(x, "sum", (0,)), td.softmax(x, axis=0), td.unsqueeze(x, (0,)))]
    ['unary exp', 'binary add', 'reduce sum', 'softmax', 'reshape']
    """
    op = value.op
    if op.name in ("group", "ungroup"):
        return "reshape"
    if op.name in ("unary", "binary"):
        return f"{op.name} {kind_of(op)}"
    if op.name in ("reduce", "scan", "scatter"):
        return f"{op.name} {op.attributes['kind']}"
    return op.attributes["title"] if op.name == "block" else op.name


def types(*names: str) -> tuple[frozenset[str], ...]:
    """Element types of each argument, ``types("f32 f16", "i32")``; the last are those of all that follow.

    >>> [sorted(t) for t in types("f32 f16", "i32")]
    [['f16', 'f32'], ['i32']]
    """
    return tuple([frozenset(n.split()) for n in names])


class Accepts(NamedTuple):
    """When a target runs an op: element types of its arguments, most axes of these and of results, and what else.

    ``when(value)`` is asked of a value that fits otherwise: a sentence that says why it can't be had, None if it can.
    An op without arguments (iota, random) has its result's type asked. ``final``: nothing stands for what isn't
    accepted, a body neither.
    """

    dtypes: tuple[frozenset[str], ...]
    rank: int | None = None
    when: Callable[[Value], str | None] | None = None
    final: bool = False


@dataclass(frozen=True)
class Target:
    """An op set: its name, what it accepts by :func:`label`, and what helps to get there.

    ``ops``         labels to what is accepted of them; everything else is rewritten
    ``rank``        most axes of any tensor that is computed; None for any number
    ``wider``       element types to those that an op is computed in instead, tried in order: ``{"f16": ("f32",)}``
    ``held``        element types to those the target holds them in: ``{"i64": "i32"}``. The network keeps its types,
                    and whoever writes it writes the others; that constants and weights fit is checked
    ``identities``  labels to identities of the target's own, tried before those that are true everywhere
    ``folds``       whether whoever writes works out what no input is behind: such values are all accepted
    ``varies``      sizes that are going to be other ones: what is counted to such a number isn't worked out
    ``last``        whether images have their channels last: ``convolution_last`` and so on, blocks of
                    :func:`tdagger.transform.passes.channels_last`, are what ``ops`` has for them
    """

    name: str
    ops: Mapping[str, Accepts]
    rank: int | None = None
    wider: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    held: Mapping[str, str] = field(default_factory=dict[str, str])
    identities: Mapping[str, Identity] = field(default_factory=dict[str, Identity])
    folds: bool = False
    last: bool = False
    varies: frozenset[int] = frozenset()

    def refusal(self, value: Value) -> str | None:
        """Why a value can't be had as it is; None if it can.

        >>> import tdagger as td
        >>> target = Target("T", {"unary exp": Accepts(types("f32"))})
        >>> target.refusal(td.exp(td.input("x", (2,), "f64"))), target.refusal(td.exp(td.input("x", (2,))))
        ('T has no unary exp of f64', None)
        """
        name = label(value)
        accepts = self.ops.get(name)
        if accepts is None:
            return f"{self.name} has no {name}"
        given = [t for a in value.args for t in each_type(a.type)] or list(result_types(value))
        for i, t in enumerate(given):
            allowed = accepts.dtypes[min(i, len(accepts.dtypes) - 1)]
            if t.dtype.name not in allowed:
                return f"{self.name} has no {name} of {t.dtype}"
        most = max([t.rank for t in (*given, *result_types(value))], default=0)
        limit = min([n for n in (self.rank, accepts.rank) if n is not None], default=most)
        if most > limit:
            return f"{self.name} has {name} of at most {limit} axes, this is of {most}"
        return None if accepts.when is None else accepts.when(value)
