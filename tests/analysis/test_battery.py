"""Every awkward op is counted exactly or named as uncounted; closed forms are in tests/battery.py."""

from __future__ import annotations

import doctest
import warnings

import pytest
import torch

import tdagger as td
from tdagger.errors import UnsupportedError
from tests import battery
from tests.battery import BATTERY, REFUSED


@pytest.mark.parametrize("name", BATTERY)
def test_battery(name: str) -> None:
    torch.manual_seed(0)
    case = BATTERY[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what is deprecated or a prototype
        cost = td.from_torch(case.module, case.args).cost()
    assert (cost.macs, cost.contraction_flops, cost.partial) == (case.macs, case.flops, {})


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    make, called = REFUSED[name]
    module, args = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnsupportedError, match=called):
            td.from_torch(module.eval(), args)


@pytest.mark.parametrize("name", [n for n in REFUSED if "sparse" not in n])
def test_kept_as_external_it_is_partial(name: str) -> None:
    make, called = REFUSED[name]
    module, args = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cost = td.from_torch(module.eval(), args, external=True).cost()
    assert any(called in op for op in cost.partial), cost.partial
    assert "PARTIAL" in str(cost)


@pytest.mark.parametrize("name", ["sparse matmul", "sparse weight"])
def test_sparse_tensors_are_refused(name: str) -> None:
    module, args = REFUSED[name][0]()
    with pytest.raises(UnsupportedError, match="sparse"):
        td.from_torch(module.eval(), args, external=True)


def test_battery_has_enough() -> None:
    assert len(BATTERY) >= 24
    assert doctest.testmod(battery).failed == 0
