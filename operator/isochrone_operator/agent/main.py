"""The agent's program: hold the Lease, follow plan and pods, write the gateway's files, report.

The gateway obeys ``cell.json`` and ``plan.json``. While the API server is away both stay as they are,
and a leader goes on leading: executors obey the highest epoch. The agent leads only while its gateway
answers; one that was started anew gets a new epoch, for whatever it knew of its executors is gone.
Its probe fails when it has not asked its gateway, nor said so, for longer than any wait of its may be.
SIGTERM: give the Lease back, wait until the next leader is seen, and only then take the gateway's
lead from it, so that it ends what it has begun.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isochrone.errors import IsochroneError
from isochrone_operator import names
from isochrone_operator.agent.cell_state import CellState
from isochrone_operator.agent.files import RunDirectory
from isochrone_operator.agent.follow import Follower
from isochrone_operator.agent.reporter import Reporter
from isochrone_operator.agent.wire import Access, WireTransport, access_of_pod
from isochrone_operator.api import Api
from isochrone_operator.health import check, serve
from isochrone_operator.leader import CELL_TIMES, Candidate, LeasePlace
from isochrone_operator.logs import Log
from isochrone_operator.resources import PLANS, PODS

HANDOVER_S: Final = 4.0
"""How long an agent that ends waits for the next leader: well below the gateway's preStop of 5 s."""
HANDOVER_LOOK_S: Final = 0.1
STUCK_S: Final = 180.0
"""Without a beat for so long the agent hangs: a report with all its tries takes under a minute."""
POD_SELECTOR: Final = (
    f"{names.LABEL_NAME}={names.APP},"
    f"{names.LABEL_COMPONENT} in ({names.COMPONENT_GATEWAY},{names.COMPONENT_EXECUTOR})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What the agent is told when it starts."""

    namespace: str
    pod: str
    pod_ip: str
    pod_uid: str
    node: str
    run_directory: Path
    admin: str
    health_port: int
    access: Access
    log_level: str


def parse_agent_settings(arguments: Sequence[str]) -> AgentSettings:
    """Return the settings that ``arguments``, or else the environment, spell.

    Exits with status 2, and says what is missing. Raises ``SetupError`` outside of a pod.
    """
    environment = os.environ
    parser = argparse.ArgumentParser(
        prog="python -m isochrone_operator.agent", description="Tend one gateway of a cell."
    )
    for flag, variable, default, text in (
        ("--namespace", "POD_NAMESPACE", "", "namespace of the cell"),
        ("--pod", "POD_NAME", "", "name of this pod: who holds the Lease"),
        ("--pod-ip", "POD_IP", "", "address of this pod, for the Service"),
        ("--pod-uid", "POD_UID", "", "uid of this pod"),
        ("--node", "NODE_NAME", "", "node of this pod"),
        ("--run-directory", "ISOCHRONE_RUN", names.RUN_DIRECTORY, "shared with the gateway"),
        (
            "--admin",
            "ISOCHRONE_ADMIN",
            f"http://127.0.0.1:{names.ADMIN_PORT}",
            "the gateway's admin listener",
        ),
        (
            "--health-port",
            "ISOCHRONE_AGENT_PORT",
            str(names.AGENT_PORT),
            "probes, on all addresses",
        ),
        ("--api-server", "ISOCHRONE_API_SERVER", "", "URL, outside of a pod"),
        ("--token-file", "ISOCHRONE_TOKEN_FILE", "", "with --api-server"),
        ("--authority-file", "ISOCHRONE_AUTHORITY_FILE", "", "with --api-server"),
        ("--log-level", "ISOCHRONE_LOG_LEVEL", "info", "debug, info, warning or error"),
    ):
        given = environment.get(variable, default)
        parser.add_argument(flag, default=given, help=f"{text} (${variable})", metavar="…")
    found = vars(parser.parse_args(arguments))
    for name in ("namespace", "pod", "pod_ip"):
        if not found[name]:
            parser.error(f"--{name.replace('_', '-')} is missing")
    access = (
        Access(
            url=found["api_server"],
            token_file=Path(found["token_file"]) if found["token_file"] else None,
            authority_file=Path(found["authority_file"]) if found["authority_file"] else None,
        )
        if found["api_server"]
        else access_of_pod(environment)
    )
    return AgentSettings(
        namespace=found["namespace"],
        pod=found["pod"],
        pod_ip=found["pod_ip"],
        pod_uid=found["pod_uid"],
        node=found["node"],
        run_directory=Path(found["run_directory"]),
        admin=found["admin"],
        health_port=int(found["health_port"]),
        access=access,
        log_level=found["log_level"],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to end; return the exit status."""
    log = Log()
    try:
        settings = parse_agent_settings(sys.argv[1:] if arguments is None else arguments)
        log.level = settings.log_level
        # What was imported stays: nothing of it need be looked at again.
        gc.freeze()
        asyncio.run(run(settings, log))
    except (IsochroneError, OSError) as error:
        log.failure("ended", problem=str(error))
        return 1
    return 0


async def run(settings: AgentSettings, log: Log) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises ``OSError`` when the folder is not writable."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    api = Api(WireTransport(settings.access))
    admin = WireTransport(Access(url=settings.admin, token_file=None, authority_file=None))
    files = RunDirectory(settings.run_directory)
    dirty = asyncio.Event()
    reporter = Reporter(
        api=api, admin=admin, namespace=settings.namespace, pod=settings.pod, log=log
    )
    candidate = Candidate(
        api=api,
        place=LeasePlace(
            namespace=settings.namespace,
            name=names.CELL_LEASE,
            identity=settings.pod,
            labels=((names.LABEL_NAME, names.APP), (names.LABEL_MANAGED_BY, names.APP)),
            manager=names.AGENT_FIELD_MANAGER,
        ),
        times=CELL_TIMES,
        stubborn=True,
        log=log,
        wants=lambda: reporter.is_up,
        epoch_floor=files.last_epoch(),
        changed=dirty,
    )
    reporter.up_changed = candidate.nudge.set
    pods = Follower(
        api=api,
        resource=PODS,
        namespace=settings.namespace,
        labels=POD_SELECTOR,
        log=log,
        changed=dirty.set,
    )
    plan = Follower(
        api=api,
        resource=PLANS,
        namespace=settings.namespace,
        fields=f"metadata.name={names.CELL}",
        log=log,
        changed=dirty.set,
    )
    state = CellState(
        api=api,
        candidate=candidate,
        files=files,
        pods=pods,
        plan=plan,
        reporter=reporter,
        dirty=dirty,
        log=log,
        namespace=settings.namespace,
        pod=settings.pod,
        pod_ip=settings.pod_ip,
        pod_uid=settings.pod_uid,
        node=settings.node,
    )
    log.info("started", pod=settings.pod, namespace=settings.namespace)
    host = "::" if ":" in settings.pod_ip else "0.0.0.0"  # noqa: S104 - kubelet asks
    pages = {"/healthz": check(lambda: problem_of(reporter))}
    server = await serve(pages, host=host, port=settings.health_port)
    try:
        await _run_until(stop, state, log)
    finally:
        server.close()
    await api.close()
    await admin.close()
    log.info("ended")


def problem_of(reporter: Reporter) -> str | None:
    """Return what is wrong with the agent; None while it beats, whatever its gateway does."""
    silent_s = time.monotonic() - reporter.beat_s
    return None if silent_s < STUCK_S else f"the agent has hung for {silent_s:.0f} s"


async def _run_until(stop: asyncio.Event, state: CellState, log: Log) -> None:
    work = [
        asyncio.create_task(it, name=name)
        for name, it in (
            ("lease", state.candidate.run()),
            ("pods", state.pods.run()),
            ("plan", state.plan.run()),
            ("files", state.run()),
            ("service", state.lead_service()),
            ("report", state.reporter.run()),
        )
    ]
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait({*work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        led = state.handing_over = stopped in done and state.candidate.leads()
        # Also when it does not lead: the Lease may be on its way to this process, or stay behind.
        await state.candidate.release()
        if led:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HANDOVER_S):
                    await _next_leader(state, log)
    finally:
        for task in (*work, stopped):
            task.cancel()
        await asyncio.gather(*work, stopped, return_exceptions=True)
    for task in work:
        if task in done and (error := task.exception()) is not None:
            raise error


async def _next_leader(state: CellState, log: Log) -> None:
    """Wait until another process leads the cell, and tell the gateway."""
    mine = state.candidate.epoch
    while True:
        with contextlib.suppress(IsochroneError):
            seen = await state.candidate.look()
            if seen is not None and seen.transitions > mine:
                state.handing_over = False
                state.write_files()
                log.info("handed_over", to=seen.holder, epoch=seen.transitions)
                return
        await asyncio.sleep(HANDOVER_LOOK_S)
