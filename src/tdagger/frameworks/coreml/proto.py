"""The protobufs of coremltools, without importing coremltools itself.

``import coremltools`` takes seconds, loads torch where it is installed, and logs warnings of packages that it doesn't
know. The classes of its ``proto`` folder need none of that: they are imported here as a package of their own. They are
the same classes as coremltools' (protobuf has one for each description), so that messages go to and fro.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

_PACKAGE = "tdagger_coreml_proto"


def module(name: str) -> Any:
    """A module of ``coremltools.proto``; ModuleNotFoundError if coremltools isn't installed."""
    if _PACKAGE not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("coremltools is not installed: pip install 'tdagger[coreml]'", name="coremltools")
        package = types.ModuleType(_PACKAGE)
        package.__path__ = [str(Path(next(iter(found.submodule_search_locations))) / "proto")]
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.{name}")


def mil() -> Any:
    """The messages of MIL programs."""
    return module("MIL_pb2")


def model() -> Any:
    """A new, empty Model."""
    return module("Model_pb2").Model()
