"""What the agent knows of its cell → the gateway's files, and the way of the Service.

Called by ``agent.main``, whose tasks these are.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from isochrone import plan_document
from isochrone.api.convert import plan_document_of
from isochrone.api.servingplan import ServingPlan
from isochrone.errors import IsochroneError
from isochrone_operator import names
from isochrone_operator.agent.cell import cell_document, endpoints, gateways
from isochrone_operator.agent.files import CELL_FILE, PLAN_FILE, RunDirectory
from isochrone_operator.agent.follow import Follower
from isochrone_operator.agent.reporter import Reporter
from isochrone_operator.api import Api
from isochrone_operator.errors import ClusterError
from isochrone_operator.json_values import text
from isochrone_operator.leader import Candidate
from isochrone_operator.logs import Log
from isochrone_operator.resources import ENDPOINT_SLICES

SERVICE_AGAIN_S: Final = 20.0
"""A leader sees to it this often that the Service still leads to it."""
SERVICE_LOOK_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0


@dataclass(slots=True, kw_only=True)
class CellState:
    """One agent's knowledge of its cell. ``handing_over``: the Lease is given back, not yet taken."""

    api: Api
    candidate: Candidate
    files: RunDirectory
    pods: Follower
    plan: Follower
    reporter: Reporter
    dirty: asyncio.Event
    log: Log
    namespace: str
    pod: str
    pod_ip: str
    pod_uid: str
    node: str
    handing_over: bool = False
    _plan_version: str = ""

    async def run(self) -> None:
        """Write the files after each change, until cancelled."""
        while True:
            await self.dirty.wait()
            self.dirty.clear()
            self.write_files()

    def write_files(self) -> None:
        """Bring the files to what is known; what is not known yet leaves its file alone."""
        self._write_plan()
        if not self.candidate.has_looked or not self.pods.listed:
            return
        self.reporter.gateways = gateways(self.pods.found.values())
        self.reporter.leads = self.candidate.leads()
        document = cell_document(
            self.pods.found.values(),
            epoch=self.candidate.epoch,
            leading=self.candidate.leads() or self.handing_over,
        )
        if self.files.write(CELL_FILE, document.encode()):
            self.log.info(
                "cell_written",
                epoch=document.epoch,
                leading=document.leading,
                executors=len(document.executors),
                leaving=len(document.leaving),
            )

    def _write_plan(self) -> None:
        found = self.plan.found.get(names.CELL)
        if found is None or text(found, "metadata", "resourceVersion") == self._plan_version:
            return
        self._plan_version = text(found, "metadata", "resourceVersion")
        try:
            document = plan_document_of(ServingPlan.read(found))
        except (ValidationError, IsochroneError, ValueError) as error:
            # The gateway keeps the last plan that could be read, and reports its revision.
            self.log.failure("plan_unreadable", problem=str(error))
            return
        if self.files.write(PLAN_FILE, plan_document.encode(document)):
            self.log.info("plan_written", revision=document.plan.revision)

    async def lead_service(self) -> None:
        """While leading, have the Service lead here; until cancelled."""
        led_epoch, wait_s, due_s = 0, SERVICE_LOOK_S, 0.0
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(wait_s)
            wait_s = SERVICE_LOOK_S
            if not self.candidate.leads():
                led_epoch = 0
                continue
            epoch = self.candidate.epoch
            if epoch == led_epoch and clock() < due_s:
                continue
            part = endpoints(
                namespace=self.namespace,
                pod=self.pod,
                pod_ip=self.pod_ip,
                node=self.node,
                uid=self.pod_uid,
            )
            try:
                # Its own field, which the leader before this one set under the same name.
                await self.api.apply(
                    ENDPOINT_SLICES, part, manager=names.AGENT_FIELD_MANAGER, force=True
                )
            except ClusterError as error:
                self.log.warning("service_not_led", reason=error.reason, problem=str(error))
                wait_s = min(max(error.retry_after_s or 0.0, 1.0), BACKOFF_MAX_S)
                continue
            if epoch != led_epoch:
                self.log.info("service_led", epoch=epoch, address=self.pod_ip)
            led_epoch, due_s = epoch, clock() + SERVICE_AGAIN_S
