"""Programs as ONNX files, run by onnxruntime; and back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

import tdagger as td
from tests.frameworks.torch.program.test_generate import generated, gpt2, heard, llama, t5, whisper
from tests.program.graphs import BY_HAND, arbitrary, tries
from tests.program.programs import PROGRAMS
from tests.program.test_programs import leaves, same

runtime = pytest.importorskip("onnxruntime")


def session(model: onnx.ModelProto) -> Any:
    onnx.checker.check_model(model, full_check=True)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(made: Any, arrays: Any) -> list[Any]:
    given = dict(zip([i.name for i in made.get_inputs()], leaves(arrays), strict=True))
    return list(made.run(None, given))


def has_state(program: td.Program) -> bool:
    return any(s.buffer for s in program.slots.values())


@pytest.mark.parametrize("name", PROGRAMS)
def test_there_and_back(name: str) -> None:
    program, reference, inputs = PROGRAMS[name]
    model = program.to_onnx()
    made = session(model)
    tried = inputs[:1] if has_state(program) else inputs
    count = len(program.outputs)
    for arrays in tried:
        same(run(made, list(arrays))[:count], reference(*arrays))
    open_ = {d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim if d.dim_param}
    bounds = {n: program.slots[s].type.shape[i] for s in program.inputs for i, n in program.slots[s].lengths}
    assert open_ == set(bounds)
    again = td.Program.from_onnx(model, sizes=bounds)
    for arrays in [a for a in tried if not bounds or all(x.shape == program.slots[n].type.shape
                   for n, x in zip(program.inputs, leaves(list(a)), strict=True))]:  # fmt: skip
        same(list(leaves(again.run(*leaves(list(arrays)))))[:count], reference(*arrays))


@pytest.mark.parametrize("make", [*BY_HAND, *[lambda s=s: arbitrary(s) for s in range(6)]])
def test_what_is_not_nested(make: Callable[[], td.Program]) -> None:
    program = make()
    made = session(program.to_onnx())
    for arrays in tries()[::3]:
        same(run(made, list(arrays)), program.run(*arrays))


def test_sizes_that_vary_are_those_of_inputs() -> None:
    program = PROGRAMS["bounded_growth"].program
    model = program.to_onnx()
    told = [[d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output]
    assert any(isinstance(n, str) for shape in told for n in shape)
    made = session(PROGRAMS["bounded_sum"].program.to_onnx())
    with pytest.raises(Exception, match="ConstantOfShape"):  # 7 entries of at most 6
        run(made, [np.ones(7, "f")])


def test_buffers_that_change_are_outputs() -> None:
    program, reference, inputs = PROGRAMS["state"]
    model = program.to_onnx()
    names = [o.name for o in model.graph.output]
    assert names[len(program.outputs) :] == [f"{s.buffer}.updated" for s in program.slots.values() if s.buffer]
    assert {p.key: p.value for p in model.metadata_props}["tdagger.updates"] == "count, total"
    runner = program.runner()
    same(runner(*inputs[0]), reference(*inputs[0]))
    found = dict(zip(names, run(session(model), list(inputs[0])), strict=True))
    for name, array in runner.state.items():
        np.testing.assert_allclose(found[f"{name}.updated"], array)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_greedy_decoding_is_one_file(make: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    prefill = td.from_transformers(model, seq=8, dtype="f32")
    decode = td.from_transformers(model, past=30, dtype="f32", mask=True)
    program = td.generate_program(prefill, decode)
    program.to_onnx(tmp_path / "generate.onnx")
    proto = onnx.load(tmp_path / "generate.onnx")
    made = session(proto)
    for length in (1, 5, 8):
        prompt = torch.randint(1, 97, (length,))
        (found,) = made.run(None, {"prompt": prompt.numpy(), "count": np.array(20)})
        assert found.tolist() == generated(model, prompt, 20)
    is_one_loop_with_weights_once(proto, model)


def is_one_loop_with_weights_once(proto: onnx.ModelProto, model: nn.Module) -> None:
    """Weights of both networks are written once, and none of them in the loop."""
    held = sum(int(np.prod(t.dims)) for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert held < 1.1 * sum(p.numel() for p in model.parameters())
    (loop,) = [n for n in proto.graph.node if n.op_type == "Loop"]
    assert not loop.attribute[0].g.initializer


@pytest.mark.slow
def test_an_encoder_and_a_decoder_are_one_file() -> None:
    """T5 and Whisper: the encoder runs once, before the loop."""
    torch.manual_seed(0)
    model = t5().eval()
    prefill = td.from_transformers(model, seq=9, start=1, dtype="f32")
    decode = td.from_transformers(model, past=24, dtype="f32", mask=True, source=9)
    proto = td.generate_program(prefill, decode, start=[0]).to_onnx()
    made = session(proto)
    is_one_loop_with_weights_once(proto, model)
    for length in (1, 4, 9):
        prompt = torch.randint(1, 97, (length,))
        (found,) = made.run(None, {"input_ids": prompt.numpy(), "count": np.array(20)})
        assert found.tolist() == generated(model, prompt, 20)

    listener = whisper().eval()
    prefill = td.from_transformers(listener, start=1, dtype="f32")
    decode = td.from_transformers(listener, past=24, dtype="f32", mask=True)
    proto = td.generate_program(prefill, decode, start=[3]).to_onnx()
    made = session(proto)
    is_one_loop_with_weights_once(proto, listener)
    sound = torch.randn(1, 8, 40)
    (found,) = made.run(None, {"input_features": sound.numpy(), "count": np.array(20)})
    assert found.tolist() == heard(listener, sound, 20)


class Cond(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos() * 2, (x,))


class While(nn.Module):
    def forward(self, x: Any, n: Any) -> Any:
        return while_loop(lambda i, x: i < n, lambda i, x: (i + 1, x * 1.5 + i), (torch.zeros_like(n), x))[1]


class Scan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(3, 3)

    def forward(self, h: Any, xs: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = torch.tanh(self.cell(h) + x)
            return h, h * 2

        return scan(step, h, xs)


class Nested(nn.Module):
    def forward(self, x: Any, n: Any) -> Any:
        def body(i: Any, x: Any) -> Any:
            return i + 1, torch.cond(x.sum() > 3, lambda x: x / 2, lambda x: x + 1, (x,))

        return while_loop(lambda i, x: i < n, body, (torch.zeros_like(n), x))[1]


@pytest.mark.parametrize(
    ("network", "args"),
    [
        (Cond(), (torch.ones(3),)), (While(), (torch.ones(3), torch.tensor(3))),
        (Scan(), (torch.ones(3), torch.rand(5, 3))), (Nested(), (torch.ones(3), torch.tensor(4))),
    ],
    ids=["cond", "while_loop", "scan", "nested"],
)  # fmt: skip
def test_from_torch(network: nn.Module, args: Any) -> None:
    made = session(td.Program.from_torch(network, args).to_onnx())
    for sign in (1, -1):
        given = (args[0] * sign, *args[1:])
        with torch.no_grad():
            wanted = network(*given)
        same(run(made, [a.numpy() for a in given]), tuple(t.numpy() for t in wanted) if isinstance(wanted, tuple)
             else wanted.numpy())  # fmt: skip


def test_what_cant_be_written_is_told_by_name() -> None:
    program = td.program({"x": td.TensorType((2,), "c64"), "n": td.TensorType((), "i64")}, name="spectrum")(
        lambda x, n: td.while_loop(lambda i, y: i < n, lambda i, y: (i + 1, y * x), (0, x))[1]
    )
    with pytest.raises(td.UnsupportedError, match=r"spectrum can't go to ONNX"):
        program.to_onnx()
    with pytest.raises(td.AttributeValueError, match="operator sets"):
        PROGRAMS["power"].program.to_onnx(opset=5)
