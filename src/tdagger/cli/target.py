"""Where a command writes a network: a file whose suffix says the form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tdagger.cli import common
from tdagger.cli.layout import escape
from tdagger.cli.programs import saved
from tdagger.cli.tables import size
from tdagger.errors import SourceError
from tdagger.frameworks.source import FORMS, save
from tdagger.names import shown
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG

#: What may be said of a form besides where it goes.
OPTIONS = {".onnx": ("dynamic", "opset"), ".mlpackage": ("minimum_target", "precision")}


@dataclass(frozen=True)
class Target:
    """Files that can be written, checked before what takes long; SourceError says what is in the way.

    ``options`` are those of the exporter of the form, :data:`OPTIONS`.
    """

    path: Path
    force: bool = False
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for name in self.options:
            if name not in OPTIONS.get(self.form, ()):
                forms = " and ".join(form for form, names in OPTIONS.items() if name in names)
                raise SourceError(f"{shown(self.path)}: --{name.replace('_', '-')} is for {forms} files")
        if self.form not in FORMS:
            known = ", ".join(f"{k} ({v})" for k, v in FORMS.items())
            raise SourceError(f"{shown(self.path)}: the suffix must say the form: {known}")
        for path in self.written:
            if path.exists() and not self.force:
                raise SourceError(f"{shown(path)} is there already; --force overwrites it")
        if not self.path.parent.is_dir():
            raise SourceError(f"{shown(self.path.parent)}: there is no such folder")

    @property
    def form(self) -> str:
        """The suffix."""
        return self.path.suffix.lower()

    @property
    def written(self) -> list[Path]:
        """All files of it: source code has its weights beside it."""
        return [self.path, *([self.path.with_suffix(".safetensors")] if self.form == ".py" else [])]

    def write(self, dag: TensorDAG | Program) -> None:
        """Write a network or program, and say on stderr what was written."""
        with common.progress(f"writing {self.path}"):
            if isinstance(dag, Program):
                saved(dag, self.path, self.form, self.options)
            else:
                save(dag, self.path, self.form, self.options)
        sizes = ", ".join(f"{escape(p)} ({size(_bytes(p))})" for p in self.written)
        Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(f"wrote {sizes}")


def _bytes(path: Path) -> int:
    """The size of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size
