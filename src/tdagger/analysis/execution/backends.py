"""The backends whose memory is declared, by name."""

from __future__ import annotations

from tdagger.analysis.execution.torch_cpu import TORCH_CPU
from tdagger.analysis.execution.tracing import NUMPY, Backend
from tdagger.errors import AttributeValueError

#: Every backend, by its name.
BACKENDS: dict[str, Backend] = {b.name: b for b in (NUMPY, TORCH_CPU)}


def backend_of(name: str) -> Backend:
    """The backend called ``name``; AttributeValueError if there is none.

    >>> backend_of("numpy").inlines
    False
    """
    if name not in BACKENDS:
        raise AttributeValueError(f"no backend is called {name!r}; there are {', '.join(BACKENDS)}")
    return BACKENDS[name]
