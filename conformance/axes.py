"""The axis algebra on real networks: what it finds, and whether removing and resizing axes is right.

    python -m conformance.axes timm                    # what is not in the results yet; then the table
    python -m conformance.axes transformers --again wrong
    python -m conformance.axes timm --only swin --again ok

Every network is imported at a batch of 1 (transformers: 2). ``unbatch``: the network without its batch axis, run on
every entry of the batch. ``resize``: the batch made 3 (and, of transformers, the sequence longer), against the
original on inputs of that size; then each axis h, w or s twice as long. Results are lines of JSON in
``conformance/results/``; docs/conformance-axes.md is made from them.
"""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import tdagger as td
from conformance import timm_models, transformers_models
from conformance.check import output_error, results, tensors
from conformance.models import ROOT, command_line, listed
from conformance.sweep import Row
from tdagger.transform import networks
from tdagger.transform.axes.same import same
from tests.networks import Network, perturb

TABLE = ROOT / "docs" / "conformance-axes.md"

#: The largest relative error of an output: the same kernels give 0, others the rounding of float32.
ALLOWED = 1e-6


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
        return results(module(*args, **kwargs))[0]


def place_of(axes: Any, value: td.Value, gone: set[Any]) -> tuple[int, bool] | None:
    """The dimension of a value that carries some axes, and whether they are all of it."""
    for i, term in enumerate(axes[value]):
        if gone & set(term):
            return i, all(a in gone or a.size == 1 for a in term)
    return None


def joined(entries: Sequence[Tensor], at: tuple[int, bool] | None) -> Tensor:
    """What was computed entry by entry, put together where the batch was."""
    if at is None:
        return entries[0]
    whole = torch.stack(list(entries), at[0])
    return whole if at[1] else whole.flatten(at[0], at[0] + 1)


def at_shape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An input of another shape: a mask with one place left out, random numbers within what there is."""
    if x.dtype == torch.bool or (not x.is_floating_point() and int(x.max()) <= 1):
        mask = torch.ones(shape, dtype=x.dtype)
        if not x.all():  # where all take part, some networks decide to have no mask at all
            mask.view(-1)[shape[-1] - 1] = 0
        return mask
    if x.is_floating_point():
        return torch.randn(shape, dtype=x.dtype)
    return torch.randint(0, int(x.max()) + 1, shape, dtype=x.dtype)


def runs(module: nn.Module, args: Any, kwargs: Any) -> bool:
    """Whether the original takes these inputs at all."""
    try:
        outputs(module, args, kwargs)
    except Exception:  # whatever it is, the network is not asked to be resized to it
        return False
    return True


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


class NotApplicable(Exception):
    """The original can't do what is asked."""


def attempt(report: Callable[..., None], what: str, action: Callable[[], float]) -> None:
    """Report how one change went: ok, wrong (with the error), refused (with the reason) or failed."""
    try:
        error = action()
    except td.AxisError as e:
        report(**{what: "refused", f"{what}_why": str(e)[:600]})
    except NotApplicable as e:
        report(**{what: "n/a", f"{what}_why": str(e)})
    except Exception as e:  # a sweep reports what went wrong and goes on
        report(**{what: "failed", f"{what}_why": f"{type(e).__name__}: {str(e)[:400]}"})
    else:
        report(**{what: "ok" if error <= ALLOWED else "wrong", f"{what}_error": error})


def imported(library: str, name: str, report: Callable[..., None]) -> tuple[Network, td.TensorDAG]:
    """A subject in eval mode, with its zeros and ones moved away, and the network that it is imported as."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    network = {"timm": build_timm, "transformers": build_transformers}[library](name)
    perturb(network.module)
    network.module.eval()
    report(stage="import", model=type(network.module).__name__)
    return network, td.from_torch(network.module, network.args, network.kwargs)


#: Why a network that draws random numbers isn't compared.
DRAWS = "it draws random numbers, so it takes a seed that the original doesn't"


def work(library: str) -> Callable[[str, Callable[..., None]], None]:
    """What is done with one subject."""

    def run(name: str, report: Callable[..., None]) -> None:
        (module, args, kwargs), dag = imported(library, name, report)
        start = time.process_time()
        axes = dag.axes()
        report(stage="axes", nodes=len(dag.values), seconds_axes=round(time.process_time() - start, 3))
        report(opaque=len(axes.opaque), before=dag.rank_report().leftover)
        leaves, tree = tensors((args, kwargs))
        if len(leaves) != len(dag.graph.inputs):
            report(unbatch="n/a", resize="n/a", unbatch_why=DRAWS, resize_why=DRAWS)
            return

        def again(module: nn.Module, args: Any, kwargs: Any, dtype: torch.dtype) -> td.TensorDAG:
            return dag if dtype == torch.float32 else td.from_torch(module, args, kwargs)

        def unbatched() -> float:
            gone = set(axes.term("b"))
            places = [place_of(axes, v, gone) for v in dag.graph.inputs.values()]
            results = [place_of(axes, v, gone) for v in dag.graph.outputs.values()]

            def back(module: nn.Module, dtype: torch.dtype) -> list[Tensor]:
                own, named = cast_to(dtype, args, kwargs)
                small = again(module, own, named, dtype).unbatch("b")
                if dtype == torch.float32:
                    report(after=small.rank_report().leftover)
                net = small.to_torch(fixed=True).eval()
                given = tensors((own, named))[0]
                each: list[list[Tensor]] = []
                for i in range(axes.sizes["b"]):
                    entry = [t if at is None else t.select(at[0], i) for t, at in zip(given, places, strict=True)]
                    each.append(outputs(net, *tree.unflatten(entry)))
                return [joined(ts, at) for ts, at in zip(zip(*each, strict=True), results, strict=True)]

            return compare(module, back, args, kwargs)

        attempt(report, "unbatch", unbatched)

        def bigger() -> float:
            longer = {"s": axes.sizes["s"] + 3} if library == "transformers" and "s" in axes.sizes else {}
            refused: td.AxisError | None = None
            for wanted in ({"b": 3, **longer}, {"b": 3}):  # the batch alone, if the network takes no other sequence
                report(wanted=wanted)
                try:
                    big = dag.resize(**wanted)
                except td.AxisError as e:
                    refused = refused or e
                    report(longer_why=str(e)[:600])
                    continue
                shapes = [v.shape for v in big.graph.inputs.values()]
                args3, kwargs3 = tree.unflatten([at_shape(*pair) for pair in zip(leaves, shapes, strict=True)])
                if runs(module, args3, kwargs3):
                    break
            else:
                if refused:
                    raise refused
                raise NotApplicable("the network itself does not run on larger inputs of the kind it was given")

            def back(module: nn.Module, dtype: torch.dtype) -> list[Tensor]:
                net = (
                    big
                    if dtype == torch.float32
                    else again(module, *cast_to(dtype, args, kwargs), dtype).resize(**wanted)
                )
                if dtype == torch.float32:
                    report(same=same(td.from_torch(module, args3, kwargs3).graph, net.graph))
                return outputs(net.to_torch(fixed=True).eval(), *cast_to(dtype, args3, kwargs3))

            return compare(module, back, args3, kwargs3)

        attempt(report, "resize", bigger)
        report(stage="states")
        alone = networks.free_axes(axes)
        sides = [n for n in alone.sizes if re.fullmatch(r"[hws]\d*", n)]
        unknown = replace(dag, source=None).resizable_axes().unknown
        report(sides=sides, sides_unknown=[n for n in sides if n in unknown], unknown="b" in unknown)

        def each() -> Iterator[tuple[str, str]]:
            """What becomes of each of these axes, made twice as long: with the source, and by the axes alone."""
            for name in sides:
                wanted = {name: 2 * axes.sizes[name]}
                try:
                    shapes = [v.shape for v in dag.resize(wanted, assume=True).graph.inputs.values()]
                    large = tree.unflatten([at_shape(*pair) for pair in zip(leaves, shapes, strict=True)])
                    expected = outputs(module, *large)
                except Exception:  # whatever it is, the network isn't asked for these sizes
                    yield name, "n/a"
                    continue
                for how in ("asked", "assumed"):
                    try:
                        net = dag.resize(wanted, assume=how == "assumed").to_torch(fixed=True).eval()
                        right = output_error(expected, outputs(net, *large)) <= 10 * ALLOWED
                        yield name, f"{how} {'right' if right else 'wrong'}"
                    except td.AxisError:
                        yield name, f"{how} refused"
                    except Exception:  # what resize gave can't be run
                        yield name, f"{how} wrong"

        report(sides_found=[list(found) for found in each()])

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
        "- **same**: the resized graph is node for node the one imported at that size, wherever entries are repeated.",
    ]
    for library, rows in results.items():
        done = [r for r in rows.values() if "seconds_axes" in r or r.get("status") != "ok"]
        if not done:
            continue
        lines += ["", f"## {library}", ""]
        inferred = sum("opaque" in r for r in done)
        for what in ("unbatch", "resize"):
            counts = {k: sum(r.get(what) == k for r in done) for k in ("ok", "refused", "wrong", "failed", "n/a")}
            lines.append(f"- {what}: {', '.join(f'{n} {k}' for k, n in counts.items())} of {len(done)}")
        lines.append(f"- axes inferred without a crash: {inferred} of {len(done)}")
        alike = sum(bool(r.get("same")) for r in done)
        found = [(n, what) for r in done for n, what in r.get("sides_found", ())]
        sides = sum(len(r.get("sides", ())) for r in done)
        lost = sum(len(r.get("sides_unknown", ())) for r in done)
        count = Counter(what for _, what in found)
        lines += [
            f"- resized, the same graph node for node: {alike}",
            f"- axes h, w and s that the graph can have at other sizes: {sides}; without a source {lost} of them are",
            f"  not known; the batch isn't known in {sum(bool(r.get('unknown')) for r in done)} networks",
            f"- those twice as long, where the network itself runs so ({sides - count['n/a']}): with the source "
            + ", ".join(f"{count[f'asked {k}']} {k}" for k in ("right", "refused", "wrong"))
            + "; taking the graph at its word "
            + ", ".join(f"{count[f'assumed {k}']} {k}" for k in ("right", "refused", "wrong")),
            "",
        ]
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
                    why.append(f"- {name}, {what} {row[what]}: {short(reason)}")
            if row.get("resize") == "ok" and "longer_why" in row:
                cells[-1] += " (batch)"
                why.append(f"- {name}, only its batch is resized: {short(row['longer_why'])}")
            cells.append({True: "yes", False: "no"}.get(row.get("same"), ""))
            lines.append(f"| {' | '.join(cells)} |")
            if row.get("status") != "ok":
                why.append(f"- {name}: {row.get('status')}: {short(row.get('error', ''))}")
        lines += ["", *why]
    return "\n".join(lines) + "\n"


def short(reason: str) -> str:
    """A message on one line, without the folders of this machine."""
    return re.sub(r"[^\s(]*/site-packages/", "", " ".join(reason.split()))[:300]


LIBRARIES: dict[str, Callable[[], Sequence[str]]] = {
    "timm": timm_models.names,
    "transformers": transformers_models.names,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""

    def write(found: dict[str, dict[str, Row]]) -> None:
        TABLE.write_text(page(listed(LIBRARIES, found)))

    command_line(__doc__, LIBRARIES, work, "axes-", write, arguments)


if __name__ == "__main__":
    main()
