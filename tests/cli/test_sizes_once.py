"""Names that an option is given twice."""

from __future__ import annotations

import pytest

from tdagger.cli.common import _once, sizes_of
from tdagger.errors import AttributeValueError


def test_a_size_is_given_once() -> None:
    assert sizes_of("b=2, s=3", "--at") == {"b": 2, "s": 3}
    for text in ("b=2,b=3", "b=2, b=2", "s=1,b=2,s=4"):
        with pytest.raises(AttributeValueError, match=r"--at has two sizes for [bs]: "):
            sizes_of(text, "--at")


def test_a_setting_is_given_once() -> None:
    assert _once([("a", 1), ("b", 2)], "--set") == {"a": 1, "b": 2}
    with pytest.raises(AttributeValueError, match="--set has a twice: 1 and 2"):
        _once([("a", 1), ("a", 2)], "--set")
