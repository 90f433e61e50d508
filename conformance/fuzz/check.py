"""What is checked of one program: every way out of tdagger and every change of axes, against eager."""

from __future__ import annotations

import contextlib
import math
import random
import re
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import tdagger as td
from conformance.fuzz.compare import Noise, difference, listed
from conformance.fuzz.files import FORMATS, results
from conformance.fuzz.frozen import frozen
from conformance.fuzz.program import Program
from tdagger.analysis.axes.terms import Axis
from tdagger.frameworks.torch.aten.calls import array_of
from tdagger.frameworks.torch.runtime import from_numpy
from tdagger.transform.axes.sources import Network, Noted, Shapes, SizeOf, Sketching, Source

Sizes = Mapping[str, int]
Runs = Callable[[], list[list[Any]]]

#: Outcomes. ``wrong`` and ``crash`` are faults of tdagger; ``n/a`` is what eager, or torch's capture, can't do itself;
#: ``unseen`` is a wrong resize of an ExportedProgram that has no trace of what its source does with a size, and which.
OUTCOMES = ("ok", "refused", "n/a", "unseen", "wrong", "crash")
#: At how many sizes of several axes a program is called, and the axes that parameters have too.
TOGETHER, OF_PARAMETERS = 6, "cd"
#: How often a program is run with noise before a difference is believed.
NOISES = 4


class Result(NamedTuple):
    """How one check went, and at which sizes; ``kind`` is what stays the same while a failure is made smaller."""

    check: str
    outcome: str
    why: str = ""
    kind: str = ""
    sizes: dict[str, int] | None = None

    @property
    def bad(self) -> bool:
        """Whether tdagger is at fault."""
        return self.outcome in ("wrong", "crash")

    @property
    def key(self) -> tuple[str, str, str]:
        """What a smaller program has to share."""
        return self.check, self.outcome, self.kind


class NotApplicable(Exception):
    """Eager, or torch's own capture, can't do what is asked."""


class Failed(Exception):
    """What was converted doesn't run."""


class Kept:
    """A source that is captured, and sketched, once for each set of sizes: checks ask it for the same ones again.

    ``changed`` says what that did to the state of the module, which is to stay as it was.
    """

    def __init__(self, source: Source, module: torch.nn.Module) -> None:
        self.source = source
        self.module = module
        self.changed = ""
        self._given: dict[tuple[Any, ...], Any] = {}

    def at(self, shapes: Shapes) -> Network:
        """The network with inputs of these shapes."""
        return self._asked(self.source.at, shapes)

    def sketch_at(self, shapes: Shapes) -> td.Graph | None:
        """Its graph, if that can be had for less."""
        return self._asked(self.source.sketch_at, shapes) if isinstance(self.source, Sketching) else None

    def noted_at(self, shapes: Shapes, size_of: SizeOf) -> Noted:
        """The same, with what its code compares: of other axes each time."""
        source = self.source
        return self._watched(lambda: source.noted_at(shapes, size_of)) if isinstance(source, Sketching) else Noted()

    def _watched(self, ask: Callable[[], Any]) -> Any:
        before = state(self.module)
        try:
            return ask()
        finally:
            self.changed = self.changed or differing(before, state(self.module))

    def _asked(self, ask: Callable[[Shapes], Any], shapes: Shapes) -> Any:
        key = (ask.__name__, *sorted(shapes.items()))
        if key not in self._given:
            try:
                self._given[key] = self._watched(lambda: ask(shapes))
            except td.TDaggerError as e:
                self._given[key] = e
        found = self._given[key]
        if isinstance(found, td.TDaggerError):
            raise found
        return found


def running(function: Callable[[], Any]) -> Any:
    """Run what was converted: any error, also one of tdagger's own, is a crash."""
    try:
        return function()
    except td.TDaggerError as e:
        raise Failed(f"{type(e).__name__}: {e}") from e


class Checks:
    """The checks of one program. Results of eager are kept by sizes."""

    def __init__(self, program: Program, only: Collection[str] | None = None) -> None:
        self.program = program
        self.only = only
        self.results: list[Result] = []
        self._eager: dict[Any, Any] = {}

    def run(self) -> list[Result]:
        """All checks, or the one that is asked for."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.eager()
            except Exception as e:
                raise NotApplicable(f"eager doesn't run: {e}") from e
            self.check("import", self.imported, always=True)
            if self.results[0].outcome == "ok":
                self._of_the_dag()
        return self.results

    def check(
        self, name: str, function: Callable[[], str | None], sizes: Sizes | None = None, always: bool = False
    ) -> None:
        """Note how one check went; ``function`` says what is wrong, or nothing."""
        if not (always or self.asked(name)):
            return
        at = dict(sizes) if sizes else None
        try:
            wrong = function()
        except td.TDaggerError as e:
            inner = type(e) is td.TDaggerError and e.__cause__ is not None  # an error of its own, told where
            kind = crash_kind(e.__cause__ or e) if inner else reason(e)
            found = Result(name, "crash" if inner else "refused", str(e), kind, at)
        except NotApplicable as e:
            found = Result(name, "n/a", str(e), "", at)
        except Exception as e:  # the sweep notes whatever it is and goes on
            found = Result(name, "crash", f"{type(e).__name__}: {e}", crash_kind(e), at)
        else:
            kind = (
                ""
                if not wrong
                else "values"
                if "is off by" in wrong
                else "types"
                if ", eager " in wrong
                else _plain(wrong)
            )
            unseen = self.unseen(function) if wrong and name.endswith("[alone]") else ""
            kind, wrong = (unseen, f"{unseen}: {wrong}") if unseen else (kind, wrong)
            found = Result(name, ("unseen" if unseen else "wrong") if wrong else "ok", wrong or "", kind, at)
        self.results.append(found)

    def unseen(self, function: Callable[[], str | None]) -> str:
        """Why nobody could know of a wrong result from an export alone; nothing if it could be known."""
        if self.program.branches:
            return "an if or while asks for a size"
        own = self.program, self._eager
        for why, other in frozen(self.program):
            self.program, self._eager = other, {}
            try:
                if not function():
                    return why
            except (td.TDaggerError, NotApplicable):
                continue
            finally:
                self.program, self._eager = own
        return ""

    def asked(self, name: str) -> bool:
        """Whether a check is one of those to make."""
        return self.only is None or name in self.only

    # Eager.

    def eager(self, sizes: Sizes | None = None, salt: int = 0, noise: Noise | None = None, calls: int = 1) -> list[Any]:
        """What the program gives at these sizes, in the last of some calls; NotApplicable if it doesn't run."""
        key = (tuple((sizes or {}).items()), salt, noise and (noise.salt, noise.ties), calls)
        if key not in self._eager:
            try:
                self._eager[key] = self._run(sizes, salt, noise, calls)
            except Exception as e:
                self._eager[key] = NotApplicable(f"eager: {type(e).__name__}")
        if isinstance(self._eager[key], NotApplicable):
            raise self._eager[key]
        return self._eager[key]

    def _run(self, sizes: Sizes | None, salt: int, noise: Noise | None, calls: int) -> list[Any]:
        module = self.reference()
        out = None
        for _ in range(calls):
            args = self.program.arguments(sizes, salt)
            with torch.no_grad():
                out = listed(module(*args)) if noise is None else listed(with_noise(lambda a=args: module(*a), noise))
        return [t.clone() for t in out or []]

    def noisy(self, sizes: Sizes | None = None, salt: int = 0, calls: int = 1, ties: bool = True) -> Runs:
        """Eager with noise, some times, when called; ``ties`` where other kernels may run."""
        return lambda: [self.eager(sizes, salt, Noise(n, ties), calls) for n in range(NOISES)]

    def compared(self, function: Any, sizes: Sizes | None = None, calls: int = 1, ties: bool = True) -> str:
        """What differs between eager and something that is called as it is."""
        wanted = self.eager(sizes, calls=calls)
        with torch.no_grad(), fresh(function) if isinstance(function, torch.nn.Module) else contextlib.nullcontext():
            for _ in range(calls):
                args = self.program.arguments(sizes)
                got = running(lambda args=args: listed(function(*args)))
        found = difference(got, wanted, self.noisy(sizes, calls=calls, ties=ties))
        if found and calls == 1 and self.program.entrance == "trace":  # what is made of sizes is a tensor there: f32
            own = self.traced(self.program.module(), sizes)
            with torch.no_grad():
                if other := difference(listed(own(*self.program.arguments(sizes))), wanted, self.noisy(sizes)):
                    raise NotApplicable(f"torch's own trace: {other}")
        return found

    # Ways in.

    @cached_property
    def module(self) -> torch.nn.Module:
        """The module that is imported."""
        return self.program.module()

    @cached_property
    def back(self) -> torch.nn.Module:
        """The network in torch again."""
        return self.dag.to_torch()

    @property
    def mode(self) -> str:
        """Whether a resize may capture the source again."""
        return "alone" if self.program.entrance == "program" else "source"

    @cached_property
    def dag(self) -> td.TensorDAG:
        """The program imported through its entrance; its source gives again what it was asked for."""
        dag = self._given()
        return dag if dag.source is None else replace(dag, source=Kept(dag.source, self.module))

    def _given(self) -> td.TensorDAG:
        module, args = self.module, self.program.arguments()
        entrance = self.program.entrance
        if entrance == "module":
            return td.from_torch(module, args)
        if entrance == "trace":
            return td.from_torch(module, args, via="trace")
        makers: dict[str, Callable[[], Any]] = {
            "program": lambda: torch.export.export(module, args),
            "script": lambda: torch.jit.script(module),
            "traced": lambda: self.traced(module),
        }
        try:
            source = makers[entrance]()
        except Exception as e:
            raise NotApplicable(f"torch's own capture: {type(e).__name__}") from e
        if entrance == "script" and (other := self.compared(torch.jit.script(self.program.module()))):
            raise NotApplicable(f"torch's own script: {other}")
        return td.from_torch(source) if entrance == "program" else td.from_torch(source, self.program.arguments())

    def traced(self, module: torch.nn.Module, sizes: Sizes | None = None) -> torch.jit.ScriptModule:
        """A trace of a module, which has the state it had."""
        with fresh(module):
            return torch.jit.trace(module, self.program.arguments(sizes), check_trace=False, strict=False)

    def reference(self) -> torch.nn.Module:
        """What is imported, as it was before: of a program that was traced the trace, which has sizes as numbers."""
        module = self.program.module()
        return self.traced(module) if self.program.entrance == "traced" else module

    def imported(self) -> str:
        """Import, and nothing else; the module is left as it was."""
        before = state(self.program.module())
        if len(self.dag.graph.inputs) != len(self.program.inputs):
            return "other inputs than forward has"
        changed = differing(before, state(self.module))
        return "from_torch changed the state of the source" if changed else ""

    # Checks.

    def _of_the_dag(self) -> None:
        dag, p = self.dag, self.program
        self.check("to_torch", lambda: self.compared(self.back, ties=False))
        if p.stateful:
            self.check("state", lambda: self.compared(self.back, calls=2, ties=False))
        self.check("numpy", lambda: self.compared(self.in_numpy(dag)))
        self.check("torchscript", self.scripted)
        for name in FORMATS:
            self.check(name, lambda name=name: self.in_file(name))
        self.check("gradients", self.gradients)
        self.check("axes", lambda: str(dag.axes()) and None)
        self.check("text", lambda: str(dag) and None)
        self.check("cost", self.cost)
        self.check("prune", self.pruned)
        self.check("resizable", lambda: str(dag.resizable_axes()) and None)
        self.check("batch", self.batched)
        for x in p.inputs:
            for i in range(len(x.axes)):
                self.check("unbatch", lambda x=x, i=i: self.unbatched(p.inputs.index(x), i), {x.name: i})
        for axis in self.axes:
            n = p.sizes[axis]
            for size in dict.fromkeys((n + 1, 2 * n)):
                self.resized({axis: size})
            for size in dict.fromkeys((n + 1, 2 * n, 1, 0)):
                self.check(f"open[{self.mode}]", lambda s={axis: size}: self.called(s), {axis: size})
        for i, sizes in enumerate(self.together()):
            if not i:
                self.resized(sizes)
            self.check(f"open[{self.mode}]", lambda s=sizes: self.called(s), sizes)
        if p.stateful:
            self.check("left", self.left)

    @property
    def axes(self) -> list[str]:
        """The axes that inputs have."""
        return [a for a in self.program.sizes if any(a in x.axes for x in self.program.inputs)]

    def together(self) -> Iterator[dict[str, int]]:
        """Other sizes of several axes at once: few of some and many of others, as many, twice as many, one more.

        Those of parameters mostly stay.
        """
        rng = random.Random(self.program.seed)
        for _ in range(TOGETHER if len(self.axes) > 1 else 0):
            sizes: dict[str, int] = {}
            for axis in self.axes:
                n = self.program.sizes[axis]
                other = rng.choice([n, *sizes.values()])
                size = rng.choice((1, n, n + 1, 2 * n, 3 * n + 2, other, other + 1, 2 * other))
                if axis not in OF_PARAMETERS or rng.random() < 0.2:
                    sizes[axis] = size
            yield sizes

    def in_numpy(self, dag: td.TensorDAG) -> Callable[..., Any]:
        """``dag.run`` on tensors."""

        def call(*args: Tensor) -> list[Tensor]:
            out = listed(dag.run(*[array_of(t) for t in args]))
            kinds = [t.dtype for t in self.eager()]
            named = [v.type.dtype.name for v in dag.graph.outputs.values()]
            ours = [TORCH[n] for n in named] if len(named) == len(out) else kinds
            return [from_numpy(a if a.flags.writeable else a.copy(), k) for a, k in zip(out, ours, strict=True)]

        return call

    def pruned(self) -> str:
        """Without some units of every group: as with zeros, but for what is named, and as costly as was said."""
        groups = [g for g in self.dag.prunable() if g.size > 1]
        if not groups:
            raise NotApplicable("nothing can be pruned")
        rng = np.random.default_rng(self.program.seed)
        entries = {g.name: rng.choice(g.size, int(rng.integers(1, g.size)), replace=False) for g in groups}
        plan = self.dag.prune_plan(entries=entries)
        small, check = plan.apply(), plan.check()
        if not check.passed or (not check.exact and not plan.why):
            return f"pruned: {check}, told: {plan.why}, without {entries}"
        flops, predicted = small.graph.total_flops(), plan.found.cost["flops"](plan.found.left(plan.gone))
        # where ops fall away, as nothing reads them any more or all they read is constant, the polynomial that targets
        # are solved by isn't all
        left, had = (Counter(v.op.name for v in dag.graph.values) for dag in (small, plan.found.dag))
        if flops != plan.after["flops"] or (flops != predicted and left == had):
            return f"pruned: flops {flops}, said {plan.after['flops']}, by the polynomial {predicted}"
        return ""

    def scripted(self) -> str:
        """TorchScript, run as it is written."""
        with fresh(self.back):
            script = self.dag.to_torchscript()
        with torch.jit.optimized_execution(False):
            return self.compared(script)

    def in_file(self, name: str) -> str:
        """As a file, by its runtime and read again. But for ONNX element types are the nearest that the format has."""
        wanted, inputs = self.eager(), self.program.arguments()
        if any(t.dtype == torch.bfloat16 for t in (*wanted, *inputs)):
            raise NotApplicable("arrays have no bfloat16")
        with tempfile.TemporaryDirectory() as folder:
            for by, give in results(self.dag, FORMATS[name], inputs, folder).items():
                got = running(give)[: len(wanted)]  # behind them is the state
                if name != "onnx":
                    got = [a.to(b.dtype).reshape(a.shape[: b.dim()]) for a, b in zip(got, wanted, strict=True)]
                if wrong := difference(got, wanted, self.noisy()):
                    return f"{by}: {wrong}"
        return ""

    def left(self) -> str:
        """What changes the state of the source though it is only looked at or converted."""
        dag, sizes = self.dag, {a: n + 1 for a, n in self.program.sizes.items()}
        shapes = dict(zip(dag.graph.inputs, self.program.shapes(sizes).values(), strict=True))
        actions: dict[str, Callable[[], Any]] = {
            "to_torch": dag.to_torch, "to_torchscript": dag.to_torchscript, "cost": dag.cost,
            "to_exported_program": dag.to_exported_program, "resizable_axes": dag.resizable_axes,
            "resize": lambda: dag.resize(shapes),
        }  # fmt: skip
        before = state(self.module)
        for name, action in actions.items():
            with fresh(self.module):
                with contextlib.suppress(td.TDaggerError):
                    action()
                if differing(before, state(self.module)):
                    return f"{name} changes the state of the source"
        changed = dag.source.changed if isinstance(dag.source, Kept) else ""
        return f"capturing it again changes the state of the source: {changed}" if changed else ""

    def cost(self) -> None:
        """All costs; the flops are those of the graph."""
        (
            str(self.dag.cost()),
            str(self.dag.cost(backward=True)),
            self.dag.peak_memory(),
            self.dag.graph.total_memory_reads(),
        )

    def gradients(self) -> str:
        """Of what floats are returned, for inputs and parameters."""
        wanted = self._gradients(None)
        if ".data." in self.program.source:
            self._refused_by_autograd()

        def noisy() -> list[list[Any]]:
            return [self._gradients(Noise(n)) for n in range(NOISES)]

        names = dict(self.back.named_parameters())
        with fresh(self.back):
            ours = running(lambda: gradients(self.back, self.program.arguments(), names, self._named))
        return difference(ours, wanted, noisy)

    def _refused_by_autograd(self) -> None:
        """NotApplicable if autograd refuses it with ``detach()`` for ``data``, of whose writes it isn't told."""
        steps = tuple(
            [replace(s, lines=tuple([x.replace(".data.", ".detach().") for x in s.lines])) for s in self.program.steps]
        )
        try:
            Checks(replace(self.program, steps=steps))._gradients(None)
        except NotApplicable as e:
            raise NotApplicable("what autograd kept was changed through .data, which it isn't told of") from e

    @cached_property
    def _named(self) -> list[str]:
        return [n for n, p in self.program.module().named_parameters() if p.requires_grad]

    def _gradients(self, noise: Noise | None) -> list[Any]:
        module = self.reference()
        args = self.program.arguments()
        try:
            if noise is None:
                return gradients(module, args, dict(module.named_parameters()), self._named)
            return with_noise(lambda: gradients(module, args, dict(module.named_parameters()), self._named), noise)
        except Exception as e:
            raise NotApplicable(f"eager's backward: {type(e).__name__}") from e

    # Axes.

    def batched(self) -> str:
        """A batch of two: each entry as eager gives it alone."""
        salts = (0, 1)
        wanted = [self.eager(None, s) for s in salts]
        module = self.dag.batch(2).to_torch(fixed=True)
        args = [torch.stack(pair) for pair in zip(*(self.program.arguments(None, s) for s in salts), strict=True)]
        with torch.no_grad(), fresh(module):
            got = running(lambda: listed(module(*args)))
        for i, salt in enumerate(salts):
            ours = [g[i] if g.dim() > w.dim() else g for g, w in zip(got, wanted[i], strict=True)]
            if found := difference(ours, wanted[i], self.noisy(None, salt)):
                return f"entry {i}: {found}"
        return ""

    def unbatched(self, index: int, axis: int) -> str:
        """Without a dimension of an input: run for each of its entries, and put together by the axes of the outputs."""
        graph = self.dag.graph
        name = list(graph.inputs)[index]
        axes = self.dag.axes()
        gone = list(axes[graph.inputs[name]][axis])
        changed = self.dag.unbatch(input=name, axis=axis)
        small, shapes = changed.to_torch(fixed=True), [v.shape for v in changed.graph.inputs.values()]
        if len(set(gone)) != len(gone):
            return f"the axis {axes.show(graph.inputs[name])} is twice in one dimension, and was removed"
        args = self.program.arguments()
        terms = [axes[v] for v in graph.inputs.values()]
        wanted = self.eager()
        entries: list[list[Tensor]] = []
        for at in positions(gone):
            given = [entry(t, dims, at, shape) for t, dims, shape in zip(args, terms, shapes, strict=True)]
            with torch.no_grad(), fresh(small):
                entries.append(running(lambda given=given: listed(small(*given))))
        ours = [put_together([e[i] for e in entries], axes[v], gone) for i, v in enumerate(graph.outputs.values())]
        return difference(
            [o.reshape(w.shape) if o.numel() == w.numel() else o for o, w in zip(ours, wanted, strict=True)],
            wanted,
            self.noisy(),
        )

    def resized(self, sizes: dict[str, int]) -> None:
        """At other sizes; and the formula of its flops there."""
        name = f"resize[{self.mode}]"
        names = list(self.dag.graph.inputs)
        shapes = dict(zip(names, self.program.shapes(sizes).values(), strict=True))
        try:
            self.eager(sizes)
            can = True
        except NotApplicable:
            can = False
        if not self.asked(name) and not self.asked("formula"):
            return
        made: list[td.TensorDAG] = []

        def resize() -> str:
            try:
                made.append(self.dag.resize(shapes))
            except td.TDaggerError:
                if not can:
                    raise NotApplicable("eager can't, and it is refused") from None
                raise
            if not can:
                raise NotApplicable("eager can't, and it is resized")
            return self.compared(made[0].to_torch(fixed=True), sizes)

        self.check(name, resize, sizes, always=True)
        if made and can:
            self.check("formula", lambda: self.formula(made[0], shapes), sizes)

    def called(self, sizes: dict[str, int]) -> str:
        """The module that the program went back to, called at other sizes: right, or refused.

        At the door, or by torch inside (a view of another size), which is told apart.
        """
        self.eager(sizes)
        try:
            return self.compared(self.back, sizes, ties=False)
        except (RuntimeError, IndexError) as e:
            raise td.InputError(f"inside: {type(e).__name__}: {e}") from None
        except Failed as e:
            if isinstance(e.__cause__, td.InputError):
                raise e.__cause__ from None
            raise

    def formula(self, resized: td.TensorDAG, shapes: Mapping[str, Sequence[int]]) -> str:
        """The formula at the sizes of a resized network against counting it."""
        named, formula = self.dag.axes(), self.dag.cost_formula("flops")
        given: dict[str, int] = {}
        for name, shape in shapes.items():
            value = self.dag.graph.inputs[name]
            for term, new, old in zip(named[value], shape, value.shape, strict=True):
                if new != old or named.dimension(term) in formula.names:
                    given[named.dimension(term)] = new
        unknown = [n for n in given if n not in formula.names]
        if any(not n.isidentifier() for n in unknown):
            raise NotApplicable("a product of axes")
        with contextlib.suppress(td.AxisError):  # the formula says why, or has it wrong
            follow = self.dag.resize(given, assume=True).graph.inputs
            if any(follow[name].shape != tuple(shape) for name, shape in shapes.items()):
                raise NotApplicable("an axis that another dimension, which stays, is made of")
        got, counted = formula(**given), resized.graph.total_flops()
        return "" if got == counted else f"by the formula {got} flops, counted {counted} at {given}"


@contextlib.contextmanager
def fresh(module: torch.nn.Module) -> Iterator[None]:
    """Buffers that calls change have their first values again afterwards."""
    kept = {n: t.clone() for n, t in module.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for n, t in module.named_buffers():
                t.copy_(kept[n])


def state(module: torch.nn.Module) -> dict[str, Any]:
    """What a module holds: copies of tensors, and what else is in it."""
    held = {
        f"{path}.{n}".strip("."): v
        for path, m in module.named_modules()
        for n, v in vars(m).items()
        if not n.startswith("_")
    }
    return {
        **{n: t.clone() for n, t in module.state_dict().items()},
        **{n: t.clone() if isinstance(t, Tensor) else t for n, t in held.items()},
    }


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The names of what isn't as it was."""

    def same(a: Any, b: Any) -> bool:
        return (type(a) is type(b) and torch.equal(a, b)) if isinstance(a, Tensor) else isinstance(a, type(b))

    return ", ".join(
        n for n in {**before, **after} if n not in before or n not in after or not same(before[n], after[n])
    )


def with_noise(function: Callable[[], Any], noise: Noise) -> Any:
    """Call something under noise."""
    with noise:
        return function()


def gradients(module: Any, args: Sequence[Tensor], parameters: Mapping[str, Any], wanted: Iterable[str]) -> list[Any]:
    """Gradients of a weighed sum of the floats among the results: for inputs, then parameters."""
    given = [t.requires_grad_() if t.is_floating_point() else t for t in (t.clone() for t in args)]
    out = [t for t in listed(module(*given)) if t.is_floating_point()]
    loss = sum(
        ((t.double() * torch.arange(t.numel()).reshape(t.shape).cos()).sum() for t in out if t.requires_grad),
        torch.zeros(()),
    )
    leaves = [t for t in given if t.requires_grad] + [parameters[n] for n in wanted]
    if not loss.requires_grad or not leaves:
        return [None] * len(leaves)
    return list(torch.autograd.grad(loss, leaves, allow_unused=True))


def positions(axes: Sequence[Axis]) -> list[dict[Axis, int]]:
    """Every entry of some axes, the last axis first."""
    found: list[dict[Axis, int]] = [{}]
    for axis in axes:
        found = [{**at, axis: i} for at in found for i in range(axis.size)]
    return found


def entry(t: Tensor, dims: Any, at: Mapping[Axis, int], shape: Sequence[int]) -> Tensor:
    """A tensor at one entry of some axes; ``shape`` is what the unbatched network takes (a 1 may be gone or not)."""
    for d in reversed(range(t.dim())):
        if not (gone := [a for a in dims[d] if a in at]):
            continue
        split = t.unflatten(d, [a.size for a in dims[d]])
        for k in reversed(range(len(dims[d]))):
            if dims[d][k] in at:
                split = split.select(d + k, at[dims[d][k]])
        left = len(dims[d]) - len(gone)
        t = split.flatten(d, d + left - 1) if left > 1 else split
    return t.reshape(shape) if t.numel() == math.prod(shape) else t


def put_together(entries: Sequence[Tensor], dims: Any, gone: Sequence[Axis]) -> Tensor:
    """What was computed entry by entry, with the axes where they are; an axis an output lacks is taken at its first."""
    atoms = [a for term in dims for a in term]
    kept = [a for a in atoms if a not in gone]
    whole = torch.stack(list(entries)).reshape(*[a.size for a in gone], *[a.size for a in kept])
    for i in reversed(range(len(gone))):
        if gone[i] not in atoms:
            whole = whole.select(i, 0)
    order = [a for a in gone if a in atoms] + kept
    left = list(range(len(order)))
    places: list[int] = []
    for a in atoms:
        found = next(i for i in left if order[i] is a)
        left.remove(found)
        places.append(found)
    return whole.permute(places).reshape([math.prod(a.size for a in term) for term in dims])


#: torch's element types by the names of ours.
TORCH = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64, "bool": torch.bool,
    "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64, "u8": torch.uint8,
}  # fmt: skip


def reason(error: Exception) -> str:
    """A refusal without what is particular: numbers, names of values, places."""
    text = re.sub(r" \([^()]*(/[^()]*py|<fuzz)[^()]*\)", "", " ".join(str(error).split()))
    text = re.sub(r"resize\([^:]*: ", "", text, count=1)
    text = re.sub(r"axes that can be resized:.*|\(<fuzz.*?\)|<fuzz[^,)]*", "", text)
    text = re.sub(r"<(\w+)[^<>]*?(\([^<>]*\) -> [^<>]*|\))>", r"<\1>", text)
    text = re.sub(r"axis .+? can't be removed", "axis can't be removed", text)
    text = re.sub(
        r"\b(over|of|slices|rolls|indexes|interpolates|windows|resize:|dimension) (\([^)]*\)|[a-z]\d*)(?=\W|$)",
        r"\1 A",
        text,
    )
    text = text.partition(">  <")[0] if text.count("<") > 1 else text
    text = re.sub(r"( <\w+>[^<]*?) <.*", r"\1", text)
    return f"{type(error).__name__}: " + re.sub(r"\d+", "N", text)[:110].strip()


def crash_kind(error: Exception) -> str:
    """The type of an error and the last place in tdagger it went through."""
    inner = error.__cause__ if isinstance(error, Failed) and error.__cause__ else error
    frames = [
        f
        for f in traceback.extract_tb(inner.__traceback__)
        if "tdagger" in f.filename and "conformance" not in f.filename
    ]
    if frames and not frames[-1].filename.startswith("<"):
        return f"{type(inner).__name__} {Path(frames[-1].filename).name}:{frames[-1].name}"
    return f"{type(inner).__name__} when run: {_plain(str(inner))}"


def _plain(message: str) -> str:
    """A message without what is particular."""
    return re.sub(r"[\[({].*|'.*|\b[xvp]?\d+\S*", "", " ".join(message.split()))[:60].strip()
