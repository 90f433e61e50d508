"""JSON of views written by hand, as docs/view-json.md says: what a page is tested with, without importing a network."""

from __future__ import annotations

import random
from typing import Any

Node = dict[str, Any]


class Writer:
    """Tables of a document, filled as bodies ask for entries."""

    def __init__(self, title: str, axes: dict[str, int]):
        self.data: Node = {
            "schema": "tdagger.view",
            "version": 1,
            "title": title,
            "types": [],
            "ops": [],
            "texts": [],
            "symbols": [{"name": name, "size": size, "axis": True, "certain": True} for name, size in axes.items()],
            "formulas": [],
            "conditions": [],
            "cost_columns": ["flops", "macs", "reads", "writes", "fused_reads", "fused_writes"],
            "costs": [],
            "parameters": [],
            "bodies": [],
            "open": [],
        }
        self.axes = list(axes)
        self.each: list[float | None] = []

    def entry(self, table: str, value: Any) -> int:
        rows = self.data[table]
        if value not in rows[-200:]:
            rows.append(value)
        return len(rows) - 1 - rows[::-1].index(value)

    def formula(self, coefficient: int, *axes: str) -> int:
        value = coefficient
        term = [coefficient]
        for axis in axes:
            number = self.axes.index(axis)
            value *= self.data["symbols"][number]["size"]
            term += [number, 1]
        return self.entry("formulas", {"value": value, "terms": [term]} if axes else {"value": value})

    def type(self, numbers: str, axes: str, bytes: int) -> int:
        return self.entry("types", {"numbers": numbers, "axes": axes, "bytes": bytes})

    def op(self, name: str, out: int, cost: int | None, weights: tuple[str, ...] = (), **more: Any) -> Node:
        kind: Node = {
            "op": name,
            **{key: more.pop(key) for key in ("attributes", "view", "external", "text") if key in more},
        }
        item: Node = {"op": self.entry("ops", kind), "text": f"{name}(%0)", "out": [out], "cost": cost}
        if weights:
            item["weights"] = list(weights)
        return item | more

    def cost(self, flops: int, bytes: int) -> int:
        return self.entry("costs", [flops, flops, bytes, bytes, bytes, bytes])

    def body(self, items: list[Node], edges: list[list[Any]], inputs: list[Node], outputs: list[Node]) -> int:
        bodies = self.data["bodies"]
        ops = sum(item.get("times", 1) * bodies[item["body"]]["ops"] if "body" in item else 1 for item in items)
        slots = sum(
            item.get("times", 1) * bodies[item["body"]]["slots"][0] if "body" in item else len(item.get("weights", ()))
            for item in items
        )
        bodies.append(
            {"inputs": inputs, "outputs": outputs, "items": items, "edges": edges, "ops": ops, "slots": [slots]}
        )
        return len(bodies) - 1

    def finish(self, root: int, **network: Any) -> Node:
        ops = self.data["bodies"][root]["ops"]
        activation = self.formula(4096, self.axes[0])
        self.data["root"] = root
        (slots,) = self.data["bodies"][root]["slots"]
        self.data["networks"] = [
            {
                "name": self.data["title"],
                "source": "by hand",
                "totals": {"flops": 123456, "ops": ops},
                "partial": [],
                "slots": [i % max(1, len(self.data["parameters"])) for i in range(slots)],
                "memory": {
                    "op": list(range(ops)),
                    "until": [min(i + 1 + i % 3, ops) for i in range(ops)],
                    "bytes": [activation] * ops,
                    "peak": 0,
                    "at": 0,
                },
                **network,
            }
        ]
        return self.data


def small(title: str = "small", name: str = "layers") -> Node:
    """Two convolutions, a block of attention and MLP repeated 12 times, a head; one op isn't counted."""
    w = Writer(title, {"b": 2, "s": 16})
    bytes_ = w.formula(256, "b", "s")
    x = w.type("f32[2 16 64]", "f32[b s d]", bytes_)
    weight = w.type("f32[64 64]", "f32[d d]", w.formula(16384))
    cost = w.cost(w.formula(8192, "b", "s"), bytes_)
    square = w.cost(w.formula(128, "b", "s", "s"), bytes_)
    histogram = {
        "low": -1.0,
        "high": 1.0,
        "counts": [min(i, 31 - i) for i in range(32)],
        "mean": 0.0,
        "std": 0.5,
        "zeros": 3,
        "nonfinite": 0,
    }
    for i in range(4):
        w.data["parameters"].append(
            {"name": f"{name}.{i}.weight", "type": weight, "kind": "parameter", "histogram": histogram}
        )
    text = w.entry("texts", "body of a composite\n%1 = multiply(%0, %0)")
    source = w.entry("texts", "model.py:17")
    port: Node = {"type": x}
    linear = w.op("linear", x, cost, ("weight",))
    norm = w.op("layer_norm", x, cost, ("weight",))
    add = w.op("add", x, cost)
    sourced = w.op("linear", x, cost, ("weight",), source=source, made="aten.linear.default")
    inner = w.op("attention", x, square, text=text, attributes={"causal": "True"})

    def chain(items: list[Node], inputs: list[Node], outputs: list[Node]) -> int:
        edges = [[i - 1, 0, i, 0, x] for i in range(len(items))] + [[len(items) - 1, 0, -2, 0, x]]
        return w.body(items, edges, inputs, outputs)

    def module(body: int, name: str, kind: str, **more: Any) -> Node:
        return {"body": body, "name": name, "kind": kind, "module": True, **more}

    attention = chain([sourced, inner, linear], [port], [port])
    mlp = chain([linear, w.op("gelu", x, cost), linear], [port], [port])
    stem = chain(
        [w.op("convolution", x, cost, ("weight",), attributes={"stride": "(2, 2)"}), w.op("relu", x, cost)],
        [port],
        [port],
    )
    wires = [(-1, 0), (0, 1), (-1, 2), (1, 2), (2, 3), (3, 4), (2, 5), (4, 5), (5, -2)]
    layer = w.body(
        [norm, module(attention, "attn", "Attention"), add, norm, module(mlp, "mlp", "MLP"), add],
        [[a, 0, b, int((a, b) in ((1, 2), (4, 5))), x] for a, b in wires],
        [port],
        [port],
    )
    names = [f"{name}.{i}" for i in range(12)]
    repeated = module(layer, f"{name}.0-11", "Layer", times=12, names=names, chain=[[0, 0]])
    root = chain(
        [module(stem, "stem", "Stem"), repeated, w.op("mystery", x, None, external=True), linear],
        [{"type": x, "name": "x"}],
        [{"type": x, "name": "out"}],
    )
    ops = w.data["bodies"][root]["ops"]
    return w.finish(
        root,
        predicted={
            "device": "h100",
            "seconds": ops * 1e-6,
            "each": [1e-6] * ops,
            "roofline": {"flops": 6.7e13, "bytes": 3.3e12},
        },
        partial={"mystery": 1},
    )


def compared() -> Node:
    """The small network beside one with another activation, a layer less and one more op."""
    data = small("small | other")
    (first,) = data["networks"]
    data["networks"] = [first, {**first, "name": "other"}]
    root = data["bodies"][data["root"]]
    for body in data["bodies"]:
        body["slots"] = body["slots"] * 2
    root["items"][2]["state"] = "a"
    root["items"][3] |= {"state": "changed", "changes": ["attributes.bias: True -> False"], "b": {"cost": None}}
    root["items"][0]["state"] = "changed"
    stem = data["bodies"][root["items"][0]["body"]]
    stem["items"][1]["state"] = "b"
    return data


def flat(count: int, part: int = 40, seed: int = 1) -> Node:
    """A graph of random structure, in parts of parts: what folding makes of a network without any."""
    w = Writer(f"random {count}", {"b": 1})
    rng = random.Random(seed)
    bytes_ = w.formula(256, "b")
    x = w.type("f32[1 64]", "f32[b 64]", bytes_)
    costs = [w.cost(w.formula(64 * k, "b"), bytes_) for k in range(1, 20)]
    names = ["add", "multiply", "relu", "linear", "softmax", "permute", "layer_norm", "exp"]
    edges = [
        (max(0, i - 1 - int(rng.expovariate(0.15))), i) for i in range(1, count) for _ in range(rng.choice((1, 1, 2)))
    ]
    level: list[Node] = [w.op(rng.choice(names), x, rng.choice(costs)) for _ in range(count)]
    links = sorted(set(edges))
    depth = 0
    while True:
        size = part if len(level) > part else len(level)
        groups = [level[i : i + size] for i in range(0, len(level), size)]
        inside: list[list[list[int]]] = [[] for _ in groups]
        ins: list[dict[int, int]] = [{} for _ in groups]
        outs: list[dict[int, int]] = [{} for _ in groups]
        outer: set[tuple[int, int]] = set()
        for a, b in links:
            ga, gb = a // size, b // size
            if ga == gb:
                inside[ga].append([a % size, 0, b % size, 0, x])
                continue
            if a not in outs[ga]:
                outs[ga][a] = len(outs[ga])
                inside[ga].append([a % size, 0, -2, outs[ga][a], x])
            if a not in ins[gb]:
                ins[gb][a] = len(ins[gb])
            inside[gb].append([-1, ins[gb][a], b % size, 0, x])
            outer.add((ga, gb))
        bodies = [
            w.body(items, [list(edge) for edge in edges_], [{"type": x}] * len(i), [{"type": x}] * len(o))
            for items, edges_, i, o in zip(groups, inside, ins, outs, strict=True)
        ]
        if len(groups) == 1:
            return w.finish(bodies[0])
        depth += 1
        level = [
            {"body": body, "name": f"part {i + 1} of {len(groups)}", "kind": "part"} for i, body in enumerate(bodies)
        ]
        links = sorted(outer)


HOSTILE = '</script><script>window.hurt=1</script><img src=x onerror="window.hurt=1">{{}}\u202e&lt;<!--'


def hostile() -> Node:
    """Every text is markup that would run a script."""

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        texts = {
            "title",
            "name",
            "names",
            "kind",
            "text",
            "made",
            "axes",
            "texts",
            "op",
            "weights",
            "source",
            "stride",
            "causal",
        }
        return HOSTILE + value if isinstance(value, str) and key in texts else value

    data = poison(small())
    for parameter in data["parameters"]:
        parameter["kind"] = "parameter"
    return data
