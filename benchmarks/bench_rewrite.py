"""Fifty rules at once on 100,000 nodes, a tenth of which match: processor time per node, beside torch.fx.

The graph is a chain that skips back, ``a, b = a + b, f(a)`` with f in turn one of ten functions; every tenth node ends
a match of one of the rules, ``f(g(x)) -> h(x)`` or ``x * y + x * z -> x * (y + z)``, its operands either way. All
rules are declared as patterns.

- tdagger: ``rewritten(graph, rules)``, with all 50 rules in one call, with 5, and at ten times the nodes.
- torch.fx: ``subgraph_rewriter.replace_pattern`` once for each rule (it takes one pattern at a time, and one order of
  operands: six patterns for five rules), on 3,000 and 10,000 nodes: its time grows faster than the graph.
- onnxscript, if it is there (``pip install --no-deps --target DIR onnxscript==0.5.6``, ``PYTHONPATH=DIR``): the same
  five rules in one set, on 10,000 nodes.
- xdsl, if it is there (``pip install --target DIR xdsl==0.62.0``): the same rules as its rewrite patterns, in one
  greedy applier, 5 and 50 of them. It declares no patterns: each is Python that looks at an op and its operands.

Times are processor time, the least of some runs, with the nodes of the result walked once and Python's cycle collector
paused for all. Rules are made before.
"""

from __future__ import annotations

import gc
import importlib.util
import time
from collections.abc import Callable
from itertools import product
from typing import Any

FUNCTIONS = ("sin", "cos", "tanh", "exp", "abs", "sqrt", "neg", "floor", "ceil", "erf")
#: f(g(x)) of which rules are made: 49 pairs that the graph has a few of, besides the commutative one.
PAIRS = [(f, g) for f, g in product(FUNCTIONS, FUNCTIONS) if f != g][:49]
REPEATS = 3


def _function(name: str) -> Any:
    import tdagger as td

    return td.abs_ if name == "abs" else getattr(td, name)


def rules(count: int) -> list[Any]:
    """The commutative rule and as many of functions of functions; the graph has matches of the first five."""
    import tdagger as td
    from tdagger.transform.rewrite import rule

    @rule
    def factor(x: Any, y: Any, z: Any) -> Any:
        return x * y + x * z

    @factor.to
    def _(x: Any, y: Any, z: Any) -> Any:
        return x * (y + z)

    made = [factor]
    for f, g in PAIRS[: count - 1]:
        made.append(_pair(_function(f), _function(g), td.tan))
    return made


def _pair(f: Any, g: Any, h: Any) -> Any:
    from tdagger.transform.rewrite import rule

    @rule
    def pair(x: Any) -> Any:
        return f(g(x))

    @pair.to
    def _(x: Any) -> Any:
        return h(x)

    return pair


def graph(nodes: int) -> Any:
    """Blocks of twenty nodes that hold two matches, of the commutative rule and of one of the first four pairs."""
    import tdagger as td

    a = b = x = td.input("x", (4, 4))
    f = [_function(n) for n in ("tanh", "sin")]
    pairs = [(_function(p), _function(q)) for p, q in PAIRS[:4]]
    for block in range(nodes // 20):
        outer, inner = pairs[block % 4]
        for i in range(6):
            a, b = td.add(a, b), f[i % 2](a)
        d = outer(inner(a))
        c, e = td.multiply(a, b), td.multiply(d, a)
        a = td.add(c, e) if block % 2 else td.add(e, c)
        a, b = td.maximum(a, b), td.minimum(f[0](a), d)
    return td.Graph({"x": x}, {"y": td.add(a, b)})


def timed(make: Callable[[], Any], work: Callable[[Any], Any]) -> tuple[float, Any]:
    """The least processor time of some runs, and what the last gave."""
    times: list[float] = []
    found: Any = None
    for _ in range(REPEATS):
        subject, found = make(), None
        gc.collect()
        gc.disable()  # as bench_graph.py does, for all
        start = time.process_time()
        found = work(subject)
        times.append(time.process_time() - start)
        gc.enable()
    return min(times), found


def ours(nodes: int, count: int) -> tuple[float, int]:
    """Microseconds per node, and how often rules were applied."""
    from tdagger.transform.rewrite import rewritten

    size = 0

    def make() -> Any:
        nonlocal size
        made = graph(nodes)
        size = len(made)
        return made

    declared = rules(count)

    def work(made: Any) -> Any:
        after, _, report = rewritten(made, declared)
        assert len(after) <= size
        return report

    seconds, report = timed(make, work)
    return seconds / size * 1e6, len(report)


def torch_fx(nodes: int) -> tuple[float, int]:
    """The same five rules by torch.fx."""
    import torch
    from torch import fx
    from torch.fx import subgraph_rewriter

    at = {n: getattr(torch, n) for n in FUNCTIONS}

    def make() -> Any:
        g = fx.Graph()
        a = b = g.placeholder("x")
        call = g.call_function
        size = nodes // 20
        for block in range(size):
            outer, inner = PAIRS[block % 4]
            for i in range(6):
                a, b = call(torch.add, (a, b)), call(at["sin" if i % 2 else "tanh"], (a,))
            d = call(at[outer], (call(at[inner], (a,)),))
            c, e = call(torch.mul, (a, b)), call(torch.mul, (d, a))
            a = call(torch.add, (c, e) if block % 2 else (e, c))
            a, b = call(torch.maximum, (a, b)), call(torch.minimum, (call(torch.tanh, (a,)), d))
        g.output(call(torch.add, (a, b)))
        return fx.GraphModule(torch.nn.Module(), g)

    def pair(f: Any, g: Any) -> tuple[Any, Any]:
        return (lambda x: f(g(x))), (lambda x: torch.tan(x))

    def factored(x: Any, y: Any, z: Any) -> Any:
        return torch.mul(x, torch.add(y, z))

    patterns = [pair(at[f], at[g]) for f, g in PAIRS[:4]]
    # it knows no commutative ops: the rule is written for each order that occurs
    patterns.append(((lambda x, y, z: torch.add(torch.mul(x, y), torch.mul(z, x))), factored))
    patterns.append(((lambda x, y, z: torch.add(torch.mul(z, x), torch.mul(x, y))), factored))

    def work(module: Any) -> int:
        return sum(len(subgraph_rewriter.replace_pattern(module, p, r)) for p, r in patterns)

    seconds, count = timed(make, work)
    return seconds / nodes * 1e6, count


def onnxscript(nodes: int) -> tuple[float, int]:
    """The same five rules by onnxscript's rewriter."""
    import onnx_ir as ir
    from onnxscript.rewriter import pattern

    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape((4, 4))
    names = {n: n.capitalize() for n in FUNCTIONS}

    def make() -> Any:
        made: list[Any] = []

        def call(name: str, *args: Any) -> Any:
            made.append(ir.Node("", name, args, outputs=[ir.Value(type=kind, shape=shape)]))
            return made[-1].outputs[0]

        a = b = x = ir.Value(name="x", type=kind, shape=shape)
        for block in range(nodes // 20):
            outer, inner = PAIRS[block % 4]
            for i in range(6):
                a, b = call("Add", a, b), call("Sin" if i % 2 else "Tanh", a)
            d = call(names[outer], call(names[inner], a))
            c, e = call("Mul", a, b), call("Mul", d, a)
            a = call("Add", c, e) if block % 2 else call("Add", e, c)
            a, b = call("Max", a, b), call("Min", call("Tanh", a), d)
        last = call("Add", a, b)
        return ir.Model(ir.Graph([x], [last], nodes=made, opset_imports={"": 20}), ir_version=10)

    def pair(f: str, g: str) -> Any:
        return pattern.RewriteRule(lambda op, x: getattr(op, f)(getattr(op, g)(x)), lambda op, x, **_: op.Tan(x))

    every = [pair(names[f], names[g]) for f, g in PAIRS[:4]]
    every.append(
        pattern.RewriteRule(
            lambda op, x, y, z: op.Add(op.Mul(x, y), op.Mul(x, z)),
            lambda op, x, y, z, **_: op.Mul(x, op.Add(y, z)),
        )
    )
    rules_ = pattern.RewriteRuleSet(every, commute=True)
    seconds, count = timed(make, lambda model: rules_.apply_to_model(model))
    return seconds / nodes * 1e6, count


def xdsl(nodes: int, count: int) -> tuple[float, int]:
    """The same rules as classes of xdsl's, whose method is called at every op."""
    from xdsl.dialects import arith, builtin, math
    from xdsl.dialects.test import TestOp
    from xdsl.ir import Block, Region
    from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker, RewritePattern

    at: dict[str, Any] = {
        "sin": math.SinOp, "cos": math.CosOp, "tanh": math.TanhOp, "exp": math.ExpOp, "abs": math.AbsFOp,
        "sqrt": math.SqrtOp, "neg": arith.NegfOp, "floor": math.FloorOp, "ceil": math.CeilOp, "erf": math.ErfOp,
    }  # fmt: skip

    def make() -> Any:
        start = TestOp(result_types=[builtin.f32])
        made: list[Any] = [start]

        def call(kind: Any, *args: Any) -> Any:
            made.append(kind(*args))
            return made[-1].results[0]

        a = b = start.results[0]
        for block in range(nodes // 20):
            outer, inner = PAIRS[block % 4]
            for i in range(6):
                a, b = call(arith.AddfOp, a, b), call(at["sin" if i % 2 else "tanh"], a)
            d = call(at[outer], call(at[inner], a))
            c, e = call(arith.MulfOp, a, b), call(arith.MulfOp, d, a)
            a = call(arith.AddfOp, *((c, e) if block % 2 else (e, c)))
            a, b = call(arith.MaximumfOp, a, b), call(arith.MinimumfOp, call(at["tanh"], a), d)
        made.append(TestOp(operands=[call(arith.AddfOp, a, b)]))
        return builtin.ModuleOp(Region(Block(made)))

    fired = 0

    class Pair(RewritePattern):
        def __init__(self, f: Any, g: Any) -> None:
            self.f, self.g = f, g

        def match_and_rewrite(self, op: Any, rewriter: Any) -> None:
            nonlocal fired
            if isinstance(op, self.f) and isinstance(op.operands[0].owner, self.g):
                fired += 1
                rewriter.replace_matched_op(math.TanOp(op.operands[0].owner.operands[0]))

    class Factor(RewritePattern):
        def match_and_rewrite(self, op: Any, rewriter: Any) -> None:
            nonlocal fired
            if not isinstance(op, arith.AddfOp):
                return
            left, right = (operand.owner for operand in op.operands)
            if not isinstance(left, arith.MulfOp) or not isinstance(right, arith.MulfOp):
                return
            for x, y in (tuple(left.operands), tuple(left.operands)[::-1]):
                for other, z in (tuple(right.operands), tuple(right.operands)[::-1]):
                    if other is x:
                        fired += 1
                        total = arith.AddfOp(y, z)
                        rewriter.replace_matched_op([total, arith.MulfOp(x, total.result)])
                        return

    patterns = [Factor(), *(Pair(at[f], at[g]) for f, g in PAIRS[: count - 1])]

    def work(module: Any) -> int:
        nonlocal fired
        fired = 0
        PatternRewriteWalker(GreedyRewritePatternApplier(patterns)).rewrite_module(module)
        return fired

    seconds, applied = timed(make, work)
    return seconds / nodes * 1e6, applied


def main() -> None:
    print(f"{'processor time':<34} {'nodes':>9} {'us/node':>9} {'applied':>9}")
    found: dict[str, float] = {}

    def row(name: str, nodes: int, result: tuple[float, int]) -> None:
        found[name] = result[0]
        print(f"{name:<34} {nodes:>9} {result[0]:>9.2f} {result[1]:>9}", flush=True)

    row("tdagger, 50 rules", 100_000, ours(100_000, 50))
    row("tdagger, 5 rules", 100_000, ours(100_000, 5))
    row("tdagger, 50 rules, large", 1_000_000, ours(1_000_000, 50))
    row("torch.fx, 5 rules one by one", 3_000, torch_fx(3_000))
    row("torch.fx, larger", 10_000, torch_fx(10_000))
    if importlib.util.find_spec("onnxscript") is not None:
        row("onnxscript, 5 rules", 10_000, onnxscript(10_000))
    if importlib.util.find_spec("xdsl") is not None:
        for count in (5, 50):
            row(f"xdsl, {count} rules", 10_000, xdsl(10_000, count))
    print(f"50 rules / 5 rules: {found['tdagger, 50 rules'] / found['tdagger, 5 rules']:.2f}")
    print(f"t(1M)/t(100k): {10 * found['tdagger, 50 rules, large'] / found['tdagger, 50 rules']:.1f}")
    print(f"torch.fx (3,000 nodes) / tdagger: {found['torch.fx, 5 rules one by one'] / found['tdagger, 50 rules']:.0f}")


if __name__ == "__main__":
    main()
