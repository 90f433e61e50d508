"""The harness of the sweeps over models: limits, going on where it was, what counts as wrong, the page."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tdagger as td
from conformance import table, timm_models, transformers_models
from conformance.check import another, check, gradient_error, products
from conformance.layers import Compared, is_named
from conformance.sweep import Limits, read, resident, run_one, sweep
from tests.networks import Network

QUICK = Limits(seconds=60)


def _fine(name: str, report: Callable[..., None]) -> None:
    report(stage="first", value=len(name))
    report(stage="second")


def _raises(name: str, report: Callable[..., None]) -> None:
    report(stage="deep")
    raise ValueError(f"{name} is\nno good")


def _sleeps(name: str, report: Callable[..., None]) -> None:
    report(stage="sleep")
    time.sleep(60)


def _grows(name: str, report: Callable[..., None]) -> None:
    report(stage="grow")
    held: list[bytearray] = []
    for _ in range(40):  # a forked process may hold much less than its parent at first
        held.append(bytearray(b"x") * (50 << 20))
        time.sleep(0.1)
    time.sleep(60)


def _exits(name: str, report: Callable[..., None]) -> None:
    report(stage="exit")
    time.sleep(0.3)
    os._exit(3)


def test_a_row_is_all_that_was_reported() -> None:
    row = run_one("abc", _fine, QUICK)
    assert {k: row[k] for k in ("name", "stage", "value", "status")} == {
        "name": "abc", "stage": "second", "value": 3, "status": "ok",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("work", "limits", "status", "error"),
    [
        (_raises, QUICK, "failed", r"ValueError: x is no good \(test_conformance\.py:"),
        (_sleeps, Limits(seconds=3), "timeout", "more than 3 s in stage sleep"),
        (_grows, QUICK, "memory", r"more than \d+ MB in stage grow$"),
        (_exits, QUICK, "crashed", "exit code 3 in stage exit"),
    ],
)
def test_a_process_that_fails_is_a_row_too(work: Any, limits: Limits, status: str, error: str) -> None:
    if work is _grows and torch.cuda.is_available():
        pytest.skip("a process with CUDA holds more than the limit from the start")
    if work is _grows:  # a forked process begins with what this one holds
        limits = Limits(60, resident(os.getpid()) + (200 << 20))
    row = run_one("x", work, limits)
    assert row["status"] == status
    assert re.match(error, row["error"])
    assert row["seconds"] < 30


def test_a_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "results" / "x.jsonl"
    calls = tmp_path / "calls"

    def work(name: str, report: Callable[..., None]) -> None:
        with calls.open("a") as file:
            file.write(name)
        report(status="wrong" if name == "b" else "ok")

    assert list(sweep(["a", "b"], work, path, QUICK, quiet=True)) == ["a", "b"]
    with path.open("a") as file:
        file.write('{"name": "c", "sta')  # an interruption
    assert set(read(path)) == {"a", "b"}
    path.write_text(path.read_text().rpartition('{"name": "c"')[0])
    rows = sweep(["a", "b", "c"], work, path, QUICK, quiet=True)
    assert calls.read_text() == "abc"
    assert {n: r["status"] for n, r in rows.items()} == {"a": "ok", "b": "wrong", "c": "ok"}
    sweep(["a", "b", "c"], work, path, QUICK, again=["wrong"], quiet=True)
    assert calls.read_text() == "abcb"
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 4


def _checked(module: nn.Module, *args: torch.Tensor) -> dict[str, Any]:
    row: dict[str, Any] = {}
    check(Network(module.eval(), args, {}), lambda **found: row.update(found))
    return row


def test_check_of_a_network() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    row = _checked(module, torch.randn(2, 3, 6, 6))
    assert row["stage"] == "done"
    assert "status" not in row
    assert row["output_error"] == 0
    assert row["gradient_error"] <= 1e-6
    assert row["state"]
    assert row["via"] == "export"
    assert row["products"] == row["torch_flops"] == 2 * (2 * 4 * 16 * 27 + 2 * 5 * 64)


class _Decides(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


@pytest.mark.filterwarnings("ignore:the network decides by its data")
def test_a_network_that_only_a_trace_captures() -> None:
    row = _checked(_Decides(), torch.ones(3))
    assert row["via"] == "trace"
    assert not row["exports"]
    assert row["export_error"]


class _Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0 - x / 0


def test_a_network_that_gives_no_number() -> None:
    assert _checked(_Nothing(), torch.ones(3))["status"] == "failed"


class _Empty(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x[:0]


def test_an_output_without_elements_is_no_lack_of_numbers() -> None:
    row = _checked(_Empty(), torch.ones(3))
    assert row["output_error"] == 0
    assert "status" not in row


class _Cancels(nn.Module):
    """A sum minus the same in another order: little but rounding, in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = x.contiguous(memory_format=torch.channels_last)
        return x.sum((2, 3)) - turned.sum((2, 3)) + 1e-7 * x[:, :, 0, 0]


def test_a_difference_that_is_rounding_is_told_by_float64() -> None:
    torch.manual_seed(0)
    row = _checked(_Cancels(), torch.randn(1, 64, 8, 8))
    assert row["output_error_f32"] > 1e-2
    assert row["output_rounding"] > row["output_error_f32"] / 2
    assert row["output_error"] <= 1e-5
    assert "status" not in row


class _Masked(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0]


def test_a_network_whose_shapes_depend_on_the_data() -> None:
    row = _checked(_Masked(), torch.randn(4))
    assert row["status"] == "unsupported"
    assert "depends on the data" in row["error"]


def test_gradients_that_differ_are_found() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    error, where = gradient_error(one, other, (torch.ones(1, 3),), {})
    assert (error, where) == (0.0, "")  # the gradient of a linear layer doesn't depend on its weights
    assert gradient_error(nn.Sequential(one, nn.Tanh()), nn.Sequential(other, nn.Tanh()), (torch.ones(1, 3),), {})[0]


def test_products_of_attention_and_a_transposed_convolution() -> None:
    q = td.input("q", (2, 4, 5, 8))
    attention = td.library.scaled_dot_product_attention(q, q, q)
    assert products(td.Graph({"q": q}, {"y": attention})) == 2 * 2 * (2 * 4 * 5 * 5 * 8)
    x, w = td.input("x", (1, 3, 4, 4)), td.input("w", (3, 6, 2, 2))
    options = {"stride": (2, 2), "padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1)}
    y = td.library.convolution_transpose(x, w, **options)
    assert products(td.Graph({"x": x, "w": w}, {"y": y})) == 2 * 3 * 6 * 4 * 16
    assert products(td.Graph({"q": q}, {"y": q + q})) == 0


def test_other_inputs_keep_masks() -> None:
    ids, mask = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 0]])
    (x,), kwargs = another((torch.zeros(2),), {"input_ids": ids, "attention_mask": mask})
    assert x.any()
    assert kwargs["input_ids"].tolist() == [[3, 2, 1]]
    assert kwargs["attention_mask"] is mask


def test_the_page() -> None:
    good = {
        "name": "a", "status": "ok", "model": "A", "parameters": 1234, "via": "export", "exports": True,
        "output_error": 0.0, "gradient_error": 2e-7, "flops": 2_000_000_000, "products": 100, "torch_flops": 100,
        "import_s": 1.5, "export_s": 1.0, "peak_mb": 12.0,
    }  # fmt: skip
    traced = {**good, "name": "t", "via": "trace", "exports": False, "traces": True, "frozen": True,
              "gradient_error": None}  # fmt: skip
    bad = {"name": "b", "status": "wrong", "exports": True, "via": "export", "error": "outputs | differ\nby 1",
           "import_s": 2.5, "export_s": 1.0}  # fmt: skip
    wide = {**good, "name": "w", "output_error": 1e-13, "output_error_f32": 1e-3}
    page = table.page({"timm": (["w"], {"w": wide})})
    assert "| w | A | 1,234 | export | 1e-13 d | 2e-07 |" in page
    page = table.page({"timm": (["a", "b", "t", "c"], {"a": good, "b": bad, "t": traced})})
    assert "3 of 4 networks measured: 2 ok, 1 wrong." in page
    assert "Of the 2 that torch.export captures, 1 are ok (50.0%)." in page
    assert "Of the 1 that only torch.jit.trace captures, 1 are ok." in page
    assert "| a | A | 1,234 | export | 0 | 2e-07 | 2.000 | 1 | 1.5 | 1.0 | 12 |" in page
    assert "| t | A | 1,234 | trace (frozen) | 0 | - | 2.000 | 1 | 1.5 | refused | 12 |" in page
    assert "| b | wrong | outputs \\| differ by 1 |" in page
    assert "Not measured yet, 1 of 4: c." in page


def test_every_family_of_timm_has_its_model() -> None:
    import timm

    assert set(timm_models.FAMILIES) == set(timm.list_modules())
    for family, name in timm_models.FAMILIES.items():
        assert name in timm.list_models(module=family)


def test_tiny_configs() -> None:
    fields = {"hidden_size": 768, "num_hidden_layers": 3, "layer_types": ["a", "a", "b"], "vision_config": {"depth": 9}}
    assert transformers_models.small(fields) == {
        "hidden_size": 32, "num_hidden_layers": 2, "layer_types": ["a", "b"], "vision_config": {"depth": 2},
    }  # fmt: skip
    heads = {"num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 64, "qk_head_dim": 192}
    latent = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64}
    assert not {"head_dim", "qk_head_dim"} & transformers_models.small({**heads, **latent}).keys()
    assert transformers_models.small({**heads, **latent})["num_key_value_heads"] == transformers_models.HEADS
    assert "head_dim" in transformers_models.small(heads)
    assert len(set(transformers_models.KINDS)) == len(transformers_models.KINDS) >= 80
    network = transformers_models.build("bert")
    assert sum(p.numel() for p in network.module.parameters()) < 50_000
    network.module(*network.args, **network.kwargs)


def test_layers_are_held_against_their_source() -> None:
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.ReLU()).eval(), torch.randn(2, 3)
    back = td.from_torch(net, x).to_torch(copy=True)

    def compared() -> dict[str, str]:
        return Compared(net, lambda: net(x)).against(back, lambda: back(x))

    assert compared() == {}
    back[0].weight.data.mul_(2.0)
    assert compared() == {"0": "other outputs", "1": "other outputs", "2": "other outputs"}
    back[0].weight.data.div_(2.0)
    setattr(back, "1", nn.Tanh())
    assert compared() == {"1": "of another class", "2": "other outputs"}
    assert is_named("a.b", "    # b (Identity): here, not in its module\n")
    assert not is_named("a.b", "    # bb (Identity): here, not in its module\n")
