"""A reader of .tdag files by docs/format.md alone: json and struct, nothing of tdagger or numpy; runs small networks.

``Network(data).run([...])`` takes and gives flat lists of numbers, in the order of the inputs and outputs.
"""

from __future__ import annotations

import itertools
import json
import math
import struct

CODES = {"F32": "f", "F64": "d", "I64": "q", "I32": "i", "BOOL": "?", "U8": "B"}
OWN = {"f32": "f", "f64": "d", "i64": "q", "i32": "i", "bool": "?", "u8": "B"}


def expanded(stream):
    """All numbers of a stream."""
    out = []
    for i in range(0, len(stream), 3):
        out += stream[i]
        if i + 1 < len(stream):
            out += stream[i][-stream[i + 1] :] * stream[i + 2]
    return out


def table(stream, width):
    """Rows of steps."""
    flat, rows, now = expanded(stream), [], [0] * width
    for i in range(0, len(flat), width):
        now = [a + b for a, b in zip(now, flat[i : i + width], strict=True)]
        rows.append(now)
    return rows


class Network:
    """The network in a file."""

    def __init__(self, data):
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        self.header, self.data = header, data[8 + length :]
        self.document = d = json.loads(header.pop("__metadata__")["tdag"])
        assert d["format"] == "tdag"
        assert d["version"] == 1
        self.network = d["networks"][0]
        self.paths = self.read_paths(d)
        self.weights = [self.paths[path] for path, _, _, _ in table(self.network["weights"], 4)]
        self.nodes = self.read_nodes(d, d["graphs"][self.network["graph"]])

    def read_paths(self, d):
        flat, paths, following = expanded(d["paths"]), [""], {}
        for i in range(2, len(flat), 2):
            parent = flat[i + 1] if flat[i + 1] >= 0 else len(paths) + flat[i + 1]
            if flat[i]:
                last = d["strings"][flat[i] - 1]
            else:
                last = str(following.get(parent, 0))
                following[parent] = following.get(parent, 0) + 1
            paths.append(f"{paths[parent]}.{last}" if parent else last)
        return paths

    def read_nodes(self, d, graph):
        """Each value: op, attributes, type, arguments (or what a leaf is called)."""
        flat, nodes, weight, at = expanded(graph["nodes"]), [], 0, 0
        while at < len(flat):
            op, result, *types = d["calls"][flat[at]]
            name, *attributes = d["ops"][op]
            at += 1
            if name == "input":
                args = len(nodes)
            elif name in ("parameter", "buffer", "const"):
                args = flat[at]
                weight += flat[at] if name != "const" else 0
                args = args if name == "const" else self.weights[weight]
                at += 1
            else:
                args = [r if r >= 0 else len(nodes) + r for r in flat[at : at + len(types)]]
                at += len(types)
            nodes.append((name, attributes[0] if attributes else {}, d["types"][result], args))
        return nodes

    def tensor(self, name):
        said = self.header[name]
        start, stop = said["data_offsets"]
        count = math.prod(said["shape"])
        return list(struct.unpack(f"<{count}{CODES[said['dtype']]}", self.data[start:stop]))

    def constant(self, number):
        type_, data, *name = self.document["constants"][number]
        if name:
            return self.tensor(name[0])
        kind, *shape = self.document["types"][type_]
        return list(struct.unpack(f"<{math.prod(shape)}{OWN[kind]}", bytes.fromhex(data)))

    def run(self, inputs):
        values = []
        for name, attributes, (_, *shape), args in self.nodes:
            if name == "input":
                values.append(inputs[args])
            elif name in ("parameter", "buffer"):
                values.append(self.tensor(args))
            elif name == "const":
                values.append(self.constant(args))
            else:
                shapes = [self.nodes[a][2][1:] for a in args]
                values.append(OPS[name](attributes, shape, shapes, *[values[a] for a in args]))
        outputs = self.document["graphs"][self.network["graph"]]["outputs"]
        return {self.paths[path]: values[place] for path, place in table(outputs, 2)}


def places(shape):
    return itertools.product(*map(range, shape))


def flat_place(place, shape):
    at = 0
    for i, n in zip(place, shape, strict=True):
        at = at * n + i
    return at


def permute(attributes, shape, shapes, x):
    order = attributes["order"]
    back = [order.index(i) for i in range(len(order))]
    return [x[flat_place([p[b] for b in back], shapes[0])] for p in places(shape)]


def repeat(attributes, shape, shapes, x):
    return [x[flat_place([min(i, n - 1) for i, n in zip(p, shapes[0], strict=True)], shapes[0])] for p in places(shape)]


def reduce(attributes, shape, shapes, x):
    assert attributes["kind"] == "sum"
    out = [0.0] * math.prod(shape)
    for value, p in zip(x, places(shapes[0]), strict=True):
        kept = [0 if i in attributes["axes"] else n for i, n in enumerate(p)]
        out[flat_place(kept, shape)] += value
    return out


OPS = {
    "unary": lambda a, *rest: [getattr(math, a["kind"])(v) for v in rest[-1]],
    "binary": lambda a, s, t, x, y: [{"add": p + q, "multiply": p * q}[a["kind"]] for p, q in zip(x, y, strict=True)],
    "group": lambda a, s, t, x: x,
    "ungroup": lambda a, s, t, x: x,
    "permute": permute,
    "repeat": repeat,
    "reduce": reduce,
}
