"""A student that learns what a teacher computes: losses on outputs, on values within, and block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tdagger.errors import AttributeValueError, InputError
from tdagger.frameworks.torch.exporter import to_torch
from tdagger.frameworks.torch.runtime import to_numpy
from tdagger.op import Value
from tdagger.tensordag import TensorDAG
from tdagger.transform.surgery.select import calls, found

#: Losses on outputs by name.
OUTPUTS = ("kl", "mse", "none")


class Distillation(nn.Module):
    """The two networks of :func:`tdagger.distill`; called with an input, it gives losses by name.

    ``student`` is a module that trains, ``teacher`` one that doesn't; ``adapters`` are trained beside the student and
    are no part of it. ``parameters()`` are the student's and the adapters'.
    """

    def __init__(
        self,
        student: TensorDAG,
        teacher: TensorDAG,
        *,
        taps: Sequence[str] | Mapping[str, str] = (),
        blocks: Sequence[str] | Mapping[str, str] = (),
        output: str = "kl",
        temperature: float = 2.0,
    ) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise AttributeValueError(f"distill: the loss on outputs is one of {', '.join(OUTPUTS)}, got {output!r}")
        self.output, self.temperature, self.dag = output, temperature, student
        pairs = _pairs(taps)
        self.taps = {s: f"tap{i}" for i, s in enumerate(pairs)}
        own = {n: _one(student, s) for s, n in self.taps.items()}
        others = {n: _one(teacher, t) for n, t in zip(self.taps.values(), pairs.values(), strict=True)}
        self.adapters = nn.ModuleDict(
            {n: a for n, v in own.items() if (a := _adapter(v, others[n], list(pairs))) is not None}
        )
        self.blocks = [_Block(student, teacher, s, t, i) for i, (s, t) in enumerate(_pairs(blocks).items())]
        inside = {n: v for b in self.blocks for n, v in b.taken.items()}
        self._own, self._others = _keys(own), _keys({**others, **inside})
        self.student = _with(student, own, self._own)
        theirs = _with(teacher, {**others, **inside}, self._others)
        self._teacher = [theirs.eval().requires_grad_(False)]  # in a list, so that it is no part of the state

    @property
    def teacher(self) -> nn.Module:
        """The network that is learned from."""
        return self._teacher[0]

    def _apply(self, fn: Any, recurse: bool = True) -> Distillation:
        self._teacher[0]._apply(fn)
        for block in self.blocks:
            block.module._apply(fn)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> Distillation:
        """Sets the student's mode; the teacher stays in eval mode."""
        for block in self.blocks:
            block.module.train(mode)
        return super().train(mode)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Losses by name: ``output``, each tap by the student's path, each block as ``block PATH``.

        ``sum(losses.values())`` is one. Those on values are mean squared differences over the teacher's mean square, so
        that all are of one size.
        """
        with torch.no_grad():
            whole, inside = _called(self.teacher, args, kwargs, self._others)
        losses: dict[str, Tensor] = {}
        if self.output != "none" or self.taps:
            given, values = _called(self.student, args, kwargs, self._own)
            if self.output != "none":
                losses["output"] = self._on_outputs(given, whole)
            for path, name in self.taps.items():
                own = self.adapters[name](values[name]) if name in self.adapters else values[name]
                losses[path] = _relative(own, inside[name])
        held = {**dict(self.student.named_parameters()), **dict(self.student.named_buffers())}
        for block in self.blocks:
            losses[f"block {block.path}"] = block.loss(held, inside)
        return losses

    def _on_outputs(self, given: Any, wanted: Any) -> Tensor:
        pairs = list(zip(_tensors(given), _tensors(wanted), strict=True))
        if not pairs or any(a.shape != b.shape for a, b in pairs):
            told = ", ".join(f"{list(a.shape)} and {list(b.shape)}" for a, b in pairs) or "no tensors"
            raise InputError(f"distill: the outputs of student and teacher are {told}; output='none' leaves them out")
        if self.output == "mse":
            return torch.stack([_relative(a, b) for a, b in pairs]).sum()
        t = self.temperature
        each = [
            functional.kl_div((a / t).log_softmax(-1), (b / t).log_softmax(-1), reduction="sum", log_target=True)
            / (a[..., 0].numel() or 1)
            for a, b in pairs
        ]
        return torch.stack(each).sum() * t * t

    @torch.no_grad()
    def trained(self) -> TensorDAG:
        """The student as it was trained, as a network."""
        held = {**dict(self.student.named_parameters()), **dict(self.student.named_buffers())}
        return self.dag.with_weights(
            {n: to_numpy(held[n].detach().cpu().clone()) for n in self.dag.weights if n in held}
        )


class _Block:
    """A block of the student, which is run on what goes into the teacher's."""

    def __init__(self, student: TensorDAG, teacher: TensorDAG, own: str, other: str, number: int) -> None:
        self.path = own
        part, source = (_part(dag, path) for dag, path in ((student, own), (teacher, other)))
        given = [*part.inputs, part.outputs[0]]
        wanted = [*source.inputs, source.outputs[0]]
        if [v.type for v in given] != [v.type for v in wanted]:
            types = [", ".join(str(v.type) for v in values) for values in (given, wanted)]
            raise AttributeValueError(
                f"distill: block {own!r} takes and gives {types[0]}, the teacher's {other!r} {types[1]}: to be trained "
                "on the teacher's inputs they have to be the same"
            )
        names = [f"block{number}_{i}" for i in range(len(wanted))]
        self.taken = dict(zip(names, wanted, strict=True))
        self.inputs, self.target = names[:-1], names[-1]
        self.module = to_torch(student.extract(part.inputs, [part.outputs[0]]))

    def loss(self, held: Mapping[str, Tensor], inside: Mapping[str, Tensor]) -> Tensor:
        """The relative difference of what it gives, with the student's weights, from what the teacher's gave."""
        names = [n for n, _ in (*self.module.named_parameters(), *self.module.named_buffers()) if n in held]
        out = functional_call(self.module, {n: held[n] for n in names}, tuple([inside[n] for n in self.inputs]))
        (own,) = _tensors(out)
        return _relative(own, inside[self.target])


def _pairs(given: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """The student's paths, and the teacher's for each."""
    if isinstance(given, str):
        return {given: given}
    return dict(given) if isinstance(given, Mapping) else {p: p for p in given}


def _one(dag: TensorDAG, path: str) -> Value:
    values = list(found(dag, path).values())
    if len(values) != 1:
        raise AttributeValueError(f"distill: {path!r} gives {len(values)} tensors: name a module that gives one")
    return values[0]


def _part(dag: TensorDAG, path: str) -> Any:
    parts = calls(dag, path)
    if len(parts) != 1 or len(parts[0].outputs) != 1:
        raise AttributeValueError(
            f"distill: block {path!r} is called {len(parts)} times and gives {len(parts[0].outputs)} tensors: a block "
            "is called once and gives one"
        )
    return parts[0]


def _adapter(own: Value, other: Value, paths: list[str]) -> nn.Module | None:
    """What makes the student's value as wide as the teacher's; None where it is."""
    if own.shape == other.shape:
        return None
    unlike = [i for i, (a, b) in enumerate(zip(own.shape, other.shape, strict=False)) if a != b]
    if own.rank != other.rank or len(unlike) != 1:
        raise AttributeValueError(
            f"distill: a tap of {', '.join(paths)} is {own.type} in the student and {other.type} in the teacher: one "
            "dimension may differ, which a linear layer adapts"
        )
    return _Adapter(unlike[0], own.shape[unlike[0]], other.shape[unlike[0]])


class _Adapter(nn.Module):
    """A linear layer on one dimension."""

    def __init__(self, axis: int, own: int, other: int) -> None:
        super().__init__()
        self.axis = axis
        self.linear = nn.Linear(own, other)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.movedim(self.axis, -1)).movedim(-1, self.axis)


def _keys(values: Mapping[str, Value]) -> dict[str, str]:
    """For every name the one under which its value is given: a value that has several is given once."""
    first: dict[Value, str] = {}
    return {n: first.setdefault(v, n) for n, v in values.items()}


def _with(dag: TensorDAG, values: Mapping[str, Value], keys: Mapping[str, str]) -> nn.Module:
    """The module of a network that gives values besides, by name."""
    named = {n: values[n] for n in dict.fromkeys(keys.values())}
    return to_torch(dag.with_outputs(**named) if named else dag, copy=True)


def _called(module: nn.Module, args: Any, kwargs: Any, keys: Mapping[str, str]) -> tuple[Any, dict[str, Tensor]]:
    """What a network gives, and the values that it gives besides."""
    out = module(*args, **kwargs)
    return (out[0], {n: out[1][k] for n, k in keys.items()}) if keys else (out, {})


def _tensors(given: Any) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given] if given.is_floating_point() else []
    if isinstance(given, Mapping):
        return [t for v in cast(Mapping[str, Any], given).values() for t in _tensors(v)]
    return [t for v in cast("list[Any]", given) for t in _tensors(v)] if isinstance(given, list | tuple) else []


def _relative(own: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared difference over the mean square of what is wanted."""
    return functional.mse_loss(own, wanted) / wanted.square().mean().clamp_min(1e-12)


def distill(student: TensorDAG, teacher: TensorDAG, **options: Any) -> Distillation:
    """See :func:`tdagger.distill`."""
    return Distillation(student, teacher, **options)
