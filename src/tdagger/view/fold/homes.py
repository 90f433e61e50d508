"""Two networks in the modules of one: files of other formats have no modules, or others.

Ops that go together are shown in the module of one of them: that of A, unless A has fewer modules. What has no partner
stays in its own, or, where most modules have other names, goes with what takes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tdagger.network import Network
from tdagger.op import Value
from tdagger.view.fold.boxes import Facts, Places, module_places, source


class Home(NamedTuple):
    """The modules around the ops of a network, and the class of each."""

    places: Places
    modules: Mapping[str, str]


def homes(a: Network, b: Network, facts_a: Facts, facts_b: Facts, a_of: Mapping[Value, Value]) -> tuple[Home, Home]:
    """Where the ops of both are shown; ``a_of`` has the partners of those of B."""
    own, other = module_places(a, facts_a.shown), module_places(b, facts_b.shown)
    pairs = [(a_of[v], v) for v in facts_b.shown if a_of.get(v) in own]
    agree = sum([own[x] == other[y] for x, y in pairs])
    modules_a, modules_b = _classes(a), _classes(b)
    if 2 * agree >= len(pairs):
        return Home(own, modules_a), Home({**other, **{y: own[x] for x, y in pairs}}, modules_b)
    if len({*own.values()}) >= len({*other.values()}):
        return Home(own, modules_a), Home(_moved(facts_b, {y: own[x] for x, y in pairs}), modules_a)
    return Home(_moved(facts_a, {x: other[y] for x, y in pairs}), modules_b), Home(other, modules_b)


def _classes(network: Network) -> Mapping[str, str]:
    """The class of each module; none of a file that says only names, from which the importer made classes."""
    made = [
        kind.lower()
        == re.sub(r"[^a-z0-9]", "", next((n for n in reversed(path.split(".")) if not n.isdecimal()), "").lower())
        for path, kind in network.modules.items()
        if path and kind
    ]
    return {"": network.modules.get("", "")} if made and all(made) else network.modules


def _moved(facts: Facts, places: Places) -> Places:
    """Places for all: what has none goes to the first that takes it, else to what it takes."""
    found = dict(places)
    for value in reversed(facts.shown):
        if value in found:
            for arg in value.args:
                maker, _ = source(arg)
                if maker not in places:
                    found[maker] = found[value]  # of several that take it, the first
    for value in facts.shown:
        if value not in found:
            makers = [source(arg)[0] for arg in value.args]
            found[value] = next((found[m] for m in makers if m in found), ())
    return {value: found[value] for value in facts.shown}
