"""Cases of onnx's backend suite, evenly among all of them; `make conformance-onnx` runs them all."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from conformance.onnx_backend import check
from conformance.onnx_cases import cases, group_of, numbers, read
from conformance.onnx_rounding import is_lost

COUNT, PARTS = 160, 4


@functools.cache
def suite() -> dict[str, Any]:
    """The suite's cases, in the order of their names; the real models only in the whole run."""
    found = cases(("node", "simple", "pytorch-operator", "pytorch-converted"))
    return {name: found[name] for name in sorted(found)}


@pytest.mark.parametrize("part", range(PARTS))
def test_cases_of_the_backend_suite(part: int) -> None:
    """None is wrong; of those of plain tensors hardly one is refused. Every fourth goes to torch too."""
    names = list(suite())[:: len(suite()) // COUNT][:COUNT][part::PARTS]
    plain: Counter[str] = Counter()
    for i, name in enumerate(names):
        case, found = read(name, suite()[name]), {"status": "ok"}
        with np.errstate(all="ignore"):
            check(case, lambda _found=found, **more: _found.update(more), torch_too=i % 4 == 0)
        assert found["status"] in ("ok", "unsupported"), f"{name}: {found}"
        if group_of(case) == "plain":
            plain[found["status"]] += 1
    assert plain["unsupported"] <= 2, plain
    assert plain.total() > COUNT / PARTS * 0.85


def test_what_rounding_decides_alone() -> None:
    """The real model whose thousand scores are one number near 1e10; no other case that is wrong passes as this."""
    name = "real/test_squeezenet"
    case = read(name, cases(("real",))[name])
    ((inputs, want),) = case.data
    assert is_lost(case, inputs, numbers(case), want)
    assert not is_lost(case, inputs, numbers(case), [2 * want[0]])
    name = "node/test_softmax_large_number"
    case = read(name, suite()[name])
    ((inputs, want),) = case.data
    assert not is_lost(case, inputs, numbers(case), want)
    assert not is_lost(case, inputs, numbers(case), [1 - want[0]])
