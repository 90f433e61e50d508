"""ONNX's recurrent networks: the forms that torch has as composites, all others step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tdagger import library as lib
from tdagger.frameworks.known import array_of_constant
from tdagger.frameworks.onnx.ops.layers.windows import check_steps
from tdagger.frameworks.onnx.ops.table import rule, unsupported
from tdagger.op import Value
from tdagger.ops.elementwise import cast, maximum, minimum, tanh, where
from tdagger.ops.source import const
from tdagger.ops.structure import broadcast_to, concat, flip, permute, select, slice_axis, split, ungroup, unsqueeze

Function = Callable[[Value], Value]

# --- activations -------------------------------------------------------------------------------------------


def _hard_sigmoid(x: Value, alpha: float, beta: float) -> Value:
    return minimum(maximum(x * alpha + beta, 0.0), 1.0)


#: Activations by their names in lower case: the function, and the defaults of its alpha and beta (None: it has none).
_ACTIVATIONS: dict[str, tuple[Callable[[Value, Any, Any], Value], float | None, float | None]] = {
    "relu": (lambda x, a, b: lib.relu(x), None, None),
    "tanh": (lambda x, a, b: tanh(x), None, None),
    "sigmoid": (lambda x, a, b: lib.sigmoid(x), None, None),
    "softsign": (lambda x, a, b: lib.softsign(x), None, None),
    "softplus": (lambda x, a, b: lib.softplus(x), None, None),
    "affine": (lambda x, a, b: x * a + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: lib.leaky_relu(x, slope=a), 0.01, None),
    "thresholdedrelu": (lambda x, a, b: where(x > a, x, 0.0), 1.0, None),
    "scaledtanh": (lambda x, a, b: tanh(x * b) * a, 1.0, 1.0),
    "hardsigmoid": (_hard_sigmoid, 0.2, 0.5),
    "elu": (lambda x, a, b: lib.elu(x, alpha=a), 1.0, None),
}


def _functions(
    names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None
) -> Iterator[Function]:
    """The activations in order; each that has an alpha or a beta takes the next of the list."""
    rest = iter(alphas or ()), iter(betas or ())
    for name in names:
        found = _ACTIVATIONS.get(name.lower())
        if found is None:
            raise unsupported(f"there is no activation {name}; there are {', '.join(_ACTIVATIONS)}")
        function, *defaults = found
        a, b = (None if d is None else next(r, d) for d, r in zip(defaults, rest, strict=True))
        yield lambda x, f=function, a=a, b=b: f(x, a, b)


# --- one layer ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """What a recurrent operator is given; everything with the time first, and states ``[direction b h]``."""

    x: Value
    w: Value
    r: Value
    b: Value | None
    lengths: Value | None
    states: tuple[Value, ...]
    direction: str
    hidden: int
    #: For each direction the names of its activations.
    names: tuple[tuple[str, ...], ...]
    functions: tuple[tuple[Function, ...], ...]
    clip: float | None

    @property
    def directions(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def is_plain(self, *usual: str) -> bool:
        """Whether torch has it: all lengths the same, nothing clipped, the usual activations."""
        names = all(tuple(n.lower() for n in each) == usual for each in self.names)
        return self.lengths is None and self.clip is None and names

    def limited(self, x: Value) -> Value:
        """What goes into an activation."""
        return x if self.clip is None else minimum(maximum(x, -self.clip), self.clip)


def _layer(
    X: Value, W: Value, R: Value, B: Value | None, lengths: Value | None, states: Sequence[Value | None],
    attributes: dict[str, Any], usual: Sequence[str],
) -> _Layer:  # fmt: skip
    direction: str = attributes["direction"]
    if direction not in ("forward", "reverse", "bidirectional"):
        raise unsupported(f"its direction {direction} is none of forward, reverse, bidirectional")
    count = 2 if direction == "bidirectional" else 1
    names = tuple(attributes["activations"] or (*usual,) * count)
    if len(names) != count * len(usual):
        raise unsupported(f"its activations {list(names)} should be {count * len(usual)}")
    functions = tuple(_functions(names, attributes["activation_alpha"], attributes["activation_beta"]))
    each = len(usual)
    batch_first = bool(attributes["layout"])
    x = permute(X, (1, 0, 2)) if batch_first else X
    hidden = R.shape[-1]
    if attributes["hidden_size"] not in (None, hidden):
        raise unsupported(f"its hidden_size {attributes['hidden_size']} isn't that of its weight {R.type}")
    zeros = broadcast_to(const(0.0, X.dtype), (count, x.shape[1], hidden))
    first = [zeros if s is None else permute(s, (1, 0, 2)) if batch_first else s for s in states]
    parts = [slice(i * each, (i + 1) * each) for i in range(count)]
    return _Layer(
        x, W, R, B, _uneven(lengths, x.shape[0]), tuple(first), direction, hidden,
        tuple(names[p] for p in parts), tuple(functions[p] for p in parts), attributes["clip"],
    )  # fmt: skip


def _uneven(lengths: Value | None, steps: int) -> Value | None:
    """The lengths, None if they are known to be all of the steps."""
    if lengths is None:
        return None
    known = array_of_constant(lengths)
    return None if known is not None and (known == steps).all() else cast(lengths, "i64")


def _results(out: Value, finals: Sequence[Value], layout: int) -> tuple[Value, ...]:
    """Y as ``[t direction b h]`` and the last states ``[direction b h]``, or with the batch first."""
    if not layout:
        return out, *finals
    return permute(out, (2, 0, 1, 3)), *(permute(f, (1, 0, 2)) for f in finals)


# --- as torch has it ---------------------------------------------------------------------------------------


def _reordered(weight: Value, order: Sequence[int]) -> Value:
    """The gates, one after the other along the first axis, in torch's order."""
    if list(order) == sorted(order):
        return weight
    gates = split(weight, [weight.shape[0] // len(order)] * len(order), 0)
    return concat([gates[i] for i in order], 0)


def _as_torch(layer: _Layer, function: Callable[..., Any], order: Sequence[int], **more: Any) -> tuple[Value, ...]:
    """The layer by a composite: of the steps in reverse if it is a layer in reverse only."""
    weights: list[Value] = []
    for i in range(layer.directions):
        weights += [_reordered(select(w, 0, i), order) for w in (layer.w, layer.r)]
        if layer.b is not None:
            halves = split(select(layer.b, 0, i), [len(order) * layer.hidden] * 2, 0)
            weights += [_reordered(b, order) for b in halves]
    reverse = layer.direction == "reverse"
    x = flip(layer.x, (0,)) if reverse else layer.x
    out, *finals = function(
        x, *layer.states, *weights, layers=1, bidirectional=layer.directions == 2, biases=layer.b is not None, **more
    )
    out = flip(out, (0,)) if reverse else out
    out = permute(ungroup(out, 2, (layer.directions, layer.hidden)), (0, 2, 1, 3))
    return out, *finals


# --- step by step ------------------------------------------------------------------------------------------

#: (x times its weights with biases, states before, direction) -> states after.
Step = Callable[[Value, tuple[Value, ...], int], tuple[Value, ...]]


def _unrolled(layer: _Layer, inputs: Callable[[int], Value], step: Step) -> tuple[Value, ...]:
    """Both directions, one step after the other; past its length a sequence keeps its state and gives 0."""
    check_steps(layer.x.shape[0])
    outputs, finals = [], []
    for i in range(layer.directions):
        reverse = layer.direction == "reverse" or i == 1
        states = tuple(select(s, 0, i) for s in layer.states)
        xs, steps = inputs(i), range(layer.x.shape[0])
        out: list[Value] = []
        for t in reversed(steps) if reverse else steps:
            new = step(select(xs, 0, t), states, i)
            result = new[0]
            if layer.lengths is not None:
                going = unsqueeze(layer.lengths > t, (1,))
                new = tuple(where(going, n, s) for n, s in zip(new, states, strict=True))
                result = where(going, result, 0.0)
            states = new
            out.append(unsqueeze(result, (0,)))
        outputs.append(unsqueeze(concat(out[::-1] if reverse else out, 0), (1,)))
        finals.append(states)
    ends = [concat([unsqueeze(states[k], (0,)) for states in finals], 0) for k in range(len(layer.states))]
    return concat(outputs, 1), *ends


def _biases(layer: _Layer, i: int, gates: int) -> tuple[Value | None, Value | None]:
    if layer.b is None:
        return None, None
    first, second = split(select(layer.b, 0, i), [gates * layer.hidden] * 2, 0)
    return first, second


def _gates(x: Value, count: int) -> tuple[Value, ...]:
    return split(x, [x.shape[-1] // count] * count, -1)


# --- the operators -----------------------------------------------------------------------------------------


@rule("LSTM", since=7)
def _lstm(
    X: Value, W: Value, R: Value, B: Value | None = None, sequence_lens: Value | None = None,
    initial_h: Value | None = None, initial_c: Value | None = None, P: Value | None = None, *,
    activation_alpha: Any = None, activation_beta: Any = None, activations: Any = None, clip: float | None = None,
    direction: str = "forward", hidden_size: int | None = None, input_forget: int = 0, layout: int = 0,
) -> tuple[Value, ...]:  # fmt: skip
    attributes = {
        "activation_alpha": activation_alpha, "activation_beta": activation_beta, "activations": activations,
        "clip": clip, "direction": direction, "hidden_size": hidden_size, "layout": layout,
    }  # fmt: skip
    return lstm((X, W, R, B, sequence_lens, initial_h, initial_c, P), attributes, input_forget)


#: A product with the weights of a direction: (x, direction) -> x @ w.T.
Product = Callable[[Value, int], Value]


def lstm(
    inputs: Sequence[Any], attributes: dict[str, Any], input_forget: int, by: tuple[Product, Product] | None = None
) -> tuple[Value, ...]:
    """An LSTM of the operator's inputs; gates in the order input, output, forget, cell.

    ``by`` multiplies x and the state before with their weights, where that is no plain product.
    """
    X, W, R, B, lengths, initial_h, initial_c, P = inputs
    layer = _layer(X, W, R, B, lengths, (initial_h, initial_c), attributes, ("Sigmoid", "Tanh", "Tanh"))
    layout: int = attributes["layout"]
    if layer.is_plain("sigmoid", "tanh", "tanh") and P is None and not input_forget and by is None:
        return _results(*_and_rest(_as_torch(layer, lib.lstm, (0, 2, 3, 1))), layout)

    def product(which: int, x: Value, i: int) -> Value:
        bias = _biases(layer, i, 4)[which]
        if by is None:
            return lib.linear(x, select((W, R)[which], 0, i), bias)
        return by[which](x, i) if bias is None else by[which](x, i) + bias

    def step(x: Value, states: tuple[Value, ...], i: int) -> tuple[Value, ...]:
        f, g, h = layer.functions[i]
        h_before, c_before = states
        to_i, to_o, to_f, to_c = _gates(x + product(1, h_before, i), 4)
        hole = split(select(P, 0, i), [layer.hidden] * 3, 0) if P is not None else None  # input, output, forget
        to_i = to_i if hole is None else to_i + hole[0] * c_before
        to_f = to_f if hole is None else to_f + hole[2] * c_before
        gate = f(layer.limited(to_i))
        keep = 1.0 - gate if input_forget else f(layer.limited(to_f))
        c = keep * c_before + gate * g(layer.limited(to_c))
        to_o = to_o if hole is None else to_o + hole[1] * c
        return f(layer.limited(to_o)) * h(layer.limited(c)), c

    return _results(*_and_rest(_unrolled(layer, lambda i: product(0, layer.x, i), step)), layout)


def _and_rest(results: tuple[Value, ...]) -> tuple[Value, tuple[Value, ...]]:
    return results[0], results[1:]


@rule("GRU", since=7)
def _gru(
    X: Value, W: Value, R: Value, B: Value | None = None, sequence_lens: Value | None = None,
    initial_h: Value | None = None, *, activation_alpha: Any = None, activation_beta: Any = None,
    activations: Any = None, clip: float | None = None, direction: str = "forward",
    hidden_size: int | None = None, layout: int = 0, linear_before_reset: int = 0,
) -> tuple[Value, ...]:  # fmt: skip
    """Gates in the order update, reset, hidden; torch resets after the product, ONNX before it unless told."""
    attributes = {
        "activation_alpha": activation_alpha, "activation_beta": activation_beta, "activations": activations,
        "clip": clip, "direction": direction, "hidden_size": hidden_size, "layout": layout,
    }  # fmt: skip
    layer = _layer(X, W, R, B, sequence_lens, (initial_h,), attributes, ("Sigmoid", "Tanh"))
    if layer.is_plain("sigmoid", "tanh") and linear_before_reset:
        return _results(*_and_rest(_as_torch(layer, lib.gru, (1, 0, 2))), layout)

    def inputs(i: int) -> Value:
        return lib.linear(layer.x, select(W, 0, i), _biases(layer, i, 3)[0])

    def step(x: Value, states: tuple[Value, ...], i: int) -> tuple[Value, ...]:
        f, g = layer.functions[i]
        before, n = states[0], layer.hidden
        weight, bias = select(R, 0, i), _biases(layer, i, 3)[1]
        both = None if bias is None else slice_axis(bias, 0, 0, 2 * n)
        last = None if bias is None else slice_axis(bias, 0, 2 * n, 3 * n)
        x_z, x_r, x_h = _gates(x, 3)
        h_z, h_r = _gates(lib.linear(before, slice_axis(weight, 0, 0, 2 * n), both), 2)
        update, reset = f(layer.limited(x_z + h_z)), f(layer.limited(x_r + h_r))
        third = slice_axis(weight, 0, 2 * n, 3 * n)
        if linear_before_reset:
            new = g(layer.limited(x_h + reset * lib.linear(before, third, last)))
        else:
            new = g(layer.limited(x_h + lib.linear(reset * before, third, last)))
        return ((1.0 - update) * new + update * before,)

    return _results(*_and_rest(_unrolled(layer, inputs, step)), layout)


@rule("RNN", since=7)
def _rnn(
    X: Value, W: Value, R: Value, B: Value | None = None, sequence_lens: Value | None = None,
    initial_h: Value | None = None, *, activation_alpha: Any = None, activation_beta: Any = None,
    activations: Any = None, clip: float | None = None, direction: str = "forward",
    hidden_size: int | None = None, layout: int = 0,
) -> tuple[Value, ...]:  # fmt: skip
    attributes = {
        "activation_alpha": activation_alpha, "activation_beta": activation_beta, "activations": activations,
        "clip": clip, "direction": direction, "hidden_size": hidden_size, "layout": layout,
    }  # fmt: skip
    layer = _layer(X, W, R, B, sequence_lens, (initial_h,), attributes, ("Tanh",))
    for function in ("tanh", "relu"):
        if layer.is_plain(function):
            return _results(*_and_rest(_as_torch(layer, lib.rnn, (0,), nonlinearity=function)), layout)

    def inputs(i: int) -> Value:
        return lib.linear(layer.x, select(W, 0, i), _biases(layer, i, 1)[0])

    def step(x: Value, states: tuple[Value, ...], i: int) -> tuple[Value, ...]:
        total = x + lib.linear(states[0], select(R, 0, i), _biases(layer, i, 1)[1])
        return (layer.functions[i][0](layer.limited(total)),)

    return _results(*_and_rest(_unrolled(layer, inputs, step)), layout)
