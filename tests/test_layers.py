"""The one direction of imports: a module of tdagger imports only from its own layer or those to its left.

Imports inside functions count too: putting one there hides a cycle but doesn't undo it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdagger.later import LATER, later

# A layer is a module (`op.py`) or a package (`ops/`), in this order. A new one needs a place here and in
# docs/architecture.md.
LAYERS = [
    *["later", "names", "errors", "depth", "types", "tree", "op", "ops", "graph", "pickling", "network", "interpret"],
    *[
        "composite",
        "library",
        "analysis",
        "view",
        "transform",
        "tensordag",
        "layers",
        "interpreter",
        "debug",
        "program",
        "comparison",
        "prune",
        "quantization",
        "file",
        "frameworks",
        "cli",
        "__main__",
    ],
]
# What may be imported under frameworks/ only, and there only when used.
FRAMEWORKS = {
    *["torch", "torchvision", "timm", "transformers", "onnx", "coremltools", "tensorflow", "jax"],
    *["ai_edge_litert", "flatbuffers"],
}

SRC = Path(__file__).parent.parent / "src"
MODULES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SRC / "tdagger").rglob("*.py"))
}
MODULES.pop("tdagger", None)  # the public face: it imports from every layer, and no layer imports it


def imported(module: str, tree: ast.AST, is_package: bool) -> Iterator[tuple[int, str]]:
    """The line and the absolute name of everything that `module` imports, `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            here = package[: len(package) + 1 - node.level] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*here, *([node.module] if node.module else []), alias.name])


def faults(module: str, source: str, is_package: bool = False) -> list[str]:
    """One line for each import of `module` that goes the wrong way."""
    layer = module.split(".")[1]
    found: list[str] = []
    for line, name in imported(module, ast.parse(source), is_package):
        root, *rest = name.split(".")
        if root in FRAMEWORKS and layer != "frameworks":
            found.append(f"line {line}: {name} may be imported under frameworks/ only")
        if root != "tdagger":
            continue
        if not rest or rest[0] not in LAYERS:
            found.append(f"line {line}: {name} is of no layer; name the module that defines it")
        elif LAYERS.index(rest[0]) > LAYERS.index(layer):
            found.append(f"line {line}: {name} is to the right of {layer}")
    return found


def test_one_module_imports_others_by_name() -> None:
    """Else the arrows to the right would be anywhere; ``later`` has them in a table."""
    by_name = re.compile(r"""import_module\(f?["']tdagger""")
    assert [m for m, path in MODULES.items() if by_name.search(path.read_text("utf-8"))] == []


def test_what_is_imported_later_is_there() -> None:
    assert [name for name in LATER if not callable(later(name)) and ":" in LATER[name]] == []


def test_modules_found() -> None:
    assert "tdagger.types" in MODULES


def test_layer() -> None:
    found: list[str] = []
    for module, path in MODULES.items():
        layer = module.split(".")[1]
        assert layer in LAYERS, f"give {layer!r} a place in LAYERS, see the top of this file"
        found += [f"{path}: {f}" for f in faults(module, path.read_text("utf-8"), path.name == "__init__.py")]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("tdagger.types", "from tdagger.errors import TDaggerError", None),
        ("tdagger.ops.structure", "from tdagger.ops.source import Const", None),
        ("tdagger.ops.structure", "from .source import Const", None),
        ("tdagger.frameworks.torch.importer", "import torch.nn", None),
        ("tdagger.types", "from tdagger.op import Op", "to the right of types"),
        ("tdagger.types", "def f():\n    import tdagger.graph", "line 2: tdagger.graph is to the"),
        ("tdagger.ops.structure", "from ..graph import Graph", "tdagger.graph.Graph is to the right of ops"),
        ("tdagger.types", "from tdagger import Graph", "of no layer"),
        ("tdagger.cli", "import tdagger as td", "of no layer"),
        ("tdagger.cli", "import torch", "under frameworks/ only"),
    ],
)
def test_faults(module: str, source: str, fault: str | None) -> None:
    found = faults(module, source)
    assert [fault in line for line in found] == ([] if fault is None else [True])
