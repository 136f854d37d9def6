"""Where the artifact store lies: an option, a variable, or the user's cache folder.

Called by every command that builds or runs variants.
"""

import argparse
import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "ISOCHRONE_STORE"


def default_store() -> Path:
    """Return ``$ISOCHRONE_STORE``, else ``isochrone`` in the user's cache folder."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "isochrone"


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--store`` to ``parser``."""
    parser.add_argument(
        "--store",
        metavar="DIR",
        type=Path,
        default=default_store(),
        help=f"where artifacts and measurements are kept (default, or ${VARIABLE}: %(default)s)",
    )
