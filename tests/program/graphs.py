"""Programs by hand whose blocks aren't nested as loops and branches are, and random ones."""

from collections.abc import Callable
from typing import Any

import numpy as np

import tdagger as td
from tdagger.program.parts import Block, End, Goto, If, Return, Slot, Switch

F, B, N = td.TensorType((), "f32"), td.TensorType((), "bool"), td.TensorType((), "i64")
LEAVES = {"x": td.input("x", ()), "k": td.input("k", (), "i64"), "p": td.input("p", (), "bool")}
X, K, P = LEAVES.values()
SLOTS = {"x": Slot(F), "k": Slot(N), "p": Slot(B)}


def block(end: End, **writes: td.Value) -> Block:
    reads = {n: v for n, v in LEAVES.items() if v in td.Graph(LEAVES, writes).values and _needs(writes, v)}
    return Block(td.Graph(reads, writes), end)


def _needs(writes: dict[str, td.Value], leaf: td.Value) -> bool:
    from tdagger.graph import topological

    return leaf in topological(writes.values())


def program(blocks: dict[str, Block], name: str) -> td.Program:
    return td.Program(SLOTS, blocks, ("x", "k"), ("x", "k"), name=name)


def fallthrough() -> td.Program:
    """A switch whose cases go on with the next one."""
    return program(
        {
            "begin": block(Switch("k", ("one", "two", "three"))),
            "one": block(Goto("two"), x=X + 1.0),
            "two": block(Goto("three"), x=X * 2.0),
            "three": block(Return(), x=-X),
        },
        "fallthrough",
    )


def two_exits() -> td.Program:
    """A loop that is left where it begins, and in the middle to another place."""
    return program(
        {
            "begin": block(If("p", "middle", "end"), p=K > 0),
            "middle": block(If("p", "early", "latch"), p=X > 10.0),
            "latch": block(Goto("begin"), x=X * 2.0 + 1.0, k=K - 1),
            "early": block(Return(), k=K + 100),
            "end": block(Return(), x=-X),
        },
        "two_exits",
    )


def out_of_two_loops() -> td.Program:
    """An inner loop that leaves the outer one too."""
    return program(
        {
            "outer": block(If("p", "inner", "end"), p=K > 0),
            "inner": block(If("p", "end", "step"), p=X > 20.0),
            "step": block(If("p", "inner", "back"), p=X < 9.0, x=abs(X) * 2.0 + 1.0),
            "back": block(Goto("outer"), k=K - 1, x=X - 5.0),
            "end": block(Return()),
        },
        "out_of_two_loops",
    )


def tested_at_the_end() -> td.Program:
    return program(
        {
            "begin": block(If("p", "begin", "end"), x=X + 1.0, k=K - 1, p=K > 1),
            "end": block(Return()),
        },
        "tested_at_the_end",
    )


def tested_in_the_middle() -> td.Program:
    return program(
        {
            "first": block(If("p", "second", "end"), x=X + 1.0, p=K > 1),
            "second": block(Goto("first"), x=X * 2.0, k=K - 1),
            "end": block(Return()),
        },
        "tested_in_the_middle",
    )


def irreducible() -> td.Program:
    """A loop that is entered at two blocks."""
    return program(
        {
            "begin": block(If("p", "a", "b"), p=X > 0.0),
            "a": block(If("p", "b", "end"), x=X + 1.0, k=K - 1, p=K > 0),
            "b": block(Goto("a"), x=X * 2.0),
            "end": block(Return()),
        },
        "irreducible",
    )


BY_HAND: list[Callable[[], td.Program]] = [
    fallthrough, two_exits, out_of_two_loops, tested_at_the_end, tested_in_the_middle, irreducible,
]  # fmt: skip


def arbitrary(seed: int) -> td.Program:
    """A random program that ends, for every turn of it takes from k."""
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 9))
    names = [f"b{i}" for i in range(count)]
    blocks: dict[str, Block] = {}
    for name in names:
        value = [X + 1.0, X * 0.5, -X, X - 2.0][random.integers(4)]
        writes: dict[str, Any] = {"x": value, "k": K - 1}
        kind = random.integers(4)
        targets = tuple(str(n) for n in random.choice(names, size=3))
        if kind == 0:
            end: End = Goto(targets[0])
        elif kind == 1:
            end = If("p", *targets[:2])
            writes["p"] = float(random.normal()) < X
        else:
            end = Switch("k", targets)
        blocks[name] = block(end, **writes)
        blocks[f"{name}_test"] = block(If("p", name, "end"), p=K > 0)
    to_test = {n: f"{n}_test" for n in names}
    tested = {n: b if n.endswith("_test") else Block(b.graph, b.end.renamed(to_test)) for n, b in blocks.items()}
    ordered = {"b0_test": tested["b0_test"], **tested, "end": block(Return())}
    from tdagger.program.flow import Flow, next_of

    reached = set(Flow(next_of(ordered)).order)
    return program({n: b for n, b in ordered.items() if n in reached}, f"arbitrary {seed}")


def tries() -> list[tuple[Any, Any]]:
    return [(np.float32(x), np.int64(k)) for x in (-3, 0.5, 8, 30) for k in (0, 1, 2, 7)]
