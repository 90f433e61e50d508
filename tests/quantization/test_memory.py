"""Weights alone are quantized layer by layer: a file larger than what may be held goes through."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tdagger as td
from tdagger.quantization.profile import Numbers
from tdagger.quantization.scales import Weights

SIZE = 4096

QUANTIZE = """
import sys
import tracemalloc
import tdagger as td
from tdagger.quantization.profile import Numbers
from tdagger.quantization.scales import Weights
dag = td.load(sys.argv[1])
small = td.quantize(dag, target="gpu-weight-only")
small.save(sys.argv[2])
print([int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")][0] * 1024)
"""


class Layers(Mapping[str, Any]):
    """Weights that are made when they are asked for."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)

    def __getitem__(self, name: str) -> Any:
        return np.random.default_rng(self.names.index(name)).random((SIZE, SIZE), np.float32) - np.float32(0.5)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def part(self, names: Iterable[str]) -> Layers:
        return Layers([n for n in self.names if n in set(names)])


@pytest.mark.slow
@pytest.mark.parametrize("count", [32])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_a_network_of_two_gigabytes_takes_less_than_one_beyond_its_file(tmp_path: Path, count: int) -> None:
    x: td.Value = td.input("x", (1, SIZE))
    names = [f"layers.{i}.weight" for i in range(count)]
    out = x
    for name in names:
        out = td.relu(td.linear(out, td.parameter(name, (SIZE, SIZE))))
    graph = td.Graph({"x": x}, {"y": out})
    td.TensorDAG(graph, Layers(names), td.layers.linear(2, 2).signature).save(tmp_path / "large.tdag")
    size = (tmp_path / "large.tdag").stat().st_size
    assert size >= 4 * SIZE * SIZE * count
    command = [sys.executable, "-c", QUANTIZE, str(tmp_path / "large.tdag"), str(tmp_path / "small.tdag")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"a file of {size >> 20} MB, a peak of {peak >> 20} MB")
    assert peak < size + (1 << 30)
    small = td.load(tmp_path / "small.tdag")
    assert all(small.weights[n].dtype == np.int8 for n in names)


@pytest.mark.parametrize(
    "numbers",
    [
        Numbers("i4", symmetric=True, per="block", block=32, observer="mse"), Numbers("u8", per="channel"),
        Numbers("i8", symmetric=True, per="channel", narrow=True, observer="mse"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channel", [0, 1])
def test_one_weight_is_worked_out_in_parts(numbers: Numbers, channel: int) -> None:
    """However large it is: beside its numbers and scales little is held, and the parts are those of the whole."""
    weight = np.random.default_rng(0).normal(size=(2000, 2051)).astype(np.float32)
    how = Weights(numbers, channel, 1 - channel)
    tracemalloc.start()
    try:
        scales = how.scales(weight)
        codes = how.rounded(weight, scales)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < weight.nbytes * 0.8 + scales.scale.nbytes
    few = [*how.parts(weight)][1]
    part = how.scales(weight[few])
    at = few if numbers.per == "block" else few[-1:]
    assert np.array_equal(scales.scale[at], part.scale)
    assert np.array_equal(codes[few], how.rounded(weight[few], part))
