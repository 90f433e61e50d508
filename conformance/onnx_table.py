"""The page of the backend suite: totals, reasons, a table of operators."""

from pathlib import Path


def write(path: Path, found: dict) -> None:
    pass
