"""What a capture runs in: torch's global state, put back however it ends, and the listings that aren't printed."""

from __future__ import annotations

import importlib
import logging
import random
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad
from torch.utils import _python_dispatch

_TORCH = str(Path(torch.__file__).parent) + "/"
_C: Any = torch._C
_layers: Any = _C._functorch
_functions: Any = torch.overrides
_dispatches: Any = _python_dispatch

#: What asks for a setting that a network may change while it runs, and what sets it.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.is_grad_enabled, _C._set_grad_enabled),
    (_C._is_fwd_grad_enabled, _C._set_fwd_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda x: torch.set_anomaly_enabled(*x),
    ),
    (
        lambda: (_C._get_deterministic_algorithms(), _C._get_deterministic_algorithms_warn_only()),
        lambda x: _C._set_deterministic_algorithms(x[0], warn_only=x[1]),
    ),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    *[
        (partial(get, device), partial(set_, device))
        for device in ("cpu", "cuda")
        for get, set_ in (
            (torch.is_autocast_enabled, torch.set_autocast_enabled),
            (torch.get_autocast_dtype, torch.set_autocast_dtype),
        )
    ],
    (_C._get_tracing_state, _C._set_tracing_state),
)

#: A generator's name, what asks for its state, and what sets it.
RandomState = tuple[str, Callable[[], Any], Callable[[Any], Any]]

#: The generators outside of torch that everybody draws from.
GENERATORS: tuple[RandomState, ...] = (
    ("Python's random", random.getstate, random.setstate),
    ("numpy.random", np.random.get_state, np.random.set_state),
)


@contextmanager
def random_numbers_kept() -> Generator[None, None, None]:
    """Leave the generators of random numbers as they were: torch's, on the GPU too where that is in use, and others."""
    before = [(set_, get()) for _, get, set_ in (("torch", torch.get_rng_state, torch.set_rng_state), *GENERATORS)]
    if torch.cuda.is_initialized():
        before.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    try:
        yield
    finally:
        for set_, value in before:
            set_(value)


@contextmanager
def put_back() -> Generator[None, None, None]:
    """Leave torch's global state as it was: modes, levels of vmap and jvp, random numbers, dtypes, warnings' filters.

    torch itself leaves the levels of a transform that fails, and a network may fail between two settings of its own.
    """
    levels = _layers.get_dynamic_layer_stack_depth(), forward_ad._current_level
    functions, dispatches = _functions._len_torch_function_stack(), _dispatches._len_torch_dispatch_stack()
    before = [(set_, get()) for get, set_ in _SETTINGS]
    keys = _C._ForceDispatchKeyGuard(_C._dispatch_tls_local_include_set(), _C._dispatch_tls_local_exclude_set())
    try:
        with random_numbers_kept(), warnings.catch_warnings(), keys:
            try:
                yield
            except BaseException as e:
                _let_go(e)
                raise
            finally:
                while _functions._len_torch_function_stack() > functions:
                    _functions._pop_mode()
                while _dispatches._len_torch_dispatch_stack() > dispatches:
                    _dispatches._pop_mode()
                _layers.pop_dynamic_layer_stack_and_undo_to_depth(levels[0])
                while forward_ad._current_level > levels[1]:
                    forward_ad.exit_dual_level()
                if levels[1] < 0:  # a graph enters levels that Python doesn't count
                    with suppress(RuntimeError):
                        _C._exit_dual_level(level=0)
    finally:
        for set_, value in before:
            set_(value)


def _let_go(error: BaseException) -> None:
    """Free what torch's own frames hold that an error came through: guards that set states when they are freed."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        at = one.__traceback__
        while at is not None:
            if at.tb_frame.f_code.co_filename.startswith(_TORCH):
                with suppress(RuntimeError):  # a frame that still runs
                    at.tb_frame.clear()
            at = at.tb_next


#: Who prints what torch has of a graph when a capture fails, beside the error that says it.
_LOGGERS = ("torch.fx.experimental.symbolic_shapes", "torch.export._trace", "torch._export.non_strict_utils",
            "torch._subclasses.fake_tensor")  # fmt: skip


def _only_details(record: logging.LogRecord) -> bool:
    return record.levelno < logging.WARNING


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Keep torch.export from printing the graph and its warnings when it fails; what somebody logs in detail stays."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    trace: Any = importlib.import_module("torch.export._trace")
    for logger in loggers:
        logger.addFilter(_only_details)
    trace.print = lambda *_args, **_options: None
    try:
        yield
    finally:
        del trace.print
        for logger in loggers:
            logger.removeFilter(_only_details)
