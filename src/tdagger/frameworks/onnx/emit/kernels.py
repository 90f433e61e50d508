"""The element types that onnxruntime's kernels take on a CPU, by operator, and which one stands in for another.

Asked of onnxruntime 1.32 (``get_all_opkernel_def``) for operator sets 18 to 25. An operator that isn't in the table
takes everything that ONNX lets it. onnxruntime itself computes f16 in f32 where it has no kernel of f16, and rounds
once, so f16 goes wherever f32 does; of bf16 it doesn't, so casts are written.
"""

from __future__ import annotations

from tdagger.errors import UnsupportedError
from tdagger.types import DType

_INTS = "i8 i16 i32 i64 u8 u16 u32 u64"
_NUMBERS = f"f32 f64 {_INTS}"
_ALL = f"bf16 bool {_NUMBERS}"

#: Element types, and the operators that take these.
_ROWS: tuple[tuple[str, str], ...] = (
    (_NUMBERS, "Abs Add Div Mul Sub Greater GreaterOrEqual Less LessOrEqual Mod"),
    ("f32", "Acos Acosh Asin Asinh Atan Atanh Cosh Sinh Tan Erf Gelu Elu Selu LeakyRelu HardSigmoid Softsign Softplus"),
    ("f32", "PRelu Conv ConvTranspose AveragePool GlobalAveragePool InstanceNormalization LRN LSTM GRU RNN Celu"),
    ("f32", "HardSwish Col2Im"),
    ("f32 f64", "Ceil Floor Round Cos Sin Exp Log Sqrt Reciprocal Sigmoid Tanh Softmax LogSoftmax BatchNormalization"),
    ("f32 f64", "Gemm GridSample DFT RMSNormalization"),
    (_INTS, "BitwiseAnd BitwiseNot BitwiseOr BitwiseXor"),
    ("u8 u16 u32 u64", "BitShift"),
    ("f32 bf16", "LayerNormalization"),  # of f64 it makes the statistics in f32
    ("f32 f64 i8 i16 i32 i64", "Neg"),
    (f"bf16 {_NUMBERS}", "Sign"),
    ("f32 f64 i8 i32", "Relu"),
    ("f32 f64 i8 u8 i32 i64", "ArgMax ArgMin"),
    ("f32 f64 i8 u8 i32 u32 i64 u64", "Clip Max Min"),
    ("f32 f64 i32 i64", "CumSum Einsum Pow ReduceMean ReduceSum ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp"),
    (f"bool {_NUMBERS}", "Equal Expand Tile"),
    ("f32 f64 i32 u32 i64 u64", "MatMul"),
    ("f32 f64 i8 u8", "MaxPool DepthToSpace"),
    ("bool f32 f64 i8 u8 i32 u32 i64 u64", "Pad"),
    ("f32 f64 i16 i32 i64", "Range"),
    ("bool f32 f64 i8 u8 i32 i64", "ReduceMax ReduceMin"),
    ("f32 i8 u8 i32", "Resize"),
    ("f32 f64 i8 i16 i32 i64 u8", "TopK"),
    ("bool f32 f64 i32 i64", "Trilu"),
    ("f32 f64 i8 i32 i64 u8 u32", "Where"),
    (_ALL, "Concat Gather GatherElements GatherND ScatterElements ScatterND Slice Transpose Reshape Squeeze"),
    (_ALL, "Unsqueeze Split"),
)
_TAKES: dict[str, frozenset[str]] = {op: frozenset(types.split()) for types, ops in _ROWS for op in ops.split()}
#: Operators that ONNX itself has of f32 alone.
_ALONE = frozenset({"Celu"})

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
