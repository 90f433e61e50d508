"""The paths of modules, and names for their classes, by what files call their nodes."""

from __future__ import annotations

import re

from tdagger.names import is_identifier


def class_of(path: str) -> str:
    """A name for the class of a module of which only the path is known: by its last part that isn't a number.

    >>> class_of("encoder.layer_norm.0"), class_of("0")
    ('LayerNorm', 'Block')
    """
    parts = [p for p in path.split(".") if not p.isdecimal()]
    words = re.split(r"[\W_]+", parts[-1]) if parts else []
    found = "".join([w[:1].upper() + w[1:] for w in words])
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
