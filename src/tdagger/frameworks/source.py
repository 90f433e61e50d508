"""A SOURCE is where a network comes from, as one writes it on a command line.

- a file: ``.tdag`` (tdagger's own), ``.onnx``, ``.mlpackage`` or ``.mlmodel`` (CoreML), ``.tflite`` (also one in a
  bundle, ``hand.task/detector.tflite``, or a ``.task`` with one model), ``.pt2`` (torch.export), ``.pt``, ``.pth`` or
  ``.ts`` (TorchScript);
- ``timm:NAME``, a timm model with random weights;
- ``transformers:CLASS``, a class of transformers from its default config, with random weights;
- ``package.module:callable``, a function or class that gives a module, ``(module, example inputs)``, a TensorDAG or a
  Program; or the module, network or program itself.

Reading a file never unpickles arbitrary objects. Only the last form runs code that isn't a library's: yours.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tdagger.errors import AttributeValueError, SourceError
from tdagger.frameworks.file import from_tdag
from tdagger.later import later
from tdagger.names import shown
from tdagger.op import Array
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.types import DType

#: How to get what is missing: the extra of tdagger that brings each package.
EXTRAS = {
    "torch": "torch", "timm": "zoo", "transformers": "zoo", "torchvision": "zoo", "onnx": "onnx",
    "ai_edge_litert": "tflite", "flatbuffers": "tflite",
}  # fmt: skip

#: What files a SOURCE can be.
SUFFIXES = (".tdag", ".onnx", ".mlpackage", ".mlmodel", ".tflite", ".task", ".pt2", ".pt", ".pth", ".ts")


@dataclass(frozen=True)
class InputSpec:
    """A shape asked for, and the element type if one was given."""

    shape: tuple[int, ...]
    dtype: DType | None = None


@dataclass(frozen=True)
class Options:
    """What may be said about a SOURCE besides its name.

    ``settings`` go to the function that builds the network; ``batch`` replaces the first size of every
    input, ``shapes`` gives or replaces whole inputs, ``dtype`` is for weights and floating-point inputs. With
    ``meta``, nothing has data: a network of any size is inspected without the memory for its weights. Of a transformers
    model, ``seq`` is the number of tokens, and ``past`` that of tokens before these, which come in as its cache.
    ``weights`` is a safetensors file with those of a ``.tdag``. ``sizes`` are asked for by the names of axes: they are
    also those that a file leaves open.
    """

    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    batch: int | None = None
    shapes: Mapping[str, InputSpec] = field(default_factory=dict[str, InputSpec])
    dtype: DType | None = None
    meta: bool = False
    seq: int | None = None
    past: int = 0
    weights: Path | None = None
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def given(self) -> list[str]:
        """The names of the options that were given."""
        named = {
            "--set": self.settings, "--batch": self.batch, "--shape": self.shapes, "--dtype": self.dtype,
            "--meta": self.meta, "--seq": self.seq, "--past": self.past, "--weights": self.weights,
        }  # fmt: skip
        return [name for name, value in named.items() if value]


class Source(Protocol):
    """A network or program that was loaded, with what is needed to import, run and compare it."""

    name: str

    @property
    def bound(self) -> Mapping[str, int]:
        """The sizes by name that the network has because the options say so: its file leaves them open."""
        ...

    def dag(self, external: bool = False) -> TensorDAG:
        """The network as a TDAG; with ``external``, ops that have no rule are kept as external ones.

        UnsupportedError if it is no network: its loops and branches depend on data.
        """
        ...

    def program(self) -> Program | None:
        """What is no network as a program; None if nothing makes one of it. UnsupportedError says what can't be."""
        ...

    def random_inputs(self, seed: int) -> Any:
        """Arguments of the network: normal floats, integers in their range, bools."""
        ...

    def run(self, inputs: Any) -> list[Array]:
        """The outputs of the network itself."""
        ...

    def run_round_trip(self, dag: TensorDAG | Program, inputs: Any) -> list[Array]:
        """The outputs of what the TDAG or program becomes in the network's own framework."""
        ...

    def run_reference(self, dag: TensorDAG | Program, inputs: Any) -> list[Array]:
        """The outputs of the TDAG or program, executed with numpy."""
        ...


def load(text: str, options: Options | None = None) -> Source:
    """The network of a SOURCE; SourceError if there is none, it can't be read, or reading it isn't safe."""
    options = options or Options()
    prefix, colon, rest = text.partition(":")
    if Path(text).suffix.lower() == ".tdag" and not (colon and prefix in ("timm", "transformers")):
        return from_tdag(Path(text), options)
    if options.weights is not None:
        raise SourceError(f"{shown(text)}: --weights is for .tdag files, whose structure they fit")
    if Path(text).suffix.lower() == ".onnx" and not (colon and prefix in ("timm", "transformers")):
        require("onnx")
        return later("onnx.source")(Path(text), options)
    if Path(text).suffix.lower() in (".tflite", ".task") and not (colon and prefix in ("timm", "transformers")):
        require("flatbuffers")
        require("ai_edge_litert")
        return later("tflite.source")(Path(text), options)
    if Path(text).suffix.lower() in (".mlpackage", ".mlmodel") and not (colon and prefix in ("timm", "transformers")):
        return later("coreml.source")(Path(text), options)
    require("torch")
    builders = later("torch.source")
    if (options.seq or options.past) and prefix != "transformers":
        raise SourceError(f"{text}: --seq and --past are for transformers:CLASS")
    if prefix in ("timm", "transformers") and colon:
        if not rest:
            raise SourceError(f"{text}: name a {'model' if prefix == 'timm' else 'class'} after the colon")
        build = builders.from_timm if prefix == "timm" else builders.from_transformers
        return build(rest, options)
    path = Path(text)
    if path.suffix.lower() in SUFFIXES or path.is_file():
        return builders.from_file(path, options)
    if colon and all(part.isidentifier() for part in (*prefix.split("."), *rest.split("."))):
        return builders.from_callable(prefix, rest, options)
    raise SourceError(
        f"{text!r} is not a SOURCE: give a file ({', '.join(SUFFIXES)}), timm:NAME, transformers:CLASS "
        "or package.module:callable"
    )


def save(dag: TensorDAG | Program, path: Path, form: str, options: Mapping[str, Any] | None = None) -> None:
    """Write a TDAG or program to ``path`` in a form of :data:`FORMS`; ``options`` are those of its exporter, or "meta".

    SourceError for forms that programs aren't written in.
    """
    if isinstance(dag, Program) and form not in OF_PROGRAMS:
        raise SourceError(
            f"{shown(path)}: {shown(dag.name)} is a program, written as {', '.join(OF_PROGRAMS)}, not as {form}"
        )
    if form == ".tdag":
        dag.save(path, weights="meta" not in (options or {}))
        return
    if form == ".onnx":
        require("onnx")
        dag.to_onnx(path, **(options or {}))
        return
    if form == ".tflite":
        require("flatbuffers")
        require("ai_edge_litert")
        dag.to_tflite(path, **(options or {}))
        return
    if form == ".mlpackage":
        dag.to_coreml(path, **(options or {}))
        return
    require("torch")
    later("torch.save")(dag, path, form)


#: What a network can be converted to, by suffix.
FORMS = {
    ".tdag": "tdagger's own",
    ".onnx": "ONNX",
    ".tflite": "TFLite",
    ".mlpackage": "CoreML",
    ".pt2": "an ExportedProgram",
    ".pt": "TorchScript",
    ".ts": "TorchScript",
    ".py": "Python source",
}

#: Those that a program can be converted to.
OF_PROGRAMS = (".tdag", ".onnx", ".tflite", ".mlpackage", ".pt2", ".pt", ".ts")


def require(package: str) -> Any:
    """A package, imported; SourceError says how to get it if it is missing."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as e:
        if e.name != package:
            raise
        extra = EXTRAS[package]
        raise SourceError(f"{package} is not installed: pip install 'tdagger[{extra}]'") from None


def parse_setting(text: str) -> tuple[str, Any]:
    """``key=value`` of ``--set``; the value is a Python literal, true, false, null, or else a string.

    >>> parse_setting("layers=2"), parse_setting("act=gelu"), parse_setting("sizes=[1, 2]")
    (('layers', 2), ('act', 'gelu'), ('sizes', [1, 2]))
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise AttributeValueError(f"--set takes key=value, got {text!r}")
    words = {"true": True, "false": False, "null": None, "none": None}
    if value.lower() in words:
        return key, words[value.lower()]
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def parse_shape(text: str) -> tuple[str, InputSpec]:
    """``name=sizes`` of ``--shape``, with an element type in front of the sizes if wanted.

    >>> parse_shape("x=1,3,224,224"), parse_shape("ids=i64:1,16")
    (('x', InputSpec(shape=(1, 3, 224, 224), dtype=None)), ('ids', InputSpec(shape=(1, 16), dtype=i64)))
    """
    name, equals, value = text.partition("=")
    dtype, colon, sizes = value.rpartition(":")
    try:
        shape = tuple(int(n) for n in sizes.replace("x", ",").split(",") if n.strip())
    except ValueError:
        shape = (-1,)
    if not equals or not name or any(n < 0 for n in shape):
        raise AttributeValueError(f"--shape takes name=1,3,224,224 or name=i64:1,16, got {text!r}")
    return name, InputSpec(shape, DType.of(dtype) if colon else None)


def nearest(name: str, names: Iterable[str]) -> str:
    """``; did you mean ...`` with the names most like ``name``, nothing if none is."""
    import difflib

    by_lower = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=4, cutoff=0.6)
    return f"; did you mean {', '.join(by_lower[c] for c in close)}?" if close else ""


def named_object(module: str, path: str) -> Any:
    """What is called ``module:path``, of modules in the current folder too; SourceError if there is nothing."""
    name = f"{module}:{path}"
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise SourceError(f"{name}: there is no module {e.name!r} here or on the Python path") from e
    for step in path.split("."):
        if not hasattr(found, step):
            raise SourceError(f"{name}: {step!r} is not in {module}{nearest(step, dir(found))}")
        found = getattr(found, step)
    return found
