"""The one loop that walks a graph, and numpy execution, which is one rule of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tdagger.errors import InputError, TDaggerError
from tdagger.graph import Graph
from tdagger.op import Array, Value
from tdagger.ops.source import Leaf


def interpret(graph: Graph, rule: Callable[[Value, list[Any]], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Walk a graph once, arguments first; ``rule(value, results of its arguments)`` gives each result.

    Returns the results of the outputs and of the updates, by name. A result is dropped after its last use.
    """
    last: dict[Value, Value] = {}
    for value in graph.values:
        for arg in value.args:
            last[arg] = value
    kept = {*graph.outputs.values(), *graph.updates.values()}
    results: dict[Value, Any] = {}
    for value in graph.values:
        result = rule(value, [results[a] for a in value.args])
        if value in last or value in kept:
            results[value] = result
        for arg in value.args:
            if last[arg] is value and arg not in kept:
                results.pop(arg, None)
    return (
        {name: results[v] for name, v in graph.outputs.items()},
        {name: results[v] for name, v in graph.updates.items()},
    )


def run(
    graph: Graph,
    inputs: Mapping[str, Array],
    weights: Mapping[str, Array],
    taken: Callable[[Any], Any] = lambda argument: argument,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Execute a graph with numpy: the outputs and the new values of changed buffers, by name.

    ``inputs`` and ``weights`` are looked up by the names of the leaves; ops get what ``taken`` makes of an argument.
    InputError if a leaf is missing or has another type than the graph declares.
    """
    rule = _rule(inputs, weights)
    with np.errstate(all="ignore"):
        return interpret(graph, lambda value, args: rule(value, [*map(taken, args)]))


def run_all(graph: Graph, inputs: Mapping[str, Array], weights: Mapping[str, Array]) -> dict[Value, Any]:
    """Execute a graph with numpy and keep all values; errors are as of :func:`run`."""
    rule = _rule(inputs, weights)
    found: dict[Value, Any] = {}
    with np.errstate(all="ignore"):
        for value in graph.values:
            found[value] = rule(value, [found[a] for a in value.args])
    return found


def _rule(inputs: Mapping[str, Array], weights: Mapping[str, Array]) -> Callable[[Value, list[Any]], Any]:
    """What a value is with numpy, of what its arguments are."""

    def rule(value: Value, args: list[Array]) -> Any:
        op = value.op
        if isinstance(op, Leaf):
            return leaf_array(op, inputs if op.name == "input" else weights)
        try:
            return op.run(*args)
        except TDaggerError:
            raise
        except Exception as e:
            e.add_note(f"while running {value!r}")
            raise

    return rule


def computed(value: Value) -> Array:
    """What a value is that no input, parameter or buffer is behind."""
    return run(Graph({}, {"value": value}), {}, {})[0]["value"]


def leaf_array(op: Any, data: Mapping[str, Array]) -> Array:
    """The array of a leaf; InputError if there is none, or one of another type."""
    if op.leaf not in data:
        given = ", ".join(data) or "none"
        raise InputError(f"{op.name} {op.leaf!r} ({op.type}) was not given; there are {given}")
    array = data[op.leaf]
    if array.shape != op.type.shape or array.dtype != op.type.dtype.numpy:
        raise InputError(f"{op.name} {op.leaf!r} is declared {op.type}, got {array.dtype}{list(array.shape)}")
    return array
