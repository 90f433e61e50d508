"""`import tdagger` is light: numpy, and nothing heavier."""

import subprocess
import sys

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "onnx",
    "onnx_ir",
    "coremltools",
    "jax",
    "tensorflow",
}
HEAVY |= {"typer", "rich"}  # the CLI's


def test_import_is_light() -> None:
    code = f"import sys, tdagger; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_running_is_light() -> None:
    """A network runs with numpy alone."""
    code = f"""
import sys, numpy as np, tdagger as td
from tdagger.interpret import run
x, w = td.input("x", (1, 3, 8, 8)), td.parameter("w", (4, 3, 3, 3))
y = td.softmax(td.relu(td.convolution(x, w, stride=1, padding=1, dilation=1)), axis=1)
weights = {{"w": np.ones((4, 3, 3, 3), np.float32)}}
out, _ = run(td.Graph({{"x": x}}, {{"y": y}}), {{"x": np.ones((1, 3, 8, 8), np.float32)}}, weights)
print(out["y"].shape, sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(1, 4, 8, 8) []"
