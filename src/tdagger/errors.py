"""The errors tdagger raises: what went wrong, where, with which values, and what to do.

Every error derives from :class:`TDaggerError`, so ``except td.TDaggerError`` catches all that the library
raises on purpose. Those that are also mistakes of type or value derive from the builtin of that meaning.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import warnings

from tdagger.names import lines

#: The folder of tdagger's own code.
OWN = os.path.dirname(__file__) + os.sep


def warn(message: str) -> None:
    """A UserWarning at the line that called tdagger, however deep inside it is raised."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith((OWN, contextlib.__file__)):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


class TDaggerError(Exception):
    """Base of every error tdagger raises on purpose; names in its message are shown as :mod:`tdagger.names` does."""

    def __init__(self, *args: object) -> None:
        super().__init__(*[lines(a) if isinstance(a, str) else a for a in args])


class TypeMismatchError(TDaggerError, TypeError):
    """An op was applied to arguments whose shapes or dtypes it doesn't take."""


class AttributeValueError(TDaggerError, ValueError):
    """An attribute of an op has a value the op doesn't take (an axis out of range, a stride of 0 ...)."""


class GraphError(TDaggerError, ValueError):
    """A graph is not closed or not well-named (an unknown module path, an input missing ...)."""


class AxisError(TDaggerError, ValueError):
    """An axis can't be removed, added or resized; the message names the op, the parameter or the sizes that stop it."""


class NoInverseError(TDaggerError, ValueError):
    """An op was asked for an inverse or adjoint it doesn't have."""


class UnsupportedError(TDaggerError, NotImplementedError):
    """Something can't be represented or converted; the message names all of it, with counts and places."""


class SourceError(TDaggerError, ValueError):
    """A SOURCE (a file, ``timm:NAME`` ...) can't be loaded, or loading it would not be safe."""


class InputError(TDaggerError, ValueError):
    """The inputs given to a network don't fit what it was imported with."""


class FileError(SourceError):
    """A ``.tdag`` file is damaged, of a version that isn't known, or says what can't be; the message has the place.

    The place is an offset in bytes, or the path in the JSON: ``graphs[0].nodes``.
    """
