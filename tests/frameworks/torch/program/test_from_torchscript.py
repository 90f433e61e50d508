"""Programs of scripts: loops and branches on data, numbers, lists that grow, and state."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tdagger as td
from tdagger.program.parts import Raise


def arrays(args: Any) -> list[Any]:
    return [x.numpy() if isinstance(x, Tensor) else np.asarray(x) for x in args]


def tensors(args: Any) -> list[Any]:
    return [
        x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else None)
        for x in args
    ]


def flat(x: Any) -> list[Any]:
    return [np.asarray(v.detach() if isinstance(v, Tensor) else v) for v in (x if isinstance(x, tuple) else (x,))]


def agrees(script: Any, tries: Any, **options: Any) -> td.Program:
    """The program of a script gives what the script does, in numpy, torch, TorchScript and from a file's document."""
    program = td.Program.from_torchscript(script, tries[0], **options)
    script = copy.deepcopy(script) if isinstance(script, nn.Module) else script
    runner = program.runner()
    modules = [program.to_torch(copy=True), program.to_torchscript(copy=True)]
    for args in tries:
        with torch.no_grad():
            want = flat(script(*[x.clone() if isinstance(x, Tensor) else x for x in args]))
            found = [flat(m(*tensors(args))) for m in modules]
        for got in (flat(runner(*arrays(args))), *found):
            assert len(got) == len(want)
            for a, b in zip(want, got, strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    return program


def collatz(n: int) -> int:
    count = 0
    while n != 1:
        if n % 2 == 0:  # noqa: SIM108
            n = n // 2
        else:
            n = 3 * n + 1
        count += 1
    return count


def early(x: Tensor, limit: float):
    for i in range(20):
        x = x * 1.5
        if bool(x.sum() > limit):
            return x, i
        if i % 3 == 2:
            continue
        x = x + 0.1
    return -x, 100


def grow(x: Tensor, n: int):
    out: list[Tensor] = []
    for i in range(10):
        if i >= n:
            break
        x = torch.sin(x) + 0.3
        out.append(x)
    return torch.stack(out), len(out)


def tokens(x: Tensor, stop: float):
    out: list[int] = [0]
    k = 0
    while True:
        x = torch.cos(x * 1.7 + k)
        out.append(int(x.argmax()))
        k += 1
        if bool(x.max() > stop):
            break
    return torch.tensor(out), out[-1], x


def nested(x: Tensor, n: int, m: int):
    s = torch.zeros(3)
    for i in range(n):
        for j in range(m):
            if j > i:
                break
            s = s + x * float(i - j)
        if bool(s.sum() > 50):
            s = s * 0.1
    return s


def written(x: Tensor, n: int):
    y = x.clone()
    for i in range(n):
        if bool(y[i] > 0):
            y[i] = y[i] * 2
        else:
            y[i] += 10
    return y


def cases(x: Tensor, k: int, flag: bool):
    if k == 0:
        y = x
        n = 2
    elif k == 1:
        y = torch.cat([x, x])
        n = 3
    else:
        y = x[:2]
        n = 1
    if flag and n > 1:
        y = y * 2
    z = y.reshape(n if k == -5 else 1, -1)
    return z.sum() * n, y.shape[0] + n


def newton(x: Tensor, tol: float):
    y = torch.ones_like(x)
    e = 1.0
    n = 0
    while e > tol and n < 50:
        z = 0.5 * (y + x / y)
        e = float((z - y).abs().max())
        y = z
        n += 1
    assert n < 50, "did not converge"
    return y, e, n


def optional(x: Tensor, n: int):
    best: Tensor | None = None
    for _ in range(n):
        x = torch.sin(x * 2)
        if best is None or bool(x.sum() > best.sum()):
            best = x
    if best is None:
        best = torch.zeros_like(x)
    return best


def skipped(x: Tensor, k: int):
    y = x
    z: Tensor | None = None
    for i in range(4):
        if i == k:
            continue
        if y.sum() > 10:
            break
        y = y * 2
        z = y if z is None else z + y
    if z is None:
        return y
    return z


def held(x: Tensor, n: int):
    found: dict[str, Tensor] = {"a": x, "b": torch.zeros(3)}
    for i in range(n):
        found["b"] = found["b"] + found["a"] * i
        if bool(found["b"].sum() > 3):
            found["a"] = -found["a"]
    return found["a"], found["b"]


def seen(x: Tensor, n: int):
    y = x.clone()
    v = y[1:]
    for _ in range(n):
        v += 1
        if bool(y.sum() > 5):
            y[0] = -1.0
    y.view(3, 1).mul_(2)
    return y, v


def taken(logits: Tensor, stop: int):
    row = [torch.zeros(6, dtype=torch.long)]
    score = torch.zeros(1)
    t = 0
    done = False
    best = -1e9
    while t < 5 and not done:
        v, i = (score.unsqueeze(1) + logits[t]).flatten().topk(1)
        token = int(i[0]) % logits.size(1)
        new = row[0].clone()
        new[t] = token
        row[0] = new
        score = v
        if token == stop:
            done = True
        best = max(best, float(v[0]))
        t += 1
    return row[0], score, best, t


def ranges(x: Tensor, n: int):
    y = x
    last = -1
    for i in range(n, 0, -2):
        y = y * i
        last = i
    for i in range(2, n, 3):
        y = y + i
        last = i
    return y, last


def windows(xs: Tensor, n: int):
    """Slices of a fixed length whose place the data decides, read and written."""
    y = xs.clone()
    total = torch.zeros(2)
    for i in range(n):
        total = total + xs[i : i + 2].sum(0)
        y[i : i + 1] *= 2
        y[:, 1 - i % 2 : 2 - i % 2] += 1
    return total, y, xs[-n - 1 : -n]


X = torch.tensor([0.5, -1.0, 2.0])
ROWS = torch.arange(10.0).reshape(5, 2)
LOGITS = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
CASES: dict[str, Any] = {
    "collatz": (collatz, [(3,), (1,), (27,)], {}),
    "early": (early, [(X, 4.0), (X, 1e9), (-X, 1.0)], {}),
    "grow": (grow, [(X, 5), (X, 1), (X, 12)], {}),
    "tokens": (tokens, [(X, 0.9), (X, 0.999)], {"bound": 30}),
    "nested": (nested, [(X, 5, 3), (X, 1, 1), (X, 0, 2)], {}),
    "written": (written, [(X, 3), (X, 1), (X, 0)], {}),
    "cases": (cases, [(X, 0, True), (X, 1, False), (X, 1, True), (X, 5, True), (X, -5, True)], {}),
    "newton": (newton, [(X.abs(), 1e-4), (X.abs() * 1e5, 1e-3)], {}),
    "skipped": (skipped, [(X, 1), (X, 5), (X * 10, 0), (X * 100, 7)], {}),
    "held": (held, [(X, 3), (X, 0), (X, 6)], {}),
    "seen": (seen, [(X, 2), (X, 0), (X, 4)], {}),
    "taken": (taken, [(LOGITS, 3), (LOGITS, int(LOGITS[0].argmax()))], {}),
    "ranges": (ranges, [(X, 5), (X, 9), (X, 0)], {}),
    "windows": (windows, [(ROWS, 3), (ROWS, 1), (ROWS, 4)], {}),
    "optional": (optional, [(X, 3), (X, 0), (X, 1)], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_functions(name: str) -> None:
    function, tries, options = CASES[name]
    agrees(torch.jit.script(function), tries, **options)


def until(x: Tensor, n: int):
    return x[1:n].sum()


def between(x: Tensor, n: int):
    return x[n - 1 : n + 1].sum()


def test_slices_whose_length_the_data_decides_are_refused() -> None:
    with pytest.raises(
        td.UnsupportedError, match=r"needs the end of a slice \(one of a fixed length is written x\[i :"
    ):
        td.Program.from_torchscript(torch.jit.script(until), (X, 2))
    program = td.Program.from_torchscript(torch.jit.script(between), (X, 2))
    assert program.run(X.numpy(), np.int64(1)) == X[:2].sum()
    for beyond in (0, 3, -9):  # torch gives fewer entries
        with pytest.raises(IndexError, match="indices must be in"):
            program.run(X.numpy(), np.int64(beyond))


class Stateful(nn.Module):
    last: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.last = None
        self.count = 0
        self.layer = nn.Linear(3, 3)
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        last = self.last
        h = torch.zeros(3) if last is None else last
        self.count += 1
        if self.count % 3 == 0:
            self.total += x
        y = torch.tanh(self.layer(x) + h)
        self.last = y
        return y + self.total * self.count


def test_state() -> None:
    """What a script sets is state: an attribute that is None at first too."""
    program = agrees(torch.jit.script(Stateful().eval()), [(X * i,) for i in range(1, 8)])
    names = {s.buffer for s in program.slots.values() if s.buffer}
    assert names == {"last", "last_kind", "count", "total"}


class History(nn.Module):
    """Lists, numbers and flags as attributes, set on some ways only, and early returns."""

    history: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.history = [torch.zeros(3), torch.zeros(3)]
        self.count, self.scale, self.on = 0, 1.0, False

    def forward(self, x: Tensor, reset: bool):
        if reset:
            self.history = [torch.zeros(3), torch.zeros(3)]
            self.count = 0
            self.on = False
            return x, self.count
        self.history = [x, self.history[0]]
        self.count += 1
        if self.count > 2 and not self.on:
            self.on = True
            self.scale = self.scale * 2
        y = self.history[0] * self.scale + self.history[1]
        if self.on:
            return y, self.count
        return -y, self.count


def test_attributes_of_other_kinds() -> None:
    tries = [(X * i, i == 4) for i in range(1, 10)]
    program = agrees(torch.jit.script(History().eval()), tries)
    names = {s.buffer for s in program.slots.values() if s.buffer}
    assert names == {"history_0", "history_1", "count", "scale", "on"}


class Detector(nn.Module):
    """As silero-vad: a sample rate, kernels for two, and state that begins empty."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Linear(6, 4), nn.Linear(10, 4)
        self.context, self.state = torch.zeros(0), torch.zeros(0)
        self.last_rate = 0

    def reset(self) -> None:
        self.context, self.state = torch.zeros(0), torch.zeros(0)

    def forward(self, x: Tensor, rate: int) -> Tensor:
        if rate not in [8000, 16000]:
            raise ValueError("unknown rate")
        more = 2 if rate == 16000 else 1
        if self.last_rate and self.last_rate != rate:
            self.reset()
        if not len(self.context):
            self.context = torch.zeros(x.shape[0], more)
        x = torch.cat([self.context, x], 1)
        x = torch.cat([x, x[:, : 10 - x.shape[1]] if rate == 16000 else x[:, : 6 - x.shape[1]]], 1)
        h = self.fast(x) if rate == 16000 else self.slow(x)
        if len(self.state):  # noqa: SIM108
            h = torch.tanh(h + self.state)
        else:
            h = torch.tanh(h + torch.zeros(x.shape[0], 4))
        self.context = x[:, -more:]
        self.state = h
        self.last_rate = rate
        return h.sum(1)


def test_rates() -> None:
    """Branches of other sizes, state of other shapes, and one plain network for one rate."""
    script = torch.jit.script(Detector().eval())
    tries = [(torch.randn(1, 5), r) for r in (16000, 16000, 8000, 8000, 16000)]
    program = agrees(script, tries)
    with pytest.raises(td.InputError, match="unknown rate"):
        program.run(np.zeros((1, 5), "f"), np.int64(44100))
    assert any(isinstance(b.end, Raise) for b in program.blocks.values())
    plain = program.specialize(rate=16000)
    assert set(plain.dag().graph.updates) == {"context", "state"}
    runner, script = plain.runner(), copy.deepcopy(script)
    for _ in range(4):
        x = torch.randn(1, 5)
        np.testing.assert_allclose(runner(x.numpy()), script(x, 16000).detach(), rtol=1e-5)


def sized(x: Tensor, n: int):
    return torch.zeros(n) + x.sum()


def growing(x: Tensor, n: int):
    out: list[Tensor] = []
    for _ in range(n):
        out.append(x)
    return out


def widening(x: Tensor, n: int):
    for _ in range(n):
        x = torch.cat([x, x])
    return x


def drawing(x: Tensor, n: int):
    for _ in range(n):
        x = x + torch.rand(3)
    return x


def sliced(x: Tensor, n: int):
    return x[:n].sum()


REFUSED: dict[str, Any] = {
    "size": (sized, {}, "aten::zeros at .* needs a size or setting that the data decides"),
    "bound": (growing, {}, "say how many there may be, Program.from_torchscript.*bound=100"),
    "list": (growing, {"bound": 9}, "gives a list that grew in a loop on data"),
    "random": (drawing, {}, "a loop on data draws random numbers"),
    "slice": (sliced, {}, "aten::slice at .* needs the end of a slice .* that the data decides"),
    "widening": (widening, {}, r"a loop on data changes what x is, f32\[6\] before and f32\[12\] after"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, options, match = REFUSED[name]
    with pytest.raises(td.UnsupportedError, match=match):
        td.Program.from_torchscript(torch.jit.script(function), (X, 3), **options)


def some_ways(x: Tensor, n: int):
    if n > 5:
        return (torch.zeros(n) + x.sum()).sum()
    return x.sum()


def test_partial() -> None:
    """A way that can't be imported raises where a run takes it, if that is wished."""
    script = torch.jit.script(some_ways)
    with pytest.raises(td.UnsupportedError, match="With partial=True they raise when a run takes them"):
        td.Program.from_torchscript(script, (X, 3))
    with pytest.warns(UserWarning, match="aren't imported, and raise where a run takes them"):
        program = td.Program.from_torchscript(script, (X, 3), partial=True)
    assert program.run(X.numpy(), np.int64(2)) == X.sum()
    with pytest.raises(td.InputError, match="not imported"):
        program.run(X.numpy(), np.int64(6))
    with pytest.raises(ValueError, match="not imported"):
        program.to_torch()(X, torch.tensor(6))


def changing(x: Tensor, n: int):
    for _ in range(n):
        x += 1
    return x * 2


def test_writes_to_inputs_are_told() -> None:
    with pytest.warns(UserWarning, match=r"writes to its inputs in place \(x\)"):
        program = td.Program.from_torchscript(torch.jit.script(changing), (X.clone(), 3))
    assert program.run(X.numpy(), np.int64(2)).tolist() == ((X + 2) * 2).tolist()


def checked(x: Tensor, n: int):
    total = torch.zeros(1)
    for i in range(n):
        for j in range(i):
            if bool(x[j] > 5):
                raise ValueError("too large")
            if bool(x[j] > 3):
                break
            total = total + x[i] * x[j]
        if bool(total.sum() < -5):
            raise RuntimeError("too small")
    return total


def test_raising_inside_of_loops(tmp_path: Any) -> None:
    """What is raised in a loop is raised in every form; a file keeps it."""
    script = torch.jit.script(checked)
    tries = [(torch.tensor(v), 3) for v in ([1.0, 2.0, 3.0], [1.0, 4.0, 2.0], [-1.0, 2.0, 1.0])]
    program = agrees(script, tries)
    program.save(tmp_path / "checked.tdag")
    forms = [program, td.load(tmp_path / "checked.tdag"), program.unroll(2, next(iter(program.flow.loops)))]
    exported = program.to_exported_program().module()
    for values, message in (([6.0, 1.0, 1.0], "too large"), ([3.0, -3.0, 1.0], "too small")):
        for form in forms:
            with pytest.raises(td.InputError, match=message):
                form.run(np.array(values, "f"), np.int64(3))
        with pytest.raises(ValueError, match=message):
            program.to_torch()(torch.tensor(values), torch.tensor(3))
        with pytest.raises(torch.jit.Error, match=message):
            program.to_torchscript()(torch.tensor(values), torch.tensor(3))
        with pytest.raises(RuntimeError, match=message):
            exported(torch.tensor(values), torch.tensor(3))
    assert exported(*tensors(tries[0])).tolist() == script(*tries[0]).tolist()


def test_bound() -> None:
    program = td.Program.from_torchscript(torch.jit.script(tokens), (X, 0.9), bound=3)
    with pytest.raises(td.InputError, match="a list has more than its bound=4 entries"):
        program.run(X.numpy(), np.float64(2.0))


def test_named_by_the_importer_of_networks() -> None:
    with pytest.raises(td.UnsupportedError, match=r"td\.Program\.from_torchscript\(script, inputs\)"):
        td.from_torchscript(torch.jit.script(newton), (X, 1e-3))


class HeldDict(nn.Module):
    memo: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.memo = {"a": torch.zeros(4), "b": torch.ones(4)}

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):
            self.memo["a"] = self.memo["a"] + x
        else:
            self.memo["b"].mul_(x)
        return self.memo["a"] - self.memo["b"]


class HeldList(nn.Module):
    last: list[Tensor]
    seen: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.last = [torch.zeros(4), torch.ones(4)]
        self.seen = [0, 5]
        self.total = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        self.last[0] = self.last[1]
        self.last[1] = x
        self.seen[0] += 1
        if bool(x.sum() > 0):
            self.total.add_(x)
        return (self.last[0] + self.last[1]) * float(self.seen[0] + self.seen[1]) + self.total


@pytest.mark.parametrize("make", [HeldDict, HeldList])
def test_what_attributes_hold_and_a_script_changes_in_place_is_state(make: Any) -> None:
    x = torch.tensor([1.0, -2.0, 3.0, 0.5])
    program = agrees(torch.jit.script(make()), [(x,), (-x,), (2 * x,), (-x,)])
    assert any(s.buffer for s in program.slots.values())


def test_a_list_that_grows_from_run_to_run_is_refused() -> None:
    class Growing(nn.Module):
        last: list[Tensor]

        def __init__(self) -> None:
            super().__init__()
            self.last = [torch.zeros(4)]

        def forward(self, x: Tensor) -> Tensor:
            self.last.append(x)
            return self.last[0]

    with pytest.raises(td.UnsupportedError, match="changes the list or dict that its attribute last holds"):
        td.Program.from_torchscript(torch.jit.script(Growing()), (torch.ones(4),))


class HoldsDict(nn.Module):
    memo: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.memo = {"a": torch.zeros(4)}

    def forward(self, x: Tensor) -> Tensor:
        self.memo["a"] = self.memo["a"] + x
        return self.memo["a"] * 2


class HoldsList(nn.Module):
    last: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.last = [torch.zeros(4)]

    def forward(self, x: Tensor) -> Tensor:
        before = self.last
        before[0] = before[0] + x
        return self.last[0] * 2


@pytest.mark.parametrize(("make", "name"), [(HoldsDict, "memo"), (HoldsList, "last")])
def test_a_network_keeps_no_lists_and_dicts(make: Any, name: str) -> None:
    """What a script holds that is no buffer isn't lost silently."""
    script = torch.jit.script(make())
    with pytest.raises(td.UnsupportedError, match=rf"the script changes what {name} holds at .*keeps buffers alone"):
        td.from_torchscript(script, (torch.ones(4),))
    agrees(script, [(torch.ones(4),), (torch.zeros(4),)])


def in_a_branch(x: Tensor) -> Tensor:
    if bool(x.sum() > 0):
        assert bool(x.min() > -9), "too small"
    return x * 2


def by_mode(x: Tensor, mode: int) -> Tensor:
    if mode == 0:
        return x.sin()
    if mode == 1:
        return x.cos()
    raise ValueError("bad mode")


@pytest.mark.parametrize(
    ("function", "args", "text"),
    [(in_a_branch, (torch.ones(3),), "too small"), (by_mode, (torch.ones(3), 0), "bad mode")],
)
def test_what_raises_is_never_left_out_silently(function: Any, args: Any, text: str) -> None:
    for package in ("onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package)
    program = td.Program.from_torchscript(torch.jit.script(function), args)
    for form, write in {"ONNX": program.to_onnx, "TFLite": program.to_tflite, "CoreML": program.to_coreml}.items():
        with pytest.raises(td.UnsupportedError, match=rf"can't go to {form}: it raises .*program.trusted\(\).*{text}"):
            write()
    assert program.trusted().to_onnx().graph.node
    if function is in_a_branch:
        with pytest.raises(td.UnsupportedError, match=r"program.trusted\(\) leaves that out"):
            program.to_exported_program()
        return
    module = program.to_exported_program().module()
    assert module(torch.ones(3), torch.tensor(1)).tolist() == torch.ones(3).cos().tolist()
    with pytest.raises(Exception, match=text):
        module(torch.ones(3), torch.tensor(7))


def positive_rows(x: Tensor) -> Tensor:
    out: list[Tensor] = []
    for i in range(x.shape[0]):
        if bool(x[i].sum() > 0):
            out.append(x[i])
    if len(out) > 0:
        return torch.stack(out)
    return torch.zeros(0, 3)


def test_results_of_several_sizes_are_refused_with_what_to_do() -> None:
    told = (
        r"by the data, f32\[2 3\] or f32\[1 3\] or f32\[0 3\]: a program gives one type.*and their number beside them"
    )
    with pytest.raises(td.UnsupportedError, match=told):
        td.Program.from_torchscript(torch.jit.script(positive_rows), torch.ones(2, 3))


def _sliced(x: Tensor) -> Tensor:
    y = x[:, :3]
    while bool(y.sum() < 100):
        y = y * 7.3
    return y


def _viewed(x: Tensor) -> Tensor:
    y = x.view(-1, 3)
    while bool(y.sum() < 100):
        y = y * 7.3
    return y


def _rolled(x: Tensor) -> Tensor:
    y = x.roll(3, 1)
    while bool(y.sum() < 100):
        y = y * 7.3
    return y


def _squeezed(x: Tensor) -> Tensor:
    y = x.squeeze(1)
    while bool(y.sum() < 100):
        y = y * 7.3
    return y


@pytest.mark.parametrize(
    ("function", "size", "said"),
    [(_sliced, 6, "sliced up to 3"), (_viewed, 6, "the shape"), (_rolled, 6, "rolled"), (_squeezed, 1, "squeezed")],
)
def test_what_did_nothing_is_not_known_at_other_sizes(function: Any, size: int, said: str, tmp_path: Path) -> None:
    """Nothing in the blocks shows it; it stays with the program, also in a file."""
    program = td.Program.from_torchscript(torch.jit.script(function), (torch.rand(2, 3),))
    program.save(tmp_path / "p.tdag")
    for one in (program, td.load(tmp_path / "p.tdag"), program.optimize()):
        assert isinstance(one, td.Program)
        with pytest.raises(td.AxisError, match=f"not known.*\n.* has 3 entries, and so has what .*{said}"):
            one.resize(n2=size)
        assert one.resize(n2=size, assume=True).slots["x"].type.shape == (2, size)
        assert one.resize(n=5).slots["x"].type.shape == (5, 3)
    with pytest.raises(td.AxisError, match="has 3 entries, and so has what"):
        program.dag("begin").resize({"x": (2, size)})
