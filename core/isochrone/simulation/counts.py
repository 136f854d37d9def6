"""Traces of counts: how many requests of each function came in each minute.

The form of public serverless traces, cut down: lines of ``name,count,count,…``. Called by the
command line, which reads the file, and by ``synthetic``'s users, who write one. Pure.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from isochrone.errors import ManifestError

COUNT_MAX: Final = 10_000_000
"""Most requests of one function in one slot: beyond it the line is a mistake."""


def parse_counts(lines: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the counts per slot of each name in ``lines``. Empty lines and ``#`` lines are skipped.

    Raises ``ManifestError``, which names the line, for a name without counts, a name twice, or a
    count that is no whole number from 0 to ``COUNT_MAX``.
    """
    counts: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, *fields = (field.strip() for field in text.split(","))
        if not name or not fields:
            raise ManifestError(f"line {number}: write name,count,count,…")
        if name in counts:
            raise ManifestError(f"line {number}: {name} has counts already")
        if not all(field.isdecimal() and int(field) <= COUNT_MAX for field in fields):
            raise ManifestError(f"line {number}: counts are whole numbers from 0 to {COUNT_MAX}")
        counts[name] = tuple(int(field) for field in fields)
    return counts


def format_counts(counts: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield one line per name, in the order of ``counts``; ``parse_counts`` reads them back."""
    for name, slots in counts.items():
        yield ",".join((name, *map(str, slots))) + "\n"
