"""The kernels that a framework runs for a network, each with its kind and what its time is made of.

Which ops are kernels, views or several kernels is what the declared table of the backend says
(:mod:`tdagger.analysis.execution.torch_cpu`); what a kernel computes and moves is counted.

>>> import tdagger as td
>>> x, w = td.input("x", (8, 4)), td.parameter("w", (16, 4))
>>> y = td.relu(td.linear(x, w))
>>> for value, work in works(td.Graph({"x": x}, {"y": y})).items():
...     for w in work:
...         print(value.op, w.kind, w.flops, w.reads, w.weights, w.writes)
linear matmul 896 128 256 512
relu elementwise 128 512 0 512
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from tdagger.analysis.execution.layout import Strides, contiguous, is_channels_last, is_contiguous, is_dense
from tdagger.analysis.execution.torch_cpu import LANES, TORCH_CPU
from tdagger.analysis.execution.tracing import Call, Kernel
from tdagger.composite import Composite
from tdagger.graph import Graph, result_types
from tdagger.op import Op, Value
from tdagger.ops.elementwise import BINARY, UNARY, Binary, Unary
from tdagger.ops.source import Buffer, Const, Iota, Leaf, Parameter
from tdagger.ops.structure import Item, Repeat
from tdagger.types import TensorType, least


class Work(NamedTuple):
    """A kernel: its ``kind``, the element type ``dtype`` it computes with, and what its time is a sum of.

    ``calls`` is 1; ``flops`` all operations on elements, ``functions`` those of them that are transcendental; bytes:
    ``reads`` of activations that were touched a moment ago (:data:`NEAR`), ``far`` of others, ``weights`` read of
    parameters, buffers and constants, ``writes`` of results, ``scratch`` held while it works (copies, other layouts),
    and ``before``: what the kernel before moved, at most :data:`CACHE`, which is gone from the caches now, code
    included.
    """

    kind: str
    dtype: str
    calls: int = 0
    flops: int = 0
    functions: int = 0
    reads: int = 0
    far: int = 0
    weights: int = 0
    writes: int = 0
    scratch: int = 0
    before: int = 0


#: Bytes moved since a tensor was touched, up to which it is taken to be in a near cache.
NEAR = 1 << 20
#: More bytes than this leave no more of what was in the caches than so many do.
CACHE = 8 << 20

#: What a time is a sum of, in the order of :class:`Work`.
UNITS = Work._fields[2:]

#: The kinds of ops by name; convolutions and products are told apart by their arguments. All else is "elementwise" or
#: "function" if its result is as large as its largest argument, and "other" if not.
KINDS: dict[str, str] = {
    **dict.fromkeys(("linear", "matmul", "addmm", "baddbmm", "einsum", "bilinear", "grouped_matmul"), "matmul"),
    **dict.fromkeys(("convolution", "convolution_transpose"), "convolution"),
    "scaled_dot_product_attention": "attention",
    **dict.fromkeys(("lstm", "gru", "rnn"), "recurrent"),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize"), "norm"),
    "local_response_norm": "norm",
    **dict.fromkeys(("batch_norm", "batch_norm_train", "instance_norm_train"), "batch_norm"),
    **dict.fromkeys(("softmax", "log_softmax", "logsumexp"), "softmax"),
    **dict.fromkeys(("max_pool", "max_pool_with_indices", "avg_pool", "interpolate", "grid_sample"), "window"),
    **dict.fromkeys(
        ("reduce", "mean", "variance", "std", "vector_norm", "argmax", "argmin", "largest", "smallest",
         "adaptive_avg_pool", "adaptive_max_pool", "adaptive_max_pool_with_indices"), "reduction"),
    **dict.fromkeys(
        ("group", "ungroup", "reshape", "slice", "concat", "stack", "pad", "reflect_pad", "replicate_pad",
         "circular_pad", "roll", "tile", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle", "unfold", "fold",
         "im2col", "col2im", "tril", "triu"), "copy"),
    **dict.fromkeys(
        ("gather", "embedding", "scatter", "argsort", "sort", "topk", "one_hot", "scan", "logcumsumexp"), "indexing"),
}  # fmt: skip

_WEIGHTS = (Parameter, Buffer, Const, Iota)
#: Functions from slow to fast: an op with several is named after the slowest.
_SLOW = ("lgamma", "erfinv", "pow", "tan", "tanh", "erf", "sin", "cos", "log", "exp", "sqrt")
#: Products of fewer rows than this read their matrix, which takes longer than multiplying.
_FEW_ROWS = 8
_CONVOLUTIONS = {"convolution", "depthwise", "grouped", "pointwise", "vector"}
#: Entries of one image up to which torch lays out the windows of a small kernel itself.
_SMALL = 20480
_STRIDED = {"elementwise", "function", "norm", "batch_norm", "softmax", "reduction", "copy", "window"}


def works(graph: Graph) -> dict[Value, list[Work]]:
    """The kernels of every value in order; views have one of kind "view", which only is a call, leaves have none.

    Linear in values; reads no weights.
    """
    walk = _Walk()
    places: dict[Value, _Place] = {}
    found: dict[Value, list[Work]] = {}
    for value in graph.values:
        here: list[Work] = []
        walk.value(value, places, here)
        if here:
            found[value] = here
    return found


class _Place(NamedTuple):
    """Where the results of a value lie: strides, elements behind it, the storage, and whether it is a weight's."""

    strides: tuple[Strides, ...]
    stored: int
    storage: int
    is_weight: bool


class _Walk:
    def __init__(self) -> None:
        self.kernels: dict[Call, tuple[Kernel, tuple[int, ...], int, int]] = {}
        self.touched: list[int] = []  # of every storage, the bytes that were moved before it was touched last
        self.moved = 0
        self.before = 0

    def storage(self) -> int:
        """A new storage."""
        self.touched.append(self.moved)
        return len(self.touched) - 1

    def value(self, value: Value, places: dict[Value, _Place], found: list[Work]) -> None:
        """Add the kernels of a value; ``places`` has those of its arguments and gets its own."""
        op, args = value.op, [places[a] for a in value.args]
        if isinstance(op, Leaf | Const | Iota):
            weight = isinstance(op, _WEIGHTS)
            places[value] = _Place((contiguous(value.type.shape),), value.type.size, self.storage(), weight)
        elif isinstance(op, Item):
            places[value] = args[0]._replace(strides=args[0].strides[op.index :][:1], stored=value.type.size)
        elif isinstance(op, Composite) and op.name not in TORCH_CPU.rules:
            body = op.body(*[a.type for a in value.args])
            inner = dict(zip(body.inputs.values(), args, strict=True))
            for v in body.values:  # recursion is as deep as composites nest, not as the graph
                if v not in inner:
                    self.value(v, inner, found)
            results = [inner[v] for v in body.outputs.values()]
            places[value] = results[0]._replace(strides=tuple([r.strides[0] for r in results]))
        else:
            places[value] = self.kernel(value, args, found)

    def kernel(self, value: Value, args: list[_Place], found: list[Work]) -> _Place:
        types = tuple([a.type for a in value.args])
        call = Call(value.op, types, tuple([a.strides[0] for a in args]), result_types(value))
        known = self.kernels.get(call)
        if known is None:
            rule = TORCH_CPU.rules.get(value.op.name, Call.contiguous)
            reads = value.op.reads(value.type, *types)
            known = self.kernels[call] = (
                rule(call),
                reads,
                value.op.flops(value.type, *types),
                functions(value.op, types).total(),
            )
        made, reads, flops, transcendental = known
        strides, dtype = tuple([r.strides for r in made.results]), types[0].dtype.name if types else "f32"
        of = made.results[0].view_of
        if of is not None:
            if not args[of].is_weight and not isinstance(value.op, Repeat):  # those aren't written out: they broadcast
                found.append(Work("view", dtype, 1, before=self.before))
                self.before = 0
            return args[of]._replace(strides=strides, stored=least(args[of].stored, value.type.size))
        read = {"reads": 0, "far": 0, "weights": 0}
        for n, arg, place in zip(reads, value.args, args, strict=True):
            size = least(n, place.stored) * arg.type.dtype.bytes
            far = self.moved - self.touched[place.storage] > NEAR
            read["weights" if place.is_weight else "far" if far else "reads"] += size
        writes = sum(r.size for r in made.results)
        kind, scratch = kind_of(call, [p.is_weight for p in args]), made.scratch
        if _copies_first(call, kind):
            copied = types[0].bytes
            found.append(
                Work(
                    f"copy {_reading(call, [False, *[True] * (len(args) - 1)])}", dtype, 1, reads=copied, writes=copied
                )
            )
            scratch = max(scratch - copied, 0)
        work = Work(kind, dtype, 1, flops, transcendental, **read, writes=writes, scratch=scratch, before=self.before)
        found.append(work)
        moved = sum(read.values()) + writes + made.scratch
        self.moved, self.before = self.moved + moved, min(moved, CACHE)
        for place in args:
            self.touched[place.storage] = self.moved
        return _Place(strides, sum(t.size for t in call.out), self.storage(), False)


def kind_of(call: Call, is_weight: Sequence[bool]) -> str:
    """The kind of a kernel, by its op and its arguments; :data:`KINDS` and docs/time.md list them."""
    kind = KINDS.get(call.op.name)
    if kind is None:
        kind = _elementwise(call.op, call.types) if _is_full(call) else "other"
    if kind == "convolution":
        return _convolution(call)
    if kind == "matmul":
        rows = call.out[0].size // max(call.out[0].shape[-1], 1) if call.out[0].rank else 1
        return "vector" if rows < _FEW_ROWS else "matmul" if any(is_weight) else "batched"
    if kind == "softmax" and call.op.attributes.get("axis", -1) not in (-1, call.types[0].rank - 1):
        return "softmax across"
    how = _reading(call, is_weight) if kind.partition(" ")[0] in _STRIDED else ""
    return f"{kind} {how}".rstrip()


def _copies_first(call: Call, kind: str) -> bool:
    """Whether a convolution begins with a copy of its argument that lies row by row."""
    own = kind.partition(" ")[0] in _CONVOLUTIONS and not kind.endswith("last")
    return own and not is_contiguous(call.types[0].shape, call.strides[0])


def _reading(call: Call, is_weight: Sequence[bool]) -> str:
    """How a kernel walks through its arguments: "" in order, "strided" by rows, "transposed" by single entries.

    Arguments of one shape that lie densely in one order of axes are read in that order by elementwise kernels.
    """
    lie = [(t.shape, s) for t, s, w in zip(call.types, call.strides, is_weight, strict=True) if not w]
    if call.op.name not in KINDS and len(set(lie)) == 1 and is_dense(*lie[0]):
        return ""
    odd = [(shape, s) for shape, s in lie if not is_contiguous(shape, s)]
    if any([step for n, step in zip(shape, s, strict=True) if n > 1][-1:] not in ([0], [1], []) for shape, s in odd):
        return "transposed"
    return "strided" if odd else ""


def _is_full(call: Call) -> bool:
    """Whether the result is as large as the largest argument."""
    return bool(call.types) and call.out[0].size >= max(t.size for t in call.types)


def _elementwise(op: Op, types: tuple[TensorType, ...]) -> str:
    """Elementwise, or "function" and the slowest transcendental function that an elementwise op computes."""
    found = functions(op, types)
    return f"function {max(found, key=_rank)}" if found else "elementwise"


def _rank(function: str) -> int:
    return _SLOW.index(function) if function in _SLOW else len(_SLOW)


def _convolution(call: Call) -> str:
    """Depthwise, of groups, of single pixels (a product of matrices), or of windows; channels last or not.

    Where torch's CPU kernels lay the windows out themselves instead of reordering channels into blocks, that is a
    kind of its own.
    """
    x, weight, out = call.types[0], call.types[1], call.out[0]
    op: Any = call.op
    groups, kernel = op.groups, weight.shape[2:]
    channels = x.shape[x.rank - weight.rank + 1]
    pixels = out.size // max(out.shape[out.rank - weight.rank + 1], 1)
    kind = "convolution"
    if groups > 1:
        into = channels // groups
        blocked = into == weight.shape[0] // groups and (into % LANES == 0 or into in (4, 8))
        kind = "depthwise" if groups == channels else "grouped" if blocked else "grouped windows"
    elif set(kernel) == {1} and set(op.stride) == {1}:
        kind = "vector" if pixels < _FEW_ROWS else "pointwise"
    elif math.prod(x.shape[: x.rank - weight.rank + 1]) == 1 and max(kernel) <= 3 and x.size <= _SMALL:
        kind = "convolution windows"
    return f"{kind} last" if kind != "vector" and is_channels_last(x.shape, call.strides[0]) else kind


def functions(op: Op, types: tuple[TensorType, ...]) -> Counter[str]:
    """The transcendental functions of elements that an op computes: of each name, how many."""
    if isinstance(op, Composite):
        found: Counter[str] = Counter()
        if op.definition.flops_each is None:
            for v in op.body(*types).values:
                found += functions(v.op, tuple([a.type for a in v.args]))
        return found
    table: Any = UNARY if isinstance(op, Unary) else BINARY if isinstance(op, Binary) else {}
    kind = getattr(op, "kind", "")
    return Counter({kind: types[0].size}) if kind in table and table[kind].transcendental else Counter()
