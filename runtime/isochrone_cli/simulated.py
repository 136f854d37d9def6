"""What ``isochrone simulate`` is told, as a world: plan, arrivals, noise.

Called by the command; everything that is wrong with an option is a ``ManifestError`` that names it.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from isochrone.errors import ManifestError
from isochrone.ids import ServiceId
from isochrone.plan_document import PlanDocument
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrival_spec import parse_process
from isochrone.simulation.arrivals import Counts
from isochrone.simulation.counts import parse_counts
from isochrone.simulation.noise import Noise
from isochrone.simulation.planned import planned_workers
from isochrone.simulation.streams import Source, Streams
from isochrone.simulation.synthetic import synthetic_trace
from isochrone.simulation.world import GatewayCost, LinkNoise, PlanChange, World
from isochrone.units import MINUTE, Nanoseconds, parse_duration, parse_rate, parse_ratio
from isochrone_cli.console import progress, sayer
from isochrone_cli.recorded import read_bytes

T = TypeVar("T")


def make_plan(options: argparse.Namespace) -> PlanDocument:
    """Return the plan for the manifests in ``options``; what is not built and measured yet, is."""
    # The solver takes seconds to import, and a plan that is at hand needs none.
    from isochrone_cli.inputs import read_buildable  # noqa: PLC0415
    from isochrone_cli.machine import look  # noqa: PLC0415
    from isochrone_cli.prepare import prepare  # noqa: PLC0415

    manifests = read_buildable(options.filename)
    return prepare(manifests, look(), options.store, sayer(progress())).document


def world_of(document: PlanDocument, options: argparse.Namespace) -> World:
    """Return the world that ``options`` describe, with the workers that the plan asks for."""
    duration_ns = _duration("--duration", options.duration)
    factor, share_ppm = _slow(options.slow)
    arrival_ns, event_ns, action_ns = _costs(options.gateway_cost)
    return World(
        plans=(PlanChange(at=0, plan=document.plan, catalog=document.catalog),),
        workers=planned_workers(document),
        arrivals=Streams(
            sources=tuple(_sources(document, options, duration_ns)),
            seed=options.seed,
            end=duration_ns,
        ),
        settings=Settings(),
        noise=Noise(sigma=options.sigma, slow_factor=factor, slow_ppm=share_ppm),
        link_ns=_duration("--link", options.link),
        link_noise=LinkNoise(jitter_ns=_duration("--jitter", options.jitter)),
        gateway=GatewayCost(arrival_ns=arrival_ns, event_ns=event_ns, action_ns=action_ns),
    )


def _sources(
    document: PlanDocument, options: argparse.Namespace, duration_ns: Nanoseconds
) -> Iterator[Source]:
    """Yield what comes for each service, from every option that says so."""
    services = [planned.service for planned in document.plan.services]
    if not (options.arrivals or options.counts or options.synthetic):
        raise ManifestError("nothing comes: give --arrivals, --counts, --synthetic or --trace")
    for text in options.arrivals or ():
        name, equals, process = text.rpartition("=")
        for service in [_named(name, services)] if equals else services:
            yield Source(service=service, process=parse_process(process))
    if options.counts is not None:
        slot_ns = _duration("--slot", options.slot)
        lines = read_bytes(options.counts).decode(errors="replace").splitlines()
        for name, counts in parse_counts(lines).items():
            process = Counts(counts=counts, slot_ns=slot_ns)
            yield Source(service=_named(name, services), process=process)
    if options.synthetic is not None:
        functions = synthetic_trace(
            options.seed,
            len(services),
            minutes=-(-duration_ns // MINUTE),
            rate_rps=_given("--synthetic", parse_rate, options.synthetic),
        )
        for service, function in zip(services, functions, strict=True):
            yield Source(service=service, process=Counts(counts=function.counts))


def _named(name: str, services: Sequence[ServiceId]) -> ServiceId:
    if name not in services:
        raise ManifestError(f"the plan has no service {name}; it has {', '.join(services)}")
    return ServiceId(name)


def _slow(text: str) -> tuple[float, int]:
    factor, _, share = text.partition("/")
    form = "--slow FACTOR/SHARE"
    return _given(form, parse_rate, factor), _given(form, parse_ratio, share)


def _costs(text: str) -> list[Nanoseconds]:
    form = "--gateway-cost ARRIVAL/EVENT/ACTION"
    costs = [_duration(form, part) for part in text.split("/")]
    if len(costs) != len(form.split("/")):
        raise ManifestError(f"{form}: {text!r} has {len(costs)} parts, such as in 60us/30us/20us")
    return costs


def _duration(option: str, text: str) -> Nanoseconds:
    return _given(option, parse_duration, text)


def _given(option: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise ManifestError(f"{option}: {error}") from error
