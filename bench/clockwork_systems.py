"""Who takes part in the Clockwork benchmark, and over which knobs each baseline is tuned.

Called by ``clockwork_slo``. A system is a name and a maker of deciders; a baseline is shown as
published, and as the best of its own knobs on a pilot with another seed. Ours has its defaults.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.simulation.baselines.clockwork.controller import Clockwork
from isochrone.simulation.baselines.clockwork.settings import InferRule, published
from isochrone.simulation.baselines.fifo import Fifo
from isochrone.simulation.baselines.reactive import BatcherSettings, Reactive
from isochrone.simulation.baselines.symphony import Symphony, SymphonySettings
from isochrone.simulation.driver import Decider
from isochrone.units import MICROSECOND, MILLISECOND, Nanoseconds

OURS: Final = "Isochrone"
INFER4: Final = "Clockwork INFER4"
INFER5: Final = "Clockwork INFER5"
TUNED: Final = "tuned"

ACCELERATOR: Final = Settings(
    margin_z_min=2.5,
    overload_reserve=0.05,
    reply_overhead_ns=200 * MICROSECOND,
    deferring=True,
)
"""Ours for accelerators behind the simulated link, which takes 50 µs each way: the defaults are for a
shared host, whose errors have a longer tail and come in spells, and whose gateway replies more slowly."""

KNOBS: Final = "z ≥ 2.5, reserve 0.05, reply overhead 0.2 ms, deferring"


@dataclass(frozen=True, slots=True)
class System:
    """A decider to run: its name, its knobs in words, and how a fresh one is made."""

    name: str
    knobs: str
    make: Callable[[], Decider]


def ours() -> System:
    """Return ours, as it is set for accelerators."""
    return System(OURS, KNOBS, partial(Scheduler, ACCELERATOR))


def ablations() -> list[System]:
    """Return ours with one thing changed each."""
    changed = {
        "eager": ("not deferring", replace(ACCELERATOR, deferring=False)),
        "mean times": ("no margin", replace(ACCELERATOR, margin_z=0.0, margin_z_min=0.0)),
        "shared host": ("defaults", Settings()),
    }
    return [
        System(f"{OURS}, {name}", knobs, partial(Scheduler, settings))
        for name, (knobs, settings) in changed.items()
    ]


def as_published(target_ns: Nanoseconds) -> list[System]:
    """Return ours, and every baseline with its published or customary settings."""
    return [
        ours(),
        System(INFER4, "published", partial(Clockwork, published(InferRule.INFER4))),
        System(INFER5, "published", partial(Clockwork, published(InferRule.INFER5))),
        System("Symphony", "published", partial(Symphony, SymphonySettings())),
        System(
            "reactive batching",
            "preferred 16, delay 1 ms, time-out = SLO",
            partial(Reactive, _batcher(target_ns, (16,), 1.0)),
        ),
        System("FIFO", "adaptive batch", Fifo),
    ]


def candidates(target_ns: Nanoseconds) -> dict[str, list[System]]:
    """Return, by the name of the tuned system, what its knobs may be."""
    return {
        f"Clockwork {TUNED}": list(_clockworks()),
        f"Symphony {TUNED}": [
            System(
                "",
                f"response {response_ms:g} ms",
                partial(Symphony, SymphonySettings(response_ns=round(response_ms * MILLISECOND))),
            )
            for response_ms in (0.5, 2, 8)
        ],
        f"reactive batching {TUNED}": [
            System(
                "",
                f"preferred {sizes}, time-out {share:g} SLO",
                partial(Reactive, _batcher(target_ns, sizes, share)),
            )
            for sizes in ((16,), (4, 8, 16))
            for share in (0.25, 0.75)
        ],
        f"FIFO {TUNED}": [
            System(
                "",
                f"batch {batch}, queue {queue}",
                partial(Fifo, batch_max=batch, queue_max=queue),
            )
            for batch in (4, 16)
            for queue in (1, 4)
        ],
    }


def _clockworks() -> Iterator[System]:
    for rule in InferRule:
        for buffer_us in (500, 2000):
            for ahead_us in (1000, 5000):
                settings = replace(
                    published(rule),
                    batch_max=16,
                    buffer_ns=buffer_us * MICROSECOND,
                    schedule_ahead_ns=ahead_us * MICROSECOND,
                )
                knobs = (
                    f"{rule.value}, buffer {buffer_us / 1000:g} ms, ahead {ahead_us / 1000:g} ms"
                )
                yield System("", knobs, partial(Clockwork, settings))


def _batcher(
    target_ns: Nanoseconds, sizes: tuple[int, ...], timeout_share: float
) -> BatcherSettings:
    return BatcherSettings(
        preferred_sizes=sizes,
        queue_delay_ns=MILLISECOND,
        timeout_ns=round(target_ns * timeout_share),
    )
