"""If, Loop and Scan of models: by numpy, by torch and written again, as onnxruntime has them."""

from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

import tdagger as td
from tests.frameworks.onnx.test_programs import run, session


class Model(NamedTuple):
    text: str
    inputs: tuple[tuple[Any, ...], ...]
    options: dict[str, Any]

    @property
    def proto(self) -> onnx.ModelProto:
        made = onnx.ModelProto(ir_version=9)
        made.graph.CopyFrom(parser.parse_graph(f"g {self.text}"))
        made.opset_import.add(domain="", version=17)
        return made


MODELS: dict[str, Model] = {}


def m(name: str, text: str, *inputs: tuple[Any, ...], **options: Any) -> None:
    MODELS[name] = Model(text, inputs, options)


def f(*shape: int) -> Any:
    return np.random.default_rng(sum(shape) + 1).normal(size=shape).astype("f")


def i(n: int) -> Any:
    return np.array(n, np.int64)


def b(p: bool) -> Any:
    return np.array(p)


m(
    "capture",
    """(float[3] x, bool c, float[3] w) => (float[3] y) {
  t = Add(x, w)
  y = If(c) <then_branch = a () => (float[3] r) { q = Mul(t, w)  r = Add(q, x) },
             else_branch = e () => (float[3] r2) <float[3] k = {1.0, 2.0, 3.0}> { r2 = Sub(t, k) }>
}""",
    (f(3), b(True), f(3)),
    (f(3), b(False), f(3)),
)
m(
    "bodies",
    """(float[3] x, int64 n, bool c) => (float[3] y, float[N,3] ys) {
  y, ys = Loop(n, c, x) <body = b (int64 i, bool ci, float[3] s) => (bool co, float[3] so, float[3] o) {
     co = Identity(ci)  fi = CastLike(i, s)  so = Add(s, fi)  o = Mul(so, so) }>
}""",
    (f(3), i(4), b(True)),
    (f(3), i(0), b(True)),
    (f(3), i(4), b(False)),
    turns=6,
)
m(
    "early",
    """(float[3] x, float limit) => (float[3] y, float[N] sums) <int64 n = {7}, bool t = {1}> {
  y, sums = Loop(n, t, x) <body = b (int64 i, bool ci, float[3] s) => (bool co, float[3] so, float o) <float two
    = {2.0}> {
     so = Mul(s, two)  o = ReduceSum <keepdims=0> (so)  a = Abs(o) co = Less(a, limit) }>
}""",
    (f(3), np.array(10, "f")),
    (f(3), np.array(0, "f")),
    (f(3), np.array(1e9, "f")),
)
m(
    "whilecond",
    """(float x, float lim) => (float y) {
  c = Less(x, lim)
  y = Loop("", c, x) <body = b (int64 i, bool ci, float s) => (bool co, float so) { so = Add(s, s) co = Less(so,
    lim) }>
}""".replace('""', ""),
    (np.array(1.5, "f"), np.array(100, "f")),
    (np.array(500, "f"), np.array(100, "f")),
)
m(
    "nested",
    """(float[2] x, int64 n, int64 m, float lim) => (float[2] y, int64 k) <int64 z = {0}, bool t = {1}> {
  y, k = Loop(n, t, x, z) <body = b (int64 i, bool ci, float[2] s, int64 kk) => (bool co, float[2] so, int64 ko) {
     co = Identity(ci)
     tot = ReduceSum <keepdims=0> (s)
     big = Greater(tot, lim)
     so, ko = If(big) <
       then_branch = tb () => (float[2] s1, int64 k1) { s1, k1 = Loop(m, ci, s, kk) <body = ib (int64 j, bool
         cj, float[2] q, int64 kq) => (bool cjo, float[2] qo, int64 kqo) { cjo = Identity(cj) half =
         Constant<value_float=0.5>() qo = Mul(q, half) one = Constant<value_int=1>() ij = Add(i, one) kqo =
         Add(kq, ij) }> },
       else_branch = eb () => (float[2] s2, int64 k2) { w = Constant<value_floats=[1.0,3.0]>() s2 = Add(s, w) k2
         = Identity(kk) }>
  }>
}""",
    (f(2), i(6), i(2), np.array(4, "f")),
    (f(2), i(9), i(0), np.array(2, "f")),
    (f(2), i(3), i(2), np.array(-40, "f")),
)
m(
    "scan_axes",
    """(float[2] h, float[2,5] x, float[5,2] w) => (float[2] hn, float[2,5] y, float[5,2] z) {
  hn, y, z = Scan <num_scan_inputs=2, scan_input_axes=[-1,0], scan_input_directions=[0,1],
    scan_output_axes=[-1,0], scan_output_directions=[1,0],
    body = b (float[2] s, float[2] a, float[2] c) => (float[2] so, float[2] o, float[2] p) { u = Mul(s, a) so =
      Add(u, c) o = Identity(so) p = Sub(a, c) }> (h, x, w)
}""",
    (f(2), f(2, 5), f(5, 2)),
)
m(
    "scan_capture",
    """(float[2] h, float[4,2] x, float[2,2] w) => (float[2] hn, float[4,2] y) {
  hn, y = Scan <num_scan_inputs=1, body = b (float[2] s, float[2] a) => (float[2] so, float[2] o) { u =
    MatMul(w, s) v = Add(u, a) so = Tanh(v) o = Mul(so, h) }> (h, x)
}""",
    (f(2), f(4, 2), f(2, 2)),
)
m(
    "unsorted",
    """(float[2] x, bool c) => (float[2] y) {
  y = If(c) <then_branch = a () => (float[2] r) { r = Add(late, x) }, else_branch = e () => (float[2] r2) { r2 =
    Sub(x, late2) }>
  late = Mul(x, x)
  late2 = Neg(late)
}""",
    (f(2), b(True)),
    (f(2), b(False)),
)
m(
    "grow",
    """(float[2] x) => (float[M] y) <int64 n = {3}, bool t = {1}> {
  y = Loop(n, t, x) <body = b (int64 i, bool ci, float[K] s) => (bool co, float[L] so) { co = Identity(ci) so =
    Concat<axis=0>(s, x) }>
}""",
    (f(2),),
)
m(
    "shadow",
    """(float[2] x, int64 n, bool t) => (float[2] y) {
  s = Neg(x)
  y = Loop(n, t, x) <body = b (int64 i, bool ci, float[2] u) => (bool co, float[2] uo) { co = Identity(ci) v =
    Add(u, s) uo = Add(v, u) }>
}""",
    (f(2), i(3), b(True)),
)
m(
    "window",
    """(float[8] x, int64 n, bool t) => (float[2] y) <int64[1] zero={0}, int64[1] two = {2}, int64[1] ax={0},
      float[2] st={0.0,0.0}> {
  y = Loop(n, t, st) <body = b (int64 i, bool ci, float[2] u) => (bool co, float[2] uo) { co = Identity(ci) a =
    Unsqueeze(i, ax) e = Add(a, two) w = Slice(x, a, e, ax) uo = Add(u, w) }>
}""",
    (f(8), i(3), b(True)),
    (f(8), i(7), b(True)),
)
m(
    "prefix",
    """(float[8] x, int64[1] n) => (float[N] y, int64[1] s) <int64[1] zero={0}> {
  a = Slice(x, zero, n)  y = Exp(a) s = Shape(y)
}""",
    (f(8), np.array([3])),
    (f(8), np.array([-2])),
    (f(8), np.array([100])),
    (f(8), np.array([0])),
)
m(
    "if_shapes",
    """(float[4] x, bool c) => (float[N] y) {
  y = If(c) <then_branch = a () => (float[4] r) { r = Exp(x) }, else_branch = e () => (float[2] r2) { z =
    Constant<value_ints=[0]>() k = Constant<value_ints=[2]>() r2 = Slice(x, z, k) }>
}""",
    (f(4), b(True)),
    (f(4), b(False)),
)
m(
    "seq",
    """(float[2] x, bool c) => (float[3,2] y, int64 n) {
  s0 = SequenceEmpty<dtype=1>()
  n3 = Constant<value_int=3>() t = Constant<value=bool {1}>()
  s = Loop(n3, t, s0) <body = b (int64 i, bool ci, seq(float[2]) q) => (bool co, seq(float[2]) qo) { co =
    Identity(ci) f = CastLike(i, x) v = Mul(x, f) qo = SequenceInsert(q, v) }>
  y = ConcatFromSequence<axis=0,new_axis=1>(s)
  n = SequenceLength(s)
}""",
    (f(2), b(True)),
)
m(
    "huge_count",
    """(float x, float lim) => (float y) <int64 n = {9223372036854775807}, bool t={1}> {
  y = Loop(n, t, x) <body = b (int64 i, bool ci, float s) => (bool co, float so) { so = Add(s, s) co = Less(so,
    lim) }>
}""",
    (np.array(1.5, "f"), np.array(100, "f")),
)
m(
    "two_ifs",
    """(float[3] x, float[3,3] w, bool c, bool d) => (float[3] y) {
  a = If(c) <then_branch = t1 () => (float[3] r1) { r1 = MatMul(w, x) }, else_branch = e1 () => (float[3] r2) {
    r2 = MatMul(x, w) }>
  y = If(d) <then_branch = t2 () => (float[3] r3) { r3 = If(c) <then_branch=t3 () => (float[3] r5) {r5 =
    Neg(a)}, else_branch=e3 () => (float[3] r6) {r6 = Identity(x)}> }, else_branch = e2 () => (float[3] r4) { r4
    = MatMul(a, w) }>
}""",
    *[(f(3), f(3, 3), b(p), b(q)) for p in (True, False) for q in (True, False)],
)

#: onnxruntime wants nodes in their order.
UNSORTED = {"unsorted"}


def flat(x: Any) -> list[Any]:
    return [np.asarray(v) for v in x] if isinstance(x, tuple | list) else [np.asarray(x)]


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    model = MODELS[name]
    program = td.Program.from_onnx(model.proto, **model.options)
    assert list(program.inputs) == [x.name for x in model.proto.graph.input]
    assert list(program.outputs) == [x.name for x in model.proto.graph.output]
    module, again = program.to_torch(copy=True), session(program.to_onnx())
    made = None if name in UNSORTED else session(model.proto)
    for arrays in model.inputs:
        found = flat(program.run(*arrays))
        wanted = found if made is None else run(made, list(arrays))
        with torch.no_grad():
            by_torch = module(*[torch.from_numpy(np.array(a)) for a in arrays])
        for other in (found, flat(by_torch), run(again, list(arrays))):
            assert [x.shape for x in other] == [x.shape for x in wanted]
            for x, y in zip(other, wanted, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


DECIDED = {"scan_axes", "scan_capture", "grow", "seq"}


@pytest.mark.parametrize("name", MODELS)
def test_what_constants_and_shapes_decide_is_a_network(name: str) -> None:
    model = MODELS[name]
    if name in DECIDED:
        dag = td.from_onnx(model.proto)
        for found, wanted in zip(flat(dag.run(*model.inputs[0])), run(session(model.proto), list(model.inputs[0])),
                                 strict=True):  # fmt: skip
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        return
    with pytest.raises(td.UnsupportedError, match=r"depends? on data|branches on data"):
        td.from_onnx(model.proto)


def test_the_error_names_the_node_and_what_to_do() -> None:
    with pytest.raises(td.UnsupportedError, match=r"If: it branches on data, .*Program\.from_onnx .*If that makes y"):
        td.from_onnx(MODELS["capture"].proto)
    with pytest.raises(td.UnsupportedError, match=r"Loop: .*turns=\{'y': \.\.\.\}"):
        td.Program.from_onnx(MODELS["bodies"].proto)


def test_given_what_is_asked_a_loop_is_written_out() -> None:
    model = MODELS["bodies"]
    dag = td.from_onnx(model.proto, values={"n": 4, "c": True})
    x = model.inputs[0][0]
    for found, wanted in zip(dag.run(x), run(session(model.proto), list(model.inputs[0])), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    program = td.Program.from_onnx(model.proto, turns={"y": 3})
    with pytest.raises(IndexError):  # a turn more than there may be
        program.run(*model.inputs[0])


def test_weights_inside_are_one_however_many_turns() -> None:
    text = """(float[2] x) => (float[2] y) <int64 n = {3}, bool t = {1}> {
      y = Loop(n, t, x) <body = b (int64 i, bool ci, float[2] s) => (bool co, float[2] so) {
        co = Identity(ci) w = Constant<value_floats=[1.0,3.0]>() so = Mul(s, w) }>
    }"""
    dag = td.from_onnx(Model(text, (), {}).proto)
    assert list(dag.state) == ["w"]
    assert [v.op.name for v in dag.values].count("binary") == 3
    assert dag.run(np.ones(2, "f")).tolist() == [1, 27]


def test_a_branch_that_no_size_fits() -> None:
    text = """(float[2,4] x, float[3] w, bool c) => (float[2,4] y) {
      y = If(c) <then_branch = a () => (float[2,4] r) { r = Add(x, w) }, else_branch = e () => (float[2,4] q) {
        q = Neg(x) }>
    }"""
    with pytest.warns(UserWarning, match=r"its then_branch \(.*Add.*can't be run at these sizes"):
        program = td.Program.from_onnx(Model(text, (), {}).proto)
    x, w = f(2, 4), f(3)
    np.testing.assert_array_equal(program.run(x, w, np.False_), -x)
    with pytest.raises(IndexError):
        program.run(x, w, np.True_)
    module, made = program.to_torch(), session(program.to_onnx())
    given = [torch.from_numpy(x), torch.from_numpy(w)]
    np.testing.assert_array_equal(module(*given, torch.tensor(False)), -x)
    with pytest.raises(IndexError):
        module(*given, torch.tensor(True))
    with pytest.raises(Exception, match="out of"):
        run(made, [x, w, np.True_])
    assert len(program.specialize(c=False).blocks) == 1


def test_sequences_and_what_is_optional_are_lists_and_none() -> None:
    text = """(seq(float) q, float[2] x) => (seq(float) r, int64 n) {
      r = SequenceInsert(q, x)
      n = SequenceLength(r)
    }"""
    dag = td.from_onnx(Model(text, (), {}).proto, inputs={"q": [(2,), (3,)]})
    out, n = dag.run([f(2), f(3)], f(2))
    assert [a.shape for a in out] == [(2,), (3,), (2,)]
    assert int(n) == 3
    with pytest.raises(td.InputError, match=r"input q is sequence_type: give a shape for each"):
        td.from_onnx(Model(text, (), {}).proto)


def test_damaged_graphs_are_refused_by_node() -> None:
    text = """(float[2] x, bool c) => (float[2] y) {
      y = If(c) <then_branch = a () => (float[2] r) { r = Exp(x) }, else_branch = e () => (float[2] q) { q =
        Neg(gone) }>
    }"""
    with pytest.raises(td.SourceError, match=r"^node If that makes y of g: its input gone is made by nothing"):
        td.Program.from_onnx(Model(text, (), {}).proto)
    text = """(float[2] x, int64 n, bool c) => (float[2] y) {
      y = Loop(n, c, x) <body = b (int64 i, bool ci, float[2] s) => (bool co, float[1] so) { co = Identity(ci)
        so = ReduceSum(s) }>
    }"""
    with pytest.raises(td.UnsupportedError, match=r"s is f32\[2\] before a turn and f32\[1\] after it"):
        td.Program.from_onnx(Model(text, (), {}).proto)


def test_element_types_held_in_others_stay_outside() -> None:
    text = """(float[2] x, int64 n, bool c) => (float[2] y) {
      q = Cast<to=22>(x)
      r = Loop(n, c, q) <body = b (int64 i, bool ci, int4[2] s) => (bool co, int4[2] so) {
        co = Identity(ci) so = Identity(s) }>
      y = Cast<to=1>(r)
    }"""
    model = Model(text, (), {}).proto
    model.opset_import[0].version = 21
    with pytest.raises(td.UnsupportedError, match=r"Loop: q is of INT4"):
        td.Program.from_onnx(model)
    text = """(float[2] x, bool c) => (float[2] y) {
      r = If(c) <then_branch = a () => (int4[2] p) { p = Cast<to=22>(x) },
                 else_branch = e () => (int4[2] q) { z = Neg(x) q = Cast<to=22>(z) }>
      y = Cast<to=1>(r)
    }"""
    model = Model(text, (), {}).proto
    model.opset_import[0].version = 21
    with pytest.raises(td.UnsupportedError, match=r"If: its graph gives p of INT4"):
        td.Program.from_onnx(model)


def test_the_number_of_a_turn_is_carried_out_as_it_was() -> None:
    """onnxruntime gives the number of turns of this model: findings/loop_number_as_carried_output.sh."""
    text = """(int64 n, bool yes, int64 start) => (int64 y) {
      y = Loop(n, yes, start) <body = body (int64 turn, bool go, int64 carried) => (bool again, int64 turn) {
        again = Identity(go)
      }>
    }"""
    model = Model(text, (), {}).proto
    program = td.Program.from_onnx(model)
    given = {"n": np.array(3), "yes": np.array(True), "start": np.array(-1)}
    assert program.run(**given) == 2
    assert session(program.to_onnx()).run(None, given)[0] == 2
    assert program.run(**given | {"n": np.array(0)}) == -1


def test_what_is_left_out_of_a_branch_is_kept_beside_the_program() -> None:
    """A slice of all rows: of more it may take as many, or all."""
    text = """(float[4,3] x, bool c) => (float[4,3] y) <int64[1] zero = {0}, int64[1] n = {4}> {
  y = If(c) <then_branch = a () => (float[4,3] r) { s = Slice(x, zero, n)  r = Neg(s) },
             else_branch = e () => (float[4,3] r2) { r2 = Add(x, x) }>
}"""
    program = td.Program.from_onnx(Model(text, (), {}).proto)
    assert [(one.entries, one.what) for one in program.left_out] == [(4, "is sliced up to 4, which are all at 4")]
    with pytest.raises(td.AxisError, match=r"not known, .*\n.*has 4 entries, and so has what is sliced up to 4"):
        program.resize(b=5)
    x = f(5, 3)
    np.testing.assert_array_equal(program.resize(b=5, assume=True).run(x, b(True)), -x)
