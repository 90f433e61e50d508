"""Programs as ML programs with while_loop and cond, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tests.program.programs import PROGRAMS

VARYING = ("bounded_sum", "bounded_growth", "ctc_greedy", "non_maximum_suppression", "greedy_decoding")


def flat(x: Any) -> list[Any]:
    """What nests, one after the other."""
    if isinstance(x, dict):
        return [v for k in x for v in flat(x[k])]
    return [v for y in x for v in flat(y)] if isinstance(x, tuple | list) else [x]


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str, tmp_path: Path) -> None:
    program, _, tries = PROGRAMS[name]
    path = tmp_path / "p.mlpackage"
    if name in VARYING:
        with pytest.raises(td.UnsupportedError, match=r"sizes of .* vary"):
            program.to_coreml(path)
        return
    program.to_coreml(path)
    back = td.Program.from_coreml(path)
    for arrays in tries:
        wanted = flat(program.run(*arrays))
        types = [back.slots[n].type for n in back.inputs]
        given = [np.asarray(a).astype(t.dtype.numpy).reshape(t.shape) for a, t in zip(arrays, types, strict=True)]
        found = flat(back.run(*given))
        for a, b in zip(found, wanted, strict=False):  # buffers that change come behind
            np.testing.assert_allclose(np.reshape(a, np.shape(b)), b, rtol=1e-4, atol=1e-5)
