"""Steps that take places, parts and counts by numbers that Python works out of a size."""

from __future__ import annotations

from conformance.fuzz.build import Builder
from conformance.fuzz.table import maker

#: Of ``x``, its dimension ``i`` (counted from either end) and the size ``n`` of that; ``t`` puts a vector along it.
_FORMS = (
    # places
    "{x}.index_select({i}, torch.arange({n}).roll({n} // 2))",
    "{x}.index_select({i}, torch.arange(4).clamp(max={n} - 1))",
    "{x}.index_select({i}, torch.cat([torch.arange(0, {n}, 2), torch.arange(1, {n}, 2)]))",
    "{x}.index_select({i}, torch.arange(max(1, {n} - 1)))",
    "{x}.index_select({i}, torch.arange({n}) // 2)",
    "torch.zeros_like({x}).index_add({i}, torch.arange({n}) // 2, {x})",
    "{x}.narrow({i}, {n} // 3, {n} // 2)",
    "{x}.gather({i}, ({x}.argsort({i}) + 1).clamp(max={n} - 1))",
    "{x}.flatten()[torch.arange({x}.numel()).view({x}.shape).transpose({i}, 0).flatten()]",
    # so many
    "{x}.kthvalue(({n} + 1) // 2, {i})[0]",
    "{x}.topk(max(1, {n} // 3), {i})[0]",
    "{x}.repeat_interleave({n}, {i})",
    "{x}.repeat_interleave(max(1, {n} // 2), {i})",
    "{x}.tile({n})",
    "{x}.unfold({i}, max(1, {n} // 2), 1).mean(-1)",
    "{x}.mean({i}, keepdim=True).expand(*[2 * {n} if k == {i} % {x}.dim() else -1 for k in range({x}.dim())])",
    "F.one_hot({x}.argmax({i}), {n}).to({x}.dtype)",
    "F.adaptive_avg_pool1d({x}.flatten(0, -2)[None], max(1, {x}.shape[-1] // 2))",
    "F.interpolate({x}.flatten(0, -2)[None], size={x}.shape[-1] // 2 + 1)",
    # parts
    "{x}.split([{n} // 3, {n} - {n} // 3], {i})[1]",
    "torch.cat({x}.tensor_split(3, {i})[::-1], {i})",
    "torch.stack({x}.unbind({i})[::2], {i})",
    "{x}.diff(dim={i}, prepend={x}.narrow({i}, 0, 1))",
    "torch.trapezoid({x}, dx=1 / {n}, dim={i})",
    "{x}.quantile(0.3, {i})",
    # squares of so many
    "({x} @ {x}.mT).triu({x}.shape[-2] // 2)",
    "({x} @ {x}.mT).diagonal({x}.shape[-2] // 3, -2, -1)",
    "(torch.ones({x}.shape[-2], {x}.shape[-2]).triu({x}.shape[-2] // 2) @ {x}.float())",
    "{x} * (torch.eye({n}) * {n}).sum(0){t}",
    "{x} + torch.ones({n}, {n}).tril(-1).sum(1){t}",
    # counts of what is made
    "{x} * (torch.arange({n}) != 2).sum()",
    "{x} / ((torch.arange({n}) % 3 == 0).float().mean() + 1)",
    "{x} + torch.arange({n}).clamp(max=max(0, {n} - 2)).sum()",
    "{x} * torch.tensor([float(i * i) for i in range({n})]){t}",
    "{x} + torch.tril_indices({n}, {n})[0].sum()",
    "torch.zeros({n}).scatter_add(0, {x}.argmax({i}).flatten(), torch.ones({x}.numel() // {n}))",
    "F.cross_entropy({x}.flatten(1) @ {x}.flatten(1).mT, torch.arange({x}.shape[0]))",
    "{x} - {x}.sum({i}, keepdim=True) / ({n} + 1)",
)


@maker(4)
def _by_size(b: Builder) -> None:
    x, o = b.pick("float", 2), b.new()
    at = b.dim(x, 1)
    tail = ".reshape(-1" + ", 1" * (len(b.shape(x)) - 1 - at) + ")"
    form = b.one(*_FORMS).format(x=x, i=b.signed(x, at), n=b.size(x, at), t=tail)
    b.do("by_size", f"{o} = {form}", outs=[o])


#: Of sizes ``n`` and ``m``, and a small number ``k``.
_TURNS = (
    "{n} > 2 * {m}", "{n} == {m} + {k}", "{n} + {m} >= 9 * {k}", "{n} >= 3 * {k}", "not {n} % ({k} + 1)",
    "{n} * {m} == 12 * {k}", "min({n}, {m}) < {k}", "{n} / {m} > {k}", "{n} - {m} in (1, {k})",
    "{x}.numel() > 40 * {k}",
)  # fmt: skip


@maker(2)
def _turning(b: Builder) -> None:
    """Another way where sizes compare so, which costs as much."""
    x, y, o = b.pick("float", 1), b.pick("float", 1), b.new()
    n, m = (b.size(v, b.dim(v, 1)) for v in (x, y))
    turns = b.one(*_TURNS).format(x=x, n=n, m=m, k=b.rng.randint(1, 4))
    b.do("turning", f"{o} = {x} * 0.5 if {turns} else {x} + 1", outs=[o])
