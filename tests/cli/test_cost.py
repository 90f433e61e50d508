"""``tdagger cost``: its tables, what it gives to programs, other sizes, formulas."""

import csv
import io
import json
import re

import pytest

from tdagger.cli import main
from tests.cli.helpers import failed, shown

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
torch.set_num_threads(1)

DEEP = "cli_nets:deep"
#: A linear layer of 8 x 8, and of 4 x 8 and 8 x 3, on 2 x 5 rows, in multiply-adds.
BLOCK, STEM, HEAD = 10 * 8 * 8, 10 * 4 * 8, 10 * 8 * 3


def lines(capsys) -> list[list[str]]:
    """What was printed, a line as its cells."""
    return [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]


def found(capsys, *args: str) -> dict:
    assert main(["cost", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def records(capsys, *args: str) -> list[dict[str, str]]:
    assert main(["cost", *args, "--csv"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


# --- tables ------------------------------------------------------------------------------------------------


def test_totals(capsys):
    assert main(["cost", DEEP]) == 0
    out = shown(capsys)
    macs = 4 * BLOCK + STEM + HEAD
    assert out.startswith("cli_nets:deep cli_nets:deep inputs x: f32[2 5 4] outputs out: f32[2 5 3]")
    assert f"contractions {2 * macs / 1000:.2f} k {2 * macs:,}" in out
    assert f"multiply-adds {macs / 1000:.2f} k {macs:,}" in out
    parameters = 4 * (8 * 8 + 8 + 8 + 8) + (4 * 8 + 8) + (8 * 3 + 3)
    assert f"parameters {parameters} {parameters} weights 1.68 kB {4 * parameters:,} buffers 0 B, constants" in out
    assert re.search(r"peak activations \S+ k?B [\d,]+ at \w+ layers.\d", out)
    for model in ("materialised", "composite", "fused"):
        assert re.search(rf"{model} \S+ k?B \S+ k?B \d+\.\d", out)


def test_modules(capsys):
    """Equal modules are one row with their sum; bars and shares are of the whole."""
    assert main(["cost", DEEP]) == 0
    rows = lines(capsys)
    header = next(r for r in rows if r[0] == "module")
    assert header == [
        *["module", "FLOPs", "share", "params", "reads", "writes", "FLOPs/B", "MACs", "peak", "ops", "class"],
    ]
    table = {r[0]: r for r in rows[rows.index(header) + 1 :]}
    names = ["cli_nets:deep", "stem", "layers.0-3 ×4", "norm", "fc", "head"]
    assert list(table) == names
    assert table["layers.0-3 ×4"][-1] == "Block"
    linear = 4 * (2 * BLOCK)  # 8 products, 7 sums and a bias for each of 10 x 8
    norm = 4 * 10 * (8 + 8 + 8 + 8 + 3 + 8 + 8 + 8)  # see docs/counting.md
    whole = linear + norm + 4 * 10 * 8 + 10 * 8 * (4 + 3 + 1) + 10 * 3 * (8 + 7 + 1)
    assert (linear, whole) == (5120, 8920)
    assert table["fc"][1:4] == ["5.12 k", "█████▊", "57.4 %"]
    assert table["cli_nets:deep"][1:4] == ["8.92 k", "██████████", "100.0 %"]
    assert main(["cost", DEEP, "--all", "--depth", "2"]) == 0
    names = [r[0] for r in lines(capsys)]
    assert names[-7:] == ["stem", "layers", "0", "1", "2", "3", "head"]


def test_unequal_modules_stay_apart(capsys):
    assert main(["cost", "cli_nets:build"]) == 0
    names = [r[0] for r in lines(capsys)]
    assert names[-5:] == ["cli_nets:build", "body", "0", "1", "head"]


def test_ops(capsys):
    assert main(["cost", DEEP, "--by", "op"]) == 0
    rows = lines(capsys)
    names = [r[0] for r in rows]
    at = names.index("op")
    assert names[at + 1] == "linear"
    assert {"layer_norm", "add"} <= set(names[at:])
    assert "class" not in rows[at]


def test_values(capsys):
    assert main(["cost", DEEP, "--by", "value", "--top", "2"]) == 0
    rows = lines(capsys)
    assert rows[-4][-2:] == ["type", "module"]
    assert [r[0] for r in rows[-3:-1]] == ["linear", "linear"]
    assert [r[-2:] for r in rows[-3:-1]] == [["f32[2 5 8]", "layers.0.fc"], ["f32[2 5 8]", "layers.1.fc"]]
    assert rows[-1] == ["12 more; --top N and --json show them"]


def test_ranked_modules(capsys):
    """Every op is in one of the ranked rows: modules without inner ones, and what others do themselves."""
    rows = records(capsys, DEEP, "--sort", "writes")
    assert [r["module"] for r in rows].count("layers.0") == 1  # the sum, itself
    writes = [int(r["composite_writes"]) for r in rows]
    assert writes == sorted(writes, reverse=True)
    total = found(capsys, DEEP)["totals"]
    assert sum(writes) == total["composite_writes"]
    assert sum(int(r["total_flops"]) for r in rows) == total["total_flops"]
    assert main(["cost", DEEP, "--top", "3"]) == 0
    rows = lines(capsys)
    assert [r[0] for r in rows[-4:]] == [
        *["layers.0-3.fc ×4", "layers.0-3.norm ×4", "stem", "2 more; --top N and --json show them"],
    ]
    assert main(["cost", DEEP, "--sort", "peak"]) == 0
    header = next(r for r in lines(capsys) if r[0] == "module")
    assert header[:3] == ["module", "peak", "share"]


@pytest.mark.parametrize("name", ["flops", "macs", "params", "reads", "peak", "intensity", "fused_writes", "ops"])
def test_sorts(capsys, name):
    assert main(["cost", DEEP, "--by", "op", "--sort", name]) == 0


def test_traffic_and_unit(capsys):
    total = found(capsys, DEEP)["totals"]
    assert total["composite_reads"] == 4 * total["composite_elements_reads"]
    for model in ("materialised", "composite", "fused"):
        assert main(["cost", DEEP, "--traffic", model, "--unit", "elements"]) == 0
        rows = lines(capsys)
        table = next(i for i, r in enumerate(rows) if r[0] == "module")
        reads = total[f"{model}_elements_reads"]
        assert float(rows[table + 1][5].rstrip(" k")) == pytest.approx(reads / 1000, rel=1e-2)
        assert next(r for r in rows if r[0] == "elements") == ["elements", "reads", "writes", "FLOPs/B"]


def test_what_is_not_counted(capsys):
    """An op without a rule doesn't stop counting: it is named, and what holds it has lower bounds."""
    assert main(["cost", "cli_nets:unknown"]) == 0
    out = shown(capsys)
    assert "PARTIAL the costs are lower bounds, not counted: torch:aten.linalg_eigh.default (1 time)" in out
    assert "FLOPs >= 128 128 contractions >= 128 128" in out
    assert "parameters 20 20" in out
    assert re.search(r"cli_nets:unknown >= 128 █+ 100.0 % 20 >= 208 B", out)
    assert re.search(r"first 128 █+ 100.0 % 20 144 B", out)
    data = found(capsys, "cli_nets:unknown")
    assert data["partial"] == {"torch:aten.linalg_eigh.default": 1}
    assert {r["module"]: r["partial"] for r in data["rows"]} == {"": 1, "first": 0}
    assert main(["cost", "cli_nets:unknown", "--formula"]) == 0
    assert "PARTIAL the formulas are of lower bounds, not counted: torch:aten.linalg_eigh" in shown(capsys)
    assert found(capsys, "cli_nets:unknown", "--formula")["partial"] == data["partial"]


def test_what_data_decide(capsys):
    assert main(["cost", "cli_nets:choosing"]) == 0
    assert "AT MOST data decide what is run, the branch with most FLOPs counts: cond (1 time)" in shown(capsys)
    data = found(capsys, "cli_nets:choosing")
    assert data["at_most"] == {"cond": 1}
    assert data["totals"]["macs"] == 2 * 4 * 4


def test_backward(capsys):
    assert main(["cost", DEEP, "--backward"]) == 0
    assert re.search(r"module .* backward ", shown(capsys))
    total = found(capsys, DEEP, "--backward")["totals"]
    assert total["backward_macs"] == 2 * (4 * BLOCK + HEAD) + STEM  # the input wants no gradient
    assert total["backward_contraction_flops"] == 2 * total["backward_macs"]
    assert "backward_macs" not in found(capsys, DEEP)["totals"]


def test_predicted_time(capsys):
    from tdagger.frameworks.source import load

    prediction = load(DEEP).dag().predict_time("raspberry-pi-5")
    assert main(["cost", DEEP, "--device", "raspberry-pi-5"]) == 0
    out = shown(capsys)
    assert re.search(r"predicted time \S+ us on Raspberry Pi 5", out)
    assert re.search(r"module time share FLOPs .* cli_nets:deep \S+ us █+ 100.0 %", out)
    assert f"time: {prediction.notices[0]}" in out
    data = found(capsys, DEEP, "--device", "raspberry-pi-5", "--by", "op")
    assert data["totals"]["predicted_seconds"] == pytest.approx(float(prediction))
    assert sum(r["predicted_seconds"] for r in data["rows"]) == pytest.approx(float(prediction))
    assert (data["device"], data["notices"]) == ("raspberry-pi-5", list(prediction.notices))
    rows = records(capsys, DEEP, "--device", "raspberry-pi-5", "--sort", "time")
    seconds = [float(r["predicted_seconds"]) for r in rows]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) == pytest.approx(float(prediction))


# --- for programs ------------------------------------------------------------------------------------------


def test_json(capsys):
    from tdagger.frameworks.source import load

    data = found(capsys, DEEP)
    assert list(data) == ["source", "name", "inputs", "outputs", "totals", "partial", "at_most", "by", "rows"]
    cost = load(DEEP).dag().cost()
    totals = data["totals"]
    for name in ("macs", "contraction_flops", "elementwise_flops", "transcendental", "total_flops", "peak_bytes"):
        assert totals[name] == getattr(cost, name)
    for model in ("materialised", "composite", "fused"):
        moved = cost.traffic(model)
        assert (totals[f"{model}_reads"], totals[f"{model}_writes"]) == moved
        assert totals[f"{model}_intensity"] == cost.intensity(model)
    rows = {r["module"]: r for r in data["rows"]}
    assert list(rows)[:5] == ["", "stem", "layers", "layers.0", "layers.0.norm"]  # nothing is folded
    assert rows["layers.3.fc"]["macs"] == BLOCK
    assert rows["layers.3.fc"]["class"] == "Linear"
    for row in cost.by_module:
        assert rows[row.name]["total_flops"] == row.total_flops
        assert rows[row.name]["fused_reads"] == row.fused.reads
    assert {r["op"]: r["macs"] for r in found(capsys, DEEP, "--by", "op")["rows"]} == {
        **{r.name: r.macs for r in cost.by_op},
    }
    values = found(capsys, DEEP, "--by", "value")["rows"]
    assert [(r["op"], r["module"], r["total_flops"]) for r in values] == [
        (r.name, r.module, r.total_flops) for r in cost.by_value
    ]
    assert len(found(capsys, DEEP, "--depth", "1")["rows"]) == 4
    assert len(found(capsys, DEEP, "--top", "2")["rows"]) == 2


def test_csv(capsys):
    rows = records(capsys, DEEP)
    data = found(capsys, DEEP)["rows"]
    assert [list(r) for r in rows] == [list(r) for r in data]
    assert [{k: str("" if v is None else v) for k, v in r.items()} for r in data] == rows
    assert records(capsys, DEEP, "--by", "op")[0]["op"] == "linear"
    assert list(rows[0])[:7] == [
        *["module", "class", "macs", "contraction_flops", "attention_flops", "attention_flops_causal"],
        "elementwise_flops",
    ]


def test_network_without_ops(capsys, tmp_path):
    (tmp_path / "cli_same.py").write_text(
        "import torch\nclass Same(torch.nn.Module):\n    def forward(self, x): return x\n"
        "def build(): return Same(), torch.zeros(2, 3)\n"
    )
    assert main(["cost", "cli_same:build"]) == 0
    assert "FLOPs 0 0" in shown(capsys)
    assert records(capsys, "cli_same:build")[0]["total_flops"] == "0"
    capsys.readouterr()
    assert records(capsys, "cli_same:build", "--by", "op") == []


# --- other sizes -------------------------------------------------------------------------------------------


def test_other_sizes(capsys):
    """What --at gives is what the network built at that size costs."""
    there = found(capsys, DEEP, "--at", "b=6")
    built = found(capsys, DEEP, "--set", "batch=6")
    assert there["inputs"] == built["inputs"] == [{"name": "x", "dtype": "f32", "shape": [6, 5, 4]}]
    assert there["totals"] == built["totals"]
    assert there["rows"] == built["rows"]
    assert found(capsys, DEEP, "--batch", "6")["totals"] == built["totals"]
    assert found(capsys, DEEP, "--unbatch")["inputs"][0]["shape"] == [5, 4]
    assert found(capsys, DEEP, "--at", "b=7, n=3")["inputs"][0]["shape"] == [7, 3, 4]


def test_sizes_that_cannot_be(capsys):
    assert "no axis is named 'q'; there are b=2, n=5, c=4" in failed(capsys, "cost", DEEP, "--at", "q=8")
    assert main(["cost", DEEP, "--at", "c=8"]) == 2
    err = capsys.readouterr().err
    assert "axes that can be resized: b, n" in err
    assert "Traceback" not in err


def test_formulas(capsys):
    assert main(["cost", DEEP, "--formula", "--at", "b=6"]) == 0
    out = shown(capsys)
    flops = found(capsys, DEEP, "--at", "b=6")["totals"]["total_flops"]
    assert re.search(rf"flops = \d+\*b\*n = \S+ kFLOPs \({flops:,}\) at b=6, n=5", out)
    assert re.search(r"bytes = (\d+) = ", out)
    data = found(capsys, DEEP, "--formula", "--at", "b=6,n=9")
    assert (data["axes"], data["at"]) == ({"b": 2, "n": 5}, {"b": 6, "n": 9})
    total = found(capsys, DEEP, "--at", "b=6,n=9")["totals"]
    assert data["flops"]["value"] == total["total_flops"]
    assert data["reads"]["value"] == total["composite_reads"]
    assert data["writes"]["value"] == total["composite_writes"]
    assert data["bytes"]["value"] == total["weight_bytes"]
    elements = found(capsys, DEEP, "--formula", "--unit", "elements")
    assert elements["reads"]["value"] == found(capsys, DEEP)["totals"]["composite_elements_reads"]
    assert "q can't be resized; the free axes are b (2), n (5)" in failed(
        capsys, "cost", DEEP, "--formula", "--at", "q=8"
    )


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--json", "--csv"], "--json and --csv exclude each other"),
        (["--formula", "--csv"], "--formula goes with --at, --unit and --json only, not with --csv"),
        (["--formula", "--top", "3"], "not with --top"),
        (["--by", "layer"], "--by"),
        (["--traffic", "cached"], "--traffic"),
        (["--unit", "bits"], "--unit"),
        (
            ["--sort", "size"],
            "--sort: there is no 'size'; there are flops, peak, params, reads, writes, intensity, macs",
        ),
        (["--sort", "backward_macs"], "there is no 'backward_macs'"),
        (["--at", "b"], "--at takes AXIS=SIZE,AXIS=SIZE such as b=8,h=320, got 'b'"),
        (["--top", "0"], "--top"),
        (["--sort", "time"], "--sort: there is no 'time'"),
        (["--device", "abacus"], "there is no device 'abacus': give a device file (.json) or one of "),
    ],
)
def test_errors(capsys, args, message):
    assert message in failed(capsys, "cost", DEEP, *args)


def test_a_wrong_field_is_told_before_anything_is_loaded(capsys):
    assert "there is no 'size'" in failed(capsys, "cost", "nothing_here:build", "--sort", "size")


# --- tokens of transformers --------------------------------------------------------------------------------

GPT = (
    "transformers:GPT2LMHeadModel",
    "--meta",
    *(a for s in ("n_layer=2", "n_embd=32", "n_head=4") for a in ("--set", s)),
)


@pytest.mark.parametrize(("tokens", "new", "all_"), [(("--seq", "24"), 24, 24), (("--past", "40"), 1, 41)])
def test_a_whole_text_and_one_more_token(capsys, tokens: tuple[str, ...], new: int, all_: int) -> None:
    pytest.importorskip("transformers")
    layers = 2 * (12 * new * 32 * 32 + 2 * new * all_ * 32)
    totals = found(capsys, *GPT, *tokens)["totals"]
    assert totals["macs"] == layers + new * 32 * 50257


def test_only_texts_have_tokens(capsys) -> None:
    assert "--seq and --past are for transformers:CLASS" in failed(capsys, "cost", DEEP, "--past", "4")
