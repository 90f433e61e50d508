"""silero-vad's TorchScript file as a program: two sample rates, 36 ifs, state inside.

    python -m conformance.silero FOLDER            # where the fetch of real models puts silero-vad

It is imported and run over 60 chunks with state at both rates, beside torch.jit, by numpy, as the module of
``to_torch()`` and as TorchScript. Specialised to one rate it must be one network; that of 16 kHz is compared with the
two files of that rate alone that the package has, run by onnxruntime. Then it is compared with silero_vad.onnx, which
computes the same and takes its state as an input: both in their own runtimes, both as programs, and both specialised.
Prints a line each, and fails above 1e-5: of the largest number of a state, which is as large as 34, and of 1 elsewhere.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tdagger as td

ALLOWED, CHUNKS = 1e-5, 60
SAMPLES = {16000: 512, 8000: 256}
#: So many samples of the chunk before a file of ONNX takes besides.
BEFORE = {16000: 64, 8000: 32}


def chunks(rate: int) -> Iterator[Any]:
    """Noise that is now louder, now quieter."""
    generator = torch.Generator().manual_seed(rate)
    for k in range(CHUNKS):
        yield torch.randn(1, SAMPLES[rate], generator=generator) * (0.1 + 0.5 * (k % 7))


def told(what: str, error: float, more: str = "") -> None:
    """A line of the result; the script ends where the error is too large."""
    print(f"{what:52} {error:.1e}  {more}".rstrip(), flush=True)
    if not error <= ALLOWED:
        sys.exit(f"{what}: {error:.1e} is above {ALLOWED:.0e}")


def of_program(program: td.Program, *more: int) -> dict[str, Callable[[Any], Any]]:
    """Ways to run a program, each with state of its own."""
    runner = program.runner()
    arrays = [np.int64(n) for n in more]
    tensors = [torch.tensor(n) for n in more]
    modules = {"to_torch": program.to_torch(copy=True), "to_torchscript": program.to_torchscript(copy=True)}
    ways: dict[str, Callable[[Any], Any]] = {"numpy": lambda x: runner(x.numpy(), *arrays)}
    return ways | {n: (lambda x, m=m: m(x, *tensors).numpy()) for n, m in modules.items()}


def compare(what: str, program: td.Program, wanted: list[Any], rate: int, *more: int) -> None:
    """The largest difference of each way over all chunks."""
    for name, run in of_program(program, *more).items():
        found = [np.asarray(run(x)) for x in chunks(rate)]
        error = max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True))
        told(f"{rate} Hz, {name}{what and ', '}{what}", error)


def alone(folder: Path) -> list[Any]:
    """What the file of 16 kHz without ifs gives: it takes each chunk with the last 64 samples of the one before."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "silero_vad_openvino_16k.onnx")
    before, state, found = np.zeros((1, 64), "f"), np.zeros((2, 1, 128), "f"), list[Any]()
    for x in chunks(16000):
        whole = np.concatenate([before, x.numpy()], 1)
        before = whole[:, -64:]
        out, state = session.run(None, {"input": whole, "state": state})
        found.append(out)
    return found


def in_one(folder: Path) -> list[Any]:
    """What the file of 16 kHz gives that takes all chunks at once."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "silero_vad_16k_sequence.onnx")
    whole = np.concatenate([np.zeros((1, 64), "f"), *[x.numpy() for x in chunks(16000)]], 1)
    windows = np.stack([whole[0, 512 * k : 512 * k + 576] for k in range(CHUNKS)])
    zeros = np.zeros((1, 1, 128), "f")
    out = session.run(None, {"input": windows, "h": zeros, "c": zeros})[0]
    return [out[k : k + 1, None] for k in range(CHUNKS)]


def stepped(run: Callable[[Any, Any], Any], rate: int) -> tuple[list[Any], list[Any]]:
    """What a network gives that takes each chunk behind the last samples of the one before, and its state."""
    extra = BEFORE[rate]
    before, state = np.zeros((1, extra), "f"), np.zeros((2, 1, 128), "f")
    outs, states = list[Any](), list[Any]()
    for x in chunks(rate):
        whole = np.concatenate([before, x.numpy()], 1)
        before = whole[:, -extra:]
        out, state = run(whole, state)
        outs.append(out)
        states.append(state)
    return outs, states


def twins(folder: Path, program: td.Program, rate: int) -> None:
    """The script and silero_vad.onnx beside each other: what they give, and the state after each chunk."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "silero_vad.onnx")
    sizes = {"input.0": 1, "input.1": SAMPLES[rate] + BEFORE[rate], "state.1": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at the size of one rate the other's branch can't be run
        other = td.Program.from_onnx(folder / "silero_vad.onnx", sizes=sizes)
    plain = other.specialize(sr=rate).dag()
    print(f"silero_vad.onnx, specialised: {plain.graph!r}", flush=True)
    sr = np.array(rate)

    def alone(dag: td.TensorDAG) -> tuple[list[Any], list[Any]]:
        runner = dag.to_torch(copy=True)
        return [runner(x).numpy() for x in chunks(rate)], list[Any]()

    def of_script(run: Callable[[Any], Any], state: Callable[[], Any]) -> tuple[list[Any], list[Any]]:
        found = [(np.asarray(run(x)), np.array(state())) for x in chunks(rate)]
        return [out for out, _ in found], [s for _, s in found]

    script: Any = torch.jit.load(folder / "silero_vad.jit")  # its state is as it begins
    runner = program.runner()
    held = next(n for n, w in program.state.items() if w.type.shape == (2, 1, 128))
    pairs = {
        "torch.jit and onnxruntime": (
            of_script(lambda x: script(x, rate).numpy(), lambda: script._state.numpy()),
            stepped(lambda x, s: session.run(None, {"input": x, "state": s, "sr": sr}), rate),
        ),
        "both as programs": (
            of_script(lambda x: runner(x.numpy(), sr), lambda: runner.state[held]),
            stepped(lambda x, s: other.run(x, s, sr), rate),
        ),
        "both specialised": (alone(program.specialize(sr=rate).dag()), stepped(plain.run, rate)),
    }
    for what, ((outs, states), (others, more)) in pairs.items():
        told(f"{rate} Hz, {what}", max(float(np.abs(a - b).max()) for a, b in zip(outs, others, strict=True)))
        if states:
            largest = max(float(np.abs(s).max()) for s in states)
            error = max(float(np.abs(a - b).max()) for a, b in zip(states, more, strict=True)) / largest
            told(f"{rate} Hz, {what}, state", error, f"of its largest number, {largest:.1f}")


@torch.no_grad()
def main() -> None:
    """See the module."""
    folder = Path(sys.argv[1]) / "silero-vad/silero_vad/data"
    path = folder / "silero_vad.jit"
    for rate, samples in SAMPLES.items():
        begun = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the way of multiples of 16 kHz, whose size is a number of the data
            program = td.Program.from_torchscript(path, (torch.zeros(1, samples), rate), partial=True)
        print(f"{program!r}, read in {time.process_time() - begun:.1f} s", flush=True)
        script: Any = torch.jit.load(path)
        wanted = [script(x, rate).numpy() for x in chunks(rate)]
        compare("", program, wanted, rate, rate)
        plain = program.specialize(sr=rate)
        print(f"specialised: {plain.dag().graph!r}, state {sorted(plain.dag().graph.updates)}", flush=True)
        compare("specialised", plain, wanted, rate)
        if rate == 16000:
            compare("beside the file without ifs", plain, alone(folder), rate)
            compare("beside the file of all chunks", plain, in_one(folder), rate)
        twins(folder, program, rate)


if __name__ == "__main__":
    main()
