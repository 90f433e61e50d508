"""The cost of real networks: contractions against the products torch dispatches, and whether all else hangs together.

    python -m conformance.costs timm                   # what is not in the results yet; then the table
    python -m conformance.costs transformers --again wrong failed
    python -m conformance.costs timm --only swin --again ok
    python -m conformance.costs table                  # only write the table

Every network of both sweeps runs once in eval mode under a recorder of what is dispatched, and
``cost().contraction_flops`` is compared with the multiply-adds of the products that were. Results are lines of JSON in
``conformance/results/``; docs/conformance-costs.md is made from them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._functorch.compile_utils import fx_graph_cse

import tdagger as td
from conformance.axes import short
from conformance.check import results, tensors
from conformance.models import LIBRARIES, ROOT, command_line, listed
from conformance.sweep import Row
from tdagger.analysis.cost.report import Cost
from tests.analysis.dispatched import forward_products

TABLE = ROOT / "docs" / "conformance-costs.md"

MODELS = ("fused", "composite", "materialised")


def untrue(dag: td.TensorDAG, cost: Cost) -> Iterator[str]:
    """What should hold of a network's cost and doesn't."""
    known = {*dag.graph.inputs, *dag.graph.parameters, *dag.graph.buffers}
    yield from (f"unknown mask {m}" for m in cost.unknown_masks if m not in known and not m.startswith("a mask of"))
    for row in (cost, *cost.by_value):
        name = "" if row is cost else f" of {row.name}"
        if not 0 <= row.attention_flops_causal <= row.attention_flops <= row.contraction_flops:
            yield f"attention_flops{name}"
        for unit in ("bytes", "elements"):
            for moved in zip(*(row.traffic(m, unit) for m in MODELS), strict=True):
                if list(moved) != sorted(moved):
                    yield f"traffic{name}: {moved}"
    memory = cost.memory
    if not memory.output_bytes <= memory.in_place_bytes <= memory.peak_bytes <= memory.sum_bytes:
        yield f"memory: {memory}"
    for part in ("contraction_flops", "attention_flops", "elementwise_flops", "total_flops"):
        whole = getattr(cost, part)
        if any(sum(getattr(r, part) for r in rows) != whole for rows in (cost.by_value, cost.by_op)):
            yield f"rows don't add up to {part}"


def others(dag: td.TensorDAG) -> dict[str, Callable[[], object]]:
    """What else is asked of a network: everything of it must come without an exception."""

    def scheduled() -> None:
        order = dag.schedule()
        if order.peak_memory() > dag.peak_memory():
            raise AssertionError("the schedule needs more than the order there was")

    def planned() -> None:
        plan = dag.memory_plan(in_place=False)
        if plan.size < dag.peak_memory():
            raise AssertionError("the plan is smaller than the peak")

    return {
        "print": lambda: str(dag.cost()),
        "backward": lambda: str(dag.cost(backward=True)),
        "backward inputs": lambda: dag.cost(backward="inputs"),
        "memory_plan": lambda: (planned(), str(dag.memory_plan())),
        "schedule": scheduled,
        "peak_memory": lambda: [dag.peak_memory(b) for b in ("numpy", "torch-cpu")],
        "predict_time": lambda: str(dag.predict_time("h100")),
    }


def capture(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[td.TensorDAG, bool]:
    """The network, and whether ``torch.export`` captured it; what it can't capture is traced."""
    try:
        return td.from_torch(module, args, kwargs), True
    except td.UnsupportedError:
        return td.from_torch(module, args, kwargs, via="trace"), False


def dispatched(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], exported: bool) -> Counter[str]:
    """What the original dispatches, taking the way it takes when it is captured."""
    with contextlib.ExitStack() as flags:
        if exported:
            flags.enter_context(mock.patch.object(torch.compiler, "_is_exporting_flag", True))
        return forward_products(module, args, kwargs)


class _Tensors(nn.Module):
    """A module that takes and gives tensors, one by one."""

    def __init__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        super().__init__()
        self.module = module
        self.leaves, self.tree = tensors((args, kwargs))

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = self.tree.unflatten(list(leaves))
        return tuple(results(self.module(*args, **kwargs))[0])


def needed(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], exported: bool) -> Counter[str]:
    """What the program that torch itself captures dispatches, each thing that outputs need once."""
    plain = _Tensors(module, args, kwargs)
    leaves = tuple(plain.leaves)
    program: Any
    with torch.no_grad():
        if exported:
            program = torch.export.export(plain, leaves, strict=False).run_decompositions({}).module()
            program.graph = fx_graph_cse(program.graph)
            program.graph.eliminate_dead_code()
            program.recompile()
        else:
            program = torch.jit.trace(plain.eval(), leaves, check_trace=False, strict=False)
            program = torch.jit.freeze(program, optimize_numerics=False)
            torch._C._jit_pass_cse(program.graph)
            torch._C._jit_pass_dce(program.graph)
            with torch.jit.optimized_execution(False):
                return forward_products(program, leaves)
    return forward_products(program, leaves)


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one network."""
    build = LIBRARIES[library][1]

    def run(name: str, report: Callable[..., None]) -> None:
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        module, args, kwargs = build(name)
        module.eval()
        report(stage="import", model=type(module).__name__)
        try:
            dag, exported = capture(module, args, kwargs)
        except td.UnsupportedError as e:
            report(status="unsupported", error=str(e)[:600])
            return
        report(stage="cost", nodes=len(dag.values), exported=exported)
        cost = dag.cost()
        ours: Counter[str] = Counter()
        for row in cost.by_value:
            ours[row.name] += row.macs
        report(ours=dict(+ours), macs=cost.macs, attention=cost.attention_flops, causal=cost.attention_flops_causal)
        report(partial=dict(cost.partial), unknown_masks=dict(cost.unknown_masks), at_most=dict(cost.at_most))
        failed = [*dict.fromkeys(untrue(dag, cost))][:5]
        for what, ask in others(dag).items():
            report(stage=what)
            try:
                ask()
            except Exception as e:  # a sweep reports what went wrong and goes on
                failed.append(f"{what}: {type(e).__name__}: {str(e)[:300]}")
        report(stage="torch", failed=failed)
        torchs = dispatched(module, args, kwargs, exported)
        report(torch=dict(torchs), dispatched=sum(torchs.values()))
        elementwise = sum(ours[n] for n in ELEMENTWISE_IN_TORCH)
        wanted = {cost.macs - elementwise: "convention", cost.macs: "exact"}
        status = wanted.get(sum(torchs.values()), "wrong")
        if status == "wrong":
            report(stage="needed")
            try:
                used = needed(module, args, kwargs, exported)
            except Exception as e:  # torch can't always decompose what it captured
                report(error=f"what is needed isn't known: {type(e).__name__}: {str(e)[:300]}")
            else:
                report(needed=dict(used))
                status = "unneeded" if sum(used.values()) in wanted else "wrong"
        report(status="failed" if failed and status != "wrong" else status, elementwise=elementwise)

    return run


#: A network's own ops whose sums of products torch has as other ops: a product and a sum, a Fourier transform.
ELEMENTWISE_IN_TORCH = ("multiply", "fft")


MEANING = {
    "exact": "as many as torch dispatches",
    "convention": "more by the products and sums (or the `fft`) of the network itself, which torch runs as such",
    "unneeded": "as many as torch's own captured program has once what no output needs, or needs twice, is gone",
    "noted": "another number, for the reason that is said",
    "wrong": "another number",
    "failed": "something that should hold doesn't, or an exception",
    "unsupported": "not imported",
}
#: Why a number is another one, where it isn't a mistake.
NOTES = {
    "led": "an einsum over an axis of size 1 is a product of elements in torch",
    "longformer": "an einsum over an axis of size 1 is a product of elements in torch",
    "mra": "of queries, keys and values only the shape is needed (without CUDA its attention is zeros)",
    "sam3": "not confirmed: as many fewer as of sam3_lite_text, which are unneeded; torch's program can't be had here",
}
STATUSES = (*MEANING, "timeout", "memory", "crashed")


def page(results: dict[str, dict[str, Row]]) -> str:
    """The table."""
    lines = [
        "# The cost of real networks",
        "",
        "Made by `make conformance-costs` (`conformance/costs.py`); don't edit it by hand.",
        "",
        "`cost().macs` of every network against the multiply-adds of the products that torch dispatches when the",
        "original runs, from their shapes; whether the parts of the cost agree with each other; and whether backward",
        "pass, memory plan, schedule, peak memory and time come without an exception.",
        "",
        *(f"- **{name}**: {meaning}." for name, meaning in MEANING.items()),
    ]
    for library, rows in results.items():
        if not rows:
            continue
        status = {n: "noted" if r["status"] == "wrong" and n in NOTES else r["status"] for n, r in rows.items()}
        counts = Counter(status.values())
        lines += ["", f"## {library}", "", ", ".join(f"{counts[s]} {s}" for s in STATUSES if counts[s]) + "."]
        lines += ["", "| network | | multiply-adds | dispatched | more by convention | why |"]
        lines += ["|---|---|--:|--:|--:|---|"]
        for name, row in rows.items():
            if row["status"] != "exact":
                numbers = [f"{row[k]:,}" if k in row else "" for k in ("macs", "dispatched", "elementwise")]
                known = [text for text in (NOTES.get(name), row.get("error")) if text]
                why = "; ".join([*row.get("failed", ()), *known])
                lines.append(f"| {name} | {status[name]} | {' | '.join(numbers)} | {short(why)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    subjects = {library: names for library, (names, _) in LIBRARIES.items()}

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(subjects, found)))

    command_line(__doc__, subjects, work, "costs-", write, arguments)


if __name__ == "__main__":
    main()
