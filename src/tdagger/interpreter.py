"""An interpreter to subclass: it runs a network value by value, with numpy or with torch, and its methods see each.

>>> import tdagger as td
>>> class Loud(Interpreter):
...     def run_value(self, value, args):
...         result = super().run_value(value, args)
...         print(value.op, result.shape)
...         return result
...
...     def run_relu(self, value, args):  # one method for an op
...         return args[0]
>>> dag = td.network(lambda x: td.relu(td.neg(x)), {"x": (2,)})
>>> Loud(dag).run(np.ones(2, "f"))
input x (2,)
neg (2,)
relu (2,)
array([-1., -1.], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from tdagger.composite import Composite
from tdagger.errors import GraphError, InputError, TDaggerError
from tdagger.graph import Graph, label
from tdagger.interpret import interpret, leaf_array
from tdagger.later import later
from tdagger.op import Array, Value
from tdagger.ops.source import Leaf
from tdagger.ops.structure import Item
from tdagger.tensordag import TensorDAG
from tdagger.transform.networks import place


class Executor(Protocol):
    """How a framework runs one value; ``tdagger.frameworks.NAME.execute`` has the functions of it."""

    def is_tensor(self, x: Any) -> bool:
        """Whether something is a tensor of the framework's."""
        ...

    def weight(self, weights: Mapping[str, Array], value: Value) -> Any:
        """The data of a parameter or buffer."""
        ...

    def run(self, value: Value, args: list[Any]) -> Any:
        """What an op gives: a tensor, or a tuple of them for several results."""
        ...

    def read_again(self, rounded: Value, value: Value, args: list[Any]) -> Any:
        """What a ``dequantize`` gives of a ``quantize`` of its scale; the first of ``args`` is what is rounded."""
        ...

    def packed(self, value: Value, args: list[Any]) -> Callable[[Any], Any] | None:
        """An op as a function of what it takes first, its other ``args`` laid out for it once; None where none is."""
        ...

    def array(self, tensor: Any) -> Array:
        """A tensor as an array."""
        ...


class _Numpy:
    """The reference."""

    def is_tensor(self, x: Any) -> bool:
        return isinstance(x, np.ndarray | np.generic)

    def weight(self, weights: Mapping[str, Array], value: Value) -> Any:
        return leaf_array(value.op, weights)

    def run(self, value: Value, args: list[Any]) -> Any:
        with np.errstate(all="ignore"):
            return value.op.run(*args)

    def read_again(self, rounded: Value, value: Value, args: list[Any]) -> Any:
        return self.run(value, [self.run(rounded, args), *args[1:]])

    def packed(self, value: Value, args: list[Any]) -> None:
        return None

    def array(self, tensor: Any) -> Array:
        return np.asarray(tensor)


class Interpreter:
    """Runs a network value by value. Override :meth:`run_value` to see all, or ``run_NAME`` for the ops of one name.

    ``NAME`` is what an op is counted under (:func:`tdagger.op_counts`): ``run_relu``, ``run_add``, a block's title.
    In such a method ``super().run_value(value, args)`` is what the op gives.
    ``framework`` is "numpy" (the reference) or "torch" (what ``to_torch`` would call, on torch's tensors, with
    gradients), or another interpreter's ``framework``: torch's code for an op is compiled once for both. ``network`` is
    a TensorDAG, or a Graph, which has no weights.
    """

    def __init__(self, network: TensorDAG | Graph, framework: str | Executor = "numpy") -> None:
        self.network = network
        self.graph = network if isinstance(network, Graph) else network.graph
        self.weights: Mapping[str, Array] = {} if isinstance(network, Graph) else network.weights
        self.framework: Executor = _executor(framework) if isinstance(framework, str) else framework
        #: What a run got, by the names of the inputs; inside a body, by those of its inputs.
        self.inputs: Mapping[str, Any] = {}
        #: The new values of buffers after a run.
        self.updates: dict[str, Any] = {}
        #: What a method of a subclass's own for its op is running.
        self._within: Value | None = None

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives: tensors nested as its source nested them; InputError if the arguments don't fit."""
        if isinstance(self.network, Graph):
            raise InputError("a graph doesn't say how it is called: run_graph({name: tensor})")
        given = self.network.bind(args, kwargs, self.framework.is_tensor)
        return self.network.signature.outputs.unflatten(list(self.run_graph(given).values()))

    def run_graph(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name, for inputs by name; the new values of buffers are in ``updates``."""
        outer, self.inputs = self.inputs, inputs
        try:
            outputs, self.updates = interpret(self.graph, self._visit)
        finally:
            self.inputs = outer
        return outputs

    def _visit(self, value: Value, args: list[Any]) -> Any:
        try:
            return self.run_value(value, args)
        except TDaggerError:
            raise
        except Exception as e:
            e.add_note(f"while running {value!r}{self.where(value)}")
            raise

    def run_value(self, value: Value, args: list[Any]) -> Any:
        """What a value is, given what its arguments are: a tensor, or a tuple for an op with several results."""
        if isinstance(value.op, Leaf):
            return self.run_leaf(value)
        name = f"run_{label(value.op)}"
        own: Callable[..., Any] | None = None if hasattr(Interpreter, name) else getattr(self, name, None)
        if own is None or self._within is value:
            return self.run_op(value, args)
        outer, self._within = self._within, value
        try:
            result = own(value, args)
        finally:
            self._within = outer
        if result is None:
            what = f"{name} of {type(self).__name__} gave None for {value!r}{self.where(value)}"
            raise GraphError(f"{what}: it gives what stands for the op, super().run_value(value, args) or another")
        return result

    def run_leaf(self, value: Value) -> Any:
        """What an input, parameter or buffer is; InputError if nobody gave it."""
        assert isinstance(value.op, Leaf)
        if value.op.name != "input":
            return self.framework.weight(self.weights, value)
        if value.op.leaf not in self.inputs:
            given = ", ".join(self.inputs) or "none"
            raise InputError(f"input {value.op.leaf!r} ({value.type}) was not given; there are {given}")
        return self.inputs[value.op.leaf]

    def run_op(self, value: Value, args: list[Any]) -> Any:
        """What an op gives, as the framework computes it."""
        return args[0][value.op.index] if isinstance(value.op, Item) else self.framework.run(value, args)

    def run_body(self, value: Value, args: list[Any]) -> Any:
        """What a composite gives, its body run value by value by this interpreter."""
        assert isinstance(value.op, Composite)
        body = value.op.body(*[a.type for a in value.args])
        outer, self.inputs = self.inputs, dict(zip(body.inputs, args, strict=True))
        try:
            results = tuple(interpret(body, self._visit)[0].values())
        finally:
            self.inputs = outer
        return results[0] if len(results) == 1 else results

    def where(self, value: Value) -> str:
        """The module and source line that a value came from, for messages."""
        return place({} if isinstance(self.network, Graph) else self.network.origins)(value)


def _executor(framework: str) -> Executor:
    if framework == "numpy":
        return _Numpy()
    try:
        return later(f"{framework}.executor")()
    except (KeyError, ModuleNotFoundError) as e:
        raise InputError(f"values can be run by numpy or torch, not by {framework!r} ({e})") from e
