"""The axis algebra on real networks: what it finds, and whether removing and resizing axes is right.

    python -m conformance.axes timm                    # what is not in the results yet; then the table
    python -m conformance.axes transformers --again wrong
    python -m conformance.axes timm --only swin --again ok

Every network is imported at a batch of 1 (transformers: 2). ``unbatch``: the network without its batch axis, run on
every entry of the batch. ``resize``: the batch made 3 (and, of transformers, the sequence longer), against the
original on inputs of that size. Results are lines of JSON in ``conformance/results/``; docs/conformance-axes.md is
made from them.
"""

from __future__ import annotations

import argparse
import copy
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tdagger as td
from conformance import timm_models, transformers_models
from conformance.check import output_error, quiet, tensors
from conformance.models import warm_up
from conformance.sweep import Limits, Row, read, sweep
from tests.networks import Network, perturb

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "conformance" / "results"
TABLE = ROOT / "docs" / "conformance-axes.md"

#: The largest relative error of an output: the same kernels give 0, others the rounding of float32.
ALLOWED = 1e-6

#: The kinds of transformers whose batch and sequence are resized: text networks, the best known.
KINDS = [
    "bert",
    "gpt2",
    "llama",
    "t5",
    "albert",
    "bart",
    "roberta",
    "distilbert",
    "electra",
    "mpnet",
    "opt",
    "bloom",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "falcon",
    "phi",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "mistral",
    "mixtral",
    "stablelm",
    "olmo2",
    "phi3",
    "modernbert",
    "deberta-v2",
    "xlm-roberta",
    "squeezebert",
]


def build_timm(name: str) -> Network:
    """A model of timm, with an image of its size."""
    network = timm_models.build(name)
    return network._replace(args=(network.args[0][:1],))


def build_transformers(kind: str) -> Network:
    """A tiny model of a kind, with the inputs it needs."""
    return transformers_models.build(kind)


def outputs(module: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors a network gives."""
    with torch.no_grad():
        return tensors(module(*args, **kwargs))[0]


def resized(x: Any, sizes: dict[int, int]) -> Any:
    """An input at another size: its dimensions of the old sizes get the new ones."""
    if not isinstance(x, Tensor) or not x.dim():
        return x
    shape = [sizes.get(n, n) if i or n in sizes else n for i, n in enumerate(x.shape)]
    if x.dtype == torch.bool or (not x.is_floating_point() and int(x.max()) <= 1):
        return torch.ones(shape, dtype=x.dtype)
    if x.is_floating_point():
        return torch.randn(shape, dtype=x.dtype)
    return torch.randint(0, int(x.max()) + 1, shape, dtype=x.dtype)


def cast_to(dtype: torch.dtype, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs with their floats in another precision."""

    def to(a: Any) -> Any:
        return a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a

    return tuple(map(to, args)), {k: to(a) for k, a in kwargs.items()}


def compare(module: nn.Module, back: Callable[[nn.Module, torch.dtype], list[Tensor]], args: Any, kwargs: Any) -> float:
    """The relative error of what a changed network gives; in float64 where float32 leaves only rounding."""
    error = output_error(outputs(module, args, kwargs), back(module, torch.float32))
    if error <= ALLOWED:
        return error
    double = copy.deepcopy(module).double()
    return output_error(outputs(double, *cast_to(torch.float64, args, kwargs)), back(double, torch.float64))


def attempt(report: Callable[..., None], what: str, action: Callable[[], float]) -> None:
    """Report how one change went: ok, wrong (with the error), refused (with the reason) or failed."""
    try:
        error = action()
    except td.AxisError as e:
        report(**{what: "refused", f"{what}_why": str(e)[:600]})
    except Exception as e:  # a sweep reports what went wrong and goes on
        report(**{what: "failed", f"{what}_why": f"{type(e).__name__}: {str(e)[:400]}"})
    else:
        report(**{what: "ok" if error <= ALLOWED else "wrong", f"{what}_error": error})


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one subject."""
    build = {"timm": build_timm, "transformers": build_transformers}[library]

    def run(name: str, report: Callable[..., None]) -> None:
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        module, args, kwargs = build(name)
        perturb(module)
        module.eval()
        report(stage="import", model=type(module).__name__)
        dag = td.from_torch(module, args, kwargs)
        start = time.process_time()
        axes = dag.axes()
        report(stage="axes", nodes=len(dag.values), seconds_axes=round(time.process_time() - start, 3))
        report(opaque=len(axes.opaque), before=dag.rank_report().leftover)
        leaves = tensors((args, kwargs))[0]
        count = leaves[0].shape[0]

        def again(module: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype) -> td.TensorDAG:
            return dag if dtype == torch.float32 else td.from_torch(module, args, kwargs)

        def unbatched() -> float:
            def back(module: nn.Module, dtype: torch.dtype) -> list[Tensor]:
                own, named = cast_to(dtype, args, kwargs)
                small = again(module, own, named, dtype).unbatch("b")
                if dtype == torch.float32:
                    report(after=small.rank_report().leftover)
                net = small.to_torch().eval()
                each = [
                    outputs(
                        net, [a[i] for a in own], {k: a[i] if isinstance(a, Tensor) else a for k, a in named.items()}
                    )
                    for i in range(count)
                ]
                return [torch.stack(list(ts)) for ts in zip(*each, strict=True)]

            return compare(module, back, args, kwargs)

        attempt(report, "unbatch", unbatched)
        wanted = {"b": 3}
        sizes = {count: 3} if library == "timm" else {2: 3}
        if library == "transformers":
            lengths = [n for n in axes.sizes if n.startswith("s")]
            if "s" in lengths:
                wanted["s"] = axes.sizes["s"] + 3
                sizes[axes.sizes["s"]] = wanted["s"]
        args3 = tuple(torch.randn(3, *a.shape[1:]) if library == "timm" else resized(a, sizes) for a in args)
        kwargs3 = {k: resized(a, sizes) for k, a in kwargs.items()}

        def bigger() -> float:
            def back(module: nn.Module, dtype: torch.dtype) -> list[Tensor]:
                big = again(module, *cast_to(dtype, args, kwargs), dtype).resize(**wanted)
                if dtype == torch.float32:
                    report(same=bool(td.from_torch(module, args3, kwargs3).graph == big.graph))
                return outputs(big.to_torch().eval(), *cast_to(dtype, args3, kwargs3))

            return compare(module, back, args3, kwargs3)

        attempt(report, "resize", bigger)
        report(wanted=wanted)

    return run


def page(results: dict[str, dict[str, Row]]) -> str:
    """The table."""
    lines = [
        "# The axis algebra on real networks",
        "",
        "Made by `make conformance-axes` (`conformance/axes.py`); don't edit it by hand.",
        "",
        "- **opaque**: places where a dimension was seen in two ways that have no common refinement.",
        "- **1s before, after**: values with dimensions of size 1, before and after `unbatch`.",
        f"- **unbatch**, **resize**: the largest relative error of an output (allowed: {ALLOWED:g}; in float64 where",
        "  float32 is above), or `refused` with the reason below the table. timm: batch 1, resized to 3; transformers:",
        "  batch 2 to 3 and, where there is one, the sequence 3 longer.",
        "- **same**: the resized graph is node for node the one imported at that size.",
    ]
    for library, rows in results.items():
        done = [r for r in rows.values() if "seconds_axes" in r or r.get("status") != "ok"]
        if not done:
            continue
        lines += ["", f"## {library}", ""]
        inferred = sum("opaque" in r for r in done)
        for what in ("unbatch", "resize"):
            counts = {k: sum(r.get(what) == k for r in done) for k in ("ok", "refused", "wrong", "failed")}
            lines.append(f"- {what}: {', '.join(f'{n} {k}' for k, n in counts.items())} of {len(done)}")
        lines.append(f"- axes inferred without a crash: {inferred} of {len(done)}")
        same = sum(bool(r.get("same")) for r in done)
        lines += [f"- resized, the same graph node for node: {same}", ""]
        lines += [
            "| network | nodes | s | opaque | 1s before | after | unbatch | resize | same |",
            "|---|--:|--:|--:|--:|--:|---|---|---|",
        ]
        why: list[str] = []
        for name, row in rows.items():
            cells = [name, *[str(row.get(k, "")) for k in ("nodes", "seconds_axes", "opaque", "before", "after")]]
            for what in ("unbatch", "resize"):
                error = row.get(f"{what}_error")
                cells.append(
                    f"{error:.0e}" if row.get(what) == "ok" and error else "0" if error == 0 else row.get(what, "")
                )
                if row.get(what) not in ("ok", None):
                    reason = row.get(f"{what}_why") or f"error {row.get(f'{what}_error')}"
                    why.append(f"- {name}, {what} {row[what]}: {' '.join(reason.split())[:300]}")
            cells.append({True: "yes", False: "no"}.get(row.get("same"), ""))
            lines.append(f"| {' | '.join(cells)} |")
            if row.get("status") != "ok":
                why.append(f"- {name}: {row.get('status')}: {row.get('error', '')}")
        lines += ["", *why]
    return "\n".join(lines) + "\n"


LIBRARIES: dict[str, Callable[[], Sequence[str]]] = {"timm": timm_models.names, "transformers": lambda: KINDS}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=[*LIBRARIES, "table"], help="what to sweep; table: only write the table")
    parser.add_argument("--only", default="", metavar="REGEX", help="only the subjects this is found in")
    parser.add_argument("--again", nargs="*", default=(), metavar="STATUS", help="run subjects of these statuses again")
    options = parser.parse_args(arguments)
    if options.library != "table":
        chosen = [n for n in LIBRARIES[options.library]() if re.search(options.only, n)]
        with quiet():
            warm_up(options.library)
            sweep(chosen, work(options.library), RESULTS / f"axes-{options.library}.jsonl", Limits(), options.again)
    results = {name: read(RESULTS / f"axes-{name}.jsonl") for name in LIBRARIES}
    TABLE.write_text(page({k: {n: v[n] for n in LIBRARIES[k]() if n in v} for k, v in results.items()}))


if __name__ == "__main__":
    main()
