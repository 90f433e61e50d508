"""What a file's names become in torch: a state_dict of just these, a module that trains; templates change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import tdagger as td
from tdagger.frameworks.onnx.walk import results
from tests.frameworks.onnx.small import floats, model, node
from tests.frameworks.onnx.test_malformed import WHOLE

torch = pytest.importorskip("torch")
nn = torch.nn

ODD = [
    "a", "b.b", "c.b.c", "layer/0/weight", "onnx::Conv_12", "class", "for.if", "0", "1.1", "weight", "forward", "x y",
    "line\nmarker", "quote'\"", "é", "double..dot", "self", "x", "T_destination",
]  # fmt: skip


def test_state_of_odd_names_goes_to_torch_and_back():
    nodes = [node("Add", "input " + "w0", "s0")]
    nodes[0].input[1] = ODD[0]
    for i, name in enumerate(ODD[1:], 1):
        nodes.append(helper.make_node("Add", [f"s{i - 1}", name], [f"s{i}"], name=f"n{i}"))
    tensors = {n: floats(3, seed=i) for i, n in enumerate(ODD)}
    dag = td.from_onnx(model(nodes, {"input": (2, 3)}, [f"s{len(ODD) - 1}"], tensors))
    assert list(dag.state) == ODD
    module = dag.to_torch()
    assert set(module.state_dict()) == set(ODD)
    x = floats(2, 3)
    expected = x + sum(tensors.values())
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    state = {n: torch.zeros(3) for n in ODD}
    module.load_state_dict(state)
    np.testing.assert_array_equal(module(torch.from_numpy(x)).detach().numpy(), x)


@pytest.mark.parametrize("name", ["training", ".lead", "trail.", "a._parameters"])
def test_a_name_that_no_module_can_have_is_refused(name):
    dag = td.from_onnx(model([node("Add", f"x {name}", "y")], {"x": (3,)}, tensors={name: floats(3)}))
    with pytest.raises(td.UnsupportedError, match=f"no module of torch has a weight called {name}: rename it"):
        dag.to_torch()
    assert list(dag.rename({name: "bias"}).to_torch().state_dict()) == ["bias"]


def test_a_weight_and_a_module_of_one_name_are_refused():
    nodes = [node("Add", "x a", "s"), node("Add", "s a.b", "y")]
    for names in (("a", "a.b"), ("a.b", "a")):
        dag = td.from_onnx(model(nodes, {"x": (3,)}, tensors={n: floats(3) for n in names}))
        np.testing.assert_allclose(dag.run(floats(3)), 3 * floats(3), rtol=1e-6)
        with pytest.raises(td.UnsupportedError, match="no module of torch has a weight called a"):
            dag.to_torch()


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_batch_norm_trains(axes):
    """A file of inference is fine-tuned: its layers are torch's, and do in training what those do."""
    kind = getattr(nn, f"BatchNorm{axes}d")
    theirs = nn.Sequential()
    theirs.conv = getattr(nn, f"Conv{axes}d")(3, 4, 3, bias=False)
    theirs.bn, theirs.drop = kind(4, momentum=0.25, eps=1e-3), nn.Dropout(0.25)
    torch.manual_seed(0)
    for tensor in (*theirs.parameters(), theirs.bn.running_mean, theirs.bn.running_var):
        nn.init.uniform_(tensor, 0.5, 1)
    held = {n: t.detach().numpy() for n, t in theirs.state_dict().items() if t.ndim}
    made = model(
        [node("Conv", "x conv.weight", "c", "conv/Conv"),
         node("BatchNormalization", "c bn.weight bn.bias bn.running_mean bn.running_var", "n", "bn/BatchNormalization",
              epsilon=1e-3, momentum=0.75),
         node("Dropout", "n p", "y", "drop/Dropout")],
        {"x": (2, 3, *[5] * axes)}, tensors={**held, "p": np.float32(0.25)},
    )  # fmt: skip
    dag = td.from_onnx(made)
    module = dag.to_torch()
    assert [type(m) for m in (module.conv, module.bn, module.drop)] == [type(m) for m in theirs]
    assert list(module.state_dict()) == list(theirs.state_dict())
    assert list(dag.state) == list(held)  # what torch counts is no matter of the network
    assert [n for n, _ in module.named_parameters()] == ["conv.weight", "bn.weight", "bn.bias"]
    x = torch.from_numpy(floats(2, 3, *[5] * axes))
    torch.testing.assert_close(module.eval()(x), theirs.eval()(x))
    for each in (module, theirs):
        torch.manual_seed(1)
        each.train()(x).square().sum().backward()
    for own, other in zip(module.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    torch.testing.assert_close(module.state_dict(), theirs.state_dict())
    module.load_state_dict(dict(dag.to_torch().state_dict()))
    torch.testing.assert_close(module.eval()(x), dag.to_torch().eval()(x))


def test_templates_change_nothing(monkeypatch):
    layers = [
        node(*text)
        for i in range(3)
        for text in (
            ("MatMul", f"{f'r{i - 1}' if i else 'x'} w", f"m{i}"), ("Add", f"m{i} b", f"a{i}"),
            ("Relu", f"a{i}", f"q{i}"), ("Add", f"q{i} q{i}", f"d{i}"), ("Add", f"d{i} one", f"r{i}"),
        )
    ]  # fmt: skip
    made = model(layers, {"x": (2, 3)}, ["r2"], {"w": floats(3, 3), "b": floats(3), "one": np.float32(1)})
    for given in (made, WHOLE):
        sizes = {"b": 2} if given is WHOLE else None
        with_templates = td.from_onnx(given, sizes=sizes)
        with monkeypatch.context() as patch:
            patch.setattr(results, "template_of", lambda call, args: None)
            without = td.from_onnx(given, sizes=sizes)
        assert with_templates.graph == without.graph
        assert with_templates.origins == without.origins
        assert list(with_templates.graph.values) == list(without.graph.values)


@pytest.mark.parametrize("through", [False, True])
def test_a_weight_that_is_a_statistic_too_is_both(through):
    """Exporters write equal tensors once, some with an Identity: a mean of zeros is no bias of zeros when it trains."""
    torch = pytest.importorskip("torch")
    names = "bn.running_mean bn.running_var" if through else "bn.bias bn.weight"
    nodes = [node("BatchNormalization", f"x bn.weight bn.bias {names}", "y", "bn/BatchNormalization")]
    if through:
        nodes = [
            node("Identity", "bn.bias", "bn.running_mean"), node("Identity", "bn.weight", "bn.running_var"), *nodes
        ]  # fmt: skip
    tensors = {"bn.weight": np.ones(3, np.float32), "bn.bias": np.zeros(3, np.float32)}
    dag = td.from_onnx(model(nodes, {"x": (2, 3, 4, 4)}, ["y"], tensors))
    held = ["bn.running_mean", "bn.running_var"] if through else ["bn.bias_statistic", "bn.weight_statistic"]
    assert sorted(dag.state) == sorted(["bn.weight", "bn.bias", *held])
    assert [dag.state[n].is_parameter for n in held] == [False, False]
    module = dag.to_torch().train()
    module(torch.rand(2, 3, 4, 4)).sum().backward()
    state = module.state_dict()
    assert state["bn.bias"].abs().max() == 0 < state[held[0]].abs().max()
