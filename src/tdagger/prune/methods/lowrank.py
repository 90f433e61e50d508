"""Layers as two with less between: a weight's matrix as a product of two, of the rank that costs or precision ask for.

A linear layer's matrix is its weight; a convolution's has a row for each output channel, of features and kernel
together, so that the first of two convolutions keeps the kernel and the second has one of 1. Where data was measured,
what is kept is nearest on that data: the singular values are those of ``weight @ root`` with ``root @ root.T`` the
means of products of what the weight is applied to (arXiv:2403.07378). They are found as roots of the eigenvalues of the
smaller of the two matrices of products, in f64: what is as small as rounding there is not worth a rank.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from tdagger.errors import AttributeValueError, InputError
from tdagger.graph import flops
from tdagger.network import Lazy, Origin, Weight, Weights
from tdagger.op import Array, Value
from tdagger.ops.source import Parameter
from tdagger.prune.statistics import Statistics, weight_of
from tdagger.tensordag import TensorDAG
from tdagger.transform.surgery.edit import Edit, finished, state_of
from tdagger.transform.surgery.select import Names
from tdagger.types import TensorType


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that can be two: its value, the names of its weight and bias, where the two go, and costs by rank.

    ``slopes`` and ``wholes`` are what one rank and the layer as it is cost, in flops and parameters.
    """

    value: Value
    weight: str
    bias: str
    path: str
    rank: int
    slopes: Mapping[str, float]
    wholes: Mapping[str, float]
    beside: Mapping[str, float]

    def cost(self, rank: int, what: str) -> float:
        """What it costs in two parts of that rank; as it is where that is less."""
        return min(self.beside[what] + rank * self.slopes[what], self.wholes[what])

    def saves(self, rank: int, what: str = "flops") -> bool:
        """Whether two parts of that rank cost less."""
        return self.beside[what] + rank * self.slopes[what] < self.wholes[what]


def layers(dag: TensorDAG, keep: Sequence[str] = (), only: Sequence[str] = ()) -> list[Layer]:
    """The linear layers and convolutions (of one group) whose weights nothing else uses."""
    users, found = dag.graph.users, list[Layer]()
    names = Names([*dag.modules, *(n.rpartition(".")[0] for n in state_of(dag))])
    tied = {w.alias_of for w in dag.state.values() if w.alias_of} | {n for n, w in dag.state.items() if w.alias_of}
    for value in dag.graph.values:
        about = weight_of(value)
        if about is None or about[2] != 1 or value.op.name == "convolution_transpose":
            continue
        own = [v for v in value.args[1:] if isinstance(v.op, Parameter)]
        name = about[0]
        if len(own) != len(value.args) - 1 or any(len(users[v]) > 1 for v in own) or name in tied:
            continue
        if any(_means(name, p) for p in keep) or (only and not any(_means(name, p) for p in only)):
            continue
        found.append(_layer(dag, value, name, names))
    for pattern in (*keep, *only):
        if not any(_means(n, pattern) for n in dag.graph.parameters):
            raise AttributeValueError(f"low_rank: no parameter or module is called {pattern!r}")
    return found


def _means(name: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, p) for p in (pattern, f"{pattern}.*"))


def _layer(dag: TensorDAG, value: Value, name: str, names: Names) -> Layer:
    weight = value.args[1]
    bias = cast(Any, value.args[2].op).leaf if len(value.args) > 2 else ""
    module = dag.origins.get(value, Origin()).module
    plain = name == f"{module}.weight" and bias in ("", f"{module}.bias") and not _inside(dag, module)
    path = module if plain else names.new(f"{name.replace('.', '_')}_parts")
    matrix = (int(weight.shape[0]), int(np.prod(weight.shape[1:])))
    costs = [sum(flops(v) for v in _two(value, *_types(value, r), bias)) for r in (1, 2)]
    slopes = {"flops": costs[1] - costs[0], "params": sum(matrix)}
    whole = {"flops": flops(value), "params": matrix[0] * matrix[1]}
    beside = {"flops": costs[0] - slopes["flops"], "params": 0}
    return Layer(value, name, bias, path, min(matrix), slopes, whole, beside)


def _inside(dag: TensorDAG, module: str) -> bool:
    """Whether modules of a layer of their own would get the new ones' names."""
    return not module or any(n.startswith((f"{module}.0", f"{module}.1")) for n in (*dag.modules, *dag.state))


def _types(value: Value, rank: int) -> tuple[TensorType, TensorType]:
    """The types of the two weights."""
    weight = value.args[1].type
    ones = (1,) * (weight.rank - 2)
    return weight.with_shape((rank, *weight.shape[1:])), weight.with_shape((weight.shape[0], rank, *ones))


def _two(value: Value, first: TensorType, second: TensorType, bias: str, path: str = "", x: Any = None) -> list[Value]:
    """The two layers in the place of one."""
    op = cast(Any, value.op)
    a, b = Parameter(f"{path}.0.weight", first)(), Parameter(f"{path}.1.weight", second)()
    x = value.args[0] if x is None else x
    rest = [Parameter(f"{path}.1.bias", value.args[2].type)()] if bias else []
    if op.name == "linear":
        inner = op.definition(x, a)
        return [inner, op.definition(inner, b, *rest)]
    inner = op.definition(x, a, **op.attributes)
    return [inner, op.definition(inner, b, *rest)]


# --- ranks -------------------------------------------------------------------------------------------------


def low_rank(
    dag: TensorDAG,
    *,
    flops: float | None = None,
    params: float | None = None,
    rank: float | Mapping[str, float] | None = None,
    energy: float | None = None,
    data: Statistics | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
) -> TensorDAG:
    """See :meth:`tdagger.TensorDAG.low_rank`."""
    given = {
        k: v for k, v in {"flops": flops, "params": params, "rank": rank, "energy": energy}.items() if v is not None
    }
    if len(given) != 1:
        raise AttributeValueError(
            f"low_rank: give one of flops, params, rank, energy, got {', '.join(given) or 'none'}"
        )
    ((what, target),) = given.items()
    found = layers(dag, keep, only)
    parts = _Parts(dag, found, data)
    if what == "rank":
        ranks = [_rank_of(layer, cast(Any, target)) for layer in found]
    elif what == "energy":
        ranks = [parts.for_energy(i, float(cast(Any, target))) for i in range(len(found))]
    else:
        ranks = parts.for_cost(what, float(cast(Any, target)))
    saved = "params" if what == "params" else "flops"
    return _made(dag, {i: r for i, r in enumerate(ranks) if r and found[i].saves(r, saved)}, parts)


def _rank_of(layer: Layer, asked: float | Mapping[str, float]) -> int:
    """The rank that is asked of a layer, a number or a part of the full one; 0 if none is."""
    if isinstance(asked, Mapping):
        own = next((v for k, v in asked.items() if _means(layer.weight, k)), 0)
        return _rank_of(layer, own) if own else 0
    if asked <= 0:
        raise AttributeValueError(f"low_rank: the rank of {layer.weight!r} is to be {asked}")
    return max(round(asked * layer.rank), 1) if isinstance(asked, float) and asked < 1 else min(int(asked), layer.rank)


class _Parts:
    """The matrices of layers in parts, each worked out when it is asked for."""

    def __init__(self, dag: TensorDAG, found: list[Layer], data: Statistics | None) -> None:
        self.dag, self.layers, self.data = dag, found, data
        if data is not None:
            missing = [x.weight for x in found if _products(data, x.weight) is None]
            if missing:
                raise InputError(
                    f"low_rank: there are no products of the inputs of {missing[0]!r} and {len(missing) - 1} more: "
                    "dag.measure(batches, products=True), or keep= them"
                )
        self._known: dict[int, tuple[Array, Array, Array]] = {}

    def of(self, i: int) -> tuple[Array, Array, Array]:
        """``(left [o k], values [k], right [k n])`` of a layer: left times right is its matrix, of like sizes."""
        if i not in self._known:
            layer = self.layers[i]
            if layer.weight not in self.dag.weights:
                raise InputError(f"low_rank: the parameter {layer.weight!r} has no data; plan with rank=")
            w = np.asarray(self.dag.weights[layer.weight]).astype(np.float64)
            self._known[i] = _parted(
                w.reshape(w.shape[0], -1), None if self.data is None else _products(self.data, layer.weight)
            )
        return self._known[i]

    def share(self, i: int) -> Array:
        """The part of the squares of all singular values that each is, largest first."""
        squares = self.of(i)[1] ** 2
        return squares / (squares.sum() or 1.0)

    def for_energy(self, i: int, energy: float) -> int:
        """The least rank with so much of a layer's squares."""
        if not 0 < energy <= 1:
            raise AttributeValueError(f"low_rank: energy is the part of squares to keep, up to 1, got {energy}")
        return int(np.searchsorted(np.cumsum(self.share(i)), energy * (1 - 1e-12)) + 1)

    def for_cost(self, what: str, target: float) -> list[int]:
        """The ranks with which the network costs ``target``: what keeps most for its cost stays."""
        whole = float(self.dag.graph.total_flops()) if what == "flops" else params_of(self.dag)
        wanted = target * whole if target <= 1 else target
        rest = whole - sum(x.wholes[what] for x in self.layers)
        gains = [self.share(i) / x.slopes[what] for i, x in enumerate(self.layers)]
        steps = np.sort(np.concatenate([np.zeros(1), *gains]))
        low, high = 0, len(steps)  # a higher threshold leaves less; all is left at steps[0]

        def ranks(n: int) -> list[int]:
            least = steps[n] if n < len(steps) else np.inf
            return [max(int((g >= least).sum()), 1) for g in gains]

        def cost(n: int) -> float:
            return rest + sum(x.cost(r, what) for x, r in zip(self.layers, ranks(n), strict=True))

        if cost(high) > wanted:
            raise AttributeValueError(
                f"low_rank: {what} can't become {wanted:.6g} of {whole:.6g}: {cost(high):.6g} is left with ranks of 1 "
                f"in all {len(self.layers)} layers that can be two"
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if cost(middle) > wanted else (low, middle)
        found = ranks(high)
        return self._filled(found, gains, what, wanted - cost(high))

    def _filled(self, ranks: list[int], gains: list[Array], what: str, left: float) -> list[int]:
        """Ranks with what is left to spend: one more where that keeps most for its cost, as far as it goes."""
        more = [(-g[r], i) for i, (r, g) in enumerate(zip(ranks, gains, strict=True)) if r < len(g)]
        for _, i in sorted(more):
            layer = self.layers[i]
            added = layer.cost(ranks[i] + 1, what) - layer.cost(ranks[i], what)
            if 0 < added <= left:
                ranks[i] += 1
                left -= added
        return ranks


def _products(data: Statistics, name: str) -> Array | None:
    layer = data.layers.get(name)
    return None if layer is None else layer.products


def params_of(dag: TensorDAG) -> float:
    """How many numbers the parameters of a network have."""
    return float(sum(w.type.size for w in state_of(dag).values() if w.is_parameter and not w.alias_of))


def _parted(w: Array, products: Array | None) -> tuple[Array, Array, Array]:
    """A matrix as ``left @ right``, what matters most first, and its singular values (on data with these products).

    >>> left, values, right = _parted(np.array([[3.0, 0], [0, 4], [0, 0]]), None)
    >>> values.round(6).tolist(), (left[:, :1] @ right[:1]).round(6).tolist()
    ([4.0, 3.0], [[0.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    """
    if w.shape[0] <= w.shape[1]:
        squares, left = np.linalg.eigh(w @ (w if products is None else w @ products).T)
        right = left.T @ w
    else:
        root = np.eye(w.shape[1]) if products is None else _root(products)
        scaled = w @ root
        squares, right = np.linalg.eigh(scaled.T @ scaled)
        left, right = scaled @ right, np.linalg.solve(root.T, right).T
    values = np.sqrt(np.maximum(squares, 0))[::-1]
    left, right = left[:, ::-1], right[::-1]
    size = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    even = np.sqrt(size[1] / np.where(size[0] > 0, size[0], 1))
    even = np.where((size[0] > 0) & (size[1] > 0), even, 1)
    return left * even, values, right / even[:, None]


def _root(products: Array) -> Array:
    """A matrix whose product with its transpose is ``products``, with so little more that it has an inverse."""
    more = 1e-6 * (float(np.trace(products)) / len(products) or 1.0)
    return np.linalg.cholesky(products + more * np.eye(len(products)))


# --- the network -------------------------------------------------------------------------------------------


class _Factors(Lazy):
    """The weights of the two layers, worked out when they are asked for."""

    def __init__(self, parts: _Parts, ranks: Mapping[int, int]) -> None:
        self.parts = parts
        self.where = {
            f"{parts.layers[i].path}.{side}.weight": (i, r, side) for i, r in ranks.items() for side in (0, 1)
        }

    def __getitem__(self, name: str) -> Array:
        i, rank, side = self.where[name]
        left, _, right = self.parts.of(i)
        data = right[:rank] if side == 0 else left[:, :rank]
        weight = self.parts.layers[i].value
        return data.astype(weight.args[1].dtype.numpy).reshape(_types(weight, rank)[side].shape)

    def __contains__(self, name: object) -> bool:
        return name in self.where  # without working it out

    def __iter__(self) -> Any:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)


def _made(dag: TensorDAG, ranks: Mapping[int, int], parts: _Parts) -> TensorDAG:
    """The network with these layers in two parts."""
    edit = Edit(dag)
    chosen = {parts.layers[i].value: (parts.layers[i], r) for i, r in ranks.items()}
    state, modules, new_names = dict[str, Weight](), dict(dag.modules), dict[str, str]()
    placed: dict[str, dict[str, Weight]] = {}

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        if value not in chosen:
            return None
        layer, rank = chosen[value]
        types = _types(value, rank)
        made = _two(value, *types, layer.bias, layer.path, args[0])
        origin = dag.origins.get(value, Origin())
        for side, (v, t) in enumerate(zip(made, types, strict=True)):
            edit.origins[v] = origin._replace(module=f"{layer.path}.{side}")
            old = state_of_weight[layer.weight]
            placed.setdefault(layer.weight, {})[f"{layer.path}.{side}.weight"] = replace(old, type=t)
            modules[f"{layer.path}.{side}"] = modules.get(origin.module, type(cast(Any, value.op)).__name__)
        if layer.bias:
            placed[layer.bias] = {f"{layer.path}.1.bias": state_of_weight[layer.bias]}
            new_names[f"{layer.path}.1.bias"] = layer.bias
        return made[1]

    state_of_weight = state_of(dag)
    edit.run(rule)
    for layer, _ in chosen.values():
        modules[layer.path] = "Sequential"
    for name, weight in state_of_weight.items():
        state |= placed.get(name, {name: weight})
    kept = {n: n for n in state if n in state_of_weight}
    weights = Weights.of(dag.weights, kept | new_names)
    if all(parts.layers[i].weight in dag.weights for i in ranks):
        factors = _Factors(parts, ranks)
        weights = weights | Weights({n: (factors, n) for n in factors})
    return finished(
        dag, edit.graph(), edit.origins, weights=weights, state=state, modules=modules, checks=edit.checks()
    )


# --- and back ----------------------------------------------------------------------------------------------


def in_two(dag: TensorDAG, found: Sequence[Layer], data: Statistics | None = None) -> TensorDAG:
    """The network with these layers in two parts of full rank, which compute what they did."""
    return _made(dag, {i: x.rank for i, x in enumerate(found)}, _Parts(dag, list(found), data))


def merged(dag: TensorDAG, found: Sequence[Layer]) -> TensorDAG:
    """The network of :func:`in_two` with some layers in one part again, whose weight is the product of the two."""
    users = {cast(Any, leaf.op).leaf: dag.graph.users[leaf] for leaf in dag.graph.parameters.values()}
    second = {users[f"{x.path}.1.weight"][0]: x for x in found}
    edit = Edit(dag)
    state, weights, names = state_of(dag), dict[str, Array](), dict[str, str]()
    paths = {x.path: x.weight.rpartition(".")[0] for x in found}
    inner = {f"{p}.{side}" for p in paths for side in (0, 1)}
    modules = {
        paths.get(n, n): dag.modules[f"{n}.0"] if n in paths else k for n, k in dag.modules.items() if n not in inner
    }
    for layer in found:
        state, name = _one(state, layer), f"{layer.path}.1.bias"
        names |= {layer.bias: name} if layer.bias else {}
        weights[layer.weight] = _product(dag, layer)

    def rule(value: Value, args: tuple[Any, ...]) -> Any:
        layer = second.get(value)
        if layer is None:
            return None
        (inner, *_), old = value.args, layer.value.args
        own = [Parameter(n, t.type)() for n, t in zip((layer.weight, layer.bias), old[1:], strict=False)]
        made = cast(Any, layer.value.op).again((edit.new[inner.args[0]], *own), value.type)
        edit.origins[made] = dag.origins.get(value, Origin())._replace(module=layer.weight.rpartition(".")[0])
        return made

    edit.run(rule)
    kept = {n: n for n in dag.weights if n in state}
    held = Weights.of(dag.weights, kept | names) | Weights.of(weights, {n: n for n in weights})
    return finished(dag, edit.graph(), edit.origins, weights=held, state=state, modules=modules, checks=edit.checks())


def _one(state: Mapping[str, Weight], layer: Layer) -> dict[str, Weight]:
    """The state with one layer in the place of two."""
    out: dict[str, Weight] = {}
    for name, weight in state.items():
        if name == f"{layer.path}.0.weight":
            out[layer.weight] = replace(weight, type=layer.value.args[1].type)
        elif name == f"{layer.path}.1.bias":
            out[layer.bias] = weight
        elif name != f"{layer.path}.1.weight":
            out[name] = weight
    return out


def _product(dag: TensorDAG, layer: Layer) -> Array:
    """The weight of the two parts of a layer."""
    first, second = (np.asarray(dag.weights[f"{layer.path}.{i}.weight"]).astype(np.float64) for i in (0, 1))
    rank, old = second.shape[1], layer.value.args[1].type
    return (second.reshape(-1, rank) @ first.reshape(rank, -1)).reshape(old.shape).astype(old.dtype.numpy)
