"""Programs as modules with torch's operators of higher order: exported, compiled, and read again."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

import tdagger as td
from tests.program.programs import PROGRAMS
from tests.program.test_programs import same

#: What torch's operators of higher order can't hold, and why.
VARYING = {"bounded_sum", "bounded_growth", "ctc_greedy", "non_maximum_suppression", "greedy_decoding"}
QUICK = ["nested_loops", "early_exit", "scan_carries", "switch", "state_in_a_loop"]
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in PROGRAMS if n not in {*VARYING, *QUICK}]


def plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    return type(x)(map(plain, x)) if isinstance(x, tuple | list) else x.numpy()


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_exported(name: str) -> None:
    """torch.export takes it, and what it gives is what numpy gives; state goes on."""
    sample = PROGRAMS[name]
    program = sample.program
    module, runner = program.to_exported_program(copy=True).module(), program.runner()
    for args in sample.inputs:
        with torch.no_grad():
            found = module(*[torch.as_tensor(np.asarray(x)) for x in args])
        same(plain(found), runner(*args))


@pytest.mark.parametrize("name", sorted(VARYING))
def test_sizes_that_vary_are_refused(name: str) -> None:
    with pytest.raises(td.UnsupportedError, match=r"has sizes that vary .* operators of higher order keep sizes"):
        PROGRAMS[name].program.to_exported_program()


@pytest.mark.parametrize("name", ["nested_loops", "switch"])
def test_compiled_whole_and_read_again(name: str) -> None:
    sample = PROGRAMS[name]
    module = sample.program.to_torch(copy=True, higher_order=True)
    compiled = torch.compile(copy.deepcopy(module), backend="eager", fullgraph=True)
    again = td.Program.from_torch(sample.program.to_exported_program())
    for args in sample.inputs:
        with torch.no_grad():
            want = plain(module(*[torch.as_tensor(np.asarray(x)) for x in args]))
            same(plain(compiled(*[torch.as_tensor(np.asarray(x)) for x in args])), want)
        same(again.run(*map(np.asarray, args)), want)


def refusing(x: torch.Tensor, n: int) -> torch.Tensor:
    if n < 0:
        raise ValueError("n is negative")
    for _ in range(n):
        x = x * 2
    return x


def test_what_is_refused_becomes_an_assertion() -> None:
    program = td.Program.from_torchscript(torch.jit.script(refusing), (torch.ones(2), 3))
    assert "_assert_async" in program.to_torch(higher_order=True).code
    module = program.to_exported_program().module()
    assert module(torch.ones(2), torch.tensor(3)).tolist() == [8, 8]
    with pytest.raises(RuntimeError, match="n is negative"):
        module(torch.ones(2), torch.tensor(-1))
    assert "raise" not in str(program.trusted())
    with pytest.raises(td.InputError, match="n is negative"):
        program.run(np.ones(2, "f"), np.int64(-1))


def test_associative_scan() -> None:
    from torch._higher_order_ops.associative_scan import associative_scan

    class Model(torch.nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            a = associative_scan(lambda a, b: a * b + 1, x, 0, combine_mode="generic")
            both = (lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]), (x, y))
            return a, *associative_scan(*both, 1, reverse=True, combine_mode="generic")

    args = (torch.rand(5, 4), torch.rand(5, 4))
    program = td.Program.from_torch(Model(), args)
    same(program.run(*[x.numpy() for x in args]), plain(Model()(*args)))
