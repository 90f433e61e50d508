"""These tests need coremltools for its protobufs."""

import importlib.util

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by name where coremltools isn't installed."""
    if importlib.util.find_spec("coremltools") is None:
        for item in items:
            if "frameworks/coreml" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="coremltools is not installed"))
