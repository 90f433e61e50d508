"""CoreML packages of quantized networks: MB of each, and the SQNR to the float network.

``python benchmarks/bench_quantize_coreml.py [NETWORK of timm ...]``
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import tdagger as td

NETWORKS = ("resnet18", "vit_tiny_patch16_224", "mobilenetv3_large_100")
TARGETS = ("coreml", "coreml-weight-only", "gpu-weight-only")


def megabytes(dag: td.TensorDAG, **options: Any) -> float:
    """The size of the package of a network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.mlpackage"
        dag.to_coreml(path, **options)
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 1e6


def row(name: str) -> str:
    """A row of the table of docs/coreml.md."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    data = [torch.randn(1, 3, 224, 224) for _ in range(2)]
    dag = td.from_torch(model, data[0])
    wanted = dag.run(data[0].numpy())
    cells = [f"{megabytes(dag):.2f}", f"{megabytes(dag, precision='f16'):.2f}"]
    for target in TARGETS:
        small = td.quantize(dag, data, target=target, correct=False)
        error = small.run(data[0].numpy()) - wanted
        decibels = 10 * np.log10((wanted**2).sum() / (error**2).sum())
        cells.append(f"{megabytes(small):.2f}, {decibels:.1f} dB")
    return f"| {' | '.join([name, *cells])} |"


if __name__ == "__main__":
    print(f"| network | f32 | f16 | {' | '.join(f'`{t}`' for t in TARGETS)} |")
    for each in sys.argv[1:] or NETWORKS:
        print(row(each), flush=True)
