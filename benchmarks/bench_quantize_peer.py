"""Our i8 file of a network of timm beside that of ai-edge-quantizer, made of our float file: time of the interpreter.

PYTHONPATH=.:folder-of-ai-edge-quantizer python benchmarks/bench_quantize_peer.py resnet18 mobilenetv2_100
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe

import tdagger as td


def files(name: str, folder: Path) -> dict[str, Path]:
    """The float file, ours of i8, and the peer's."""
    torch.manual_seed(0)
    data = [torch.rand(1, 3, 224, 224) for _ in range(2)]
    dag = td.from_torch(timm.create_model(name, pretrained=False).eval(), data[0])
    found = {n: folder / f"{n}.tflite" for n in ("float", "own", "peer")}
    dag.to_tflite(found["float"])
    td.quantize(dag, data, target="tflite", correct=False).to_tflite(found["own"])
    peer = quantizer.Quantizer(str(found["float"]))
    peer.load_quantization_recipe(recipe.static_wi8_ai8())
    key, signature = next(iter(Interpreter(str(found["float"])).get_signature_list().items()))
    ranges = peer.calibrate({key: [{signature["inputs"][0]: x.numpy()} for x in data]})
    peer.quantize(ranges).export_model(str(found["peer"]), overwrite=True)
    return found


def main(names: list[str]) -> None:
    """Medians of processor time, by turns."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            runners: dict[str, Any] = {n: Interpreter(str(p), num_threads=1)
                                       for n, p in files(name, Path(folder)).items()}  # fmt: skip
            times: dict[str, list[float]] = {n: [] for n in runners}
            for runner in runners.values():
                runner.allocate_tensors()
                place = runner.get_input_details()[0]
                runner.set_tensor(place["index"], np.zeros(place["shape"], place["dtype"]))
                runner.invoke()
            for _ in range(25):
                for n, runner in runners.items():
                    start = time.process_time()
                    runner.invoke()
                    times[n].append(time.process_time() - start)
        ratio = np.median(np.array(times["own"]) / np.array(times["peer"]))
        told = ", ".join(f"{n} {1e3 * np.median(t):.2f} ms" for n, t in times.items())
        print(f"{name}: {told}; ours takes {ratio:.2f} of the peer's (load {os.getloadavg()[0]:.1f})")


if __name__ == "__main__":
    main(sys.argv[1:])
