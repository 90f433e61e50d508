"""What a capture must do so that gradients are the network's own: regions without gradients, functions, hooks.

torch records the ops that a network calls, in a graph that is differentiated anew. What a network does to its
gradients by other means is followed here where it can be, and said where it can't.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._functorch import eager_transforms
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from tdagger.errors import UnsupportedError, warn


@contextmanager
def following_gradients(model: nn.Module, traced: bool) -> Generator[None, None, None]:
    """A capture inside has the gradients of ``model``; a UserWarning names what it hasn't.

    ``traced``: by ``torch.jit.trace``, whose graph has neither regions
    without gradients nor what an autograd function reads beside its arguments. UnsupportedError, from the network's
    call, if it takes a gradient itself.
    """
    lost = _Lost(model)
    with (
        torch.enable_grad(),  # without gradients around it, a region inside would never end
        _regions(traced) as regions,
        _functions(lost, regions),
        _hooks(lost),
        _own_gradients(),
    ):
        yield
    lost.tell()


class _Lost:
    """What of a network's gradients a capture can't keep, by name."""

    def __init__(self, model: nn.Module) -> None:
        #: The autograd functions that have a backward of their own.
        self.functions: dict[str, None] = {}
        #: Where gradients are changed or looked at by hooks.
        self.hooks = dict.fromkeys(_hooked(model))

    def tell(self) -> None:
        """Warn of it."""
        if self.functions:
            warn(
                f"the network applies autograd functions with a backward of their own ({', '.join(self.functions)}), "
                "which isn't kept; the imported one computes the same, and its gradients are the derivatives of what "
                "they compute"
            )
        if self.hooks:
            warn(
                f"the network has hooks on gradients ({', '.join(self.hooks)}), which aren't kept; the imported one "
                "has the gradients without them: register such hooks on the module that to_torch() gives"
            )


#: Where torch keeps hooks on gradients, and what registers them.
_MODULE_HOOKS = (
    ("_backward_pre_hooks", "register_full_backward_pre_hook"), ("_backward_hooks", "register_full_backward_hook"),
)  # fmt: skip
_TENSOR_HOOKS = (
    ("_backward_hooks", "register_hook"), ("_post_accumulate_grad_hooks", "register_post_accumulate_grad_hook"),
)  # fmt: skip


def _hooked(model: nn.Module) -> Generator[str, None, None]:
    """The modules and parameters with hooks on their gradients."""
    for path, module in model.named_modules():
        for attribute, name in _MODULE_HOOKS:
            if getattr(module, attribute, None):
                yield f"{path or 'the top module'}: {name}"
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        for attribute, name in _TENSOR_HOOKS:
            if getattr(tensor, attribute, None):
                yield f"{path}: {name}"


def _caller() -> str:
    """The line outside of torch that the running function was called from."""
    frame: Any = sys._getframe(2)
    inside = (os.path.dirname(torch.__file__) + os.sep, __file__)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Generator[None, None, None]:
    """Another attribute inside; afterwards what was there, or nothing if it was inherited."""
    own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


# --- regions without gradients -----------------------------------------------------------------------------


@contextmanager
def _unrecorded() -> Generator[None, None, None]:
    """Keep torch.export from recording where gradients are turned off and on.

    An autograd function runs without gradients, so what it sets "back" is that: all that comes after it would be
    outside of every gradient.
    """
    own: Any = torch._C._set_grad_enabled

    def put(enabled: bool) -> None:
        with torch._C.DisableTorchFunction():
            own(enabled)

    with replaced(torch._C, "_set_grad_enabled", put):
        yield


class _Detaching(TorchFunctionMode):
    """Detaches what is computed inside: a region without gradients, which a trace has no word for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _writes(func, kwargs):
            return func(*args[:1], *pytree.tree_map_only(Tensor, _detached, args[1:]), **kwargs)
        return pytree.tree_map_only(Tensor, _detached, func(*args, **kwargs))


class _Regions:
    """Where a traced network turns gradients off and on; the trace itself runs without any."""

    def __init__(self) -> None:
        #: What the network believes to have set.
        self.enabled = True
        #: How many autograd functions are running: inside, turning gradients off says nothing.
        self.functions = 0
        self._detaching: _Detaching | None = None

    def put(self, enabled: bool) -> None:
        """What the network calls to set it."""
        self.enabled = enabled
        if self.functions or enabled == (self._detaching is None):
            return
        if enabled:
            self.close()
        else:
            self._detaching = _Detaching()
            self._detaching.__enter__()

    def close(self) -> None:
        """End the region, if one is open; torch's modes may have been put back before, and with them this one."""
        if self._detaching is not None and self._detaching in torch.overrides._get_current_function_mode_stack():
            self._detaching.__exit__(None, None, None)
        self._detaching = None

    @contextmanager
    def function(self) -> Generator[None, None, None]:
        """An autograd function runs inside."""
        before, self.enabled = self.enabled, False
        self.functions += 1
        try:
            yield
        finally:
            self.functions -= 1
            self.enabled = before


def _detached(x: Tensor) -> Tensor:
    return x.detach() if x.is_floating_point() or x.is_complex() else x


def _writes(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function writes its first argument."""
    name: str = getattr(func, "__name__", "")
    special = name.startswith("__")
    return "out" in kwargs or name.startswith(("__i", "__set")) or (name.endswith("_") and not special)


#: Where torch enters what decorates a function.
_DECORATED = "torch.utils._contextlib"


@contextmanager
def _regions(traced: bool) -> Generator[_Regions | None, None, None]:
    """``inference_mode`` as ``no_grad``, which captures know; in a trace, results without gradients are detached."""
    kind: Any = torch.inference_mode
    own_enter, own_leave = kind.__enter__, kind.__exit__
    stack: list[bool | None] = []

    def enter(self: Any) -> None:
        caller = str(sys._getframe(1).f_globals.get("__name__"))
        if caller.startswith("torch.") and caller != _DECORATED:  # torch makes tensors without data in it
            stack.append(None)
            own_enter(self)
            return
        stack.append(torch.is_grad_enabled())
        torch._C._set_grad_enabled(not self.mode and torch.is_grad_enabled())

    def leave(self: Any, *error: Any) -> None:
        before = stack.pop()
        if before is None:
            own_leave(self, *error)
        else:
            torch._C._set_grad_enabled(before)

    with replaced(kind, "__enter__", enter), replaced(kind, "__exit__", leave):
        if not traced:
            yield None
            return
        regions = _Regions()
        with (
            torch.no_grad(),
            replaced(torch, "is_grad_enabled", lambda: regions.enabled),
            replaced(torch._C, "_set_grad_enabled", regions.put),
        ):
            try:
                yield regions
            finally:
                regions.close()


# --- autograd functions ------------------------------------------------------------------------------------


@contextmanager
def _functions(lost: _Lost, regions: _Regions | None) -> Generator[None, None, None]:
    """Note the autograd functions that are applied: a capture has what they compute, not their backward.

    Those of torch itself (checkpoints) have the derivative for a backward, and so are left out. The function that all
    ways to call ``apply`` end in is replaced, since ``apply`` itself may have been taken long before.
    """
    functions: Any = torch.autograd.function
    base: Any = functions._SingleLevelFunction
    transformed: Callable[..., Any] = functions.custom_function_call

    def note(cls: Any) -> None:
        if not cls.__module__.startswith("torch."):
            lost.functions[cls.__name__] = None

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        note(cls)
        if regions is None:
            with _unrecorded():
                return super(base, cls).apply(*args, **kwargs)
        with regions.function():
            return _inlined(cls, args)

    def in_transform(cls: Any, *args: Any, **kwargs: Any) -> Any:
        note(cls)
        return transformed(cls, *args, **kwargs)

    with replaced(base, "apply", classmethod(apply)), replaced(functions, "custom_function_call", in_transform):
        yield


class _Context(torch.autograd.function.FunctionCtx):
    """What ``forward`` of an autograd function is given when it is called as any other function."""

    needs_input_grad: tuple[bool, ...] = ()


def _inlined(cls: Any, args: tuple[Any, ...]) -> Any:
    """What an autograd function computes, its ops called as if they stood where it is applied."""
    if cls.setup_context is not torch.autograd.function._SingleLevelFunction.setup_context:
        return cls.forward(*args)
    context = _Context()
    context.needs_input_grad = tuple(isinstance(x, Tensor) and x.requires_grad for x in args)
    return cls.forward(context, *args)


# --- hooks, and gradients taken inside ---------------------------------------------------------------------


@contextmanager
def _hooks(lost: _Lost) -> Generator[None, None, None]:
    """Note hooks that are registered on tensors while the network runs."""

    def noting(name: str) -> Callable[..., Any]:
        own = getattr(Tensor, name)

        def register(self: Tensor, hook: Any) -> Any:
            lost.hooks[f"{_caller()}: {name}"] = None
            return own(self, hook) if self.requires_grad else _Handle()

        return register

    with replaced(Tensor, "register_hook", noting("register_hook")):
        name = "register_post_accumulate_grad_hook"
        with replaced(Tensor, name, noting(name)):
            yield


class _Handle:
    """Stands for the handle of a hook on a tensor that a trace runs without gradients."""

    def remove(self) -> None:
        """Nothing was registered."""


def _in_transform() -> bool:
    """Whether torch.func differentiates, which it also does after it left its transform (what ``vjp`` gives)."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(os.path.dirname(torch.__file__) + os.sep):
        if frame.f_code is _TRANSFORMED:
            return True
        frame = frame.f_back
    return False


#: Where torch.func calls torch's engine.
_TRANSFORMED = cast(Any, eager_transforms)._autograd_grad.__code__


@contextmanager
def _own_gradients() -> Generator[None, None, None]:
    """Refuse a network that takes a gradient in ``forward``: neither way to capture follows torch's engine."""
    owner: Any = torch.autograd
    own: Callable[..., Any] = owner._engine_run_backward

    def run(*args: Any, **kwargs: Any) -> Any:
        if torch._C._are_functorch_transforms_active() or _in_transform():
            return own(*args, **kwargs)
        raise UnsupportedError(
            f"the network takes a gradient while it runs (torch.autograd at {_caller()}), by torch's own engine, whose "
            "ops no capture sees. Import the part that is differentiated (the energy) as a network of its own; what "
            "to_torch() gives of it is differentiated as the source is: torch.autograd.grad(imported(x).sum(), x, "
            "create_graph=True)"
        )

    with replaced(owner, "_engine_run_backward", run):
        yield
