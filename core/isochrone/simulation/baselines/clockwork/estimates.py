"""How long an action will take: a high quantile of its last few times, seeded by the profile.

Asked by Clockwork's rules and its demand tracker; fed by the controller with every success. Follows
OSDI 2020, section 5.3, and the released sliding window.
"""

from collections import deque

from isochrone.ids import PoolId
from isochrone.simulation.baselines.clockwork.settings import ClockworkSettings
from isochrone.simulation.baselines.facts import Model
from isochrone.units import Nanoseconds


class SlidingQuantile:
    """The interpolated ``quantile`` of the last ``window`` samples, beginning with ``seed``."""

    __slots__ = ("_quantile", "_samples", "value")

    def __init__(self, seed: Nanoseconds, *, window: int, quantile: float) -> None:
        self._samples: deque[Nanoseconds] = deque([seed], maxlen=window)
        self._quantile = quantile
        self.value: Nanoseconds = seed

    def observe(self, sample: Nanoseconds) -> None:
        """Add ``sample``; the oldest one leaves when the window is full."""
        self._samples.append(sample)
        ordered = sorted(self._samples)
        place = self._quantile * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        self.value = round(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


class Estimates:
    """One window per model, pool and batch size, and one per model and pool for loads."""

    def __init__(self, settings: ClockworkSettings) -> None:
        self._settings = settings
        self._windows: dict[tuple[str, PoolId, int], SlidingQuantile] = {}

    def sizes(self, model: Model, pool: PoolId) -> list[int]:
        """Return the batch sizes that may be used, ascending."""
        return [size for size in model.times[pool] if size <= self._settings.batch_max]

    def infer_ns(self, model: Model, pool: PoolId, size: int) -> Nanoseconds:
        """Return what a batch of ``size`` will take."""
        window = self._windows.get((model.service, pool, size))
        return model.times[pool][size] if window is None else window.value

    def load_ns(self, model: Model, pool: PoolId) -> Nanoseconds:
        """Return what loading will take."""
        window = self._windows.get((model.service, pool, 0))
        return model.load_ns[pool] if window is None else window.value

    def observe_infer(self, model: Model, pool: PoolId, size: int, took_ns: Nanoseconds) -> None:
        """Learn that a batch of ``size`` took ``took_ns``."""
        self._observe((model.service, pool, size), model.times[pool][size], took_ns)

    def observe_load(self, model: Model, pool: PoolId, took_ns: Nanoseconds) -> None:
        """Learn that a load took ``took_ns``."""
        self._observe((model.service, pool, 0), model.load_ns[pool], took_ns)

    def _observe(
        self, key: tuple[str, PoolId, int], seed_ns: Nanoseconds, took_ns: Nanoseconds
    ) -> None:
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = SlidingQuantile(
                seed_ns,
                window=self._settings.estimate_window,
                quantile=self._settings.estimate_quantile,
            )
        window.observe(took_ns)
