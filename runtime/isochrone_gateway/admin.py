"""The admin listener: metrics, health, the scheduler's state, probes, marks in the trace.

Called by ``connection`` on the second port, which is for operators and stays inside the cell.

- ``GET /metrics``: Prometheus's text format. ``GET /healthz``: this process answers.
- ``GET /readyz``: 200 when every service has a loaded variant; else 503 and what is missing.
- ``GET /admin/state``: the scheduler's snapshot.
- ``POST /admin/probe {"rounds": n}``: see ``probe``; 409 when there is traffic.
- ``POST /admin/phase {"name": s}``: writes a mark into the trace.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from isochrone.trace import PhaseRecord
from isochrone_gateway.answers import answer_bytes, answer_json
from isochrone_gateway.driver import Driver
from isochrone_gateway.exchange import Exchange
from isochrone_gateway.metrics import Gauges, Metrics, exposition
from isochrone_gateway.probe import ROUNDS_MAX, Probe, ProbeStoppedError
from isochrone_gateway.readiness import Readiness
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
        metrics: Metrics,
        gauges: Gauges,
        trace: TraceFile,
        readiness: Readiness,
    ) -> None:
        self._driver = driver
        self._metrics = metrics
        self._gauges = gauges
        self._trace = trace
        self._readiness = readiness
        self._probe = Probe(driver)
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._routes: Final[dict[str, Callable[[Exchange], None]]] = {
            "GET /metrics": self._show_metrics,
            "GET /healthz": self._show_health,
            "GET /readyz": self._show_readiness,
            "GET /admin/state": self._show_state,
            "POST /admin/probe": self._start_probe,
            "POST /admin/phase": self._mark_phase,
        }

    def on_head(self, exchange: Exchange) -> None:
        """Answer what needs no body, or what has it already."""
        problem = exchange.head.problem
        if problem is not None:
            answer_json(exchange, problem[0], {"error": problem[1]})
        elif exchange.head.target not in self._routes:
            known = ", ".join(self._routes)
            message = f"no such path: {exchange.head.target}; there are {known}"
            answer_json(exchange, 404, {"error": message})
        elif exchange.complete:
            self._routes[exchange.head.target](exchange)

    def on_part(self, exchange: Exchange) -> None:
        """Nothing here asks for parts of bodies."""
        raise AssertionError(exchange.head.target)

    def on_body(self, exchange: Exchange) -> None:
        """Answer, now that the body is there."""
        self._routes[exchange.head.target](exchange)

    def on_broken(self, exchange: Exchange, status: int, message: str) -> None:
        """Answer that the body cannot be read."""
        answer_json(exchange, status, {"error": message})

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

    def _show_metrics(self, exchange: Exchange) -> None:
        text = exposition(self._metrics, self._gauges)
        answer_bytes(exchange, 200, text, CONTENT_TYPE_LATEST)

    def _show_health(self, exchange: Exchange) -> None:
        answer_json(exchange, 200, {"live": True})

    def _show_readiness(self, exchange: Exchange) -> None:
        missing = self._readiness.missing()
        answer_json(exchange, 503 if missing else 200, {"ready": not missing, "missing": missing})

    def _show_state(self, exchange: Exchange) -> None:
        state = msgspec.to_builtins(self._driver.scheduler.snapshot())
        state["executors"] = [
            {"worker": worker, "up": is_up} for worker, is_up in self._gauges.executors()
        ]
        answer_json(exchange, 200, state)

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
        except msgspec.DecodeError as error:
            answer_json(exchange, 400, {"error": f"the body cannot be used: {error}"})
            return None
