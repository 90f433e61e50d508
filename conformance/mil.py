"""A small interpreter of MIL programs, written from the specification of the ops: numpy, and torch for convolutions.

It shares nothing with the importer's rules, reads weights by the library that coremltools ships for it, and checks that
each result has the type that the program declares. Ops are those that :mod:`tdagger.frameworks.coreml.emit` writes.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from conformance.mil_quantized import QUANTIZED
from conformance.mil_recurrent import RECURRENT
from tdagger.frameworks.coreml import proto

#: What holds each element type; int4 and uint4 are held in bytes.
DTYPES = {1: np.bool_, 10: np.float16, 11: np.float32, 23: np.int32,
          21: np.int8, 31: np.uint8, 25: np.int8, 35: np.uint8}  # fmt: skip
#: What the library calls the reader of each element type.
READERS = {10: "fp16", 11: "float", 21: "int8", 31: "uint8", 25: "int4", 35: "uint4"}


def _storage(path: str) -> Any:
    """coremltools' reader of weight files, without importing coremltools."""
    found = importlib.util.find_spec("coremltools")
    assert found is not None
    assert found.submodule_search_locations
    file = next(Path(next(iter(found.submodule_search_locations))).glob("libmilstoragepython*.so"))
    spec = importlib.util.spec_from_file_location("libmilstoragepython", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._BlobStorageReader(path)


class Program:
    """The function ``main`` of an ``.mlpackage``."""

    def __init__(self, package: Path) -> None:
        folder = package / "Data" / "com.apple.CoreML"
        self.model = proto.model()
        self.model.ParseFromString((folder / "model.mlmodel").read_bytes())
        function = self.model.mlProgram.functions["main"]
        given = [(i.name, i.type) for i in function.inputs]
        self.inputs = [(n, t.tensorType) for n, t in given if t.WhichOneof("type") == "tensorType"]
        states = {n: t.stateType.wrappedType.tensorType for n, t in given if t.WhichOneof("type") == "stateType"}
        #: What runs keep.
        self.states = {n: np.zeros(_shape(kind), DTYPES[kind.dataType]) for n, kind in states.items()}
        assert [s.name for s in self.model.description.state] == [*states]
        self.block = function.block_specializations[function.opset]
        self.weights = folder / "weights" / "weight.bin"
        self.reader: Any = None

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name, for inputs by name."""
        scope: dict[str, Any] = {}
        for name, kind in self.inputs:
            given = np.asarray(arrays[name])
            assert given.dtype == DTYPES[kind.dataType], (name, given.dtype)
            assert _fits(given.shape, kind), (name, given.shape, kind)
            scope[name] = given
        names: set[str] = set(scope)
        for op in self.block.operations:
            if op.type == "const":
                results = [self._literal(op.attributes["val"])]
            elif op.type == "read_state":
                results = [self.states[op.inputs["input"].arguments[0].name]]
            elif op.type == "write_state":
                results, name = [], op.inputs["input"].arguments[0].name
                data, before = self._given(scope, op.inputs["data"].arguments[0]), self.states[name]
                assert (data.shape, data.dtype) == (before.shape, before.dtype), name
                self.states[name] = data
            else:
                given = {k: [self._given(scope, a) for a in v.arguments] for k, v in op.inputs.items()}
                if op.type.startswith("constexpr_"):  # whose inputs are attributes before iOS18
                    given |= {k: [self._literal(v)] for k, v in op.attributes.items() if k != "name"}
                found = OPS[op.type](**{k: v if k == "values" else v[0] for k, v in given.items()})
                results = list(found) if isinstance(found, tuple) else [found]
            assert len(results) == len(op.outputs)
            for out, result in zip(op.outputs, results, strict=True):
                assert out.name not in names, out.name
                assert out.name.isidentifier(), out.name
                names.add(out.name)
                kind = out.type.tensorType
                if not isinstance(result, str):
                    result = np.asarray(result)
                    assert result.dtype == DTYPES[kind.dataType], (op.type, out.name, result.dtype)
                    assert _fits(result.shape, kind), (op.type, out.name, result.shape, kind)
                scope[out.name] = result
        described = [o.name for o in self.model.description.output]
        assert described == list(self.block.outputs)
        return {n: scope[n] for n in self.block.outputs}

    def _given(self, scope: Mapping[str, Any], argument: Any) -> Any:
        return scope[argument.name] if argument.WhichOneof("binding") == "name" else self._literal(argument.value)

    def _literal(self, value: Any) -> Any:
        kind = value.type.tensorType
        if value.WhichOneof("value") == "blobFileValue":
            if self.reader is None:
                self.reader = _storage(str(self.weights))
            read = getattr(self.reader, f"read_{READERS[kind.dataType]}_data")
            data = np.asarray(read(value.blobFileValue.offset))
            data = data.view(np.float16) if kind.dataType == 10 else data.astype(DTYPES[kind.dataType])
            return data.reshape(_shape(kind))
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field == "strings":
            return tensor.strings.values[0]
        if field == "bytes":
            held = np.frombuffer(tensor.bytes.values, np.uint8)
            if kind.dataType in (25, 35):
                held = np.stack([held & 15, held >> 4], -1).reshape(-1)[: math.prod(_shape(kind))]
                held = ((held ^ 8) - 8).astype(np.uint8) if kind.dataType == 25 else held
            return held.view(DTYPES[kind.dataType]).reshape(_shape(kind))
        return np.asarray(list(getattr(tensor, field).values), DTYPES[kind.dataType]).reshape(_shape(kind))


def _shape(kind: Any) -> tuple[int, ...]:
    return tuple(int(d.constant.size) for d in kind.dimensions)


def _fits(shape: tuple[int, ...], kind: Any) -> bool:
    """Whether a shape is the one that is declared, but for sizes that are left open."""
    dims = list(kind.dimensions)
    return len(dims) == len(shape) and all(
        d.WhichOneof("dimension") == "unknown" or d.constant.size == n for d, n in zip(dims, shape, strict=True)
    )


def _axes(axes: Any) -> tuple[int, ...]:
    return tuple(int(a) for a in axes)


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _floats(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of x that is computed in f32 and rounded once."""

    def call(x: np.ndarray, **more: Any) -> np.ndarray:
        return np.asarray(function(_wide(x), **more)).astype(x.dtype)

    return call


def _torch(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """A function of tensors by torch."""

    def call(x: np.ndarray, **more: Any) -> np.ndarray:
        floats = {k: v for k, v in more.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f" and v.ndim}
        tensors = more | {k: torch.from_numpy(np.ascontiguousarray(_wide(v))) for k, v in floats.items()}
        return function(torch.from_numpy(np.ascontiguousarray(_wide(x))), **tensors).numpy().astype(x.dtype)

    return call


def _padded(x: torch.Tensor, pad: Any, value: float = 0.0) -> torch.Tensor:
    sides = [int(n) for pair in np.asarray(pad).reshape(-1, 2)[::-1] for n in pair]
    return F.pad(x, sides, value=value) if any(sides) else x


@_torch
def _conv(
    x: Any, weight: Any, strides: Any, pad_type: str, pad: Any, dilations: Any, groups: Any, bias: Any = None
) -> Any:
    run = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    x = _padded(x, pad) if pad_type == "custom" else x
    return run(x, weight, bias, stride=_axes(strides), dilation=_axes(dilations), groups=int(groups))


@_torch
def _conv_transpose(
    x: Any, weight: Any, strides: Any, pad_type: str, pad: Any, dilations: Any, groups: Any, bias: Any = None
) -> Any:
    run = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[x.ndim]
    out = run(x, weight, None, stride=_axes(strides), dilation=_axes(dilations), groups=int(groups))
    for axis, (low, high) in enumerate(np.asarray(pad).reshape(-1, 2), 2):
        out = out.narrow(axis, int(low), out.shape[axis] - int(low) - int(high))
    return out if bias is None else out + bias.reshape(1, -1, *[1] * (x.ndim - 2))


def _pool(average: bool) -> Any:
    @_torch
    def call(
        x: Any,
        kernel_sizes: Any,
        strides: Any,
        pad_type: str,
        pad: Any,
        ceil_mode: Any,
        exclude_padding_from_average: Any = None,
    ) -> Any:
        n = x.ndim - 2
        sides = np.asarray(pad).reshape(-1, 2)
        kernel, stride = _axes(kernel_sizes), _axes(strides)
        if not average:
            run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
            return run(_padded(x, pad, -math.inf), kernel, stride, ceil_mode=bool(ceil_mode))
        run = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
        out = run(_padded(x, pad), kernel, stride, ceil_mode=bool(ceil_mode))
        if bool(exclude_padding_from_average) and sides.any():
            out = out / run(_padded(torch.ones_like(x), pad), kernel, stride, ceil_mode=bool(ceil_mode))
        return out

    return call


def _over(function: Callable[..., Any]) -> Any:
    def call(x: np.ndarray, axes: Any, keep_dims: Any) -> np.ndarray:
        return np.asarray(function(_wide(x), axis=_axes(axes), keepdims=bool(keep_dims))).astype(x.dtype)

    return call


def _two(function: Callable[..., Any], compares: bool = False) -> Any:
    def call(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        assert x.dtype == y.dtype, (x.dtype, y.dtype)
        out = np.asarray(function(_wide(x), _wide(y)))
        return out if compares else out.astype(x.dtype)

    return call


def _slice(x: np.ndarray, begin: Any, end: Any, stride: Any, begin_mask: Any, end_mask: Any) -> np.ndarray:
    cuts = []
    for n, b, e, s, first, last in zip(x.shape, begin, end, stride, begin_mask, end_mask, strict=True):
        assert b >= 0
        assert e >= 0
        cuts.append(slice(None if first else int(b), None if last else int(e), int(s)))
        assert n
    return x[tuple(cuts)]


def _gather(x: np.ndarray, indices: np.ndarray, axis: Any, batch_dims: Any = 0, validate_indices: Any = False) -> Any:
    axis, batch = int(axis), int(batch_dims)
    if not batch:
        return np.take(x, indices, axis)
    out = [_gather(a, i, axis - 1, batch - 1) for a, i in zip(x, indices, strict=True)]
    return np.stack(out)


def _scatter(data: Any, indices: Any, updates: Any, axis: Any, mode: str, validate_indices: Any = False) -> Any:
    out = np.moveaxis(data.copy(), int(axis), 0)
    given = np.moveaxis(updates, [int(axis) + i for i in range(indices.ndim)], range(indices.ndim))
    for place in np.ndindex(*indices.shape):
        at, new = indices[place], given[place]
        old = out[at]
        out[at] = {"update": lambda a, b: b, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[
            mode
        ](old, new)
    return np.moveaxis(out, 0, int(axis))


def _pad(x: np.ndarray, pad: Any, mode: str, constant_val: Any) -> np.ndarray:
    sides = [(int(a), int(b)) for a, b in np.asarray(pad).reshape(-1, 2)]
    widths = [(0, 0)] * (x.ndim - len(sides)) + sides
    if mode == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    return np.pad(x, widths, mode={"reflect": "reflect", "replicate": "edge"}[mode])


def _norm(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    left = _wide(x) - _wide(x).mean(axes, keepdims=True)
    return left / np.sqrt((left * left).mean(axes, keepdims=True) + np.float32(epsilon))


def _layer_norm(x: Any, axes: Any, epsilon: Any, gamma: Any = 1.0, beta: Any = 0.0) -> Any:
    return (_norm(x, _axes(axes), epsilon) * gamma + beta).astype(x.dtype)


def _spread(v: Any, rank: int) -> Any:
    return np.asarray(v).reshape(-1, *[1] * (rank - 2))


def _instance_norm(x: Any, epsilon: Any, gamma: Any = 1.0, beta: Any = 0.0) -> Any:
    out = _norm(x, tuple(range(2, x.ndim)), epsilon)
    return (out * _spread(gamma, x.ndim) + _spread(beta, x.ndim)).astype(x.dtype)


def _batch_norm(x: Any, mean: Any, variance: Any, epsilon: Any, gamma: Any = 1.0, beta: Any = 0.0) -> Any:
    m, v, g, b = (_spread(_wide(np.asarray(a)), x.ndim) for a in (mean, variance, gamma, beta))
    return ((_wide(x) - m) / np.sqrt(v + np.float32(epsilon)) * g + b).astype(x.dtype)


def _matmul(x: Any, y: Any, transpose_x: Any, transpose_y: Any) -> Any:
    a = np.swapaxes(x, -1, -2) if transpose_x else x
    b = np.swapaxes(y, -1, -2) if transpose_y else y
    return (_wide(a) @ _wide(b)).astype(x.dtype)


def _attention(query: Any, key: Any, value: Any) -> Any:
    q, k, v = map(_wide, (query, key, value))
    scores = q @ np.swapaxes(k, -1, -2) / np.float32(math.sqrt(q.shape[-1]))
    return (_softmax(scores, -1) @ v).astype(query.dtype)


def _softmax(x: Any, axis: Any) -> Any:
    e = np.exp(_wide(x) - _wide(x).max(int(axis), keepdims=True))
    return (e / e.sum(int(axis), keepdims=True)).astype(x.dtype)


@_torch
def _resize(x: Any, target_size_height: Any, target_size_width: Any, sampling_mode: str) -> Any:
    corners = {"STRICT_ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}[sampling_mode]
    return F.interpolate(x, (int(target_size_height), int(target_size_width)), mode="bilinear", align_corners=corners)


def _split(x: Any, axis: Any, split_sizes: Any) -> Any:
    return tuple(np.split(x, np.cumsum(split_sizes)[:-1], int(axis)))


def _topk(x: Any, k: Any, axis: Any, ascending: Any) -> Any:
    order = np.argsort(
        x if ascending else -_wide(x) if x.dtype.kind == "f" else -x.astype(np.int64), int(axis), kind="stable"
    )
    places = np.take(order, range(int(k)), int(axis))
    return np.take_along_axis(x, places, int(axis)), places.astype(np.int32)


def _argsort(x: Any, axis: Any, ascending: Any) -> Any:
    keys = x if ascending else -_wide(x) if x.dtype.kind == "f" else -x.astype(np.int64)
    return np.argsort(keys, int(axis), kind="stable").astype(np.int32)


def _cumsum(x: Any, axis: Any, exclusive: Any, reverse: Any) -> Any:
    assert not exclusive
    y = np.flip(x, int(axis)) if reverse else x
    out = np.cumsum(_wide(y), int(axis)).astype(x.dtype)
    return np.flip(out, int(axis)) if reverse else out


def _arg(function: Any) -> Any:
    def call(x: Any, axis: Any, keep_dims: Any) -> Any:
        return function(x, axis=int(axis), keepdims=bool(keep_dims)).astype(np.int32)

    return call


def _gelu(x: Any, mode: str) -> Any:
    kind = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode]
    return F.gelu(torch.from_numpy(np.array(x)), approximate=kind).numpy()


def _cast(x: Any, dtype: str) -> Any:
    to = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}[dtype]
    return x.astype(to)


def _lrn(x: Any, size: Any, alpha: Any, beta: Any, k: Any) -> Any:
    assert x.ndim == 4, "of other ranks what runs and what is said of it differ"
    t = torch.from_numpy(np.ascontiguousarray(_wide(x)))
    return F.local_response_norm(t, int(size), float(alpha), float(beta), float(k)).numpy().astype(x.dtype)


def _shuffle(function: Any, name: str) -> Any:
    def call(x: Any, **more: Any) -> Any:
        return function(torch.from_numpy(np.ascontiguousarray(x)), int(more[name])).numpy()

    return call


def _upsample(x: Any, scale_factor_height: Any, scale_factor_width: Any) -> Any:
    return x.repeat(int(scale_factor_height), -2).repeat(int(scale_factor_width), -1)


@_torch
def _upsample_bilinear(x: Any, scale_factor_height: Any, scale_factor_width: Any, align_corners: Any) -> Any:
    factors = (float(scale_factor_height), float(scale_factor_width))
    return F.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=bool(align_corners))


def _scalar(x: Any) -> float:
    return float(np.asarray(x))


_ERF = np.vectorize(math.erf, otypes=[np.float64])

OPS: dict[str, Callable[..., Any]] = {
    **{n: _floats(getattr(np, n)) for n in ("exp", "sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil")},
    "sqrt": _floats(np.sqrt),
    "asin": _floats(np.arcsin), "acos": _floats(np.arccos), "atan": _floats(np.arctan), "atanh": _floats(np.arctanh),
    "round": _floats(np.rint), "erf": _floats(_ERF), "exp2": _floats(np.exp2), "abs": lambda x: np.abs(x),
    "sign": lambda x: np.sign(x), "square": lambda x: x * x, "logical_not": lambda x: ~x, "identity": lambda x: x,
    "log": _floats(lambda x, epsilon: np.log(x + _scalar(epsilon))),
    "rsqrt": _floats(lambda x, epsilon: 1 / np.sqrt(x + _scalar(epsilon))),
    "relu": _floats(lambda x: np.maximum(x, 0)), "relu6": _floats(lambda x: np.clip(x, 0, 6)),
    "sigmoid": _floats(lambda x: 1 / (1 + np.exp(-x))), "silu": _floats(lambda x: x / (1 + np.exp(-x))),
    "softsign": _floats(lambda x: x / (1 + np.abs(x))), "softplus": _floats(lambda x: np.logaddexp(x, 0)),
    "leaky_relu": _floats(lambda x, alpha: np.where(x > 0, x, x * _scalar(alpha))),
    "elu": _floats(lambda x, alpha: np.where(x > 0, x, _scalar(alpha) * np.expm1(np.minimum(x, 0)))),
    "prelu": _floats(lambda x, alpha: np.where(x > 0, x, x * _spread(alpha, x.ndim))),
    "sigmoid_hard": _floats(lambda x, alpha, beta: np.clip(x * _scalar(alpha) + _scalar(beta), 0, 1)),
    "clip": _floats(lambda x, alpha, beta: np.clip(x, _scalar(alpha), _scalar(beta))), "gelu": _gelu,
    "softmax": _softmax, "cast": _cast,
    "add": _two(np.add), "sub": _two(np.subtract), "mul": _two(np.multiply), "real_div": _two(np.true_divide),
    "maximum": _two(np.maximum), "minimum": _two(np.minimum), "pow": _two(np.power), "mod": _two(np.mod),
    "floor_div": _two(np.floor_divide), "logical_and": _two(np.logical_and, True),
    "logical_or": _two(np.logical_or, True), "logical_xor": _two(np.logical_xor, True),
    **{n: _two(getattr(np, n), True) for n in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")},
    "select": lambda cond, a, b: np.where(cond, a, b),
    "linear": lambda x, weight, bias=0: (_wide(x) @ _wide(weight).T + bias).astype(x.dtype), "matmul": _matmul,
    "scaled_dot_product_attention": _attention, "conv": _conv, "conv_transpose": _conv_transpose,
    "max_pool": _pool(False), "avg_pool": _pool(True), "batch_norm": _batch_norm, "layer_norm": _layer_norm,
    "instance_norm": _instance_norm, "local_response_norm": _lrn, "resize_bilinear": _resize,
    "upsample_bilinear": _upsample_bilinear, "upsample_nearest_neighbor": _upsample,
    "reduce_sum": _over(np.sum), "reduce_prod": _over(np.prod), "reduce_max": _over(np.max),
    "reduce_min": _over(np.min),
    "reduce_mean": _over(np.mean), "reduce_l1_norm": _over(lambda x, **k: np.abs(x).sum(**k)),
    "reduce_l2_norm": _over(lambda x, **k: np.sqrt((x * x).sum(**k))),
    "reduce_log_sum_exp": _over(lambda x, axis, keepdims: torch.logsumexp(torch.from_numpy(x), axis, keepdims).numpy()),
    "reduce_argmax": _arg(np.argmax), "reduce_argmin": _arg(np.argmin), "argsort": _argsort, "topk": _topk,
    "cumsum": _cumsum,
    "range_1d": lambda end, start, step: np.arange(start.item(), end.item(), step.item(), dtype=end.dtype),
    "shape": lambda x: np.array(x.shape, np.int32),
    "transpose": lambda x, perm: np.transpose(x, _axes(perm)), "reshape": lambda x, shape: x.reshape(_axes(shape)),
    "expand_dims": lambda x, axes: np.expand_dims(x, _axes(axes)),
    "squeeze": lambda x, axes: np.squeeze(x, _axes(axes)),
    "slice_by_index": _slice, "concat": lambda values, axis, interleave: np.concatenate(values, int(axis)),
    "stack": lambda values, axis: np.stack(values, int(axis)), "split": _split,
    "tile": lambda x, reps: np.tile(x, _axes(reps)), "pad": _pad, "gather": _gather,
    "gather_along_axis": lambda x, indices, axis, validate_indices=False: np.take_along_axis(x, indices, int(axis)),
    "scatter": _scatter, "pixel_shuffle": _shuffle(F.pixel_shuffle, "upscale_factor"),
    "pixel_unshuffle": _shuffle(F.pixel_unshuffle, "downscale_factor"),
    **QUANTIZED, **RECURRENT,
}  # fmt: skip
