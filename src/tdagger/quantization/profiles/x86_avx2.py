"""CPUs with AVX2 but no VNNI: kernels add two products of u8 and i8 in 16 bits, so the i8 have 7 bits, and they fit."""

from dataclasses import replace

from tdagger.quantization.profile import Numbers
from tdagger.quantization.profiles import x86


def _seven(numbers: Numbers) -> Numbers:
    return replace(numbers, bits=7)


PROFILE = replace(
    x86.PROFILE,
    name="x86-avx2",
    weight=_seven(x86.PROFILE.weight),
    rows={
        n: row if row.second is None else replace(row, second=_seven(row.second)) for n, row in x86.PROFILE.rows.items()
    },
    about="x86 CPUs without VNNI: u8 activations, i8 weights of 7 bits per channel",
)
