"""Blocks that are alike as one in a loop over stacked weights."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.program.roll import stacks
from tdagger.transform.passes import fold_constants
from tests.program.test_programs import same


class Feed(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(wide), nn.Linear(wide, 2 * wide), nn.Linear(2 * wide, wide)

    def forward(self, x: Any, mask: Any) -> Any:
        return x + self.down(torch.relu(self.up(self.norm(x)))) * mask


class Stack(nn.Module):
    """Blocks after a linear layer, of which all states are given, or the last."""

    def __init__(self, count: int, states: bool = False) -> None:
        super().__init__()
        self.first, self.states = nn.Linear(3, 4), states
        self.blocks = nn.ModuleList([Feed(4) for _ in range(count)])
        self.last = nn.Linear(4, 2)

    def forward(self, x: Any, mask: Any) -> Any:
        x = self.first(x)
        states = [x]
        for block in self.blocks:
            x = block(x, mask)
            states.append(x)
        return (self.last(x), *states) if self.states else self.last(x)


def network(count: int, states: bool = False) -> tuple[td.TensorDAG, list[Any]]:
    torch.manual_seed(0)
    args = (torch.randn(2, 3), torch.rand(2, 1))
    return td.from_torch(Stack(count, states).eval(), args), [a.numpy() for a in args]


@pytest.mark.parametrize("states", [False, True])
def test_rolled_computes_the_same(states: bool) -> None:
    dag, args = network(5, states)
    program = dag.roll()
    assert len(program.flow.loops) == 1
    want = dag.run(*args)
    same(program.run(*args), want)
    with torch.no_grad():
        found = program.to_torch()(*map(torch.as_tensor, args))
    same(tuple(x.numpy() for x in found) if states else found.numpy(), want)
    same(program.unroll(5).dag().run(*args), want)


def test_the_graph_is_constant_in_layers_and_costs_the_same() -> None:
    sizes: set[int] = set()
    for count in (2, 20):
        dag, args = network(count)
        program = dag.roll()
        sizes.add(sum(len(b.graph.values) for b in program.blocks.values()))
        runner = program.runner()
        runner(*args)
        cost, folded = program.cost(), fold_constants(dag).cost()
        assert cost.total(runner.counts, "macs") == folded.macs
        assert cost.total(runner.counts) == folded.total_flops + 2 * count + 1  # what counts the turns
    assert len(sizes) == 1


def test_weights_are_stacked_when_asked_for() -> None:
    dag, _ = network(3)
    program = dag.roll()
    assert program.state["blocks.all.up.weight"].type == td.TensorType((3, 8, 4), "f32")
    assert "blocks.0.up.weight" not in program.state
    same(program.weights["blocks.all.up.weight"][1], dag.weights["blocks.1.up.weight"])


def test_blocks_that_differ_stay() -> None:
    """A block in the middle that does something else parts two stacks; a network without blocks is refused."""

    class Parted(Stack):
        def forward(self, x: Any, mask: Any) -> Any:
            x = self.first(x)
            for i, block in enumerate(self.blocks):
                x = block(x, mask)
                if i == 2:
                    x = torch.sin(x)
            return x

    args = (torch.randn(2, 3), torch.rand(2, 1))
    dag = td.from_torch(Parted(6).eval(), args)
    assert sorted(s.count for s in stacks(dag.graph)) == [3, 3]
    program = dag.roll()
    assert len(program.flow.loops) == 2
    same(program.run(*[a.numpy() for a in args]), dag.run(*[a.numpy() for a in args]))
    with pytest.raises(td.GraphError, match="has no blocks that follow each other"):
        td.from_torch(nn.Linear(3, 3), (torch.randn(2, 3),)).roll()


@pytest.mark.slow
def test_llama_of_80_layers() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes: set[int] = set()
    for count in (40, 80):
        torch.manual_seed(0)
        config = LlamaConfig(num_hidden_layers=count, vocab_size=100, **small, use_cache=False)
        dag = td.from_transformers(LlamaForCausalLM(config).eval(), seq=6)
        program = dag.roll()
        sizes.add(sum(len(b.graph.values) for b in program.blocks.values()))
        args = [np.arange(6)[None], np.ones((1, 6), np.int64)]
        runner = program.runner()
        runner(*args)
        assert program.cost().total(runner.counts, "macs") == dag.cost().macs
        with torch.no_grad():
            found, want = (m.to_torch()(*map(torch.as_tensor, args)) for m in (program, dag))
        assert float((found.logits - want.logits).abs().max()) <= 1e-6
    assert len(sizes) == 1
