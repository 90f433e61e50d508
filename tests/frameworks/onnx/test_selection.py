"""Operators whose result has as many entries as the data says: by numpy, by torch and written again."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import tdagger as td
from conformance.onnx_cases import cases, read
from tdagger.program.whole import changed
from tests.frameworks.onnx.test_control import Model
from tests.frameworks.onnx.test_programs import run, session
from tests.program.test_programs import leaves

R = np.random.default_rng(0)
MODELS: dict[str, Model] = {}


def m(name: str, text: str, *inputs: tuple[Any, ...]) -> None:
    MODELS[name] = Model(text, inputs, {})


def scores(*shape: int) -> Any:
    return R.uniform(0, 1, shape).astype("f")


def boxes(*shape: int) -> Any:
    low = R.uniform(0, 4, (*shape, 2))
    return np.concatenate([low, low + R.uniform(0.5, 3, (*shape, 2))], -1).astype("f")


NMS = "s = NonMaxSuppression{}(b, p, most, iou, least)"
BOTH = "(float[2,20,4] b, float[2,3,20] p) => (int64[N,3] s) <int64 most = {4}, float iou = {0.4}, float least = {0.5}>"
ONE = "<int64 most = {4}, float iou = {0.4}, float least = {0.5}, int64[1] z = {0}, int64[1] o = {1}, int64 two = {2}>"

m("kept", f"{BOTH} {{ {NMS.format('')} }}", *[(boxes(2, 20), scores(2, 3, 20)) for _ in range(3)],
  (boxes(2, 20), scores(2, 3, 20) * np.float32(0.4)), (np.ones((2, 20, 4), "f"), scores(2, 3, 20)))  # fmt: skip
m("ties", f"{BOTH} {{ {NMS.format('')} }}", (boxes(2, 20).round(), scores(2, 3, 20).round(1)))
m("flipped", f"{BOTH} {{ {NMS.format('')} }}", (boxes(2, 20)[..., [2, 1, 0, 3]], scores(2, 3, 20)))
m("centers", f"{BOTH} {{ {NMS.format('<center_point_box=1>')} }}", (boxes(2, 20), scores(2, 3, 20)))
m(
    "limits_of_the_data",
    "(float[1,9,4] b, float[1,2,9] p, int64[1] n, float i) => (int64[N,3] s) { s = NonMaxSuppression(b, p, n, i) }",
    (boxes(1, 9), scores(1, 2, 9), np.array([3]), np.array(0.2, "f")),
    (boxes(1, 9), scores(1, 2, 9), np.array([0]), np.array(0.2, "f")),
    (boxes(1, 9), scores(1, 2, 9), np.array([99]), np.array(0.9, "f")),
)
m("none", "(float[1,9,4] b, float[1,2,9] p) => (int64[N,3] s) { s = NonMaxSuppression(b, p) }",
  (boxes(1, 9), scores(1, 2, 9)))  # fmt: skip
m(
    "rows",  # of each box that is kept: batch, corners, score
    f"""(float[2,20,4] b, float[2,3,20] p) => (float[N,6] y, int64[2] n) {ONE} {{
  {NMS.format("")}
  i, j, k = Split<axis=1>(s)
  at = Concat<axis=1>(i, k)
  corners = GatherND(b, at)
  v = GatherND(p, s)
  v1 = Unsqueeze(v, o)
  f = Cast<to=1>(i)
  y = Concat<axis=1>(f, corners, v1)
  n = Shape(s)
}}""",
    (boxes(2, 20), scores(2, 3, 20)),
    (boxes(2, 20), scores(2, 3, 20) * np.float32(0.4)),
)
m(
    "first_of_them",
    f"""(float[12,4] b0, float[12] p0) => (float[N,4] y, float[M] v) {ONE} {{
  b = Unsqueeze(b0, z)
  p1 = Unsqueeze(p0, z)
  p = Unsqueeze(p1, z)
  {NMS.format("")}
  k0 = Gather<axis=1>(s, two)
  two1 = Unsqueeze(two, z)
  k = Slice(k0, z, two1, z)
  y = Gather(b0, k)
  w = Gather(p0, k)
  q = Sqrt(w)
  v = Mul(q, w)
}}""",
    *[(boxes(12), scores(12)) for _ in range(3)],
)
m(
    "of_some_boxes",  # a bounded number of boxes is suppressed, and a box taken out of what that leaves
    f"""(float[12,4] b0, float[12] p0) => (float[N,4] y) {ONE} {{
  c = Greater(p0, iou)
  nz = NonZero(c)
  ix = Squeeze(nz, z)
  b1 = Gather(b0, ix)
  p1 = Gather(p0, ix)
  b = Unsqueeze(b1, z)
  p2 = Unsqueeze(p1, z)
  p = Unsqueeze(p2, z)
  {NMS.format("")}
  k = Gather<axis=1>(s, two)
  y = Gather(b1, k)
}}""",
    *[(boxes(12), scores(12)) for _ in range(3)],
    (boxes(12), scores(12) * np.float32(0.3)),
)
m(
    "places",
    """(float[5,3,2] x, float[3,4] w) => (float[N] v, float[N,4] y, float t) <int64 one = {1}> {
  zero = CastLike(one, x)
  c = Greater(x, zero)
  nz = NonZero(c)
  at = Transpose<perm=[1,0]>(nz)
  v = GatherND(x, at)
  t = ReduceSum<keepdims=0>(v)
  column = Gather(nz, one)
  rows = Gather(w, column)
  y = Softmax<axis=1>(rows)
}""",
    (R.normal(size=(5, 3, 2)).astype("f") + 1, R.normal(size=(3, 4)).astype("f")),
    (np.full((5, 3, 2), -1, "f"), R.normal(size=(3, 4)).astype("f")),
)
m(
    "compressed",
    """(float[6,4] x, bool[5] c) => (float[N,4] y, float[M] z) {
  y0 = Compress<axis=0>(x, c)
  y = Neg(y0)
  z = Compress(x, c)
}""",
    (R.normal(size=(6, 4)).astype("f"), np.array([True, False, True, False, True])),
    (R.normal(size=(6, 4)).astype("f"), np.zeros(5, bool)),
)
m(
    "selected_again",
    f"""(float[2,20,4] b, float[2,3,20] p) => (float[N] y, float[M] w) {ONE} {{
  {NMS.format("")}
  v = GatherND(p, s)
  top = Mul(v, v)
  c = Greater(top, least)
  y = Compress<axis=0>(v, c)
  w = Where(c, v, iou)
}}""",
    (boxes(2, 20), scores(2, 3, 20)),
)
m(
    "one_box_at_most",
    """(float[1,5,4] b, float[1,1,5] p) => (float[N,4] y)
    <int64 most = {1}, float iou = {0.4}, float least = {0.5}, int64[1] z = {0}, int64 two = {2}> {
  s = NonMaxSuppression(b, p, most, iou, least)
  k = Gather<axis=1>(s, two)
  b0 = Squeeze(b, z)
  y = Gather(b0, k)
}""",
    (boxes(1, 5), scores(1, 1, 5)),
    (boxes(1, 5), scores(1, 1, 5) * np.float32(0.4)),
)
m(
    "batch_of_a_recurrent_net",
    """(float[4,5,2] x, bool[5] c, float[1,9,2] w, float[1,9,3] r) => (float[1,N,3] y) {
  k = Compress<axis=1>(x, c)
  all, y = GRU<hidden_size=3>(k, w, r)
}""",
    (R.normal(size=(4, 5, 2)).astype("f"), np.array([True, False, True, False, True]),
     R.normal(size=(1, 9, 2)).astype("f"), R.normal(size=(1, 9, 3)).astype("f")),
)  # fmt: skip
m(
    "in_a_branch",
    f"""(float[2,20,4] b, float[2,3,20] p) => (int64[N] y) {ONE} {{
  top = ReduceMax<keepdims=0>(p)
  c = Greater(top, least)
  s = If(c) <then_branch = a () => (int64[N,3] r) {{ r = NonMaxSuppression(b, p, most, iou, least) }},
             else_branch = e () => (int64[M,3] q) {{ q = NonMaxSuppression(b, p, two, iou) }}>
  y = Gather<axis=1>(s, two)
}}""",
    (boxes(2, 20), scores(2, 3, 20)),
    (boxes(2, 20), scores(2, 3, 20) * np.float32(0.4)),
)
m(
    "in_a_loop",  # how many are kept at several thresholds
    f"""(float[1,9,4] b, float[1,2,9] p, int64 n) => (int64[1] total) {ONE} {{
  start = Identity(z)
  total = Loop(n, , start) <body = t (int64 i, bool c, int64[1] a) => (bool d, int64[1] a2) {{
    d = Identity(c)
    f = CastLike(i, iou)
    q = Mul(f, least)
    r = NonMaxSuppression(b, p, most, iou, q)
    k = Shape<start=0, end=1>(r)
    a2 = Add(a, k)
  }}>
}}""",
    (boxes(1, 9), scores(1, 2, 9), np.array(3)),
    (boxes(1, 9), scores(1, 2, 9), np.array(0)),
)


def operators(graph: Any) -> Counter[str]:
    """How often each operator is in a graph and those inside it."""
    found = Counter(n.op_type for n in graph.node)
    return sum([operators(a.g) for n in graph.node for a in n.attribute if a.HasField("g")], found)


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    """By numpy, by torch and as a model again, also imported once more: what onnxruntime makes of the model."""
    model = MODELS[name]
    program = td.Program.from_onnx(model.proto)
    written = program.to_onnx()
    module, again, made = program.to_torch(copy=True), session(written), session(model.proto)
    once_more = td.Program.from_onnx(written)
    assert operators(written.graph)["NonMaxSuppression"] == operators(model.proto.graph)["NonMaxSuppression"] or (
        name == "none"
    )
    for arrays in model.inputs:
        wanted = run(made, list(arrays))
        with torch.no_grad():
            by_torch = module(*[torch.tensor(np.array(a)) for a in arrays])
        for found in (program.run(*arrays), by_torch, run(again, list(arrays)), once_more.run(*arrays)):
            found = [np.asarray(x) for x in leaves(found if isinstance(found, list | tuple) else [found])]
            assert [x.shape for x in found] == [x.shape for x in wanted]
            for x, y in zip(found, wanted, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_backend_suite() -> None:
    """ONNX's cases of NonMaxSuppression, all inputs given at a run, then all but boxes and scores known."""
    suite = {n: c for n, c in cases(("node",)).items() if n.removeprefix("node/").startswith("test_nonmaxsuppression")}
    assert len(suite) >= 9
    for name, found in suite.items():
        case = read(name, found)
        for given, wanted in case.data:
            known = {n: x for n, x in given.items() if n not in ("boxes", "scores")}
            for values in ({}, known):
                program = td.Program.from_onnx(case.model, values=values)
                np.testing.assert_array_equal(program.run(**{n: given[n] for n in program.inputs}), wanted[0], name)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ("f = Cast<to=1>(s)\n y = ReduceMean<axes=[0]>(f)", r"ReduceMean.*f32\[<=24 3\].*takes the sum over"),
        ("f = Cast<to=1>(s)\n y = Add(f, w)", r"Add: it joins w"),
        ("v = GatherND(p, s)\n y, i = TopK(v, k)", r"TopK: .*sorts"),
        ("y = Concat<axis=0>(s, s)", "Concat"),
        ("v = GatherND(p, s)\n u = NonZero(v)\n t = Transpose(u)\n e = GatherND(v, t)\n y = Add(v, e)", "GatherND"),
    ],
)  # fmt: skip
def test_what_several_entries_go_into_is_refused(nodes: str, why: str) -> None:
    text = f"""(float[2,20,4] b, float[2,3,20] p, float[24,3] w) => (float[N] y)
      <int64 most = {{4}}, float iou = {{0.4}}, float least = {{0.5}}, int64[1] k = {{1}}>
      {{ {NMS.format("")}\n {nodes} }}"""
    with pytest.raises(td.UnsupportedError, match=why):
        td.Program.from_onnx(Model(text, (), {}).proto)


def test_a_network_refuses_them_and_names_programs() -> None:
    with pytest.raises(td.UnsupportedError, match=r"NonMaxSuppression.*Program\.from_onnx"):
        td.from_onnx(MODELS["kept"].proto)
    text = BOTH.replace("0.4", "1.4") + "{" + NMS.format("") + "}"
    with pytest.raises(td.UnsupportedError, match=r"iou_threshold is 1\.4.*, which has to be in 0\.\.1"):
        td.Program.from_onnx(Model(text, (), {}).proto)


def test_a_loop_that_was_changed_stays_a_loop() -> None:
    """Only what is the importer's to the last value is the operator again."""
    program = td.Program.from_onnx(MODELS["kept"].proto)
    assert not operators(program.to_onnx().graph)["Loop"]

    def other(dag: td.TensorDAG) -> td.TensorDAG:
        return dag.replace(lambda v: v.op.attributes.get("kind") == "greater" and v.rank == 3, td.greater_equal)

    found = operators(changed(program, other).to_onnx().graph)
    assert (found["NonMaxSuppression"], found["Loop"]) == (0, 1)


def test_an_entry_beyond_those_that_count_is_none() -> None:
    text = """(float[6] x, bool[6] c, int64 i) => (float y) { v = Compress<axis=0>(x, c)  y = Gather(v, i) }"""
    program = td.Program.from_onnx(Model(text, (), {}).proto)
    x, c = np.arange(6, dtype="f"), np.array([False, True, False, True, False, False])
    assert [float(program.run(x, c, np.array(i))) for i in (0, 1, -1, -2)] == [1, 3, 3, 1]
    for i in (2, -3):
        with pytest.raises(IndexError):
            program.run(x, c, np.array(i))
