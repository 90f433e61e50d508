"""What ``torch.export`` makes of a network, and what it leaves out: averages, gradients that stop, backwards."""

from __future__ import annotations

import math
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, uninteresting_files

from tdagger.errors import TDaggerError, UnsupportedError
from tdagger.frameworks.torch.capture.checks import kernels_left_open
from tdagger.frameworks.torch.capture.decisions import Decisions
from tdagger.frameworks.torch.capture.passing import Called, noting
from tdagger.frameworks.torch.capture.refusals import TRACE, explained
from tdagger.frameworks.torch.capture.surroundings import put_back, quiet
from tdagger.frameworks.torch.capture.transforms import refusing_regions, transforms
from tdagger.names import shown
from tdagger.tensordag import Origin


class Captured(nn.Module):
    """What is captured: ``model``, called in the way that the capture wants."""

    model: nn.Module
    decisions: Decisions
    #: The calls of modules that hold no others.
    called: Called


def export(flat: Captured, args: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """The program that torch.export makes of a network; UnsupportedError, with the line that stops it, if it can't."""
    with put_back(), quiet():
        warnings.filterwarnings("ignore", "The tensor attributes? .* were? assigned during export", UserWarning)
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec", FutureWarning)
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad=True", UserWarning)  # of a checkpoint
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
        warnings.filterwarnings("ignore", "A model attribute .* requires gradient", UserWarning)
        try:
            with (
                cumulative_averages(flat), _short_traces(), _calls_that_raise(), noting(flat.called),
                kernels_left_open(),
            ):  # fmt: skip
                return _exported(flat, tuple(args))
        except TDaggerError:
            raise
        except Exception as e:  # whatever the network's own code or torch raises on tensors without data
            raise not_captured("torch.export", flat, e, _of_experts(flat.model, e)) from e


def _exported(flat: Captured, args: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """The program, without the transforms of torch.func: what they compute is in it."""
    try:
        with put_back():
            with _code_when_called():
                program = torch.export.export(flat, args, strict=False)
            graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
            if not any(getattr(n.target, "__module__", "") == _TRANSFORMS for g in graphs for n in g.nodes):
                return program
            _detach_regions(program.graph_module)
            return program.run_decompositions({})
    except Exception as e:
        if not transforms(e):
            raise
        whole: Any = sys.modules["torch.export._trace"]
        try:
            with put_back(), refusing_regions(flat.model):
                return whole._export(flat, args, strict=False, pre_dispatch=False)
        except TDaggerError:
            raise
        except Exception:  # the first says it as the network is written
            raise e from None


def _of_experts(model: nn.Module, error: Exception) -> str:
    """What to do about the experts of a transformers model that are looked through one by one, as the data has them."""
    config: Any = getattr(model, "config", None)
    configs = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", ()))]
    chosen = {getattr(c, "_experts_implementation", None) for c in configs}
    experts = any("expert" in path for path, _ in model.named_modules())
    if "eager" not in chosen or not experts or not isinstance(error, GuardOnDataDependentSymNode):
        return ""
    return (
        "Its experts_implementation is 'eager', a loop over those that the data picks: set it to 'grouped_mm' or "
        "'batched_mm', model.set_experts_implementation('grouped_mm')."
    )


@contextmanager
def _code_when_called() -> Generator[None, None, None]:
    """Let graphs be written out as Python and compiled only if they are run, which none is here.

    torch.export does it after each of its passes: of a network of 80 layers that is a quarter of the time.
    """
    kind: Any = torch.fx.GraphModule
    write = kind.recompile

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        write(self)
        return type(self).forward(self, *args, **kwargs)

    def put_off(self: Any) -> None:
        type(self).forward = run  # every graph module has a class of its own

    kind.recompile = put_off
    try:
        yield
    finally:
        kind.recompile = write


@contextmanager
def _calls_that_raise() -> Generator[None, None, None]:
    """Let a network catch what the call of a module raises: torch leaves that module on the stack it keeps."""
    tracer: Any = torch.fx.Tracer
    call_module = tracer.call_module

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(self.module_stack)
        try:
            return call_module(self, *args, **kwargs)
        except BaseException:
            self.module_stack.clear()
            self.module_stack.update(before)
            raise

    tracer.call_module = called
    try:
        yield
    finally:
        tracer.call_module = call_module


class _Trace:
    """The last line of the stack that torch keeps at a node: of the innermost ``forward`` outside of its machinery."""

    @staticmethod
    def extract() -> _Trace:
        return _Trace()

    def summary(self) -> traceback.StackSummary:
        frame: Any = sys._getframe(1)
        skipped = uninteresting_files()
        while frame is not None and (frame.f_code.co_name != "forward" or frame.f_code.co_filename in skipped):
            frame = frame.f_back
        if frame is None:
            return traceback.StackSummary()
        found = traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, "forward", lookup_line=False, line="")
        return traceback.StackSummary.from_list([found])


@contextmanager
def _short_traces() -> Generator[None, None, None]:
    """Keep of the stack at every node only what is read of it: taking all of it is a tenth of the time."""
    proxies: Any = sys.modules["torch.fx.proxy"]
    whole = proxies.CapturedTraceback
    proxies.CapturedTraceback = _Trace
    try:
        yield
    finally:
        proxies.CapturedTraceback = whole


@contextmanager
def recorded_convolutions() -> Generator[None, None, None]:
    """Let ``torch.jit.trace`` record convolutions of tensors on the meta device.

    It records ``_convolution``, which everywhere else is what ``convolution`` calls; on meta that is worked out in
    Python, which fails on traced sizes and would record no convolution if it didn't.
    """
    library = torch.library.Library("aten", "IMPL")
    library.impl("convolution", _convolution, "Meta", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def _convolution(*args: Any) -> torch.Tensor:
    return torch.ops.aten._convolution.default(*args, False, False, False, False)


@contextmanager
def cumulative_averages(model: nn.Module) -> Generator[None, None, None]:
    """Let batch norms that train with momentum None compute with their count as a tensor.

    torch's own forward makes a Python number of it, which depends on the data.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    changed = [
        m
        for m in model.modules()
        if isinstance(m, kinds) and type(m) in kinds and m.training and m.momentum is None and m.track_running_stats
    ]
    for module in changed:
        module.__dict__["forward"] = partial(_average_of_all_batches, module)
    try:
        yield
    finally:
        for module in changed:
            del module.__dict__["forward"]


def _average_of_all_batches(module: Any, x: torch.Tensor) -> torch.Tensor:
    """What a batch norm with momentum None computes in training."""
    axes = (0, *range(2, x.dim()))
    before = module.running_mean.clone(), module.running_var.clone()
    out = nn.functional.batch_norm(
        x, module.running_mean, module.running_var, module.weight, module.bias, True, 0.0, module.eps
    )
    module.num_batches_tracked.add_(1)
    share = 1.0 / module.num_batches_tracked
    with torch.no_grad():
        wide = x.float() if x.element_size() < 4 else x
        now = wide.mean(axes), wide.var(axes)
        for running, old, new in zip((module.running_mean, module.running_var), before, now, strict=True):
            running.copy_(old.to(new.dtype) * (1 - share) + new * share)
    return out


def mark_cumulative(program: torch.export.ExportedProgram, model: nn.Module, places: Callable[..., Origin]) -> None:
    """Mark batch norms in eval mode whose module has momentum None by a momentum of NaN: the graph has 0 for it."""
    named = model.named_modules(remove_duplicate=False)
    cumulative = {n for n, m in named if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.momentum is None}
    for node in program.graph.nodes if cumulative else ():
        if node.target is torch.ops.aten.batch_norm.default and not node.args[5] and places(node).module in cumulative:
            node.update_arg(6, math.nan)


#: Where the calls are that torch.func.vmap, grad ... leave in an exported graph, around the ops they change.
_TRANSFORMS = "torch._functorch.predispatch"


def _detach_regions(module: torch.fx.GraphModule) -> None:
    """Detach the results of every region under no_grad, which decomposing leaves nothing else of."""
    for graph in [m.graph for m in module.modules() if isinstance(m, torch.fx.GraphModule)]:
        for node in graph.nodes:
            if getattr(node.target, "__name__", "") != "wrap_with_set_grad_enabled" or node.args[0]:
                continue
            inner = getattr(graph.owning_module, node.args[1].target)
            end = inner.graph.output_node()
            for result in [n for n in end.all_input_nodes if _is_floating(n.meta.get("val"))]:
                with inner.graph.inserting_before(end):
                    detached = inner.graph.call_function(torch.ops.aten.detach.default, (result,))
                detached.meta = dict(result.meta)
                end.replace_input_with(result, detached)
            inner.recompile()


def _is_floating(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())


def not_captured(tool: str, flat: Captured, error: Exception, advice: str = "") -> UnsupportedError:
    """The error for a network that torch can't capture: what stops it, where, and what to do (``advice`` if given)."""
    what, own = explained(error)
    advice = advice or f"{own}{'. ' if own else ''}If the network runs on these inputs, {TRACE}."
    return UnsupportedError(
        f"{tool} can't capture {shown(type(flat.model).__name__)}: {what}\n{advice}{flat.decisions.hints()}"
    )
