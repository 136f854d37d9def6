"""Measures what executors can do at this moment, while nothing else is asked of them.

Called by ``admin``. Each resident variant of each worker is run at each of its batch sizes, a
number of times, with inputs of zeros, by actions that the scheduler knows nothing of. All workers
are probed at once, as they would run under load; the executors' own stamps count. A request that
arrives meanwhile ends the probe: traffic goes first.
"""

import asyncio
import time
from collections.abc import Iterator
from statistics import fmean, median
from typing import Any, Final

from isochrone.catalog import Model, Variant
from isochrone.errors import CapacityError
from isochrone.execution import ActionStatus
from isochrone.protocol.messages import InferBatch, Result
from isochrone.units import SECOND, Instant
from isochrone_gateway.driver import Driver
from isochrone_gateway.links import ExecutorLink

ROUNDS_MAX: Final = 50

DURATION_MAX_S: Final = 60.0
"""Of one probe, all rounds together."""

ACTIONS_FROM: Final = 1 << 62
"""Numbers of probing actions: far from the scheduler's, which count from 0."""


class ProbeStoppedError(CapacityError):
    """There is traffic, another probe, or too little time."""


class Probe:
    """Probes the executors of one driver, one probe at a time."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._running = False
        self._actions = ACTIONS_FROM

    async def run(self, rounds: int) -> list[dict[str, Any]]:
        """Return, per worker, variant and batch size, mean and median duration in nanoseconds.

        Raises ``ProbeStoppedError`` when it may not run, or had to stop.
        """
        if self._running:
            raise ProbeStoppedError("a probe is running: wait for its end")
        if not self._driver.is_quiet:
            raise ProbeStoppedError("requests or actions are under way: probe when there are none")
        self._running = True
        try:
            return await self._probe_all(rounds)
        except* ProbeStoppedError as stopped:
            reason = str(_first(stopped))
        finally:
            self._running = False
        raise ProbeStoppedError(reason)

    async def _probe_all(self, rounds: int) -> list[dict[str, Any]]:
        until = time.monotonic_ns() + round(DURATION_MAX_S * SECOND)
        try:
            async with asyncio.timeout(DURATION_MAX_S), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._probe_worker(link, held, rounds, until))
                    for link, held in self._work()
                ]
        except TimeoutError:
            message = f"the probe took longer than {DURATION_MAX_S:.0f} s: ask for fewer rounds"
            raise ProbeStoppedError(message) from None
        return [line for task in tasks for line in task.result()]

    def _work(self) -> Iterator[tuple[ExecutorLink, list[tuple[Variant, Model]]]]:
        """Yield each worker with the variants that it holds, by id."""
        catalog = self._driver.catalog
        variants = {variant.id: variant for variant in catalog.variants}
        models = {model.id: model for model in catalog.models}
        for worker in self._driver.scheduler.snapshot().workers:
            held = [variants[variant] for variant in worker.resident if variant in variants]
            link = self._driver.links[worker.worker]
            yield link, [(variant, models[variant.model]) for variant in held]

    async def _probe_worker(
        self,
        link: ExecutorLink,
        held: list[tuple[Variant, Model]],
        rounds: int,
        until: Instant,
    ) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for variant, model in held:
            row_bytes = sum(spec.row_bytes for spec in model.inputs)
            for size in variant.batch_sizes:
                inputs = memoryview(bytes(size * row_bytes))
                durations = [
                    await self._infer(link, variant, size, inputs, until) for _ in range(rounds)
                ]
                lines.append(
                    {
                        "worker": link.worker,
                        "pool": link.pool,
                        "variant": variant.id,
                        "batch_size": size,
                        "rounds": rounds,
                        "mean_ns": round(fmean(durations)),
                        "p50_ns": round(median(durations)),
                    }
                )
        return lines

    async def _infer(
        self, link: ExecutorLink, variant: Variant, size: int, inputs: memoryview, until: Instant
    ) -> int:
        """Run one batch; return its duration in nanoseconds."""
        if not self._driver.is_quiet:
            raise ProbeStoppedError("a request arrived: probe when there are none")
        if not link.is_up:
            raise ProbeStoppedError(f"executor {link.worker} is gone: probe when it is back")
        self._actions += 1
        action = self._actions
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._driver.expect(action, lambda result, _: _settle(answer, result))
        now = time.monotonic_ns()
        try:
            link.send(
                InferBatch(
                    action=action,
                    variant=variant.id,
                    batch_size=size,
                    rows=size,
                    earliest=now,
                    latest=until,
                    expected_ns=0,
                ),
                [inputs],
            )
            while not answer.done():
                await asyncio.wait([answer], timeout=1.0)
                if not link.is_up:
                    raise ProbeStoppedError(f"executor {link.worker} was lost: probe again")
        finally:
            self._driver.forget(action)
        result = answer.result()
        if result.status is not ActionStatus.OK:
            message = f"{link.worker} could not run {variant.id}: {result.status.value}"
            raise ProbeStoppedError(f"{message}: {result.detail}")
        return result.duration_ns


def _first(stopped: BaseExceptionGroup[ProbeStoppedError]) -> BaseException:
    """Return the first exception in a group of groups."""
    first: BaseException = stopped
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def _settle(answer: asyncio.Future[Result], result: Result) -> None:
    if not answer.done():
        answer.set_result(result)
