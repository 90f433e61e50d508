"""What a program takes beyond its ops: a turn, the memory of a long loop, decoding with a cache, layers in a loop.

A turn in numpy and torch is compared with the same ops in a loop by hand, as a difference in microseconds; goal: at
most 30. Memory is the highest of 1,000 and of 100,000 turns. Decoding is 48 tokens after 8 by a small Llama, greedy,
against ``model.generate`` with a static cache, and against a loop by hand over ``transformers.StaticCache``; goal: at
most 1 times. Times are processor time of one thread; what is compared is run in turns.

Usage: ``python benchmarks/bench_program.py [turn | memory | decoding | layers ...]``, all unless told
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

import tdagger as td

RUNS = 15
TURNS = 2000
PROMPT, TOKENS = 8, 48


def least(several: dict[str, Callable[[], object]], runs: int = RUNS) -> dict[str, float]:
    """The least processor time of each of some calls, which are made in turns."""
    found = dict.fromkeys(several, float("inf"))
    for call in several.values():
        call()
    for _ in range(runs):
        for name, call in several.items():
            start = time.process_time()
            call()
            found[name] = min(found[name], time.process_time() - start)
    return found


@td.program({"x": (8, 8), "w": (8, 8), "n": td.TensorType((), "i64")})
def steps(x: td.Value, w: td.Value, n: td.Value) -> Any:
    return td.while_loop(lambda k, x: k < n, lambda k, x: (k + 1, td.tanh(td.matmul(x, w)) + x * 0.5), (0, x))


def by_numpy(x: Any, w: Any, n: Any) -> Any:
    k = np.array(0)
    while k < n:
        k, x = k + 1, np.tanh(np.matmul(x, w)) + x * np.float32(0.5)
    return k, x


def by_torch(x: Any, w: Any, n: Any) -> Any:
    k = torch.tensor(0)
    while k < n:
        k, x = k + 1, torch.tanh(x @ w) + x * 0.5
    return k, x


def turn() -> None:
    rng = np.random.default_rng(0)
    x, w, n = rng.standard_normal((8, 8)).astype("f"), rng.standard_normal((8, 8)).astype("f") / 8, np.array(TURNS)
    runner, module = steps.runner(), steps.to_torch()
    tensors = [torch.from_numpy(a) for a in (x, w, n)]
    np.testing.assert_allclose(runner(x, w, n)[1], by_numpy(x, w, n)[1], rtol=1e-5)
    with torch.no_grad():
        found = least(
            {
                "numpy": lambda: runner(x, w, n), "numpy by hand": lambda: by_numpy(x, w, n),
                "torch": lambda: module(*tensors), "torch by hand": lambda: by_torch(*tensors),
            }
        )  # fmt: skip
    for name in ("numpy", "torch"):
        own, hand = (1e6 * found[n] / TURNS for n in (name, f"{name} by hand"))
        print(f"a turn in {name:<6} {own:6.1f} us, by hand {hand:6.1f}, beyond its ops {own - hand:5.1f} (goal 30)")


def high() -> int:
    """The most memory of the process so far, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def memory() -> None:
    x, w = np.ones((8, 8), "f"), np.eye(8, dtype="f")
    runner, module = steps.runner(), steps.to_torch()
    peaks: list[int] = []
    for n in (1_000, 1_000, 100_000):  # what is made once is made in the first
        tracemalloc.start()
        runner(x, w, np.array(n))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    print(f"numpy: at most {peaks[1]} bytes in 1,000 turns, {peaks[2]} in 100,000")
    with torch.no_grad():
        before = [high() for n in (1_000, 100_000) if module(*map(torch.from_numpy, (x, w, np.array(n))))]
    print(f"torch: the process takes {before[1] - before[0]} kB more after 100,000 turns than after 1,000")


def decoding() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    prefill = td.from_transformers(model, seq=PROMPT, dtype="f32")
    decode = td.from_transformers(model, past=PROMPT + TOKENS, dtype="f32", mask=True)
    module = td.generate_program(prefill, decode).to_torch()
    prompt, count = torch.randint(1, 1000, (PROMPT,)), torch.tensor(TOKENS)

    def generated() -> Any:
        return model.generate(
            prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=TOKENS, do_sample=False,
            pad_token_id=0, eos_token_id=None, cache_implementation="static", disable_compile=True,
        )[0]  # fmt: skip

    def by_hand() -> Any:
        cache = StaticCache(config=config, max_cache_len=PROMPT + TOKENS)
        text, given = prompt.tolist(), prompt[None]
        for _ in range(TOKENS):
            logits = model(given, past_key_values=cache, use_cache=True).logits
            given = logits[:, -1].argmax(-1, keepdim=True)
            text.append(int(given))
        return torch.tensor(text)

    with torch.no_grad():
        assert module(prompt, count).tolist() == generated().tolist() == by_hand().tolist()
        found = least({"own": lambda: module(prompt, count), "generate": generated, "by hand": by_hand}, 5)
    own = found.pop("own")
    print(f"{TOKENS} tokens: {1e3 * own:.0f} ms", end="")
    print("".join(f", {own / t:.2f} times {n}'s {1e3 * t:.0f} ms" for n, t in found.items()), "(goal 1)")


def layers() -> None:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    args = [torch.arange(6)[None], torch.ones(1, 6, dtype=torch.int64)]
    for count in (20, 80):
        torch.manual_seed(0)
        config = LlamaConfig(num_hidden_layers=count, vocab_size=100, use_cache=False, **small)
        dag = td.from_transformers(LlamaForCausalLM(config).eval(), seq=6)
        program = dag.roll()
        runner = program.runner()
        runner(*[a.numpy() for a in args])
        values = sum(len(b.graph.values) for b in program.blocks.values())
        macs = program.cost().total(runner.counts, "macs")
        with torch.no_grad():
            own, want = (m.to_torch()(*args).logits for m in (program, dag))
        told = f"{len(dag.graph.values)} values, rolled {values}; {dag.cost().macs} multiply-adds, rolled {macs}"
        print(f"{count} layers: {told}; logits differ by {float((own - want).abs().max()):.1e} (goal 1e-6)")


PARTS = {p.__name__: p for p in (turn, memory, decoding, layers)}


def main() -> None:
    torch.set_num_threads(1)
    asked = sys.argv[1:]
    if not set(asked) <= PARTS.keys():
        sys.exit(__doc__)
    for name in asked or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
