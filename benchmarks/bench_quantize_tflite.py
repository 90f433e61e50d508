"""What td.quantize(target="tflite") and to_tflite give: kernels, how far the runtime agrees, times beside float.

``python benchmarks/bench_quantize_tflite.py [NAME ...]``: networks of timm with random weights; 4 images of noise to
calibrate, 8 others to measure; one thread, float and integers in turns, the least of 12. A step is that of the result.
"each operator": the share of all integers inside which are within one step of TFLite's own kernels' where an operator
takes what theirs took; "as numpy": of the results, where roundings add up from the input on.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import timm
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import tdagger as td
from tdagger.interpreter import Interpreter as Run
from tdagger.op import Value

NAMES = ("resnet18", "mobilenetv2_100", "efficientnet_lite0", "mobilenetv3_small_100", "efficientnet_b0")


def interpreter(model: bytes, **options: Any) -> Any:
    """One that is ready to run."""
    found = Interpreter(model_content=model, num_threads=1, **options)
    found.allocate_tensors()
    return found


def run(made: Any, x: np.ndarray) -> tuple[np.ndarray, float]:
    """What it gives, and in how many milliseconds."""
    made.set_tensor(made.get_input_details()[0]["index"], x)
    start = time.perf_counter()
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"]), 1e3 * (time.perf_counter() - start)


def kernels(made: Any) -> tuple[int, int]:
    """How many operators have a result of integers, and how many of floats but for the borders."""
    types = {d["index"]: np.dtype(d["dtype"]) for d in made.get_tensor_details()}
    ops = [o for o in made._get_ops_details() if o["op_name"] not in ("DELEGATE", "QUANTIZE", "DEQUANTIZE")]
    whole = sum(types[o["outputs"][0]].kind in "iu" for o in ops)
    return whole, len(ops) - whole


class Followed(Run):
    """Runs the network of a file, each operator on what the runtime's operator took."""

    def __init__(self, dag: td.TensorDAG, made: Any) -> None:
        super().__init__(dag)
        self.made, self.dag_ = made, dag
        self.numbers = {d["name"]: d["index"] for d in made.get_tensor_details()}
        self.count = self.within = 0

    def run_value(self, value: Value, args: list[Any]) -> Any:
        out = super().run_value(value, args)
        if value.op.name != "quantize":
            return out
        theirs = self.made.get_tensor(self.numbers[self.dag_.origins[value].source.split(" ")[0]])
        self.count += theirs.size
        self.within += int((np.abs(theirs.astype(int) - out) <= 1).sum())
        return theirs


def each_operator(model: bytes, x: np.ndarray) -> float:
    """The share of integers within one step."""
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    made = interpreter(model, experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True)
    run(made, x)
    found = Followed(td.from_tflite(model), made)
    found.run(x)
    return found.within / found.count


def measured(name: str) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    data = [torch.randn(1, 3, 224, 224) for _ in range(4)]
    dag = td.from_torch(model, data[0])
    small = td.quantize(dag, data, target="tflite")
    files = dag.to_tflite(), small.to_tflite()
    floats, whole = (interpreter(f) for f in files)
    own = interpreter(files[1], experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    result = next(iter(small.graph.outputs.values()))
    step = float(result.args[1].op.data) * 1.001
    agree, among = [], []
    for _ in range(8):
        x = torch.randn(1, 3, 224, 224).numpy()
        found, expected = run(whole, x)[0], small.run(x)
        agree.append(np.abs(found - expected) <= step)
        among.append(np.abs(found - run(own, x)[0]) <= step)
    times = np.array([[run(floats, x)[1], run(whole, x)[1]] for _ in range(12)]).min(0)
    shares = [f"{100 * np.mean(s):.2f} %" for s in (each_operator(files[1], data[0].numpy()), agree, among)]
    speed = [f"{times[0]:.1f}", f"{times[1]:.1f}", f"{times[0] / times[1]:.2f}"]
    cells = [name, *map(str, kernels(whole)), *shares, *speed, *(f"{len(f) / 1e6:.1f}" for f in files)]
    return f"| {' | '.join(cells)} |"


HEADS = ("network", "integer kernels", "float", "each operator", "as numpy", "XNNPACK as TFLite's own", "float ms",
         "i8 ms", "ratio", "float MB", "MB")  # fmt: skip

if __name__ == "__main__":
    print(f"| {' | '.join(HEADS)} |")
    print("|---|" + "---:|" * (len(HEADS) - 1))
    for given in sys.argv[1:] or NAMES:
        print(measured(given), flush=True)
