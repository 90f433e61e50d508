"""Programs as modules of torch: Python's loops and branches, and scripts."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tdagger as td
from tests.program.graphs import BY_HAND, arbitrary, tries
from tests.program.programs import PROGRAMS
from tests.program.test_programs import same


def tensors(arrays: Any) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(a)) for a in arrays]


def plain(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    return tuple(map(plain, x)) if isinstance(x, tuple | list) else x.detach().numpy()


@pytest.mark.parametrize("name", PROGRAMS)
def test_eager(name: str) -> None:
    program, reference, inputs = PROGRAMS[name]
    module = program.to_torch(copy=True)
    same(plain(module(*tensors(inputs[0]))), reference(*inputs[0]))
    if not any(s.buffer for s in program.slots.values()):
        for arrays in inputs[1:]:
            same(plain(module(*tensors(arrays))), reference(*arrays))
    assert module.code.count("while ") == len(program.flow.loops)


@pytest.mark.parametrize("name", PROGRAMS)
def test_scripted(name: str) -> None:
    program, reference, inputs = PROGRAMS[name]
    script = program.to_torchscript(copy=True)
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert list(loaded.state_dict()) == list(program.state)
    out = loaded(*tensors(inputs[0]))
    same(plain(out), reference(*inputs[0]))


@pytest.mark.parametrize("make", [*BY_HAND, *[lambda s=s: arbitrary(s) for s in range(6)]])
def test_what_is_not_nested(make: Callable[[], td.Program]) -> None:
    program = make()
    module, script = program.to_torch(), program.to_torchscript()
    for arrays in tries()[::3]:
        wanted = program.run(*arrays)
        same(plain(module(*tensors(arrays))), wanted)
        same(plain(script(*tensors(arrays))), wanted)


def test_readable() -> None:
    assert (
        PROGRAMS["power"].program.to_torch().code
        == """\
class power(Block):
    def forward(self, x, n):
        runtime.check(x, 'x', 'f32[]', [])
        runtime.check(n, 'n', 'i64[]', [])
        k, y = self.constant0, self.constant1
        while k < n:
            x1 = k + 1
            x2 = y * x
            k, y = x1, x2
        return y
"""
    )


def test_state_is_in_buffers() -> None:
    for module in (PROGRAMS["state"].program.to_torch(copy=True), PROGRAMS["state"].program.to_torchscript(copy=True)):
        assert list(module.state_dict()) == ["total", "count"]
        assert module(torch.ones(2)).tolist() == [1, 1]
        assert module(torch.ones(2)).tolist() == [2, 2]
        assert int(module.state_dict()["count"]) == 2
    assert not PROGRAMS["state"].program.weights["total"].any()


def test_weights_train() -> None:
    program, _, inputs = PROGRAMS["recurrent_network"]
    module = program.to_torch(copy=True)
    out, _ = module(*tensors(inputs[0]))
    out.sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def test_inputs_are_checked() -> None:
    module = PROGRAMS["bounded_sum"].program.to_torch()
    with pytest.raises(RuntimeError, match="input x has 7 entries in dimension 0, at most 6"):
        module(torch.ones(7))
    with pytest.raises(td.InputError, match="x"):
        module(torch.ones(2, 2))
    with pytest.raises(torch.jit.Error, match="input x has 7 entries"):
        PROGRAMS["bounded_sum"].program.to_torchscript()(torch.ones(7))


def test_odd_names() -> None:
    """Slots whose names code has for itself."""
    program = td.program({"x1": (), "self": (), "case": ()})(
        lambda a, b, c: td.while_loop(lambda x2, m: x2 < b, lambda x2, m: (x2 + c, m + 1), (a, 0))
    )
    given = [np.float32(0), np.float32(5), np.float32(2)]
    same(plain(program.to_torch()(*tensors(given))), program.run(*given))
    same(plain(program.to_torchscript()(*tensors(given))), program.run(*given))


def test_a_block_that_no_data_is_known_for() -> None:
    """Its trace runs it on zeros, then on ones: with indices that fit neither it is refused by name."""

    @td.program({"x": (10, 3), "i": td.TensorType((2,), "i64")})
    def program(x: td.Value, i: td.Value) -> td.Value:
        def shifted(by: int) -> Callable[[], td.Value]:
            return lambda: td.embedding(x, i - by)

        return td.if_(td.reduce(x, "sum", keep=False) > 1, shifted(1), shifted(5))

    with pytest.raises(td.UnsupportedError, match=r"otherwise: TorchScript .* fails on zeros and on ones \(IndexError"):
        program.to_torchscript()
    x, i = np.full((10, 3), -1, np.float32), np.array([5, 6])
    same(plain(program.to_torch()(*tensors([x, i]))), program.run(x, i))
