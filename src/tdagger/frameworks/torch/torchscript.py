"""Walking TorchScript: a small interpreter of its graph in which tensors are values and all else is Python.

Sizes, settings and branches on them are known, so loops and ifs over them are followed as they run; control
flow on data is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload

from tdagger import library as lib
from tdagger.errors import InputError, TDaggerError, UnsupportedError
from tdagger.frameworks.torch.aten import DTYPES, TORCH_DTYPES, Memory, memory_of, number_of
from tdagger.frameworks.torch.aten.aliases import Standing
from tdagger.frameworks.torch.aten.calls import Caller, constant
from tdagger.frameworks.torch.aten.functional import Ref, refuse_shared_writes, warn_of_writes
from tdagger.frameworks.torch.script.held import changed_by
from tdagger.graph import Graph
from tdagger.library.training import stop_gradient
from tdagger.names import shown
from tdagger.op import Value
from tdagger.ops.elementwise import cast, not_
from tdagger.ops.source import Buffer, Input, Parameter
from tdagger.tensordag import Check, Origin, Signature, Weight
from tdagger.tree import Tree, flatten
from tdagger.types import TensorType

#: Where a node came from, as TorchScript writes it: ``path(line): function`` or ``File "path", line 12``.
_SOURCE = re.compile(r'^(\S+)\((\d+)\): |File "([^"]+)", line (\d+)')

#: The first line that it marks in the source.
_MARKED = re.compile(r"([^\n]*)\n *~+")

#: What takes the truth of data.
_TAKES_TRUTH = frozenset({"prim::If", "prim::Loop", "aten::__not__", "prim::unchecked_cast"})


class Object:
    """A module of the script, and its whole path."""

    def __init__(self, module: Any, path: str) -> None:
        self.module = module
        self.path = path


class Walked(NamedTuple):
    """What a script is: its graph, how it is called, and the classes of its modules by their paths."""

    graph: Graph
    signature: Signature
    modules: dict[str, str]


def walk(
    module: Any,
    args: tuple[Any, ...] | None,
    state: Mapping[str, Weight],
    caller: Caller,
    names: Sequence[str] = (),
    root: str = "",
    kwargs: Mapping[str, Any] | None = None,
    renamed: Mapping[str, str] | None = None,
    of_python: bool = False,
) -> Walked:
    """The graph, signature and module classes of a TorchScript module or function.

    ``names`` are those of the tensors of ``args``, the script's own if none are given; what is in the script's
    module ``root`` is named as if that were the whole, and attributes that are ``renamed`` as it says. ``of_python``:
    it was traced here, and what its sizes were computed to is what Python makes of them: the trace has tensors for
    them, in which ``n ** -0.5`` has 24 bits.
    """
    script = module.inlined_graph
    declared = list(script.inputs())
    is_module = isinstance(module, torch.nn.Module)
    if is_module:
        declared = declared[1:]
    inputs, given, tree = inputs_of(module, declared, args, kwargs or {}, names)
    caller.taken = list(inputs)
    own = (*module.named_parameters(), *module.named_buffers()) if is_module else ()
    tensors = {n.removeprefix(root and f"{root}."): t for n, t in own}
    walker = Walker(state, caller, root, renamed or {}, dict(own))
    walker.of_python = of_python
    examples = flatten((args or (), dict(kwargs or {})), lambda x: isinstance(x, torch.Tensor))[0]
    if writes(script):
        walker.standing = Standing()
        for ref, example in zip([x for x in flat(given) if isinstance(x, Ref)], examples, strict=False):
            walker.standing.put(ref, example)
    results = walker.call(script, [*([Object(module, "")] if is_module else []), *given])
    caller.left_out += walker.standing.left_out if walker.standing is not None else []
    result = results[0] if len(results) == 1 else tuple(results)
    leaves, outputs = flatten(tensors_of(result), lambda x: isinstance(x, Ref), "the result")
    names = ["out"] if outputs.kind == "leaf" else outputs.names("")
    now = {n: ref.read() for n, ref in walker.weights.items()}
    updates = {n: v for n, v in now.items() if not (isinstance(v.op, Parameter | Buffer) and v.op.leaf == n)}
    refs = [x for x in flat(given) if isinstance(x, Ref)]
    changed = [name for name, ref in zip(inputs, refs, strict=True) if ref.cell.version]
    refuse_shared_writes([*changed, *updates], dict(zip(inputs, examples, strict=False)), tensors)
    warn_of_writes(changed)
    results_by_name = dict(zip(names, [r.read() for r in leaves], strict=True))
    signature = caller.with_seed(inputs, Signature(tree, outputs))
    graph = Graph(inputs, results_by_name, updates, order=caller.order)
    return Walked(graph, signature, walker.modules)


def tensors_of(x: Any) -> Any:
    """A result with its real tensors as refs."""
    if isinstance(x, torch.Tensor):
        return Ref(constant(x))
    if isinstance(x, tuple | list):
        return type(x)(tensors_of(v) for v in x)
    return {k: tensors_of(v) for k, v in x.items()} if isinstance(x, dict) else x


def inputs_of(
    module: Any, declared: list[Any], args: tuple[Any, ...] | None, kwargs: Mapping[str, Any], names: Sequence[str]
) -> tuple[dict[str, Value], list[Any], Tree]:
    """Input leaves by name, what each declared input is, and how they nest."""
    inputs: dict[str, Value] = {}
    if args is not None or kwargs:
        args = args or ()
        leaves, tree = flatten((args, dict(kwargs)), lambda x: isinstance(x, torch.Tensor))
        positional, keyword = tree.children
        names = names or [
            *(n for v, child in zip(_names(declared), positional.children, strict=False) for n in child.names(v)),
            *(n for key, child in zip(keyword.keys, keyword.children, strict=True) for n in child.names(key)),
        ]
        _arguments(module, len(declared), args, kwargs)
        for name, tensor in zip(names, leaves, strict=True):
            inputs[name] = Input(name, TensorType(tuple(tensor.shape), DTYPES[tensor.dtype]))()
        return inputs, _arguments(module, len(declared), *tree.unflatten([Ref(v) for v in inputs.values()])), tree

    def leaf(name: str, kind: Any) -> Any:
        sizes: Any = None
        if isinstance(kind, torch._C.TupleType):
            return tuple(leaf(f"{name}.{i}", k) for i, k in enumerate(kind.elements()))
        dtype: Any = None
        if isinstance(kind, torch._C.TensorType):
            sizes, dtype = kind.sizes(), kind.dtype()
        if sizes is None or None in sizes or dtype is None:
            raise InputError(
                f"the script doesn't say the shape of its input {name!r} ({kind.annotation_str}): "
                "give example inputs, from_torchscript(module, (x,))"
            )
        inputs[name] = Input(name, TensorType(tuple(sizes), DTYPES[dtype]))()
        return Ref(inputs[name])

    given = [leaf(name, v.type()) for name, v in zip(_names(declared), declared, strict=True)]
    tree = flatten((tuple(given), {}), lambda x: isinstance(x, Ref))[1]
    return inputs, given, tree


def _arguments(module: Any, count: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What each input of a script is: given by position, by name, or its default; InputError if it is none."""
    function: Any = module.forward if isinstance(module, torch.nn.Module) else module
    schema = function.schema
    declared = schema.arguments[-count:] if count else []
    if len(args) > count:
        raise InputError(f"the script takes {count} inputs, got {len(args)}")
    found = list(args)
    for argument in declared[len(args) :]:
        if argument.name not in kwargs and not argument.has_default_value():
            raise InputError(f"the script needs its input {argument.name!r}: {schema}")
        found.append(kwargs.get(argument.name, argument.default_value))
    unknown = set(kwargs) - {a.name for a in declared[len(args) :]}
    if unknown:
        raise InputError(f"the script has no input {', '.join(sorted(unknown))}, or it is given twice: {schema}")
    return found


def _names(declared: list[Any]) -> list[str]:
    """The names of a script's inputs, without the numbers that TorchScript appends, except to tell them apart."""
    names: list[str] = []
    for value in declared:
        name = value.debugName().rpartition(".")[0] or value.debugName()
        names.append(name if name not in names else value.debugName().replace(".", "_"))
    return names


@cache
def overload(schema: str) -> OpOverload | None:
    """The op of a schema, if torch.ops has it."""
    parsed = torch._C.parse_schema(schema)
    namespace, _, name = parsed.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    overload = getattr(packet, parsed.overload_name or "default", None)
    return overload if isinstance(overload, OpOverload) else None


#: Ops that take a number where they take a second tensor.
_ARITHMETIC = frozenset({"add", "sub", "mul", "div", "add_", "sub_", "mul_", "div_", "pow"})


class Walker:
    """Runs the blocks of a script."""

    prims: Mapping[str, Callable[[Any, Any, list[Any]], Any]]

    def __init__(
        self,
        state: Mapping[str, Weight],
        caller: Caller,
        root: str = "",
        renamed: Mapping[str, str] | None = None,
        own: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        #: The names of the script's parameters and buffers, by the memory they are in.
        self.names = {_memory_of(t): n for n, t in (own or {}).items() if t.numel()}
        self.storages = {
            t.untyped_storage().data_ptr(): n for n, t in (own or {}).items() if t.numel() and not t.is_meta
        }
        self.root = root
        self.renamed = renamed or {}
        self.env: dict[int, Any] = {}
        #: What stands for the tensors in memory; None if nothing is written, so that it doesn't matter.
        self.standing: Standing | None = None
        #: Whether numbers made of sizes are Python's, and the tensors that stand for such.
        self.of_python = False
        self.numbers: dict[int, torch.Tensor] = {}
        self.state = state
        self.caller = caller
        self.weights: dict[str, Ref] = {}
        self.modules: dict[str, str] = {}

    def block(self, block: Any) -> list[Any]:
        """Run the nodes of a block; the values of its outputs."""
        for node in block.nodes():
            self._node(node)
        return [self.env[v.unique()] for v in block.outputs()]

    def call(self, graph: Any, inputs: Sequence[Any]) -> list[Any]:
        """Run a graph whose values are its own; what it gives."""
        outer, self.env = self.env, {}
        for value, x in zip(graph.inputs(), inputs, strict=True):
            self.env[value.unique()] = x
        try:
            return self.block(graph)
        finally:
            self.env = outer

    def _node(self, node: Any) -> None:
        kind = node.kind()
        if kind == "prim::Constant":
            output = node.output()
            self.env[output.unique()] = output.toIValue()
            return
        inputs = [self.env[v.unique()] for v in node.inputs()]
        if kind not in _TAKES_TRUTH and any(isinstance(x, _Truth) for x in inputs):
            raise _by_data(self, node)
        self._changing(node)
        rule = self.prims.get(kind)
        if rule is None:
            results = self._operator(node, kind, inputs)
        elif kind.startswith("aten::"):
            results = self._by_python(node, rule, self, node, inputs)
        else:
            results = rule(self, node, inputs)
        outputs = list(node.outputs())
        if len(outputs) == 1:
            self.env[outputs[0].unique()] = results
        elif outputs:
            given = list(results or ())
            if len(given) != len(outputs):
                raise self._fails(node, f"takes {len(outputs)} values, and {len(given)} are given")
            for value, result in zip(outputs, given, strict=True):
                self.env[value.unique()] = result

    def _fails(self, node: Any, why: str) -> InputError:
        where = shown(self.origin(node).source) or "source unknown"
        return InputError(
            f"TorchScript {node.kind()} at {where} {why}: with inputs of these sizes the script fails there"
        )

    def _by_python(self, node: Any, function: Callable[..., Any], *args: Any) -> Any:
        """What an op on numbers and lists gives; InputError where it raises (a step of 0, an entry that is missing)."""
        try:
            return function(*args)
        except TDaggerError:
            raise
        except (ArithmeticError, LookupError, ValueError, RuntimeError) as e:
            raise self._fails(node, f"raises {shown(f'{type(e).__name__}: {e}')}") from e

    def _changing(self, node: Any) -> None:
        """UnsupportedError for what changes a list or dict, or a tensor that is no buffer, which the script holds."""
        names = changed_by(node) - {n.rpartition(".")[2] for n in self.weights}
        held = self.env.get(next(node.inputs()).unique()) if names else None
        if names and not any(held is ref for ref in self.weights.values()):  # a buffer that another attribute has
            where = shown(self.origin(node).source) or "source unknown"
            raise UnsupportedError(
                f"the script changes what {', '.join(map(shown, sorted(names)))} holds at {where}: of what a script "
                f"holds a network keeps buffers alone. Register it as one; or {_AS_PROGRAM}, such things as state"
            )

    def _operator(self, node: Any, kind: str, inputs: list[Any]) -> Any:
        attribute = _ATTRIBUTES.get(kind)
        if attribute is not None and isinstance(inputs[0], Ref):
            return attribute(inputs[0].read(), *inputs[1:])
        of_list = _OF_LISTS.get(kind) if inputs and isinstance(inputs[0], list | dict) else None
        if of_list is not None:
            return self._by_python(node, of_list, *inputs)
        schema = node.schema()
        target = overload(schema) if schema != "(no schema)" else None
        tensors = flat(inputs)
        scalars = all(isinstance(t, torch.Tensor) and t.dim() == 0 for t in tensors)
        known = scalars and (tensors or not _makes_tensor(node))  # arithmetic on sizes and settings: run it
        if target is None:
            if known:
                return self._by_python(node, _run, kind, inputs)
            where = shown(self.origin(node).source) or "source unknown"
            raise UnsupportedError(f"TorchScript {kind} at {where} is not imported")
        if known:
            return self._by_python(node, self._known, target, inputs, tensors)
        if self.numbers:
            inputs = self._with_numbers(target, inputs)
        args, kwargs = split(target, inputs)
        result = self.caller.call(target, args, kwargs, self.origin(node), _memory(node))
        if self.standing is not None:
            result = self.standing.called(target, args, kwargs, result)
        return list(result) if isinstance(result, tuple) and node.outputsSize() == 1 else result

    def _known(self, target: OpOverload, inputs: list[Any], tensors: list[Any]) -> Any:
        """What an op gives of known numbers; of those that are Python's in double precision, as Python has them."""
        if not tensors or not all(id(t) in self.numbers for t in tensors):
            args, kwargs = split(target, inputs)
            return target(*args, **kwargs)
        if any(a.name == "size" for a in target._schema.arguments):  # a tensor made of them
            args, kwargs = split(target, [t.item() if id(t) in self.numbers else t for t in inputs])
            return target(*args, **kwargs)
        args, kwargs = split(target, inputs)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return self.as_numbers(target(*args, **kwargs))
        finally:
            torch.set_default_dtype(before)

    def as_numbers(self, x: Any) -> Any:
        """Tensors that stand for numbers of Python, noted as such."""
        if self.of_python:
            self.numbers |= {id(t): t for t in flat(x) if isinstance(t, torch.Tensor)}
        return x

    def _with_numbers(self, target: OpOverload, inputs: list[Any]) -> list[Any]:
        """The arguments of an op on tensors: numbers where they stand for such, else as the trace has them."""
        name = target._schema.name.removeprefix("aten::")
        stands = [isinstance(x, torch.Tensor) and id(x) in self.numbers and x.is_floating_point() for x in inputs]
        if name not in _ARITHMETIC:
            return [x.to(torch.get_default_dtype()) if s else x for x, s in zip(inputs, stands, strict=True)]
        found = [x.item() if s else x for x, s in zip(inputs, stands, strict=True)]
        if name in ("add", "mul") and stands[0]:  # a number on the left is Python's to swap
            found[:2] = found[1::-1]
        return found

    def origin(self, node: Any) -> Origin:
        """Module path, op and source line of a node; a file without scopes tells the path by the weights used."""
        path = node.scopeName().rpartition("/")[2]
        if path.startswith("__module"):
            path = self.below_root(path.removeprefix("__module").removeprefix("."))
        else:
            inputs = [self.env.get(v.unique()) for v in node.inputs()]
            refs = [x for x in flat(inputs) if isinstance(x, Ref)]
            leaves = [r.cell.value.op for r in refs if isinstance(r.cell.value.op, Parameter | Buffer)]
            path = leaves[0].leaf.rpartition(".")[0] if leaves else ""
        found = _SOURCE.search(node.sourceRange())
        source = ":".join(g for g in found.groups() if g) if found else ""
        return Origin(path, node.kind().replace("::", "."), source)

    def below_root(self, path: str) -> str:
        """A whole path, as it is below the root."""
        return "" if path == self.root else path.removeprefix(f"{self.root}.")

    def attribute(self, owner: Object, name: str) -> Any:
        """An attribute of a module: another module, a weight, or a plain value."""
        found = getattr(owner.module, name)
        whole = f"{owner.path}.{name}" if owner.path else name
        path = self.renamed.get(whole) or self.below_root(whole)
        if isinstance(found, torch.nn.Module):
            self.modules[path] = getattr(found, "original_name", type(found).__name__)
            return Object(found, whole)
        if isinstance(found, torch._C.ScriptModule):  # one that freezing left without a Python module
            kind: Any = found._type()
            self.modules[path] = kind.name()
            return Object(found, whole)
        if isinstance(found, torch.Tensor) and path in self.state:
            return self.weight(path, found)
        return self.held(found, path)

    def weight(self, path: str, tensor: torch.Tensor) -> Ref:
        """The leaf of a parameter or buffer."""
        weight = self.state[path]
        key = weight.alias_of or path
        if key not in self.weights:
            kind = Parameter if weight.is_parameter else Buffer
            self.weights[key] = Ref(kind(key, weight.type)())
            if self.standing is not None:
                self.standing.put(self.weights[key], tensor)
        return self.weights[key]

    def held(self, x: Any, path: str) -> Any:
        """An attribute with the weights that it holds (``_flat_weights`` of recurrent layers) as their leaves.

        UnsupportedError for a tensor that is a part of a weight, or another view of it: what is learned would be lost.
        """
        if isinstance(x, list | tuple) and flat(x):
            return type(x)([self.held(v, path) for v in x])
        if isinstance(x, dict) and flat(x):
            return {k: self.held(v, path) for k, v in x.items()}
        if not isinstance(x, torch.Tensor) or not x.numel():
            return x
        whole = self.names.get(_memory_of(x))
        name = "" if whole is None else self.renamed.get(whole) or self.below_root(whole)
        if name in self.state:
            leaf = self.weight(name, x)
            detached = self.state[name].trainable and not x.requires_grad
            return Ref(stop_gradient(leaf.read())) if detached else leaf
        other = None if x.is_meta else self.storages.get(x.untyped_storage().data_ptr())
        if other is not None:
            raise UnsupportedError(
                f"the script's attribute {shown(path)} is a view of the weight {shown(other)}, and would stay what it "
                "is now: make the view where the network runs"
            )
        return x


def _memory_of(x: torch.Tensor) -> tuple[Any, ...]:
    """Where and how a tensor lies; without data, which one it is."""
    return (
        (id(x),)
        if x.is_meta
        else (x.untyped_storage().data_ptr(), x.storage_offset(), tuple(x.shape), x.stride(), x.dtype)
    )


def writes(block: Any) -> bool:
    """Whether anything in a graph writes to a tensor, or may do it out of sight."""
    for node in block.nodes():
        schema = node.schema()
        target = overload(schema) if schema != "(no schema)" else None
        written = (
            [] if target is None else [a for a in target._schema.arguments if a.alias_info and a.alias_info.is_write]
        )
        if any("Tensor" in str(a.type) for a in written) or node.kind() in ("prim::CallMethod", "prim::fork"):
            return True
        if any(writes(b) for b in node.blocks()):
            return True
    return False


def split(target: OpOverload, inputs: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """TorchScript's arguments, all by position, as the op takes them."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument, x in zip(target._schema.arguments, inputs, strict=True):
        if argument.kwarg_only:
            kwargs[argument.name] = _dtype_of(argument, x)
        else:
            args.append(_dtype_of(argument, x))
    return args, kwargs


def _memory(node: Any) -> Memory | None:
    """How the first argument of a node lies in memory, as a trace recorded it; None if that isn't known."""
    kind = node.inputsAt(0).type() if node.inputsSize() else None
    sizes, strides = (kind.sizes(), kind.strides()) if isinstance(kind, torch._C.TensorType) else (None, None)
    return None if sizes is None or strides is None else memory_of(sizes, strides, None)


def flat(x: Any) -> list[Any]:
    """The tensors and refs in nested lists."""
    if isinstance(x, Ref | torch.Tensor):
        return [x]
    if isinstance(x, list | tuple):
        return [t for v in x for t in flat(v)]
    return [t for v in x.values() for t in flat(v)] if isinstance(x, dict) else []


def _makes_tensor(node: Any) -> bool:
    return any(isinstance(v.type(), torch._C.TensorType) for v in node.outputs())


def _run(kind: str, inputs: list[Any]) -> Any:
    """Run an op of TorchScript on Python values."""
    namespace, _, name = kind.partition("::")
    operation, _ = torch._C._jit_get_operation(kind)
    if operation is None:
        raise UnsupportedError(f"TorchScript {namespace}::{name} is not known to this torch")
    return operation(*inputs)


_DTYPE_CODES: dict[int, torch.dtype] = {
    0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64, 5: torch.float16,
    6: torch.float32, 7: torch.float64, 9: torch.complex64, 10: torch.complex128, 11: torch.bool, 15: torch.bfloat16,
}  # fmt: skip


def dtype_of_code(code: int) -> torch.dtype:
    """The element type that TorchScript writes as a number."""
    return _DTYPE_CODES[code]


def _dtype_of(argument: Any, x: Any) -> Any:
    """TorchScript writes dtypes as numbers, and a trace numbers as tensors: turn those back that are known."""
    if isinstance(x, torch.Tensor) and not x.dim() and "Tensor" not in str(argument.real_type):
        return x.item()
    if isinstance(x, Ref) and "Tensor" not in str(argument.real_type):
        found = number_of(x.read())
        return x if found is None else found
    if isinstance(x, int) and not isinstance(x, bool) and "ScalarType" in str(argument.real_type):
        return _DTYPE_CODES[x]
    if isinstance(x, list):
        return [_dtype_of(argument, v) for v in x]
    return x


# --- prims -------------------------------------------------------------------------------------------------


class _Truth:
    """Whether a tensor without data is true: an if may ask it whose one branch only raises."""

    def __init__(self, value: Value, passes: bool = True) -> None:
        self.value = value
        self.passes = passes


#: What to do with control flow on data.
_AS_PROGRAM = "td.Program.from_torchscript(script, inputs) imports loops and branches on data as blocks of a program"

#: What torch's transformers ask of a mask, to pick a kernel.
_IS_CAUSAL = "make_causal = bool((mask == causal_comparison).all())"


def _number(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    def convert(walker: Walker, node: Any, inputs: list[Any]) -> Any:
        x = inputs[0]
        if isinstance(x, Ref):
            found = number_of(x.read())
            if found is None and kind is bool:
                return False if _IS_CAUSAL in node.sourceRange() else _Truth(x.read())
            if found is None:
                where = shown(walker.origin(node).source) or "source unknown"
                raise UnsupportedError(
                    f"{node.kind()} at {where} turns a tensor into a number: "
                    f"control flow or sizes that depend on the data. {_AS_PROGRAM}"
                )
            return kind(found)
        return kind(x)

    return convert


def _not(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    x = inputs[0]
    return _Truth(x.value, not x.passes) if isinstance(x, _Truth) else not x


def _if(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    then, otherwise = node.blocks()
    truth = _passing(walker, node, inputs[0]) if isinstance(inputs[0], _Truth) else inputs[0]
    results = walker.block(then if truth else otherwise)
    return results[0] if node.outputsSize() == 1 else results


def _passing(walker: Walker, node: Any, truth: _Truth) -> bool:
    """The truth with which a script goes on whose other branch only raises; UnsupportedError if both go on."""
    raising = [next((n for n in b.nodes() if n.kind() == "prim::RaiseException"), None) for b in node.blocks()]
    if (raising[0] is None) == (raising[1] is None):
        raise _by_data(walker, node)
    passes = raising[0] is None
    error = next(n for n in raising if n is not None)
    text, *kind = [v.toIValue() for v in error.inputs()]
    text = text if isinstance(text, str) else "an exception"
    if kind and isinstance(kind[0], str) and not text.startswith(kind[0]):
        text = f"{kind[0].rpartition('.')[2]}: {text}"
    value = lib.reshape(truth.value, shape=())
    value = cast(value, "bool") if truth.passes is passes else not_(cast(value, "bool"))
    source = walker.origin(node).source
    walker.caller.checks.append(Check(value, f"{text} [{source}]", source))
    return passes


def _by_data(walker: Walker, node: Any) -> UnsupportedError:
    """The error for what a script decides by data: the line, as its file has it."""
    found = _MARKED.search(node.sourceRange())
    line = f": {found[1].strip()}" if found else ""
    return UnsupportedError(
        f"TorchScript {node.kind()} at {walker.origin(node).source or 'source unknown'} decides by the data what to do"
        f"{line}\nA TDAG does the same for all data: {_AS_PROGRAM}; or write torch.where in the source, or trace the "
        "network on inputs that take the branch that is meant"
    )


def _loop(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    count, condition, *carried = inputs
    (body,) = node.blocks()
    places = [v.unique() for v in body.inputs()]
    i = 0
    while condition and i < count:
        if isinstance(condition, _Truth):
            raise _by_data(walker, node)
        for place, x in zip(places, [i, *carried], strict=True):
            walker.env[place] = x
        condition, *carried = walker.block(body)
        i += 1
    return carried[0] if node.outputsSize() == 1 else carried


def _get_attribute(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    return walker.attribute(inputs[0], node.s("name"))


def _set_attribute(walker: Walker, node: Any, inputs: list[Any]) -> None:
    owner, new = inputs
    old = walker.attribute(owner, node.s("name"))
    if old is new:
        return
    for key, ref in walker.weights.items():
        if ref is old and isinstance(new, Ref) and new.read().type == old.read().type:
            walker.weights[key] = new
            return
    path = walker.below_root(f"{owner.path}.{node.s('name')}".removeprefix("."))
    where = walker.origin(node).source or "source unknown"
    now = f", it is {old.read().type} before" if isinstance(old, Ref) else ""
    new_type = f" to {new.read().type}" if isinstance(new, Ref) else ""
    raise UnsupportedError(
        f"the script sets {path}{new_type} at {where}{now}: only buffers can change, and not their shape or element "
        "type. Register it as a buffer of the shape it has while the network runs, or pass it in and return it"
    )


def _method(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    method = inputs[0].module._c._get_method(node.s("name"))
    (result,) = walker.call(method.inlined_graph, inputs)
    return result


def _fork(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    graph = node.g("Subgraph").copy()
    torch._C._jit_pass_inline(graph)
    results = walker.call(graph, inputs)
    return results[0] if len(results) == 1 else tuple(results)


def _raise(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    raise UnsupportedError(f"the script raises an exception on these inputs: {inputs[0]}")


def _unpack(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    return inputs[0][0] if node.outputsSize() == 1 else inputs[0]


def _append(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    inputs[0].append(inputs[1])
    return inputs[0]


def _set_item(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    inputs[0][inputs[1]] = inputs[2]
    return inputs[0]


def _to_tensor(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    return torch.tensor(inputs[0])


def _python_op(walker: Walker, node: Any, inputs: list[Any]) -> Any:
    """A ``torch.autograd.Function`` in a trace: what it computed."""
    if not node.hasAttribute("Subgraph"):
        raise UnsupportedError(f"{node.pyname()} is a Python function whose calls the trace doesn't hold")
    results = walker.call(node.g("Subgraph"), inputs)
    return tuple(results) if isinstance(node.output().type(), torch._C.TupleType) else results[0]


PRIMS: dict[str, Callable[[Walker, Any, list[Any]], Any]] = {
    "prim::GetAttr": _get_attribute,
    "prim::SetAttr": _set_attribute,
    "prim::CallMethod": _method,
    "prim::ModuleContainerIndex": lambda w, n, x: w.attribute(x[0], str(x[1])),
    "prim::fork": _fork,
    "prim::PythonOp": _python_op,
    "aten::wait": lambda w, n, x: x[0],
    "prim::If": _if,
    "aten::__not__": _not,
    "prim::Loop": _loop,
    "prim::ListConstruct": lambda w, n, x: list(x),
    "prim::TupleConstruct": lambda w, n, x: tuple(x),
    "prim::DictConstruct": lambda w, n, x: dict(zip(x[::2], x[1::2], strict=True)),
    "prim::TupleUnpack": _unpack,
    "prim::ListUnpack": _unpack,
    "prim::TupleIndex": lambda w, n, x: x[0][x[1]],
    "prim::NumToTensor": lambda w, n, x: w.as_numbers(_to_tensor(w, n, x)),
    "prim::unchecked_cast": lambda w, n, x: x[0],
    "prim::unchecked_unwrap_optional": lambda w, n, x: x[0],
    "aten::_unwrap_optional": lambda w, n, x: x[0],
    "prim::Uninitialized": lambda w, n, x: None,
    "prim::RaiseException": _raise,
    "prim::Print": lambda w, n, x: None,
    "aten::warn": lambda w, n, x: None,
    "aten::Int": _number(int),
    "aten::Float": _number(float),
    "aten::Bool": _number(bool),
    "aten::IntImplicit": _number(int),
    "aten::FloatImplicit": _number(float),
    "aten::ScalarImplicit": lambda w, n, x: x[0],
    "aten::item": _number(lambda x: x.item() if isinstance(x, torch.Tensor) else x),
    "aten::append": _append,
    "aten::_set_item": _set_item,
    "aten::insert": lambda w, n, x: x[0].insert(x[1], x[2]),
    "aten::pop": lambda w, n, x: x[0].pop(*x[1:]),
    "aten::extend": lambda w, n, x: x[0].extend(x[1]),
    "aten::reverse": lambda w, n, x: x[0].reverse(),
    "aten::clear": lambda w, n, x: x[0].clear(),
    "aten::Delete": lambda w, n, x: x[0].__delitem__(x[1]),
    "aten::get": lambda w, n, x: x[0].get(*x[1:]),
    "prim::TupleSlice": lambda w, n, x: x[0][n.i("beg") : n.i("end")],
    "aten::__getitem__": lambda w, n, x: x[0][x[1]],
    "aten::len": lambda w, n, x: x[0].read().shape[0] if isinstance(x[0], Ref) else len(x[0]),
    "aten::list": lambda w, n, x: list(x[0]),
    "aten::__is__": lambda w, n, x: x[0] is x[1],
    "aten::__isnot__": lambda w, n, x: x[0] is not x[1],
    "aten::__contains__": lambda w, n, x: x[1] in x[0],
    "aten::format": lambda w, n, x: str(x[0]).format(*x[1:]),
    "prim::device": lambda w, n, x: torch.device("cpu"),
    "aten::keys": lambda w, n, x: list(x[0]),
    "aten::values": lambda w, n, x: list(x[0].values()),
    "aten::items": lambda w, n, x: list(x[0].items()),
}


Walker.prims = PRIMS


def _plus(x: list[Any], y: list[Any], *_: Any) -> list[Any]:
    return [*x, *y]


def _plus_in_place(x: list[Any], y: list[Any], *_: Any) -> list[Any]:
    x.extend(y)
    return x


#: Ops on tensors that are others where the first argument is a list.
_OF_LISTS: dict[str, Callable[..., Any]] = {
    "aten::slice": lambda x, start=None, stop=None, step=1: x[start:stop:step],
    "aten::add": _plus,
    "aten::add_": _plus_in_place,
    "aten::mul": lambda x, n: x * n,
    "aten::copy": lambda x: x.copy(),
}


def _size(x: Value, dim: int | None = None) -> Any:
    return list(x.shape) if dim is None else x.shape[dim]


#: What is asked of a tensor and known from its type.
_ATTRIBUTES: dict[str, Callable[..., Any]] = {
    "aten::size": _size,
    "prim::shape": _size,
    "aten::dim": lambda x: x.rank,
    "prim::dtype": lambda x: _code(x),
    "aten::numel": lambda x: x.type.size,
    "aten::is_floating_point": lambda x: x.dtype.is_float,
    "aten::is_complex": lambda x: x.dtype.is_complex,
    "prim::is_cuda": lambda x: False,
    "prim::is_meta": lambda x: False,
    "prim::is_sparse": lambda x: False,
    "prim::is_quantized": lambda x: False,
    "prim::is_nested": lambda x: False,
    "prim::requires_grad": lambda x: isinstance(x.op, Parameter),
    "prim::layout": lambda x: 0,
    "aten::is_contiguous": lambda x, *_: True,
    "aten::get_device": lambda x: -1,
    "prim::device": lambda x: torch.device("cpu"),
}


def _code(x: Value) -> int:
    theirs = TORCH_DTYPES[x.dtype]
    return next(code for code, dtype in _DTYPE_CODES.items() if dtype is theirs)
