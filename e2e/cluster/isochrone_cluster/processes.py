"""The cluster's programs as child processes: started, watched, stopped, with their logs kept.

A child outlives whoever started it (`make cluster` ends, the cluster goes on), so each is recorded in
a file, with what tells it from a later process of the same number. Called by ``cluster``, ``node``,
``karpenter`` and ``argocd``.
"""

import json
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypedDict, TypeVar

from isochrone_cluster.failures import ClusterError, wait_until

T = TypeVar("T")

STOP_S: Final = 20.0
"""How long a program may take to end before it is killed: the API server needs up to 12 s."""

TAIL_LINES: Final = 25
LINE_MAX: Final = 500
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENTER: Final = 'echo $$ > "$0" && exec "$@"'
"""Enter a control group (the first argument), then become the program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program to run: its unique name, its command, and the process whose namespaces it enters.

    ``beside`` is that process's id; None stays in the host's namespaces.
    """

    name: str
    command: tuple[str, ...]
    beside: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


class Record(TypedDict):
    """What is written down of a child."""

    pid: int
    started: str | None
    command: list[str]
    beside: int | None
    environment: dict[str, str]


def started_at(pid: int) -> str | None:
    """Return what tells process ``pid`` from others of that number; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    after_name = text[text.rindex(")") + 2 :].split()
    if after_name[0] in "ZX" and not _has_threads(pid):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {after_name[19]}"


def _has_threads(pid: int) -> bool:
    """Return whether a process whose first thread has ended has others, which hold its files."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1  # noqa: PTH208 - names are all that counts
    except (FileNotFoundError, ProcessLookupError):
        return False


class Children:
    """The recorded children; ``folder`` holds the record, ``logs`` one log for each by its name."""

    def __init__(self, *, folder: Path, logs: Path, admit: Path) -> None:
        self._folder = folder
        self._logs = logs
        self._admit = admit

    def start(self, program: Program) -> int:
        """Start ``program`` and return its process id; its output is appended to its log.

        Raises ``ClusterError`` when a child of that name is alive.
        """
        if self.alive(program.name):
            raise ClusterError(f"{program.name} runs already")
        self._logs.mkdir(parents=True, exist_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        enter = (
            ("nsenter", f"--target={program.beside}", "--net", "--mount", "--")
            if program.beside is not None
            else ()
        )
        command = ("/bin/sh", "-c", ENTER, str(self._admit), *enter, *program.command)
        environment = {"PATH": PATH, "HOME": os.environ.get("HOME", "/root")}
        log = str(self._logs / f"{program.name}.log")
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            command[0],
            command,
            environment | dict(program.environment),
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE),
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ),
        )
        record = Record(
            pid=pid,
            started=started_at(pid),
            command=list(program.command),
            beside=program.beside,
            environment=dict(program.environment),
        )
        self._record(program.name).write_text(json.dumps(record, indent=1), encoding="utf-8")
        return pid

    def start_again(self, name: str) -> int:
        """Start the ended child ``name`` as it was started before; return its process id."""
        record = self._read(name)
        return self.start(
            Program(
                name=name,
                command=tuple(record["command"]),
                beside=record["beside"],
                environment=record["environment"],
            )
        )

    def names(self) -> tuple[str, ...]:
        """Return the names of all children that were started and not stopped."""
        return tuple(sorted(path.stem for path in self._folder.glob("*.json")))

    def pid(self, name: str) -> int:
        """Return the process id of ``name``. Raises ``ClusterError`` when it never was started."""
        return self._read(name)["pid"]

    def alive(self, name: str) -> bool:
        """Return whether ``name`` was started and has not ended."""
        if not self._record(name).exists():
            return False
        record = self._read(name)
        with suppress(ChildProcessError):  # somebody else's child, or collected before
            os.waitpid(record["pid"], os.WNOHANG)
        found = started_at(record["pid"])
        return found is not None and found == record["started"]

    def check(self, *names: str) -> None:
        """Raise ``ClusterError``, with its log's tail, when one of ``names`` has ended."""
        for name in names or self.names():
            if not self.alive(name):
                raise ClusterError(f"{name} has ended by itself\n{self.tail(name)}")

    def stop(self, name: str, *, hard: bool = False) -> None:
        """End ``name`` (SIGTERM, after ``STOP_S`` SIGKILL; with ``hard`` SIGKILL at once)."""
        for sign in (signal.SIGKILL,) if hard else (signal.SIGTERM, signal.SIGKILL):
            if not self.alive(name):
                return
            try:
                os.kill(self.pid(name), sign)
                wait_until(f"{name} ends", lambda: not self.alive(name), timeout_s=STOP_S)
            except ProcessLookupError:
                return
            except ClusterError:
                if sign is signal.SIGKILL:
                    raise

    def forget(self, name: str) -> None:
        """Drop the record of ``name``, which has been stopped for good."""
        self._record(name).unlink(missing_ok=True)

    def tail(self, name: str, lines: int = TAIL_LINES) -> str:
        """Return the last ``lines`` lines of the log of ``name``, under its path."""
        path = self._logs / f"{name}.log"
        if not path.exists():
            return f"{path}: no such log"
        with path.open(encoding="utf-8", errors="replace") as file:
            last = deque(file, maxlen=lines)
        text = "".join(f"{line.rstrip()[:LINE_MAX]}\n" for line in last)
        return f"--- {path}\n{text}---"

    def wait(self, name: str, what: str, probe: Callable[[], T | None], *, timeout_s: float) -> T:
        """As ``wait_until``, for something that depends on the child ``name`` being alive."""
        return wait_until(
            what,
            probe,
            timeout_s=timeout_s,
            check=lambda: self.check(name),
            log=lambda: self.tail(name),
        )

    def _record(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, name: str) -> Record:
        path = self._record(name)
        if not path.exists():
            raise ClusterError(f"{name} was not started: {path} is missing")
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        return record
