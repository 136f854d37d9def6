"""Makes this process take the same time for the same work, as far as Python lets it.

Called by ``main``, once everything that lasts has been made.
"""

import gc
from typing import Final

YOUNG_MAX: Final = 50_000
"""Objects made, less those freed, before the collector looks at the young ones. The path of a
request leaves no cycles, so it has little to find; a full collection is rare and what existed when
the gateway was ready is no part of it."""


def steady_interpreter() -> None:
    """Keep the collector away from all that exists now, and mostly from the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, 20, 100)
