"""Networks to calibrate with: made of the layers that networks are made of, of random sizes, with random weights.

Each is one of a few families (residual, inverted residual, dense, ConvNeXt-like, transformers, mixers, recurrent ...),
so that an op stands among the ops it usually stands among: what is in the caches before it is part of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tdagger.library as tl
from tdagger import ops
from tdagger.frameworks.torch.measure.calibration_layers import Layers
from tdagger.graph import Graph, bulk
from tdagger.op import Value
from tdagger.tensordag import Signature, TensorDAG
from tdagger.tree import Tree


def _pool(x: Value, kernel: int = 3, stride: int = 2, padding: int = 1) -> Value:
    return tl.max_pool(x, kernel=(kernel,) * 2, stride=(stride,) * 2, padding=(padding,) * 2, dilation=(1, 1))


def _classifier(a: Layers, x: Value) -> Value:
    pooled = tl.reshape(tl.adaptive_avg_pool(x, size=(1, 1)), shape=x.shape[:2])
    return a.linear(pooled, a.one_of(100, 1000))


# --- families ----------------------------------------------------------------------------------------------


def _stem(a: Layers, width: int, act: Callable[[Value], Value]) -> tuple[Value, Value]:
    side = a.one_of(160, 192, 224)
    image = ops.input("x", (1, 3, side, side))
    kernel = a.one_of(3, 7)
    x = a.cbr(image, act, width, kernel, 2)
    return image, _pool(x) if a.one_of(True, False) or side > 200 else x


def _residual(a: Layers) -> tuple[Value, Value]:
    """Basic or bottleneck blocks, some grouped, some gated, from 56 or so pixels down to 7."""
    act = a.one_of(tl.relu, tl.relu, tl.silu)
    kind = a.in_turn("basic", "bottleneck", "grouped")
    width = a.one_of(24, 32, 48) if kind == "grouped" else a.one_of(16, 24, 32, 48, 64)
    gated = a.one_of(False, False, True)
    image, x = _stem(a, a.one_of(16, 32, 64), act)
    for stage in range(4):
        inner = width << stage
        out = inner * (1 if kind == "basic" else 4 if kind == "bottleneck" else 2)
        for block in range(a.one_of(1, 2)):
            stride = 2 if stage and not block else 1
            groups = inner // a.one_of(*[n for n in (4, 8, 12, 16, 24) if inner % n == 0]) if kind == "grouped" else 1
            y = x
            if kind == "basic":
                y = a.cbr(a.cbr(y, act, inner, 3, stride), None, out, 3)
            else:
                y = a.cbr(a.cbr(a.cbr(y, act, inner), act, inner, 3, stride, groups), None, out)
            y = a.gate(y, act, 16) if gated else y
            x = x if x.type is y.type else a.cbr(x, None, out, 1, stride)
            x = act(y + x)
    return image, _classifier(a, x)


def _inverted(a: Layers) -> tuple[Value, Value]:
    """Inverted residual blocks: pointwise, depthwise, gate, pointwise."""
    act = a.one_of(tl.relu6, tl.silu, tl.hard_swish, tl.relu)
    gated, base = a.one_of(True, False), a.one_of(8, 16, 24)
    side = a.one_of(160, 192, 224)
    image = ops.input("x", (1, 3, side, side))
    x = a.cbr(image, act, 2 * base, 3, 2)
    out = base
    for stage, mult in enumerate((1, 2, 3, 5, 8, 12)):
        out = base * mult
        for block in range(a.one_of(1, 2)):
            stride = 2 if stage in (1, 2, 3, 5) and not block else 1
            inner = x.shape[1] * (1 if not stage else a.one_of(3, 4, 6))
            y = a.cbr(x, act, inner) if stage else x
            y = a.cbr(y, act, inner, a.one_of(3, 5), stride, inner)
            y = a.cbr(a.gate(y, act) if gated else y, None, out)
            x = x + y if x.type is y.type else y
    return image, _classifier(a, a.cbr(x, act, out * 4))


def _dense(a: Layers) -> tuple[Value, Value]:
    """Blocks that append channels to what they read; average pools in between."""
    image, x = _stem(a, 32, tl.relu)
    growth = a.one_of(12, 16, 32)
    for stage in range(3):
        for _ in range(a.one_of(3, 5, 7)):
            y = a.conv(tl.relu(a.norm(x)), 4 * growth)
            x = ops.concat([x, a.conv(tl.relu(a.norm(y)), growth, 3)], 1)
        if stage < 2:
            x = a.conv(tl.relu(a.norm(x)), x.shape[1] // 2)
            x = tl.avg_pool(x, kernel=(2, 2), stride=(2, 2), padding=(0, 0))
    return image, _classifier(a, tl.relu(a.norm(x)))


def _pyramid(a: Layers) -> tuple[Value, Value]:
    """Features of several sizes, added up after interpolation, or concatenated; biased convolutions."""
    act = a.one_of(tl.relu, tl.silu, tl.leaky_relu)
    image, x = _stem(a, 32, act)
    levels = [x]
    for i in range(1, 4):
        x = a.cbr(a.cbr(x, act, 32 << i, 3, 2), act, 32 << i, 3)
        levels.append(x)
    width = a.one_of(32, 64, 96)
    y = a.conv(levels[-1], width, bias=True)
    for level in reversed(levels[:-1]):
        mode = a.one_of("nearest", "linear")
        y = tl.interpolate(y, size=level.shape[2:], mode=mode)
        side = a.conv(level, width, bias=True)
        y = side + y if a.one_of(True, False) else act(a.conv(ops.concat([side, y], 1), width, bias=True))
        y = act(a.conv(y, width, 3, bias=True))
    return image, y


def _convnext(a: Layers) -> tuple[Value, Value]:
    """Depthwise convolutions, then layer norm and linear layers with the channels last."""
    side, width, pixels = a.one_of(128, 160, 192), a.one_of(40, 48, 64, 96), a.in_turn(True, False)
    image = ops.input("x", (1, 3, side, side))
    x = tl.convolution(image, a.weight(width, 3, 4, 4), a.weight(width), stride=4)
    for stage in range(3):
        if stage:
            y = ops.permute(a.layer_norm(ops.permute(x, (0, 2, 3, 1))), (0, 3, 1, 2))
            weight, bias = a.weight(2 * width, width, 2, 2), a.weight(2 * width)
            x, width = tl.convolution(y, weight, bias, stride=2), 2 * width
        for _ in range(a.one_of(1, 2, 3)):
            y = ops.permute(a.conv(x, width, 7, 1, width, bias=True), (0, 2, 3, 1))
            if pixels:  # channels lie last, and convolutions of single pixels see them first
                y = ops.permute(a.layer_norm(y), (0, 3, 1, 2))
                x = x + a.conv(tl.gelu(a.conv(y, 4 * width, bias=True)), width, bias=True)
            else:
                x = x + ops.permute(a.mlp(a.layer_norm(y), tl.gelu), (0, 3, 1, 2))
    return image, _classifier(a, x)


def _vit(a: Layers) -> tuple[Value, Value]:
    """A patch embedding and transformer blocks before norms."""
    side, patch = a.one_of(128, 160, 224), 16
    head, count = a.one_of(32, 64), a.one_of(3, 4, 6, 8)
    width = head * count
    image = ops.input("x", (1, 3, side, side))
    x = a.tokens(tl.convolution(image, a.weight(width, 3, patch, patch), a.weight(width), stride=patch))
    x = ops.concat([a.weight(1, 1, width), x], 1)
    x = x + a.weight(*x.shape)
    fused, act = a.one_of(True, True, False), a.one_of(tl.gelu, tl.gelu, tl.silu)
    for _ in range(a.one_of(2, 3, 4)):
        x = x + a.attention(a.layer_norm(x), head, fused)
        x = x + a.mlp(a.layer_norm(x), act)
    return image, a.linear(ops.select(a.layer_norm(x), 1, 0), 1000)


def _windows(a: Layers) -> tuple[Value, Value]:
    """Attention within windows of an image with channels last, every second one shifted; merging of patches."""
    window, head = a.one_of(7, 8), a.one_of(16, 32)
    side, width = 4 * window, head * a.one_of(2, 3, 4)
    image = ops.input("x", (1, 3, 4 * side, 4 * side))
    x = ops.permute(tl.convolution(image, a.weight(width, 3, 4, 4), a.weight(width), stride=4), (0, 2, 3, 1))
    fused = a.one_of(True, False)
    for stage in range(3):
        for block in range(2):
            shift = window // 2 if block else 0
            y = a.layer_norm(x)
            y = tl.roll(y, shifts=(-shift, -shift), axes=(1, 2)) if shift else y
            n = side // window
            y = tl.reshape(y, shape=(1, n, window, n, window, width))
            y = tl.reshape(ops.permute(y, (0, 1, 3, 2, 4, 5)), shape=(n * n, window * window, width))
            y = a.attention(y, head, fused, bias=True)
            y = ops.permute(tl.reshape(y, shape=(1, n, n, window, window, width)), (0, 1, 3, 2, 4, 5))
            y = tl.reshape(y, shape=(1, side, side, width))
            x = x + (tl.roll(y, shifts=(shift, shift), axes=(1, 2)) if shift else y)
            x = x + a.mlp(a.layer_norm(x), tl.gelu)
        if stage < 2:
            y = tl.reshape(x, shape=(1, side // 2, 2, side // 2, 2, width))
            y = tl.reshape(ops.permute(y, (0, 1, 3, 4, 2, 5)), shape=(1, side // 2, side // 2, 4 * width))
            x, side, width = a.linear(a.layer_norm(y), 2 * width, bias=False), side // 2, 2 * width
    return image, a.linear(tl.mean(a.layer_norm(x), axes=(1, 2)), 1000)


def _hierarchy(a: Layers) -> tuple[Value, Value]:
    """Many tokens of few channels first, fewer of more later; attention to fewer keys, or by products of features."""
    side, width, head = a.one_of(128, 160, 224), a.one_of(24, 32, 48), 8
    image = ops.input("x", (1, 3, side, side))
    x, side = tl.convolution(image, a.weight(width, 3, 7, 7), a.weight(width), stride=4, padding=3), side // 4
    factored = a.in_turn(True, False)
    for stage in range(3):
        if stage:
            x, side, width = a.conv(a.image(x, side), 2 * width, 3, 2, bias=True), -(-side // 2), 2 * width
        x = a.layer_norm(a.tokens(x))
        for _ in range(a.one_of(1, 2)):
            q, k, v = a.heads(a.layer_norm(x), head)
            if factored:
                y = tl.matmul(q, tl.matmul(ops.permute(tl.softmax(k, axis=2), (0, 1, 3, 2)), v)) * head**-0.5
            else:
                k, v = (ops.slice_axis(t, 2, 0, None, 8 >> stage) for t in (k, v))
                y = tl.scaled_dot_product_attention(q, k, v)
            x = x + a.linear(tl.reshape(ops.permute(y, (0, 2, 1, 3)), shape=x.shape), width)
            y = a.image(a.linear(a.layer_norm(x), width * a.one_of(4, 8)), side)
            y = tl.gelu(a.tokens(a.conv(y, y.shape[1], 3, 1, y.shape[1], bias=True)))
            x = x + a.linear(y, width)
    return image, a.linear(tl.mean(a.layer_norm(x), axes=(1,)), 1000)


def _language(a: Layers) -> tuple[Value, Value]:
    """Token embeddings and transformer blocks as in BERT: norms after, one layer for each of q, k and v."""
    head, count, length = 64, a.one_of(4, 6, 8, 12), a.one_of(32, 64, 128, 256)
    width, words = head * count, a.one_of(2000, 8000, 30000)
    index = ops.input("ids", (1, length), "i64")
    x = tl.embedding(a.weight(words, width), index) + a.weight(1, length, width)
    x = a.layer_norm(x)
    causal, act = a.one_of(True, False), a.one_of(tl.gelu, tl.relu, _tanh_gelu)
    for _ in range(a.one_of(1, 2, 3)):
        q, k, v = (
            ops.permute(tl.reshape(a.linear(x, width), shape=(1, length, count, head)), (0, 2, 1, 3)) for _ in range(3)
        )
        y = tl.scaled_dot_product_attention(q, k, v, causal=causal)
        y = tl.reshape(ops.permute(y, (0, 2, 1, 3)), shape=(1, length, width))
        x = a.layer_norm(x + a.linear(y, width))
        x = a.layer_norm(x + a.mlp(x, act))
    return index, a.linear(x, words, bias=False) if a.one_of(True, False) else ops.tanh(
        a.linear(ops.select(x, 1, 0), width)
    )


def _tanh_gelu(x: Value) -> Value:
    """Gelu by tanh, written out."""
    inner = (x + x * x * x * 0.044715) * 0.7978845608
    return x * 0.5 * (ops.tanh(inner) + 1.0)


def _decoder(a: Layers) -> tuple[Value, Value]:
    """Blocks as in Llama: RMS norms, rotated queries and keys, fewer keys than queries, a gated MLP."""
    head, count, length = 64, a.one_of(4, 6, 8), a.one_of(32, 64, 128)
    shared = a.one_of(1, 2)
    width, words = head * count, a.one_of(2000, 8000, 30000)
    index = ops.input("ids", (1, length), "i64")
    x = tl.embedding(a.weight(words, width), index)
    cos, sin = a.buffer(1, 1, length, head), a.buffer(1, 1, length, head)

    def norm(y: Value) -> Value:
        size = tl.mean(tl.square(y), axes=(-1,), keep=True) + 1e-6
        scaled = y * ops.broadcast_to(tl.rsqrt(size), y.shape)
        return scaled * ops.broadcast_to(a.weight(1, 1, width), y.shape)

    def rotated(y: Value) -> Value:
        low, high = ops.slice_axis(y, 3, 0, head // 2), ops.slice_axis(y, 3, head // 2, head)
        turned = ops.concat([-high, low], 3)
        return y * ops.broadcast_to(cos, y.shape) + turned * ops.broadcast_to(sin, y.shape)

    for _ in range(a.one_of(1, 2, 3)):
        y = norm(x)
        q, k, v = (
            ops.permute(tl.reshape(a.linear(y, n * head, False), shape=(1, length, n, head)), (0, 2, 1, 3))
            for n in (count, count // shared, count // shared)
        )
        y = tl.scaled_dot_product_attention(rotated(q), rotated(k), v, causal=True, grouped=shared > 1)
        x = x + a.linear(tl.reshape(ops.permute(y, (0, 2, 1, 3)), shape=(1, length, width)), width, False)
        y = norm(x)
        x = x + a.linear(tl.silu(a.linear(y, 3 * width, False)) * a.linear(y, 3 * width, False), width, False)
    return index, a.linear(norm(x), words, False)


def _mixer(a: Layers) -> tuple[Value, Value]:
    """Linear layers over channels and, transposed, over tokens."""
    side, width = a.one_of(128, 224), a.one_of(128, 256, 384)
    image = ops.input("x", (1, 3, side, side))
    x = a.tokens(tl.convolution(image, a.weight(width, 3, 16, 16), a.weight(width), stride=16))
    for _ in range(a.one_of(2, 4)):
        y = ops.permute(a.layer_norm(x), (0, 2, 1))
        y = a.linear(tl.gelu(a.linear(y, width // 2)), x.shape[1])
        x = x + ops.permute(y, (0, 2, 1))
        x = x + a.mlp(a.layer_norm(x), tl.gelu)
    return image, a.linear(tl.mean(a.layer_norm(x), axes=(1,)), 1000)


def _recurrent(a: Layers) -> tuple[Value, Value]:
    """LSTMs or GRUs over a sequence, between linear layers."""
    width, length, layers = a.one_of(64, 128, 256), a.one_of(32, 64, 128), a.one_of(1, 2)
    x = ops.input("x", (1, length, width))
    gates, op, states = a.one_of((4, tl.lstm, 2), (3, tl.gru, 1))
    weights = [w for _ in range(layers) for w in _gates(a, gates, width)]
    start = [a.buffer(layers, 1, width) for _ in range(states)]
    y = op(a.linear(x, width), *start, *weights, layers=layers, batch_first=True)[0]
    return x, a.linear(tl.relu(y), width)


def _gates(a: Layers, gates: int, width: int) -> list[Value]:
    return [
        a.weight(gates * width, width),
        a.weight(gates * width, width),
        a.weight(gates * width),
        a.weight(gates * width),
    ]


FAMILIES: Sequence[Callable[[Layers], tuple[Value, Value]]] = (
    _residual, _vit, _inverted, _language, _residual, _windows, _dense, _decoder, _inverted, _convnext, _residual, _vit,
    _pyramid, _mixer, _language, _recurrent, _hierarchy,
)  # fmt: skip


def network(number: int) -> TensorDAG:
    """The calibration network of this number; the families come in turns, the number is the seed of its sizes."""
    family = FAMILIES[number % len(FAMILIES)]
    layers = Layers(number, len(FAMILIES))
    with bulk():
        given, result = family(layers)
        graph = Graph({given.op.attributes["leaf"]: given}, {"out": result}, name=f"{family.__name__[1:]}{number}")
    leaf = Tree("leaf")
    inputs = Tree("tuple", (0, 1), (Tree("tuple", (0,), (leaf,)), Tree("dict")))
    return TensorDAG(graph, layers.weights, Signature(inputs, leaf), name=graph.name)
