"""Kernels of a network, device files, fits and predictions."""

import json
from pathlib import Path

import numpy as np
import pytest

import tdagger as td
from tdagger.analysis.numbers import duration
from tdagger.analysis.time.fit import Sample, errors, fit, nonnegative
from tdagger.analysis.time.profile import Measured, Seconds, profile_of
from tdagger.analysis.time.timing import Device, device_of, devices, predict
from tdagger.analysis.time.work import NEAR, UNITS, Work, works
from tdagger.errors import AttributeValueError, SourceError
from tdagger.graph import Graph
from tdagger.op import Value
from tdagger.ops.external import External
from tdagger.tensordag import Origin


def graph(inputs: list[Value], output: Value) -> Graph:
    return Graph({x.op.leaf: x for x in inputs}, {"out": output})  # type: ignore[attr-defined]


def kinds(inputs: list[Value], output: Value) -> list[str]:
    return [w.kind for each in works(graph(inputs, output)).values() for w in each]


def device(**kinds: tuple[float, ...]) -> Device:
    return Device("test", "a test", "here", kinds, {"date": "today"})


X = td.input("x", (1, 16, 28, 28))
T = td.input("t", (1, 64, 128))
V = td.input("v", (1, 128))


def weight(*shape: int) -> Value:
    return td.parameter(f"w{shape}", shape)


@pytest.mark.parametrize(
    ("inputs", "output", "expected"),
    [
        ([X], td.convolution(X, weight(8, 16, 5, 5)), ["convolution"]),
        ([X], td.convolution(X, weight(8, 16, 3, 3)), ["convolution windows"]),
        ([X], td.convolution(X, weight(8, 16, 1, 1)), ["pointwise"]),
        ([X], td.convolution(X, weight(16, 1, 3, 3), groups=16), ["depthwise"]),
        ([X], td.convolution(X, weight(16, 4, 3, 3), groups=4), ["grouped"]),
        ([X], td.convolution(X, weight(16, 8, 3, 3), groups=2), ["grouped"]),
        ([X], td.convolution(X, weight(32, 8, 3, 3), groups=2), ["grouped windows"]),
        ([T], td.linear(T, weight(8, 128)), ["matmul"]),
        ([V], td.linear(V, weight(8, 128)), ["vector"]),
        ([T], td.matmul(T, td.permute(T, (0, 2, 1))), ["view", "batched"]),
        ([T], td.gelu(T), ["function erf"]),
        ([T], td.silu(T), ["function exp"]),
        ([T], td.relu(T), ["elementwise"]),
        ([T], td.softmax(T, axis=-1), ["softmax"]),
        ([T], td.reshape(T, shape=(64, 2, 64)), ["view"]),
        ([T], td.reshape(td.permute(T, (0, 2, 1)), shape=(1, 128 * 64)), ["view", "copy transposed"]),
        ([T], td.layer_norm(td.permute(T, (0, 2, 1))), ["view", "norm transposed"]),
        ([X], td.permute(td.convolution(X, weight(8, 16, 1, 1)), (0, 2, 3, 1)), ["pointwise", "view"]),
        ([T], td.relu(td.permute(T, (0, 2, 1))), ["view", "elementwise"]),
        ([T], td.slice_axis(T, 2, 0, 64) * 2.0, ["view", "elementwise strided"]),
        ([T], td.softmax(T, axis=1), ["softmax across"]),
        ([X], td.convolution(td.permute(X, (0, 1, 3, 2)), weight(8, 16, 5, 5)),
         ["view", "copy transposed", "convolution"]),
        # a composite that the backend has no kernel for is what its body is
        ([X], td.channel_shuffle(X, groups=4), ["view", "view", "copy strided"]),
    ],
    ids=lambda v: str(v.op) if isinstance(v, Value) else None,
)  # fmt: skip
def test_kinds(inputs: list[Value], output: Value, expected: list[str]) -> None:
    assert kinds(inputs, output) == expected


def test_bytes() -> None:
    """What was touched a moment ago, what wasn't, weights; a slice and a repeat are what is behind them."""
    x = td.input("x", (256, 1024))
    a = td.relu(x)
    far = a
    for _ in range(4):
        far = td.neg(far)
    y = far + a
    found = works(graph([x], y))
    (first,), (last,) = found[a], found[y]
    assert (first.reads, first.far, first.writes) == (1 << 20, 0, 1 << 20)
    assert (last.reads, last.far) == (1 << 20, 1 << 20)
    assert last.before == 2 << 20 > NEAR
    bias = td.broadcast_to(weight(1, 1024), (256, 1024))
    (work,) = works(graph([x], td.slice_axis(x, 0, 0, 4) + td.slice_axis(bias, 0, 0, 4)))[
        td.slice_axis(x, 0, 0, 4) + td.slice_axis(bias, 0, 0, 4)
    ]
    assert (work.reads, work.weights) == (4 * 1024 * 4, 1024 * 4)


def test_fit_finds_what_times_were_made_of() -> None:
    rng = np.random.default_rng(0)
    true = {
        "matmul": (2e-6, 1e-11, 0, 2e-10, 0, 3e-10, 0, 0, 0),
        "function erf": (1e-6, 0, 5e-10, 0, 0, 0, 1e-10, 0, 0),
    }
    samples: list[Sample] = []
    for _ in range(60):
        n, m = rng.integers(1000, 100000, 2)
        one = Work("matmul", "f32", 1, int(m * 100), 0, int(n), 0, int(m), int(n // 7))
        two = Work("function erf", "f32", 1, int(n), int(m), 0, 0, 0, int(n))
        for works_ in ([one], [two], [one, two]):
            samples.append(Sample(works_, sum(np.dot(true[w.kind], w[2:]) for w in works_)))
    found = device(**fit(samples))
    for s in samples:
        assert sum(map(found.time, s.works)) == pytest.approx(s.seconds, rel=0.01)  # the prior pulls a little
    # kinds that weren't measured: those that begin with the same word, then all that don't multiply
    assert found.known("function tanh") == "function"
    assert found.known("copy strided") == "other"


def test_what_a_few_bytes_take_says_nothing_of_many() -> None:
    """Bytes of numbers beside tensors go with a call: they must not take the time of the call."""
    samples = [
        Sample([Work("elementwise", "f32", 1, weights=4 * (i % 2), writes=1000 * i)], 5e-6 * (1 + i % 2) + i * 1e-7)
        for i in range(1, 200)
    ]
    found = device(**fit(samples))
    for s in samples:
        assert sum(map(found.time, s.works)) == pytest.approx(s.seconds, rel=0.6)
    assert found.time(Work("elementwise", "f32", 1, weights=1 << 22)) < 0.05  # 100 MB/s at least


def test_nonnegative_leaves_out_what_would_be_negative() -> None:
    rng = np.random.default_rng(1)
    a = rng.random((50, 6))
    x = np.array([1.0, 0.0, 2.0, 0.0, 0.5, 3.0])
    found = nonnegative(a.T @ a, a.T @ (a @ x))
    assert found == pytest.approx(x, abs=1e-5)
    assert (nonnegative(a.T @ a, a.T @ (a @ (x - 1.5))) >= 0).all()


def test_calibrated_time_is_a_sum() -> None:
    w = weight(64, 128)
    y = td.relu(td.linear(T, w))
    numbers = dict.fromkeys(UNITS, 0.0)
    times = {
        "matmul": tuple({**numbers, "calls": 1e-6, "flops": 1e-11, "weights": 1e-10}.values()),
        "other": tuple({**numbers, "writes": 1e-10}.values()),
    }
    found = predict(graph([T], y), device(**times))
    linear = 1e-6 + 64 * 64 * 255 * 1e-11 + w.type.bytes * 1e-10
    assert found.seconds_of == pytest.approx({y.args[0]: linear, y: y.type.bytes * 1e-10})
    assert float(found) == found.seconds == pytest.approx(linear + y.type.bytes * 1e-10)
    assert found.notices == ("not calibrated for kernels of kind elementwise; the numbers of others stand for them",)
    assert [s.name for s in found.by_kind] == ["matmul", "elementwise"]
    assert json.loads(json.dumps(found.as_json()))["calibrated"] is True


def test_prediction_by_module() -> None:
    y = td.relu(T)
    z = td.neg(y)
    seconds = {"other": (1.0, *[0.0] * (len(UNITS) - 1))}
    found = predict(graph([T], z), device(**seconds), {y: Origin("a.b"), z: Origin("a")})
    assert {s.name: (s.seconds, s.kernels) for s in found.by_module} == {"": (2, 2), "a": (2, 2), "a.b": (1, 1)}


def test_half_precision_is_said() -> None:
    x = td.input("x", (64, 64), "bf16")
    g = graph([x], td.matmul(x, x))
    on = Device("test", "", "", {"other": (1.0, *[0.0] * (len(UNITS) - 1))}, {"date": "today"})
    assert any("calibrated with f32 only, but some kernels compute with bf16" in n for n in predict(g, on).notices)
    assert any("no peak for bf16" in n for n in predict(g, device_of("raspberry-pi-5")).notices)
    h100 = device_of("h100")
    assert predict(g, h100).seconds < predict(graph([x], td.cast(x, "f32")), h100).seconds * 2


def test_external_ops_are_named() -> None:
    odd = External("torch", "lib::f", (), (), (T.type,))
    y = odd(T)
    found = predict(graph([T], y), device_of("h100"))
    assert found.notices[-1] == "partial: nothing is known of torch:lib::f"


@pytest.mark.parametrize("name", devices())
def test_device_files(name: str) -> None:
    found = device_of(name)
    assert found.name == name
    assert found.source
    assert Device.from_json(found.as_json()) == found
    if not found.is_calibrated:
        assert predict(graph([T], td.relu(T)), found).notices[0].startswith("not calibrated")


def test_device_file_round_trip(tmp_path: Path) -> None:
    times = {"matmul": tuple(1e-10 * (i + 1) for i in range(len(UNITS))), "other": (1e-6, *[0.0] * (len(UNITS) - 1))}
    path = tmp_path / "mine.json"
    device(**times).save(path)
    found = device_of(path)
    assert found.is_calibrated
    assert {k: pytest.approx(v, rel=1e-3) for k, v in times.items()} == found.seconds
    assert device_of(found) is found


def test_errors_of_device_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no device 'h1000': give a device file .* or one of a100, .*h100"):
        device_of("h1000")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(SourceError, match=r"bad\.json is not a device file"):
        device_of(bad)
    bad.write_text('{"name": "a", "title": "b", "source": "c"}')
    with pytest.raises(SourceError, match="is not a device file: KeyError 'gflops'"):
        device_of(bad)
    bad.write_text(
        '{"name": "a", "title": "b", "source": "c", "calibration": {"x": 1}, "kinds": {"copy": {"mflops": 1}}}'
    )
    with pytest.raises(SourceError, match="'mflops' is none of us_per_call, gflops"):
        device_of(bad)
    bad.write_text('{"name": "a", "title": "b", "source": "c", "calibration": {"x": 1}}')
    with pytest.raises(SourceError, match="it says it is calibrated, but has no kinds"):
        device_of(bad)


def test_errors() -> None:
    assert errors([1.0, 2.2, 0.5], [1.0, 2.0, 1.0]) == {
        "median_error": 0.1, "p90_error": 0.42, "within_10_percent": 0.3333
    }  # fmt: skip


def test_profile_adds_up() -> None:
    w = weight(64, 128)
    y = td.linear(T, w)
    z = td.relu(y)
    u = td.neg(z)
    measured = [
        Measured((y,), Seconds(4e-3, 3e-3)), Measured((z,), Seconds(1e-3, 1e-3)), Measured((u,), Seconds(2e-3, 1e-3))
    ]  # fmt: skip
    origins = {y: Origin("a.b"), z: Origin("a"), u: Origin("c")}
    g = graph([T], u)
    one = profile_of("net", g, origins, measured, Seconds(9e-3, 6e-3))
    assert [r.share for r in one.by_value] == pytest.approx([0.6, 0.2, 0.2])
    assert {r.name: r.cpu_seconds for r in one.by_module} == pytest.approx(
        {"": 5e-3, "a": 4e-3, "a.b": 3e-3, "c": 1e-3}
    )
    assert one.overhead == pytest.approx((2e-3, 1e-3))
    assert one.bottlenecks(1)[0].value is y
    assert [r.name for r in one.bottlenecks(1, "module")] == ["a"]
    assert one.by_op[0].gflops == pytest.approx(64 * 64 * 255 / 3e-3 / 1e9)
    assert sum(r.flops for r in one.by_value) == g.total_flops()
    several = profile_of("net", g, origins, measured, Seconds(9e-3, 6e-3), threads=2, device="h100", page_faults=2000)
    assert [r.share for r in several.by_value] == pytest.approx([4 / 7, 1 / 7, 2 / 7])
    assert several.predicted == pytest.approx(predict(g, device_of("h100")).seconds)
    shown = str(several)
    assert "2,000 page faults in a run" in shown
    assert "for NVIDIA H100" in shown
    assert json.loads(json.dumps(several.as_json()))["by_value"][0]["type"] == "f32[1 64 64]"
    with pytest.raises(AttributeValueError, match="by value, op or module, not by 'kind'"):
        one.rows("kind")


def test_duration() -> None:
    assert [duration(s) for s in (1.5, 0.09996, 9.9996e-6, 5e-10)] == ["1.50 s", "100 ms", "10.0 us", "0.50 ns"]
