"""The admin listener: all of ``health``, the scheduler's state, what was observed, probes, marks.

Called by ``connection`` on the second port, which is for operators and stays inside the pod.

- ``GET /metrics``, ``GET /healthz``, ``GET /readyz``: see ``health``.
- ``GET /admin/state``: the scheduler's snapshot.
- ``GET /admin/observed``: what each service got over five minutes, and which workers hold what.
- ``POST /admin/probe {"rounds": n}``: see ``probe``; 409 when there is traffic.
- ``POST /admin/phase {"name": s}``: writes a mark into the trace.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec

from isochrone.errors import UNREADABLE
from isochrone.scheduling.snapshot import Snapshot
from isochrone.trace import PhaseRecord
from isochrone_gateway.answers import answer_json
from isochrone_gateway.driver import Driver
from isochrone_gateway.exchange import Exchange
from isochrone_gateway.health import Health, route
from isochrone_gateway.observed import Observed
from isochrone_gateway.probe import ROUNDS_MAX, Probe, ProbeStoppedError
from isochrone_gateway.trace_file import TraceFile

PHASE_NAME_MAX: Final = 200


class _ProbeOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rounds: Annotated[int, msgspec.Meta(ge=1, le=ROUNDS_MAX)] = 10


class _PhaseOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=PHASE_NAME_MAX)]


_Order = TypeVar("_Order", _ProbeOrder, _PhaseOrder)


class Admin:
    """What the admin listener serves."""

    def __init__(
        self,
        driver: Driver,
        *,
        health: Health,
        observed: Observed,
        epoch: Callable[[], int],
        trace: TraceFile,
    ) -> None:
        self._driver = driver
        self._observed = observed
        self._epoch = epoch
        self._trace = trace
        self._probe = Probe(driver)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._routes: Final[dict[str, Callable[[Exchange], None]]] = {
            **health.routes,
            "GET /admin/state": self._show_state,
            "GET /admin/observed": self._show_observed,
            "POST /admin/probe": self._start_probe,
            "POST /admin/phase": self._mark_phase,
        }

    def on_head(self, exchange: Exchange) -> None:
        """Answer what needs no body, or what has it already."""
        route(exchange, self._routes)

    def on_part(self, exchange: Exchange) -> None:
        """Nothing here asks for parts of bodies."""
        raise AssertionError(exchange.head.target)

    def on_body(self, exchange: Exchange) -> None:
        """Answer, now that the body is there."""
        self._routes[exchange.head.target](exchange)

    def on_broken(self, exchange: Exchange, status: int, message: str) -> None:
        """Answer that the body cannot be read."""
        answer_json(exchange, status, {"error": message})

    def on_crowded(self, exchange: Exchange, message: str) -> None:
        """Answer that there is no room for the body."""
        answer_json(exchange, 503, {"error": message})

    def on_gone(self, exchange: Exchange) -> None:
        """Let a probe whose client has left run to its end."""

    def on_unreadable(self) -> None:
        """Leave uncounted what is no request, and has been answered."""

    async def stop(self) -> None:
        """End the probe that is running, if one is."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _show_state(self, exchange: Exchange) -> None:
        state = msgspec.to_builtins(self._driver.scheduler.snapshot())
        state["executors"] = [
            {"worker": link.worker, "up": link.is_up} for link in self._driver.links.values()
        ]
        answer_json(exchange, 200, state)

    def _show_observed(self, exchange: Exchange) -> None:
        driver = self._driver
        snapshot = driver.scheduler.snapshot()
        known = {worker.worker: worker for worker in snapshot.workers}
        workers = [
            {
                "worker": worker,
                "group": link.group,
                "up": link.is_up,
                "resident": known[worker].resident if worker in known else (),
                "missing": known[worker].missing if worker in known else (),
            }
            for worker, link in sorted(driver.links.items())
        ]
        services, executions = [], []
        if driver.leading:
            now = time.monotonic_ns()
            services = self._observed.views(now, _without_worker(snapshot))
            executions = self._observed.executions(now)
        answer_json(
            exchange,
            200,
            {
                "revision": driver.revision,
                "epoch": self._epoch(),
                "leading": driver.leading,
                "workers": workers,
                "services": services,
                "executions": executions,
            },
        )

    def _mark_phase(self, exchange: Exchange) -> None:
        order = self._read(exchange, _PhaseOrder)
        if order is None:
            return
        if not self._trace.enabled:
            answer_json(exchange, 409, {"error": "no trace is written: set trace_path"})
            return
        self._trace.write(PhaseRecord(name=order.name, at=time.monotonic_ns()))
        self._trace.flush()
        answer_json(exchange, 200, {"name": order.name})

    def _start_probe(self, exchange: Exchange) -> None:
        order = self._read(exchange, _ProbeOrder)
        if order is None:
            return
        task = asyncio.get_running_loop().create_task(self._run_probe(exchange, order.rounds))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _run_probe(self, exchange: Exchange, rounds: int) -> None:
        status: int
        value: dict[str, Any]
        try:
            status, value = 200, {"probes": await self._probe.run(rounds)}
        except ProbeStoppedError as error:
            status, value = 409, {"error": str(error)}
        if not exchange.answered:
            answer_json(exchange, status, value)

    def _read(self, exchange: Exchange, kind: type[_Order]) -> _Order | None:
        """Return the body as ``kind``; None when it is none, which is answered."""
        try:
            return msgspec.json.decode(bytes(exchange.body) or b"{}", type=kind)
        except UNREADABLE as error:
            answer_json(exchange, 400, {"error": f"the body cannot be used: {error}"})
            return None


def _without_worker(snapshot: Snapshot) -> dict[str, int]:
    """Return, per service, the requests that wait although no worker can run any of its routes."""
    ready = {service.service for service in snapshot.services if service.ready}
    counts: dict[str, int] = {}
    for queue in snapshot.queues:
        if queue.service not in ready:
            counts[queue.service] = counts.get(queue.service, 0) + queue.requests + queue.spare
    return counts
