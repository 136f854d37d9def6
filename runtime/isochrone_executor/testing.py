"""What tests of an executor need: a gateway that is a plain socket, and a process to talk to.

Called by tests of this package and of programs that run executors. ``Gateway`` is a small honest
gateway: it says one thing at a time and waits for the answer, with the protocol's own session.
"""

import json
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final, Protocol, TypedDict, Unpack

from isochrone.catalog import Datatype, TensorSpec
from isochrone.protocol.framing import Frame
from isochrone.protocol.messages import (
    PROTOCOL_VERSION,
    Goodbye,
    Hello,
    InferBatch,
    LoadVariant,
    Message,
    Result,
    UnloadVariant,
    Welcome,
)
from isochrone.protocol.session import Role, Session
from isochrone.units import MILLISECOND, SECOND, Nanoseconds
from isochrone_executor.backends.synthetic import (
    SyntheticExtras,
    make_synthetic_artifact,
    synthetic_answer,
)

INPUTS: Final = (TensorSpec(name="x", datatype=Datatype.UINT8, shape=(-1, 256)),)
OUTPUTS: Final = (TensorSpec(name="y", datatype=Datatype.FP32, shape=(-1, 10)),)
ROW_IN: Final = 256
ROW_OUT: Final = 40
PATIENCE_S: Final = 20.0


class LoadOptions(TypedDict, total=False):
    """What ``Gateway.load`` may be told; see ``begin_load``."""

    variant: str
    batch_sizes: tuple[int, ...]
    window: tuple[int, int]
    backend: str


class InferOptions(TypedDict, total=False):
    """What ``Gateway.infer`` may be told; see ``begin_infer``."""

    variant: str
    batch_size: int
    rows: int
    window: tuple[int, int]


class Gateway:
    """The gateway's end of one link: says one thing at a time, and waits for what comes."""

    def __init__(
        self, address: str, *, tls: ssl.SSLContext | None = None, peer: str | None = None
    ) -> None:
        """Dial ``address``; with ``tls`` encrypted, where the executor's name must be ``peer``."""
        kind, _, place = address.partition(":")
        if kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.connect(place)
        else:
            host, _, port = place.rpartition(":")
            self.socket = socket.create_connection((host, int(port)))
        self.socket.settimeout(PATIENCE_S)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=peer)
        self.session = Session(Role.GATEWAY, place=self._place)
        self._actions = 0

    def _place(self, _message: Message, payload_bytes: int) -> tuple[memoryview, ...]:
        return (memoryview(bytearray(payload_bytes)),)

    def say(self, message: Message, payload: bytes = b"") -> None:
        """Send ``message`` and its payload."""
        self.socket.sendall(self.session.send(message, payload_bytes=len(payload)) + payload)

    def hear(self) -> Frame:
        """Return the next frame; ``EOFError`` when the executor closed the link."""
        while (frame := self.session.next_frame()) is None:
            try:
                count = self.socket.recv_into(self.session.get_buffer())
            except ConnectionResetError:
                count = 0
            if not count:
                raise EOFError
            self.session.received(count)
        return frame

    def hear_result(self) -> Result:
        """Return the next message, which must be a Result."""
        message = self.hear().message
        assert isinstance(message, Result), message
        return message

    def hear_goodbye(self) -> str:
        """Return the reason of the Goodbye that ends this link."""
        message = self.hear().message
        assert isinstance(message, Goodbye), message
        try:
            after = self.hear()
        except EOFError:
            return message.reason
        text = f"{after.message} came after Goodbye"
        raise AssertionError(text)

    def greet(self, *, name: str = "gateway-a", epoch: int = 1) -> Hello:
        """Answer Hello with Welcome, and return the Hello."""
        hello = self.hear().message
        assert isinstance(hello, Hello)
        self.say(Welcome(version=PROTOCOL_VERSION, gateway=name, epoch=epoch))
        return hello

    def begin_load(
        self,
        sha256: str,
        *,
        variant: str = "ns/v",
        batch_sizes: tuple[int, ...] = (1, 4),
        window: tuple[int, int] | None = None,
        backend: str = "synthetic",
    ) -> int:
        """Command a load, and return the action's number."""
        self._actions += 1
        earliest, latest = window or any_time()
        self.say(
            LoadVariant(
                action=self._actions,
                variant=variant,
                sha256=sha256,
                backend=backend,
                batch_sizes=batch_sizes,
                earliest=earliest,
                latest=latest,
                expected_ns=0,
            )
        )
        return self._actions

    def load(self, sha256: str, **options: Unpack[LoadOptions]) -> Result:
        """Command a load, and return how it went."""
        action = self.begin_load(sha256, **options)
        result = self.hear_result()
        assert action == result.action
        return result

    def unload(self, variant: str = "ns/v", window: tuple[int, int] | None = None) -> Result:
        """Command an unload, and return how it went."""
        self._actions += 1
        earliest, latest = window or any_time()
        self.say(
            UnloadVariant(
                action=self._actions,
                variant=variant,
                earliest=earliest,
                latest=latest,
                expected_ns=0,
            )
        )
        return self.hear_result()

    def begin_infer(
        self,
        payload: bytes,
        *,
        variant: str = "ns/v",
        batch_size: int = 1,
        rows: int = 1,
        window: tuple[int, int] | None = None,
    ) -> int:
        """Command an inference, and return the action's number."""
        message = self.infer_message(
            variant=variant, batch_size=batch_size, rows=rows, window=window
        )
        self.say(message, payload)
        return message.action

    def infer_message(
        self,
        *,
        variant: str = "ns/v",
        batch_size: int = 1,
        rows: int = 1,
        window: tuple[int, int] | None = None,
    ) -> InferBatch:
        """Return the message of an inference, unsent."""
        self._actions += 1
        earliest, latest = window or any_time()
        return InferBatch(
            action=self._actions,
            variant=variant,
            batch_size=batch_size,
            rows=rows,
            earliest=earliest,
            latest=latest,
            expected_ns=0,
        )

    def infer(self, payload: bytes, **options: Unpack[InferOptions]) -> tuple[Result, bytes]:
        """Command an inference, and return how it went and the outputs."""
        action = self.begin_infer(payload, **options)
        return self.hear_answer(action)

    def hear_answer(self, action: int) -> tuple[Result, bytes]:
        """Return the Result of ``action``, which must be next, and its payload."""
        frame = self.hear()
        assert isinstance(frame.message, Result), frame.message
        assert action == frame.message.action
        return frame.message, b"".join(frame.payload)

    def close(self) -> None:
        """Close the link without a word."""
        self.socket.close()


class ExecutorProcess:
    """A running executor; ``events`` grows with each line that it logs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.rest: list[str] = []
        self._heard = threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._heard:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.rest.append(line)
                self._heard.notify_all()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the first line about ``event``, once it is there."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [line for line in self.events if line["event"] == event]
            return bool(found)

        with self._heard:
            assert self._heard.wait_for(is_there, timeout=PATIENCE_S), (self.events, self.rest)
        return found[0]

    @property
    def address(self) -> str:
        """What gateways dial."""
        address = self.wait_for("listening")["address"]
        assert isinstance(address, str)
        return address

    def stop_when_done(self) -> int:
        """Wait until the process ends by itself, and return its exit status."""
        self.process.wait(timeout=PATIENCE_S)
        return self.stop()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the process, wait for its end, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout=PATIENCE_S)
        self._thread.join(PATIENCE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


class StartExecutor(Protocol):
    """Starts an executor process."""

    def __call__(
        self, *extra: str, listen: str = "", memory_bytes: int = 1 << 30, cores: str = ""
    ) -> ExecutorProcess:
        """Start one that listens on ``listen``, with the further arguments ``extra``."""
        ...


class Dial(Protocol):
    """Connects a gateway to an executor process."""

    def __call__(self, executor: ExecutorProcess) -> Gateway:
        """Connect to ``executor``."""
        ...


def any_time() -> tuple[int, int]:
    """Return a window that is open now, and for a minute."""
    return 0, time.monotonic_ns() + 60 * SECOND


def rows_of(*seeds: int) -> bytes:
    """Return input rows that all differ, one per seed."""
    return b"".join(bytes((seed + place) % 256 for place in range(ROW_IN)) for seed in seeds)


def answers_to(payload: bytes) -> bytes:
    """Return what the synthetic backend answers to these rows."""
    rows = (payload[start : start + ROW_IN] for start in range(0, len(payload), ROW_IN))
    return b"".join(synthetic_answer([row], OUTPUTS)[0] for row in rows)


def make_variant(
    store: Path,
    *,
    batch_ns: dict[int, Nanoseconds] | None = None,
    load_ns: Nanoseconds = MILLISECOND,
    **extras: Unpack[SyntheticExtras],
) -> str:
    """Put a synthetic variant of ``INPUTS`` and ``OUTPUTS`` into ``store``; return its digest.

    A batch of 1 takes 1 ms and one of 4 takes 2 ms, unless ``batch_ns`` says otherwise.
    """
    return make_synthetic_artifact(
        store,
        model="ns/m",
        inputs=INPUTS,
        outputs=OUTPUTS,
        batch_ns=batch_ns or {1: MILLISECOND, 4: 2 * MILLISECOND},
        load_ns=load_ns,
        **extras,
    )
