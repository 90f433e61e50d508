"""The paths of modules, and names for their classes, by what files call their nodes."""

from __future__ import annotations

import re
from functools import lru_cache

from tdagger.names import is_identifier


def class_of(path: str) -> str:
    """A name for the class of a module of which only the path is known: by its last part that isn't a number.

    >>> class_of("encoder.layer_norm.0"), class_of("0")
    ('LayerNorm', 'Block')
    """
    while path:
        path, _, last = path.rpartition(".")
        if not last.isdecimal():
            return _class_of(last)
    return "Block"


@lru_cache(maxsize=1 << 12)
def _class_of(name: str) -> str:
    found = "".join([w[:1].upper() + w[1:] for w in re.split(r"[\W_]+", name)])
    return found if is_identifier(found) else "Block"


def joined(prefix: str) -> str:
    """The path of a module from the calls that a name has.

    >>> joined("/layer1/layer1.0/conv1"), joined("model/block")
    ('layer1.0.conv1', 'model.block')
    """
    parts: list[str] = []
    for part in prefix.split("/"):
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part
        elif part:
            parts.append(part)
    return ".".join(parts)
