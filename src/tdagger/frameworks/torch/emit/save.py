"""Writing networks to files: exported programs, TorchScript, and Python source with its weights beside it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tdagger.errors import SourceError
from tdagger.frameworks.source import FORMS
from tdagger.frameworks.torch.emit.python import written
from tdagger.names import shown
from tdagger.tensordag import TensorDAG


def save(dag: TensorDAG, path: Path, form: str) -> None:
    """Write a TDAG in a form of ``FORMS``; each file appears whole or not at all."""
    if form == ".pt2":
        program = dag.to_exported_program()
        _write(path, lambda to: torch.export.save(program, to))
    elif form in (".pt", ".ts"):
        module = dag.to_torchscript()
        _write(path, lambda to: module.save(to))
    elif form == ".py":
        _save_python(dag, path)
    else:
        raise SourceError(f"{shown(path)}: can't write {form!r} files; there are {', '.join(FORMS)}")


def _write(path: Path, write: Callable[[str], Any]) -> None:
    """Write to a file beside ``path``, then put it in its place."""
    handle, name = tempfile.mkstemp(suffix=path.suffix, prefix=f".{path.stem}.", dir=path.parent)
    os.close(handle)
    try:
        write(name)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _save_python(dag: TensorDAG, path: Path) -> None:
    """The module's source, and its weights beside it."""
    text, tensors = written(dag, path)
    _write(path.with_suffix(".safetensors"), lambda to: save_file(tensors, to))
    _write(path, lambda to: Path(to).write_text(text, "utf-8"))
