"""Malformed programs are refused with the names of their slots and blocks."""

from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.network import Weight
from tdagger.program.parts import Block, Goto, If, Return, Slot, Switch

F, B, N = td.TensorType((), "f32"), td.TensorType((), "bool"), td.TensorType((), "i64")
X, P, K = td.input("x", ()), td.input("p", (), "bool"), td.input("k", (), "i64")
SLOTS = {"x": Slot(F), "y": Slot(F), "p": Slot(B), "k": Slot(N)}
NOTHING = td.Graph({}, {})


def block(end: Any, **writes: td.Value) -> Block:
    reads = {v.op.leaf: v for v in td.Graph({}, {}).values} | {
        v.op.leaf: v for w in writes.values() for v in [w, *w.args] if v.op.name == "input"
    }
    return Block(td.Graph(reads, writes), end)


def test_a_program_by_hand() -> None:
    blocks = {"a": block(If("p", "b", "c"), y=td.exp(X)), "b": block(Goto("c"), y=-X), "c": block(Return())}
    program = td.Program(SLOTS, blocks, ("x", "p"), ("y",))
    assert [float(program.run(np.float32(2), np.bool_(p))) for p in (True, False)] == [-2.0, pytest.approx(np.exp(2))]
    assert repr(program) == "<Program program: 3 blocks, 4 slots>"


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"a": block(Goto("b"))}, "block a goes on with b, which is no block"),
        ({"a": block(Return(), z=X)}, "block a writes z, which is no slot"),
        ({"a": block(Return(), k=X)}, r"block a writes k as f32\[\], the slot is i64\[\]"),
        ({"a": block(If("x", "a", "b"), y=X), "b": block(Return())}, r"goes on by x, which is f32\[\] and not bool"),
        ({"a": block(Switch("p", ("b",)), y=X), "b": block(Return())}, "chooses by p, which is bool.* no integer"),
        ({"a": block(If("q", "a", "b"), y=X), "b": block(Return())}, "goes on by q, which is no slot"),
        ({"a": block(Switch("k", ()), y=X)}, "block a chooses among no blocks"),
        ({"a": block(Return(), y=X), "b": block(Return()), "c": block(Goto("b"))}, "no way leads to block b, c"),
        ({"a": block(Goto("a"), y=X)}, "no block returns"),
        ({"a": block(Return())}, "block a returns without y, which isn't assigned on every way there"),
        ({"a": block(Return(), y=-td.input("y", ()))}, "block a reads y, which isn't assigned on every way there"),
        (
            {"a": block(If("p", "b", "c")), "b": block(Goto("c"), y=X), "c": block(Return())},
            "block c returns without y, which isn't assigned on every way there",
        ),
        (
            {"a": block(If("p", "b", "c")), "b": block(Goto("b2"), y=X), "b2": block(Goto("b")), "c": block(Return())},
            "nothing leads out of the loop of b, b2|returns without y",
        ),
        (
            {"a": block(If("p", "b", "c"), y=X), "b": block(Goto("a"), k=K), "c": block(Return())},
            "the loop of a, b is left by p, which nothing in it changes",
        ),
        (
            {"a": block(If("p", "b", "c"), y=X, p=td.const(True)), "b": block(Goto("a")), "c": block(Return())},
            "the loop of a, b is left by p, which nothing in it changes",
        ),
        ({}, "it has no blocks"),
        (
            {"a": Block(td.Graph({"x": X}, {}, {"b": X}), Return())},
            r"block a changes buffers \(b\): those that change are",
        ),
    ],
)
def test_refused(blocks: dict[str, Block], message: str) -> None:
    with pytest.raises(td.GraphError, match=message):
        td.Program(SLOTS, blocks, ("x", "p", "k"), ("y",))


def test_an_inner_loop_that_never_ends() -> None:
    """The outer loop changes what its inner one is left by, but the inner one doesn't."""
    blocks = {
        "outer": block(If("p", "inner", "end"), y=X),
        "inner": block(If("q", "inner", "back")),
        "back": block(Goto("outer"), p=~P, q=~P),
        "end": block(Return()),
    }
    with pytest.raises(td.GraphError, match="the loop of inner is left by q, which nothing in it changes"):
        td.Program({**SLOTS, "q": Slot(B)}, blocks, ("x", "p", "q"), ("y",))


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"x": Slot(F, ((0, "n"),))}, "slot x .* has no dimension 0"),
        ({"x": Slot(td.TensorType((3,), "f32"), ((0, "n"),))}, r"the length of slot x must be a slot i64\[\], n isn't"),
        ({"x": Slot(F, (), "w")}, "slot x begins as w, which is no buffer"),
        ({"x": Slot(F, (), "b")}, r"slot x \(f32\[\]\) begins as buffer b of type i64"),
        ({}, "it takes x, which is no slot"),
    ],
)
def test_slots_refused(slots: dict[str, Slot], message: str) -> None:
    state = {"w": Weight(F, True), "b": Weight(N, False)}
    with pytest.raises(td.GraphError, match=message):
        td.Program(slots, {"a": Block(NOTHING, Return())}, ("x",), (), state=state)
    with pytest.raises(td.GraphError, match="it takes a slot twice"):
        td.Program(SLOTS, {"a": Block(NOTHING, Return())}, ("x", "x"), ())


def test_weights() -> None:
    w = td.parameter("w", ())
    with pytest.raises(td.GraphError, match="block a needs the weight w, which the program's state doesn't have"):
        td.Program(SLOTS, {"a": Block(td.Graph({}, {"y": w}), Return())}, (), ("y",))
    with pytest.raises(td.GraphError, match=r"block a has the weight w as f32\[\], the state as i64\[\]"):
        td.Program(SLOTS, {"a": Block(td.Graph({}, {"y": w}), Return())}, (), ("y",), state={"w": Weight(N, True)})
