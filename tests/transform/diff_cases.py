"""Networks with one fault each, put into the graph, and where it is: what ``td.diff`` must find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import tdagger as td
from tdagger.composite import Composite
from tdagger.graph import Graph, replayed
from tdagger.op import Value
from tdagger.ops.elementwise import Cast
from tdagger.ops.structure import Permute
from tests.networks import perturb


class Fault(NamedTuple):
    """A network with a fault; ``a`` and ``b`` are the values that make it: in the right network and the wrong one."""

    kind: str
    network: td.TensorDAG
    places: list[tuple[Value | None, Value | None]]


# --- networks ----------------------------------------------------------------------------------------------


class UNet(nn.Module):
    """Convolutions down, transposed ones up, with a skip."""

    def __init__(self, wide: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, wide, 3, padding=1), nn.GroupNorm(2, wide), nn.SiLU())
        self.down = nn.Sequential(
            nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1), nn.BatchNorm2d(2 * wide), nn.ReLU()
        )
        self.mid = nn.Conv2d(2 * wide, 2 * wide, 3, padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(2 * wide, wide, 2, stride=2)
        self.out = nn.Conv2d(2 * wide, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skip = self.stem(x)
        x = torch.relu(self.mid(self.down(skip)))
        return self.out(torch.cat([skip, self.up(x)], 1)).softmax(1)


class Recurrent(nn.Module):
    """An embedding, a recurrent network, a head."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.rnn = kind(8, 8, num_layers=2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 6)
        self.again = nn.Linear(6, 6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found, _ = self.rnn(self.embed(ids))
        return self.again(torch.tanh(self.head(self.norm(found)))).log_softmax(-1)


class ResNet(nn.Module):
    """Two residual blocks as timm's."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model("resnet10t", pretrained=False, num_classes=10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def _vit() -> nn.Module:
    import timm

    options: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return timm.models.VisionTransformer(num_classes=10, **options)


def _gpt2() -> nn.Module:
    import transformers

    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=16, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def _bert() -> nn.Module:
    import transformers

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    return transformers.BertModel(transformers.BertConfig(num_attention_heads=2, vocab_size=50, **sizes))


def _llama() -> nn.Module:
    import transformers

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = transformers.LlamaConfig(
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        **sizes,
    )
    return transformers.LlamaModel(config)


def _ids() -> torch.Tensor:
    return torch.arange(14).reshape(2, 7) % 30


#: A network in eval mode and example inputs, by name.
NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
    "ResNet": lambda: (ResNet(), (torch.randn(2, 3, 32, 32),)),
    "ViT": lambda: (_vit(), (torch.randn(2, 3, 16, 16),)),
    "GPT-2": lambda: (_gpt2(), (_ids(),)),
    "BERT": lambda: (_bert(), (_ids(),)),
    "Llama": lambda: (_llama(), (_ids(),)),
    "LSTM": lambda: (Recurrent(nn.LSTM), (_ids(),)),
    "GRU": lambda: (Recurrent(nn.GRU), (_ids(),)),
    "U-Net": lambda: (UNet(), (torch.randn(2, 3, 8, 8),)),
}


def built(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A network whose norms and biases aren't those that do nothing."""
    torch.manual_seed(0)
    module, args = NETWORKS[name]()
    perturb(module)
    return module.eval(), args


# --- faults ------------------------------------------------------------------------------------------------


def changed(dag: td.TensorDAG, old: Value, new: Value) -> td.TensorDAG:
    """The network where a value is another one."""
    into = replayed(dag.graph, {old: new})
    outputs = {k: into[v] for k, v in dag.graph.outputs.items()}
    graph = Graph(dict(dag.graph.inputs), outputs, {}, dag.name, into.values())
    origins = {into[v]: o for v, o in dag.origins.items() if v in into}
    return dag.with_graph(graph, origins)


def with_attribute(value: Value, name: str, new: Any) -> Value:
    """The op with another attribute on the same arguments."""
    fields = [new if f == name else getattr(value.op, f) for f in value.op.fields]
    return type(value.op)(*fields)(*value.args)


def eps(dag: td.TensorDAG) -> Iterator[Fault]:
    """Ten times the eps of a norm."""
    for v in dag.graph.values:
        if "eps" in v.op.attributes:
            new = with_attribute(v, "eps", v.op.attributes["eps"] * 10)
            yield Fault("eps", changed(dag, v, new), [(v, new)])
        elif v.op.name == "binary" and v.op.attributes["kind"] == "add" and _is_small(v.args[1]):
            new = td.add(v.args[0], 1e-5)
            yield Fault("eps", changed(dag, v, new), [(v, new)])


def _is_small(value: Value) -> bool:
    while value.args:
        value = value.args[0]
    return (
        value.op.name == "const" and value.type.size == 1 and 0 < float(value.op.attributes["data"].reshape(())) < 1e-4
    )


def pad_side(dag: td.TensorDAG) -> Iterator[Fault]:
    """What is padded before and after the other way round."""
    for v in dag.graph.values:
        if v.op.name == "convolution" and any(b for b in v.op.attributes["padding"] if b != (0, 0)):
            sides = tuple([(b[0] + b[1], 0) for b in v.op.attributes["padding"]])
            new = with_attribute(v, "padding", sides)
            yield Fault("pad", changed(dag, v, new), [(v, new)])
        elif v.op.name == "slice":
            for axis, b in enumerate(v.op.attributes["bounds"]):
                if b is not None and b[0] > 0 and b[2] == 1:
                    at = tuple(
                        [
                            (x[0] - 1, x[1] - 1, 1) if i == axis and x else x
                            for i, x in enumerate(v.op.attributes["bounds"])
                        ]
                    )
                    new = with_attribute(v, "bounds", at)
                    yield Fault("pad", changed(dag, v, new), [(v, new)])


def transpose(dag: td.TensorDAG) -> Iterator[Fault]:
    """Two axes change places, and what comes out is read as if they hadn't."""
    for v in dag.graph.values:
        shape = v.type.shape if isinstance(v.type, td.TensorType) else ()
        if v.type.__class__ is td.TensorType and v.op.name in (
            "linear",
            "addmm",
            "gelu",
            "layer_norm",
            "convolution",
            "relu",
            "batch_norm",
        ):
            order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
            moved = Permute(order)(v)
            new = td.reshape(moved, shape=shape)
            yield Fault("transpose", changed(dag, v, new), [(None, moved)])


def axis(dag: td.TensorDAG) -> Iterator[Fault]:
    """A softmax or the like over another axis; results laid side by side the other way round."""
    for v in dag.graph.values:
        if v.op.name in ("softmax", "log_softmax"):
            new = with_attribute(v, "axis", 0 if v.op.attributes["axis"] else 1)
            yield Fault("axis", changed(dag, v, new), [(v, new)])
        elif v.op.name == "permute" and len({v.type.shape[i] for i in range(v.rank)}) < v.rank:
            order = v.op.attributes["order"]
            for i in range(v.rank):
                for j in range(i):
                    if v.type.shape[i] == v.type.shape[j] != 1:
                        other = list(order)
                        other[i], other[j] = other[j], other[i]
                        new = with_attribute(v, "order", tuple(other))
                        yield Fault("axis", changed(dag, v, new), [(v, new)])
        elif v.op.name == "concat" and v.args[0].type is v.args[1].type and v.args[0] is not v.args[1]:
            new = v.op(v.args[1], v.args[0], *v.args[2:])
            yield Fault("axis", changed(dag, v, new), [(v, new)])


def swapped(dag: td.TensorDAG) -> Iterator[Fault]:
    """Two weights of one shape hold each other's data."""
    names = list(dag.graph.parameters)
    of: dict[Any, list[str]] = {}
    for n in names:
        of.setdefault(dag.graph.parameters[n].type, []).append(n)
    for same in of.values():
        for one, other in zip(same[::2], same[1::2], strict=False):
            if "bias_ih" in one or "bias_hh" in one:  # they are added up
                continue
            weights = {**{n: dag.weights[n] for n in (*dag.graph.parameters, *dag.graph.buffers)}}
            if np.array_equal(weights[one], weights[other]):
                continue
            weights[one], weights[other] = weights[other], weights[one]
            users = [
                u
                for u in dag.graph.values
                if any(a in (dag.graph.parameters[one], dag.graph.parameters[other]) for a in u.args)
            ]
            yield Fault("swap", replace(dag, weights=weights), [(u, u) for u in users])


def bias(dag: td.TensorDAG) -> Iterator[Fault]:
    """No bias where there was one."""
    for v in dag.graph.values:
        if v.op.name == "linear" and len(v.args) == 3:
            new = td.linear(v.args[0], v.args[1])
        elif v.op.name == "addmm":
            new = td.matmul(v.args[1], v.args[2])
        elif v.op.name == "convolution" and len(v.args) == 3:
            new = type(v.op)(*[getattr(v.op, f) for f in v.op.fields[:-1]], (True, True, False))(*v.args[:2])
        else:
            continue
        yield Fault("bias", changed(dag, v, new), [(v, new)])


def casts(dag: td.TensorDAG) -> Iterator[Fault]:
    """Through bf16 and back."""
    for v in dag.graph.values:
        if (
            v.type.__class__ is td.TensorType
            and v.dtype.name == "f32"
            and isinstance(v.op, Composite)
            and v.op.name not in ("embedding",)
        ):
            if v.op.name in ("reshape", "filled", "subtract", "divide", "square", "mean", "rsqrt", "dropout"):
                continue
            narrow = Cast(td.DType.of("bf16"))(v)
            yield Fault("cast", changed(dag, v, Cast(v.dtype)(narrow)), [(None, narrow)])


FAULTS = (eps, pad_side, transpose, axis, swapped, bias, casts)


def is_found(diff: td.Diff, fault: Fault) -> bool:
    """Whether the first difference, and every other, is where the fault was put."""
    found = [(d.a, d.b) for d in diff.differences]
    return bool(found) and all(
        any((a is None or a is x) and (b is None or b is y) for x, y in fault.places) for a, b in found
    )
