"""Where a node's values came from: its module, as the name of the node or its metadata has it.

torch's exporter with TorchScript calls a node ``/layer1/layer1.0/conv1/Conv``: the path of calls, in which a module of
a list repeats the list's name, so the module is ``layer1.0.conv1``. tf2onnx and others write ``model/block/Conv``, some
``encoder.layer.0.MatMul``. torch's exporter with dynamo has the modules' paths and classes in the metadata. What has no
module in its name is the top module's.
"""

from __future__ import annotations

import ast
from typing import Any

from tdagger.frameworks.modules import class_of, joined

#: Keys of the metadata of torch's exporter.
_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
_LONGEST = 1 << 14


class Modules:
    """The modules of a model, by the paths that its nodes name: ``found`` maps paths to the names of classes."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._paths: dict[str, str] = {}

    def of(self, node: Any, name: str, op: str) -> str:
        """The path of the module that a node is in, "" for the top."""
        if node.metadata_props:
            path = self._by_metadata(node)
            if path is not None:
                return path
        prefix, slash, _ = name.rpartition("/")
        if not slash:
            prefix, dot, _ = name.rpartition(".")
            if not dot or prefix == op or prefix.endswith((f".{op}", f"_{op}")):  # p2o.Conv.12
                return ""
        path = self._paths.get(prefix)
        if path is None:
            path = self._paths[prefix] = joined(prefix) if slash else prefix
            self._add(path)
        return path

    def _by_metadata(self, node: Any) -> str | None:
        scopes = classes = None
        for prop in node.metadata_props:
            key = prop.key
            if key == _SCOPES:
                scopes = prop.value
            elif key == _CLASSES:
                classes = prop.value
        if scopes is None:
            return None
        path = self._paths.get(scopes)
        if path is None:
            paths, kinds = _strings(scopes), _strings(classes or "")
            for own, kind in zip(
                paths[:-1], kinds[:-1] if len(kinds) == len(paths) else [""] * len(paths), strict=False
            ):
                if kind or own not in self.found:
                    self.found[own] = kind.rpartition(".")[2] or class_of(own)
            path = paths[-2] if len(paths) > 1 else ""
            self._paths[scopes] = path
            self._add(path)
        return path

    def _add(self, path: str) -> None:
        while path and path not in self.found:
            self.found[path] = class_of(path)
            path = path.rpartition(".")[0]

    def named(self) -> dict[str, str]:
        """The paths, those around others first, with the names of classes."""
        return {p: self.found[p] for p in sorted(self.found, key=lambda p: p.count(".") + bool(p))}


def _strings(text: str) -> list[str]:
    """A list of strings as Python writes it; an empty one if it isn't that."""
    if len(text) > _LONGEST:
        return []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return found if isinstance(found, list) and all(isinstance(s, str) for s in found) else []
