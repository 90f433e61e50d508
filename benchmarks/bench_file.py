"""``dag.save`` and ``td.load`` against safetensors alone, torch.export.save and onnx, on the same tensors in one run.

- resnet50: processor time of saving and loading. Goals: save at most 1.2 times safetensors, load at most 10 ms, at most
  64 kB beyond the weights; the structure alone loads in at most 5 ms. Nobody else holds the network when it is loaded,
  so types are inferred anew; the first load of a process is shown apart.
- the shape of Llama-3-70B without weights: load at most 60 ms, at most 150 kB; ``inspect`` of it in at most 0.6 s of
  wall time, in a new process.
- a network of 2 GB: load below 0.2 s and 50 us a node, below 100 MB more of resident memory before weights are touched;
  save at 80 % of safetensors' speed at least, in wall time with both files on the disk (fsync); the file at most 1 %
  larger.
- graphs up to a million nodes: saved and loaded in time linear in nodes.

Usage: ``python benchmarks/bench_file.py [resnet] [llama] [large] [nodes]``, all unless some are named
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from _zoo import network, quiet

import tdagger as td
from tdagger.tensordag import TensorDAG

LOAD = """
import sys, time, resource
import tdagger as td, tdagger.file.store
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
before = resident()
start, cpu = time.perf_counter(), time.process_time()
dag = td.load(sys.argv[1])
print((time.process_time() - cpu) * 1e3, (time.perf_counter() - start) * 1e3, resident() - before, len(dag.values))
"""


def seconds(function: Callable[[], Any], runs: int = 7, wall: bool = False) -> float:
    """The median time of a call, whose result is dropped before the next: of the processor, or of the clock."""
    clock = time.perf_counter if wall else time.process_time
    times: list[float] = []
    for _ in range(runs):
        gc.collect()
        start = clock()
        found = function()
        times.append(clock() - start)
        del found
    return statistics.median(times)


def fresh(path: Path) -> list[float]:
    """Milliseconds of the processor and of the clock, megabytes and nodes of a load in a new process."""
    out = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=True).stdout
    return [float(n) for n in out.split()]


def row(what: str, value: float, unit: str, goal: str = "") -> None:
    print(f"  {what:<52} {value:10.2f} {unit:<4} {goal}", flush=True)


def resnet(folder: Path) -> None:
    print("resnet50, processor time")
    _resnet_saved(folder)
    own, alone, structure = (folder / n for n in ("m.tdag", "m.safetensors", "s.tdag"))
    row("load, safetensors (copied)", seconds(lambda: safetensors.numpy.load_file(alone)) * 1e3, "ms")
    row("load, tdagger", seconds(lambda: td.load(own), 15) * 1e3, "ms", "goal: <= 10")
    row("load of the structure alone", seconds(lambda: td.load(structure), 15) * 1e3, "ms", "goal: <= 5")
    row("first load of a process", fresh(own)[0], "ms")


def _resnet_saved(folder: Path) -> None:
    """What is held here is gone before anything is loaded."""
    module, x = network("resnet50", 1)
    dag = td.from_torch(module, x)
    own, alone, exported, structure = (folder / n for n in ("m.tdag", "m.safetensors", "m.pt2", "s.tdag"))
    arrays = {n: dag.weights[n] for n in dag.state}
    program = torch.export.export(module, (x,))
    pairs = [
        (seconds(lambda: dag.save(own), 1), seconds(lambda: safetensors.numpy.save_file(arrays, alone), 1))
        for _ in range(15)
    ]  # in turns, so that what else the machine does is in both
    row("save, tdagger", statistics.median(a for a, _ in pairs) * 1e3, "ms")
    row("save, safetensors", statistics.median(b for _, b in pairs) * 1e3, "ms")
    row("ratio, median of 15 pairs", statistics.median(a / b for a, b in pairs), "", "goal: <= 1.2")
    row("save, torch.export", seconds(lambda: torch.export.save(program, exported), 3) * 1e3, "ms")
    dag.save(structure, weights=False)
    nbytes = sum(a.nbytes for a in arrays.values())
    for path, goal in ((own, "goal: <= 64 kB"), (alone, ""), (exported, "")):
        row(f"beyond the weights, {path.suffix}", (path.stat().st_size - nbytes) / 1e3, "kB", goal)
    row("load, torch.export", seconds(lambda: torch.export.load(exported), 3) * 1e3, "ms")


def llama(folder: Path) -> None:
    from transformers import LlamaConfig

    print("the shape of Llama-3-70B, without weights")
    config = LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256,
    )  # fmt: skip
    start = time.process_time()
    held = [td.from_transformers(config, seq=2048)]
    row("import from the configuration", time.process_time() - start, "s")
    path = folder / "llama.tdag"
    row("save", seconds(lambda: held[0].save(path, weights=False), 3) * 1e3, "ms")
    row(f"file, {len(held[0].values)} values", path.stat().st_size / 1e3, "kB", "goal: <= 150")
    held.clear()
    row("load", seconds(lambda: td.load(path)) * 1e3, "ms", "goal: <= 60")
    row("first load of a process", fresh(path)[0], "ms")
    command = [sys.executable, "-m", "tdagger.cli.__main__", "inspect", str(path)]
    # compiled once, as an installed package is: some environments tell Python not to keep bytecode
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    subprocess.run(command, check=True, capture_output=True, env=env)
    alone = [sys.executable, "-c", "import numpy"]
    row(
        "import numpy in a new process, wall", seconds(lambda: subprocess.run(alone, check=True, env=env), 3, True), "s"
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    wall = seconds(lambda: subprocess.run(command, check=True, capture_output=True, env=env), 3, wall=True)
    user = (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used) / 3
    row("inspect in a new process, wall", wall, "s", "goal: <= 0.6")
    row("inspect in a new process, processor", user, "s")


def _on_disk(function: Callable[[], Any], path: Path) -> None:
    function()
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _new(function: Callable[[], Any], path: Path) -> tuple[float, float]:
    """Processor and wall time of writing a file that isn't there, with nothing left to be written of others."""
    path.unlink(missing_ok=True)
    os.sync()
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def large(folder: Path) -> None:
    print("a network of 2 GB")
    layers, n = 32, 4096
    rng = np.random.default_rng(0)
    x = value = td.input("x", (1, n))
    data: dict[str, Any] = {}
    for i in range(layers):
        name = f"layers.{i}.weight"
        data[name] = rng.random((n, n), np.float32)
        value = td.relu(td.linear(value, td.parameter(name, (n, n))))
    dag = TensorDAG.of_graph(td.Graph({"x": x}, {"y": value}), data)
    own, alone = folder / "m.tdag", folder / "m.safetensors"
    pairs = [
        (
            _new(lambda: dag.save(own), own),
            _new(lambda: _on_disk(lambda: safetensors.numpy.save_file(data, alone), alone), alone),
        )
        for _ in range(7)
    ]
    for i, clock in enumerate(("processor", "wall")):
        row(f"save, tdagger, {clock}", statistics.median(a[i] for a, _ in pairs), "s")
        row(f"save, safetensors, {clock}", statistics.median(b[i] for _, b in pairs), "s")
        ratio = statistics.median(b[i] / a[i] for a, b in pairs)
        row(f"speed beside safetensors, {clock}, median of 7 pairs", 100 * ratio, "%", "goal: >= 80")
    row("file beside safetensors", 100 * (own.stat().st_size / alone.stat().st_size - 1), "%", "goal: <= 1")
    alone.unlink()
    cpu, wall_ms, resident, nodes = fresh(own)
    row(f"load of {nodes:.0f} values, processor", cpu, "ms", f"goal: < {200 + 0.05 * nodes:.0f}")
    row("load, wall", wall_ms, "ms")
    row("resident memory of the load", resident, "MB", "goal: < 100")
    _large_by_torch(data, folder / "m.pt2", n)
    with contextlib.suppress(ImportError):
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        steps = [helper.make_node("MatMul", [f"v{i}", k], [f"v{i + 1}"]) for i, k in enumerate(data)]
        tensors = [numpy_helper.from_array(a, k) for k, a in data.items()]
        ends = [helper.make_tensor_value_info(k, TensorProto.FLOAT, [1, n]) for k in ("v0", f"v{layers}")]
        model = helper.make_model(helper.make_graph(steps, "g", ends[:1], ends[1:], tensors))
        to = folder / "m.onnx"
        start = time.process_time()
        onnx.save_model(model, str(to), save_as_external_data=True, location="m.bin")
        row("save, onnx, processor", time.process_time() - start, "s")
        del model, tensors
        row("load, onnx, processor", seconds(lambda: onnx.load(str(to)), 1), "s")


def _large_by_torch(data: dict[str, Any], path: Path, n: int) -> None:
    """The same layers as a program of torch.export."""
    layers: list[torch.nn.Module] = []
    for array in data.values():
        layer = torch.nn.Linear(n, n, bias=False, device="meta")
        layer.weight = torch.nn.Parameter(torch.from_numpy(array), requires_grad=False)
        layers += [layer, torch.nn.ReLU()]
    program = torch.export.export(torch.nn.Sequential(*layers), (torch.zeros(1, n),))
    row("save, torch.export, processor", seconds(lambda: torch.export.save(program, path), 1), "s")
    row(
        "save, torch.export, wall",
        seconds(lambda: _on_disk(lambda: torch.export.save(program, path), path), 1, True),
        "s",
    )
    row("load, torch.export, processor", seconds(lambda: torch.export.load(path), 1), "s")
    row("file of torch.export", path.stat().st_size / 1e9, "GB")
    path.unlink()


def nodes(folder: Path) -> None:
    print("graphs of ops in no order that repeats, and a chain")
    for count in (10_000, 100_000, 1_000_000):
        for kind in ("random", "chain"):
            _graph(kind, count, folder / "nodes.tdag")


def _graph(kind: str, count: int, path: Path) -> None:
    picks = np.random.default_rng(0).integers(0, 2**31, count).tolist()
    with td.bulk():
        values = [td.input("x", (3,))]
        for pick in picks:
            last = values[-1]
            values.append(td.add(last, values[pick % len(values)]) if kind == "random" else td.exp(last))
        held = [TensorDAG.of_graph(td.Graph({"x": values[0]}, {"y": values[-1]}))]
    total = len(held[0].values)
    del values, last, picks
    save = seconds(lambda: held[0].save(path), 1) / total * 1e6
    held.clear()
    load = seconds(lambda: td.load(path), 1) / total * 1e6
    size = path.stat().st_size / total
    print(
        f"  {kind:<7} {total:>9} values: save {save:6.2f} us, load {load:6.2f} us, {size:5.2f} bytes each", flush=True
    )


def main() -> None:
    parts = {f.__name__: f for f in (resnet, llama, large, nodes)}
    chosen = sys.argv[1:] or list(parts)
    if not set(chosen) <= set(parts):
        sys.exit(f"{__doc__}\nthere are {', '.join(parts)}")
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder, quiet():
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
