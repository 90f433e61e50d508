"""Writing a graph as Python: one statement per value, in tdagger's order, with names reused as values die.

First every value that is needed is written, from the outputs back, with marks in place of names; an op's row
(:mod:`emit_core`, :mod:`emit_composites`) gives its expression. Then, from the inputs on, marks become names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from tdagger.composite import Composite
from tdagger.frameworks.torch.emit.blocks import ModuleCall
from tdagger.frameworks.torch.emit.loops import Loop, loops, variable
from tdagger.frameworks.torch.emit.parts import all_parts, together
from tdagger.graph import Graph
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.source import Buffer, Const, Iota, Leaf, Parameter
from tdagger.ops.structure import Group, Item, Permute, Reduce, Repeat, Slice, Ungroup
from tdagger.tensordag import Origin
from tdagger.types import DType, Size, broadcast_shapes

#: Gives the Python expression for a value.
Row = Callable[["Writer", Value], str]

# A mark is \0, a kind, a number, \0: v a value, w a state tensor, t the training flag of a module.
_MARK = re.compile("\0([vwt])([0-9]+)\0")
_LARGEST = float(np.finfo(np.float32).max)
#: How many views are written inside the expression that uses them: x.permute(0, 2, 1).reshape(8, 196)
_NESTED_VIEWS = 3


class Marked(NamedTuple):
    """A state tensor in the code, the training flag of a module, or (without a name) a module.

    ``owner`` is the path of the module that owns it, ``name`` what it is called there.
    """

    owner: str
    name: str
    is_flag: bool = False


#: Gives the expression for what is marked; True if the module that owns it is called ``m`` here.
Path = Callable[[Marked, bool], str]


@dataclass
class Statement:
    """``targets = text``; a target is None where a result isn't used. ``before`` are lines put in front."""

    targets: list[Value | None]
    text: str
    module: str
    before: list[str] = field(default_factory=list[str])
    #: How several targets nest: ``"{0}, ({1}, {2})"``.
    form: str = ""
    #: Of a loop over a list of modules, the list; ``text`` are then the arguments of each.
    over: str = ""
    path: str = ""
    #: What targets are before the loop, by their numbers.
    starts: dict[int, str] = field(default_factory=dict[int, str])

    @property
    def whole(self) -> str:
        """All that it reads."""
        return "".join((self.text, self.over, *self.starts.values()))


def _running(number: int) -> str:
    """In the arguments of a loop, what the module before gave."""
    return f"\1{number}\1"


def call_row(w: Writer, v: Value) -> str:
    """The row of a module's call."""
    op = v.op
    assert isinstance(op, ModuleCall)
    owner, _, name = op.path.rpartition(".")
    return f"{w.state_tensor(owner, name)}({op.arguments.format(*map(w.ref, v.args))})"


def number(value: Any, dtype: DType) -> str:
    """A number as Python source, as short as identifies it in ``dtype``."""
    if dtype.is_complex:
        return f"complex({float(value.real)!r}, {float(value.imag)!r})"
    if not dtype.is_float:
        return repr(value.item())
    wide = float(value)
    if dtype.name != "f32" or abs(wide) >= _LARGEST:
        return repr(wide)  # the shortest form of the largest float32 is larger than it
    return repr(float(str(np.float32(wide))))


def literal(value: Value) -> str | None:
    """A constant of one entry as Python source, None for others."""
    op = value.op
    if not isinstance(op, Const) or op.data.size != 1:
        return None
    return number(op.data.reshape(-1)[0], op.dtype)


def is_reshape(value: Value) -> bool:
    """Whether a value has the entries of its argument in the same order, and other axes."""
    op = value.op
    return isinstance(op, Group | Ungroup) or (isinstance(op, Composite) and op.name == "reshape")


def adds_leading_axes(value: Value) -> bool:
    """Whether a value is its argument with axes of size 1 in front, which broadcasting adds by itself."""
    if is_reshape(value):
        shape, old = value.type.shape, value.args[0].type.shape
        extra = len(shape) - len(old)
        return extra >= 0 and shape[:extra] == (1,) * extra and shape[extra:] == old
    return False


def unbroadcast(value: Value) -> Value:
    """The value that broadcasts to ``value``: its repeats and leading axes of size 1 left out."""
    while isinstance(value.op, Repeat) or adds_leading_axes(value):
        value = value.args[0]
    return value


class Writer:
    """Writes the body of ``forward``. Rows call :meth:`ref` and :meth:`operands` for their arguments."""

    def __init__(
        self, graph: Graph, row_of: Callable[[Value], Row], origins: Mapping[Value, Origin], owners: set[str]
    ) -> None:
        self.graph = graph
        self.origins = origins
        self.owners = owners
        self.users = graph.users
        #: Constants that need a tensor, by value: their names.
        self.constants: dict[Value, str] = {}
        #: What the names of constants begin with.
        self.constant = "constant"
        #: The names of the whole state, used or not.
        self.state: set[str] = set()
        #: Whether the graph says what training does: then what it says of inference is not for training to change.
        self.trains = False
        #: Updates of buffers that happen only when a module trains: name of the buffer -> path of the module.
        self.guards: dict[str, str] = {}
        #: The lists of modules, and how many are in each.
        self.lists: Mapping[str, int] = {}
        #: What isn't read from its module.
        self.apart: set[Marked] = set()
        #: What names in the code stand for, besides those of every module.
        self.names: dict[str, Any] = {}
        self._row_of = row_of
        self._kept = {*graph.outputs.values(), *graph.updates.values()}
        self.marked: list[Marked] = []
        self._wanted: set[Value] = set()
        self._values: list[Value] = []
        self.ids: dict[Value, int] = {}
        self._depth = 0
        self._before: list[str] = []
        #: Set while a row is written: how an argument of an element type torch can't compute with is read.
        self.reading: Callable[[Value, str], str] | None = None
        #: Whether torch.export has to follow the code where indices are data, which ``x[i]`` would make numbers.
        self.captured = False
        #: How many of the names x1, x2 ... other lines have that stand around these.
        self.numbered = 0

    def inside(self, graph: Graph) -> Writer:
        """A writer for a graph that is part of an op: its constants are kept where this one's are."""
        inner = Writer(graph, self._row_of, {}, set())
        inner.constants, inner.constant, inner.trains = self.constants, self.constant, self.trains
        inner.names, inner.captured = self.names, self.captured
        return inner

    @cached_property
    def _together(self) -> dict[Value, list[Value | None]]:
        """The slices that one call gives together."""
        return together(self.graph, self.origins)

    # What rows call.

    def ref(self, value: Value) -> str:
        """An expression for ``value``: a name, an attribute, or a few views of one."""
        text = self._plain(value)
        return text if self.reading is None else self.reading(value, text)

    def _plain(self, value: Value) -> str:
        value = self.same(value)
        op = value.op
        if isinstance(op, Parameter | Buffer):
            owner, _, name = op.leaf.rpartition(".")
            return self._mark_state("w", owner, name)
        if isinstance(op, Const) or (isinstance(op, Iota) and op.size.__class__ is not Size):
            name = self.constants.setdefault(value, f"{self.constant}{len(self.constants)}")
            return self._mark_state("w", "", name)
        if self._is_inlined(value):
            self._depth += 1
            reading, self.reading = self.reading, None
            text = self._row_of(value)(self, value)
            self.reading = reading
            self._depth -= 1
            return text
        self._wanted.add(value)
        return self._mark(value)

    def operands(self, values: Sequence[Value], literals: str = "") -> list[str]:
        """Expressions for values of one shape that torch broadcasts to that shape.

        ``literals`` says which of them ("1" or "0" for each) may be Python numbers; one stays a tensor.
        """
        shape = values[0].type.shape
        narrow = [unbroadcast(v) for v in values]
        texts: list[str | None] = [None] * len(values)
        for i, v in enumerate(narrow):
            if literals[i : i + 1] == "1" and sum(t is None for t in texts) > 1:
                texts[i] = self._number(v)
        tensors = [v.type.shape for v, t in zip(narrow, texts, strict=True) if t is None]
        if shape not in tensors and broadcast_shapes(*tensors) != shape:
            first = texts.index(None)
            narrow[first] = values[first]
        return [self.ref(v) if t is None else t for v, t in zip(narrow, texts, strict=True)]

    def _number(self, value: Value) -> str | None:
        text = literal(value)
        if text is not None and value.dtype.name == "u64" and int(text) >= 2**63:
            return repr(int(text) - 2**64)  # computed in int64
        return text

    def same(self, value: Value) -> Value:
        """``value`` without reshapes of one call that end where they began."""
        base = self.reshaped(value)
        return base if base.type is value.type else value

    def reshaped(self, value: Value) -> Value:
        """What a chain of reshapes that one call of the source made starts from.

        Reshapes of several calls stay apart, also where the last undoes the first: what lies between them is
        where gradients are added up and laid out anew, and torch's backward isn't right for every layout.
        """
        origin = self.origins.get(value)
        while is_reshape(value) and self.origins.get(value) is origin:
            value = value.args[0]
        return value

    def is_used_once(self, value: Value) -> bool:
        """Whether nothing but one other value needs ``value``."""
        return value not in self._kept and len(self.users[value]) == 1

    def is_private(self, value: Value, base: Value) -> bool:
        """Whether ``base`` is needed only through the chain of first arguments from ``value`` to it."""
        while value is not base:
            value = value.args[0]
            if not self.is_used_once(value):
                return False
        return True

    @cached_property
    def held(self) -> set[Value]:
        """What is computed from buffers and constants alone: a tensor where torch.fx has stand-ins of all others."""
        found: set[Value] = set()
        for v in self.graph.values:
            own = isinstance(v.op, Buffer | Const) or (isinstance(v.op, Iota) and v.op.size.__class__ is not Size)
            if own or (v.args and not isinstance(v.op, ModuleCall) and found.issuperset(v.args)):
                found.add(v)
        return found

    def training(self, value: Value, owner: str | None = None) -> str:
        """The training flag of module ``owner``, or of the module ``value`` came from."""
        path = owner
        if path is None:
            origin = self.origins.get(value)
            path = origin.module if origin else ""
            while path and path not in self.owners:
                path = path.rpartition(".")[0]
        return self._mark_state("t", path, "training", is_flag=True)

    def state_tensor(self, owner: str, name: str) -> str:
        """The state tensor ``name`` of module ``owner``."""
        return self._mark_state("w", owner, name)

    def state_of(self, marked: Marked) -> str:
        """What was marked in a function of its own, in the module around it."""
        return self._mark_state("t" if marked.is_flag else "w", marked.owner, marked.name, marked.is_flag)

    def named(self, thing: Any) -> str:
        """A name that stands for something in the code: an op, a function."""
        found = next((n for n, other in self.names.items() if other is thing), None)
        if found is None:
            found = f"own_{len(self.names)}"
            self.names[found] = thing
        return found

    def before(self, line: str) -> None:
        """Put a line in front of the statement that is being written."""
        self._before.append(line)

    def _is_inlined(self, value: Value) -> bool:
        if isinstance(value.op, Permute | Slice | Repeat) or value.op.name == "stream":
            view = value not in self._together
        elif is_reshape(value):
            base = self.reshaped(value)
            same = [n for n in value.type.shape if n != 1] == [n for n in base.type.shape if n != 1]
            # a reduction that drops its axes stays in its place: inside of its user, it would keep what it reads
            view = same and not (isinstance(base.op, Reduce) and self.is_private(value, base))
        else:
            view = False
        return view and self._depth < _NESTED_VIEWS and self.is_used_once(value)

    def _mark(self, value: Value) -> str:
        found = self.ids.get(value)
        if found is None:
            found = self.ids[value] = len(self._values)
            self._values.append(value)
        return f"\0v{found}\0"

    def _mark_state(self, kind: str, owner: str, name: str, is_flag: bool = False) -> str:
        self.marked.append(Marked(owner, name, is_flag))
        return f"\0{kind}{len(self.marked) - 1}\0"

    # First pass: statements, from the outputs back.

    def statements(self, roots: Sequence[Value]) -> list[Statement]:
        """The statements that compute ``roots``, in order."""
        for root in roots:
            self._plain(root)
        out: list[Statement] = []
        found = loops(self.graph, self.lists, self._kept)
        left = {id(parts): sum(p is not None for p in parts) for parts in self._together.values()}
        for value in reversed(self.graph.values):
            if value in self._together:
                parts = self._together[value]
                left[id(parts)] -= 1
                wanted = [p for p in parts if p in self._wanted]
                if wanted and not left[id(parts)]:  # where the first of them is: all that need one were met
                    out.append(self._parts(wanted[0], parts) if len(wanted) > 1 else self._statement(wanted[0]))
                continue
            if value not in self._wanted or isinstance(value.op, Item | Leaf):
                if isinstance(value.op, Item) and value in self._wanted:
                    self._wanted.add(value.args[0])
                continue
            out.append(self._looped(found[value]) if value in found else self._statement(value))
        out.reverse()
        return out

    def _looped(self, loop: Loop) -> Statement:
        """A loop; what is between its calls isn't wanted by anybody else."""
        first, last = loop.calls[0], loop.calls[-1]
        op = first.op
        assert isinstance(op, ModuleCall)
        args = [_running(loop.running[i]) if i in loop.running else self.ref(a) for i, a in enumerate(first.args)]
        targets = self._targets(last, also=set(loop.starts))
        for target in targets:
            if target is not None:
                self._mark(target)
        owner, _, name = loop.path.rpartition(".")
        form = op.targets if isinstance(last.type, tuple) else ""
        starts = {j: self.ref(v) for j, v in loop.starts.items()}
        text = op.arguments.format(*args)
        return Statement(targets, text, "", [], form, self.state_tensor(owner, name), loop.path, starts)

    def _statement(self, value: Value) -> Statement:
        self._before = []
        origin = self.origins.get(value)
        text = self._row_of(value)(self, value)
        form = value.op.targets if isinstance(value.op, ModuleCall) else ""
        return Statement(self._targets(value), text, origin.module if origin else "", self._before, form)

    def _parts(self, value: Value, parts: Sequence[Value | None]) -> Statement:
        """All parts that an axis is cut into, of which ``value`` is one, by one call."""
        bounds: Any = value.op.attributes["bounds"]
        axis, start = next((i, b[0]) for i, b in enumerate(bounds) if b is not None)
        origin = self.origins.get(value)
        targets = [p if p in self._wanted else None for p in parts]
        return Statement(targets, all_parts(self.ref(value.args[0]), axis, start), origin.module if origin else "", [])

    def _targets(self, value: Value, also: Collection[int] = ()) -> list[Value | None]:
        """The results of a value that are wanted, and those with the numbers ``also``."""
        types: Any = value.type
        if not isinstance(types, tuple):
            return [value]
        targets: list[Value | None] = [None] * len(cast(tuple[Any, ...], types))
        for user in self.users[value]:
            if isinstance(user.op, Item) and (user in self._wanted or user.op.index in also):
                targets[user.op.index] = user
        return targets

    # Second pass: names.

    def lines(self, statements: list[Statement], end: list[str], inputs: dict[Value, str],
              path: Path, modules: Mapping[str, str], said: str = "") -> list[str]:  # fmt: skip
        """The source lines: ``statements``, then the lines ``end``, with a comment for each module.

        ``said`` is added to the comments.
        """
        last: dict[int, int] = {}
        for at, text in enumerate([*[s.whole for s in statements], *end]):
            for kind, n in _MARK.findall(text):
                if kind == "v":
                    last[int(n)] = at
        words = set(re.findall(r"\w+", _MARK.sub(" ", "\n".join((*[s.whole for s in statements], *end)))))
        names = _Names(self, inputs, path, last, words)
        out: list[str] = []
        module: str = ""
        for at, s in enumerate(statements):
            if s.module != module:
                module = s.module
                kind = modules.get(module)
                if module:
                    out.append(f"# {shown(module)}" + (f" ({shown(kind)})" if kind else "") + said)
            out += names.statement(s, at)
        out += map(names.filled, end)
        self.numbered = names.count
        return out


class _Names:
    """Names for values while lines are written in order; the name of a dead value is used again."""

    def __init__(
        self, writer: Writer, inputs: dict[Value, str], path: Path, last: dict[int, int], words: set[str]
    ) -> None:
        self.writer = writer
        #: Words of the code that stand for themselves.
        self.words = words
        self.path = path
        self.last = last
        self.named = {writer.ids[v]: n for v, n in inputs.items() if v in writer.ids}
        self.of_inputs = set(self.named)
        self.taken = set(inputs.values())
        self.free: list[int] = []
        self.count = writer.numbered
        self.owner = ""

    def filled(self, text: str) -> str:
        """``text`` with every mark replaced by what stands for it now."""
        return _MARK.sub(self._one, text)

    def _one(self, match: re.Match[str]) -> str:
        n = int(match[2])
        if match[1] == "v":
            return self.named[n]
        marked = self.writer.marked[n]
        if marked.owner == self.owner != "" and marked not in self.writer.apart:
            return self.path(marked, True)
        return self.path(marked, False)

    def statement(self, s: Statement, at: int) -> list[str]:
        """Lines for one statement: the module it takes its tensors from, itself, and what dies."""
        out: list[str] = []
        text = s.whole + "".join(s.before)
        marks = [(k, int(n)) for k, n in _MARK.findall(text)]
        used = [self.writer.marked[n] for k, n in marks if k != "v"]
        owners = [m.owner for m in used if m not in self.writer.apart]
        for owner in dict.fromkeys(owners):
            if owner and owner != self.owner and owners.count(owner) > 1:
                self.owner = ""
                out.append(f"m = {self.path(Marked(owner, ''), False)}")
                self.owner = owner
                break
        out += [self.filled(line) for line in s.before]
        read = list(dict.fromkeys(n for k, n in marks if k == "v"))
        dead = [n for n in read if self.last[n] == at and n not in self.of_inputs]
        if s.over:
            return [*out, *self._loop(s, dead)]
        right = self.filled(s.text)
        freed = self._free(dead)
        left = self._left(s, [self._target(t) for t in s.targets])
        return [*out, f"{left} = {right}", *self._gone(freed, left)]

    def _loop(self, s: Statement, dead: list[int]) -> list[str]:
        """A loop. What runs through it has one name: that of what it begins with, where nobody else needs that."""
        again = {int(n) for k, n in _MARK.findall(s.text) if k == "v"}
        over, args = self.filled(s.over), self.filled(s.text)
        starts = {j: self.filled(text) for j, text in s.starts.items()}
        targets: list[str] = []
        for j, target in enumerate(s.targets):
            mark = _MARK.fullmatch(s.starts.get(j, ""))
            own = int(mark[2]) if mark is not None and mark[1] == "v" else None
            if target is not None and own is not None and own in dead and own not in again:
                dead.remove(own)
                targets.append(self.named[own])
                self.named[self.writer.ids[target]] = self.named[own]
            else:
                targets.append(self._target(target))
        out = [f"{targets[j]} = {text}" for j, text in starts.items() if targets[j] != text]
        for j, name in enumerate(targets):
            args = args.replace(_running(j), name)
        one = variable(s.path, self.words | self.taken)
        left = self._left(s, targets)
        freed = self._free(dead)
        return [*out, f"for {one} in {over}:\n    {left} = {one}({args})", *self._gone(freed, left)]

    def _free(self, dead: list[int]) -> list[int]:
        """The names of dead values, which others may have from now on."""
        freed = [int(self.named[n][1:]) for n in dead]
        self.free += freed
        self.free.sort(reverse=True)
        return freed

    def _left(self, s: Statement, targets: list[str]) -> str:
        return s.form.format(*targets) if s.form else ", ".join(targets)

    def _gone(self, freed: list[int], left: str) -> list[str]:
        """What ends the names that nobody has taken over."""
        stale = sorted(set(freed) & set(self.free))
        gone = [f"x{n}" for n in stale] + ["_"] * ("_" in re.findall(r"\w+", left))
        return [f"del {', '.join(gone)}"] if gone else []

    def _target(self, value: Value | None) -> str:
        if value is None:
            return "_"
        if self.free:
            n = self.free.pop()
        else:
            self.count += 1
            while f"x{self.count}" in self.taken:
                self.count += 1
            n = self.count
        name = self.named[self.writer.ids[value]] = f"x{n}"
        return name
