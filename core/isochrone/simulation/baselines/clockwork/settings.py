"""Clockwork's constants, as in the released code; ``buffer_ns`` and ``schedule_ahead_ns`` to tune.

Made by benchmarks and tests; read by the whole package.
"""

from dataclasses import dataclass
from enum import Enum

from isochrone.units import MILLISECOND, Nanoseconds


class InferRule(Enum):
    """Which of the two published rules picks inferences."""

    INFER4 = "infer4"
    INFER5 = "infer5"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockworkSettings:
    """How the controller behaves. The defaults are those of the official experiments."""

    rule: InferRule
    batch_max: int
    """Largest batch: 16 with INFER4 and 8 with INFER5 as released."""
    buffer_ns: Nanoseconds = 5 * MILLISECOND
    """Requests are aimed at their objective minus this."""
    schedule_ahead_ns: Nanoseconds = 5 * MILLISECOND
    """How long before a worker is free its next action is sent, and how late that may start."""
    estimate_window: int = 10
    estimate_quantile: float = 0.99
    lag_ns: Nanoseconds = 10 * MILLISECOND
    """An action overdue by more than this no longer holds the worker's schedule back."""
    future_ns: Nanoseconds = 1 * MILLISECOND
    """No action is expected to start sooner than this from now."""
    load_target_max_ns: Nanoseconds = 25 * MILLISECOND
    """How long a request counts as demand for loading, at most."""
    demand_cap_ns: Nanoseconds = 100 * MILLISECOND
    """Demand is counted per so much time: the default objective."""


def published(rule: InferRule) -> ClockworkSettings:
    """Return the settings of the official experiments for ``rule``."""
    return ClockworkSettings(rule=rule, batch_max=16 if rule is InferRule.INFER4 else 8)
