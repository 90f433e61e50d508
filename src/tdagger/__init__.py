"""tdagger: neural networks as tensor directed acyclic graphs over about twenty core operations.

>>> import tdagger as td
>>> x = td.input("x", (2, 3))
>>> td.softmax(x, axis=-1).type
f32[2 3]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdagger import debug, layers, library
from tdagger.composite import Composite, composite, composites
from tdagger.errors import (
    AttributeValueError,
    AxisError,
    FileError,
    GraphError,
    InputError,
    NoInverseError,
    SourceError,
    TDaggerError,
    TypeMismatchError,
    UnsupportedError,
)
from tdagger.graph import Graph, bulk, op_counts, rebuild
from tdagger.interpreter import Interpreter
from tdagger.later import later
from tdagger.layers import network
from tdagger.library import *  # noqa: F403  # pyright: ignore[reportAssignmentType]
from tdagger.op import Op, Value, core_ops
from tdagger.ops import *  # noqa: F403
from tdagger.ops import __all__ as _ops
from tdagger.program.define import bounded, length, program, upto
from tdagger.program.generate import generate_program
from tdagger.program.program import Program
from tdagger.program.sampling import top_k
from tdagger.program.write import if_, set_state, state, switch, while_loop
from tdagger.program.write import scan as scan  # also the op of that name
from tdagger.tensordag import Origin, TensorDAG
from tdagger.transform import passes
from tdagger.transform.diff.words import Diff
from tdagger.transform.passes import Pipeline
from tdagger.transform.rewrite import Rule, rule
from tdagger.types import DType, TensorType
from tdagger.view.text import show

if TYPE_CHECKING:
    import torch

#: The name the first documents gave it.
SafeDAG = TensorDAG


def from_torch(
    model: Any,
    args: Any = (),
    kwargs: dict[str, Any] | None = None,
    *,
    axes: Mapping[str, str] | str | None = None,
    **options: Any,
) -> TensorDAG:
    """A TDAG of an ``nn.Module``, ExportedProgram, fx GraphModule or TorchScript module.

    ``args`` and ``kwargs`` are example inputs: a tensor, or a tuple of arguments as the model takes them.
    ``axes`` names the dimensions of inputs (``"b c h w"``, ``{"x": "b s c"}``), see :meth:`TensorDAG.axes`. See
    :func:`tdagger.frameworks.torch.importer.from_torch` for the options and errors.
    """
    return later("torch.from_torch")(model, args, kwargs, **options).with_axes(axes)


def from_torchscript(module: torch.jit.ScriptModule, args: Any = None, **options: Any) -> TensorDAG:
    """A TDAG of a TorchScript module; ``args`` may be left out if it was traced in this process."""
    return later("torch.from_torchscript")(module, args, **options)


def from_transformers(
    network: Any,
    *,
    batch: int = 1,
    seq: int | None = None,
    past: int = 0,
    dtype: str = "bf16",
    mask: bool = False,
    start: int | None = None,
    source: int | None = None,
    axes: Mapping[str, str] | str | None = None,
    **settings: Any,
) -> TensorDAG:
    """A TDAG of a transformers configuration, however large: it has no weights. Or of a model.

    ``from_transformers(LlamaConfig(), seq=2048)`` is a whole text of 2048 tokens;
    ``from_transformers(LlamaConfig(), past=4096)`` is one more token (``seq`` more) after 4096 others: keys and values
    of every layer are inputs (``past_key_values.0.keys`` ...), those with the new ones outputs, ``past`` is an axis.
    ``mask``: after ``past`` tokens it takes an ``attention_mask`` that says which of them count, and it
    (a ``decoder_attention_mask``, where the network has an encoder). ``start`` is with how many tokens a decoder
    begins, ``source`` how many its encoder read before them.
    ``dtype`` is that of the weights, ``settings`` are for the model: ``experts_implementation="batched_mm"``.
    SourceError if there is no model for the configuration, or it has no text or cache.
    """
    read = later("torch.from_transformers")
    return read(
        network, batch=batch, seq=seq, past=past, dtype=dtype, mask=mask, start=start, source=source, **settings
    ).with_axes(axes)


def from_coreml(model: Any, *, axes: Mapping[str, str] | str | None = None, **options: Any) -> TensorDAG:
    """A TDAG of a CoreML model: the path of an ``.mlpackage`` or ``.mlmodel``, a file's bytes, or a protobuf Model.

    ``inputs`` has shapes of inputs by name where the file leaves them open, ``function`` is one of a file of several;
    see :func:`tdagger.frameworks.coreml.importer.from_coreml`. ``axes`` as for :func:`from_torch`.
    """
    return later("coreml.from_coreml")(model, **options).with_axes(axes)


def from_onnx(model: Any, *, axes: Mapping[str, str] | str | None = None, **options: Any) -> TensorDAG:
    """A TDAG of an ONNX model: the path of a file, its bytes, or a ``ModelProto``.

    ``sizes`` are those of dimensions the file only names (``{"batch": 1}``), ``inputs`` whole shapes by the names of
    inputs; see :func:`tdagger.frameworks.onnx.importer.from_onnx`. ``axes`` as for :func:`from_torch`.
    """
    return later("onnx.from_onnx")(model, **options).with_axes(axes)


def from_tflite(model: Any, *, axes: Mapping[str, str] | str | None = None, **options: Any) -> TensorDAG:
    """A TDAG of a TFLite model: the path of a file (or into a bundle, ``hand.task/x.tflite``), or its bytes.

    ``sizes`` are those of dimensions that the file leaves open (``{"x.0": 8}``), ``inputs`` whole shapes, ``signature``
    the key of the one to import; see :func:`tdagger.frameworks.tflite.importer.from_tflite`. Loops on data are for
    :meth:`Program.from_tflite`. ``axes`` as for :func:`from_torch`.
    """
    return later("tflite.from_tflite")(model, **options).with_axes(axes)


def load(path: str | Path, *, weights: str | Path | None = None, classes: Iterable[type] = (), **options: Any) -> Any:
    """The TensorDAG in a ``.tdag`` file that :meth:`TensorDAG.save` wrote, or the :class:`Program` that its did.

    It can be a stranger's file.

    Nothing in it is run or imported, and types are inferred anew (docs/format.md). Weights are mapped: they take memory
    when they are used. ``weights`` is a safetensors file to take them from. ``classes`` are those that the network
    takes and gives (``CausalLMOutputWithPast``): others come as plain ones, dicts and namespaces. ``limits`` are
    :class:`tdagger.file.limits.Limits`. FileError says what can't be read, and where.
    """
    return later("load")(path, weights=weights, classes=classes, **options)


def parse(text: str, **options: Any) -> TensorDAG:
    """The network, without weights, of a text that :meth:`TensorDAG.text` gave, or that somebody changed.

    It is checked as a file is: FileError says which line can't be, or what in the network.

    >>> import tdagger as td
    >>> dag = td.layers.linear(4, 3)
    >>> td.parse(dag.text()).graph == dag.graph
    True
    """
    return later("parse")(text, **options)


def diff(
    a: Any,
    b: Any,
    inputs: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    structure: bool = False,
    runs: tuple[Any, Any] | None = None,
    seed: int = 0,
) -> Diff:
    """Two versions of a network compared: ``print(td.diff(a, b, x))`` says what differs, and where first.

    ``a`` and ``b`` are TensorDAGs or anything :func:`from_torch` takes, with ``inputs`` and ``kwargs`` as its example
    inputs. Both are run in float64 on these, tensors or arrays as A takes them, or on random ones, and the verdict is
    ``same``, ``rounding`` or ``different`` (docs/diff.md). ``structure`` runs nothing: only how they are written is
    compared. ``runs`` also compares what two executions give, of A and of B: ``"numpy"``, ``"torch"``, or a function of
    tensors such as a module. InputError if the networks take or give something else, UnsupportedError if an op can't be
    run.
    """
    return later("diff")(a, b, inputs, kwargs or {}, structure, runs, seed)


def distill(student: TensorDAG, teacher: TensorDAG, **options: Any) -> Any:
    """A torch module with a student that learns what a teacher computes; called with an input, it gives losses by name.

    Train ``parameters()`` (the student's, and of adapters where widths differ) on ``sum(losses.values())`` in a loop of
    your own; ``trained()`` is the student as a network. ``output``: "kl" (of softmaxes over the last dimension,
    softened by ``temperature``), "mse" or "none". ``taps``: paths of modules whose values are to be alike, those of the
    student mapped to the teacher's, or a list where they are the same; one dimension may differ, which a linear layer
    adapts. ``blocks``: paths of modules each of which is trained alone, run on what goes into the teacher's; they take
    and give the same types in both. AttributeValueError says which tap or block doesn't fit.

    >>> import torch, tdagger as td
    >>> teacher = td.layers.linear(4, 3)
    >>> pair = td.distill(td.layers.linear(4, 3, seed=1), teacher, output="mse")
    >>> {n: tuple(loss.shape) for n, loss in pair(torch.ones(1, 4)).items()}
    {'output': ()}
    """
    return later("torch.distill")(student, teacher, **options)


def prepare(dag: TensorDAG, scheme: Any = "x86", **options: Any) -> Any:
    """A network with observers where a target quantizes it: call it on data, then ``convert()``.

    ``scheme`` is a target's name or a :class:`tdagger.quantization.profile.Profile`; ``activation`` and ``weight`` are
    other :class:`~tdagger.quantization.profile.Numbers` (or the name of an element type) than its own, ``least``
    another number of products that are enough for a layer to be quantized whose result is read in float (0: all are).
    ``keep`` names ops, modules or weights that stay in float, with wildcards, or is a function of values. ``framework``
    runs it: torch or numpy. Norms are folded first. InputError where data has NaN or infinities, with the value, and
    for a network of which nothing is quantized. See docs/quantization.md.

    ``train=True``: ``prepared.to_torch()`` is a module that is quantized while it trains (biases aren't), in a loop of
    yours; ``prepared.convert()`` is the quantized network of what was trained. Batch norms are folded and have the
    statistics of batches in training; ranges follow weights and data, or scales are parameters: ``learn_scales=True``.

    >>> import numpy as np, tdagger as td
    >>> prepared = td.prepare(td.layers.linear(4, 3), framework="numpy")
    >>> prepared(np.float32([[1, 2, 3, 4]])).shape
    (1, 3)
    >>> sorted(prepared.convert().weights)
    ['bias', 'bias_scale', 'weight', 'weight_scale']
    """
    return later("prepare")(dag, scheme, **options)


def quantize(dag: Any, *args: Any, **options: Any) -> Any:
    """A network in numbers of few bits, ``quantize(dag, data=None, target="x86")``: data is run for the ranges of it.

    ``data`` is any iterable of what the network takes: one argument, a tuple of them or a dict of them by name.
    ``target``: x86, arm, onnxruntime, xnnpack, tflite, coreml, coreml-weight-only and gpu-weight-only (which need no
    data), or a Profile; the options are those of :func:`prepare`, ``rounding``
    (:data:`tdagger.quantization.weights.Rounding`) and ``correct``: biases are changed so that the means of channels
    stay, for which data is read twice. ``equalize`` makes weights alike across layers first, ``smooth`` channels of
    what goes into linear layers (the default where scales are found at run time and there is data); ``split`` takes
    outlying channels apart, into products in float; ``compensate`` (True or "adaptive") rounds weights so that the
    errors of some make up for those of others. ``target=dict(sqnr=30)`` keeps the ops in float that change most, as
    few as give results of so many dB; ``dict(drop=0.01)``, as few as leave all
    but so many choices (top 1) as they were, and with ``metric``, a function of a network, as few as leave that so near
    to the float network's. ``scheme`` then is the target.

    Of a value, it is the op of this name: :func:`tdagger.library.quantize`.

    >>> import numpy as np, tdagger as td
    >>> small = td.quantize(td.layers.linear(4, 3), [np.ones((1, 4), "f")], "x86")
    >>> small.weights["weight"].dtype, [v.op.name for v in small.values if v.args]
    (dtype('int8'), ['quantize', 'dequantize', 'dequantize', 'dequantize', 'linear'])
    """
    if isinstance(dag, TensorDAG):
        return later("quantize")(dag, *args, **options)
    return library.quantize(dag, *args, **options)


def dequantize(dag: Any, *args: Any, **options: Any) -> Any:
    """A network of quantized values back in float: weights as what their numbers stand for, activations not rounded.

    Of a value, it is the op of this name: :func:`tdagger.library.dequantize`.

    >>> import numpy as np, tdagger as td
    >>> small = td.quantize(td.layers.linear(4, 3), [np.ones((1, 4), "f")])
    >>> [v.op.name for v in td.dequantize(small).values]
    ['input', 'parameter', 'parameter', 'linear']
    """
    if isinstance(dag, TensorDAG):
        return later("dequantize")(dag, *args, **options)
    return library.dequantize(dag, *args, **options)


def sensitivity(dag: TensorDAG, data: Any, target: Any = "x86", **options: Any) -> Any:
    """What quantizing each op alone does to its result on data: a list, the worst first; docs/quantization.md.

    Each has ``value``, ``op``, ``module``, ``sqnr`` (dB, of the op's own result, rounded where the target rounds it)
    and the ``bytes`` of its weight. Data is read twice; the options are those of :func:`prepare`.

    >>> import numpy as np, tdagger as td
    >>> [found.op for found in td.sensitivity(td.layers.linear(4, 3), [np.ones((1, 4), "f")])]
    ['linear']
    """
    return later("sensitivity")(dag, data, target, **options)


__version__ = "0.1.0"

__all__ = [
    "AttributeValueError", "AxisError", "Composite", "DType", "Diff", "FileError", "Graph", "GraphError", "InputError",
    "Interpreter", "NoInverseError", "Op", "Origin", "Pipeline", "Program", "Rule", "SafeDAG", "SourceError",
    "TDaggerError", "TensorDAG", "TensorType", "TypeMismatchError", "UnsupportedError", "Value", "bounded", "bulk",
    "composite", "composites",
    "core_ops", "debug", "dequantize", "diff", "distill", "from_coreml", "from_onnx", "from_tflite", "from_torch",
    "from_torchscript", "from_transformers", "generate_program", "if_", "layers", "length", "load", "network",
    "op_counts", "parse", "passes", "prepare", "program", "quantize", "rebuild", "rule", "sensitivity", "set_state",
    "show", "state", "switch", "top_k", "upto", "while_loop", *_ops, *library.__all__,
]  # fmt: skip  # pyright: ignore[reportUnsupportedDunderAll]
