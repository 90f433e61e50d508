"""Special functions: Bessel functions, digamma, the scaled error function and the normal distribution's quantiles.

All are computed in float64, by Chebyshev series of what is left when the growth, the oscillation or the logarithm
is taken out; the tables hold the coefficients to the last place of float64, found with mpmath.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tdagger.composite import composite
from tdagger.library.chebyshev import in_double, piecewise, series
from tdagger.op import Value
from tdagger.ops.elementwise import (
    abs_,
    cast,
    cos,
    equal,
    erfc,
    erfinv,
    exp,
    floor,
    isinf,
    log,
    log1p,
    maximum,
    minimum,
    neg,
    reciprocal,
    round_,
    sign,
    sin,
    sqrt,
    tan,
    where,
)

# --- coefficients ------------------------------------------------------------------------------------------

_I0_NEAR = (
    0.33839763720473803, -0.3046826723431984, 0.17162090152220877, -0.09490109704804764, 0.04930528423967071,
    -0.02373741480589947, 0.010546460394594998, -0.004324309995050576, 0.0016394756169413357,
    -0.0005763755745385824, 0.00018850288509584165, -5.754195010082104e-05, 1.6448448070728896e-05,
    -4.4167383584587505e-06, 1.1173875391201037e-06, -2.670793853940612e-07, 6.046995022541919e-08,
    -1.300025009986248e-08, 2.6598237246823866e-09, -5.189795601635263e-10, 9.675809035373237e-11,
    -1.726826291441556e-11, 2.95505266312964e-12, -4.856446783111929e-13, 7.676185498604936e-14,
    -1.1685332877993451e-14, 1.715391285555133e-15, -2.431279846547955e-16, 3.3307945188222384e-17,
    -4.4153416464793395e-18, 5.669178006921496e-19,
)  # fmt: skip
_I0_FAR = (
    0.4022452055070544, 0.0033691164782556943, 6.889758346916825e-05, 2.8913705208347567e-06,
    2.0489185894690638e-07, 2.266668990498178e-08, 3.3962320257083865e-09, 4.94060238822497e-10,
    1.1889147107846439e-11, -3.1499165279632416e-11, -1.3215811840447713e-11, -1.7941785315068062e-12,
    7.180124451383666e-13, 3.8527783827421426e-13, 1.54008621752141e-14, -4.150569347287222e-14,
    -9.554846698828307e-15, 3.8116806693526224e-15, 1.7725601330565263e-15, -3.4254856196772195e-16,
    -2.8276239805165836e-16, 3.461222867697477e-17, 4.465621420296738e-17, -4.830504485944371e-18,
    -7.233180487873652e-18, 9.921475412161323e-19, 1.193650890844124e-18,
)  # fmt: skip
_I1_NEAR = (
    0.12629359322181682, -0.17641651835783406, 0.1026436586898471, -0.05294598120809499, 0.024726449030626516,
    -0.010564084894626197, 0.004156422944312888, -0.0015135724506312532, 0.0005122859561685758,
    -0.00016176081582589674, 4.781565107550054e-05, -1.3273163656039436e-05, 3.4702513081376785e-06,
    -8.568720264695455e-07, 2.0032947535521353e-07, -4.445059128796328e-08, 9.381537386495773e-09,
    -1.8872497517228294e-09, 3.625590281552117e-10, -6.663489723502027e-11, 1.1736186298890901e-11,
    -1.9839743977649436e-12, 3.223793365945575e-13, -5.042185504727912e-14, 7.600684294735408e-15,
    -1.1055969477353862e-15, 1.5536319577362005e-16, -2.111421214358166e-17, 2.7779141127610464e-18,
    -3.541581772542136e-19,
)  # fmt: skip
_I1_FAR = (
    0.38928811750914005, -0.009761097491361469, -0.00011058893876262371, -3.882564808877691e-06,
    -2.512236237870209e-07, -2.6314688468895196e-08, -3.835380385964237e-09, -5.589743462196584e-10,
    -1.8974958123505413e-11, 3.2526035830154884e-11, 1.4125807436613782e-11, 2.0356285441470896e-12,
    -7.198551776245908e-13, -4.0835511110921974e-13, -2.1015418427726643e-14, 4.272440016711951e-14,
    1.0420276984128802e-14, -3.8144030724370075e-15, -1.8803547755107825e-15, 3.3082023109209285e-16,
    2.96262899764595e-16, -3.2095259219934404e-17, -4.650305368489336e-17, 4.414348323071889e-18,
    7.51729631084099e-18, -9.314178867314006e-19, -1.2421932751930744e-18,
)  # fmt: skip
_K0_NEAR = (
    -0.2676636966169514, 0.3442898999246285, 0.0359799365153615, 0.001264615411446926, 2.286212103119452e-05,
    2.5347910790261494e-07, 1.904516377220209e-09, 1.0349695257633625e-11, 4.2598161427910826e-14,
    1.3744654358807508e-16, 3.5708965285083736e-19,
)  # fmt: skip
_K0_FAR = (
    1.2201515410329777, -0.0314481013119645, 0.0015698838857300533, -0.00012849549581627802, 1.39498137188765e-05,
    -1.8317555227191195e-06, 2.766813639445015e-07, -4.660489897687948e-08, 8.574034017414225e-09,
    -1.6975345093890614e-09, 3.5773972814003283e-10, -7.957489244477396e-11, 1.8559491149549264e-11,
    -4.514597883374519e-12, 1.1403405882073441e-12, -2.9800969231481784e-13, 8.032890775068375e-14,
    -2.2275133267462965e-14, 6.340076476276646e-15, -1.848593377920907e-15, 5.5120559994043335e-16,
    -1.6782311257549006e-16, 5.2103917776435543e-17, -1.6475805939842632e-17, 5.3004337711773354e-18,
    -1.7331712005820991e-18,
)  # fmt: skip
_K1_NEAR = (
    0.7626501136694739, -0.3531559607765449, -0.12261118082265715, -0.006975723859639864, -0.0001730288957513052,
    -2.4334061415659684e-06, -2.213387630734726e-08, -1.4114883926335278e-10, -6.666901694199329e-13,
    -2.427449850519366e-15, -7.023863479386288e-18,
)  # fmt: skip
_K1_FAR = (
    1.3603130952422213, 0.10392373657681724, -0.002857816859622779, 0.00019521551847135162, -1.936197974166083e-05,
    2.406484947837217e-06, -3.5019606030878126e-07, 5.7410841254500495e-08, -1.0345762465678097e-08,
    2.0150497551970347e-09, -4.1903547593419254e-10, 9.218315187605315e-11, -2.129967838427791e-11,
    5.139639673482343e-12, -1.2891739609498229e-12, 3.348419666052243e-13, -8.976705182010146e-14,
    2.4771544242195988e-14, -7.0198370892147685e-15, 2.038703166239861e-15, -6.057047270643018e-16,
    1.8380935752430455e-16, -5.689462849193648e-17, 1.7940510478863572e-17, -5.756744482073302e-18,
    1.877865190162326e-18,
)  # fmt: skip
_J0_NEAR = (
    0.15772797147489012, -0.008723442352852221, 0.2651786132033368, -0.37009499387264977, 0.15806710233209725,
    -0.034893769411408884, 0.004819180069467605, -0.00046062616620627504, 3.246032882100508e-05,
    -1.7619469077621507e-06, 7.608163592418782e-08, -2.679253530557673e-09, 7.848696314479465e-11,
    -1.9438346867370164e-12, 4.125320595634374e-14, -7.588508125447546e-16, 1.2218515873961411e-17,
)  # fmt: skip
_J1_NEAR = (
    0.08104484632565812, -0.1489751450676521, 0.1609992623572097, -0.08268049176681791, 0.022213639654966037,
    -0.003646940600769276, 0.0004050337728354822, -3.255554866857259e-05, 1.9858774049915165e-06,
    -9.521984756750436e-08, 3.687133759097148e-09, -1.178026622695885e-10, 3.160154580348003e-12,
    -7.221755239651773e-14, 1.4232144003513942e-15, -2.4441972916190464e-17, 3.6912682997929334e-19,
)  # fmt: skip
_Y0_NEAR = (
    -0.03314611320328494, -0.2744743055297453, 0.17903431407718265, 0.26156734625504663, -0.17730201278114358,
    0.04719668959576339, -0.007287962479552079, 0.0007531135932577742, -5.632079141056987e-05,
    3.206532537654801e-06, -1.44072332740187e-07, 5.248794787330516e-09, -1.5837552541812015e-10,
    4.02633081830612e-12, -8.747341203310769e-14, 1.6434898714919468e-15, -2.6977881152566837e-17,
    3.9032584173475982e-19,
)  # fmt: skip
_Y1_NEAR = (
    0.0025380132357417816, -0.01608717304766875, -0.09591204536083074, 0.08445197259652346, -0.028328123944594365,
    0.005289897544167113, -0.0006414551451326356, 5.505982873338744e-05, -3.53808001868935e-06,
    1.7707804556154404e-07, -7.11055004989928e-09, 2.344337905911516e-10, -6.4651518414115946e-12,
    1.51429151205002e-13, -3.0511859694473254e-15, 5.34668038572867e-17, -8.224911372021585e-19,
)  # fmt: skip
_P0_FAR = (
    0.9994603493475176, -0.0005365220468131871, 3.0751847875188528e-06, -5.1705945376034764e-08,
    1.6306464635135532e-09, -7.864091377224525e-11, 5.168262387336952e-12, -4.304578869911268e-13,
    4.326595743136236e-14, -5.0690340959074286e-15, 6.748072215688255e-16, -1.0011513723386293e-16,
    1.6305919233587354e-17, -2.8808661694506357e-18,
)  # fmt: skip
_Q0_FAR = (
    -0.015555854605336872, 6.838519942611056e-05, -7.414498411058482e-07, 1.797245724795728e-08,
    -7.271915936857794e-10, 4.2201219046609327e-11, -3.20674742098806e-12, 3.006145125340778e-13,
    -3.336328185306666e-14, 4.2552250402202236e-15, -6.099930131595837e-16, 9.662128970219497e-17,
    -1.6686065214208162e-17, 3.1082440486371442e-18, -6.191115787274589e-19, 1.3091448717020112e-19,
    -2.921162715214209e-20,
)  # fmt: skip
_P1_FAR = (
    1.0009030408600155, 0.000898989833085909, -3.9872843004881656e-06, 6.177633960641289e-08, -1.87189074910453e-09,
    8.816898659568494e-11, -5.7048636403822855e-12, 4.699195515215256e-13, -4.6842237839703735e-14,
    5.4526748960149676e-15, -7.22118084222542e-16, 1.0667689114248911e-16, -1.7312313215950372e-17,
    3.0492991197325653e-18,
)  # fmt: skip
_Q1_FAR = (
    0.046777787069535136, -9.627723549156346e-05, 9.138615257952929e-07, -2.095978138407017e-08,
    8.229193327641088e-10, -4.686363688168391e-11, 3.5152187949592992e-12, -3.264315674316121e-13,
    3.596776582899639e-14, -4.561252395050377e-15, 6.508282957736404e-16, -1.0269147531734534e-16,
    1.767635548758527e-17, -3.283451987259528e-18, 6.524081149501421e-19, -1.3765771484639625e-19,
)  # fmt: skip
_ERFCX = (
    1.1775789345674017, -0.004590054580646478, -0.08424913336651792, 0.05920993999819189, -0.026658668435305753,
    0.009074997670705265, -0.002413163540417608, 0.0004907758365258086, -6.916973302501207e-05,
    4.13902798607301e-06, 7.74038306619849e-07, -2.1886401049234397e-07, 1.076499946567091e-08,
    4.521959811218287e-09, -7.754400208831351e-10, -6.318088340886684e-11, 2.86879501093067e-11,
    1.9455868545777347e-13, -9.65469674843344e-13, 3.25254814814874e-14, 3.3478119482868056e-14,
    -1.864562880419313e-15, -1.2507950530688648e-15, 7.418235256624044e-17, 5.068148904796111e-17,
    -2.2370566594359995e-18, -2.187342944303018e-18,
)  # fmt: skip

# --- how they are put together -----------------------------------------------------------------------------


def _i(x: Value, near: Sequence[float], far: Sequence[float], odd: bool) -> Value:
    """The scaled modified Bessel function of the first kind, ``exp(-|x|) * I(x)``."""
    size = abs_(x)
    out = piecewise(
        size,
        8.0,
        lambda v: series(near, v / 4.0 - 1.0) * (v if odd else 1.0),
        lambda v: series(far, 16.0 / v - 1.0) / sqrt(v),
    )
    return sign(x) * out if odd else out


def _scaled_back(x: Value, scaled: Value) -> Value:
    """``scaled * exp(|x|)``, where the exponential may overflow before the product does."""
    half = exp(abs_(x) * 0.5)
    return scaled * half * half


def _k(x: Value, order: int, scaled: bool) -> Value:
    """The modified Bessel function of the second kind; NaN below 0, infinite at 0."""
    near_table, far_table = ((_K0_NEAR, _K0_FAR), (_K1_NEAR, _K1_FAR))[order]

    def near(v: Value) -> Value:
        v = maximum(v, 0.0)
        tables = (_I0_NEAR, _I0_FAR, False) if order == 0 else (_I1_NEAR, _I1_FAR, True)
        first = _i(v, *tables) * exp(v)
        rest = series(near_table, v * v / 2.0 - 1.0)
        grown = rest - log(v / 2.0) * first if order == 0 else log(v / 2.0) * first + rest / v
        return grown * exp(v) if scaled else grown

    def far(v: Value) -> Value:
        out = series(far_table, 4.0 / v - 1.0) / sqrt(v)
        return out if scaled else out * exp(neg(v))

    out = piecewise(x, 2.0, near, far)
    return where(x < 0.0, math.nan, where(equal(x, 0.0), math.inf, out))


def _wave(x: Value, order: int, second: bool) -> Value:
    """J or Y of large x: an amplitude times a cosine, as a sum of slow series."""
    p_table, q_table = ((_P0_FAR, _Q0_FAR), (_P1_FAR, _Q1_FAR))[order]
    ratio = 8.0 / x
    t = ratio * ratio * 2.0 - 1.0
    p, q = series(p_table, t), series(q_table, t) * ratio
    angle = x - (2 * order + 1) * math.pi / 4
    c, s = cos(angle), sin(angle)
    out = (p * s + q * c) if second else (p * c - q * s)
    return out * sqrt(2 / math.pi / x)


def _j(x: Value, order: int) -> Value:
    size = abs_(x)
    table = (_J0_NEAR, _J1_NEAR)[order]
    out = piecewise(
        size,
        8.0,
        lambda v: series(table, v * v / 32.0 - 1.0) * (v if order else 1.0),
        lambda v: _wave(v, order, False),
    )
    return sign(x) * out if order else out


def _y(x: Value, order: int) -> Value:
    """The Bessel function of the second kind; NaN below 0, -inf at 0."""
    table = (_Y0_NEAR, _Y1_NEAR)[order]

    def near(v: Value) -> Value:
        v = maximum(v, 0.0)
        rest = series(table, v * v / 32.0 - 1.0)
        first = log(v) * _j(v, order)
        if order:
            return rest * v + (first - reciprocal(v)) * (2 / math.pi)
        return rest + first * (2 / math.pi)

    out = piecewise(x, 8.0, near, lambda v: _wave(v, order, True))
    return where(x < 0.0, math.nan, where(equal(x, 0.0), -math.inf, out))


# --- Bessel functions --------------------------------------------------------------------------------------


@composite(own_gradient=True)
def bessel_i0e(x: Value) -> Value:
    """``exp(-|x|) * I0(x)``."""
    return cast(_i(in_double("bessel_i0e", x), _I0_NEAR, _I0_FAR, False), x.dtype)


@composite(own_gradient=True)
def bessel_i1e(x: Value) -> Value:
    """``exp(-|x|) * I1(x)``."""
    return cast(_i(in_double("bessel_i1e", x), _I1_NEAR, _I1_FAR, True), x.dtype)


@composite(own_gradient=True)
def bessel_i0(x: Value) -> Value:
    """The modified Bessel function of the first kind, of order 0."""
    w = in_double("bessel_i0", x)
    return cast(_scaled_back(w, _i(w, _I0_NEAR, _I0_FAR, False)), x.dtype)


@composite(own_gradient=True)
def bessel_i1(x: Value) -> Value:
    """The modified Bessel function of the first kind, of order 1."""
    w = in_double("bessel_i1", x)
    return cast(_scaled_back(w, _i(w, _I1_NEAR, _I1_FAR, True)), x.dtype)


@composite
def bessel_k0(x: Value) -> Value:
    """The modified Bessel function of the second kind, of order 0; NaN below 0."""
    return cast(_k(in_double("bessel_k0", x), 0, False), x.dtype)


@composite
def bessel_k1(x: Value) -> Value:
    """The modified Bessel function of the second kind, of order 1; NaN below 0."""
    return cast(_k(in_double("bessel_k1", x), 1, False), x.dtype)


@composite
def bessel_k0e(x: Value) -> Value:
    """``exp(x) * K0(x)``."""
    return cast(_k(in_double("bessel_k0e", x), 0, True), x.dtype)


@composite
def bessel_k1e(x: Value) -> Value:
    """``exp(x) * K1(x)``."""
    return cast(_k(in_double("bessel_k1e", x), 1, True), x.dtype)


@composite
def bessel_j0(x: Value) -> Value:
    """The Bessel function of the first kind, of order 0."""
    return cast(_j(in_double("bessel_j0", x), 0), x.dtype)


@composite
def bessel_j1(x: Value) -> Value:
    """The Bessel function of the first kind, of order 1."""
    return cast(_j(in_double("bessel_j1", x), 1), x.dtype)


@composite
def bessel_y0(x: Value) -> Value:
    """The Bessel function of the second kind, of order 0; NaN below 0."""
    return cast(_y(in_double("bessel_y0", x), 0), x.dtype)


@composite
def bessel_y1(x: Value) -> Value:
    """The Bessel function of the second kind, of order 1; NaN below 0."""
    return cast(_y(in_double("bessel_y1", x), 1), x.dtype)


@composite
def spherical_bessel_j0(x: Value) -> Value:
    """``sin(x) / x``, 1 at 0 and 0 at infinity."""
    w = in_double("spherical_bessel_j0", x)
    flat = equal(w, 0.0)
    out = where(flat, 1.0, sin(w) / where(flat, 1.0, w))
    return cast(where(isinf(w), 0.0, out), x.dtype)


# --- the normal distribution -------------------------------------------------------------------------------


def _erfcx(x: Value) -> Value:
    size = abs_(x)
    t = where(isinf(size), 1.0, (size - 3.75) / (where(isinf(size), 0.0, size) + 3.75))
    positive = series(_ERFCX, t) / (1.0 + 2.0 * size)
    return where(x < 0.0, 2.0 * exp(x * x) - positive, positive)


def _log_ndtr(x: Value) -> Value:
    low = minimum(x, -1.0)
    tail = log(_erfcx(low * -math.sqrt(0.5)) * 0.5) - low * low * 0.5
    return where(x < -1.0, tail, log1p(erfc(maximum(x, -1.0) * math.sqrt(0.5)) * -0.5))


@composite(own_gradient=True)
def erfcx(x: Value) -> Value:
    """``exp(x * x) * erfc(x)`` without underflow."""
    return cast(_erfcx(in_double("erfcx", x)), x.dtype)


@composite(own_gradient=True)
def log_ndtr(x: Value) -> Value:
    """The logarithm of the normal distribution's probability of being below x."""
    return cast(_log_ndtr(in_double("log_ndtr", x)), x.dtype)


@composite(own_gradient=True)
def ndtri(x: Value) -> Value:
    """What the normal distribution is below with probability x; infinite at 0 and 1, NaN outside.

    erfinv in the middle; in the tails Newton steps on the logarithm of the probability.
    """
    p = in_double("ndtri", x)
    tail = minimum(p, 1.0 - p)
    target = log(minimum(maximum(tail, 1e-300), 0.1))
    at = neg(sqrt(target * -2.0))
    for _ in range(5):
        value = _log_ndtr(at)
        at = at - (value - target) * exp(value + at * at * 0.5) * math.sqrt(2 * math.pi)
    far = where(p < 0.5, at, neg(at))
    middle = erfinv(minimum(maximum(p * 2.0 - 1.0, -1.0), 1.0)) * math.sqrt(2)
    out = where(tail < 0.1, far, middle)
    edge = where(equal(p, 0.0), -math.inf, where(equal(p, 1.0), math.inf, out))
    return cast(where((p < 0.0) | (p > 1.0), math.nan, edge), x.dtype)


# --- digamma -----------------------------------------------------------------------------------------------

# B(2k) / (2k), of Stirling's series.
_STIRLING = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)


@composite(own_gradient=True)
def digamma(x: Value) -> Value:
    """The derivative of lgamma: NaN at whole numbers below 0, -inf at 0 and +inf at -0."""
    w = in_double("digamma", x)
    negative = w < 0.0
    positive = where(negative, 1.0 - w, w)
    high = positive + 10.0
    square = reciprocal(high * high)
    tail = square * 0.0
    for b in reversed(_STIRLING):
        tail = (tail + b) * square
    out = log(high) - 0.5 / high - tail
    for k in range(10):
        out = out - reciprocal(positive + float(k))
    # the distance to the nearest whole number is exact, and tan has that period
    reflected = out - math.pi / tan((w - round_(w)) * math.pi)
    whole = negative & equal(w, floor(w))
    out = where(negative, where(whole, math.nan, reflected), out)
    return cast(where(equal(w, 0.0), neg(reciprocal(w)), out), x.dtype)
