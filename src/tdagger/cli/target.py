"""Where a command writes a network: a file whose suffix says the form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tdagger.cli import common
from tdagger.cli.layout import escape
from tdagger.cli.tables import size
from tdagger.errors import SourceError
from tdagger.file import store
from tdagger.frameworks.source import FORMS, save
from tdagger.names import shown
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG

#: What may be said of a form besides where it goes.
OPTIONS = {
    ".onnx": ("dynamic", "opset"),
    ".tflite": ("dynamic",),
    ".mlpackage": ("dynamic", "minimum_target", "precision"),
    ".tdag": ("meta",),
}

#: The names of files that a form may have beside its own.
BESIDE: dict[str, tuple[Callable[[Path], str], ...]] = {
    ".py": (lambda path: f"{path.stem}.safetensors",),
    ".onnx": (lambda path: f"{path.name}.data",),
    ".tdag": (lambda path: f"{path.stem}.safetensors.index.json",),
}


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
                forms = ", ".join(form for form, names in OPTIONS.items() if name in names)
                raise SourceError(f"{shown(self.path)}: --{name.replace('_', '-')} is for {forms} files")
        if self.form not in FORMS:
            known = ", ".join(f"{k} ({v})" for k, v in FORMS.items())
            raise SourceError(f"{shown(self.path)}: the suffix must say the form: {known}")
        self._refuse(self.path, *([] if self.form == ".tdag" else self.beside))
        if not self.path.parent.is_dir():
            raise SourceError(f"{shown(self.path.parent)}: there is no such folder")

    def _refuse(self, *paths: Path) -> None:
        for path in paths:
            if path.exists() and not self.force:
                raise SourceError(f"{shown(path)} is there already; --force overwrites it")

    @property
    def form(self) -> str:
        """The suffix."""
        return self.path.suffix.lower()

    @property
    def beside(self) -> list[Path]:
        """What may be written beside it: weights of source code always, those of other forms where they are large."""
        return [self.path.with_name(name(self.path)) for name in BESIDE.get(self.form, ())]

    def write(self, dag: TensorDAG | Program) -> None:
        """Write a network or program, and say on stderr what was written."""
        if self.form == ".tdag" and sum(w.type.bytes for w in dag.state.values()) > store.SHARD:
            self._refuse(*self.beside)  # another network's, which is there beside most checkpoints of many files
        before = {p: _state(p) for p in self.beside}
        with common.progress(f"writing {self.path}"):
            save(dag, self.path, self.form, self.options)
        written = [self.path, *[p for p, state in before.items() if _state(p) != state]]
        if self.form == ".tdag" and len(written) > 1:
            written += [self.path.with_name(name) for name in sorted(store.own_shards(self.path))]
        sizes = ", ".join(f"{escape(p)} ({size(_bytes(p))})" for p in written)
        Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(f"wrote {sizes}")


def _state(path: Path) -> tuple[int, int] | None:
    """What is another when a file was written anew."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def _bytes(path: Path) -> int:
    """The size of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size
