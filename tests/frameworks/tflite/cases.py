"""A model of one operator with random attributes, for every builtin that computes numbers (see test_operators)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.frameworks.tflite.schema import DTYPES
from tests.frameworks.tflite.build import KINDS, Build

Rng = np.random.Generator


class Case(NamedTuple):
    """A model and inputs; how far results may be apart, and which runtime says what is right."""

    model: bytes
    inputs: list[np.ndarray]
    tolerance: float = 1e-5
    engine: str = "NOX"


#: Makers of cases by what they are called: the operator, and a variant of it.
CASES: dict[str, Callable[[Rng], Case]] = {}


def case(*names: str) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    """Register a maker; of several names it gets the one that it is called for."""

    def register(function: Callable[..., Case]) -> Callable[..., Case]:
        for name in names:
            assert name not in CASES, name
            CASES[name] = function if len(names) == 1 else (lambda rng, n=name: function(rng, n))
        return function

    return register


def numbers(rng: Rng, shape: Any, dtype: str = "f32", low: int = -8, high: int = 8) -> np.ndarray:
    """Random entries; integers from low to high."""
    kind = DTYPES[KINDS[dtype]].numpy
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype == "c64":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(kind)
    return rng.standard_normal(shape).astype(kind) if dtype[0] in "fb" else rng.integers(low, high, shape).astype(kind)


def shape_of(rng: Rng, low: int = 1, high: int = 4, sizes: int = 5) -> tuple[int, ...]:
    """A random shape of low to high axes."""
    return tuple(int(n) for n in rng.integers(1, sizes + 1, rng.integers(low, high + 1)))


def one(
    op: str, inputs: list[Any], out: Any, tolerance: float = 1e-5, engine: str = "NOX", custom: bytes = b"",
    **options: Any,
) -> Case:  # fmt: skip
    """A model of one operator. An input is an array, a Given or None; ``out`` has (dtype, quantization) of each."""
    b = Build()
    places, arrays = [], []
    for x in inputs:
        if x is None:
            places.append(-1)
            continue
        own = x if isinstance(x, Given) else Given(x, False, {})
        if own.fixed:
            places.append(b.const(own.array, **own.said))
        else:
            dtype = next(n for n, k in KINDS.items() if DTYPES[k].numpy == own.array.dtype)
            places.append(b.input(own.array.shape, dtype, **own.said))
            arrays.append(own.array)
    outs = [b.tensor((), o) if isinstance(o, str) else b.tensor((), o[0], **o[1]) for o in out]
    b.op(op, places, outs, custom, **options)
    b.output(*outs)
    return Case(b.bytes(), arrays, tolerance, engine)


class Given(NamedTuple):
    """An input: constant or not, and how it is quantized."""

    array: np.ndarray
    fixed: bool
    said: dict[str, Any]


def const(x: Any, dtype: Any = None, **said: Any) -> Given:
    """A constant input."""
    return Given(np.asarray(x) if dtype is None else np.asarray(x, dtype), True, said)


def ints(x: Any) -> Given:
    """A constant input of i32."""
    return Given(np.asarray(x, np.int32), True, {})


def quantized(rng: Rng, shape: Any, dtype: str = "i8", scale: float | None = None, zero: int | None = None) -> Given:
    """A quantized input, with its scale and zero point."""
    info = np.iinfo(DTYPES[KINDS[dtype]].numpy)
    zero = int(rng.integers(-20, 20)) + (128 if dtype == "u8" else 0) if zero is None else zero
    scale = float(rng.uniform(0.01, 0.1)) if scale is None else scale
    array = rng.integers(max(info.min, -4000), min(info.max, 4000) + 1, shape).astype(info.dtype)
    return Given(array, False, {"scale": scale, "zero": 0 if dtype == "i16" else zero})


def q(dtype: str, scale: float, zero: int = 0) -> tuple[str, dict[str, Any]]:
    """A quantized result."""
    return dtype, {"scale": scale, "zero": zero}


ACTIVATION = s.ActivationFunctionType
FUSED = (0, 0, 1, 2, 3)  # NONE twice, RELU, RELU_N1_TO_1, RELU6

# --- elementwise -------------------------------------------------------------------------------------------


@case("ABS", "NEG", "SIN", "COS", "EXP", "FLOOR", "LOGISTIC", "TANH", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1",
      "HARD_SWISH", "SQUARE", "SIGN")  # fmt: skip
def unary(rng: Rng, op: str) -> Case:
    return one(op, [numbers(rng, shape_of(rng)) * 3], ["f32"], 2e-6)


@case("CEIL", "ROUND", "ELU")
def unary_default(rng: Rng, op: str) -> Case:
    return one(op, [numbers(rng, shape_of(rng)) * 3], ["f32"], 2e-6)


@case("LOG", "SQRT", "RSQRT")
def positive(rng: Rng, op: str) -> Case:
    return one(op, [np.abs(numbers(rng, shape_of(rng))) + 0.01], ["f32"], 2e-6)


@case("GELU")
def gelu(rng: Rng) -> Case:
    return one("GELU", [numbers(rng, shape_of(rng)) * 3], ["f32"], 2e-6, approximate=bool(rng.integers(2)))


@case("LEAKY_RELU")
def leaky_relu(rng: Rng) -> Case:
    return one("LEAKY_RELU", [numbers(rng, shape_of(rng))], ["f32"], alpha=float(rng.uniform(0, 1)))


@case("PRELU")
def prelu(rng: Rng) -> Case:
    x = numbers(rng, (2, 3, 4, 5))
    slope = numbers(rng, [(1, 1, 5), (5,), (3, 4, 5), (1, 4, 1)][rng.integers(4)])
    return one("PRELU", [x, const(slope)], ["f32"])


@case("ADD", "SUB", "MUL", "DIV")
def arithmetic(rng: Rng, op: str) -> Case:
    x, y = _broadcast(rng)
    return one(op, [x, y], ["f32"], fusedActivationFunction=FUSED[rng.integers(5)])


def _broadcast(rng: Rng, dtype: str = "f32", low: int = -8, high: int = 8) -> tuple[np.ndarray, np.ndarray]:
    shape = shape_of(rng, 2, 4)
    other = tuple(n if rng.integers(2) else 1 for n in shape)[rng.integers(0, len(shape)) :]
    x, y = numbers(rng, shape, dtype, low, high), numbers(rng, other, dtype, low, high)
    return (x, y) if rng.integers(2) else (y, x)


@case("ADD i32", "SUB i32", "MUL i32", "MAXIMUM i32", "MINIMUM i32")
def arithmetic_int(rng: Rng, name: str) -> Case:
    x, y = _broadcast(rng, "i32")
    options = {} if name[0] == "M" and name[1] != "U" else {"fusedActivationFunction": FUSED[rng.integers(5)]}
    return one(name.split()[0], [x, y], ["i32"], 0, **options)


@case("DIV i32", "FLOOR_DIV i32", "FLOOR_MOD i32")
def division_int(rng: Rng, name: str) -> Case:
    x, y = _broadcast(rng, "i32")
    return one(name.split()[0], [x, np.where(y == 0, 3, y).astype(np.int32)], ["i32"], 0)


@case("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "FLOOR_MOD", "FLOOR_DIV", "ATAN2")
def binary(rng: Rng, op: str) -> Case:
    x, y = _broadcast(rng)
    if op == "ATAN2":
        y = numbers(rng, x.shape)
    return one(op, [x, y], ["f32"])


@case("POW")
def power(rng: Rng) -> Case:
    x, y = _broadcast(rng)
    return one("POW", [np.abs(x) + 0.1, y], ["f32"])


@case("POW i32")
def power_int(rng: Rng) -> Case:
    x, y = _broadcast(rng, "i32", 0, 4)
    return one("POW", [x, y], ["i32"], 0)


@case("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
def comparison(rng: Rng, op: str) -> Case:
    dtype = ["f32", "i32", "i64"][rng.integers(3)]
    x, y = _broadcast(rng, dtype, -2, 2)
    return one(op, [np.round(x).astype(x.dtype), np.round(y).astype(y.dtype)], ["bool"], 0)


@case("LOGICAL_AND", "LOGICAL_OR")
def logical(rng: Rng, op: str) -> Case:
    x, y = _broadcast(rng, "bool")
    return one(op, [x, y], ["bool"], 0)


@case("LOGICAL_NOT")
def logical_not(rng: Rng) -> Case:
    return one("LOGICAL_NOT", [numbers(rng, shape_of(rng), "bool")], ["bool"], 0)


@case("BITWISE_XOR", "RIGHT_SHIFT")
def bits(rng: Rng, op: str) -> Case:
    dtype = ["i8", "i16", "i32", "u8"][rng.integers(4)]
    low = 0 if dtype == "u8" else -100
    x = numbers(rng, shape_of(rng), dtype, low, 100)
    y = numbers(rng, x.shape, dtype, 0, 7) if op == "RIGHT_SHIFT" else numbers(rng, x.shape, dtype, low, 100)
    return one(op, [x, y], [dtype], 0)


@case("ADD_N")
def add_n(rng: Rng) -> Case:
    shape = shape_of(rng)
    return one("ADD_N", [numbers(rng, shape) for _ in range(rng.integers(2, 5))], ["f32"])


@case("SELECT")
def select(rng: Rng) -> Case:
    shape = (
        int(rng.integers(2, 5)),
        *shape_of(rng, 1, 2),
    )  # of one entry the kernel leaves the shape as it is declared
    condition = shape if rng.integers(2) else shape[:1]
    return one("SELECT", [numbers(rng, condition, "bool"), numbers(rng, shape), numbers(rng, shape)], ["f32"], 0)


@case("SELECT_V2")
def select_v2(rng: Rng) -> Case:
    x, y = _broadcast(rng)
    return one("SELECT_V2", [numbers(rng, y.shape, "bool"), x, y], ["f32"], 0)


@case("CAST")
def cast(rng: Rng) -> Case:
    kinds = ["f32", "i32", "i64", "i8", "u8", "bool", "i16", "f64"]
    a, b = kinds[rng.integers(8)], kinds[rng.integers(8)]
    x = numbers(rng, shape_of(rng), a, 0 if a[0] == "u" else -100, 100)
    x = x * np.asarray(1000, x.dtype) if a in ("f32", "f64", "i32", "i64") else x
    if a[0] == "f" and b[0] == "u":
        x = np.abs(x) % 200
    return one("CAST", [x], [b], 0, inDataType=KINDS[a], outDataType=KINDS[b])


@case("BITCAST")
def bitcast(rng: Rng) -> Case:
    a, b = [("f32", "i32"), ("i32", "f32"), ("i16", "u16"), ("i8", "u8")][rng.integers(4)]
    return one("BITCAST", [numbers(rng, shape_of(rng), a)], [b], 0)


@case("ZEROS_LIKE")
def zeros_like(rng: Rng) -> Case:
    dtype = ["f32", "i32", "i64"][rng.integers(3)]
    return one("ZEROS_LIKE", [numbers(rng, shape_of(rng), dtype)], [dtype], 0)


@case("COMPLEX_ABS", "REAL", "IMAG")
def of_complex(rng: Rng, op: str) -> Case:
    return one(op, [numbers(rng, shape_of(rng), "c64")], ["f32"])


@case("SOFTMAX")
def softmax(rng: Rng) -> Case:
    return one("SOFTMAX", [numbers(rng, shape_of(rng)) * 3], ["f32"], beta=float(rng.choice([1.0, 0.5, 2.0])))


@case("LOG_SOFTMAX", "L2_NORMALIZATION")
def along_last(rng: Rng, op: str) -> Case:
    return one(op, [numbers(rng, shape_of(rng, 2, 4)) * 3], ["f32"], 1e-5)


@case("FAKE_QUANT")
def fake_quant(rng: Rng) -> Case:
    low, high = -float(rng.uniform(0, 2)), float(rng.uniform(0.5, 3))
    bits = int(rng.choice([4, 8, 16]))
    return one("FAKE_QUANT", [numbers(rng, (3, 40)) * 2], ["f32"], 1e-5, min=low, max=high, numBits=bits)


@case("DENSIFY")
def densify(rng: Rng) -> Case:
    """A matrix of blocks of 2 x 4 or of rows, of which some are there; the other input shows it."""
    blocks = bool(rng.integers(2))
    rows, columns = (2, 4) if blocks else (1, 1)
    table = rng.integers(0, 2, (4 // rows, 8 // columns)).astype(bool)
    table[0, 0] = True
    data = numbers(rng, (table.shape[0], table.shape[1], rows, columns))
    p = s.SparsityParametersT()
    p.traversalOrder = np.array([0, 1, 2, 3] if blocks else [0, 1], np.int32)
    p.blockMap = np.array([0, 1] if blocks else [], np.int32)
    lines, csr = s.DimensionMetadataT(), s.DimensionMetadataT()
    lines.format, lines.denseSize = s.DimensionType.DENSE, table.shape[0]
    csr.format = s.DimensionType.SPARSE_CSR
    for name, values in (("Segments", [0, *np.cumsum(table.sum(1))]), ("Indices", np.nonzero(table)[1])):
        vector = s.Int32VectorT()
        vector.values = np.asarray(values, np.int32)
        setattr(csr, f"array{name}", vector)
        setattr(csr, f"array{name}Type", s.SparseIndexVector.Int32Vector)
    p.dimMetadata = [lines, csr]
    for n in (rows, columns) if blocks else ():
        inner = s.DimensionMetadataT()
        inner.format, inner.denseSize = s.DimensionType.DENSE, n
        p.dimMetadata.append(inner)
    b = Build()
    x = b.input((4, 8))
    w = b.const(data[table].reshape(-1), "f32", shape=(4, 8))
    b.graph.tensors[w].sparsity = p
    full, out = b.tensor((4, 8)), b.tensor((4, 8))
    b.op("DENSIFY", [w], [full])
    b.op("ADD", [x, full], [out])
    b.output(out)
    return Case(b.bytes(), [numbers(rng, (4, 8))], 0)


@case("DEQUANTIZE")
def dequantize(rng: Rng) -> Case:
    dtype = ["i8", "u8", "i16"][rng.integers(3)]
    return one("DEQUANTIZE", [quantized(rng, shape_of(rng), dtype)], ["f32"], 1e-6)


@case("DEQUANTIZE f16")
def dequantize_half(rng: Rng) -> Case:
    x = numbers(rng, (3, 4), "f16")
    b = Build()
    y = b.input((3, 4))
    half = b.const(x, "f16")
    wide, out = b.tensor((3, 4)), b.tensor((3, 4))
    b.op("DEQUANTIZE", [half], [wide])
    b.op("ADD", [y, wide], [out])
    b.output(out)
    return Case(b.bytes(), [numbers(rng, (3, 4))])


@case("DEQUANTIZE channels")
def dequantize_channels(rng: Rng) -> Case:
    axis = int(rng.integers(0, 4))
    x = rng.integers(-128, 128, (2, 3, 4, 5)).astype(np.int8)
    n = x.shape[axis]
    said = {"scale": rng.uniform(0.01, 0.1, n), "zero": rng.integers(-9, 9, n), "axis": axis}
    return one("DEQUANTIZE", [Given(x, False, said)], ["f32"], 1e-6)


@case("QUANTIZE")
def quantize(rng: Rng) -> Case:
    dtype = ["i8", "u8", "i16"][rng.integers(3)]
    zero = 0 if dtype == "i16" else int(rng.integers(-9, 9)) + (128 if dtype == "u8" else 0)
    return one("QUANTIZE", [numbers(rng, (4, 50)) * 3], [q(dtype, 0.037 / (100 if dtype == "i16" else 1), zero)], 1)


@case("QUANTIZE again")
def requantize(rng: Rng) -> Case:
    a, b = ["i8", "u8"][rng.integers(2)], ["i8", "u8"][rng.integers(2)]
    out = q(b, float(rng.uniform(0.02, 0.2)), int(rng.integers(-9, 9)) + (128 if b == "u8" else 0))
    return one("QUANTIZE", [quantized(rng, (4, 50), a)], [out], 1)


@case("ADD i8", "SUB i8", "MUL i8")
def arithmetic_i8(rng: Rng, name: str) -> Case:
    dtype = ["i8", "u8", "i16"][rng.integers(3)]
    x, y = (quantized(rng, shape, dtype) for shape in [(3, 4, 5), [(3, 4, 5), (5,), (4, 1)][rng.integers(3)]])
    zero = 0 if dtype == "i16" else int(rng.integers(-9, 9)) + (128 if dtype == "u8" else 0)
    scale = float(rng.uniform(0.03, 0.3)) * (4 if dtype != "i16" else 8)
    return one(name.split()[0], [x, y], [q(dtype, scale, zero)], 1, fusedActivationFunction=FUSED[rng.integers(5)],
               **({} if name[0] == "M" else {"potScaleInt16": False}))  # fmt: skip


@case("LOGISTIC i8")
def logistic_i8(rng: Rng) -> Case:
    return one("LOGISTIC", [quantized(rng, (4, 50))], [q("i8", 1 / 256, -128)], 1)


@case("TANH i8")
def tanh_i8(rng: Rng) -> Case:
    return one("TANH", [quantized(rng, (4, 50))], [q("i8", 1 / 128, 0)], 1)


@case("SOFTMAX i8")
def softmax_i8(rng: Rng) -> Case:
    return one("SOFTMAX", [quantized(rng, (4, 50))], [q("i8", 1 / 256, -128)], 1, beta=1.0)


@case("RELU i8", "RELU6 i8", "HARD_SWISH i8", "ABS i8", "NEG i8")
def activations_i8(rng: Rng, name: str) -> Case:
    op = name.split()[0]
    x = quantized(rng, (4, 50))
    x = x._replace(array=np.maximum(x.array, -127), said={**x.said, "zero": 0}) if op == "NEG" else x
    out = q("i8", float(rng.uniform(0.03, 0.1)), int(rng.integers(-90, -40)))
    return one(op, [x], [q("i8", x.said["scale"], 0) if op == "NEG" else out], 1)


@case("LEAKY_RELU i8")
def leaky_i8(rng: Rng) -> Case:
    return one("LEAKY_RELU", [quantized(rng, (4, 50))], [q("i8", 0.06, -30)], 1, alpha=0.3)


# --- structure ---------------------------------------------------------------------------------------------


@case("RESHAPE")
def reshape(rng: Rng) -> Case:
    shape = [(4, 6), (2, -1), (3, 2, -1), (24,), (-1, 1, 8)][rng.integers(5)]
    return one("RESHAPE", [numbers(rng, (2, 3, 4)), ints(shape)], ["f32"], 0, newShape=list(shape))


@case("TRANSPOSE")
def transpose(rng: Rng) -> Case:
    x = numbers(rng, shape_of(rng, 1, 5))
    return one("TRANSPOSE", [x, ints(rng.permutation(x.ndim))], ["f32"], 0)


@case("SQUEEZE")
def squeeze(rng: Rng) -> Case:
    dims = [[], [0], [2], [0, 2], [-2]][rng.integers(5)]
    return one("SQUEEZE", [numbers(rng, (1, 3, 1, 4))], ["f32"], 0, squeezeDims=dims)


@case("EXPAND_DIMS")
def expand_dims(rng: Rng) -> Case:
    return one("EXPAND_DIMS", [numbers(rng, (2, 3)), ints([int(rng.integers(-3, 3))])], ["f32"], 0)


@case("SLICE")
def slice_(rng: Rng) -> Case:
    x = numbers(rng, shape_of(rng, 1, 4))
    begin = [int(rng.integers(0, n)) for n in x.shape]
    size = [
        -1 if rng.integers(3) == 0 else int(rng.integers(1, n - b + 1)) for n, b in zip(x.shape, begin, strict=True)
    ]
    return one("SLICE", [x, ints(begin), ints(size)], ["f32"], 0)


@case("STRIDED_SLICE")
def strided_slice(rng: Rng) -> Case:
    x = numbers(rng, shape_of(rng, 2, 4, 6))
    k = int(rng.integers(1, x.ndim + 1))
    begin, end, strides, shrink = [], [], [], 0
    for i in range(k):
        n = x.shape[i]
        step = int(rng.choice([1, 1, 2, -1]))
        a, b = int(rng.integers(-n, n)), int(rng.integers(-n, n + 2))
        if rng.integers(4) == 0:
            shrink |= 1 << i
            step = 1
        begin.append(a)
        end.append(b)
        strides.append(step)
    masks = {"beginMask": int(rng.integers(0, 1 << k)) & ~shrink, "endMask": int(rng.integers(0, 1 << k)) & ~shrink,
             "shrinkAxisMask": shrink}  # fmt: skip
    for i in range(k):  # of an empty range nothing can be compared with some runtimes
        n = x.shape[i]
        a = (
            0
            if strides[i] > 0 and masks["beginMask"] >> i & 1
            else n - 1
            if masks["beginMask"] >> i & 1
            else begin[i] % n
        )
        if not shrink >> i & 1 and not masks["endMask"] >> i & 1:
            end[i] = a + 1 if strides[i] > 0 else (a - 1 if a else -n - 1)
    return one("STRIDED_SLICE", [x, ints(begin), ints(end), ints(strides)], ["f32"], 0, **masks)


@case("STRIDED_SLICE new axes")
def strided_slice_new(rng: Rng) -> Case:
    x = numbers(rng, (3, 4, 5))
    masks: dict[str, Any] = [
        {"newAxisMask": 1}, {"newAxisMask": 2}, {"ellipsisMask": 1}, {"ellipsisMask": 2, "newAxisMask": 1},
        {"newAxisMask": 2, "shrinkAxisMask": 1}, {"ellipsisMask": 1, "shrinkAxisMask": 4},
    ][rng.integers(6)]  # fmt: skip
    return one("STRIDED_SLICE", [x, ints([1, 1, 1]), ints([2, 3, 3]), ints([1, 1, 1])], ["f32"], 0, **masks)


@case("STRIDED_SLICE offset")
def strided_slice_offset(rng: Rng) -> Case:
    return one(
        "STRIDED_SLICE", [numbers(rng, (6, 5)), ints([1, 2]), ints([3, 2]), ints([1, 1])], ["f32"], 0, offset=True
    )


@case("SPLIT")
def split(rng: Rng) -> Case:
    axis = int(rng.integers(-3, 3))
    x = numbers(rng, (4, 6, 2))
    count = 2
    return one("SPLIT", [ints([axis]), x], ["f32"] * count, 0, numSplits=count)


@case("SPLIT_V")
def split_v(rng: Rng) -> Case:
    sizes = [[1, 2, 3], [2, -1], [6], [0, 6]][rng.integers(3)]
    return one("SPLIT_V", [numbers(rng, (2, 6)), ints(sizes), ints([1])], ["f32"] * len(sizes), 0, numSplits=len(sizes))


@case("PACK")
def pack(rng: Rng) -> Case:
    shape = shape_of(rng, 1, 3)
    n = int(rng.integers(1, 4))
    axis = int(rng.integers(0, len(shape) + 1))
    return one("PACK", [numbers(rng, shape) for _ in range(n)], ["f32"], 0, axis=axis, valuesCount=n)


@case("UNPACK")
def unpack(rng: Rng) -> Case:
    x = numbers(rng, shape_of(rng, 2, 3))
    axis = int(rng.integers(0, x.ndim))
    return one("UNPACK", [x], ["f32"] * x.shape[axis], 0, axis=axis, num=x.shape[axis])


@case("CONCATENATION")
def concatenation(rng: Rng) -> Case:
    shape = shape_of(rng, 2, 4)
    axis = int(rng.integers(-len(shape), len(shape)))
    xs = [
        numbers(rng, [int(rng.integers(1, 4)) if i == axis % len(shape) else n for i, n in enumerate(shape)])
        for _ in range(3)
    ]
    return one("CONCATENATION", xs, ["f32"], 0, axis=axis)


@case("CONCATENATION i8")
def concatenation_i8(rng: Rng) -> Case:
    xs = [quantized(rng, (2, 3), "i8", 0.05, 4) for _ in range(2)]
    return one("CONCATENATION", xs, [q("i8", 0.05, 4)], 0, axis=1)


@case("PAD")
def pad(rng: Rng) -> Case:
    x = numbers(rng, shape_of(rng, 2, 4))
    return one("PAD", [x, ints(rng.integers(0, 3, (x.ndim, 2)))], ["f32"], 0)


@case("PAD i8")
def pad_i8(rng: Rng) -> Case:
    return one("PAD", [quantized(rng, (2, 3), "i8", 0.05, 7), ints([[1, 2], [0, 1]])], [q("i8", 0.05, 7)], 0)


@case("PADV2")
def padv2(rng: Rng) -> Case:
    x = numbers(rng, shape_of(rng, 2, 4))
    return one(
        "PADV2", [x, ints(rng.integers(0, 3, (x.ndim, 2))), const(np.float32(rng.standard_normal()))], ["f32"], 0
    )


@case("MIRROR_PAD")
def mirror_pad(rng: Rng) -> Case:
    x = numbers(rng, (4, 5, 4))
    return one("MIRROR_PAD", [x, ints(rng.integers(0, 4, (3, 2)))], ["f32"], 0, mode=int(rng.integers(2)))


@case("TILE")
def tile(rng: Rng) -> Case:
    x = numbers(rng, shape_of(rng, 1, 3))
    return one("TILE", [x, ints(rng.integers(1, 4, x.ndim))], ["f32"], 0)


@case("BROADCAST_TO")
def broadcast_to(rng: Rng) -> Case:
    return one("BROADCAST_TO", [numbers(rng, (3, 1)), ints([2, 3, 4])], ["f32"], 0)


@case("REVERSE_V2")
def reverse(rng: Rng) -> Case:
    return one("REVERSE_V2", [numbers(rng, (2, 3, 4)), ints([int(rng.integers(0, 3))])], ["f32"], 0)


@case("REVERSE_SEQUENCE")
def reverse_sequence(rng: Rng) -> Case:
    a, b = (0, 1) if rng.integers(2) else (1, 0)
    x = numbers(rng, (4, 4, 2))
    return one("REVERSE_SEQUENCE", [x, rng.integers(1, 5, 4).astype(np.int32)], ["f32"], 0, seqDim=a, batchDim=b)


@case("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")
def depth_space(rng: Rng, op: str) -> Case:
    x = numbers(rng, (2, 4, 6, 8))
    return one(op, [x], ["f32"], 0, blockSize=2)


@case("SPACE_TO_BATCH_ND")
def space_to_batch(rng: Rng) -> Case:
    return one("SPACE_TO_BATCH_ND", [numbers(rng, (2, 4, 5, 3)), ints([2, 3]), ints([[1, 1], [0, 1]])], ["f32"], 0)


@case("BATCH_TO_SPACE_ND")
def batch_to_space(rng: Rng) -> Case:
    return one("BATCH_TO_SPACE_ND", [numbers(rng, (12, 2, 3, 2)), ints([2, 3]), ints([[1, 0], [0, 2]])], ["f32"], 0)


@case("SHAPE")
def shape(rng: Rng) -> Case:
    dtype = ["i32", "i64"][rng.integers(2)]
    return one("SHAPE", [numbers(rng, shape_of(rng))], [dtype], 0, outType=KINDS[dtype])


@case("RANK")
def rank(rng: Rng) -> Case:
    return one("RANK", [numbers(rng, shape_of(rng))], ["i32"], 0)


@case("FILL")
def fill(rng: Rng) -> Case:
    return one("FILL", [ints([2, 3]), numbers(rng, ())], ["f32"], 0)


@case("RANGE")
def range_(rng: Rng) -> Case:
    dtype = [np.float32, np.int32][rng.integers(2)]
    values = [const(np.asarray(v, dtype)) for v in ((1, 9, 2), (5, -4, -3), (0, 6, 1))[rng.integers(3)]]
    b = Build()
    x = b.input((1,), "f32" if dtype is np.float32 else "i32")
    line, out = (b.tensor((), "f32" if dtype is np.float32 else "i32") for _ in range(2))
    b.op("RANGE", [b.const(v.array) for v in values], [line])
    b.op("ADD", [x, line], [out])
    b.output(out)
    return Case(b.bytes(), [np.ones(1, dtype)])


@case("BROADCAST_ARGS")
def broadcast_args(rng: Rng) -> Case:
    b = Build()
    x, shape, out = b.input((3, 1)), b.tensor((), "i32"), b.tensor(())
    b.op("BROADCAST_ARGS", [b.const(np.array([3, 1], np.int32)), b.const(np.array([2, 1, 4], np.int32))], [shape])
    b.op("BROADCAST_TO", [x, shape], [out])
    b.output(out)
    return Case(b.bytes(), [numbers(rng, (3, 1))], 0)


@case("MATRIX_DIAG")
def matrix_diag(rng: Rng) -> Case:
    return one("MATRIX_DIAG", [numbers(rng, shape_of(rng, 1, 3))], ["f32"], 0)


@case("MATRIX_SET_DIAG")
def matrix_set_diag(rng: Rng) -> Case:
    rows, columns = (int(n) for n in rng.integers(2, 5, 2))
    return one("MATRIX_SET_DIAG", [numbers(rng, (2, rows, columns)), numbers(rng, (2, min(rows, columns)))], ["f32"], 0)


@case("DYNAMIC_UPDATE_SLICE")
def dynamic_update_slice(rng: Rng) -> Case:
    x = numbers(rng, (4, 5, 3))
    update = numbers(rng, [(1, 5, 3), (2, 2, 3), (4, 1, 3), (1, 1, 1), (4, 5, 3)][rng.integers(5)])
    start = rng.integers(-2, 6, 3).astype(np.int32)
    return one("DYNAMIC_UPDATE_SLICE", [x, update, start if rng.integers(2) else const(start)], ["f32"], 0)


@case("DILATE")
def dilate(rng: Rng) -> Case:
    return one("DILATE", [numbers(rng, (3, 4)), ints(rng.integers(1, 4, 2)), const(np.float32(0.5))], ["f32"], 0)


# --- indices -----------------------------------------------------------------------------------------------


@case("GATHER")
def gather(rng: Rng) -> Case:
    x = numbers(rng, (3, 4, 5))
    batch = int(rng.integers(0, 2))
    axis = int(rng.integers(batch, 3))
    shape = (3, 2) if batch else shape_of(rng, 1, 2)
    index = rng.integers(0, x.shape[axis], shape).astype(np.int32)
    return one("GATHER", [x, index], ["f32"], 0, axis=axis, batchDims=batch)


@case("GATHER_ND")
def gather_nd(rng: Rng) -> Case:
    k = int(rng.integers(1, 4))
    x = numbers(rng, (3, 4, 5))
    index = np.stack([rng.integers(0, n, (2, 3)) for n in x.shape[:k]], -1).astype(np.int32)
    return one("GATHER_ND", [x, index], ["f32"], 0)


@case("WHERE")
def where(rng: Rng) -> Case:
    """The entries at the places of a condition that is known."""
    b = Build()
    shape = (3, 4)[: rng.integers(1, 3)]
    dtype = ["bool", "f32", "i32", "i8"][rng.integers(4)]
    given = (numbers(rng, shape, "bool") * 3).astype(DTYPES[KINDS[dtype]].numpy)
    given.reshape(-1)[0] = 1
    x, places, out = b.input(shape), b.tensor((), "i64"), b.tensor(())
    b.op("WHERE", [b.const(given)], [places])
    b.op("GATHER_ND", [x, places], [out])
    b.output(places, out)
    return Case(b.bytes(), [numbers(rng, shape)], 0)


@case("UNIQUE")
def unique(rng: Rng) -> Case:
    b = Build()
    kind, index = ["f32", "i32", "i64", "i8"][rng.integers(4)], ["i32", "i64"][rng.integers(2)]
    x, values, places, out = b.input((5,)), b.tensor((), kind), b.tensor((), index), b.tensor(())
    b.op("UNIQUE", [b.const(numbers(rng, 7, "i8", -2, 2).astype(DTYPES[KINDS[kind]].numpy))], [values, places],
         idxOutType=KINDS[index])  # fmt: skip
    b.op("GATHER", [x, places], [out])
    b.output(values, places, out)
    return Case(b.bytes(), [numbers(rng, (5,))], 0)


@case("SCATTER_ND")
def scatter_nd(rng: Rng) -> Case:
    k = int(rng.integers(1, 3))
    shape = (4, 3, 2)
    index = np.stack([rng.integers(0, n, 6) for n in shape[:k]], -1).astype(np.int32)
    return one("SCATTER_ND", [index, numbers(rng, (6, *shape[k:])), ints(shape)], ["f32"], 1e-6)


@case("EMBEDDING_LOOKUP")
def embedding_lookup(rng: Rng) -> Case:
    return one("EMBEDDING_LOOKUP", [rng.integers(0, 7, 5).astype(np.int32), const(numbers(rng, (7, 3)))], ["f32"], 0)


@case("EMBEDDING_LOOKUP hybrid")
def embedding_lookup_hybrid(rng: Rng) -> Case:
    dtype = [np.int8, np.uint8][rng.integers(2)]
    scale = rng.uniform(0.01, 0.02, 7) if dtype is np.int8 and rng.integers(2) else 0.03
    table = const(rng.integers(0, 256, (7, 3)).astype(np.uint8).view(dtype), scale=scale, zero=0)
    return one("EMBEDDING_LOOKUP", [rng.integers(0, 7, 5).astype(np.int32), table], ["f32"], 1e-6)


@case("ONE_HOT")
def one_hot(rng: Rng) -> Case:
    on, off = [(1.0, 0.0), (3.0, -1.0)][rng.integers(2)]
    axis = int(rng.integers(-1, 2))
    index = rng.integers(-1, 6, (2, 3)).astype(np.int32)
    return one("ONE_HOT", [index, ints(5), const(np.float32(on)), const(np.float32(off))], ["f32"], 0, axis=axis)


@case("ARG_MAX", "ARG_MIN")
def arg(rng: Rng, op: str) -> Case:
    dtype = ["i32", "i64"][rng.integers(2)]
    x = np.round(numbers(rng, (3, 4, 5)))
    return one(op, [x, ints(int(rng.integers(-3, 3)))], [dtype], 0, outputType=KINDS[dtype])


@case("TOPK_V2")
def topk(rng: Rng) -> Case:
    x = rng.permutation(60).reshape(3, 20).astype(np.float32)
    return one("TOPK_V2", [x, ints(int(rng.integers(1, 6)))], ["f32", "i32"], 0)


@case("CUMSUM")
def cumsum(rng: Rng) -> Case:
    e, r = bool(rng.integers(2)), bool(rng.integers(2))
    return one("CUMSUM", [numbers(rng, (3, 4)), ints(int(rng.integers(-2, 2)))], ["f32"], 1e-6, exclusive=e, reverse=r)


@case("SPARSE_TO_DENSE")
def sparse_to_dense(rng: Rng) -> Case:
    index = np.array([[0, 1], [1, 0], [2, 3]], np.int32)
    return one("SPARSE_TO_DENSE", [index, ints([3, 4]), numbers(rng, 3), const(np.float32(0.5))], ["f32"], 0)


@case("BUCKETIZE")
def bucketize(rng: Rng) -> Case:
    return one("BUCKETIZE", [np.round(numbers(rng, (3, 5)) * 4) / 2], ["i32"], 0, boundaries=[-1.0, 0.0, 0.5, 2.0])


@case("SEGMENT_SUM")
def segment_sum(rng: Rng) -> Case:
    return one("SEGMENT_SUM", [numbers(rng, (5, 2)), ints([0, 0, 1, 2, 2])], ["f32"], 1e-6)


@case("UNSORTED_SEGMENT_SUM", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_MIN", "UNSORTED_SEGMENT_PROD")
def unsorted_segment(rng: Rng, op: str) -> Case:
    ids = rng.integers(-1, 4, 6).astype(np.int32)
    return one(op, [numbers(rng, (6, 2)), ids, ints(5)], ["f32"], 1e-6)


# --- reductions --------------------------------------------------------------------------------------------


@case("SUM", "MEAN", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
def reduction(rng: Rng, op: str) -> Case:
    x = numbers(rng, (2, 3, 4, 2))
    axes = rng.permutation(4)[: rng.integers(1, 4)] - (4 if rng.integers(2) else 0)
    return one(op, [x, ints(axes)], ["f32"], 1e-5, keepDims=bool(rng.integers(2)))


@case("REDUCE_ANY", "REDUCE_ALL")
def reduction_bool(rng: Rng, op: str) -> Case:
    return one(op, [numbers(rng, (3, 4), "bool"), ints([1])], ["bool"], 0, keepDims=bool(rng.integers(2)))


@case("SUM i32", "MEAN i32", "REDUCE_MAX i32")
def reduction_int(rng: Rng, name: str) -> Case:
    return one(name.split()[0], [numbers(rng, (3, 5), "i32", -50, 50), ints([1])], ["i32"], 0, keepDims=False)


@case("MEAN i8", "SUM i8")
def reduction_i8(rng: Rng, name: str) -> Case:
    scale = 0.05 if name[0] == "M" else 0.4
    return one(
        name.split()[0], [quantized(rng, (2, 4, 4, 5), "i8"), ints([1, 2])], [q("i8", scale, 3)], 1, keepDims=True
    )


@case("REDUCE_WINDOW")
def reduce_window(rng: Rng) -> Case:
    function = int(rng.integers(1, 5))
    init = np.float32({1: 0, 2: 1, 3: np.inf, 4: -np.inf}[function])
    x = numbers(rng, (6, 7))
    shape, strides, dilations = ([int(n) for n in rng.integers(1, 3, 2)] for _ in range(3))
    given = [const(np.asarray(v, np.int64)) for v in (shape, strides, dilations)]
    return one("REDUCE_WINDOW", [x, const(init), *given], ["f32"], 1e-6, reduceFunction=function)


# --- products, convolutions, pools -------------------------------------------------------------------------


@case("FULLY_CONNECTED")
def fully_connected(rng: Rng) -> Case:
    keep = bool(rng.integers(2))
    bias = const(numbers(rng, 5)) if rng.integers(2) else None
    x = numbers(rng, (2, 3, 4))
    return one("FULLY_CONNECTED", [x, const(numbers(rng, (5, 4))), bias], ["f32"], 1e-5, keepNumDims=keep,
               fusedActivationFunction=FUSED[rng.integers(5)])  # fmt: skip


@case("FULLY_CONNECTED i8")
def fully_connected_i8(rng: Rng) -> Case:
    x = quantized(rng, (3, 16), "i8")
    channels = bool(rng.integers(2))
    step = rng.uniform(0.01, 0.03, 8) if channels else 0.02
    w = const(rng.integers(-127, 128, (8, 16)), np.int8, scale=step, zero=0)
    b = const(rng.integers(-3000, 3000, 8), np.int32, scale=np.asarray(step) * x.said["scale"], zero=0)
    return one("FULLY_CONNECTED", [x, w, b], [q("i8", 0.5, -7)], 1, fusedActivationFunction=FUSED[rng.integers(5)])


@case("FULLY_CONNECTED hybrid")
def fully_connected_hybrid(rng: Rng) -> Case:
    w = const(rng.integers(-127, 128, (8, 16)), np.int8, scale=0.02, zero=0)
    return one("FULLY_CONNECTED", [numbers(rng, (3, 16)), w, None], ["f32"], 2e-3)


@case("FULLY_CONNECTED hybrid u8", "CONV_2D hybrid u8", "SVDF hybrid u8", "UNIDIRECTIONAL_SEQUENCE_RNN hybrid u8")
def hybrid_u8(rng: Rng, name: str) -> Case:
    """Bytes that are i8 for the kernels."""

    def weight(*shape: int) -> Given:
        return const(rng.integers(0, 256, shape), np.uint8, scale=0.02, zero=0)

    op, bias = name.split()[0], numbers(rng, 4)
    if op == "SVDF":
        inputs = [numbers(rng, (2, 8)), weight(8, 8), weight(8, 5), bias, None]
        return stateful(rng, op, inputs, {4: (2, 40)}, 1, tolerance=1e-3, rank=2)
    if op[0] == "U":
        inputs = [numbers(rng, (2, 2, 8)), weight(4, 8), weight(4, 4), bias, None]
        return stateful(rng, op, inputs, {4: (2, 4)}, 1, tolerance=1e-3, fusedActivationFunction=4)
    if op[0] == "F":
        return one(op, [numbers(rng, (3, 8)), weight(4, 8), const(bias)], ["f32"], 1e-3)
    x = numbers(rng, (1, 5, 6, 8))
    return one(op, [x, weight(4, 2, 3, 8), const(bias)], ["f32"], 1e-3, strideW=1, strideH=1)


@case("FULLY_CONNECTED i4")
def fully_connected_i4(rng: Rng) -> Case:
    b = Build()
    x = b.input((3, 16))
    raw = rng.integers(0, 256, 64).astype(np.uint8)
    w = b.const(raw, s.TensorType.INT4, shape=(8, 16), scale=0.1, zero=0)
    out = b.tensor((3, 8))
    b.op("FULLY_CONNECTED", [x, w, -1], [out])
    b.output(out)
    return Case(b.bytes(), [numbers(rng, (3, 16))], 2e-2)


@case("FULLY_CONNECTED i16")
def fully_connected_i16(rng: Rng) -> Case:
    x = quantized(rng, (3, 16), "i16", 0.001)
    w = const(rng.integers(-127, 128, (8, 16)), np.int8, scale=0.02, zero=0)
    b = const(rng.integers(-3000, 3000, 8), np.int64, scale=0.02 * 0.001, zero=0)
    return one("FULLY_CONNECTED", [x, w, b], [q("i16", 0.004)], 1)


@case("BATCH_MATMUL")
def batch_matmul(rng: Rng) -> Case:
    a, b = bool(rng.integers(2)), bool(rng.integers(2))
    lead = [((2, 3), (2, 3)), ((2, 1), (3,)), ((), (4,))][rng.integers(3)]
    x, y = numbers(rng, (*lead[0], 4, 5)), numbers(rng, (*lead[1], 5, 6))
    return one("BATCH_MATMUL", [np.swapaxes(x, -1, -2).copy() if a else x, np.swapaxes(y, -1, -2).copy() if b else y],
               ["f32"], 1e-5, adjX=a, adjY=b)  # fmt: skip


def _conv(rng: Rng) -> dict[str, Any]:
    dilated = rng.integers(3) == 0
    return {
        "padding": int(rng.integers(2)), "strideW": 1 if dilated else int(rng.integers(1, 4)),
        "strideH": 1 if dilated else int(rng.integers(1, 4)), "dilationWFactor": 2 if dilated else 1,
        "dilationHFactor": int(rng.integers(1, 3)) if dilated else 1, "fusedActivationFunction": FUSED[rng.integers(5)],
    }  # fmt: skip


@case("CONV_2D")
def conv_2d(rng: Rng) -> Case:
    groups = int(rng.choice([1, 1, 2]))
    x = numbers(rng, (2, 9, 8, 4))
    w = numbers(rng, (6, int(rng.integers(1, 4)), int(rng.integers(1, 4)), 4 // groups))
    options = _conv(rng)
    return one(
        "CONV_2D",
        [x, const(w), const(numbers(rng, 6)) if rng.integers(2) else const(np.zeros(6, "f"))],
        ["f32"],
        1e-5,
        **options,
    )


@case("CONV_2D i8")
def conv_2d_i8(rng: Rng) -> Case:
    x = quantized(rng, (2, 7, 6, 4), "i8")
    step = rng.uniform(0.01, 0.03, 5)
    w = const(rng.integers(-127, 128, (5, 3, 3, 4)), np.int8, scale=step, zero=np.zeros(5), axis=0)
    b = const(rng.integers(-3000, 3000, 5), np.int32, scale=step * x.said["scale"], zero=np.zeros(5))
    return one("CONV_2D", [x, w, b], [q("i8", 0.7, 4)], 1, **_conv(rng))


@case("DEPTHWISE_CONV_2D i8")
def depthwise_i8(rng: Rng) -> Case:
    x = quantized(rng, (2, 7, 6, 4), "i8")
    step = rng.uniform(0.01, 0.03, 8)
    w = const(rng.integers(-127, 128, (1, 3, 3, 8)), np.int8, scale=step, zero=np.zeros(8), axis=3)
    b = const(rng.integers(-3000, 3000, 8), np.int32, scale=step * x.said["scale"], zero=np.zeros(8))
    return one("DEPTHWISE_CONV_2D", [x, w, b], [q("i8", 0.3, 4)], 1, depthMultiplier=2, **_conv(rng))


@case("CONV_2D u8")
def conv_2d_u8(rng: Rng) -> Case:
    x = quantized(rng, (1, 7, 6, 4), "u8")
    w = const(rng.integers(0, 256, (5, 3, 3, 4)), np.uint8, scale=0.02, zero=120)
    b = const(rng.integers(-3000, 3000, 5), np.int32, scale=0.02 * x.said["scale"], zero=0)
    return one("CONV_2D", [x, w, b], [q("u8", 0.7, 110)], 1, **_conv(rng))


@case("CONV_2D hybrid")
def conv_2d_hybrid(rng: Rng) -> Case:
    step = rng.uniform(0.01, 0.03, 5) if rng.integers(2) else 0.02
    w = const(rng.integers(-127, 128, (5, 3, 3, 4)), np.int8, scale=step, zero=0, axis=0)
    x = numbers(rng, (int(rng.integers(1, 3)), 7, 6, 4))
    return one("CONV_2D", [x, w, const(numbers(rng, 5))], ["f32"], 1e-3, **_conv(rng))


@case("DEPTHWISE_CONV_2D hybrid")
def depthwise_hybrid(rng: Rng) -> Case:
    step = rng.uniform(0.01, 0.03, 8)
    w = const(rng.integers(-127, 128, (1, 3, 3, 8)), np.int8, scale=step, zero=np.zeros(8), axis=3)
    options = {**_conv(rng), "strideH": 1, "strideW": 1}
    return one("DEPTHWISE_CONV_2D", [numbers(rng, (2, 7, 6, 4)), w, const(numbers(rng, 8))], ["f32"], 1e-3,
               depthMultiplier=2, **options)  # fmt: skip


@case("BATCH_MATMUL hybrid")
def batch_matmul_hybrid(rng: Rng) -> Case:
    y = const(rng.integers(-127, 128, (2, 16, 8)), np.int8, scale=0.02, zero=0)
    return one("BATCH_MATMUL", [numbers(rng, (2, 3, 16)), y], ["f32"], 1e-3)


@case("BATCH_MATMUL i8")
def batch_matmul_i8(rng: Rng) -> Case:
    x, y = quantized(rng, (2, 3, 16), "i8", 0.02), quantized(rng, (2, 16, 8), "i8", 0.03)
    return one("BATCH_MATMUL", [x, y], [q("i8", 0.6, 3)], 1)


@case("DEPTHWISE_CONV_2D")
def depthwise(rng: Rng) -> Case:
    m = int(rng.integers(1, 3))
    options = _conv(rng)
    options["strideH"] = options["strideW"]  # which kernels ask for
    x, w = numbers(rng, (2, 9, 8, 3)), numbers(rng, (1, 3, 2, 3 * m))
    return one(
        "DEPTHWISE_CONV_2D", [x, const(w), const(numbers(rng, 3 * m))], ["f32"], 1e-5, depthMultiplier=m, **options
    )


@case("CONV_3D")
def conv_3d(rng: Rng) -> Case:
    options = {"padding": int(rng.integers(2)), "strideD": 1, "strideW": int(rng.integers(1, 3)),
               "strideH": int(rng.integers(1, 3))}  # fmt: skip
    return one("CONV_3D", [numbers(rng, (1, 4, 5, 6, 2)), const(numbers(rng, (2, 3, 2, 2, 3))), const(numbers(rng, 3))],
               ["f32"], 1e-5, fusedActivationFunction=FUSED[rng.integers(5)], **options)  # fmt: skip


def _transposed(rng: Rng, n: int, k: int, stride: int, same: bool) -> int:
    """A size that fits: the usual one, or fewer."""
    return n * stride - int(rng.integers(0, stride)) if same else (n - 1) * stride + k


@case("TRANSPOSE_CONV")
def transpose_conv(rng: Rng) -> Case:
    same, sh, sw = bool(rng.integers(2)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    kh, kw = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    shape = [1, _transposed(rng, 4, kh, sh, same), _transposed(rng, 5, kw, sw, same), 3]
    x, w = numbers(rng, (1, 4, 5, 2)), numbers(rng, (3, kh, kw, 2))
    inputs = [ints(shape), const(w), x, *([const(numbers(rng, 3))] if rng.integers(2) else [])]
    return one("TRANSPOSE_CONV", inputs, ["f32"], 1e-5, padding=0 if same else 1, strideH=sh, strideW=sw)


@case("TRANSPOSE_CONV i8")
def transpose_conv_i8(rng: Rng) -> Case:
    x = quantized(rng, (1, 4, 5, 2), "i8")
    step = rng.uniform(0.01, 0.03, 3)
    w = const(rng.integers(-127, 128, (3, 3, 3, 2)), np.int8, scale=step, zero=np.zeros(3), axis=0)
    b = const(rng.integers(-3000, 3000, 3), np.int32, scale=step * x.said["scale"], zero=np.zeros(3))
    return one("TRANSPOSE_CONV", [ints([1, 8, 10, 3]), w, x, b], [q("i8", 0.3, 4)], 1, padding=0, strideH=2, strideW=2)


@case("CONV_3D_TRANSPOSE")
def conv_3d_transpose(rng: Rng) -> Case:
    x, w = numbers(rng, (1, 2, 3, 3, 2)), numbers(rng, (2, 3, 2, 3, 2))
    return one("CONV_3D_TRANSPOSE", [ints([1, 3, 7, 6, 3]), const(w), x], ["f32"], 1e-5,
               padding=1, strideD=1, strideH=2, strideW=2)  # fmt: skip


def _pool(rng: Rng) -> dict[str, Any]:
    return {
        "padding": int(rng.integers(2)), "strideW": int(rng.integers(1, 4)), "strideH": int(rng.integers(1, 4)),
        "filterWidth": int(rng.integers(1, 4)), "filterHeight": int(rng.integers(1, 4)),
        "fusedActivationFunction": FUSED[rng.integers(5)],
    }  # fmt: skip


@case("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D")
def pool(rng: Rng, op: str) -> Case:
    return one(op, [numbers(rng, (2, 7, 6, 3))], ["f32"], 1e-5, **_pool(rng))


@case("AVERAGE_POOL_2D i8", "MAX_POOL_2D i8")
def pool_i8(rng: Rng, name: str) -> Case:
    x = quantized(rng, (2, 7, 6, 3), "i8")
    return one(name.split()[0], [x], [q("i8", x.said["scale"], x.said["zero"])], 1, **_pool(rng))


@case("LOCAL_RESPONSE_NORMALIZATION")
def lrn(rng: Rng) -> Case:
    options = {"radius": int(rng.integers(1, 4)), "bias": 1.0, "alpha": 0.3, "beta": 0.6}
    return one("LOCAL_RESPONSE_NORMALIZATION", [numbers(rng, (1, 2, 3, 8))], ["f32"], 1e-5, **options)


@case("RESIZE_BILINEAR")
def resize_bilinear(rng: Rng) -> Case:
    align, half = [(False, False), (False, True), (True, False)][rng.integers(3)]
    size = ints(rng.integers(1, 12, 2))
    return one(
        "RESIZE_BILINEAR", [numbers(rng, (1, 5, 4, 2)), size], ["f32"], 1e-5, alignCorners=align, halfPixelCenters=half
    )


@case("RESIZE_NEAREST_NEIGHBOR")
def resize_nearest(rng: Rng) -> Case:
    align, half = bool(rng.integers(2)), bool(rng.integers(2))
    size = ints(rng.integers(1, 12, 2))
    return one(
        "RESIZE_NEAREST_NEIGHBOR",
        [numbers(rng, (1, 5, 4, 2)), size],
        ["f32"],
        0,
        alignCorners=align,
        halfPixelCenters=half,
    )


@case("RESIZE_BILINEAR i8")
def resize_bilinear_i8(rng: Rng) -> Case:
    x = quantized(rng, (1, 5, 4, 2), "i8")
    return one(
        "RESIZE_BILINEAR", [x, ints([7, 9])], [q("i8", x.said["scale"], x.said["zero"])], 1, halfPixelCenters=True
    )


@case("RFFT2D")
def rfft2d(rng: Rng) -> Case:
    return one("RFFT2D", [numbers(rng, (2, 4, 8)), ints([4, 8] if rng.integers(2) else [2, 4])], ["c64"], 1e-5)


# --- recurrent ---------------------------------------------------------------------------------------------


def stateful(
    rng: Rng, op: str, inputs: list[Any], states: dict[int, Any], out: int | tuple[str, dict[str, Any]],
    between: tuple[tuple[str, dict[str, Any]], ...] = (), tolerance: float = 1e-5, **options: Any,
) -> Case:  # fmt: skip
    """A model with variable tensors at some places; None is no input.

    Constants are floats or a Given, a state is a shape, or one and how it is quantized; so is the one result.
    """
    b = Build()
    x = inputs[0] if isinstance(inputs[0], Given) else Given(inputs[0], False, {})
    places = [b.input(x.array.shape, "i8" if x.said else "f32", **x.said)]
    for i, v in enumerate(inputs[1:], 1):
        if i in states:
            shape, (dtype, said) = states[i] if isinstance(states[i][0], tuple) else (states[i], ("f32", {}))
            places.append(b.tensor(shape, dtype, variable=True, **said))
        elif isinstance(v, Given):
            places.append(b.const(v.array, **v.said))
        else:
            places.append(-1 if v is None else b.const(v))
    outs = [b.tensor(()) for _ in range(out)] if isinstance(out, int) else [b.tensor((), out[0], **out[1])]
    b.op(op, places, outs, **options)
    if between:
        b.graph.operators[-1].intermediates = np.array([b.tensor((), d, **said) for d, said in between], "i")
    b.output(*outs)
    return Case(b.bytes(), [x.array], tolerance)


def _eighth(w: Any, dtype: Any = np.int8) -> Any:
    """A weight in integers, with one scale and no zero point."""
    if w is None:
        return None
    most = np.iinfo(dtype).max
    scale = float(np.abs(w).max()) / most
    return const(np.clip(np.round(w / scale), -most, most), dtype, scale=scale, zero=0)


@case("RNN")
def rnn(rng: Rng) -> Case:
    inputs = [numbers(rng, (2, 3)), numbers(rng, (4, 3)), numbers(rng, (4, 4)), numbers(rng, 4), None]
    return stateful(rng, "RNN", inputs, {4: (2, 4)}, 1, fusedActivationFunction=4)


@case("UNIDIRECTIONAL_SEQUENCE_RNN")
def sequence_rnn(rng: Rng) -> Case:
    inputs = [numbers(rng, (2, 2, 3)), numbers(rng, (4, 3)), numbers(rng, (4, 4)), numbers(rng, 4), None]
    return stateful(rng, "UNIDIRECTIONAL_SEQUENCE_RNN", inputs, {4: (2, 4)}, 1, fusedActivationFunction=4,
                     timeMajor=bool(rng.integers(2)))  # fmt: skip


@case("BIDIRECTIONAL_SEQUENCE_RNN")
def bidirectional_rnn(rng: Rng) -> Case:
    each = [numbers(rng, (4, 3)), numbers(rng, (4, 4)), numbers(rng, 4), None]
    back = [numbers(rng, (4, 3)), numbers(rng, (4, 4)), numbers(rng, 4), None]
    merge = bool(rng.integers(2))
    inputs = [numbers(rng, (2, 2, 3)), *each, *back, None, None, None]
    return stateful(rng, "BIDIRECTIONAL_SEQUENCE_RNN", inputs, {4: (2, 4), 8: (2, 4)}, 1 if merge else 2,
                     fusedActivationFunction=4, mergeOutputs=merge)  # fmt: skip


def _lstm_weights(rng: Rng, cifg: bool, peephole: bool, projection: bool) -> tuple[list[Any], int]:
    out = 3 if projection else 4
    w = [None if cifg and i == 0 else numbers(rng, (4, 3)) for i in range(4)]
    r = [None if cifg and i == 0 else numbers(rng, (4, out)) for i in range(4)]
    p = [None if not peephole or (cifg and i == 0) else numbers(rng, 4) for i in range(3)]
    b = [None if cifg and i == 0 else numbers(rng, 4) for i in range(4)]
    extra = [numbers(rng, (3, 4)), numbers(rng, 3) if rng.integers(2) else None] if projection else [None, None]
    return [*w, *r, *p, *b, *extra], out


@case("UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM")
def sequence_lstm(rng: Rng, op: str) -> Case:
    weights, out = _lstm_weights(rng, *(bool(rng.integers(2)) for _ in range(3)))
    x = numbers(rng, (2, 3) if op == "LSTM" else (2, 2, 3))
    options = {
        "fusedActivationFunction": 4,
        "cellClip": float(rng.choice([0, 0.5])),
        "projClip": float(rng.choice([0, 0.5])),
    }
    if op != "LSTM":
        options["timeMajor"] = bool(rng.integers(2))
    return stateful(rng, op, [x, *weights, None, None], {18: (2, out), 19: (2, 4)}, 1, **options)


@case("LSTM basic")
def basic_lstm(rng: Rng) -> Case:
    """One weight for all gates, states that go in and out."""
    inputs = [numbers(rng, (2, 3)), numbers(rng, (2, 4)), const(numbers(rng, (16, 7))), const(numbers(rng, 16))]
    return one("LSTM", [*inputs, numbers(rng, (2, 4))], ["f32"] * 4, kernelType=1, fusedActivationFunction=4)


@case("LSTM basic u8")
def basic_lstm_u8(rng: Rng, bias_step: float = 1.0, x_scale: float = 1 / 128) -> Case:
    """As TensorFlow 1 wrote it, for which there is a kernel; its functions are off by parts of a step of i16."""
    x, h = quantized(rng, (2, 3), "u8", x_scale, 128), quantized(rng, (2, 4), "u8", 1 / 128, 128)
    step = float(rng.uniform(0.002, 0.02))
    w = const(rng.integers(0, 256, (16, 7)), np.uint8, scale=step, zero=int(rng.integers(100, 150)))
    bias = const(rng.integers(-9999, 9999, 16), np.int32, scale=step * bias_step / 128, zero=0)
    out = [q("u8", 1 / 128, 128), q("i16", 2.0**-11), q("u8", 1 / 128, 128), q("i16", 2.0**-12)]
    inputs = [x, h, w, bias, quantized(rng, (2, 4), "i16", 2.0**-11)]
    return one("LSTM", inputs, out, 2, kernelType=1, fusedActivationFunction=4)


@case("UNIDIRECTIONAL_SEQUENCE_LSTM plain")
def sequence_lstm_plain(rng: Rng) -> Case:
    weights, out = _lstm_weights(rng, False, False, False)
    x = numbers(rng, (2, 5, 3))
    return stateful(rng, "UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *weights, None, None], {18: (2, out), 19: (2, 4)}, 1,
                     fusedActivationFunction=4)  # fmt: skip


@case("BIDIRECTIONAL_SEQUENCE_LSTM")
def bidirectional_lstm(rng: Rng) -> Case:
    cifg, peephole = bool(rng.integers(2)), bool(rng.integers(2))
    forward, out = _lstm_weights(rng, cifg, peephole, False)
    back, _ = _lstm_weights(rng, cifg, peephole, False)
    merge = bool(rng.integers(2))
    inputs = [numbers(rng, (2, 2, 3)), *forward, *back, *[None] * 4, *[None] * 9]
    states = {35: (2, out), 36: (2, 4), 37: (2, out), 38: (2, 4)}
    return stateful(rng, "BIDIRECTIONAL_SEQUENCE_LSTM", inputs, states, 1 if merge else 2, fusedActivationFunction=4,
                     mergeOutputs=merge)  # fmt: skip


@case("SVDF")
def svdf(rng: Rng) -> Case:
    inputs = [numbers(rng, (2, 3)), numbers(rng, (8, 3)), numbers(rng, (8, 5)), numbers(rng, 4), None]
    return stateful(rng, "SVDF", inputs, {4: (2, 40)}, 1, rank=2, fusedActivationFunction=int(rng.choice([0, 1])))


# --- StableHLO ---------------------------------------------------------------------------------------------


@case("RNN hybrid", "UNIDIRECTIONAL_SEQUENCE_RNN hybrid", "BIDIRECTIONAL_SEQUENCE_RNN hybrid")
def rnn_hybrid(rng: Rng, name: str) -> Case:
    op, steps = name.split()[0], () if name[0] == "R" else (3,)
    each = [[_eighth(numbers(rng, (4, 8))), _eighth(numbers(rng, (4, 4))), numbers(rng, 4), None] for _ in range(2)]
    weights = [*each[0], *each[1], None, None, None] if name[0] == "B" else each[0]
    states = {4: (2, 4)} | ({8: (2, 4)} if name[0] == "B" else {})
    options = {"fusedActivationFunction": 4, "asymmetricQuantizeInputs": bool(rng.integers(2))}
    inputs = [numbers(rng, (2, *steps, 8)), *weights]
    return stateful(rng, op, inputs, states, 2 if name[0] == "B" else 1, tolerance=5e-3, **options)


def _hybrid(weights: list[Any]) -> list[Any]:
    """Weights of an LSTM as integers, its biases and norms as they are."""
    return [w if w is None or 11 <= i < 15 or i == 16 else _eighth(w) for i, w in enumerate(weights)]


@case("UNIDIRECTIONAL_SEQUENCE_LSTM hybrid", "LSTM hybrid", "BIDIRECTIONAL_SEQUENCE_LSTM hybrid")
def lstm_hybrid(rng: Rng, name: str) -> Case:
    op, cifg, peephole = name.split()[0], bool(rng.integers(2)), bool(rng.integers(2))
    weights, out = _lstm_weights(rng, cifg, peephole, name[0] != "B" and bool(rng.integers(2)))
    x = numbers(rng, (2, 3) if name[0] == "L" else (2, 3, 3))
    options = {"fusedActivationFunction": 4, "asymmetricQuantizeInputs": bool(rng.integers(2))}
    if name[0] == "B":
        back, _ = _lstm_weights(rng, cifg, peephole, False)
        states = {35: (2, out), 36: (2, 4), 37: (2, out), 38: (2, 4)}
        inputs = [x, *_hybrid(weights), *_hybrid(back), *[None] * 13]
        return stateful(rng, op, inputs, states, 2, tolerance=5e-3, timeMajor=False, **options)
    return stateful(rng, op, [x, *_hybrid(weights), None, None], {18: (2, out), 19: (2, 4)}, 1, tolerance=5e-3,
                     cellClip=float(rng.choice([0, 0.5])), **options)  # fmt: skip


@case("UNIDIRECTIONAL_SEQUENCE_LSTM norm", "UNIDIRECTIONAL_SEQUENCE_LSTM norm hybrid")
def lstm_norm(rng: Rng, name: str) -> Case:
    cifg = bool(rng.integers(2))
    weights, out = _lstm_weights(rng, cifg, False, False)
    norms = [None if cifg and i == 0 else numbers(rng, 4) for i in range(4)]
    hybrid = name.endswith("hybrid")
    inputs = [numbers(rng, (2, 3, 3)), *(_hybrid(weights) if hybrid else weights), None, None, *norms]
    return stateful(rng, name.split()[0], inputs, {18: (2, out), 19: (2, 4)}, 1, tolerance=5e-3 if hybrid else 1e-5,
                     fusedActivationFunction=4)  # fmt: skip


@case("UNIDIRECTIONAL_SEQUENCE_LSTM i8", "UNIDIRECTIONAL_SEQUENCE_LSTM norm i8")
def lstm_i8(rng: Rng, name: str, peephole: bool | None = None, projection: bool = False) -> Case:
    """Weights of 8 bits, states of 8 and 16; a kernel takes a peephole of projected cells from wrong places."""
    cifg, major, either, both = (bool(rng.integers(2)) for _ in range(4))
    if peephole is None:
        peephole, projection = either and not both, both
    weights, out = _lstm_weights(rng, cifg, peephole, projection)
    normed, x = "norm" in name, quantized(rng, (4, 2, 3) if major else (2, 4, 3), "i8", 0.02)
    hidden = {"scale": 1 / 100, "zero": int(rng.integers(-9, 9))}
    state = {"scale": float(rng.uniform(0.02, 0.04)), "zero": int(rng.integers(-9, 9))} if projection else hidden
    given: list[Any] = [w if w is None else _eighth(w, np.int16 if 8 <= i < 11 else np.int8)
                        for i, w in enumerate(weights)]  # fmt: skip
    norms = [None if not normed or (cifg and i == 0) else _eighth(numbers(rng, 4), np.int16) for i in range(4)]
    for i in range(4):
        if weights[11 + i] is not None:
            step = norms[i].said["scale"] * 2**-10 if norms[i] else x.said["scale"] * given[i].said["scale"]
            given[11 + i] = const(np.round(weights[11 + i] / step), np.int32, scale=step, zero=0)
    if weights[16] is not None:
        step = hidden["scale"] * given[15].said["scale"]
        given[16] = const(np.round(weights[16] / step), np.int32, scale=step, zero=0)
    between = [("i16", {"scale": 2.0**-11}) if normed else ("i16", {}) for _ in range(4)]
    return stateful(
        rng, name.split()[0], [x, *given, None, None, *norms],
        {18: ((2, out), ("i8", state)), 19: ((2, 4), ("i16", {"scale": 2.0**-11}))}, ("i8", state),
        (*between, ("i8", hidden)), 1, fusedActivationFunction=4, timeMajor=major,
        cellClip=float(rng.choice([0, 0.5])),
    )  # fmt: skip


@case("SVDF hybrid")
def svdf_hybrid(rng: Rng) -> Case:
    inputs = [numbers(rng, (2, 8)), _eighth(numbers(rng, (8, 8))), _eighth(numbers(rng, (8, 5))), numbers(rng, 4), None]
    options = {"fusedActivationFunction": int(rng.choice([0, 1])), "asymmetricQuantizeInputs": bool(rng.integers(2))}
    return stateful(rng, "SVDF", inputs, {4: (2, 40)}, 1, tolerance=1e-3, rank=2, **options)


@case("SVDF i8")
def svdf_i8(rng: Rng) -> Case:
    features, time = _eighth(numbers(rng, (8, 6))), _eighth(numbers(rng, (8, 5)), np.int16)
    state = {"scale": 0.002}
    bias = const(rng.integers(-9999, 9999, 4), np.int32, scale=state["scale"] * time.said["scale"], zero=0)
    inputs = [quantized(rng, (2, 6), "i8", 0.02), features, time, bias, None]
    out = q("i8", 0.1, -128)
    return stateful(rng, "SVDF", inputs, {4: ((2, 40), ("i16", state))}, out, tolerance=1, rank=2,
                     fusedActivationFunction=1)  # fmt: skip


@case("STABLEHLO_ADD", "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM", "STABLEHLO_MINIMUM")
def stablehlo_binary(rng: Rng, op: str) -> Case:
    shape = shape_of(rng)
    return one(op, [numbers(rng, shape), numbers(rng, shape)], ["f32"])


@case("STABLEHLO_SHIFT_LEFT")
def stablehlo_shift(rng: Rng) -> Case:
    return one("STABLEHLO_SHIFT_LEFT", [numbers(rng, (3, 4), "i32"), numbers(rng, (3, 4), "i32", 0, 9)], ["i32"], 0)


@case("STABLEHLO_PAD")
def stablehlo_pad(rng: Rng) -> Case:
    low, high = ([int(n) for n in rng.integers(-1, 3, 2)] for _ in range(2))
    inner = [int(n) for n in rng.integers(0, 2, 2)]
    return one("STABLEHLO_PAD", [numbers(rng, (3, 4)), const(np.float32(0.5))], ["f32"], 0, edgePaddingLow=low,
               edgePaddingHigh=high, interiorPadding=inner)  # fmt: skip
