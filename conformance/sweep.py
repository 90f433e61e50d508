"""Running many subjects, each in a process of its own with limits, into a file that a second run goes on with.

A subject is a name and a function that reports what it finds as it goes: ``work(name, report)`` calls
``report(key=value, ...)``, and the row of that subject is all that was reported, plus ``status``:

- what the work reported as ``status``, or ``ok`` if it reported none,
- ``timeout`` or ``memory`` if the process was ended at a limit, ``crashed`` if it ended itself.

The process is forked, so whatever the caller imported is there at once.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Row = dict[str, Any]
Work = Callable[[str, Callable[..., None]], None]

#: How often a running process is looked at, in seconds.
_INTERVAL = 0.1


class Limits(NamedTuple):
    """What one subject may take: seconds, and bytes of resident memory."""

    seconds: float = 300.0
    memory: int = 10 << 30


def read(path: Path) -> dict[str, Row]:
    """The rows of a results file by name, the last of each; a line cut off by an interruption is left out."""
    rows: dict[str, Row] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            rows[row["name"]] = row
    return rows


def _child(work: Work, name: str, pipe: Connection) -> None:
    """The process of one subject."""

    def report(**found: Any) -> None:
        pipe.send(found)

    os.setsid()  # so that what it starts ends with it
    try:
        work(name, report)
    except BaseException as e:  # the last thing this process does is to say why it ends
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        frame = traceback.extract_tb(e.__traceback__)[-1]
        message = f"{type(e).__name__}: {' '.join(lines)[:600]} ({Path(frame.filename).name}:{frame.lineno})"
        report(status="failed", error=message)
    finally:
        pipe.close()


def resident(pid: int) -> int:
    """Bytes of memory a process holds; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def run_one(name: str, work: Work, limits: Limits, tick: Callable[[], None] = lambda: None) -> Row:
    """The row of one subject; ``tick`` is called while it runs."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, name, theirs), daemon=True)
    start = time.perf_counter()
    process.start()
    theirs.close()
    row: Row = {"name": name}
    ended = ""
    while True:
        try:
            while ours.poll(_INTERVAL):
                row |= ours.recv()
        except EOFError:
            break
        tick()
        if time.perf_counter() - start > limits.seconds:
            ended = "timeout"
        elif resident(process.pid or 0) > limits.memory:
            ended = "memory"
        if ended:
            process.kill()
            break
    process.join()
    if ended:
        limit = f"{limits.seconds:.0f} s" if ended == "timeout" else f"{limits.memory >> 20} MB"
        row |= {"status": ended, "error": f"more than {limit} in stage {row.get('stage', '?')}"}
    elif process.exitcode:
        row |= {"status": "crashed", "error": f"exit code {process.exitcode} in stage {row.get('stage', '?')}"}
    row.setdefault("status", "ok")
    row["seconds"] = round(time.perf_counter() - start, 2)
    return row


def sweep(
    names: Iterable[str], work: Work, path: Path, limits: Limits, again: Iterable[str] = (), quiet: bool = False
) -> dict[str, Row]:
    """Run every subject that ``path`` has no row of, or one whose status is in ``again``; all rows by name.

    A row is written as soon as its subject is done, so an interrupted sweep goes on where it was.
    """
    names = list(names)
    retry = set(again)
    rows = read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    todo = [n for n in names if n not in rows or rows[n]["status"] in retry]
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # no thread of its own that draws: this process forks
    with Progress(*columns, auto_refresh=False, disable=quiet) as progress, path.open("a") as file:
        task = progress.add_task("", total=len(names), completed=len(names) - len(todo))
        for name in todo:
            progress.update(task, description=name, refresh=True)
            row = run_one(name, work, limits, progress.refresh)
            rows[name] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            if row["status"] != "ok":
                progress.print(f"{name}: {row['status']}: {row.get('error', '')}", markup=False, highlight=False)
            progress.advance(task)
    return {n: rows[n] for n in names}
