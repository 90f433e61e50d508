"""MIL's ops as data: which element types, how many axes; what :func:`tdagger.transform.legal.legalize` goes by."""

from __future__ import annotations

from functools import cache

from tdagger.composite import Composite
from tdagger.errors import UnsupportedError
from tdagger.frameworks.coreml.emit.composites import COMPOSITES, Rule
from tdagger.frameworks.coreml.emit.core import CORE, scatters
from tdagger.frameworks.coreml.emit.quantized import FOUND
from tdagger.frameworks.coreml.emit.recurrent import in_f32
from tdagger.frameworks.coreml.emit.writer import Row
from tdagger.frameworks.writing import fields
from tdagger.library.quantized import dequantize, grid_of, quantize
from tdagger.op import Value
from tdagger.ops.elementwise import bitwise_xor, cast, not_
from tdagger.transform.legal.identities import rms_norm_in_f32
from tdagger.transform.legal.single import SINGLE
from tdagger.transform.legal.target import Accepts, Target, types

#: Most axes of a tensor.
RANK = 5
_F, _I, _B = "f32 f16", "i32 i64", "bool"
_N, _ANY = f"{_F} {_I}", f"{_F} {_I} {_B}"


def _no_gaps(v: Value) -> str | None:
    widths = v.op.attributes["widths"]
    if any(p is not None and p[2] for p in widths):
        return "MIL pads around, not between entries"
    return None if v.args[0].type.size and all(n >= 0 for p in widths if p for n in p) else "there is nothing to pad"


def _has_entries(v: Value) -> str | None:
    return None if v.type.size and all(a.type.size for a in v.args) else "there are no entries"


def _gathers(opset: int, v: Value) -> str | None:
    op = v.op.attributes
    if op["batch"] and opset < 16 and not op["axis"] == op["batch"] == v.args[0].rank - 1 == v.args[1].rank - 1:
        return "MIL has gather with batch axes since iOS16"
    return _has_entries(v)


def _rule(rule: Rule, opset: int) -> Accepts:
    def when(v: Value) -> str | None:
        if opset < rule.since:
            return f"MIL has it since iOS{rule.since} (minimum_target='iOS{rule.since}')"
        return None if rule.when is None else rule.when(v, fields(v))

    return Accepts(types(rule.dtypes), when=when, final=rule.final)


def _rounded_and_read(v: Value) -> Value:
    """What a fake_quantize gives, without what is for its gradient."""
    f = fields(v)
    x, scale, zero, how = f["x"], f["scale"], f["zero_point"], {n: f[n] for n in ("axis", "block")}
    made = quantize(x, scale, zero, to=f["to"], low=f["low"], high=f["high"], like=f["like"], **how)
    return cast(dequantize(made, scale, zero, of=f["to"] if grid_of(f["to"]).bits < 8 else "", **how), v.dtype)


@cache
def target(opset: int) -> Target:
    """What MIL of an operator set (15 to 18) runs."""
    unary = {
        **dict.fromkeys(
            ("sqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "atanh", "erf",
             "floor", "ceil", "round", "reciprocal", "isnan"), _F
        ),
        **dict.fromkeys(("neg", "abs", "sign"), _N),
        "not": _B,
    }  # fmt: skip
    binary = {
        **dict.fromkeys(
            ("add", "multiply", "max", "min", "mod", "floor_divide", "equal", "not_equal", "less", "less_equal",
             "greater", "greater_equal"), _N
        ),
        "pow": _F,
        **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_xor"), _B),
    }  # fmt: skip
    moved = f"{_ANY} i8 u8" if opset >= 17 else _ANY
    ops = {
        **{f"unary {k}": Accepts(types(d)) for k, d in unary.items()},
        **{f"binary {k}": Accepts(types(d)) for k, d in binary.items()},
        **{f"reduce {k}": Accepts(types(_N), when=_has_entries) for k in ("sum", "prod", "max", "min")},
        **{f"scatter {k}": Accepts(types(_N, _I, _N), when=scatters) for k in ("set", "add", "multiply", "max", "min")},
        "where": Accepts(types(_B, _ANY)),
        "cast": Accepts(types(_ANY), when=lambda v: None if v.dtype.name in _ANY.split() else f"MIL has no {v.dtype}"),
        "permute": Accepts(types(moved)),
        "slice": Accepts(types(moved), when=_has_entries),
        "pad": Accepts(types(_F), when=_no_gaps),
        "concat": Accepts(types(_ANY), when=_has_entries),
        "repeat": Accepts(types(_ANY), when=_has_entries),
        "gather": Accepts(types(moved, _I), when=lambda v: _gathers(opset, v)),
        "argsort": Accepts(types(_N), when=_has_entries),
        "scan sum": Accepts(types(_N), when=_has_entries),
        "iota": Accepts(types(_N)),
        "external": Accepts(types(_ANY)),
        **{name: _rule(rule, opset) for name, rule in COMPOSITES.items()},
        "reshape": Accepts(types(moved)),
        "quantize_dynamic": Accepts(types(_F), when=lambda v: FOUND, final=True),
    }
    return Target(
        f"CoreML (iOS{opset})", ops, rank=RANK, wider={"bool": ("i32",)}, held={"i64": "i32"}, folds=True,
        identities={
            "binary equal": lambda v: not_(bitwise_xor(*v.args)) if v.args[0].dtype.name == "bool" else None,
            **SINGLE,
            "fake_quantize": _rounded_and_read,
            "lstm": in_f32,
            "rms_norm": lambda v: rms_norm_in_f32(**fields(v)),
            "rnn": in_f32,
            "binary not_equal": lambda v: bitwise_xor(*v.args) if v.args[0].dtype.name == "bool" else None,
        },
    )  # fmt: skip


def row_of(value: Value) -> Row:
    """The row of a value: its composite's or its core op's."""
    op = value.op
    if isinstance(op, Composite):
        rule = COMPOSITES.get(op.name)
        if rule is None:
            raise UnsupportedError("MIL has no such op")
        return lambda w, v: rule.write(w, v, fields(v))
    row = CORE.get(op.name)
    if row is None:
        raise UnsupportedError("it is a core op that MIL knows nothing of")
    return row
