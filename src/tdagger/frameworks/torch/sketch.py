"""The graph of a network at other sizes, made while it runs on tensors without data: what a resize is compared with.

torch.export makes a program with much that a comparison doesn't need, at eight times the price. Here every op that
the network calls is imported as it is called, and nothing else is kept. What torch.export does to a network besides
(control flow on data, autocast, functions of functions) isn't followed: then there is no sketch, and whoever asked
captures the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._export.utils import _compiling_state_context
from torch._ops import (
    OpOverload,
    _pop_mode_from_pre_dispatch,
    _set_mode_pre_dispatch,
    mode_stack_state_for_pre_dispatch,
)
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, PythonKeyTracer

from tdagger.analysis.formulas.polynomial import Number
from tdagger.frameworks.torch.aten import DTYPES, Memory, aliases, memory_of
from tdagger.frameworks.torch.aten.calls import OF_MEMORY, Caller, constant, type_of, with_tensor, without_gradient
from tdagger.frameworks.torch.aten.functional import Cell, Ref
from tdagger.frameworks.torch.aten.repeated import Steps, is_repeatable, steps_of
from tdagger.frameworks.torch.capture import state
from tdagger.frameworks.torch.capture.attributes import Looked
from tdagger.frameworks.torch.capture.checks import kernels_left_open
from tdagger.frameworks.torch.capture.compared import Notes, measuring
from tdagger.frameworks.torch.capture.export import cumulative_averages
from tdagger.frameworks.torch.capture.gradients import following_gradients, replaced
from tdagger.frameworks.torch.capture.leaves import input_names, output_names, state_and_held, weight_value
from tdagger.frameworks.torch.capture.shapes import Shape, Shapes, shape_of
from tdagger.frameworks.torch.capture.surroundings import put_back
from tdagger.graph import Graph, bulk
from tdagger.op import Op, Value
from tdagger.ops.source import Input, const
from tdagger.ops.structure import OPEN
from tdagger.program.trace import is_tracing
from tdagger.tensordag import Origin
from tdagger.transform.axes.sources import SizeOf
from tdagger.tree import Tree

_C: Any = torch._C

#: Of sketched values nobody asks where they came from.
_NOWHERE = Origin("", "", "")


class Unsure(Exception):
    """What a sketch can't follow; it is a reason to capture the network, and no fault of it."""


def sketched(
    looked: Looked,
    title: str,
    leaves: Sequence[Tensor],
    tree: Tree,
    size_of: SizeOf | None = None,
    notes: Notes | None = None,
) -> Graph | None:
    """The graph that capturing a network gives, of inputs like ``leaves`` (on the meta device); None if unsure.

    ``looked``: the network, which mostly holds what it held when it was sketched before. ``notes`` gets what its code
    compares sizes with, until then, which are made of what ``size_of`` says.
    """
    model = looked.model
    try:
        if is_tracing():
            return None
        with warnings.catch_warnings(action="ignore"), following_gradients(model, traced=False):

            def take(flat: state.Flat, args: Sequence[Tensor]) -> Graph:
                return _run(flat, args, title, size_of, notes)

            return state.captured(model, tree, leaves, take, runs=False, looked=looked).program
    except Exception:  # whatever it is: a capture tells it, or gives the graph
        return None


def _run(
    flat: state.Flat,
    args: Sequence[Tensor],
    title: str,
    size_of: SizeOf | None,
    notes: Notes | None,
) -> Graph:
    """The graph of one run of a network, its ops imported as they are called."""
    weights, tensors = state_and_held(flat)
    devices = {t.device for n, t in tensors.items() if n not in flat.kept.tensors} or {torch.device("cpu")}
    if len(devices) > 1:
        raise Unsure("weights on several devices")
    names = input_names(flat.model.forward, flat.inputs)
    given = {n: Input(n, type_of(t))() for n, t in zip(flat.names_of_inputs(names), args, strict=True)}
    inputs = {n: given[n] for n in names}
    made = _Importing(Caller(taken=[*given]))
    refs: dict[str, Ref] = {}
    stands = flat.stands()
    for name, weight in weights.items():
        ref = refs.setdefault(weight.alias_of or name, Ref(weight_value(name, weight)))
        made.know(stands.get(name, tensors[name]), ref)
    own = [made.input(t, Ref(v)) for t, v in zip(args, given.values(), strict=True)]
    with (
        bulk(), put_back(), kernels_left_open(), cumulative_averages(flat), _compiling_state_context(),
        _regions(made), _on(devices.pop(), made), made, _directly(made), enable_python_dispatcher(),
        nullcontext() if size_of is None or notes is None else measuring(made.sizes(size_of), notes, made.indexing),
    ):  # fmt: skip
        results = flat(*own)
    returned = [made.ref(t).read() for t in results]
    if flat.draws.drawn or any(c.version for c in made.constants):
        raise Unsure("numbers that Python drew, or constants that are written to")
    if made.caller.problems:
        raise made.caller.error()
    updates = {n: Ref(r.cell.value, r.cell).read() for n, r in refs.items() if r.cell.version}
    again = [*given.values()][len(names) :]
    twice = state.Twice([*inputs.values()], again, made.caller.streams) if flat.twice else None
    returned, updates = state.settled(flat, returned, updates, twice)
    signature = made.caller.with_seed(inputs, flat.signature())
    outputs = dict(zip(output_names(signature.outputs), returned, strict=True))
    return Graph(inputs, outputs, updates, title, made.caller.order)


class _Importing(ProxyTorchDispatchMode):
    """Imports every op that is called inside, and runs it on the meta device."""

    def __init__(self, caller: Caller) -> None:
        super().__init__(PythonKeyTracer(), "fake", pre_dispatch=True)
        self.caller = caller
        #: The cells of tensors that are neither inputs nor weights.
        self.constants: list[Cell] = []
        #: The refs of tensors without data, and what such a tensor is of one with data. Kept, so that no other tensor
        #: is taken for one of them.
        self._refs: dict[int, tuple[Ref, Tensor]] = {}
        self._meta: dict[int, tuple[Tensor, Tensor]] = {}
        #: The first tensor on every memory.
        self._first: dict[int | None, Tensor] = {}
        self._shapes = Shapes()
        #: What calls of one kind give; the kinds of tensors, which have numbers.
        self._again: dict[Any, _Again | None] = {}
        self._kinds: dict[int, int] = {}
        self._numbers: dict[Any, int] = {}
        self._repeatable: dict[int, bool] = {}
        #: Whether anybody asks what sizes are made of.
        self._measured = False
        #: Where somebody does: tensors that are all of what they were cut from, where there may be more, and of the
        #: same value; what is made of such, or sliced by other numbers there (False).
        self._cut: dict[int, bool] = {}
        self._fed: dict[Value, bool] = {}
        #: Whether an index is being taken in which no number is made of sizes.
        self._by_numbers = False
        #: Whether a tensor was made that lies in memory otherwise than what stands for it here may.
        self._lies = False
        self.region: _Region | None = None
        #: Whether an op is being called: torch itself asks for devices then.
        self.calling = False

    def know(self, tensor: Tensor, ref: Ref) -> None:
        """Let a tensor with data, which the network holds, be ``ref``."""
        self._refs[id(tensor)] = ref, tensor

    def input(self, tensor: Tensor, ref: Ref) -> Tensor:
        """What the network is given for an input."""
        own = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        own.requires_grad_(tensor.requires_grad)
        self._refs[id(own)] = ref, own
        self._meta[id(own)] = own, own
        return own

    def ref(self, tensor: Tensor) -> Ref:
        """The ref of a tensor; one that nothing is known of is a constant."""
        found = self._refs.get(id(tensor))
        if found is None:
            if tensor.is_meta:
                found = self._copied(tensor), tensor
            else:
                found = Ref(constant(tensor)), tensor
                self.constants.append(found[0].cell)
            self._refs[id(tensor)] = found
        return found[0]

    def sizes(self, size_of: SizeOf) -> Callable[[Tensor, int], Number | None]:
        """What sizes of tensors are made of, where it is known of values."""
        self._measured = True

        def of(tensor: Tensor, dim: int) -> Number | None:
            found = self._refs.get(id(tensor))
            return None if found is None else size_of(found[0].read(), dim, self._cut.get(id(tensor)))

        return of

    @contextmanager
    def indexing(self, by_numbers: bool) -> Generator[None, None, None]:
        """While an index is taken, in which all numbers are as they are written, or not."""
        before, self._by_numbers = self._by_numbers, by_numbers
        try:
            yield
        finally:
            self._by_numbers = before

    def _copied(self, tensor: Tensor) -> Ref:
        """The ref of what a factory gave (``arange``, ``zeros_like``), of which torch makes another object."""
        if not tensor.numel():  # ``torch.tensor([])`` on the meta device: there is no data that it could have had
            self._meta[id(tensor)] = tensor, tensor
            type_ = type_of(tensor)
            return Ref(const(np.zeros(type_.shape, type_.dtype.numpy), type_.dtype))
        found = self._first.get(aliases.storage_of(tensor))
        if found is None or (found.shape, found.stride()) != (tensor.shape, tensor.stride()):
            raise Unsure("a tensor without data from elsewhere")
        self._meta[id(tensor)] = tensor, tensor
        if self.region is not None and id(found) in self.region.made:
            self.region.made[id(tensor)] = None
        return self._refs[id(found)][0]

    def meta(self, tensor: Tensor) -> Tensor:
        """The tensor without data that stands for a tensor."""
        found = self._meta.get(id(tensor))
        if found is None:
            if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
                raise Unsure(f"a {type(tensor).__name__}")
            if tensor.is_meta and id(tensor) not in self._refs:
                self.ref(tensor)
                return tensor
            own = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            own.requires_grad_(tensor.requires_grad)
            found = self._meta[id(tensor)] = own, tensor
        return found[0]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would go through torch.compile's doors for every op

    def called(self, func: OpOverload, *args: Any, **kwargs: Any) -> Any:
        """What a call gives: as one of its kind gave before, else as torch tells a mode of it."""
        if func is _DETACH and not args[0].requires_grad and not args[0].numel():
            return args[0]  # ``torch.tensor([])``
        key, tensors = self._kind(func, args, kwargs)
        again = None if key is None else self._again.get(key)
        if again is not None and self.region is None:
            return self._repeated(func, args, kwargs, tensors, again)
        mode = _pop_mode_from_pre_dispatch()
        try:
            out = self.__torch_dispatch__(func, (), args, kwargs)
        finally:
            _set_mode_pre_dispatch(mode)
        if func._schema.is_mutable:
            self._kinds.clear()
        elif key is not None and key not in self._again and self.region is None:
            self._again[key] = self._learnt(func, args, kwargs, tensors, out)
        return out

    def _kind(self, func: OpOverload, args: Any, kwargs: Any) -> tuple[Any, list[Tensor]]:
        """What calls that give alike have in common, and their tensors; None for those of which nothing is known."""
        tensors: list[Tensor] = []
        number = id(func)  # ops stay, and finding their hash takes longer
        known = self._repeatable.get(number)
        if known is None:
            known = self._repeatable[number] = is_repeatable(func)
        if not known or _C._are_functorch_transforms_active():
            return None, tensors
        key: list[Any] = [number]
        if self._put(args, key, tensors) and (not kwargs or self._put([*kwargs.items()], key, tensors)):
            return tuple(key), tensors
        return None, tensors

    def _put(self, xs: Sequence[Any], key: list[Any], tensors: list[Tensor]) -> bool:
        """Add to a key what arguments are, and their tensors to those of the call; False if it can't be said."""
        kinds = self._kinds
        for x in xs:
            kind = type(x)
            if kind in _PLAIN or kind is torch.device:
                key.append(kind)
                key.append(repr(x) if kind is float or kind is complex else x)  # 0.0 is -0.0
            elif isinstance(x, Tensor):
                number = kinds.get(id(x))
                if number is None:
                    number = self._number(x)
                    if number is None:
                        return False
                key.append(number)
                tensors.append(x)
            elif kind is list or kind is tuple:
                key.append(kind)
                key.append(len(x))
                if not self._put(x, key, tensors):
                    return False
            else:
                return False
        return True

    def _number(self, tensor: Tensor) -> int | None:
        """The number of a tensor's kind; None if its memory is also that of what no ops here are the view of."""
        if tensor.layout is not torch.strided:
            return None
        found = self._refs.get(id(tensor))
        if found is None and not (tensor.is_meta and not tensor.numel()):
            return None
        ref = self.ref(tensor) if found is None else found[0]
        if ref.apart is not None or ref.cell.of is not None:
            return None
        kind = tensor.shape, tensor.stride(), ref.read().type, ref.is_contiguous
        number = self._kinds[id(tensor)] = self._numbers.setdefault(kind, len(self._numbers))
        return number

    def _learnt(self, func: OpOverload, args: Any, kwargs: Any, tensors: Sequence[Tensor], out: Any) -> _Again | None:
        """How calls like one that gave ``out`` are made again; None if that can't be said."""
        if any(out is t for t in tensors):
            return _Again(itself=next(i for i, t in enumerate(tensors) if out is t))
        if not tensors or type(out) is not Tensor or aliases.may_lie_otherwise(func, [self.meta(t) for t in tensors]):
            return None
        given = [self._refs[id(t)][0] for t in tensors]
        refs = iter(given)
        ref_args, ref_kwargs = _mapped((args, kwargs), lambda _: next(refs), [])
        ref, number = self._refs[id(out)][0], self._number(out)
        steps = None if number is None else steps_of(func, ref_args, ref_kwargs, ref)
        if steps is None or number is None:
            return None
        of = next((i for i, r in enumerate(given) if r.cell is ref.cell), None)
        grows = func not in _CONSTANT and (out.is_floating_point() or out.is_complex())
        cut = self._cut.get(id(out), False)
        memories = [aliases.storage_of(self.meta(t)) for t in tensors]
        shared = [i for i, memory in enumerate(memories) if memory == aliases.storage_of(out)]
        if of is None:
            return None if shared or ref.ops else _Again(steps, number, shape_of(out), grows=grows, cut=cut)
        before = given[of].ops
        if shared[:1] != [of] or ref.ops[: len(before)] != before:
            return None
        return _Again(steps, number, of=of, ops=ref.ops[len(before) :], grows=grows, cut=cut)

    def _repeated(self, func: OpOverload, args: Any, kwargs: Any, tensors: Sequence[Tensor], again: _Again) -> Tensor:
        """What a call gives of whose kind one was learnt."""
        if again.itself is not None:
            return tensors[again.itself]
        refs = [self._refs[id(t)][0] for t in tensors]
        value = again.steps.of([r.read() for r in refs])
        self.caller.order.append(value)
        if again.of is None:
            ref, lies = Ref(value), again.shape
            assert lies is not None
            with _C._DisablePythonDispatcher():
                out = torch.empty_strided(lies.size, lies.stride, dtype=lies.dtype, device=_META)
        else:
            of = refs[again.of]
            ref = Ref(value, of.cell, of.ops + again.ops)
            own_args, own_kwargs = _mapped((args, kwargs), self.meta, [])
            with _C._DisablePythonDispatcher(), _C._AutoDispatchBelowAutograd():
                out = func(*own_args, **own_kwargs)
        self._first.setdefault(out.untyped_storage()._cdata, out)
        self._know(out, ref, again.grows and torch.is_grad_enabled() and _any_grows(tensors))
        self._kinds[id(out)] = again.kind
        if self._measured:
            self._follow(func, args, tensors, out, again.cut)
        return out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        if not isinstance(func, OpOverload) or _C._are_functorch_transforms_active():
            raise Unsure("a function of functions")
        self.calling = True
        try:
            with _C._DisablePythonDispatcher(), _C._AutoDispatchBelowAutograd():
                return self._call(func, args, kwargs)
        finally:
            self.calling = False

    def _call(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """The tensors without data that a call gives."""
        if func is torch.ops.aten.lift_fresh.default:
            func = torch.ops.aten.lift_fresh_copy.default
        tensors: list[Tensor] = []
        own_args, own_kwargs = _mapped((args, kwargs), self.meta, tensors)
        out = self._shapes.of(func, own_args, own_kwargs)
        if self._lies and (func._schema.is_mutable or aliases.name_of(func) in OF_MEMORY):
            raise Unsure("memory that may lie otherwise is written to")
        self._lies = self._lies or aliases.may_lie_otherwise(func, [self.meta(t) for t in tensors])
        refs = [self.ref(t) for t in tensors]
        if self.region is not None:
            self.region.reads(refs)
        given = iter(refs)
        ref_args, ref_kwargs = _mapped((args, kwargs), lambda _: next(given), [])
        known = list(zip(refs, map(self.meta, tensors), strict=True))
        left_out = len(self.caller.left_out)
        result = self._imported(func, ref_args, ref_kwargs, out, known)
        self._keep(out, result, _grows(func, tensors))
        if self._measured:
            cut = func in _CUTTING and len(self.caller.left_out) > left_out and result.read() is refs[0].read()
            self._follow(func, args, tensors, out, cut)
        if isinstance(out, Tensor) and not func._schema.is_mutable:
            self._first.setdefault(aliases.storage_of(out), out)
        stands = {id(m): t for (_, m), t in zip(known, tensors, strict=True)}  # what is given back is itself
        return _mapped(out, lambda t: stands.get(id(t), t), [])

    def _follow(self, func: OpOverload, args: Sequence[Any], tensors: Sequence[Tensor], out: Any, cut: bool) -> None:
        """Note what was cut, what is made of it, and slices that may have other numbers at other sizes."""
        if cut:
            self._cut[id(out)] = True
            return
        apart = func is _SLICE and (not self._by_numbers or _is_clipped(*args))
        if apart or (self._cut and any(id(t) in self._cut and self._is_fed(t) for t in tensors)):
            for made in out if isinstance(out, tuple | list) else (out,):
                self._cut.setdefault(id(cast(Any, made)), False)

    def _is_fed(self, tensor: Tensor) -> bool:
        """Whether a tensor is made of inputs: what is cut of a table has as many rows as what it is added to."""
        stack = [self._refs[id(tensor)][0].read()]
        while stack:
            value = stack[-1]
            left = [a for a in value.args if a not in self._fed]
            if value in self._fed or not left:
                self._fed[value] = isinstance(value.op, Input) or any(self._fed[a] for a in value.args)
                stack.pop()
            else:
                stack += left
        return self._fed[self._refs[id(tensor)][0].read()]

    def _imported(self, func: OpOverload, args: Any, kwargs: Any, out: Any, known: aliases.Pairs) -> Any:
        """The refs of a call's results, of the types that torch says."""
        args = with_tensor(func, args)
        memory = _memory(known[0][1]) if known and aliases.name_of(func) in OF_MEMORY else None
        result = self.caller.call(func, args, dict(kwargs), _NOWHERE, memory)
        if not func._schema.is_mutable:
            stands = aliases.stands_for(func, args, out, known[0][1] if known else None)
            result = aliases.settled(result, stands, known)
        return result

    def _keep(self, out: Any, result: Any, grows: bool) -> None:
        """Note which refs tensors are."""
        if isinstance(out, tuple | list):
            for own, ref in zip(out, result, strict=True):
                self._keep(own, ref, grows)
            return
        if not isinstance(out, Tensor):
            if result is not None and result != out:
                raise Unsure(f"{result} for {out}")
            return
        value = result.read()
        if value.shape != tuple(out.shape) or value.dtype is not DTYPES[out.dtype]:
            raise Unsure(f"{value.type} for {out.dtype}{list(out.shape)}")
        self._know(out, result, grows and (out.is_floating_point() or out.is_complex()))
        if self.region is not None:
            self.region.makes(result, id(out))

    def _know(self, out: Tensor, ref: Ref, grows: bool) -> None:
        if grows:
            out.requires_grad_()
        self._refs[id(out)] = ref, out
        self._meta[id(out)] = out, out

    def leave(self, region: _Region) -> None:
        """End a region without gradients."""
        refs = {id(r): r for i in region.made for r in (self._refs[i][0],)}
        stopped = dict(zip(refs, without_gradient([*refs.values()], region.before, self.caller, _NOWHERE), strict=True))
        for i in region.made:
            ref, tensor = self._refs[i]
            self._refs[i] = stopped[id(ref)], tensor
        self._kinds.clear()


_SLICE = torch.ops.aten.slice.Tensor
_CUTTING = frozenset({
    _SLICE, torch.ops.aten.alias.default, torch.ops.aten.constant_pad_nd.default, torch.ops.aten.pad.default,
})  # fmt: skip


def _is_clipped(x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> bool:
    """Whether a slice takes fewer entries than its bounds say."""
    n = x.shape[dim]
    return any(b is not None and (b < -n or n < b < OPEN) for b in (start, end))


#: What a gradient doesn't go through.
_DETACH = torch.ops.aten.detach_.default
_CONSTANT = frozenset({torch.ops.aten.detach.default, _DETACH})


def _grows(func: OpOverload, tensors: Sequence[Tensor]) -> bool:
    """Whether what a call gives has a gradient, if it is of floats."""
    return func not in _CONSTANT and torch.is_grad_enabled() and _any_grows(tensors)


def _any_grows(tensors: Sequence[Tensor]) -> bool:
    return any(t.requires_grad for t in tensors)


class _Again(NamedTuple):
    """What calls of one kind give: an argument itself, or what steps make, of a kind of its own.

    It lies as ``shape`` says, or is a view of the argument ``of``, by ``ops``. ``grows``: it has the gradient of one.
    ``cut``: it is all of the first argument, where there may be more.
    """

    steps: Steps = Steps((), 0)
    kind: int = -1
    shape: Shape | None = None
    of: int | None = None
    ops: tuple[Op, ...] = ()
    itself: int | None = None
    grows: bool = False
    cut: bool = False


class _Region:
    """Ops that are called while gradients are off: the cells they read, as they were, and the tensors they made."""

    def __init__(self) -> None:
        self.before: dict[Cell, tuple[int, Value]] = {}
        self.made: dict[int, None] = {}
        self._own: set[Cell] = set()

    def makes(self, ref: Ref, number: int) -> None:
        """Note what an op gave."""
        self.made[number] = None
        if ref.cell not in self.before:
            self._own.add(ref.cell)

    def reads(self, refs: Sequence[Ref]) -> None:
        """Note what an op is about to read."""
        for ref in refs:
            if ref.cell not in self._own:
                self.before.setdefault(ref.cell, (ref.cell.version, ref.cell.value))


@contextmanager
def _regions(made: _Importing) -> Generator[None, None, None]:
    """Follow where gradients are turned off and on."""
    own: Callable[[bool], None] = _C._set_grad_enabled

    def put(enabled: bool) -> None:
        if enabled and made.region is not None:
            region, made.region = made.region, None
            made.leave(region)
        elif not enabled and made.region is None:
            made.region = _Region()
        own(enabled)

    def enter(self: Any) -> Any:
        if self._enabled:
            raise Unsure("a region of autocast")
        return enters(self)

    kind: Any = torch.autocast
    enters: Callable[[Any], Any] = kind.__enter__
    with replaced(_C, "_set_grad_enabled", put), replaced(kind, "__enter__", enter):
        yield


@contextmanager
def _directly(made: _Importing) -> Generator[None, None, None]:
    """Ask for what an op gives at once, where torch would go to the mode by ways that take longer than the op."""
    kind: Any = OpOverload
    own = kind._get_dispatch
    modes, on = mode_stack_state_for_pre_dispatch(), _C.DispatchKey.PreDispatch

    def get(op: OpOverload, key: Any) -> Any:
        if key == on and modes.get(0) is made and not _C._dispatch_tls_is_dispatch_key_excluded(_C.DispatchKey.Python):
            return partial(made.called, op)
        return own(op, key)

    with replaced(kind, "_get_dispatch", get):
        yield


@contextmanager
def _on(device: torch.device, made: _Importing) -> Generator[None, None, None]:
    """Let tensors without data say that they are on a device."""
    if device.type == "meta":
        yield
        return
    kind: Any = Tensor
    own = kind.device

    def of(x: Any) -> torch.device:
        found: torch.device = own.__get__(x)
        return device if found.type == "meta" and not made.calling else found

    with (
        replaced(kind, "device", property(of)),
        replaced(kind, "is_meta", property(lambda x: of(x).type == "meta")),
        replaced(kind, "is_cpu", property(lambda x: of(x).type == "cpu")),
        replaced(kind, "is_cuda", property(lambda x: of(x).type == "cuda")),
    ):
        yield


def _mapped(x: Any, f: Callable[[Tensor], Any], met: list[Tensor]) -> Any:
    """Arguments with something else for every tensor, and the meta device for every device."""
    kind = type(x)
    if kind in _PLAIN:
        return x
    if isinstance(x, Tensor):
        met.append(x)
        return f(x)
    if isinstance(x, tuple | list):
        return kind([_mapped(e, f, met) for e in x])
    if kind is dict:
        return {k: _mapped(e, f, met) for k, e in x.items()} if x else x
    if isinstance(x, torch.device):
        return _META
    raise Unsure(f"a {kind.__name__}")


#: What stays as it is among the arguments of an op.
_PLAIN = frozenset({int, float, bool, complex, str, type(None), torch.dtype, torch.layout, torch.memory_format})
_META = torch.device("meta")


def _memory(tensor: Tensor) -> Memory | None:
    return memory_of(tensor.shape, tensor.stride(), int(tensor.storage_offset()))
