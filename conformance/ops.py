"""torch's own op database, through import and back: which ops work, which don't and why.

Every op of ``op_db`` (what torch tests itself with) is called on samples of several element types, imported with
:func:`tdagger.from_torch` (captured by torch.export, else by torch.jit.trace), and compared with torch, both as
``to_torch()`` and executed by numpy: values, shapes and element types, with torch's own tolerances. Each op runs
in a process of its own with a time limit. Results go to a file of JSON lines, so a run that was stopped goes on
where it was; docs/conformance-ops.md is written from it.

    python conformance/ops.py                  # every op
    python conformance/ops.py --only '^nn'     # some, without writing the table
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import Progress
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import tdagger as td
from tdagger.frameworks.torch.aten.calls import array_of
from tdagger.frameworks.torch.aten.reasons import kind_of
from tdagger.frameworks.torch.runtime import from_numpy

DTYPES = (torch.float32, torch.int64, torch.bool, torch.float16)
ROOT = Path(__file__).resolve().parent.parent

#: Ops whose results are whatever was in memory: only their types are compared.
UNINITIALIZED = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}

#: Ops that give the place of an entry which may occur more than once.
TIES = {"argsort", "kthvalue", "mode", "median", "nanmedian", "sort", "topk"}

#: Errors of torch.export and torch.jit.trace that say that the result depends on the data.
DATA_DEPENDENT = re.compile(
    r"data.dependent|DataDependent|DynamicOutputShape|unbacked|\.item\(\)|dynamic shape|Eq\(u\d|u\d+ ", re.IGNORECASE
)


class Outcome(NamedTuple):
    """What became of one sample: ok, unsupported, wrong, failed or excluded; of which kind, and the message."""

    dtype: str
    sample: str
    status: str
    kind: str = ""
    message: str = ""


class Of(nn.Module):
    """A module of a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The function's tensors."""
        return self.function(*tensors)


class _Random(TorchDispatchMode):
    """Notes whether an op draws random numbers."""

    found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        quiet = func is torch.ops.aten.native_dropout.default and args[2] is False
        self.found |= torch.Tag.nondeterministic_seeded in func.tags and not quiet
        return func(*args, **(kwargs or {}))


def samples_of(op: Any, dtype: torch.dtype, count: int) -> Iterator[tuple[str, Any, tuple[torch.Tensor, ...]]]:
    """Name, function of tensors and tensors of ``count`` samples, evenly among the first 60 torch gives."""
    torch.manual_seed(0)
    found: list[Any] = []
    for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
        found.append(sample)
        if len(found) == 60:
            break
    step = max((len(found) - 1) / max(count - 1, 1), 1)
    for i in sorted({round(k * step) for k in range(count)} & set(range(len(found)))):
        yield f"{i}", *function_of(op, found[i])


def function_of(op: Any, sample: Any) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """A sample as a function of tensors alone, that gives tensors alone, and those tensors."""
    leaves, spec = pytree.tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    tensors = tuple(leaves[i].detach() for i in places)

    def function(*given: torch.Tensor) -> Any:
        filled = list(leaves)
        for i, t in zip(places, given, strict=False):  # an op without tensors is given one, which it ignores
            filled[i] = t
        first, args, kwargs = pytree.tree_unflatten(filled, spec)
        result = op.op(first, *args, **kwargs)
        if op.name in TIES and (op.name == "argsort" or not isinstance(result, torch.Tensor)):
            result = _without_ties(op.name, first, result, args, kwargs)
        out = pytree.tree_leaves(result)
        return [t for t in out if isinstance(t, torch.Tensor)]

    return function, tensors or (torch.zeros(1),)


def _without_ties(name: str, x: torch.Tensor, result: Any, args: Any, kwargs: Any) -> Any:
    """Values and, for the indices, what stands there: of equal entries torch doesn't say which one it takes."""
    if not x.dim():
        return x
    position = {"kthvalue": 1, "topk": 1}.get(name, 0)
    dim = kwargs.get("dim", args[position] if len(args) > position else -1)
    if name == "argsort":
        return torch.take_along_dim(x, result, dim)
    indices = result.indices if result.indices.dim() == x.dim() else result.indices.unsqueeze(dim)
    return result.values, torch.take_along_dim(x, indices, dim)


def check(
    function: Any, tensors: tuple[torch.Tensor, ...], values: bool = True, fixed: bool = False
) -> tuple[str, str, str]:
    """Status, kind and message of one call; without ``values`` only types are compared, ``fixed`` opens no axes."""
    module = Of(function).eval()

    def copies() -> tuple[torch.Tensor, ...]:
        return tuple(t.clone() for t in tensors)

    with torch.no_grad():
        try:
            with _Random() as random:
                want = module(*copies())
        except Exception as e:
            return "excluded", "torch refuses", _first_line(e)
        if random.found:
            return "excluded", "random", ""
        if not want:
            return "excluded", "no tensor comes out", ""
        captured = capture(module, copies)
        if isinstance(captured, tuple):
            return captured
        for name, run in (("to_torch", _by_fixed if fixed else _by_torch), ("numpy", _by_numpy)):
            try:
                got = run(captured, copies())
            except td.UnsupportedError as e:
                return "unsupported", f"{name} refuses", str(e)
            except Exception as e:
                return "failed", name, _first_line(e)
            for g, w in zip(got, want, strict=True):
                if w.is_sparse or w.layout is not torch.strided:
                    return "unsupported", "sparse", f"a result is {w.layout}"
                if not values:
                    g, w = torch.empty_like(g).zero_(), torch.empty_like(w).zero_()
                try:
                    torch.testing.assert_close(g, w.resolve_conj().resolve_neg(), equal_nan=True)
                except AssertionError as e:
                    if not is_nearer(got, want, precise(module, copies())):
                        return "wrong", name, " ".join(str(e).split())
    return "ok", "", ""


def precise(module: nn.Module, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor] | None:
    """torch's results computed with float64, None if it can't."""
    try:
        return module(*[t.double() if t.is_floating_point() else t for t in tensors])
    except Exception:  # the op takes no float64
        return None


def is_nearer(got: list[torch.Tensor], want: list[torch.Tensor], truth: list[torch.Tensor] | None) -> bool:
    """Whether results are at least as near to those of float64 as torch's own, summed over all.

    torch tests its references so too: where it rounds on the way, being as exact is what can be asked.
    """
    if truth is None or any(g.dtype != w.dtype or g.shape != w.shape for g, w in zip(got, want, strict=True)):
        return False
    ours, theirs = 0.0, 0.0
    for g, w, t in zip(got, want, truth, strict=True):
        if not t.is_floating_point() or t.shape != w.shape:
            if not torch.equal(g, w):
                return False
            continue
        t = t.to(w.dtype).double()  # what the element type can hold of the truth
        for x, total in ((g.double(), "ours"), (w.double(), "theirs")):
            same = (x == t) | (x.isnan() & t.isnan())
            away = float(torch.where(same, 0.0, (x - t).abs()).nan_to_num(float("inf")).sum())
            ours, theirs = (ours + away, theirs) if total == "ours" else (ours, theirs + away)
    return ours <= theirs and ours < float("inf")


def capture(module: nn.Module, copies: Any) -> Any:
    """The TDAG of a module, or the status, kind and message of why there is none."""
    refused = ""
    for via in ("export", "trace"):
        try:
            return td.from_torch(module, copies(), via=via)
        except td.UnsupportedError as e:
            if "can't capture" not in str(e):
                return "unsupported", kind_of(str(e)), str(e)
            refused = refused or str(e)
        except td.TDaggerError as e:
            return "failed", "import", _first_line(e)
        except Exception as e:
            refused = refused or f"{type(e).__name__}: {_first_line(e)}"
    return "unsupported", "data-dependent" if DATA_DEPENDENT.search(refused) else "torch can't capture", refused


def _by_torch(dag: td.TensorDAG, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return list(dag.to_torch()(*tensors))


def _by_fixed(dag: td.TensorDAG, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return list(dag.to_torch(fixed=True)(*tensors))


def _by_numpy(dag: td.TensorDAG, tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    results = dag.run(*[array_of(t) for t in tensors])
    return [from_numpy(a, _dtype(v.type.dtype)) for a, v in zip(results, dag.graph.outputs.values(), strict=True)]


def _dtype(dtype: td.DType) -> torch.dtype:
    from tdagger.frameworks.torch.aten import TORCH_DTYPES

    return TORCH_DTYPES[dtype]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:400]


# --- many ops ----------------------------------------------------------------------------------------------


def check_op(op: Any, dtypes: Sequence[torch.dtype] = DTYPES, count: int = 3) -> list[Outcome]:
    """The outcomes of an op's samples."""
    outcomes: list[Outcome] = []
    warnings.simplefilter("ignore")
    for dtype in dtypes:
        if dtype not in op.dtypes:
            continue
        name = str(dtype).removeprefix("torch.")
        for sample, function, tensors in samples_of(op, dtype, count):
            outcomes.append(Outcome(name, sample, *check(function, tensors, op.name not in UNINITIALIZED)))
    return outcomes


def name_of(op: Any) -> str:
    """The name of an op and of its variant."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def _work(op: Any, count: int, dtypes: Sequence[torch.dtype], pipe: Any) -> None:
    torch.set_num_threads(1)
    try:
        pipe.send(check_op(op, dtypes, count))
    except Exception as e:  # torch's own samples can fail to be made; the parent writes down what happened
        pipe.send([Outcome("", "", "failed", type(e).__name__, _first_line(e))])


def run_op(op: Any, count: int, dtypes: Sequence[torch.dtype], limit: float) -> list[Outcome]:
    """:func:`check_op` in a process of its own that is ended after ``limit`` seconds."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(op, count, dtypes, theirs))
    worker.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(limit) else [Outcome("", "", "failed", "time", f"more than {limit:g} s")]
    except EOFError:
        return [Outcome("", "", "failed", "crash", "the process ended")]
    finally:
        worker.kill()
        worker.join()


def read(path: Path) -> dict[str, list[Outcome]]:
    """The outcomes by op that a file of JSON lines holds."""
    if not path.exists():
        return {}
    lines = map(json.loads, path.read_text().splitlines())
    return {line["op"]: [Outcome(*o) for o in line["outcomes"]] for line in lines}


def _may_change(outcome: Outcome) -> bool:
    return outcome.status in ("wrong", "failed") or outcome.kind in ("no rule", "torch can't capture")


def main(arguments: Iterable[str] | None = None) -> int:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description="torch's op database through tdagger")
    parser.add_argument("--only", help="a regular expression of op names; the table isn't written")
    parser.add_argument("--samples", type=int, default=3, help="for each op and element type (default 3)")
    parser.add_argument("--dtypes", nargs="*", default=[], help="element types (default: float32 int64 bool float16)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one op (default 120)")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "conformance-ops.jsonl")
    parser.add_argument("--fresh", action="store_true", help="forget what was run before")
    parser.add_argument("--again", action="store_true", help="run anew what was wrong, failed or had no rule")
    parser.add_argument("--show", action="store_true", help="print everything that isn't ok")
    options = parser.parse_args(None if arguments is None else list(arguments))
    torch.set_num_threads(1)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        options.results.unlink(missing_ok=True)
    done = read(options.results)
    if options.again:
        done = {name: outcomes for name, outcomes in done.items() if not any(map(_may_change, outcomes))}
        lines = [json.dumps({"op": name, "outcomes": outcomes}) + "\n" for name, outcomes in done.items()]
        options.results.write_text("".join(lines))
    dtypes = [getattr(torch, d) for d in options.dtypes] or DTYPES
    wanted = [op for op in op_db if not options.only or re.search(options.only, name_of(op))]
    started = time.time()
    capture(Of(lambda x: [x.cosh().log_softmax(0)]), lambda: (torch.ones(2),))  # so that the workers needn't import
    with Progress() as progress, options.results.open("a") as file:
        task = progress.add_task("ops", total=len(wanted))
        for op in wanted:
            name = name_of(op)
            progress.update(task, description=name[:40].ljust(40))
            if name not in done:
                done[name] = run_op(op, options.samples, dtypes, options.limit)
                file.write(json.dumps({"op": name, "outcomes": done[name]}) + "\n")
                file.flush()
            progress.advance(task)
    results = {name_of(op): done[name_of(op)] for op in wanted}
    print(f"{time.time() - started:.0f} s")
    for line in summary(results):
        print(line)
    if options.show:
        for name, outcomes in results.items():
            for o in outcomes:
                if o.status not in ("ok", "excluded"):
                    print(f"{name} {o.dtype} {o.sample}: {o.status} ({o.kind}) {' '.join(o.message.split())[:400]}")
    if not options.only:
        (ROOT / "docs" / "conformance-ops.md").write_text(table(results))
    return int(any(o.status in ("wrong", "failed") for outcomes in results.values() for o in outcomes))


# --- the table ---------------------------------------------------------------------------------------------

#: Kinds of ops that are outside the goal: they can't be static, or are not aimed at.
OUTSIDE = ("data-dependent", "complex", "linalg", "sparse", "torch can't capture")


def summary(results: dict[str, list[Outcome]]) -> list[str]:
    """The figures."""
    every = [o for outcomes in results.values() for o in outcomes]
    statuses = Counter(o.status for o in every)
    kinds = Counter((o.status, o.kind) for o in every if o.status != "ok")
    aimed = [o for o in every if o.status != "excluded" and o.kind not in OUTSIDE]
    ok = sum(o.status == "ok" for o in aimed)
    return [
        f"{len(results)} ops, {len(every)} samples: " + ", ".join(f"{n} {s}" for s, n in statuses.most_common()),
        f"of {len(aimed)} samples within the goal {ok} are ok: {100 * ok / max(len(aimed), 1):.1f} %",
        *(f"  {n:5} {status}: {kind}" for (status, kind), n in kinds.most_common()),
    ]


def table(results: dict[str, list[Outcome]]) -> str:
    """docs/conformance-ops.md."""
    head, aim, *kinds = summary(results)
    lines = [
        "# PyTorch's op database",
        "",
        "Written by `make conformance-ops` (conformance/ops.py, which says how); not by hand.",
        "",
        f"torch {torch.__version__.partition('+')[0]}: {head}.",
        f"Outside the goal are the kinds {', '.join(OUTSIDE)}; {aim}.",
        "",
        "```",
        *kinds,
        "```",
        "",
        "| op | ok | unsupported | wrong | excluded | why |",
        "|---|---|---|---|---|---|",
    ]
    for name, outcomes in sorted(results.items()):
        n = Counter(o.status for o in outcomes)
        kinds_here = ", ".join(dict.fromkeys(o.kind for o in outcomes if o.kind))
        bad = n["wrong"] + n["failed"]
        lines.append(f"| {name} | {n['ok']} | {n['unsupported']} | {bad} | {n['excluded']} | {kinds_here} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
