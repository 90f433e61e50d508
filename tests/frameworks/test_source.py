"""Loading a SOURCE: what is understood, what is refused, and that nothing in a file gets to run."""

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tdagger.errors import AttributeValueError, SourceError
from tdagger.frameworks import source
from tdagger.frameworks.source import InputSpec, Options, parse_setting, parse_shape
from tdagger.types import DType

torch = pytest.importorskip("torch")
torch.set_num_threads(1)


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def trap(tmp_path: Path):
    """A file that must not come to be."""
    path = tmp_path / "caught"
    yield path
    assert not path.exists(), "the file's code was run"


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU()).eval()


@pytest.fixture(scope="module")
def pt2(net, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.randn(2, 3),), strict=False), path)
    return path


def repacked(archive: Path, to: Path, **changes) -> Path:
    """A copy of an archive with records changed; a change is a function of the record's bytes, or bytes."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            for suffix, change in changes.items():
                if name.endswith(suffix):
                    data = change(data) if callable(change) else change
            new.writestr(name, data)
    return to


def edit(function):
    """A change of a JSON record: ``function`` changes the parsed value in place."""

    def change(data: bytes) -> bytes:
        value = json.loads(data)
        function(value)
        return json.dumps(value).encode()

    return change


def refused(path: Path, match: str = "") -> str:
    with pytest.raises(SourceError, match=match) as caught:
        source.load(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ts", ".pt2", ".bin"])
@pytest.mark.parametrize("form", ["pickle", "torch", "torch, old", "state_dict"])
def test_pickles_are_refused(tmp_path, trap, suffix, form):
    path = tmp_path / f"net{suffix}"
    evil = Evil(trap)
    if form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        content = {"weight": torch.ones(2), "extra": evil} if form == "state_dict" else evil
        torch.save(content, path, _use_new_zipfile_serialization=form != "torch, old")
    message = refused(path, "is a pickled object")
    assert "Path.touch" in message or "pathlib" in message
    assert "package.module:callable" in message


def test_module_and_state_dict_are_named(tmp_path, net):
    torch.save(net, tmp_path / "module.pt")
    assert "torch.nn.modules.container.Sequential" in refused(tmp_path / "module.pt", "is a pickled object")
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    message = refused(tmp_path / "weights.pth", "is a state_dict, weights without a network")
    assert "0.weight" in message
    assert "load_state_dict" in message
    torch.save({"epoch": 3, "model": net.state_dict()}, tmp_path / "checkpoint.pt")
    refused(tmp_path / "checkpoint.pt", "is a checkpoint")


def test_other_files_are_refused(tmp_path):
    refused(tmp_path / "none.pt", "there is no such file")
    (tmp_path / "text.pt").write_text("hello")
    refused(tmp_path / "text.pt", "is neither a program of torch.export nor TorchScript")
    (tmp_path / "empty.pt2").write_bytes(b"")
    refused(tmp_path / "empty.pt2", "is neither")


def test_program_with_pickled_inputs(tmp_path, trap, pt2):
    evil = io.BytesIO()
    torch.save((Evil(trap),), evil)
    refused(repacked(pt2, tmp_path / "a.pt2", **{"sample_inputs/model.pt": evil.getvalue()}), "is no pickle of tensors")


def test_program_with_pickled_weight(tmp_path, trap, pt2):
    evil = io.BytesIO()
    torch.save(Evil(trap), evil)

    def pickled(config):
        config["config"]["0.weight"]["use_pickle"] = True

    changes = {"weights/weight_0": evil.getvalue(), "model_weights_config.json": edit(pickled)}
    refused(repacked(pt2, tmp_path / "a.pt2", **changes), "can't read it")


@pytest.mark.parametrize("name", ["opaque_obj_0", "custom_obj_0"])
def test_program_with_pickled_constant(tmp_path, trap, pt2, name):
    def constant(config):
        config["config"]["c"] = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}

    path = repacked(pt2, tmp_path / "a.pt2", **{"model_constants_config.json": edit(constant)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"net/data/constants/{name}", pickle.dumps(Evil(trap)))
    refused(path, "constant 'c' is a pickled object")


def changed_program(pt2: Path, to: Path, function) -> Path:
    return repacked(pt2, to, **{"models/model.json": edit(function)})


def test_program_with_code_in_a_size(tmp_path, trap, pt2):
    code = f"__import__('pathlib').Path({str(trap)!r}).touch() or 2"

    def size(program):
        tensors = program["graph_module"]["graph"]["tensor_values"]
        tensors["input"]["sizes"][0] = {"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}

    refused(changed_program(pt2, tmp_path / "a.pt2", size), "expr_str .* is not of the plain kind")


@pytest.mark.parametrize(
    "target", ["torch.os.system", "torch.hub.load", "torch.ops.load_library.__call__", "_operator.methodcaller"]
)
def test_program_that_calls_what_is_no_op(tmp_path, pt2, target):
    def call(program):
        program["graph_module"]["graph"]["nodes"][0]["target"] = target

    refused(changed_program(pt2, tmp_path / "a.pt2", call), "target .* is not of the plain kind")


def test_program_with_code_in_a_name(tmp_path, pt2):
    def name(program):
        program["graph_module"]["graph"]["nodes"][0]["name"] = "x=print(1)"

    refused(changed_program(pt2, tmp_path / "a.pt2", name), "name .* is not of the plain kind")


def test_guards_of_a_program_are_not_run(tmp_path, trap, pt2):
    def guard(program):
        program["guards_code"] = [f"__import__('pathlib').Path({str(trap)!r}).touch() is None"]

    loaded = source.load(str(changed_program(pt2, tmp_path / "a.pt2", guard)))
    assert loaded.run(loaded.random_inputs(0))[0].shape == (2, 4)


def test_program_with_two_records_of_one_name(tmp_path, pt2):
    path = repacked(pt2, tmp_path / "a.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/weights/WEIGHT_0", b"")
    refused(path, "two records of one name")


def test_torchscript_that_touches_files(tmp_path):
    class Saver(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_file("name", True, 3)

    torch.jit.script(Saver()).save(str(tmp_path / "a.pt"))
    refused(tmp_path / "a.pt", "touches files")


# --- what is loaded ----------------------------------------------------------------------------------------


def test_program(pt2, net):
    loaded = source.load(str(pt2))
    inputs = loaded.random_inputs(0)
    assert np.array_equal(loaded.run(inputs)[0], net(*inputs[0]).detach().numpy())
    with pytest.raises(SourceError, match="an exported program is fixed, --batch can't change it"):
        source.load(str(pt2), Options(batch=3))


@pytest.mark.parametrize("suffix", [".pt", ".ts", ".pth"])
def test_torchscript(tmp_path, net, suffix):
    path = tmp_path / f"net{suffix}"
    torch.jit.trace(net, torch.randn(2, 3)).save(str(path))
    loaded = source.load(str(path))
    assert loaded.names == ["input"]
    assert loaded.run(loaded.random_inputs(0))[0].shape == (2, 4)
    loaded = source.load(str(path), Options(batch=5))
    assert loaded.run(loaded.random_inputs(0))[0].shape == (5, 4)
    with pytest.raises(SourceError, match="--set, --dtype and --meta can't change"):
        source.load(str(path), Options({"a": 1}))


def test_scripted_needs_shapes(tmp_path, net):
    path = tmp_path / "net.pt"
    torch.jit.script(net).save(str(path))
    assert "--shape input=..." in refused(path, "doesn't say the shapes of its inputs")
    loaded = source.load(str(path), Options(shapes={"input": InputSpec((6, 3))}))
    assert loaded.run(loaded.random_inputs(0))[0].shape == (6, 4)


def test_timm():
    pytest.importorskip("timm")
    loaded = source.load("timm:test_resnet", Options({"num_classes": 7}, batch=2, dtype=DType.of("f64")))
    out = loaded.run(loaded.random_inputs(0))[0]
    assert out.shape == (2, 7)
    assert out.dtype == np.float64
    with pytest.raises(SourceError, match="timm has no model 'test_resnt'; did you mean test_resnet"):
        source.load("timm:test_resnt")
    with pytest.raises(SourceError, match="timm:test_resnet can't be built: TypeError"):
        source.load("timm:test_resnet", Options({"no_such": 7}))


BERT = {"num_hidden_layers": 1, "hidden_size": 12, "intermediate_size": 8, "vocab_size": 50}


def test_transformers():
    pytest.importorskip("transformers")
    loaded = source.load("transformers:BertModel", Options(BERT))
    args, kwargs = loaded.random_inputs(0)
    assert loaded.names == ["input_ids", "attention_mask"]
    assert args[0].shape == (1, 16)
    assert 0 <= args[0].min() <= args[0].max() < 50
    assert (args[1] == 1).all()
    assert not kwargs
    with pytest.raises(SourceError, match="has no class 'BertModl'; did you mean BertModel"):
        source.load("transformers:BertModl")
    with pytest.raises(SourceError, match="has no 'num_layer'; did you mean num_labels"):
        source.load("transformers:BertModel", Options({"num_layer": 2}))
    with pytest.raises(SourceError, match="is no model with a config"):
        source.load("transformers:AutoTokenizer")


def test_transformers_of_two_parts():
    pytest.importorskip("transformers")
    vision = {f"vision_config.{k}": v for k, v in {"num_hidden_layers": 1, "image_size": 32, "hidden_size": 48}.items()}
    text = {"text_config.num_hidden_layers": 1, "text_config.vocab_size": 60}
    loaded = source.load("transformers:CLIPModel", Options(vision | text))
    shapes = dict(zip(loaded.names, [tuple(a.shape) for a in (*loaded.args, *loaded.kwargs.values())], strict=True))
    assert shapes == {"input_ids": (1, 16), "pixel_values": (1, 3, 32, 32), "attention_mask": (1, 16)}


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("BertModel", {"input_ids": (2, 7)}, {"input_ids": (2, 7), "attention_mask": (2, 7)}),
        ("BertModel", {"attention_mask": (2, 7)}, {"input_ids": (2, 7), "attention_mask": (2, 7)}),
        ("BertModel", {"input_ids": (2, 7), "token_type_ids": (2, 7)},
         {"input_ids": (2, 7), "attention_mask": (2, 7), "token_type_ids": (2, 7)}),
        ("BertModel", {"inputs_embeds": (2, 7, 12)}, {"inputs_embeds": (2, 7, 12), "attention_mask": (2, 7)}),
        ("T5Model", {"input_ids": (2, 7)},
         {"input_ids": (2, 7), "attention_mask": (2, 7), "decoder_input_ids": (2, 8)}),
        ("T5Model", {"decoder_input_ids": (2, 5)},
         {"input_ids": (2, 16), "attention_mask": (2, 16), "decoder_input_ids": (2, 5)}),
    ],
)  # fmt: skip
def test_transformers_inputs_fit_the_shapes_asked_for(name, asked, expected):
    pytest.importorskip("transformers")
    small = {"num_layers": 1, "d_model": 12, "d_ff": 8, "num_heads": 2, "vocab_size": 50} if name == "T5Model" else BERT
    loaded = source.load(f"transformers:{name}", Options(small, shapes={n: InputSpec(s) for n, s in asked.items()}))
    inputs = dict(zip(loaded.names, (*loaded.args, *loaded.kwargs.values()), strict=True))
    assert {n: tuple(t.shape) for n, t in inputs.items()} == expected
    assert all((t == 1).all() for n, t in inputs.items() if "mask" in n)
    drawn = loaded.random_inputs(0)
    want, got = loaded.run(drawn), loaded.run_round_trip(loaded.dag(), drawn)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-5)


NETS = """
import torch
class Two(torch.nn.Module):
    def forward(self, x, ids, flag=None):
        return {"a": x * 2.0, "b": ids}
def plain(features=3): return torch.nn.Linear(features, 2)
def given(): return Two(), (torch.ones(1, 2), torch.tensor([[4, 9]]))
def named(): return Two(), {"x": torch.ones(1, 2), "ids": torch.tensor([[0, 1]])}
def wrong(): return 3
def broken(): raise ValueError("no luck")
instance = torch.nn.Linear(3, 2)
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_nets", None)


def test_callable(nets):
    loaded = source.load("my_nets:given")
    args, _ = loaded.random_inputs(0)
    assert loaded.names == ["x", "ids"]
    assert args[1].dtype == torch.int64
    assert 0 <= args[1].min() <= args[1].max() <= 9
    assert [a.shape for a in loaded.run((args, {}))] == [(1, 2), (1, 2)]
    assert len(source.load("my_nets:named").args) == 2
    asked = source.load("my_nets:plain", Options({"features": 5}, shapes={"input": InputSpec((4, 5))}))
    assert asked.run(asked.random_inputs(0))[0].shape == (4, 2)
    source.load("my_nets:instance", Options(shapes={"input": InputSpec((4, 3))}))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("my_nets:plain", "comes without example inputs .it takes input.; give their shapes: --shape input=1"),
        ("my_nets:wrong", "gave a int, not an nn.Module"),
        ("my_nets:broken", "can't be built: ValueError: no luck"),
        ("my_nets:plan", "'plan' is not in my_nets; did you mean plain"),
        ("no_such_module_here:f", "there is no module 'no_such_module_here'"),
        ("timm:", "name a model after the colon"),
        ("what is this", "is not a SOURCE: give a file"),
        ("resnet50", "is not a SOURCE"),
    ],
)
def test_callable_errors(nets, text, match):
    with pytest.raises(SourceError, match=match):
        source.load(text)


def test_unknown_input_name(nets):
    with pytest.raises(SourceError, match="--shape names 'y', the inputs are x, ids, flag"):
        source.load("my_nets:given", Options(shapes={"y": InputSpec((1,))}))


@pytest.mark.parametrize(("package", "text"), [("timm", "timm:resnet50"), ("transformers", "transformers:BertModel")])
def test_missing_package(monkeypatch, package, text):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SourceError, match=rf"{package} is not installed: pip install 'tdagger\[zoo\]'"):
        source.load(text)


def test_missing_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SourceError, match=r"torch is not installed: pip install 'tdagger\[torch\]'"):
        source.load("timm:resnet50")


def test_random_inputs_follow_the_seed(pt2):
    loaded = source.load(str(pt2))
    a, b, c = (loaded.random_inputs(seed)[0][0] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_parsing():
    assert parse_setting("a=None") == ("a", None)
    assert parse_setting("a=b=c") == ("a", "b=c")
    assert parse_shape("x=") == ("x", InputSpec(()))
    assert parse_shape("x=2x3") == ("x", InputSpec((2, 3)))
    for bad in ("a", "=1"):
        with pytest.raises(AttributeValueError, match="--set takes key=value"):
            parse_setting(bad)
    for bad in ("x", "x=1,b", "x=-1", "=1,2"):
        with pytest.raises(AttributeValueError, match="--shape takes name="):
            parse_shape(bad)
    with pytest.raises(AttributeValueError, match="no element type is called 'i65'"):
        parse_shape("x=i65:1")
