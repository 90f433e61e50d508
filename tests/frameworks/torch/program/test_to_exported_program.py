"""Programs as modules with torch's operators of higher order: exported, compiled, and read again."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch

import tdagger as td
from tests.program.programs import PROGRAMS
from tests.program.test_programs import same

QUICK = ["nested_loops", "early_exit", "scan_carries", "switch", "state_in_a_loop", "bounded_sum", "bounded_growth"]
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in PROGRAMS if n not in QUICK]


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


def test_sizes_that_vary_are_dimensions_of_the_export() -> None:
    """Inputs of 1 entry to the bound, outputs as long as they are, and what is longer is refused."""
    sample = PROGRAMS["bounded_growth"]
    module = sample.program.to_exported_program(copy=True).module()
    (bound,) = {sample.program.slots[n].type.shape[0] for n in sample.program.inputs if sample.program.slots[n].lengths}
    own = [n for n in sample.program.inputs if sample.program.slots[n].lengths]
    assert own
    rest = [np.asarray(x) for x in sample.inputs[0]][1:]
    for n in (1, 2, bound):
        given = [np.arange(n, dtype="f"), *rest]
        with torch.no_grad():
            same(plain(module(*map(torch.as_tensor, given))), sample.program.run(*given))
    with pytest.raises(Exception, match=r"Guard failed: .* <= "):
        module(torch.ones(bound + 1), *map(torch.as_tensor, rest))


@pytest.mark.parametrize(
    ("name", "backend"), [("nested_loops", "eager"), ("switch", "eager"), ("scan_carries", "aot_eager")]
)
def test_compiled_whole_and_read_again(name: str, backend: str) -> None:
    compiled_whole(name, backend)
    sample = PROGRAMS[name]
    again = td.Program.from_torch(sample.program.to_exported_program())
    for args in sample.inputs:
        same(again.run(*map(np.asarray, args)), sample.program.run(*args))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_whole(name: str, backend: str) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a compiler")
    compiled_whole(name, backend)


def compiled_whole(name: str, backend: str) -> None:
    """torch.compile makes one graph, which gives what numpy gives; state goes on."""
    sample = PROGRAMS[name]
    runner = sample.program.runner()
    compiled = torch.compile(sample.program.to_torch(copy=True, higher_order=True), backend=backend, fullgraph=True)
    for args in sample.inputs:
        with torch.no_grad():
            same(plain(compiled(*[torch.as_tensor(np.asarray(x)) for x in args])), runner(*args))


@td.program({"xs": (4, 3)})
def mapped(xs: td.Value) -> Any:
    return td.scan(lambda c, x: (c, td.exp(x)), (), xs)[1]


@td.program({"xs": (4, 3), "n": td.TensorType((), "i64")})
def mixed(xs: td.Value, n: td.Value) -> Any:
    """Scans beside loops that are none: one inside a scan, one whose turns are data, one that reads the entry after."""

    def step(c: td.Value, x: td.Value) -> Any:
        far = td.reshape(td.reduce(x, "sum"), shape=()) > 0.0
        c = td.if_(far, lambda: c + x, lambda: td.while_loop(lambda y: total(y) < 1.0, lambda y: y + 0.5, c - x))
        return c, (c * 2.0, x)

    def total(y: td.Value) -> Any:
        return td.reshape(td.reduce(y, "sum"), shape=())

    last, (doubled, same_) = td.scan(step, td.const(np.zeros(3, "f")), xs, reverse=True)
    powers = td.while_loop(lambda k, y: k < n, lambda k, y: (k + 1, y * 2.0), (0, last))[1]
    after = td.while_loop(lambda k, y: k < 3, lambda k, y: (k + 1, y + td.gather(xs, k + 1, 0)), (0, last))
    weighed = td.while_loop(
        lambda k, y: k < 4, lambda k, y: (k + 1, y + td.gather(xs, k, 0) * td.cast(k, "f32")), (0, last)
    )
    return doubled, same_, powers, after, weighed


@pytest.mark.parametrize(
    ("program", "scans", "loops"),
    [(mapped, 1, 0), (mixed, 2, 3), (PROGRAMS["scan_carries"].program, 1, 0), (PROGRAMS["reverse_scan"].program, 1, 0)],
    ids=["mapped", "mixed", "scan_carries", "reverse_scan"],
)
def test_loops_over_entries_are_scans(program: td.Program, scans: int, loops: int) -> None:
    """What goes over entries is torch's scan, and is one again when it is read; other loops stay while_loops."""
    code = program.to_torch(copy=True, higher_order=True).code
    assert (code.count("_ops.scan("), code.count("_ops.while_loop(")) == (scans, loops)
    exported = program.to_exported_program(copy=True)
    again = td.Program.from_torch(exported)
    rng = np.random.default_rng(0)
    for _ in range(2):
        kinds = [program.slots[n].type for n in program.inputs]
        args = [rng.standard_normal(t.shape).astype("f") if t.dtype.is_float else np.int64(3) for t in kinds]
        with torch.no_grad():
            same(plain(exported.module()(*map(torch.as_tensor, args))), program.run(*args))
        same(again.run(*args), program.run(*args))


@td.program({"x": (6, 2), "n": td.TensorType((), "i64")})
def seen(x: td.Value, n: td.Value) -> Any:
    """Functions in functions that see values of both, which are computed alike, and views of what they see besides."""
    turned = td.transpose(x, 0, 1)

    def double(y: td.Value) -> Any:
        return td.if_(total(y) > 0.0, lambda: y * 2.0, lambda: y * 3.0)

    def total(y: td.Value) -> Any:
        return td.reshape(td.reduce(y, "sum"), shape=())

    def turn(k: td.Value, s: td.Value) -> Any:
        row, half = td.gather(x, k, 0), td.slice_axis(td.gather(turned, td.const(0), 0), 0, 0, 2)
        outer = double(row)

        def inner(j: td.Value, t: td.Value) -> Any:
            own = td.gather(x, j, 0)
            twice = double(own)
            t = td.if_(total(own) > 0.0, lambda: t + total(own * row), lambda: t - total(twice * outer + half))
            return j + 1, td.while_loop(lambda i, u: i < 2, lambda i, u: (i + 1, u + total(own * outer)), (0, t))[1]

        return k + 1, td.while_loop(lambda j, t: j <= k, inner, (0, s))[1]

    return td.while_loop(lambda k, s: k < n, turn, (0, 0.0))[1]


def test_functions_in_functions_see_what_is_computed_alike() -> None:
    """torch takes captured values of one name in two functions for one, and refuses those that share memory."""
    found = seen.to_exported_program()
    exported, again = found.module(), td.Program.from_torch(found)
    x = np.random.default_rng(2).standard_normal((6, 2)).astype("f")
    for n in (0, 3, 6):
        want = seen.run(x, np.int64(n))
        with torch.no_grad():
            same(plain(exported(torch.from_numpy(x), torch.tensor(n))), want)
        same(again.run(x, np.int64(n)), want)


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
