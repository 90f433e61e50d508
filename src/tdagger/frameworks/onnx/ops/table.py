"""The one table of rules for ONNX's operators, and what the rules are written with.

A rule is a function whose positional parameters are the operator's inputs, in the operator's order and by the names
of its specification, and whose keyword-only parameters are its attributes. An input that isn't given is None, so its
parameter has a default; one before inputs that have to be there says so by its annotation (``Value | None``). Inputs
arrive as values; those that have to be numbers say so by their annotation, and then it doesn't matter whether a version
of the operator has them as an input or as an attribute of that name::

    @rule("Squeeze")
    def squeeze(data: Value, axes: Ints | None = None) -> Value: ...

    @rule("Softmax", since=13)
    def softmax(input: Value, *, axis: int = -1) -> Value: ...

``since`` is the first version of the operator set that a rule is for; the rule with the highest one that isn't above
the file's is taken. A rule returns a value, or a tuple of as many as the operator has outputs (None for those that
aren't made). Four keyword-only parameters are no attributes: ``version`` (of the operator set), ``wanted`` (for each
output whether the node names it), ``draw`` (makes the seed of a random stream) and ``types`` (for each input the number
of its element type if it is one that is held in another one, :data:`tdagger.frameworks.onnx.file.tensors.HELD`, else
0). An attribute that a rule doesn't have is refused by name.

The specification's meaning is what counts; where onnxruntime differs, the rule says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tdagger.errors import UnsupportedError
from tdagger.op import Array

#: Annotations of inputs that have to be numbers: of any count, one integer, one number, an array.
Ints: TypeAlias = tuple[int, ...]
Int: TypeAlias = int
Floats: TypeAlias = tuple[float, ...]
Float: TypeAlias = float
Numbers: TypeAlias = Array
#: The annotation of inputs that are statistics rather than learned: a weight there is a buffer.
Statistic: TypeAlias = Any

#: What is made of the array of an input with each annotation.
_CONVERSIONS: dict[str, Callable[[Array], Any]] = {
    "Ints": lambda a: tuple([int(n) for n in a.reshape(-1)]),
    "Int": lambda a: int(a.reshape(-1)[0]),
    "Floats": lambda a: tuple([float(n) for n in a.reshape(-1)]),
    "Float": lambda a: float(np.asarray(a, np.float64).reshape(-1)[0]),
    "Numbers": lambda a: a,
}
_OWN = ("version", "wanted", "draw", "types")


class Parameter(NamedTuple):
    """An input of a rule: its name, how numbers are made of it (None: it is a value), whether it is a statistic."""

    name: str
    number: Callable[[Array], Any] | None
    statistic: bool
    optional: bool
    #: Whether it may be left out though others come after it that may not.
    skipped: bool


class OpRule(NamedTuple):
    """A rule with what its signature says."""

    function: Callable[..., Any]
    since: int
    inputs: tuple[Parameter, ...]
    #: Whether more inputs go to ``*args``, and what they are.
    rest: Parameter | None
    attributes: frozenset[str]
    own: tuple[str, ...]


#: (domain, operator) to its rules, the newest first. The domain of ONNX itself is "".
RULES: dict[tuple[str, str], list[OpRule]] = {}

MICROSOFT = "com.microsoft"

#: Why there is no rule where there is no other reason: then an operator's body may do.
NO_RULE = "there is no rule for it"
_STRINGS = "it works on strings, and tensors here hold numbers"
#: Operators of ONNX that have no rule, and why.
REASONS: dict[tuple[str, str], str] = {
    **{("", name): _STRINGS for name in ("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch")},
    ("", "ImageDecoder"): "it reads files of images: give the network the decoded image",
}  # fmt: skip
#: Operators of onnxruntime's own that have no rule, by why.
_CONTRIB_REASONS = {
    "it holds a network and writes a text with it: import that network, td.generate_program writes the loop":
        "BeamSearch GreedySearch Sampling WhisperBeamSearch",
    "its numbers lie in an order of the GPU's matrix units, which no text defines":
        "DequantizeWithOrder QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention "
        "QOrderedMatMul QuantizeWithOrder MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight GemmFloat8",
    "its cache is blocks of memory that a server hands out":
        "PagedAttention SparsePagedAttention PackedSparseAttentionIndexer PackedSparseAttentionIndexerMerge "
        "SparseAttentionIndexer DynamicSparseAttention ConvStateReplay GatedDeltaNetStateReplay Mamba2Verify "
        "SpeculativePrefixCommit VarlenCausalConvWithState GatherPacked",
    "it is a part of a network compiled for a device": "EPContext Snpe",
    "how many entries its result has depends on data": "RemovePadding BifurcationDetector",
    "it works on strings or their hashes": "Tokenizer MurmurHash3 NGramHashMapping VarlenNGramHashMapping",
    "it packs bits of what it drew, for training": "BitmaskBiasDropout BitmaskDropout",
    "it holds numbers in blocks of a format that onnxruntime has no kernel of": "DequantizeBFP QuantizeBFP",
    "its matrix is sparse, and tensors here are whole": "SparseToDenseMatMul SparseAttention",
    "it holds weights in the layout of one CPU's kernels": "MatMulFpQ4 MatMulPacked MatMulNBitsQLoRA",
    "the order of its table is nowhere said": "RelativePositionBias",
    "there is no rule for it, and no file is known that has it":
        "AttnLSTM CropAndResize DecoderAttention DecoderMaskedSelfAttention DynamicTimeWarping EngramGate "
        "GatedDeltaNet GemmaRotaryEmbedding HyperConnectionLowRankMix HyperConnectionPostMix HyperConnectionPreMix "
        "IsAllFinite LongformerAttention MaxpoolWithMask MoEGroupRouter "
        "MoEPacked NGramRepeatBlock RMSNormRotary RouterGateUpProj "
        "SampleOp WordConvEmbedding",
}  # fmt: skip
REASONS.update({(MICROSOFT, name): why for why, names in _CONTRIB_REASONS.items() for name in names.split()})


def why_not(domain: str, name: str) -> str:
    """Why an operator has no rule."""
    if domain == "ai.onnx.ml":
        return "operators of ai.onnx.ml (trees, linear models, tables of strings) aren't imported"
    if domain.startswith("ai.onnx.preview.training"):
        return "operators that train (gradients, optimizers) aren't imported: to_torch() gives a module that trains"
    if domain == f"{MICROSOFT}.nchwc":
        return (
            "its weights lie in blocks of the processor that onnxruntime optimised the file for, which no file says: "
            "optimise it at the level extended, not all"
        )
    return REASONS.get((domain, name), NO_RULE)


def rule(*names: str, since: int = 1, domain: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the rule of operators: ``@rule("Add", "Sum", since=7)``."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        made = _read(function, since)
        for name in names:
            rules = RULES.setdefault((domain, name), [])
            assert all(r.since != since for r in rules), f"{domain} {name} since {since} has two rules"
            rules.append(made)
            rules.sort(key=lambda r: -r.since)
        return function

    return register


def _read(function: Callable[..., Any], since: int) -> OpRule:
    inputs: list[Parameter] = []
    rest, attributes, own = None, set[str](), list[str]()
    for p in inspect.signature(function).parameters.values():
        kind = str(p.annotation).partition(" |")[0]
        made = Parameter(
            p.name, _CONVERSIONS.get(kind), kind == "Statistic", p.default is not p.empty, "| None" in str(p.annotation)
        )
        if p.kind is p.KEYWORD_ONLY:
            (own.append if p.name in _OWN else attributes.add)(p.name)
        elif p.kind is p.VAR_POSITIONAL:
            rest = made
        else:
            inputs.append(made)
            if made.number is not None:
                attributes.add(p.name)
    return OpRule(function, since, tuple(inputs), rest, frozenset(attributes), tuple(own))


def find(domain: str, name: str, version: int) -> OpRule | None:
    """The rule of an operator at a version of its operator set; None if there is none."""
    for found in RULES.get((domain, name), ()):
        if found.since <= version:
            return found
    return None


def unsupported(why: str) -> UnsupportedError:
    """An error for what an operator can't be imported with."""
    return UnsupportedError(why)
