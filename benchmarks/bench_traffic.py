"""Bytes read and written as ``dag.cost()`` counts them, against the traffic of a simulated last-level cache.

valgrind's callgrind runs torch's own kernels and simulates a cache of 1 MB (16-way, lines of 64 bytes). Every line that
has to be fetched to be read, or written (a write allocates its line), is a miss; misses times 64 are the bytes that
really moved. The tensors are much larger than the cache, and each op runs once before it is measured. A ratio is
measured / counted. Goal: within 1 % for streaming ops, 10 % for transposes and batched matrix products.

Needs valgrind with its headers and a C compiler (Debian: ``apt install valgrind gcc``), and some minutes: without
``--valgrind`` it does nothing, as in ``make bench``.

Usage: ``python benchmarks/bench_traffic.py --valgrind [OP ...]``
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td

LINE, CACHE = 64, 1 << 20

#: What tells callgrind where to count: it is asked by instructions that do nothing elsewhere.
_CLIENT = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
"""


class Case(NamedTuple):
    """An op to measure: how far off it may be, the function that runs, its tensors, and the model of traffic.

    The model is the default one for a single op, the fused one where torch reads through a view.
    """

    off: float
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype = torch.float32
    model: str = "composite"


def _norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, w.shape, w, b)


def _batch_norm(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, mean, var.abs())


_BIG = (4, 1000, 1040)  # 17 MB of f32
_POWER = (4, 1024, 1024)
_STREAM, _MOVE = 0.01, 0.10
CASES: dict[str, Case] = {
    "add": Case(_STREAM, lambda a, b: a + b, (_BIG, _BIG)),
    "multiply by a scalar": Case(_STREAM, lambda a: a * 3.0, (_BIG,)),
    "relu": Case(_STREAM, F.relu, (_BIG,)),
    "exp": Case(_STREAM, torch.exp, (_BIG,)),
    "gelu": Case(_STREAM, F.gelu, (_BIG,)),
    "where": Case(_STREAM, lambda a, b, c: torch.where(a > 0, b, c), (_BIG, _BIG, _BIG)),
    "cast to bf16": Case(_STREAM, lambda a: a.bfloat16(), (_BIG,)),
    "add, bf16": Case(_STREAM, lambda a, b: a + b, (_BIG, _BIG), torch.bfloat16),
    "add a row": Case(_STREAM, lambda a, b: a + b, (_BIG, (1040,))),
    "add a column": Case(_STREAM, lambda a, b: a + b, (_BIG, (4, 1000, 1))),
    "sum of everything": Case(_STREAM, torch.sum, (_BIG,)),
    "sum of rows": Case(_STREAM, lambda a: a.sum(-1), (_BIG,)),
    "sum of columns": Case(_STREAM, lambda a: a.sum(1), (_BIG,)),
    "maximum of rows": Case(_STREAM, lambda a: a.amax(-1), (_BIG,)),
    "softmax": Case(_STREAM, lambda a: a.softmax(-1), (_BIG,)),
    "layer norm": Case(_STREAM, _norm, (_BIG, (1040,), (1040,))),
    "batch norm": Case(_STREAM, _batch_norm, ((4, 64, 128, 128), (64,), (64,))),
    "concat": Case(_STREAM, lambda a, b: torch.cat([a, b], 1), (_BIG, _BIG)),
    "slice": Case(_STREAM, lambda a: a[:, 256:768].contiguous(), (_BIG,)),
    # torch fills the whole result and then copies into it, so it writes nearly all of it twice: no goal
    "pad": Case(math.inf, lambda a: F.pad(a, (0, 0, 64, 64)), (_BIG,)),
    "transpose": Case(_MOVE, lambda a: a.permute(0, 2, 1).contiguous(), (_BIG,)),
    # rows 4096 bytes apart share 16 of the cache's 1024 sets and drive each other out: no goal
    "transpose, rows of 4096 bytes": Case(math.inf, lambda a: a.permute(0, 2, 1).contiguous(), (_POWER,)),
    "channels last": Case(_MOVE, lambda a: a.permute(0, 2, 3, 1).contiguous(), ((4, 64, 126, 130),)),
    "heads": Case(_MOVE, lambda a: a.permute(0, 2, 1, 3).contiguous(), ((4, 1024, 16, 64),)),
    "batched matrix product": Case(_MOVE, torch.bmm, ((64, 128, 256), (64, 256, 192))),
    "batched matrix product, transposed": Case(
        _MOVE, lambda a, b: a @ b.mT, ((64, 128, 256), (64, 192, 256)), model="fused"
    ),
}


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def tensors(case: Case) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).to(case.dtype) for shape in case.shapes]


def counted(case: Case) -> tuple[int, int]:
    """Bytes read and written as the case's model of traffic has it."""
    traffic = td.from_torch(_Module(case.function), tuple(tensors(case))).cost().traffic(case.model)
    return traffic.reads, traffic.writes


def child(names: list[str], client: str) -> None:
    """Run every op under callgrind, with counts dumped for each."""
    torch.set_num_threads(1)
    lib = ctypes.CDLL(client)
    with torch.no_grad():
        prepared = [(name, CASES[name].function, tensors(CASES[name])) for name in names]
        lib.start()
        for name, function, args in prepared:
            function(*args)
            lib.zero()
            function(*args)
            lib.dump(name.encode())


def measured(names: list[str]) -> dict[str, tuple[int, int]]:
    """Bytes that the simulated cache fetched to read and to write, by op."""
    with tempfile.TemporaryDirectory() as folder:
        source, client = Path(folder, "client.c"), Path(folder, "client.so")
        source.write_text(_CLIENT)
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(client), str(source)], check=True)
        subprocess.run(
            [
                "valgrind", "--tool=callgrind", "--cache-sim=yes", "--instr-atstart=no", f"--LL={CACHE},16,{LINE}",
                f"--callgrind-out-file={folder}/out", "-q", sys.executable, __file__, "--child", str(client), *names,
            ],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2"},
        )  # fmt: skip
        return dict(filter(None, (_dumped(path.read_text()) for path in Path(folder).glob("out.*"))))


def _dumped(text: str) -> tuple[str, tuple[int, int]] | None:
    name = re.search(r"desc: Trigger: Client Request: (.*)", text)
    events = re.search(r"events: (.*)", text)
    totals = re.search(r"(?:summary|totals): (.*)", text)
    if name is None or events is None or totals is None:
        return None
    found = dict(zip(events[1].split(), map(int, totals[1].split()), strict=False))
    return name[1], (found.get("DLmr", 0) * LINE, found.get("DLmw", 0) * LINE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"some of: {', '.join(CASES)}")
    parser.add_argument("--valgrind", action="store_true", help="really run it: it takes minutes")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.ops or list(CASES)
    warnings.simplefilter("ignore")
    if options.child:
        child(names, options.child)
        return 0
    missing = [tool for tool in ("valgrind", "cc") if shutil.which(tool) is None]
    if not options.valgrind or missing:
        print(f"not run: {'it needs ' + ' and '.join(missing) if missing else 'it takes minutes; ask with --valgrind'}")
        return 0
    found = measured(names)
    print(f"{'':<36} {'counted':>19} {'measured':>19} {'ratio':>15}")
    print(f"{'':<36} {'reads':>9} {'writes':>9} {'reads':>9} {'writes':>9} {'reads':>7} {'both':>7}  goal")
    bad = 0
    for name in names:
        (reads, writes), (got_reads, got_writes) = counted(CASES[name]), found[name]
        both = (got_reads + got_writes) / (reads + writes)
        good = abs(both - 1) <= CASES[name].off
        goal = "none" if CASES[name].off == math.inf else f"{CASES[name].off:.0%}"
        bad += not good
        print(
            f"{name:<36} {reads / 1e6:>9.3f} {writes / 1e6:>9.3f} {got_reads / 1e6:>9.3f} {got_writes / 1e6:>9.3f}"
            f" {got_reads / reads:>7.3f} {both:>7.3f}  {goal} {'' if good else 'MISSED'}"
        )
    wanted = sum(CASES[name].off < math.inf for name in names)
    print(f"MB; {wanted - bad} of {wanted} within their goal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
