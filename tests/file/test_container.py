"""Files of tensors are those that the safetensors library writes, byte for byte."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

import tdagger as td
from tdagger.file import container


def by_the_library(tensors: dict[str, Any], path: Path, metadata: dict[str, str]) -> bytes:
    kept = {n: np.asarray(a, order="C") for n, a in tensors.items()}
    specs = {
        n: safetensors.TensorSpec(
            dtype=a.dtype.name, shape=list(a.shape), data_ptr=a.ctypes.data, data_len=a.nbytes
        )
        for n, a in kept.items()
    }  # fmt: skip
    safetensors.serialize_file(specs, str(path), metadata=metadata)
    return path.read_bytes()


def test_files_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = [d.numpy for d in td.types.DTYPES if d.name != "c128"]
    sizes: list[tuple[int, ...]] = [(3,), (), (2, 0, 3), (2, 5)]
    tensors = {f"{k.name}.{i}": rng.integers(0, 2, s).astype(k) for k in kinds for i, s in enumerate(sizes)}
    tensors |= {'a"\n\x01\u00e9\u202e\x7f\U0001f600\\/': np.arange(9, dtype="i4"), "": np.arange(2, dtype="u1")}
    tensors |= {"transposed": np.arange(6, dtype="f").reshape(2, 3).T, "every other": np.arange(8, dtype="d")[::2]}
    for part in (tensors, dict(reversed(tensors.items())), {"one": tensors["float32.0"]}, {}):
        container.write(tmp_path / "own", part, {"k": 'v"\u00e9\x7f\u2028\n/'})
        theirs = by_the_library(part, tmp_path / "theirs", {"k": 'v"\u00e9\x7f\u2028\n/'})
        assert (tmp_path / "own").read_bytes() == theirs
    container.write(tmp_path / "own", {"big": np.arange(4, dtype=">f8")}, {})
    container.write(tmp_path / "other", {"big": np.arange(4, dtype="<f8")}, {})
    assert (tmp_path / "own").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system takes no room first")
def test_a_full_disk_is_known_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, wanted = tmp_path / "m.tdag", td.layers.linear(4, 3).initialise(how="ones")
    wanted.save(path)
    before = path.read_bytes()

    def failing(number: int) -> Any:
        def take(file: int, offset: int, size: int) -> None:
            assert (offset, size) == (0, len(before))
            raise OSError(number, os.strerror(number))

        return take

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left on device"):
        wanted.save(path)
    assert os.listdir(tmp_path) == ["m.tdag"]
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.EOPNOTSUPP))  # the file system can't
    wanted.save(path)
    assert path.read_bytes() == before
