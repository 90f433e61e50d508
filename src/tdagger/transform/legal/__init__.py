"""Targets as data, and networks brought to what they run."""

from tdagger.transform.legal.legalize import Problem, legalize, unsupported
from tdagger.transform.legal.narrow import narrowed
from tdagger.transform.legal.target import Accepts, Target, label, types

__all__ = ["Accepts", "Problem", "Target", "label", "legalize", "narrowed", "types", "unsupported"]
