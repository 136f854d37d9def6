"""Triton Inference Server beside us: installed apart, started, and given one configuration at a time.

Called by ``live``. The server is the one that the package ``nvidia-pytriton`` carries; it goes into a
virtual environment of its own, since none of it belongs to this project's dependencies. Its Python
backend is used directly, without pytriton's proxy, which costs milliseconds.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec

from isochrone.catalog import Variant
from isochrone.errors import SetupError
from isochrone.trace import ActionRecord
from isochrone.units import MIB
from isochrone_cli.machine import Machine
from isochrone_cli.processes import Child, stop_all

PACKAGE: Final = "nvidia-pytriton"
VERSION: Final = "0.7.0"
ENVIRONMENT: Final = Path("build/triton-venv")
UV: Final = Path("build/tools/uv/bin/uv")
MODEL: Final = "tags"
MODEL_PROGRAM: Final = Path(__file__).with_name("live_triton_model.py")
START_TIMEOUT_S: Final = 60.0
LOAD_TIMEOUT_S: Final = 120.0
EXIT_TIMEOUT_S: Final = 3
"""How long Triton may take to end what is under way; below the bound after which it is killed."""
SHARED_MEMORY_BYTES: Final = 64 * MIB
"""Between Triton and its Python model. From the start so large that it never has to grow."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Knobs:
    """What is swept. A queue of 0 has no bound, as Triton has it.

    Requests have no time-outs of their own: they all have the same objective, so the default says it.
    """

    timeout_ms: int
    queue_max: int
    batch_max: int

    def text(self) -> str:
        """Return the knobs for a person."""
        bound = f"at most {self.queue_max} wait" if self.queue_max else "any number waits"
        return f"queue time-out {self.timeout_ms} ms, {bound}, batches to {self.batch_max}"


def install() -> Path:
    """Return the folder of Triton's server, installed if need be.

    Raises ``SetupError`` with the reason where that is not possible here.
    """
    python = ENVIRONMENT / "bin" / "python"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = (
        ENVIRONMENT / "lib" / f"python{minor}" / "site-packages" / "pytriton" / "tritonserver"
    ).absolute()
    installed = ENVIRONMENT / f".{PACKAGE}-{VERSION}"
    if not installed.exists():
        if not UV.exists():
            message = f"there is no {UV}: run make setup, in the repository's root"
            raise SetupError(message)
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        _run(str(UV), "venv", "--quiet", "--python", sys.executable, str(ENVIRONMENT))
        requirement = f"{PACKAGE}=={VERSION}"
        # The server alone: what pytriton's own Python modules depend on is not used.
        _run(
            *(str(UV), "pip", "install", "--quiet", "--python", str(python)),
            *("--no-deps", "--only-binary", PACKAGE, requirement),
        )
        installed.touch()
    stub = server / "python_backend_stubs" / minor / "triton_python_backend_stub"
    if not stub.exists():
        message = f"{PACKAGE} {VERSION} has no Triton for Python {minor}: {stub} is missing"
        raise SetupError(message)
    shutil.copy(stub, server / "backends" / "python" / stub.name)
    for program in (server / "bin" / "tritonserver", stub):
        _check_libraries(program)
    return server


class Triton:
    """The running server. Use it as a context manager: leaving it stops every process of it."""

    def __init__(
        self,
        server: Path,
        *,
        variant: Variant,
        cores: tuple[int, ...],
        machine: Machine,
        store: Path,
        folder: Path,
    ) -> None:
        self._variant = variant
        self._instances = len(cores)
        self._logs = folder / "triton-logs"
        self._repository = folder / "triton-models"
        self._port = _free_port()
        self._loaded = False
        self._child = Child(
            name="Triton",
            command=(
                # It has no flag of its own for this.
                *("setpriv", "--pdeathsig", "TERM"),
                *(str(server / "bin" / "tritonserver"), "--model-control-mode", "explicit"),
                *("--model-repository", str(self._repository)),
                *("--backend-directory", str(server / "backends")),
                *("--cache-directory", str(server / "caches")),
                *("--http-address", "127.0.0.1", "--http-port", str(self._port)),
                *("--allow-grpc", "false", "--allow-metrics", "false"),
                *("--exit-timeout-secs", str(EXIT_TIMEOUT_S)),
                *("--backend-config", f"python,shm-default-byte-size={SHARED_MEMORY_BYTES}"),
            ),
            log=folder / "triton.log",
            cores=(machine.gateway_core,),
            environment=_environment()
            | {
                "LIVE_PYTHON_PATH": os.pathsep.join(path for path in sys.path if path),
                "LIVE_CORES": ",".join(str(core) for core in cores),
                "LIVE_STORE": str(store),
                "LIVE_SHA256": variant.artifact.sha256,
                "LIVE_LOGS": str(self._logs),
                # What the executor sets for itself: memory that is freed stays in the process.
                "MALLOC_MMAP_THRESHOLD_": str(32 * MIB),
                "MALLOC_TRIM_THRESHOLD_": str(1024 * MIB),
                "OMP_NUM_THREADS": "1",
            },
        )

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def path(self) -> str:
        """Where inferences are asked for."""
        return f"/v2/models/{MODEL}/infer"

    def __enter__(self) -> Self:
        self._logs.mkdir()
        version = self._repository / MODEL / "1"
        version.mkdir(parents=True)
        shutil.copy(MODEL_PROGRAM, version / "model.py")
        try:
            self._child.start()
            self._wait_until_live()
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
        """Stop the server, and what processes of its models may be left."""
        stop_all([self._child])
        if self._child.process is not None:
            try:
                os.killpg(self._child.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def configure(self, knobs: Knobs) -> None:
        """Serve the model with ``knobs``, in place of what was served. ``SetupError`` on failure."""
        self.unload()
        config = msgspec.json.encode(self._config(knobs)).decode()
        self._post("load", {"parameters": {"config": config}})
        self._loaded = True

    def unload(self) -> None:
        """Serve nothing; return when the model's processes have ended, and their logs are whole."""
        if not self._loaded:
            return
        self._loaded = False
        self._post("unload", {})
        self._wait(lambda: self._state() == "unloaded", LOAD_TIMEOUT_S, "unload its model")

    def actions(self) -> list[ActionRecord]:
        """Return every inference that was run, in the form of our traces. Unload first."""
        found: list[ActionRecord] = []
        for log in sorted(self._logs.iterdir()):
            for line in log.read_text(encoding="ascii").splitlines():
                begin, end, rows = (int(number) for number in line.split())
                found.append(
                    ActionRecord(
                        action=len(found),
                        kind="infer",
                        # One instance after another on the same core is one worker.
                        worker=log.name.rpartition("-")[0],
                        variant=self._variant.id,
                        sent=begin,
                        status="ok",
                        batch_size=rows,
                        rows=rows,
                        begin=begin,
                        end=end,
                        duration_ns=end - begin,
                    )
                )
        return found

    def _config(self, knobs: Knobs) -> dict[str, Any]:
        # As Triton's ModelConfig has it. Batches form of what waits; none waits to be formed.
        queue = {
            "timeout_action": "REJECT",
            "default_timeout_microseconds": 1000 * knobs.timeout_ms,
            "max_queue_size": knobs.queue_max,
        }
        return {
            "backend": "python",
            "max_batch_size": knobs.batch_max,
            "input": [{"name": "image", "data_type": "TYPE_UINT8", "dims": [260, 260, 3]}],
            "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": [1000]}],
            "instance_group": [{"kind": "KIND_CPU", "count": self._instances}],
            "dynamic_batching": {"default_queue_policy": queue},
        }

    def _state(self) -> str:
        reply = httpx.post(f"{self.url}/v2/repository/index", timeout=LOAD_TIMEOUT_S)
        (model,) = (it for it in reply.json() if it["name"] == MODEL)
        return str(model.get("reason") or model.get("state"))

    def _post(self, verb: str, body: dict[str, Any]) -> None:
        reply = httpx.post(
            f"{self.url}/v2/repository/models/{MODEL}/{verb}",
            content=msgspec.json.encode(body),
            timeout=LOAD_TIMEOUT_S,
        )
        if not reply.is_success:
            message = f"Triton could not {verb} the model: {reply.text}\n{self._child.last_words()}"
            raise SetupError(message)

    def _wait_until_live(self) -> None:
        def is_live() -> bool:
            try:
                return httpx.get(f"{self.url}/v2/health/live", timeout=2.0).is_success
            except httpx.TransportError:
                return False

        self._wait(is_live, START_TIMEOUT_S, "start")

    def _wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        until = time.monotonic() + timeout_s
        while self._child.running and time.monotonic() < until:
            if done():
                return
            time.sleep(0.05)
        message = f"Triton did not {what} within {timeout_s:g} s: {self._child.last_words()}"
        raise SetupError(message)


def _environment() -> dict[str, str]:
    """Return where Triton finds the very Python that this program runs in."""
    return {
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
        "PYTHONHOME": sys.base_prefix,
    }


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        message = f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}"
        raise SetupError(message)


def _check_libraries(program: Path) -> None:
    """Raise ``SetupError`` that names the libraries, or their versions, that ``program`` misses."""
    done = subprocess.run(
        ["ldd", str(program)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **_environment()},
    )
    words = (done.stdout + done.stderr).splitlines()
    missing = [line.strip() for line in words if "not found" in line]
    if done.returncode or missing:
        message = (
            f"{program.name} cannot run here: {'; '.join(missing) or done.stderr.strip()} (a missing "
            "libpython: apt-get install libpython3-dev; a missing GLIBC: a newer distribution)"
        )
        raise SetupError(message)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
