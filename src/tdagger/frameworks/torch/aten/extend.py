"""Ops of one's own to torch and back: what a package outside of tdagger says of its core ops and composites.

``writes(op, how)`` says how torch computes an op, ``reads("library.op")`` is :func:`~.aten.table.rule`: the decorator
of the function that says what an op of torch is here. An op that says neither is known all the same: a composite is
written as its body, a core op computed by its numpy reference, without a derivative.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from tdagger.composite import CompositeFunction
from tdagger.errors import AttributeValueError
from tdagger.frameworks.torch.aten.table import rule as reads
from tdagger.frameworks.torch.emit.codegen import Writer
from tdagger.frameworks.torch.emit.composites import COMPOSITES, Condition, Fields, Rule
from tdagger.frameworks.torch.emit.core import CORE
from tdagger.names import literal
from tdagger.op import Op, Value, core_ops

#: A template with the names of tensors and attributes in braces, or a function of tensors, attributes by their names.
How = str | Callable[..., Any]
#: The functions of composites that torch computes by one, whatever they take.
FUNCTIONS: dict[str, Callable[..., Any]] = {}


def writes(
    op: type[Op] | CompositeFunction[Any, Any],
    how: How,
    *,
    takes: str = "fibcu",
    when: Condition | None = None,
) -> None:
    """Say how torch computes an op: ``writes(Sorted, "torch.sort({x}, {axis}).values")``, or by a function of torch's.

    The tensors have the names of the composite's, or of the arguments of the core op's ``infer``. ``takes`` are the
    kinds of element types that a composite's row is for (f floats, i integers, b bool, c complex, u 64 bits unsigned),
    ``when`` a condition on its attributes and the types of its arguments; where they don't hold, its body is written.
    AttributeValueError if the op is written already, or isn't registered.
    """
    name = op.name
    if isinstance(op, CompositeFunction):
        if name in COMPOSITES:
            raise AttributeValueError(f"torch knows {name} already")
        COMPOSITES[name] = Rule(how if isinstance(how, str) else _calls(how), takes, when)
        if not isinstance(how, str) and takes == "fibcu" and when is None and not op.variadic:
            FUNCTIONS[name] = how
        return
    if core_ops.get(name) is not op or takes != "fibcu" or when is not None:
        raise AttributeValueError(f"{name}: give a class of core op (without takes= and when=) or a composite")
    if name in CORE:
        raise AttributeValueError(f"torch knows {name} already")
    tensors = [p.name for p in inspect.signature(op.infer).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]
    CORE[name] = _row(how, tensors)


def _row(how: How, tensors: Sequence[str]) -> Callable[[Writer, Value], str]:
    def write(w: Writer, v: Value) -> str:
        texts = [w.ref(a) for a in v.args]
        if not isinstance(how, str):
            return _call(w, how, texts, v.op.attributes)
        return how.format(*texts, **dict(zip(tensors, texts, strict=False)), **v.op.attributes)

    return write


def _calls(how: Callable[..., Any]) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, fields: Fields) -> str:
        named = v.op.attributes
        texts: list[str] = []
        for key, text in fields.items():
            if key not in named:
                texts += text if isinstance(text, list) else [text]
        return _call(w, how, texts, named)

    return write


def _call(w: Writer, how: Callable[..., Any], texts: Sequence[str], attributes: Fields) -> str:
    given = [*texts, *(f"{k}={literal(v)}" for k, v in attributes.items())]
    return f"{w.named(how)}({', '.join(given)})"


__all__ = ["How", "reads", "writes"]
