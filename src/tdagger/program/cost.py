"""What a program costs: of each block what a network costs, and in all by how often each is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tdagger.analysis.cost.report import Cost
from tdagger.errors import InputError
from tdagger.names import shown

if TYPE_CHECKING:
    from tdagger.program.program import Program


@dataclass(frozen=True)
class ProgramCost:
    """``blocks`` are the costs of a turn of each block; ``total`` is that of a run, by how often each is run.

    >>> import tdagger as td, numpy as np
    >>> @td.program({"x": (100,), "n": td.TensorType((), "i64")})
    ... def waves(x, n):
    ...     return td.while_loop(lambda k, x: k < n, lambda k, x: (k + 1, td.sin(x)), (0, x))[1]
    >>> cost, runner = waves.cost(), waves.runner()
    >>> cost.formula()
    'loop + 101*body'
    >>> _ = runner(np.ones(100, "f"), np.int64(5))
    >>> runner.counts, cost.total(runner.counts)
    ({'begin': 1, 'loop': 6, 'body': 5, 'done': 1}, 511)
    """

    blocks: Mapping[str, Cost]
    loops: Mapping[str, int]

    def total(self, runs: Mapping[str, int], what: str = "total_flops") -> int:
        """``total_flops``, ``macs``, or whatever number a cost has, of a run; InputError for a block there isn't."""
        unknown = [n for n in runs if n not in self.blocks]
        if unknown:
            raise InputError(f"there is no block {shown(unknown[0])}; there are {', '.join(self.blocks)}")
        return sum([getattr(self.blocks[n], what) * count for n, count in runs.items()])

    def formula(self, what: str = "total_flops") -> str:
        """The same as a sum over blocks: the name of each stands for how often it is run. The first is run once."""
        entry = next(iter(self.blocks))
        once = [getattr(self.blocks[entry], what)] if not self.loops[entry] else []
        terms = [str(n) for n in once if n]
        for name, cost in self.blocks.items():
            number = getattr(cost, what)
            if number and not (name == entry and once):
                terms.append(name if number == 1 else f"{number}*{name}")
        return " + ".join(terms) or "0"

    @property
    def peak_bytes(self) -> int:
        """The most bytes of activations alive at once in a block; slots that it doesn't use are apart."""
        return max(c.peak_bytes for c in self.blocks.values())

    def __str__(self) -> str:
        wide = max(len(shown(n)) for n in self.blocks)
        out = [f"{'block':{wide}}  loops {'macs':>15} {'flops':>15} {'peak bytes':>15}"]
        out += [
            f"{shown(n):{wide}}  {self.loops[n]:>5} {c.macs:>15,} {c.total_flops:>15,} {c.peak_bytes:>15,}"
            for n, c in self.blocks.items()
        ]
        return "\n".join([*out, f"flops of a run: {self.formula()}"])


def cost_of(program: Program) -> ProgramCost:
    """What each block costs, and how many loops it is in."""
    around = {n: loop.depth for n, loop in program.flow.loop_of.items()}
    return ProgramCost(
        {n: program.dag(n).cost() for n in program.blocks}, {n: around.get(n, 0) for n in program.blocks}
    )
