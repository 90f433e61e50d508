from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.program.programs import PROGRAMS


def leaves(x: Any) -> Iterator[Any]:
    if isinstance(x, dict):
        for v in x.values():
            yield from leaves(v)
    elif isinstance(x, tuple | list):
        for v in x:
            yield from leaves(v)
    else:
        yield np.asarray(x)


def same(found: Any, wanted: Any) -> None:
    found, wanted = list(leaves(found)), list(leaves(wanted))
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_numpy(name: str) -> None:
    program, reference, inputs = PROGRAMS[name]
    for arrays in inputs:
        same(program.run(*arrays), reference(*arrays))
    assert str(program).startswith(f"program {name}(")
