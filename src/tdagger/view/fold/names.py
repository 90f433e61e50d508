"""What a block found by structure is called: by the ops in it."""

from __future__ import annotations

from collections.abc import Sequence

from tdagger.op import Value
from tdagger.view.fold.boxes import Box, Leaf
from tdagger.view.fold.wires import Wires

#: Ops that have weights of their own, and begin something.
WEIGHTED = {
    "linear", "convolution", "convolution_transpose", "embedding", "addmm", "matmul", "bilinear", "lstm", "gru", "rnn",
    "grouped_matmul",
}  # fmt: skip
_CONVOLUTIONS = ("convolution", "convolution_transpose")
_PRODUCTS = ("linear", "matmul", "einsum", "addmm", "baddbmm", "grouped_matmul")
_ACTIVATIONS = {
    "relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "elu", "celu", "selu", "mish", "leaky_relu", "hard_swish",
    "hard_sigmoid", "hardtanh", "prelu", "softplus", "softsign", "glu",
}  # fmt: skip
_RECURRENT = ("lstm", "gru", "rnn")


def is_norm(op: str) -> bool:
    """Whether an op's name is that of a norm."""
    return "_norm" in op and not op.startswith("vector")


def kind_of(items: Sequence[Box | Leaf], wires: Wires) -> str:
    """What several items are together."""
    leaves = [leaf for i in items for leaf in ([i] if isinstance(i, Leaf) else i.leaves())]
    ops = {_function(leaf.value) for leaf in leaves}
    products = sum(1 for leaf in leaves if _function(leaf.value) in _PRODUCTS)
    active = bool(ops & _ACTIVATIONS)
    attends = _attends(ops, products)
    if attends and products - 2 * ("softmax" in ops) > 4 and active:
        return "transformer layer"
    if attends:
        return "attention"
    recurrent = [op for op in _RECURRENT if op in ops]
    if recurrent:
        return recurrent[0].upper()
    if ops.intersection(_CONVOLUTIONS):
        return "residual block" if _is_residual(leaves, wires) else _in_words(ops, "convolution", active)
    if products > 1 and active:
        return "MLP"
    if products and len(leaves) <= 4 * products:
        return _in_words(ops, "linear", active)
    if "embedding" in ops or "gather" in ops:
        return "embedding"
    return "norm" if any(map(is_norm, ops)) else "part"


def _function(value: Value) -> str:
    return str(value.op.attributes["kind"]) if value.op.name in ("unary", "binary") else value.op.name


def _attends(ops: set[str], products: int) -> bool:
    whole = any("attention" in op for op in ops)
    return whole or ("softmax" in ops and products > 1)


def _in_words(ops: set[str], first: str, active: bool) -> str:
    norm = any(map(is_norm, ops))
    pool = any("pool" in op for op in ops)
    return " + ".join([first, *["norm"] * norm, *["activation"] * active, *["pool"] * pool])


def _is_residual(leaves: Sequence[Leaf], wires: Wires) -> bool:
    """Whether something from outside, as it came or through one op, is added to what is made inside."""
    inside = set(leaves)
    for leaf in leaves:
        if _function(leaf.value) != "add":
            continue
        makers = [s.end[0] for s in wires.sources[leaf]]
        outer = [m for m in makers if m not in inside]
        if len(makers) == 2 and (
            len(outer) == 1 or all(isinstance(m, Leaf) and _depth(m, inside, wires) for m in makers)
        ):
            return True
    return False


def _depth(leaf: Leaf, inside: set[Leaf], wires: Wires) -> int:
    """1 or more if an op is made inside."""
    return int(leaf in inside and bool(wires.sources[leaf]))
