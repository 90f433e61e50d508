"""Running what was written: by LiteRT, with the kernels it takes by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
schema: Any = pytest.importorskip("ai_edge_litert.schema_py_generated")

#: Kernels: those of XNNPACK where it has some; those of TFLite itself.
DEFAULT = interpreter.OpResolverType.AUTO
PLAIN = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def run(model: bytes | str, arrays: Sequence[Any], kernels: Any = DEFAULT) -> list[Any]:
    """The outputs of a file for arrays in the order of its inputs."""
    given = {"model_content": model} if isinstance(model, bytes) else {"model_path": model}
    made = interpreter.Interpreter(**given, num_threads=1, experimental_op_resolver_type=kernels)
    made.allocate_tensors()
    for detail, array in zip(made.get_input_details(), arrays, strict=True):
        made.set_tensor(detail["index"], np.array(array, order="C"))
    made.invoke()
    return [made.get_tensor(d["index"]) for d in made.get_output_details()]


def counts(model: bytes) -> dict[str, int]:
    """How often a file has each operator."""
    root: Any = schema.Model.GetRootAs(model, 0)
    names = {n: k for k, n in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
    codes = [root.OperatorCodes(i) for i in range(root.OperatorCodesLength())]
    kinds = [names[max(c.BuiltinCode(), c.DeprecatedBuiltinCode())] for c in codes]
    graph = root.Subgraphs(0)
    return dict(Counter(kinds[graph.Operators(i).OpcodeIndex()] for i in range(graph.OperatorsLength())))
