"""ONNX's operators of signals: Fourier transforms, windows, mel weights, and Einstein's sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tdagger import library as lib
from tdagger.frameworks.onnx.file.tensors import DTYPES
from tdagger.frameworks.onnx.ops.table import Float, Int, rule, unsupported
from tdagger.op import Array, Value, normal_axis
from tdagger.ops import elementwise as e
from tdagger.ops import structure as s
from tdagger.ops.source import const
from tdagger.types import sized


@rule("Einsum")
def _einsum(*Inputs: Value, equation: str) -> Value:
    return lib.einsum(*Inputs, equation=equation)


# --- Fourier transforms ------------------------------------------------------------------------------------


@rule("DFT")
def _dft_of_axis(
    input: Value, dft_length: Int | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Value:
    return dft(input, dft_length, axis, inverse=inverse, onesided=onesided)


@rule("DFT", since=20)
def dft(
    input: Value, dft_length: Int | None = None, axis: Int | None = None, *, inverse: int = 0, onesided: int = 0
) -> Value:
    """The last axis holds real numbers, or their real and imaginary parts, before and after."""
    at = normal_axis(-2 if axis is None else axis, input.rank)
    x = _complex(input)
    if inverse and onesided:
        length = 2 * (input.shape[at] - 1) if dft_length is None else dft_length
        out = s.unsqueeze(_real_inverse(x, at, length), (-1,))
    else:
        x = x if dft_length is None else _resized(x, at, dft_length)
        out = lib.fft(x, axis=at, backward=bool(inverse))
        out = lib.over_count(out, axes=(at,)) if inverse else out
        out = s.slice_axis(out, at, 0, sized(x.shape[at], (2,), 2)) if onesided else out
        out = lib.stack(e.real(out), e.imag(out), axis=out.rank)
    return e.cast(out, input.dtype)


def _complex(x: Value) -> Value:
    """What a last axis of one or two entries holds, as complex numbers without that axis."""
    if x.shape[-1] not in (1, 2):
        raise unsupported(f"the last axis of {x.type} doesn't hold real or complex numbers")
    wide = e.cast(x, "f32" if x.dtype.bytes < 4 else x.dtype)
    parts = [s.select(wide, -1, i) for i in range(x.shape[-1])]
    if len(parts) == 1:
        return e.cast(parts[0], "c128" if wide.dtype.name == "f64" else "c64")
    return e.complex_(*parts)


def _resized(x: Value, axis: int, length: int) -> Value:
    """Cut, or with zeros at the end."""
    more = length - x.shape[axis]
    return s.pad(x, [(0, more) if i == axis else None for i in range(x.rank)]) if more else x


def _real_inverse(x: Value, axis: int, length: int) -> Value:
    """The real signal of ``length`` that half of a spectrum is of: the other half mirrors it."""
    half = length // 2 + 1
    x = _resized(x, axis, half)
    mirrored = s.flip(e.conj(s.slice_axis(x, axis, 1, half - 1 + length % 2)), (axis,))
    return e.real(lib.over_count(lib.fft(s.concat((x, mirrored), axis), axis=axis, backward=True), axes=(axis,)))


@rule("STFT")
def _stft(
    signal: Value, frame_step: Int, window: Value | None = None, frame_length: Int | None = None, *, onesided: int = 1
) -> Value:
    """The transforms of windows ``[b frames n 2]`` of a signal ``[b t 1]`` or ``[b t 2]``; files have ``[b t]`` too."""
    signal = s.unsqueeze(signal, (-1,)) if signal.rank == 2 else signal
    if signal.rank != 3:
        raise unsupported(f"its signal {signal.type} isn't [b t 1], [b t 2] or [b t]")
    length = frame_length or (signal.shape[1] if window is None else window.shape[0])
    if window is not None and window.shape != (length,):
        raise unsupported(f"its window {window.type} isn't of its frame_length {length}")
    if length > signal.shape[1]:
        raise unsupported(f"its frames of {length} are longer than its signal {signal.type}")
    frames = s.ungroup(s.unfold(signal, 1, length, frame_step), 1, (-1, length))
    if window is not None:
        frames = frames * s.unsqueeze(e.cast(window, frames.dtype), (-1,))
    return dft(frames, None, 2, onesided=onesided)


# --- windows -----------------------------------------------------------------------------------------------


def _window(terms: tuple[float, ...]) -> Callable[..., Value]:
    """A window that is a sum of cosines of whole turns."""

    def apply(size: Int, *, output_datatype: int = 1, periodic: int = 1) -> Value:
        turn = 2 * math.pi * np.arange(size) / max(size if periodic else size - 1, 1)
        line = sum((a * np.cos(k * turn) for k, a in enumerate(terms)), np.zeros(size))
        return const(_as(line, output_datatype))

    return apply


def _as(line: Array, datatype: int) -> Array:
    return line.astype(DTYPES[datatype].numpy)


rule("HannWindow")(_window((0.5, -0.5)))
rule("HammingWindow")(_window((25 / 46, -21 / 46)))
rule("BlackmanWindow")(_window((0.42, -0.5, 0.08)))


@rule("MelWeightMatrix")
def _mel_weight_matrix(
    num_mel_bins: Int, dft_length: Int, sample_rate: Int, lower_edge_hertz: Float, upper_edge_hertz: Float,
    *, output_datatype: int = 1,
) -> Value:  # fmt: skip
    """Triangles over the bins of a spectrum, at distances of ``(high - low) / (n + 2)`` on the mel scale.

    So the top of the band is never covered; ONNX's own definition has it so.
    """
    low, high = (2595 * math.log10(1 + f / 700) for f in (lower_edge_hertz, upper_edge_hertz))
    mel = low + np.arange(num_mel_bins + 2) * ((high - low) / (num_mel_bins + 2))
    edges = np.floor((dft_length + 1) * (700 * (10 ** (mel / 2595) - 1)) / sample_rate).astype(np.int64)
    out = np.zeros((dft_length // 2 + 1, num_mel_bins))
    for i in range(num_mel_bins):
        left, center, right = edges[i : i + 3].tolist()
        if left == center:
            out[center, i] = 1
        for j in range(left, center + 1) if left < center else ():
            out[j, i] = (j - left) / (center - left)
        for j in range(center, right):
            out[j, i] = (right - j) / (right - center)
    return const(_as(out, output_datatype))
