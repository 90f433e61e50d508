"""A network's text is the network, and a change of it a change of few lines."""

from __future__ import annotations

import difflib
import re

import hypothesis
import pytest
import torch

import tdagger as td
from tdagger.errors import FileError
from tdagger.tensordag import TensorDAG
from tests.file.sampled import of_every_op
from tests.file.test_store import Net
from tests.graphs import graphs, layouts


def same(dag: TensorDAG) -> None:
    """The text gives the network again, and the same text."""
    text = dag.text()
    found = td.parse(text)
    assert found.values == dag.values
    assert found.graph == dag.graph
    assert (found.signature, found.state, found.name) == (dag.signature, dag.state, dag.name)
    assert found.hash() == dag.hash()
    assert td.parse(found.text()).text() == found.text()


def test_every_part_of_a_network() -> None:
    same(td.from_torch(Net().train(), torch.ones(3, 4), {"mask": torch.ones(3, 4)}, axes={"x": "batch c"}))


def test_every_sample() -> None:
    for sample in of_every_op():
        inputs = sample.inputs()
        out = sample.build(*inputs)
        outputs = {f"o{i}": v for i, v in enumerate(out if isinstance(out, tuple) else (out,))}
        same(TensorDAG.of_graph(td.Graph({v.op.leaf: v for v in inputs}, outputs)))


@hypothesis.given(graphs())
def test_random_graphs(graph: td.Graph) -> None:
    same(TensorDAG.of_graph(graph))


@hypothesis.given(layouts())
def test_graphs_that_move_data(graph: td.Graph) -> None:
    same(TensorDAG.of_graph(graph))


def test_a_change_is_few_lines() -> None:
    nn = torch.nn
    net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(10)])
    dag = td.from_torch(net, torch.ones(2, 4))
    other = dag.replace(td.relu, td.gelu, within="3")
    changed = [
        line
        for line in difflib.unified_diff(dag.text().split("\n"), other.text().split("\n"), n=0)
        if line[0] in "+-" and not line.startswith(("+++", "---"))
    ]
    assert len(changed) == 4, changed  # the op, and the line that takes it
    assert any("gelu" in line and line.startswith("+  %3.1.gelu: f32[2 4] = gelu") for line in changed), changed


_TEXT = td.network(lambda x: td.exp(td.pad(x, [(1, 2, 0)], 0.5)), {"x": (2,)}).text()
_WRONG = {
    "": ("", "a text has a first line"),
    "version": (_TEXT.replace("tdag 1", "tdag 2"), 'line 1: a text begins with tdag 1 "NAME"'),
    "type": (_TEXT.replace("f32[5]", "f32[6]"), "calls.* pad gives f32.5., the file says f32.6."),
    "op": (_TEXT.replace("= pad", "= system"), "no op is called 'system'"),
    "line": (_TEXT + "import os\n", "line 11: can't be read: 'import os'"),
    "value": (_TEXT.replace(" %pad\n", " %pads\n"), "line 6: can't be read"),
    "twice": (_TEXT.replace("%unary:", "%pad:"), "line 6: %pad is there twice"),
    "cut": (_TEXT[: _TEXT.index("takes")], "a text has a first line"),
    "JSON": (_TEXT.replace('{"kind":"exp"}', '{"kind":"exp"'), "line 6: can't be read"),
}


@pytest.mark.parametrize("name", _WRONG)
def test_what_cannot_be_parsed(name: str) -> None:
    text, why = _WRONG[name]
    with pytest.raises(FileError) as caught:
        td.parse(text)
    assert re.search(why, str(caught.value)), caught.value
