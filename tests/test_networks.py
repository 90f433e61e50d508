"""Real networks to a TDAG and back: outputs, state, gradients, TorchScript, the numpy reference."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdagger as td
from conformance.check import nest_alike
from tdagger.tree import Tree, flatten
from tests.networks import NETWORKS, VISION
from tests.quick import only


def tensors(x: Any) -> tuple[list[torch.Tensor], Tree]:
    return flatten(x, lambda v: isinstance(v, torch.Tensor), result=True)


def arrays(x: Any) -> tuple[list[np.ndarray], Tree]:
    return flatten(x, lambda v: isinstance(v, np.ndarray), result=True)


def to_numpy(x: Any) -> Any:
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.numpy(), x)


def another(x: Any) -> Any:
    """Other inputs of the same kind: floats drawn again, integers in another order."""

    def draw(t: torch.Tensor) -> torch.Tensor:
        return torch.randn_like(t) if t.is_floating_point() else t.flip(-1)

    return torch.utils._pytree.tree_map_only(torch.Tensor, draw, x)


def assert_close(got: list[Any], want: list[Any], tolerance: float) -> None:
    """Largest difference relative to the largest number of each output."""
    assert len(got) == len(want) > 0
    for g, w in zip(got, want, strict=True):
        g, w = np.asarray(g.detach() if isinstance(g, torch.Tensor) else g), np.asarray(w.detach())
        assert g.shape == w.shape
        assert g.dtype == w.dtype
        assert np.isfinite(w.astype(np.float64)).all()
        assert np.abs(w).max() > 0
        assert np.abs(g.astype(np.float64) - w).max() <= tolerance * np.abs(w).max()


def gradients(module: nn.Module, outputs: list[torch.Tensor]) -> dict[str, torch.Tensor | None]:
    module.zero_grad()
    sum(o.sum() for o in outputs if o.requires_grad).backward()
    return {name: p.grad for name, p in module.named_parameters()}


@pytest.mark.parametrize("small", only((True, False), True))
@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(name: str, small: bool) -> None:
    module, args, kwargs = NETWORKS[name](small=small, batch=2 if small else 1)
    dag = td.from_torch(module, args, kwargs)
    if small:
        _is_what_numpy_gives(dag, args, kwargs, module)
    back = dag.to_torch(fixed=True)  # test_open_sizes has the others

    state, own = module.state_dict(), back.state_dict()
    assert list(own) == list(state)
    assert all(own[k].shape == state[k].shape and own[k].dtype == state[k].dtype for k in state)

    with torch.no_grad():
        other_args, other_kwargs = another(args), another(kwargs)
        assert_close(
            tensors(back(*other_args, **other_kwargs))[0], tensors(module(*other_args, **other_kwargs))[0], 1e-5
        )

    want, tree = tensors(module(*args, **kwargs))
    got, own_tree = tensors(back(*args, **kwargs))
    assert nest_alike(own_tree, tree)
    assert_close(got, want, 1e-5)

    expected, actual = gradients(module, want), gradients(back, got)
    assert list(actual) == list(expected)
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)
    assert largest > 0
    for key, w in expected.items():
        g = actual[key]
        w = torch.zeros(()) if w is None else w
        g = torch.zeros(()) if g is None else g
        # a gradient that is 0 but for rounding (the bias of a key projection) is measured by the largest one
        scale = max(float(w.abs().max()), 1e-3 * largest)
        assert float((g - w).abs().max()) <= 1e-4 * scale, key


# Those that take longest are slow tests; others of their kind aren't.
_SLOW_SCRIPTS = (
    "resnet50", "convnext_tiny", "maxvit_tiny_tf_224", "densenet121", "mixer_b16_224", "mobilenetv3_large_100",
    "regnety_002", "vit_base_patch16_224",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in _SLOW_SCRIPTS else ()) for n in VISION]
)
def test_round_trip_of_torchscript(name: str) -> None:
    module, (x,), _ = NETWORKS[name](small=True, batch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # Python ifs in the network's own code
        traced = torch.jit.trace(module, x)
    script = td.SafeDAG.from_torchscript(traced).to_torchscript()
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    # a script has no buffers that are not persistent, so its state may have more than the module's
    assert {k: v.shape for k, v in loaded.state_dict().items()} == {k: v.shape for k, v in traced.state_dict().items()}
    with torch.no_grad():
        for inputs in (x, torch.randn_like(x)):
            assert_close([script(inputs)], [traced(inputs)], 1e-5)
            assert_close([loaded(inputs)], [traced(inputs)], 1e-5)


def _is_what_numpy_gives(dag: td.TensorDAG, args: Any, kwargs: Any, module: nn.Module) -> None:
    with torch.no_grad():
        want, tree = tensors(module(*args, **kwargs))
    got, own_tree = arrays(dag.run(*to_numpy(args), **to_numpy(kwargs)))
    assert nest_alike(own_tree, tree)
    assert_close(got, want, 1e-4)


@pytest.mark.parametrize(
    "name", only(("resnet50", "swin_tiny_patch4_window7_224", "LlamaForCausalLM", "LSTM"), "LlamaForCausalLM", "LSTM")
)
def test_exported_program(name: str) -> None:
    module, args, kwargs = NETWORKS[name](small=True, batch=1)
    program = td.from_torch(module, args, kwargs).to_exported_program()
    with torch.no_grad():
        want = tensors(module(*args, **kwargs))[0]
        assert_close(tensors(program.module()(*args, **kwargs))[0], want, 1e-5)
    again = td.from_torch(program)
    assert set(again.graph.parameters) <= set(dict(module.named_parameters()))
    assert_close(arrays(again.run(*to_numpy(args), **to_numpy(kwargs)))[0], want, 1e-4)


def test_the_same_network_twice_is_the_same_graph() -> None:
    first, second = (NETWORKS["resnet50"](small=True, seed=seed) for seed in (0, 1))
    one, other = (td.from_torch(n.module, n.args) for n in (first, second))
    assert one.graph == other.graph
    assert all(a is b for a, b in zip(one.graph.values, other.graph.values, strict=True))
