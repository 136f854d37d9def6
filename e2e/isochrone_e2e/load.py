"""Load on a service: requests on a schedule drawn beforehand, each ended exactly once and counted.

Runs in a process of its own, on this machine or in a pod of the cluster, with nothing but Python's
standard library::

    python load.py --url http://…/v2/models/fast-tags/infer --body FILE --length N --rate 8 --seconds 20

It writes one JSON object: how many were sent, and how they ended. ``Load`` runs it beside a test.
"""

import argparse
import http.client
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

CONNECT_S: Final = 3.0
"""An address that nobody has any more answers nothing: ``unreachable``."""
TIMEOUT_S: Final = 10.0
"""No request may hang: what has no reply by then is counted as ``hung``."""
THREADS_MAX: Final = 64
SAID_MAX: Final = 200
"""Characters of a reply that are kept, and different replies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How requests ended: HTTP statuses, ``refused-connection`` …; latencies of status 200, in s.

    A 503 that does not say when to come again is no refusal, and has an end of its own.

    ``said``: what replies of other statuses said, the first of each few.
    """

    sent: int
    ends: dict[str, int]
    said: list[str]
    p50_s: float
    p99_s: float
    longest_gap_s: float

    @property
    def answered(self) -> int:
        """Requests that got an answer of the model."""
        return self.ends.get("200", 0)

    @property
    def failed(self) -> int:
        """Requests that were neither answered nor refused: a connection lost, another status."""
        return self.sent - sum(self.ends.get(end, 0) for end in ("200", "503", "504"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Where this program runs: the command that starts it there, and there the file of a request's body."""

    program: tuple[str, ...]
    body: str

    @classmethod
    def here(cls, body: Path) -> Self:
        """Return this machine."""
        return cls(program=(sys.executable, __file__), body=str(body))

    def command(self, url: str, *, rate: float, seconds: float, length: int = 0) -> list[str]:
        """Return the command that sends load, until its standard input says otherwise or ends."""
        return [
            *(*self.program, "--attended", "--url", url, "--body", self.body),
            *("--rate", str(rate), "--seconds", str(seconds), "--length", str(length)),
        ]


class Load:
    """Load that runs beside a test: a context manager; ``tally`` ends it early and counts."""

    def __init__(
        self, url: str, sender: Sender, *, rate: float, seconds: float, length: int = 0
    ) -> None:
        self._command = sender.command(url, rate=rate, seconds=seconds, length=length)
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def tally(self) -> Tally:
        """Send no more, wait for what is under way, and return how everything ended."""
        return self._tally("stop\n")

    def whole_tally(self) -> Tally:
        """Wait until all is sent and over, and return how everything ended."""
        assert self._process is not None
        self._process.wait(timeout=self._seconds + TIMEOUT_S * 3)
        return self._tally(None)

    def _tally(self, said: str | None) -> Tally:
        assert self._process is not None
        out, _ = self._process.communicate(input=said, timeout=TIMEOUT_S * 3)
        return Tally(**json.loads(out))


class _Run:
    def __init__(self, options: argparse.Namespace) -> None:
        self._url = urlsplit(options.url)
        self._body = Path(options.body).read_bytes()
        self._headers = {"content-type": "application/octet-stream"}
        if options.length:
            self._headers["inference-header-content-length"] = str(options.length)
        else:
            self._headers["content-type"] = "application/json"
        self._lock = threading.Lock()
        self._ends: Counter[str] = Counter()
        self._said: dict[str, str] = {}
        self._latencies: list[float] = []
        self._answered_at: list[float] = []
        self._slots = threading.Semaphore(THREADS_MAX)
        self.stopped = threading.Event()

    def drive(self, rate: float, seconds: float, seed: int) -> Tally:
        """Send as a Poisson process, never waiting for replies."""
        source = random.Random(seed)
        began = due = time.monotonic()
        threads: list[threading.Thread] = []
        sent = 0
        while not self.stopped.is_set():
            due += source.expovariate(rate)
            if due - began > seconds:
                break
            self.stopped.wait(max(0.0, due - time.monotonic()))
            if self.stopped.is_set():
                break
            sent += 1
            if not self._slots.acquire(blocking=False):
                self._count("too-many-under-way")
                continue
            thread = threading.Thread(target=self._send, args=(due,))
            thread.start()
            threads = [*(each for each in threads if each.is_alive()), thread]
        for thread in threads:
            thread.join()
        return self._tally(sent)

    def _send(self, due: float) -> None:
        end = "unreachable"
        try:
            connection = http.client.HTTPConnection(
                self._url.hostname or "", self._url.port or 80, timeout=CONNECT_S
            )
            connection.connect()
            connection.sock.settimeout(TIMEOUT_S)
            end = "hung"
            connection.request("POST", self._url.path, self._body, self._headers)
            reply = connection.getresponse()
            answer = reply.read()
            end = str(reply.status)
            if end == "503" and not reply.getheader("retry-after"):
                end = "503 without Retry-After"
            self._note(end, answer)
            connection.close()
        except TimeoutError:
            pass
        except (OSError, http.client.HTTPException) as error:
            end = type(error).__name__
        finally:
            self._slots.release()
        self._count(end, time.monotonic() - due)

    def _note(self, end: str, answer: bytes) -> None:
        text = answer[:SAID_MAX].decode(errors="replace")
        with self._lock:
            if end != "200" and len(self._said) < SAID_MAX:
                self._said.setdefault(f"{end}: {''.join(c for c in text if not c.isdigit())}", text)

    def _count(self, end: str, latency_s: float = 0.0) -> None:
        with self._lock:
            self._ends[end] += 1
            if end == "200":
                self._latencies.append(latency_s)
                self._answered_at.append(time.monotonic())

    def _tally(self, sent: int) -> Tally:
        latencies = sorted(self._latencies) or [0.0]
        times = sorted(self._answered_at)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        return Tally(
            sent=sent,
            ends=dict(self._ends),
            said=[f"{key[:3]}: {text}" for key, text in self._said.items()],
            p50_s=latencies[len(latencies) // 2],
            p99_s=latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)],
            longest_gap_s=max(gaps, default=0.0),
        )


def main() -> None:
    """Drive the load that the command line describes, until its end or a line on standard input.

    With ``--attended``, also until the end of standard input: whoever wanted it has gone.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--body", required=True)
    parser.add_argument("--length", type=int, default=0, help="bytes of the JSON part, if binary")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attended", action="store_true")
    options = parser.parse_args()
    run = _Run(options)

    def listen() -> None:
        if sys.stdin.readline() or options.attended:
            run.stopped.set()

    threading.Thread(target=listen, daemon=True).start()
    tally = run.drive(options.rate, options.seconds, options.seed)
    fields = {name: getattr(tally, name) for name in Tally.__slots__}
    sys.stdout.write(json.dumps(fields))


if __name__ == "__main__":
    main()
