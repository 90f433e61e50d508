"""``tdagger prune``: a smaller network, and what went; or what can be pruned, and what stops the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from tdagger.analysis.cost.report import outward
from tdagger.analysis.time.timing import Device, device_of
from tdagger.cli import DIFFERS, common, rows
from tdagger.cli.compare import By, aligned
from tdagger.cli.cost import Counted, DeviceName
from tdagger.cli.prune_table import groups_of, record_of, show_found, show_plan
from tdagger.cli.target import Target
from tdagger.errors import AttributeValueError
from tdagger.prune.amounts import Amount, amount_of, ratio_of
from tdagger.prune.finding.groups import Prunable
from tdagger.prune.importance import IMPORTANCES, NORMALISE
from tdagger.prune.plan import PrunePlan, prune_plan
from tdagger.prune.removing.check import Check
from tdagger.tensordag import TensorDAG

#: What help calls the options that say how much goes, and what.
TARGET, CHOICE = "How much is left (one of these): a part such as 50% or 0.5, or a number such as 2G", "What goes"


def _target(name: str, help: str) -> Any:
    return typer.Option(name, metavar="LEFT", help=help, rich_help_panel=TARGET)


@common.of_network
def prune(
    source: common.SourceName,
    network: common.Network,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it; the suffix says the form.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    flops: Annotated[str | None, _target("--flops", "Operations.")] = None,
    params: Annotated[str | None, _target("--params", "Parameters.")] = None,
    bytes: Annotated[str | None, _target("--bytes", "Bytes of parameters.")] = None,
    time: Annotated[str | None, _target("--time", "Predicted time on --device: a part, or 3ms.")] = None,
    ratio: Annotated[
        list[str] | None,
        typer.Option(
            "--ratio",
            metavar="[GROUP=]GOES",
            help="Units that go of every group, or of those of a name (with wildcards): 30%, layer1.*=50%.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    importance: Annotated[
        str,
        typer.Option("--importance", metavar="NAME", help=", ".join(IMPORTANCES) + ".", rich_help_panel=CHOICE),
    ] = "l2",
    normalise: Annotated[
        str,
        typer.Option(
            "--normalise",
            metavar="NAME",
            help=f"Compare groups by importance alone, over their {', '.join(NORMALISE)}; else by what units free too.",
            rich_help_panel=CHOICE,
        ),
    ] = "",
    local: Annotated[
        bool, typer.Option("--local", help="Every group loses the same part.", rich_help_panel=CHOICE)
    ] = False,
    multiple_of: Annotated[
        int,
        typer.Option("--multiple-of", min=1, help="What is left is a multiple of this.", rich_help_panel=CHOICE),
    ] = 1,
    least: Annotated[
        str,
        typer.Option("--least", metavar="UNITS", help="Left in every group: 8, or 25%.", rich_help_panel=CHOICE),
    ] = "1",
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="NAME", help="Groups, modules or parameters that stay.", rich_help_panel=CHOICE),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Groups, or modules that make them: those alone lose units.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    inexact: Annotated[
        str,
        typer.Option(
            "--inexact",
            metavar="WHICH",
            help="Where zeros aren't the same as nothing, groups go: none, norms (only a norm counts them), all.",
            rich_help_panel=CHOICE,
        ),
    ] = "norms",
    keep_numbers: Annotated[
        bool, typer.Option("--keep-numbers", help="Norms divide by what they did.", rich_help_panel=CHOICE)
    ] = False,
    constants: Annotated[
        str,
        typer.Option(
            "--constants",
            metavar="HOW",
            help="What goes counts as zero, or as the constant it would be, which is folded into biases: zero, fold.",
            rich_help_panel=CHOICE,
        ),
    ] = "zero",
    device: DeviceName = None,
    check: Annotated[bool, typer.Option("--check", help="Run both in double precision and compare.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Say what can be pruned, and what stops the rest.")] = False,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, help="How deep to list modules; unless told, as many as fit.")
    ] = None,
    meta: common.Meta = False,
    resize: common.Resize = None,
    as_json: common.AsJson = False,
    debug: common.Debug = False,
) -> int:
    """Make a network smaller: remove the channels, heads and units that matter least, and show what went.

    docs/pruning.md says what goes together, what is exact, and what the options mean.

    Without --output nothing is written. With --check the exit status is 1, and nothing is written, if what is left
    doesn't compute what the network does with zeros for what went.
    """
    given = {"flops": flops, "params": params, "bytes": bytes, "time": time, "ratio": ratio}
    wanted = _wanted({k: v for k, v in given.items() if v}, list_, device)
    if meta and (output or check):
        raise AttributeValueError(f"--meta makes no weights, and {'--output' if output else '--check'} needs them")
    if meta and constants == "fold":
        raise AttributeValueError("--meta makes no weights, and --constants fold needs them")
    if meta and not list_ and importance != "random":
        raise AttributeValueError(f"--meta makes no weights, and --importance {importance} needs them: say random")
    if list_ and (output or check):
        raise AttributeValueError(f"--list changes nothing, so there is nothing to {'write' if output else 'check'}")
    on = device_of(device) if device else None
    how: dict[str, Any] = {
        "importance": importance, "normalise": normalise, "global_": not local, "multiple_of": multiple_of,
        "least": _least(least), "keep": keep or (), "only": only or (), "inexact": inexact,
        "keep_numbers": keep_numbers, "constants": constants,
    }  # fmt: skip
    to = Target(output, force) if output else None
    loaded = common.load_source(source, network, meta, common.sizes_of(resize, "--resize"))
    dag = common.changed(common.import_source(loaded), loaded, False, resize)
    with common.progress(f"looking for what goes together in {dag.name}"):
        found: Prunable = dag.prunable()
        _ = found.groups
    if list_:
        if as_json:
            typer.echo(json.dumps({"source": source, "name": dag.name, **groups_of(found)}, indent=1))
        else:
            show_found(common.console(), found, dag, source)
        return 0
    with common.progress(f"choosing what goes of {dag.name}"):
        plan = prune_plan(dag, found=found, device=on, **_of(wanted), **how)
    done = _Done(plan, _applied(plan), _checked(plan, check), on)
    if as_json:
        typer.echo(json.dumps(_json(done, source), indent=1))
    else:
        counted = done.counted()
        lines = aligned(counted, By.MODULE, depth, None, fold=True, fit=True)
        show_plan(common.console(), plan, done.check, counted, lines, source)
    if done.check is not None and not done.check.passed:
        return DIFFERS
    if to is not None:
        to.write(done.small)
    return 0


def _wanted(given: dict[str, Any], listed: bool, device: str | None) -> dict[str, Any]:
    """The one target, read; AttributeValueError if there is none or more, before what takes long."""
    said = ", ".join(f"--{k}" for k in given) or "none"
    if listed and given:
        raise AttributeValueError(f"--list says what can go, and takes no target, got {said}")
    if not listed and len(given) != 1:
        raise AttributeValueError(f"give one of --flops, --params, --bytes, --time or --ratio, or --list; got {said}")
    if "time" in given and device is None:
        raise AttributeValueError("--time is predicted: --device says for which device")
    return {k: ratio_of(v) if k == "ratio" else amount_of(v, f"--{k}", k == "time") for k, v in given.items()}


def _of(wanted: dict[str, Any]) -> dict[str, Any]:
    """The target as :func:`prune_plan` takes it."""
    ((name, value),) = wanted.items()
    if not isinstance(value, Amount):
        return {name: value}
    if value.is_part:
        return {name: float(value.number)}
    return {name: f"{value.number}s" if name == "time" else round(value.number)}


def _least(text: str) -> int | float:
    amount = amount_of(text, "--least")
    return float(amount.number) if amount.is_part and amount.number < 1 else round(amount.number)


def _applied(plan: PrunePlan) -> TensorDAG:
    with common.progress(f"making {plan.dag.name} smaller"):
        return plan.apply()


def _checked(plan: PrunePlan, wanted: bool) -> Check | None:
    if not wanted:
        return None
    with common.progress("running both"):
        return plan.check()


class _Done(NamedTuple):
    """A plan, what it gives, and what checking it said."""

    plan: PrunePlan
    small: TensorDAG
    check: Check | None
    device: Device | None

    def counted(self) -> dict[str, Counted]:
        """The costs before and after; numbers of a module have ``units`` too, those of the groups it makes."""
        found: dict[str, Counted] = {}
        for side, dag in (("a", self.plan.dag), ("b", self.small)):
            counted = found[side] = Counted(dag, rows.Traffic(), device=self.device)
            lines = {line.path: line for _, line in rows.deep(counted.root)}
            for row in self.plan.rows:
                for path in outward(row.group.module):
                    if path in lines:
                        numbers = lines[path].numbers
                        numbers["units"] = numbers.get("units", 0) + (row.group.size if side == "a" else row.left)
        return found


def _json(done: _Done, source: str) -> dict[str, Any]:
    counted, plan = done.counted(), done.plan
    modules = [
        {"module": line.path, **{k: _pair(line.numbers, k) for k in ("total_flops", "parameters", "units")}}
        for _, line in aligned(counted, By.MODULE, None, None, fold=False, fit=False)
    ]
    totals = {k: {"before": a, "after": counted["b"].totals[k]} for k, a in counted["a"].totals.items()}
    return {
        "source": source,
        "name": plan.dag.name,
        "totals": totals,
        "groups": [record_of(r.group) | {"removed": _units(plan, r.group.name)} for r in plan.rows],
        "not_mask_equivalent": list(plan.why),
        "check": None if done.check is None else {
            "passed": done.check.passed, "exact": done.check.exact, "error": done.check.error,
            "unlike": done.check.unlike, "helped": list(done.check.helped),
        },
        "modules": modules,
    }  # fmt: skip


def _units(plan: PrunePlan, name: str) -> list[int]:
    return [int(n) for n in plan.units.get(name, ())]


def _pair(numbers: rows.Numbers, name: str) -> dict[str, float]:
    return {"before": numbers.get(f"a_{name}", 0), "after": numbers.get(f"b_{name}", 0)}
