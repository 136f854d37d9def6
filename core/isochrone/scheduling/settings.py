"""Every knob and bound of the scheduler, each with its reason.

Made by the driver (the gateway's configuration, or the simulator); read by every policy.
"""

from dataclasses import dataclass

from isochrone.units import MICROSECOND, MILLISECOND, SECOND, Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the scheduler behaves. The defaults suit one host; a test says what each one does."""

    reply_overhead_ns: Nanoseconds = 1 * MILLISECOND
    """What the way to the executor and back to the client may take: aim that much earlier."""

    outstanding_max: int = 2
    """Infers that a worker holds at once: one runs, the next waits at its door."""

    dispatch_ahead_ns: Nanoseconds = 5 * MILLISECOND
    """How long before a busy worker is free its next batch is sent (Clockwork's schedule_ahead).

    Long enough that a gateway which shares its core, and wakes some milliseconds late, leaves no
    worker idle; short enough that the batch of a slow model goes on growing meanwhile. On two cores
    and an 8 ms model, 1 ms cost a tenth of the goodput.
    """

    dispatch_ahead_min_ns: Nanoseconds = 1 * MILLISECOND
    """Where targets are tight it is less, but at least this. What is sent cannot be overtaken: of a
    target of 10 ms, 5 would be half."""

    dispatch_ahead_share: float = 0.2
    """It is at most this share of the tightest target among those who share the workers …"""

    growing_ahead_share: float = 0.05
    """… and, while a batch may still grow, this share of its own service's target."""

    deferring: bool = False
    """Whether a batch may wait on an idle worker for others to join, where requests are refused. With
    tight targets on a simulated accelerator it raises goodput by up to a third
    (``bench/clockwork_slo.py``). Off, because it needs a gateway that wakes on time: one that shares
    its core with workers may be some milliseconds late, and leaves them idle for so long."""

    matching: bool = False
    """Whether what waits is matched anew with the workers of all pools after each event (see
    ``matching``). Admission's own choice is nearly as good, and few wait where another pool is idle:
    under Poisson arrivals the allowable throughput was higher by 2 to 4 % on two of KAIROS's six
    worlds, and the same on the others (``bench/kairos_throughput.py``, whose figures are good to 2.6 %
    of the bound). Off, because it costs a matching per event, and a request that has moved runs where
    admission has not looked."""

    window_slack_ns: Nanoseconds = 5 * MILLISECOND
    """An Infer may always start this long after its predicted start (Clockwork's schedule_ahead):
    a small misprediction shall not cost a batch that could still be on time."""

    margin_z: float = 4.0
    """Standard deviations of error that admission leaves room for. The errors of a shared host have
    a long tail: with 2.33, the normal 99 % quantile, `isochrone demo` was late for 0.6 % of what it
    accepted at 3 × saturation; with 4, for less than 0.1 %, at 0.03 of the goodput."""

    margin_z_min: float = 4.0
    """As few of them will do where no error of late was larger than these. The errors of an
    accelerator have no such tail, and with tight targets room is dear: the benchmarks of Clockwork's
    figures set 2.5. On a shared host that is too little: `isochrone demo` with it was late for 1 %,
    in a run on a host so noisy that it was void."""

    overload_reserve: float = 0.1
    """While much is refused, newcomers must end so much of their wait before their aim (see
    ``overload``): about what a shared host's slow spells last longer than its median."""

    peak_memory: int = 256
    """Completions after which the largest error counts for a third of what it was."""

    residual_window: int = 64
    """Completions behind a worker's error estimate."""

    residual_seed: int = 16
    """How many completions the profile's p99 counts for, before there are any."""

    residual_max: float = 0.5
    """One error counts at most this (ratio of the prediction): a single stall is no forecast."""

    half_life_ns: Nanoseconds = 1 * SECOND
    """How fast an idle worker's estimates return to the profile: about as long as the slow spells
    of a shared host last."""

    probe_interval_ns: Nanoseconds = 200 * MILLISECOND
    """After refusing for so long on an idle worker, one request is tried if the profile fits it."""

    active_window_ns: Nanoseconds = 500 * MILLISECOND
    """A service without arrivals for so long lends its share of the lanes to the others."""

    queue_max: int = 4096
    """Requests that wait on one route; beyond, QUEUE_FULL."""

    spare_max: int = 1024
    """Requests of one route that wait for an idle worker, best effort and offline ones together;
    beyond, they are refused."""

    best_effort_wait_ns: Nanoseconds = 30 * SECOND
    """How long after its deadline a request of a BestEffort service may wait for an idle worker: about
    as long as clients wait for an answer."""

    offline_wait_ns: Nanoseconds = 300 * SECOND
    """How long an offline request waits for an idle worker when it does not say."""

    attempts_max: int = 3
    """Times that one request is sent to an executor, when executors are lost or refuse it."""

    action_timeout_ns: Nanoseconds = 10 * SECOND
    """An Infer without an answer so long after its expected end makes its worker stuck."""

    load_timeout_ns: Nanoseconds = 60 * SECOND
    """The same for Load and Unload: a cold disk may take long."""

    load_window_ns: Nanoseconds = 10 * SECOND
    """How long a Load or Unload may wait for its start on the executor."""

    load_retry_min_ns: Nanoseconds = 100 * MILLISECOND
    """Pause before a failed load is tried again; it doubles with each failure …"""

    load_retry_max_ns: Nanoseconds = 10 * SECOND
    """… up to this."""

    unload_expected_ns: Nanoseconds = 1 * MILLISECOND
    """What giving back memory is expected to take."""

    load_margin: float = 0.25
    """Relative error of a load that admission leaves room for, where a request must wait for its
    weights: a profile has one figure for loads, and no quantiles. A worker whose last loads took
    longer than profiled is believed slower on top of that."""

    promises_max: int = 8
    """Loads that a worker owes to waiting requests at once; beyond, NOT_LOADED."""

    demand_half_life_ns: Nanoseconds = 1 * SECOND
    """Refused lane time counts half as much for what to load next after so long."""

    prefetch_max: int = 8
    """Variants that a worker has loaded ahead of demand and nobody has asked for yet, where memory is
    short (see ``prefetch``); 0: loads wait for demand. Of timers whose loads take longer than their
    target it spares most refusals, and random demand is served alike
    (``tests/simulation/test_simulation_prefetch.py``); only where memory is hardly enough for what is
    asked for all the time, that loses about 1 % to them."""

    prefetch_ahead_ns: Nanoseconds = 250 * MILLISECOND
    """How long before it is expected to be asked for such a variant should be there: timers fire on
    the same minute, so its load may have to wait for those of others."""

    retry_after_min_ns: Nanoseconds = 500 * MICROSECOND
    """The least pause that a refused client is asked for."""

    def __post_init__(self) -> None:
        """Reject settings that no scheduler can keep; ``ValueError`` names the field."""
        for name in (
            "outstanding_max",
            "residual_window",
            "queue_max",
            "spare_max",
            "attempts_max",
            "promises_max",
            "peak_memory",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"settings.{name} is below 1: give at least 1")
        for name in (
            "half_life_ns",
            "best_effort_wait_ns",
            "offline_wait_ns",
            "probe_interval_ns",
            "action_timeout_ns",
            "load_timeout_ns",
            "load_window_ns",
            "load_retry_min_ns",
            "demand_half_life_ns",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"settings.{name} is not positive: give a duration above 0")
        if not 1 <= self.residual_seed <= self.residual_window:
            raise ValueError(
                "settings.residual_seed is outside 1 … residual_window: give a number between"
            )
        if self.load_retry_max_ns < self.load_retry_min_ns:
            raise ValueError("settings.load_retry_max_ns is below load_retry_min_ns")
        for name in (
            "reply_overhead_ns",
            "dispatch_ahead_ns",
            "dispatch_ahead_min_ns",
            "dispatch_ahead_share",
            "growing_ahead_share",
            "window_slack_ns",
            "margin_z",
            "margin_z_min",
            "overload_reserve",
            "load_margin",
            "prefetch_max",
            "prefetch_ahead_ns",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"settings.{name} is negative: give at least 0")
