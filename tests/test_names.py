"""How names are shown, called and quoted."""

import ast
import math
from enum import Enum, IntEnum

import numpy as np
import pytest

from tdagger.errors import SourceError
from tdagger.names import LONGEST, docstring, identifier, is_attribute, is_identifier, lines, literal, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layers.0.weight", "layers.0.weight"),
        ("größe 重み", "größe 重み"),
        ("a\nb\r\t", r"a\nb\r\t"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x00\x07\x7f\x85\x9b", r"\x00\x07\x7f\x85\x9b"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u202e\u2066\u200f\u061c", r"\u202e\u2066\u200f\u061c"),
        ("\u200b\ufeff\u00ad\U000e0041", r"\u200b\ufeff\xad\U000e0041"),
        ("\udc80", r"\udc80"),
        ("back\\slash 'quote' \"#[red]", "back\\slash 'quote' \"#[red]"),
    ],
)
def test_shown(text, expected):
    assert shown(text) == expected
    assert shown(expected) == expected
    assert lines(text) == expected.replace(r"\n", "\n")


def test_long_names_are_shortened():
    for text in ("x" * 10_000, "\n" * 10_000, "a b " * 3000):
        assert len(shown(text)) <= LONGEST
        assert "characters)" in shown(text)
    assert shown("x" * LONGEST) == "x" * LONGEST
    sentence = "word " * 3000
    assert lines(sentence) == sentence
    assert len(lines(f"no module {'x' * 10_000} here")) < LONGEST + 20


def test_errors_show_names():
    error = SourceError("a\x1b[2J\u202e" + "y" * 10_000)
    assert str(error).isprintable()
    assert len(str(error)) <= LONGEST
    assert str(SourceError("first\nsecond")) == "first\nsecond"
    assert SourceError("x", 3).args == ("x", 3)


@pytest.mark.parametrize(
    "text",
    ["a b", "class", "None", "0", "", "a\nmarker = 1", "ﬁ", "²", "x²", "\u202e", "'\"", "__debug__", "é", "x" * 10_000,
     "\udc80"],
    ids=lambda n: ascii(n[:20]),
)  # fmt: skip
def test_identifier(text):
    taken = {"x", "input_0"}
    first, second = identifier(text, taken), identifier(text, taken)
    assert first != second
    assert {first, second, "x", "input_0"} == taken
    for name in (first, second):
        assert is_identifier(name)
        assert ast.parse(f"{name} = 1").body[0].targets[0].id == name
        assert len(name) <= LONGEST + 20


def test_attributes():
    assert is_attribute("weight")
    assert is_attribute("__init__")
    assert not any(map(is_attribute, ("__x", "ﬁ", "None", "a.b", "", "1", "a b")))


class Mode(str, Enum):  # noqa: UP042 (its repr says <Mode.A: 'a'>)
    A = "a"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -2.5, math.inf, 1j, "a", b"\x00", 'quote" \' \n # \\', "\u2028\u202e", (), (1,), (1, ("a", None)),
     Mode.A, Number.ONE, np.float64(0.5), np.str_("n\n"), complex(math.inf, -0.0), ...],
)  # fmt: skip
def test_literal(value):
    source = literal(value)
    assert source.isprintable()
    assert eval(source, {"inf": math.inf, "nan": math.nan, "complex": complex}) == value


def test_literal_of_what_has_no_source():
    with pytest.raises(TypeError, match="a dict has no source"):
        literal({})
    with pytest.raises(TypeError, match="a object has no source"):
        literal((1, object()))


@pytest.mark.parametrize("text", ["a network", '"""\nmarker = 1\n"""', "end\\", 'end"', "\\N{x} \\u12", "\x00"])
def test_docstring(text):
    found = ast.parse(docstring(text)).body
    assert len(found) == 1
    assert ast.literal_eval(docstring(text)) == lines(text)
