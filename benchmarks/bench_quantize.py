"""Static quantization beside onnxruntime's own quantizer (U8S8, per channel), on the same data, in one run.

For each network: the SQNR of its results on images that neither saw, of the float network's; the latency by
onnxruntime on one thread, in turns, the median of processor times; how long quantizing takes. Weights are random
(timm's, a seed): the figures are of arithmetic, not of accuracy. On processors without VNNI sums of u8 times i8
saturate, so weights have 7 bits on every side (``x86-avx2``, ``reduce_range=True``). NNCF is beside them where it is
installed (``pip install nncf``), PT2E where torchao is (the SQNR alone, by torch).

``--repairs`` shows the SQNR of each repair instead, with sums of products that are exact on every processor.

Usage: ``python benchmarks/bench_quantize.py [--repairs] [NETWORK ...]``
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import timm
import torch
from _zoo import quiet

import tdagger as td
from tdagger.quantization.profiles import profile_of
from tdagger.quantization.quality.local import decibels

NETWORKS = ("resnet50", "vit_base_patch16_224", "mobilenetv3_large_100", "efficientnet_b0")
IMAGES, TURNS = 8, 15
#: Whether the processor's sums of u8 times i8 saturate, and the target for that.
NARROW = "vnni" not in Path("/proc/cpuinfo").read_text()
TARGET = "x86-avx2" if NARROW else "onnxruntime"
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


def by_onnxruntime(path: Path, to: Path, data: list[dict[str, Any]], narrow: bool) -> float:
    """Quantize a file with onnxruntime's quantize_static; the seconds it took."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter(data)

        def get_next(self) -> Any:
            return next(self.batches, None)

    start = time.process_time()
    ready = path.with_suffix(".ready.onnx")
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready), str(to), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=narrow,
    )  # fmt: skip
    return time.process_time() - start


def by_nncf(path: Path, to: Path, data: list[dict[str, Any]]) -> float:
    """Quantize a file with NNCF as it does by default, which is 7 bits of weights on CPUs; the seconds it took."""
    import nncf  # pyright: ignore[reportMissingImports]

    nncf.set_log_level(40)
    start = time.process_time()
    made: Any = nncf.quantize(onnx.load(path), nncf.Dataset(data), subset_size=len(data))
    onnx.save(made, to)
    return time.process_time() - start


def by_pt2e(model: Any, data: list[Any]) -> tuple[Any, float]:
    """A network quantized by torchao's PT2E for x86, run by torch; and the seconds it took."""
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86  # pyright: ignore[reportMissingImports]
    from torchao.quantization.pt2e.quantize_pt2e import (  # pyright: ignore[reportMissingImports]
        convert_pt2e,
        prepare_pt2e,
    )

    start = time.process_time()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, (data[0],)).module(), quantizer)
    for x in data:
        prepared(x)
    return convert_pt2e(prepared), time.process_time() - start


def measure(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    data, test = images(IMAGES, 1), images(IMAGES, 2)
    path = folder / "float.onnx"
    td.from_torch(model, torch.from_numpy(data[0])).to_onnx(path)
    source = td.from_onnx(path)
    named = [{next(iter(source.graph.inputs)): x} for x in data]

    def ours(target: str, **how: Any) -> Callable[[Path], float]:
        def make(to: Path) -> float:
            start = time.process_time()
            td.quantize(source, data, target, **how).to_onnx(to)
            return time.process_time() - start

        return make

    bits = {"weight": replace(profile_of("onnxruntime").weight, bits=7)} if NARROW else {}
    makers: dict[str, Callable[[Path], float]] = {
        "tdagger": ours(TARGET),
        "tdagger, `correct=False`": ours(TARGET, correct=False),
        "tdagger, `least=0`": ours(TARGET, least=0),
        "tdagger, `onnxruntime-bytes`": ours("onnxruntime-bytes", **bits),
        "onnxruntime": lambda to: by_onnxruntime(path, to, named, NARROW),
    }
    if find_spec("nncf"):
        makers["NNCF"] = lambda to: by_nncf(path, to, named)
    seconds, sessions, sizes = {"float": 0.0}, {"float": session(path)}, {"float": path.stat().st_size}
    for by, make in makers.items():
        to = folder / "quantized.onnx"
        seconds[by] = make(to)
        sessions[by], sizes[by] = session(to), to.stat().st_size
    wanted = [run(sessions["float"], x) for x in test]
    times: dict[str, list[float]] = {k: [] for k in sessions}
    for _ in range(TURNS):
        for k, s in sessions.items():
            start = time.process_time()
            run(s, test[0])
            times[k].append(time.process_time() - start)
    for k, s in sessions.items():
        took = float(np.median(times[k]))
        cells = [name, k, f"{quality(wanted, [run(s, x) for x in test]):.1f}", f"{took * 1e3:.1f}",
                 f"{np.median(times['float']) / took:.2f}", f"{seconds[k]:.1f}", f"{sizes[k] / 1e6:.1f}"]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)
    if find_spec("torchao"):
        made, took = by_pt2e(model, [*map(torch.from_numpy, data)])
        found = [made(torch.from_numpy(x)).detach().numpy() for x in test]
        print(f"| {name} | PT2E, by torch | {quality(wanted, found):.1f} | | | {took:.1f} | |", flush=True)


def quality(wanted: list[Any], found: list[Any]) -> float:
    """The SQNR of results in dB."""
    noise = sum(float(np.square(a - b).sum()) for a, b in zip(wanted, found, strict=True))
    return decibels(sum(float(np.square(a).sum()) for a in wanted), noise)


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
