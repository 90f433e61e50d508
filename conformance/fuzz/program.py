"""A random program as data: inputs by named axes, steps of source, outputs; written out as a class or a script."""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: What the source of a step may use.
NAMES: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "math": math, "__name__": "fuzzed"}

#: Names of values: inputs x0, x1 ..., results v0, v1 ..., others within a step t0, t1 ...; and of what __init__ makes.
_VALUE = re.compile(r"\b[xv]\d+\b")
_BRANCH = re.compile(r"\b(if|while)\b.*(shape|size|len)")
_STATE = re.compile(r"\bself\.(p\d+)\b")


@dataclass(frozen=True)
class Input:
    """An argument: ``make`` is an expression of named axes and the generator ``g``, ``axes`` its dimensions."""

    name: str
    axes: tuple[str, ...]
    make: str


@dataclass(frozen=True)
class Step:
    """Some lines of forward, with what __init__ has to make for them, and the values they give to others."""

    op: str
    lines: tuple[str, ...]
    outs: tuple[str, ...]
    init: tuple[str, ...] = ()

    @property
    def uses(self) -> list[str]:
        """The values it reads, each once."""
        found = dict.fromkeys(_VALUE.findall("\n".join(self.lines)))
        return [n for n in found if n not in self.outs]

    def renamed(self, old: str, new: str) -> Step:
        """The same step reading another value."""
        lines = tuple(re.sub(rf"\b{old}\b", new, line) for line in self.lines)
        return Step(self.op, lines, self.outs, self.init)


@dataclass(frozen=True)
class Program:
    """A network: its axes with their sizes, inputs, steps, what it returns and how."""

    seed: int
    sizes: Mapping[str, int]
    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    structure: str = "one"  # one | tuple | dict
    train: bool = False
    #: Which way it goes into tdagger: see ``check.ENTRANCES``.
    entrance: str = field(default="module")

    @cached_property
    def source(self) -> str:
        """The class."""
        init = list(dict.fromkeys(line for s in self.steps for line in s.init))
        lines = ["class Net(nn.Module):"]
        if init:
            lines += ["    def __init__(self):", "        super().__init__()", *(f"        {line}" for line in init)]
        lines.append(f"    def forward(self, {', '.join(x.name for x in self.inputs)}):")
        for step in self.steps:
            lines += [f"        {line}" for line in step.lines]
        results = {
            "one": self.outputs[0],
            "tuple": ", ".join(self.outputs),
            "dict": "{" + ", ".join(f'"{o}": {o}' for o in self.outputs) + "}",
        }
        return "\n".join([*lines, f"        return {results[self.structure]}", ""])

    @cached_property
    def cls(self) -> type[nn.Module]:
        """The class, compiled; its lines can be read by inspect, as TorchScript does."""
        name = f"<fuzz {self.seed}>"
        linecache.cache[name] = (len(self.source), None, self.source.splitlines(True), name)
        space = dict(NAMES)
        exec(compile(self.source, name, "exec"), space)
        return space["Net"]

    def module(self) -> nn.Module:
        """A new instance with the same weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.cls().train(self.train)

    @property
    def stateful(self) -> bool:
        """Whether a call may change a buffer."""
        return self.train or any("register_buffer" in line for s in self.steps for line in s.init)

    @property
    def branches(self) -> bool:
        """Whether its source does something else at other sizes: an if or a while on them."""
        return any(_BRANCH.search(line) for s in self.steps for line in s.lines)

    def shapes(self, sizes: Mapping[str, int] | None = None) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs with these sizes instead of the program's own."""
        all_sizes = {**self.sizes, **(sizes or {})}
        return {x.name: tuple(all_sizes[a] for a in x.axes) for x in self.inputs}

    def arguments(self, sizes: Mapping[str, int] | None = None, salt: int = 0) -> tuple[Tensor, ...]:
        """Inputs at these sizes, the same every time for the same ``salt``."""
        return make_inputs(self.inputs, {**self.sizes, **(sizes or {})}, self.seed + salt)

    def script(self, check: str, what: str, sizes: Mapping[str, int] | None = None) -> str:
        """A file to run: the class, its inputs, and the lines that show what is wrong."""
        given = ", ".join(f"{a}={n}" for a, n in self.sizes.items())
        makes = ", ".join(x.make for x in self.inputs)
        lines = [
            f"# seed {self.seed}, {check}, imported from {self.entrance}",
            *(f"# {line}" for line in what.splitlines()),
            "import math, torch, torch.nn.functional as F, tdagger as td",
            "from torch import nn",
            "",
            self.source,
            f"def inputs({given}):",
            f"    g = torch.Generator().manual_seed({self.seed})",
            f"    return ({makes},)",
            f"torch.manual_seed({self.seed})",
            f"m, x = Net().train({self.train}), inputs()",
            f"dag = {_CAPTURES[self.entrance]}",
            *(
                line.format(sizes=dict(sizes or {}), shapes=self.shapes(sizes))
                for line in _SHOWS.get(check.split("[")[0], ())
            ),
        ]
        return "\n".join(lines) + "\n"


def make_inputs(inputs: Sequence[Input], sizes: Mapping[str, int], seed: int) -> tuple[Tensor, ...]:
    """Tensors for some inputs."""
    g = torch.Generator().manual_seed(seed)
    return tuple(eval(x.make, {"torch": torch, "g": g, **sizes}) for x in inputs)


def state_names(step: Step) -> list[str]:
    """The attributes of self a step makes."""
    return _STATE.findall("\n".join(step.init)) + re.findall(r'register_buffer\("(p\d+)"', "\n".join(step.init))


_CAPTURES = {
    "module": "td.from_torch(m, x)",
    "program": "td.from_torch(torch.export.export(m, x))",
    "trace": 'td.from_torch(m, x, via="trace")',
    "script": "td.from_torch(torch.jit.script(m), x)",
    "traced": "td.from_torch(torch.jit.trace(m, x), x)",
}

_GRADIENTS = (
    "def gradients(f):",
    "    y = [t.clone().requires_grad_() if t.is_floating_point() else t for t in x]",
    "    outs = f(*y)",
    "    outs = list(outs.values()) if isinstance(outs, dict) else [outs] if isinstance(outs, torch.Tensor) else outs",
    "    outs = [o.double() for o in outs if o.requires_grad]",
    "    loss = sum((o * torch.arange(o.numel()).reshape(o.shape).cos()).sum() for o in outs)",
    "    wanted = [t for t in y if t.requires_grad] + [p for p in f.parameters()]",
    "    return torch.autograd.grad(loss, wanted, allow_unused=True)",
    "print('eager', gradients(m))",
    "print('ours', gradients(dag.to_torch()))",
)

#: Lines that show one check failing.
_SHOWS: dict[str, tuple[str, ...]] = {
    "import": ("print(dag)",),
    "to_torch": ("print(dag.to_torch().code)", "print('eager', m(*x))", "print('ours', dag.to_torch()(*inputs()))"),
    "state": ("b = dag.to_torch()", "for _ in range(2): print('eager', m(*inputs()), 'ours', b(*inputs()))"),
    "numpy": ("print('eager', m(*x))", "print('ours', dag.run(*[t.numpy() for t in inputs()]))"),
    "torchscript": ("print('eager', m(*x))", "print('ours', dag.to_torchscript()(*inputs()))"),
    "onnx": ("dag.to_onnx('model.onnx')", "print(td.from_onnx('model.onnx'))"),
    "tflite": ("dag.to_tflite('model.tflite')", "print(td.from_tflite('model.tflite'))"),
    "coreml": ("dag.to_coreml('model.mlpackage')", "print(td.from_coreml('model.mlpackage'))"),
    "gradients": _GRADIENTS,
    "left": (
        "before = {{n: t.clone() for n, t in m.state_dict().items()}}",
        "dag.to_torchscript(), dag.to_exported_program()",
        "print(before, m.state_dict())",
    ),
    "axes": ("print(dag.axes())",),
    "text": ("print(dag)",),
    "cost": ("print(dag.cost())", "print(dag.cost(backward=True))"),
    "formula": (
        "r = dag.resize({shapes})",
        "print(dag.axes(), 'sizes', {sizes}, 'counted', r.graph.total_flops())",
        "print(dag.cost_formula('flops').expression)",
    ),
    "unbatch": ("print(dag.axes())", "print('input and dimension', {sizes})", "print(dag)"),
    "prune": ("print(dag.prunable())",),
    "batch": ("print(dag.batch(2).to_torch().code)",),
    "resizable": ("print(dag.resizable_axes())",),
    "resize": (
        "print(dag.resizable_axes())",
        "r = dag.resize({shapes}).to_torch()",
        "print(r.code)",
        "print('eager', m(*inputs(**{sizes})))",
        "print('ours', r(*inputs(**{sizes})))",
    ),
}
