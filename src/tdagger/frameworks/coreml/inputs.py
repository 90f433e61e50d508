"""The inputs of a model: their element types, the sizes that the file leaves open, and which ones are allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from tdagger.errors import InputError, SourceError
from tdagger.frameworks.coreml.read import kind_of
from tdagger.frameworks.coreml.values import dims_of
from tdagger.names import shown
from tdagger.types import TensorType

#: More entries than any dimension has.
_LONGEST = 2**31


class Declared(NamedTuple):
    """An input: its type in the program, None for sizes that are open, and what is said of these.

    ``usual`` is the shape that it has unless another is asked for; ``ranges`` of sizes, or ``shapes``, are allowed.
    """

    name: str
    kind: int
    dims: tuple[int | None, ...]
    usual: tuple[int, ...] | None
    ranges: tuple[tuple[int, int], ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def free(self) -> bool:
        """Whether it leaves a size open."""
        return None in self.dims

    def type(self, given: Sequence[int] | None) -> TensorType:
        """The input's type with a shape that is asked for; InputError if the file doesn't have it."""
        dtype = kind_of(self.kind, f"input {shown(self.name)}").dtype
        shape = self._usual() if given is None else tuple(given)
        told = "x".join("?" if d is None else str(d) for d in self.dims)
        if len(shape) != len(self.dims):
            raise InputError(f"input {shown(self.name)} has {len(self.dims)} dimensions {told}, not {list(shape)}")
        if any(d is not None and d != n for d, n in zip(self.dims, shape, strict=True)):
            raise InputError(
                f"input {shown(self.name)} has the shape {told} in the file, {list(shape)} isn't that: import it as it "
                "is, and resize it"
            )
        if self.shapes and shape not in self.shapes:
            allowed = ", ".join("x".join(map(str, s)) for s in self.shapes[:8])
            raise InputError(f"input {shown(self.name)} may have the shapes {allowed}, not {list(shape)}")
        for axis, (n, (low, high)) in enumerate(zip(shape, self.ranges, strict=False)):
            if n < low or (0 <= high < n):
                most = f"to {high}" if high >= 0 else "and more"
                raise InputError(f"input {shown(self.name)} has {low} {most} entries in dimension {axis}, not {n}")
        if any(not 0 <= n <= _LONGEST for n in shape):
            raise InputError(f"input {shown(self.name)}: there is no shape {list(shape)}")
        return TensorType(shape, dtype)

    def _usual(self) -> tuple[int, ...]:
        if not self.free:
            return cast(tuple[int, ...], self.dims)
        if self.usual is None or len(self.usual) != len(self.dims):
            raise InputError(f"input {shown(self.name)} has open sizes: give inputs={{{self.name!r}: shape}}")
        return tuple([d if d is not None else u for d, u in zip(self.dims, self.usual, strict=True)])


def declared(name: str, value: Any, feature: Any) -> Declared:
    """What a file says of an input: ``value`` is its type in the program, ``feature`` its description, or None."""
    if value.WhichOneof("type") != "tensorType":
        raise SourceError(f"input {shown(name)} is no tensor")
    tensor = value.tensorType
    kind_of(tensor.dataType, f"input {shown(name)}")
    dims = dims_of(tensor, f"input {shown(name)}")
    usual, ranges, shapes = described(feature, len(dims))
    return Declared(name, tensor.dataType, dims, usual, ranges, shapes)


#: The default shape of an input, the range of each size, and the shapes that are listed.
Flexible = tuple[tuple[int, ...] | None, tuple[tuple[int, int], ...], tuple[tuple[int, ...], ...]]


def described(feature: Any, rank: int) -> Flexible:
    """What the description of an input says of its shape."""
    if feature is None:
        return None, (), ()
    which = feature.type.WhichOneof("Type")
    if which == "imageType":
        return _image(feature.type.imageType, rank)
    if which != "multiArrayType":
        return None, (), ()
    array = feature.type.multiArrayType
    usual = tuple([int(n) for n in array.shape]) or None
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        return usual, (), tuple([tuple([int(n) for n in s.shape]) for s in array.enumeratedShapes.shapes])
    if flexible == "shapeRange":
        sizes = array.shapeRange.sizeRanges
        return usual, tuple([(int(r.lowerBound), int(r.upperBound)) for r in sizes]), ()
    return usual, (), ()


def _image(image: Any, rank: int) -> Flexible:
    """An image is ``[b c h w]``: of three channels, of one if it is gray."""
    channels = 1 if image.colorSpace in (10, 40) else 3

    def shape(height: int, width: int) -> tuple[int, ...]:
        return (1, channels, height, width)[4 - rank :] if rank <= 4 else (1,) * (rank - 3) + (channels, height, width)

    usual = shape(int(image.height), int(image.width))
    flexible = image.WhichOneof("SizeFlexibility")
    if flexible == "enumeratedSizes":
        return usual, (), tuple([shape(int(s.height), int(s.width)) for s in image.enumeratedSizes.sizes])
    if flexible == "imageSizeRange":
        size = image.imageSizeRange
        high = (int(size.heightRange.lowerBound), int(size.heightRange.upperBound))
        wide = (int(size.widthRange.lowerBound), int(size.widthRange.upperBound))
        return usual, (*[(n, n) for n in usual[:-2]], high, wide), ()
    return usual, (), ()


def types_of(own: Sequence[Declared], given: Mapping[str, Sequence[int]] | None) -> dict[str, TensorType]:
    """The types of the inputs; InputError for shapes of inputs that there aren't, or that the file doesn't allow."""
    names = [i.name for i in own]
    odd = [n for n in given or () if n not in names]
    if odd:
        raise InputError(f"inputs: there is no input {', '.join(map(shown, odd))}; there are {', '.join(names)}")
    return {i.name: i.type((given or {}).get(i.name)) for i in own}
