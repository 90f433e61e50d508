"""Names never become code: odd ones everywhere a network can have one, going to PyTorch and to files."""

import importlib.util
import pickle
import warnings
from dataclasses import make_dataclass
from enum import Enum

import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.errors import InputError, UnsupportedError
from tdagger.frameworks.source import save
from tests.odd_names import ODD, Layer, is_readable, odd


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def net():
    return odd()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def more():
    """Keyword arguments of every odd name that Python can pass to a module."""
    generator = torch.Generator().manual_seed(1)
    return {n: torch.randn(2, 3, generator=generator) for n in ODD if n != "self"}


@pytest.fixture(scope="module")
def dag(net, x, more):
    return td.from_torch(net, (x,), more)


def test_module(dag, net, x, more):
    module = dag.to_torch()
    assert same(module(x, **more), net(x, **more))
    assert list(module.state_dict()) == list(net.state_dict())
    assert module.load_state_dict(net.state_dict()).missing_keys == []
    assert is_readable(module.code)
    compile(module.code, "code", "exec")
    assert "marker" not in {
        *vars(module),
        *type(module).forward.__globals__,
        *type(module).forward.__code__.co_varnames,
    }
    assert max(map(len, [line for line in module.code.splitlines() if line.strip().startswith("#")]), default=0) < 600
    again = pickle.loads(pickle.dumps(module))
    assert same(again(x, **more), net(x, **more))


def test_keyword_arguments_are_checked(dag, x, more):
    module = dag.to_torch()
    with pytest.raises(InputError, match="argument 'a b' is missing"):
        module(x, **{k: v for k, v in more.items() if k != "a b"})
    with pytest.raises(InputError, match="takes no argument 'other one'"):
        module(x, **more, **{"other one": x})


@pytest.mark.parametrize("name", ODD, ids=lambda n: ascii(n[:20]))
def test_each_name(name, x):
    """One odd name alone, so that none is right only because of another."""
    net = odd(name)
    more = {} if name == "self" else {name: x}
    dag = td.from_torch(net, (x,), more)
    module = dag.to_torch()
    assert same(module(x, **more), net(x, **more))
    assert list(module.state_dict()) == list(net.state_dict())
    assert is_readable(module.code)


def test_python_source(dag, net, x, more, tmp_path):
    path = tmp_path / "network.py"
    save(dag, path, ".py")
    text = path.read_text("utf-8")
    assert is_readable(text)
    spec = importlib.util.spec_from_file_location("network_of_odd_names", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not hasattr(module, "marker")
    loaded = module.load()
    assert same(loaded(x, **more), net(x, **more))
    assert list(loaded.state_dict()) == list(net.state_dict())


#: Words of Python, another name to Python, and what ends a string in code.
UNWRITABLE = {n for n in ODD if n in ("class", "None", "ﬁ") or not n.isprintable() or set(n) & set('"\\')}


@pytest.mark.parametrize("name", ODD, ids=lambda n: ascii(n[:20]))
def test_forms_of_torch_keep_a_name_or_refuse_it(name, x, tmp_path):
    """torch writes some names unescaped into code of its own: those are refused."""
    net = odd(name)
    dag = td.from_torch(net, (x,))
    for form in (".pt", ".pt2"):
        path = tmp_path / f"network{form}"
        kept = name not in UNWRITABLE and (form == ".pt2" or (name.isascii() and name != "torch"))
        if not kept:
            with pytest.raises(UnsupportedError, match="can't hold what is called") as caught:
                save(dag, path, form)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 1000
            continue
        save(dag, path, form)
        loaded = torch.jit.load(path) if form == ".pt" else torch.export.load(path).module()
        assert list(loaded.state_dict()) == list(net.state_dict())
        assert torch.allclose(loaded(x)["y"], net(x)["y"])


def test_keywords_that_torch_export_cannot_hold(x):
    with pytest.raises(UnsupportedError, match=r"torch\.export can't hold what is called 'a b'"):
        td.from_torch(odd("fine"), (x,), {"a b": x}).to_exported_program()
    script = td.from_torch(odd("fine"), (x,), {"a b": x, "class": x}).to_torchscript()
    assert torch.allclose(script(x, x, x)["y"], odd("fine")(x, **{"a b": x, "class": x})["y"])


class Taken(nn.Module):
    """Has inputs called what generated code calls its own values."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(2, 3))
        self.layer = Layer("weight", "offset")
        self.register_buffer("buffer0", torch.ones(3), persistent=False)

    def forward(self, result, new_0, *, m, torch, x1, F, runtime, constant0, complex):
        first = self.layer(result + new_0 + m + torch + x1 + F + runtime + constant0 + complex) * self.buffer0
        self.seen.copy_(result)
        return first + first.new_tensor([1.0, 2.0, 3.0])


def test_inputs_called_like_generated_names():
    names = ("m", "torch", "x1", "F", "runtime", "constant0", "complex")
    first, second, *rest = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(0))
    more = dict(zip(names, rest, strict=True))
    net = Taken()
    module = td.from_torch(net, (first, second), more).to_torch(copy=True)
    assert torch.allclose(module(first, second, **more), net(first, second, **more))
    assert torch.equal(module.seen, first)
    script = td.from_torch(net, (first, second), more).to_torchscript(copy=True)
    assert torch.allclose(script(first, second, *rest), net(first, second, **more))


F = make_dataclass("F", ["logits"])
x1 = make_dataclass("x1", ["logits"])
Network = make_dataclass("Network", ["logits"])
nested = make_dataclass("a\nmarker = 1", ["logits"])
for _made in (F, x1, Network, nested):
    _made.__module__ = __name__
globals()["a\nmarker = 1"] = nested


@pytest.mark.parametrize("kind", [F, x1, Network, nested], ids=lambda k: ascii(k.__name__))
def test_classes_of_results_called_like_generated_names(kind, tmp_path, monkeypatch):
    class Net(nn.Module):
        def forward(self, x):
            return kind(torch.nn.functional.gelu(x * 2.0) + x.exp())

    x = torch.randn(2, 3)
    dag = td.from_torch(Net(), (x,))
    module = dag.to_torch()
    out = module(x)
    assert type(out) is kind
    assert torch.allclose(out.logits, Net()(x).logits)
    compile(module.code, "code", "exec")
    if kind is nested:
        with pytest.raises(UnsupportedError, match="has no source"):
            save(dag, tmp_path / "network.py", ".py")
        return
    save(dag, tmp_path / "network.py", ".py")
    spec = importlib.util.spec_from_file_location("network_with_class", tmp_path / "network.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    assert torch.allclose(loaded.load()(x).logits, out.logits)


class Mode(str, Enum):  # noqa: UP042 (its repr says <Mode.DOUBLE: 'double'>)
    DOUBLE = "double"


def test_constants_of_a_subclass_are_written_as_their_base():
    class Net(nn.Module):
        def forward(self, x, mode="double", *, text="a"):
            return x * 2.0 if mode == "double" else x

    x = torch.randn(2, 3)
    module = td.from_torch(Net(), (x, Mode.DOUBLE), {"text": '\'\n# \u202e"""'}).to_torch()
    assert is_readable(module.code)
    assert torch.equal(module(x, Mode.DOUBLE, text='\'\n# \u202e"""'), x * 2.0)
    with pytest.raises(InputError, match="argument 'text' was") as caught:
        module(x, "double", text="\x1b[31m")
    assert str(caught.value).isprintable()


def test_a_written_input_of_an_odd_name_is_told_readably():
    class Net(nn.Module):
        def forward(self, x, **more):
            more["a\nb\u202e"].add_(1.0)
            return x + more["a\nb\u202e"]

    x = torch.randn(2, 3)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        td.from_torch(Net(), (x,), {"a\nb\u202e": x.clone()})
    assert any("in place" in str(w.message) for w in told)
    assert all(str(w.message).isprintable() for w in told if w.category is UserWarning)
