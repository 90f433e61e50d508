"""Files of strangers, made by mutation guided by coverage: ``make fuzz-file TIME=600``.

Every input is a ``.tdag`` file, or (if it begins with ``{``) the document of one, which is put beside tensors that fit
what the seeds name. It must load, or be refused by FileError; what loads must save, and load again as the same network.
A crash, a time-out or too much memory is a finding, which libFuzzer writes to ``crash-...`` or the like. What is worth
keeping is in ``tests/file/corpus``, which a test replays.

    python -m conformance.fuzz_file NEW tests/file/corpus -max_total_time=600 -timeout=20 -rss_limit_mb=2048
"""

from __future__ import annotations

import copy
import json
import os
import random
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Numbers and texts at which something may break.
EDGES = (
    0, 1, -1, 2, 7, 8, 63, 64, 255, 2**16, 2**31, 2**32, 2**53 - 1, 2**53, 2**63, -(2**63), 10**400, 0.5, 1e308, True,
    False, None, "", "a", "\u202e", "a" * 5000, [], {}, [0], [[]], {"float": "nan"}, {"int": "1" * 30}, {"type": 0},
    {"graph": 0}, {"dtype": "f32"}, {"slot": 0}, {"ellipsis": True}, {"bytes": "00"}, {"sized": [2, [0], 1, 0, None]},
    {"torch": ["dtype", "x"]},
)  # fmt: skip
_FOLDER = tempfile.TemporaryDirectory()


def file_of(data: bytes) -> bytes:
    """The file that an input stands for."""
    if not data.startswith(b"{"):
        return data
    text = data.decode("utf-8", "replace")
    header: dict[str, Any] = {"__metadata__": {"tdag": text}}
    tensors = b""
    if '"w"' in text:  # of the one seed that has weights
        tensors = b"\0" * 64
        header["w"] = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}
        header["b"] = {"dtype": "F32", "shape": [4], "data_offsets": [48, 64]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + tensors


def one(data: bytes) -> bool:
    """Load an input; whether it is a network. An error that isn't FileError is a finding."""
    import tdagger as td

    path = Path(_FOLDER.name) / "m.tdag"
    path.write_bytes(file_of(data))
    try:
        dag = td.load(path)
    except td.FileError:
        return False
    again = Path(_FOLDER.name) / "again.tdag"
    dag.save(again)
    loaded = td.load(again)
    assert loaded.graph == dag.graph
    assert loaded.hash() == dag.hash()
    dag.text()
    return True


# --- mutation ----------------------------------------------------------------------------------------------


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in JSON, as a container and a key."""
    waiting = [node]
    while waiting:
        at = waiting.pop()
        for key in list(at) if isinstance(at, dict) else range(len(at)):
            yield at, key
            if isinstance(at[key], dict | list):
                waiting.append(at[key])


def mutated(data: bytes, seed: int) -> bytes | None:
    """A document with one to three places changed; None if it is no JSON."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        every = list(places(document))
        if not every:
            break
        at, key = rng.choice(every)
        other, theirs = rng.choice(every)
        kind = rng.randrange(6)
        if kind == 0:
            at[key] = copy.deepcopy(rng.choice(EDGES))
        elif kind == 1:
            at[key] = copy.deepcopy(other[theirs])
        elif kind == 2 and isinstance(at, list):
            at.insert(key, copy.deepcopy(at[key]))
        elif kind == 3:
            del at[key]
        elif isinstance(at[key], int):
            at[key] += rng.choice((-8, -2, -1, 1, 2, 8))
        else:
            at[key] = copy.deepcopy(rng.choice(EDGES))
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def main() -> None:
    """Run libFuzzer with its own options."""
    import atheris
    import torch  # noqa: F401 (a file that names a constant of torch imports it, which takes long to instrument)

    with atheris.instrument_imports(include=["tdagger.file", "tdagger.ops", "tdagger.library", "tdagger.composite"]):
        import tdagger.file.store  # noqa: F401

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        changed = mutated(data, seed) if data.startswith(b"{") and seed % 8 else None
        return changed if changed is not None and len(changed) <= longest else atheris.Mutate(data, longest)

    atheris.Setup(sys.argv, one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
