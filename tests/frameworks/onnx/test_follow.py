"""ONNX's operators at other sizes: resized they are what the same file is, imported at those sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tdagger.frameworks.onnx.importer import from_onnx
from tests.frameworks.onnx.one_node import floats


def i64(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int64)


END = 2**63 - 1
SIZES = (2, 4, 6), (4, 8, 10)

# op, version, attributes, what follows the first input; the first is of all three sizes, or of those named
ROWS: list[tuple[str, int, dict[str, Any], list[Any]]] = [
    ("Softmax", 11, {"axis": 1}, []),
    ("Softmax", 13, {"axis": 1}, []),
    ("Hardmax", 13, {}, []),
    ("ReduceMean", 18, {}, [i64(1)]),
    ("ReduceMean", 13, {"axes": [1, 2], "keepdims": 0}, []),
    ("ReduceL2", 13, {"axes": [0, 2]}, []),
    ("ArgMax", 13, {"axis": 1}, []),
    ("ArgMax", 13, {"axis": 1, "select_last_index": 1}, []),
    *[("CumSum", 14, {"exclusive": 1, "reverse": r}, [i64(1)[0]]) for r in (0, 1)],
    ("TopK", 13, {"axis": 1}, [i64(2)]),
    *[("Flatten", 13, {"axis": a}, []) for a in (0, 1, 2)],
    ("Reshape", 13, {}, [i64(0, -1)]),
    ("Reshape", 13, {}, [i64(0, 0, -1, 2)]),
    ("Transpose", 13, {}, []),
    ("Split", 13, {"axis": 1}, []),
    ("Split", 18, {"axis": 2, "num_outputs": 2}, []),
    *[("Slice", 13, {}, [i64(a), i64(b), i64(1), i64(step)]) for a, b, step in (
        (-2, END, 1), (1, -1, 1), (-1, -END, -1), (-1, -END, -2), (0, 2**31 - 1, 2), (0, 2, 1),
    )],
    *[("Pad", 19, {"mode": m}, [i64(0, 1, 0, 0, 0, 2)]) for m in ("constant", "reflect", "edge", "wrap")],
    ("Tile", 13, {}, [i64(1, 2, 1)]),
    ("Expand", 13, {}, [i64(2, 1, 1, 1)]),
    ("Trilu", 14, {}, [i64(0)[0]]),
    ("Unsqueeze", 13, {}, [i64(1)]),
    ("Gather", 13, {"axis": 1}, [i64(0, 1)]),
    ("Gather", 13, {"axis": 1}, [i64(-1)[0]]),
    ("GatherND", 13, {}, [np.array([[0, 1], [1, -1]])]),
    ("Clip", 6, {"min": 0.0}, []),
]  # fmt: skip


@pytest.mark.parametrize(("op", "opset", "attributes", "held"), ROWS, ids=[f"{i}-{r[0]}" for i, r in enumerate(ROWS)])
def test_an_operator_follows(op: str, opset: int, attributes: dict[str, Any], held: list[Any]) -> None:
    outputs = ["y", "z"] if op in ("TopK", "Split") else ["y"]
    names = [f"h{i}" for i in range(len(held))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], outputs, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b", "c"])],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(np.asarray(h), n) for n, h in zip(names, held, strict=True)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    x = floats(*SIZES[1])
    resized = from_onnx(made, inputs={"x": SIZES[0]}).resize({"x": SIZES[1]})
    there = from_onnx(made, inputs={"x": SIZES[1]})
    for got, want in zip(*(_listed(d.run(x)) for d in (resized, there)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, tuple | list) else [found]
