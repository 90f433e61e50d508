"""What backends hold, against what they allocate: numpy's arrays at every op, torch's allocator kernel by kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers its ops
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tdagger as td
from tdagger.analysis.execution.backends import backend_of
from tdagger.analysis.execution.layout import channels_last, is_channels_last, is_contiguous, is_dense, like, reshaped
from tdagger.analysis.execution.torch_cpu import TORCH_CPU
from tdagger.analysis.execution.tracing import NUMPY, trace
from tdagger.analysis.memory.schedule import scheduled
from tdagger.errors import AttributeValueError
from tdagger.frameworks.torch.emit.composites import COMPOSITES
from tdagger.frameworks.torch.exporter import module_of
from tdagger.tensordag import Signature
from tdagger.tree import Tree
from tests.allocations import Allocated, by_numpy, by_torch, data
from tests.analysis.test_plan import moving
from tests.graphs import graphs
from tests.networks import NETWORKS
from tests.quick import one_of, only

# --- layouts -----------------------------------------------------------------------------------------------


@st.composite
def strided(draw: st.DrawFn) -> torch.Tensor:
    """A tensor permuted, sliced and repeated."""
    x = torch.zeros(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(0, 3))):
        axis = draw(st.integers(0, x.dim() - 1))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            x = x.transpose(axis, draw(st.integers(0, x.dim() - 1)))
        elif kind == 1:
            x = x.narrow(axis, 0, draw(st.integers(1, x.shape[axis])))
        elif kind == 2 and x.shape[axis] == 1:
            x = x.expand([3 if i == axis else -1 for i in range(x.dim())])
        elif kind == 3 and x.dim() < 5:
            x = x.unsqueeze(axis)
    return x


@given(strided(), st.data())
def test_reshapes_are_views_where_torch_says_so(x: torch.Tensor, choose: st.DataObject) -> None:
    sizes, left = [], x.numel()
    while left > 1:
        n = choose.draw(st.sampled_from([d for d in range(2, left + 1) if left % d == 0]))
        sizes.append(n)
        left //= n
    sizes.insert(choose.draw(st.integers(0, len(sizes))), 1)
    found = reshaped(tuple(x.shape), x.stride(), tuple(sizes))
    try:
        expected = x.view(sizes).stride()
    except RuntimeError:
        assert found is None
        return
    assert found is not None
    assert [s for s, n in zip(found, sizes, strict=True) if n > 1] == [
        s for s, n in zip(expected, sizes, strict=True) if n > 1
    ]


@given(strided(), st.data())
def test_elementwise_results_lie_as_torch_lays_them(x: torch.Tensor, choose: st.DataObject) -> None:
    y = torch.zeros(x.shape).permute(choose.draw(st.permutations(range(x.dim()))))
    operands = [x, y] if y.shape == x.shape else [x]
    expected = x + y if y.shape == x.shape else x + 1.0
    found = like(tuple(x.shape), [o.stride() for o in operands])
    for i, n in enumerate(x.shape):
        assert n == 1 or found[i] == expected.stride()[i], (x.shape, [o.stride() for o in operands])


@given(strided())
def test_layouts_are_what_torch_calls_them(x: torch.Tensor) -> None:
    shape = tuple(x.shape)
    assert is_contiguous(shape, x.stride()) == x.is_contiguous()
    places = torch.arange(5**5).as_strided(shape, x.stride()).flatten().tolist()
    assert is_dense(shape, x.stride()) == (sorted(places) == list(range(x.numel())))
    if x.dim() == 4:
        wide = torch.zeros(shape).to(memory_format=torch.channels_last)
        assert channels_last(shape) == wide.stride() or 1 in shape
        suggested = torch._prims_common.suggest_memory_format(x) is torch.channels_last
        assert is_channels_last(shape, x.stride()) == suggested


# --- numpy -------------------------------------------------------------------------------------------------


def _held_by_numpy(graph: td.Graph, weights: Any) -> None:
    log = by_numpy(graph, data(graph.inputs), weights)
    found = trace(graph, NUMPY)
    assert [(s.value, s.held) for s in found.steps] == log
    assert found.peak_bytes == found.held_bytes == max([held for _, held in log], default=0)


HELD = ("GPT2LMHeadModel", "LlamaForCausalLM", "CLIPModel", "LSTM", "T5EncoderModel", "regnety_002", "mixer_b16_224")


@pytest.mark.parametrize("name", only(HELD, "CLIPModel", "LSTM", "mixer_b16_224"))
def test_numpy_holds_what_the_trace_says_at_every_op(name: str) -> None:
    module, args, kwargs = NETWORKS[name](small=True)
    dag = td.from_torch(module, args, kwargs)
    for one in (dag, dag.schedule()):
        _held_by_numpy(one.graph, {n: dag.weights[n] for n in (*dag.graph.parameters, *dag.graph.buffers)})


@given(moving())
def test_numpy_holds_what_the_trace_says_of_any_graph(graph: td.Graph) -> None:
    _held_by_numpy(graph, data({**graph.parameters, **graph.buffers}))


def test_parts_of_complex_numbers_are_views() -> None:
    x = td.input("x", (4, 6), "c64")
    y = td.fft(td.exp(x), axis=1)
    parts = td.real(y) + td.imag(y)
    _held_by_numpy(td.Graph({"x": x}, {"y": td.bitcast(td.exp(parts), "i32")}), {})
    _is_what_torch_allocates(_Function(lambda x: torch.fft.fft(x).real.exp() + 1.0), _R(40, 64))


@given(graphs())
def test_numpy_holds_what_the_trace_says_of_leaves_of_every_kind(graph: td.Graph) -> None:
    _held_by_numpy(graph, data({**graph.parameters, **graph.buffers}))


# --- torch -------------------------------------------------------------------------------------------------

#: oneDNN lays out channels in blocks as wide as the vectors of the processor.
wide = pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="the table is for AVX-512")


class _Function(nn.Module):
    def __init__(self, function: Any, *modules: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(modules)

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


class _Times(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight @ x


_R = torch.randn
#: Name: the module and its arguments. Kernels with scratch, and what makes them copy.
_QUANTIZED = torch.ops.quantized_decomposed
_I8 = torch.zeros(40, 64, dtype=torch.int8)

KERNELS: dict[str, tuple[Any, ...]] = {
    "linear": (nn.Linear(256, 300), _R(4, 50, 256)),
    "linear of a transposed": (_Function(lambda x, w: F.linear(x.mT, w)), _R(4, 40, 50), _R(9, 40)),
    "learned matrix by a batch": (_Times(40, 30), _R(4, 30, 50)),
    "matrix by a transposed batch": (_Function(lambda x, y: x @ y.mT), _R(40, 30), _R(4, 50, 30)),
    "matmul of heads": (_Function(lambda x: x.permute(0, 2, 1, 3) @ x.permute(0, 2, 3, 1)), _R(2, 30, 4, 32)),
    "matrix by a batch": (_Function(lambda x, y: x @ y), _R(40, 30), _R(4, 30, 50)),
    "einsum": (_Function(lambda x, y: torch.einsum("bihd,bjhd->bhij", x, y)), _R(2, 30, 4, 32), _R(2, 40, 4, 32)),
    "attention": (_Function(F.scaled_dot_product_attention), *[_R(2, 4, 300, 32)] * 3),
    "attention, mask": (_Function(F.scaled_dot_product_attention), *[_R(1, 4, 60, 32)] * 3, torch.ones(60, 60) > 0),
    "attention of rank 5": (_Function(lambda x: F.scaled_dot_product_attention(x, x, x)), _R(2, 3, 4, 60, 32)),
    "layer norm of a transposed": (_Function(lambda x: F.layer_norm(x.mT, (100,))), _R(2, 100, 64)),
    "group norm": (nn.GroupNorm(4, 64), _R(2, 64, 300)),
    "softmax of a transposed": (_Function(lambda x: x.mT.softmax(-1)), _R(2, 50, 256)),
    "max pool": (nn.MaxPool2d(2), _R(2, 64, 20, 20)),
    "roll": (_Function(lambda x: torch.roll(x, (1, 2), (1, 2))), _R(2, 64, 20, 20)),
    "nearest": (nn.Upsample(scale_factor=2.0), _R(2, 5, 25, 26)),
    "bicubic": (nn.Upsample(scale_factor=2.0, mode="bicubic"), _R(2, 5, 25, 26)),
    "logsumexp": (_Function(lambda x: x.logsumexp(1)), _R(2, 50, 256)),
    "gru": (nn.GRU(64, 96, 2, bidirectional=True), _R(7, 5, 64)),
    "a sum in between": (_Function(lambda x: (x.exp().sum(1) @ x[0].mT).sin()), _R(2, 999, 256)),
}
CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "of an image": (nn.Conv2d(3, 40, 7, 2, 3), _R(1, 3, 112, 112)),
    "dense": (nn.Conv2d(33, 40, 3, padding=1), _R(1, 33, 50, 50)),
    "small": (nn.Conv2d(18, 18, 3, padding=1), _R(1, 18, 28, 28)),
    "pointwise": (nn.Conv2d(64, 256, 1), _R(1, 64, 28, 28)),
    "pointwise, strided": (nn.Conv2d(64, 24, 1, 2), _R(1, 64, 56, 56)),
    "of each channel": (nn.Conv2d(24, 24, 3, padding=1, groups=24), _R(1, 24, 56, 56)),
    "in groups": (nn.Conv2d(48, 96, 3, padding=1, groups=4), _R(1, 48, 28, 28)),
    "in groups, pointwise": (nn.Conv2d(64, 64, 1, groups=4), _R(2, 64, 20, 20)),
    "channels last": (
        _Function(lambda x: F.conv2d(x.permute(0, 3, 1, 2), torch.ones(40, 40, 3, 3))),
        _R(1, 34, 34, 40),
    ),
    "1d": (nn.Conv1d(80, 96, 3, padding=1), _R(1, 80, 300)),
    "3d": (nn.Conv3d(16, 32, 3, padding=1), _R(1, 16, 6, 20, 20)),
    "transposed": (nn.ConvTranspose2d(32, 48, 4, 2, 1), _R(1, 32, 40, 40)),
    "lstm": (nn.LSTM(256, 128, 1, bidirectional=True), _R(20, 8, 256)),
}


#: Functions of the runtime of several kernels: what they make on the way is there until they return.
FUNCTIONS = {
    "quantize": (_Function(lambda x: _QUANTIZED.quantize_per_tensor(x, 0.05, 3, -128, 127, torch.int8)), _R(40, 64)),
    "dequantize": (_Function(lambda x: _QUANTIZED.dequantize_per_tensor(x, 0.05, 3, -128, 127, torch.int8)), _I8),
}


def _run_once(module: nn.Module, *args: Any) -> Allocated:
    return by_torch(lambda: module(*args))


def _is_what_torch_allocates(module: nn.Module, *args: Any, held: bool = True) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dag = td.from_torch(module.eval(), args)
        exported = module_of(dag, copy=False, plain=False, flat=True)
        found = _run_once(exported, *args)
        expected = trace(dag.graph, TORCH_CPU)
        assert expected.peak_bytes == pytest.approx(found.peak, rel=0.01, abs=64), found.calls
        assert not held or expected.held_bytes == found.held, found.calls
        assert dag.peak_memory("torch-cpu") == expected.peak_bytes
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", one_of(2, KERNELS))
def test_kernels_take_what_the_table_says(name: str) -> None:
    _is_what_torch_allocates(*KERNELS[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_the_runtime_take_what_the_table_says(name: str) -> None:
    _is_what_torch_allocates(*FUNCTIONS[name], held=False)


@wide
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_take_what_the_table_says(name: str) -> None:
    _is_what_torch_allocates(*CONVOLUTIONS[name])


@pytest.mark.parametrize(
    "name", only(("GPT2LMHeadModel", "T5EncoderModel", "TransformerEncoder", "GRU"), "T5EncoderModel", "GRU")
)
def test_networks_take_what_the_table_says(name: str) -> None:
    module, args, kwargs = NETWORKS[name]()
    _is_what_torch_allocates(
        _Function(lambda *a: module(*a[: len(args)], **dict(zip(kwargs, a[len(args) :], strict=True))), module),
        *args,
        *kwargs.values(),
    )


def test_the_exported_module_runs_in_the_order_of_the_graph() -> None:
    x = td.input("x", (1, 4))
    wide_ones = [td.repeat(x * float(i + 1), [100, None]) + 1.0 for i in range(8)]
    narrow = [td.reduce(w, "sum", (0,)) for w in wide_ones]
    total = narrow[0]
    for n in narrow[1:]:
        total = total + n
    graph = td.Graph({"x": x}, {"y": total}, order=[*wide_ones, *narrow])
    arguments = Tree("tuple", (0, 1), (Tree("tuple", (0,), (Tree("leaf"),)), Tree("dict")))
    dag = td.TensorDAG(graph, {}, Signature(arguments, Tree("leaf")))
    worse, better = (_run_once(d.to_torch(), torch.ones(1, 4)) for d in (dag, dag.schedule()))
    assert worse.held > 8 * 1600 > 3 * 1600 > better.held


def test_every_composite_that_torch_has_is_in_the_table() -> None:
    assert set(COMPOSITES) <= set(TORCH_CPU.rules)


def test_a_backend_that_isnt_there() -> None:
    with pytest.raises(AttributeValueError, match="no backend is called 'tpu'; there are numpy, torch-cpu"):
        backend_of("tpu")


def test_a_run_is_traced_in_another_order() -> None:
    x = td.input("x", (8,))
    a, b = td.exp(x), td.sin(x)
    graph = td.Graph({"x": x}, {"y": td.reduce(a, "sum") + td.reduce(b, "sum")}, order=[a, b])
    assert trace(graph, NUMPY).peak_bytes == 68
    assert trace(graph, NUMPY, scheduled(graph).values).peak_bytes == 40
    assert trace(graph, NUMPY).peak_at is not None
    assert np.isfinite(trace(graph, NUMPY).peak_bytes)
