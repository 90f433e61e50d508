"""Element types and tensor types: names, interning, errors."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest

from tdagger.errors import AttributeValueError, TypeMismatchError
from tdagger.types import DTYPES, DType, ResultTypes, TensorType, bf16, bool_, f32, i64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtype_names(dtype: DType) -> None:
    assert DType.of(dtype) is DType.of(dtype.name) is DType.of(dtype.numpy) is DType.of(dtype.numpy.name) is dtype
    assert dtype.bytes == dtype.numpy.itemsize
    assert pickle.loads(pickle.dumps(dtype)) is copy.deepcopy(dtype) is dtype


def test_dtype_kinds() -> None:
    kinds = {d.name: (d.is_float, d.is_int, d.is_complex, d.is_signed) for d in DTYPES}
    assert kinds["f16"] == kinds["bf16"] == kinds["f8e4m3"] == (True, False, False, True)
    assert kinds["i64"] == (False, True, False, True)
    assert kinds["u8"] == (False, True, False, False)
    assert kinds["bool"] == (False, False, False, False)
    assert kinds["c64"] == (False, False, True, True)


def test_dtype_of_what_numpy_takes() -> None:
    assert DType.of(float).name == "f64"
    assert DType.of(np.float32) is f32
    assert DType.of(ml_dtypes.bfloat16) is bf16


@pytest.mark.parametrize("wrong", ["float31", "", np.dtype("U3")])
def test_dtype_unknown(wrong: object) -> None:
    with pytest.raises(AttributeValueError, match=r"no element type is called .*; there are f16, bf16, f32"):
        DType.of(wrong)


def test_tensor_type_is_interned() -> None:
    t = TensorType((2, 3), "f32")
    assert t is TensorType((2, 3), f32) is TensorType((np.int64(2), np.int32(3)), "float32")
    assert t is not TensorType((3, 2), f32)
    assert t is not TensorType((2, 3), "f64")
    assert pickle.loads(pickle.dumps(t)) is copy.deepcopy(t) is t


@pytest.mark.parametrize(
    ("shape", "size", "shown"), [((), 1, "i64[]"), ((0, 3), 0, "i64[0 3]"), ((2, 3), 6, "i64[2 3]")]
)
def test_tensor_type_sizes(shape: tuple[int, ...], size: int, shown: str) -> None:
    t = TensorType(shape, i64)
    assert (t.rank, t.size, t.bytes, repr(t)) == (len(shape), size, 8 * size, shown)
    assert all(type(n) is int for n in t.shape)


def test_tensor_type_with() -> None:
    t = TensorType((2, 3), f32)
    assert t.with_shape((6,)) is TensorType((6,), f32)
    assert t.with_dtype(bool_) is TensorType((2, 3), bool_)


def test_negative_size() -> None:
    with pytest.raises(AttributeValueError, match=r"no negative sizes, got \(2, -1\)"):
        TensorType((2, -1), f32)


def test_result_types() -> None:
    several = ResultTypes((TensorType((2,), f32), TensorType((), i64)))
    assert repr(several) == "(f32[2], i64[])"
    for name in ("shape", "dtype", "rank"):
        with pytest.raises(TypeMismatchError, match=f"an op with 2 results has no one {name}; take one with item"):
            getattr(several, name)
    assert copy.deepcopy(several) == pickle.loads(pickle.dumps(several)) == several
