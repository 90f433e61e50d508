"""What is asked of one network: there and back, with the same outputs, state, gradients and FLOPs."""

from __future__ import annotations

import contextlib
import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tdagger as td
import tdagger.frameworks.torch.importer  # so that the containers of transformers are known to flatten
from tdagger.analysis.cost.report import cost_of
from tdagger.cli.measure import difference
from tdagger.composite import Composite
from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.aten.calls import array_of
from tdagger.tree import Tree, flatten
from tests.networks import Network

Via = Literal["export", "trace"]

#: Relative to the largest number of an output, and to the largest of a parameter's gradient.
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
#: A difference in float32 is rounding if it is at most so many times that of the network's own float32 and float64.
ROUNDINGS = 2
#: A gradient that is zero but for rounding is measured by this part of the largest gradient.
GRADIENT_FLOOR = 1e-3


def check(network: Network, report: Callable[..., None]) -> None:
    """Report what becomes of a network: ``status`` ok, wrong, unsupported, uncaptured, or what raised."""
    module, args, kwargs = network
    report(stage="run", parameters=sum(p.numel() for p in module.parameters()))
    inputs = [(args, kwargs), another(args, kwargs)]
    with torch.no_grad():
        expected = [results(module(*a, **k)) for a, k in inputs]
    report(shape=[list(t.shape) for t in tensors((args, kwargs))[0]])
    floats = [(i, t) for i, t in enumerate(expected[0][0]) if t.is_floating_point() and t.numel()]
    blank = [i for i, t in floats if not bool(t.isfinite().any())]
    if blank:
        report(status="failed", error=f"the network itself gives no number in outputs {blank}")
        return

    captured = capture(module, args, kwargs, report)
    if captured is None:
        return
    dag, module_via = captured
    report(stage="to_torch", nodes=len(dag.graph), flops=dag.graph.total_flops(), external=len(dag.graph.external))
    back = dag.to_torch()

    report(stage="outputs")
    wrong: list[str] = []
    errors: list[float] = []
    for (a, k), (want, tree) in zip(inputs, expected, strict=True):
        with torch.no_grad():
            got, own = results(back(*a, **k))
        if not nest_alike(own, tree):
            wrong.append("outputs nest otherwise")
        errors.append(output_error(want, got))
    if module_via == "trace" and errors[1] > OUTPUT_TOLERANCE and freezes(module, inputs, expected[1][0]):
        report(frozen=True)  # a trace holds for its example only: the network decides by its data
        errors[1] = 0.0
    for i, error in enumerate(errors):
        if OUTPUT_TOLERANCE < error < np.inf:
            # sums that cancel: is it rounding, or are they different functions? Float64 tells.
            wide, rounding = output_errors_f64(module, *inputs[i], module_via)
            report(output_error_f32=error, output_rounding=rounding)
            errors[i] = wide if error <= ROUNDINGS * rounding else error
    worst = max(errors)
    if not worst <= OUTPUT_TOLERANCE:
        wrong.append(f"outputs differ by {worst:.1e}")
    report(output_error=worst)
    state, own_state = module.state_dict(), back.state_dict()
    kept = {k: (t.shape, t.dtype) for k, t in state.items() if isinstance(t, Tensor)}
    same_state = list(kept) == list(own_state) and all(
        (t.shape, t.dtype) == kept[k] for k, t in own_state.items() if isinstance(t, Tensor)
    )
    report(state=same_state)
    if not same_state:
        wrong.append("the state_dict differs")

    report(stage="gradients")
    error, where = gradient_error(module, back, args, kwargs)
    if error is not None and not error <= GRADIENT_TOLERANCE:
        # sums that cancel: is it rounding, or are they different functions? Float64 tells.
        report(gradient_error_f32=error)
        error, where = gradient_error_f64(module, args, kwargs, module_via)
    report(gradient_error=error, gradient_where=where)
    if error is not None and not error <= GRADIENT_TOLERANCE:
        wrong.append(f"gradients differ by {error:.1e} ({where})")

    report(stage="flops", **counted(module, dag, args, kwargs))
    if wrong:
        report(status="wrong", error="; ".join(dict.fromkeys(wrong)))
    report(stage="done")


def capture(module: nn.Module, args: Any, kwargs: Any, report: Callable[..., None]) -> tuple[td.TensorDAG, Via] | None:
    """The TDAG, by export or else by trace, and which; None after reporting why neither gives one."""
    report(stage="import")
    dag, error = None, ""
    before = peak_reset()
    start = time.perf_counter()
    try:
        dag = td.from_torch(module, args, kwargs)
    except UnsupportedError as e:
        error = str(e)
    report(import_s=time.perf_counter() - start, peak_mb=(peak() - before) / 2**20)
    report(stage="export")
    start = time.perf_counter()
    refused = ""
    try:
        torch.export.export(module, args, kwargs, strict=False)
    except Exception as e:  # whatever torch raises is what is recorded
        refused = f"{type(e).__name__}: {' '.join(str(e).split())[:400]}"
    report(export_s=time.perf_counter() - start, exports=not refused, export_error=refused)
    if dag is not None:
        report(via="export")
        return dag, "export"
    report(stage="trace", import_error=error[:1200])
    try:
        dag = td.from_torch(module, args, kwargs, via="trace")
    except UnsupportedError as e:
        captured = traces(module, args, kwargs)
        report(traces=captured, trace_error=str(e)[:1200])
        lost = not captured and bool(refused)
        report(status="uncaptured" if lost else "unsupported", error=error[:1200])
        return None
    report(via="trace", traces=True)
    return dag, "trace"


def traces(module: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether torch.jit.trace takes a network."""
    try:
        traced(module, args, kwargs)
    except Exception:  # whatever it raises, it doesn't take it
        return False
    return True


def traced(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """torch.jit.trace of a network: takes and returns flat tensors."""
    leaves, tree = tensors((args, kwargs))

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *xs: Tensor) -> tuple[Tensor, ...]:
            a, k = tree.unflatten(list(xs))
            return tuple(results(self.module(*a, **k))[0])

    with torch.no_grad():
        return torch.jit.trace(Flat(), tuple(leaves), check_trace=False, strict=False)


def freezes(module: nn.Module, inputs: Sequence[tuple[Any, Any]], want: Sequence[Tensor]) -> bool:
    """Whether torch's own trace on the first inputs fails to give what the network gives on the second."""
    with torch.no_grad():
        got = traced(module, *inputs[0])(*tensors(inputs[1])[0])
    return output_error(want, list(got)) > OUTPUT_TOLERANCE


def output_error(want: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """The worst difference of outputs, each relative to its largest number."""
    if len(want) != len(got):
        return np.inf
    pairs = zip(want, got, strict=True)
    return max((difference(*(array_of(t.contiguous()) for t in pair)).relative for pair in pairs), default=0.0)


def error_as_held(want: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """The same, of bools and integers in the types that a format has for them."""
    return output_error([w.to(g.dtype) for w, g in zip(want, got, strict=True)], got)


def error_of_file(read: Callable[[], td.TensorDAG], want: Sequence[Tensor], leaves: Sequence[Tensor]) -> str:
    """The error of a network that is read from a file, run by numpy on tensors in its order; or why it can't be."""
    try:
        dag = read()
        inputs = dag.graph.inputs.values()
        feeds = [t.detach().numpy().astype(v.dtype.numpy).reshape(v.shape) for t, v in zip(leaves, inputs, strict=True)]
        found = dag.run(*feeds)
    except td.TDaggerError as e:
        return " ".join(str(e).split())[:300]
    got = [torch.from_numpy(np.array(a)) for a in (found if isinstance(found, tuple) else (found,))]
    return f"{error_as_held(want, [g.reshape(w.shape) for w, g in zip(want, got, strict=True)]):.1e}"


def output_errors_f64(module: nn.Module, args: Any, kwargs: Any, via: Via) -> tuple[float, float]:
    """:func:`output_error` of the network in float64, imported anew; and of its own float32, to its own float64."""
    wide, wide_args, wide_kwargs = in_float64(module, args, kwargs)
    back = td.from_torch(wide, wide_args, wide_kwargs, via=via).to_torch()
    with torch.no_grad():
        narrow = results(module(*args, **kwargs))[0]
        want, got = (results(m(*wide_args, **wide_kwargs))[0] for m in (wide, back))
    own = [t.double() if t.is_floating_point() else t for t in narrow]
    return output_error(want, got), output_error(want, own)


def in_float64(module: nn.Module, args: Any, kwargs: Any) -> tuple[nn.Module, Any, Any]:
    """A copy of a network in float64, and its inputs."""
    leaves, tree = tensors((args, kwargs))
    return copy.deepcopy(module).double(), *tree.unflatten([t.double() if t.is_floating_point() else t for t in leaves])


def tensors(x: Any) -> tuple[list[Tensor], Tree]:
    """The tensors of nested arguments, and their structure."""
    return flatten(x, lambda v: isinstance(v, Tensor))


def results(x: Any) -> tuple[list[Tensor], Tree]:
    """The tensors of what a network gives, and its structure: that of a cache is of the tensors in it."""
    return flatten(x, lambda v: isinstance(v, Tensor), result=True)


def nest_alike(a: Tree, b: Tree) -> bool:
    """Whether two structures are built alike; names of a cache's tensors are numbers in the tuple in its place."""
    places = list(range(a.leaf_count()))
    return b.leaf_count() == len(places) and a.unflatten(places) == b.unflatten(places)


def another(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Other inputs of the same kind: floats drawn again, integers in another order; masks as they are."""
    generator = torch.Generator().manual_seed(1)

    def draw_one(t: Tensor) -> Tensor:
        if t.is_floating_point():
            return torch.randn(t.shape, generator=generator).to(t.dtype)
        return t.flip(1 if t.dim() > 1 else 0) if t.dim() else t  # along a sequence, not inside the boxes of its words

    def draw(x: Any) -> Any:
        leaves, tree = tensors(x)
        return tree.unflatten([draw_one(t) for t in leaves])

    return draw(args), {k: v if "mask" in k else draw(v) for k, v in kwargs.items()}


# --- gradients ---------------------------------------------------------------------------------------------


def gradients(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Tensor | None] | None:
    """Of the sum of all outputs, by parameter; None if no output has any."""
    module.zero_grad(set_to_none=True)
    outputs = [o for o in results(module(*args, **kwargs))[0] if o.requires_grad]
    if not outputs:
        return None
    total = sum(torch.where(o.isfinite(), o, 0.0).sum() for o in outputs)
    assert isinstance(total, Tensor)
    total.backward()
    found = {name: p.grad for name, p in module.named_parameters()}
    module.zero_grad(set_to_none=True)
    return found


def gradient_error(module: nn.Module, back: nn.Module, args: Any, kwargs: Any) -> tuple[float | None, str]:
    """The worst difference of a parameter's gradient, relative to its largest number, and whose it is."""
    try:
        expected = gradients(module, args, kwargs)
    except RuntimeError as e:
        return None, f"torch has no gradient of the original: {str(e).splitlines()[0]}"
    actual = gradients(back, args, kwargs)
    if expected is None or actual is None:
        return (None, "") if expected is actual else (np.inf, "only one of them has gradients")
    if list(expected) != list(actual):
        return np.inf, "parameters differ"
    largest = max((float(g.abs().max()) for g in expected.values() if g is not None and g.numel()), default=0.0)
    worst, where = 0.0, ""
    for name, w in expected.items():
        g = actual[name]
        if w is None and g is None:
            continue
        w = torch.zeros(()) if w is None else w.double()
        g = torch.zeros(()) if g is None else g.double()
        scale = max(float(w.abs().max()) if w.numel() else 0.0, GRADIENT_FLOOR * largest)
        error = float((g - w).abs().max()) / scale if scale and w.numel() else 0.0
        if not error <= worst:
            worst, where = error, name
    return worst, where


def gradient_error_f64(module: nn.Module, args: Any, kwargs: Any, via: Via) -> tuple[float | None, str]:
    """:func:`gradient_error` of the network in float64, imported anew."""
    wide, args, kwargs = in_float64(module, args, kwargs)
    back = td.from_torch(wide, args, kwargs, via=via).to_torch()
    return gradient_error(wide, back, args, kwargs)


# --- costs -------------------------------------------------------------------------------------------------


def products(graph: td.Graph) -> int:
    """Operations of contractions in composites, 2 for each multiply-add, as torch's FlopCounterMode counts.

    What a network multiplies and sums by itself torch doesn't count; ``contraction_flops`` has that too.
    """
    rows = cost_of(graph).by_value
    return sum(r.contraction_flops for r in rows if r.value is not None and isinstance(r.value.op, Composite))


def _grouped_flops(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * x[0] * x[1] * weight[-1]


#: What torch's counter leaves out.
_UNCOUNTED: Any = {torch.ops.aten._grouped_mm: _grouped_flops}


def counted(module: nn.Module, dag: td.TensorDAG, args: Any, kwargs: Any) -> dict[str, int]:
    """FLOPs of the sums of products: ours, and what torch's FlopCounterMode sees in the original."""
    # not without gradients: it asks parameters' views for theirs; it can't count fused attention on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        module(*args, **kwargs)
    return {"products": products(dag.graph), "torch_flops": counter.get_total_flops()}


def peak_reset() -> int:
    """Bytes of memory held now; the peak is counted from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The most bytes of memory held since :func:`peak_reset`."""
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """One thread, and no warnings of other libraries about each other."""
    import logging

    torch.set_num_threads(1)
    for library in ("transformers", "timm", "torch"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
