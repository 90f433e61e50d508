"""Networks of 27 to 1,000 billion parameters from their configurations: what they cost, and what finding that costs.

A process for each network, so that its time and memory are its own: everything is in them, from starting Python and
importing torch and transformers to the totals. Two graphs of each: ``prefill``, a text of 2048 tokens, and ``decode``,
one token after 4096 others, whose keys and values are inputs. TFLOP and GFLOP are those of contractions (2 for each
multiply-add). ``active`` are the parameters one token meets: of the experts, those that are picked. ``cache`` are the
keys and values of the 4096 tokens, in bfloat16.

The peer for a prefill is ``torch.utils.flop_counter`` on a forward pass on the meta device. It knows matrix products,
convolutions and attention, in a table by op; what isn't in the table counts as nothing.

With ``--analyses`` every analysis is timed, each on Llama-3-70B and DeepSeek-V3.

Usage: ``python benchmarks/bench_huge.py [--only NAME] [--analyses]``
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LENGTH, PAST = 2048, 4096


def network(kind: str, published: float, **settings: Any) -> tuple[str, float, dict[str, Any]]:
    """A configuration's class, the number of parameters that was published (10^9), what differs from the defaults."""
    return kind, published, settings


NETWORKS = {
    "Gemma-3-27B (text)": network(
        "Gemma3TextConfig", 27.0, hidden_size=5376, num_hidden_layers=62, num_attention_heads=32,
        num_key_value_heads=16, head_dim=128, intermediate_size=21504,
        sliding_window=1024, vocab_size=262208, query_pre_attn_scalar=168,
    ),
    "Llama-3-70B": network(
        "LlamaConfig", 70.6, hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        intermediate_size=28672, vocab_size=128256, max_position_embeddings=8192,
    ),
    "Command-R+": network(
        "CohereConfig", 104, hidden_size=12288, num_hidden_layers=64, num_attention_heads=96, num_key_value_heads=8,
        intermediate_size=33792, vocab_size=256000, use_qk_norm=True,
    ),
    "GPT-OSS-120B": network(
        "GptOssConfig", 116.8, hidden_size=2880, num_hidden_layers=36, num_attention_heads=64, num_key_value_heads=8,
        head_dim=64, intermediate_size=2880, num_local_experts=128, num_experts_per_tok=4, vocab_size=201088,
        sliding_window=128,
    ),
    "Mixtral-8x22B": network(
        "MixtralConfig", 141, hidden_size=6144, num_hidden_layers=56, num_attention_heads=48, num_key_value_heads=8,
        intermediate_size=16384, num_local_experts=8, num_experts_per_tok=2, vocab_size=32768,
        sliding_window=None,
    ),
    "Qwen3-235B-A22B": network(
        "Qwen3MoeConfig", 235, hidden_size=4096, num_hidden_layers=94, num_attention_heads=64, num_key_value_heads=4,
        head_dim=128, intermediate_size=12288, moe_intermediate_size=1536, num_experts=128, num_experts_per_tok=8,
        vocab_size=151936, norm_topk_prob=True,
    ),
    "Llama-3.1-405B": network(
        "LlamaConfig", 405, hidden_size=16384, num_hidden_layers=126, num_attention_heads=128, num_key_value_heads=8,
        intermediate_size=53248, vocab_size=128256, max_position_embeddings=131072,
    ),
    "DeepSeek-V3": network("DeepseekV3Config", 671),
    "Kimi-K2": network(
        "DeepseekV3Config", 1000, num_attention_heads=64, num_key_value_heads=64, n_routed_experts=384,
        first_k_dense_replace=1, n_group=1, topk_group=1, vocab_size=163840, max_position_embeddings=131072,
    ),
}  # fmt: skip


def usage(since: tuple[float, float]) -> dict[str, float]:
    """Seconds of wall and processor time, and the most memory of this process, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"wall": time.time() - since[0], "processor": time.process_time() - since[1], "GB": peak}


def configuration(name: str) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    kind, _, settings = NETWORKS[name]
    return getattr(transformers, kind)(**settings)


def active(dag: Any, config: Any) -> float:
    """The parameters that one token meets."""
    picked = getattr(config, "num_experts_per_tok", 0)
    experts = {a for v in dag.values if v.op.name == "grouped_matmul" for a in parameters_behind(v.args[1])}
    return sum(v.type.size * (picked / v.shape[0] if v in experts else 1) for v in dag.graph.parameters.values())


def parameters_behind(value: Any) -> list[Any]:
    while value.args:
        value = value.args[0]
    return [value]


def measure(name: str, what: str, began: float) -> dict[str, Any]:
    """One network, in this process; ``began`` is when it was started."""
    import torch

    torch.set_num_threads(1)
    import tdagger as td

    config = configuration(name)
    lengths = {"seq": LENGTH} if what == "prefill" else {"past": PAST}
    dag = td.from_transformers(config, **lengths)
    cost = dag.cost()
    row: dict[str, Any] = usage((began, 0.0))
    row["flops"], row["partial"], row["values"] = cost.contraction_flops, cost.is_partial, len(dag.values)
    row["parameters"] = sum(v.type.size for v in dag.graph.parameters.values())
    row["active"] = active(dag, config)
    row["cache"] = sum(v.type.bytes for n, v in dag.graph.inputs.items() if n.startswith("past"))
    return row


def peer(name: str, began: float) -> dict[str, Any]:
    """torch's own counter on the same configuration."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    from tdagger.frameworks.torch.source.huggingface import on_meta

    model = on_meta(configuration(name)).eval()
    tokens = torch.zeros(1, LENGTH, dtype=torch.int64, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=tokens)
    return {"flops": counter.get_total_flops(), **usage((began, 0.0))}


def analyses(name: str, lengths: dict[str, int], axis: str) -> None:
    """The time that every analysis takes."""
    import torch

    torch.set_num_threads(1)
    import tdagger as td

    def show(what: str, work: Callable[[], Any]) -> Any:
        began = time.time(), time.process_time()
        found = work()
        used = usage(began)
        print(f"  {what:<28} {used['wall']:7.1f}s {used['processor']:8.1f}s {used['GB']:6.2f} GB", flush=True)
        return found

    print(f"{name}, {lengths}")
    dag = show("from_transformers", lambda: td.from_transformers(configuration(name), **lengths))
    show("axes", dag.axes)
    show("cost", dag.cost)
    show("cost(backward=True)", lambda: dag.cost(backward=True))
    formula = show("cost_formula", lambda: dag.cost_formula("flops"))
    show(f"formula at {axis}=4000", lambda: formula(**{axis: 4000}))
    show(f"formula at {axis}=131072", lambda: formula(**{axis: 131072}))
    show("resize", lambda: dag.resize(b=4, **{axis: 4000}))
    show("rank_report", dag.rank_report)
    show("regions", lambda: [r.total_flops() for r in dag.regions(4).values()])
    show("schedule", dag.schedule)
    show("text", lambda: str(dag))
    show("to_torch(fixed=True)", lambda: dag.to_torch(fixed=True))
    show("to_torch()", dag.to_torch)  # its source is captured once more, at other sizes
    show("to_torch() again", dag.to_torch)


def run(name: str, what: str) -> dict[str, Any]:
    """A row of the table, from a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--what", what, "--began", str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def table(names: list[str]) -> None:
    heads = ("published", "parameters", "active", "prefill", "torch says", "decode", "cache", "values")
    units = ("10^9", "10^9", "10^9", "TFLOP", "TFLOP", "GFLOP", "GB", "")
    print(f"{'':<20}" + "".join(f"{h:>12}" for h in heads) + f"{'wall':>15} {'processor':>13} {'peak':>11}")
    print(f"{'':<20}" + "".join(f"{u:>12}" for u in units) + f"{'s':>15} {'s':>13} {'GB':>11}")
    for name in names:
        whole, step, other = run(name, "prefill"), run(name, "decode"), run(name, "peer")
        errors = [row["error"] for row in (whole, step, other) if "error" in row]
        if errors:
            print(f"{name:<20}{errors[0]}", flush=True)
            continue
        figures = (
            f"{NETWORKS[name][1]:g}", f"{whole['parameters'] / 1e9:.3f}", f"{whole['active'] / 1e9:.2f}",
            f"{whole['flops'] / 1e12:.3f}", f"{other['flops'] / 1e12:.3f}", f"{step['flops'] / 1e9:.3f}",
            f"{step['cache'] / 1e9:.3f}", f"{whole['values']}",
        )  # fmt: skip
        both = [f"{whole[k]:.{d}f}, {step[k]:.{d}f}" for k, d in (("wall", 1), ("processor", 1), ("GB", 2))]
        partial = " partial" if whole["partial"] or step["partial"] else ""
        print(f"{name:<20}" + "".join(f"{f:>12}" for f in figures) + f"{both[0]:>15} {both[1]:>13} {both[2]:>11}"
              + partial, flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", help="networks whose name has this in it")
    parser.add_argument("--analyses", action="store_true")
    for hidden in ("--one", "--what", "--began"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        began = float(given.began)
        row = peer(given.one, began) if given.what == "peer" else measure(given.one, given.what, began)
        print(json.dumps(row))
        return
    names = [n for n in NETWORKS if given.only is None or given.only in n]
    if given.analyses:
        for name in [n for n in names if given.only or n in ("Llama-3-70B", "DeepSeek-V3")]:
            analyses(name, {"seq": LENGTH}, "s")
            analyses(name, {"past": PAST}, "past")
        return
    print("wall and processor time and peak memory: of prefill, of decode; the whole process, imports included")
    table(names)


if __name__ == "__main__":
    main()
