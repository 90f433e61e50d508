"""convert writes .tflite files, which other commands take."""

import pytest

from tdagger.cli import main
from tests.cli.helpers import failed

torch = pytest.importorskip("torch")
pytest.importorskip("typer")
pytest.importorskip("ai_edge_litert")


class Net(torch.nn.Module):
    """Takes an image."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net().eval(), (torch.rand(1, 3, 8, 8),)


def test_out_and_in_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", f"{__name__}:net", "a.tflite"]) == 0
    assert main(["convert", f"{__name__}:net", "b.tflite", "--resize", "b=3"]) == 0
    capsys.readouterr()
    assert main(["verify", "a.tflite", "--numpy"]) == 0
    assert main(["verify", "b.tflite"]) == 0
    assert main(["convert", "a.tflite", "c.onnx"]) == 0
    capsys.readouterr()
    assert "is there already" in failed(capsys, "convert", f"{__name__}:net", "a.tflite")
