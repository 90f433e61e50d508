"""A Llama of 70 billion parameters on the meta device: time and memory to import it and add up its totals.

Hidden size 8192, 80 layers, 64 heads, 8 key and value heads, intermediate size 28672, a vocabulary of 128256,
sequence length 2048, bfloat16. Each step's wall and processor time, and the peak memory of the process so far.
Contractions alone (every weight product and both attention products, 2 operations per multiply-add) are known in
closed form; the total counts 2 k - 1 for a dot product of k numbers and everything elementwise, so it is near.
Peer: the process before the import (torch, transformers and the network on the meta device). Goal: everything in
less than 60 s and 3 GB.

Usage: ``python benchmarks/bench_huge.py [--layers N]``
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from _zoo import quiet

import tdagger as td

HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE, VOCABULARY, LENGTH = 8192, 80, 64, 8, 28672, 128256, 2048


def contractions(layers: int) -> int:
    """Operations of all products of matrices, in closed form."""
    width = HIDDEN // HEADS
    weights = layers * HIDDEN * (2 * HIDDEN + 2 * KV_HEADS * width + 3 * INTERMEDIATE) + HIDDEN * VOCABULARY
    attention = layers * 2 * HEADS * width * LENGTH
    return 2 * LENGTH * (weights + attention)


def gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def build(layers: int) -> torch.nn.Module:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=HIDDEN, num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        intermediate_size=INTERMEDIATE, vocab_size=VOCABULARY, max_position_embeddings=LENGTH,
    )  # fmt: skip
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=LAYERS)
    layers = parser.parse_args().layers
    began = wall, processor = time.perf_counter(), time.process_time()

    def step(what: str) -> None:
        nonlocal wall, processor
        now = time.perf_counter(), time.process_time()
        print(f"{what:<34} {now[0] - wall:7.1f}s {now[1] - processor:7.1f}s {gigabytes():6.2f} GB", flush=True)
        wall, processor = now

    with quiet():
        print(f"{'':<34} {'wall':>8} {'process':>8} {'peak':>9}")
        model = build(layers)
        step("build it on the meta device")
        tokens = torch.zeros(1, LENGTH, dtype=torch.int64, device="meta")
        dag = td.from_torch(model, (), {"input_ids": tokens, "use_cache": False})
        step("from_torch")
        parameters = sum(v.type.size for v in dag.graph.parameters.values())
        flops, held = dag.graph.total_flops(), dag.graph.total_bytes()
        reads, writes = dag.graph.total_memory_reads(), dag.graph.total_memory_writes()
        regions = {path: region.total_flops() for path, region in dag.regions(3).items()}
        step(f"totals, and those of {len(regions)} modules")
    closed = contractions(layers)
    print(f"{len(dag.values)} values, {parameters / 1e9:.3f} G parameters, {held / 1e9:.1f} GB of weights")
    print(f"{flops / 1e12:.3f} TFLOP, contractions in closed form {closed / 1e12:.3f}: ratio {flops / closed:.4f}")
    print(f"{reads / 1e9:.1f} GB read, {writes / 1e9:.1f} GB written")
    print(f"all of it: {time.perf_counter() - began[0]:.1f} s of wall time, {time.process_time() - began[1]:.1f} s of "
          f"processor time, {gigabytes():.2f} GB; goal: < 60 s and < 3 GB")  # fmt: skip


if __name__ == "__main__":
    main()
