"""Nodes of a network after ``dag.optimize()``, beside onnxsim and onnxslim on the same network exported to ONNX.

- tdagger: ops of the optimised graph without leaves. Broadcasting is written out here and isn't in ONNX, so a second
  number leaves it out: repeats, and reshapes that only add axes of size 1 for them.
- ONNX: nodes but constants of what ``torch.onnx.export`` gives, as it is (it runs onnxscript's optimiser), and after
  each of the two simplifiers.

``pip install onnx onnxscript onnxsim onnxslim onnxruntime`` beside tdagger's own extras; ``python
benchmarks/bench_nodes.py [NETWORK ...]``.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import Any

from _zoo import tests

NETWORKS = (
    *("resnet50", "mobilenetv3_large_100", "efficientnet_b0", "regnety_002", "densenet121", "convnext_tiny"),
    *("vit_base_patch16_224", "swin_tiny_patch4_window7_224", "mixer_b16_224", "BertModel", "GPT2LMHeadModel"),
    *("LlamaForCausalLM", "T5EncoderModel", "WhisperEncoder", "CLIPModel"),
)


def _own(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int, int]:
    import tdagger as td
    from tdagger.ops.source import Const, Leaf

    def ops(dag: td.TensorDAG) -> list[td.Value]:
        return [v for v in dag.graph.values if not isinstance(v.op, Leaf | Const)]

    dag = td.from_torch(module, args, kwargs)
    after = dag.optimize()
    users = after.graph.users

    def broadcasts(value: td.Value) -> bool:
        if value.op.name == "repeat":
            return True
        added = value.op.name in ("group", "ungroup") and value.rank > value.args[0].rank
        return added and value.type.size == value.args[0].type.size and all(u.op.name == "repeat" for u in users[value])

    left = ops(after)
    return len(ops(dag)), len(left), sum(not broadcasts(v) for v in left)


def _exported(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    import onnx
    import torch

    program: Any = torch.onnx.export(module, args, kwargs=kwargs, dynamo=True, verbose=False)
    file = io.BytesIO()
    program.save(file)
    return onnx.load_from_string(file.getvalue())


def _nodes(model: Any) -> int:
    return sum(n.op_type != "Constant" for n in model.graph.node)


def main() -> None:
    import onnxsim
    import onnxslim

    names = sys.argv[1:] or NETWORKS
    print(
        f"{'network':<30} {'tdagger':>8} {'optimised':>10} {'no repeat':>10} {'onnx':>6} {'onnxsim':>8} {'onnxslim':>9}"
    )
    for name in names:
        module, args, kwargs = tests.networks.NETWORKS[name](small=True, batch=1)
        before, after, left = _own(module, args, kwargs)
        row: list[Any] = []
        try:
            model = _exported(module, args, kwargs)
            row.append(_nodes(model))
            for simplify in (lambda m: onnxsim.simplify(m)[0], onnxslim.slim):
                try:
                    row.append(_nodes(simplify(model)))
                except Exception as e:
                    row.append(type(e).__name__)
        except Exception as e:
            row = [type(e).__name__, "-", "-"]
        print(f"{name:<30} {before:>8} {after:>10} {left:>10} {row[0]!s:>6} {row[1]!s:>8} {row[2]!s:>8}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
