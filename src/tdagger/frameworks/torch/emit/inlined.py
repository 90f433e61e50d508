"""The source of functions and classes with all that it needs, so that a file has no need of the package they are in.

What a statement needs are the names it takes from around: they are looked up among the statements of its module, and
those are needed too. Imports of the standard library and of torch stay imports.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import symtable
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tdagger.errors import UnsupportedError
from tdagger.names import is_attribute, shown, untaken

#: Packages that a written file may import.
ALLOWED = frozenset({*sys.stdlib_module_names, "torch", "safetensors"})
#: At most so many statements are copied for one thing that isn't tdagger's: what needs more is a library.
_MOST = 20


class _Import(NamedTuple):
    """``from module import name``, or ``import module`` without a name."""

    module: str
    name: str


class _Module(NamedTuple):
    """The statements of a module by the names they define; None for what several define."""

    lines: list[str]
    found: dict[str, ast.stmt | _Import | None]


@functools.cache
def _module(name: str) -> _Module:
    try:
        text = inspect.getsource(importlib.import_module(name))
    except (OSError, TypeError) as e:
        raise UnsupportedError(f"the module {shown(name)} has no source: {e}") from None
    found: dict[str, ast.stmt | _Import | None] = {}
    for node in ast.parse(text).body:
        for defined, what in _defined(node):
            found[defined] = None if defined in found else what
    return _Module(text.splitlines(), found)


def _defined(node: ast.stmt) -> Iterator[tuple[str, ast.stmt | _Import | None]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name, node
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from ((a.asname or a.name, _Import(node.module or "", a.name)) for a in node.names)
    elif isinstance(node, ast.Import):
        yield from ((a.asname or a.name, _Import(a.name, "")) for a in node.names if a.asname or "." not in a.name)
    elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        yield node.targets[0].id, node
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, node
    elif not isinstance(node, ast.Expr):  # a branch, a loop: nothing says which one counts
        yield from ((n.id, None) for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def used_globals(code: str) -> set[str]:
    """The names that code takes from around it, builtins among them.

    >>> sorted(used_globals("def f(x): return g(x) + len(y)"))
    ['g', 'len', 'y']
    """
    found: set[str] = set()
    defined: set[str] = set()
    tables = [symtable.symtable(code, "<code>", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if table.get_type() == "module" and (symbol.is_assigned() or symbol.is_imported()):
                defined.add(symbol.get_name())
            elif symbol.is_global() or (table.get_type() == "module" and symbol.is_referenced()):
                found.add(symbol.get_name())
    return found - defined


def renamed(code: str, names: Mapping[str, str], of: str = "") -> str:
    """Code with names it takes from around called otherwise; with ``of``, also what it reads as attributes of that.

    UnsupportedError if a name that is to be changed is also one of the code's own.

    >>> renamed("y = runtime.pad(x, pad)", {"x": "z", "runtime.pad": "pad_"}, "runtime")
    'y = pad_(z, pad)'
    """
    changed = {old: new for old, new in names.items() if old != new}
    edits: list[tuple[int, int, int, str]] = []
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == of:
            edits.append((node.lineno, node.col_offset, node.end_col_offset or 0, names[f"{of}.{node.attr}"]))
        elif isinstance(node, ast.Name) and node.id in changed:
            edits.append((node.lineno, node.col_offset, node.end_col_offset or 0, changed[node.id]))
        elif isinstance(node, ast.arg) and node.arg in changed:
            raise UnsupportedError(f"{shown(node.arg)} is an argument, and a name that is taken")
    lines = [line.encode() for line in code.split("\n")]
    for row, start, stop, new in sorted(edits, reverse=True):
        line = lines[row - 1]
        lines[row - 1] = line[:start] + new.encode() + line[stop:]
    for node in tree.body:  # the statement's own name stands in no node of its own
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in changed:
            kind = b"def " if isinstance(node, ast.FunctionDef) else b"class "
            own = node.name.encode()
            lines[node.lineno - 1] = lines[node.lineno - 1].replace(kind + own, kind + changed[node.name].encode(), 1)
    return b"\n".join(lines).decode()


class _Key(NamedTuple):
    """What is copied: the statement of a module that defines a name."""

    module: str
    name: str


class Inliner:
    """Collects what a file needs, then gives it: ``wants`` and ``imports`` first, then ``close``, then the rest.

    ``instead`` has text for some things, by module and name, which needs nothing.
    """

    def __init__(self, instead: Mapping[tuple[str, str], str]) -> None:
        self._instead = instead
        self._roots: list[_Key | _Import] = []
        self._called: dict[_Import, str] = {}
        self._names: dict[_Key | _Import, str] = {}
        self._order: list[_Key] = []
        self._attributes: set[str] = set()

    def imports(self, module: str, name: str = "", called: str = "") -> None:
        """Ask for an import, under a name that nothing else may have; UnsupportedError if the file may not have it."""
        key = _allowed(_Import(module, name))
        self._roots.append(key)
        if called:
            self._called[key] = called

    def wants(self, module: str, name: str) -> None:
        """Ask for a copy of what a module defines. UnsupportedError if that can't be, or would copy a whole library."""
        key = _Key(module, name)
        count = sum(isinstance(k, _Key) for k in self._closure([key], None))
        if module.partition(".")[0] != "tdagger" and count > _MOST:
            raise UnsupportedError(f"it needs {count} statements of its package, more than {_MOST}")
        self._roots.append(key)

    def close(self, code: str, taken: set[str]) -> None:
        """Find what all that is asked for needs, with methods that it or ``code`` calls, and names not ``taken``."""
        self._attributes = set(_attributes(code))
        while True:
            before = len(self._attributes)
            found = self._closure(self._roots, self._attributes)
            self._order = [k for k in found if isinstance(k, _Key)]
            for key in self._order:
                self._attributes.update(_attributes(self._text(key, self._attributes)))
            if len(self._attributes) == before:
                break
        fixed = {k: name for k, name in self._called.items() if k in found}
        if clash := taken & set(fixed.values()):
            raise UnsupportedError(f"{', '.join(map(shown, sorted(clash)))} would stand for two things in the file")
        taken |= set(fixed.values())
        for key in found:
            known = isinstance(key, _Import) and fixed.get(key)
            self._names[key] = known or _free(key.name or key.module.partition(".")[0], taken)

    def called(self, module: str, name: str) -> str:
        """What a name of a module is called in the file."""
        return self._names[self._meant(module, name)]

    def _meant(self, module: str, name: str) -> _Key | _Import:
        """What a name of a module stands for: a statement to copy, there or in another module, or an import."""
        package = module.partition(".")[0]
        while True:
            key = _Key(module, name)
            if key in self._instead:
                return key
            found = _module(module).found.get(name)
            if found is None:
                raise UnsupportedError(f"{shown(module)} has no statement of its own that defines {shown(name)}")
            if not isinstance(found, _Import):
                return key
            if not found.name or found.module.partition(".")[0] != package:
                if not found.name and found not in self._called:
                    self._called[found] = name
                return _allowed(found)
            module, name = found

    def _closure(self, roots: Iterable[_Key | _Import], attributes: set[str] | None) -> list[_Key | _Import]:
        """The roots and all they need, which comes first; methods that aren't among ``attributes`` need nothing."""
        done: dict[_Key | _Import, None] = {}
        open_: set[_Key | _Import] = set()
        stack = [(self._meant(*r) if isinstance(r, _Key) else r, False) for r in reversed(list(roots))]
        while stack:
            key, left = stack.pop()
            if left:
                done[key] = None
            if left or key in done or key in open_:
                continue
            open_.add(key)
            stack.append((key, True))
            if isinstance(key, _Key):
                stack += [(k, False) for k in self._needs(key, attributes)]
        return list(done)

    def _needs(self, key: _Key, attributes: set[str] | None) -> list[_Key | _Import]:
        if key in self._instead:
            return []
        needed: list[_Key | _Import] = []
        for name in sorted(used_globals(self._text(key, attributes)) - {key.name}, reverse=True):
            if name in _module(key.module).found:
                needed.append(self._meant(key.module, name))
            elif not hasattr(builtins, name):
                raise UnsupportedError(f"{shown(key.module)}.{shown(key.name)} uses {shown(name)}, not defined there")
        return needed

    def _text(self, key: _Key, attributes: set[str] | None) -> str:
        """The source of a statement, without the methods that nothing calls."""
        if key in self._instead:
            return self._instead[key]
        lines, found = _module(key.module)
        node: Any = found[key.name]
        dropped: set[int] = set()
        if isinstance(node, ast.ClassDef) and attributes is not None:
            kind = getattr(importlib.import_module(key.module), key.name)
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not _is_called(inner.name, kind, attributes):
                    dropped |= set(range(_first(inner), (inner.end_lineno or 0) + 1))
        rows = range(_first(node), (node.end_lineno or 0) + 1)
        text = "\n".join(lines[i - 1].split("  # noqa")[0].split("  # pyright")[0] for i in rows if i not in dropped)
        while "\n\n\n" in text:
            text = text.replace("\n\n\n", "\n\n")
        return text.rstrip()

    def import_lines(self) -> str:
        """The imports, those of the standard library first."""
        lines: dict[str, list[str]] = {}
        plain: list[str] = []
        for key, called in self._names.items():
            if isinstance(key, _Import) and key.name:
                lines.setdefault(key.module, []).append(key.name if called == key.name else f"{key.name} as {called}")
            elif isinstance(key, _Import):
                plain.append(f"import {key.module}" + ("" if called == key.module else f" as {called}"))
        all_ = [*sorted(plain), *[f"from {m} import {', '.join(sorted(lines[m]))}" for m in sorted(lines)]]
        standard = [text for text in all_ if text.split()[1].partition(".")[0] in sys.stdlib_module_names]
        others = [text for text in all_ if text not in standard]
        return "\n\n".join("\n".join(group) for group in (standard, others) if group)

    def statements(self) -> str:
        """What is copied, each statement after those it needs."""
        out: list[str] = []
        for key in self._order:
            text = self._text(key, self._attributes)
            names = {key.name: self._names[key]}
            if key not in self._instead:
                known = _module(key.module).found
                names |= {n: self.called(key.module, n) for n in used_globals(text) if n in known}
            out.append(renamed(text, names))
        return "\n\n\n".join(out)


def _free(name: str, taken: set[str]) -> str:
    """A name that isn't taken; it is then."""
    name = untaken(name, taken)
    taken.add(name)
    return name


def _allowed(key: _Import) -> _Import:
    if key.module.partition(".")[0] not in ALLOWED:
        raise UnsupportedError(f"it needs {shown('.'.join(filter(None, key)))}, which is neither torch nor Python")
    return key


def _is_called(name: str, kind: type, attributes: set[str]) -> bool:
    special = name.startswith("__") and name.endswith("__")
    return special or name in attributes or any(hasattr(base, name) for base in kind.__mro__[1:])


def _attributes(code: str) -> Iterator[str]:
    return (n.attr for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Attribute))


def _first(node: Any) -> int:
    return min([node.lineno, *[d.lineno for d in getattr(node, "decorator_list", [])]])


def is_found(thing: Any) -> bool:
    """Whether a class or function is found under its name in its module."""
    named = is_attribute(thing.__qualname__) and all(map(is_attribute, thing.__module__.split(".")))
    return named and getattr(sys.modules.get(thing.__module__), thing.__qualname__, None) is thing


def imports_of(text: str) -> Iterable[str]:
    """The packages that source imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (a.name.partition(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
