"""Real ONNX files with control flow as programs, compared with onnxruntime turn by turn.

    python -m conformance.onnx_programs FOLDER      # the files that the fetch of real models puts there

silero_vad.onnx (25 nested If on the sample rate and on shapes, state as input and output) is imported at the sizes
of 16 and of 8 kHz, and run over 60 chunks of sound: by numpy, torch, TorchScript, written as ONNX again by onnxruntime,
specialised for the rate, and by the file without If that its authors ship. Each run goes on with its own state.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tdagger as td

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "conformance-onnx.md"
TITLE = "## Real files with control flow"
#: Samples of a chunk by the rate, what came before it among them.
CHUNKS = {16000: 576, 8000: 288}
_MANY = 60
#: Allowed of the largest number of each output, or of 1.
ALLOWED = 1e-5

Step = Callable[[Any, Any], Sequence[Any]]


def ways(folder: Path, rate: int) -> dict[str, Step]:
    """What makes an output and a state of a chunk and a state, by name; the first is onnxruntime with the file."""
    import onnxruntime
    import torch

    def session(model: Any) -> Any:
        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    path = next(folder.rglob("silero_vad.onnx"))
    sizes = {"input.0": 1, "input.1": CHUNKS[rate], "state.1": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # at the size of one rate the other's branch can't be run
        program = td.Program.from_onnx(path, sizes=sizes)
    file, again = session(str(path)), session(program.to_onnx().SerializeToString())
    module, script = program.to_torch(copy=True), program.to_torchscript(copy=True)
    one = program.specialize(sr=rate).dag()
    runner = program.runner()

    def by_torch(network: Any) -> Step:
        def step(x: Any, state: Any) -> Sequence[Any]:
            with torch.no_grad():
                return [t.numpy() for t in network(torch.from_numpy(x), torch.from_numpy(state), torch.tensor(rate))]

        return step

    found: dict[str, Step] = {
        "onnxruntime": lambda x, s: file.run(None, {"input": x, "state": s, "sr": np.array(rate)}),
        "numpy": lambda x, s: runner(x, s, np.int64(rate)),
        "torch": by_torch(module),
        "TorchScript": by_torch(script),
        "ONNX again": lambda x, s: again.run(None, {"input": x, "state": s, "sr": np.array(rate)}),
        f"specialize(sr={rate})": one.run,
    }
    plain = next(folder.rglob("silero_vad_openvino_16k.onnx"), None)
    if rate == 16000 and plain is not None:
        found["silero_vad_openvino_16k.onnx"] = td.from_onnx(plain).run
    return found


def compared(folder: Path, rate: int) -> list[tuple[str, float, float]]:
    """The largest differences of the output and of the state over all chunks, by the way; of the state's size."""
    steps = ways(folder, rate)
    states = {name: np.zeros((2, 1, 128), "f") for name in steps}
    rng = np.random.default_rng(0)
    worst = {name: [0.0, 0.0] for name in steps}
    samples = CHUNKS[rate]
    for k in range(_MANY):
        t = (np.arange(samples) + k * samples) / rate
        sound = 0.3 * np.sin(2 * np.pi * (120 + 3 * k) * t) * np.sin(6 * np.pi * t) + 0.02 * rng.normal(size=samples)
        x = sound.astype("f")[None]
        wanted: Any = None
        for name, step in steps.items():
            out, states[name] = step(x, states[name])
            wanted = out if wanted is None else wanted
            size = max(1.0, float(abs(states["onnxruntime"]).max()))
            apart = abs(out - wanted).max(), abs(states[name] - states["onnxruntime"]).max() / size
            worst[name] = [max(a, float(b)) for a, b in zip(worst[name], apart, strict=True)]
    return [(name, *worst[name]) for name in steps if name != "onnxruntime"]


def main(given: Sequence[str]) -> int:
    """Compare, and write the page."""
    folder = Path(given[0])
    lines = [
        TITLE,
        "",
        "Written by `make conformance-onnx-programs FILES=folder` (conformance/onnx_programs.py says how).",
        "",
        f"silero_vad.onnx over {_MANY} chunks with state; the largest differences from onnxruntime with the file, of",
        "the state as a part of its largest number.",
        "",
        "| rate | way | output | state |",
        "|---|---|---|---|",
    ]
    good = True
    for rate in CHUNKS:
        for name, output, state in compared(folder, rate):
            good &= max(output, state) <= ALLOWED
            lines.append(f"| {rate} | {name} | {output:.1e} | {state:.1e} |")
            print(lines[-1])
    text = PAGE.read_text()
    before, found, rest = text.partition(TITLE)
    after = rest[rest.find("\n## ") :] if "\n## " in rest else ""
    PAGE.write_text((before if found else before.rstrip() + "\n\n") + "\n".join(lines) + "\n" + after)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
