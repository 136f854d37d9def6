"""One cell on this machine: a gateway, its executors, and the files between them.

Called by ``up`` and ``demo``. Executors get whole cores of their own; the gateway gets the core
that is left. Everything lies in one run folder: sockets, logs, configuration, plan, trace.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec

from isochrone.errors import SetupError
from isochrone.fleet import Fleet, Pool
from isochrone.plan import Group, Plan
from isochrone.plan_document import PlanDocument, encode
from isochrone_cli.machine import Machine
from isochrone_cli.processes import Child, stop_all

READY_TIMEOUT_S: Final = 120.0
"""How long all planned variants may take to be loaded. Big models load in seconds."""

POLL_S: Final = 0.05

ADMIN_HOST: Final = "127.0.0.1"
"""Metrics, state and probes stay on this machine, wherever requests are taken from."""

SOCKET_PATH_MAX: Final = 100
"""Bytes that a Unix socket's path may have (the kernel's limit is 108)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One executor: its name, its group, its pool and the cores that are its own."""

    worker: str
    group: Group
    pool: Pool
    cores: tuple[int, ...]


def place(plan: Plan, fleet: Fleet, machine: Machine) -> tuple[Placement, ...]:
    """Return an executor for each replica of each group, on cores of its own.

    Raises ``SetupError`` when the plan needs more cores than there are: it was made elsewhere.
    """
    free = list(machine.executor_cores)
    placements: list[Placement] = []
    for group in plan.groups:
        pool = fleet.pool(group.pool)
        for replica in range(group.replicas):
            if len(free) < pool.cores:
                message = (
                    f"the plan needs {sum(fleet.pool(g.pool).cores * g.replicas for g in plan.groups)}"
                    f" cores for executors; this machine has {len(machine.executor_cores)}"
                )
                raise SetupError(message)
            cores, free = tuple(free[: pool.cores]), free[pool.cores :]
            worker = f"{group.id}-{replica}"
            placements.append(Placement(worker=worker, group=group, pool=pool, cores=cores))
    return tuple(placements)


class Cell:
    """The running cell. Use it as a context manager: leaving it stops every process."""

    def __init__(
        self,
        document: PlanDocument,
        *,
        fleet: Fleet,
        machine: Machine,
        store: Path,
        run_directory: Path,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        traced: bool = True,
    ) -> None:
        self.placements = place(document.plan, fleet, machine)
        self.run_directory = run_directory
        self.trace_path = run_directory / "trace.jsonl"
        self._traced = traced
        self._document = document
        self._machine = machine
        self._store = store
        self._ready_path = run_directory / "gateway-ready.json"
        self._host, self._port = listen
        self._gateway: Child | None = None
        self._executors: list[Child] = []
        self._addresses: dict[str, Any] = {}

    @property
    def is_reachable(self) -> bool:
        """Whether the gateway has said where it listens; ``url`` and ``admin_url`` need that."""
        if not self._addresses and self._ready_path.exists():
            self._addresses = msgspec.json.decode(self._ready_path.read_bytes())
        return bool(self._addresses)

    @property
    def url(self) -> str:
        """Where requests go."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._addresses['port']}"

    @property
    def admin_url(self) -> str:
        """Where metrics, state and probes are."""
        return f"http://{ADMIN_HOST}:{self._addresses['admin_port']}"

    @property
    def children(self) -> list[Child]:
        """The gateway and the executors."""
        return [*([self._gateway] if self._gateway else []), *self._executors]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every process: the gateway first, so that no request meets a dead executor."""
        if self._gateway is not None:
            stop_all([self._gateway])
        stop_all(self._executors)

    def revive(self, notice: Callable[[str], None]) -> None:
        """Restart what has ended, and tell ``notice`` so. Called every now and then.

        Raises ``SetupError`` for what cannot start, or has ended too often.
        """
        for child in self.children:
            if not child.running:
                if child.complaint:
                    raise SetupError(f"{child.name} cannot start: {child.complaint}")
                code = child.process.returncode if child.process else None
                notice(f"{child.name} ended with status {code}; starting it again")
                if child is self._gateway:
                    # It may come back on other ports.
                    self._ready_path.unlink(missing_ok=True)
                    self._addresses = {}
                child.start()

    def wait_until_ready(self, notice: Callable[[str], None]) -> None:
        """Wait until every planned variant is loaded. Raises ``SetupError`` past the bound."""
        until = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until:
            self.revive(notice)
            if self._answers_ready():
                return
            time.sleep(POLL_S)
        words = "\n".join(f"--- {child.name}\n{child.last_words()}" for child in self.children)
        message = f"not ready within {READY_TIMEOUT_S:.0f} s; the last words:\n{words}"
        raise SetupError(message)

    def _answers_ready(self) -> bool:
        if not self.is_reachable:
            return False
        try:
            return httpx.get(f"{self.admin_url}/readyz", timeout=2.0).is_success
        except httpx.TransportError:
            return False

    def _start(self) -> None:
        self.run_directory.mkdir(parents=True, exist_ok=True)
        self._ready_path.unlink(missing_ok=True)
        self.trace_path.unlink(missing_ok=True)
        (self.run_directory / "plan.json").write_bytes(encode(self._document))
        sockets = {placed.worker: self._socket(placed.worker) for placed in self.placements}
        for placed in self.placements:
            self._executors.append(self._executor(placed, sockets[placed.worker]))
        config = self.run_directory / "gateway.json"
        config.write_bytes(
            msgspec.json.format(msgspec.json.encode(self._config(sockets)), indent=1)
        )
        self._gateway = Child(
            name="gateway",
            command=(sys.executable, "-m", "isochrone_gateway", "--config", str(config)),
            log=self.run_directory / "gateway.log",
            cores=(self._machine.gateway_core,),
        )
        for child in self.children:
            child.log.unlink(missing_ok=True)
            child.start()

    def _socket(self, worker: str) -> Path:
        path = self.run_directory / f"{worker}.sock"
        if len(os.fsencode(path.absolute())) > SOCKET_PATH_MAX:
            message = f"{path.absolute()} is too long for a Unix socket: give a shorter --run-dir"
            raise SetupError(message)
        return path.absolute()

    def _executor(self, placed: Placement, socket: Path) -> Child:
        return Child(
            name=f"executor {placed.worker}",
            command=(
                *(sys.executable, "-m", "isochrone_executor", "--die-with-parent"),
                *("--listen", f"unix:{socket}", "--worker", placed.worker),
                *("--group", placed.group.id, "--pool", placed.pool.id),
                *("--store", str(self._store), "--memory-bytes", str(placed.pool.memory_bytes)),
                *("--cores", ",".join(str(core) for core in placed.cores)),
            ),
            log=self.run_directory / f"{placed.worker}.log",
            cores=placed.cores,
        )

    def _config(self, sockets: dict[str, Path]) -> dict[str, Any]:
        return {
            "name": "local",
            "epoch": 1,
            "listen": {"host": self._host, "port": self._port},
            "admin": {"host": ADMIN_HOST, "port": 0},
            "plan_path": str((self.run_directory / "plan.json").absolute()),
            "ready_path": str(self._ready_path.absolute()),
            "trace_path": str(self.trace_path.absolute()) if self._traced else None,
            "die_with_parent": True,
            "executors": [
                {"worker": worker, "address": f"unix:{socket}"}
                for worker, socket in sockets.items()
            ],
        }
