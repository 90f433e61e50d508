"""What commands print of names that are odd, or that a file makes up: readable, whole lines, and nothing runs."""

import builtins
import csv
import io
import json
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tdagger.cli import layout, main
from tests.odd_names import is_readable

NETS = """
import torch
from tests.odd_names import ODD, odd
def build(): return odd(*ODD[10:15], *ODD[24:32], "x" * 10_000), torch.zeros(2, 3)
"""


@pytest.fixture
def source(tmp_path, monkeypatch) -> str:
    (tmp_path / "odd_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "odd_nets:build"


@pytest.mark.parametrize(
    "command",
    [
        ("inspect",), ("inspect", "--text"), ("inspect", "--axes"), ("inspect", "--ranks"), ("inspect", "--json"),
        ("cost",), ("cost", "--by", "value"), ("cost", "--json"), ("cost", "--csv"), ("cost", "--csv", "--by", "value"),
        ("cost", "--top", "50"), ("cost", "--formula"), ("compare",), ("compare", "--csv"), ("compare", "--json"),
        ("verify",), ("predict",), ("profile", "--runs", "1", "--by", "module"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_output_is_readable(source, capfd, command):
    name, *options = command
    if name == "predict":
        from tdagger.analysis.time.timing import devices

        options = ["--device", next(iter(devices())), "--by", "module"]
    assert main([name, source, *options]) == 0
    out, err = capfd.readouterr()
    assert is_readable(out)
    assert is_readable(err)
    if "--json" in options:
        found = json.loads(out)
        assert name != "inspect" or "line\nmarker = 1" in [m["path"] for m in found["modules"]]
    elif "--csv" in options:
        lines = out.splitlines()
        assert len(list(csv.reader(io.StringIO(out)))) == len(lines)
    else:
        assert "x" * 1000 not in out
    if name == "inspect" and not options:
        for shown in ("[red]", "[/x]", "[/]\\", ":smile:", r"\u202ebidi\u2069", r"line\nmarker = 1", r"\x1b[31m"):
            assert shown in out


def test_python_source(source, capfd, tmp_path):
    assert main(["convert", source, str(tmp_path / "out.py")]) == 0
    text = (tmp_path / "out.py").read_text("utf-8")
    assert is_readable(text)
    assert is_readable(capfd.readouterr().err)
    compile(text, "out.py", "exec")
    assert not [line for line in text.splitlines() if line.startswith("marker")]


def test_forms_that_cannot_hold_the_names(source, capfd, tmp_path):
    for form in ("pt2", "ts"):
        assert main(["convert", source, str(tmp_path / f"out.{form}")]) == 2
        err = capfd.readouterr().err
        assert "can't hold what is called" in err
        assert is_readable(err)
        assert err.count("\n") == 1


# --- files -------------------------------------------------------------------------------------------------

HARMLESS = "line\nimport builtins; builtins.marker = 1\n'''\"\"\"# [red][/x]\u202e\u2028\x1b[31m" + "y" * 10_000


def save(path: Path) -> None:
    net = torch.nn.Sequential(OrderedDict(fine=torch.nn.Linear(3, 3), act=torch.nn.GELU()))
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(2, 3),)), str(path))


def stranger(to: Path, **metadata: str) -> Path:
    """A program whose nodes say of themselves what a stranger wrote there."""
    program = to.with_name("plain.pt2")
    save(program)
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("models/model.json"):
                network = json.loads(data)
                for node in network["graph_module"]["graph"]["nodes"]:
                    node["metadata"].update(metadata)
                data = json.dumps(network).encode()
            new.writestr(name, data)
    return to


@pytest.mark.parametrize("part", ["path", "class", "stack", "torch_fn"])
@pytest.mark.parametrize("command", ["inspect", "cost", "verify", "convert"])
def test_metadata_of_a_file(tmp_path, capfd, part, command):
    text = HARMLESS.replace("\x1b[31m", "\x1b")  # torch counts brackets there: they are in pairs
    metadata = {
        "path": {"nn_module_stack": f"L__self__,,a.Net;L__self__fine,fine {text.replace(';', ' ')},a.Layer"},
        "class": {"nn_module_stack": f"L__self__,,a.Net;L__self__fine,fine,a.{text.replace(';', ' ')}"},
        "stack": {"stack_trace": f'File "{HARMLESS[:30]}", line 3, in forward\n  x'},
        "torch_fn": {"torch_fn": f"{HARMLESS};{HARMLESS}"},
    }[part]
    path = stranger(tmp_path / "net.pt2", **metadata)
    more = [str(tmp_path / "out.py")] if command == "convert" else []
    status = main([command, str(path), *more])
    out, err = capfd.readouterr()
    assert is_readable(out)
    assert is_readable(err)
    assert not hasattr(builtins, "marker")
    assert status == 0, err
    if command == "convert":
        source = (tmp_path / "out.py").read_text("utf-8")
        assert is_readable(source)
        compile(source, "out.py", "exec")
        assert "\nimport builtins" not in source


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"stack_trace": 'File "a", line 3, in f\n  x\rmarker = 1'}, "a stack trace in its metadata holds control"),
        ({"source_fn_stack": "a,torch.__builtins__.exec"}, "metadata 'torch.__builtins__.exec' is not of the plain"),
        ({"nn_module_stack": ["a"]}, "the metadata of a node are no strings by name"),
        ({"nn_module_stack": "a"}, "torch.export.load can't read it"),
        ({"custom": "{"}, "torch.export.load can't read it"),
        ({"from_node": "[3]"}, "torch.export.load can't read it"),
    ],
)
def test_metadata_that_is_refused(tmp_path, capfd, metadata, why):
    assert main(["inspect", str(stranger(tmp_path / "net.pt2", **metadata))]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert why in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["[red]", "a\nb", "\x1b[31m", "\u202e", "'\"#", "y" * 200])
def test_file_names(tmp_path, capfd, name):
    folder = tmp_path / name
    folder.mkdir()
    path = folder / f"{name}.pt2"
    save(path)
    for command in (["inspect"], ["cost"], ["verify"], ["cost", "--csv"]):
        assert main([command[0], str(path), *command[1:]]) == 0
        out, err = capfd.readouterr()
        assert is_readable(out)
        assert is_readable(err)
    assert main(["convert", str(path), str(folder / f"{name}.ts")]) == 0
    assert is_readable(capfd.readouterr().err)
    assert main(["inspect", str(folder / "none.pt2")]) == 2
    err = capfd.readouterr().err
    assert is_readable(err)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["[red]", "[/]", "back\\", "two\\\\", "three\\\\\\", "\\[b]", "a[b]\\", ":smile:", "[[x]]"]
)
def test_escape(text):
    console = Console(file=io.StringIO(), emoji=False, width=80, force_terminal=False)
    console.print(f"[dim]{layout.escape(text)}[/dim]|[bold]{layout.escape(text)}[/bold] {layout.escape(text)}")
    assert console.file.getvalue() == f"{text}|{text} {text}\n"
    column = layout.Column("", [layout.escape(text)])
    assert column.width == len(text)
