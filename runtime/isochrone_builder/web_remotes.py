"""Files behind HTTP: plain ones, and those of artifacts in OCI registries.

Called by ``remotes``. One request streams a file from an offset to its end (``Range`` with
``If-Range``, RFC 9110, sections 13.1.5 and 14.2): who does not know ranges, or has another file by
now, answers with the whole. Registries are asked through ``oras``, which knows how they authenticate.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import requests
from oras.container import Container
from oras.provider import Registry
from requests.adapters import HTTPAdapter

from isochrone.build_document import SOURCE_DENIED, SOURCE_NOT_FOUND, SOURCE_REFUSED
from isochrone.units import MIB, Bytes
from isochrone_builder.remotes import CONNECT_S, READ_S, Credentials, Opened, SourceError

CHUNK_BYTES: Final[Bytes] = MIB
MANIFEST_BYTES_MAX: Final[Bytes] = 4 * MIB
"""What the OCI distribution specification has registries accept."""
REDIRECTS_MAX: Final = 5
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_TITLE: Final = "org.opencontainers.image.title"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
"""Hosts whose registries may speak without TLS, as container engines have it."""

_Ask = Callable[[Mapping[str, str]], requests.Response]
"""Sends a GET with these headers, and gives the answer, its body not yet read."""


class WebFile:
    """A file of a web server."""

    def __init__(self, uri: str, credentials: Credentials | None) -> None:
        self._uri = uri
        self._session = _session()
        self._authorization = _authorization(credentials or {})
        if credentials is None:
            self._session.auth = None  # .netrc, where there is one

    def open(self, offset: int, identity: str) -> Opened:
        """Return its bytes, as ``remotes.Remote`` says."""
        return _streamed(self._ask, self._uri, offset, identity)

    def _ask(self, headers: Mapping[str, str]) -> requests.Response:
        answer = self._session.get(
            self._uri, headers={**headers, **self._authorization}, stream=True
        )
        hops = [*answer.history, answer]
        if self._uri.startswith("https:") and any(not it.url.startswith("https:") for it in hops):
            message = (
                f"{self._uri}: the server leads on to {answer.url}, without TLS: name that place"
            )
            raise SourceError(SOURCE_REFUSED, message)
        return answer


class RegistryFile:
    """One file of an artifact: ``oci://HOST/NAME:TAG`` or ``…@DIGEST``, and ``#TITLE`` where it has several."""

    def __init__(self, uri: str, credentials: Credentials | None) -> None:
        self._uri = uri
        name, _, title = uri.removeprefix("oci://").partition("#")
        host = name.partition("/")[0]
        if "/" not in name:
            message = f"{uri}: name a repository in a registry: oci://registry.example/team/model:1"
            raise SourceError(SOURCE_REFUSED, message)
        self._host = host
        self._title = unquote(title)
        self._credentials = credentials
        # Without the name of its registry, oras would ask Docker Hub.
        self._container = Container(name.partition("/")[2], registry=host)
        self._registry: Any = None
        self._authorization: dict[str, str] = {}

    def open(self, offset: int, identity: str) -> Opened:
        """Return its bytes, as ``remotes.Remote`` says: a blob's digest is its identity."""
        self._enter()  # anew each time: tokens expire
        layer = self._layer()
        url = f"{self._registry.prefix}://{self._container.get_blob_url(layer['digest'])}"
        digest = str(layer["digest"])
        begin = offset if identity == digest else 0
        opened = _streamed(lambda headers: self._ask(url, headers), self._uri, begin, "")
        return replace(opened, size=int(layer["size"]), identity=digest)

    def _enter(self) -> None:
        """Make a client that authenticates as the registry asks: by a token, or by name each time."""
        self._registry = registry = _Registry(self._host, insecure=_is_loopback(self._host))
        registry.session = registry.auth.session = _session()
        user = None
        if self._credentials is not None:
            user = _registry_user(self._credentials, self._host)
        with registry.session.get(f"{registry.prefix}://{self._host}/v2/", stream=True) as answer:
            challenge = answer.headers.get("WWW-Authenticate", "").lower()
        self._authorization = {}
        if self._credentials is None:
            registry.auth.load_configs(self._container)
        elif user is not None and challenge.startswith("basic"):
            self._authorization = _authorization({"username": user[0], "password": user[1]})
        elif user is not None:
            registry.auth.set_basic_auth(*user)

    def _layer(self) -> Mapping[str, Any]:
        """Return the one layer that the location names."""
        url = f"{self._registry.prefix}://{self._container.manifest_url()}"
        answer = self._ask(url, {"Accept": ", ".join(_MANIFESTS)})
        _require_success(answer, self._uri)
        data = answer.raw.read(MANIFEST_BYTES_MAX + 1, decode_content=True)
        answer.close()
        try:
            layers = json.loads(data)["layers"] if len(data) <= MANIFEST_BYTES_MAX else None
            named = {it.get("annotations", {}).get(_TITLE, ""): it for it in layers or ()}
            found = named.get(self._title) if self._title else None
            if found is None and not self._title and layers and len(layers) == 1:
                found = layers[0]
            if found is not None:
                return {"digest": str(found["digest"]), "size": int(found["size"])}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = (
                f"{self._uri}: what the registry holds is no manifest of an artifact: {error!r}"
            )
            raise SourceError(SOURCE_REFUSED, message) from error
        message = (
            f"{self._uri}: the artifact has the files {sorted(named)}: name one of them behind a #, "
            "by its title"
        )
        raise SourceError(SOURCE_NOT_FOUND, message)

    def _ask(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        try:
            answer: requests.Response = self._registry.do_request(
                url, "GET", headers={**headers, **self._authorization}, stream=True
            )
        except ValueError as error:  # oras's word for: no credentials, or none that are taken
            message = f"{self._uri}: the registry asks for credentials: {error}"
            raise SourceError(SOURCE_DENIED, message) from error
        return answer


class _Registry(Registry):  # type: ignore[misc]  # oras has no types
    """A registry that is asked once: trying again is for ``fetching``, which has bounds for it."""

    do_request = Registry.do_request.__wrapped__


class _Patience(HTTPAdapter):  # type: ignore[misc]  # requests has no types
    """Gives up on a server that does not connect, or says nothing for too long."""

    def send(self, request: Any, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        keywords["timeout"] = (CONNECT_S, READ_S)
        return super().send(request, *arguments, **keywords)


def _session() -> requests.Session:
    session = requests.Session()
    session.max_redirects = REDIRECTS_MAX
    session.headers["Connection"] = "close"  # there are no further requests worth keeping it for
    session.auth = lambda request: request  # nobody's .netrc
    session.hooks["response"].append(_close_refusal)
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Patience())
    return session


def _close_refusal(answer: requests.Response, **_: object) -> None:
    """Let go of an answer that asks for a token, which oras leaves open."""
    if not answer.ok:
        answer.close()


def _streamed(ask: _Ask, uri: str, offset: int, validator: str) -> Opened:
    """Return the body that ``ask`` gets, from ``offset`` on where the server can and may do that."""
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    answer = ask(headers)
    if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
        answer.close()
        return _streamed(ask, uri, 0, "")
    _require_success(answer, uri)
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        message = (
            f"{uri}: the server compresses the file on its way: have it send the file as it is"
        )
        raise SourceError(SOURCE_REFUSED, message)
    start = offset if answer.status_code == HTTPStatus.PARTIAL_CONTENT else 0
    length = answer.headers.get("Content-Length", "")
    return Opened(
        start=start,
        size=start + int(length) if length.isascii() and length.isdigit() else None,
        identity=answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "",
        chunks=answer.iter_content(CHUNK_BYTES),
        close=answer.close,
    )


def _require_success(answer: requests.Response, uri: str) -> None:
    if answer.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    answer.close()
    error = requests.HTTPError(f"{uri}: {answer.status_code} {answer.reason}")
    error.response = answer
    raise error


def _authorization(credentials: Credentials) -> dict[str, str]:
    if token := credentials.get("token"):
        return {"Authorization": f"Bearer {token.strip()}"}
    if "username" in credentials:
        pair = f"{credentials['username']}:{credentials.get('password', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _registry_user(credentials: Credentials, host: str) -> tuple[str, str] | None:
    """Return user and password for ``host``; None where the Secret has none for it."""
    if "username" in credentials:
        return credentials["username"], credentials.get("password", "")
    if ".dockerconfigjson" not in credentials:
        return None
    try:
        entry = json.loads(credentials[".dockerconfigjson"])["auths"].get(host)
        if entry is None:
            return None
        if "auth" in entry:
            user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            return user, password
        return str(entry["username"]), str(entry["password"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f".dockerconfigjson in the Secret cannot be read: {error!r}"
        raise SourceError(SOURCE_REFUSED, message) from error


def _is_loopback(host: str) -> bool:
    return (urlsplit(f"//{host}").hostname or "") in {it.strip("[]") for it in _LOOPBACK}
