"""Checks of data that only raise or tell are taken as passed, and kept on demand; branches that compute are refused."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import distributions as D
from torch import nn

import tdagger as td

CHECKS = "the network checks its data, and the imported one takes the checks as passed"
X = torch.tensor([[0.5, 1.0, 2.0, 0.25], [0.1, 0.2, 0.3, 0.4], [3.0, 2.0, 1.0, 0.5]])
log = logging.getLogger(__name__)


class Of(nn.Module):
    """A network of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: torch.Tensor) -> Any:
        return self.function(*x)


def _finite(x: torch.Tensor) -> None:
    if not torch.isfinite(x).all():
        raise ValueError("not finite")


def _bad(x: torch.Tensor) -> bool:
    return bool(x.isnan().any())


def _says(x: torch.Tensor) -> bool:
    if x.isnan().any():  # noqa: SIM103
        return True
    return False


def asserts(x):
    assert not x.isnan().any(), "nan"
    return x * 2


def raises(x):
    if x.abs().max() > 100:
        raise ValueError("too large")
    return x * 2


def of_a_helper(x):
    _finite(x)
    return x * 2


def of_a_function(x):
    if _bad(x):
        raise RuntimeError("bad")
    return x * 2


def of_a_function_that_says(x):
    if _says(x):
        raise RuntimeError("bad")
    return x * 2


def of_several(x):
    if x.isnan().any() or not (x < 100).all():
        raise ValueError("nan or large")
    return x * 2


def of_a_variable(x):
    bad = x.isnan().any() or x.isinf().any()
    if bad:
        raise ValueError("bad")
    return x * 2


def of_a_number(x):
    largest = x.max().item()
    if largest > 100:
        raise ValueError(f"{largest} is too large")
    return x * 2


def of_a_list(x):
    assert all(t.isfinite().all() for t in (x, x * 2))
    return x * 2


def of_a_chain(x):
    if not 0 <= x.min() <= x.max() < 100:
        raise ValueError("out of range")
    return x * 2


def otherwise(x):
    if x.max() < 100:
        y = x * 2
    else:
        raise ValueError("too large")
    return y


def returns_before(x):
    if x.max() < 100:
        return x * 2
    raise ValueError("too large")


def by_comparison(x):
    assert torch.allclose(x, x)
    return x * 2


def by_torch(x):
    torch._assert((x < 100).all(), "too large")
    torch._check(x.max().item() < 100)
    return x * 2


RAISING = [
    asserts, raises, of_a_helper, of_a_function, of_a_function_that_says, of_several, of_a_variable, of_a_number,
    of_a_list,
    of_a_chain, otherwise, returns_before, by_torch,
]  # fmt: skip


@pytest.mark.parametrize("function", RAISING)
def test_checks_that_raise(function: Any) -> None:
    net = Of(function)
    with pytest.warns(UserWarning, match=CHECKS) as told:
        dag = td.from_torch(net, X)
    assert len(told) == 1
    assert "test_checks.py:" in str(told[0].message)
    assert list(dag.graph.outputs) == ["out"]
    torch.testing.assert_close(dag.to_torch(fixed=True)(X), X * 2)
    kept = dag.to_torch(checks=True)
    torch.testing.assert_close(kept(X), X * 2)
    bad = torch.full_like(X, torch.nan if function in (asserts, of_a_function, of_a_function_that_says) else torch.inf)
    with pytest.raises(Exception, match=r".") as theirs:
        net(bad)
    with pytest.raises(Exception, match=r".") as own:
        kept(bad)
    assert type(own.value) is type(theirs.value)
    dag.to_torch(fixed=True)(bad)  # without its checks it computes


def test_the_warning_names_the_line_and_the_condition_once() -> None:
    class Net(nn.Module):
        def forward(self, x):
            for _ in range(3):
                _finite(x)
                x = x * 2
            return x

    with pytest.warns(UserWarning, match=CHECKS) as told:
        td.from_torch(Net(), X)
    (text,) = [str(w.message) for w in told]
    line = _finite.__code__.co_firstlineno + 1
    assert (
        text
        == f"{CHECKS}: {__file__}:{line}: not torch.isfinite(x).all(). to_torch(checks=True) keeps those that raise"
    )


def test_what_a_kept_check_raises_is_what_the_source_does() -> None:
    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(Of(raises), X)
    (check,) = dag.checks
    assert check.message.startswith("ValueError: too large [")
    kept = dag.to_torch(checks=True)
    assert "raise ValueError('too large [" in kept.code
    with pytest.raises(ValueError, match="too large"):
        kept(X * 1000)
    with pytest.warns(UserWarning, match=CHECKS):  # and comes in again
        again = td.from_torch(kept, X)
    with pytest.raises(ValueError, match="too large"):
        again.to_torch(checks=True)(X * 1000)


def test_checks_of_another_network_than_the_imported_one_are_told_as_lost() -> None:
    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(Of(raises), X)
    with pytest.warns(UserWarning, match="these checks can't be kept: ValueError: too large"):
        dag.resize({"input0": (5, 4)}).to_torch(checks=True)
    other = dag.resize({"input0": (5, 4)})
    with pytest.raises(td.InputError, match=r"before it was changed \(they need .*f32\[3 4\]"):
        replace(other, checks=dag.checks).to_torch(checks=True)


def test_a_check_of_what_only_one_of_two_must_be_is_not_kept() -> None:
    def half(x):
        if x.min() < 0 and x.max() > 100:
            raise ValueError("both")
        return x * 2

    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(Of(half), X)
    with pytest.warns(UserWarning, match="these checks can't be kept: ValueError: both"):
        kept = dag.to_torch(checks=True)
    torch.testing.assert_close(kept(-X), -X * 2)  # eager passes too: only one of the two holds


def test_what_only_tells_is_left_out() -> None:
    class Tells(nn.Module):
        def forward(self, x):
            if x.isnan().any():
                log.warning("nan")
            if (x > 100).any():
                print("large", x.max())
                warnings.warn("large", stacklevel=2)
            return x * 2

    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(Tells(), X)
    assert not dag.checks
    torch.testing.assert_close(dag.to_torch(fixed=True)(X), X * 2)


def _branches(x):
    if x.sum() > 0:
        return x
    return -x


def _caught(x):
    try:
        _finite(x)
    except ValueError:
        return torch.zeros_like(x)
    return x


def _caught_here(x):
    try:
        assert x.min() > 0
    except AssertionError:
        x = x.abs()
    return x


def _suppressed(x):
    with contextlib.suppress(ValueError):
        _finite(x)
        return x
    return -x


def _used(x):
    bad = bool(x.isnan().any())
    if bad:
        raise ValueError
    return x * 2, bad


def _chooses(x):
    return x if x.sum() > 0 else -x


def _sets(x):
    scale = 1.0
    if x.max() > 1:
        print("large")
        scale = 0.5
    return x * scale


@pytest.mark.parametrize("function", [_branches, _caught, _caught_here, _suppressed, _used, _chooses, _sets])
def test_branches_that_do_more_are_refused(function: Any) -> None:
    with pytest.raises(td.UnsupportedError, match=r"it decides by the data|it makes a Python number") as e:
        td.from_torch(Of(function), X)
    assert "test_checks.py:" in str(e.value)


SAMPLED = {
    "normal": lambda x: D.Normal(x, x).log_prob(x),
    "categorical": lambda x: D.Categorical(logits=x).entropy(),
    "bernoulli": lambda x: D.Bernoulli(logits=x).log_prob(torch.ones_like(x)),
    "dirichlet": lambda x: D.Dirichlet(x).log_prob(x / x.sum(-1, keepdim=True)),
    "beta": lambda x: D.Beta(x, x).log_prob(x / 4),
    "transformed": lambda x: D.TransformedDistribution(D.Normal(x, x), [D.AffineTransform(1.0, 2.0)]).log_prob(x),
    "independent": lambda x: D.Independent(D.Normal(x, x), 1).log_prob(x),
    "mixture": lambda x: D.MixtureSameFamily(D.Categorical(logits=x), D.Normal(x, x)).log_prob(x[:, 0]),
    "kl": lambda x: D.kl_divergence(D.Normal(x, x), D.Normal(2 * x, x)),
}


@pytest.mark.filterwarnings(f"ignore:{CHECKS}")
@pytest.mark.parametrize("name", SAMPLED)
def test_distributions(name: str) -> None:
    net = Of(SAMPLED[name])
    dag = td.from_torch(net, X)
    torch.testing.assert_close(dag.to_torch(checks=True)(X), net(X), rtol=1e-4, atol=1e-5)


def test_a_vae_samples_and_keeps_its_validation() -> None:
    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)

        def forward(self, x):
            mean, deviation = self.encoder(x).chunk(2, -1)
            validated = D.Normal(mean, deviation.exp(), validate_args=True)  # torch.compile turns it off
            return self.decoder(validated.rsample()), mean

    torch.manual_seed(0)
    net = VAE().eval()
    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(net, X)
    kept = dag.to_torch(checks=True)
    torch.testing.assert_close(kept(X, seed=1)[1], net(X)[1])
    with pytest.raises(ValueError, match="Expected parameter loc"):
        kept(X * torch.nan, seed=1)


def test_a_check_that_cannot_be_computed_stops_nothing() -> None:
    def positive(x):
        if torch.linalg.cholesky_ex(x @ x.mT).info.any():
            raise ValueError("not positive")
        return x * 2

    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(Of(positive), X)
    assert [c.value for c in dag.checks] == [None]
    with pytest.warns(UserWarning, match="can't be kept: ValueError: not positive"):
        torch.testing.assert_close(dag.to_torch(checks=True)(X), X * 2)


def test_what_is_made_of_constants_decides() -> None:
    def known(x):
        return x * 2 if torch.full((2,), True).all() else x

    torch.testing.assert_close(td.from_torch(Of(known), X).to_torch(fixed=True)(X), X * 2)


def test_assertions_of_an_exported_program() -> None:
    class Net(nn.Module):
        def forward(self, x):
            torch._assert_async((x < 100).all(), "too large")
            return x * 2

    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(torch.export.export(Net(), (X,)))
    with pytest.raises(RuntimeError, match="too large"):
        dag.to_torch(checks=True)(X * 1000)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_checks_of_a_script() -> None:
    class Net(nn.Module):
        def forward(self, x):
            if not bool(x.sum() > 0):
                raise ValueError("negative")
            return x * 2

    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(torch.jit.script(Net()), X)
    kept = dag.to_torch(checks=True)
    torch.testing.assert_close(kept(X), X * 2)
    with pytest.raises(ValueError, match="negative"):
        kept(-X)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_script_that_decides_by_the_data_is_refused_with_its_line() -> None:
    class Net(nn.Module):
        def forward(self, x):
            if bool(x.sum() > 0):
                x = x * 2
            return x

    with pytest.raises(td.UnsupportedError, match=r"test_checks.py:\d+ decides by the data what to do: if bool\(x.sum"):
        td.from_torch(torch.jit.script(Net()), X)


L = 4
CAUSAL = nn.Transformer.generate_square_subsequent_mask(L)
OTHER = torch.zeros(L, L).index_put((torch.tensor([0]), torch.tensor([3])), torch.tensor(-torch.inf))


def _encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 1).eval()


@pytest.mark.parametrize("via", ["export", "trace"])
def test_a_transformer_with_a_mask_takes_another_mask(via: Any) -> None:
    net, x = _encoder(), torch.randn(2, L, 8)
    back = td.from_torch(net, (x, CAUSAL), via=via).to_torch(fixed=True)
    for mask in (CAUSAL, OTHER):
        torch.testing.assert_close(back(x, mask), net(x, mask))


@pytest.mark.parametrize("via", ["export", "trace"])
def test_a_decoder_and_a_whole_transformer_with_masks(via: Any) -> None:
    x = torch.randn(2, L, 8)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True), 1).eval()
    whole = nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True).eval()
    for net, names in ((decoder, ("tgt_mask",)), (whole, ("src_mask", "tgt_mask"))):
        back = td.from_torch(net, (x, x + 1), dict.fromkeys(names, CAUSAL), via=via).to_torch(fixed=True)
        for mask in (CAUSAL, OTHER):
            given = dict.fromkeys(names, mask)
            torch.testing.assert_close(back(x, x + 1, **given), net(x, x + 1, **given))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("via", ["export", "trace"])
def test_padding_is_masked_and_not_cut_away(via: Any) -> None:
    net, x = _encoder(), torch.randn(2, L, 8)
    pad = torch.tensor([[False] * 4, [False, False, True, True]])
    given = {"src_key_padding_mask": pad}
    with torch.no_grad():
        back = td.from_torch(net, (x,), given, via=via).to_torch(fixed=True)
        for mask in (pad, pad.flip(0)):
            want, got = net(x, src_key_padding_mask=mask), back(x, src_key_padding_mask=mask)
            torch.testing.assert_close(got[~mask], want[~mask])
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_a_scripted_encoder_with_a_mask() -> None:
    net, x = _encoder(), torch.randn(2, L, 8)
    back = td.from_torch(torch.jit.script(net), (x, CAUSAL)).to_torch(fixed=True)
    for mask in (CAUSAL, OTHER):
        torch.testing.assert_close(back(x, mask), net(x, mask))


def test_what_is_resized_or_loses_an_axis_goes_through_passes_and_exports() -> None:
    """Its checks are of inputs that it has no more: they have no value, as these were looked for."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not x.isnan().any()
            return (x * 2).softmax(1)

    with pytest.warns(UserWarning, match=CHECKS):
        dag = td.from_torch(Net(), torch.randn(2, 6))
    for changed in (dag.resize(x=(4, 6)), dag.unbatch(), dag.batch(3)):
        assert [(c.value, c.message) for c in changed.checks] == [(None, dag.checks[0].message)]
        optimized = changed.optimize()
        x = torch.randn(next(iter(optimized.graph.inputs.values())).shape)
        torch.testing.assert_close(optimized.to_torch(fixed=True)(x), (x * 2).softmax(x.dim() - 1))
        assert changed.to_onnx() is not None
