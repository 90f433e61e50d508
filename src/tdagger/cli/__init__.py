"""The command line, ``tdagger COMMAND``: a file for each command, or for a few; ``app.py`` puts them together."""

from __future__ import annotations

import contextlib
import gc
import sys
import traceback
import warnings
from collections.abc import Sequence

from tdagger.errors import TDaggerError
from tdagger.graph import bulk
from tdagger.later import later
from tdagger.names import lines

#: Exit statuses: outputs that differ, a command line or SOURCE that can't be used, a mistake of tdagger's.
DIFFERS, UNUSABLE, BROKEN = 1, 2, 3


def command() -> int:
    """Run the command of this process: :func:`main`, where what modules hold is never looked at by a collection."""
    with contextlib.suppress(ModuleNotFoundError), bulk():  # main says what is missing
        later("cli")
    gc.freeze()
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; errors are a line on stderr (``--debug``: and a trace)."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    try:
        run = later("cli")
    except ModuleNotFoundError as e:
        package = (e.name or "").partition(".")[0]
        if package not in ("typer", "rich"):
            raise
        return _fail(f"the command line needs {package}: pip install 'tdagger[cli]'", UNUSABLE)
    try:
        with warnings.catch_warnings():
            if not debug:  # frameworks warn of their own plans, which is of no use to who runs a command
                warnings.simplefilter("ignore")
            return run(args or ["--help"])
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as e:
        if debug:
            traceback.print_exc()
        usage = getattr(e, "format_message", None)  # what typer raises for a wrong command line
        if usage is not None:
            return _fail(f"{usage()} (see tdagger --help)", UNUSABLE)
        if isinstance(e, TDaggerError | OSError):
            return _fail(str(e), UNUSABLE)
        first = (str(e).strip().splitlines() or [""])[0]
        return _fail(f"{type(e).__name__}: {first}{'' if debug else ' (--debug shows where)'}", BROKEN)


def _fail(message: str, status: int) -> int:
    print(f"tdagger: {lines(message)}", file=sys.stderr)
    return status
