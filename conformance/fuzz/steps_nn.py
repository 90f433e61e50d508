"""Steps with layers: linear, norms, convolutions, pools, attention, recurrent networks, resampling."""

from __future__ import annotations

from conformance.fuzz.build import Builder, Skip
from conformance.fuzz.table import maker


def _layer(b: Builder, op: str, x: str, form: str, module: str, *, before: str = "{x}", pure: bool = True) -> None:
    """A step that calls a module on a value."""
    o, p = b.new(), b.state()
    arg = before.format(x=x)
    b.do(op, f"{o} = {form.format(m=f'self.{p}', x=arg)}", outs=[o], init=[f"self.{p} = {module}"], pure=pure)


def _featured(b: Builder, low: int = 2, high: int = 5) -> tuple[str, int]:
    """A float32 value whose last dimension has one size whatever the axes have."""
    x = b.pick("float", low, high, lambda t: str(t.dtype) == "torch.float32")
    if not b.fixed(x, len(b.shape(x)) - 1):
        raise Skip
    return x, b.shape(x)[-1]


def _channeled(b: Builder, rank: int | None = None) -> tuple[str, int]:
    """A float32 value of three or four dimensions whose dimension 1 is fixed."""
    low, high = (3, 4) if rank is None else (rank, rank)
    x = b.pick("float", low, high, lambda t: str(t.dtype) == "torch.float32")
    if not b.fixed(x, 1):
        raise Skip
    return x, b.shape(x)[1]


@maker(5)
def _linear(b: Builder) -> None:
    x, c = _featured(b, 1)
    out = b.one(c, c, 4, 2, 6)
    if b.chance(0.6):
        _layer(b, "linear", x, "{m}({x})", f"nn.Linear({c}, {out}{b.one('', '', ', bias=False')})")
    else:
        form = b.one(
            "{x} @ {m}",
            "F.linear({x}, {m}.t())",
            "torch.matmul({x}, {m}).relu()",
            "torch.einsum('...i,io->...o', {x}, {m})",
        )
        _layer(b, "weight", x, form, f"nn.Parameter(torch.randn({c}, {out}) / 2)")


@maker(2.5)
def _parameter(b: Builder) -> None:
    """A parameter along one fixed dimension, in one of the ways it meets a value."""
    x = b.pick("float", 1)
    i = b.dim(x, fixed=True)
    c, rest = b.shape(x)[i], len(b.shape(x)) - 1 - i
    view = "{m}" + (f".view(-1{', 1' * rest})" if rest else "")
    form = b.one(
        "{x} + V",
        "{x} * V",
        "torch.cat([{x}, {x} * V], " + str(i) + ")",
        "{x} * V.exp() + {x}",
        "F.softmax({x} + V, -1)",
    ).replace("V", view)
    kind = b.one(
        "nn.Parameter(torch.randn({c}))",
        "nn.Parameter(torch.ones({c}))",
        "nn.Parameter(torch.randn({c}), requires_grad=False)",
    ).format(c=c)
    _layer(b, "parameter", x, form, kind)


@maker(1.5)
def _token(b: Builder) -> None:
    """A learned row in front of a sequence, or an embedding of positions."""
    x, c = _featured(b, 3, 3)
    n = b.size(x, 1)
    table = f"nn.Parameter(torch.randn(40, {c}))"
    form, module = b.one(
        ("torch.cat([{m}.expand({x}.shape[0], -1, -1), {x}], 1)", f"nn.Parameter(torch.randn(1, 1, {c}))"),
        (f"{{x}} + {{m}}[:{n}]", table),
        (f"{{x}} + {{m}}(torch.arange({n}))", f"nn.Embedding(40, {c})"),
        (f"torch.cat([{{m}}.repeat({x}.shape[0], 1, 1), {{x}}], 1)[:, 1:]", f"nn.Parameter(torch.randn(1, 2, {c}))"),
        (f"{{x}} + F.embedding(torch.arange({n}).unsqueeze(0), {{m}})", table),
        (f"{{x}} + {{m}}[-{n}:]", table),
        (f"{{x}} + F.interpolate({{m}}, size={n}).mT", f"nn.Parameter(torch.randn(1, {c}, 5))"),
        (f"{{x}} + {{m}}[None, :{x}.size(1)].expand({x}.size(0), -1, -1)", table),
    )
    _layer(b, "token", x, form, module)


@maker(1)
def _embedding(b: Builder) -> None:
    x = b.pick("int", 1, 3)
    form = b.one("{m}({x}.long() % 5)", "{m}({x}.long().abs().clamp(max=4))")
    module = b.one(
        "nn.Embedding(5, 4)",
        "nn.Embedding(5, 3, padding_idx=0)",
        "nn.EmbeddingBag(5, 4)",
        "nn.EmbeddingBag(5, 4, mode='sum')",
        "nn.EmbeddingBag(5, 4, mode='max')",
    )
    _layer(b, "embedding", x, form, module)


@maker(3)
def _norm(b: Builder) -> None:
    if b.chance(0.5):
        x, c = _featured(b)
        _layer(
            b,
            "norm",
            x,
            "{m}({x})",
            b.one(f"nn.LayerNorm({c})", f"nn.RMSNorm({c})", f"nn.LayerNorm({c}, elementwise_affine=False)"),
        )
        return
    x, c = _channeled(b)
    d = len(b.shape(x)) - 2
    groups = b.rng.choice([g for g in (1, 2, 3, 4) if c % g == 0])
    module = b.one(
        f"nn.GroupNorm({groups}, {c})",
        f"nn.BatchNorm{d}d({c})",
        f"nn.InstanceNorm{d}d({c})",
        f"nn.InstanceNorm{d}d({c}, affine=True)",
        "nn.LocalResponseNorm(2)",
    )
    _layer(b, "norm", x, "{m}({x})", module, pure=False)


@maker(6)
def _convolution(b: Builder) -> None:
    x, c = _channeled(b)
    d = len(b.shape(x)) - 2
    out = b.one(c, c, 4, 2)
    groups = b.rng.choice([g for g in (1, 1, 1, c, 2) if c % g == 0 and out % g == 0])
    k, p, s, dil = b.one(1, 2, 3, 3, 3), b.one(0, 1, 1, "'same'"), b.one(1, 1, 1, 2, 3), b.one(1, 1, 1, 2)
    if p == "'same'":
        s = 1
    mode = b.one("", "", "", "", ", padding_mode='circular'", ", padding_mode='reflect'", ", padding_mode='replicate'")
    bias = b.one("", "", ", bias=False")
    if b.chance(0.2):
        padding = min(p, k - 1) if isinstance(p, int) else 0
        more = b.one("", ", output_padding=1") if s > 1 else ""
        module = f"nn.ConvTranspose{d}d({c}, {out}, {k}, {s}, {padding}, groups={groups}, dilation={dil}{more}{bias})"
    else:
        module = f"nn.Conv{d}d({c}, {out}, {k}, stride={s}, padding={p}, groups={groups}, dilation={dil}{mode}{bias})"
    _layer(b, "convolution", x, b.one("{m}({x})", "{m}({x})", "F.relu({m}({x}))"), module)


@maker(1)
def _functional_convolution(b: Builder) -> None:
    x, c = _channeled(b)
    d = len(b.shape(x)) - 2
    taps = ", 3" * d
    form = b.one(
        f"F.conv{d}d({{x}}, {{m}}, padding=1, groups={{x}}.shape[1])",
        f"F.conv{d}d(F.pad({{x}}, (2, 0)), {{m}}{', padding=(1, 0)' if d == 2 else ''}, groups={c})",
        f"F.conv_transpose{d}d({{x}}, {{m}}, groups={c}, stride=2)",
    )
    _layer(b, "functional_convolution", x, form, f"nn.Parameter(torch.randn({c}, 1{taps}))")


@maker(4)
def _pool(b: Builder) -> None:
    x = b.pick("float", 3, 4)
    o, d = b.new(), len(b.shape(x)) - 2
    form = b.one(
        "F.max_pool{d}d({x}, 2)",
        "F.max_pool{d}d({x}, 3, 1, 1)",
        "F.max_pool{d}d({x}, 2, ceil_mode=True)",
        "F.max_pool{d}d({x}, 3, 2, 1)",
        "F.max_pool{d}d({x}, 2, 1, dilation=2)",
        "F.avg_pool{d}d({x}, 2)",
        "F.avg_pool{d}d({x}, 3, 1, 1)",
        "F.avg_pool{d}d({x}, 3, 2, 1, ceil_mode=True)",
        "F.avg_pool{d}d({x}, 2, 1, count_include_pad=False)",
        "F.avg_pool{d}d({x}, 3, 2, 1, count_include_pad=False)",
        "F.adaptive_avg_pool{d}d({x}, 1)",
        "F.adaptive_avg_pool{d}d({x}, 2)",
        "F.adaptive_avg_pool{d}d({x}, 3)",
        "F.adaptive_max_pool{d}d({x}, 2)",
        "F.adaptive_max_pool{d}d({x}, 1)",
        "F.lp_pool{d}d({x}, 2, 2)",
        "F.adaptive_avg_pool2d({x}, (None, 1))",
        "F.adaptive_avg_pool2d({x}, (2, None))",
        "F.adaptive_max_pool2d({x}, (None, 2))",
        "F.max_pool{d}d({x}, {x}.shape[-1])",
        "F.avg_pool{d}d({x}, {x}.shape[2:])",
        "F.avg_pool{d}d({x}, {x}.shape[-1] // 2)",
        "F.max_unpool{d}d(*F.max_pool{d}d({x}, 2, return_indices=True), 2)",
        "F.adaptive_avg_pool{d}d({x}, {x}.shape[-1] // 2)",
        "F.max_pool{d}d({x}, 2, return_indices=True)[1]",
    ).format(x=x, d=d)
    b.do("pool", f"{o} = {form}", outs=[o])


@maker(2)
def _resample(b: Builder) -> None:
    x = b.pick("float", 3, 4)
    o, d = b.new(), len(b.shape(x)) - 2
    smooth = {1: "linear", 2: "bilinear"}[d]
    cube = b.one(smooth, "bicubic") if d == 2 else smooth
    form = b.one(
        "F.interpolate({x}, scale_factor=2)",
        "F.interpolate({x}, scale_factor=2, mode='{s}')",
        "F.interpolate({x}, scale_factor=0.5)",
        "F.interpolate({x}, scale_factor=0.5, mode='{s}', align_corners=False)",
        "F.interpolate({x}, scale_factor=2., mode='{c}', align_corners=True)",
        "F.interpolate({x}, size=5)",
        "F.interpolate({x}, size={x}.shape[2:], mode='{s}')",
        "F.interpolate({x}, size=4, mode='{c}')",
        "F.interpolate({x}, scale_factor=0.5, mode='area')",
        "F.interpolate({x}, size=3, mode='area')",
        "F.interpolate({x}, scale_factor=1.5, mode='{s}')",
        "F.interpolate({x}, scale_factor=2, mode='nearest-exact')",
        "F.interpolate(F.avg_pool{d}d({x}, 2), size={x}.shape[2:])",
        "F.interpolate(F.max_pool{d}d({x}, 2), size={x}.shape[2:], mode='{s}') + {x}",
        "F.interpolate({x}, size=[2 * n for n in {x}.shape[2:]], mode='{s}')",
        "F.interpolate({x}, size=({x}.shape[2] * 2,) * {d})",
        "F.interpolate({x}, scale_factor=0.5, mode='{s}', antialias=True)"
        if d == 2 and b.shape(x)[-1] > 3  # eager is wrong where one column is left (findings)
        else "F.interpolate({x}, size={x}.shape[-1] + 1)",
    ).format(x=x, d=d, s=smooth, c=cube)
    b.do("resample", f"{o} = {form}", outs=[o])


@maker(1)
def _image(b: Builder) -> None:
    x, o = b.pick("float", 4, 4), b.new()
    form = b.one(
        "F.pixel_unshuffle({x}, 2)",
        "F.pixel_shuffle({x}, 2)",
        "F.unfold({x}, 2, stride=2)",
        "F.unfold({x}, 3, padding=1)",
        "F.fold(F.unfold({x}, 2), {x}.shape[2:], 2)",
        "F.channel_shuffle({x}, 2)",
        "F.fold(F.unfold({x}, 2, stride=2), {x}.shape[-2:], 2, stride=2)",
        "{x}.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))",
        "{x}.flatten(2).mT",
        "{x}.permute(0, 2, 3, 1).reshape({x}.shape[0], -1, {x}.shape[1])",
        "F.grid_sample({x}, F.affine_grid(torch.eye(2, 3)[None].expand({x}.shape[0], -1, -1), {x}.shape))",
        "{x}.flatten(2).softmax(-1).view_as({x})",
        "{x}.view({x}.shape[0], {x}.shape[1], {x}.shape[2] // 2, 2, {x}.shape[3] // 2, 2).mean((3, 5))",
        "{x}.reshape({x}.shape[0], 2, -1, *{x}.shape[2:]).transpose(1, 2).reshape({x}.shape)",
        "F.dropout2d({x}, training=False)",
        "{x}.unfold(2, 3, 1).amax(-1)",
        "{x}.mean((2, 3), keepdim=True).expand_as({x})",
        "{x} * {x}.mean((2, 3), keepdim=True).sigmoid()",
    ).format(x=x)
    b.do("image", f"{o} = {form}", outs=[o])


# Attention.


@maker(3)
def _attention(b: Builder) -> None:
    x, o = b.pick("float", 3, 4), b.new()
    y = b.like(x) if b.chance(0.3) else x
    n, m = f"{x}.shape[-2]", f"{y}.shape[-2]"
    mask = b.one(
        f"torch.ones({n}, {m}).tril().bool()",
        f"torch.zeros({n}, {m}, dtype={x}.dtype)",  # torch reads one of floats wrongly where x is of doubles
        f"(torch.arange({n})[:, None] >= torch.arange({m}))",
        f"-(torch.arange({n})[:, None] - torch.arange({m})).abs().to({x}.dtype)",
        f"({y}.sum(-1) < 9)[..., None, :]",
        f"torch.full(({n}, {m}), float('-inf'), dtype={x}.dtype).triu(1)",
    )
    form = b.one(
        f"F.scaled_dot_product_attention({x}, {y}, {y})",
        f"F.scaled_dot_product_attention({x}, {y}, {y}, is_causal=True)",
        f"F.scaled_dot_product_attention({x}, {y}, {y}, attn_mask={mask})",
        f"({x} @ {y}.mT * {x}.shape[-1] ** -0.5).softmax(-1) @ {y}",
        f"(({x} @ {y}.mT) / math.sqrt({x}.shape[-1]) + {mask}).softmax(-1) @ {y}",
        f"F.scaled_dot_product_attention({x}, {y}, {y}, scale=0.3)",
        f"torch.einsum('...nm,...md->...nd', torch.einsum('...nd,...md->...nm', {x}, {y}).softmax(-1), {y})",
        f"{x}.softmax(-2).mT @ {y}",
    )
    b.do("attention", f"{o} = {form}", outs=[o])


@maker(3)
def _heads(b: Builder) -> None:
    """Attention of several heads, by hand or as a module."""
    x, c = _featured(b, 3, 3)
    heads = b.rng.choice([h for h in (1, 2, 4) if c % h == 0])
    o, p, q = b.new(), b.state(), b.state()
    mask = b.one("", ", is_causal=True", f", attn_mask=torch.ones({x}.shape[1], {x}.shape[1]).tril().bool()")
    split = b.one(
        [
            f"t1 = self.{p}({x}).reshape({x}.shape[0], {x}.shape[1], 3, {heads}, {x}.shape[2] // {heads})",
            "t2, t3, t4 = t1.permute(2, 0, 3, 1, 4).unbind(0)",
        ],
        [
            f"t1 = self.{p}({x}).chunk(3, dim=-1)",
            f"t2, t3, t4 = [t.view({x}.shape[0], -1, {heads}, {c // heads}).transpose(1, 2) for t in t1]",
        ],
        [f"t2, t3, t4 = [t.unflatten(-1, ({heads}, -1)).transpose(1, 2) for t in self.{p}({x}).split({c}, -1)]"],
    )
    attend = b.one(
        [f"t5 = F.scaled_dot_product_attention(t2, t3, t4{mask})"],
        ["t5 = (t2 @ t3.transpose(-2, -1)) * t2.shape[-1] ** -0.5", "t5 = t5.softmax(dim=-1) @ t4"],
    )
    merge = b.one(
        f"t5.transpose(1, 2).reshape({x}.shape)",
        f"t5.transpose(1, 2).contiguous().view({x}.shape[0], -1, {c})",
        "t5.transpose(1, 2).flatten(2)",
        f"t5.permute(0, 2, 1, 3).reshape({x}.size(0), {x}.size(1), {x}.size(2))",
    )
    if b.chance(0.65):
        lines = [*split, *attend, f"{o} = self.{q}({merge}){b.one('', f' + {x}')}"]
        b.do("heads", *lines, outs=[o], init=[f"self.{p} = nn.Linear({c}, {3 * c})", f"self.{q} = nn.Linear({c}, {c})"])
        return
    n = f"{x}.shape[1]"
    given = b.one(
        "",
        ", need_weights=False",
        f", attn_mask=torch.ones({n}, {n}).triu(1).bool()",
        f", attn_mask=torch.zeros({n}, {n})",
    )
    module, call = b.one(
        (f"nn.MultiheadAttention({c}, {heads}, batch_first=True)", f"{{m}}({x}, {x}, {x}{given})[0]"),
        (f"nn.MultiheadAttention({c}, {heads})", f"{{m}}({x}, {x}, {x}, need_weights=False)[0]"),
        (f"nn.MultiheadAttention({c}, {heads}, batch_first=True)", f"{{m}}({x}, {x}, {x})[1]"),
        (f"nn.TransformerEncoderLayer({c}, {heads}, 8, 0.0, batch_first=True)", f"{{m}}({x})"),
        (f"nn.TransformerDecoderLayer({c}, {heads}, 8, 0.0, batch_first=True)", f"{{m}}({x}, {x}.flip(1))"),
        (f"nn.TransformerEncoderLayer({c}, {heads}, 8, 0.0, batch_first=True, norm_first=True)", f"{{m}}({x})"),
    )
    b.do("heads", f"{o} = {call.format(m=f'self.{p}')}", outs=[o], init=[f"self.{p} = {module}"], pure=False)


@maker(1.2)
def _rotary(b: Builder) -> None:
    x, o = b.pick("float", 2), b.new()
    d = b.shape(x)[-1]
    if d % 2 or not b.fixed(x, len(b.shape(x)) - 1):
        raise Skip
    lines = b.one(
        [
            f"t1 = torch.arange({x}.shape[-2])[:, None] * torch.arange(1, {d // 2} + 1)",
            f"t2, t3 = {x}.chunk(2, -1)",
            f"{o} = torch.cat([t2 * t1.cos() - t3 * t1.sin(), t3 * t1.cos() + t2 * t1.sin()], -1)",
        ],
        [
            f"t1 = torch.arange({x}.shape[-2]).float()[:, None] / 10 ** (torch.arange(0, {d}, 2) / {d})",
            f"{o} = torch.stack([{x}[..., ::2] * t1.cos(), {x}[..., 1::2] * t1.sin()], -1).flatten(-2)",
        ],
        [
            f"t1 = torch.outer(torch.arange({x}.shape[-2]).float(), torch.arange({d // 2}).float()).repeat(1, 2)",
            f"{o} = {x} * t1.cos() + torch.cat([-{x}[..., {d // 2}:], {x}[..., :{d // 2}]], -1) * t1.sin()",
        ],
        [
            f"t1 = torch.zeros({x}.shape[-2], {d})",
            f"t1[:, ::2] = torch.arange({x}.shape[-2])[:, None].sin()",
            f"t1[:, 1::2] = torch.arange({x}.shape[-2])[:, None].cos()",
            f"{o} = {x} + t1",
        ],
    )
    b.do("rotary", *lines, outs=[o], pure=False)


@maker(1.5)
def _recurrent(b: Builder) -> None:
    x, c = _featured(b, 3, 3)
    if b.chance(0.7):
        module = b.one(
            f"nn.GRU({c}, 3, batch_first=True)",
            f"nn.LSTM({c}, 3, batch_first=True)",
            f"nn.RNN({c}, 4)",
            f"nn.LSTM({c}, 2, bidirectional=True)",
            f"nn.GRU({c}, 2, num_layers=2, batch_first=True)",
        )
        _layer(b, "recurrent", x, b.one("{m}({x})[0]", "{m}({x})[0]", "{m}({x})[0][:, -1]"), module)
        return
    cell = b.one("nn.GRUCell({c}, 3)", "nn.RNNCell({c}, 3)").format(c=c)
    o, p = b.new(), b.state()
    lines = [
        f"t1 = torch.zeros({x}.shape[0], 3)",
        "t2 = []",
        f"for i in range({b.size(x, 1)}):",
        f"    t1 = self.{p}({x}[:, i], t1)",
        "    t2.append(t1)",
        f"{o} = {b.one('torch.stack(t2, 1)', 't1', 't2[-1] + t2[0]')}",
    ]
    b.do("recurrent", *lines, outs=[o], init=[f"self.{p} = {cell}"])


@maker(1)
def _block(b: Builder) -> None:
    """What residual blocks are made of."""
    x, c = _featured(b, 3, 3)
    form, module = b.one(
        (
            "{x} + {m}({x})",
            f"nn.Sequential(nn.LayerNorm({c}), nn.Linear({c}, {2 * c}), nn.GELU(), nn.Linear({2 * c}, {c}))",
        ),
        ("{x} + {m}({x}.mT).mT", f"nn.Conv1d({c}, {c}, 3, padding=1, groups={c})"),
        ("F.glu({m}({x}), -1)", f"nn.Linear({c}, {2 * c})"),
        ("{x} * {m}({x}.mean(1, keepdim=True)).sigmoid()", f"nn.Linear({c}, {c})"),
        ("F.silu({m}({x})[..., ::2]) * {m}({x})[..., 1::2]", f"nn.Linear({c}, {2 * c})"),
        ("{x} + {m}({x}.flatten(0, 1)).view({x}.shape)", f"nn.Linear({c}, {c})"),
        ("{m}({x}.transpose(0, 1)).transpose(0, 1)", f"nn.Sequential(nn.Linear({c}, {c}), nn.Dropout(0.))"),
    )
    _layer(b, "block", x, form, module)


@maker(1)
def _glu(b: Builder) -> None:
    x, o = b.pick("float", 1), b.new()
    i = b.dim(x, 2)
    form = b.one(
        "F.glu({x}, {i})",
        "{x}.chunk(2, {i})[0] * {x}.chunk(2, {i})[1].sigmoid()",
        "F.silu({x}.split({n} // 2, {i})[0])",
        "{x}.narrow({i}, 0, {n} // 2) * {x}.narrow({i}, {n} // 2, {n} // 2)",
    )
    b.do("glu", f"{o} = {form.format(x=x, i=b.signed(x, i), n=b.size(x, i))}", outs=[o])
