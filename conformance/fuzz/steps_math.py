"""Steps of arithmetic: elementwise with promotions, comparisons, reductions, sorts, products."""

from __future__ import annotations

from conformance.fuzz.build import Builder, Skip
from conformance.fuzz.table import maker

_UNARY = (
    "F.relu({x})",
    "F.gelu({x})",
    "F.gelu({x}, approximate='tanh')",
    "F.silu({x})",
    "{x}.sigmoid()",
    "torch.tanh({x})",
    "{x}.clamp(-3, 3).exp()",
    "torch.sin({x})",
    "{x}.cos()",
    "{x}.abs()",
    "{x}.abs().sqrt()",
    "({x}.abs() + 1).rsqrt()",
    "torch.log1p({x}.abs())",
    "({x} ** 2 + 1).log()",
    "{x} * {x}",
    "{x} ** 2",
    "{x} ** 3",
    "({x}.abs() + 0.5) ** 0.5",
    "-{x}",
    "F.softplus({x})",
    "F.elu({x})",
    "F.leaky_relu({x}, 0.1)",
    "F.hardtanh({x})",
    "F.hardswish({x})",
    "F.hardsigmoid({x})",
    "F.mish({x})",
    "F.selu({x})",
    "{x}.clamp(min=0)",
    "{x}.clamp(-0.5, 0.5)",
    "{x}.clamp_max(0.3)",
    "torch.erf({x})",
    "{x}.square()",
    "{x}.sign()",
    "{x}.floor()",
    "{x}.round()",
    "{x}.ceil()",
    "{x}.trunc()",
    "{x}.frac()",
    "1 / ({x}.abs() + 1)",
    "({x}.abs() + 1).reciprocal()",
    "torch.nan_to_num({x})",
    "torch.sinc({x})",
    "{x}.atan()",
    "torch.expm1({x}.clamp(-2, 2))",
    "torch.logit({x}.sigmoid(), eps=1e-3)",
    "{x} % 3",
    "{x} // 2",
    "{x} / 3",
    "2 ** -{x}.abs()",
    "F.threshold({x}, 0.1, 2.)",
    "F.relu6({x})",
    "F.celu({x}, 0.5)",
    "F.tanhshrink({x})",
    "F.softshrink({x}, 0.3)",
    "F.hardshrink({x})",
    "F.logsigmoid({x})",
    "torch.xlogy({x}, {x}.abs() + 1)",
    "torch.special.entr({x}.abs())",
    "F.softsign({x})",
    "torch.exp2({x}.clamp(-3, 3))",
    "torch.log2({x}.abs() + 1)",
    "torch.special.expit({x})",
    "{x}.fmod(2)",
    "torch.remainder({x}, -3)",
    "{x}.asinh()",
    "{x}.heaviside({x}.sum())",
    "torch.rsub({x}, 1)",
    "torch.deg2rad({x})",
    "torch.erfc({x})",
    "torch.lerp({x}, {x} * 2, 0.3)",
    "{x}.bool().to({x}.dtype)",
    "torch.where({x} > 0, {x}, {x} * 0.1)",
    "torch.div({x}, 0.7, rounding_mode='floor')",
    "torch.positive({x})",
    "torch.div({x}, {x}.abs() + 1, rounding_mode='trunc')",
    "F.rrelu({x}, training=False)",
    "torch.logaddexp({x}, -{x})",
)

_INTEGER = (
    "{x} + 1",
    "{x} * 2",
    "{x} // 2",
    "{x} % 3",
    "{x} - 3",
    "{x} / 2",
    "{x}.abs()",
    "-{x}",
    "{x} & 3",
    "{x} | 1",
    "{x} ^ 2",
    "{x} << 1",
    "{x} >> 1",
    "{x}.clamp(0, 3)",
    "{x}.float()",
    "{x} * 0.5",
    "{x}.sign()",
    "{x} == 0",
    "{x}.bool()",
    "~{x}",
    "{x} ** 2",
    "{x}.to(torch.int32)",
    "torch.bitwise_and({x}, 1)",
    "{x}.sqrt().nan_to_num(0.)",
    "torch.sin({x})",
    "torch.floor_divide({x}, 2)",
    "{x} + True",
    "1.5 - {x}",
    "torch.div({x}, 3, rounding_mode='trunc')",
    "{x}.square()",
)

_BOOLEAN = (
    "~{x}",
    "{x}.float()",
    "{x} + 1",
    "{x} * 0.5",
    "{x}.logical_not()",
    "{x}.int()",
    "{x} & True",
    "{x}.to(torch.bfloat16)",
    "{x} | {x}.flip(0)",
    "{x} ^ True",
    "{x}.sum()",
    "{x}.long().cumsum(-1)",
    "{x} + {x}",
    "1 - {x}.int()",
    "{x}.any(-1)",
    "{x}.all(0)",
    "{x}.float().mean()",
    "{x} * 2",
    "{x}.masked_fill({x}, False)",
    "{x}.new_ones({x}.shape)",
)


@maker(9)
def _unary(b: Builder) -> None:
    x, o = b.pick(), b.new()
    b.do("unary", f"{o} = {b.one(*_UNARY).format(x=x)}", outs=[o])


@maker(1.5)
def _integer(b: Builder) -> None:
    x, o = b.pick("int"), b.new()
    b.do("integer", f"{o} = {b.one(*_INTEGER).format(x=x)}", outs=[o])


@maker(1.2)
def _boolean(b: Builder) -> None:
    x, o = b.pick("bool", 1), b.new()
    b.do("boolean", f"{o} = {b.one(*_BOOLEAN).format(x=x)}", outs=[o])


@maker(2.5)
def _scalar(b: Builder) -> None:
    x, o = b.pick("any"), b.new()
    number = b.one(
        "2",
        "0.5",
        "-1",
        "True",
        "3.",
        "torch.tensor(2)",
        "torch.tensor(0.3)",
        "torch.tensor(1., dtype=torch.float64)",
        "torch.tensor(True)",
        f"{x}.sum()",
        f"{x}.amax()",
        f"{x}.float().mean()",
        "torch.tensor(1, dtype=torch.int32)",
    )
    form = b.one(
        "{x} + {n}",
        "{x} * {n}",
        "{n} - {x}",
        "{x} > {n}",
        "torch.maximum({x}, torch.as_tensor({n}))",
        "torch.where({x} > 0, {x}, {n})",
        "torch.add({x}, {n}, alpha=2)",
        "{x} / ({n} + 3)",
        "{x} == {n}",
        "torch.mul({x}, {n})",
        "{x}.masked_fill({x} > 0, {n})",
    )
    b.do("scalar", f"{o} = {form.format(x=x, n=number)}", outs=[o])


_BINARY = (
    "{x} + {y}",
    "{x} * {y}",
    "{x} - {y}",
    "{y} - {x}",
    "{x} / ({y}.abs() + 1)",
    "torch.maximum({x}, {y})",
    "torch.minimum({x}, {y})",
    "torch.where({x} > {y}, {x}, {y})",
    "torch.where({y} > 0, {x}, 0)",
    "{x} * {y}.sigmoid()",
    "{x} + 2 * {y}",
    "torch.add({x}, {y}, alpha=0.5)",
    "{x}.masked_fill({y} > 0, -1)",
    "torch.atan2({x}, {y}.abs() + 1)",
    "torch.hypot({x}, {y})",
    "{x} < {y}",
    "{x} >= {y}",
    "({x} > 0) & ({y} > 0)",
    "({x} > 0) | ({y} <= 0)",
    "torch.logical_xor({x} > 0, {y} > 0)",
    "torch.lerp({x}, {y}, 0.25)",
    "torch.addcmul({x}, {x}, {y}, value=0.5)",
    "torch.addcdiv({x}, {y}, {y}.abs() + 1)",
    "{x} ** {y}.abs().clamp(0, 2)",
    "{x} % ({y}.abs() + 1)",
    "torch.fmin({x}, {y})",
    "torch.copysign({x}, {y})",
    "{x}.eq({y})",
    "torch.clamp({x}, min={y})",
    "torch.clamp({x}, max={y})",
    "{x} // ({y}.abs() + 1)",
    "torch.where({x} != {y}, {y}, {x})",
    "torch.broadcast_tensors({x}, {y})[1] + 1",
    "torch.isclose({x}, {y})",
    "torch.heaviside({x}, {y})",
    "{x}.where({y} > 0, {y})",
)


@maker(9)
def _binary(b: Builder) -> None:
    x, o = b.pick(b.one("float", "float", "float", "any")), b.new()
    y = b.like(x) if b.chance(0.5) else b.rng.choice(b.values)
    b.do("binary", f"{o} = {b.one(*_BINARY).format(x=x, y=y)}", outs=[o])


@maker(2)
def _cast(b: Builder) -> None:
    x, o = b.pick("any"), b.new()
    to = b.one(
        "float()",
        "double()",
        "bfloat16()",
        "half()",
        "to(torch.float32)",
        "type(torch.float64)",
        "bool()",
        "to(torch.float16).float()",
    )
    if b.chance(0.3):
        to = b.one(
            "clamp(-100, 100).long()",
            "clamp(-9, 9).to(torch.int32)",
            "clamp(0, 9).to(torch.uint8)",
            "clamp(-9, 9).to(torch.int8)",
        )
    other = b.rng.choice(b.values)
    b.do(
        "cast", f"{o} = {b.one(f'{x}.{to}', f'{x}.{to}', f'{x}.{to}', f'{x}.clamp(-9, 9).type_as({other})')}", outs=[o]
    )


# Reductions.

_OVER_ONE = (
    "{x}.sum({i})",
    "{x}.mean({i})",
    "{x}.amax({i})",
    "{x}.amin({i}, keepdim=True)",
    "{x}.max({i})[0]",
    "{x}.min({i}).values",
    "{x}.argmax({i})",
    "{x}.argmin({i}, keepdim=True)",
    "{x}.std({i})",
    "{x}.var({i}, unbiased=False)",
    "{x}.norm(dim={i})",
    "{x}.sum({i}, keepdim=True)",
    "{x}.prod({i})",
    "torch.logsumexp({x}, {i})",
    "{x}.mean({i}, keepdim=True)",
    "({x} > 0).any({i})",
    "({x} > -1).all({i})",
    "torch.count_nonzero({x}, {i})",
    "{x}.cumsum({i})",
    "{x}.clamp(-1, 1).cumprod({i})",
    "{x}.cummax({i})[0]",
    "torch.logcumsumexp({x}, {i})",
    "torch.softmax({x}, {i})",
    "F.log_softmax({x}, {i})",
    "F.normalize({x}, dim={i})",
    "F.softmin({x}, dim={i})",
    "{x}.median({i})[0]",
    "{x}.sort({i})[0]",
    "{x}.argsort({i})",
    "{x}.sort({i}, descending=True).values",
    "torch.var_mean({x}, {i})[0]",
    "torch.linalg.vector_norm({x}, 1, dim={i})",
    "{x} - {x}.mean({i}, keepdim=True)",
    "{x} / {x}.abs().sum({i}, keepdim=True).clamp(min=1e-3)",
    "torch.aminmax({x}, dim={i})[1]",
    "{x}.sum({i}, dtype=torch.float64)",
    "torch.nanmean({x}, {i})",
    "torch.cummin({x}, {i})[1]",
    "torch.std_mean({x}, {i})[1]",
    "{x}.quantile(0.3, {i})",
    "torch.diff({x}, dim={i})",
    "{x}.kthvalue(1, {i})[0]",
    "{x}.renorm(2, {i}, 1.)",
    "{x}.nansum({i})",
    "torch.trapezoid({x}, dim={i})",
    "{x}.cumsum({i}).flip({i})",
    "torch.fft.rfft({x}, dim={i}).abs()",
    "{x}.mode({i})[0]",
    "torch.fft.irfft(torch.fft.rfft({x}, dim={i}), n={x}.shape[{i}], dim={i})",
    "torch.fft.fft({x}, dim={i}).real",
    "torch.fft.fftshift({x}, {i})",
    "torch.gradient({x}, dim={i})[0]",
    "{x}.softmax({i}).cumsum({i})",
    "F.gumbel_softmax({x} * 0, dim={i}).sum({i})",
)


@maker(7)
def _reduce(b: Builder) -> None:
    x, o = b.pick("float", 1), b.new()
    i = b.signed(x, b.dim(x))
    form = b.one(*[f for f in _OVER_ONE if "gumbel" not in f])
    b.do("reduce", f"{o} = {form.format(x=x, i=i)}", outs=[o])


@maker(2)
def _reduce_all(b: Builder) -> None:
    x, o = b.pick("float", 1), b.new()
    some = tuple(sorted(b.rng.sample(range(len(b.shape(x))), b.rng.randint(1, len(b.shape(x))))))
    forms = [
        "{x}.sum()",
        "{x}.mean()",
        "{x}.max()",
        "{x}.std()",
        "{x}.norm()",
        "{x}.sum({s})",
        "{x}.mean({s}, keepdim=True)",
        "{x}.amax({s})",
        "torch.var({x}, {s})",
        "torch.logsumexp({x}, {s})",
        "{x}.median()",
        "{x}.argmax()",
        "({x} > 0).sum()",
        "{x} / {x}.norm()",
        "{x}.min()",
        "({x} - {x}.mean({s}, keepdim=True)) / ({x}.std({s}, keepdim=True) + 1)",
        "torch.std({x}, dim={s}, correction=0)",
        "{x}.ravel().cumsum(0)",
    ]
    b.do("reduce_all", f"{o} = {b.one(*forms).format(x=x, s=some)}", outs=[o])


@maker(1)
def _topk(b: Builder) -> None:
    x, o, j = b.pick("float", 1), b.new(), b.new()
    i = b.dim(x, 2)
    k = b.one("1", "2", f"{b.size(x, i)} // 2", f"min(3, {b.size(x, i)})")
    if b.chance(0.6):
        b.do("topk", f"{o}, {j} = {x}.topk({k}, {b.signed(x, i)})", outs=[o, j])
    else:
        b.do("sort", f"{o}, {j} = {x}.{b.one('sort', 'max', 'cummax', 'min')}({b.signed(x, i)})", outs=[o, j])


# Products.


@maker(3)
def _matmul(b: Builder) -> None:
    x, o = b.pick("float", 2), b.new()
    y = b.rng.choice([x, x, *b.values])
    form = b.one(
        "{x} @ {y}.transpose(-1, -2)",
        "torch.matmul({x}.transpose(-1, -2), {y})",
        "{x} @ {y}",
        "torch.einsum('...ik,...jk->...ij', {x}, {y})",
        "torch.einsum('...ki,...kj->...ij', {x}, {y}) / {x}.shape[-2]",
        "torch.inner({x}, {y})",
        "torch.tensordot({x}, {y}, dims=([-1], [-1]))",
    )
    b.do("matmul", f"{o} = {form.format(x=x, y=y)}", outs=[o])


@maker(2)
def _einsum(b: Builder) -> None:
    x, o = b.pick("float", 1, 4), b.new()
    letters = "abcd"[: len(b.shape(x))]
    y = b.one(x, b.pick("float", 1, 4))
    theirs = ""
    for i in range(len(b.shape(y))):
        same = [a for j, a in enumerate(letters) if b.base[x].shape[j] == b.base[y].shape[i] and a not in theirs]
        theirs += b.rng.choice(same) if same and b.chance(0.8) else "xyzw"[i]
    both = list(dict.fromkeys(letters + theirs))
    out = b.rng.sample(both, min(len(both), b.rng.randint(1, 4)))
    b.do("einsum", f"{o} = torch.einsum('{letters},{theirs}->{''.join(out)}', {x}, {y})", outs=[o])


@maker(1)
def _distance(b: Builder) -> None:
    x, o = b.pick("float", 2, 3), b.new()
    forms = [
        "torch.cdist({x}, {x} + 1)",
        "F.cosine_similarity({x}.unsqueeze(-2), {x}.unsqueeze(-3), dim=-1)",
        "F.pairwise_distance({x}, {x} * 2)",
        "torch.outer({x}.flatten(), {x}.flatten()).sum(0)",
        "torch.bmm({x}, {x}.mT)",
        "torch.addmm({x}, {x} @ {x}.mT, {x})",
        "torch.corrcoef({x})",
        "torch.cov({x})",
        "torch.baddbmm({x} @ {x}.mT, {x}, {x}.mT, beta=0.5)",
        "torch.linalg.norm({x})",
        "torch.kron({x}, torch.ones(1, 2))",
        "F.pdist({x} * torch.arange(1., {x}.shape[0] + 1)[:, None])",
    ]
    b.do("distance", f"{o} = {b.one(*forms).format(x=x)}", outs=[o])


@maker(1.5)
def _loss(b: Builder) -> None:
    x, o = b.pick("float", 1), b.new()
    y = b.like(x)
    reduction = b.one("mean", "sum", "none")
    name = b.one(
        "F.mse_loss",
        "F.l1_loss",
        "F.smooth_l1_loss",
        "F.huber_loss",
        "F.binary_cross_entropy_with_logits",
        "F.soft_margin_loss",
    )
    form = b.one(
        f"{name}({x}, {y}, reduction='{reduction}')",
        f"F.kl_div(F.log_softmax({x}, -1), F.softmax({y}, -1), reduction='{b.one('batchmean', reduction)}')",
        f"F.cosine_embedding_loss({x}.flatten(1), {y}.flatten(1), torch.ones({x}.shape[0]))",
        f"F.gaussian_nll_loss({x}, {y}, {y}.abs() + 1)",
        f"F.binary_cross_entropy({x}.sigmoid(), {y}.sigmoid(), reduction='{reduction}')",
        f"F.poisson_nll_loss({x}.clamp(-3, 3), {y}, reduction='{reduction}')",
        f"F.margin_ranking_loss({x}, {y}, {x}.sign(), margin=0.1)",
        f"F.triplet_margin_loss({x}, {y}, -{x})",
    )
    b.do("loss", f"{o} = {form}", outs=[o])


@maker(0.7)
def _cross_entropy(b: Builder) -> None:
    x, o = b.pick("float", 2, 4), b.new()
    classes = b.shape(x)[1]
    if classes < 2:
        raise Skip
    target = b.one(f"{x}.argmax(1)", f"({x} * 5).long().abs().sum(1) % {b.size(x, 1)}", f"{x}.softmax(1).roll(1, 0)")
    more = b.one("", ", label_smoothing=0.1", ", reduction='none'", ", reduction='sum'")
    b.do("cross_entropy", f"{o} = F.cross_entropy({x}, {target}{more})", outs=[o])
