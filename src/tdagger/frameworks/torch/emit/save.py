"""Writing networks to files: exported programs, TorchScript, and Python source with its weights beside it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.source import FORMS
from tdagger.frameworks.torch.emit.classes import Part
from tdagger.frameworks.torch.emit.design import design_of
from tdagger.frameworks.torch.emit.module import Block, assembled, sources
from tdagger.names import docstring, is_attribute, is_dotted, literal, shown
from tdagger.op import Op
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree


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


_TEMPLATE = '''{title}

from math import inf, nan  # noqa: F401
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn  # noqa: F401

from tdagger.frameworks.torch import runtime  # noqa: F401
from tdagger.frameworks.torch.emit.module import Block, Entry, assembled
from tdagger.tree import Tree  # noqa: F401
{imports}

{classes}

# What is at each path.
MODULES = {modules}

# What the state holds: name -> (parameter, frozen, buffer or temporary, and the tensor's name in the file).
STATE = {state}


def load(weights=Path(__file__).with_suffix(".safetensors")):
    """The network in eval mode, its weights read from a file."""
    data = load_file(weights)
    tensors = {{}}
    for kind, name in STATE.values():
        if name not in tensors:
            is_parameter = kind in ("parameter", "frozen")
            tensors[name] = torch.nn.Parameter(data[name], kind == "parameter") if is_parameter else data[name]
    return assembled(MODULES, [Entry(path, tensors[name], kind != "temporary") for path, (kind, name) in STATE.items()])
'''


def _save_python(dag: TensorDAG, path: Path) -> None:
    """The module's source, and its weights beside it."""
    try:
        safetensors: Any = importlib.import_module("safetensors.torch")
    except ModuleNotFoundError:
        raise SourceError("to write weights beside Python source: pip install safetensors") from None
    if not path.stem.isidentifier():
        raise SourceError(f"{shown(path)}: a Python file is imported by its name, which must be an identifier")
    design = design_of(dag, False, dag.open_axes)
    module = assembled({p: part.make for p, part in design.parts.items()}, design.state)
    named = sources(module)
    weights = path.with_suffix(".safetensors")
    state, tensors = _state(module)
    told = shown(weights.name)
    parts = {p: _made(design.parts[p], type(m), named) for p, m in module.named_modules() if p in design.parts}
    text = _TEMPLATE.format(
        title=docstring(
            f"{shown(dag.name)}, written by tdagger. ``load()`` gives the module with the weights in {told}."
        ),
        imports=_imports({n: v for kind in named for n, v in kind._source.names.items()}),
        classes="\n\n".join(text for _, text in named.values()).rstrip("\n"),
        state=_listed((f"{k!r}: {v!r}" for k, v in state.items()), "{}"),
        modules=_listed((f"{p!r}: {made}" for p, made in parts.items()), "{}"),
    )
    _write(weights, lambda to: safetensors.save_file(tensors, to))
    _write(path, lambda to: Path(to).write_text(text, "utf-8"))


def _made(part: Part, kind: type, named: Mapping[Any, tuple[str, str]]) -> str:
    """What makes a part, as source."""
    if part.source is not None:
        return named[kind][0]
    public = getattr(torch.nn, kind.__name__, None) is kind
    name = "Block" if kind is Block else f"nn.{kind.__name__}" if public else f"{kind.__module__}.{kind.__qualname__}"
    if not part.settings:
        return name
    return f"lambda: {name}({', '.join(f'{n}={literal(v)}' for n, v in part.settings)})"


def _state(module: torch.nn.Module) -> tuple[dict[str, tuple[str, str]], dict[str, Tensor]]:
    """What each tensor of the state is and under which name it is kept, and the tensors, tied ones once."""
    state: dict[str, tuple[str, str]] = {}
    tensors: dict[str, Tensor] = {}
    first: dict[int, str] = {}
    saved = set(module.state_dict())
    for name, parameter in module.named_parameters(remove_duplicate=False):
        state[name] = ("parameter" if parameter.requires_grad else "frozen", first.setdefault(id(parameter), name))
        tensors[state[name][1]] = parameter.detach().clone().contiguous()
    for name, buffer in module.named_buffers(remove_duplicate=False):
        state[name] = ("buffer" if name in saved else "temporary", first.setdefault(id(buffer), name))
        tensors[state[name][1]] = buffer.detach().clone().contiguous()
    return state, tensors


def _listed(items: Iterable[str], brackets: str) -> str:
    """A literal with one item a line."""
    return "".join([brackets[0], "\n", *[f"    {item},\n" for item in items], brackets[1]])


def _imports(names: Mapping[str, Any]) -> str:
    """Lines that define the names the code uses: classes of outputs, structures of arguments."""
    lines: list[str] = []
    for name, value in names.items():
        if isinstance(value, Tree):
            lines.append(f"{name} = {_tree(value)}")
        elif isinstance(value, Op) and _is_found(type(value)):
            own = type(value)
            lines.append(f"from {own.__module__} import {own.__qualname__} as _{name}")
            lines.append(f"{name} = _{name}({', '.join(literal(a) for a in value.attributes.values())})")
        elif inspect.isfunction(value) and _is_found(value):
            lines.append(f"from {value.__module__} import {value.__qualname__} as {name}")
        elif isinstance(value, type) and is_attribute(value.__qualname__) and is_dotted(value.__module__):
            renamed = "" if name == value.__qualname__ else f" as {name}"
            lines.append(f"from {value.__module__} import {value.__qualname__}{renamed}")
        else:
            what = f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else type(value).__name__
            raise UnsupportedError(f"{name}, which the code uses, is a {shown(what)} and has no source")
    return "".join(f"{line}\n" for line in sorted(lines, key=lambda text: "=" in text))


def _is_found(thing: Any) -> bool:
    """Whether a class or function is found under its name in its module."""
    named = is_attribute(thing.__qualname__) and is_dotted(thing.__module__)
    return named and getattr(sys.modules.get(thing.__module__), thing.__qualname__, None) is thing


def _tree(tree: Tree) -> str:
    """A structure as source."""
    children = "".join(f"{_tree(child)}, " for child in tree.children).strip()
    kind, keys, type_, constant = map(literal, (tree.kind, tree.keys, tree.type, tree.constant))
    return f"Tree({kind}, {keys}, ({children}), {type_}, {constant})"
