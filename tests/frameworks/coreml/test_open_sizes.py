"""Packages with sizes that are left open, where the network takes these for numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tdagger as td
from tests.frameworks.coreml.test_export import by_mil
from tests.frameworks.open_sizes import CASES, axis_of


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("name", CASES)
def test_numbers_that_follow_from_a_size(name: str, precision: str, tmp_path: Path) -> None:
    """Rounded down, counted to, and sizes of what windows give; read again at each size."""
    case, path = CASES[name], tmp_path / "a.mlpackage"
    module = case.module.eval()
    dag = td.from_torch(module, torch.rand(case.shape))
    dag.to_coreml(path, dynamic=(axis_of(dag, case),), precision=precision)
    near = {"rtol": 1e-4, "atol": 1e-5} if precision == "f32" else {"rtol": 2e-2, "atol": 2e-2}
    for n in case.sizes:
        x = case.at(n).numpy()
        wanted = module(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(by_mil(path, x)[0], wanted, **near)
        np.testing.assert_allclose(td.from_coreml(path, inputs={"x": x.shape}).run(x), wanted, **near)


def test_what_cannot_be_open_is_named(tmp_path: Path) -> None:
    """Places that are read follow from a size in numbers that no op here makes."""
    module = torch.nn.Upsample(size=(3, 6), mode="bicubic")
    dag = td.from_torch(module, torch.rand(2, 4, 8, 6))
    name = next(n for n in dag.open_axes.names if dag.axes().sizes[n] == 8)
    with pytest.raises(td.AxisError, match=r"can't be of any size in CoreML: indices of op gather"):
        dag.to_coreml(tmp_path / "a.mlpackage", dynamic=(name,))
