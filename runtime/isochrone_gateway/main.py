"""The gateway program: ``python -m isochrone_gateway --config FILE``.

Called by the command line in local mode, and as a pod's entry point. Writes JSON lines to standard
error; ``listening`` names the ports, which are also written to ``ready_path``.
"""

import argparse
import asyncio
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from isochrone.errors import SetupError
from isochrone.units import MIB
from isochrone_gateway import predictability
from isochrone_gateway.admin import Admin
from isochrone_gateway.cell_file import CellState, CellWatch
from isochrone_gateway.clock import Alarm, Vigil
from isochrone_gateway.config import Address, GatewayConfig, read_config
from isochrone_gateway.connection import Connection
from isochrone_gateway.driver import Driver
from isochrone_gateway.health import Health
from isochrone_gateway.inference import Inference
from isochrone_gateway.listener import SWEEP_S, Listener
from isochrone_gateway.membership import Membership
from isochrone_gateway.metrics import Gauges, Metrics
from isochrone_gateway.observed import Observed
from isochrone_gateway.pages import Pages
from isochrone_gateway.plan_watch import WATCH_S, PlanWatch
from isochrone_gateway.readiness import Readiness
from isochrone_gateway.records import Records
from isochrone_gateway.trace_file import TraceFile
from isochrone_process import steady
from isochrone_process.log import Log

TICK_S: Final = 1.0
"""How often the trace is written and stuck workers are looked for."""

DEFECT_STATUS: Final = os.EX_SOFTWARE
DRAIN_POLL_S: Final = 0.01
BACKLOG: Final = 1024
KEPT_BYTES: Final = 512 * MIB
"""Freed memory that stays this process's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one gateway until it is told to stop; return the process's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m isochrone_gateway",
        description="Serve the Open Inference Protocol in front of one cell's executors.",
    )
    parser.add_argument("--config", required=True, type=Path, metavar="FILE")
    path = parser.parse_args(arguments).config
    log = Log(gateway="")
    try:
        config = read_config(path)
        log = Log(gateway=config.name)
        if config.die_with_parent:
            steady.die_with_parent()
        steady.steady_memory(log, kept_bytes=KEPT_BYTES)
        steady.steady_timers(log)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Gateway(config, log).run())
    except SetupError as error:
        log.fault("cannot_start", reason=str(error))
        return 1


class Gateway:
    """All the parts of one gateway, put together."""

    def __init__(self, config: GatewayConfig, log: Log) -> None:
        self._config = config
        self._log = log
        self._status = 0
        self._stop = asyncio.Event()
        self._metrics = Metrics()
        try:
            self._trace = TraceFile(config.trace_path, log, bytes_max=config.trace_bytes_max)
        except OSError as error:
            message = f"trace_path {config.trace_path}: cannot be written: {error.strerror}"
            raise SetupError(message) from error
        observed = Observed()
        self._driver = Driver(
            config.settings,
            metrics=self._metrics,
            records=Records(self._metrics, observed, self._trace, log),
            log=log,
            observed=observed,
            on_defect=self._on_defect,
        )
        self._readiness = Readiness(self._driver)
        pages = Pages(is_ready=self._readiness.takes_requests, loaded=self._driver.loaded)
        self._inference = Inference(self._driver, self._metrics, pages)
        self._plan_watch = PlanWatch(
            config.plan_path,
            config.namespace,
            driver=self._driver,
            inference=self._inference,
            metrics=self._metrics,
        )
        gauges = Gauges(
            queued=self._driver.queued,
            executors=lambda: [(link.worker, link.is_up) for link in self._driver.links.values()],
            plan_revision=lambda: self._driver.revision,
            leads=lambda: self._driver.leading,
        )
        self._membership = Membership(config, self._driver, log, on_task_ended=self._on_task_ended)
        self._cell_watch: CellWatch | None = None
        if config.cell_path is not None:
            self._cell_watch = CellWatch(config.cell_path, self._membership.take)
        health = Health(metrics=self._metrics, gauges=gauges, readiness=self._readiness)
        self._admin = Admin(
            self._driver,
            health=health,
            observed=observed,
            epoch=lambda: self._membership.epoch,
            trace=self._trace,
        )
        self._listener = Listener(self._inference, config.limits)
        self._health_listener = Listener(health, config.limits)
        self._admin_listener = Listener(self._admin, config.limits)

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, or until a defect; return the exit status."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_exception)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        alarm = Alarm(loop, self._driver.ring)
        self._driver.keep_time(alarm, Vigil(loop))
        self._plan_watch.look(self._log)
        servers = {
            "admin_port": await self._listen(self._admin_listener, self._config.admin),
            "port": await self._listen(self._listener, self._config.listen),
        }
        if self._config.health is not None:
            servers["health_port"] = await self._listen(self._health_listener, self._config.health)
        self._join_cell()
        self._announce(servers)
        beats = [
            loop.create_task(_every(SWEEP_S, self._sweep)),
            loop.create_task(_every(TICK_S, self._tick)),
            loop.create_task(_every(WATCH_S, self._watch_files)),
            loop.create_task(_every(self._config.limits.ping_interval_s, self._ping)),
        ]
        for task in beats:
            task.add_done_callback(self._on_task_ended)
        predictability.steady_interpreter()
        await self._stop.wait()
        servers["port"].close()
        await self._drain()
        for server in servers.values():
            server.close()
        for beat in beats:
            beat.cancel()
        await self._admin.stop()
        self._listener.abort()
        self._admin_listener.abort()
        self._health_listener.abort()
        await self._membership.stop()
        alarm.close()
        self._trace.close()
        self._log.info("stopped", status=self._status)
        return self._status

    async def _listen(self, listener: Listener, address: Address) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        try:
            return await loop.create_server(
                lambda: Connection(listener), address.host, address.port, backlog=BACKLOG
            )
        except OSError as error:
            # A resolver's numbers are below 0, and their words good; the event loop's own words are long.
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror
            message = f"{address.host}:{address.port}: cannot listen there: {reason}"
            raise SetupError(message) from error

    def _join_cell(self) -> None:
        """Lead or stand by as the cell's file says; without one, lead with what is configured."""
        if self._cell_watch is not None:
            self._cell_watch.look(self._log)
            return
        epoch = self._config.epoch
        assert epoch is not None, "read_config has seen to it"
        self._membership.take(
            CellState(epoch=epoch, leading=True, executors=self._config.executors)
        )

    def _announce(self, servers: dict[str, asyncio.Server]) -> None:
        """Say which ports are bound; ``ready_path`` appears whole or not at all."""
        ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
        ports["pid"] = os.getpid()
        path = self._config.ready_path
        if path is not None:
            partial = path.with_name(f"{path.name}.partial")
            partial.write_bytes(msgspec.json.encode(ports))
            partial.rename(path)
        self._log.info("listening", **ports)

    async def _drain(self) -> None:
        """Take no new requests, and give those under way a bounded time to end."""
        if self._status:
            return
        self._log.info("draining", requests=self._driver.under_way)
        self._readiness.draining = True
        self._inference.draining = True
        self._listener.drain()
        until = time.monotonic() + self._config.limits.drain_timeout_s
        while self._listener.busy and time.monotonic() < until:  # noqa: ASYNC110 - polled once
            await asyncio.sleep(DRAIN_POLL_S)
        if self._listener.busy:
            self._log.warning("requests_abandoned", requests=self._driver.under_way)

    def _sweep(self) -> None:
        now = time.monotonic_ns()
        self._listener.sweep(now)
        self._admin_listener.sweep(now)
        self._health_listener.sweep(now)

    def _tick(self) -> None:
        self._trace.flush()
        self._driver.drop_stuck()

    def _watch_files(self) -> None:
        self._plan_watch.look(self._log)
        if self._cell_watch is not None:
            self._cell_watch.look(self._log)
        self._membership.settle()

    def _ping(self) -> None:
        now = time.monotonic_ns()
        for link in self._driver.links.values():
            link.tick(now)

    def _on_signal(self, number: signal.Signals) -> None:
        self._log.info("stopping", signal=signal.Signals(number).name)
        self._stop.set()

    def _on_defect(self, error: BaseException) -> None:
        """End the process: what a scheduler does that broke a promise is not to be trusted."""
        trace = "".join(traceback.format_exception(error))
        self._log.fault("defect", detail=trace)
        self._status = DEFECT_STATUS
        self._stop.set()

    def _on_task_ended(self, task: asyncio.Task[None]) -> None:
        """End the process with a task that it cannot do without."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_defect(error)

    def _on_exception(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what a callback raised; the loop closes the connection that it was for."""
        error = context.get("exception")
        detail = "".join(traceback.format_exception(error)) if error is not None else ""
        self._log.fault("callback_failed", message=context.get("message"), detail=detail)


async def _every(seconds: float, beat: Callable[[], None]) -> None:
    """Call ``beat`` every ``seconds``, for ever."""
    while True:
        await asyncio.sleep(seconds)
        beat()
