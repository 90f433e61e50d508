"""Networks that transform functions inside: torch.vmap, and torch.func's grad, vjp, jvp, jacrev and their like."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from tdagger.errors import UnsupportedError
from tdagger.frameworks.torch.capture.checks import replaced
from tdagger.frameworks.torch.capture.refusals import is_own

#: Where torch has the transforms.
_FILES = "/torch/_functorch/"


def transforms(error: BaseException) -> bool:
    """Whether a capture may have failed for a transform: then it is worked out before it is captured."""
    if isinstance(error, GuardOnDataDependentSymNode):  # what depends on data does so without a transform too
        return False
    if "fake tensor in the exported program constant" in str(error):
        return True
    at = error.__traceback__
    while at is not None:
        if _FILES in at.tb_frame.f_code.co_filename.replace("\\", "/"):
            return True
        at = at.tb_next
    return False


@contextmanager
def refusing_regions(model: nn.Module) -> Generator[None, None, None]:
    """Refuse what a capture of worked-out transforms leaves no trace of: where gradients stop."""

    def refuse(self: Any, *_args: Any) -> None:
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename.endswith("contextlib.py"):
            frame = frame.f_back
        if is_own(frame.f_code.co_filename):
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            raise UnsupportedError(
                f"{type(model).__name__} uses torch.func's transforms, which are worked out while it is captured, and "
                f"{type(self).__name__} (at {place}), whose effect on gradients is lost then: use x.detach() there"
            )
        own[type(self)](self)

    kinds = (torch.no_grad, torch.inference_mode)
    own: dict[Any, Any] = {kind: kind.__enter__ for kind in kinds}
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(replaced(kind, "__enter__", refuse))
        yield
