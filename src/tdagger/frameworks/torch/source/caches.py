"""The caches of transformers: as arguments, made again from their tensors, and as results, containers of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tdagger.op import Value
from tdagger.tree import Fields, Tree, converters, objects


def _tensors(cache: Any) -> Any:
    """What a cache or a layer of one holds: a tuple of its layers, and in them their tensors by name.

    A cache that has tensors besides its layers is both, by name.
    """
    if hasattr(cache, "self_attention_cache"):
        return Fields(
            self_attention_cache=_tensors(cache.self_attention_cache),
            cross_attention_cache=_tensors(cache.cross_attention_cache),
        )
    own = {k: v for k, v in vars(cache).items() if not k.startswith("_") and k != "layers" and _holds(v)}
    if not hasattr(cache, "layers"):
        return Fields(own)
    layers = tuple(map(_tensors, cache.layers))
    return Fields(layers=layers, **own) if own else layers


def _holds(value: Any) -> bool:
    """Whether there is a tensor in a value."""
    if isinstance(value, dict):
        return any(map(_holds, value.values()))
    return isinstance(value, torch.Tensor) or (isinstance(value, list | tuple) and any(map(_holds, value)))


def _complete(cache: Any) -> None:
    """Give a cache, or a layer of one, what it keeps of its tensors besides them."""
    first = next((v for v in vars(cache).values() if isinstance(v, torch.Tensor)), None)
    if first is not None:
        cache.dtype, cache.device = first.dtype, first.device
    if isinstance(getattr(cache, "sliding_window", None), int):
        cache._sliding_window_tensor = torch.tensor(cache.sliding_window)


#: Caches and their layers, by what they are called under ``transformers.``; those of a base class count too.
_CACHES = (
    "cache_utils.Cache",
    "cache_utils.CacheLayerMixin",
    "cache_utils.DummyLayer",
    "cache_utils.LinearAttentionCacheLayerMixin",
    "cache_utils.MambaCache",
    "models.mamba.modeling_mamba.MambaCache",
    "models.mimi.modeling_mimi.MimiConv1dPaddingCache",
    "models.reformer.modeling_reformer.ReformerDynamicCache",
    "models.xlstm.modeling_xlstm.xLSTMCache",
)


def register() -> None:
    """Let caches be arguments and results."""
    converters.update({f"transformers.{name}": _tensors for name in _CACHES})
    objects.update({f"transformers.{name}": _complete for name in _CACHES})


def axis_names(tree: Tree, inputs: Mapping[str, Value]) -> dict[str, str]:
    """Names for the dimensions of a network's inputs that are cached keys and values: that of tokens is ``past``.

    It is ``window`` where a layer keeps the last tokens only, and ``source`` in cross attention; a number follows for
    another size. ``tree`` is that of the arguments, ``inputs`` are its leaves by name.
    """
    rest = iter(inputs.items())
    found: dict[str, str] = {}
    sizes: dict[str, list[int]] = {}

    def named(role: str) -> None:
        name, value = next(rest)
        if value.rank < 2:
            return
        known = sizes.setdefault(role, [])
        if value.shape[-2] not in known:
            known.append(value.shape[-2])
        number = known.index(value.shape[-2]) + 1
        found[name] = f"... {role if number == 1 else f'{role}{number}'} _"

    def walk(tree: Tree, role: str) -> None:
        if tree.kind == "leaf":
            next(rest)
        for key, child in zip(tree.keys, tree.children, strict=True):
            if tree.kind == "object" and child.kind == "leaf" and key in ("keys", "values"):
                named("window" if "sliding_window" in tree.keys else role)
            else:
                walk(child, "source" if key == "cross_attention_cache" else role)

    walk(tree, "past")
    return found
