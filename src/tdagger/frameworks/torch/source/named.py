"""Networks of PyTorch by name: files, timm, transformers, and functions that build one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tdagger.errors import SourceError, TDaggerError
from tdagger.frameworks.file import FileSource
from tdagger.frameworks.source import Options, named_object, nearest, require
from tdagger.frameworks.torch import importer
from tdagger.frameworks.torch.aten.calls import array_of
from tdagger.frameworks.torch.capture.attributes import left_as_it_was
from tdagger.frameworks.torch.runtime import DTYPES
from tdagger.frameworks.torch.script.read import attributes_kept
from tdagger.frameworks.torch.source import archive, example, huggingface
from tdagger.names import shown
from tdagger.op import Array
from tdagger.program.program import Program
from tdagger.tensordag import TensorDAG
from tdagger.tree import flatten

#: What may decide by data in a script.
_CONTROL = ("prim::If", "prim::Loop")


@dataclass
class TorchSource:
    """A network of PyTorch with example arguments; see :class:`tdagger.frameworks.source.Source`.

    ``network`` is an ``nn.Module`` in eval mode, an ExportedProgram or a ScriptModule; ``names`` has one
    for each tensor of the arguments; ``vocabulary`` says by name below what an input's integers must be.
    """

    name: str
    network: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: list[str]
    vocabulary: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def bound(self) -> Mapping[str, int]:
        return {}

    @property
    def is_script(self) -> bool:
        """Whether it goes back as TorchScript."""
        return isinstance(self.network, torch.jit.ScriptModule)

    def dag(self, external: bool = False) -> TensorDAG:
        if self.is_script:
            return importer.from_torchscript(self.network, self.args, external=external, name=self.name)
        return importer.from_torch(self.network, self.args, self.kwargs, external=external, name=self.name)

    def program(self) -> Program | None:
        """The network as a program; ways that can't be imported are told (UserWarning), and a run raises there.

        Numbers of the arguments are settings, as they are in :meth:`dag`.
        """
        if not self.is_script:
            return Program.from_torch(self.network, self.args, self.kwargs, name=self.name)
        declared = [a.name for a in self.network.forward.schema.arguments[1:]]
        given = {**dict(zip(declared, self.args, strict=False)), **self.kwargs}
        fixed = [n for n, x in given.items() if not _is_tensor(x)]
        return Program.from_torchscript(self.network, self.args, self.kwargs, fixed=fixed, partial=True, name=self.name)

    def random_inputs(self, seed: int) -> example.Arguments:
        return example.random((self.args, self.kwargs), self.names, self.vocabulary, seed)

    def run(self, inputs: example.Arguments) -> list[Array]:
        program = isinstance(self.network, torch.export.ExportedProgram)
        return _outputs(self.network.module() if program else self.network, inputs)

    def run_round_trip(self, dag: TensorDAG | Program, inputs: example.Arguments) -> list[Array]:
        if not self.is_script:
            return _outputs(dag.to_torch().eval(), inputs)
        args, kwargs = inputs  # a script takes tensors, numbers are what it was made for
        tensors = {k: x for k, x in kwargs.items() if not isinstance(x, int | float | bool)}
        given = tuple([x for x in args if not isinstance(x, int | float | bool)])
        return _outputs(dag.to_torchscript(), (given, tensors))

    def run_reference(self, dag: TensorDAG | Program, inputs: example.Arguments) -> list[Array]:
        leaves, tree = flatten(inputs, _is_tensor)
        args, kwargs = tree.unflatten([_numpy(leaf) for leaf in leaves])
        return flatten(dag.run(*args, **kwargs), lambda v: not isinstance(v, Tensor) and hasattr(v, "dtype"))[0]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _outputs(module: Any, inputs: example.Arguments) -> list[Array]:
    """The outputs of a run, which the module begins as it was and leaves as it was: two may share their buffers."""
    args, kwargs = inputs
    is_script = isinstance(module, torch.jit.ScriptModule)
    own = attributes_kept(module) if is_script else contextlib.nullcontext()
    with torch.no_grad(), left_as_it_was(module, parameters=True), own:
        leaves, _ = flatten(module(*args, **kwargs), _is_tensor, "the result", result=True)
        return [_numpy(leaf).copy() for leaf in leaves]  # a result may be a buffer


def _numpy(tensor: Tensor) -> Array:
    return array_of(tensor.detach().contiguous())


# --- building ----------------------------------------------------------------------------------------------


def _ready(name: str, module: nn.Module, arguments: example.Arguments, options: Options, **more: Any) -> TorchSource:
    """A module in eval mode with its example inputs as the options want them."""
    module = module.eval()
    if options.meta:
        module = module.to("meta")
    if options.dtype is not None:
        module = module.to(DTYPES[options.dtype.name])
    parameters = example.parameters_of(module.forward)
    args, kwargs = example.reshaped(name, arguments, parameters, options)
    if not flatten((args, kwargs), _is_tensor)[0]:
        shown = ", ".join(parameters) or "nothing by name"
        hint = f"--shape {(parameters or ['x'])[0]}=1,3,224,224"
        raise SourceError(f"{name} comes without example inputs (it takes {shown}); give their shapes: {hint}")
    if options.meta:
        leaves, tree = flatten((args, kwargs), _is_tensor)
        args, kwargs = tree.unflatten([leaf.to("meta") for leaf in leaves])
    return TorchSource(name, module, args, kwargs, example.names_of(args, kwargs, parameters), **more)


def from_timm(name: str, options: Options) -> TorchSource:
    """A timm model with random weights, at its default input size; SourceError suggests names."""
    timm = require("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise SourceError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    torch.manual_seed(0)
    with huggingface.explained(f"timm:{name}"), _device(options):
        model = timm.create_model(name, pretrained=False, **options.settings)
    channels, *sides = timm.data.resolve_model_data_config(model)["input_size"]
    size = options.settings.get("img_size", sides)
    sides = [size, size] if isinstance(size, int) else list(size)
    example_input = torch.zeros(1, options.settings.get("in_chans", channels), *sides)
    return _ready(name, model, ((example_input,), {}), options)


def from_transformers(name: str, options: Options) -> TorchSource:
    """A transformers model of class ``name`` from its default config, with random weights."""
    transformers = require("transformers")
    transformers.logging.set_verbosity_error()
    found = getattr(transformers, name, None)
    if found is None:
        raise SourceError(f"transformers has no class {name!r}{nearest(name, dir(transformers))}")
    if getattr(found, "config_class", None) is None:
        raise SourceError(f"transformers:{name} is no model with a config; name a model class, like BertModel")
    torch.manual_seed(0)
    with huggingface.explained(f"transformers:{name}"), _device(options):
        model = found(_config(name, found.config_class, options))
    inputs, vocabulary = _inputs(model, options)
    return _ready(name, model, ((), inputs), options, vocabulary=vocabulary)


def _inputs(model: Any, options: Options) -> tuple[dict[str, Any], dict[str, int]]:
    """What can be made up for a model; nothing where that is not all, and inputs are asked for by shape."""
    try:
        return huggingface.inputs_for(model.eval(), options.shapes, options.seq, options.past)
    except SourceError:
        if not options.shapes or options.seq or options.past:
            raise
        return {}, {}


def _config(name: str, kind: Any, options: Options) -> Any:
    """The default config with the settings; ``text_config.layers=2`` sets a field of a part."""
    plain = {k: v for k, v in options.settings.items() if "." not in k}
    default = kind()
    for key in options.settings:
        part = default
        for step in key.split("."):
            if not hasattr(part, step):
                raise SourceError(f"the config of transformers:{name} has no {key!r}{nearest(step, dir(part))}")
            part = getattr(part, step)
    config = kind(**plain)
    for key in options.settings.keys() - plain.keys():
        *path, last = key.split(".")
        part = config
        for step in path:
            part = getattr(part, step)
        setattr(part, last, options.settings[key])
    return config


def from_callable(module: str, path: str, options: Options) -> TorchSource | FileSource:
    """What a function of the user's gives: a module, ``(module, example inputs)``, or what tdagger made itself."""
    name = f"{module}:{path}"
    found = named_object(module, path)
    if not isinstance(found, nn.Module | TensorDAG | Program):
        torch.manual_seed(0)
        with huggingface.explained(name), _device(options):
            found = found(**options.settings)
    if isinstance(found, TensorDAG | Program):
        if options.given:
            raise SourceError(f"{name} is a network of tdagger's, {options.given[0]} can't change it (--resize can)")
        return FileSource(found.name, found)
    network, given = found if isinstance(found, tuple) and len(found) == 2 else (found, ())
    if not isinstance(network, nn.Module):
        raise SourceError(
            f"{name} gave a {type(network).__name__}, not an nn.Module, (module, example inputs), a TensorDAG or a "
            "Program"
        )
    return _ready(name, network, _arguments(given), options)


def _arguments(given: Any) -> example.Arguments:
    if isinstance(given, dict):
        return (), given
    if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[1], dict):
        return tuple(given[0]), given[1]
    return (tuple(given) if isinstance(given, tuple | list) else (given,)), {}


def from_file(path: Path, options: Options) -> TorchSource:
    """The program or TorchScript module in a file, never a pickle; see :mod:`.archive`."""
    network = archive.load(path)
    try:
        return _of_file(path, network, options)
    except TDaggerError:
        raise
    except Exception as e:  # a file torch could read, but whose network says of itself what can't be
        raise SourceError(f"{shown(path)}: what it holds can't be used: {type(e).__name__}: {e}") from e


def _of_file(path: Path, network: Any, options: Options) -> TorchSource:
    if isinstance(network, torch.export.ExportedProgram):
        if options.given:
            raise SourceError(f"{shown(path)}: an exported program is fixed, {options.given[0]} can't change it")
        return TorchSource(path.stem, network, *_program_inputs(network))
    declared = network.forward.schema.arguments[1:]
    parameters = [a.name for a in declared]
    numbers = {a.name for a in declared if "Tensor" not in str(a.type)}
    if options.dtype or options.meta or not set(options.settings) <= numbers:
        raise SourceError(f"{shown(path)}: --set, --dtype and --meta can't change a TorchScript file")
    network.eval()
    known = {**_traced(network, parameters), **options.settings}
    args, kwargs = example.reshaped(str(path), ((), known), parameters, options)
    needed = [a.name for a in network.forward.schema.arguments[1:] if not a.has_default_value()]
    missing = needed[len(args) :] if not kwargs else [n for n in needed if n not in kwargs]
    if missing:
        asked = " ".join(f"{'--set' if n in numbers else '--shape'} {shown(n)}=..." for n in missing)
        raise SourceError(f"{shown(path)} doesn't say the shapes of its inputs; give them: {asked}")
    return TorchSource(path.stem, network, args, kwargs, example.names_of(args, kwargs, parameters))


def _program_inputs(
    program: torch.export.ExportedProgram,
) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
    if program.example_inputs is None:
        raise SourceError("the exported program was saved without its example inputs; save it again with them")
    args, kwargs = program.example_inputs
    return tuple(args), dict(kwargs), example.names_of(tuple(args), kwargs, [])


def _traced(network: torch.jit.ScriptModule, parameters: list[str]) -> dict[str, Tensor]:
    """The inputs of a traced module, by the shapes its graph holds."""
    found: dict[str, Tensor] = {}
    for name, value in zip(parameters, list(network.graph.inputs())[1:], strict=True):
        kind: Any = value.type()
        sizes = kind.sizes() if isinstance(kind, torch._C.TensorType) else None
        if sizes is not None:
            found[name] = torch.zeros(sizes, dtype=kind.dtype())
    return found


def _device(options: Options) -> Any:
    """Where new tensors are made inside ``with``."""
    return torch.device("meta") if options.meta else contextlib.nullcontext()
