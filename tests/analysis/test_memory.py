"""Memory: the peak against what the executor allocates, plans that don't overlap, orders that don't cost more."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from torch import nn

import tdagger as td
from tdagger.analysis.memory.activations import buffers, memory, peak
from tdagger.analysis.memory.plan import plan
from tdagger.analysis.memory.schedule import scheduled
from tdagger.errors import AttributeValueError
from tdagger.graph import is_view
from tdagger.interpret import interpret, run
from tdagger.op import Value
from tdagger.ops.source import Const, Leaf
from tdagger.ops.structure import Item
from tests.graphs import graphs
from tests.networks import NETWORKS


class _Block:
    """An array in memory of its own: counted while Python holds it, or anything that is a view of it."""

    def __init__(self, array: Any, record: _Record) -> None:
        self.array = np.array(array)
        record.allocate(self, self.array.nbytes)


class _View:
    def __init__(self, array: Any, of: Any) -> None:
        self.array, self.of = array, of


class _Record:
    """What an execution of a graph holds at most: of all blocks that are alive. Leaves are the caller's."""

    def __init__(self) -> None:
        self.live = self.most = 0

    def allocate(self, block: _Block, size: int) -> None:
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(block, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size

    def run(self, graph: td.Graph, inputs: Any, weights: Any) -> dict[str, Any]:
        def rule(value: Value, args: list[Any]) -> Any:
            op = value.op
            if isinstance(op, Leaf):
                return _View((inputs if op.name == "input" else weights)[op.leaf], None)
            if isinstance(op, Item):
                return args[0][op.index]
            out = op.run(*[a.array for a in args])
            if isinstance(op, Const) or is_view(value):
                return _View(out, args)
            return tuple(_Block(o, self) for o in out) if isinstance(out, tuple) else _Block(out, self)

        with np.errstate(all="ignore"):
            self.results, self.updates = interpret(graph, rule)
        return {name: result.array for name, result in self.results.items()}


def _data(values: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {n: np.asarray(generator.random(v.shape)).astype(v.dtype.numpy) for n, v in values.items()}


def _recorded(graph: td.Graph, weights: Any) -> int:
    inputs, record = _data(graph.inputs), _Record()
    out = record.run(graph, inputs, weights)
    expected, _ = run(graph, inputs, weights)
    for name, array in expected.items():
        np.testing.assert_array_equal(out[name], array)
    return record.most


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "CLIPModel", "LSTM", "TransformerEncoder"])
def test_peak_is_what_the_executor_allocates(name: str) -> None:
    module, args, kwargs = NETWORKS[name](small=True)
    dag = td.from_torch(module, args, kwargs)
    for one in (dag, dag.schedule()):
        assert one.cost().peak_bytes == _recorded(one.graph, dag.weights) > 0


@given(graphs())
def test_peak_of_any_graph_is_what_the_executor_allocates(graph: td.Graph) -> None:
    weights = _data({**graph.parameters, **graph.buffers})
    for one in (graph, scheduled(graph)):
        assert peak(one)[0] == _recorded(one, weights)


@given(graphs(size=30))
def test_a_schedule_is_the_same_graph_and_needs_no_more(graph: td.Graph) -> None:
    new = scheduled(graph)
    assert new == graph
    assert sorted(map(id, new.values)) == sorted(map(id, graph.values))
    assert peak(new)[0] <= peak(graph)[0]


def test_a_chain_takes_turns() -> None:
    x = td.input("x", (16,))
    y = x
    for _ in range(5):
        y = td.exp(y)
    graph = td.Graph({"x": x}, {"y": y})
    assert plan(graph).size == peak(graph)[0] == 2 * 64
    assert set(plan(graph).offsets.values()) == {0, 64}


def test_views_share_and_outputs_stay() -> None:
    x = td.input("x", (2, 3))
    y = td.exp(x)
    flat = td.group(y, (2,))
    graph = td.Graph({"x": x}, {"a": td.sin(flat), "b": td.cos(td.repeat(td.unsqueeze(flat, (0,)), [5, None]))})
    held = memory(graph)
    # exp (24, held by its views until cos), sin (24), cos of five times as much (120)
    assert (held.peak_bytes, held.output_bytes, held.input_bytes) == (24 + 24 + 120, 24 + 120, 24)
    assert held.peak_at is graph.outputs["b"]


def test_a_view_of_an_input_takes_nothing() -> None:
    x = td.input("x", (2, 3))
    held = memory(td.Graph({"x": x}, {"y": td.group(x, (2,))}))
    assert (held.peak_bytes, held.output_bytes, held.peak_at) == (0, 0, None)


def test_results_of_one_op_are_freed_one_by_one() -> None:
    x = td.input("x", (4, 8))
    values, index = td.topk(x, k=2, axis=1)
    y = td.exp(td.exp(values))
    graph = td.Graph({"x": x}, {"y": y, "index": index}, order=[values, index])
    sizes = {(b.index, b.size, b.stop) for b in buffers(graph) if b.value is values.args[0]}
    assert sizes == {(0, 32, graph.values.index(y.args[0])), (1, 64, len(graph.values))}


def test_a_schedule_finishes_one_branch_before_the_next() -> None:
    x = td.input("x", (1, 4))
    wide = [td.repeat(x * float(i + 1), [100, None]) + 1.0 for i in range(8)]
    narrow = [td.reduce(w, "sum", (0,)) for w in wide]
    total = narrow[0]
    for n in narrow[1:]:
        total = total + n
    graph = td.Graph({"x": x}, {"y": total}, order=[*wide, *narrow])
    assert peak(graph)[0] > 8 * 1600
    assert peak(scheduled(graph))[0] < 2 * 1600


def test_a_long_chain_needs_no_recursion() -> None:
    x = td.input("x", (4,))
    y = x
    for _ in range(5000):
        y = td.sin(y)
    graph = td.Graph({"x": x}, {"y": y})
    assert peak(scheduled(graph))[0] == 32
    assert plan(graph).size == 2 * 64


def test_tied_weights_count_once() -> None:
    module, args, kwargs = NETWORKS["GPT2LMHeadModel"](small=True)
    held = td.from_torch(module, args, kwargs).cost().memory
    assert held.parameter_bytes == sum(p.nbytes for p in module.parameters())
    p, q = td.parameter("p", (3,)), td.parameter("q", (3,))
    graph = td.Graph({}, {"y": p + q})
    assert memory(graph).parameter_bytes == 24
    assert memory(graph, {"q": "p"}).parameter_bytes == 12


def test_a_module_used_twice_has_its_weights_once() -> None:
    shared = nn.Linear(8, 8)
    dag = td.from_torch(nn.Sequential(shared, nn.ReLU(), shared).eval(), torch.ones(2, 8))
    assert dag.cost().memory.parameter_bytes == 4 * (8 * 8 + 8)


@pytest.mark.parametrize("kind", ["T5Model", "BartModel"])
def test_embeddings_of_encoder_and_decoder_are_tied(kind: str) -> None:
    small: dict[str, Any] = {"d_model": 32, "vocab_size": 97, "use_cache": False}
    options = {
        "T5Model": {"d_ff": 64, "num_layers": 1, "num_heads": 4, "d_kv": 8},
        "BartModel": {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    }
    config = getattr(transformers, kind.replace("Model", "Config"))(**small, **options[kind])
    module = getattr(transformers, kind)(config).eval()
    tokens = torch.randint(3, 97, (1, 6))
    dag = td.from_torch(module, (), {"input_ids": tokens, "decoder_input_ids": tokens})
    held = dag.cost().memory
    assert held.parameter_bytes == sum(p.nbytes for p in module.parameters())
    assert len({w.alias_of for w in dag.state.values()} - {""}) == 1


class _Chunks(nn.Module):
    """A parameter read in three views, one more buffer, and a constant that is broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.ones(12, 4))
        self.register_buffer("scale", torch.ones(1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv.chunk(3)
        return (x @ q.T + x @ k.T) * (x @ v.T) * self.scale + torch.arange(4.0).expand(2, 4) + 0.5


def test_views_of_a_parameter_count_it_once_and_a_broadcast_constant_is_small() -> None:
    held = td.from_torch(_Chunks().eval(), torch.ones(2, 4)).cost().memory
    assert (held.parameter_bytes, held.buffer_bytes, held.input_bytes) == (12 * 4 * 4, 16, 32)
    assert held.constant_bytes <= 4 * 4 + 4
    assert held.weight_bytes == held.parameter_bytes + held.buffer_bytes + held.constant_bytes


def test_updates_of_training_stay_to_the_end() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).train()
    x = torch.randn(2, 3, 6, 6)
    dag = td.from_torch(module, x)
    held = dag.cost().memory
    # the running mean and variance (8 each) and the counter, new; the result
    assert held.output_bytes == 2 * 8 * 4 * 4 * 4 + 2 * 8 * 4 + 8
    assert held.buffer_bytes == 2 * 8 * 4 + 8
    assert held.peak_bytes == _recorded(dag.graph, dag.weights)


def test_in_place_and_the_sum_of_all() -> None:
    x = td.input("x", (16,))
    y = td.cos(td.sin(td.exp(x)))
    held = memory(td.Graph({"x": x}, {"y": y}))
    assert (held.in_place_bytes, held.peak_bytes, held.sum_bytes) == (64, 128, 192)


def test_a_schedule_is_for_a_backend() -> None:
    module, args, kwargs = NETWORKS["T5EncoderModel"](batch=1)
    dag = td.from_torch(module, args, kwargs)
    for backend in (None, "numpy", "torch-cpu"):
        assert dag.schedule(backend=backend).peak_memory(backend) <= dag.peak_memory(backend)
    assert dag.schedule().peak_memory() < 0.9 * dag.peak_memory()
    with pytest.raises(AttributeValueError, match="no backend is called 'tpu'"):
        dag.schedule(backend="tpu")


def test_only_memory_can_be_minimized() -> None:
    module, args, kwargs = NETWORKS["LSTM"](small=True)
    with pytest.raises(AttributeValueError, match="what can be minimized"):
        td.from_torch(module, args, kwargs).schedule("time")
