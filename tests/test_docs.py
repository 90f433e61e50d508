"""The code of the documents, run as a reader would paste it: the blocks of one document in order, in one namespace.

An expression whose comment is a Python value has that value. Blocks with prompts are doctests. A comment
``<!-- not run: why -->`` before a block leaves it out, ``text`` is for what is no code.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: (?P<why>.+) -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
DOCUMENTS = [p for p in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))] if "```python" in p.read_text("utf8")]
#: Blocks that aren't run: a few, each with its reason in the document.
MOST_NOT_RUN = 1


class Block(NamedTuple):
    """A block of Python: its code, the line of the document that it begins after, why it isn't run."""

    code: str
    line: int
    not_run: str | None


def blocks(text: str) -> list[Block]:
    return [Block(m["code"], text.count("\n", 0, m.start("code")), m["why"]) for m in BLOCK.finditer(text)]


def said(source: str, node: ast.stmt) -> Any:
    """The value that the comment behind an expression states; Ellipsis if it states none."""
    comment = source.splitlines()[(node.end_lineno or 0) - 1].encode()[node.end_col_offset :].decode().strip()
    if not isinstance(node, ast.Expr) or not comment.startswith("#"):
        return ...
    try:
        return ast.literal_eval(comment.removeprefix("#").strip())
    except (SyntaxError, ValueError):  # words
        return ...


def run(block: Block, name: str, namespace: dict[str, Any]) -> None:
    """Run a block; errors name the document and the line in it."""
    if ">>>" in block.code:
        test = doctest.DocTestParser().get_doctest(block.code, namespace, name, name, block.line)
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
        assert result.attempted
        assert not result.failed
        namespace.update(test.globs)
        return
    for node in ast.parse(block.code, name).body:
        value = said(block.code, node)
        ast.increment_lineno(node, block.line)
        if value is ...:
            exec(compile(ast.Module([node], []), name, "exec"), namespace)
            continue
        assert isinstance(node, ast.Expr)
        found = eval(compile(ast.Expression(node.value), name, "eval"), namespace)
        assert found == value, f"{name}, line {node.lineno}: {ast.unparse(node)} is {found!r}"


@pytest.fixture
def tables() -> Iterator[None]:
    """What the documents register (an op, a composite, a rule) is gone for the tests after it."""
    names = [
        ("tdagger.op", "core_ops"), ("tdagger.op", "functions"), ("tdagger.composite", "composites"),
        ("tdagger.frameworks.torch.aten.table", "RULES"), ("tdagger.frameworks.torch.aten.table", "DRAWS"),
        ("tdagger.frameworks.torch.emit.core", "CORE"), ("tdagger.frameworks.torch.emit.composites", "COMPOSITES"),
        ("conformance.fuzz.table", "MAKERS"), ("conformance.fuzz.table", "WEIGHTS"),
    ]  # fmt: skip
    for whole in "tdagger.frameworks.torch.importer", "conformance.fuzz.generate":  # with all that register in them
        importlib.import_module(whole)
    found = [getattr(importlib.import_module(module), name) for module, name in names]
    before = [table.copy() for table in found]
    yield
    for table, was in zip(found, before, strict=True):
        table.clear()
        (table.extend if isinstance(table, list) else table.update)(was)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_document(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: None) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": path.stem}
    for block in blocks(path.read_text("utf8")):
        if block.not_run is None:
            run(block, str(path), namespace)


def test_nearly_every_block_is_run() -> None:
    found = [b for p in DOCUMENTS for b in blocks(p.read_text("utf8"))]
    assert len(found) == sum(p.read_text("utf8").count("```python") for p in DOCUMENTS)
    assert sum(b.not_run is not None for b in found) <= MOST_NOT_RUN


def test_values_are_compared() -> None:
    (block,) = blocks("One line.\n\n```python\n1 + 1  # 2\n'é'  # 'é'\n[1]  # a list\n```\n")
    assert block == ("1 + 1  # 2\n'é'  # 'é'\n[1]  # a list\n", 3, None)
    run(block, "a.md", {})
    with pytest.raises(AssertionError, match=r"a\.md, line 4: 1 \+ 1 is 2"):
        run(Block("1 + 1  # 3\n", 3, None), "a.md", {})
    with pytest.raises(AssertionError):
        run(Block(">>> 1 + 1\n3\n", 3, None), "a.md", {})
