"""What the commands share: the types of their options, loading and importing a SOURCE, progress, the console.

A command is a function with typed options in a file of its own; :mod:`tdagger.cli.app` puts it on the command line.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from rich.console import Console

from tdagger.errors import AttributeValueError, SourceError
from tdagger.frameworks.file import imported
from tdagger.frameworks.source import Options, Source, load, parse_setting, parse_shape
from tdagger.names import shown
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.types import DType

# --- options -----------------------------------------------------------------------------------------------

#: What help calls the options that say what the network is.
PANEL = "The network"

SourceName = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="A file, timm:NAME, transformers:CLASS or package.module:callable."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Passed to what builds the network, or the value of an input of .onnx and scripts; may be repeated.",
        rich_help_panel=PANEL,
    ),
]
SettingsOfA = Annotated[
    list[str] | None,
    typer.Option("--set-a", metavar="KEY=VALUE", help="Settings of A only.", rich_help_panel=PANEL),
]
SettingsOfB = Annotated[
    list[str] | None,
    typer.Option("--set-b", metavar="KEY=VALUE", help="Settings of B only.", rich_help_panel=PANEL),
]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="The first size of every input.", rich_help_panel=PANEL)
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=SIZES",
        help="An input: x=1,3,224,224 or ids=i64:1,16; may be repeated.",
        rich_help_panel=PANEL,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="TYPE", help="Of weights and inputs: f32, f16, bf16 ...", rich_help_panel=PANEL),
]
Seq = Annotated[
    int | None,
    typer.Option(
        "--seq",
        min=1,
        help="Tokens of every text, for transformers:CLASS; new ones with --past.",
        rich_help_panel=PANEL,
    ),
]
Past = Annotated[
    int,
    typer.Option(
        "--past",
        min=0,
        metavar="TOKENS",
        help="So many tokens came before: their cache is an input, and one more token is computed.",
        rich_help_panel=PANEL,
    ),
]
WeightsFile = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", help="A .safetensors with the weights of a .tdag.", rich_help_panel=PANEL
    ),
]
Meta = Annotated[bool, typer.Option("--meta", help="Make no weights: for networks of any size.", rich_help_panel=PANEL)]
Unbatch = Annotated[
    bool,
    typer.Option("--unbatch", help="Take the batch axis out of every op; before other sizes.", rich_help_panel=PANEL),
]
Optimize = Annotated[
    bool,
    typer.Option("--optimize", help="Fold and merge layers, for inference; after other sizes.", rich_help_panel=PANEL),
]
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="AXES",
        help="Other sizes: b=8,h=320,w=320, by the names that --axes shows.",
        rich_help_panel=PANEL,
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="AXES",
        help="At other sizes: b=8,s=4096, by the names that inspect --axes shows.",
        rich_help_panel=PANEL,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the trace too.")]


# --- networks ----------------------------------------------------------------------------------------------

#: What is changed by options.
D = TypeVar("D", TensorDAG, Program, TensorDAG | Program)

#: The commands that take programs.
PROGRAMS = "inspect, view, cost, diff, verify and convert"


@dataclass(frozen=True)
class Network:
    """What the options say that a network is; every command that takes one has an option for each field."""

    settings: Settings = None
    batch: Batch = None
    shape: Shapes = None
    dtype: Dtype = None
    seq: Seq = None
    past: Past = 0
    weights: WeightsFile = None

    def also(self, settings: list[str] | None) -> Network:
        """The same with more settings."""
        return replace(self, settings=[*(self.settings or ()), *(settings or ())])


def of_network(command: Callable[..., int]) -> Callable[..., int]:
    """The command with options in the place of its parameter ``network``: one for each field of :class:`Network`."""
    hints = get_type_hints(Network, include_extras=True)
    options = [
        Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name]) for f in fields(Network)
    ]
    own = signature(command, eval_str=True).parameters.values()
    kept = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own if p.name != "network"]

    def run(**given: Any) -> int:
        network = Network(**{f.name: given.pop(f.name) for f in fields(Network)})
        return command(network=network, **given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__dict__["__signature__"] = Signature([*kept, *options])
    run.__annotations__ = {}
    return run


def load_source(source: str, network: Network, meta: bool = False, sizes: Mapping[str, int] | None = None) -> Source:
    """The network of a SOURCE, as the options say; AttributeValueError or SourceError says what can't be used.

    ``sizes`` are for what a file leaves open; :func:`changed` is for what it has.
    """
    options = Options(
        _once(map(parse_setting, network.settings or ()), "--set"),
        network.batch,
        _once(map(parse_shape, network.shape or ()), "--shape"),
        None if network.dtype is None else DType.of(network.dtype),
        meta,
        network.seq,
        network.past,
        network.weights,
        sizes or {},
    )
    if options.dtype is not None and not options.dtype.is_float:
        raise AttributeValueError(f"--dtype is for weights, which are floats, got {network.dtype}")
    with progress(f"loading {source}"):
        return load(source, options)


def whole_source(source: Source, external: bool = False) -> TensorDAG | Program:
    """What was loaded: a network, or a program where loops and branches depend on data."""
    with progress(f"importing {source.name}"):
        return imported(source, external)


def import_source(source: Source, external: bool = False) -> TensorDAG:
    """The TDAG of a network that was loaded; with ``external``, ops that have no rule are kept as external ones.

    SourceError if it is a program.
    """
    return network_of(whole_source(source, external), source.name)


def network_of(found: TensorDAG | Program, name: str) -> TensorDAG:
    """What is no program; SourceError if it is one."""
    if isinstance(found, Program):
        raise SourceError(
            f"{shown(name)} is a program, of {len(found.blocks)} networks with loops or branches between them, and "
            f"this command is for one network; {PROGRAMS} take programs"
        )
    return found


def changed(
    dag: D,
    source: Source,
    unbatch: bool,
    sizes: str | None,
    option: str = "--resize",
    optimize: bool = False,
    free: Sequence[str] = (),
) -> D:
    """The network or program of a source without its batch, at other sizes, optimised, as the options say.

    Sizes that the source has by their names already aren't changed. What follows the ``free`` axes of a network isn't
    worked out.
    """
    with progress(f"changing {dag.name}"):
        dag = dag.unbatch() if unbatch else dag
        other = beyond(source, sizes_of(sizes, option))
        dag = dag.resize(other) if other else dag
        if optimize:
            dag = dag.optimize(free) if isinstance(dag, TensorDAG) else dag.optimize()
        return dag


def beyond(source: Source, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes that a source doesn't have already, as what its file leaves open."""
    return {name: size for name, size in sizes.items() if source.bound.get(name) != size}


def _once(pairs: Iterable[tuple[str, Any]], option: str) -> dict[str, Any]:
    """The pairs of an option that may be given several times; AttributeValueError for a name that is there twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise AttributeValueError(f"{option} has {name} twice: {found[name]!r} and {value!r}")
        found[name] = value
    return found


def sizes_of(text: str | None, option: str) -> dict[str, int]:
    """The sizes of an option such as ``--at b=8,s=4096``, by name.

    >>> sizes_of("b=8, s=4096", "--at")
    {'b': 8, 's': 4096}
    """
    sizes: dict[str, int] = {}
    for part in text.split(",") if text else ():
        name, _, size = part.partition("=")
        if not name.strip() or not size.strip().isdigit():
            raise AttributeValueError(f"{option} takes AXIS=SIZE,AXIS=SIZE such as b=8,h=320, got {text!r}")
        if name.strip() in sizes:
            raise AttributeValueError(f"{option} has two sizes for {name.strip()}: {text!r}")
        sizes[name.strip()] = int(size)
    return sizes


# --- the terminal ------------------------------------------------------------------------------------------

#: How wide output is that doesn't go to a terminal: nothing is cut there.
UNCUT = 1000


def console() -> Console:
    """Standard output; as wide as it needs to be when it isn't a terminal."""
    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else UNCUT)


def as_csv(columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    """Records as CSV, the names of the columns first; names are shown so that a record is a line.

    >>> as_csv(["op", "flops"], [{"op": "exp", "flops": 2}, {"op": "a,b", "flops": 3}]).splitlines()
    ['op,flops', 'exp,2', '"a,b",3']
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{k: shown(v) if isinstance(v, str) else v for k, v in record.items()} for record in records])
    return text.getvalue()


@contextmanager
def progress(what: str, total: int | None = None) -> Generator[Callable[[], None]]:
    """Say on stderr what is being done and for how long, while it is, if somebody watches.

    With ``total`` there is a bar; call what this gives after every step.

    >>> with progress("timing ops", total=2) as step:
    ...     step()
    ...     step()
    """
    stderr = Console(stderr=True)
    if not stderr.is_terminal or stderr.is_dumb_terminal:
        yield lambda: None
        return
    # 8 ms, which nobody needs whose output goes to a file
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed

    bar: list[ProgressColumn] = [] if total is None else [BarColumn(24), MofNCompleteColumn()]
    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False), *bar, Elapsed()]
    with Progress(*columns, console=stderr, transient=True) as bars:
        task = bars.add_task(shown(what), total=total)
        yield lambda: bars.advance(task)
