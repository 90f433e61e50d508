"""What commands print on a terminal and into a pipe: colours, widths, progress."""

import io
import os
import re
import subprocess
import sys

import pytest

from tdagger.cli import main

torch = pytest.importorskip("torch")
rich = pytest.importorskip("rich")
pytest.importorskip("typer")
torch.set_num_threads(1)

from rich.console import Console  # noqa: E402

from tdagger.cli import common  # noqa: E402
from tdagger.cli.layout import Column, bar, table  # noqa: E402

COMMANDS = [
    ["cost", "cli_nets:deep"],
    ["cost", "cli_nets:unknown"],
    ["cost", "cli_nets:deep", "--by", "value"],
    ["cost", "cli_nets:deep", "--formula"],
    ["compare", "cli_nets:deep", "cli_nets:build"],
    ["inspect", "cli_nets:deep"],
]
ESCAPE = "\x1b"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_pipe_gets_no_escape_codes(capsys, monkeypatch, command):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert ESCAPE not in out
    assert err == ""
    assert "…" not in out


def test_a_pipe_gets_whole_names(capsys, tmp_path):
    long = "a_module_with_a_name_that_is_much_longer_than_a_terminal_is_wide_" * 3
    (tmp_path / "cli_long.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.{long} = torch.nn.Linear(4, 4)\n    def forward(self, x): return self.{long}(x)\n"
        "def build(): return Net(), torch.zeros(2, 4)\n"
    )
    for command in (["cost"], ["inspect"], ["compare"]):
        assert main([*command, "cli_long:build"]) == 0
        out = capsys.readouterr().out
        assert long in out
        assert any("Linear" in line for line in out.splitlines() if long in line)


@pytest.mark.parametrize("command", COMMANDS[:5], ids=" ".join)
@pytest.mark.parametrize("width", [80, 120, 200])
def test_rows_fit_a_terminal(monkeypatch, command, width):
    """Columns are left out, names aren't cut; lines of text may wrap."""
    screen = io.StringIO()
    monkeypatch.setattr(common, "console", lambda: Console(file=screen, force_terminal=True, width=width))
    assert main(command) == 0
    out = screen.getvalue()
    assert ESCAPE in out
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    formulas = ("reads =", "writes =", "       =")
    assert all(len(line) <= width for line in plain.splitlines() if not line.startswith(formulas))
    assert "…" not in plain


IN_A_TERMINAL = """
import os, sys
from tdagger.cli import main
for env in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
    os.environ.pop("NO_COLOR", None)
    os.environ.update({"TERM": "xterm-256color", **env})
    print(f"<{env}>", flush=True)
    assert main(["cost", "cli_nets:deep"]) == 0
print("<end>")
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_colours_and_progress_on_a_terminal(tmp_path):
    main_end, child_end = os.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")} | {"COLUMNS": "90"}
    child = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL],
        stdin=child_end,
        stdout=child_end,
        stderr=child_end,
        cwd=tmp_path,
        env=env,
    )
    os.close(child_end)
    out = b""
    while True:
        try:
            part = os.read(main_end, 4096)
        except OSError:  # how the end is told on Linux
            break
        if not part:
            break
        out += part
    os.close(main_end)
    assert child.wait() == 0
    shown = out.decode().split("<")
    plain, no_colour, dumb = (part for part in shown if part.startswith("{"))
    assert f"{ESCAPE}[36m█" in plain
    assert "importing cli_nets:deep" in plain
    assert re.search(r"0:00:\d\d", plain)  # for how long
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", no_colour)
    assert "█" in no_colour
    assert ESCAPE not in dumb
    assert "importing" not in dumb


# --- tables ------------------------------------------------------------------------------------------------


def drawn(columns: list[Column], width: int, encoding: str = "utf-8") -> list[str]:
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=screen, width=width)
    console.print(table(console, columns))
    screen.flush()
    return [line.rstrip() for line in screen.buffer.getvalue().decode().splitlines()]  # type: ignore[attr-defined]


def test_columns_that_matter_less_go_first():
    columns = [
        Column("name", ["a", "bcdefgh"], is_text=True),
        Column("x", ["1", "2"]),
        Column("y A", ["1111", "2222"], 1),
        Column("y B", ["3333", "4444"], 1),
        Column("z", ["5", "6"], 2),
        Column("nothing", ["", ""], 3),
    ]
    assert drawn(columns, 40)[0].split() == ["name", "x", "y", "A", "y", "B", "z"]
    assert drawn(columns, 23)[0].split() == ["name", "x", "y", "A", "y", "B"]
    assert drawn(columns, 21) == ["name     x", "a        1", "bcdefgh  2"]
    assert drawn(columns, 9) == ["name    x", "a       1", "bcdef…  2"]


def test_bars():
    console = Console(file=io.StringIO())
    assert [bar(console, n, 8, 1) for n in range(9)] == [" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"]
    assert bar(console, 1, 10**6, 4) == "▏   "  # there is something
    assert bar(console, 3, 2, 4) == "████"
    assert bar(console, 0, 0, 2) == "  "
    ascii_only = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert bar(ascii_only, 1, 2, 4) == "##  "


def test_output_that_is_ascii_only(tmp_path):
    code = "from tdagger.cli import main; raise SystemExit(main(['cost', 'cli_nets:deep']))"
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert b"0-3 x4" in done.stdout
    assert b"##########" in done.stdout
