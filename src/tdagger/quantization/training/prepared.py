"""Prepared to be trained: a module that is quantized as it will be, and back from it to the quantized network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tdagger.errors import InputError
from tdagger.graph import Graph, label
from tdagger.later import later
from tdagger.names import shown
from tdagger.network import Origin, plain_signature
from tdagger.op import Array, Value
from tdagger.ops.source import Leaf
from tdagger.quantization.convert import Conversion
from tdagger.quantization.prepare import Prepared
from tdagger.quantization.profile import Profile
from tdagger.quantization.scales import Affine, Weights, affine
from tdagger.quantization.training.network import Training, as_used, for_training, norms, refuse_training
from tdagger.quantization.weights import Rounding
from tdagger.tensordag import TensorDAG


class Trainable(Prepared):
    """A network that is quantized while it trains: :meth:`to_torch`, a loop of your own, :meth:`convert`.

    Data that it is called on first (:meth:`calibrate`) says what ranges begin with; the first batch of training does
    otherwise. ``learned``: scales are parameters (LSQ), else they follow weights and data.
    """

    def __init__(
        self, dag: TensorDAG, profile: Profile, keep: Iterable[Any] = (), framework: str | None = None,
        learned: bool = False,
    ) -> None:  # fmt: skip
        refuse_training(dag)
        if not learned:
            profile = replace(profile, weight=for_training(profile.weight))
        if learned and profile.dynamic:
            raise InputError(
                f"prepare: {profile.name} finds scales of activations when the network runs, so they aren't learned: "
                "learn_scales=False"
            )
        super().__init__(dag, profile, keep, framework)
        if not learned:
            self.read = {}  # ranges follow what data has
        self.before = self.as_float(dag, folded=False)
        _refuse_frozen(self.before, self.dag)
        self.learned = learned
        self.module: Any = None
        self._training: Training | None = None
        self._network: TensorDAG | None = None

    @property
    def network(self) -> TensorDAG:
        """The float network with fake-quantized values, as it is before it is trained."""
        if self._network is None:
            scales = self.scales() if self.batches else {}
            ranges = {r: self.range(r) for r in self.observers} if self.batches else {}
            self._training = Training(self.before, self.dag, self.placement, scales, ranges, self.learned)
            self._network = self.asking(self._training.run())
        return self._network

    @property
    def training(self) -> Training:
        """How :attr:`network` is made."""
        _ = self.network
        assert self._training is not None
        return self._training

    def to_torch(self) -> Any:
        """A module to train: the parameters of the network by their names, called as it is, in eval mode.

        Its ``network`` is the generated module. InputError in eval mode before it has seen any data.
        """
        self._training = self._network = None  # with what was seen since
        self.module = later("torch.quantized_training")(self, self.network)
        return self.module

    def began(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Array]:
        """What scales or ranges of activations begin with by a first batch, of any size: data by name."""
        watched, training = [*self.watched], self.training
        graph = Graph(self.dag.graph.inputs, {str(i): v for i, v in enumerate(watched)})
        results = plain_signature(0, max(len(watched), 2)).outputs
        if len(watched) == 1:
            results = results._replace(keys=results.keys[:1], children=results.children[:1])
        signature = replace(self.dag.signature, outputs=results)
        float_network = replace(self.dag, graph=graph, signature=signature, checks=()).to_torch()
        self.batches += 1
        for value, x in zip(watched, float_network(*args, **kwargs), strict=True):
            self.observe(value, later("torch.array")(x))
        training.scales = self.scales()
        training.ranges = {r: self.range(r) for r in self.observers}
        out: dict[str, Array] = {}
        for root, leaves in training.roots.items():
            out |= {_leaf(v): a for v, a in zip(leaves, training.start(root), strict=True)}
        return out

    def convert(self, rounding: Rounding | None = None, *, module: Any = None) -> TensorDAG:
        """The quantized network of what was trained: the last :meth:`to_torch` gave, or another of its kind.

        InputError if none was made, if it lacks weights, or if scales aren't finite.
        """
        module = self.module if module is None else module
        if module is None:
            raise InputError("convert: nothing was trained; train what to_torch() gives first")
        state: dict[str, Array] = later("torch.state_of")(getattr(module, "network", module))
        lacking = [n for n in self.training.given if n not in state]
        if lacking:
            raise InputError(f"convert: the module has no {shown(lacking[0])}; it isn't one that to_torch() gave")
        conversion = Conversion(self._weights(state), self.placement, self._scales(state), rounding or self.rounding)
        conversion.source.given = self._learned(state)
        return self.finished(conversion)

    def _weights(self, state: Mapping[str, Array]) -> TensorDAG:
        """The float network with the weights that were trained, norms folded."""
        training, arrays = self.training, {}
        for value, norm in training.norms.items():
            weight, bias = (_leaf(v) for v in value.args[1:])
            arrays[weight], arrays[bias] = norm.folded(lambda v: state[_leaf(v)], state[weight])
        own = {n: a for n, a in state.items() if n in self.dag.weights and n not in arrays}
        return self.dag.with_weights({**own, **arrays})

    def _scales(self, state: Mapping[str, Array]) -> dict[Value, Affine]:
        """The scales of activations."""
        found: dict[Value, Affine] = {}
        for root in self.observers:
            numbers = self.placement.numbers[root]
            if numbers.fixed is not None:
                found[root] = affine(*numbers.fixed, numbers)
                continue
            held = tuple([_finite(_leaf(v), state) for v in self.training.roots[root]])
            found[root] = as_used(held, numbers) if self.learned else affine(held[0], held[1], numbers)
        return found

    def _learned(self, state: Mapping[str, Array]) -> dict[tuple[str, Weights], Affine]:
        """The scales of weights that were learned."""
        return {
            (name, how): as_used(tuple([_finite(_leaf(v), state) for v in leaves]), how.numbers)
            for (name, how), leaves in self.training.of_plan.items()
        }


def _refuse_frozen(before: TensorDAG, dag: TensorDAG) -> None:
    """InputError for a batch norm that is folded for good, which training would leave as it is."""
    apart = {(_leaf(v.args[1]), norm.args) for v, norm in norms(before, dag).items()}
    there = {v.args[1:] for v in dag.graph.values if v.op.name == "batch_norm"}
    for value in before.graph.values:
        if value.op.name != "batch_norm" or value.args[1:] in there:
            continue
        layer = value.args[0]
        weights = [a for a in layer.args[1:2] if isinstance(a.op, Leaf)]
        if any((_leaf(w), value.args[1:]) in apart for w in weights):
            continue
        modules = [shown(before.origins.get(v, Origin()).module) for v in (value, layer)]
        shared = [w for w in weights if len(before.graph.users[w]) > 1]
        why = f", whose weight {shown(_leaf(shared[0]))} others have too" if shared else ""
        first = "give each layer a weight of its own, or " if shared else ""
        raise InputError(
            f"{shown(dag.name)}: prepare(train=True) can't train the batch norm {modules[0]}: it is folded for good "
            f"into the {label(layer.op)} {modules[1]}{why}; {first}train the float network and quantize it then"
        )


def _leaf(value: Value) -> str:
    assert isinstance(value.op, Leaf)
    return value.op.leaf


def _finite(name: str, state: Mapping[str, Array]) -> Array:
    if not np.isfinite(state[name]).all():
        raise InputError(f"convert: {shown(name)} isn't finite: training diverged")
    return state[name]
