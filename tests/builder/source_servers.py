"""Servers that files are fetched from: real ones of packages, and small honest ones for the rest.

``bucket_server`` is moto's S3, ``google_server`` an emulator of Google's storage, ``registry_server``
Debian's OCI registry. ``WebServer`` speaks HTTP with ranges, and fails as it is told to; ``HubServer``
answers what the Hugging Face client asks of a hub; ``TokenRegistry`` is a registry behind a token service.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import requests

WAIT_S = 30.0
COMMIT = "c" * 40


@dataclass
class Fault:
    """What befalls the next answers: a status, bytes after which the line is cut, or no ranges."""

    status: int = 0
    cut_after: int = -1


@dataclass
class WebServer:
    """Serves ``files`` by path, with ETags and ranges; ``seen`` are path and Range of each GET."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    lengths: bool = True
    authorization: str = ""
    redirects: dict[str, str] = field(default_factory=dict)
    authorizations: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        given = handler.headers.get("Range", "")
        self.seen.append((path, given))
        self.authorizations.append(handler.headers.get("Authorization", ""))
        fault = self.faults.pop(0) if self.faults else Fault()
        if fault.status:
            return _reply(handler, fault.status, b"")
        if path in self.redirects:
            return _reply(handler, 302, b"", {"Location": self.redirects[path]})
        if self.authorization and self.authorizations[-1] != self.authorization:
            return _reply(handler, 401, b"", {"WWW-Authenticate": 'Basic realm="files"'})
        if path not in self.files:
            return _reply(handler, 404, b"")
        return serve_bytes(handler, self.files[path], server=self, fault=fault)


def serve_bytes(
    handler: BaseHTTPRequestHandler,
    data: bytes,
    *,
    server: WebServer | None = None,
    fault: Fault | None = None,
) -> None:
    """Answer with ``data``, or the part of it that a Range asks for."""
    etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    headers = {} if server is not None and not server.etags else {"ETag": etag}
    status, start, end = 200, 0, len(data)
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    same = handler.headers.get("If-Range", etag) == etag
    if match and same and (server is None or server.ranges):
        start = int(match[1])
        end = min(end, int(match[2]) + 1) if match[2] else end
        if start >= len(data):
            return _reply(handler, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
    body = data[start:end]
    cut = -1 if fault is None else fault.cut_after
    lengths = server is None or server.lengths
    return _reply(handler, status, body, headers, cut=cut, length=lengths)


def _reply(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    cut: int = -1,
    length: bool = True,
) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    if length:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body if cut < 0 else body[:cut])
        handler.wfile.flush()
    handler.close_connection = True


@contextlib.contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Serve GET, HEAD and POST by ``answer`` inside the block; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                answer(self)

        do_HEAD = do_POST = do_GET  # noqa: N815 - their names there

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(WAIT_S)
        server.server_close()


@contextlib.contextmanager
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    with serving(server.answer) as server.url:
        yield server


@dataclass
class HubServer:
    """One private repository of a hub: what ``huggingface_hub`` asks to find and read its files."""

    repository: str
    files: dict[str, bytes]
    token: str
    seen: list[str] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.seen.append(f"{handler.command} {path} {handler.headers.get('Range', '')}".strip())
        if handler.headers.get("Authorization") != f"Bearer {self.token}":
            return _json(handler, 401, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
        api = f"/api/models/{self.repository}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            found = [{"rfilename": name} for name in self.files]
            return _json(handler, 200, {"id": self.repository, "sha": COMMIT, "siblings": found})
        if path.startswith((f"{api}/tree/", f"{api}/paths-info/")):
            asked = self._asked(handler)
            return _json(handler, 200, [self._entry(it) for it in self.files if it in asked])
        for revision in ("main", COMMIT):
            name = path.removeprefix(f"/{self.repository}/resolve/{revision}/")
            if name in self.files:
                return serve_bytes(handler, self.files[name])
        return _json(handler, 404, {"error": "no"}, {"X-Error-Code": "EntryNotFound"})

    def _asked(self, handler: BaseHTTPRequestHandler) -> set[str]:
        """Return the files that a POST names; every one of them for a GET."""
        if handler.command != "POST":
            return set(self.files)
        data = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        if handler.headers["Content-Type"].startswith("application/json"):
            return set(json.loads(data)["paths"])
        return set(parse_qs(data)["paths"])

    def _entry(self, name: str) -> dict[str, object]:
        data = self.files[name]
        oid = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        return {"type": "file", "oid": oid, "size": len(data), "path": name}


def _json(
    handler: BaseHTTPRequestHandler,
    status: int,
    value: object,
    headers: dict[str, str] | None = None,
) -> None:
    given = {"Content-Type": "application/json", "X-Repo-Commit": COMMIT, **(headers or {})}
    _reply(handler, status, json.dumps(value).encode(), given)


@dataclass
class TokenRegistry:
    """An OCI registry that asks for a token, which its service gives for a name and a password."""

    user: tuple[str, str]
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    def put(self, name: str, files: dict[str, bytes]) -> None:
        """Put the artifact ``name`` (``team/model:1``) with ``files`` by title there."""
        self.blobs |= {digest_of(data): data for data in files.values()}
        repository, _, tag = name.rpartition(":")
        self.manifests[f"/v2/{repository}/manifests/{tag}"] = json.dumps(manifest(files)).encode()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:  # noqa: PLR0911 - one for each
        path = urlsplit(handler.path).path
        given = handler.headers.get("Authorization", "")
        if path == "/token":
            pair = base64.b64encode(":".join(self.user).encode()).decode()
            if given == f"Basic {pair}":
                return _json(handler, 200, {"token": "t0ken"})
            return _json(handler, 401, {})
        if given != "Bearer t0ken":
            challenge = f'Bearer realm="{self.url}/token",service="registry"'
            return _json(handler, 401, {}, {"WWW-Authenticate": challenge})
        if path == "/v2/":
            return _json(handler, 200, {})
        if path in self.manifests:
            kind = "application/vnd.oci.image.manifest.v1+json"
            return _reply(handler, 200, self.manifests[path], {"Content-Type": kind})
        digest = path.rpartition("/")[2]
        if digest in self.blobs:
            self.ranges.append(handler.headers.get("Range", ""))
            fault = self.faults.pop(0) if self.faults else None
            return serve_bytes(handler, self.blobs[digest], fault=fault)
        return _json(handler, 404, {})


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest(files: dict[str, bytes]) -> dict[str, object]:
    """Return the manifest of an artifact that holds ``files``."""
    empty = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": digest_of(b"{}"),
        "size": 2,
    }
    layers = [
        {
            "mediaType": "application/octet-stream",
            "digest": digest_of(data),
            "size": len(data),
            "annotations": {"org.opencontainers.image.title": title},
        }
        for title, data in files.items()
    ]
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": empty,
        "layers": layers,
    }


@contextlib.contextmanager
def registry_server(folder: Path, name: str, files: dict[str, bytes]) -> Iterator[str]:
    """Run Debian's OCI registry inside the block, with the artifact ``name``; give host and port."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("the real OCI registry is missing: apt-get install docker-registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    configuration = folder / "registry.yml"
    configuration.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{host}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{folder / 'blobs'}'}}}}\n"
    )
    running = subprocess.Popen(
        [program, "serve", str(configuration)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        until(lambda: _answers(f"http://{host}/v2/"))
        repository, _, tag = name.rpartition(":")
        for data in (b"{}", *files.values()):
            begun = requests.post(f"http://{host}/v2/{repository}/blobs/uploads/", timeout=WAIT_S)
            requests.put(
                f"{begun.headers['Location']}&digest={digest_of(data)}", data=data, timeout=WAIT_S
            ).raise_for_status()
        requests.put(
            f"http://{host}/v2/{repository}/manifests/{tag}",
            data=json.dumps(manifest(files)),
            headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
            timeout=WAIT_S,
        ).raise_for_status()
        yield host
    finally:
        running.terminate()
        running.wait(WAIT_S)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).ok
    except requests.ConnectionError:
        return False


def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``."""
    ends = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)
