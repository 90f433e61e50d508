"""Tables that fit a terminal: columns that matter less are left out before any name is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich import markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdagger.names import shown

#: Blocks of one to eight eighths.
_EIGHTHS = "▏▎▍▌▋▊▉█"
#: Spaces between columns, and how wide a text stays that is cut.
_GAP, _LEAST = 2, 6


def escape(name: object) -> str:
    r"""A name or text for a cell or a line with markup: shown as it is, on one line, whatever is in it.

    >>> escape("[red]\n"), escape("back\\")
    ('\\[red]\\n', '[none]back\\\\[/none]')
    """
    text = shown(name)
    plain = text.rstrip("\\")
    ends = "\\" * (len(text) - len(plain))  # a tag comes next, and is one only after an even number of them
    return f"[none]{markup.escape(plain)}{ends}{ends}[/none]" if ends else markup.escape(text)


class Column(NamedTuple):
    """A column of a table: its header and cells (with markup), text to the left or numbers to the right.

    Where there is no room for all, columns with the highest ``rank`` are left out first, all that have it; those with
    rank 0 stay.
    """

    header: str
    cells: Sequence[str]
    rank: int = 0
    is_text: bool = False

    @property
    def width(self) -> int:
        """How wide it is when nothing is cut."""
        return max(Text.from_markup(cell, emoji=False).cell_len for cell in (self.header, *self.cells))


def table(console: Console, columns: Sequence[Column]) -> Table:
    """A table of as many columns as there is room for; only where even those with rank 0 don't fit, texts are cut."""
    kept = [column for column in columns if any(column.cells) or not column.rank]
    while _excess(console, [column.width for column in kept]) > 0 and any(column.rank for column in kept):
        last = max(column.rank for column in kept)
        kept = [column for column in kept if column.rank != last]
    widths = [column.width for column in kept]
    texts = [i for i, column in enumerate(kept) if column.is_text]
    for i in sorted(texts, key=lambda i: -widths[i]):
        widths[i] -= max(0, min(_excess(console, widths), widths[i] - _LEAST))
    found = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for column, width in zip(kept, widths, strict=True):
        justify = "left" if column.is_text else "right"
        found.add_column(column.header, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
    for cells in zip(*[column.cells for column in kept], strict=True):
        found.add_row(*cells)
    return found


def _excess(console: Console, widths: Sequence[int]) -> int:
    """How much too wide columns of these widths are."""
    return sum(widths) + _GAP * (len(widths) - 1) - console.width


def say(console: Console, text: str) -> None:
    """Print a line of text, broken between words on a terminal, whole elsewhere."""
    console.print(text, soft_wrap=not console.is_terminal)


def bar(console: Console, part: float, whole: float, width: int = 10) -> str:
    """A share as a bar of blocks, in eighths; of # where the output can't show blocks.

    >>> import io
    >>> bar(Console(file=io.StringIO()), 1, 16), len(bar(Console(file=io.StringIO()), 1, 2))
    ('▋         ', 10)
    """
    eighths = min(round(8 * width * part / whole), 8 * width) if whole > 0 and part > 0 else 0
    if console.options.ascii_only:
        return ("#" * round(eighths / 8)).ljust(width)
    full, rest = divmod(max(eighths, 1 if part > 0 and whole > 0 else 0), 8)
    return ("█" * full + (_EIGHTHS[rest - 1] if rest else "")).ljust(width)


def share(part: float, whole: float) -> str:
    """Percent, for people; nothing for nothing.

    >>> share(1, 3), share(1, 10**6), share(0, 3)
    ('33.3 %', '<0.1 %', '')
    """
    if not part or not whole:
        return ""
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent >= 0.05 else "<0.1 %"
