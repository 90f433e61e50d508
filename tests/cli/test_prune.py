"""``tdagger prune``: a smaller network, what went, and what can go."""

import json
import re

import pytest

import tdagger as td
from tdagger.cli import main
from tdagger.cli.fold import folded
from tdagger.cli.rows import Line
from tdagger.errors import AttributeValueError
from tdagger.prune.amounts import amount_of, ratio_of
from tests.cli.helpers import failed, shown

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
torch.set_num_threads(1)

#: ``head`` has classes that are outputs, ``hidden`` is one too: what can go is inside.
NETS = """
import torch
def build():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(32, 5))
    return net.eval(), torch.zeros(1, 3, 8, 8)
"""


@pytest.fixture(autouse=True)
def prune_nets(tmp_path):
    (tmp_path / "prune_nets.py").write_text(NETS)


def found(capsys, *args: str) -> dict:
    assert main(["prune", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_table(capsys):
    assert main(["prune", "prune_nets:build", "--flops", "50%", "--check"]) == 0
    out = shown(capsys)
    assert "module units left FLOPs left of it params left class" in out
    assert re.search(r"FLOPs \d+ k \d+ k -(49|50)\.\d%", out)
    assert re.search(r" 0 16 \d+ [\d.]+ k [\d.]+ k .* Conv2d ", out)
    assert "exact: equal to the network with zeros" in out
    assert "checked in double precision: exact" in out


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".py", ".tdag"])
def test_written(capsys, tmp_path, suffix):
    assert main(["prune", "prune_nets:build", "--params", "0.5", "-o", f"small{suffix}"]) == 0
    err = capsys.readouterr().err
    assert f"wrote small{suffix}" in err
    if suffix == ".py":
        assert "Conv2d(" in (tmp_path / "small.py").read_text()
        return
    assert main(["inspect", f"small{suffix}", "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["totals"]["parameters"]
    before = sum(v.type.size for v in td.from_torch(*_built()).graph.parameters.values())
    assert 0.49 < parameters / before < 0.51


def _built():
    from prune_nets import build

    return build()


def test_layers_of_which_one_alone_makes_units():
    """The width of all layers is the first one's to make."""
    numbers = [{"b_macs": 6, "b_units": 16}, {"b_macs": 6}, {"b_macs": 6}]
    layers = [Line(f"{i}", n, "Layer", f"{i}") for i, n in enumerate(numbers)]
    (line,) = folded(Line("", {"b_macs": 18, "b_units": 16}, "Net", inner=layers), ["b_macs"]).inner
    assert (line.name, line.times, line.numbers) == ("0-2", 3, {"b_macs": 18, "b_units": 16})


def test_json_says_which_units_went(capsys):
    data = found(capsys, "prune_nets:build", "--ratio", "3=50%", "--check")
    assert [(g["name"], g["size"], len(g["removed"])) for g in data["groups"]] == [("0", 16, 0), ("3", 32, 16)]
    assert data["groups"][1]["members"][0] == {"parameter": "3.weight", "axis": 0, "entries_per_unit": 1}
    assert data["check"]["passed"]
    assert data["check"]["exact"]
    modules = {m["module"]: m for m in data["modules"]}
    assert modules["3"]["units"] == {"before": 32, "after": 16}
    assert modules["7"]["parameters"] == {"before": 32 * 5 + 5, "after": 16 * 5 + 5}
    assert data["totals"]["parameters"]["after"] == 16 * 27 + 16 + 32 + 16 * (16 * 9 + 1) + 16 * 5 + 5


def test_options(capsys):
    data = found(capsys, "prune_nets:build", "--ratio", "30%", "--multiple-of", "8", "--keep", "0")
    assert [len(g["removed"]) for g in data["groups"]] == [0, 8]
    data = found(capsys, "prune_nets:build", "--ratio", "90%", "--least", "25%", "--only", "3")
    assert [len(g["removed"]) for g in data["groups"]] == [0, 24]
    data = found(capsys, "prune_nets:build", "--bytes", "60%", "--local", "--importance", "l1", "--normalise", "max")
    removed = [len(g["removed"]) / g["size"] for g in data["groups"]]
    assert abs(removed[0] - removed[1]) < 0.1


def test_time(capsys):
    at = ["--device", "x86-avx2-core", "--least", "2"]
    times = found(capsys, "prune_nets:build", "--time", "80%", *at)["totals"]["predicted_seconds"]
    assert abs(times["after"] / times["before"] - 0.8) < 0.03
    absolute = found(capsys, "prune_nets:build", "--time", f"{0.8 * times['before'] * 1e6}us", *at)
    assert absolute["totals"]["predicted_seconds"] == times
    assert "--device" in failed(capsys, "prune", "prune_nets:build", "--time", "50%")


def test_list(capsys):
    assert main(["prune", "prune_nets:build", "--list"]) == 0
    out = shown(capsys)
    assert re.search(r"group units FLOPs each params each in 0 16 .* 0\.weight\[0\] and 4 more exact", out)
    assert "linear is the output 'out': 7.weight[0] of 5 and 1 more" in out
    data = found(capsys, "prune_nets:build", "--list")
    assert [g["name"] for g in data["groups"]] == ["0", "3"]
    assert {"parameter": "7.weight", "axis": 0, "size": 5}.items() <= data["stopped"][-2].items()


def test_meta_plans_without_weights(capsys):
    data = found(capsys, "prune_nets:build", "--meta", "--flops", "50%", "--importance", "random")
    assert data["totals"]["total_flops"]["after"] < data["totals"]["total_flops"]["before"]
    assert "--importance l2 needs them: say random" in failed(
        capsys, "prune", "prune_nets:build", "--meta", "--flops", "50%"
    )
    assert "--meta makes no weights" in failed(
        capsys, "prune", "prune_nets:build", "--meta", "--flops", "50%", "-o", "a.pt2"
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give one of --flops, --params, --bytes, --time or --ratio, or --list; got none"),
        (["--flops", "50%", "--params", "50%"], "got --flops, --params"),
        (["--list", "--flops", "50%"], "--list says what can go, and takes no target"),
        (["--flops", "half"], "--flops takes a part or a number such as 50%, 0.5 or 2G, got 'half'"),
        (["--flops", "150%"], "got '150%'"),
        (["--flops", "0.1%"], "can't become"),
        (["--ratio", "100%"], "less than 1"),
        (["--ratio", "nothing.*=50%"], "no group is called that"),
        (["--flops", "50%", "--importance", "best"], "there is no importance 'best'; there are l1, l2"),
        (["--flops", "50%", "--keep", "layer9"], "no group, parameter or module is called 'layer9'"),
        (["--flops", "50%", "--inexact", "some"], "inexact is 'none', 'norms' or 'all'"),
        (["--flops", "50%", "-o", "small.other"], "the suffix must say the form"),
        (["--flops", "50%", "-o", "nowhere/small.pt2"], "there is no such folder"),
    ],
)
def test_refused(capsys, args, words):
    assert words in failed(capsys, "prune", "prune_nets:build", *args)


def test_a_file_that_is_there_stays(capsys, tmp_path):
    (tmp_path / "small.tdag").write_text("mine")
    assert "is there already" in failed(capsys, "prune", "prune_nets:build", "--flops", "50%", "-o", "small.tdag")
    assert (tmp_path / "small.tdag").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "-1", "0", "nan", "1.2.3", "5 apples", "101%", "1e999"])
def test_no_amounts(text):
    with pytest.raises(AttributeValueError, match="--flops takes"):
        amount_of(text, "--flops")


def test_amounts():
    assert amount_of("1.5e9", "--flops") == (1.5e9, False)
    assert amount_of("100%", "--flops") == (1.0, True)
    assert amount_of("2ms", "--time", seconds=True) == (0.002, False)
    assert ratio_of(["a=10%", "b.*=0.2"]) == {"a": 0.1, "b.*": 0.2}
    with pytest.raises(AttributeValueError, match="twice"):
        ratio_of(["30%", "40%"])
