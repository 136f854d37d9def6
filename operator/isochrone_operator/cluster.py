"""The transport to the API server: the one module that imports the Kubernetes client.

The client finds the server and keeps the credentials fresh (a kubeconfig with everything that it may
hold, or a pod's service account); ``api`` says what is asked. Made by ``main``.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from isochrone.errors import SetupError
from isochrone_operator.api import Answer, Request, refusal
from isochrone_operator.errors import ServerFaultError, UnreachableError

CONNECTIONS_MAX: Final = 16
CONNECT_TIMEOUT_S: Final = 5.0
CLOSE_S: Final = 0.25
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
"""More than 500 objects, each of etcd's largest, would take."""
LINE_BYTES_MAX: Final = 8 * 1024 * 1024
IN_CLUSTER_VARIABLE: Final = "KUBERNETES_SERVICE_HOST"


async def connect(*, kubeconfig: str = "") -> "ClusterTransport":
    """Return a transport by ``kubeconfig``, ``$KUBECONFIG``, the pod's account or ``~/.kube``.

    Raises ``SetupError`` when none of them can be used. No request is made yet.
    """
    configuration = Configuration()
    path = kubeconfig or os.environ.get("KUBECONFIG", "")
    try:
        if path or IN_CLUSTER_VARIABLE not in os.environ:
            await config.load_kube_config(
                config_file=path or str(Path.home() / ".kube" / "config"),
                client_configuration=configuration,
                persist_config=False,
            )
        else:
            config.load_incluster_config(client_configuration=configuration)
    except (config.ConfigException, OSError, ValueError) as error:
        message = (
            f"no access to a cluster: {error}: set KUBECONFIG to a kubeconfig file, "
            "or run in a pod with a service account"
        )
        raise SetupError(message) from error
    configuration.connection_pool_maxsize = CONNECTIONS_MAX
    configuration.retries = None
    return ClusterTransport(configuration)


class ClusterTransport:
    """Sends requests through the Kubernetes client's connections and credentials."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._client = RESTClientObject(configuration)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()
        # A TLS connection that was closed in the middle of an answer says goodbye in the background.
        await asyncio.sleep(CLOSE_S)

    async def call(self, request: Request) -> Answer:
        """Return the answer to ``request``; ``UnreachableError`` when none comes in time."""
        limit = aiohttp.ClientTimeout(total=request.timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        try:
            async with await self._send(request, limit) as response:
                body = await response.content.read(ANSWER_BYTES_MAX + 1)
                while (
                    more := await response.content.read(ANSWER_BYTES_MAX + 1 - len(body))
                ) != b"":
                    body += more
                    if len(body) > ANSWER_BYTES_MAX:
                        message = f"an answer of more than {ANSWER_BYTES_MAX} bytes"
                        raise ServerFaultError(message)
                return Answer(
                    status=int(response.status), body=body, retry_after_s=_retry_after(response)
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(request, error) from error

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Yield the lines of the answer; ``UnreachableError`` when it falls silent."""
        limit = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=request.timeout_s
        )
        try:
            async with await self._send(request, limit) as response:
                if response.status != 200:  # noqa: PLR2004 - OK
                    answer = Answer(
                        status=int(response.status),
                        body=await response.content.read(LINE_BYTES_MAX),
                        retry_after_s=_retry_after(response),
                    )
                    raise refusal(answer)
                while line := await response.content.readuntil(b"\n"):
                    yield line
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(request, error) from error

    async def _send(self, request: Request, limit: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": request.content_type}
        for setting in (await self._configuration.auth_settings()).values():
            if setting["in"] == "header" and setting["value"]:
                headers[str(setting["key"])] = str(setting["value"])
        sent = await self._client.request(
            request.method,
            f"{self._configuration.host}{request.target}",
            headers=headers,
            body=request.body,
            _request_timeout=limit,
        )
        response: aiohttp.ClientResponse = sent.response
        return response


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        # Absent, or a date, which API servers do not send.
        return None


def _unreachable(request: Request, error: Exception) -> UnreachableError:
    path = request.target.partition("?")[0]
    return UnreachableError(f"{request.method} {path}: no answer: {type(error).__name__}: {error}")
