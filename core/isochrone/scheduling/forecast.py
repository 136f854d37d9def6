"""When variants will be asked for again: those whose bursts come at even intervals, and no others.

One ``Forecast`` per group. Told by ``prefetch`` of each request where memory is short, and asked what
to load next; ``eviction`` asks it who will be needed soon. The shape is that of timers in public
serverless traces: mostly nothing, and a burst every so many seconds or minutes (Shahrad et al.,
"Serverless in the Wild", USENIX ATC 2020).

A *burst* begins with the first request after a silence, and the gap between two is counted from
beginning to beginning. When the last ``GAPS`` of them agree, the next burst is expected between the
shortest and the longest of them. Whoever breaks the rhythm is not forecast again before as many gaps
agree anew: that is what bounds how often a forecast can be wrong. A request in the middle of a burst
costs one comparison or two; nothing here looks at variants that nobody asks for.
"""

from collections.abc import Container
from heapq import heapify, heappop, heappush

from isochrone.ids import VariantId
from isochrone.scheduling.queues import LONG_AGO, NEVER
from isochrone.units import SECOND, Instant, Nanoseconds

GAPS = 3
"""Gaps that must agree: of Poisson bursts, one in a hundred follows three that do."""
TOLERANCE = 0.1
"""By how much of the shortest the longest of them may exceed it."""
SILENCE_MIN_NS: Nanoseconds = 1 * SECOND
"""A silence parts two bursts if it is longer than this …"""
SILENCE_PART = 4
"""… and than this part of the longest gap: requests of one burst may come seconds apart, where
bursts do so minutes apart."""
BURST_PART = 2
"""What goes on for longer than this part of the longest gap is no burst: its gaps are forgotten."""
STALE_MAX = 64
"""Outdated entries that the heap may hold beside as many as there are rhythms."""


class Rhythm:
    """When one variant is asked for.

    ``load_at`` is when to load it (NEVER: not planned), ``earliest`` to ``latest`` when its next
    burst should begin (LONG_AGO: no forecast), ``size`` how many requests the burst before this one
    had. Until ``held_until``, memory was taken for it that nobody has asked for yet.
    """

    __slots__ = (
        "_begin",
        "_burst_ns",
        "_gaps",
        "_last",
        "_requests",
        "_silence_ns",
        "_took_ns",
        "earliest",
        "held_until",
        "latest",
        "load_at",
        "size",
        "variant",
    )

    def __init__(self, variant: VariantId, now: Instant) -> None:
        self.variant = variant
        self._begin = self._last = now
        self._gaps: list[Nanoseconds] = []
        self._silence_ns = SILENCE_MIN_NS
        self._burst_ns = NEVER
        self._took_ns: Nanoseconds = 0
        self._requests = 1
        self.size = 0
        self.load_at = NEVER
        self.earliest = self.latest = LONG_AGO
        self.held_until = LONG_AGO

    def begins_burst(self, now: Instant) -> bool:
        """Count a request at ``now``; whether a burst begins with it."""
        silence_ns = now - self._last
        self._last = now
        if silence_ns <= self._silence_ns:
            self._requests += 1
            if now - self._begin > self._burst_ns:
                self._gaps.clear()
                self._begin = now
                self._silence_ns, self._burst_ns = SILENCE_MIN_NS, NEVER
            return False
        gaps = self._gaps
        gaps.append(now - self._begin)
        del gaps[:-GAPS]
        self._took_ns = now - silence_ns - self._begin
        self.size, self._requests = self._requests, 1
        self._begin = now
        longest = max(gaps)
        self._silence_ns = max(SILENCE_MIN_NS, longest // SILENCE_PART)
        self._burst_ns = max(SILENCE_MIN_NS, longest // BURST_PART)
        self.earliest = self.latest = self.held_until = LONG_AGO
        self.load_at = NEVER
        shortest = min(gaps)
        if len(gaps) == GAPS and longest - shortest <= TOLERANCE * shortest:
            self.earliest, self.latest = now + shortest, now + longest
        return True

    def needs(self, now: Instant, until: Instant) -> bool | None:
        """Return whether the variant should be asked for by ``until``; None: that is not known.

        Before a burst has been silent for as long as the one before it took, it may go on.
        """
        if self.latest < now or now - self._last <= self._took_ns:
            return None
        return self.earliest <= until


class Forecast:
    """The rhythms of one group. Counting a burst, and asking who is to be loaded, take O(log n)."""

    __slots__ = ("_heap", "_rhythms", "_ripe")

    def __init__(self) -> None:
        self._rhythms: dict[VariantId, Rhythm] = {}
        """Of every variant that was asked for while the plan had it here."""
        self._heap: list[tuple[Instant, VariantId]] = []
        """(when to load, variant); an entry that is not its rhythm's is outdated."""
        self._ripe: dict[VariantId, Rhythm] = {}
        """Those whose time to load has come, in that order."""

    def note(self, variant: VariantId, now: Instant) -> Rhythm | None:
        """Count a request for ``variant``; return its rhythm if that now foretells another burst."""
        rhythm = self._rhythms.get(variant)
        if rhythm is None:
            self._rhythms[variant] = Rhythm(variant, now)
            return None
        if not rhythm.begins_burst(now):
            return None
        self._ripe.pop(variant, None)
        return rhythm if rhythm.earliest > now else None

    def plan(self, rhythm: Rhythm, at: Instant) -> None:
        """Have ``rhythm``, just returned by ``note``, be loaded at ``at``."""
        rhythm.load_at = at
        heappush(self._heap, (at, rhythm.variant))
        if len(self._heap) > 2 * len(self._rhythms) + STALE_MAX:
            self._reorder()

    def ripen(self, now: Instant) -> Instant:
        """Have those whose time to load has come be taken; return when the next one's will be."""
        heap = self._heap
        while heap:
            at, variant = heap[0]
            rhythm = self._rhythms.get(variant)
            if rhythm is not None and rhythm.load_at == at:
                if at > now:
                    return at
                self._ripe[variant] = rhythm
            heappop(heap)
        return NEVER

    @property
    def waits(self) -> bool:
        """Whether the time to load somebody has come."""
        return bool(self._ripe)

    def first_ripe(self, now: Instant) -> Rhythm | None:
        """Return who is to be loaded first, of those whose time to be asked for is not over."""
        while self._ripe:
            rhythm = next(iter(self._ripe.values()))
            if rhythm.latest > now:
                return rhythm
            self.drop(rhythm)
        return None

    def drop(self, rhythm: Rhythm) -> None:
        """Have ``rhythm``, one of the ripe, wait no longer: it is loaded, or cannot be."""
        del self._ripe[rhythm.variant]
        rhythm.load_at = NEVER

    def needs(self, variant: VariantId, now: Instant, until: Instant) -> bool | None:
        """Return whether ``variant`` should be asked for by ``until``; None: nobody knows."""
        rhythm = self._rhythms.get(variant)
        return None if rhythm is None else rhythm.needs(now, until)

    def follow(self, variants: Container[VariantId]) -> None:
        """Forget all but ``variants``: the plan is another one."""
        kept = [one for one in self._rhythms.items() if one[0] in variants]
        self._rhythms = dict(kept)
        self._ripe = {name: one for name, one in self._ripe.items() if name in variants}
        self._reorder()

    def check(self) -> None:
        """Assert that whoever is to be loaded stands in the heap or among the ripe, and is known."""
        entries = set(self._heap)
        for variant, rhythm in self._rhythms.items():
            if rhythm.load_at < NEVER:
                planned = (rhythm.load_at, variant) in entries
                assert planned != (variant in self._ripe), variant
        for variant, rhythm in self._ripe.items():
            assert self._rhythms[variant] is rhythm, variant
            assert rhythm.load_at < NEVER, variant
        assert len(self._heap) <= 2 * len(self._rhythms) + STALE_MAX

    def __len__(self) -> int:
        """How many variants have a rhythm, even or not."""
        return len(self._rhythms)

    def _reorder(self) -> None:
        self._heap = [
            (rhythm.load_at, variant)
            for variant, rhythm in self._rhythms.items()
            if rhythm.load_at < NEVER and variant not in self._ripe
        ]
        heapify(self._heap)
