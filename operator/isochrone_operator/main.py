"""The operator's program: settings → probes and metrics → Lease → watches → the loop.

Both replicas run all of it; only the holder of the Lease acts. A leader that loses the Lease stops
acting at once and stays as a warm standby, in the same process: nothing of what it knows depends on
having led. SIGTERM: stop acting, give the Lease back, end. Called by ``__main__``.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.errors import IsochroneError, SetupError
from isochrone_operator import handlers, names
from isochrone_operator.api import Api
from isochrone_operator.apply import Applier
from isochrone_operator.cluster import connect
from isochrone_operator.events import EventPoster
from isochrone_operator.health import EXPOSITION, Page, check, serve
from isochrone_operator.leader import OPERATOR_TIMES, Candidate, LeasePlace, boot_clock
from isochrone_operator.logs import Log, bridge
from isochrone_operator.loop import Changes, Loop, Reconcile
from isochrone_operator.metrics import CONTROLLER, Metrics
from isochrone_operator.pace import Backoffs, Bucket
from isochrone_operator.reconcile import reconcile
from isochrone_operator.relist import Relister
from isochrone_operator.results import ResultReader
from isochrone_operator.settings import Settings, parse_settings
from isochrone_operator.store import Store
from isochrone_operator.watched import watched

KOPF_END_S: Final = 10.0
"""kopf closes its watches within this time, or is cancelled."""
METRICS_PORT_VARIABLE: Final = "ISOCHRONE_METRICS_PORT"
HEALTH_PORT_VARIABLE: Final = "ISOCHRONE_HEALTH_PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where metrics and probes are served, on all addresses."""

    metrics: int = names.OPERATOR_METRICS_PORT
    health: int = names.OPERATOR_HEALTH_PORT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to end; return the exit status: 0 after SIGTERM, 1 after a failure."""
    settings = parse_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
    log = Log(level=settings.log_level)
    bridge(log)
    ports = Ports(
        metrics=int(os.environ.get(METRICS_PORT_VARIABLE, names.OPERATOR_METRICS_PORT)),
        health=int(os.environ.get(HEALTH_PORT_VARIABLE, names.OPERATOR_HEALTH_PORT)),
    )
    try:
        asyncio.run(run(settings, log, ports=ports, reconcile=reconcile))
    except (IsochroneError, OSError) as error:
        log.failure("ended", problem=str(error))
        return 1
    return 0


def assemble(
    settings: Settings, api: Api, metrics: Metrics, log: Log, reconcile: Reconcile
) -> Loop:
    """Return the loop with all its parts; no request is made yet."""
    store = Store()
    changes = Changes(debounce_ns=settings.debounce_ns, clock=boot_clock)
    metrics.queue_depth.labels(CONTROLLER).set_function(lambda: float(changes.count))
    candidate = Candidate(
        api=api,
        place=LeasePlace(
            namespace=settings.namespace,
            name=names.OPERATOR_LEASE,
            identity=settings.identity,
            labels=((names.LABEL_NAME, names.APP),),
            manager=names.FIELD_MANAGER,
        ),
        times=OPERATOR_TIMES,
        stubborn=False,
        log=log,
    )
    metrics.leads.labels(CONTROLLER).set_function(lambda: float(candidate.leads()))
    metrics.objects.leads = candidate.leads
    rate = settings.requests_per_second
    applier = Applier(
        api=api,
        store=store,
        log=log,
        metrics=metrics,
        clock=boot_clock,
        leads=candidate.leads,
        wake=changes.add,
        bucket=Bucket(rate=rate, burst=max(1.0, rate), clock=boot_clock),
        events=EventPoster(
            api=api, identity=settings.identity, log=log, metrics=metrics, clock=boot_clock
        ),
        backoffs=Backoffs(clock=boot_clock),
    )
    relister = Relister(
        api=api,
        store=store,
        watched=watched(settings),
        namespaces=settings.watch_namespaces,
        home=settings.namespace,
        wake=changes.add,
    )
    return Loop(
        settings=settings,
        api=api,
        store=store,
        changes=changes,
        candidate=candidate,
        relister=relister,
        reader=ResultReader(api=api, log=log),
        applier=applier,
        metrics=metrics,
        log=log,
        reconcile=reconcile,
    )


async def run(settings: Settings, log: Log, *, ports: Ports, reconcile: Reconcile) -> None:
    """Run the operator until SIGTERM or SIGINT. Raises what ends it otherwise."""
    metrics = Metrics.make()
    api = Api(await connect(), count=metrics.count_request)
    loop = assemble(settings, api, metrics, log, reconcile)
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(api.close)
        for port, pages in (
            (ports.metrics, {"/metrics": lambda: Page(200, EXPOSITION, metrics.text())}),
            (ports.health, _probes(loop)),
        ):
            server = await serve(pages, host=settings.any_address, port=port)
            stack.callback(server.close)
        log.info("started", identity=settings.identity, namespace=settings.namespace)
        await _run_until(stop, loop, settings, log)
    log.info("ended")


async def _run_until(stop: asyncio.Event, loop: Loop, settings: Settings, log: Log) -> None:
    kopf_stop, kopf_started = asyncio.Event(), asyncio.Event()
    lease = asyncio.create_task(loop.candidate.run(), name="lease")
    acting = asyncio.create_task(loop.run(), name="loop")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    # kopf ends whatever was begun after it when it ends: it is begun last, and ended last.
    watching = asyncio.create_task(
        handlers.watch(
            settings, loop.store, loop.changes.add, started=kopf_started, stop=kopf_stop
        ),
        name="watches",
    )
    ready = asyncio.create_task(_signals(kopf_started, stop), name="signals")
    try:
        done, _ = await asyncio.wait(
            {lease, acting, stopped, watching}, return_when=asyncio.FIRST_COMPLETED
        )
        log.info("ending", because=sorted(it.get_name() for it in done))
    finally:
        acting.cancel()
        await loop.candidate.release()
        for task in (lease, stopped, ready):
            task.cancel()
        kopf_stop.set()
        await asyncio.wait({watching}, timeout=KOPF_END_S)
        watching.cancel()
        await asyncio.gather(lease, acting, stopped, ready, watching, return_exceptions=True)
    for task in (lease, acting, watching):
        if task not in done:
            continue
        error = None if task.cancelled() else task.exception()
        if error is not None:
            raise error
        if not stop.is_set() and task is watching:
            message = "the watches ended by themselves"
            raise SetupError(message)


async def _signals(kopf_started: asyncio.Event, stop: asyncio.Event) -> None:
    """Have SIGTERM and SIGINT set ``stop``: now, and again once kopf has set its own handlers."""
    running = asyncio.get_running_loop()
    for _time in range(2):
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, stop.set)
        await kopf_started.wait()


def _probes(loop: Loop) -> dict[str, Callable[[], Page]]:
    def stuck() -> str | None:
        return "the loop is stuck" if loop.is_stuck else loop.defect

    def unready() -> str | None:
        return None if loop.synced else loop.sync_problem

    return {"/healthz": check(stuck), "/readyz": check(unready)}
