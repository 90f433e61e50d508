"""What a document's JSON is made of, each checked as it is read: FileError says the place.

>>> integer(3, "size"), listed([1, 2], "pair", 2), keyed({"a": 1}, {"a"}, "row")
(3, [1, 2], {'a': 1})
"""

from __future__ import annotations

from typing import Any, cast

from tdagger.errors import FileError
from tdagger.names import shown


def keyed(value: Any, keys: set[str], where: str) -> dict[str, Any]:
    """An object with exactly these keys."""
    if not isinstance(value, dict):
        raise FileError(f"{where}: must be an object")
    found = cast(dict[str, Any], value)
    if set(found) != keys:
        missing, unknown = sorted(keys - set(found)), sorted(set(found) - keys)
        told = [f"lacks {', '.join(missing)}"] if missing else []
        told += [f"has unknown keys {', '.join(map(shown, unknown[:5]))}"] if unknown else []
        raise FileError(f"{where}: {' and '.join(told)}")
    return found


def listed(value: Any, where: str, length: int | None = None) -> list[Any]:
    """A list, of so many entries if it says."""
    if not isinstance(value, list) or (length is not None and len(cast(list[Any], value)) != length):
        raise FileError(f"{where}: must be a list{'' if length is None else f' of {length}'}, not {value!r:.60}")
    return cast(list[Any], value)


def integer(value: Any, where: str, least: int = 0, below: int = 2**53) -> int:
    """A whole number in a range, and no bool."""
    if type(value) is not int or not least <= value < below:
        raise FileError(f"{where}: must be an integer from {least} to {below - 1}, not {value!r:.60}")
    return value
