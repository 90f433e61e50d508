"""Programs of torch's operators of higher order and of scripts."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

import tdagger as td
from tests.frameworks.torch.program.test_to_torch import plain
from tests.program.test_programs import same


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Any, n: Any) -> Any:
        y = torch.exp(x)
        k, x = while_loop(lambda k, x: k < n, lambda k, x: (k + 1, torch.tanh(self.layer(x)) + y), (n * 0, x.clone()))
        return x * 2, k


class Nested(nn.Module):
    def forward(self, x: Any, n: Any) -> Any:
        def body(k: Any, x: Any) -> Any:
            def inner(j: Any, y: Any) -> Any:
                return j + 1, y * 0.5 + 1

            _, y = while_loop(lambda j, y: j < k, inner, (k * 0, x.clone()))
            y = torch.cond(y.sum() > 4, lambda y: torch.sin(y), lambda y: y + 1, (y,))
            return k + 1, y

        return while_loop(lambda k, x: k < n, body, (n * 0, x.clone()))[1]


class Scan(nn.Module):
    def forward(self, xs: Any, h: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = torch.tanh(h * 0.5 + x)
            return h, h * 2

        last, ys = scan(step, h, xs)
        return last, ys


class Map(nn.Module):
    def forward(self, xs: Any, w: Any) -> Any:
        return torch_map(lambda x, w: torch.cos(x) @ w, xs, w)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.count.add_(1)
        return torch.cond(x.sum() > 0, lambda x: x * self.count, lambda x: -x, (x,))


X, N = torch.tensor([0.5, -1.0, 2.0]), torch.tensor(3)
CASES = {
    "loop": (Loop(), [(X[None], N), (X[None], N * 0)]),
    "nested": (Nested(), [(X, N + 2), (X, N * 0)]),
    "scan": (Scan(), [(torch.randn(4, 2), torch.randn(2))]),
    "map": (Map(), [(torch.randn(4, 3), torch.randn(3, 2))]),
}


@pytest.mark.parametrize("name", CASES)
def test_higher_order(name: str) -> None:
    model, inputs = CASES[name]
    program = td.Program.from_torch(model, inputs[0])
    module = program.to_torch()
    for given in inputs:
        wanted = plain(model(*given))
        same(program.run(*[np.asarray(x) for x in given]), wanted)
        same(plain(module(*given)), wanted)
    assert list(program.state) == list(model.state_dict())
    assert program.flow.loops
    exported = torch.export.export(model, inputs[0])
    again = td.Program.from_torch(exported)
    assert again.run(*[np.asarray(x) for x in inputs[0]]) is not None


def test_a_loop_is_no_network() -> None:
    with pytest.raises(td.UnsupportedError, match=r"while_loop: a loop on data.*td\.Program\.from_torch imports it"):
        td.from_torch(*CASES["loop"][:1], CASES["loop"][1][0])


def test_what_needs_no_blocks_is_one() -> None:
    program = td.Program.from_torch(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (X[None],))
    assert len(program.blocks) == 1
    assert program.dag().graph == td.from_torch(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), (X[None],)).graph


def test_state() -> None:
    model = Branch()
    program = td.Program.from_torch(copy.deepcopy(model), (X,))
    module, runner = program.to_torch(copy=True), program.runner()
    for given in (X, -X, X):
        wanted = plain(model(given))
        same(runner(given.numpy()), wanted)
        same(plain(module(given)), wanted)
    assert float(runner.state["count"]) == float(module.count) == 3


class Noise(nn.Module):
    def forward(self, x: Any, n: Any) -> Any:
        return while_loop(lambda k, x: k < n, lambda k, x: (k + 1, x + torch.rand_like(x)), (n * 0, x.clone()))[1]


def test_random_numbers_in_a_loop_are_refused() -> None:
    """A stream is a function of its seed: each turn would draw the same."""
    with pytest.raises(td.UnsupportedError, match="while_loop: it draws random numbers, which would be"):
        td.Program.from_torch(Noise(), (X, N))


def test_train_mode_is_refused_by_torch() -> None:
    network = td.from_torch(nn.Dropout(0.5).train(), (X,))
    program = td.program({"x": (3,), "seed": td.TensorType((), "u64")})(lambda x, seed: network(x, seed=seed))
    assert program.run(X.numpy(), np.uint64(3)).shape == (3,)
    with pytest.raises(td.UnsupportedError, match="can't go to torch in train mode: dropout_train"):
        program.to_torch()


def test_a_program_in_a_file_is_a_source(tmp_path: Any) -> None:
    from tdagger.frameworks.file import from_tdag, imported
    from tdagger.frameworks.source import Options

    program = td.program({"x": (3,)}, name="p")(lambda x: x)
    program.save(tmp_path / "p.tdag")
    source = from_tdag(tmp_path / "p.tdag", Options())
    assert str(imported(source)) == str(program)
    with pytest.raises(td.UnsupportedError, match="p is a program, of several networks"):
        source.dag()
