"""``convert SOURCE m.py``: files that import without tdagger, and give what ``to_torch()`` gives, bit for bit."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch import runtime
from tdagger.frameworks.torch.emit.inlined import ALLOWED, Inliner, imports_of, renamed, used_globals
from tdagger.frameworks.torch.emit.python import written
from tdagger.frameworks.torch.emit.save import save
from tests.networks import NETWORKS, Fn
from tests.quick import only


class Made(NamedTuple):
    """A network and what it is called with; for caches, what makes them in another process."""

    dag: td.TensorDAG
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    calls: str = "out = net(*args, **kwargs)"


def _named(name: str) -> Made:
    module, args, kwargs = NETWORKS[name](small=True)
    return Made(td.from_torch(module, args, kwargs), args, kwargs)


def _of(module: nn.Module, *args: Any, **kwargs: Any) -> Made:
    return Made(td.from_torch(module, args, kwargs), args, kwargs)


def _choosing() -> Made:
    def f(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin() + 1, lambda x: x.cos() * 2, (x,))

    return _of(Fn(f), torch.ones(3, 4))


def _training() -> Made:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5)
    made = _of(nn.Sequential(*layers).train(), torch.randn(2, 3, 8, 8))
    return made._replace(kwargs={"seed": 2**63 + 5})


_CACHED = """
from transformers import DynamicCache, LlamaConfig
cache = DynamicCache(config=LlamaConfig(num_hidden_layers=2))
for i, (k, v) in enumerate(kwargs.pop("cached")):
    cache.update(k, v, i)
out = net(**kwargs, past_key_values=cache)
"""


def _cached() -> Made:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, vocab_size=20, **sizes)).eval()
    dag = td.from_transformers(model, past=5, dtype="f32")
    cached = [(torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8)) for _ in range(2)]
    return Made(
        dag, (), {"input_ids": torch.tensor([[3]]), "position_ids": torch.tensor([[5]]), "cached": cached}, _CACHED
    )


def _nested() -> Made:
    def f(x: dict[str, Any]) -> Any:
        return {"sum": x["a"] + x["b"][0], "all": [x["b"][1], (x["a"] * 2,)]}

    return _of(Fn(f), {"a": torch.randn(2, 3), "b": (torch.randn(2, 3), torch.randn(4))})


NETS: dict[str, Callable[[], Made]] = {
    **{n: (lambda n=n: _named(n)) for n in ("resnet50", "vit_base_patch16_224", "GPT2LMHeadModel", "LSTM",
                                           "WhisperEncoder", "CLIPModel")},
    "cond": _choosing, "cache": _cached, "training": _training, "nested": _nested,
}  # fmt: skip

RUN = """
import sys
sys.modules["tdagger"] = None
if "cache" not in sys.argv[1]:
    sys.modules["transformers"] = sys.modules["timm"] = None
sys.path.insert(0, sys.argv[1])
import network, torch
args, kwargs, calls = torch.load(sys.argv[1] + "/given.pt", weights_only=False)
net = network.load()
def flat(x):
    if isinstance(x, dict): return [t for v in x.values() for t in flat(v)]
    return [t for v in x for t in flat(v)] if isinstance(x, (list, tuple)) else [x]
with torch.no_grad():
    exec(calls)
torch.save((flat(out), net.state_dict(), net.training), sys.argv[1] + "/out.pt")
"""


def _flat(x: Any) -> list[torch.Tensor]:
    if isinstance(x, dict):
        return [t for v in x.values() for t in _flat(v)]
    return [t for v in x for t in _flat(v)] if isinstance(x, list | tuple) else [x]


@pytest.mark.parametrize("name", only(NETS, "vit_base_patch16_224", "LSTM", "cond", "cache", "training", "nested"))
def test_alone_in_a_fresh_process(name: str, tmp_path: Path) -> None:
    dag, args, kwargs, calls = NETS[name]()
    folder = tmp_path / name
    folder.mkdir()
    save(dag, folder / "network.py", ".py")
    assert set(imports_of((folder / "network.py").read_text())) <= ALLOWED
    torch.save((args, kwargs, calls), folder / "given.pt")
    subprocess.run([sys.executable, "-P", "-c", RUN, str(folder)], check=True, env=_environment())
    found, state, training = torch.load(folder / "out.pt")
    net = dag.to_torch()
    assert training == net.training
    scope = {"net": net, "args": args, "kwargs": kwargs}
    with torch.no_grad():
        exec(calls, scope)
    expected = _flat(scope["out"])
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))
    assert list(state) == list(net.state_dict())


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


@pytest.mark.parametrize("name", [n for n in (*runtime.RECORDED, "cond") if n != "by_numpy"])
def test_every_function_of_the_runtime(name: str) -> None:
    """Each can be copied with all it needs, but the one that calls ops of tdagger."""
    inliner = Inliner({("tdagger.errors", "InputError"): "class InputError(ValueError):\n    pass"})
    inliner.wants(runtime.__name__, name)
    inliner.close("", set())
    text = f"from __future__ import annotations\n{inliner.import_lines()}\n{inliner.statements()}\n"
    assert set(imports_of(text)) <= ALLOWED
    assert not {n for n in used_globals(text) if not hasattr(builtins, n)}
    exec(compile(text, name, "exec"), {"__name__": "m"})


def test_names_that_are_taken() -> None:
    """Classes, arguments and results called as what the file needs are still themselves."""

    class check(nn.Module):
        def forward(self, pad: torch.Tensor) -> torch.Tensor:
            return nn.functional.pad(pad, (1, 1)) * 2

    class F(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = check()

        def forward(self, assembled: torch.Tensor, *, unfold: torch.Tensor) -> torch.Tensor:
            return nn.functional.gelu(self.inner(assembled)) + self.inner(unfold)

    x, y = torch.randn(2, 3), torch.randn(2, 3)
    dag = td.from_torch(F(), (x,), {"unfold": y})
    scope = _executed(dag)
    assert torch.equal(scope(x, unfold=y), dag.to_torch()(x, unfold=y))
    with pytest.raises(ValueError, match="input 'assembled' must be"):
        scope(torch.randn(2, 3, 4), unfold=y)


def _executed(dag: td.TensorDAG) -> Any:
    """The network of a written source, its weights read from memory."""
    text, tensors = written(dag, Path("network.py"))
    scope: dict[str, Any] = {"__name__": "network", "__file__": "network.py"}
    exec(compile(text, "network.py", "exec"), scope)
    scope["load_file"] = lambda path: tensors
    return scope["load"]()


Pair = namedtuple("Pair", "first second")


@dataclass
class Judged:
    """A result that works something out of its fields."""

    score: torch.Tensor
    doubled: Any = None

    def __post_init__(self) -> None:
        self.doubled = _doubled(self.score)


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_classes_of_results_are_copied_with_what_they_need() -> None:
    x = torch.randn(2, 3)
    dag = td.from_torch(Fn(lambda x: Pair(x.exp(), x.sin())), (x,))
    found = _executed(dag)(x)
    assert type(found).__name__ == "Pair"
    assert type(found) is not Pair
    assert torch.equal(found.second, x.sin())


class Weird(dict[str, Any]):
    """A class that takes its module's globals along."""

    def told(self) -> Any:
        return pytest.approx(1)


def test_what_cant_be_alone_is_refused_by_name() -> None:
    x = torch.randn(2, 3)
    dag = td.from_torch(Fn(lambda x: Weird(a=x.exp())), (x,))
    with pytest.raises(
        UnsupportedError, match=r"Weird, which the code uses, can't be .*pytest.*neither torch nor Python"
    ):
        written(dag, Path("network.py"))
    wide = td.from_torch(nn.Linear(2, 2, dtype=torch.complex128), torch.zeros(1, 2, dtype=torch.complex128))
    with pytest.raises(UnsupportedError, match="safetensors has no complex128, which weight, bias has"):
        written(wide, Path("network.py"))


def test_results_stand_for_those_of_transformers() -> None:
    dag, _, kwargs, _ = _named("GPT2LMHeadModel")
    found = _executed(dag)(**kwargs)
    assert torch.equal(found.logits, found["logits"])
    assert torch.equal(found[0], found.logits)
    assert found.loss is None
    assert "loss" not in found
    with pytest.raises(AttributeError, match="has no lots"):
        found.lots  # noqa: B018


def test_renaming_minds_scopes() -> None:
    with pytest.raises(UnsupportedError, match="x is an argument"):
        renamed("def f(x):\n    return x", {"x": "y"})
