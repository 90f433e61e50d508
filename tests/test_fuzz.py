"""The fuzzer: its generator, its shrinking, how it tells what is wrong; and programs of fixed seeds, all right."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tdagger as td
from conformance.fuzz import compare
from conformance.fuzz.__main__ import main
from conformance.fuzz.check import Checks, NotApplicable, Result, reason
from conformance.fuzz.compare import Noise, difference
from conformance.fuzz.generate import ENTRANCES, FAMILIES, program
from conformance.fuzz.pool import Limits, run
from conformance.fuzz.program import Input, Program, Step
from conformance.fuzz.report import Report
from conformance.fuzz.work import Row, checked, failures
from tdagger.frameworks.torch import exporter

ROOT = Path(__file__).parents[1]

#: Seeds in groups that processes share, and the groups that every run of the tests checks; the others are slow tests.
GROUPS, EACH = 12, 10
ALWAYS = (4, 5, 9, 11)


@pytest.mark.filterwarnings("ignore")  # eager's own, of what random programs do
@pytest.mark.parametrize(
    "group", [pytest.param(i, marks=() if i in ALWAYS else pytest.mark.slow) for i in range(GROUPS)]
)
def test_programs_of_fixed_seeds(group: int) -> None:
    bad: list[str] = []
    for seed in range(group * EACH, (group + 1) * EACH):
        p = program(seed)
        bad += [f"seed {seed}: {r.check} {r.outcome} {r.sizes or ''} {r.why[:200]}" for r in checked(p) if r.bad]
    assert not bad, "\n".join(["python -m conformance.fuzz --show SEED says more", *bad])


# The generator.


def _digest(seeds: range) -> str:
    text = "".join(f"{p.source}{p.inputs}{p.sizes}{p.entrance}{p.train}" for p in map(program, seeds))
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.filterwarnings("ignore")
def test_a_seed_gives_the_same_program_in_every_process() -> None:
    code = "from tests.test_fuzz import _digest; print(_digest(range(12)))"
    env = {**os.environ, "PYTHONHASHSEED": "17", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert made.stdout.strip() == _digest(range(12)), made.stderr


@pytest.mark.filterwarnings("ignore")
def test_programs_run_and_most_of_them_at_other_sizes() -> None:
    larger = 0
    for seed in range(40):
        p = program(seed)
        p.module()(*p.arguments())
        try:
            p.module()(*p.arguments({a: 2 * n for a, n in p.sizes.items() if a not in ("c", "d")}))
        except Exception:
            continue
        larger += 1
    assert larger > 28


@pytest.mark.filterwarnings("ignore")
def test_programs_are_of_many_kinds() -> None:
    made = [program(s) for s in range(200)]
    ops = Counter(step.op for p in made for step in p.steps)
    assert len(ops) > 45
    assert {"view", "write", "slice", "sized", "convolution", "attention", "pool", "loop", "index", "norm"} <= set(ops)
    assert {p.entrance for p in made} == set(ENTRANCES)
    assert {p.structure for p in made} == {"one", "tuple", "dict"}
    assert any(len(p.inputs) > 1 for p in made)
    assert {2, 6, 12} <= {len(p.steps) for p in made}
    assert len(FAMILIES) == 4


def test_weights_and_inputs_are_the_same_each_time() -> None:
    p = replace(program(3), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(p.arguments(), p.arguments(), strict=True))
    state, again = p.module().state_dict(), p.module().state_dict()
    assert all(torch.equal(state[n], again[n]) for n in state)


# What is told as wrong.


def _program(*steps: Step, outputs: tuple[str, ...] = (), entrance: str = "program") -> Program:
    x = Input("x0", ("b", "n"), "torch.randn((b, n), generator=g)")
    return Program(0, {"b": 2, "n": 4}, (x,), steps, outputs or steps[-1].outs, entrance=entrance)


_LONG = _program(
    Step("a", ("v1 = x0 * 7",), ("v1",)),
    Step("b", ("v2 = v1.transpose(0, 1)",), ("v2",)),
    Step("c", ("v2.mul_(9)",), ()),
    Step("d", ("v3 = torch.sin(v2)",), ("v3",)),
    Step("e", ("v4 = v3.cumsum(0)",), ("v4",)),
    Step("f", ("v5 = v4 @ self.p1",), ("v5",), ("self.p1 = nn.Parameter(torch.randn(2, 3))",)),
    Step("g", ("v6 = v5 + v5.mean()",), ("v6",)),
    outputs=("v6", "v1"),
)


_WRITTEN = ("import", "to_torch", "numpy", "torchscript", "gradients", "resize[alone]", "formula", "batch")


def _plant(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    """Something wrong in what to_torch() makes of networks with a sine."""
    right = exporter.to_torch

    class Wrong(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: torch.Tensor) -> Any:
            return fault(self.module(*args))

    def to_torch(dag: td.TensorDAG, **options: Any) -> nn.Module:
        made = right(dag, **options)
        return Wrong(made) if any(str(v.op) == "sin" for v in dag.values) else made

    monkeypatch.setattr(exporter, "to_torch", to_torch)


def _one_more(out: Any) -> Any:
    return tuple(t + 1 for t in out) if isinstance(out, tuple) else out + 1


def _fails(out: Any) -> Any:
    raise RuntimeError("no such luck")


@pytest.mark.parametrize(
    ("fault", "outcome", "kind"),
    [(_one_more, "wrong", "values"), (_fails, "crash", "RuntimeError when run: no such luck")],
)
def test_a_planted_fault_is_told_and_made_small(
    monkeypatch: pytest.MonkeyPatch, fault: Any, outcome: str, kind: str, tmp_path: Path
) -> None:
    _plant(monkeypatch, fault)
    found = [r for r in Checks(_LONG).run() if r.bad]
    assert ("to_torch", outcome, kind) in {r.key for r in found}
    assert {"numpy", "text", "cost"}.isdisjoint(r.check for r in found)
    made = failures(_LONG, found[:1], True)
    assert made[0].steps == ("d",)
    assert "v3 = torch.sin(x0)" in made[0].script
    assert "def inputs(b=1, n=1):" in made[0].script
    report = Report(tmp_path / "found")
    report.add(Row(0, found, made))
    assert report.bad == len(found)
    assert f"to_torch {outcome} {kind}" in report.text()
    assert any("torch.sin(x0)" in f.read_text() for f in report.folder.iterdir())


def test_a_right_program_has_nothing_wrong() -> None:
    found = Checks(_LONG).run()
    assert not [r for r in found if r.bad]
    assert {r.check for r in found} >= {*_WRITTEN, "axes", "cost", "unbatch", "resizable", "text"}


def _work(seed: int) -> Row:
    if seed == 2:
        time.sleep(60)
    if seed == 3:
        os._exit(3)
    if seed == 4:
        raise ValueError("of the harness")
    return Row(seed, [Result("import", "ok")], [])


def test_workers_that_hang_die_or_fail_are_told_and_replaced() -> None:
    rows: dict[int, Row] = {}
    run(_work, 1, Limits(program=1.0, count=6), 2, lambda row: rows.update({row.seed: row}))
    told = {n: (r.results[0].check, r.results[0].kind) for n, r in rows.items()}
    fine = ("import", "")
    assert told == {
        1: fine,
        2: ("worker", "hangs"),
        3: ("worker", "dies"),
        4: ("harness", "ValueError"),
        5: fine,
        6: fine,
    }
    assert rows[3].results[0].why == "its process ended with 3"


def test_time_limits_the_programs_that_are_started() -> None:
    rows: list[Row] = []
    start = time.monotonic()
    run(lambda seed: Row(seed, [], []), 1, Limits(time=0.5), 1, rows.append)
    assert 0.5 < time.monotonic() - start < 10
    assert [r.seed for r in rows] == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("check", _WRITTEN)
def test_a_failure_is_written_as_a_file_that_runs(check: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = _LONG.script(check, "wrong: by one", {"n": 3} if check in ("resize[alone]", "formula") else None)
    assert text.startswith(f"# seed 0, {check}, imported from program\n# wrong: by one\n")
    exec(compile(text, "<script>", "exec"), {"__name__": "script"})
    assert capsys.readouterr().out


# Comparing.


def _none() -> list[list[Any]]:
    return []


def test_differences() -> None:
    a = torch.tensor([1.0, float("nan"), float("inf")])
    assert difference([a], [a.clone()], _none) == ""
    assert difference([a.double()], [a], _none) == "result 0: float64(3,), eager float32(3,)"
    assert difference([a], [a[:2]], _none) == "result 0: float32(3,), eager float32(2,)"
    assert difference([a, a], [a], _none) == "2 results for 1"
    assert "off by inf" in difference([torch.tensor([1.0, 2.0, float("inf")])], [a], _none)
    assert "off by 0.1" in difference([a + 0.1], [a], _none)
    assert difference([None], [torch.zeros(2)], _none) == ""
    assert difference([None], [torch.ones(2)], _none) == "result 0: none, eager a value"


def test_what_rounding_decides_is_no_difference() -> None:
    """The floor of what is an integer but for its last bit."""
    x = torch.tensor([0.1, 0.2, 0.3, 0.7])

    def net(x: torch.Tensor) -> torch.Tensor:
        return (x * 10).floor()

    def noisy() -> list[list[Any]]:
        found = []
        for salt in range(4):
            with Noise(salt):
                found.append([net(x)])
        return found

    wanted, other = net(x), net(x * (1 - 1e-7))
    assert not torch.equal(wanted, other)
    assert difference([other], [wanted], noisy) == ""
    assert difference([wanted + 3], [wanted], noisy)


def test_the_rounding_of_a_transform_is_that_of_its_largest_result() -> None:
    """An impulse comes back as 0 but for rounding, whichever way round that is."""
    x = torch.eye(5)[0]
    signs = set[bool]()
    for salt in range(4):
        with Noise(salt):
            signs.update((torch.fft.irfft(torch.fft.rfft(x), 5) > 0)[1:].tolist())
    assert signs == {False, True}


def test_ties_are_open_to_other_kernels_only() -> None:
    x = torch.zeros(5, 5)
    with Noise(0):
        assert torch.equal(x.argmax(1), torch.zeros(5, dtype=torch.int64))
        assert torch.equal(x.clone() * 1, x)
    with Noise(0, ties=True):
        assert not torch.equal(x.argmax(1), torch.zeros(5, dtype=torch.int64))
        values, indices = x.long().sort(1)
        assert values.dtype == torch.int64
        assert not torch.equal(indices, torch.arange(5).expand(5, 5))
    assert set(compare.TOLERANCE) == {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def test_refusals_are_counted_by_what_they_have_in_common() -> None:
    one = td.AxisError(
        "resize(x0=(2, 3)): the dimension n2 of p4.weight has 4 entries and can't have 8 (p4, a/b.py:3)\naxes that"
    )
    other = td.AxisError(
        "resize(x1=(9,)): the dimension k of p7.weight has 3 entries and can't have 6 (p7, c/d.py:7)\naxes that"
    )
    assert reason(one).startswith("AxisError: the dimension A of ")
    assert "n2" not in reason(one)
    assert reason(one).replace("p", "") == reason(other).replace("p", "")


def test_a_program_that_eager_does_not_run_is_not_applicable() -> None:
    p = _program(Step("a", ("v1 = x0 @ x0",), ("v1",)))
    with pytest.raises(NotApplicable, match="eager"):
        Checks(p).run()
    assert checked(p) == [Result("program", "n/a", checked(p)[0].why)]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none"
    assert main(["--seed", "31", "--count", "2", "--jobs", "1", "--checks", "axes", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("2 programs, 0 resizes in ")
    assert "nothing wrong, nothing crashed" in told
    assert not out.exists()


def test_what_an_export_has_no_trace_of_is_told_from_what_is_wrong() -> None:
    """Right for the program with its small numbers and empty loops written out, and for no other."""
    x = Input("x0", ("n", "c"), "torch.randn((n, c), generator=g)")
    small = Step("index", ("v1 = x0[-(x0.shape[1] // 2):]",), ("v1",))
    loop = Step("loop", ("v2 = v1", "for i in range(x0.shape[1] // 3):", "    v2 = v2 - 1 - i"), ("v2",))
    sizes = {"n": 4, "c": 2}
    for steps, outputs, why in (
        ((small,), ("v1",), "a number up to 2"),
        ((Step("alias", ("v1 = x0.neg()",), ("v1",)), loop), ("v2",), "a loop ran for no step"),
        ((small, loop), ("v2",), "a loop ran for no step, and a number"),
    ):
        p = Program(0, sizes, (x,), steps, outputs, entrance="program")
        found = [r for r in checked(p, ("resize[alone]",)) if r.sizes == {"c": 3} or r.sizes == {"c": 4}]
        assert {r.outcome for r in found} <= {"ok", "unseen", "refused"}
        assert any(r.outcome == "unseen" and r.why.startswith(why) for r in found), found
    wrong = Checks(Program(0, sizes, (x,), (small,), ("v1",), entrance="program"), ("resize[alone]",))
    wrong.run()
    assert wrong.unseen(lambda: "wrong whatever is written out") == ""


def test_the_order_of_equal_numbers_is_left_open_where_sorting_is_not_stable() -> None:
    x = torch.randint(-2, 3, (40,)).float()
    with Noise(1):
        assert not torch.equal(x.argsort(), x.argsort(stable=True))
        assert torch.equal(x.argsort(stable=True), x.argsort(stable=True))


def test_gradients_of_what_data_changed_behind_autograd_are_not_compared() -> None:
    x = Input("x0", ("n",), "torch.rand((n,), generator=g) + 1")
    lines = ("v1 = x0.sqrt()", "v1.data.add_(1)", "v2 = v1 * 2")
    p = Program(0, {"n": 4}, (x,), (Step("data", lines, ("v1", "v2")),), ("v2",))
    (found,) = [r for r in checked(p, ("gradients",)) if r.check == "gradients"]
    assert found.outcome == "n/a"
    assert "through .data" in found.why
