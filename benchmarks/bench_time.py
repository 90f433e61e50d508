"""Predicted against measured processor time of forty networks of timm and transformers; docs/time.md has a run.

Measured is the original module in eval mode, without gradients, batch 1, on one thread: processor time of a call, the
lower quartile over all rounds; a round goes through all networks, so that what else the machine does is spread.
Predicted by

- ``flops``: FLOPs / P, one number,
- ``three``: FLOPs / P + bytes / W + c * ops, three numbers (both fitted to the networks of the other folds),
- ``folds``: ``dag.predict_time``, calibrated with op-by-op profiles of the networks of the other folds (5, by index),
- ``calibrate``: ``dag.predict_time`` with the device file that ``tdagger calibrate`` writes: no network of timm or
  transformers was measured for it,
- ``both``: ``dag.predict_time``, calibrated with the networks of the other folds and those of ``tdagger calibrate``.

``noise`` is what half of the rounds say of the other half. The C allocator is told to keep its memory (``--allocator
default``: it isn't; then up to half of a small network's time are page faults, in one process and not in the next).
Goal, of ``folds``: median error at most 5 %, 90th percentile at most 12 %, at least 80 % within 10 %.

Usage: ``python benchmarks/bench_time.py [--rounds N] [--data FILE] [NETWORK ...]``; ``--data`` keeps
what was measured, so that predictions can be repeated.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _zoo import network as timm_network
from _zoo import quiet

import tdagger as td
from tdagger.analysis.time.fit import errors, fit, nonnegative
from tdagger.analysis.time.timing import Device
from tdagger.frameworks.torch.measure.calibration import Observed, device_from, observations, observe
from tdagger.frameworks.torch.measure.profiler import Profiler, keep_memory

FOLDS, TARGET_SECONDS, QUANTILE = 5, 0.25, 0.25

TIMM = (
    "resnet50", "vgg11", "densenet121", "inception_v3", "mobilenetv3_large_100", "efficientnet_b0", "regnety_002",
    "repvgg_a0", "ghostnet_100", "res2net50_26w_4s", "hrnet_w18_small", "convnext_tiny", "poolformer_s12",
    "vit_base_patch16_224", "swin_tiny_patch4_window7_224", "maxvit_tiny_tf_224", "mixer_b16_224", "mobilevit_s",
    "xcit_nano_12_p16_224", "levit_128s", "resnet18", "resnext50_32x4d", "mobilenetv2_100", "deit_small_patch16_224",
    "convnextv2_nano", "efficientvit_b1", "edgenext_small", "wide_resnet50_2",
)  # fmt: skip
_HIDDEN = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536}
_T5 = {"d_model": 384, "d_kv": 64, "d_ff": 1536, "num_layers": 6, "num_heads": 6}
_WHISPER = {
    "d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536,
    "max_source_positions": 500,
}  # fmt: skip
#: Class of transformers -> sequence length (0: no tokens) and what its config says.
TRANSFORMERS: dict[str, tuple[int, dict[str, Any]]] = {
    "BertModel": (128, _HIDDEN),
    "GPT2LMHeadModel": (128, {"n_embd": 384, "n_layer": 6, "n_head": 6}),
    "LlamaForCausalLM": (128, {**_HIDDEN, "vocab_size": 32000}),
    "T5EncoderModel": (128, _T5),
    "WhisperModel": (0, _WHISPER),
    "CLIPTextModel": (77, {**_HIDDEN, "hidden_size": 512, "num_attention_heads": 8}),
    "RobertaModel": (256, {**_HIDDEN, "num_hidden_layers": 4}),
    "MistralForCausalLM": (64, {**_HIDDEN, "vocab_size": 16000, "num_key_value_heads": 2}),
    "BloomModel": (96, {"hidden_size": 512, "n_layer": 6, "n_head": 8}),
    "MPNetModel": (160, _HIDDEN),
    "Wav2Vec2Model": (0, {**_HIDDEN, "num_hidden_layers": 4}),
    "ViTModel": (0, {**_HIDDEN, "num_hidden_layers": 8}),
}
NETWORKS = (*TIMM, *TRANSFORMERS)


def build(name: str) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A network in eval mode with random weights, and its arguments."""
    if name not in TRANSFORMERS:
        module, x = timm_network(name, 1)
        return module, (x,), {}
    import transformers

    torch.manual_seed(0)
    length, options = TRANSFORMERS[name]
    kind = getattr(transformers, name)
    config = kind.config_class(**options)
    module = kind(config).eval()
    if name == "WhisperModel":
        return module.get_encoder(), (), {"input_features": torch.randn(1, config.num_mel_bins, 1000)}
    if name == "Wav2Vec2Model":
        return module, (), {"input_values": torch.randn(1, 16000)}
    if name == "ViTModel":
        return module, (), {"pixel_values": torch.randn(1, 3, config.image_size, config.image_size)}
    kwargs: dict[str, Any] = {"input_ids": torch.randint(0, config.vocab_size, (1, length))}
    if "use_cache" in inspect.signature(module.forward).parameters:
        kwargs["use_cache"] = False
    return module, (), kwargs


@dataclass
class Case:
    """A network while it is measured, and what was measured."""

    name: str
    dag: td.TensorDAG | None
    call: Callable[[], Any] | None
    profiler: Profiler | None
    flops: int
    moved: int
    ops: int
    rounds: list[list[float]] = field(default_factory=list)
    generated: list[float] = field(default_factory=list)
    observed: Observed | None = None

    def seconds(self, which: slice = slice(None)) -> float:
        """The lower quartile of the original's times in some of the rounds."""
        return float(np.quantile([t for r in self.rounds[which] for t in r], QUANTILE))


def case(name: str) -> Case:
    module, args, kwargs = build(name)
    dag = td.from_torch(module, args, kwargs)
    cost = dag.cost()
    profiler = Profiler(dag, args, kwargs)
    moved, ops = cost.reads + cost.writes, sum(r.ops for r in cost.by_op)
    return Case(name, dag, lambda: module(*args, **kwargs), profiler, cost.total_flops, moved, ops)


def one_round(c: Case) -> None:
    """Times of the original, and runs of the profiler, of one network."""
    assert c.call is not None
    assert c.profiler is not None
    gc.collect()
    times: list[float] = []
    c.call()
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < TARGET_SECONDS:
        begun = time.process_time_ns()
        c.call()
        times.append((time.process_time_ns() - begun) / 1e9)
    c.rounds.append(times)
    c.profiler.run(seconds=2 * TARGET_SECONDS)


def measure(names: Sequence[str], rounds: int) -> list[Case]:
    cases: list[Case] = []
    for name in names:
        cases.append(case(name))
        print(f"\rimported {len(cases)} of {len(names)}: {name:<40}", end="", file=sys.stderr, flush=True)
    for n in range(rounds):
        for c in cases:
            one_round(c)
            print(f"\rround {n + 1} of {rounds}: {c.name:<40}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for c in cases:
        assert c.profiler is not None
        c.observed = observe(c.profiler, c.seconds())
        c.generated = [cpu for _, cpu in c.profiler.whole]
        c.profiler = c.call = None
    return cases


# --- predictions -------------------------------------------------------------------------------------------


def linear(train: Sequence[Case], columns: Callable[[Case], list[float]]) -> Callable[[Case], float]:
    """Numbers >= 0 that fit the columns to the times, relative to them."""
    rows = np.array([columns(c) for c in train], float) / np.array([[c.seconds()] for c in train])
    x = nonnegative(rows.T @ rows, rows.sum(axis=0))
    return lambda c: float(np.array(columns(c)) @ x)


def by_folds(cases: Sequence[Case], model: Callable[[Sequence[Case]], Callable[[Case], float]]) -> list[float]:
    """Every network predicted by a model of the networks of the other folds."""
    models = [model([c for i, c in enumerate(cases) if i % FOLDS != fold]) for fold in range(FOLDS)]
    return [models[i % FOLDS](c) for i, c in enumerate(cases)]


def on(device: Device) -> Callable[[Case], float]:
    """The prediction that ``dag.predict_time`` makes."""

    def predicted(c: Case) -> float:
        assert c.dag is not None
        return float(c.dag.predict_time(device))

    return predicted


def profiled(train: Sequence[Case], more: Sequence[Observed] = ()) -> Callable[[Case], float]:
    """A device calibrated with what was observed of some networks."""
    observed = [*[c.observed for c in train if c.observed is not None], *more]
    return on(Device("folds", "", "", fit([s for o in observed for s in o.all]), {"networks": len(observed)}))


def report(cases: Sequence[Case], made: Sequence[Observed]) -> None:
    """The table, and how well each way does."""
    measured = [c.seconds() for c in cases]
    device = device_from(made, "calibrate")
    ways = {
        "flops": by_folds(cases, lambda train: linear(train, lambda c: [c.flops])),
        "three": by_folds(cases, lambda train: linear(train, lambda c: [c.flops, c.moved, c.ops])),
        "folds": by_folds(cases, profiled),
        "calibrate": [on(device)(c) for c in cases],
        "both": by_folds(cases, lambda train: profiled(train, made)),
    }
    generated = [float(np.quantile(c.generated, QUANTILE)) for c in cases]
    print(
        f"{'network':<30} {'GFLOPs':>7} {'ops':>5} {'measured':>10} {'to_torch':>9} "
        + "".join(f"{w:>11}" for w in ways)
    )
    for i, c in enumerate(cases):
        off = "".join(f"{found[i] / measured[i] - 1:>+11.1%}" for found in ways.values())
        ratio = generated[i] / measured[i]
        print(f"{c.name:<30} {c.flops / 1e9:>7.2f} {c.ops:>5} {1e3 * measured[i]:>8.1f}ms {ratio:>9.3f} {off}")
    print(f"\n{'':<42} {'median':>8} {'p90':>8} {'within 10 %':>12}")
    halves = [[c.seconds(slice(k, None, 2)) for c in cases] for k in (0, 1)] if len(cases[0].rounds) > 1 else []
    lines = [(f"{w}, of the original", found, measured) for w, found in ways.items()]
    lines += [(f"{w}, of to_torch()", ways[w], generated) for w in ("folds", "calibrate", "both")]
    lines += [("noise: even rounds, of odd rounds", *halves)] if halves else []
    for title, found, of in lines:
        e = errors(found, of)
        print(f"{title:<42} {e['median_error']:>8.1%} {e['p90_error']:>8.1%} {e['within_10_percent']:>12.0%}")
    print(f"goal, of folds: median <= 5 %, p90 <= 12 %, >= 80 % within 10 %; {len(cases)} networks, "
          f"{len(cases[0].rounds)} rounds, {len(device.seconds)} kinds of kernels")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="names of the list; all by default")
    parser.add_argument("--rounds", type=int, default=4, help="through all networks; 4 by default")
    parser.add_argument("--data", help="keep what is measured in this file; read it if it is there")
    parser.add_argument("--allocator", choices=("kept", "default"), default="kept")
    options = parser.parse_args()
    data = None if options.data is None else Path(options.data)
    with quiet():
        if data is not None and data.exists():
            cases, made = pickle.loads(data.read_bytes())
        else:
            if options.allocator == "kept":
                keep_memory()
            cases = measure(options.networks or NETWORKS, options.rounds)
            made = observations()
            if data is not None:
                for c in cases:
                    assert c.dag is not None
                    c.dag = td.TensorDAG(c.dag.graph, {}, c.dag.signature, name=c.name)
                data.write_bytes(pickle.dumps((cases, made)))
        report(cases, made)


if __name__ == "__main__":
    main()
