"""``tdagger compare``: two networks side by side."""

import csv
import io
import json
import re

import pytest

from tdagger.cli import main
from tests.cli.helpers import failed

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
torch.set_num_threads(1)

DEEP = "cli_nets:deep"


def found(capsys, command: str, *args: str) -> dict:
    assert main([command, *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def lines(capsys) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]


def test_one_network_at_two_sizes(capsys):
    assert main(["compare", DEEP, "--at-b", "b=4"]) == 0
    rows = {r[0]: r for r in lines(capsys)}
    assert rows["FLOPs"][3] == "2.00"
    assert rows["parameters"][3] == "="
    assert rows["layers.0-3 ×4"][3] == "2.00"
    assert rows["layers.0-3 ×4"][-1] == "Block"


def test_totals_are_those_of_cost(capsys):
    data = found(capsys, "compare", DEEP, "--set-b", "layers=6", "--set", "wide=5")
    a = found(capsys, "cost", DEEP, "--set", "wide=5")
    b = found(capsys, "cost", DEEP, "--set", "wide=5", "--set", "layers=6")
    assert data["a"] == {k: a[k] for k in data["a"]}
    assert data["b"]["totals"] == b["totals"]
    flops = data["totals"]["total_flops"]
    assert (flops["a"], flops["b"]) == (a["totals"]["total_flops"], b["totals"]["total_flops"])
    assert flops["difference"] == flops["b"] - flops["a"]
    assert flops["ratio"] == flops["b"] / flops["a"]
    rows = {r["module"]: r for r in data["rows"]}
    assert rows["layers.5"]["a"] is None
    assert rows["layers.5"]["b"]["macs"] == rows["layers.0"]["a"]["macs"] == 10 * 8 * 8


def test_what_one_has_alone(capsys):
    assert main(["compare", DEEP, DEEP, "--set-b", "layers=6", "--depth", "2"]) == 0
    rows = lines(capsys)
    names = [r[0] for r in rows]
    assert names[names.index("module") + 1 : -2] == [DEEP, "stem", "layers", "0-3 ×4", "4-5 ×2", "head"]
    assert "only B" in rows[names.index("4-5 ×2")]
    assert rows[-1] == ["modules: 2 only in B"]
    assert main(["compare", DEEP, "cli_nets:build"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"stem .* only A", out)
    assert re.search(r"body .* only B", out)
    assert re.search(r"head .* Linear", out)


def test_ops(capsys):
    assert main(["compare", DEEP, "cli_nets:build", "--by", "op"]) == 0
    rows = {r[0]: r for r in lines(capsys)}
    assert "only B" in rows["relu"]
    assert "only A" in rows["layer_norm"]
    assert "only" not in " ".join(rows["linear"])


def test_most_different_first(capsys):
    assert main(["compare", DEEP, "--set-b", "wide=30", "--by", "op", "--sort", "writes"]) == 0
    names = [r[0] for r in lines(capsys)]
    assert names[names.index("op") + 1] == "linear"


def test_csv(capsys):
    assert main(["compare", DEEP, "--set-b", "layers=5", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    by_name = {r["module"]: r for r in rows}
    assert list(rows[0])[:3] == ["module", "class", "a_macs"]
    assert by_name["layers.4"]["a_macs"] == ""
    assert by_name["layers.4"]["b_macs"] == by_name["layers.3"]["a_macs"] == "640"


def test_what_is_not_counted(capsys):
    assert main(["compare", "cli_nets:unknown", DEEP]) == 0
    out = capsys.readouterr().out
    assert "PARTIAL the costs of A are lower bounds, not counted: torch:aten.linalg_eigh.default (1 time)" in out
    assert re.search(r"FLOPs +>= 128 +\S+ k", out)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--json", "--csv"], "--json and --csv exclude each other"),
        (["--by", "value"], "--by"),
        (["--sort", "size"], "--sort: there is no 'size'"),
        (["--at-b", "b"], "--at-b takes AXIS=SIZE"),
        (["--at-a", "q=3"], "no axis is named 'q'"),
    ],
)
def test_errors(capsys, args, message):
    assert message in failed(capsys, "compare", DEEP, *args)
