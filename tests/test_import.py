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
