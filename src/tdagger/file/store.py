"""Saving and loading networks: what :meth:`tdagger.TensorDAG.save` and :func:`tdagger.load` do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from tdagger.errors import FileError, TDaggerError
from tdagger.file import container
from tdagger.file.container import KEY, FileWeights, Header, little
from tdagger.file.limits import Limits
from tdagger.file.read import Found, check_version, read
from tdagger.file.tables import Tensors, WeightRow, check_stored, of_header
from tdagger.file.trees import Classes, FileName
from tdagger.file.write import HAS_DATA, Document, written
from tdagger.graph import bulk
from tdagger.names import shown
from tdagger.network import Signature
from tdagger.op import Array
from tdagger.program.program import Program
from tdagger.program.whole import joined
from tdagger.tensordag import TensorDAG
from tdagger.tree import Tree
from tdagger.types import DType, TensorType

#: A file with more bytes of weights than this has them beside it, in several files.
SHARD = 50 * 10**9
#: safetensors takes no longer header.
_LONGEST_HEADER = 100_000_000
#: Names that other formats' files have, and what writes those.
_OTHERS = {
    ".onnx": "to_onnx() writes", ".tflite": "to_tflite() writes", ".mlpackage": "to_coreml() writes",
    ".pt2": "torch.export.save(dag.to_exported_program(), path) writes",
    ".ts": "dag.to_torchscript().save(path) writes",
}  # fmt: skip


def save(dag: TensorDAG | Program, path: str | Path, *, weights: bool = True, shard: int = SHARD) -> None:
    """Write a network or program to a file; see :meth:`tdagger.TensorDAG.save`."""
    to = Path(path)
    if to.suffix.lower() in _OTHERS:
        raise FileError(f"{shown(to)}: that is the name of a file of another format; {_OTHERS[to.suffix.lower()]} it")
    if not to.parent.is_dir():
        raise FileError(f"{shown(to.parent)}: there is no such folder")
    document, dag = _written(dag, weights)
    if 2 * len(document.text) > _LONGEST_HEADER:
        raise FileError(f"{shown(to)}: its graph takes {len(document.text)} bytes, more than a header may have")
    tensors = {n: _checked(dag, n) for n in document.weights}
    if "__metadata__" in tensors or any(not _is_plain(n) for n in tensors):
        raise FileError(f"{shown(to)}: safetensors can't hold a tensor of such a name")
    if sum(a.nbytes for a in tensors.values()) <= shard:
        container.write(to, {**document.constants, **tensors}, {KEY: document.text})
        return
    _save_shards(to, document, tensors, shard)


def _written(dag: TensorDAG | Program, weights: bool, exact: bool = False) -> tuple[Document, TensorDAG]:
    """The document of a network or program, and the network that has all blocks."""
    program = dag if isinstance(dag, Program) else None
    dag = joined(dag) if isinstance(dag, Program) else dag
    return written(dag, weights, exact, program), dag


def _is_plain(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _checked(dag: TensorDAG, name: str) -> Array:
    """A weight, of the type that the network says."""
    data = dag.weights[name]
    said = dag.state.get(name)
    leaf = dag.graph.parameters.get(name) or dag.graph.buffers.get(name)
    type_ = said.type if said is not None else leaf.type if leaf is not None else None
    found = TensorType(data.shape, DType.of(data.dtype))
    if type_ is not None and found is not type_:
        raise FileError(f"{dag.name}: the weight {shown(name)!r} is {found}, and the network takes {type_}")
    return data


def _save_shards(path: Path, document: Document, tensors: Mapping[str, Array], shard: int) -> None:
    """Write weights in several files beside, the network's last: until then what was there is whole.

    The files are called by what they hold, so that those of another version of the network stay what they are.
    """
    parts: list[dict[str, Array]] = [{}]
    size = 0
    for name, data in tensors.items():
        if parts[-1] and size + data.nbytes > shard:
            parts.append({})
            size = 0
        parts[-1][name] = data
        size += data.nbytes
    digest = _digest(document.text, tensors)
    names = [shard_name(path, digest, i, len(parts)) for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        container.write(path.with_name(name), part, {"format": "pt"})
    index = {
        "metadata": {"total_size": sum(a.nbytes for a in tensors.values())},
        "weight_map": {n: name for name, part in zip(names, parts, strict=True) for n in part},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    before = own_shards(path)
    beside = json.dumps({"digest": digest, "files": len(parts)}, sort_keys=True, separators=(",", ":"))
    container.write(path, document.constants, {KEY: f'{{"beside":{beside},{document.text[1:]}'})
    container.whole(path.with_suffix(".safetensors.index.json"), lambda to: Path(to).write_text(text, "utf-8"))
    for name in before - set(names):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path.with_name(name))


def shard_name(path: Path, digest: str, number: int, count: int) -> str:
    """What the file of some of the weights is called: ``m-3f2a...-00001-of-00003.safetensors``."""
    return f"{path.stem}-{digest[:12]}-{number + 1:05}-of-{count:05}.safetensors"


def own_shards(path: Path) -> set[str]:
    """The files of weights that a file that is there has beside it."""
    try:
        beside = _beside(container.parsed(_text(container.opened(path, Limits().header)), KEY))
    except (TDaggerError, OSError):
        return set()
    return set() if beside is None else {shard_name(path, beside[0], i, beside[1]) for i in range(beside[1])}


def _text(header: Header) -> str:
    """The document of a file."""
    text = header.metadata.get(KEY)
    if text is None:
        raise FileError(f"__metadata__: has no {KEY!r}: these are weights without a network")
    return text


def _beside(document: Any) -> tuple[str, int] | None:
    """The digest and number of the files of weights beside; they are taken out of the document."""
    if not isinstance(document, dict) or "beside" not in document:
        return None
    said: Any = cast(dict[str, Any], document).pop("beside")
    if not isinstance(said, dict) or set(cast(dict[str, Any], said)) != {"digest", "files"}:
        raise FileError("beside: must have digest and files")
    digest, count = cast(dict[str, Any], said)["digest"], cast(dict[str, Any], said)["files"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise FileError("beside.digest: must be 64 hexadecimal digits")
    if type(count) is not int or not 0 < count < 10**5:
        raise FileError(f"beside.files: can't be {count!r:.40}")
    return digest, count


_DIGEST = re.compile(r"[0-9a-f]{64}")


def load(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    classes: Iterable[type] = (),
    limits: Limits | None = None,
) -> TensorDAG | Program:
    """Read a network or program; see :func:`tdagger.load`."""
    with bulk(acyclic=True):
        return _loaded(Path(path), weights, classes, limits or Limits())


def _loaded(own: Path, weights: str | Path | None, classes: Iterable[type], limits: Limits) -> TensorDAG | Program:
    try:
        header = container.opened(own, limits.header)
        text = _text(header)
        document = container.parsed(text, f"__metadata__.{KEY}")
        check_version(document)
        beside = _beside(document)
        named = {f"{c.__module__}:{c.__qualname__}": c for c in classes}
        found = _found(document, len(text), of_header(header), limits, Classes(named))
        headers = _headers(own, header, beside, found, limits)
        dag = replace(found.dag, weights=_weights(found, headers))
    except FileError as e:
        raise FileError(f"{shown(own)}: {str(e).removeprefix(f'{shown(own)}: ')}") from e.__cause__
    dag = dag if weights is None else with_weights_of(dag, found.weights, Path(weights), limits)
    return dag if found.program is None else replace(found.program, weights=dag.weights)


def _found(document: Any, size: int, tensors: Tensors, limits: Limits, classes: Classes) -> Found:
    """The network of a document; whatever its parts refuse is one kind of error."""
    try:
        return read(document, size, tensors, limits, classes)
    except FileError:
        raise
    except TDaggerError as e:  # of Graph, TensorType ...
        raise FileError(f"the document: {e}") from e
    except MemoryError as e:
        raise FileError("the document: takes more memory than there is") from e


def _headers(
    path: Path, header: Header, beside: tuple[str, int] | None, found: Found, limits: Limits
) -> dict[str, Header]:
    """Where the data of each weight lies; FileError names what is missing or too much."""
    headers = [header]
    if beside is not None:
        for i in range(beside[1]):
            headers.append(
                container.opened(path.with_name(shard_name(path, *(beside[0], i, beside[1]))), limits.header)
            )
    places: dict[str, Header] = {}
    for one in headers:
        for name in one.places:
            if name in found.constants and one is header:
                continue
            if name in places:
                raise FileError(f"tensor {shown(name)!r}: is there twice")
            places[name] = one
    wanted = {row.name for row in found.weights if row.flags & HAS_DATA}
    missing, more = [n for n in wanted if n not in places], [n for n in places if n not in wanted]
    if missing or more:
        raise FileError(f"the tensors: {_told(missing, more)}")
    return places


def _told(missing: Sequence[str], more: Sequence[str]) -> str:
    told = [
        f"{what} {', '.join(map(shown, sorted(names)[:8]))}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
        for what, names in (("missing are", missing), ("too much are", more))
        if names
    ]
    return "; ".join(told)


def _weights(found: Found, headers: Mapping[str, Header]) -> FileWeights:
    places: dict[str, tuple[Header, str, TensorType]] = {}
    for row in found.weights:
        of = found.weights[row.alias - 1] if row.alias else row
        if of.flags & HAS_DATA:
            check_stored(headers[of.name], of.name, row.type, "the tensors")
            places[row.name] = headers[of.name], of.name, row.type
    return FileWeights(places)


def with_weights_of(dag: TensorDAG, rows: Sequence[WeightRow], path: Path, limits: Limits) -> TensorDAG:
    """The network with the tensors of a safetensors file; FileError names what is missing or too much."""
    try:
        header = container.opened(path, limits.header)
        names = {row.name: rows[row.alias - 1].name if row.alias else row.name for row in rows}
        own = {n: n if n in header.places else of for n, of in names.items()}
        temporary = {n for n, w in dag.state.items() if not w.persistent and n in dag.weights}
        missing = [n for n, of in own.items() if of not in header.places and n not in temporary]
        more = [n for n in header.places if n not in names]
        if missing or more:
            raise FileError(_told(missing, more))
        places: dict[str, tuple[Header, str, TensorType]] = {}
        for row in rows:
            if own[row.name] in header.places:
                check_stored(header, own[row.name], row.type, "the tensors")
                places[row.name] = header, own[row.name], row.type
        kept = {n: dag.weights[n] for n in names if n not in places}
    except FileError as e:
        raise FileError(f"{shown(path)}: {str(e).removeprefix(f'{shown(path)}: ')}") from e.__cause__
    found = FileWeights(places)
    return replace(dag, weights={**kept, **{n: found[n] for n in found}} if kept else found)


# --- hashes ------------------------------------------------------------------------------------------------


def hash_of(dag: TensorDAG | Program, weights: bool = False) -> str:
    """The content hash of a network or program; see :meth:`tdagger.TensorDAG.hash`."""
    if isinstance(dag, Program):
        plain: TensorDAG | Program = replace(dag, origins={}, modules={}, name="program", axis_names={}, left_out=())
    else:
        plain = replace(dag, origins={}, modules={}, name="network", axis_names={}, left_out=(), rows=False)
        plain = replace(plain, certain_dimensions=frozenset[tuple[str, int]]())
    document, _ = _written(plain, weights=False)
    tensors = {n: dag.weights[n] for n in _written(dag, weights=True)[0].weights} if weights else {}
    return _digest(document.text, {**document.constants, **tensors})


def _digest(text: str, tensors: Mapping[str, Array]) -> str:
    found = hashlib.blake2b(text.encode("ascii"), digest_size=32)
    for name in sorted(tensors):
        data = little(np.asarray(tensors[name], order="C"))
        found.update(f"\0{json.dumps(name)} {DType.of(tensors[name].dtype)}{list(data.shape)}\0".encode("ascii"))
        found.update(data.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


# --- pickles -----------------------------------------------------------------------------------------------


def reduced(dag: TensorDAG | Program) -> tuple[Any, ...]:
    """What a pickle holds: the document of a network or program, the constants beside it, and the weights as is."""
    document, _ = _written(dag, weights=False, exact=True)
    called = dag.called if isinstance(dag, Program) else dag.signature
    return document.text, document.constants, dag.weights, sorted(_strangers(called))


def _strangers(called: Signature) -> set[str]:
    """The names in a signature that came from a file, which nobody may import by."""
    found: set[str] = set()
    waiting: list[Tree] = [called.inputs, called.outputs]
    while waiting:
        tree = waiting.pop()
        waiting += tree.children
        if isinstance(tree.type, FileName):
            found.add(str(tree.type))
    return found


def restored(
    text: str, constants: Mapping[str, Array], weights: Mapping[str, Array], strangers: Sequence[str]
) -> TensorDAG | Program:
    """What :func:`reduced` took apart; names that came from a file are still a stranger's."""
    document = container.parsed(text, "the pickle")
    check_version(document)

    def tensors(name: str, type_: TensorType, where: str) -> Array:
        del type_, where
        return constants[name]

    found = _found(document, len(text), tensors, _OWN, Classes({}, frozenset(strangers)))
    return replace(found.dag if found.program is None else found.program, weights=weights)


#: What this process wrote itself isn't bounded.
_OWN = Limits(*[2**62] * len(Limits._fields))
