"""Programs that every tool is tested on, each with what it computes in plain numpy.

``PROGRAMS`` maps a name to a program, a function of arrays that gives what it must, and arrays to try.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import tdagger as td

I64 = td.TensorType((), "i64")
BOOL = td.TensorType((), "bool")
RANDOM = np.random.default_rng(0)


class Sample(NamedTuple):
    program: td.Program
    reference: Callable[..., Any]
    inputs: Sequence[tuple[Any, ...]]


PROGRAMS: dict[str, Sample] = {}


def sample(inputs: dict[str, Any], *tries: tuple[Any, ...], **options: Any) -> Any:
    def add(pair: Callable[[], tuple[Any, Any]]) -> None:
        function, reference = pair()
        name = pair.__name__
        PROGRAMS[name] = Sample(td.program(inputs, name=name, **options)(function), reference, tries)

    return add


def f(*shape: int, scale: float = 1.0) -> Any:
    return (RANDOM.normal(size=shape) * scale).astype("f")


def i(n: int) -> Any:
    return np.int64(n)


def scalar(x: Any) -> Any:
    return td.reshape(x, shape=())


def total(x: Any) -> Any:
    return scalar(td.reduce(x, "sum"))


@sample({"x": (), "n": I64}, (f(), i(0)), (f(), i(1)), (f(), i(7)))
def power() -> Any:
    def reference(x: Any, n: Any) -> Any:
        y = np.float32(1)
        for _ in range(n):
            y = y * x
        return y

    return lambda x, n: td.while_loop(lambda k, y: k < n, lambda k, y: (k + 1, y * x), (0, 1.0))[1], reference


@sample({"x": (4,)}, (f(4),), (f(4, scale=100),))
def zero_turns() -> Any:
    def reference(x: Any) -> Any:
        while np.abs(x).max() > 50:
            x = x / np.float32(2)
        return x

    def largest(x: Any) -> Any:
        return scalar(td.reduce(abs(x), "max"))

    return lambda x: td.while_loop(lambda x: largest(x) > 50.0, lambda x: x / 2.0, x), reference


@sample({"n": I64, "m": I64}, (i(3), i(4)), (i(0), i(4)), (i(5), i(0)), (i(6), i(6)))
def nested_loops() -> Any:
    def function(n: Any, m: Any) -> Any:
        def row(k: Any, count: Any) -> Any:
            inner = td.while_loop(lambda j, c: j < m, lambda j, c: (j + 1, c + k * j + 1), (0, count))
            return k + 1, inner[1]

        return td.while_loop(lambda k, c: k < n, row, (0, 0))[1]

    def reference(n: Any, m: Any) -> Any:
        c = 0
        for k in range(n):
            for j in range(m):
                c = c + k * j + 1
        return np.int64(c)

    return function, reference


@sample({"n": I64}, (i(0),), (i(1),), (i(10),), (i(23),))
def loop_in_branch_in_loop() -> Any:
    def function(n: Any) -> Any:
        def body(k: Any, s: Any) -> Any:
            def halves() -> Any:
                return td.while_loop(lambda m, t: m > 0, lambda m, t: (td.floor_divide(m, 2), t + m), (k, s))[1]

            return k + 1, td.if_(td.equal(k % 3, td.const(0)), halves, lambda: s + 1)

        return td.while_loop(lambda k, s: k < n, body, (0, 0))[1]

    def reference(n: Any) -> Any:
        s = 0
        for k in range(n):
            if k % 3 == 0:
                m = k
                while m > 0:
                    m, s = m // 2, s + m
            else:
                s += 1
        return np.int64(s)

    return function, reference


@sample({"xs": (8,), "limit": ()}, (f(8), np.float32(1)), (f(8), np.float32(100)), (f(8), np.float32(-1)))
def early_exit() -> Any:
    """The first place where a running sum of squares is over a limit."""

    def function(xs: Any, limit: Any) -> Any:
        def going(k: Any, s: Any) -> Any:
            return (k < 8) & (s <= limit)

        def body(k: Any, s: Any) -> Any:
            x = td.gather(xs, k, 0)
            return k + 1, s + x * x

        return td.while_loop(going, body, (0, 0.0))

    def reference(xs: Any, limit: Any) -> Any:
        k, s = 0, np.float32(0)
        while k < 8 and s <= limit:
            k, s = k + 1, s + xs[k] * xs[k]
        return np.int64(k), s

    return function, reference


@sample({"x": (td.upto(6),)}, (f(6),), (f(1),), (f(4),))
def bounded_sum() -> Any:
    def function(x: Any) -> Any:
        n = td.length(x)
        s = td.while_loop(lambda k, s: k < n, lambda k, s: (k + 1, s + td.gather(x, k, 0)), (0, 0.0))[1]
        return s, n

    def reference(x: Any) -> Any:
        s = np.float32(0)
        for v in x:
            s = s + v
        return s, np.int64(len(x))

    return function, reference


@sample({"x": (td.upto(5),), "n": I64}, (f(3), i(2)), (f(5), i(0)), (f(1), i(4)))
def bounded_growth() -> Any:
    """Entries are put behind those there are: a list that grows up to a bound."""

    def function(x: Any, n: Any) -> Any:
        room = td.concat([x, td.const(np.zeros(4, "f"))], 0)

        def body(k: Any, room: Any) -> Any:
            at = td.length(x) + k
            last = td.gather(room, at - 1, 0)
            return k + 1, td.scatter(room, at, last * 2.0, 0)

        room = td.while_loop(lambda k, r: k < n, body, (0, room))[1]
        return td.bounded(room, td.length(x) + n)

    def reference(x: Any, n: Any) -> Any:
        out = list(x)
        for _ in range(n):
            out.append(out[-1] * np.float32(2))
        return np.array(out, "f")

    return function, reference


@sample({"x": ()}, (f(),), (np.float32(40),))
def shadowed_names() -> Any:
    def function(x: Any) -> Any:
        def body(x: Any) -> Any:
            return td.while_loop(lambda x: x > 10.0, lambda x: x - 10.0, x * 3.0) + 11.0

        outer = td.while_loop(lambda x: x < 15.0, body, x)
        return outer, x

    def reference(x: Any) -> Any:
        y = x
        while y < 15:
            z = y * np.float32(3)
            while z > 10:
                z = z - np.float32(10)
            y = z + np.float32(11)
        return y, x

    return function, reference


@sample({"a": (3, 3), "x": (3,), "n": I64}, (f(3, 3, scale=0.4), f(3), i(4)), (f(3, 3), f(3), i(0)))
def captured_outer_values() -> Any:
    """Of what is used inside a loop only what changes in it is computed there."""

    def function(a: Any, x: Any, n: Any) -> Any:
        root = td.tanh(a)

        def body(k: Any, x: Any) -> Any:
            product = td.matmul(root, td.reshape(x, shape=(3, 1)))
            first = td.reshape(td.slice_axis(a, 0, 0, 1), shape=(3,))
            return k + 1, td.reshape(product, shape=(3,)) + td.exp(td.sin(first))

        return td.while_loop(lambda k, x: k < n, body, (0, x))[1]

    def reference(a: Any, x: Any, n: Any) -> Any:
        for _ in range(n):
            x = np.tanh(a) @ x + np.exp(np.sin(a[0]))
        return x

    return function, reference


@sample({"x": (2,)}, (f(2),), state={"total": np.zeros(2, "f"), "count": np.zeros((), "i8")})
def state() -> Any:
    def function(x: Any) -> Any:
        td.set_state("count", td.state("count") + 1)
        return td.set_state("total", td.state("total") + x)

    return function, lambda x: x


@sample({"x": (), "n": I64}, (f(), i(3)), (f(), i(0)), state={"h": np.ones((), "f")})
def state_in_a_loop() -> Any:
    """A buffer that only a branch in a loop changes, and that is read after it."""

    def function(x: Any, n: Any) -> Any:
        def body(k: Any) -> Any:
            def change() -> Any:
                return td.set_state("h", td.state("h") * x + 1.0)

            td.if_(td.equal(k % 2, td.const(0)), change, lambda: x)
            return k + 1

        td.while_loop(lambda k: k < n, body, 0)
        return td.state("h")

    def reference(x: Any, n: Any) -> Any:
        h = np.float32(1)
        for k in range(n):
            if k % 2 == 0:
                h = h * x + np.float32(1)
        return h

    return function, reference


@sample({"xs": (5, 2), "w": (5,)}, (f(5, 2), f(5)))
def scan_carries() -> Any:
    """A scan with two carries and three outputs, of two inputs."""

    def function(xs: Any, w: Any) -> Any:
        def body(carry: Any, x: Any) -> Any:
            a, b = carry
            x, w = x
            a = a + x * td.broadcast_to(w, (2,))
            return (a, b * 0.5 + w), {"sum": a, "b": b, "big": b > 0.0}

        return td.scan(body, (td.const(np.zeros(2, "f")), 0.0), (xs, w))

    def reference(xs: Any, w: Any) -> Any:
        a, b, sums, bs = np.zeros(2, "f"), np.float32(0), [], []
        for x, v in zip(xs, w, strict=True):
            a = a + x * v
            sums.append(a)
            bs.append(b)
            b = b * np.float32(0.5) + v
        return (a, b), {"sum": np.array(sums), "b": np.array(bs), "big": np.array(bs) > 0}

    return function, reference


@sample({"xs": (4,)}, (f(4),))
def reverse_scan() -> Any:
    def function(xs: Any) -> Any:
        return td.scan(lambda c, x: (c * 0.9 + x, c), 0.0, xs, reverse=True)

    def reference(xs: Any) -> Any:
        c, ys = np.float32(0), np.zeros(4, "f")
        for k in range(3, -1, -1):
            ys[k] = c
            c = c * np.float32(0.9) + xs[k]
        return c, ys

    return function, reference


@sample({"xs": (3, 4)}, (f(3, 4),))
def nested_scans() -> Any:
    def function(xs: Any) -> Any:
        def rows(c: Any, row: Any) -> Any:
            c, ys = td.scan(lambda c, x: (c + x, c * x), c, row)
            return c, ys

        return td.scan(rows, 0.0, xs)

    def reference(xs: Any) -> Any:
        c, out = np.float32(0), np.zeros((3, 4), "f")
        for a in range(3):
            for b in range(4):
                out[a, b] = c * xs[a, b]
                c = c + xs[a, b]
        return c, out

    return function, reference


@sample({"x": ()}, (f(),))
def scan_without_inputs() -> Any:
    def reference(x: Any) -> Any:
        ys = []
        for _ in range(5):
            ys.append(x)
            x = x * np.float32(0.5)
        return x, np.array(ys)

    return lambda x: td.scan(lambda c, _: (c * 0.5, c), x, None, length=5), reference


@sample({"k": I64, "x": (3,)}, *[(i(n), f(3)) for n in (0, 1, 2, 3, -1)])
def switch() -> Any:
    def function(k: Any, x: Any) -> Any:
        return td.switch(k, [lambda x: td.exp(x), lambda x: -x, lambda x: x * x], x)

    def reference(k: Any, x: Any) -> Any:
        return (np.exp(x), -x, x * x)[k if 0 <= k < 2 else 2]

    return function, reference


@sample({"x": (), "p": BOOL, "q": BOOL}, *[(f(), np.bool_(a), np.bool_(b)) for a in (0, 1) for b in (0, 1)])
def nested_branches() -> Any:
    def function(x: Any, p: Any, q: Any) -> Any:
        y = td.exp(x)
        inner = lambda: td.if_(q, lambda: (y, 1), lambda: (x, 2))  # noqa: E731
        return td.if_(p, inner, lambda: (y + x, 3))

    def reference(x: Any, p: Any, q: Any) -> Any:
        y = np.exp(x)
        return ((y, np.int64(1)) if q else (x, np.int64(2))) if p else (y + x, np.int64(3))

    return function, reference


@sample({"x": ()}, (np.float32(2),), (np.float32(9),), (np.float32(0.25),))
def newton() -> Any:
    """A root by Newton's iteration, until it no longer moves."""

    def function(x: Any) -> Any:
        def body(y: Any, _: Any) -> Any:
            new = (y + x / y) * 0.5
            return new, abs(new - y)

        return td.while_loop(lambda y, step: step > 1e-6, body, (x, 1.0))[0]

    def reference(x: Any) -> Any:
        y, step = x, np.float32(1)
        while step > np.float32(1e-6):
            new = (y + x / y) * np.float32(0.5)
            y, step = new, abs(new - y)
        return y

    return function, reference


SYMMETRIC = f(4, 4)
SYMMETRIC = (SYMMETRIC + SYMMETRIC.T).astype("f")


@sample({"a": (4, 4), "n": I64}, (SYMMETRIC, i(20)), (SYMMETRIC, i(0)))
def power_iteration() -> Any:
    def function(a: Any, n: Any) -> Any:
        def body(k: Any, v: Any) -> Any:
            w = td.matmul(a, v)
            return k + 1, w / td.broadcast_to(td.sqrt(td.reduce(w * w, "sum")), (4, 1))

        v = td.while_loop(lambda k, v: k < n, body, (0, td.const(np.full((4, 1), 0.5, "f"))))[1]
        return total(v * td.matmul(a, v))

    def reference(a: Any, n: Any) -> Any:
        v = np.full((4, 1), 0.5, "f")
        for _ in range(n):
            w = a @ v
            v = w / np.sqrt((w * w).sum())
        return (v * (a @ v)).sum()

    return function, reference


@sample({"xs": (10, 2), "start": (3, 2)}, (f(10, 2), f(3, 2)), (f(10, 2), f(3, 2)))
def k_means() -> Any:
    """Until no point changes its cluster, and at most 20 turns."""

    def function(xs: Any, start: Any) -> Any:
        def nearest(centres: Any) -> Any:
            apart = td.broadcast_to(td.unsqueeze(xs, (1,)), (10, 3, 2)) - td.broadcast_to(
                td.unsqueeze(centres, (0,)), (10, 3, 2)
            )
            return td.argmin(td.squeeze(td.reduce(apart * apart, "sum", (2,)), (2,)), axis=1)

        def body(k: Any, centres: Any, at: Any, _: Any) -> Any:
            ones = td.cast(td.one_hot(at, classes=3), "f32")
            counts = td.transpose(td.reduce(ones, "sum", (0,)), 0, 1)
            sums = td.matmul(td.transpose(ones, 0, 1), xs)
            centres = td.where(
                td.broadcast_to(counts > 0.0, (3, 2)), sums / td.broadcast_to(td.maximum(counts, 1.0), (3, 2)), centres
            )
            new = nearest(centres)
            return k + 1, centres, new, scalar(td.reduce(td.not_equal(new, at), "any"))

        _, centres, at, _ = td.while_loop(
            lambda k, c, a, changed: changed & (k < 20), body, (0, start, nearest(start), True)
        )
        return centres, at

    def reference(xs: Any, start: Any) -> Any:
        def nearest(c: Any) -> Any:
            return ((xs[:, None] - c[None]) ** 2).sum(2).argmin(1)

        centres, at = start, nearest(start)
        for _ in range(20):
            new = np.array(
                [xs[at == j].sum(0) / np.float32((at == j).sum()) if (at == j).any() else centres[j] for j in range(3)]
            )
            centres, before, at = new, at, nearest(new)
            if (at == before).all():
                break
        return centres.astype("f"), at

    return function, reference


@sample({"x": (1, 4), "halting": (4, 1), "w": (4, 4)}, (f(1, 4), f(4, 1), f(4, 4)), (f(1, 4), f(4, 1), f(4, 4)))
def adaptive_steps() -> Any:
    """Adaptive computation time: steps until their halting probabilities sum to one, weighted by them."""

    def function(x: Any, halting: Any, w: Any) -> Any:
        def body(k: Any, x: Any, left: Any, out: Any) -> Any:
            x = td.tanh(td.matmul(x, w))
            p = td.minimum(td.sigmoid(scalar(td.matmul(x, halting))), left)
            return k + 1, x, left - p, out + x * td.broadcast_to(p, (1, 4))

        start = (0, x, 1.0, td.const(np.zeros((1, 4), "f")))
        k, _, _, out = td.while_loop(lambda k, x, left, out: (left > 0.01) & (k < 10), body, start)
        return out, k

    def reference(x: Any, halting: Any, w: Any) -> Any:
        k, left, out = 0, np.float32(1), np.zeros((1, 4), "f")
        while left > np.float32(0.01) and k < 10:
            x = np.tanh(x @ w)
            p = min(np.float32(1 / (1 + np.exp(-(x @ halting)[0, 0]))), left)
            k, left, out = k + 1, left - p, out + x * p
        return out, np.int64(k)

    return function, reference


@sample({"noise": (2, 3), "w": (3, 3)}, (f(2, 3), f(3, 3)))
def diffusion_sampler() -> Any:
    """DDIM over a table of noise levels, with a network for the noise."""
    levels = np.linspace(0.01, 0.99, 8)[::-1].astype("f").copy()

    def function(noise: Any, w: Any) -> Any:
        table = td.const(levels)

        def body(x: Any, i: Any) -> Any:
            now, after = td.gather(table, i, 0), td.gather(table, i + 1, 0)
            e = td.tanh(td.matmul(x, w)) * td.broadcast_to(td.sqrt(now), (2, 3))
            clean = (x - e * td.broadcast_to(td.sqrt(now), (2, 3))) / td.broadcast_to(td.sqrt(1.0 - now), (2, 3))
            spread = td.broadcast_to(td.sqrt(1.0 - after), (2, 3)), td.broadcast_to(td.sqrt(after), (2, 3))
            return clean * spread[0] + e * spread[1], None

        return td.scan(body, noise, td.iota(7))[0]

    def reference(noise: Any, w: Any) -> Any:
        x = noise
        for now, after in pairwise(levels):
            e = np.tanh(x @ w) * np.sqrt(now)
            clean = (x - e * np.sqrt(now)) / np.sqrt(1 - now)
            x = clean * np.sqrt(1 - after) + e * np.sqrt(after)
        return x

    return function, reference


@sample({"scores": (9, 4)}, (f(9, 4),), (f(9, 4),))
def ctc_greedy() -> Any:
    """The best class of each frame, without repeats and blanks (class 0)."""

    def function(scores: Any) -> Any:
        best = td.argmax(scores, axis=1)

        def body(k: Any, last: Any, n: Any, out: Any) -> Any:
            now = td.gather(best, k, 0)
            keep = td.not_equal(now, last) & td.not_equal(now, td.const(0))
            out, n = td.if_(keep, lambda: (td.scatter(out, n, now, 0), n + 1), lambda: (out, n))
            return k + 1, now, n, out

        start = (0, -1, 0, td.const(np.zeros(9, "i8")))
        _, _, n, out = td.while_loop(lambda k, last, n, out: k < 9, body, start)
        return td.bounded(out, n)

    def reference(scores: Any) -> Any:
        out, last = [], -1
        for now in scores.argmax(1):
            if now not in (last, 0):
                out.append(now)
            last = now
        return np.array(out, "i8")

    return function, reference


def _boxes(n: int) -> Any:
    corner = RANDOM.uniform(0, 4, size=(n, 2))
    return np.concatenate([corner, corner + RANDOM.uniform(1, 3, size=(n, 2))], 1).astype("f")


@sample({"boxes": (7, 4), "scores": (7,)}, (_boxes(7), f(7)), (_boxes(7), f(7)))
def non_maximum_suppression() -> Any:
    def function(boxes: Any, scores: Any) -> Any:
        order = td.argsort(scores, axis=0, descending=True)

        def corner(x: Any, j: int, n: int) -> Any:
            return td.slice_axis(x, x.rank - 1, j, j + n)

        def body(k: Any, alive: Any, n: Any, out: Any) -> Any:
            at = td.gather(order, k, 0)

            def keep() -> Any:
                box = td.broadcast_to(td.unsqueeze(td.gather(boxes, at, 0), (0,)), (7, 4))
                low, high = (
                    td.maximum(corner(box, 0, 2), corner(boxes, 0, 2)),
                    td.minimum(corner(box, 2, 2), corner(boxes, 2, 2)),
                )
                shared = td.squeeze(td.reduce(td.maximum(high - low, 0.0), "prod", (1,)), (1,))
                areas = [
                    td.squeeze(td.reduce(corner(b, 2, 2) - corner(b, 0, 2), "prod", (1,)), (1,)) for b in (box, boxes)
                ]
                far = shared / (areas[0] + areas[1] - shared) <= 0.3
                return alive & far, n + 1, td.scatter(out, n, at, 0)

            return k + 1, *td.if_(td.gather(alive, at, 0), keep, lambda: (alive, n, out))

        start = (0, td.const(np.ones(7, "bool")), 0, td.const(np.zeros(7, "i8")))
        _, _, n, out = td.while_loop(lambda k, alive, n, out: k < 7, body, start)
        return td.bounded(out, n)

    def reference(boxes: Any, scores: Any) -> Any:
        alive, out = np.ones(7, bool), []
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        for at in np.argsort(-scores, kind="stable"):
            if alive[at]:
                out.append(at)
                size = np.minimum(boxes[at, 2:], boxes[:, 2:]) - np.maximum(boxes[at, :2], boxes[:, :2])
                shared = np.maximum(size, 0).prod(1)
                alive &= shared / (area[at] + area - shared) <= np.float32(0.3)
        return np.array(out, "i8")

    return function, reference


@sample({"start": I64, "table": (6, 6)}, (i(0), f(6, 6)), (i(5), f(6, 6)))
def greedy_decoding() -> Any:
    """The most likely class after each, until class 3 or twelve of them."""

    def function(start: Any, table: Any) -> Any:
        room = td.scatter(td.const(np.zeros(12, "i8")), td.const(0), start, 0)

        def going(n: Any, last: Any, out: Any) -> Any:
            return (n < 12) & td.not_equal(last, td.const(3))

        def body(n: Any, last: Any, out: Any) -> Any:
            new = scalar(td.argmax(td.gather(table, last, 0), axis=0))
            return n + 1, new, td.scatter(out, n, new, 0)

        n, _, out = td.while_loop(going, body, (1, start, room))
        return td.bounded(out, n)

    def reference(start: Any, table: Any) -> Any:
        out = [start]
        while len(out) < 12 and out[-1] != 3:
            out.append(table[out[-1]].argmax())
        return np.array(out, "i8")

    return function, reference


@sample({"table": (5, 5)}, (f(5, 5),), (f(5, 5),))
def beam_search() -> Any:
    """The best two chains of six classes from class 0, by the sum of scores."""
    width, steps = 2, 6

    def function(table: Any) -> Any:
        first = td.const(np.array([0.0, -1e9], "f"))

        def body(carry: Any, k: Any) -> Any:
            scores, chains = carry
            last = td.gather(td.transpose(chains, 0, 1), k, 0)
            all_scores = td.broadcast_to(td.unsqueeze(scores, (1,)), (width, 5)) + td.gather(table, last, 0)
            best, at = td.topk(td.reshape(all_scores, shape=(5 * width,)), k=width, axis=0)
            parent, new = td.floor_divide(at, 5), at % 5
            chains = td.gather(chains, parent, 0)
            chains = td.transpose(td.scatter(td.transpose(chains, 0, 1), k + 1, new, 0), 0, 1)
            return (best, chains), parent

        start = (first, td.const(np.zeros((width, steps + 1), "i8")))
        (scores, chains), parents = td.scan(body, start, td.iota(steps))
        return scores, chains, parents

    def reference(table: Any) -> Any:
        scores, chains, parents = np.array([0, -1e9], "f"), np.zeros((width, steps + 1), "i8"), []
        for k in range(steps):
            every = (scores[:, None] + table[chains[:, k]]).reshape(-1)
            at = np.argsort(-every, kind="stable")[:width]
            parents.append(at // 5)
            scores, chains = every[at], chains[at // 5].copy()
            chains[:, k + 1] = at % 5
        return scores, chains, np.array(parents)

    return function, reference


@sample({"table": (4, 4), "numbers": (6,)}, (f(4, 4), RANDOM.uniform(size=6).astype("f")))
def sampled_decoding() -> Any:
    """A class after each by its probability, of the two most likely; the numbers are given."""

    def function(table: Any, numbers: Any) -> Any:
        def body(last: Any, number: Any) -> Any:
            best, at = td.topk(td.gather(table, last, 0), k=2, axis=0)
            first = scalar(td.slice_axis(td.softmax(best, axis=0), 0, 0, 1))
            new = td.gather(at, td.cast(number >= first, "i64"), 0)
            return new, new

        return td.scan(body, 0, numbers)[1]

    def reference(table: Any, numbers: Any) -> Any:
        last, out = 0, []
        for number in numbers:
            at = np.argsort(-table[last], kind="stable")[:2]
            e = np.exp(table[last][at] - table[last][at].max())
            last = at[int(number >= (e / e.sum())[0])]
            out.append(last)
        return np.array(out)

    return function, reference


@sample({"x": (3, 4), "h": (1, 5)}, (f(3, 4), f(1, 5)),
        parameters={"w": f(5, 4), "u": f(5, 5), "b": f(5)})  # fmt: skip
def recurrent_network() -> Any:
    """A recurrent layer step by step, with weights."""

    def function(x: Any, h: Any, w: Any, u: Any, b: Any) -> Any:
        def body(h: Any, x: Any) -> Any:
            h = td.tanh(td.linear(td.unsqueeze(x, (0,)), w, b) + td.linear(h, u))
            return h, td.squeeze(h, (0,))

        return td.scan(body, h, x)

    program = PROGRAMS

    def reference(x: Any, h: Any) -> Any:
        weights = program["recurrent_network"].program.weights
        out = []
        for v in x:
            h = np.tanh(v[None] @ weights["w"].T + weights["b"] + h @ weights["u"].T)
            out.append(h[0])
        return h, np.array(out)

    return function, reference


@sample({"a": I64, "b": I64}, (i(48), i(36)), (i(7), i(0)), (i(17), i(5)))
def swapped_carries() -> Any:
    """The greatest common divisor: each carry becomes what the other was."""

    def reference(a: Any, b: Any) -> Any:
        return np.gcd(a, b)

    return lambda a, b: td.while_loop(lambda a, b: b > 0, lambda a, b: (b, a % b), (a, b))[0], reference


@sample({"n": I64}, (i(6),), (i(27),), (i(1),))
def collatz() -> Any:
    def function(n: Any) -> Any:
        def body(n: Any, steps: Any, top: Any) -> Any:
            n = td.if_(td.equal(n % 2, td.const(0)), lambda: td.floor_divide(n, 2), lambda: n * 3 + 1)
            return n, steps + 1, td.maximum(top, n)

        return td.while_loop(lambda n, s, t: n > 1, body, (n, 0, n))

    def reference(n: Any) -> Any:
        steps, top = 0, n
        while n > 1:
            n = n // 2 if n % 2 == 0 else n * 3 + 1
            steps, top = steps + 1, max(top, n)
        return np.int64(n), np.int64(steps), np.int64(top)

    return function, reference


@sample({"x": (3,), "n": I64}, (f(3), i(3)), (f(3), i(0)))
def used_after_the_loop() -> Any:
    """What a turn computes is used in it and after it."""

    def function(x: Any, n: Any) -> Any:
        k, y = td.while_loop(lambda k, y: k < n, lambda k, y: (k + 1, td.sin(td.exp(y)) + y), (0, x))
        return td.sin(td.exp(y)), k

    def reference(x: Any, n: Any) -> Any:
        for _ in range(n):
            x = np.sin(np.exp(x)) + x
        return np.sin(np.exp(x)), n

    return function, reference


@sample({"x": (4, 4), "n": I64}, (f(4, 4), i(2)))
def several_results() -> Any:
    """An op with several results before, in and after a loop."""

    def function(x: Any, n: Any) -> Any:
        largest, at = td.topk(x, k=2, axis=1)

        def body(k: Any, y: Any) -> Any:
            best, place = td.topk(y, k=2, axis=0)
            return k + 1, y + td.concat([best, largest_of(place)], 0)

        def largest_of(place: Any) -> Any:
            return td.cast(place, "f32") + td.broadcast_to(td.reduce(largest, "sum"), (2, 4))

        return td.while_loop(lambda k, y: k < n, body, (0, x))[1], at

    def reference(x: Any, n: Any) -> Any:
        order = np.argsort(-x, 1, kind="stable")[:, :2]
        largest = np.take_along_axis(x, order, 1)
        y = x
        for _ in range(n):
            at = np.argsort(-y, 0, kind="stable")[:2]
            y = y + np.concatenate([np.take_along_axis(y, at, 0), at.astype("f") + largest.sum()], 0)
        return y, order

    return function, reference


@sample({"x": (2, 3)}, (f(2, 3),))
def no_control_flow() -> Any:
    return lambda x: td.exp(x) + x, lambda x: np.exp(x) + x


@sample({"x": (), "n": I64}, (f(), i(4)), (f(), i(5)))
def two_loops_in_a_row() -> Any:
    def function(x: Any, n: Any) -> Any:
        y = td.while_loop(lambda k, y: k < n, lambda k, y: (k + 1, y * 0.5), (0, x))[1]
        z = td.while_loop(lambda k, z: k > 0, lambda k, z: (k - 2, z + y), (n, y))
        return y, z

    def reference(x: Any, n: Any) -> Any:
        y = x
        for _ in range(n):
            y = y * np.float32(0.5)
        k, z = n, y
        while k > 0:
            k, z = k - 2, z + y
        return y, (np.int64(k), z)

    return function, reference


@sample({"x": (4,)}, (f(4),), (f(4),))
def fixed_point_with_dict() -> Any:
    """What a loop carries nests."""

    def function(x: Any) -> Any:
        def body(s: Any) -> Any:
            new = td.cos(s["x"])
            return {"x": new, "k": (s["k"][0] + 1, scalar(td.reduce(abs(new - s["x"]), "max")))}

        out = td.while_loop(lambda s: s["k"][1] > 1e-3, body, {"x": x, "k": (0, 1.0)})
        return {"at": out["x"], "turns": out["k"][0]}

    def reference(x: Any) -> Any:
        k, step = 0, np.float32(1)
        while step > np.float32(1e-3):
            new = np.cos(x)
            step, x, k = np.abs(new - x).max(), new, k + 1
        return {"at": x, "turns": np.int64(k)}

    return function, reference


@sample({"a": (3, 3), "b": (3,)}, (np.eye(3, dtype="f") * 4 + f(3, 3, scale=0.3), f(3)))
def conjugate_gradient_like() -> Any:
    """Jacobi's iteration until what is left is small."""

    def function(a: Any, b: Any) -> Any:
        eye = td.const(np.eye(3, dtype="f"))
        diagonal = td.squeeze(td.reduce(a * eye, "sum", (1,)), (1,))

        def product(x: Any) -> Any:
            return td.squeeze(td.matmul(a, td.unsqueeze(x, (1,))), (1,))

        def body(k: Any, x: Any) -> Any:
            return k + 1, x + (b - product(x)) / diagonal

        def going(k: Any, x: Any) -> Any:
            return (scalar(td.reduce(abs(b - product(x)), "max")) > 1e-5) & (k < 50)

        return td.while_loop(going, body, (0, td.const(np.zeros(3, "f"))))[1]

    return function, lambda a, b: np.linalg.solve(a, b)


@sample({"xs": (6,), "limit": ()}, (f(6), np.float32(0.5)), (f(6), np.float32(9)))
def branch_results_feed_a_loop() -> Any:
    def function(xs: Any, limit: Any) -> Any:
        start, n = td.if_(total(xs) > limit, lambda: (total(xs), 3), lambda: (limit, 5))
        return td.while_loop(lambda k, s: k < n, lambda k, s: (k + 1, s + td.gather(xs, k, 0)), (0, start))[1]

    def reference(xs: Any, limit: Any) -> Any:
        s, n = (xs.sum(), 3) if xs.sum() > limit else (limit, 5)
        for k in range(n):
            s = s + xs[k]
        return np.float32(s)

    return function, reference


@sample({"m": (4, 4)}, (f(4, 4),))
def triple_nest() -> Any:
    """A product of matrices entry by entry, in three loops."""

    def function(m: Any) -> Any:
        flat = td.reshape(m, shape=(16,))

        def rows(a: Any, out: Any) -> Any:
            def columns(b: Any, out: Any) -> Any:
                def inner(k: Any, s: Any) -> Any:
                    return k + 1, s + td.gather(flat, a * 4 + k, 0) * td.gather(flat, k * 4 + b, 0)

                s = td.while_loop(lambda k, s: k < 4, inner, (0, 0.0))[1]
                return b + 1, td.scatter(out, a * 4 + b, s, 0)

            return a + 1, td.while_loop(lambda b, out: b < 4, columns, (0, out))[1]

        out = td.while_loop(lambda a, out: a < 4, rows, (0, td.const(np.zeros(16, "f"))))[1]
        return td.reshape(out, shape=(4, 4))

    return function, lambda m: m @ m


@sample({"scores": (5, 3), "moves": (3, 3)}, (f(5, 3), f(3, 3)), (f(5, 3, scale=3.0), f(3, 3)))
def viterbi() -> Any:
    """The best way through states: scores forwards, each with where it came from, and the way read backwards."""

    def function(scores: Any, moves: Any) -> Any:
        def forwards(best: Any, score: Any) -> Any:
            through = td.broadcast_to(td.reshape(best, shape=(3, 1)), (3, 3)) + moves
            came = td.argmax(through, axis=0)
            return td.reshape(td.reduce(through, "max", (0,)), shape=(3,)) + score, came

        best, came = td.scan(forwards, td.const(np.zeros(3, "f")), scores)
        last = scalar(td.argmax(best, axis=0))
        _, way = td.scan(lambda at, came: (td.gather(came, at, 0), at), last, came, reverse=True)
        return way, td.gather(best, last, 0)

    def reference(scores: Any, moves: Any) -> Any:
        best, table = np.zeros(3, "f"), []
        for score in scores:
            through = best[:, None] + moves
            table.append(through.argmax(0))
            best = through.max(0) + score
        at, way = best.argmax(), []
        for came in reversed(table):
            way.append(at)
            at = came[at]
        return np.array(way[::-1], np.int64), best.max()

    return function, reference


@sample(
    {"a": td.TensorType((4,), "i64"), "b": td.TensorType((5,), "i64")},
    (np.array([1, 2, 3, 1]), np.array([2, 3, 3, 1, 0])),
    (np.array([1, 1, 1, 1]), np.array([1, 1, 1, 1, 2])),
)
def edit_distance() -> Any:
    """A table filled row by row, each entry of three before it."""

    def function(a: Any, b: Any) -> Any:
        def rows(i: Any, row: Any) -> Any:
            def columns(j: Any, row: Any, diagonal: Any) -> Any:
                above = td.gather(row, j + 1, 0)
                same = td.equal(td.gather(a, i, 0), td.gather(b, j, 0))
                changed = diagonal + td.cast(td.not_(same), "i64")
                least = td.minimum(changed, td.minimum(above, td.gather(row, j, 0)) + 1)
                return j + 1, td.scatter(row, j + 1, least, 0), above

            first = td.gather(row, td.const(0, "i64"), 0)
            begun = td.scatter(row, td.const(0, "i64"), i + 1, 0)
            return i + 1, td.while_loop(lambda j, row, d: j < 5, columns, (0, begun, first))[1]

        row = td.while_loop(lambda i, row: i < 4, rows, (0, td.const(np.arange(6))))[1]
        return td.gather(row, td.const(5, "i64"), 0)

    def reference(a: Any, b: Any) -> Any:
        row = list(range(6))
        for i in range(4):
            new = [i + 1]
            for j in range(5):
                new.append(min(row[j] + int(a[i] != b[j]), row[j + 1] + 1, new[j] + 1))
            row = new
        return np.int64(row[5])

    return function, reference


@sample({"x": (4, 4), "limit": ()}, (f(4, 4), np.float32(1e-3)), (f(4, 4), np.float32(9)))
def sinkhorn() -> Any:
    """Rows and columns scaled in turn until both add up to one, or often enough."""

    def function(x: Any, limit: Any) -> Any:
        def apart(p: Any) -> Any:
            return scalar(td.reduce(abs(td.reduce(p, "sum", (1,)) - 1.0), "max"))

        def body(k: Any, p: Any) -> Any:
            p = p / td.broadcast_to(td.reduce(p, "sum", (1,)), (4, 4))
            return k + 1, p / td.broadcast_to(td.reduce(p, "sum", (0,)), (4, 4))

        return td.while_loop(lambda k, p: (apart(p) > limit) & (k < 40), body, (0, td.exp(x)))

    def reference(x: Any, limit: Any) -> Any:
        p, k = np.exp(x), 0
        while abs(p.sum(1) - 1).max() > limit and k < 40:
            p = p / p.sum(1, keepdims=True)
            p, k = p / p.sum(0, keepdims=True), k + 1
        return np.int64(k), p

    return function, reference


@sample({"x": (6,)}, (f(6),), (np.array([3, 2, 1, 1, 0, -1], "f"),), (np.arange(6, dtype="f"),))
def insertion_sort() -> Any:
    """An inner loop that is left where the entry belongs, and how often entries changed places."""

    def function(x: Any) -> Any:
        def outer(i: Any, x: Any, moved: Any) -> Any:
            def wrong(j: Any, x: Any, moved: Any) -> Any:
                before = td.gather(x, td.maximum(j - 1, td.const(0, "i64")), 0)
                return (j > 0) & (before > td.gather(x, j, 0))

            def swap(j: Any, x: Any, moved: Any) -> Any:
                a, b = td.gather(x, j - 1, 0), td.gather(x, j, 0)
                return j - 1, td.scatter(td.scatter(x, j, a, 0), j - 1, b, 0), moved + 1

            return i + 1, *td.while_loop(wrong, swap, (i, x, moved))[1:]

        return td.while_loop(lambda i, x, m: i < 6, outer, (1, x, 0))[1:]

    def reference(x: Any) -> Any:
        moved = sum(a > b for i, a in enumerate(x) for b in x[i + 1 :])
        return np.sort(x), np.int64(moved)

    return function, reference


@sample({"logits": (6, 4)}, (f(6, 4, scale=2.0),), (f(6, 4),))
def ctc_beam() -> Any:
    """Three texts go on, each by all of its alignments; the last class is blank."""
    wide, letters, steps = 3, 3, 6

    def spread(x: Any, shape: Any, *axes: int) -> Any:
        """``x`` over a larger shape, its dimensions at some axes."""
        return td.broadcast_to(td.reshape(x, shape=tuple(n if i in axes else 1 for i, n in enumerate(shape))), shape)

    def function(logits: Any) -> Any:
        everything = td.softmax(logits, axis=1)

        def turn(k: Any, texts: Any, sizes: Any, blank: Any, ended: Any) -> Any:
            p = td.gather(everything, k, 0)
            no, chances = td.gather(p, td.const(letters, "i64"), 0), td.slice_axis(p, 0, 0, letters)
            grid = (wide, letters)
            own = td.iota(letters)
            ends = td.maximum(sizes - 1, td.broadcast_to(td.const(0, "i64"), (wide,))) + td.iota(wide) * steps
            last = td.gather(td.reshape(texts, shape=(wide * steps,)), ends, 0)
            is_last = td.equal(spread(own, grid, 1), spread(last, grid, 0)) & (spread(sizes, grid, 0) > 0)
            stay_blank = (blank + ended) * td.broadcast_to(no, (wide,))
            of_last = td.reshape(td.reduce(td.where(is_last, spread(chances, grid, 1), 0.0 * spread(chances, grid, 1)),
                                           "sum", (1,)), shape=(wide,))  # fmt: skip
            stay_ended = ended * of_last
            more = td.where(is_last, spread(blank, grid, 0), spread(blank + ended, grid, 0)) * spread(chances, grid, 1)
            # a text and a letter more may be another text there is
            longer = (wide, wide, letters)
            place = td.iota(steps)
            big = (wide, wide, steps)
            within = spread(place, big, 2) < spread(sizes, big, 1)
            alike = td.equal(spread(texts, big, 0, 2), spread(texts, big, 1, 2)) | td.not_(within)
            prefix = td.reshape(td.reduce(td.cast(alike, "i64"), "sum", (2,)), shape=(wide, wide))
            one = (wide, wide)
            prefix = td.equal(prefix, td.broadcast_to(td.const(steps, "i64"), one)) & td.equal(
                spread(sizes, one, 0), spread(sizes, one, 1) + 1
            )
            same = spread(prefix, longer, 0, 1) & td.equal(spread(last, longer, 0), spread(own, longer, 2))
            joins = td.where(same, spread(more, longer, 1, 2), 0.0 * spread(more, longer, 1, 2))
            stay_ended = stay_ended + td.reshape(td.reduce(td.reduce(joins, "sum", (2,)), "sum", (1,)), shape=(wide,))
            taken = td.reshape(td.reduce(td.cast(same, "i64"), "sum", (0,)), shape=grid) > 0
            more = td.where(taken, more * 0.0 - 1.0, more)
            total = td.concat([stay_blank + stay_ended, td.reshape(more, shape=(wide * letters,))], 0)
            # the best of all, one after the other
            rows = td.concat([texts, td.reshape(spread(texts, (wide, letters, steps), 0, 2),
                                                shape=(wide * letters, steps))], 0)  # fmt: skip
            size = td.concat([sizes, td.reshape(spread(sizes, grid, 0), shape=(wide * letters,))], 0)
            letter = td.concat([last, td.reshape(spread(own, grid, 1), shape=(wide * letters,))], 0)
            new = td.iota(wide + wide * letters) > td.broadcast_to(td.const(wide - 1, "i64"), (wide + wide * letters,))
            blanks = td.concat([stay_blank, td.reshape(more, shape=(wide * letters,)) * 0.0], 0)
            lasts = td.concat([stay_ended, td.reshape(more, shape=(wide * letters,))], 0)

            def best(total: Any, _: Any) -> Any:
                at = scalar(td.argmax(total, axis=0))
                row, n = td.gather(rows, at, 0), td.gather(size, at, 0)
                longer = td.scatter(row, td.minimum(n, td.const(steps - 1, "i64")), td.gather(letter, at, 0), 0)
                is_new = td.gather(new, at, 0)
                row = td.where(td.broadcast_to(is_new, (steps,)), longer, row)
                found = (row, n + td.cast(is_new, "i64"), td.gather(blanks, at, 0), td.gather(lasts, at, 0))
                return td.scatter(total, at, td.const(-9.0, "f32"), 0), found

            found = td.scan(best, total, None, length=wide)[1]
            return (k + 1, *found)

        zeros = td.const(np.zeros(wide, "f"))
        start = (0, td.const(np.zeros((wide, steps), np.int64)), td.const(np.zeros(wide, np.int64)),
                 td.const(np.array([1, 0, 0], "f")), zeros)  # fmt: skip
        _, texts, sizes, blank, ended = td.while_loop(lambda k, *_: k < steps, turn, start)
        return tuple([td.slice_axis(x, 0, 0, 1) for x in (texts, sizes, blank + ended)])

    def reference(logits: Any) -> Any:
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances = chances / chances.sum(1, keepdims=True)
        beams = {(): (1.0, 0.0)}
        for p in chances:
            new: dict[Any, list[float]] = {}
            for text, (blank, ended) in beams.items():
                own = new.setdefault(text, [0.0, 0.0])
                own[0] += (blank + ended) * p[letters]
                if text:
                    own[1] += ended * p[text[-1]]
                for c in range(letters):
                    longer = new.setdefault((*text, c), [0.0, 0.0])
                    longer[1] += (blank if text and text[-1] == c else blank + ended) * p[c]
            beams = dict(sorted(new.items(), key=lambda item: -sum(item[1]))[:wide])
        text, found = max(beams.items(), key=lambda item: sum(item[1]))
        row = np.zeros((1, steps), np.int64)
        row[0, : len(text)] = text
        return row, np.array([len(text)]), np.array([sum(found)], "f")

    return function, reference
