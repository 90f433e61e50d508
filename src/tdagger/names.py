r"""Names of strangers: how a module, class, parameter, file or op is shown, called and quoted, whatever it is called.

A name is any string: PyTorch takes ``setattr(module, "a\nb", ...)``, and a file's names are what its writer chose. So
none is ever written as it is: people read :func:`shown`, generated code has :func:`identifier` and :func:`literal`.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Container
from typing import Any, cast

#: How long a name or a word of a text is that is shown whole; of longer ones both ends are.
LONGEST = 240
_LONG_WORD = re.compile(rf"\S{{{LONGEST + 1},}}")


def shown(text: object) -> str:
    r"""A name for people to read, on one line: what doesn't print is escaped, what is too long shortened.

    Escaped are controls, line and paragraph separators, marks that turn the direction of writing or take no room, and
    surrogates. What is shown can stand in a comment of Python; showing it again changes nothing.

    >>> shown("layer1.0"), shown("a\nb"), shown("\u202ex")
    ('layer1.0', 'a\\nb', '\\u202ex')
    """
    name = str(text)
    if not name.isprintable():
        name = "".join([c if c.isprintable() else _escaped(c) for c in name])
    return _shortened(name) if len(name) > LONGEST else name


def lines(text: object) -> str:
    r"""A text of several lines for people to read: each is :func:`shown`, but only words that are too long are cut.

    >>> lines("a\x1b[31m\nb")
    'a\\x1b[31m\nb'
    """
    whole = str(text)
    if not whole.isprintable():
        whole = "".join([c if c == "\n" or c.isprintable() else _escaped(c) for c in whole])
    return _LONG_WORD.sub(lambda m: _shortened(m[0]), whole) if len(whole) > LONGEST else whole


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _shortened(text: str) -> str:
    ends = LONGEST // 2 - 20
    return f"{text[:ends]}...({len(text)} characters)...{text[-ends:]}"


# --- Python ------------------------------------------------------------------------------------------------


def is_identifier(text: str) -> bool:
    """Whether Python takes ``text`` for a name, and for this one: it reads ``ﬁ`` as ``fi``, and has words of its own.

    >>> is_identifier("weight"), is_identifier("class"), is_identifier("a b"), is_identifier("ﬁ")
    (True, False, False, False)
    """
    plain = text.isascii() or unicodedata.normalize("NFKC", text) == text
    return text.isidentifier() and not keyword.iskeyword(text) and text != "__debug__" and plain


def is_attribute(text: str) -> bool:
    """Whether ``x.text`` is the attribute of that name everywhere: inside a class, ``__a`` is another.

    >>> is_attribute("weight"), is_attribute("__weight")
    (True, False)
    """
    return is_identifier(text) and not (text.startswith("__") and not text.endswith("__"))


def is_dotted(text: str) -> bool:
    """Whether ``text`` is identifiers with dots between them, as an op's or a module's name is."""
    return all(map(is_attribute, text.split(".")))


def identifier(text: str, taken: set[str]) -> str:
    """A Python name like ``text`` that isn't in ``taken``; it is put there.

    >>> taken = {"x"}
    >>> [identifier(t, taken) for t in ("x", "a b", "a.b", "0", "class", "")]
    ['x_', 'a_b', 'a_b_', 'input_0', 'input_class', 'x__']
    """
    base = re.sub(r"\W+", "_", unicodedata.normalize("NFKC", text[:LONGEST])).strip("_") or "x"
    base = base if is_identifier(base) else f"input_{base}"
    name = untaken(base if is_identifier(base) else identifier(base.encode("ascii", "ignore").decode(), set()), taken)
    taken.add(name)
    return name


def untaken(name: str, *taken: Container[str]) -> str:
    """A name with as many underscores behind it as it takes for none of ``taken`` to have it.

    >>> untaken("x", {"x", "x_"}, ["x__"]), untaken("y", ())
    ('x___', 'y')
    """
    while any(name in names for names in taken):
        name += "_"
    return name


_PLAIN = (bool, int, float, complex, str, bytes)


def literal(value: Any) -> str:
    r"""A constant as Python source: None, numbers, strings and tuples of them, of whatever subclass.

    Infinities and NaN are called ``inf`` and ``nan``. TypeError for anything else, which has no source.

    >>> literal("a\n'"), literal((1, float("inf"))), literal(None)
    ('"a\\n\'"', '(1, inf)', 'None')
    """
    if value is None or value is Ellipsis:
        return repr(value)
    if isinstance(value, tuple):
        items = [literal(v) for v in cast(tuple[Any, ...], value)]
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    for kind in _PLAIN:
        if isinstance(value, kind):
            if isinstance(value, complex):
                return f"complex({literal(value.real)}, {literal(value.imag)})"
            return cast(Any, kind).__repr__(value)  # an enum's own says <Mode.A: 'a'>, numpy's np.float64(1.0)
    raise TypeError(f"a {type(value).__name__} has no source")


def docstring(text: str) -> str:
    """A text as a docstring, quotes and all.

    >>> print(docstring("net, not 'net'").replace('"', "!"))
    !!!net, not 'net'!!!
    """
    inside = lines(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"""{inside}"""'
