"""Branches and loops of the older neural networks, against an interpreter that does what the specification says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tdagger as td
from tests.frameworks.coreml.test_older import layer, network

# --- writing layers, in a network or inside of one -----------------------------------------------------------


def add(net: Any, kind: str, inputs: list[str], outputs: list[str], **said: Any) -> Any:
    """A layer, and its parameters."""
    made = net.layers.add(name=f"{kind}.{len(net.layers)}")
    made.input.extend(inputs)
    made.output.extend(outputs)
    own = getattr(made, kind)
    own.SetInParent()
    for name, value in said.items():
        setattr(own, name, value)
    return own


def linear(net: Any, x: str, y: str, alpha: float, beta: float) -> None:
    """``y = alpha * x + beta``."""
    own = add(net, "activation", [x], [y])
    own.linear.alpha, own.linear.beta = alpha, beta


# --- what the specification says -----------------------------------------------------------------------------


class Ended(Exception):
    """A turn of a loop ended: as ``loopBreak`` or ``loopContinue``."""


def interpret(layers: Any, blobs: dict[str, Any]) -> None:
    """Run layers one after the other; KeyError for a blob that isn't made."""
    for item in layers:
        kind = item.WhichOneof("layer")
        own, x = getattr(item, kind), [blobs[n] for n in item.input]
        if kind == "branch":
            interpret((own.ifBranch if abs(x[0].item()) > 1e-6 else own.elseBranch).layers, blobs)
        elif kind == "loop":
            turns, most = 0, x[0].item() if x else own.maxLoopIterations
            while not (x or most or not own.conditionVar) or turns < most:
                interpret(own.conditionNetwork.layers, blobs)
                if own.conditionVar and abs(blobs[own.conditionVar].item()) <= 1e-6:
                    break
                try:
                    interpret(own.bodyNetwork.layers, blobs)
                except Ended as e:
                    if e.args == ("loopBreak",):
                        break
                turns += 1
        elif kind in ("loopBreak", "loopContinue"):
            raise Ended(kind)
        else:
            blobs[item.output[0]] = np.float32(
                x[0] if kind == "copy"
                else own.linear.alpha * x[0] + np.float32(own.linear.beta) if kind == "activation"
                else x[0] + x[1] if kind == "addBroadcastable"
                else x[0] < np.float32(own.alpha)
            )  # fmt: skip


def check(model: Any, *xs: float) -> None:
    """The program is what the specification says, for several inputs; and so is a TDAG that there is."""
    program = td.Program.from_coreml(model)
    for x in xs:
        blobs = {"x": np.full(1, x, np.float32)}
        try:
            interpret(model.neuralNetwork.layers, blobs)
            wanted = blobs["y"]
        except KeyError:
            with pytest.raises(td.TDaggerError, match="made by no layer"):
                program.run(np.full(1, x, "f"))
            continue
        np.testing.assert_allclose(program.run(np.full(1, x, "f")), wanted, rtol=1e-5, err_msg=str(x))


def made(out: tuple[int, ...] = (1,)) -> tuple[Any, Any]:
    """A model of one number, and its network."""
    model = network((1,), out)
    return model, model.neuralNetwork


def test_a_branch_is_a_choice_or_blocks() -> None:
    model, net = made()
    own = add(net, "branch", ["x"], [])
    linear(own.ifBranch, "x", "y", 10, 0)
    linear(own.elseBranch, "x", "y", 1, 5)
    check(model, 3, 0, 1e-7, -2e-6)
    dag = td.from_coreml(model)
    assert "cond" in {v.op.name for v in dag.graph.values}
    assert [float(dag.run(np.full(1, n, "f"))[0]) for n in (3, 0)] == [30, 5]
    known = td.from_coreml(model, values={"x": [0]})
    assert "cond" not in {v.op.name for v in known.graph.values}


def test_a_loop_of_known_turns_is_written_out_or_a_loop() -> None:
    """Its weights are there once."""
    model, net = made()
    add(net, "copy", ["x"], ["y"])
    own = add(net, "loop", [], [], maxLoopIterations=5)
    shift = add(own.bodyNetwork, "loadConstantND", [], ["two"])
    shift.shape.extend([2])
    shift.data.floatValue.extend([1, 2])
    add(own.bodyNetwork, "addBroadcastable", ["y", "two"], ["z"])
    reduced = add(own.bodyNetwork, "reduceSum", ["z"], ["y"], keepDims=True)
    reduced.axes.append(0)
    dag, program = td.from_coreml(model), td.Program.from_coreml(model)
    assert len(dag.weights) == len(program.weights) == 1
    expected = 1.0
    for _ in range(5):
        expected = 2 * expected + 3
    assert dag.run(np.ones(1, "f")) == program.run(np.ones(1, "f")) == expected
    assert len(program.blocks) > 1


def doubled_until(most: int = 0, given: str = "") -> tuple[Any, Any]:
    """``y`` doubled as long as it is below 100."""
    model, net = made()
    add(net, "copy", ["x"], ["y"])
    own = add(net, "loop", [given] if given else [], [], maxLoopIterations=most, conditionVar="again")
    add(own.conditionNetwork, "lessThan", ["y"], ["again"], alpha=100)
    linear(own.bodyNetwork, "y", "t", 2, 0)
    add(own.bodyNetwork, "copy", ["t"], ["y"])
    return model, own


@pytest.mark.parametrize("most", [0, 3])
def test_a_loop_by_data(most: int) -> None:
    model, _ = doubled_until(most)
    with pytest.raises(td.UnsupportedError, match=r"loop: .*as many turns as the data says.*td.Program.from_coreml"):
        td.from_coreml(model)
    check(model, 3, 200, 50, 7)
    again = td.Program.from_coreml(td.Program.from_coreml(model).to_coreml())
    assert again.run(np.full(1, 3, "f")) == td.Program.from_coreml(model).run(np.full(1, 3, "f"))


def test_an_input_says_how_many_turns() -> None:
    model, net = made()
    linear(net, "x", "y", 0, 1)
    own = add(net, "loop", ["x"], [], maxLoopIterations=1)
    linear(own.bodyNetwork, "y", "y2", 3, 1)
    add(own.bodyNetwork, "copy", ["y2"], ["y"])
    check(model, 0, 1, 4)
    assert td.from_coreml(model, values={"x": [2]}).run() == 13


def test_what_a_loop_makes_is_there_after_it_if_there_was_a_turn() -> None:
    """``t`` is first made in the loop, ``again`` by what asks before each turn."""
    model, _ = doubled_until()
    net = model.neuralNetwork
    del net.layers[0].output[:]
    net.layers[0].output.append("y0")
    linear(net, "t", "u", 1, 0)
    add(net, "addBroadcastable", ["u", "again"], ["y"])
    net.layers[1].loop.conditionNetwork.layers[0].input[0] = "y0"
    body = net.layers[1].loop.bodyNetwork
    body.layers[0].input[0] = body.layers[1].output[0] = "y0"
    check(model, 3, 99, 200)


def test_breaks_and_continues_in_branches() -> None:
    """Ten turns: each adds 1 to ``y``, leaves at 7, and adds 2 more but for one of them."""
    model, net = made()
    add(net, "copy", ["x"], ["y"])
    own = add(net, "loop", [], [], maxLoopIterations=10).bodyNetwork
    linear(own, "y", "y1", 1, 1)
    add(own, "copy", ["y1"], ["y"])
    add(own, "lessThan", ["y"], ["below"], alpha=7)
    choice = add(own, "branch", ["below"], [])
    add(choice.ifBranch, "lessThan", ["y"], ["low"], alpha=3)
    inner = add(choice.ifBranch, "branch", ["low"], [])
    add(inner.ifBranch, "loopContinue", [], [])
    add(choice.elseBranch, "loopBreak", [], [])
    linear(own, "y", "y2", 1, 2)
    add(own, "copy", ["y2"], ["y"])
    check(model, 0, 1, 2.5, 6, 7, 100, -20)


def test_turns_that_change_a_type_are_refused_by_name() -> None:
    model, net = made()
    add(net, "copy", ["x"], ["y"])
    own = add(net, "loop", [], [], maxLoopIterations=3).bodyNetwork
    joined = add(own, "concatND", ["y", "x"], ["y2"])
    joined.axis = 0
    add(own, "copy", ["y2"], ["y"])
    with pytest.raises(td.UnsupportedError, match=r"y begins as f32\[1\] and is f32\[2\] after a turn"):
        td.Program.from_coreml(model)
    assert td.from_coreml(model).graph.outputs["y"].shape == (4,)  # turns that are known are written out


def random_layers(net: Any, draw: np.random.Generator, depth: int, in_loop: bool, taken: list[str]) -> None:
    """A few layers on blobs a to d, all of which exist, and a few that may not."""
    for _ in range(draw.integers(1, 5)):
        what = draw.random()
        name, other, out = (str(draw.choice(taken)) for _ in range(3))
        if depth < 3 and what < 0.3:
            add(net, "lessThan", [name], ["p"], alpha=float(draw.integers(-4, 8)))
            own = add(net, "branch", ["p"], [])
            random_layers(own.ifBranch, draw, depth + 1, in_loop, taken)
            if draw.random() < 0.6:
                random_layers(own.elseBranch, draw, depth + 1, in_loop, taken)
        elif depth < 3 and what < 0.5:
            own = add(net, "loop", [], [], maxLoopIterations=int(draw.integers(1, 4)))
            if draw.random() < 0.5:
                own.conditionVar = "go"
                add(own.conditionNetwork, "lessThan", [name], ["go"], alpha=float(draw.integers(0, 10)))
            random_layers(own.bodyNetwork, draw, depth + 1, True, taken)
        elif in_loop and depth and what < 0.6:
            add(net, "loopBreak" if draw.random() < 0.5 else "loopContinue", [], [])
        elif what < 0.8:
            add(net, "addBroadcastable", [name, other], ["s"])
            linear(net, "s", out, 0.5, float(draw.integers(-2, 3)))
        else:
            made_here = "mnq"[draw.integers(3)]
            linear(net, name, made_here, -0.5, 1)
            if draw.random() < 0.4 and made_here not in taken:
                taken.append(made_here)


@pytest.mark.parametrize("seed", range(40))
def test_random_control_flow(seed: int) -> None:
    draw = np.random.default_rng(seed)
    model, net = made()
    for i, name in enumerate("abcd"):
        linear(net, "x", name, 1, i)
    taken = [*"abcd"]
    random_layers(net, draw, 0, False, taken)
    random_layers(net, draw, 0, False, taken)
    for name in "bcd":
        add(net, "addBroadcastable", ["a", name], ["t"])
        add(net, "copy", ["t"], ["a"])
    add(net, "copy", ["a"], ["y"])
    try:
        td.Program.from_coreml(model)
    except td.SourceError:  # a blob that no way makes before it is read
        with pytest.raises(td.SourceError, match="made by nothing before it"):
            td.Program.from_coreml(model)
        return
    check(model, -6, 0, 1, 3, 9)


def test_one_branch_alone_makes_what_is_read() -> None:
    model, net = made()
    own = add(net, "branch", ["x"], [])
    linear(own.ifBranch, "x", "y", 10, 0)
    check(model, 3, 0)
    with pytest.raises(td.UnsupportedError, match=r"one branch makes it alone.*td.Program.from_coreml"):
        td.from_coreml(model)


def test_a_break_outside_of_loops_is_an_error() -> None:
    model = network((1,), (1,))
    layer(model, "loopBreak", "y")
    with pytest.raises(td.SourceError, match="it stands in no loop"):
        td.Program.from_coreml(model)


def test_what_is_wrong_inside_is_named() -> None:
    model, net = made()
    own = add(net, "loop", [], [], maxLoopIterations=3).bodyNetwork
    add(own, "custom", ["x"], ["y"])
    add(own, "copy", ["y"], ["z"])
    for read in (td.from_coreml, td.Program.from_coreml):
        with pytest.raises(td.UnsupportedError, match="custom: it is code of an app's own"):
            read(model)


def test_sizes_that_an_older_network_leaves_open() -> None:
    """A range, or a list, of the description: checked, and asked again by a resize."""
    model = network((2, 3))
    array = model.description.input[0].type.multiArrayType
    for low, high in ((1, 4), (3, 3)):
        array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
    layer(model, "softmaxND").axis = -1
    dag = td.from_coreml(model)
    assert dag.graph.inputs["x"].shape == (2, 3)
    assert dag.resize(b=4).graph.inputs["x"].shape == (4, 3)
    with pytest.raises(td.InputError, match="1 to 4 entries in dimension 0, not 5"):
        td.from_coreml(model, inputs={"x": (5, 3)})
    array.enumeratedShapes.shapes.add(shape=[2, 3])
    array.enumeratedShapes.shapes.add(shape=[5, 3])
    assert td.from_coreml(model, inputs={"x": (5, 3)}).graph.inputs["x"].shape == (5, 3)
    with pytest.raises(td.InputError, match="may have the shapes 2x3, 5x3, not"):
        td.from_coreml(model, inputs={"x": (4, 3)})


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("flips", [150, pytest.param(5000, marks=pytest.mark.slow)], ids=["some", "all"])
def test_cut_and_changed_files_are_one_typed_error(flips: int) -> None:
    model, _ = doubled_until(3)
    net = model.neuralNetwork
    choice = add(net, "branch", ["x"], [])
    linear(choice.ifBranch, "y", "z", 2, 1)
    inner = add(choice.elseBranch, "loop", [], [], maxLoopIterations=4).bodyNetwork
    linear(inner, "y", "z", 1, 1)
    add(inner, "loopBreak", [], [])
    add(net, "copy", ["z"], ["y"])
    data, draw = model.SerializeToString(), np.random.default_rng(0)
    changed = [data[:n] for n in range(0, len(data), 3)]
    for _ in range(flips):
        one = bytearray(data)
        for at in draw.integers(0, len(data), draw.integers(1, 4)):
            one[at] ^= 1 << int(draw.integers(8))
        changed.append(bytes(one))
    read = 0
    for one in changed:
        for function in (td.from_coreml, td.Program.from_coreml):
            try:
                function(bytes(one))
                read += 1
            except td.TDaggerError:
                pass
    assert read < len(changed)
