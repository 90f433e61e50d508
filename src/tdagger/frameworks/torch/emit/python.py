"""A network as Python source that needs torch and safetensors alone, and its weights."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tdagger.errors import SourceError, UnsupportedError
from tdagger.frameworks.torch.emit.classes import Part
from tdagger.frameworks.torch.emit.design import freest_design
from tdagger.frameworks.torch.emit.inlined import ALLOWED, Inliner, imports_of, is_found, renamed, used_globals
from tdagger.frameworks.torch.emit.module import Block, assembled, sources
from tdagger.frameworks.torch.runtime import RECORDED
from tdagger.names import docstring, is_attribute, literal, shown
from tdagger.op import Op
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree, container_of, objects

_RUNTIME, _TREE, _MODULE = "tdagger.frameworks.torch.runtime", "tdagger.tree", "tdagger.frameworks.torch.emit.module"

_TEMPLATE = '''{title}

from __future__ import annotations

{imports}

# --- what the network is written in ------------------------------------------------------------------------


{statements}
{recorded}

# --- the network -------------------------------------------------------------------------------------------


{classes}


# What is at each path.
MODULES = {modules}

# What the state holds: name -> (parameter, frozen, buffer or temporary, and the tensor's name in the file).
STATE = {state}


def load(weights=Path(__file__).with_suffix(".safetensors")):
    """The network in {mode} mode, its weights read from a file."""
    data = load_file(weights)
    tensors = {{}}
    for kind, name in STATE.values():
        if name not in tensors:
            tensor = data[name]
            if tensor.data_ptr() % 64:  # kernels may round otherwise on memory that isn't aligned
                tensor = tensor.clone()
            is_parameter = kind in ("parameter", "frozen")
            tensors[name] = torch.nn.Parameter(tensor, kind == "parameter") if is_parameter else tensor
    entries = [{Entry}(path, tensors[name], kind != "temporary") for path, (kind, name) in STATE.items()]
    return {assembled}(MODULES, entries{trains})
'''

_RECORDED = """

for _name in ({}):  # torch.fx records calls of them
    torch.fx.wrap(_name)
"""

#: tdagger's errors come with what shows names; here a message is shown by Python.
_ERROR = 'class InputError(ValueError):\n    """The inputs given to the network don\'t fit it."""'

#: A dataclass that is a mapping too, as those of transformers are: results by name, attribute and place.
_OUTPUT = '''class {name}(dict):
    """Stands for {what}.

    Results by name, key and place: ``out.{first}``, ``out["{first}"]``, ``out[0]``. An attribute without one is None.
    """

    FIELDS = {fields}

    def __getitem__(self, key):
        return dict.__getitem__(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __getattr__(self, name):
        if name not in self.FIELDS:
            raise AttributeError(f"{{type(self).__name__}} has no {{name}}")
        return self.get(name)

    def to_tuple(self):
        return tuple(self.values())'''


class Written(NamedTuple):
    """Source, and the tensors of its file of weights."""

    text: str
    tensors: dict[str, Tensor]


def written(dag: TensorDAG, path: Path) -> Written:
    """A network as the source of ``path``, whose weights lie beside it.

    UnsupportedError names what can't be in a file of its own: ops that torch has no code for, functions and classes of
    other libraries. SourceError for a name that Python can't import.
    """
    if not path.stem.isidentifier():
        raise SourceError(f"{shown(path)}: a Python file is imported by its name, which must be an identifier")
    design = freest_design(dag, False)
    module = assembled({p: part.make for p, part in design.parts.items()}, design.state, design.trains)
    named = sources(module)
    state, tensors = _state(module, dag.name)
    classes = "\n\n".join(text for _, text in named.values()).rstrip("\n")
    source = _Source(dag.name)
    for kind in named:
        for name, thing in kind._source.names.items():
            source.add(name, thing)
    parts = {p: _made(design.parts[p], type(m), named) for p, m in module.named_modules() if p in design.parts}
    modules = _listed((f"{p!r}: {made}" for p, made in parts.items()), "{}")
    text = source.text(
        classes,
        modules,
        title=docstring(_title(dag, path.with_suffix(".safetensors"))),
        state=_listed((f"{k!r}: {v!r}" for k, v in state.items()), "{}"),
        mode="train" if design.trains else "eval",
        trains=", True" if design.trains else "",
    )
    return Written(text, tensors)


def _title(dag: TensorDAG, weights: Path) -> str:
    made = [t for t in _walk(dag.signature.inputs) if t.kind not in ("named", "dict") and t.type]
    takes = sorted({shown(t.type.replace(":", ".")) for t in made})
    told = f"\n\nIt is called with {', '.join(takes)}, which the caller makes." if takes else ""
    return (
        f"{shown(dag.name)}, written by tdagger; it needs torch and safetensors.\n\n"
        f"``load()`` gives the module with the weights in {shown(weights.name)}.{told}\n"
    )


class _Source:
    """What the generated code takes from around, by the names it has there, and what these are in the file."""

    def __init__(self, network: str) -> None:
        self._network = network
        self._inliner = Inliner({("tdagger.errors", "InputError"): _ERROR})
        self._given: dict[str, Any] = {}
        #: Names of the code that stand for what is copied or imported; the source of others, and of structures.
        self._meant: dict[str, tuple[str, str]] = {}
        self._stands: list[str] = []
        self._structures: list[str] = []
        self._objects: set[str] = set()

    def add(self, name: str, thing: Any) -> None:
        """Something that code calls by a name; UnsupportedError if it has no source."""
        if self._given.setdefault(name, thing) is not thing:
            raise UnsupportedError(f"{self._network}: {shown(name)} stands for two things in the code")
        if isinstance(thing, Tree):
            self._objects |= {n for t in _walk(thing) if t.kind == "object" for n in _known_object(t)}
            self._structures.append(f"{name} = {_tree(thing)}")
            return
        if isinstance(thing, Op):
            raise UnsupportedError(
                f"{self._network}: {thing} is computed by numpy, which a file of its own can't hold: say how torch "
                "computes it, tdagger.frameworks.torch.aten.extend.writes(...)"
            )
        what = f"{thing.__module__}.{thing.__qualname__}" if hasattr(thing, "__qualname__") else type(thing).__name__
        try:
            self._copied(name, thing)
        except UnsupportedError as e:
            made = _stand_in(name, thing, what)
            if made is None:
                raise UnsupportedError(
                    f"{self._network}: {shown(what)}, which the code uses, can't be in a file of its own: {e}"
                ) from None
            self._stands.append(made)

    def _copied(self, name: str, thing: Any) -> None:
        if not (isinstance(thing, type) or inspect.isfunction(thing)) or not is_found(thing):
            raise UnsupportedError("it has no source")
        place = thing.__module__, thing.__qualname__
        if place[0].partition(".")[0] in ALLOWED:
            self._inliner.imports(*place)
        else:
            self._inliner.wants(*place)
        self._meant[name] = place

    def text(self, classes: str, modules: str, **filled: str) -> str:
        """The whole file."""
        code = f"{classes}\nMODULES = {modules}\n"
        called = sorted(_called(code))
        inliner = self._inliner
        asked = [*((_RUNTIME, n) for n in called), *((_MODULE, n) for n in ("Block", "Entry", "assembled"))]
        if self._structures:
            asked.append((_TREE, "Tree"))
        for place in asked:
            inliner.wants(*place)
        for name in used_globals(code) & set(_USUAL) | {"torch", "Path", "load_file"}:
            inliner.imports(*_USUAL[name], name)
        inliner.close(code, _names_in(code) | set(self._given) - set(self._meant) | {"load", "runtime", "STATE"})
        names = {n: inliner.called(*place) for n, place in self._meant.items()}
        names |= {f"runtime.{n}" if m == _RUNTIME else n: inliner.called(m, n) for m, n in asked}
        entry, assembled = names.pop("Entry"), names.pop("assembled")  # not for the code, where these may be arguments
        recorded = "".join(f'"{names[f"runtime.{n}"]}", ' for n in called if n in RECORDED)
        text = _TEMPLATE.format(
            imports=inliner.import_lines(),
            statements=inliner.statements(),
            recorded=_RECORDED.format(recorded.rstrip()) if recorded else "",
            classes="\n\n\n".join([*self._stands, *self._tables(names), renamed(classes, names, "runtime")]),
            modules=renamed(modules, names),
            Entry=entry,
            assembled=assembled,
            **filled,
        )
        if unknown := set(imports_of(text)) - ALLOWED:
            raise UnsupportedError(f"{self._network}: the file would import {', '.join(sorted(unknown))}")
        return text

    def _tables(self, names: Mapping[str, str]) -> Iterator[str]:
        """How arguments nest, and which of their objects are looked into."""
        if self._objects:
            known = "".join(f"{n!r}, " for n in sorted(self._objects))
            yield f"{self._inliner.called(_TREE, 'objects')}.update(dict.fromkeys(({known.rstrip()}), True))"
        if self._structures:
            yield renamed("\n".join(self._structures), names)


#: What generated code and :data:`_TEMPLATE` import.
_USUAL = {
    "torch": ("torch", ""),
    "F": ("torch.nn.functional", ""),
    "nn": ("torch", "nn"),
    "inf": ("math", "inf"),
    "nan": ("math", "nan"),
    "Path": ("pathlib", "Path"),
    "load_file": ("safetensors.torch", "load_file"),
}


def _called(code: str) -> set[str]:
    """The functions of the runtime that generated code calls."""
    attributes = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Attribute)]
    return {n.attr for n in attributes if isinstance(n.value, ast.Name) and n.value.id == "runtime"}


def _names_in(code: str) -> set[str]:
    """The names that code gives: classes, arguments, variables."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
    return found


def _made(part: Part, kind: type, named: Mapping[Any, tuple[str, str]]) -> str:
    """What makes a part, as source."""
    if part.source is not None:
        return named[kind][0]
    public = getattr(torch.nn, kind.__name__, None) is kind
    name = "Block" if kind is Block else f"nn.{kind.__name__}" if public else f"{kind.__module__}.{kind.__qualname__}"
    if not part.settings:
        return name
    return f"lambda: {name}({', '.join(f'{n}={literal(v)}' for n, v in part.settings)})"


def _state(module: torch.nn.Module, network: str) -> tuple[dict[str, tuple[str, str]], dict[str, Tensor]]:
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
    wide = [n for n, t in tensors.items() if t.dtype is torch.complex128]
    if wide:
        raise UnsupportedError(f"{network}: safetensors has no complex128, which {', '.join(map(shown, wide[:5]))} has")
    return state, tensors


def _listed(items: Iterable[str], brackets: str) -> str:
    """A literal with one item a line."""
    return "".join([brackets[0], "\n", *[f"    {item},\n" for item in items], brackets[1]])


def _stand_in(name: str, thing: Any, what: str) -> str | None:
    """A class for what a network returns in a class of another library: the same names at the same places.

    None for what isn't a dataclass that is a mapping too.
    """
    if not (isinstance(thing, type) and issubclass(thing, dict) and dataclasses.is_dataclass(thing)):
        return None
    names = tuple(f.name for f in dataclasses.fields(thing))
    if not hasattr(thing, "to_tuple") or not names or not all(map(is_attribute, names)):
        return None
    return _OUTPUT.format(name=name, what=shown(what), first=names[0], fields=literal(names))


def _known_object(tree: Tree) -> list[str]:
    bases = [f"{base.__module__}.{base.__qualname__}" for base in container_of(tree).__mro__]
    return [n for n in bases if n in objects][:1]


def _walk(tree: Tree) -> Iterator[Tree]:
    yield tree
    for child in tree.children:
        yield from _walk(child)


def _tree(tree: Tree) -> str:
    """A structure as source."""
    children = "".join(f"{_tree(child)}, " for child in tree.children).strip()
    kind, keys, type_, constant = map(literal, (tree.kind, tree.keys, tree.type, tree.constant))
    return f"Tree({kind}, {keys}, ({children}), {type_}, {constant})"
