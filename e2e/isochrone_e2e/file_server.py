"""A web server outside of the cluster that pods reach: where a Model's files may lie.

Called by the tests of fetching.
"""

import base64
import hmac
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from isochrone_cluster.places import HOST_ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class FileServer:
    """What it serves, by name; ``asked`` counts whole answers by name. ``guarded`` names want a login."""

    files: Mapping[str, Path]
    guarded: frozenset[str]
    login: str
    port: int = 0
    asked: Counter[str] = field(default_factory=Counter)

    def url(self, name: str) -> str:
        """Return where a pod finds the file of that name."""
        return f"http://{HOST_ADDRESS}:{self.port}/{name}"


@contextmanager
def serving(
    files: Mapping[str, Path], *, guarded: frozenset[str], login: str
) -> Iterator[FileServer]:
    """Serve ``files`` inside the block; those of ``guarded`` only to ``login``, a ``user:password``."""
    asked: Counter[str] = Counter()
    wanted = f"Basic {base64.b64encode(login.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            given = self.headers.get("authorization", "")
            if name not in files:
                self.send_error(HTTPStatus.NOT_FOUND)
            elif name in guarded and not hmac.compare_digest(given, wanted):
                self.send_error(HTTPStatus.UNAUTHORIZED)
            else:
                content = files[name].read_bytes()
                self.send_response(HTTPStatus.OK)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                asked[name] += 1

        def log_message(self, *_: object) -> None:
            """Say nothing: the Job's own report is what counts."""

    with ThreadingHTTPServer((HOST_ADDRESS, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield FileServer(
                files=files,
                guarded=guarded,
                login=login,
                port=server.server_address[1],
                asked=asked,
            )
        finally:
            server.shutdown()
            thread.join()
