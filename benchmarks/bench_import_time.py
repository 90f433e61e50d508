"""How long ``import tdagger`` takes, against ``import numpy`` (which it needs) and ``import torch``.

Whole processes, interleaved, the median of five; the time of an empty ``python -c pass`` is taken off. Goal:
tdagger < 0.3 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 5
MODULES = ("tdagger", "numpy", "torch")


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    statements = ["pass", *(f"import {m}" for m in MODULES)]
    for statement in statements:  # write the byte code
        seconds(statement)
    times = [[seconds(s) for s in statements] for _ in range(RUNS)]
    empty, *imports = (statistics.median(column) for column in zip(*times, strict=True))
    for module, t in zip(MODULES, imports, strict=True):
        ratio = (imports[0] - empty) / (t - empty)
        print(f"import {module:<10} {t - empty:6.3f} s   tdagger takes {ratio:5.2f}x of it")


if __name__ == "__main__":
    main()
