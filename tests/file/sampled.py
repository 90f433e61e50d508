"""A few samples of every op."""

from __future__ import annotations

from collections import Counter

from tests.samples import Sample, all_samples


def of_every_op(most: int = 3) -> list[Sample]:
    """At most so many samples of each op, the last ones."""
    counts: Counter[str] = Counter()
    found: list[Sample] = []
    for sample in reversed(all_samples()):
        counts[sample.op] += 1
        if counts[sample.op] <= most:
            found.append(sample)
    return found
