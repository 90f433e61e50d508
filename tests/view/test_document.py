"""A view's JSON: nothing lost, nothing twice, each name where it belongs."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import tdagger as td
from tdagger.errors import AttributeValueError
from tdagger.network import Origin
from tdagger.ops.external import External, Slot
from tdagger.view.document import Measure
from tdagger.view.views import View
from tests.graphs import graphs
from tests.networks import NETWORKS
from tests.view.opened import check, evaluated, flops_at, live, opened, totals

#: A few of all; ``slow`` takes the rest.
SMALL = ["LSTM", "LlamaForCausalLM"]


def _network(name: str) -> td.TensorDAG:
    network = NETWORKS[name](small=True)
    return td.from_torch(network.module, network.args, network.kwargs)


def _is_exact(dag: td.TensorDAG, document: dict[str, Any]) -> None:
    cost, found = dag.cost(), totals(document)
    check(document)
    assert found["flops"] == cost.total_flops
    assert found["macs"] == cost.macs
    assert (found["reads"], found["writes"]) == (cost.reads, cost.writes)
    alive = live(document)
    assert max(alive, default=0) == document["networks"][0]["memory"]["peak"] == cost.peak_bytes
    at = document["networks"][0]["memory"]["at"]
    assert at is None or alive[at] == cost.peak_bytes


@settings(max_examples=25, deadline=None)
@given(graph=graphs(size=40))
def test_any_graph_is_told_exactly(graph: td.Graph) -> None:
    dag = td.TensorDAG.of_graph(graph)
    document = dag.view().document
    _is_exact(dag, document)
    json.loads(dag.view().to_json())


@pytest.mark.parametrize("name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_networks_are_told_exactly(name: str) -> None:
    dag = _network(name)
    document = dag.view().document
    _is_exact(dag, document)
    bare = replace(dag, origins={}, modules={})
    _is_exact(bare, bare.view().document)
    _paths_agree(dag, document)


def _paths_agree(dag: td.TensorDAG, document: dict[str, Any]) -> None:
    """Every op's path is that of its module, or of one around it; every weight is named where it is used."""
    ops, network = opened(document), document["networks"][0]
    order = network["memory"].get("order") or range(len(ops))
    shown = [v for v in dag.values if v in {r.value for r in dag.cost().by_value}]
    by_name = {i["name"]: i for i in document["parameters"]}
    assert set(dag.graph.parameters) <= set(by_name)
    values = iter(shown)
    for number in order:
        item, path, slots = ops[number]
        name = document["ops"][item["op"]]["op"]
        value = next(v for v in values if td.graph.label(v.op) == name)
        module = dag.origins[value].module if value in dag.origins else ""
        assert module == path or module.startswith(f"{path}.") or not path
        weights = [a.op.leaf for a in value.args if a in {*dag.graph.parameters.values(), *dag.graph.buffers.values()}]
        first = slots[0]
        own = [document["parameters"][network["slots"][first + i]] for i in range(len(item.get("weights", [])))]
        assert [p["name"] for p in own if p["kind"] != "constant"] == weights


def test_equal_layers_are_one_body_and_one_box() -> None:
    dag = td.from_torch(nn.Sequential(*[Residual() for _ in range(7)]), torch.rand(2, 8))
    document = dag.view().document
    (box,) = document["bodies"][document["root"]]["items"]
    assert (box["name"], box["times"], box["kind"]) == ("0-6", 7, "Residual")
    assert box["names"] == [str(i) for i in range(7)]
    assert box["chain"] == [[0, 0]]
    assert [p["name"] for p in document["parameters"]] == [f"{i}.fc.{n}" for i in range(7) for n in ("weight", "bias")]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.fc(x))


class Alternating(nn.Module):
    """Two sorts of layers that take turns."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Residual() if i % 2 else Gated() for i in range(6)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Gated(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.fc(x))


def test_layers_that_take_turns_repeat_two_at_a_time() -> None:
    dag = td.from_torch(Alternating(), torch.rand(2, 8))
    document = dag.view().document
    (box,) = document["bodies"][document["root"]]["items"]
    assert (box["name"], box["times"], box["step"], box["module"]) == ("blocks.0-5", 3, 2, False)
    _paths_agree(dag, document)
    assert {op.path for op in opened(document)} >= {"blocks.0", "blocks.5.fc"}


class Shared(nn.Module):
    """All layers take a mask that the first one makes, as one value."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Masked() for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Masked(Residual):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(8) > 3, x, self.fc(x))


def test_what_all_layers_share_belongs_to_none() -> None:
    document = td.from_torch(Shared(), torch.rand(2, 8)).view().document
    boxes = [i for i in document["bodies"][document["root"]]["items"] if "body" in i]
    (layers,) = [b for b in boxes if b["module"]]
    assert layers["times"] == 4
    assert layers["shared"]


class Twice(nn.Module):
    """One module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(torch.sin(self.block(x)))


def test_a_module_called_twice_is_two_boxes() -> None:
    document = td.from_torch(Twice(), torch.rand(2, 8)).view().document
    boxes = [i for i in document["bodies"][document["root"]]["items"] if "body" in i]
    assert [(b["name"], b.get("call")) for b in boxes] == [("block", None), ("block", 2)]
    assert boxes[0]["body"] == boxes[1]["body"]
    slots = document["networks"][0]["slots"]
    assert [document["parameters"][n]["name"] for n in slots] == 2 * ["block.fc.weight", "block.fc.bias"]


def test_what_differs_is_said() -> None:
    convs = nn.Sequential(*[Conv(stride) for stride in (1, 2)])
    document = td.from_torch(convs, torch.rand(1, 4, 16, 16)).view().document
    last = document["bodies"][document["root"]]["items"][-1]
    assert last["differs"]["from"] == 0
    assert any("stride (2, 2), not (1, 1)" in what for what in last["differs"]["what"])


class Conv(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, stride, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


def test_formulas_hold_at_other_sizes() -> None:
    dag = td.from_torch(Conv(2), torch.rand(1, 4, 16, 16))
    document = dag.view().document
    f = dag.cost_formula("flops", assume=True)
    for sizes in ({}, {"b": 3}, {n: 2 * k for n, k in f.names.items()}):
        assert flops_at(document, sizes) == f(**sizes)


class Attends(torch.nn.Module):
    """Attention, a recurrent network, an expression written out: each has multiply-adds and costly functions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(8, 8, batch_first=True)
        self.out = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(x)
        y = torch.nn.functional.scaled_dot_product_attention(y, y, y)
        return torch.einsum("bsd,btd->bst", torch.tanh(self.out(y)), y).softmax(-1)


def test_every_cost_has_a_formula_that_holds() -> None:
    dag = td.from_torch(Attends().eval(), torch.rand(2, 6, 8))
    document = dag.view().document
    columns = document["cost_columns"]
    for sizes in ({"b": 3}, {"b": 5}):
        cost = dag.resize(**sizes).cost()
        wanted = {
            "flops": cost.total_flops, "macs": cost.macs, "attention_flops": cost.attention_flops,
            "transcendental": cost.transcendental, "reads": cost.reads, "writes": cost.writes,
        }  # fmt: skip
        found = dict.fromkeys(columns, 0)
        for op in opened(document):
            for column, formula in zip(columns, document["costs"][op.item["cost"]], strict=True):
                number = evaluated(document, formula, sizes)
                assert number is not None, (op.path, column)
                found[column] += number
        assert found == wanted
    assert min(wanted.values()) > 0


def test_without_formulas_numbers_are_the_same() -> None:
    dag = td.from_torch(Conv(2), torch.rand(1, 4, 16, 16))
    document = dag.view(formulas=False).document
    assert document["symbols"] == []
    assert totals(document) == totals(dag.view().document)


def test_weights_are_read_for_histograms_only() -> None:
    read: list[str] = []

    class Weights(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            read.append(name)
            return super().__getitem__(name)

    dag = td.from_torch(Residual(), torch.rand(2, 8))
    dag = replace(dag, weights=Weights({n: np.asarray(w) for n, w in dag.weights.items()}))
    dag.view().to_json()
    assert read == []
    table = {p["name"]: p for p in dag.view(histograms=True).document["parameters"]}
    assert set(read) == {"fc.weight", "fc.bias"}
    assert sum(table["fc.weight"]["histogram"]["counts"]) == 64


def test_times_stand_beside_ops() -> None:
    dag = td.from_torch(Residual(), torch.rand(2, 8))
    profile = dag.profile(runs=1)
    network = dag.view(device="h100", profile=profile).document["networks"][0]
    assert sum(network["predicted"]["each"]) == pytest.approx(float(dag.predict_time("h100")), rel=1e-2)
    assert len(network["measured"]["each"]) == len(network["predicted"]["each"]) == network["totals"]["ops"]
    assert network["predicted"]["roofline"]["flops"] > 0
    other = td.network(lambda x: td.exp(x), {"x": (3,)})
    with pytest.raises(AttributeValueError, match="another network"):
        other.view(profile=profile).to_json()


def test_what_is_not_counted_is_marked() -> None:
    x = td.input("x", (3,))
    y = External("f", "strange", (Slot(0),), (), (x.type,))(x)
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"y": td.exp(y)}))
    document = dag.view().document
    items = document["bodies"][document["root"]]["items"]
    assert [i["cost"] is None for i in items] == [True, False]
    assert document["networks"][0]["partial"] == {"f:strange": 1}
    assert "not counted" in dag.view().to_svg()


def test_measures_stand_beside_ops() -> None:
    dag = td.from_torch(Residual(), torch.rand(2, 8))
    (linear,) = [v for v in dag.graph.values if v.op.name == "linear"]
    document = View([dag], measures=[Measure("SQNR", "dB", "low", {linear: 41.5})]).document
    (told,) = document["networks"][0]["measures"]
    ops = [document["ops"][op.item["op"]]["op"] for op in opened(document)]
    assert {op: n for op, n in zip(ops, told["each"], strict=True) if n is not None} == {"linear": 41.5}
    assert "measures" not in dag.view().document["networks"][0]


def test_histograms_of_codes_say_what_floats_they_are() -> None:
    codes = np.array([-128, -128, 0, 127], np.int8)
    dag = td.network(
        lambda x, w: x + td.dequantize(w, td.const(np.float32(0.5)), td.const(np.int8(0))), {"x": (4,)}, {"w": codes}
    )
    (weight,) = [p for p in dag.view(histograms=True).document["parameters"] if p["name"] == "w"]
    assert weight["codes"] == {"low": -64.0, "high": 63.5, "ends": 0.75}
    assert (weight["histogram"]["low"], weight["histogram"]["high"]) == (-128.0, 127.0)


def test_layers_that_differ_in_scales_alone_are_equal() -> None:
    def layers(x: Any) -> Any:
        for scale in (0.5, 0.25, 0.125):
            grid = td.const(np.float32(scale)), td.const(np.int8(8 * scale))
            q = td.quantize(td.relu(x), *grid, to="i8")
            x = td.exp(td.dequantize(q, *grid))
        return x

    dag = td.network(layers, {"x": (4,)})
    origins = {}
    for i, value in enumerate([v for v in dag.graph.values if v.args]):
        origins[value] = Origin(f"layers.{i // 4}")
    document = replace(dag, origins=origins).view().document
    (item,) = document["bodies"][document["root"]]["items"]
    assert item["times"] == 3
    scales = [document["parameters"][n]["name"] for n in document["networks"][0]["slots"]]
    assert scales[0] == "0.5"
    assert scales[4] == "0.25"


def test_what_is_made_of_constants_alone_has_formulas_too() -> None:
    """A mask that is made of positions: its ops have formulas, as all others have."""

    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            at = torch.arange(x.shape[1]).float()
            mask = torch.exp(at[None, :, None] - at[None, None, :])
            return x * mask, (x * mask[0]).sum(0) * mask[0]

    dag = td.from_torch(Masked(), torch.rand(1, 4, 4))
    document = dag.view().document
    for sizes in ({"b": 3}, {"b": 3, "n": 7}):
        assert flops_at(document, sizes) == dag.resize(**sizes).cost().total_flops
