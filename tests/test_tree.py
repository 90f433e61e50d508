"""How arguments and results nest: flattened and put together again."""

import dataclasses
import pickle
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdagger import tree
from tdagger.errors import InputError
from tdagger.tree import Tree, aligned, flatten


class Leaf:
    """Stands for a tensor. The name of a test says which, and not its address: every process names tests alike."""

    def __init__(self, name: str = "leaf") -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Output:
    first: Any
    hidden: Any = None
    last: Any = None


class Outer:
    @dataclass
    class Inner:
        value: Any


def is_leaf(value: object) -> bool:
    return isinstance(value, Leaf)


def round_trip(value: Any) -> tuple[list[Any], Tree, Any]:
    leaves, tree = flatten(value, is_leaf)
    return leaves, tree, pickle.loads(pickle.dumps(tree)).unflatten(leaves)


A, B, C = Leaf("A"), Leaf("B"), Leaf("C")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (A, ["out"]),
        ((), []),
        ([], []),
        ({}, []),
        ((A,), ["out.0"]),
        ([A, (B, [C])], ["out.0", "out.1.0", "out.1.1.0"]),
        ({"b": A, "a": B, 3: C}, ["out.b", "out.a", "out.3"]),
        (OrderedDict(z=A, y=(B,)), ["out.z", "out.y.0"]),
        (Point(A, [B]), ["out.x", "out.y.0"]),
        (Output(A, last=(B, C)), ["out.first", "out.last.0", "out.last.1"]),
        (Outer.Inner({"k": A}), ["out.value.k"]),
        ((A, None, 1, 2.5, 1j, "s", b"s", True), ["out.0"]),
        ((A, A), ["out.0", "out.1"]),
    ],
    ids=repr,
)
def test_round_trip(value: Any, names: list[str]) -> None:
    leaves, tree, again = round_trip(value)
    assert again == value
    assert type(again) is type(value)
    assert tree.names("out") == names
    assert all(is_leaf(leaf) for leaf in leaves)
    assert len(leaves) == len(names)


def test_constants_keep_their_type() -> None:
    _, _, again = round_trip((True, 1, 1.0, None, "1"))
    assert [type(a) for a in again] == [bool, int, float, type(None), str]


def test_order_of_dicts_is_kept() -> None:
    leaves, _, again = round_trip({"b": A, "a": B})
    assert leaves == [A, B]
    assert list(again) == ["b", "a"]


def test_dataclass_fields_that_are_none_are_left_out() -> None:
    """As transformers' outputs do: a field of None is a field that isn't there."""
    _, tree, again = round_trip(Output(A))
    assert tree.keys == ("first",)
    assert again == Output(A)


def test_required_dataclass_fields_that_are_none_are_kept() -> None:
    """Without it the class can't be called."""
    _, tree, again = round_trip(Output(None, hidden=A))
    assert tree.keys == ("first", "hidden")
    assert again == Output(None, hidden=A)


def test_any_mapping() -> None:
    _, tree, again = round_trip(UserDict(k=A))
    assert tree.type == "collections:UserDict"
    assert isinstance(again, UserDict)
    assert again["k"] is A


def test_names_without_prefix() -> None:
    assert flatten(((A,), {"x": B}), is_leaf)[1].names("") == ["0.0", "1.x"]


def test_converters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cache:
        def __init__(self, *tensors: Leaf) -> None:
            self.tensors = tensors

    class Special(Cache):
        pass

    convert: Callable[[Any], Any] = lambda cache: cache.tensors  # noqa: E731
    monkeypatch.setitem(tree.converters, f"{Cache.__module__}.{Cache.__qualname__}", convert)
    leaves, found = flatten({"cache": Special(A, B)}, is_leaf)
    assert leaves == [A, B]
    assert found.names("out") == ["out.cache.0", "out.cache.1"]


class Layer:
    """As a layer of a cache: tensors, a count, a class, and what isn't kept."""

    def __init__(self, keys: Any = None, values: Any = None) -> None:
        self.keys = keys
        self.values = values
        self.seen = 3
        self.kind = Point
        self.stream = object()
        self._window = keys


class Layers:
    def __init__(self, *layers: Layer) -> None:
        self.layers = list(layers)


def test_objects_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[Any] = []
    for kind in (Layer, Layers):
        monkeypatch.setitem(tree.objects, f"{kind.__module__}.{kind.__qualname__}", finished.append)
    given = {"cache": Layers(Layer(A, B), Layer(), Layer(C))}
    leaves, found, again = round_trip(given)
    assert leaves == [A, B, C]
    assert found.names("") == ["cache.0.keys", "cache.0.values", "cache.2.keys"]
    assert flatten(again, is_leaf)[1] == found
    made = again["cache"]
    assert type(made) is Layers
    assert made is not given["cache"]
    assert (made.layers[0].values, made.layers[1].keys, made.layers[2].seen) == (B, None, 3)
    assert made.layers[0].kind is Point
    assert not hasattr(made.layers[0], "stream")
    assert not hasattr(made.layers[0], "_window")
    assert finished == [*made.layers, made]


def test_objects_in_plain_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Layer, Layers):
        monkeypatch.setitem(tree.objects, f"{kind.__module__}.{kind.__qualname__}", lambda _: None)
    leaves, found = flatten((Layers(Layer(A, B), Layer()),), is_leaf)
    assert found.plain().unflatten(leaves) == ({"layers": [{"keys": A, "values": B}, {}]},)


def test_results_have_converters_only(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{Layer.__module__}.{Layer.__qualname__}"
    monkeypatch.setitem(tree.objects, name, lambda _: None)
    monkeypatch.setitem(tree.converters, name, lambda layer: tree.Fields(keys=layer.keys, values=layer.values))
    leaves, found = flatten([Layer(A, B)], is_leaf, result=True)
    assert found.names("out") == ["out.0.keys", "out.0.values"]
    assert found.unflatten(leaves) == [(A, B)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, r"^inputs: can't take a builtins\.set; give tensors, numbers, or tuples, lists, dicts and"),
        ([A, {"k": object()}], r"^inputs\.1\.k: can't take a builtins\.object;"),
        (Point(A, Leaf), r"^inputs\.y: can't take a builtins\.type;"),
        ((Output,), r"^inputs\.0: can't take a builtins\.type;"),
    ],
    ids=["set", "nested", "class", "dataclass type"],
)
def test_what_it_does_not_take(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        flatten(value, is_leaf)


def test_where_it_is() -> None:
    with pytest.raises(InputError, match=r"^outputs of net\.0: can't take"):
        flatten((object(),), is_leaf, "outputs of net")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_leaves(count: int) -> None:
    tree = flatten((A, B), is_leaf)[1]
    with pytest.raises(InputError, match=f"takes 2 tensors, got {count}"):
        tree.unflatten([A] * count)


NESTED = st.recursive(
    st.builds(Leaf) | st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict)
        | st.builds(Point, inner, inner)
        | st.builds(Output, inner, inner, inner)
    ),
    max_leaves=10,
)


@given(NESTED)
def test_round_trip_of_anything(value: Any) -> None:
    leaves, tree, again = round_trip(value)
    assert again == value
    assert len(tree.names("x")) == len(leaves)


def test_dicts_are_matched_by_their_keys() -> None:
    def of(value: Any) -> tuple[list[Any], Tree]:
        return flatten(value, lambda v: isinstance(v, float))

    _, wanted = of({"a": 1.0, "b": {"x": 2.0, "y": (3.0, None)}})
    leaves, given = of({"b": {"y": (3.0, None), "x": 2.0}, "a": 1.0})
    assert aligned(wanted, given, leaves, "d") == [1.0, 2.0, 3.0]
    for value, message in (
        ({"a": 1.0}, "d lacks 'b': its keys must be 'a', 'b'"),
        ({"a": 1.0, "b": {"x": 2.0, "z": 3.0}}, "d.b lacks 'y' and has 'z': its keys must be 'x', 'y'"),
        ({"a": 1.0, "b": {"x": 2.0, "y": 3.0}}, "d.b.y must be a tuple of 2, got a tensor"),
        ({"a": 1.0, "b": {"x": 2.0, "y": (3.0, 4)}}, "d.b.y.1 was None when the network was imported, got 4"),
    ):
        leaves, given = of(value)
        with pytest.raises(InputError) as caught:
            aligned(wanted, given, leaves, "d")
        assert str(caught.value) == message


def test_classes_made_inside_a_function_are_made_again() -> None:
    pair = namedtuple("pair", "a b")

    class Named(NamedTuple):
        a: float
        b: Any = None

    class Sub(dict[str, Any]):
        pass

    @dataclasses.dataclass(frozen=True, slots=True)
    class Frozen:
        a: float
        b: float

    for value in (pair(1.0, 2.0), Named(1.0), Sub(a=1.0), Frozen(1.0, 2.0), OrderedDict(a=1.0)):
        leaves, tree = flatten(value, lambda v: isinstance(v, float))
        again = tree.unflatten(leaves)
        assert type(again) is type(value)
        assert again == value


def test_a_class_that_cannot_be_found_by_its_name_is_named() -> None:
    class Sub(dict[str, Any]):
        pass

    _, tree = flatten(Sub(a=1.0), lambda v: isinstance(v, float))
    with pytest.raises(InputError, match=r"the class .*test_tree:.*<locals>.Sub can't be found"):
        pickle.loads(pickle.dumps(tree)).unflatten([1.0])


def test_a_field_that_the_class_fills_itself_is_refused() -> None:
    @dataclasses.dataclass
    class Made:
        a: float
        b: float = dataclasses.field(init=False)

        def __post_init__(self) -> None:
            self.b = self.a + 1

    with pytest.raises(InputError, match="can't be made again: b is no argument of its class"):
        flatten(Made(1.0), lambda v: isinstance(v, float))


def test_a_defaultdict_is_a_dict() -> None:
    leaves, tree = flatten(defaultdict(list, a=1.0), lambda v: isinstance(v, float))
    assert tree.unflatten(leaves) == {"a": 1.0}
