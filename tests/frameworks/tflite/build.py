"""A builder of small TFLite files: tensors, operators and subgraphs by the schema's own classes."""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as s

from tdagger.frameworks.tflite.schema import DTYPES

KINDS = {d.name: k for k, d in DTYPES.items() if k not in (s.TensorType.INT4, s.TensorType.INT2, s.TensorType.UINT4)}
#: Options of operators whose table isn't called as they are.
TABLES = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "CONV_3D": "Conv3DOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "MAX_POOL_2D": "Pool2DOptions",
    "L2_POOL_2D": "Pool2DOptions", "MEAN": "ReducerOptions", "SUM": "ReducerOptions", "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions", "REDUCE_PROD": "ReducerOptions", "REDUCE_ANY": "ReducerOptions",
    "REDUCE_ALL": "ReducerOptions", "L2_NORMALIZATION": "L2NormOptions", "RNN": "RNNOptions",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions", "LSTM": "LSTMOptions", "SVDF": "SVDFOptions",
    "BIDIRECTIONAL_SEQUENCE_RNN": "BidirectionalSequenceRNNOptions", "TOPK_V2": "TopKV2Options",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions", "SPACE_TO_BATCH_ND": "SpaceToBatchNDOptions",
    "BIDIRECTIONAL_SEQUENCE_LSTM": "BidirectionalSequenceLSTMOptions", "BATCH_TO_SPACE_ND": "BatchToSpaceNDOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions", "SELECT_V2": "SelectV2Options",
    "BATCH_MATMUL": "BatchMatMulOptions", "CONCATENATION": "ConcatenationOptions", "PADV2": "PadV2Options",
    "RANDOM_UNIFORM": "RandomOptions", "RANDOM_STANDARD_NORMAL": "RandomOptions", "MULTINOMIAL": "RandomOptions",
    "LOCAL_RESPONSE_NORMALIZATION": "LocalResponseNormalizationOptions", "RFFT2D": "Rfft2dOptions",
    "GATHER_ND": "GatherNdOptions", "SCATTER_ND": "ScatterNdOptions", "REVERSE_V2": "ReverseV2Options",
    "WHERE": "WhereOptions", "FAKE_QUANT": "FakeQuantOptions", "STABLEHLO_COMPOSITE": "StableHLOCompositeOptions",
}  # fmt: skip

#: The first version that runtimes have a kernel of, where it isn't 1.
VERSIONS = {"BROADCAST_TO": 2}


class Build:
    """A model that is written: subgraph 0 first, others by :meth:`subgraph`."""

    def __init__(self) -> None:
        self.model = s.ModelT()
        self.model.version = 3
        self.model.operatorCodes, self.model.subgraphs, self.model.signatureDefs = [], [], []
        self.model.buffers, self.model.metadata = [s.BufferT()], []
        self.codes: dict[str, int] = {}
        self.subgraph("main")

    def subgraph(self, name: str) -> int:
        """Write a further subgraph from now on; its index."""
        self.graph = s.SubGraphT()
        self.graph.name = name.encode()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.model.subgraphs.append(self.graph)
        return len(self.model.subgraphs) - 1

    def tensor(
        self, shape: Any, dtype: str | int = "f32", *, name: str | None = None, scale: Any = None, zero: Any = 0,
        axis: int = 0, signature: Any = None, variable: bool = False,
    ) -> int:  # fmt: skip
        """A tensor without data; its index. ``dtype`` is a name here, or a number of the schema."""
        t = s.TensorT()
        t.shape, t.type, t.buffer = np.asarray(shape, np.int32), KINDS.get(dtype, dtype), 0  # type: ignore[arg-type]
        t.name = (name or f"t{len(self.graph.tensors)}").encode()
        t.isVariable, t.hasRank = variable, True
        if signature is not None:
            t.shapeSignature = np.asarray(signature, np.int32)
        if scale is not None:
            q = t.quantization = s.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, np.float32))
            q.zeroPoint = np.broadcast_to(np.asarray(zero, np.int64), q.scale.shape).copy()
            q.quantizedDimension = axis
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def input(self, shape: Any, dtype: str | int = "f32", **said: Any) -> int:
        """An input of the subgraph."""
        index = self.tensor(shape, dtype, **said)
        self.graph.inputs.append(index)
        return index

    def const(self, data: Any, dtype: str | int | None = None, *, shape: Any = None, **said: Any) -> int:
        """A constant tensor; ``shape`` where the data is packed."""
        array = np.array(data, order="C")
        array = array.astype(np.float32) if array.dtype == np.float64 and dtype is None else array
        kind = dtype if dtype is not None else next(d.name for d in DTYPES.values() if d.numpy == array.dtype)
        if isinstance(kind, str):
            array = array.astype(DTYPES[KINDS[kind]].numpy)
        index = self.tensor(array.shape if shape is None else shape, kind, **said)
        buffer = s.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[index].buffer = len(self.model.buffers) - 1
        return index

    def op(self, name: str, inputs: list[int], outputs: list[int], custom: bytes = b"", /, **options: Any) -> list[int]:
        """An operator; options by the schema's names. Its outputs."""
        if name not in self.codes:
            code = s.OperatorCodeT()
            if name.startswith("custom:"):
                code.builtinCode, code.customCode = s.BuiltinOperator.CUSTOM, name[7:].encode()
            else:
                code.builtinCode = getattr(s.BuiltinOperator, name)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), VERSIONS.get(name, 1)
            self.model.operatorCodes.append(code)
            self.codes[name] = len(self.model.operatorCodes) - 1
        o = s.OperatorT()
        o.opcodeIndex, o.inputs, o.outputs = self.codes[name], np.array(inputs, "i"), np.array(outputs, "i")
        table = TABLES.get(name, "".join(w.capitalize() for w in name.split("_")) + "Options")
        first = hasattr(s.BuiltinOptions, table)
        if first or hasattr(s.BuiltinOptions2, table):
            made = getattr(s, f"{table}T")()
            for k, v in options.items():
                assert hasattr(made, k), f"{table} has no {k}"
                whole = np.int32 if first else np.int64
                setattr(
                    made, k, np.asarray(v, np.float32 if k == "boundaries" else whole) if isinstance(v, list) else v
                )
            if first:
                o.builtinOptionsType, o.builtinOptions = getattr(s.BuiltinOptions, table), made
            else:
                o.builtinOptions2Type, o.builtinOptions2 = getattr(s.BuiltinOptions2, table), made
        else:
            assert not options, f"there is no table {table}"
        if custom:
            o.customOptions = np.frombuffer(custom, np.uint8)
        self.graph.operators.append(o)
        return outputs

    def output(self, *indices: int) -> None:
        """Outputs of the subgraph."""
        self.graph.outputs += indices

    def signature(self, key: str, inputs: dict[str, int], outputs: dict[str, int], subgraph: int = 0) -> None:
        """A way to call a subgraph, by names."""
        made = s.SignatureDefT()
        made.signatureKey, made.subgraphIndex, made.inputs, made.outputs = key.encode(), subgraph, [], []
        for side, named in ((made.inputs, inputs), (made.outputs, outputs)):
            for name, index in named.items():
                entry = s.TensorMapT()
                entry.name, entry.tensorIndex = name.encode(), index
                side.append(entry)
        self.model.signatureDefs.append(made)

    def bytes(self) -> bytes:
        """The file."""
        for graph in self.model.subgraphs:
            graph.inputs, graph.outputs = np.array(graph.inputs, "i"), np.array(graph.outputs, "i")
        builder = flatbuffers.Builder(1 << 12)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
