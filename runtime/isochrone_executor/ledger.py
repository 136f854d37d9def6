"""How much of the accelerator's memory is taken, in pages, and by which variant.

Pure: it counts, and never frees anything by itself; the gateway alone chooses what to unload.
Pages of 16 MiB follow Clockwork (OSDI 2020, section 5.2): one size for all makes any free page as
good as another, so that whether a variant fits depends on a count alone.

Called by the loop, from its one thread.
"""

from typing import Final

from isochrone.units import MIB, Bytes

PAGE_BYTES: Final[Bytes] = 16 * MIB


def pages_of(size: Bytes) -> int:
    """Return the pages that ``size`` bytes take: at least one."""
    return max(1, -(-size // PAGE_BYTES))


class Ledger:
    """Pages of one accelerator. Free and charged pages always sum to the total."""

    def __init__(self, memory_bytes: Bytes) -> None:
        """Count the whole pages of ``memory_bytes``; a rest smaller than a page is not used."""
        self.pages_total: Final = memory_bytes // PAGE_BYTES
        self._pages: dict[str, int] = {}

    @property
    def pages_free(self) -> int:
        """Pages that no variant is charged with."""
        return self.pages_total - sum(self._pages.values())

    @property
    def charges(self) -> dict[str, int]:
        """Pages per variant, sorted by variant."""
        return dict(sorted(self._pages.items()))

    def fits(self, size: Bytes) -> bool:
        """Return whether ``size`` bytes could be charged now."""
        return pages_of(size) <= self.pages_free

    def charge(self, variant: str, size: Bytes) -> bool:
        """Charge ``variant`` with the pages of ``size`` bytes; False, and no charge, when too few.

        Charging a variant twice is a defect: ``AssertionError``.
        """
        assert variant not in self._pages, f"{variant} is charged already"
        if not self.fits(size):
            return False
        self._pages[variant] = pages_of(size)
        return True

    def release(self, variant: str) -> int:
        """Take back the pages of ``variant`` and return how many they were.

        ``KeyError`` when it is charged with none.
        """
        return self._pages.pop(variant)
