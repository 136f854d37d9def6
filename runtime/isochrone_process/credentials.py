"""What a gateway and an executor show each other, and whom they believe: files that may change at any time.

Called for each connection between them. The folder is a mounted Secret: ``tls.crt`` (the
certificate, and those between it and the root), ``tls.key`` and ``ca.crt`` (all roots that are
believed; two of them while the authority is renewed). A context is made of them once and again when
a file has changed; one that cannot be used is said in the log, and the last good one stays.
"""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from isochrone.errors import SetupError
from isochrone_process.log import Log

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
AUTHORITIES: Final = "ca.crt"

_State: TypeAlias = tuple[tuple[int, int, int], ...]


def client_context() -> ssl.SSLContext:
    """Return an empty context for the end that dials, which verifies the other's chain and name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    return context


def server_context() -> ssl.SSLContext:
    """Return an empty context for the end that is dialed, which asks for a certificate, too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # each connection is verified in full
    return context


class Credentials:
    """The files of one folder, as a context for one end of TLS 1.3.

    ``empty`` makes that end's context; ``option`` is what the user named the folder with.
    """

    def __init__(
        self, directory: Path, log: Log, *, empty: Callable[[], ssl.SSLContext], option: str
    ) -> None:
        """Read the files; ``SetupError`` where they cannot be used."""
        self._directory = directory
        self._log = log
        self._empty = empty
        try:
            self._seen = self._look()
            self._context = self._make()
        except OSError as error:
            message = f"{option} {directory}: {_reason(error)}"
            raise SetupError(message) from error

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection, of the newest files that can be used."""
        try:
            state = self._look()
            if state == self._seen:
                return self._context
            self._seen = state
            self._context = self._make()
        except OSError as error:
            self._log.warning(
                "credentials_unusable",
                path=str(self._directory),
                reason=_reason(error),
                effect="the last good ones stay",
            )
        else:
            self._log.info("credentials_read", path=str(self._directory))
        return self._context

    def _look(self) -> _State:
        """Return what tells whether a file has changed; a file that is absent is a state, too."""
        states = []
        for name in (CERTIFICATE, KEY, AUTHORITIES):
            try:
                status = (self._directory / name).stat()
            except FileNotFoundError:
                states.append((0, 0, 0))
            else:
                states.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(states)

    def _make(self) -> ssl.SSLContext:
        """Return a context of the files as they are; ``OSError``, also ``SSLError``, if unusable."""
        context = self._empty()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cafile=self._directory / AUTHORITIES)
        context.load_cert_chain(self._directory / CERTIFICATE, self._directory / KEY)
        return context


def _reason(error: OSError) -> str:
    """Return the error in words; those of OpenSSL name no file."""
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or error}: {CERTIFICATE}, {KEY} and {AUTHORITIES} must be PEM files"
    return f"{error.strerror}: {CERTIFICATE}, {KEY} and {AUTHORITIES} must be there"
