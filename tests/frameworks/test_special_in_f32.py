"""Special functions in files without f64, in which their bodies compute here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tdagger as td
from tdagger import library as lib
from tdagger.transform.legal.single import SINGLE
from tests.frameworks.coreml.test_export import by_mil
from tests.frameworks.tflite.runs import by_runtime

#: What each is defined for, poles among it.
RANGES = {"ndtri": (1e-4, 1 - 1e-4), "bessel_k0": (1e-3, 20), "bessel_k0e": (1e-3, 20), "bessel_k1": (1e-3, 20),
          "bessel_k1e": (1e-3, 20), "erfcx": (-5, 20)}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_a_function_is_what_it_is_in_f64(name: str, tmp_path: Path) -> None:
    low, high = RANGES.get(name, (-9.9, 20))
    x = np.linspace(low, high, 997, dtype=np.float32)
    dag = td.network(getattr(lib, name), {"x": x.shape})
    wanted = td.network(getattr(lib, name), {"x": td.TensorType(x.shape, "f64")}).run(x.astype(np.float64))
    dag.to_coreml(tmp_path / "a.mlpackage")
    for own in (by_runtime(dag.to_tflite(), x)[0], by_mil(tmp_path / "a.mlpackage", x)[0]):
        assert own.dtype == np.float32
        assert np.nanmax(np.abs(own - wanted) / np.maximum(np.abs(wanted), 1)) < 1e-5


def test_f64_itself_is_refused() -> None:
    with pytest.raises(td.UnsupportedError, match="f64"):
        td.network(lib.digamma, {"x": td.TensorType((2,), "f64")}).to_tflite()
    with pytest.raises(td.UnsupportedError, match="f64"):
        td.network(lib.bessel_j0, {"x": (2,)}).to_tflite()
