"""Networks saved here give the same outputs, bit for bit, in a process without torch, and back in torch."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tdagger as td
from tdagger.frameworks.torch.aten.calls import array_of
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree, container_of, flatten
from tests.networks import NETWORKS, Fn

#: More of timm, small enough for the numpy reference.
TIMM = (
    "mobilenetv2_035", "ghostnet_100", "resnet18", "res2net50_26w_4s", "convnextv2_atto", "levit_128s",
    "poolformer_s12", "mobilevit_xxs",
)  # fmt: skip

RUN = """
import pickle, sys
import tdagger as td
from tdagger.interpret import run
dag = td.load(sys.argv[1])
out, updates = run(dag.graph, pickle.load(open(sys.argv[2], "rb")), dag.weights)
pickle.dump((out, updates), open(sys.argv[3], "wb"))
assert not {"torch", "transformers", "timm"} & set(sys.modules)
"""


def _timm(name: str) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    import timm

    torch.manual_seed(0)
    size = 224 if name == "levit_128s" else 64  # it has a table for each pair of positions
    return timm.create_model(name, pretrained=False, num_classes=10).eval(), (torch.randn(1, 3, size, size),), {}


def _training() -> Any:
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5)
    )
    return net.train(), (torch.randn(2, 3, 8, 8),), {}


def _choosing() -> Any:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin() + 1, lambda x: x.cos() * 2, (x,))

    return Fn(f), (torch.ones(3, 4),), {}


def _cached() -> TensorDAG:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, vocab_size=20, **sizes)).eval()
    return td.from_transformers(model, past=5, dtype="f32")


NETS: dict[str, Callable[[], Any]] = {name: (lambda n=name: NETWORKS[n](small=True)) for name in NETWORKS}
NETS |= {name: (lambda n=name: _timm(n)) for name in TIMM}
NETS |= {"training": _training, "cond": _choosing}
QUICK = {"LSTM", "training", "cond", "resnet18", "BertModel"}


def drawn(dag: TensorDAG) -> dict[str, Any]:
    """Random arrays for the inputs."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for name, value in dag.graph.inputs.items():
        if value.dtype.is_float:
            found[name] = rng.standard_normal(value.shape).astype(value.dtype.numpy)
        else:
            found[name] = rng.integers(0, 2, value.shape).astype(value.dtype.numpy)
    return found


def check(dag: TensorDAG, tmp_path: Path) -> TensorDAG:
    """The network loaded gives what it gave, by numpy in another process; and it saves to the same bytes."""
    from tdagger.interpret import run

    arrays = drawn(dag)
    path, inputs, outputs = (tmp_path / n for n in ("m.tdag", "in.pkl", "out.pkl"))
    dag.save(path)
    inputs.write_bytes(pickle.dumps(arrays))
    subprocess.run([sys.executable, "-c", RUN, str(path), str(inputs), str(outputs)], check=True)
    for expected, found in zip(run(dag.graph, arrays, dag.weights), pickle.loads(outputs.read_bytes()), strict=True):
        assert list(expected) == list(found)
        for name, array in expected.items():
            assert (array.dtype, array.shape) == (found[name].dtype, found[name].shape)
            assert array.tobytes() == found[name].tobytes(), name
    loaded = td.load(path)
    loaded.save(tmp_path / "again.tdag")
    assert (tmp_path / "again.tdag").read_bytes() == path.read_bytes()
    return loaded


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETS])
def test_network(name: str, tmp_path: Path) -> None:
    module, args, kwargs = NETS[name]()
    dag = td.from_torch(module, args, kwargs)
    check(dag, tmp_path)
    with torch.no_grad():
        given = dict(kwargs)
        if "seed" in dag.graph.inputs:
            given["seed"] = torch.tensor(3, dtype=torch.uint64)
        results: list[Any] = []
        classes = list(_containers(dag.signature.outputs))  # of the result, which the caller names
        for path in (None, tmp_path / "m.tdag"):
            one = dag if path is None else td.load(path, classes=classes)
            back = one.to_torch()
            back.train(module.training)
            found = back(*args, **given)
            assert type(found) is type(module(*args, **kwargs)), path
            leaves, _ = flatten(found, lambda v: isinstance(v, torch.Tensor), "the result", result=True)
            results.append([array_of(t.contiguous()).copy() for t in leaves])
    assert len(results[0]) == len(dag.graph.outputs)
    for a, b in zip(*results, strict=True):
        assert a.tobytes() == b.tobytes()


def _containers(tree: Tree) -> Iterator[Any]:
    """The classes of a nested structure."""
    if tree.type:
        yield container_of(tree)
    for child in tree.children:
        yield from _containers(child)


def test_a_cache(tmp_path: Path) -> None:
    dag = _cached()
    loaded = check(dag, tmp_path)
    assert loaded.graph == dag.graph
    assert loaded.signature == dag.signature


def test_there_are_thirty() -> None:
    assert len(NETS) + 1 >= 30
