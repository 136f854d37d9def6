"""Arrival processes as people write them: ``poisson:200``, ``gamma:200/4``, ``onoff:300/0/1s/4s``.

Called by the command line. Fields stand in a fixed order, parted by slashes; rates are requests per
second, durations carry a unit.
"""

from collections.abc import Callable, Sequence
from typing import Final

from isochrone.errors import ManifestError
from isochrone.simulation.arrivals import (
    ArrivalProcess,
    Gamma,
    Mmpp,
    OnOff,
    Phase,
    Poisson,
    Spikes,
)
from isochrone.units import parse_duration, parse_rate

FORMS: Final = {
    "poisson": "poisson:RATE",
    "gamma": "gamma:RATE/CV",
    "onoff": "onoff:RATE_ON/RATE_OFF/ON/OFF",
    "mmpp": "mmpp:RATE/MEAN/RATE/MEAN[/…]",
    "spikes": "spikes:BASE_RATE/COUNT/PERIOD/WIDTH",
}


def parse_process(text: str) -> ArrivalProcess:
    """Return the process that ``text`` spells; ``ManifestError`` says how to write it."""
    kind, _, rest = text.partition(":")
    if kind not in FORMS:
        message = f"{text!r} is no arrival process: write one of {', '.join(FORMS.values())}"
        raise ManifestError(message)
    try:
        return _READERS[kind](rest.split("/"))
    except ValueError as error:
        message = f"{text!r} is not {FORMS[kind]}: {error}"
        raise ManifestError(message) from error


def _poisson(fields: Sequence[str]) -> Poisson:
    (rate,) = fields
    return Poisson(rate_rps=parse_rate(rate))


def _gamma(fields: Sequence[str]) -> Gamma:
    rate, cv = fields
    return Gamma(rate_rps=parse_rate(rate), cv=parse_rate(cv))


def _on_off(fields: Sequence[str]) -> OnOff:
    on_rate, off_rate, on, off = fields
    return OnOff(
        on_rate_rps=parse_rate(on_rate),
        off_rate_rps=parse_rate(off_rate),
        on_ns=parse_duration(on),
        off_ns=parse_duration(off),
    )


def _mmpp(fields: Sequence[str]) -> Mmpp:
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return Mmpp(
        phases=tuple(
            Phase(rate_rps=parse_rate(rate), mean_ns=parse_duration(mean)) for rate, mean in pairs
        )
    )


def _spikes(fields: Sequence[str]) -> Spikes:
    base, count, period, width = fields
    return Spikes(
        base_rps=parse_rate(base),
        count=int(count),
        period_ns=parse_duration(period),
        width_ns=parse_duration(width),
    )


_READERS: Final[dict[str, Callable[[Sequence[str]], ArrivalProcess]]] = {
    "poisson": _poisson,
    "gamma": _gamma,
    "onoff": _on_off,
    "mmpp": _mmpp,
    "spikes": _spikes,
}
