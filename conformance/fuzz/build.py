"""Making a random program step by step: each step is run at two assignments of sizes, and kept if it runs at both."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conformance.fuzz.program import NAMES, Input, Program, Step, make_inputs

#: No value has more entries or dimensions, and none is larger: sums of what is larger say nothing.
MOST, RANK, LARGEST = 3000, 5, 1e3


class Skip(Exception):
    """A step that can't be made of the values there are."""


Maker = Callable[["Builder"], None]


class Builder:
    """The program so far, and its values at the program's sizes (``base``) and at others, all distinct (``other``)."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.steps: list[Step] = []
        self.train = self.rng.random() < 0.06
        self.generic = self.rng.random() < 0.97
        self.finite = self.rng.random() < 0.97
        self._count = 0
        self.inputs: list[Input] = []
        self.sizes, self.others = self._axes()
        self._make_inputs()
        self.spaces: list[dict[str, Any]] = []
        self.replay()

    def _axes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Named axes at two sizes. ``c`` and ``d`` are of parameters: they have the same in both."""
        sizes, others = {"c": self.rng.choice((2, 3, 4, 4, 4, 6, 8)), "d": self.rng.choice((1, 2, 3, 5))}, {}
        others.update(sizes)
        for name in ("b", "n", "k", "h", "w"):
            low, high = {"b": (1, 3), "n": (2, 7), "k": (1, 6), "h": (3, 8), "w": (3, 8)}[name]
            size = self.rng.randint(low, high)
            sizes[name] = size
            steps = [s for s in (2, 3, 4, 5, 6) if size * s not in others.values()]
            others[name] = size * self.rng.choice(steps) if self.rng.random() < 0.5 else self._odd(size, others)
        return sizes, others

    def _odd(self, size: int, taken: dict[str, int]) -> int:
        """A larger size of the same parity that no other axis has."""
        found = size + 2
        while found in taken.values():
            found += 2
        return found

    def _make_inputs(self) -> None:
        """One to three inputs that share axes."""
        shapes = (
            ("b", "n", "c"),
            ("b", "c", "h", "w"),
            ("b", "n"),
            ("n", "c"),
            ("b", "c", "n"),
            ("b", "n", "k"),
            ("n",),
        )
        first = self.rng.choices(shapes, (6, 5, 2, 3, 3, 2, 1))[0]
        self._input(first, True)
        for _ in range(self.rng.choices((0, 1, 2), (5, 4, 1))[0]):
            roll = self.rng.random()
            if roll < 0.3:
                self._input(first, False)
            elif roll < 0.8:
                count = self.rng.randint(1, len(first))
                kept = sorted(self.rng.sample(range(len(first)), count))
                self._input(tuple(first[i] for i in kept), False)
            else:
                self._input(self.rng.choice(shapes), False)

    def _input(self, axes: tuple[str, ...], first: bool) -> None:
        shape = ", ".join(axes) + ("," if len(axes) == 1 else "")
        weights = {"float32": 78, "float64": 6, "bfloat16": 4, "float16": 3, "int64": 5, "int32": 2, "bool": 2}
        kinds = list(weights) if first or len(axes) > 2 else [*weights, "index"]
        kind = self.rng.choices(kinds, [weights.get(k, 50) for k in kinds])[0]
        if kind == "index":
            of = self.rng.choice((*self.inputs[0].axes, "4"))
            make = f"torch.randint(0, {of}, ({shape}), generator=g)"
        elif kind == "bool":
            make = f"torch.rand(({shape}), generator=g) > 0.4"
        elif kind.startswith("int"):
            make = f"torch.randint(-3, 5, ({shape}), generator=g, dtype=torch.{kind})"
        elif self.rng.random() < 0.08:  # zeros and ties
            make = f"torch.randint(-2, 3, ({shape}), generator=g).to(torch.{kind}) / 2"
        else:
            make = f"torch.randn(({shape}), generator=g" + (")" if kind == "float32" else f").to(torch.{kind})")
        self.inputs.append(Input(f"x{len(self.inputs)}", axes, make))

    # Running.

    def replay(self) -> None:
        """Run all steps anew."""
        self.spaces = []
        for sizes in (self.sizes, self.others) if self.generic else (self.sizes, self.sizes):
            args = make_inputs(self.inputs, sizes, self.seed)
            space = {
                **NAMES,
                "self": nn.Module().train(self.train),
                **{x.name: t for x, t in zip(self.inputs, args, strict=True)},
            }
            self.spaces.append(space)
            for step in self.steps:
                run_step(step, space)

    @property
    def base(self) -> dict[str, Any]:
        """The values at the program's own sizes, and the names a step may use."""
        return self.spaces[0]

    @property
    def other(self) -> dict[str, Any]:
        """The values at the other sizes."""
        return self.spaces[1]

    @property
    def values(self) -> list[str]:
        """The names of all values, oldest first."""
        return [x.name for x in self.inputs] + [o for s in self.steps for o in s.outs]

    def do(self, op: str, *lines: str, outs: Sequence[str], init: Sequence[str] = (), pure: bool = True) -> None:
        """Add a step; Skip if it doesn't run, or gives what is too large or no number."""
        step = Step(op, lines, tuple(outs), tuple(init))
        try:
            for space in self.spaces:
                run_step(step, space)
                for name in outs or step.uses:
                    acceptable(space[name], self.finite)
        except Exception as e:
            for space in self.spaces:
                for name in outs:
                    space.pop(name, None)
            if not pure:
                self.replay()
            raise Skip from e
        self.steps.append(step)

    # Choosing.

    def new(self) -> str:
        """A name for a value."""
        self._count += 1
        return f"v{self._count}"

    def state(self) -> str:
        """A name for a parameter, buffer or module."""
        self._count += 1
        return f"p{self._count}"

    def one(self, *choices: Any) -> Any:
        """One of some."""
        return self.rng.choice(choices)

    def chance(self, p: float) -> bool:
        """True with a probability."""
        return self.rng.random() < p

    def pick(
        self, kind: str = "float", low: int = 0, high: int = RANK, where: Callable[[Tensor], bool] | None = None
    ) -> str:
        """A value of a kind (float, int, bool, number, any) and of low to high dimensions, a recent one rather."""
        found = [n for n in self.values if is_kind(self.base[n], kind) and low <= self.base[n].dim() <= high]
        found = [n for n in found if where is None or where(self.base[n])]
        if not found:
            raise Skip
        return found[-1 - min(int(self.rng.expovariate(0.7)), len(found) - 1)]

    def writable(self, kind: str = "float", low: int = 1, high: int = RANK) -> str:
        """A value that isn't an input or a view of one (nearly always)."""
        if self.chance(0.02):
            return self.pick(kind, low, high)
        own = {self.base[x.name].untyped_storage().data_ptr() for x in self.inputs}
        return self.pick(kind, low, high, lambda t: t.untyped_storage().data_ptr() not in own)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value at the program's sizes."""
        return tuple(self.base[name].shape)

    def fixed(self, name: str, axis: int) -> bool:
        """Whether a dimension has one size whatever the axes have, so that a parameter can be along it."""
        return self.base[name].shape[axis] == self.other[name].shape[axis]

    def dim(self, name: str, low: int = 1, fixed: bool | None = None) -> int:
        """A dimension of a value of at least ``low`` entries."""
        t = self.base[name]
        found = [i for i in range(t.dim()) if t.shape[i] >= low and (fixed is None or fixed == self.fixed(name, i))]
        if not found:
            raise Skip
        return self.rng.choice(found)

    def signed(self, name: str, axis: int) -> int:
        """The same dimension, counted from the end or not."""
        return axis - self.base[name].dim() if self.chance(0.5) else axis

    def size(self, name: str, axis: int) -> str:
        """An expression for a size."""
        i = self.signed(name, axis)
        return self.one(f"{name}.shape[{i}]", f"{name}.shape[{i}]", f"{name}.size({i})")

    def like(self, name: str) -> str:
        """Another value of the same shape at both sizes; Skip if there is none."""
        shapes = [[tuple(s[n].shape) for s in self.spaces] for n in self.values]
        own = [tuple(s[name].shape) for s in self.spaces]
        found = [n for n, s in zip(self.values, shapes, strict=True) if s == own and n != name]
        found = [n for n in found if self.base[n].dtype == self.base[name].dtype]
        if not found:
            raise Skip
        return self.rng.choice(found)


def run_step(step: Step, space: dict[str, Any]) -> None:
    """Run one step in a space of names."""
    if step.init:
        torch.manual_seed(0)
        for line in step.init:
            exec(line, space)
        space["self"].train(space["self"].training)
    exec("\n".join(step.lines), space)


def is_kind(t: Any, kind: str) -> bool:
    """Whether a tensor is of a kind: float, int, bool, number, any."""
    if kind == "any":
        return True
    found = "float" if t.dtype.is_floating_point else "bool" if t.dtype == torch.bool else "int"
    return found == kind or (kind == "number" and found != "bool")


def acceptable(t: Any, finite: bool) -> None:
    """Skip what is no tensor, or too large; and, mostly, what isn't finite."""
    if not isinstance(t, Tensor) or t.numel() > MOST or t.dim() > RANK or t.numel() == 0 or t.is_complex():
        raise Skip
    if (
        t.dtype != torch.bool
        and bool((t.abs() > LARGEST).logical_or(t.isnan() if finite else t != t).any())
        and (finite or bool((t.abs() > LARGEST).logical_and(t.isfinite()).any()))
    ):
        raise Skip


def generate(seed: int, makers: Sequence[Maker], weights: Sequence[float], entrances: dict[str, float]) -> Program:
    """The program of a seed: 2 to 12 steps of the makers; what isn't used is returned, and what was made last."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        b = Builder(seed)
        wanted = b.rng.choices(range(2, 13), [3, 4, 5, 5, 5, 4, 4, 3, 2, 1, 1])[0]
        for _ in range(wanted * 12):
            if len(b.steps) >= wanted:
                break
            with contextlib.suppress(Skip):
                b.rng.choices(makers, weights)[0](b)
    return finished(b, b.rng.choices(list(entrances), list(entrances.values()))[0])


def finished(b: Builder, entrance: str) -> Program:
    """The program of a builder's steps."""
    used = {n for s in b.steps for n in s.uses}
    made = [o for s in b.steps for o in s.outs] or [b.inputs[0].name]
    outputs = [made[-1], *[n for n in made if n not in used and n != made[-1]][:3]]
    if b.chance(0.2):
        outputs.append(b.rng.choice(made))
    outputs = list(dict.fromkeys(outputs))
    structure = b.one("one", "one", "one", "dict") if len(outputs) == 1 else b.one("tuple", "tuple", "dict")
    taken = {n for s in b.steps for n in s.uses} | set(outputs)
    inputs = tuple(x for x in b.inputs if x.name in taken)
    return Program(
        b.seed, needed_sizes(inputs, b.sizes), inputs, tuple(b.steps), tuple(outputs), structure, b.train, entrance
    )


def needed_sizes(inputs: Sequence[Input], sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes that some inputs are made by."""
    return {a: n for a, n in sizes.items() if any(a in x.axes or f"(0, {a}," in x.make for x in inputs)}
