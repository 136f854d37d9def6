"""What a gateway is told when it starts: one JSON file.

Read by ``main``; written by the command line in local mode, and by the operator in a cluster.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec

from isochrone.errors import UNREADABLE, SetupError
from isochrone.scheduling.settings import Settings
from isochrone.units import GIB, KIB, MIB, Bytes

PORT_MAX: Final = 65_535
"""RFC 9293, section 3.1: the field has 16 bits."""

Port = Annotated[int, msgspec.Meta(ge=0, le=PORT_MAX)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Address(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to listen. Port 0 lets the system choose."""

    host: str = "127.0.0.1"
    port: Port = 0


class ExecutorAddress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One executor to dial: ``unix:/path`` or ``tcp:host:port``."""

    worker: Annotated[str, msgspec.Meta(min_length=1)]
    address: Annotated[str, msgspec.Meta(pattern=r"^(unix:.+|tcp:.+:\d{1,5})$")]

    def __post_init__(self) -> None:
        """Reject a port that there is not: the event loop would dial its last 16 bits."""
        if self.address.startswith("tcp:") and int(self.address.rpartition(":")[2]) > PORT_MAX:
            raise ValueError(f"{self.address}: give a port up to {PORT_MAX}")


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of what clients may do to a gateway."""

    connections_max: Positive = 4096
    """Connections at once on one listener; more are told 503."""

    head_bytes_max: Positive = 16 * KIB
    """A request head; tokens and cookies of proxies fit."""

    body_bytes_max: Annotated[Bytes, msgspec.Meta(ge=1, le=2 * GIB)] = 64 * MIB
    """One body: over 300 images of 202,800 bytes."""

    bodies_bytes_max: Positive = 1 * GIB
    """Memory for all bodies that are being received or wait for their answer; those of a few KiB, which
    come whole with their head, are bounded by the connections."""

    head_timeout_s: Seconds = 10.0
    """From the first byte of a head to its last."""

    body_timeout_s: Seconds = 30.0
    """From the head to the last byte of its body."""

    idle_timeout_s: Seconds = 75.0
    """A kept connection without a request; also a client that does not read its reply."""

    drain_timeout_s: Seconds = 10.0
    """After SIGTERM, how long requests under way may take to end."""

    ping_interval_s: Seconds = 1.0
    """Between two pings to an executor."""

    ping_timeout_s: Seconds = 10.0
    """Silence of a pinged or dialed executor after which its link is dead: an executor answers
    between two inferences, so this must be longer than the longest of them."""

    redial_min_s: Seconds = 0.02
    """Pause before an executor is dialed again; it doubles with each failure …"""

    redial_max_s: Seconds = 1.0
    """… up to this."""

    handover_timeout_s: Seconds = 2.0
    """How long what runs on executors may take to end once another gateway leads."""

    leaving_timeout_s: Seconds = 20.0
    """The same on an executor that is leaving: somewhat less than its pod is given to end."""


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this gateway is to executors, and who they must be.

    ``directory`` holds its ``tls.crt``, ``tls.key`` and ``ca.crt``; ``peer`` is the DNS name that
    every executor's certificate must have.
    """

    directory: Path
    peer: Annotated[str, msgspec.Meta(min_length=1)]


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file.

    Either ``epoch`` and ``executors`` stand here, or ``cell_path`` names the file that says them and
    may change at any time (see ``cell_file``). ``tls`` is for executors that are dialed by TCP.
    ``admin`` serves everything, ``health`` only what probes and scrapes from outside may see.
    ``namespace`` decides between services of equal name. ``ready_path`` is written once the ports
    are bound: JSON of ``port``, ``admin_port``, ``health_port`` (where there is one) and ``pid``.
    ``trace_path`` is appended to until it has ``trace_bytes_max``: some three million requests by default.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    plan_path: Path
    epoch: Annotated[int, msgspec.Meta(ge=0)] | None = None
    executors: tuple[ExecutorAddress, ...] = ()
    cell_path: Path | None = None
    tls: Tls | None = None
    listen: Address = Address()
    admin: Address = Address()
    health: Address | None = None
    namespace: str = ""
    trace_path: Path | None = None
    trace_bytes_max: Positive = 2 * GIB
    ready_path: Path | None = None
    die_with_parent: bool = False
    settings: Settings = Settings()
    limits: Limits = Limits()


def read_config(path: Path) -> GatewayConfig:
    """Return the configuration in ``path``.

    Raises ``SetupError`` when the file cannot be read or does not say what it must.
    """
    try:
        config = msgspec.json.decode(path.read_bytes(), type=GatewayConfig, dec_hook=_read_path)
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}"
        raise SetupError(message) from error
    except UNREADABLE as error:
        message = f"{path}: no gateway configuration: {error}"
        raise SetupError(message) from error
    if config.cell_path is None and config.epoch is None:
        raise SetupError(f"{path}: it says no epoch: give epoch and executors, or cell_path")
    if config.cell_path is not None and (config.epoch is not None or config.executors):
        message = f"{path}: cell_path names the file of epoch and executors: leave them out here"
        raise SetupError(message)
    twice = named_twice(config.executors)
    if twice is not None:
        message = f"{path}: executor {twice} is named twice: give each worker a name of its own"
        raise SetupError(message)
    return config


def named_twice(executors: tuple[ExecutorAddress, ...]) -> str | None:
    """Return a worker that stands twice among ``executors``, if one does."""
    workers = [executor.worker for executor in executors]
    return next((worker for worker in workers if workers.count(worker) > 1), None)


def _read_path(kind: type, value: object) -> object:
    """Decode the one type of the configuration that JSON and msgspec do not know."""
    if kind is not Path or not isinstance(value, str):
        message = f"Expected a path, got {value!r}"
        raise ValueError(message)
    return Path(value)
