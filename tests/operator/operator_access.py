"""Access to the tests' API server, and waiting for what it will say. Called by these tests."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
from operator_api_server import ApiServer

from isochrone_operator import resources
from isochrone_operator.api import Api
from isochrone_operator.cluster import connect

T = TypeVar("T")
_NUMBERS = itertools.count(1)


@asynccontextmanager
async def api_of(server: ApiServer) -> AsyncIterator[Api]:
    """Yield typed access to ``server``."""
    api = Api(await connect(kubeconfig=str(server.kubeconfig)))
    try:
        yield api
    finally:
        await api.close()


async def make_namespace(api: Api) -> str:
    """Make a namespace for one test, and return its name."""
    name = f"test-{os.getpid()}-{next(_NUMBERS)}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await api.apply(resources.NAMESPACES, manifest, manager="test", force=True)
    return name


async def eventually(
    holds: Callable[[], Awaitable[T | None]], *, what: str, timeout_s: float = 60.0
) -> T:
    """Wait until ``holds()`` returns something true, and return it; fail after ``timeout_s``."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                found = await holds()
                if found:
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {timeout_s:.0f} s: {what}")
