"""How long one round of writes waits: for each write, for each kind, and for a server that is away.

A webhook that hangs, or a kind whose storage does, holds up what is of its kind and nothing else.
Called by ``apply``.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from isochrone_operator.errors import TimedOutError, UnreachableError

WRITE_S: Final = 20.0
"""For one write, tried again or not: twice what the API server lets a webhook take unless told."""
SLOW_MAX: Final = 4
"""Writes of one kind that may find no answer in time in one round; the rest of it waits."""
LOST_MAX: Final = 3
"""Writes in a row that reach nobody, after which the API server counts as away."""
T = TypeVar("T")


@dataclass(slots=True)
class Patience:
    """What is left of it in this round."""

    write_s: float = WRITE_S
    _slow: Counter[str] = field(default_factory=Counter)
    _lost: int = 0

    def begin(self) -> None:
        """Begin a round."""
        self._slow.clear()
        self._lost = 0

    def is_left_for(self, kind: str) -> bool:
        """Return whether another write of ``kind`` may be tried in this round."""
        return self._slow[kind] < SLOW_MAX

    async def run(self, kind: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return what ``call`` does, a write of ``kind``; ``TimedOutError`` when it takes too long.

        Raises what ``call`` raises.
        """
        try:
            async with asyncio.timeout(self.write_s):
                found = await call()
        except TimeoutError as error:
            self._slow[kind] += 1
            message = (
                f"no answer within {self.write_s:g} s: look for a webhook that is called for {kind} "
                "and does not answer"
            )
            raise TimedOutError(message) from error
        except UnreachableError:
            self._lost += 1
            raise
        self._lost = 0
        return found

    @property
    def is_alone(self) -> bool:
        """Whether the API server counts as away: the round is over, and no object is to blame."""
        return self._lost >= LOST_MAX
