"""Writing networks to files: exported programs, TorchScript, and Python source with its weights beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from tdagger.errors import SourceError
from tdagger.file.container import whole
from tdagger.frameworks.source import FORMS
from tdagger.frameworks.torch.emit.python import written
from tdagger.names import shown
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG


def save(dag: TensorDAG | Program, path: Path, form: str) -> None:
    """Write a TDAG or program in a form of ``FORMS``; each file appears whole or not at all."""
    if form == ".pt2":
        program = dag.to_exported_program()
        whole(path, lambda to: torch.export.save(program, to))
    elif form in (".pt", ".ts"):
        module = dag.to_torchscript()
        whole(path, lambda to: module.save(to))
    elif form == ".py" and isinstance(dag, TensorDAG):
        _save_python(dag, path)
    else:
        raise SourceError(f"{shown(path)}: can't write {form!r} files; there are {', '.join(FORMS)}")


def _save_python(dag: TensorDAG, path: Path) -> None:
    """The module's source, and its weights beside it."""
    text, tensors = written(dag, path)
    whole(path.with_suffix(".safetensors"), lambda to: save_file(tensors, to))
    whole(path, lambda to: Path(to).write_text(text, "utf-8"))
