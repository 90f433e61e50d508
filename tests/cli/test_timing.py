"""``tdagger profile``, ``tdagger predict``, ``tdagger calibrate``."""

import json

import pytest

from tdagger.cli import main
from tests.cli.helpers import failed, shown

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
torch.set_num_threads(1)

DEEP = "cli_nets:deep"


def found(capsys, *args: str) -> dict:
    assert main([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_profile_by_op(capsys):
    assert main(["profile", DEEP, "--runs", "2"]) == 0
    text = shown(capsys)
    assert "median of 2 runs, 1 thread" in text
    assert "linear 6 " in text
    assert "layer_norm 4 " in text


def test_profile_by_value_and_module(capsys):
    assert main(["profile", DEEP, "--runs", "1", "--by", "value", "--top", "3"]) == 0
    out = capsys.readouterr().out
    assert "more; --top N and --json show them" in out
    assert main(["profile", DEEP, "--runs", "1", "--by", "module"]) == 0
    assert "layers.3.fc" in shown(capsys)


def test_profile_as_json(capsys):
    data = found(capsys, "profile", DEEP, "--runs", "3", "--device", "h100", "--threads", "2")
    assert (data["runs"], data["threads"], data["source"]) == (3, 2, DEEP)
    assert data["device"] == {"name": "h100", "calibrated": False}
    assert {r["name"] for r in data["by_op"]} >= {"linear", "layer_norm", "add"}
    assert data["predicted_seconds"] == pytest.approx(sum(r["predicted_seconds"] for r in data["by_value"]))


def test_profile_at_other_sizes_beside_predictions(capsys):
    assert main(["profile", DEEP, "--runs", "1", "--resize", "b=3", "--device", "x86-avx2-core"]) == 0
    text = shown(capsys)
    assert "predicted" in text
    assert "not calibrated: a roofline of published peaks" in text


def test_predict(capsys):
    assert main(["predict", DEEP, "--device", "h100", "--meta"]) == 0
    text = shown(capsys)
    assert "on NVIDIA H100 SXM 80 GB" in text
    assert "note: not calibrated" in text
    assert "matmul" in text
    assert main(["predict", DEEP, "--device", "h100", "--by", "module"]) == 0
    assert "layers.0.norm" in shown(capsys)


def test_predict_grows_with_sizes(capsys):
    small = found(capsys, "predict", DEEP, "--device", "raspberry-pi-5")
    large = found(capsys, "predict", DEEP, "--device", "raspberry-pi-5", "--at", "b=4000")
    assert large["seconds"] > 10 * small["seconds"]


@pytest.mark.parametrize(
    ("name", "notice"), [("unknown", "partial: nothing is known of"), ("choosing", "not calibrated")]
)
def test_predict_odd_networks(capsys, name, notice):
    data = found(capsys, "predict", f"cli_nets:{name}", "--device", "h100")
    assert any(notice in n for n in data["notices"])


def test_refusals(capsys, tmp_path):
    assert "there is no device 'cray': give a device file (.json) or one of a100" in failed(
        capsys, "predict", DEEP, "--device", "cray"
    )
    (tmp_path / "here.json").write_text("")
    assert "here.json is there already; --force overwrites it" in failed(capsys, "calibrate", "-o", "here.json")
    assert "there is no such folder" in failed(capsys, "calibrate", "-o", "nowhere/d.json")


def test_calibrate_writes_a_device_file(capsys, monkeypatch):
    from tdagger.frameworks.torch.measure import calibration

    monkeypatch.setattr(calibration, "LEAST_NETWORKS", 2)
    monkeypatch.setattr(calibration, "NETWORKS", 6)
    assert main(["calibrate", "-o", "mine.json", "--seconds", "0.01", "--name", "mine"]) == 0
    assert "matmul" in shown(capsys)
    data = found(capsys, "predict", DEEP, "--device", "mine.json")
    assert data["calibrated"] is True
    assert data["seconds"] > 0
