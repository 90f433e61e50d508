"""Static quantization beside onnxruntime's own quantizer (U8S8, per channel), on the same data, in one run.

For each network: the SQNR of its results on images that neither saw, of the float network's; the latency by
onnxruntime on one thread, in turns, the least of several; how long quantizing takes. ``uncorrected``: with biases as
they were. Weights are random (timm's, a seed): the figures are of arithmetic, not of accuracy.

``--repairs`` shows the SQNR of each repair instead, with sums of products that are exact on every processor.

Usage: ``python benchmarks/bench_quantize.py [--repairs] [NETWORK ...]``
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import timm
import torch
from _zoo import quiet

import tdagger as td
from tdagger.quantization.quality.local import decibels

NETWORKS = ("resnet50", "vit_base_patch16_224", "mobilenetv3_large_100", "efficientnet_b0")
IMAGES, TURNS = 8, 8
BOTH: dict[str, Any] = {"equalize": True, "compensate": "adaptive"}
REPAIRS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("onnxruntime", {}), ("onnxruntime", {"equalize": True}), ("onnxruntime", {"smooth": True}),
    ("onnxruntime", {"compensate": True}), ("onnxruntime", {"compensate": "adaptive"}), ("onnxruntime", BOTH),
    ("onnxruntime-bytes", {}), ("onnxruntime-bytes", BOTH),
)  # fmt: skip


def images(count: int, seed: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, 3, 224, 224)).astype(np.float32) for _ in range(count)]


def session(path: Path, exact: bool = False) -> Any:
    options = ort.SessionOptions()
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(s: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return s.run(None, {s.get_inputs()[0].name: x})[0]


def by_onnxruntime(path: Path, to: Path, data: list[dict[str, Any]]) -> float:
    """Quantize a file with onnxruntime's quantize_static; the seconds it took."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter(data)

        def get_next(self) -> Any:
            return next(self.batches, None)

    start = time.perf_counter()
    ready = path.with_suffix(".ready.onnx")
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready), str(to), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return time.perf_counter() - start


def measure(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    data, test = images(IMAGES, 1), images(IMAGES, 2)
    dag = td.from_torch(model, torch.from_numpy(data[0]))
    files = {k: folder / f"{k}.onnx" for k in ("float", "tdagger", "uncorrected", "onnxruntime")}
    dag.to_onnx(files["float"])
    source = td.from_onnx(files["float"])
    start = time.perf_counter()
    small = td.quantize(source, data, "onnxruntime")
    for weight in small.weights:  # they are made when they are asked for
        _ = small.weights[weight]
    seconds = {"float": 0.0, "tdagger": time.perf_counter() - start}
    small.to_onnx(files["tdagger"])
    start = time.perf_counter()
    plain = td.quantize(source, data, "onnxruntime", correct=False)
    plain.to_onnx(files["uncorrected"])
    seconds["uncorrected"] = time.perf_counter() - start
    name_of_input = next(iter(source.graph.inputs))
    seconds["onnxruntime"] = by_onnxruntime(files["float"], files["onnxruntime"], [{name_of_input: x} for x in data])
    sessions = {k: session(p) for k, p in files.items()}
    wanted = [run(sessions["float"], x) for x in test]
    times: dict[str, list[float]] = {k: [] for k in sessions}
    for _ in range(TURNS):
        for k, s in sessions.items():
            start = time.perf_counter()
            run(s, test[0])
            times[k].append(time.perf_counter() - start)
    for k, s in sessions.items():
        found = [run(s, x) for x in test]
        noise = sum(float(np.square(a - b).sum()) for a, b in zip(wanted, found, strict=True))
        signal = sum(float(np.square(a).sum()) for a in wanted)
        least = min(times[k])
        cells = [name, k, f"{decibels(signal, noise):.1f}", f"{least * 1e3:.1f}", f"{min(times['float']) / least:.2f}",
                 f"{seconds[k]:.1f}", f"{files[k].stat().st_size / 1e6:.1f}"]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def unshared(proto: Any) -> Any:
    """A file in which each node has its own initializers of i8: findings/exact_products_of_shared_weights.sh."""
    held = {i.name: i for i in proto.graph.initializer if i.data_type == 3}
    for number, node in enumerate(proto.graph.node):
        for at, name in enumerate(node.input):
            if name in held:
                node.input[at] = f"{name} of {number}"
                proto.graph.initializer.add().CopyFrom(held[name])
                proto.graph.initializer[-1].name = node.input[at]
    return proto


def repairs(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    data, test = images(IMAGES, 1), images(IMAGES, 2)
    path = folder / "float.onnx"
    td.from_torch(model, torch.from_numpy(data[0])).to_onnx(path)
    source, float_session = td.from_onnx(path), session(path)
    wanted = [run(float_session, x) for x in test]
    signal = sum(float(np.square(a).sum()) for a in wanted)
    for target, how in REPAIRS:
        path.write_bytes(unshared(td.quantize(source, data, target, **how).to_onnx()).SerializeToString())
        small = session(path, exact=True)
        noise = sum(float(np.square(a - run(small, x)).sum()) for a, x in zip(wanted, test, strict=True))
        said = ", ".join(f"{k}={v!r}" for k, v in how.items())
        print(f"| {name} | {target} | {said} | {decibels(signal, noise):.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--repairs", action="store_true", help="the SQNR of each repair")
    options = parser.parse_args()
    if options.repairs:
        print("| network | target | repairs | SQNR dB |\n|---|---|---|---:|")
        with quiet(), tempfile.TemporaryDirectory() as folder:
            for name in options.networks:
                repairs(name, Path(folder))
        return
    print("| network | by | SQNR dB | ms | of float | seconds to quantize | MB |\n|---|---|---:|---:|---:|---:|---:|")
    with quiet(), tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            measure(name, Path(folder))


if __name__ == "__main__":
    main()
