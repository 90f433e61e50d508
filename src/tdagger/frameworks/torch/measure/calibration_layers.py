"""The layers that calibration networks are made of, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import tdagger.library as tl
from tdagger import ops
from tdagger.op import Array, Value

_SCALE = 0.05


class Layers:
    """Makes layers with new random weights, and chooses sizes: for network ``number``, of so many ``families``."""

    def __init__(self, number: int, families: int) -> None:
        self.turn = number // families + number % families
        self.rng = np.random.default_rng(number)
        self.weights: dict[str, Array] = {}

    def one_of(self, *choices: Any) -> Any:
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def in_turn(self, *choices: Any) -> Any:
        """Another of the choices for every network of a family, so that each comes up."""
        return choices[self.turn % len(choices)]

    def weight(self, *shape: int) -> Value:
        """A new parameter."""
        name = f"w{len(self.weights)}"
        self.weights[name] = (_SCALE * self.rng.standard_normal(shape)).astype(np.float32)
        return ops.parameter(name, shape)

    def buffer(self, *shape: int) -> Value:
        """A new buffer of numbers near 1."""
        name = f"w{len(self.weights)}"
        self.weights[name] = self.rng.uniform(0.5, 1.5, shape).astype(np.float32)
        return ops.buffer(name, shape)

    def conv(self, x: Value, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = False) -> Value:
        """A convolution of an image ``[n c h w]``, padded to keep the size at stride 1."""
        weight = self.weight(out, x.shape[1] // groups, kernel, kernel)
        b = self.weight(out) if bias else None
        return tl.convolution(x, weight, b, stride=stride, padding=kernel // 2, groups=groups)

    def norm(self, x: Value) -> Value:
        """Batch norm of an image."""
        n = x.shape[1]
        return tl.batch_norm(x, self.buffer(n), self.buffer(n), self.weight(n), self.weight(n))

    def layer_norm(self, x: Value) -> Value:
        """Layer norm of the last axis."""
        return tl.layer_norm(x, self.weight(x.shape[-1]), self.weight(x.shape[-1]))

    def linear(self, x: Value, out: int, bias: bool = True) -> Value:
        """A linear layer on the last axis."""
        return tl.linear(x, self.weight(out, x.shape[-1]), self.weight(out) if bias else None)

    def cbr(self, x: Value, act: Callable[[Value], Value] | None, out: int, *sizes: Any) -> Value:
        """Convolution, batch norm, activation."""
        y = self.norm(self.conv(x, out, *sizes))
        return y if act is None else act(y)

    def gate(self, x: Value, act: Callable[[Value], Value], reduction: int = 4) -> Value:
        """Squeeze and excitation: every channel times what is made of the means of all."""
        n = x.shape[1]
        s = tl.mean(x, axes=(2, 3), keep=True)
        s = self.conv(act(self.conv(s, max(n // reduction, 8), bias=True)), n, bias=True)
        return x * tl.sigmoid(s)

    def heads(self, x: Value, width: int) -> list[Value]:
        """Queries, keys and values ``[n heads s width]`` of tokens ``[n s c]``, from one linear layer."""
        n, s, c = x.shape
        y = tl.reshape(self.linear(x, 3 * c), shape=(n, s, 3, c // width, width))
        y = ops.permute(y, (2, 0, 3, 1, 4))
        return [ops.select(y, 0, i) for i in range(3)]

    def attention(self, x: Value, width: int, fused: bool = True, bias: bool = False) -> Value:
        """Self-attention of tokens ``[n s c]``: as one op, or as products and a softmax."""
        n, s, c = x.shape
        q, k, v = self.heads(x, width)
        if fused:
            y = tl.scaled_dot_product_attention(q, k, v)
        else:
            scores = tl.matmul(q * width**-0.5, ops.permute(k, (0, 1, 3, 2)))
            if bias:
                scores = scores + ops.broadcast_to(self.weight(1, c // width, s, s), scores.shape)
            y = tl.matmul(tl.softmax(scores, axis=-1), v)
        return self.linear(tl.reshape(ops.permute(y, (0, 2, 1, 3)), shape=(n, s, c)), c)

    def mlp(self, x: Value, act: Callable[[Value], Value], ratio: int = 4) -> Value:
        """Two linear layers with an activation in between."""
        return self.linear(act(self.linear(x, ratio * x.shape[-1])), x.shape[-1])

    def tokens(self, x: Value) -> Value:
        """An image ``[n c h w]`` as tokens ``[n (h w) c]``."""
        n, c, h, w = x.shape
        return ops.permute(tl.reshape(x, shape=(n, c, h * w)), (0, 2, 1))

    def image(self, x: Value, side: int) -> Value:
        """Tokens ``[n (h w) c]`` as an image."""
        n, _, c = x.shape
        return tl.reshape(ops.permute(x, (0, 2, 1)), shape=(n, c, side, side))
