"""More of what is easy to get wrong of MIL and of coremltools; the first part is in test_facts.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tdagger as td
from tests.frameworks.coreml.programs import one, program
from tests.frameworks.coreml.test_export import by_mil

F = "float32"


def test_a_slice_that_begins_after_its_end_is_none() -> None:
    x = np.arange(5, dtype=np.float32)
    with pytest.raises(td.UnsupportedError, match="slice_by_index"):
        one("slice_by_index", x, (F, (1,)), begin=[4], end=[2], stride=[1])


def test_two_constants_of_one_entry_make_an_array_of_one() -> None:
    x, two = np.zeros(1, np.float32), np.array([2], np.float32)
    ops = [("mul", {"x": two, "y": two}, [("a", F, (1,))]), ("add", {"x": "=x", "y": "=a"}, [("y", F, (1,))])]
    assert td.from_coreml(program({"x": (F, (1,))}, ops, ["y"])).run(x).tolist() == [4]


def test_pools_padded_to_the_same_size_are_not_rounded_up() -> None:
    x = np.ones((1, 1, 5), np.float32)
    how = {"kernel_sizes": [2], "strides": [2], "pad_type": "same", "ceil_mode": np.bool_(True)}
    with pytest.raises(td.UnsupportedError, match="max_pool"):
        one("max_pool", x, (F, (1, 1, 3)), **how)


class Functions(torch.nn.Module):
    """What coremltools gives epsilons, or writes so that small numbers are lost."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return 1 / x, torch.reciprocal(x), torch.rsqrt(x), torch.log_softmax(x * 1e4, -1), torch.log(x)


def test_functions_have_no_epsilons(tmp_path: Path) -> None:
    """1 / 1e-3 is 1000, not 909."""
    x = np.array([[1e-3, 2e-4, 1.0]], np.float32)
    module = Functions()
    td.from_torch(module, torch.from_numpy(x)).to_coreml(tmp_path / "a.mlpackage")
    for own, wanted in zip(by_mil(tmp_path / "a.mlpackage", x), module(torch.from_numpy(x)), strict=True):
        np.testing.assert_allclose(own, wanted.numpy(), rtol=1e-5)


def test_whole_numbers_are_whole_in_f16(tmp_path: Path) -> None:
    """Bounds and divisions of integers beyond 2048, which f16 doesn't tell apart."""
    x = np.array([2049, -4097, 7, -7], np.int32)
    dag = td.from_torch(Clamped(), torch.from_numpy(x))
    dag.to_coreml(tmp_path / "a.mlpackage", precision="f16")
    for own, wanted in zip(by_mil(tmp_path / "a.mlpackage", x), Clamped()(torch.from_numpy(x)), strict=True):
        assert own.tolist() == wanted.tolist()


class Clamped(torch.nn.Module):
    """Of integers."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.clamp(-4095, 2049), torch.div(x, 2, rounding_mode="trunc"), torch.div(x, 2, rounding_mode="floor")


def test_an_output_that_is_an_input_and_one_that_is_given_twice(tmp_path: Path) -> None:
    dag = td.network(lambda x, unused: (x, x + 1.0, x), {"x": (2,), "unused": (3,)})
    dag.to_coreml(tmp_path / "a.mlpackage")
    x = np.array([1, 2], np.float32)
    found = by_mil(tmp_path / "a.mlpackage", x, np.zeros(3, np.float32))
    assert [a.tolist() for a in found] == [[1, 2], [2, 3], [1, 2]]
    back = td.from_coreml(tmp_path / "a.mlpackage")
    assert (list(back.graph.inputs), len(back.graph.outputs)) == (["x", "unused"], 3)


def test_integers_beyond_32_bits_are_refused(tmp_path: Path) -> None:
    """A runtime would make 2147483647 of 2 ** 40."""
    dag = td.network(lambda x: x + td.const([2**40], "i64"), {"x": td.TensorType((1,), "i64")})
    with pytest.raises(td.UnsupportedError, match="which CoreML"):
        dag.to_coreml(tmp_path / "a.mlpackage")


def test_inputs_of_six_axes_are_refused_and_six_inside_are_not(tmp_path: Path) -> None:
    with pytest.raises(td.UnsupportedError, match="at most 5 axes"):
        td.network(lambda x: x + 1.0, {"x": (1, 2, 1, 2, 1, 2)}).to_coreml(tmp_path / "a.mlpackage")
    dag = td.network(lambda x: td.reshape(td.permute(td.reshape(x, shape=(2, 2, 2, 2, 2, 3)), (1, 0, 3, 2, 5, 4)),
                                          shape=(8, 12)), {"x": (8, 12)})  # fmt: skip
    dag.to_coreml(tmp_path / "a.mlpackage")
    x = np.arange(96, dtype=np.float32).reshape(8, 12)
    np.testing.assert_array_equal(by_mil(tmp_path / "a.mlpackage", x)[0], dag.run(x))
