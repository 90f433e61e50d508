"""Every builtin that computes numbers, with random attributes: numpy and to_torch() against the interpreter."""

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as s

import tdagger as td
from tdagger.frameworks.tflite.ops import REASONS, RULES, WALKED
from tests.frameworks.tflite.build import Build
from tests.frameworks.tflite.cases import CASES, Case
from tests.frameworks.tflite.runs import as_list, by_numpy, by_runtime, by_torch, distance

#: Operators whose rules are compared with written numbers below, draw random ones, or are loops (test_programs).
ELSEWHERE = {
    "MULTINOMIAL", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM",
}  # fmt: skip


def off(name: str, case: Case) -> list[str]:
    """What numpy and torch give that the interpreter doesn't."""
    wanted = by_runtime(case.model, *case.inputs, engine=case.engine)
    dag = td.from_tflite(case.model)
    found: list[str] = []
    for way, own in (("numpy", as_list(dag.run(*case.inputs))), ("torch", by_torch(dag, *case.inputs))):
        apart = max(distance(a, b) for a, b in zip(own, wanted, strict=True))
        if not apart <= case.tolerance:
            found.append(f"{name} by {way}: {apart:.3g} apart, {case.tolerance} are allowed")
    return found


@pytest.mark.parametrize("part", range(6))
def test_operators_are_those_of_the_interpreter(part: int) -> None:
    names = list(CASES)[part::6]
    assert len(names) > 20
    found = [
        f for n in names for seed in range(2) for f in off(n, CASES[n](np.random.default_rng([seed, *n.encode()])))
    ]
    assert found == []


@pytest.mark.slow
def test_operators_over_more_seeds() -> None:
    seeds = range(2, 20)
    found = [f for n in CASES for seed in seeds for f in off(n, CASES[n](np.random.default_rng([seed, *n.encode()])))]
    assert found == []


def test_every_builtin_has_a_rule_or_a_reason() -> None:
    names = [n for n in vars(s.BuiltinOperator) if not n.startswith("_") and n != "CUSTOM"]
    assert len(names) >= 209
    assert [n for n in names if n not in RULES and n not in REASONS and n not in WALKED] == []
    assert [n for n in REASONS if n in RULES or n not in names] == []
    tested = {n.partition(" ")[0] for n in CASES} | ELSEWHERE | set(STABLEHLO)
    assert [n for n in RULES if n not in tested and not n.startswith("custom:")] == []


# --- operators of StableHLO that no runtime has a kernel of: by their specification ---------------------------

X = np.array([[-2.5, -1.0, 0.5], [1.5, 2.0, 3.0]], np.float32)
Y = np.array([[1.0, 2.0, -4.0], [0.5, 3.0, 2.0]], np.float32)
P = np.abs(X)
M, N = np.array([7, -7, 6], np.int32), np.array([2, 2, -4], np.int32)
B = np.array([True, False, True])
#: Inputs, options, what comes out.
STABLEHLO: dict[str, tuple[list[np.ndarray], dict[str, object], np.ndarray]] = {
    "STABLEHLO_ABS": ([X], {}, np.abs(X)),
    "STABLEHLO_COSINE": ([X], {}, np.cos(X)),
    "STABLEHLO_EXPONENTIAL": ([X], {}, np.exp(X)),
    "STABLEHLO_FLOOR": ([X], {}, np.floor(X)),
    "STABLEHLO_LOG": ([P], {}, np.log(P)),
    "STABLEHLO_LOGISTIC": ([X], {}, 1 / (1 + np.exp(-X))),
    "STABLEHLO_NEGATE": ([X], {}, -X),
    "STABLEHLO_RSQRT": ([P], {}, 1 / np.sqrt(P)),
    "STABLEHLO_TANH": ([X], {}, np.tanh(X)),
    "STABLEHLO_CBRT": ([X], {}, np.cbrt(X)),
    "STABLEHLO_SUBTRACT": ([X, Y], {}, X - Y),
    "STABLEHLO_DIVIDE": ([M, N], {}, np.array([3, -3, -1], np.int32)),
    "STABLEHLO_POWER": ([P, Y], {}, P**Y),
    "STABLEHLO_REMAINDER": ([M, N], {}, np.array([1, -1, 2], np.int32)),
    "STABLEHLO_AND": ([B, ~B], {}, np.zeros(3, bool)),
    "STABLEHLO_OR": ([B, ~B], {}, np.ones(3, bool)),
    "STABLEHLO_CLAMP": ([np.float32(3), X, np.float32(2)], {}, np.full_like(X, 2)),  # the largest wins
    "STABLEHLO_SELECT": ([X > 0, X, Y], {}, np.where(X > 0, X, Y)),
    "STABLEHLO_COMPARE": ([X, Y], {"comparisonDirection": 3}, X > Y),
    "STABLEHLO_CONVERT": (
        [np.array([1.7, -1e20, np.nan, 1e20], np.float32)], {}, np.array([1, -(2**31), 0, 2**31 - 1], np.int32)
    ),
    "STABLEHLO_BROADCAST_IN_DIM": ([X], {"broadcastDimensions": [2, 0]}, np.broadcast_to(X.T[:, None], (3, 4, 2))),
    "STABLEHLO_RESHAPE": ([X], {}, X.reshape(3, 2)),
    "STABLEHLO_TRANSPOSE": ([X], {"permutation": [1, 0]}, X.T),
    "STABLEHLO_SLICE": ([X], {"startIndices": [0, 1], "limitIndices": [2, 3], "strides": [1, 2]}, X[:, 1:3:2]),
    "STABLEHLO_CONCATENATE": ([X, Y], {"dimension": 1}, np.concatenate([X, Y], 1)),
    "STABLEHLO_IOTA": ([], {"iotaDimension": 1}, np.broadcast_to(np.arange(3, dtype=np.int32), (2, 3))),
    "STABLEHLO_DOT_GENERAL": (
        [np.arange(24, dtype="f").reshape(2, 3, 4), np.arange(40, dtype="f").reshape(4, 5, 2)],
        {"lhsBatchingDimensions": [0], "rhsBatchingDimensions": [2], "lhsContractingDimensions": [2],
         "rhsContractingDimensions": [0]},
        np.einsum("bik,kjb->bij", np.arange(24, dtype="f").reshape(2, 3, 4), np.arange(40, dtype="f").reshape(4, 5, 2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STABLEHLO)
def test_stablehlo(name: str) -> None:
    inputs, options, wanted = STABLEHLO[name]
    b = Build()
    given = [b.input(x.shape, td.DType.of(x.dtype).name) for x in inputs]
    out = b.tensor(wanted.shape, td.DType.of(wanted.dtype).name)
    b.op(name, given, [out], **options)
    b.output(out)
    (own,) = by_numpy(b.bytes(), *inputs)
    assert own.dtype == wanted.dtype
    np.testing.assert_allclose(own, wanted, rtol=1e-6)


def test_random_numbers_are_of_the_networks_seed() -> None:
    b = Build()
    shape = b.const(np.array([1000], np.int32))
    u, n = b.tensor((1000,)), b.tensor((1000,))
    b.op("RANDOM_UNIFORM", [shape], [u])
    b.op("RANDOM_STANDARD_NORMAL", [shape], [n])
    logits = b.input((1, 3))
    classes = b.tensor((1, 2000), "i64")
    b.op("MULTINOMIAL", [logits, b.const(np.array(2000, np.int32))], [classes])
    b.output(u, n, classes)
    dag = td.from_tflite(b.bytes())
    x = np.log(np.array([[0.2, 0.5, 0.3]], np.float32))
    a, again, other = (dag.run(x, seed=np.uint64(k)) for k in (1, 1, 2))
    assert all(np.array_equal(p, q) for p, q in zip(a, again, strict=True))
    assert not np.array_equal(a[0], other[0])
    assert 0 <= a[0].min() < a[0].max() < 1
    assert abs(a[1].mean()) < 0.15
    assert abs(a[1].std() - 1) < 0.1
    np.testing.assert_allclose(np.bincount(a[2].reshape(-1)) / 2000, [0.2, 0.5, 0.3], atol=0.05)
