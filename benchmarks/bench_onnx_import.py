"""``td.from_onnx`` against ``onnx.load`` and ``onnx.shape_inference.infer_shapes``, on the same files.

Processor time on one thread, both in one process and in turns after one run of each; the median of each, and their
ratio. The files are resnet50 and swin as torch.onnx.export writes them, and a chain of 10,000 nodes. Then one of
100,000 nodes: its time for a node over that of the 10,000. Goals: at most 1.5 on each, at most 1.3 for a node.

Usage: ``python benchmarks/bench_onnx_import.py [--runs N]``
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

import tdagger as td

GOAL, LINEAR = 1.5, 1.3


def chain(path: Path, nodes: int) -> None:
    """Layers of a product, a bias, an activation and a residual, ``nodes`` nodes in all."""
    rng = np.random.default_rng(0)
    made: list[Any] = []
    tensors: list[Any] = []
    at = "x"
    for i in range(nodes // 4):
        weight, bias = f"layer.{i}.weight", f"layer.{i}.bias"
        tensors.append(numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), weight))
        tensors.append(numpy_helper.from_array(rng.standard_normal(8).astype(np.float32), bias))
        place = f"/layer/layer.{i}"
        made += [
            helper.make_node("MatMul", [at, weight], [f"m{i}"], f"{place}/MatMul"),
            helper.make_node("Add", [f"m{i}", bias], [f"a{i}"], f"{place}/Add"),
            helper.make_node("Relu", [f"a{i}"], [f"r{i}"], f"{place}/Relu"),
            helper.make_node("Add", [at, f"r{i}"], [f"y{i}"], f"{place}/Add_1"),
        ]
        at = f"y{i}"
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4, 8]) for n in ("x", at)]
    graph = helper.make_graph(made, "chain", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def exported(path: Path, name: str) -> None:
    """A network of timm with random weights, as torch writes it."""
    import timm
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = timm.create_model(name).eval()
        torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), str(path), dynamo=False, opset_version=17)


def seconds(work: Callable[[str], Any], path: Path) -> float:
    """Processor seconds of one run, with the garbage of others gone; what it gives is freed after."""
    gc.collect()
    start = time.process_time()
    held = work(str(path))
    found = time.process_time() - start
    del held
    return found


def theirs(path: str) -> Any:
    return shape_inference.infer_shapes(onnx.load(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print(f"{'file':<32} {'load + infer':>12} {'from_onnx':>10} {'ratio':>6}")
    own: dict[str, float] = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {n: Path(folder) / f"{n}.onnx" for n in ("resnet50", "swin_tiny_patch4_window7_224")}
        for name, path in files.items():
            exported(path, name)
        files |= {n: Path(folder) / f"{n}.onnx" for n in ("10,000 nodes", "100,000 nodes")}
        for name in ("10,000 nodes", "100,000 nodes"):
            chain(files[name], int(name.partition(" ")[0].replace(",", "")))
        for name, path in files.items():
            seconds(theirs, path), seconds(td.from_onnx, path)
            pairs = [(seconds(theirs, path), seconds(td.from_onnx, path)) for _ in range(runs)]
            base, own[name] = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratios[name] = own[name] / base
            print(f"{name:<32} {base:11.3f}s {own[name]:9.3f}s {ratios[name]:6.2f}", flush=True)
    each = own["100,000 nodes"] / own["10,000 nodes"] / 10
    ratios.pop("100,000 nodes")
    print(f"worst {max(ratios.values()):.2f}, goal {GOAL}")
    print(f"a node of 100,000 over one of 10,000: {each:.2f}, goal {LINEAR}")


if __name__ == "__main__":
    main()
