"""The demo's load: phases of open-loop requests, and probes of the executors between them.

Called by ``demo`` and by ``bench``. The load client is a process of its own, on the gateway's core;
the probes ask the gateway to run each batch size on idle executors, so that saturation is what they
can do *now*.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import numpy as np

from isochrone.errors import SetupError
from isochrone.ids import VariantId, split_qualified
from isochrone_cli.cell import Cell
from isochrone_cli.clairvoyance import BatchTime, saturation_rps
from isochrone_cli.console import Say
from isochrone_cli.load_spec import (
    LoadRecord,
    LoadRun,
    LoadSpec,
    OpenLoop,
    Phase,
    Stream,
    Target,
    read_result,
    write_spec,
)
from isochrone_cli.machine import Machine
from isochrone_cli.prepare import Prepared

PROBE_ROUNDS: Final = 20
PROBE_TIMEOUT_S: Final = 90.0
QUIET_TIMEOUT_S: Final = 10.0
"""How long the gateway may take to be without traffic before a probe."""
WARM_UP_S: Final = 2.0
"""What is scheduled in a phase's first seconds is not counted."""
IMAGES: Final = 64
"""Different rows that the client sends in turn. They are noise: what a picture shows changes neither
its size nor the time that it takes."""


class DemoLoad:
    """Drives one cell. ``probes`` is what it measured, ``targets`` one entry per planned service."""

    def __init__(
        self, cell: Cell, prepared: Prepared, *, machine: Machine, folder: Path, seed: int
    ) -> None:
        self.probes: list[BatchTime] = []
        self._cell = cell
        self._prepared = prepared
        self._machine = machine
        self._folder = folder
        self._seed = seed
        self.targets = self._make_targets()

    def phase(
        self, multiple: float, name: str, seconds: float, say: Say
    ) -> tuple[LoadRun, list[LoadRecord]]:
        """Probe, then load at ``multiple`` of the saturation so measured, in the declared mix."""
        latest = self.probe(say)
        mix = {
            service.id: round(1_000 * service.load.peak_rate_rps)
            for service in self._prepared.demand.services
            if self._prepared.document.plan.service(service.id)
        }
        saturation = saturation_rps(self._prepared.document.plan, latest, mix)
        if saturation is None:
            message = "no probe measured what the plan runs: there is nothing to refer the load to"
            raise SetupError(message)
        total = sum(mix.values())
        streams = tuple(
            Stream(target=service, rate_rps=multiple * saturation * share / total)
            for service, share in mix.items()
        )
        rates = ", ".join(f"{split_qualified(it.target)[1]} {it.rate_rps:.0f}/s" for it in streams)
        say(f"  {name}: saturation is {saturation:.0f} requests/s; {seconds:.0f} s of {rates}")
        self._post("/admin/phase", {"name": name}, timeout_s=QUIET_TIMEOUT_S)
        self._seed += 1
        length_s = seconds + WARM_UP_S
        spec = LoadSpec(
            url=self._cell.url,
            seed=self._seed,
            targets=self.targets,
            load=OpenLoop(
                phases=(
                    Phase(
                        name=name,
                        duration_s=length_s,
                        warm_up_s=WARM_UP_S,
                        streams=streams,
                    ),
                )
            ),
        )
        with say.waiting(name, length_s):
            run, records = self._send(spec, multiple)
        if run.void:
            say(f"  void: {'; '.join(run.void)}; once more")
            with say.waiting(name, length_s):
                self._wait_until_quiet()
                run, records = self._send(spec, multiple)
        return run, records

    def probe(self, say: Say) -> list[BatchTime]:
        """Measure every batch size on every executor; return this probe's times alone."""
        with say.waiting("probing the executors"):
            self._wait_until_quiet()
            reply = self._post("/admin/probe", {"rounds": PROBE_ROUNDS}, timeout_s=PROBE_TIMEOUT_S)
        times = [
            BatchTime(
                variant=VariantId(probe["variant"]),
                batch_size=probe["batch_size"],
                mean_ns=int(probe["mean_ns"]),
                samples=PROBE_ROUNDS,
            )
            for probe in reply["probes"]
        ]
        self.probes += times
        say(f"  probe: {len(times)} batch sizes on idle executors, {PROBE_ROUNDS} runs each")
        return times

    def _make_targets(self) -> tuple[Target, ...]:
        models = {model.id: model for model in self._prepared.catalog.models}
        targets: list[Target] = []
        for service in self._prepared.demand.services:
            if not self._prepared.document.plan.service(service.id):
                continue
            model = models[service.model]
            tensor = model.inputs[0]
            pool = self._folder / f"{tensor.name}.rows"
            if not pool.exists() or pool.stat().st_size != IMAGES * tensor.row_bytes:
                random = np.random.default_rng(self._seed)
                pool.write_bytes(random.bytes(IMAGES * tensor.row_bytes))
            targets.append(
                Target(
                    name=service.id,
                    path=f"/v2/models/{split_qualified(service.id)[1]}/infer",
                    pool_path=str(pool),
                    row_bytes=tensor.row_bytes,
                    input_name=tensor.name,
                    datatype=tensor.datatype.value,
                    shape=tensor.shape[1:],
                    output_name=model.outputs[0].name,
                )
            )
        return tuple(targets)

    def _send(self, spec: LoadSpec, multiple: float) -> tuple[LoadRun, list[LoadRecord]]:
        return send(spec, self._folder, f"load-{multiple:g}x", core=self._machine.gateway_core)

    def _wait_until_quiet(self) -> None:
        until = time.monotonic() + QUIET_TIMEOUT_S
        while time.monotonic() < until:
            state = httpx.get(f"{self._cell.admin_url}/admin/state").json()
            if not state["admitted"]:
                return
            time.sleep(0.05)
        message = f"the gateway still has requests under way after {QUIET_TIMEOUT_S:.0f} s"
        raise SetupError(message)

    def _post(self, path: str, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        reply = httpx.post(
            f"{self._cell.admin_url}{path}", content=msgspec.json.encode(body), timeout=timeout_s
        )
        if not reply.is_success:
            message = f"{path} answered {reply.status_code}: {reply.text}"
            raise SetupError(message)
        answer: dict[str, Any] = reply.json()
        return answer


def send(spec: LoadSpec, folder: Path, name: str, *, core: int) -> tuple[LoadRun, list[LoadRecord]]:
    """Run the load client on ``core`` as ``spec`` says; its files are ``name`` in ``folder``.

    Raises ``SetupError`` when the client fails.
    """
    described, result = folder / f"{name}.json", folder / f"{name}.jsonl"
    write_spec(described, spec)
    command = (sys.executable, "-m", "isochrone_cli.load", "--spec", str(described))
    with subprocess.Popen(
        (*command, "--out", str(result)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as client:
        os.sched_setaffinity(client.pid, {core})
        try:
            _, words = client.communicate()
        except BaseException:
            client.send_signal(signal.SIGTERM)
            raise
    if client.returncode:
        message = f"the load client ended with {client.returncode}: {words.decode().strip()}"
        raise SetupError(message)
    return read_result(result)
