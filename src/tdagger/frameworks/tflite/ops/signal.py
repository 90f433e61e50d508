"""TFLite's Fourier transforms and random numbers."""

from __future__ import annotations

from tdagger import library as lib
from tdagger.frameworks.tflite.ops.structure import check_entries
from tdagger.frameworks.tflite.ops.table import Call, Draw, Int, Ints, rule, unsupported
from tdagger.op import Value
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s


@rule("RFFT2D")
def _rfft2d(x: Value, fft_length: Ints) -> Value:
    """Over the last two axes, each cut or filled up with zeros; of the last one half and the middle."""
    check_entries(max(fft_length))
    for axis, length in zip((x.rank - 2, x.rank - 1), fft_length, strict=True):
        if length > x.shape[axis] or length < 1:
            raise unsupported(f"a transform of {list(fft_length)} of {x.type}")
        x = s.slice_axis(x, axis, 0, None if length == x.shape[axis] else length)
    y = lib.fft(e.cast(x, "c64"), axis=x.rank - 1)
    y = s.slice_axis(y, y.rank - 1, 0, fft_length[1] // 2 + 1)
    return lib.fft(y, axis=y.rank - 2)


@rule("RANDOM_UNIFORM")
def _random_uniform(shape: Ints, *, seed: int = 0, seed2: int = 0, draw: Draw) -> Value:
    """From 0 to 1. The numbers are others than a runtime's: a function of the network's seed."""
    del seed, seed2
    return lib.uniform(draw(), shape=shape)


@rule("RANDOM_STANDARD_NORMAL")
def _random_normal(shape: Ints, *, seed: int = 0, seed2: int = 0, draw: Draw) -> Value:
    del seed, seed2
    return lib.normal(draw(), shape=shape)


@rule("MULTINOMIAL")
def _multinomial(logits: Value, count: Int, *, seed: int = 0, seed2: int = 0, draw: Draw, node: Call) -> Value:
    """Draws of classes by their logits: the largest with noise of a Gumbel distribution added."""
    del seed, seed2
    batch, classes = logits.shape
    noise = lib.uniform(draw(), shape=(batch, count, classes), low=1e-20)
    found = s.unsqueeze(logits, (1,)) - e.log(e.neg(e.log(noise)))
    return e.cast(lib.argmax(found, axis=2), node.dtypes[0])
