"""How every benchmark ends: its result as JSON in ``bench/results``, and as tables on the terminal."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.table import Table

from isochrone_cli import console
from isochrone_cli.quantiles import figure

RESULTS: Final = Path(__file__).parent / "results"


def summary(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Return median and range of ``values`` as JSON, None when there are none."""
    found = figure(values)
    return None if found is None else asdict(found)


def publish(result: dict[str, Any], tables: Iterable[Table], out: Path) -> None:
    """Write ``result`` to ``out``, and print ``tables`` and where it was written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    for table in tables:
        console.output().print(table)
    console.output().print(f"written to {out}")
