"""Steps that move: views, slices, writes through views, indexing, joins, sizes worked out in Python, loops, buffers."""

from __future__ import annotations

from conformance.fuzz.build import Builder, Skip
from conformance.fuzz.table import maker

_VIEWS = (
    "{x}.transpose({i}, {j})",
    "{x}.flip({i})",
    "{x}.unsqueeze({i})",
    "{x}.roll(1, {i})",
    "{x}.roll(-2, {i})",
    "{x}.movedim({i}, {j})",
    "{x}.flatten()",
    "{x}.flatten(0, 1)",
    "{x}.flatten(1)",
    "{x}.flatten(-2)",
    "{x}.reshape(-1)",
    "{x}.reshape({x}.shape[0], -1)",
    "{x}.view({x}.shape[0], -1)",
    "{x}.contiguous().view(-1, {x}.shape[-1])",
    "{x}.reshape(*{x}.shape[:-1], 2, -1)",
    "{x}.reshape(*{x}.shape[:-1], -1, 2)",
    "{x}.unflatten(-1, (-1, 2))",
    "{x}.unflatten({i}, (2, -1))",
    "{x}.unflatten({i}, (2, {x}.shape[{i}] // 2))",
    "{x}.reshape(2, -1)",
    "{x}.reshape(-1, 2)",
    "{x}.squeeze({i})",
    "{x}.squeeze()",
    "{x}.unsqueeze(-1).expand(*{x}.shape, 3)",
    "{x}.unsqueeze({i}).expand_as({x}.unsqueeze({i}))",
    "{x}.repeat_interleave(2, {i})",
    "{x}.repeat(2, *[1] * ({x}.dim() - 1))",
    "{x}.tile(2)",
    "{x}.unfold({i}, 2, 1)",
    "{x}.unfold({i}, 2, 2)",
    "{x}.diagonal(dim1={i}, dim2={j})",
    "{x}.tril()",
    "{x}.triu(1)",
    "{x}.mT",
    "{x}.swapaxes({i}, {j}).contiguous()",
    "{x}.clone()",
    "{x}.detach() + {x}",
    "{x}.rot90(1, ({i}, {j}))",
    "{x}.diag_embed()",
    "{x}.fliplr()",
    "{x}.roll({x}.shape[{i}] // 2, {i})",
    "{x}.flatten({i}, {i} + 1)",
    "{x}.flatten(0, 1).unflatten(0, ({x}.shape[0], {x}.shape[1]))",
    "{x}.narrow({i}, 0, {x}.shape[{i}] - 1)",
    "{x}.select({i}, -1)",
    "{x}.select({i}, 0)",
    "{x}.narrow({i}, 1, 1)",
    "{x}.ravel()",
    "{x}.as_strided({x}.size(), {x}.stride())",
    "{x}.transpose({i}, {j}).reshape({x}.shape)",
    "{x}.view({x}.shape[0], -1, {x}.shape[-1])",
    "{x}.expand(2, *{x}.shape)",
    "torch.atleast_3d({x})",
    "{x}.reshape({x}.shape[0], 2, -1).transpose(0, 1).flatten(0, 1)",
    "{x}.masked_fill(torch.ones_like({x}).triu(1).bool(), 0.)",
    "torch.broadcast_to({x}, (2, *{x}.shape))",
    "{x}.transpose(0, 1).flatten(0, 1)",
    "{x}.reshape({x}.shape[1], {x}.shape[0], -1)",
)


@maker(9)
def _view(b: Builder) -> None:
    x, o = b.pick(b.one("float", "any"), 1), b.new()
    i, j = b.signed(x, b.dim(x)), b.signed(x, b.dim(x))
    b.do("view", f"{o} = {b.one(*_VIEWS).format(x=x, i=i, j=j)}", outs=[o])


@maker(2.5)
def _permute(b: Builder) -> None:
    x, o = b.pick("any", 2), b.new()
    order = b.rng.sample(range(len(b.shape(x))), len(b.shape(x)))
    more = b.one("", "", ".contiguous()", ".flatten(1)", ".flatten(0, 1)", f".reshape({x}.shape)")
    b.do("permute", f"{o} = {x}.permute({', '.join(map(str, order))}){more}", outs=[o])


def part(b: Builder, x: str, i: int) -> str:
    """A slice of a dimension, written in one of the ways people write them."""
    n = b.size(x, i)
    return b.one(
        "1:",
        ":-1",
        "1:-1",
        "::2",
        "1::2",
        ":2",
        "-2:",
        ":-2",
        "2:",
        f":{n} // 2",
        f"{n} // 2:",
        f"{n} - 1:",
        "-3:-1",
        ":1",
        "-1:",
        "0:3",
        "1:3",
        f"-{n} // 2:",
        ":100",
        "::3",
        ":-1:2",
        f":{n} - 1",
        "2::2",
        f"1:{n}",
        "None",
        "...",
        "0",
        "-1",
        "[0, -1]",
        "[0, 0, 1]",
    )


def place(b: Builder, x: str) -> str:
    """An index of a value: some slices at one or two dimensions."""
    rank = len(b.shape(x))
    if rank < 1:
        raise Skip
    at = sorted(b.rng.sample(range(rank), 1 if rank == 1 or b.chance(0.75) else 2))
    parts, lists = [], 0
    for i in range(at[-1] + 1):
        piece = part(b, x, i) if i in at else ":"
        if "[" in piece and "shape" not in piece and "size" not in piece:
            lists += 1
        parts.append(piece)
    if parts.count("...") > 1 or (lists > 1):
        raise Skip
    if len(at) == 1 and at[0] == rank - 1 and b.chance(0.3) and "..." not in parts:
        parts = ["...", parts[-1]]
    return ", ".join(parts)


@maker(7)
def _slice(b: Builder) -> None:
    x, o = b.pick(b.one("float", "float", "any"), 1), b.new()
    b.do("slice", f"{o} = {x}[{place(b, x)}]", outs=[o])


@maker(1)
def _shifted(b: Builder) -> None:
    """Neighbours along an axis: differences, sums, token shifts."""
    x, o = b.pick("float", 1), b.new()
    i = b.dim(x, 2)
    a = "".join(":, " * i)
    form = b.one(
        "{x}[{a}1:] - {x}[{a}:-1]",
        "torch.cat([{x}[{a}1:], {x}[{a}:1]], {i})",
        "torch.cat([{x}[{a}-1:], {x}[{a}:-1]], {i})",
        "torch.cat([torch.zeros_like({x}[{a}:1]), {x}[{a}:-1]], {i})",
        "{x}[{a}::2] if {x}.shape[{i}] < 4 else {x}[{a}1:-1]",
        "torch.cat([{x}[{a}::2], {x}[{a}1::2]], {i})",
        "{x}[{a}:{x}.shape[{i}] // 2 * 2:2] + {x}[{a}1::2]",
    )
    b.do("shifted", f"{o} = {form.format(x=x, a=a, i=i)}", outs=[o])


# Joining and splitting.


@maker(3)
def _join(b: Builder) -> None:
    x, o = b.pick("any", 1), b.new()
    i = b.signed(x, b.dim(x))
    y = (
        b.like(x)
        if b.chance(0.4)
        else b.one(f"{x}", f"{x} * 2", f"{x}.flip({i})", b.rng.choice(b.values), f"torch.zeros_like({x})", f"{x}[:1]")
    )
    form = b.one(
        "torch.cat([{x}, {y}], {i})",
        "torch.stack([{x}, {y}], {i})",
        "torch.cat([{y}, {x}, {x}], {i})",
        "torch.cat([{x}, {y}], -1)",
        "torch.stack([{x}, {y}]).sum(0)",
        "torch.stack([{x}, {y}], -1).flatten(-2)",
        "torch.hstack([{x}, {y}])",
        "torch.vstack([{y}, {x}])",
    )
    b.do("join", f"{o} = {form.format(x=x, y=y, i=i)}", outs=[o])


@maker(3)
def _split(b: Builder) -> None:
    x = b.pick("any", 1)
    i = b.dim(x, 2)
    k, n = b.signed(x, i), b.size(x, i)
    p, q = b.new(), b.new()
    form = b.one(
        "{x}.chunk(2, {k})",
        "{x}.tensor_split(2, {k})",
        "{x}.split([1, {n} - 1], {k})",
        "{x}.split({n} // 2, {k})[:2]",
        "{x}.split([{n} // 2, {n} - {n} // 2], {k})",
        "torch.split({x}, ({n} + 1) // 2, {k})",
        "{x}.unbind({k})[:2]",
        "{x}.tensor_split([2], {k})",
        "torch.chunk({x}, 3, {k})[:2]",
        "{x}.unbind({k})[::{n} - 1]",
    )
    b.do("split", f"{p}, {q} = {form.format(x=x, k=k, n=n)}", outs=[p, q])


@maker(2.5)
def _loop(b: Builder) -> None:
    x, o = b.pick("float", 1), b.new()
    i = b.dim(x, 1)
    at, n, k = ":, " * i, b.size(x, i), b.signed(x, i)
    forms: list[list[str]] = [
        [
            "t1 = []",
            f"for i in range({n}):",
            f"    t1.append({x}[{at}i] * (i + 1))",
            f"{o} = torch.stack(t1, {k if k >= 0 else i})",
        ],
        [
            f"t1 = torch.zeros_like({x}[{at}0])",
            f"for i in range({n}):",
            f"    t1 = torch.tanh(t1 * 0.5 + {x}[{at}i])",
            f"{o} = t1",
        ],
        [f"t1 = [t.softmax(-1) for t in {x}.split(2, {k})]", f"{o} = torch.cat(t1, {k})"],
        [f"t1 = [t * (i + 1) for i, t in enumerate({x}.unbind({k}))]", f"{o} = torch.stack(t1, {i})"],
        [f"t1 = {x}", f"for i in range({n} // 2):", f"    t1 = t1 + t1.roll(i + 1, {k}) / 2", f"{o} = t1"],
        [f"{o} = sum(t.mean() for t in {x}.chunk(3, {k}))"],
        [f"{o} = sum({x}[{at}i] for i in range({n} - 1))"] if b.shape(x)[i] > 1 else [f"{o} = {x}"],
        [f"t1 = [{x}[{at}:i + 1].mean({k}) for i in range({n})]", f"{o} = torch.stack(t1, -1)"],
        [
            f"t1 = {x}",
            f"while t1.shape[{k}] > 2:",
            f"    t1 = t1[{at}:t1.shape[{k}] // 2] + t1[{at}-(t1.shape[{k}] // 2):]",
            f"{o} = t1",
        ],
        [f"{o} = {x}.new_empty({x}.shape)", f"for i in range({n}):", f"    {o}[{at}i] = {x}[{at}i] * i"],
        [f"{o} = torch.stack([t for t in {x}.unbind({k})][::-1], {i})"],
    ]
    b.do("loop", *b.one(*forms), outs=[o])


# Numbers worked out in Python from sizes.


@maker(6)
def _sized(b: Builder) -> None:
    x, o = b.pick("float", 1), b.new()
    i = b.dim(x, 1)
    n, k = b.size(x, i), b.signed(x, i)
    tail = ".reshape(-1" + ", 1" * (len(b.shape(x)) - 1 - i) + ")"
    made = b.one(
        "torch.arange({n})",
        "torch.arange({n}, dtype=torch.float32)",
        "torch.linspace(0, 1, {n})",
        "torch.linspace(-1, 1, {n})",
        "torch.arange({n} - 1, -1, -1)",
        "(torch.arange({n}) / {n})",
        "(torch.arange({n}) + 0.5)",
        "torch.ones({n}).cumsum(0)",
        "torch.zeros({n})",
        "torch.full(({n},), 0.5)",
        "torch.arange(0, 2 * {n}, 2)",
        "torch.hann_window({n})",
        "(torch.arange({n}) % 2)",
        "torch.ones({n})",
        "torch.arange(1, {n} + 1).log()",
        "torch.tensor([float(i) for i in range({n})])",
        "torch.arange({n}).flip(0)",
    )
    form = b.one(
        *["{x} + {m}{t}", "{x} * {m}{t}", "{x} * {m}{t}.cos()"] * 2,
        "{x}.masked_fill({m}{t} > 1, 0.)",
        "{x} / {n}",
        "{x} * {n} ** -0.5",
        "{x}.sum({k}) / {n}",
        "{x} / math.sqrt({n})",
        "{x} + 1 / {n}",
        "{x} * ({n} // 2)",
        "{x}.sum({k}) / ({n} - 1 if {n} > 1 else 1)",
        "{x} * math.log({n} + 1)",
        "{x} if {n} % 2 else {x} * 2",
        "{x}[..., :1] if {n} > 4 else {x} + 1",
        "{x} * float({n})",
        "{x} - {n}",
        "{x} / {x}.numel()",
        "{x} * len({x})",
        "{x} / ({x}.shape[0] * {x}.shape[-1])",
        "{x} * torch.tensor({n})",
        "{x} / torch.tensor({n}, dtype=torch.float32).sqrt()",
        "{x} / torch.ones_like({x}).sum({k}, keepdim=True)",
        "{x} * torch.zeros_like({x}).add(2)",
        "{x} + torch.ones({x}.shape)",
    )
    b.do("sized", f"{o} = {form.format(x=x, m=made.format(n=n), t=tail, n=n, k=k)}", outs=[o])


@maker(2)
def _padded(b: Builder) -> None:
    """To a multiple, by how much the size says."""
    x, o = b.pick("float", 1), b.new()
    n = b.size(x, len(b.shape(x)) - 1)
    m = b.one(2, 3, 4, 8)
    form = b.one(
        "F.pad({x}, (0, -{n} % {m}))",
        "F.pad({x}, (0, ({m} - {n} % {m}) % {m})).unflatten(-1, (-1, {m}))",
        "F.pad({x}, (({n} + {m} - 1) // {m} * {m} - {n}, 0))",
        "F.pad({x}, (0, {n}))",
        "F.pad({x}, (1, 1))",
        "F.pad({x}, (-1, 0))",
        "F.pad({x}, (-1, -1))",
        "F.pad({x}, (1, -1), value=2.)",
        "F.pad({x}, (0, 2), value=-1.)",
        "F.pad({x}, (2, 1))[..., 1:-1]",
        "F.pad({x}, (0, max(0, {m} - {n})))",
        "F.pad({x}, (0, -{n} % {m})).reshape(-1, {m})",
        "F.pad({x}, (0, 0, 1, 0))",
        "F.pad({x}, (0, -{n} % {m}))[..., :{n}]",
        "F.pad({x}, ({n} // 2, {n} // 2))",
    )
    b.do("padded", f"{o} = {form.format(x=x, n=n, m=m)}", outs=[o])


@maker(1)
def _padding_mode(b: Builder) -> None:
    x, o = b.pick("float", 2, 4), b.new()
    rank = len(b.shape(x))
    pad = (1, 1) if rank < 4 else b.one((1, 1, 1, 1), (1, 0, 0, 1), (0, 1, 1, 0))
    b.do("padding_mode", f"{o} = F.pad({x}, {pad}, mode='{b.one('reflect', 'replicate', 'circular')}')", outs=[o])


@maker(1.5)
def _pairs(b: Builder) -> None:
    """Positions of one axis against each other: causal masks, relative positions."""
    x, o = b.pick("float", 2), b.new()
    n = b.size(x, len(b.shape(x)) - 2)
    score = f"({x} @ {x}.mT)"
    form = b.one(
        "{s}.masked_fill(torch.ones({n}, {n}).triu(1).bool(), float('-inf')).softmax(-1)",
        "{s} + (torch.arange({n})[None] - torch.arange({n})[:, None])",
        "{s} * torch.tril(torch.ones({n}, {n}))",
        "{s} - (torch.arange({n})[:, None] - torch.arange({n})).abs() * 0.1",
        "{s} + torch.eye({n})",
        "{s}.masked_fill(torch.arange({n})[:, None] < torch.arange({n}), -1e4).softmax(-1)",
        "torch.where(torch.arange({n})[:, None] >= torch.arange({n}), {s}, 0)",
        "{s} + self.{p}[(torch.arange({n})[:, None] - torch.arange({n})).clamp(-4, 4) + 4]",
    )
    p = b.state()
    init = [f"self.{p} = nn.Parameter(torch.randn(9))"] if "{p}" in form else []
    b.do("pairs", f"{o} = {form.format(s=score, n=n, p=p)}", outs=[o], init=init)


# Writes.

_WRITES = (
    "{x}[{p}] = 1",
    "{x}[{p}] = 0.5",
    "{x}[{p}] *= 2",
    "{x}[{p}] += 1",
    "{x}[{p}].zero_()",
    "{x}[{p}].add_(1)",
    "{x}[{p}].fill_(2)",
    "{x}[{p}] = {x}[{p}] * 3",
    "{x}[{p}] = torch.tensor(1.5)",
    "{x}.add_(1)",
    "{x}.mul_(0.5)",
    "{x}.clamp_(0, 1)",
    "{x}.neg_()",
    "{x}[{x} > 0] = 0",
    "{x}[{x} < 0] *= 0.5",
    "{x}.masked_fill_({x} > 1, 1)",
    "{x}.view(-1)[0] = 3",
    "{x}.reshape(-1)[1:] = 0",
    "{x}.flatten()[::2] += 1",
    "{x}.t().mul_(2)",
    "{x}.transpose(0, 1)[0] = 1",
    "{x}.diagonal().fill_(1)",
    "{x}.unsqueeze(0).add_(1)",
    "{x}.view({x}.shape[0], -1)[:, 0] = 2",
    "{x}.chunk(2, -1)[0].mul_(2)",
    "{x}.unbind(0)[0].zero_()",
    "{x}.copy_({x} * 2)",
    "{x}[{p}].copy_({x}[{p}] + 1)",
    "{x}.relu_()",
    "F.relu({x}, inplace=True)",
    "{x}.index_fill_(0, torch.tensor([0]), 4.)",
    "{x}.fill_diagonal_(1)",
    "{x}.squeeze().mul_(2)",
    "{x}.index_add_(0, torch.tensor([0, 0]), {x}[:1].repeat(2, *[1] * ({x}.dim() - 1)))",
    "{x}.scatter_(0, torch.zeros_like({x}, dtype=torch.long), 1.)",
    "{x}[torch.arange({x}.shape[0]), ..., 0] = 1",
    "{x}.unfold(-1, 2, 2)[..., 0].add_(1)",
    "{x}.tril_()",
    "{x}.sub_({x}.mean())",
    "{x}.select(0, 0)[...] = 7",
    "{x}.flatten(1).mul_(2)",
    "{x}[{p}].reshape(-1).mul_(3)",
    "{x}.exp_().clamp_(max=2)",
    "{x}.div_(2).sigmoid_()",
    "{x}.T.add_(1)",
    "{x}.view({x}.shape)[{p}] = -1",
    "{x}[..., 0] = {x}[..., -1]",
    "{x}[1:] += {x}[:-1].clone()",
    "{x}.swapaxes(0, -1).cumsum_(0)",
    "{x}.mT[..., :1].fill_(5)",
    "{x}[None][{p}] = 6",
    "{x}.detach().mul_(2)",
    "{x}.data.add_(1)",
    "torch.add({x}, 1, out={x})",
    "{x}.expand_as({x}).add_(1)",
    "{x}.view_as({x})[{p}] = 8",
    "{x}.split(1, 0)[-1].mul_(2)",
    "{x}.lerp_({x}.flip(0), 0.5)",
    "{x}.contiguous().mul_(2)",
)


@maker(7)
def _write(b: Builder) -> None:
    """Changes a value where it is, through a view or not; what else is a view of it changes too."""
    x = b.writable(b.one("float", "float", "float", "any"))
    lines = [f"{b.one(*_WRITES).format(x=x, p=place(b, x))}"]
    b.do("write", *lines, outs=[], pure=False)


@maker(3)
def _write_other(b: Builder) -> None:
    """Writes one value into another, or makes a copy and writes to a part of it."""
    x, o = b.pick("float", 1), b.new()
    y = b.rng.choice(b.values)
    p = place(b, x)
    lines = b.one(
        [f"{o} = {x}.clone()", f"{o}[{p}] = {y}"],
        [f"{o} = {x}.clone()", f"{o}[{p}] += {y}"],
        [f"{o} = torch.zeros_like({x})", f"{o}[{p}] = {x}[{p}]"],
        [f"{o} = {x} * 1", f"t1 = {o}[{p}]", "t1 += 1", "t1.mul_(2)"],
        [f"{o} = {x} * 1", f"t1 = {o}.view(-1)", "t1[1:] *= 2", f"{o} = {o} + 0"],
        [f"{o} = torch.zeros({x}.shape)", f"{o}[{p}] += {x}[{p}]"],
        [f"{o} = {x} + 0", f"{o}.copy_({y})"],
        [f"{o} = torch.empty_like({x})", f"{o}[:] = {x}", f"{o}[{p}] = 0"],
        [f"{o} = {x}.new_zeros({x}.shape)", f"{o}.index_put_((torch.tensor([0]),), {x}[0])"],
        [f"t1 = {x} * 1", f"{o} = t1.reshape(-1)", f"t1[{p}] = 0"],
        [f"t1 = {x} * 1", f"{o} = t1.transpose(0, -1)", "t1.add_(1)"],
        [f"t1 = {x} * 1", f"{o} = t1.flatten(0, -1)", f"{o}[::2] = 0", f"{o} = t1"],
    )
    b.do("write_other", *lines, outs=[o], pure=False)


@maker(1.5)
def _buffer(b: Builder) -> None:
    """State that changes from call to call."""
    x, o, p = b.pick("float", 1), b.new(), b.state()
    i = b.dim(x, fixed=True) if b.chance(0.5) else None
    shape, mean = (
        ("()", f"{x}.mean()")
        if i is None
        else (f"({b.shape(x)[i]},)", f"{x}.movedim({i}, -1).reshape(-1, {b.shape(x)[i]}).mean(0)")
    )
    init = [f'self.register_buffer("{p}", torch.{b.one("zeros", "ones")}({shape}))']
    lines = b.one(
        [f"self.{p}.add_({mean}.detach())"],
        [f"self.{p} = self.{p} * 0.9 + {mean}.detach() * 0.1"],
        [f"self.{p} += 1"],
        [f"self.{p}.copy_({mean}.detach())"],
        [f"self.{p}.mul_(0.5).add_(1)"],
        [f"self.{p} = {mean}.detach()"],
        ["with torch.no_grad():", f"    self.{p}.lerp_({mean}, 0.1)"],
        [f"self.{p}[...] = {mean}.detach()"],
    )
    use = f"{o} = {x} + self.{p}.sum()" if b.chance(0.5) else f"{o} = {x} * (self.{p}.mean() + 1)"
    b.do("buffer", *([*lines, use] if b.chance(0.6) else [use, *lines]), outs=[o], init=init, pure=False)


# Indexing.

_INDEXED = (
    "{x}[{j}]",
    "{x}.index_select({i}, {j}.reshape(-1))",
    "{x}[:, {j}]",
    "{x}[..., {j}]",
    "torch.zeros({n}).index_add(0, {j}.reshape(-1), torch.ones({j}.numel()))",
    "torch.zeros_like({x}).index_add_({i}, {j}.reshape(-1)[:1], {x}.narrow({i}, 0, 1))",
    "F.one_hot({j}, {n})",
    "{x}.index_fill({i}, {j}.reshape(-1), 0.)",
    "torch.bincount({j}.reshape(-1), minlength={n})",
    "{x}.index_copy({i}, {j}.reshape(-1)[:1], {x}.narrow({i}, -1, 1))",
    "torch.take({x}, {j})",
    "{x}[{j}, ..., 0]",
    "torch.zeros({n}, {x}.shape[-1]).index_add_(0, {j}.reshape(-1), {x}[{j}].reshape(-1, {x}.shape[-1]))",
    "torch.embedding({x}.flatten(0, -2), {j})",
    "F.embedding({j}, {x}.flatten(1))",
    "torch.zeros({n}).scatter_add(0, {j}.reshape(-1), torch.ones({j}.numel()))",
    "torch.zeros({n}, {x}.shape[-1]).scatter_reduce(0, {j}.reshape(-1, 1).expand({x}.shape), {x}, 'mean')",
)


@maker(3)
def _index(b: Builder) -> None:
    x, o = b.pick("float", 1), b.new()
    i = b.dim(x, 1)
    n = b.size(x, i)
    own = [v.name for v in b.inputs if "randint(0" in v.make]
    j = (
        b.rng.choice(own)
        if own and b.chance(0.6)
        else b.one(
            f"(torch.arange({n}) * 2 % {n})",
            f"torch.arange({n} - 1, -1, -1)",
            f"torch.tensor([0, {n} - 1])",
            f"{x}.argmax({i})",
            f"{x}.argsort({i}).select({i}, 0)",
            "torch.tensor([0, 0])",
            "torch.tensor([-1])",
            f"torch.arange({n})[1:]",
            "torch.randperm(1)",
            f"torch.arange(0, {n}, 2)",
        )
    )
    form = b.one(*_INDEXED)
    if "randperm" in j or ("-1]" in j and "[{j}" not in form):
        raise Skip
    b.do("index", f"{o} = {form.format(x=x, i=i, j=j, n=n)}", outs=[o])


@maker(2)
def _gather(b: Builder) -> None:
    x, o = b.pick("float", 1), b.new()
    i = b.dim(x, 1)
    form = b.one(
        "{x}.gather({i}, {x}.argsort({i}))",
        "{x}.gather({i}, {x}.argmax({i}, keepdim=True))",
        "torch.zeros_like({x}).scatter({i}, {x}.argmax({i}, keepdim=True), 1.)",
        "{x}.scatter_add({i}, {x}.argsort({i}), {x})",
        "torch.take_along_dim({x}, {x}.argsort({i}, descending=True), {i})",
        "{x}.scatter({i}, {x}.argsort({i}), {x} * 2)",
        "{x}.gather({i}, {x}.topk(1, {i})[1])",
        "torch.zeros_like({x}).scatter_({i}, {x}.topk(1, {i}).indices, 1.)",
        "{x}.scatter_reduce({i}, {x}.argsort({i}), {x}, 'amax')",
        "torch.searchsorted({x}.sort({i})[0].movedim({i}, -1).contiguous(), {x}.movedim({i}, -1).contiguous())",
        "torch.bucketize({x}, torch.linspace(-1, 1, {x}.shape[{i}]))",
        "{x}.movedim({i}, -1).gather(-1, torch.arange({x}.shape[{i}]).flip(0).expand_as({x}.movedim({i}, -1)))",
    )
    b.do("gather", f"{o} = {form.format(x=x, i=i)}", outs=[o])


@maker(1)
def _grid(b: Builder) -> None:
    """Coordinates of two axes."""
    x, o = b.pick("float", 2), b.new()
    h, w = f"{x}.shape[-2]", f"{x}.shape[-1]"
    ij = "indexing='ij'"
    form = b.one(
        "{x} + torch.meshgrid(torch.arange({h}), torch.arange({w}), {ij})[0]",
        "{x} * torch.meshgrid(torch.linspace(0, 1, {h}), torch.linspace(0, 1, {w}), {ij})[1]",
        "{x} + torch.arange({h} * {w}).view({h}, {w})",
        "{x} + torch.cartesian_prod(torch.arange({h}), torch.arange({w})).sum(-1).view({h}, {w})",
        "{x} * (torch.arange({h})[:, None] + torch.arange({w}) > 2)",
        "{x} + torch.outer(torch.arange({h}), torch.arange(1, {w} + 1)).float().log1p()",
        "{x} + torch.zeros({h}, {w})",
        "torch.cat([{x}, torch.arange({w}).expand({x}.shape[:-2] + (1, {w}))], -2)",
        "{x}.flatten(-2) + torch.arange({h} * {w})",
        "torch.cat([{x}, {x}.new_ones(*{x}.shape[:-1], 1)], -1)",
        "{x} + torch.eye({h}, {w})",
        "{x}.flatten(-2)[..., torch.tril_indices({h}, {w})[0]]",
    )
    b.do("grid", f"{o} = {form.format(x=x, h=h, w=w, ij=ij)}", outs=[o])
