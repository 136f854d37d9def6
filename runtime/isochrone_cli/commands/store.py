"""``isochrone store``: where artifacts and measurements are kept, how much, and away with them."""

import argparse
import shutil
from pathlib import Path
from typing import Final

from isochrone.errors import SetupError
from isochrone.units import format_bytes
from isochrone_cli.console import output
from isochrone_cli.store import add_store_argument

PARTS: Final = ("variants", "records", "sources", "staging", "fetching")
"""What a store is made of. Nothing else is removed, whatever folder ``--store`` names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_store_argument(parser)
    parser.add_argument("--empty", action="store_true", help="remove everything in the store")


def run(options: argparse.Namespace) -> int:
    """Print the store's place and size, or empty it."""
    store: Path = options.store
    if store.exists() and not store.is_dir():
        raise SetupError(f"{store}: this is no folder, and so no store")
    size = sum(
        file.stat().st_size
        for name in PARTS
        for file in (store / name).rglob("*")
        if file.is_file()
    )
    if options.empty:
        for name in PARTS:
            shutil.rmtree(store / name, ignore_errors=True)
        output().print(f"{store}: removed {format_bytes(size)}")
        return 0
    variants = store / "variants"
    count = sum(1 for _ in variants.iterdir()) if variants.exists() else 0
    output().print(f"{store}: {count} variants, {format_bytes(size)}")
    return 0
