"""TLS for a gateway's connection, behind the few methods of a socket that a link calls.

Made by the loop, where it listens with ``--tls``; used by ``Link`` instead of a plain socket, whose
path is not touched. Nothing here waits: whatever would is ``BlockingIOError``, as on a socket. A
``Handshake`` becomes a ``TlsStream`` once the gateway is known by its certificate.
"""

import select
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from isochrone.units import KIB, SECOND, Bytes, Instant, Nanoseconds
from isochrone_process.credentials import Credentials

HANDSHAKE_NS_MAX: Final[Nanoseconds] = 5 * SECOND
"""How long a gateway may take from connecting to the end of the handshake: it takes milliseconds."""
RECORD_BYTES: Final[Bytes] = 16 * KIB
"""The plain bytes of the largest record of TLS: what fits into one is joined, and sent as one."""


class TlsStream:
    """An encrypted connection whose gateway is known."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._socket = connection

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self._socket.fileno()

    def pending(self) -> Bytes:
        """Return the bytes that are decrypted and not received: no poll tells of them."""
        return self._socket.pending()

    def recv_into(self, buffer: memoryview) -> Bytes:
        """Receive what is there, record after record, until ``buffer`` is full; 0 at the end.

        A read that leaves room has taken all there was, as with a socket.
        """
        receive = self._socket.recv_into
        size = len(buffer)
        filled = 0
        while filled < size:
            try:
                count = receive(buffer[filled:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if not filled:
                    raise BlockingIOError from error
                break
            if not count:
                break
            filled += count
        return filled

    def sendmsg(self, parts: Sequence[memoryview | bytearray]) -> Bytes:
        """Send as much of ``parts`` as there is room for; return how many bytes that was.

        What did not fit must be sent next, unchanged: a record that is half sent is finished so.
        """
        size = 0
        for part in parts:
            size += len(part)
        if size <= RECORD_BYTES:
            parts = (bytearray().join(parts),)
        send = self._socket.send
        sent = 0
        for part in parts:
            rest = memoryview(part)
            while rest:
                try:
                    count = send(rest)
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError) as error:
                    if not sent:
                        raise BlockingIOError from error
                    return sent
                sent += count
                rest = rest[count:]
        return sent

    def send(self, data: bytearray) -> Bytes:
        """Send as much of ``data`` as there is room for; return how many bytes that was."""
        return self.sendmsg((data,))

    def shutdown(self, how: int) -> None:
        """Say that nothing more comes; what is received afterwards is good only to be dropped."""
        # The gateway's own word is not waited for.
        with suppress(OSError, ValueError):
            self._socket.unwrap()
        self._socket.shutdown(how)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class HandshakeFailedError(Exception):
    """No gateway of ours dialed. The message is empty where it left without a word, as probes do."""


class Handshake:
    """A connection whose gateway is not known yet. ``wants``: the poll's events to advance at."""

    def __init__(self, connection: socket.socket, *, peer: str, now: Instant) -> None:
        self.fd: Final = connection.fileno()
        self.over_by: Final[Instant] = now + HANDSHAKE_NS_MAX
        self.wants: int = select.EPOLLIN | select.EPOLLRDHUP
        self.origin: Final = _origin(connection)
        self._peer = peer
        self._plain: socket.socket | None = connection
        self._secure: ssl.SSLSocket | None = None

    def advance(self, credentials: Credentials) -> TlsStream | None:
        """Do the next step; return the stream at the end of the last, None while more must come.

        Raises ``HandshakeFailedError``. A step takes about a millisecond at most: signatures.
        """
        try:
            if self._secure is None:
                assert self._plain is not None
                if not _has_spoken(self._plain):
                    raise HandshakeFailedError
                # What was the plain socket's descriptor is this one's now.
                self._secure = credentials.context().wrap_socket(
                    self._plain, server_side=True, do_handshake_on_connect=False
                )
                self._plain = None
            self._secure.do_handshake()
        except (BlockingIOError, ssl.SSLWantReadError):
            self.wants = select.EPOLLIN | select.EPOLLRDHUP
            return None
        except ssl.SSLWantWriteError:
            self.wants = select.EPOLLOUT | select.EPOLLRDHUP
            return None
        except ssl.SSLCertVerificationError as error:
            raise HandshakeFailedError(f"its certificate: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise HandshakeFailedError(error.reason or str(error)) from error
        except OSError as error:
            raise HandshakeFailedError(error.strerror or str(error)) from error
        return TlsStream(self._secure)

    def stranger(self) -> str:
        """Return whose certificate it is, after the last step, if not the gateway's; else ''."""
        assert self._secure is not None
        names = _dns_names(self._secure)
        if self._peer in names:
            return ""
        return f"its certificate is for {', '.join(names) or 'no DNS name'}, not for {self._peer}"

    def close(self) -> None:
        """Close the connection, which has become no stream."""
        connection = self._secure or self._plain
        assert connection is not None
        # Closing with bytes unread would reset the connection before the peer reads the alert.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(RECORD_BYTES):
                pass
        connection.close()


def _has_spoken(connection: socket.socket) -> bool:
    """Return whether bytes are there, False when the peer has left; ``BlockingIOError`` if neither."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except ConnectionResetError:
        return False


def _origin(connection: socket.socket) -> str:
    """Return where the connection comes from, for the log."""
    try:
        return str(connection.getpeername()[0])
    except OSError:
        return "gone already"


def _dns_names(connection: ssl.SSLSocket) -> list[str]:
    """Return the DNS names that the peer's verified certificate is for."""
    certificate = connection.getpeercert() or {}
    alternatives = certificate.get("subjectAltName", ())
    return [entry[1] for entry in alternatives if entry[0] == "DNS"]  # type: ignore[misc]
