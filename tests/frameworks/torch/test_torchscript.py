"""TorchScript of other programs: scripted, traced, frozen, optimised, saved and loaded.

TorchScript reads the annotations of what it compiles, so they are real ones here, not strings.
"""

import copy
import io
import itertools
from collections.abc import Callable
from typing import Any, Dict, List, NamedTuple, Optional, Tuple  # noqa: UP035

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tdagger as td
from tests.frameworks.torch.test_entrances import assert_same, to_numpy
from tests.quick import in_turn


class Chunk(nn.Module):
    def forward(self, x):
        a, b = x.chunk(2, -1)
        c, d, e = torch.split(x, [1, 2, 1], -1)
        f, g = x.unbind(0)
        return a * b.sigmoid(), c, torch.cat([d, e], -1), f + g


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.named = nn.ModuleDict({"a": nn.Linear(4, 4), "r": nn.ReLU()})

    def forward(self, x):
        out: List[torch.Tensor] = []  # noqa: UP006
        for layer in self.layers:
            x = layer(x)
            out.append(x)
        for _, layer in self.named.items():
            x = layer(x)
        for i, layer in enumerate(self.layers):
            x = x + layer(x) * i
        return torch.stack(out), x, self.layers[0](x)


@torch.jit.interface
class Interface(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pass


class Implementation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class CallsAnInterface(nn.Module):
    part: Interface

    def __init__(self) -> None:
        super().__init__()
        self.part = Implementation()

    def forward(self, x: torch.Tensor):
        return self.part.forward(x) + 1


class PicksAModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Implementation(), Implementation()])

    def forward(self, x: torch.Tensor, i: int):
        part: Interface = self.parts[i]
        return part.forward(x)


class Defaults(nn.Module):
    def forward(
        self,
        x,
        mask: Optional[torch.Tensor] = None,  # noqa: UP045
        scale: float = 2.0,
        mode: str = "times",
        axes: Optional[List[int]] = None,  # noqa: UP006, UP045
    ):
        if mask is not None:
            x = x * mask
        if mode == "times":
            x = x * scale
        elif mode == "plus":
            x = x + scale
        else:
            raise ValueError("mode is times or plus, not " + mode)
        return {"x": x, "sum": x.sum(axes if axes is not None else [0])}


class Pair(NamedTuple):
    first: torch.Tensor
    rest: List[torch.Tensor]  # noqa: UP006


class Nested(nn.Module):
    def forward(self, x) -> Tuple[Pair, Dict[str, torch.Tensor], int, Optional[torch.Tensor], str]:  # noqa: UP006, UP045
        return Pair(x, [x, x + 1]), {"y": x * 2}, 3, None, "s"


class TakesNested(nn.Module):
    def forward(self, d: Dict[str, torch.Tensor], xs: List[torch.Tensor], pair: Tuple[torch.Tensor, int]):  # noqa: UP006
        total = d["a"]
        for x in xs:
            total = total + x
        return total * pair[0] + pair[1]


class Loops(nn.Module):
    def forward(self, x):
        i = 0
        while i < 3:
            x = x * 2
            if i == 1:
                break
            i += 1
        for j in range(x.size(0)):
            x = x + j
        rows = [x[k] * k for k in range(x.shape[0])]
        assert x.dim() == 2, "two axes"
        if x.shape[0] > 100:
            return torch.stack(rows), x.new_zeros(3), torch.full((2,), 1.5)
        return x.view(x.size(0), -1), torch.zeros(x.shape[0], 2), torch.tensor([1.0, 2.0])


class Arithmetic(nn.Module):
    def forward(self, x):
        n, c = x.shape
        text = f"{n}-{c}"
        if "2-" in text:
            x = x + 1
        sizes: Dict[str, int] = {}  # noqa: UP006
        sizes["half"] = n // 2
        sizes["most"] = max(n, c)
        if "half" in sizes:
            x = x * sizes["half"]
        k = int(n * 0.5) + abs(-3) + int(round(2.6)) + int(2**3)  # noqa: RUF046
        picks = (1, 2, 3)
        return x * k * float(n) * picks[1] + min(n, 3)


class Indexed(nn.Module):
    def forward(self, x):
        return x[:, 0], x[..., None], x[-1], x[:, ::2], x[[0, 1]], x[x[:, 0].long() * 0], x.T, x[1:]


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4)
        self.up, self.pool = nn.ConvTranspose2d(4, 4, 2, 2), nn.MaxPool2d(2)
        self.head, self.drop = nn.Linear(4, 2), nn.Dropout(0.5)

    def forward(self, x):
        x = F.interpolate(self.up(F.relu(self.norm(self.conv(x)))), scale_factor=2.0)
        return self.head(self.drop(self.pool(x).mean((2, 3))))


class Exported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    @torch.jit.export
    def other(self, x):
        return self.layer(x) * 3

    @torch.jit.unused
    def unused(self, x):
        return {x}

    def forward(self, x):
        return self.other(x) + self.layer(x)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.times, self.names, self.settings = 3, ["a", "b"], {"a": 1}

    def forward(self, x):
        before = self.seen
        self.seen = self.seen + 1
        return x * self.seen * self.times + self.settings["a"] + len(self.names), before + 0


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True), nn.GRU(10, 3)

    def forward(self, x):
        y, (h, c) = self.lstm(x)
        return self.gru(y)[0], h, c


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.layer(self.attention(x, x, x)[0])


@torch.jit.script
def helper(x: torch.Tensor, n: int) -> torch.Tensor:
    return x * n


class Forks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        one, two = torch.jit.fork(self.layer, x), torch.jit.fork(helper, x, 3)
        return torch.jit.wait(one) + torch.jit.wait(two) + helper(x, 2)


class Casts(nn.Module):
    def forward(self, x):
        return x.to(torch.float64), x.half().float(), x.type_as(x), x.to(dtype=torch.int32), x.double().to(x)


X = torch.linspace(-1, 2, 8).reshape(2, 4)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "chunk": (Chunk, (X,)),
    "layers": (Layers, (X,)),
    "interface": (CallsAnInterface, (X,)),
    "module by number": (PicksAModule, (X, 1)),
    "defaults": (Defaults, (X,)),
    "no defaults": (Defaults, (X, X, 3.0, "plus", [0, 1])),
    "nested results": (Nested, (X,)),
    "nested arguments": (TakesNested, ({"a": X}, [X, X], (X, 2))),
    "loops": (Loops, (X,)),
    "arithmetic": (Arithmetic, (X,)),
    "indexed": (Indexed, (X,)),
    "convolutions": (Convolutions, (torch.linspace(-1, 1, 216).reshape(2, 3, 6, 6),)),
    "exported methods": (Exported, (X,)),
    "a buffer set": (Counts, (X,)),
    "recurrent": (Recurrent, (torch.linspace(-1, 1, 24).reshape(2, 3, 4),)),
    "attention": (Attention, (torch.linspace(-1, 1, 48).reshape(2, 3, 8),)),
    "forks": (Forks, (X,)),
    "casts": (Casts, (X,)),
}


def saved(script: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    return torch.jit.load(file)


def traced(module: nn.Module, args: tuple[Any, ...]) -> Any:
    return torch.jit.trace(module, copy.deepcopy(args), strict=False, check_trace=False)


#: The forms a network comes in; the last two know tensors as arguments only.
FORMS: dict[str, Callable[[nn.Module, tuple[Any, ...]], Any]] = {
    "scripted": lambda m, a: torch.jit.script(m),
    "loaded": lambda m, a: saved(torch.jit.script(m)),
    "frozen": lambda m, a: torch.jit.freeze(torch.jit.script(m)),
    "frozen and loaded": lambda m, a: saved(torch.jit.freeze(torch.jit.script(m))),
    "optimised": lambda m, a: torch.jit.optimize_for_inference(torch.jit.script(m)),
    "traced": traced,
    "traced, frozen, loaded": lambda m, a: saved(torch.jit.freeze(traced(m, a))),
}
#: What torch itself can't make.
IMPOSSIBLE = {
    *itertools.product(["module by number"], ["frozen", "frozen and loaded", "optimised"]),
    *itertools.product(
        ["module by number", "no defaults", "nested results", "nested arguments"], ["traced", "traced, frozen, loaded"]
    ),
    ("convolutions", "optimised"),
}


def plain(x: Any) -> Any:
    """A result with its named tuples as tuples: the classes of a script can't be imported."""
    if isinstance(x, tuple):
        return tuple(map(plain, x))
    return [plain(v) for v in x] if isinstance(x, list) else x


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("name", "form"), in_turn(2, NETWORKS, FORMS))
def test_script(name: str, form: str) -> None:
    if (name, form) in IMPOSSIBLE:
        return
    build, args = NETWORKS[name]
    script = FORMS[form](build().eval(), args)
    dag = td.from_torch(script, args)
    with torch.no_grad():
        want = plain(copy.deepcopy(script)(*args))
        assert_same(dag.run(*to_numpy(args)), want)
        back = dag.to_torch()
        assert_same(back(*args), want)
    assert set(back.state_dict()) == set(script.state_dict())


class Holds(nn.Module):
    """A script that reads weights through lists and dicts, as recurrent layers do."""

    listed: list[torch.Tensor]
    named: dict[str, torch.Tensor]
    rows: torch.Tensor

    def __init__(self, part: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.listed = [self.layer.weight, torch.ones(4)]
        self.named = {"bias": self.layer.bias.detach()[:4]}
        self.rows = self.layer.weight.detach()[:2] if part else torch.ones(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.listed[0] * self.listed[1] + self.named["bias"] + self.rows.sum()


@pytest.mark.parametrize("form", ["scripted", "loaded"])
@pytest.mark.parametrize("name", ["recurrent", "held"])
def test_weights_in_lists_are_weights(name: str, form: str) -> None:
    module = (Recurrent() if name == "recurrent" else Holds(False)).eval()
    script = FORMS[form](module, ())
    x = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
    dag = td.from_torch(script, x)
    assert set(dag.graph.parameters) == {n for n, _ in module.named_parameters()}
    back = dag.to_torch()
    for net in (script, back):
        out = net(x)
        (out[0] if isinstance(out, tuple) else out).square().sum().backward()
    wanted = {n: p.grad for n, p in script.named_parameters()}
    for n, p in back.named_parameters():
        torch.testing.assert_close(p.grad, wanted[n])  # None for what is held detached


def test_views_of_weights_in_attributes_are_refused() -> None:
    with pytest.raises(td.UnsupportedError, match=r"attribute rows is a view of the weight layer.weight"):
        td.from_torch(torch.jit.script(Holds(True)), X)


def test_keyword_arguments_and_defaults() -> None:
    script = torch.jit.script(Defaults())
    dag = td.from_torch(script, (X,), {"scale": 3.0, "mask": X})
    assert list(dag.graph.inputs) == ["x", "mask"]
    assert_same(dag.run(X.numpy(), scale=3.0, mask=X.numpy()), script(X, scale=3.0, mask=X))
    assert_same(dag.to_torch()(X, scale=3.0, mask=X), script(X, scale=3.0, mask=X))
    with pytest.raises(td.InputError, match=r"needs its input 'x'"):
        td.from_torch(script, (), {"mask": X})
    with pytest.raises(td.InputError, match=r"has no input masks, or it is given twice"):
        td.from_torch(script, X, {"masks": X})
    with pytest.raises(td.InputError, match=r"takes 5 inputs, got 6"):
        td.from_torch(script, (X, X, 1.0, "plus", None, 1))
    with pytest.raises(td.UnsupportedError, match=r"raises an exception on these inputs: mode is times or plus"):
        td.from_torch(script, (X, None, 1.0, "minus"))


def test_a_buffer_set_is_an_update() -> None:
    net = Counts()
    dag = td.from_torch(torch.jit.script(copy.deepcopy(net)), X)
    assert list(dag.graph.updates) == ["seen"]
    back = dag.to_torch()
    for _ in range(3):
        assert_same(back(X), net(X))


def test_a_buffer_that_becomes_an_input_is_an_update() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(2, 4))

        def forward(self, x):
            y = x + self.last
            self.last.copy_(x)
            return y

    net = Last()
    dag = td.from_torch(torch.jit.script(copy.deepcopy(net)), X)
    assert list(dag.graph.updates) == ["last"]
    back = dag.to_torch()
    for x in (X, X + 1, X * 2):
        assert_same(back(x), net(x))


def test_arguments_of_one_name_are_told_apart() -> None:
    class Sum(nn.Module):
        def forward(self, *xs):
            return xs[0] - xs[1]

    dag = td.from_torch(torch.jit.trace(Sum(), (X, X)), (X, X))
    assert len(dag.graph.inputs) == 2
    np.testing.assert_array_equal(dag.run(X.numpy(), 0 * X.numpy()), X.numpy())


def test_control_flow_on_data_is_refused() -> None:
    class Signed(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x
            return -x

    with pytest.raises(td.UnsupportedError, match=r"prim::If at .*:\d+ decides by the data what to do: if x.sum"):
        td.from_torch(torch.jit.script(Signed()), X)


# --- what torch.nn runs in one piece without gradients -----------------------------------------------------

PADDING = torch.tensor([[False, False, True], [False, False, False]])
LATER = torch.ones(3, 3, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("masks", [{}, {"attn_mask": LATER}, {"key_padding_mask": PADDING},
                                   {"attn_mask": LATER, "key_padding_mask": PADDING}])  # fmt: skip
@pytest.mark.parametrize(("weights", "average"), [(True, True), (True, False), (False, True)])
def test_attention_traced_without_gradients(masks: dict[str, torch.Tensor], weights: bool, average: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x, *given):
            options = {"need_weights": weights, "average_attn_weights": average}
            out = self.attention(x, x, x, **dict(zip(masks, given, strict=True)), **options)
            return out if weights else out[0]

    args = (NETWORKS["attention"][1][0], *masks.values())
    with torch.no_grad():
        script = traced(Net().eval(), args)
        assert "_native_multi_head_attention" in str(script.inlined_graph)
        assert_same(td.from_torch(script, args).run(*to_numpy(args)), script(*args))


@pytest.mark.parametrize("masks", [{}, {"src_mask": LATER}, {"src_key_padding_mask": PADDING}])
@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu"}])
def test_encoder_layer_traced_without_gradients(masks: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)

        def forward(self, x, *given):
            return self.layer(x, **dict(zip(masks, given, strict=True)))

    args = (NETWORKS["attention"][1][0], *masks.values())
    with torch.no_grad():
        script = traced(Net().eval(), args)
        assert "_transformer_encoder_layer_fwd" in str(script.inlined_graph)
        assert_same(td.from_torch(script, args).run(*to_numpy(args)), script(*args))


class WritesByIndex(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.new_zeros(x.shape)
        y.index_put_((torch.tensor([0]),), x[0] * 2)
        return y + x


def test_scripts_are_not_run_without_data() -> None:
    """Whether axes can be open is asked of a source; torch's interpreter ends the process where it reads no data."""
    x = torch.randn(3, 4)
    module = td.from_torch(torch.jit.script(WritesByIndex()), (x,)).to_torch()
    assert torch.equal(module(x), WritesByIndex()(x))


class Turned(nn.Module):
    def forward(self, x: torch.Tensor):
        return x.T, x.mT, x.t() if x.dim() < 3 else x


@pytest.mark.filterwarnings("ignore")  # torch's, of .T of three dimensions
@pytest.mark.parametrize("shape", [(3, 3, 3), (2, 3, 4), (2, 3)])
def test_all_dimensions_are_turned(shape: tuple[int, ...]) -> None:
    """``.T`` of three dimensions is no transpose of the last two; of a cube both have one shape."""
    x = torch.randn(shape)
    dag = td.from_torch(torch.jit.script(Turned()), x)
    for found, wanted in zip(dag.to_torch()(x), Turned()(x), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


#: What torch.export takes apart, and a trace has whole.
WHOLE: dict[str, Any] = {
    "arange of fractions": lambda x: torch.arange(-8.5, -4.0, dtype=torch.int64) + x.sum(),
    "arange of fractions in i32": lambda x: torch.arange(-1.5, 3.2, dtype=torch.int32) + x.sum(),
    "cosine of numbers": lambda x: F.cosine_similarity(x.sum(), x.prod(), dim=0),
    "margin of a number": lambda x: F.multi_margin_loss(x.sum(), x.new_zeros((), dtype=torch.long)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_ops(name: str) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return WHOLE[name](x)

    x = torch.randn(3, 4)
    for dag in (td.from_torch(torch.jit.trace(Net(), x), x), td.from_torch(Net(), x)):
        torch.testing.assert_close(dag.to_torch()(x), Net()(x))
        torch.testing.assert_close(torch.from_numpy(np.asarray(dag.run(x.numpy()))), Net()(x))


class _Turned(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 0) ^ True


def test_a_mask_with_true_is_what_its_source_makes_of_it() -> None:
    """A script makes integers of it (findings/script_makes_masks_integers.sh); of a module it is bool in ours too."""
    x = torch.tensor([1.0, -1.0])
    script = torch.jit.script(_Turned())
    back = td.from_torch(script, (x,)).to_torch()(x)
    assert back.dtype == script(x).dtype == torch.int64
    assert torch.equal(back, script(x))
    own = td.from_torch(_Turned(), (x,))
    for net in (own.to_torch(), own.to_torchscript()):
        assert torch.equal(net(x), _Turned()(x))
