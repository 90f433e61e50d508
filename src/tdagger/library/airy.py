"""The Airy function, in float64 by Chebyshev series whose coefficients were found with mpmath."""

from __future__ import annotations

import math

from tdagger.composite import composite
from tdagger.library.chebyshev import in_double, piecewise, series
from tdagger.op import Value
from tdagger.ops.elementwise import cast, cos, exp, isinf, neg, sin, sqrt, where

#: Ai itself in -5..2; what is left of it above, without its decay; below, of a sine and of a cosine.
_NEAR = (
    0.15168947628223672, -0.005228692408472365, -0.007183007563342123, -0.2750085825170078, 0.15267285652736612,
    0.11299722901833571, -0.12930163519980795, 0.021717950423082666, 0.024911850702736413, -0.01433585742189573,
    0.000696689451639598, 0.001974398933529019, -0.0007230393972252199, -1.6112414526177467e-05,
    8.133273673249939e-05, -2.0775365813975462e-05, -1.6054762687164758e-06, 2.0560158255601387e-06,
    -3.825520517284178e-07, -4.913870596184178e-08, 3.514168642051892e-08, -4.846385010860496e-09,
    -8.897812059422213e-10, 4.329786248648808e-10, -4.414745597439301e-11, -1.1096862995764342e-11,
    4.024832028797832e-12, -2.9609936249846454e-13, -1.0257635127287476e-13, 2.920579876829024e-14,
    -1.4619955511486232e-15, -7.35505053091767e-16, 1.6986548408182807e-16, -5.0563208224652944e-18,
    -4.2234448483626644e-18, 8.087008847190025e-19,
)  # fmt: skip
_DECAY = (
    0.2776956095117059, -0.004172967562045923, 0.00020669586013998011, -1.7280997841068207e-05,
    1.928052166797157e-06, -2.605774398776262e-07, 4.051516883512395e-08, -7.022240440986223e-09,
    1.3286081997701028e-09, -2.703558037129289e-10, 5.852297782838998e-11, -1.3363584416519756e-11,
    3.1978547149289153e-12, -7.976813559559603e-13, 2.0651347541109665e-13, -5.52899978215978e-14,
    1.526165619010181e-14, -4.331979304955806e-15, 1.2616239319898747e-15, -3.7626070399357594e-16,
    1.1471616156264618e-16, -3.570144365109208e-17, 1.1326462271400218e-17, -3.658761589006902e-18,
    1.2021046148071358e-18,
)  # fmt: skip
_SINE = (
    0.5640047220611049, -0.00018367099145583687, 1.1677286575962031e-06, -2.1952400817017602e-08,
    7.698908177484481e-10, -4.0991552108139974e-11, 2.9533494631685908e-12, -2.67971400970182e-13,
    2.918076618447258e-14, -3.686259753509135e-15, 5.269121149758531e-16, -8.363168668683516e-17,
    1.4525618473220514e-17, -2.7289534540480613e-18,
)  # fmt: skip
_COSINE = (
    0.005231610352494967, -2.4608568410818226e-05, 2.9868674330150564e-07, -8.091149256030494e-09,
    3.6335641937907987e-10, -2.3231288913637883e-11, 1.9315281670853264e-12, -1.9692595663173435e-13,
    2.3644276290322962e-14, -3.247517690912473e-15, 4.993312512919698e-16, -8.453754627201451e-17,
    1.5556133987165833e-17, -3.0792351761872233e-18, 6.501493810451224e-19, -1.4540955172153587e-19,
    3.424985480345426e-20,
)  # fmt: skip

#: Where the series of the middle ends, and how far the decay and the oscillation have come there.
_LOW, _HIGH = -5.0, 2.0
_AT_LOW, _AT_HIGH = (2 / 3 * abs(edge) ** 1.5 for edge in (_LOW, _HIGH))


def _decaying(x: Value) -> Value:
    """From 2 on: ``exp(-z) x**-0.25`` times a slow series, ``z = 2/3 x**1.5``."""
    root = sqrt(x)
    z = x * root * (2 / 3)
    return series(_DECAY, 2 * _AT_HIGH / z - 1.0) * exp(neg(z)) / sqrt(root)


def _waving(x: Value) -> Value:
    """Up to -5: a sine and a cosine of ``z = 2/3 |x|**1.5``, times ``|x|**-0.25`` and slow series."""
    size = neg(x)
    root = sqrt(size)
    z = size * root * (2 / 3)
    ratio = _AT_LOW / z
    t = 2.0 * ratio * ratio - 1.0
    angle = z + math.pi / 4
    return (sin(angle) * series(_SINE, t) - cos(angle) * series(_COSINE, t) * ratio) / sqrt(root)


@composite
def airy_ai(x: Value) -> Value:
    """The Airy function Ai, the solution of ``y'' = x y`` that vanishes at infinity; 0 at both infinities."""
    w = in_double("airy_ai", x)
    finite = where(isinf(w), 0.0, w)

    def middle(v: Value) -> Value:
        return series(_NEAR, (2.0 * v - (_LOW + _HIGH)) / (_HIGH - _LOW))

    def upper(v: Value) -> Value:
        return piecewise(v, _HIGH, middle, _decaying)

    return cast(where(isinf(w), 0.0, piecewise(finite, _LOW, _waving, upper)), x.dtype)
