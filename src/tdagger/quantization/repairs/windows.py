"""What a convolution multiplies its weight with: windows of its input, as rows of a matrix for each group."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tdagger.op import Array, Value

#: So many windows of a batch are looked at, at places evenly apart.
_WINDOWS = 4096


class Windows(NamedTuple):
    """The windows of a convolution: sizes, and what lies between and around them."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, value: Value) -> Windows:
        """Those of a convolution."""
        f: Any = value.op.attributes
        return cls(tuple(value.args[1].shape[2:]), f["stride"], f["padding"], f["dilation"], f["groups"])

    def size(self, shape: tuple[int, ...]) -> int:
        """How many numbers of one group a window of an input of a shape has."""
        return shape[-1 - len(self.kernel)] // self.groups * math.prod(self.kernel)

    def rows(self, x: Array) -> Array:
        """Windows of an input ``[.. c ..]``, at most 4096 of them: ``[groups windows c/groups*kernel]``.

        >>> x = np.arange(8.0).reshape(1, 2, 4)
        >>> Windows((3,), (1,), ((0, 0),), (1,), 2).rows(x).tolist()
        [[[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0], [5.0, 6.0, 7.0]]]
        """
        n = len(self.kernel)
        x = x.reshape(-1, *x.shape[-1 - n :])
        x = np.pad(x, [(0, 0), (0, 0), *self.padding])
        spans = tuple([d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)])
        every = sliding_window_view(x, spans, tuple(range(2, 2 + n)))
        steps = [slice(None, None, s) for s in (*self.stride, *self.dilation)]
        every = np.moveaxis(every[(slice(None), slice(None), *steps)], 1, 1 + n)  # [n *places c *kernel]
        places = every.shape[: 1 + n]
        count = math.prod(places)
        chosen = np.linspace(0, count, min(count, _WINDOWS), endpoint=False).astype(int)
        rows = every[np.unravel_index(chosen, places)]
        return rows.reshape(len(chosen), self.groups, -1).transpose(1, 0, 2)
