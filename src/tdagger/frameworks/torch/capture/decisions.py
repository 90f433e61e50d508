"""What Python takes out of tensors while a network is captured: the truth of a condition, a number, a list.

What it takes is no part of a graph. torch.export has no data: checks are answered as passed (:mod:`checks`), and what
is made of constants, buffers and what else the network holds is answered with what that is now. torch.jit.trace has
data, and answers anything by it: there the tensors are followed, to tell what came from the inputs. Either way it is
noted, so that it can be told, and refused where the network changes what it decides by.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from tdagger.errors import UnsupportedError, warn
from tdagger.frameworks.torch.aten.aliases import storage_of
from tdagger.frameworks.torch.capture.checks import Check, check_at, is_told_at, line_at, place_of, replaced
from tdagger.frameworks.torch.capture.provenance import DATA, NOTHING, RANDOM, Traced, is_tracing


class Decisions:
    """What one capture of a network took out of tensors; ``held`` are all tensors that the network has, by name."""

    def __init__(self, held: Mapping[str, Tensor], trained: bool) -> None:
        self._held = dict(held)
        #: What an optimizer may change, of a network in train mode: it decides nothing.
        self._trained = {n for n, t in held.items() if trained and t.requires_grad}
        self._nodes: dict[torch.fx.Node, str] = {}
        self._names = {storage_of(t): n for n, t in reversed(list(held.items()))}
        self._names.pop(None, None)
        self._sources: Traced | None = None
        self._answering = False
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        #: The checks that were taken as passed.
        self.met: list[Check] = []
        #: Where it was decided by what the network holds, with the names; and where by data.
        self.by_state: dict[str, frozenset[str]] = {}
        self.by_data: dict[str, None] = {}
        #: Parameters in train mode whose values were asked for.
        self.asked: set[str] = set()

    @contextmanager
    def followed(self, now: Mapping[str, Tensor], renamed: Mapping[str, str]) -> Generator[None, None, None]:
        """Run the network inside, with ``now`` standing for what it holds; ``renamed`` as a capture has other names."""
        self.reset()
        with ExitStack() as stack:
            for owner, name, new in self._questions():
                stack.enter_context(replaced(owner, name, new))
            if not is_tracing():
                found = {_node_of(t): n for n, t in now.items()}
                self._nodes = {node: n for node, n in found.items() if node is not None}
            else:
                names = {f"__module.model.{n}": n for n in self._held} | {
                    f"__module.{k}": n for k, n in renamed.items()
                }
                self._sources = Traced(names, self._names)
            yield

    def _questions(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """The functions that take something out of tensors, and what stands in for each."""
        tensors: Any = Tensor
        numbers: Any = torch.SymBool
        of_tensor, of_number = tensors.__bool__, numbers.__bool__

        def truth(x: Any) -> bool:
            return self._answered(self._truth, x, of_tensor, (), {}, sys._getframe(1))

        def symbol(x: Any) -> bool:
            return self._symbol(x, of_number, sys._getframe(1))

        def taking(own: Callable[..., Any]) -> Callable[..., Any]:
            def take(x: Any, *args: Any, **kwargs: Any) -> Any:
                return self._answered(self._taken, x, own, args, kwargs, sys._getframe(1))

            return take

        def comparing(own: Callable[..., Any], asked: Callable[..., Any]) -> Callable[..., Any]:
            def compare(a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
                if isinstance(a, FakeTensor) or isinstance(b, FakeTensor):
                    return asked(a, b, *args, **kwargs)  # the truth of that is asked for then
                if self._sources is not None:
                    self._note(self._sources.of(a) | self._sources.of(b), sys._getframe(1), None)
                return own(a, b, *args, **kwargs)

            return compare

        return [
            (tensors, "__bool__", truth),
            (numbers, "__bool__", symbol),
            *[
                (o, n, taking(getattr(o, n)))
                for n in _TAKING
                for o in (tensors, FakeTensor)
                if o is tensors or n in vars(o)
            ],
            (torch, "is_nonzero", taking(torch.is_nonzero)),
            *[(o, n, comparing(getattr(o, n), f)) for o in (torch, tensors) for n, f in _COMPARISONS.items()],
        ]

    # --- what is asked -------------------------------------------------------------------------------------

    def _answered(self, how: Any, x: Tensor, own: Any, args: Any, kwargs: Any, frame: FrameType) -> Any:
        """What is asked of a tensor; torch's own answer to what is asked while that is found."""
        if self._answering:
            return own(x, *args, **kwargs)
        self._answering = True
        try:
            return how(x, own, args, kwargs, frame)
        finally:
            self._answering = False

    def _truth(self, x: Tensor, own: Any, args: Any, kwargs: Any, frame: FrameType) -> bool:
        if self._sources is not None or not isinstance(x, FakeTensor):
            return self._taken(x, own, args, kwargs, frame)
        if _is_known(x) or x.numel() != 1:
            return own(x)
        check = check_at(frame)
        if check is not None:
            self.met.append(check)
            return _passed(check, x)
        known = self._known(x)
        if known is None:
            return own(x)
        self._note(known.names, frame, None)
        with _disable_current_modes():
            return own(known.tensor)

    def _symbol(self, x: torch.SymBool, own: Callable[..., bool], frame: FrameType) -> bool:
        check = None if _is_settled(x) else check_at(frame)
        if check is None:
            return own(x)
        self.met.append(check)
        if check.whole:
            torch.ops.aten._assert_scalar.default(x if check.passes else torch.sym_not(x), check.message)
        return check.passes

    def _taken(self, x: Tensor, own: Any, args: Any, kwargs: Any, frame: FrameType) -> Any:
        """A number, a list or an array of a tensor: where a network holds all that it is made of, what that is now."""
        if self._sources is not None:
            answer = own(x, *args, **kwargs)
            sources = self._sources.of(x)
            if sources:
                self._note(sources, frame, check_at(frame, of_number=not isinstance(answer, bool)))
            return answer
        known = None if isinstance(x, FakeTensor) and x.constant is not None else self._known(x)
        if known is None or not known.names:
            return own(x, *args, **kwargs)
        self._note(known.names, frame, None)
        with _disable_current_modes():
            return own(known.tensor, *args, **kwargs)

    def _note(self, names: frozenset[str], frame: FrameType, check: Check | None) -> None:
        place = place_of(frame)
        if check is not None:
            self.met.append(check)
        elif names == DATA:
            if not is_told_at(frame):
                self.by_data[place] = None
        elif names:
            self.by_state[place] = self.by_state.get(place, NOTHING) | names

    # --- what is known without data ------------------------------------------------------------------------

    def _known(self, x: Tensor) -> _Known | None:
        """What a tensor is that is made of constants and of what the network holds; None if it isn't known."""
        if not isinstance(x, FakeTensor):
            name = self._names.get(storage_of(x)) if type(x) is Tensor else None
            return None if name is None else _Known(x, frozenset({name}))
        end = _node_of(x)
        nodes = None if end is None else self._behind(end)
        if end is None or nodes is None:
            return None
        env: dict[torch.fx.Node, Any] = {}
        names: set[str] = set()
        root: Any = getattr(get_proxy_mode(), "tracer", None)
        with _disable_current_modes(), torch.no_grad():
            for node in end.graph.nodes:
                if node not in nodes:
                    continue
                if node in self._nodes or node.op == "get_attr":
                    real = self._held[self._nodes[node]] if node in self._nodes else getattr(root.root, node.target)
                    if real.is_meta or isinstance(real, FakeTensor):
                        return None
                    name = self._nodes.get(node) or self._names.get(storage_of(real))
                    names |= {name} if name is not None else set()
                    env[node] = real.detach().clone()
                else:
                    args, kwargs = map_arg((node.args, node.kwargs), env.__getitem__)
                    env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        self.asked |= names & self._trained
        return None if names & self._trained else _Known(env[end], frozenset(names))

    def _behind(self, end: torch.fx.Node) -> set[torch.fx.Node] | None:
        """The nodes that a result is made of, with what was written to their memory; None if data is among them."""
        found: set[torch.fx.Node] = set()
        memory: set[int] = set()
        waiting, writes = [end], None
        while True:
            while waiting:
                node = waiting.pop()
                if node in found:
                    continue
                kept = node in self._nodes or node.op == "get_attr"
                if not kept and (not isinstance(node.target, OpOverload) or RANDOM in node.target.tags):
                    return None
                found.add(node)
                memory |= _memory(node)
                waiting += [] if kept else node.all_input_nodes
            if writes is None:
                writes = [
                    n for n in end.graph.nodes if isinstance(n.target, OpOverload) and n.target._schema.is_mutable
                ]
            waiting = [n for n in writes if n not in found and any(_memory(a) & memory for a in _written(n))]
            if not waiting:
                return found

    # --- what is told --------------------------------------------------------------------------------------

    def refuse_changed(self, updated: Mapping[str, Any]) -> None:
        """UnsupportedError if the network decides by what it changes itself."""
        for place, names in self.by_state.items():
            changed = sorted(names & set(updated))
            if changed:
                raise UnsupportedError(
                    f"the network decides by {_listed(changed, self._held)}, which it changes when it runs "
                    f"(at {place}: {line_at(place)}), and so does another thing the next time. If it changes once, as "
                    "when it sets itself up, call the network before it is imported; else write torch.where"
                )

    def hints(self) -> str:
        """What to know of a capture that failed."""
        told = ""
        if self.by_state:
            told += f"\nOn the way it decided by what it holds: {self._told()}. Is that as it is to be?"
        if self.asked:
            told += f"\nIt asks for the value of {', '.join(map(repr, sorted(self.asked)))}, which training changes: "
            told += "import it in eval mode, or freeze it with requires_grad_(False)."
        return told

    def _told(self) -> str:
        return "; ".join(f"{_listed(sorted(n), self._held)} at {p}: {line_at(p)}" for p, n in self.by_state.items())

    def tell(self) -> None:
        """Warn of what stays as it was decided."""
        if self.by_state:
            warn(
                "the network decides by values that it holds, and the imported one goes on as they are now, whatever "
                f"they become: {self._told()}"
            )
        if self.by_data:
            places = "; ".join(f"{p}: {line_at(p)}" for p in self.by_data)
            warn(
                "the network decides by its data, and the imported one does what the example inputs ask for, whatever "
                f"it is given: {places}"
            )


class _Known(NamedTuple):
    """What a tensor is, and the names of what it was made of."""

    tensor: Tensor
    names: frozenset[str]


def _listed(names: Sequence[str], held: Mapping[str, Tensor]) -> str:
    shown = [f"{n!r}{f' ({t.item()} now)' if (t := held[n]).numel() == 1 and not t.is_meta else ''}" for n in names]
    return ", ".join(shown)


def _written(node: torch.fx.Node) -> list[torch.fx.Node]:
    """What a node writes to."""
    schema: Any = node.target._schema  # type: ignore[union-attr]
    given = dict(zip([a.name for a in schema.arguments], node.args, strict=False)) | dict(node.kwargs)
    written = [given.get(a.name) for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [n for n in pytree.tree_leaves(written) if isinstance(n, torch.fx.Node)]


def _memory(node: torch.fx.Node) -> set[int]:
    """The storages of a node's results."""
    values = pytree.tree_leaves(node.meta.get("val"))
    return {s for s in map(storage_of, values) if s is not None}


# --- tensors without data --------------------------------------------------------------------------------------


def _node_of(tensor: Tensor) -> torch.fx.Node | None:
    """The node of the graph that is being captured whose result a tensor is."""
    mode = get_proxy_mode()
    found: Any = None if mode is None else get_proxy_slot(tensor, mode.tracer, None)
    return None if found is None else found.proxy.node


def _is_known(tensor: Tensor) -> bool:
    """Whether torch itself knows what a tensor holds: a real one, or one made of numbers."""
    layers: Any = torch._C
    while layers._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = layers._functorch.get_unwrapped(tensor)
    return not isinstance(tensor, FakeTensor) or tensor.constant is not None


def _is_settled(number: torch.SymBool) -> bool:
    """Whether torch itself answers: it has the numbers, or what it knows of them is enough (no size is below 0)."""
    if number.node.has_hint():
        return True
    return statically_known_true(number) or statically_known_true(torch.sym_not(number))


def _passed(check: Check, condition: Tensor) -> bool:
    """Leave an assertion in the graph, and answer."""
    if check.whole:
        truth = condition.reshape(()) != 0 if condition.dtype is not torch.bool else condition.reshape(())
        torch.ops.aten._assert_async.msg(truth if check.passes else truth.logical_not(), check.message)
    return check.passes


# --- what takes something out of tensors -----------------------------------------------------------------------

_TAKING = ("item", "tolist", "numpy", "__int__", "__float__", "__complex__", "__index__")


def _close(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.isclose(a, b, *args, **kwargs).all()


def _equal(a: Tensor, b: Tensor) -> Any:
    return (a == b).all() if a.shape == b.shape else False


_COMPARISONS: dict[str, Callable[..., Any]] = {"allclose": _close, "equal": _equal}
