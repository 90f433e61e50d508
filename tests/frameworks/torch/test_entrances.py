"""Old and odd entrances: every way a PyTorch network is wrapped, called or written, through the importer and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import tdagger as td
from tdagger.tree import flatten

Network = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def to_numpy(x: Any) -> Any:
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.detach().numpy(), x)


def assert_same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """The same nesting, constants, shapes, element types and numbers."""
    got_leaves, got_tree = flatten(got, lambda v: isinstance(v, torch.Tensor | np.ndarray | np.generic))
    want_leaves, want_tree = flatten(want, is_tensor)
    assert got_tree == want_tree
    for g, w in zip(got_leaves, want_leaves, strict=True):
        g, w = (np.asarray(v.detach() if is_tensor(v) else v) for v in (g, w))
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


def check(model: nn.Module, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
          tolerance: float = 1e-5) -> td.TensorDAG:  # fmt: skip
    """Import, compare numpy and the module that comes back: outputs, nesting, state_dict."""
    kwargs = kwargs or {}
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        want = model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        for key, tensor in model.state_dict().items():
            tensor.copy_(state[key])
    dag = td.from_torch(model, args, kwargs)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert_same(dag.run(*to_numpy(args), **to_numpy(kwargs)), want, tolerance)
    back = dag.to_torch()
    assert {k: v.shape for k, v in back.state_dict().items()} == {k: v.shape for k, v in state.items()}
    with torch.no_grad():
        assert_same(back(*copy.deepcopy(args), **copy.deepcopy(kwargs)), want, tolerance)
    return dag


CASES: dict[str, Callable[[], Network]] = {}


def case(build: Callable[[], Any]) -> Callable[[], Any]:
    """Register a builder of ``(module, args)`` or ``(module, args, kwargs)``."""
    CASES[build.__name__] = build
    return build


def simple(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Network:
    """A module without state whose forward is a function of its arguments."""

    class Simple(nn.Module):
        pass

    Simple.forward = lambda self, *a, **k: forward(*a, **k)
    return Simple(), args, kwargs


# --- arguments ---------------------------------------------------------------------------------------------


@case
def lists_and_dicts_of_tensors() -> Any:
    x = torch.randn(2, 3)
    return simple(lambda xs, d: {"sum": xs[0] + xs[1], "pair": (d["a"] * 2, [d["b"][0]])},
                  [x, x + 1], {"a": x, "b": (x - 1,)})  # fmt: skip


@case
def none_inputs() -> Any:
    return simple(lambda x, mask, bias=None: x if mask is None and bias is None else x * mask, torch.ones(3), None)


@case
def settings_of_every_kind() -> Any:
    def forward(x, flag, n, scale, mode, *, axis=0, fill=None):
        y = x.sum(axis) if flag else x
        return (y * n + scale) if mode == "affine" else y

    return simple(forward, torch.randn(2, 3), True, 3, 0.5, "affine", axis=1, fill=None)


@case
def the_same_tensor_twice() -> Any:
    x = torch.randn(3)
    return simple(lambda a, b: a * 2 + b, x, x)


@case
def variadic_arguments() -> Any:
    return simple(
        lambda *xs, **more: sum(xs) * more["scale"], torch.ones(2), torch.ones(2), scale=torch.full((2,), 3.0)
    )


@case
def zero_size_inputs() -> Any:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (torch.zeros(0, 3),)


@case
def sum_of_nothing() -> Any:
    return simple(lambda x: (x.sum(0), torch.cat([x, torch.ones(1, 3)])), torch.zeros(0, 3))


@case
def scalars() -> Any:
    return simple(lambda x, y: x * y + 1, torch.tensor(2.0), torch.tensor(3))


@case
def an_unused_input() -> Any:
    return simple(lambda x, y: x + 1, torch.ones(2), torch.ones(5))


# --- outputs -----------------------------------------------------------------------------------------------


@case
def outputs_that_are_not_tensors() -> Any:
    return simple(
        lambda x: {"y": x + 1, "n": 3, "name": "a", "none": None, "flag": True, "xs": [x, 1.5]}, torch.ones(2)
    )


@case
def outputs_that_are_inputs() -> Any:
    return simple(lambda x, y: (y, x, x + y), torch.ones(2), torch.zeros(2))


@case
def duplicate_outputs() -> Any:
    def forward(x):
        y = x * 2
        return y, y, {"again": y, "other": x * 2}

    return simple(forward, torch.ones(2))


@case
def constant_outputs() -> Any:
    return simple(lambda x: (torch.arange(3), torch.tensor([1.5, 2.5]), x.shape[0], torch.ones(2, 2)), torch.ones(4))


@case
def parameters_as_outputs() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(2, 2))
            self.register_buffer("b", torch.randn(2))

        def forward(self, x):
            return self.w, self.b, x, self.w.T, self.w[0]

    return Net(), (torch.ones(1),)


# --- state -------------------------------------------------------------------------------------------------


@case
def no_arguments() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(2, 2))

        def forward(self):
            return (self.w @ self.w).softmax(-1)

    return Net(), ()


@case
def only_settings_as_arguments() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Embedding(8, 4)

        def forward(self, length: int):
            return self.position(torch.arange(length))

    return Net(), (5,)


@case
def unsaved_buffers() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("saved", torch.randn(3))
            self.register_buffer("unsaved", torch.randn(3), persistent=False)
            self.register_buffer("nothing", None)

        def forward(self, x):
            return x * self.saved + self.unsaved

    return Net(), (torch.ones(3),)


@case
def plain_tensor_attributes() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))
            self.scale = torch.randn(4)
            self.table = [torch.randn(4), torch.randn(4)]
            self.named = {"shift": torch.randn(4)}

        def forward(self, x):
            return (x @ self.w) * self.scale + self.table[1] - self.named["shift"]

    return Net(), (torch.ones(2, 4),)


@case
def views_of_parameters_as_attributes() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 4))
            self.view = self.w.detach()[:2].T

        def forward(self, x):
            return x @ self.w @ self.view

    return Net(), (torch.ones(2, 4),)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight

    def forward(self, x):
        return self.tied(self.second(self.first(x)))


@case
def shared_submodules() -> Any:
    return Shared(), (torch.randn(2, 3),)


@case
def parameter_lists_and_dicts() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ws = nn.ParameterList([torch.randn(3), torch.randn(3)])
            self.named = nn.ParameterDict({"a": torch.randn(3), "b c": torch.randn(3)})
            self.layers = nn.ModuleDict({"lin": nn.Linear(3, 3), "relu": nn.ReLU()})

        def forward(self, x):
            for w in self.ws:
                x = x * w
            for layer in self.layers.values():
                x = layer(x)
            return x + self.named["a"] * self.named["b c"]

    return Net(), (torch.randn(2, 3),)


# --- parametrizations --------------------------------------------------------------------------------------


@case
def weight_norm() -> Any:
    return parametrizations.weight_norm(nn.Linear(3, 4)), (torch.randn(2, 3),)


@case
def weight_norm_along_all_axes() -> Any:
    return parametrizations.weight_norm(nn.Conv1d(3, 4, 2), dim=None), (torch.randn(2, 3, 5),)


@case
def weight_norm_of_old() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Conv1d(3, 4, 2)), nn.ReLU()), (torch.randn(2, 3, 5),)


@case
def spectral_norm() -> Any:
    return parametrizations.spectral_norm(nn.Linear(3, 4)).eval(), (torch.randn(2, 3),)


@case
def spectral_norm_of_old() -> Any:
    return nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)).eval(), (torch.randn(2, 3, 5, 5),)


@case
def a_parametrization_of_ones_own() -> Any:
    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).T

    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer, (torch.randn(2, 3),)


@case
def pruned() -> Any:
    from torch.nn.utils import prune

    return prune.l1_unstructured(nn.Linear(4, 4), "weight", amount=0.5), (torch.randn(2, 4),)


# --- wrappers ----------------------------------------------------------------------------------------------


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 2)).eval()


@case
def data_parallel() -> Any:
    return nn.DataParallel(small_net()), (torch.randn(2, 3, 5, 5),)


@case
def hooks() -> Any:
    net = small_net()
    net[0].register_forward_hook(lambda module, args, out: out * 2)
    net[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    net.register_forward_hook(lambda module, args, out: {"logits": out})
    return net, (torch.randn(2, 3, 5, 5),)


@case
def functional_call() -> Any:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 3)
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            weights = {k: v * self.scale for k, v in self.net.named_parameters()}
            return torch.func.functional_call(self.net, weights, (x,))

    return Wrapper(), (torch.randn(2, 3),)


@case
def vmap() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(3, 4)

        def forward(self, x):
            return torch.func.vmap(lambda row: self.lin(row).softmax(0))(x)

    return Net(), (torch.randn(2, 3),)


@case
def vmap_over_stacked_parameters() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.models = nn.ModuleList([nn.Linear(3, 4) for _ in range(3)])
            self.base = [nn.Linear(3, 4, device="meta")]

        def forward(self, x):
            params, _ = torch.func.stack_module_state(self.models)
            call = lambda p, x: torch.func.functional_call(self.base[0], p, (x,))  # noqa: E731
            return torch.func.vmap(call, in_dims=(0, None))(dict(params), x)

    return Net(), (torch.randn(2, 3),)


@case
def no_grad_inside() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            with torch.no_grad():
                x = self.a(x)
                with torch.enable_grad():
                    y = self.b(x)
            return x + y + self.b(x.detach())

    return Net(), (torch.randn(2, 3),)


@case
def inference_mode_inside() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            with torch.inference_mode():
                y = self.a(x) * 2
            return y + 1

    return Net(), (torch.randn(2, 3),)


@case
def inference_mode_outside() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        @torch.inference_mode()
        def forward(self, x):
            return self.a(x).relu()

    return Net(), (torch.randn(2, 3),)


@case
def checkpointed() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            x = checkpoint(self.a, x, use_reentrant=False)
            return checkpoint(lambda y: (self.b(y).relu(), y), x, use_reentrant=False)

    return Net(), (torch.randn(2, 3),)


@case
def checkpointed_reentrant() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return checkpoint(self.a, x, use_reentrant=True)

    return Net(), (torch.randn(2, 3),)


@case
def functions_in_a_sequence() -> Any:
    class Lambda(nn.Module):
        def __init__(self, f: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.f = f

        def forward(self, x):
            return self.f(x)

    return nn.Sequential(Lambda(torch.tanh), nn.Linear(3, 3), Lambda(lambda x: F.pad(x, (1, 1)))), (torch.randn(2, 3),)


@case
def an_autograd_function() -> Any:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    return simple(lambda x: Twice.apply(x) + 1, torch.randn(2, 3))


# --- in-place writes ---------------------------------------------------------------------------------------


@case
def views_written_in_place() -> Any:
    def forward(x):
        y = x.clone()
        y[:, 0] = 0
        y[1].mul_(2)
        y.T[2].add_(1)
        y[y > 0.5] = -1
        return y

    return simple(forward, torch.randn(3, 4))


@case
def a_buffer_that_changes() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(3, 2))

        def forward(self, x):
            y = x + self.last
            self.last.copy_(x)
            return y

    return Net(), (torch.randn(3, 2),)


@pytest.mark.parametrize("name", CASES)
# torch's own, about the network: old parametrizations set plain attributes, reentrant checkpoints want gradients
@pytest.mark.filterwarnings("ignore:The tensor attribute", "ignore:None of the inputs have requires_grad")
@pytest.mark.filterwarnings("ignore:the network applies autograd functions")  # which is told below
def test_entrance(name: str) -> None:
    check(*CASES[name]())


# --- what the table can't say ------------------------------------------------------------------------------


def test_the_same_tensor_twice_is_two_inputs() -> None:
    x, w = torch.randn(3), nn.Parameter(torch.randn(3))
    dag = td.from_torch(simple(lambda a, b: a * 2 + b)[0], (x, x))
    a, b = np.float32([1, 2, 3]), np.float32([4, 5, 6])
    np.testing.assert_array_equal(dag.run(a, b), a * 2 + b)
    model = simple(lambda a: a * 2 + model.w)[0]
    model.w = w
    dag = td.from_torch(model, (w,))
    np.testing.assert_allclose(dag.run(a), a * 2 + w.detach().numpy())


def test_shared_submodules_have_one_leaf_two_names_and_an_origin() -> None:
    net = Shared()
    dag = td.from_torch(net, torch.randn(2, 3))
    assert list(dag.state) == list(net.state_dict())
    assert dag.state["second.weight"].alias_of == dag.state["tied.weight"].alias_of == "first.weight"
    assert list(dag.graph.parameters) == ["first.weight", "first.bias", "tied.bias"]
    back = dag.to_torch()
    assert back.tied.weight is back.second.weight is back.first.weight
    linears = [v for v in dag.values if v.op.name == "linear"]
    assert len(linears) == 3
    assert all(dag.origins[v].module in ("first", "second", "tied") for v in linears)


@pytest.mark.parametrize("how", ["module", "part", "in place", "forward"])
def test_compiled_modules(how: str) -> None:
    net, x = small_net(), torch.randn(2, 3, 5, 5)
    names = list(net.state_dict())
    if how == "module":  # the wrapper is taken off
        model: nn.Module = torch.compile(net, backend="eager")
        dag = td.from_torch(model, x)
        assert list(dag.state) == list(dag.to_torch().state_dict()) == names
        assert dag.name == "Sequential"
        assert_same(dag.run(x.numpy()), net(x))
    elif how == "part":  # names as they are in the module's own state
        model = nn.Sequential(torch.compile(net, backend="eager"), nn.ReLU()).eval()
        dag = check(model, (x,))
        assert list(dag.state) == [f"0._orig_mod.{n}" for n in names]
    elif how == "in place":
        net.compile(backend="eager")
        assert list(check(net, (x,)).state) == names
    else:
        net.forward = torch.compile(net.forward, backend="eager")
        assert list(check(net, (x,)).state) == names


def test_lazy_modules_are_initialised() -> None:
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(2, 3, 5, 5)
    dag = td.from_torch(net.eval(), x)
    assert dag.state["4.weight"].type.shape == (2, 36)
    check(net, (x,))
    with pytest.raises(td.InputError, match=r"don't initialise the lazy modules of Sequential \(0.weight, 0.bias\): "):
        td.from_torch(nn.Sequential(nn.LazyLinear(2), nn.Linear(3, 3)), x)

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.LazyLinear(2), nn.LazyLinear(2)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(td.InputError, match=r"unused.weight, unused.bias of Unused are lazy and not used"):
        td.from_torch(Unused(), x)


def test_initialising_lazy_modules_leaves_statistics_and_modes() -> None:
    net = nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(2)).train()
    net[1].eval()
    td.from_torch(net, torch.randn(4, 3))
    assert (net[0].training, net[1].training) == (True, False)
    assert int(net[0].num_batches_tracked) == 0


class Written(nn.Module):
    def forward(self, x, pair: tuple[torch.Tensor, torch.Tensor]):
        x.add_(1)
        pair[1][0] = 5
        return x * 2, pair[0] + pair[1]


class WritesFirst(nn.Module):
    def forward(self, a, b):
        a.add_(1)
        return b * 2


@pytest.mark.parametrize("via", ["export", "trace"])
@pytest.mark.parametrize(
    "views",
    [lambda x: (x, x), lambda x: (x, x.view(4)), lambda x: (x, x[1]), lambda x: (x[:, 1], x)],
    ids=["same", "view", "part", "column"],
)
def test_inputs_that_share_what_is_written_are_refused(via: Any, views: Any) -> None:
    with pytest.raises(td.InputError, match=r"input 'a' and input 'b' share memory, and the network writes to 'a'"):
        td.from_torch(WritesFirst(), views(torch.ones(2, 2)), via=via)


@pytest.mark.filterwarnings("ignore:the network writes to its inputs")
@pytest.mark.parametrize("views", [lambda x: (x[0], x[1]), lambda x: (x[:, 0], x[:, 1])], ids=["rows", "columns"])
def test_inputs_side_by_side_in_memory_are_apart(views: Any) -> None:
    dag = td.from_torch(WritesFirst(), views(torch.ones(2, 2)))
    assert_same(dag.run(*to_numpy(views(torch.ones(2, 2)))), torch.full((2,), 2.0))


def test_views_of_one_another_as_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    x = torch.arange(4.0).reshape(2, 2)
    for args in ((x[:, 0], x), (x, x[:, 0]), (x[:, 0], x[:, 1])):
        assert_same(td.from_torch(Sum(), args).run(*to_numpy(args)), Sum()(*args))


class WritesBuffer(nn.Module):
    def __init__(self, view: Any) -> None:
        super().__init__()
        self.register_buffer("a", torch.zeros(2, 2))
        self.register_buffer("b", view(self.a))

    def forward(self, x):
        self.a.add_(x)
        return self.b * 2


@pytest.mark.parametrize("via", ["export", "trace"])
def test_buffers_that_share_what_is_written_are_refused(via: Any) -> None:
    told = "weight 'a' and weight 'b' share memory, and the network writes to 'a'"
    for view in (lambda a: a[0], lambda a: a.detach()):
        with pytest.raises(td.InputError, match=told):
            td.from_torch(WritesBuffer(view), torch.ones(2, 2), via=via)


def test_writing_to_an_input_is_told() -> None:
    args = (torch.ones(2), (torch.ones(3), torch.ones(3)))
    with pytest.warns(UserWarning, match=r"writes to its inputs in place \(x, pair.1\).*leaves its inputs as they are"):
        dag = td.from_torch(Written(), args)
    want = Written()(*copy.deepcopy(args))
    given = to_numpy(copy.deepcopy(args))
    assert_same(dag.run(*given), want)
    np.testing.assert_array_equal(given[0], np.ones(2))
    x = torch.ones(2)
    assert_same(dag.to_torch()(x, args[1]), want)
    assert torch.equal(x, torch.ones(2))
    with pytest.warns(UserWarning, match=r"\(x, pair_1\)"):
        td.from_torch(torch.export.export(Written(), copy.deepcopy(args)).run_decompositions({}))
    with pytest.warns(UserWarning, match=r"\(x, pair.1\)"):
        td.from_torch(torch.jit.script(Written()), args)


def test_plain_tensors_on_the_meta_device() -> None:
    with torch.device("meta"):
        model, args = CASES["plain_tensor_attributes"]()
    dag = td.from_torch(model, args)
    assert dag.graph.total_bytes() == 4 * (4 * 4 + 3 * 4)
    assert list(dag.graph.parameters) == ["w"]
    assert len(dag.graph.buffers) == 3
    assert list(dag.to_torch().state_dict()) == ["w"]
    assert dag.to_torch()(*args).is_meta
    with pytest.raises(td.InputError, match="on the meta device"):
        dag.run(np.ones((2, 4), np.float32))


def test_what_wants_no_gradient_inside_gets_none() -> None:
    model, args = CASES["no_grad_inside"]()
    back = td.from_torch(model, args).to_torch()
    for module in (model, back):
        module(*args).sum().backward()
    for name, p in model.named_parameters():
        own = back.get_parameter(name)
        assert (own.grad is None) == (p.grad is None)
        assert p.grad is None or torch.allclose(own.grad, p.grad)


def test_a_script_in_a_module() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.jit.trace(nn.Linear(3, 4), torch.randn(2, 3))
            self.body = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))

        def forward(self, x):
            return self.head(self.body(x))

    net, x = Net(), torch.randn(2, 3)
    with pytest.raises(td.UnsupportedError, match=r"torch.export can't capture Net(?s:.)*via='trace'"):
        td.from_torch(net, x)
    dag = td.from_torch(net, x, via="trace")
    assert_same(dag.run(x.numpy()), net(x))
    assert list(dag.state) == list(net.state_dict())


def test_gradients_inside_come_in_and_leave_nothing_behind() -> None:
    check(*simple(lambda x: torch.func.grad(lambda y: (y**3).sum())(x), torch.randn(3)))
    check(*CASES["vmap"]())
    torch.randn(2)


class Gated(nn.Module):
    """A gate without gradients, computed before vmap or inside of it."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.first, self.gate, self.inside = nn.Linear(3, 3), nn.Linear(3, 3), inside

    def without(self, x):
        with torch.no_grad():
            return self.gate(x).sigmoid()

    def forward(self, x):
        h = self.first(x)
        if self.inside:
            return torch.func.vmap(lambda row: row * self.without(row))(h)
        return torch.func.vmap(torch.mul)(h, self.without(h))


@pytest.mark.parametrize("inside", [False, True])
def test_what_has_no_gradient_beside_vmap_has_none(inside: bool) -> None:
    model, x = Gated(inside), torch.randn(4, 3)
    back = td.from_torch(model, x).to_torch()
    for network in (model, back):
        network(x).square().sum().backward()
    assert_same(back.first.weight.grad, model.first.weight.grad)
    assert model.gate.weight.grad is None
    assert back.gate.weight.grad is None or not back.gate.weight.grad.any()


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        return x.sign() * scale, x * 2

    @staticmethod
    def backward(ctx, given, _):
        return given, None


@pytest.mark.parametrize("via", ["export", "trace"])
def test_a_backward_of_its_own_is_told(via: Any) -> None:
    class Net(nn.Module):
        def forward(self, x):
            return StraightThrough.apply(x, 3.0)

    x = torch.randn(2, 3)
    before = torch.autograd.Function.apply
    with pytest.warns(UserWarning, match=r"a backward of their own \(StraightThrough\), which isn't kept"):
        dag = td.from_torch(Net(), x, via=via)
    assert_same(dag.run(x.numpy()), Net()(x))
    assert torch.autograd.Function.apply == before


@pytest.mark.parametrize("how", ["cayley", "householder"])
def test_orthogonal_parametrizations_need_external_ops(how: str) -> None:
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map=how).eval()
    x = torch.randn(2, 4)
    with pytest.raises(td.UnsupportedError, match=r"linalg_\w+: .*parametrizations.weight.0"):
        td.from_torch(layer, x)
    back = td.from_torch(layer, x, external=True).to_torch()
    assert list(back.state_dict()) == list(layer.state_dict())
    assert_same(back(x), layer(x))


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(td.InputError, match=r"Linear.forward takes \(input.*missing a required argument: 'input'"):
        td.from_torch(nn.Linear(2, 2))
    with pytest.raises(td.InputError, match=r"got an unexpected keyword argument 'mask'"):
        td.from_torch(nn.Linear(2, 2), torch.ones(1, 2), {"mask": None})
