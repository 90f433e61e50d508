"""What users of torch do to a module, done to a source and to what comes back of it: the same must come of both."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import tdagger as td
from tests.networks import perturb

pytestmark = [
    # torch: of vmap over attention and LSTM; of hooks on what takes no tensor with a gradient; of LSTM's own list
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
    pytest.mark.filterwarnings("ignore:The tensor attributes self.*_flat_weights:UserWarning"),
]


class Tagger(nn.Module):
    """A recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(12)
        self.mlp = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, words: Tensor) -> Tensor:
        x, _ = self.lstm(self.words(words))
        return self.head(self.mlp(self.norm(x)))


def _images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32)


def _words(count: int) -> Tensor:
    return torch.randint(20, (count, 6))


def _resnet() -> nn.Module:
    import timm

    return timm.create_model("resnet10t", num_classes=7)


def _vit() -> nn.Module:
    import timm

    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=7, **sizes)


def _gpt2() -> nn.Module:
    import transformers

    sizes: dict[str, Any] = {"vocab_size": 20, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends, use_cache=False))


class Net(NamedTuple):
    """A network: its inputs, a layer at its end, an activation or norm, a block, and a sequence of modules."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    head: str
    layer: str
    block: str
    sequence: str


NETS = {
    "resnet": Net(_resnet, _images, "fc", "layer1.0.act1", "layer2.0", "layer1"),
    "vit": Net(_vit, _images, "head", "blocks.0.mlp.act", "blocks.0", "blocks"),
    "gpt2": Net(_gpt2, _words, "lm_head", "transformer.h.0.mlp.act", "transformer.h.0", "transformer.h"),
    "lstm": Net(Tagger, _words, "head", "norm", "mlp", "mlp"),
}


class Case:
    """A source and what came back of it; ``both`` gives copies to do things to."""

    def __init__(self, name: str) -> None:
        self.name, self.net = name, NETS[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.source, self.x = self.net.make().eval(), self.net.inputs(2)
            self.other = self.net.inputs(3)
            perturb(self.source)  # or norms are the identity, and branches that end in one are zero
        for module in self.source.modules():
            if hasattr(module, "inplace"):  # full backward hooks refuse it
                module.inplace = False
        self.back = td.from_torch(self.source, self.x).to_torch()

    def both(self) -> list[Any]:
        return [copy.deepcopy(self.source), copy.deepcopy(self.back)]


@cache
def case_of(name: str) -> Case:
    return Case(name)


@pytest.fixture(params=list(NETS))
def case(request: Any) -> Case:
    return case_of(request.param)


def out(module: Any, x: Tensor) -> Tensor:
    """The result, or the first of a container."""
    found = module(x)
    return found if isinstance(found, Tensor) else torch.utils._pytree.tree_leaves(found)[0]


def same(got: Any, want: Any, digits: float = 0.0) -> None:
    torch.testing.assert_close(got, want, rtol=digits, atol=digits)


def of_both(case: Case, change: Callable[[Any], Any]) -> list[Any]:
    """Do something to a copy of both, which gives a module or does it in place: they compute the same, of any batch."""
    made: list[Any] = []
    for module in case.both():
        torch.manual_seed(0)
        changed = change(module)
        made.append(module if changed is None else changed)
    with torch.no_grad():
        for x in (case.x, case.other):
            source, back = (out(m, x) for m in made)
            same(back, source)
    return made


def has_effect(case: Case, change: Callable[[Any], Any]) -> list[Any]:
    """The same, and the result isn't what it was before."""
    made = of_both(case, change)
    with torch.no_grad():
        assert not torch.allclose(out(made[1], case.x), out(case.back, case.x))
    return made


def gradients(module: Any, x: Tensor) -> dict[str, Tensor | None]:
    module.zero_grad()
    out(module, x).square().mean().backward()
    return {n: p.grad for n, p in module.named_parameters()}


def parts(module: nn.Module, *kinds: str) -> dict[str, nn.Module]:
    return {n: m for n, m in module.named_modules() if type(m).__name__ in kinds}


# --- hooks -------------------------------------------------------------------------------------------------


def _holders(module: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in module.named_modules() if any(True for _ in m.parameters()) and n}


def test_forward_hooks_see_the_same(case: Case) -> None:
    """On every module with parameters that the source calls, in the same order; leaf modules' inputs too."""
    seen: list[list[Any]] = []
    for module in case.both():
        found: list[Any] = []

        def before(m: nn.Module, args: Any, name: str, found: list[Any] = found) -> None:
            found.append(("before", name, [args[0].clone()] if not list(m.children()) else []))

        def after(m: nn.Module, args: Any, result: Any, name: str, found: list[Any] = found) -> None:
            leaves = torch.utils._pytree.tree_leaves(result)
            found.append(("after", name, [t.clone() for t in leaves if isinstance(t, Tensor)]))

        for name, layer in _holders(module).items():
            layer.register_forward_pre_hook(lambda m, a, name=name, before=before: before(m, a, name))
            layer.register_forward_hook(lambda m, a, o, name=name, after=after: after(m, a, o, name))
        with torch.no_grad():
            module(case.x)
        seen.append(found)
    source, back = seen
    assert [s[:2] for s in back] == [s[:2] for s in source]
    for (_, name, got), (_, _, want) in zip(back, source, strict=True):
        assert len(got) <= len(want)  # what nobody uses isn't given
        for a, b in zip(got, want, strict=False):
            torch.testing.assert_close(a, b, rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_hooks_change_what_is_computed(case: Case) -> None:
    def change(module: Any) -> None:
        for layer in parts(module, "LayerNorm", "BatchNorm2d").values():
            layer.register_forward_hook(lambda m, a, o: o * 1.5)
        module.get_submodule(case.net.head).register_forward_pre_hook(lambda m, a: (a[0] + 1.0,))

    has_effect(case, change)


def test_backward_hooks_see_the_same(case: Case) -> None:
    seen: list[dict[str, list[Tensor]]] = []
    for module in case.both():
        found: dict[str, list[Tensor]] = {}
        for name, layer in _holders(module).items():
            if not list(layer.children()) and not name.endswith("bn2"):  # to whose results the source adds in place
                layer.register_full_backward_hook(
                    lambda m, i, o, found=found, name=name: found.setdefault(name, []).append(o[0])
                )
        gradients(module, case.x)
        seen.append(found)
    assert seen[0].keys() == seen[1].keys()
    assert len(seen[0]) > 4
    same(seen[1], seen[0], 1e-6)


# --- other modules -----------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * 0.5) - 1.0


class Half(nn.Module):
    """In the place of a block, whatever it was called with."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x * 0.5


class Lora(nn.Module):
    """What peft puts in the place of a layer."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer = base
        width, count = base.weight.shape if type(base).__name__ == "Conv1D" else base.weight.shape[::-1]
        self.lora_A, self.lora_B = nn.Linear(width, 2, bias=False), nn.Linear(2, count, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def test_a_module_is_replaced(case: Case) -> None:
    has_effect(case, lambda m: m.set_submodule(case.net.layer, nn.Hardtanh(-0.1, 0.1)))


def test_a_block_is_replaced(case: Case) -> None:
    def change(module: Any) -> None:
        module.get_submodule(case.net.sequence)[0] = Half()

    has_effect(case, change)


@pytest.mark.parametrize("place", ["head", "layer"])
def test_a_module_is_wrapped(case: Case, place: str) -> None:
    path = getattr(case.net, place)
    has_effect(case, lambda m: m.set_submodule(path, Wrapped(m.get_submodule(path))))


def test_a_module_is_deleted(case: Case, request: Any) -> None:
    if case.name == "gpt2":
        why = "the code calls each block of a ModuleList by its number, where the source loops over them"
        request.applymarker(pytest.mark.xfail(strict=True, raises=IndexError, reason=why))

    def change(module: Any) -> None:
        del module.get_submodule(case.net.sequence)[-1]

    has_effect(case, change)


def test_a_module_that_is_needed_is_deleted(case: Case) -> None:
    for module in case.both():
        delattr(module, case.net.head)
        with pytest.raises(AttributeError, match=case.net.head):
            module(case.x)


def test_lora_by_names(case: Case) -> None:
    targets = {"fc", "qkv", "fc1", "c_attn", "c_proj", "head", "0"}

    def change(module: Any) -> None:
        for name, layer in list(module.named_modules()):
            if name.rpartition(".")[2] in targets and type(layer).__name__ in ("Linear", "Conv1D"):
                module.set_submodule(name, Lora(layer))

    source, back = has_effect(case, change)
    assert [n for n, _ in back.named_parameters()] == [n for n, _ in source.named_parameters()]
    same(gradients(back, case.x), gradients(source, case.x), 1e-6)


# --- weights -----------------------------------------------------------------------------------------------


def _layers(module: nn.Module) -> list[Any]:
    return list(parts(module, "Linear", "Conv2d", "Conv1D", "Embedding").values())


def test_pruned(case: Case) -> None:
    def change(module: Any) -> None:
        prune.global_unstructured([(m, "weight") for m in _layers(module)], prune.L1Unstructured, amount=0.4)
        prune.ln_structured(module.get_submodule(case.net.head), "weight", 0.3, n=2, dim=0)

    source, back = has_effect(case, change)
    same(gradients(back, case.x), gradients(source, case.x), 1e-6)

    def final(module: Any) -> None:
        change(module)
        for layer in _layers(module):
            prune.remove(layer, "weight")

    has_effect(case, final)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_parametrized(case: Case, norm: str) -> None:
    def change(module: Any) -> None:
        for layer in _layers(module):
            getattr(parametrizations, norm)(layer)
            with torch.no_grad():
                next(layer.parametrizations.weight.parameters()).mul_(1.5)

    source, back = of_both(case, change)
    assert back.state_dict().keys() == source.state_dict().keys()
    same(out(copy.deepcopy(back), case.x), out(source, case.x))
    same(gradients(back, case.x), gradients(source, case.x), 1e-6)


def test_frozen_block(case: Case) -> None:
    def change(module: Any) -> None:
        module.get_submodule(case.net.block).requires_grad_(False)

    found = [gradients(m, case.x) for m in of_both(case, change)]
    assert any(g is None for g in found[0].values())
    assert {n for n, g in found[0].items() if g is None} == {n for n, g in found[1].items() if g is None}
    same(*[{n: g for n, g in f.items() if g is not None} for f in found], 1e-6)


def test_parameter_groups_by_class(case: Case) -> None:
    """As trainers do: no decay for norms, embeddings and biases."""

    def change(module: Any) -> None:
        decayed: dict[int, Any] = {}
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.LSTM) or type(layer).__name__ == "Conv1D":
                decayed |= {id(p): p for n, p in layer.named_parameters(recurse=False) if not n.startswith("bias")}
        assert decayed
        rest = [p for p in module.parameters() if id(p) not in decayed]
        groups = [{"params": list(decayed.values()), "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        for _ in range(2):
            gradients(module, case.x)
            optimizer.step()

    with torch.no_grad():
        before = out(case.back, case.x)
    made = [change(m) or m for m in case.both()]
    same(out(made[1], case.x), out(made[0], case.x), 1e-5)
    assert not torch.allclose(out(made[1], case.x), before)


def test_state_dicts_load(case: Case) -> None:
    source, back = case.both()
    with torch.no_grad():
        for tensor in source.parameters():
            tensor.add_(0.01 * torch.randn_like(tensor))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    back.load_state_dict(torch.load(file), strict=True)
    same(out(back, case.x), out(source, case.x))
    file = io.BytesIO()
    torch.save(back.state_dict(), file)
    file.seek(0)
    case.both()[0].load_state_dict(torch.load(file), strict=True)


# --- copies and places -------------------------------------------------------------------------------------


def test_saved_whole(case: Case) -> None:
    file = io.BytesIO()
    torch.save(case.back, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert list(loaded.state_dict()) == list(case.source.state_dict())
    same(out(loaded, case.other), out(case.source, case.other))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_element_type(case: Case, dtype: torch.dtype) -> None:
    source, back = (m.to(dtype) for m in case.both())
    x = case.x.to(dtype) if case.x.is_floating_point() else case.x
    with torch.no_grad():
        got, want = out(back, x), out(source, x)
    assert got.dtype == dtype
    same(got, want, 1e-6 if dtype == torch.float64 else 0.0)  # numbers in the code are those of float32


def test_on_meta_and_empty(case: Case) -> None:
    want = out(case.source, case.x)
    for back in (case.both()[1], case.both()[1].to("meta")):
        back.to_empty(device="meta")
        got = out(back, case.x.to("meta"))
        assert got.is_meta
        assert got.shape == want.shape
        back.to_empty(device="cpu").load_state_dict(case.source.state_dict())
        same(out(back, case.x), want)


# --- compilers ---------------------------------------------------------------------------------------------


def test_symbolic_trace(case: Case) -> None:
    traced: Any = torch.fx.symbolic_trace(case.back)
    for x in (case.x, case.other):
        same(out(traced, x), out(case.source, x))
    called = {n.target for n in traced.graph.nodes if n.op == "call_module"}
    assert case.net.head in called


class Plain(nn.Module):
    """A network that gives a tensor, for those that take nothing else."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return out(self.net, x)


def test_jit_trace(case: Case) -> None:
    traced = torch.jit.trace(Plain(case.back), (case.x,))
    for x in (case.x, case.other):
        same(traced(x), out(case.source, x), 1e-6)


def test_jit_script(case: Case) -> None:
    """Also where the source can't be scripted, if its result is one that TorchScript has."""
    back = case.back if case.name != "gpt2" else td.from_torch(Plain(case.source), case.x).to_torch()
    scripted: Any = torch.jit.script(back)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for x in (case.x, case.other):
        same(scripted(x), out(case.source, x), 1e-6)
        same(loaded(x), out(case.source, x), 1e-6)


def test_export_with_any_batch(case: Case) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(case.back, (case.x,), dynamic_shapes=({0: batch},))
    for x in (case.x, case.other, case.net.inputs(7)):
        same(out(program.module(), x), out(case.source, x), 1e-6)


def test_compiled(case: Case) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.back, fullgraph=True, dynamic=True, backend="eager")
    with torch._dynamo.config.patch(allow_rnn=True):
        for x in (case.x, case.other):
            same(out(compiled, x), out(case.source, x), 1e-6)


# --- functions ---------------------------------------------------------------------------------------------


def like_the_source(case: Case, function: Callable[[Any], Any], digits: float = 0.0) -> Any:
    """What a function gives of the source, after ours gives the same; None where torch has no rule for it."""
    source, back = case.both()
    if case.name == "lstm" and digits == 0.0:
        for module in (source, back):
            with pytest.raises(RuntimeError, match="Batching rule not implemented"):
                function(module)
        return None
    want = function(source)
    same(function(back), want, digits)
    return want


def _called(module: Any, state: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.func.functional_call(Plain(module), {f"net.{n}": t for n, t in state.items()}, (x,))


def test_functional_call(case: Case) -> None:
    state = {n: p * 1.1 for n, p in case.source.named_parameters()}
    same(_called(case.back, state, case.x), _called(case.source, state, case.x))


def test_vmap_of_batches(case: Case) -> None:
    xs = torch.stack([case.x, case.x.flip(0)])
    found = like_the_source(case, lambda m: torch.vmap(lambda x: out(m, x))(xs))
    if found is not None:
        same(found[0], out(case.source, case.x), 1e-5)


def test_vmap_of_weights(case: Case) -> None:
    stacks = {n: torch.stack([p, p * 1.1, p * 0.9]).detach() for n, p in case.source.named_parameters()}
    found = like_the_source(case, lambda m: torch.vmap(lambda s: _called(m, s, case.x))(stacks))
    if found is not None:
        same(found[1], _called(case.source, {n: s[1] for n, s in stacks.items()}, case.x), 1e-5)


def test_jacrev(case: Case) -> None:
    name, weight = list(case.source.named_parameters())[-1]
    found = [torch.func.jacrev(lambda w, m=m: _called(m, {name: w}, case.x))(weight.detach()) for m in case.both()]
    assert found[0].any()
    same(found[1], found[0], 1e-6)


def test_per_sample_gradients(case: Case) -> None:
    state = {n: p.detach() for n, p in case.source.named_parameters()}

    def loss(module: Any) -> Any:
        one = torch.func.grad(lambda s, x: _called(module, s, x[None]).square().mean())
        return torch.vmap(one, (None, 0))(state, case.x)

    like_the_source(case, loss, 1e-6)


# --- training at scale -------------------------------------------------------------------------------------


def test_checkpointed_blocks(case: Case) -> None:
    """Blocks that compute their inner values again in the backward pass."""
    found: list[Any] = []
    for module in case.both():
        block, count = module.get_submodule(case.net.block), []
        forward = block.forward

        def counted(*args: Any, forward: Any = forward, count: list[int] = count, **kwargs: Any) -> Any:
            count.append(1)
            return forward(*args, **kwargs)

        block.forward = lambda *a, f=counted, **k: checkpoint(f, *a, use_reentrant=False, **k)
        found.append(gradients(module, case.x))
        assert len(count) == 2
    same(found[1], found[0], 1e-6)
    same(found[1], gradients(case.both()[1], case.x))


class Saved(NamedTuple):
    """A source and what came back, an input for each process, names of blocks."""

    modules: list[Any]
    xs: list[Tensor]
    block: str


def _in_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for saved in torch.load(folder / "modules.pt", weights_only=False):
        _in_parallel(saved, rank)
        _sharded(saved, rank)
    dist.destroy_process_group()


def _in_parallel(saved: Saved, rank: int) -> None:
    """Gradients are the means of both processes', as on the source, and of both inputs on the module alone."""
    found: list[Any] = []
    for module in saved.modules:
        alone = [gradients(copy.deepcopy(module), x) for x in saved.xs]
        own = nn.parallel.DistributedDataParallel(copy.deepcopy(module))
        means = {n.removeprefix("module."): g for n, g in gradients(own, saved.xs[rank]).items()}
        same(means, {n: (a + alone[1][n]) / 2 for n, a in alone[0].items()}, 1e-5)
        found.append(means)
    same(found[1], found[0], 1e-6)


def _sharded(saved: Saved, rank: int) -> None:
    """Outputs and gradients are those of the modules that aren't sharded."""
    mesh = dist.init_device_mesh("cpu", (2,))
    for module in saved.modules:
        want = out(module, saved.xs[rank]).detach()
        alone = [gradients(copy.deepcopy(module), x) for x in saved.xs]
        fully_shard(module.get_submodule(saved.block), mesh=mesh)
        fully_shard(module, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in module.parameters())
        same(out(module, saved.xs[rank]).detach(), want)
        means = {n: g.full_tensor() for n, g in gradients(module, saved.xs[rank]).items()}
        same(means, {n: (a + alone[1][n]) / 2 for n, a in alone[0].items()}, 1e-5)


def test_distributed_data_parallel_and_fully_sharded(tmp_path: Path) -> None:
    """Each network in two processes, which are connected by gloo."""
    cases = map(case_of, NETS)
    saved = [Saved(c.both(), [c.x, c.x.flip(0).roll(1, -1)], c.net.block) for c in cases]
    torch.save(saved, tmp_path / "modules.pt")
    torch.multiprocessing.spawn(_in_process, (tmp_path,), nprocs=2)
