"""The socket that gateways dial: Unix or TCP, opened and taken away cleanly.

Called by ``main``, which opens it, and by the loop, which accepts from it.
"""

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from isochrone.errors import SetupError
from isochrone.units import MIB

SOCKET_BUFFER_BYTES: Final = 4 * MIB
"""Asked of the kernel each way, so that the next actions wait there; it may grant less."""
BACKLOG: Final = 8

_KEEPALIVE_S: Final = 5
_KEEPALIVE_PROBES: Final = 3


class Listener:
    """A listening socket. ``address`` is what gateways dial, with the port that was assigned."""

    def __init__(self, address: str) -> None:
        """Listen on ``address``: ``unix:PATH`` or ``tcp:HOST:PORT`` (port 0: any).

        A socket file that nobody listens on is replaced. Raises ``SetupError`` when the address is
        malformed, or cannot be listened on.
        """
        kind, _, place = address.partition(":")
        self._path: Path | None = None
        self._inode = 0
        try:
            if kind == "unix" and place:
                self.socket = self._listen_unix(Path(place))
                self.address = address
            elif kind == "tcp" and ":" in place:
                self.socket, self.address = self._listen_tcp(place)
            else:
                message = f"--listen {address!r}: write unix:PATH or tcp:HOST:PORT"
                raise SetupError(message)
        except OSError as error:
            message = f"--listen {address!r}: {error.strerror or error}"
            raise SetupError(message) from error
        self.socket.setblocking(False)  # noqa: FBT003

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def accept(self) -> socket.socket | None:
        """Return the next connection, ready for use, or None when it is gone already.

        ``OSError`` when the system has no descriptor or memory left for it.
        """
        try:
            connection, _ = self.socket.accept()
        except OSError as error:
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                raise
            return None
        connection.setblocking(False)  # noqa: FBT003
        _widen(connection)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        return connection

    def close(self) -> None:
        """Stop listening, and remove the socket file if it is still this listener's."""
        self.socket.close()
        if self._path is not None:
            with suppress(FileNotFoundError):
                if self._path.lstat().st_ino == self._inode:
                    self._path.unlink()

    def _listen_unix(self, path: Path) -> socket.socket:
        _remove_stale(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Only this user may dial: the mask holds from the file's first moment.
        mask = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(mask)
        listening.listen(BACKLOG)
        self._path = path
        self._inode = path.lstat().st_ino
        return listening

    def _listen_tcp(self, place: str) -> tuple[socket.socket, str]:
        host, _, port = place.rpartition(":")
        if not port.isascii() or not port.isdigit() or not host:
            message = f"--listen 'tcp:{place}': write tcp:HOST:PORT, with a number as port"
            raise SetupError(message)
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # TCP settles its window when a connection is made: the listening socket must have it.
        _widen(listening)
        listening.bind(address)
        listening.listen(BACKLOG)
        return listening, f"tcp:{host}:{listening.getsockname()[1]}"


def _widen(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)


def _remove_stale(path: Path) -> None:
    """Remove the socket file that a killed process left; refuse to touch anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        message = f"--listen unix:{path}: a file that is no socket is there; name another path"
        raise SetupError(message)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    message = f"--listen unix:{path}: another process listens there; stop it or name another path"
    raise SetupError(message)
