"""A sample of torch's op database; `make conformance-ops` runs all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conformance.ops import UNINITIALIZED, Outcome, check, name_of, op_db, precise, samples_of
from tests.quick import one_of

DTYPES = (torch.float32, torch.int64, torch.bool, torch.float16)

#: Kinds of reasons that are no failure: said in docs/coverage.md.
EXPECTED = ("data-dependent", "loop", "linalg", "sparse", "random", "complex", "memory", "quantized")

#: Ops that have neither a rule nor a decomposition.
NOT_YET = ("nn.functional.linear_cross_entropy.chunked",)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", one_of(3, range(0, len(op_db), 10)), ids=lambda n: name_of(op_db[n]))
def test_every_tenth_op(number: int) -> None:
    op = op_db[number]
    dtypes = [d for d in DTYPES if d in op.dtypes]
    if not dtypes:
        pytest.skip("for complex numbers only")
    dtype = dtypes[number // 10 % len(dtypes)]
    for _, function, tensors in samples_of(op, dtype, 1):
        status, kind, message = check(function, tensors, op.name not in UNINITIALIZED)
        refused = status == "unsupported" and (kind in EXPECTED or name_of(op) in NOT_YET)
        assert status in ("ok", "excluded") or refused, message


# --- what the conformance run itself says ------------------------------------------------------------------


def test_wrong_values_shapes_and_types_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from conformance import ops

    def outcome(change: Any) -> tuple[str, str]:
        monkeypatch.setattr(ops, "_by_numpy", lambda dag, tensors: [change(t) for t in ops._by_torch(dag, tensors)])
        return check(lambda x: [x * 2], (torch.ones(2, 3),))[:2]

    assert outcome(lambda t: t) == ("ok", "")
    assert outcome(lambda t: t + 1e-4) == ("wrong", "numpy")
    assert outcome(lambda t: t.double()) == ("wrong", "numpy")
    assert outcome(lambda t: t[:1]) == ("wrong", "numpy")
    assert outcome(lambda t: t * float("nan")) == ("wrong", "numpy")


def test_what_is_nearer_to_the_truth_than_torch_is_not_wrong() -> None:
    from conformance.ops import Of, is_nearer

    third = torch.tensor([1.0], dtype=torch.float16)
    truth = precise(Of(lambda x: [x / 3]), (third,))
    exact, coarse = third / 3, third / 3 + 0.01
    assert is_nearer([exact], [coarse], truth)
    assert not is_nearer([coarse], [exact], truth)
    assert not is_nearer([exact.float()], [coarse], truth)
    assert not is_nearer([exact * float("nan")], [coarse], truth)


def test_only_results_with_indices_are_compared_by_what_stands_there() -> None:
    from torch.testing._internal.common_methods_invocations import op_db

    from conformance.ops import samples_of

    op = next(o for o in op_db if o.name == "median")
    assert [check(f, x)[0] for _, f, x in samples_of(op, torch.float32, 3)] == ["ok"] * 3


def test_random_results_are_excluded() -> None:
    assert check(lambda x: [torch.rand_like(x)], (torch.ones(5),))[:2] == ("excluded", "random")


def test_the_table() -> None:
    from conformance.ops import table

    text = table({
        "sin": [Outcome("float32", "0", "ok"), Outcome("int64", "0", "wrong", "numpy", "differs")],
        "nonzero": [Outcome("float32", "0", "unsupported", "data-dependent", "why")],
    })  # fmt: skip
    assert "| sin | 1 | 0 | 1 | 0 | numpy |" in text
    assert "| nonzero | 0 | 1 | 0 | 0 | data-dependent |" in text
    assert "of 2 samples within the goal 1 are ok: 50.0 %" in text
