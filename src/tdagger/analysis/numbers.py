"""Quantities as people read them."""

from __future__ import annotations


def quantity(n: float, unit: str = "") -> str:
    """``n`` with three digits and a decimal prefix.

    >>> quantity(25_557_032), quantity(8_178_000_000, "FLOPs"), quantity(999, "B"), quantity(999_999, "B")
    ('25.6 M', '8.18 GFLOPs', '999 B', '1.00 MB')
    """
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    value, at = float(n), 0
    while abs(value) >= 999.5 and at < len(prefixes) - 1:
        value, at = value / 1000, at + 1
    digits = 0 if at == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {prefixes[at]}{unit}".rstrip()


def duration(seconds: float) -> str:
    """Seconds with three digits and a prefix.

    >>> duration(0.012345), duration(3.2e-7), duration(-2e-5), duration(0)
    ('12.3 ms', '320 ns', '-20.0 us', '0 s')
    """
    units = {1.0: " s", 1e-3: " ms", 1e-6: " us", 1e-9: " ns"}
    if not seconds:
        return "0 s"
    size = abs(seconds)
    factor = next((f for f in units if size >= 0.9995 * f), 1e-9)
    value = size / factor
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{'-' * (seconds < 0)}{value:.{digits}f}{units[factor]}"
