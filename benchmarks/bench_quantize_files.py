"""ONNX files of strangers, quantized and put to their job on real inputs, beside onnxruntime's own quantizers.

- lines: text recognition (rapidocr's ``PP-OCRv6_rec_small.onnx``) of rendered lines: the share of characters read right
- turned: which way text is up (rapidocr's ``ch_ppocr_mobile_v2.0_cls_mobile.onnx``): the share told right
- types: what a file is by its bytes (magika's ``model.onnx``), of this Python's own files: the share told right
- notes: which notes sound (basic-pitch's ``nmp.onnx``), of chords made here: F1 of notes in frames

"job" is that, "same" how often the answer is the float network's. What calibrates isn't what is measured. Latencies are
of one thread, in turns, the median of processor times. On processors without VNNI weights have 7 bits on both sides
(``x86-avx2``, ``reduce_range=True``), since sums of u8 times i8 saturate there.

The files come from packages, which are downloaded and unpacked, not installed: ``pip download --no-deps
rapidocr==3.10.0 magika==1.0.3 basic-pitch==0.4.0``.

Usage: ``python benchmarks/bench_quantize_files.py FOLDER [JOB ...]``, a folder somewhere in which the files are
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import site
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from _zoo import quiet
from bench_prune_encoder import SAID, SUBJECTS
from PIL import Image, ImageDraw, ImageFont

import tdagger as td
from tdagger.quantization.profiles import profile_of
from tdagger.quantization.quality.local import decibels

Tensor = np.ndarray[Any, Any]
TURNS = 15


@dataclass
class Job:
    """A file and what it is for.

    ``examples`` are inputs, each with the right answer; ``answer`` reads one of what the network gives; ``right`` is
    how much of an answer is right, from 0 to 1. The first ``calibrate`` examples calibrate.
    """

    path: Path
    examples: list[tuple[Tensor, Any]]
    calibrate: int
    answer: Callable[[list[Tensor]], Any]
    right: Callable[[Any, Any], float]


# Text.


def line(text: str, height: int, width: int, size: int) -> Tensor:
    """A line of text, black on grey, as OCR takes it: ``f32[1 3 height width]`` from -1 to 1."""
    rng = np.random.default_rng(len(text) + size)
    image = Image.new("L", (width, height), int(rng.integers(170, 255)))
    ImageDraw.Draw(image).text(
        (4, (height - size) // 2 - 2), text, int(rng.integers(0, 80)), ImageFont.load_default(size)
    )
    x = np.asarray(image, np.float32) + rng.normal(scale=6, size=(height, width))
    return np.repeat(np.clip(x / 127.5 - 1, -1, 1)[None, None].astype(np.float32), 3, 1)


def texts(count: int) -> list[str]:
    """Lines of a few words and numbers."""
    draw = random.Random(0)
    words = " ".join([*SUBJECTS, *SAID]).split()
    return [f"{draw.choice(words)} {draw.choice(words)} {draw.randrange(1000)}"[:24] for _ in range(count)]


def lines(folder: Path) -> Job:
    path = next(folder.rglob("PP-OCRv6_rec_small.onnx"))
    said = next(p.value for p in onnx.load(path).metadata_props if p.key == "character")
    letters = ["", *said.split("\n"), " "]

    def answer(out: list[Tensor]) -> str:
        best = out[0][0].argmax(-1)
        return "".join(letters[i] for i, before in zip(best, [0, *best[:-1]], strict=True) if i and i != before)

    examples = [(line(t, 48, 320, 22 + i % 9), t) for i, t in enumerate(texts(80))]

    def right(found: str, wanted: str) -> float:
        return difflib.SequenceMatcher(None, found, wanted, autojunk=False).ratio()

    return Job(path, examples, 16, answer, right)


def turned(folder: Path) -> Job:
    path = next(folder.rglob("ch_ppocr_mobile_v2.0_cls_mobile.onnx"))
    examples: list[tuple[Tensor, Any]] = []
    for i, text in enumerate(texts(160)):
        x = line(text, 48, 192, 18 + i % 12)
        examples.append((np.ascontiguousarray(x[:, :, ::-1, ::-1]) if i % 2 else x, i % 2))
    return Job(path, examples, 32, lambda out: int(out[0][0].argmax()), lambda a, b: float(a == b))


# Files.

#: What magika calls files of a suffix.
TYPES = {
    ".py": "python", ".md": "markdown", ".json": "json", ".so": "elf", ".png": "png", ".pyc": "pythonbytecode",
    ".c": "c", ".css": "css", ".npz": "npz", ".npy": "npy", ".svg": "svg", ".html": "html", ".ttf": "ttf",
    ".cpp": "cpp", ".js": "javascript", ".toml": "toml", ".yaml": "yaml", ".cu": "cpp", ".pdf": "pdf",
}  # fmt: skip
#: Files of a suffix at most.
EACH = 30


def types(folder: Path) -> Job:
    path = next(p for p in folder.rglob("model.onnx") if "magika" in str(p))
    names = magika_labels(folder)
    roots = [*map(Path, site.getsitepackages()), Path(sysconfig.get_paths()["stdlib"])]
    found: dict[str, list[Path]] = {s: [] for s in TYPES}
    for root in roots:
        for each in sorted(root.rglob("*")):
            if each.suffix in found and each.is_file() and each.stat().st_size > 200:
                found[each.suffix].append(each)
    draw = random.Random(0)
    chosen = [p for paths in found.values() for p in draw.sample(paths, min(len(paths), EACH))]
    draw.shuffle(chosen)
    examples = [(ends(p.read_bytes()), TYPES[p.suffix]) for p in chosen]
    return Job(path, examples, 32, lambda out: names[int(out[0][0].argmax())], lambda a, b: float(a == b))


def magika_labels(folder: Path) -> list[str]:
    """The labels of its results, which its package has beside the file."""
    config = next(p for p in folder.rglob("config.min.json") if "magika" in str(p))
    return json.loads(config.read_text())["target_labels_space"]


def ends(content: bytes) -> Tensor:
    """The first and last 1024 bytes, without white space around: ``i32[1 2048]``, 256 where there is nothing."""
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    gap = [256] * (1024 - len(first)), [256] * (1024 - len(last))
    return np.array([[*first, *gap[0], *gap[1], *last]], np.int32)


# Sound.


def notes(folder: Path) -> Job:
    path = next(folder.rglob("nmp.onnx"))
    names = [o.name for o in onnx.load(path).graph.output]
    at = names.index("StatefulPartitionedCall:1")

    def answer(out: list[Tensor]) -> Tensor:
        return out[at][0] > 0.5

    def right(found: Tensor, wanted: Tensor) -> float:
        return 2 * float((found & wanted).sum()) / max(float(found.sum() + wanted.sum()), 1.0)

    return Job(path, [chord(seed) for seed in range(40)], 8, answer, right)


def chord(seed: int) -> tuple[Tensor, Tensor]:
    """Two seconds of notes with overtones that fade, and which of 88 keys sound in each of 172 frames."""
    rng = np.random.default_rng(seed)
    rate, samples, frames = 22050, 43844, 172
    time_ = np.arange(samples) / rate
    sound, sounding = rng.normal(scale=1e-3, size=samples), np.zeros((frames, 88), bool)
    for start in np.arange(0, 1.8, 0.45):
        for key in rng.choice(np.arange(20, 64), int(rng.integers(1, 4)), replace=False):
            pitch = 27.5 * 2 ** (key / 12)
            held = (time_ >= start) & (time_ < start + 0.42)
            wave = sum(np.sin(2 * np.pi * pitch * n * (time_ - start)) / n**1.5 for n in range(1, 6))
            sound += np.where(held, 0.2 * wave * np.exp(-2 * (time_ - start)), 0)
            sounding[int(start * 86.13) : int((start + 0.42) * 86.13), key] = True
    return sound.astype(np.float32).reshape(1, samples, 1), sounding


JOBS: dict[str, Callable[[Path], Job]] = {"lines": lines, "turned": turned, "types": types, "notes": notes}


# What is compared.


def session(model: Any) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(s: ort.InferenceSession, x: Tensor) -> list[Tensor]:
    return s.run(None, {s.get_inputs()[0].name: x})


def onnxruntimes(dag: td.TensorDAG, path: Path, folder: Path, data: list[Tensor], narrow: bool, dynamic: bool) -> Path:
    """What onnxruntime's quantizer makes of a file; of one as tdagger writes it where that is older than opset 13."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if next(o.version for o in onnx.load(path).opset_import if not o.domain) < 13:  # scales per channel began there
        path = folder / "newer.onnx"
        dag.to_onnx(path)
    name = session(path).get_inputs()[0].name

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter({name: x} for x in data)

        def get_next(self) -> Any:
            return next(self.batches, None)

    ready, to = folder / "ready.onnx", folder / "theirs.onnx"
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    how: dict[str, Any] = {"per_channel": True, "reduce_range": narrow, "weight_type": QuantType.QInt8}
    if dynamic:
        quantize_dynamic(str(ready), str(to), **how)
    else:
        quantize_static(str(ready), str(to), Reader(), activation_type=QuantType.QUInt8, **how)
    return to


def measure(name: str, folder: Path, scratch: Path, narrow: bool) -> None:
    job = JOBS[name](folder)
    data = [x for x, _ in job.examples[: job.calibrate]]
    test = job.examples[job.calibrate :]
    x = next(iter(onnx.load(job.path).graph.input)).name
    dag = td.from_onnx(job.path, inputs={x: data[0].shape})
    target = "x86-avx2" if narrow else "x86"

    def ours(**how: Any) -> Callable[[], Any]:
        return lambda: td.quantize(dag, **how).to_onnx().SerializeToString()

    made: dict[str, Callable[[], Any]] = {
        "float": lambda: job.path,
        "tdagger, static": ours(data=data, target=target),
        "tdagger, static, `smooth=True`": ours(data=data, target=target, smooth=True),
        "tdagger, static, observer `read`": ours(
            data=data, target=target, activation=replace(profile_of(target).activation, observer="read")
        ),
        "tdagger, dynamic": ours(target="x86-dynamic"),
        "onnxruntime, static": lambda: onnxruntimes(dag, job.path, scratch, data, narrow, False),
        "onnxruntime, dynamic": lambda: onnxruntimes(dag, job.path, scratch, data, narrow, True),
    }
    sessions: dict[str, ort.InferenceSession] = {}
    seconds: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for by, make in made.items():
        start = time.process_time()
        try:
            model = make()
            seconds[by] = time.process_time() - start
            sizes[by] = len(model) if isinstance(model, bytes) else model.stat().st_size
            sessions[by] = session(model)
        except Exception as error:  # a quantizer's failure is a row
            print(
                f"| {name} | {by} | {type(error).__name__}: {str(error).splitlines()[0][:90]} | | | | | |", flush=True
            )
    floats = [run(sessions["float"], x) for x, _ in test]
    times: dict[str, list[float]] = {by: [] for by in sessions}
    for _ in range(TURNS):
        for by, s in sessions.items():
            start = time.process_time()
            run(s, test[0][0])
            times[by].append(time.process_time() - start)
    for by, s in sessions.items():
        outs = [run(s, x) for x, _ in test]
        answers = [job.answer(out) for out in outs]
        right = np.mean([job.right(a, wanted) for a, (_, wanted) in zip(answers, test, strict=True)])
        same = np.mean([np.mean(a == job.answer(out)) for a, out in zip(answers, floats, strict=True)])
        pairs = [(a, b) for f, o in zip(floats, outs, strict=True) for a, b in zip(f, o, strict=True)]
        noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
        quality = decibels(sum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs), noise)
        cells = [name, by, f"{100 * right:.1f}", f"{100 * same:.1f}", f"{quality:.1f}",
                 f"{1e3 * np.median(times[by]):.1f}", f"{seconds[by]:.1f}", f"{sizes[by] / 1e6:.2f}"]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("jobs", nargs="*", default=list(JOBS))
    options = parser.parse_args()
    narrow = "vnni" not in Path("/proc/cpuinfo").read_text()
    print(f"weights of {7 if narrow else 8} bits\n")
    print("| job | by | job % | same % | SQNR dB | ms | s to quantize | MB |\n|---|---|---:|---:|---:|---:|---:|---:|")
    for job in options.jobs:
        with quiet(), tempfile.TemporaryDirectory() as scratch:
            measure(job, options.folder, Path(scratch), narrow)


if __name__ == "__main__":
    main()
