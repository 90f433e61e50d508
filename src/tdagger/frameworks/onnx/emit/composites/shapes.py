"""Composites that only move entries, as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tdagger.frameworks.onnx.emit import core
from tdagger.frameworks.onnx.emit.composites.rule import Rule, back, flattened
from tdagger.frameworks.onnx.emit.core import every_axis
from tdagger.frameworks.onnx.emit.kernels import computed_in
from tdagger.frameworks.onnx.emit.moves import moved, with_shape
from tdagger.frameworks.onnx.emit.writer import Writer
from tdagger.frameworks.writing import Fields
from tdagger.op import Value
from tdagger.types import TensorType, bool_, i64


def _pad_mode(mode: str) -> Rule:
    def write(w: Writer, v: Value, f: Fields) -> str:
        if not any(map(any, f["widths"])):
            return w.ref(v.args[0])
        to = computed_in("Pad", v.dtype, moves=True)
        pads = w.ints(every_axis([*[None] * (v.rank - len(f["widths"])), *f["widths"]]))
        return w.cast(w.node("Pad", [w.cast(w.ref(v.args[0]), v.dtype, to), pads], mode=mode), to, v.dtype)

    def when(f: Fields, types: Sequence[TensorType]) -> bool:
        plain = all(n >= 0 for p in f["widths"] for n in p)
        return plain and 0 not in types[0].shape and not types[0].dtype.is_complex and types[0].dtype is not bool_

    return Rule(write, when)


def _pixel_shuffle(w: Writer, v: Value, f: Fields) -> str:
    to = computed_in("DepthToSpace", v.dtype)
    name, _ = flattened(w, v.args[0], 3)
    out = w.node("DepthToSpace", [w.cast(name, v.dtype, to)], blocksize=f["factor"], mode="CRD")
    return back(w, w.cast(out, to, v.dtype), v.type, 3)


def _shuffles(f: Fields, types: Sequence[TensorType]) -> bool:
    return types[0].dtype.name in ("f32", "f16", "bf16", "f64", "i8", "u8") and 0 not in types[0].shape


def _trilu(upper: int) -> Callable[[Writer, Value, Fields], str]:
    def write(w: Writer, v: Value, f: Fields) -> str:
        return moved(w, "Trilu", v.dtype, [w.ref(v.args[0])], [w.scalar(f["diagonal"], i64)], upper=upper)

    return write


def _planes(f: Fields, types: Sequence[TensorType]) -> bool:
    return not types[0].dtype.is_complex and types[0].rank >= 2 and 0 not in types[0].shape


def _tile(w: Writer, v: Value, f: Fields) -> str:
    x = v.args[0]
    new = len(f["repeats"]) - x.rank
    name = with_shape(w, w.ref(x), x.type, (*[1] * new, *x.shape))
    return moved(w, "Tile", v.dtype, [name], [w.ints(f["repeats"])])


def _tiles(f: Fields, types: Sequence[TensorType]) -> bool:
    return not types[0].dtype.is_complex and 0 not in (*types[0].shape, *f["repeats"]) and types[0].rank > 0


#: Of each composite its row.
SHAPES: dict[str, Rule] = {
    "reshape": Rule(lambda w, v, f: core.reshape(w, v)),
    "pixel_shuffle": Rule(_pixel_shuffle, _shuffles),
    "tile": Rule(_tile, _tiles),
    "tril": Rule(_trilu(0), _planes),
    "triu": Rule(_trilu(1), _planes),
    "reflect_pad": _pad_mode("reflect"),
    "replicate_pad": _pad_mode("edge"),
}
