"""Why operators without a rule have none, where that isn't just that nobody wrote it.

If, Loop, Scan and what has sequences or optionals need programs of several graphs, which a TDAG isn't.
"""

from __future__ import annotations

_FLOW = "control flow isn't imported: a TDAG has none of its own"
_SEQUENCE = "sequences of tensors aren't imported"
_OPTIONAL = "optional values aren't imported"
_STRING = "strings aren't imported: there is no such element type here"

#: By operator of ONNX's own set.
REASONS: dict[str, str] = {
    **dict.fromkeys(("If", "Loop", "Scan"), _FLOW),
    **dict.fromkeys(
        ("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
         "SequenceMap", "SplitToSequence", "ConcatFromSequence"),
        _SEQUENCE,
    ),
    **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), _OPTIONAL),
    **dict.fromkeys(
        ("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder"),
        _STRING,
    ),
}  # fmt: skip
#: By domain.
DOMAINS: dict[str, str] = {
    "ai.onnx.ml": "operators of ai.onnx.ml (trees, linear models, strings) aren't imported",
    "ai.onnx.preview.training": "operators that train aren't imported: a TDAG is what is trained",
    "ai.onnx.training": "operators that train aren't imported: a TDAG is what is trained",
}


def reason(op: str, domain: str) -> str:
    """Why there is no rule for an operator; "" if there just is none."""
    return DOMAINS.get(domain, "") if domain else REASONS.get(op, "")
