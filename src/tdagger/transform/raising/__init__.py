"""Raising: composites put back where their bodies are found."""

from tdagger.transform.raising.lift import Lifted, raised

__all__ = ["Lifted", "raised"]
