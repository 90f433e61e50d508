"""ONNX's recurrent networks: numpy and torch against onnxruntime, over their options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tdagger.errors import UnsupportedError
from tdagger.frameworks.onnx.importer import from_onnx
from tests.frameworks.onnx.one_node import agree, floats, model

T, B, N, H = 4, 3, 2, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def tensors(op: str, ways: int, **given: Any) -> list[Any]:
    """The inputs of an operator; those of the names in ``given`` are there, with that value if it isn't True."""
    g = GATES[op]
    all_ = {
        "B": 0.3 * floats(ways, 2 * g * H),
        "sequence_lens": np.int32([4, 1, 2]),
        "initial_h": floats(ways, B, H),
        "initial_c": floats(ways, B, H, seed=1),
        "P": floats(ways, 3 * H),
    }
    if op != "LSTM":
        del all_["initial_c"], all_["P"]
    made: list[Any] = [floats(T, B, N), 0.5 * floats(ways, g * H, N), 0.5 * floats(ways, g * H, H)]
    rest = [None if n not in given else (a if given[n] is True else given[n]) for n, a in all_.items()]
    while rest and rest[-1] is None:
        rest.pop()
    return [*made, *rest]


# op, ways, which inputs are there, attributes
CASES: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    *((op, 1, {"B": True}, {}) for op in GATES),
    *((op, 1, {}, {"direction": "reverse"}) for op in GATES),
    *((op, 2, {"B": True, "initial_h": True}, {"direction": "bidirectional"}) for op in GATES),
    *((op, 1, {"B": True, "sequence_lens": True}, {}) for op in GATES),
    *((op, 1, {"B": True, "sequence_lens": True, "initial_h": True}, {"direction": "reverse"}) for op in GATES),
    *((op, 2, {"sequence_lens": True}, {"direction": "bidirectional", "clip": 0.4}) for op in GATES),
    *((op, 1, {"sequence_lens": np.int32([T] * B), "B": True}, {}) for op in GATES),
    ("LSTM", 1, {"B": True, "initial_c": True, "P": True}, {}),
    ("LSTM", 2, {"B": True, "initial_h": True, "initial_c": True, "P": True}, {"direction": "bidirectional"}),
    ("LSTM", 1, {"B": True}, {"input_forget": 1}),
    ("LSTM", 1, {"B": True}, {"activations": ["HardSigmoid", "Softsign", "ScaledTanh"],
                              "activation_alpha": [0.3, 1.5], "activation_beta": [0.4, 0.6]}),
    ("GRU", 1, {"B": True}, {"linear_before_reset": 1}),
    ("GRU", 2, {"B": True, "initial_h": True}, {"linear_before_reset": 1, "direction": "bidirectional"}),
    ("GRU", 1, {"B": True, "sequence_lens": True}, {"linear_before_reset": 1, "direction": "reverse"}),
    ("GRU", 1, {"B": True}, {"activations": ["Sigmoid", "LeakyRelu"], "activation_alpha": [0.2]}),
    ("RNN", 1, {"B": True}, {"activations": ["Relu"]}),
    ("RNN", 2, {"B": True}, {"activations": ["Tanh", "Affine"], "activation_alpha": [0.5], "activation_beta": [0.1],
                             "direction": "bidirectional"}),
    *(("RNN", 1, {"B": True}, {"activations": [name]}) for name in ("Elu", "Softplus")),
    # its alpha is 1 unless said, as of the operator of that name; in onnxruntime 0
    ("RNN", 1, {"B": True}, {"activations": ["ThresholdedRelu"], "activation_alpha": [0.3]}),
]  # fmt: skip


def _name(case: tuple[str, int, dict[str, Any], dict[str, Any]]) -> str:
    op, _, given, attributes = case
    return f"{op}-{'+'.join(given)}-{','.join(f'{k}={v}' for k, v in attributes.items())}".replace(" ", "")


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_agrees_with_onnxruntime(case: tuple[str, int, dict[str, Any], dict[str, Any]]) -> None:
    op, ways, given, attributes = case
    results = (True,) * (3 if op == "LSTM" else 2)
    inputs = tensors(op, ways, **given)
    held = (1, 2, 4) if "sequence_lens" in given and attributes == {} else (1, 2)
    agree(op, inputs, 14, hidden_size=H, outputs=results, held=held, **attributes)


@pytest.mark.parametrize("op", GATES)
def test_the_layout_with_the_batch_first(op: str) -> None:
    """onnxruntime doesn't have it: it is the other layout with the axes exchanged."""
    inputs = tensors(op, 2, B=True, initial_h=True)
    options: dict[str, Any] = {"hidden_size": H, "outputs": (True, True), "direction": "bidirectional"}
    out, last = (
        np.asarray(v) for v in from_onnx(model(op, inputs, 14, **options)).run(*[i for i in inputs if i is not None])
    )
    swapped = [v if i not in (0, 5) or v is None else v.swapaxes(0, 1) for i, v in enumerate(inputs)]
    agree(op, swapped, 14, layout=1, expected=(out.transpose(2, 0, 1, 3), last.swapaxes(0, 1)), **options)


@pytest.mark.parametrize(("op", "more"), [("LSTM", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})])
def test_usual_ones_go_back_as_those_of_torch(op: str, more: dict[str, Any]) -> None:
    made = model(op, tensors(op, 1, B=True), 14, hidden_size=H, held=(1, 2, 3), **more)
    dag = from_onnx(made)
    assert op.lower() in {v.op.name for v in dag.graph}


def test_loops_that_are_too_long_to_write_out_are_refused() -> None:
    x = np.zeros((9000, 1, 1), np.float32)
    one = np.ones((1, 1, 1), np.float32)
    made = model("RNN", [x, one, one], 14, hidden_size=1, activations=["Affine"])
    with pytest.raises(UnsupportedError, match="its 9000 steps are written out one by one, of which there may be 8192"):
        from_onnx(made)
