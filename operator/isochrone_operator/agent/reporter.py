"""What the gateway observes → the cell's report. Called by ``agent.main``.

It also says whether the gateway is up, which is what the Lease is held for.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from isochrone_operator import names
from isochrone_operator.agent.cell import report_essence
from isochrone_operator.agent.wire import WireTransport
from isochrone_operator.api import Api, Request
from isochrone_operator.errors import ClusterError, UnreachableError
from isochrone_operator.json_values import Json, texts
from isochrone_operator.logs import Log
from isochrone_operator.resources import CONFIG_MAPS

LOOK_S: Final = 0.5
"""The gateway is asked this often."""
ANSWER_S: Final = 2.0
REPORT_S: Final = 10.0
"""Figures are reported at most this often."""
SWEEP_S: Final = 30.0
"""A leader removes the reports of gateways that are gone this often."""
SILENT_MAX: Final = 3
"""So many looks without an answer in time, and the gateway counts as down; a refused one suffices."""
BACKOFF_MAX_S: Final = 10.0


@dataclass(slots=True, kw_only=True)
class Reporter:
    """Asks one gateway, and reports. ``gateways`` and ``leads`` are told by ``cell_state``."""

    api: Api
    admin: WireTransport
    namespace: str
    pod: str
    log: Log
    up_changed: Callable[[], None] = lambda: None
    gateways: frozenset[str] = frozenset()
    leads: bool = False
    is_up: bool = False
    beat_s: float = field(default_factory=time.monotonic)
    """When it last came around, by the monotonic clock."""
    _silent: int = 0
    _essence: tuple[object, ...] | None = None
    _next_s: float = 0.0
    _not_before_s: float = 0.0
    _wait_s: float = 1.0
    _sweep_s: float = 0.0

    async def run(self) -> None:
        """Ask and report, until cancelled."""
        while True:
            self.beat_s = time.monotonic()
            observed = await self._ask()
            if observed is not None:
                await self._report(observed)
            await asyncio.sleep(LOOK_S)

    async def _ask(self) -> Json | None:
        request = Request(method="GET", target="/admin/observed", timeout_s=ANSWER_S)
        try:
            answer = await self.admin.call(request)
            found = json.loads(answer.body) if answer.status == 200 else None  # noqa: PLR2004 - OK
        except UnreachableError as error:
            refused = isinstance(error.__cause__, ConnectionRefusedError)
            self._silent = SILENT_MAX if refused else self._silent + 1
            if self._silent >= SILENT_MAX:
                self._set_up(up=False, why=str(error))
            return None
        except ValueError as error:
            self.log.failure("observed_unreadable", problem=str(error))
            found = None
        self._silent = 0
        self._set_up(up=True, why="it answers")
        return found if isinstance(found, dict) else None

    def _set_up(self, *, up: bool, why: str) -> None:
        if up != self.is_up:
            self.is_up = up
            self.log.info("gateway", up=up, why=why)
            self.up_changed()

    async def _report(self, observed: Json) -> None:
        now_s = asyncio.get_running_loop().time()
        essence = report_essence(observed)
        if now_s < self._not_before_s or (essence == self._essence and now_s < self._next_s):
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        report = {"gateway": self.pod, "at": at, "observed": observed}
        data: dict[str, str | None] = {self.pod: json.dumps(report, separators=(",", ":"))}
        try:
            if self.leads and now_s >= self._sweep_s:
                data |= await self._gone()
                self._sweep_s = now_s + SWEEP_S
            await self.api.merge(
                CONFIG_MAPS,
                {"data": data},
                namespace=self.namespace,
                name=names.REPORT,
                manager=names.AGENT_FIELD_MANAGER,
            )
        except ClusterError as error:
            self.log.warning("report_failed", reason=error.reason, problem=str(error))
            self._not_before_s = now_s + self._wait_s
            self._wait_s = min(self._wait_s * 2, BACKOFF_MAX_S)
            return
        self._essence, self._next_s, self._wait_s = essence, now_s + REPORT_S, 1.0

    async def _gone(self) -> dict[str, str | None]:
        """Return a removal for each report of a gateway whose pod is gone."""
        held = await self.api.get(CONFIG_MAPS, namespace=self.namespace, name=names.REPORT)
        present = self.gateways | {self.pod}
        return {key: None for key in texts(held, "data") if key not in present}
