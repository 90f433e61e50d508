"""What came of many programs: outcomes, reasons, and failures as files."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from conformance.fuzz.check import OUTCOMES
from conformance.fuzz.work import Row

#: How many reasons of refusals of one check are printed.
REASONS = 12


class Report:
    """Counts rows and writes failures as they come."""

    def __init__(self, folder: Path, most: int = 200) -> None:
        self.folder, self.most = folder, most
        self.counts: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.kinds: Counter[tuple[str, str, str]] = Counter()
        self.example: dict[tuple[str, str, str], int] = {}
        self.programs = 0
        self.written: set[tuple[str, ...]] = set()
        self.seconds = 0.0
        self.start = time.monotonic()

    @property
    def bad(self) -> int:
        """How many checks were wrong or crashed."""
        return sum(self.kinds.values())

    def add(self, row: Row) -> None:
        """Count a row; its failures are written."""
        self.programs += 1
        self.seconds += row.seconds
        for r in row.results:
            self.counts[r.check, r.outcome] += 1
            if r.outcome in ("refused", "unseen"):
                self.reasons[r.check, r.kind] += 1
            if r.bad:
                self.kinds[r.key] += 1
                self.example.setdefault(r.key, row.seed)
        for i, failure in enumerate(row.failures):
            if len(self.written) < self.most and failure.kind not in self.written:
                self.folder.mkdir(parents=True, exist_ok=True)
                name = (
                    f"{row.seed}-{i}-{failure.result.check.replace('[', '-').rstrip(']')}-{failure.result.outcome}.py"
                )
                (self.folder / name).write_text(failure.script)
                self.written.add(failure.kind)

    def text(self) -> str:
        """The table."""
        checks = dict.fromkeys(c for c, _ in self.counts)
        wall = time.monotonic() - self.start
        resizes = sum(n for (c, o), n in self.counts.items() if c.startswith("resize["))
        rate = self.programs / max(self.seconds, 1e-9)
        lines = [
            f"{self.programs} programs, {resizes} resizes in {wall:.0f} s, {rate:.1f} programs per second of a core",
            "",
        ]
        lines.append(f"{'':18s}" + "".join(f"{o:>9s}" for o in OUTCOMES))
        lines += [f"{c:18s}" + "".join(f"{self.counts[c, o]:9d}" for o in OUTCOMES) for c in checks]
        for check in checks:
            reasons = [(n, r) for (c, r), n in self.reasons.most_common() if c == check]
            if reasons:
                lines += ["", f"refused by {check} or unseen, {len(reasons)} reasons:"]
                lines += [f"{n:7d}  {r}" for n, r in reasons[:REASONS]]
        if self.kinds:
            where = f"{len(self.written)} made small in {self.folder}"
            lines += [
                "",
                f"{self.bad} wrong or crashed, of {len(self.kinds)} kinds; {where}:",
            ]
            lines += [f"{n:7d}  {' '.join(k)}  (seed {self.example[k]})" for k, n in self.kinds.most_common()]
        else:
            lines += ["", "nothing wrong, nothing crashed"]
        return "\n".join(lines)
