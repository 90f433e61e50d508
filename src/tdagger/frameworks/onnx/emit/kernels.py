"""The element types that onnxruntime's kernels take on a CPU, by operator, and which one stands in for another.

Asked of onnxruntime 1.32 (``get_all_opkernel_def``) for operator sets 18 to 25. An operator that isn't in the table
takes everything that ONNX lets it. onnxruntime itself computes f16 in f32 where it has no kernel of f16, and rounds
once, so f16 goes wherever f32 does; of bf16 it doesn't, so casts are written.
"""

from __future__ import annotations

from tdagger.errors import UnsupportedError
from tdagger.types import DType

_F, _FD = "f32", "f32 f64"
_INTS = "i8 i16 i32 i64 u8 u16 u32 u64"
_NUMBERS = f"{_FD} {_INTS}"
_ALL = f"bf16 bool {_NUMBERS}"

#: Operator to the element types that it takes.
KERNELS: dict[str, str] = {
    **dict.fromkeys(["Abs", "Add", "Div", "Mul", "Sub", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"], _NUMBERS),
    **dict.fromkeys(
        ["Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh", "Sinh", "Tan", "Erf", "Gelu", "Elu", "Selu", "LeakyRelu", "HardSigmoid", "Softsign", "Softplus", "PRelu", "Conv", "ConvTranspose", "AveragePool", "GlobalAveragePool", "InstanceNormalization", "LRN", "LSTM", "GRU", "RNN", "Celu", "HardSwish", "Col2Im"],
        _F,
    ),
    **dict.fromkeys(
        ["Ceil", "Floor", "Round", "Cos", "Sin", "Exp", "Log", "Sqrt", "Reciprocal", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "BatchNormalization", "Gemm", "GridSample", "DFT", "RMSNormalization"],
        _FD,
    ),
    **dict.fromkeys(["BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"], _INTS),
    "BitShift": "u8 u16 u32 u64",
    "LayerNormalization": "f32 bf16",  # of f64 it makes the statistics in f32
    "Neg": "f32 f64 i8 i16 i32 i64",
    "Sign": f"bf16 {_NUMBERS}",
    "Relu": "f32 f64 i8 i32",
    "ArgMax": "f32 f64 i8 u8 i32 i64",
    "ArgMin": "f32 f64 i8 u8 i32 i64",
    "Clip": "f32 f64 i8 u8 i32 u32 i64 u64",
    "Max": "f32 f64 i8 u8 i32 u32 i64 u64",
    "Min": "f32 f64 i8 u8 i32 u32 i64 u64",
    "CumSum": "f32 f64 i32 i64",
    "Einsum": "f32 f64 i32 i64",
    "Equal": f"bool {_NUMBERS}",
    "Expand": f"bool {_NUMBERS}",
    "MatMul": "f32 f64 i32 u32 i64 u64",
    "MaxPool": "f32 f64 i8 u8",
    "Mod": _NUMBERS,
    "Pad": "bool f32 f64 i8 u8 i32 u32 i64 u64",
    "Pow": "f32 f64 i32 i64",
    "Range": "f32 f64 i16 i32 i64",
    "ReduceMax": "bool f32 f64 i8 u8 i32 i64",
    "ReduceMin": "bool f32 f64 i8 u8 i32 i64",
    **dict.fromkeys(["ReduceMean", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp"], "f32 f64 i32 i64"),
    "Resize": "f32 i8 u8 i32",
    "Tile": f"bool {_NUMBERS}",
    "TopK": "f32 f64 i8 i16 i32 i64 u8",
    "Trilu": "bool f32 f64 i32 i64",
    "Where": "f32 f64 i8 i32 i64 u8 u32",
    "DepthToSpace": "f32 f64 i8 u8",
    **dict.fromkeys(["Concat", "Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Slice", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Split"], _ALL),
}  # fmt: skip

#: What holds all numbers of a type, and wraps around as it does when cast back; the first that an operator takes.
_WIDER: dict[str, str] = {
    "bool": "u8 i8 i32 i64 f32",
    "i8": "i16 i32 i64 f32",
    "i16": "i32 i64 f32",
    "u8": "i16 i32 i64 f32",
    "u16": "i32 i64 u32 u64 f32",
    "i32": "i64 f64",
    "u32": "i64 u64 f64",
    "u64": "",
    "i64": "",
    "f16": "f32",
    "bf16": "f32",
    "f8e4m3": "f32",
    "f8e5m2": "f32",
    "f32": "f64",
    "f64": "",
}

#: Operators that ONNX itself has of f32 alone.
_ALONE = frozenset({"Celu"})
_TAKES: dict[str, frozenset[str]] = {op: frozenset(types.split()) for op, types in KERNELS.items()}


def takes(op: str, dtype: DType) -> bool:
    """Whether onnxruntime runs an operator on an element type as it is.

    >>> takes("Add", DType.of("f16")), takes("Add", DType.of("bf16"))
    (True, False)
    """
    found = _TAKES.get(op)
    if found is None:
        return (not dtype.is_complex and dtype.bytes != 1) or dtype.is_int
    return dtype.name in found or (dtype.name == "f16" and "f32" in found and op not in _ALONE)


def computed_in(op: str, dtype: DType, moves: bool = False) -> DType:
    """The element type an operator is run in for one it is asked for; UnsupportedError if there is none.

    ``moves``: the operator only moves entries, or works modulo the width, so that i64 stands in for u64.

    >>> computed_in("Where", DType.of("i16")), computed_in("Concat", DType.of("f8e5m2"))
    (i32, f32)
    """
    if takes(op, dtype):
        return dtype
    if dtype.is_complex:
        raise UnsupportedError("onnxruntime has no complex numbers")
    names = _WIDER[dtype.name].split() + (["i64"] if moves and dtype.name == "u64" else [])
    for name in names:
        if takes(op, DType.of(name)):
            return DType.of(name)
    raise UnsupportedError(f"onnxruntime has no {op} of {dtype}")
