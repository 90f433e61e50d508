"""Measuring networks op by op, and calibration."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import tdagger as td
from tdagger.analysis.time.timing import Device
from tdagger.errors import AttributeValueError, InputError
from tdagger.frameworks.torch.measure.calibration import calibrate, device_from, observe
from tdagger.frameworks.torch.measure.calibration_networks import FAMILIES, network
from tdagger.frameworks.torch.measure.profiler import Profiler, random_inputs
from tests.networks import NETWORKS
from tests.quick import one_of, only


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str) -> td.TensorDAG:
    module, args, kwargs = NETWORKS[name](small=True)
    return td.from_torch(module, args, kwargs)


@pytest.mark.parametrize(
    "name", only(("resnet50", "BertModel", "LlamaForCausalLM", "LSTM", "convnext_tiny"), "resnet50", "LSTM")
)
def test_every_op_is_measured_once(name: str) -> None:
    dag = build(name)
    profiler = Profiler(dag).run(2)
    profile = profiler.profile()
    assert profile.runs == 2
    measured = [v for m in profiler.measured() for v in m.values]
    assert len(measured) == len(set(measured))
    needed = {v for v in profiler.graph.values if v.args and v.op.name != "item"}
    assert needed - set(measured) <= {v for v in needed if not profiler.graph.users[v]}
    assert sum(r.flops for r in profile.by_value) == pytest.approx(dag.graph.total_flops(), rel=0.02)
    assert sum(r.share for r in profile.by_value) == pytest.approx(1)
    assert sum(r.cpu_seconds for r in profile.by_op) == pytest.approx(profile.ops.cpu)
    assert {r.name: r for r in profile.by_module}[""].ops == len(profile.by_value)


def test_timed_code_computes_the_same() -> None:
    """The clocks are read between the statements of the same code, in its order, and nothing else changes."""
    module, args, kwargs = NETWORKS["mobilenetv3_large_100"](small=True)
    dag = td.from_torch(module, args, kwargs)
    profiler = Profiler(dag, args, kwargs)
    timed, plain = profiler._timed.code.splitlines(), profiler._module.code.splitlines()
    assert [line for line in timed if "_tick()" not in line] == plain
    assert sum("_tick()" in line for line in timed) == len(profiler._clocks.computed) + 1
    torch.testing.assert_close(profiler._timed(*args, **kwargs), module(*args, **kwargs))


def test_where_the_time_goes() -> None:
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4096)).eval()
    profile = td.from_torch(net, torch.randn(64, 256)).profile(torch.randn(64, 256), runs=5)
    (slowest,) = profile.bottlenecks(1)
    assert (slowest.name, slowest.module) == ("linear", "2")
    assert str(slowest.value.type) == "f32[64 4096]"  # type: ignore[union-attr]
    assert slowest.share > 0.5
    assert slowest.gflops > 0
    assert "linear" in str(profile)


def test_inputs_are_made_up() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 8)

        def forward(self, index: torch.Tensor, flag: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
            return self.table(index.flatten()) * scale + flag[0]

    args = (torch.zeros(3, 40, dtype=torch.int64), torch.ones(2, dtype=torch.bool))
    dag = td.from_torch(Lookup().eval(), args, {"scale": torch.ones(8)})
    (index, flag), kwargs = random_inputs(dag)
    assert (index.shape, index.dtype, flag.dtype) == ((3, 40), torch.int64, torch.bool)
    assert 40 < index.max() < 50
    assert kwargs["scale"].std() > 0
    assert dag.profile(runs=1).runs == 1


def test_progress_is_told() -> None:
    told: list[float] = []
    build("GRU").profile(runs=4, tell=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_predicted_beside_measured() -> None:
    profile = build("TransformerEncoder").profile(runs=2, device="x86-avx2-core")
    assert profile.predicted == pytest.approx(sum(r.predicted or 0 for r in profile.by_value))
    assert "predicted" in str(profile)


def test_refusals() -> None:
    dag = build("GRU")
    with pytest.raises(AttributeValueError, match="1 thread or more, not 0"):
        dag.profile(threads=0)
    with pytest.raises(InputError, match="input 'input' must be"):
        dag.profile(torch.zeros(2, 2))
    with torch.device("meta"):
        net, x = nn.Linear(4, 4).eval(), torch.zeros(2, 4)
    with pytest.raises(InputError, match="weights are on the meta device, without data: nothing can be run"):
        td.from_torch(net, x).profile()
    assert td.from_torch(net, x).predict_time("h100").seconds > 0


def test_training_is_measured_and_changes_nothing() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    dag = td.from_torch(net, torch.randn(8, 4))
    before = {n: dag.weights[n].copy() for n in dag.graph.buffers}
    profile = dag.profile(runs=2)
    assert {"batch_norm_train", "dropout_train"} <= {r.name for r in profile.by_op}
    assert before
    for name, array in before.items():
        assert (dag.weights[name] == array).all(), name


def test_a_row_is_named_after_what_it_computes() -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(1)

    profile = td.from_torch(Sum(), torch.randn(8, 4)).profile(runs=1)
    assert [r.name for r in profile.by_value] == ["reduce"]


def test_threads_are_put_back() -> None:
    build("GRU").profile(threads=2, runs=1)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("number", one_of(3, range(len(FAMILIES))))
def test_calibration_networks(number: int) -> None:
    """Each is the same every time, of some size, and of ops that are known."""
    first, second = network(number), network(number)
    assert first.graph == second.graph
    assert 10 < len(first.graph.values) < 1000
    assert not first.graph.external


def test_calibration_fits_what_it_measured() -> None:
    observed = [observe(Profiler(network(n)).run(1)) for n in (2, 8, 11, 6, 12)]
    device = device_from(observed, "test")
    assert device.is_calibrated
    assert device.calibration["networks"] == 5
    total = sum(o.whole.seconds for o in observed)
    assert sum(device.time(w) for o in observed for w in o.whole.works) == pytest.approx(total, rel=0.25)
    assert Device.from_json(device.as_json()).known("depthwise") == "depthwise"
    with pytest.raises(AttributeValueError, match="3 networks are too few"):
        calibrate(networks=3)
