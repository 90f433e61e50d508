"""Recurrent networks as TFLite: loops whose turns have several steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from tdagger import library as lib
from tests.frameworks.tflite.litert import DEFAULT, PLAIN, counts, interpreter, run
from tests.networks import Fn

recurrent = pytest.importorskip("tdagger.frameworks.tflite.emit.recurrent")
read = pytest.importorskip("tdagger.frameworks.tflite.read")


def outputs(module: nn.Module, *args: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        return [t.numpy() for t in torch.utils._pytree.tree_leaves(module(*args))]


def close(found: Any, wanted: list[np.ndarray]) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of three steps: seven are two turns and one step more."""
    monkeypatch.setattr(recurrent, "_STEPS", 3)


@pytest.mark.usefixtures("short")
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.LSTM, {"bidirectional": True, "batch_first": True, "num_layers": 2}),
        (nn.LSTM, {"proj_size": 2, "bidirectional": True}),
        (nn.GRU, {"bidirectional": True, "batch_first": True, "bias": False}),
        (nn.RNN, {"bidirectional": True, "nonlinearity": "relu"}),
    ],
    ids=["lstm", "projected", "gru", "rnn"],
)
def test_a_loop_for_each_layer_and_direction(kind: Any, options: dict[str, Any]) -> None:
    """States are given, or zeros; what all steps give and the last states are right, here and read again."""
    net = kind(3, 4, **options).eval()
    ways = 2 * options.get("num_layers", 1)
    h = torch.rand(ways, 2, options.get("proj_size", 4))
    states = (h, torch.rand(ways, 2, 4)) if kind is nn.LSTM else (h,)
    x = torch.rand(*((2, 7) if options.get("batch_first") else (7, 2)), 3)
    module = Fn(lambda x, *s: net(x, s if kind is nn.LSTM else s[0]) if s else net(x)).eval()
    for args in ((x,), (x, *states)):
        model = td.from_torch(module, args).to_tflite()
        assert counts(model)["WHILE"] == ways
        wanted, given = outputs(module, *args), [a.numpy() for a in args]
        for kernels in (DEFAULT, PLAIN):
            close(run(model, given, kernels), wanted)
        close(td.from_tflite(model).run(*given), wanted)


@pytest.mark.usefixtures("short")
def test_each_run_begins_anew() -> None:
    net = nn.LSTM(3, 4)
    made = interpreter.Interpreter(model_content=td.from_torch(net, (torch.rand(7, 1, 3),)).to_tflite())
    made.allocate_tensors()
    for seed in range(3):
        x = torch.rand(7, 1, 3, generator=torch.Generator().manual_seed(seed))
        made.set_tensor(made.get_input_details()[0]["index"], x.numpy())
        made.invoke()
        close([made.get_tensor(d["index"]) for d in made.get_output_details()], outputs(net, x))


def test_operators_are_those_of_a_turn() -> None:
    """60 steps are three turns of 20; 16 are written out."""
    for steps, loops, most in ((1, None, 30), (16, None, 220), (60, 1, 280)):
        model = td.from_torch(nn.LSTM(3, 4), (torch.rand(steps, 1, 3),)).to_tflite()
        assert counts(model).get("WHILE") == loops
        assert sum(len(g.nodes) for g in read.opened(model).subgraphs) <= most


@pytest.mark.usefixtures("short")
def test_weights_are_in_the_file_once() -> None:
    net = nn.GRU(64, 128)
    model = td.from_torch(net, (torch.rand(7, 1, 64),)).to_tflite()
    assert len(model) < 1.2 * sum(p.nbytes for p in net.parameters())


@pytest.mark.usefixtures("short")
def test_weights_in_integers_stay_so_in_the_loop() -> None:
    """They are read there, once."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(-127, 128, (16, 3), np.int8), "r": rng.integers(-127, 128, (16, 4), np.int8)}
    x, zero = td.input("x", (7, 1, 3)), td.const(np.zeros((1, 1, 4), np.float32))
    scale = td.const(rng.uniform(0.001, 0.01, 16).astype(np.float32))
    read_ = [lib.dequantize(td.buffer(n, a.shape, "i8"), scale, axis=0) for n, a in weights.items()]
    out = lib.lstm(x, zero, zero, *read_, layers=1, biases=False)[0]
    dag = td.TensorDAG.of_graph(td.Graph({"x": x}, {"out": out}), weights=weights)
    model = dag.to_tflite()
    parts = read.opened(model).subgraphs
    held = [t.shape for g in parts for t in g.tensors if t.quantization is not None and t.buffer]
    assert {*held} == {(16, 3), (16, 4)}
    assert [o.op for o in parts[2].nodes].count("DEQUANTIZE") == 2
    given = rng.standard_normal((7, 1, 3)).astype(np.float32)
    close(run(model, [given]), [dag.run(given)])


@pytest.mark.usefixtures("short")
def test_weights_that_are_inputs_are_read_by_the_loop() -> None:
    net = nn.RNN(3, 4, batch_first=True)
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]

    def forward(x: torch.Tensor, *own: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, dict(zip(names, own, strict=True)), (x,))[0]

    args = (torch.rand(2, 7, 3), *[getattr(net, n).detach() + 0.1 for n in names])
    model = td.from_torch(Fn(forward), args).to_tflite()
    assert counts(model)["WHILE"] == 1
    close(run(model, [a.numpy() for a in args]), outputs(Fn(forward), *args))


@pytest.mark.usefixtures("short")
def test_a_loop_is_a_program_too() -> None:
    net, x = nn.LSTM(3, 4), torch.rand(7, 2, 3)
    model = td.from_torch(net, (x,)).to_tflite()
    program = td.Program.from_tflite(model)
    assert len(program.blocks) > 1
    close(program.run(x.numpy()), outputs(net, x))
    close(run(program.to_tflite(), [x.numpy()]), outputs(net, x))


@pytest.mark.usefixtures("short")
def test_any_batch_has_the_steps_written_out() -> None:
    net = nn.LSTM(3, 4, batch_first=True)
    model = td.from_torch(Fn(lambda x: net(x)[0]), (torch.rand(2, 7, 3),)).to_tflite(dynamic=("b",))
    x = torch.rand(5, 7, 3)
    made = interpreter.Interpreter(model_content=model)
    made.resize_tensor_input(made.get_input_details()[0]["index"], (5, 7, 3))
    made.allocate_tensors()
    made.set_tensor(made.get_input_details()[0]["index"], x.numpy())
    made.invoke()
    close([made.get_tensor(made.get_output_details()[0]["index"])], outputs(net, x)[:1])
