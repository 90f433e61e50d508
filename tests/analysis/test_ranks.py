"""Ranks, and dimensions of size 1 that are left over."""

import tdagger as td
from tdagger.analysis.axes.ranks import rank_report
from tdagger.tensordag import Origin


def blocks():
    """Two blocks that add a dimension of size 1, of a network on (4, 5)."""
    x = y = td.input("x", (4, 5))
    origins = {}
    for i in range(2):
        wide = td.unsqueeze(y, (1,))
        done = td.exp(wide)
        y = td.squeeze(done, (1,))
        origins |= {wide: Origin(f"blocks.{i}.act", "", f"net.py:{10 + i}"), done: Origin(f"blocks.{i}.act")}
    return td.Graph({"x": x}, {"y": y}), origins


def test_ranks_and_left_over_dimensions():
    graph, origins = blocks()
    report = rank_report(graph, origins)
    assert (report.values, report.largest, report.leftover, report.leading) == (6, 3, 4, 0)
    assert report.ranks == {2: 2, 3: 4}
    assert [p.leftover for p in report.places] == [(1,)] * 4
    assert (report.deepest[0].module, report.deepest[0].source) == ("blocks.0.act", "net.py:10")
    assert str(report).splitlines() == [
        "6 tensors: 2 of rank 2, 4 of rank 3",
        "largest rank 3",
        "  2 x ungroup [4 1 5] in blocks.0.act (net.py:10), and more in blocks.*.act",
        "  2 x exp [4 1 5] in blocks.0.act, and more in blocks.*.act",
        "4 with a left-over dimension of size 1, 0 of them the first",
        "  2 x ungroup [4 1 5] in blocks.0.act (net.py:10), and more in blocks.*.act",
        "  2 x exp [4 1 5] in blocks.0.act, and more in blocks.*.act",
    ]


def test_an_axis_of_size_one_is_left_over_too():
    x = td.input("x", (1, 5))
    report = rank_report(td.Graph({"x": x}, {"y": td.exp(x)}))
    assert (report.leftover, report.leading) == (1, 1)


def test_no_values():
    x = td.input("x", ())
    report = rank_report(td.Graph({"x": x}, {"y": x}))
    assert (report.values, report.largest, report.leftover, report.deepest) == (0, 0, 0, ())
