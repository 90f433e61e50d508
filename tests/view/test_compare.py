"""Two networks as one: what is the same, what changed, what only one has."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

import tdagger as td
from tests.view.opened import check, opened, totals


class Net(nn.Module):
    """Two convolutions with batch norms, a head."""

    def __init__(self, width: int = 8, stride: int = 1, extra: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1), nn.BatchNorm2d(width)
        self.extra = nn.Conv2d(width, width, 1) if extra else nn.Identity()
        self.fc = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(self.extra(x).mean((2, 3)))


def _net(**how: Any) -> td.TensorDAG:
    return td.from_torch(Net(**how).eval(), torch.rand(1, 3, 16, 16))


def _states(document: dict[str, Any]) -> dict[str, str]:
    """The state of every named op."""
    return {o.path: o.item.get("state", "same") for o in opened(document) if o.item.get("name")}


def _both_are_exact(a: td.TensorDAG, b: td.TensorDAG) -> dict[str, Any]:
    document = a.view(b).document
    check(document)
    assert totals(document, 0)["flops"] == a.cost().total_flops
    assert totals(document, 1)["flops"] == b.cost().total_flops
    return document


def test_a_network_and_itself_are_the_same() -> None:
    dag = _net()
    document = _both_are_exact(dag, dag)
    assert all("state" not in item for body in document["bodies"] for item in body["items"])


def test_a_changed_attribute_is_told() -> None:
    document = _both_are_exact(_net(), _net(stride=2))
    states = _states(document)
    assert (states["conv1"], states["bn1"], states["conv2"]) == ("same", "same", "changed")
    (conv,) = [o.item for o in opened(document) if o.path == "conv2"]
    assert "stride: (1, 1) -> (2, 2)" in conv["changes"]
    assert "type: f32[1 8 16 16] -> f32[1 8 8 8]" in conv["changes"]
    assert conv["b"]["cost"] != conv["cost"]


def test_what_only_one_has_is_told() -> None:
    a, b = _net(), _net(extra=True)
    assert _states(_both_are_exact(a, b))["extra"] == "b"
    assert _states(_both_are_exact(b, a))["extra"] == "a"


def test_an_optimised_network_against_the_original() -> None:
    dag = _net()
    document = _both_are_exact(dag, dag.optimize())
    states = _states(document)
    assert {n for n, state in states.items() if state == "a"} == {"bn1", "bn2"}
    assert {states[n] for n in ("conv1", "conv2", "fc")} == {"same"}


def _last(dag: td.TensorDAG) -> td.TensorDAG:
    """The network with channels last, without modules: what a file of another format gives."""
    return replace(dag, graph=last(dag.graph), origins={}, modules={})


def last(graph: td.Graph) -> td.Graph:
    """A graph whose pictures have channels last: every op that needs them first is between two permutes."""
    new: dict[Any, Any] = {}
    for value in graph.values:
        args = [new[a] for a in value.args]
        four = [value.type, *[a.type for a in value.args]]
        if value.args and value.op.name not in ("relu", "input", "parameter") and any(t.rank == 4 for t in four):
            data = [
                td.permute(x, (0, 3, 1, 2)) if a.type.rank == 4 and x.type != a.type else x
                for a, x in zip(value.args, args, strict=True)
            ]
            made = value.op(*data)
            new[value] = td.permute(made, (0, 2, 3, 1)) if value.type.rank == 4 else made
        else:
            new[value] = value.op(*args)
    return td.Graph(graph.inputs, {n: new[v] for n, v in graph.outputs.items()})


def test_a_network_in_another_layout_is_the_same_but_for_permutes() -> None:
    dag = _net()
    a = dag.run(np.ones((1, 3, 16, 16), "f"))
    other = _last(dag)
    assert np.allclose(a, other.run(np.ones((1, 3, 16, 16), "f")), atol=1e-6)
    assert len([v for v in other.graph.values if v.op.name == "permute"]) > 6
    for document in (_both_are_exact(dag, other), _both_are_exact(other, dag)):
        items = [o.item for o in opened(document) if "op" in o.item]
        told = {(i.get("state", "same"), i.get("moves", False)) for i in items}
        assert told <= {("same", False), ("a", True), ("b", True)}
        assert ("same", False) in told
        named = {o.path.rpartition(".")[0] or o.path for o in opened(document)}
        assert {"conv1", "bn2", "fc"} <= named  # in the modules of the one that has some


def test_another_axis_in_another_layout_is_a_change() -> None:
    """Sizes of axes may be equal: what is reduced is told by the order of the axes."""

    def first(x: td.Value, axis: int) -> td.Value:
        return td.reduce(td.exp(x), kind="sum", axes=(axis,))

    def other(x: td.Value) -> td.Value:
        return td.reduce(td.permute(td.exp(x), (0, 2, 1)), kind="sum", axes=(1,))

    b = td.network(other, {"x": (2, 4, 4)})
    states = []
    for axis in (1, 2):
        document = td.network(lambda x, axis=axis: first(x, axis), {"x": (2, 4, 4)}).view(b).document
        (item,) = [o.item for o in opened(document) if document["ops"][o.item["op"]]["op"] in ("reduce", "sum")]
        states.append(item.get("state", "same"))
    assert states == ["changed", "same"]


def test_a_pruned_network_against_the_original() -> None:
    dag = _net()
    document = _both_are_exact(dag, dag.prune(params=0.5))
    (conv,) = [o.item for o in opened(document) if o.path == "conv1"]
    assert conv["state"] == "changed"
    assert any(c.startswith("weight: f32[8 3 3 3] -> ") for c in conv["changes"])


def test_without_modules_what_is_equal_is_found() -> None:
    def chain(x: td.Value, middle: bool) -> td.Value:
        for i in range(30):
            x = td.exp(x) * td.parameter(f"w{i}", (4,))
            x = td.sin(x) if middle and i == 15 else x
        return x

    x = td.input("x", (4,))
    a, b = (td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": chain(x, middle)})) for middle in (False, True))
    document = _both_are_exact(a, b)
    assert [o.item["text"].split("(")[0] for o in opened(document) if o.item.get("state") == "b"] == ["sin"]
    assert sum(1 for o in opened(document) if o.item.get("state") == "a") == 0


def test_sizes_that_differ_are_no_slider() -> None:
    a = td.from_torch(nn.Linear(4, 4), torch.rand(2, 4))
    b = td.from_torch(nn.Linear(4, 4), torch.rand(3, 4))
    (symbol,) = a.view(b).document["symbols"]
    assert symbol["sizes"] == [2, 3]


def test_the_picture_shows_both() -> None:
    picture = _net().view(_net(extra=True)).to_svg()
    assert "stroke-dasharray" in picture
    assert "extra" in picture


def test_the_same_change_in_every_layer_is_one_box() -> None:
    def net(width: int) -> td.TensorDAG:
        layers = [nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4)) for _ in range(5)]
        return td.from_torch(nn.Sequential(*layers), torch.rand(2, 4))

    document = _both_are_exact(net(8), net(6))
    (box,) = document["bodies"][document["root"]]["items"]
    assert (box["name"], box["times"], box["state"]) == ("0-4", 5, "changed")


def test_weights_that_differ_are_told_and_structure_alone_reads_none() -> None:
    torch.manual_seed(0)
    module = Net().eval()
    a = td.from_torch(module, torch.rand(1, 3, 16, 16))
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.conv2.weight *= 1.25
        other.fc.bias[0] = float("nan")
    b = td.from_torch(other, torch.rand(1, 3, 16, 16))
    document = _both_are_exact(a, b)
    assert set(_states(document).values()) == {"same"}  # the structure is
    (measure,) = document["networks"][0]["measures"]
    told = dict(zip([o.path for o in opened(document)], measure["each"], strict=True))
    assert (told["conv1"], told["bn1"], told["conv2"], told["fc"]) == (0.0, 0.0, 0.25, 1.0)
    changes = {
        p["name"]: (p["change"], document["parameters"][p["b"]]["name"]) for p in document["parameters"] if "b" in p
    }
    assert changes["conv2.weight"] == (0.25, "conv2.weight")
    assert changes["conv2.bias"] == (0.0, "conv2.bias")
    assert "2 changed, by 100 % of the norm at most" in document["notices"][0]
    assert "weights differ 25 %" in a.view(b).to_svg()
    unread = replace(b, weights=_Unread(list(b.weights)))
    structure = a.view(unread, weights=False).document
    assert "measures" not in structure["networks"][0]
    assert structure["notices"] == ["weights weren't read: whether their numbers are the same isn't said"]
    without = a.view(replace(b, weights={})).document
    assert "14 not compared, as a network has none of their numbers" in without["notices"][0]


class _Unread(Mapping[str, Any]):
    """Weights that are there and fail where they are read."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __getitem__(self, name: str) -> Any:
        raise AssertionError(f"{name} is read")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def test_weights_in_another_layout_are_compared_as_the_op_takes_them() -> None:
    dag = _net()
    document = dag.view(_last(dag)).document
    assert document["notices"][0].endswith(" the same; 0 changed")
    each = [n for n in document["networks"][0]["measures"][0]["each"] if n is not None]
    assert len(each) >= 3
    assert set(each) == {0.0}
