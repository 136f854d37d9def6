"""For the tests of the operator's drivers: a real API server that knows the six kinds."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
import yaml
from operator_access import api_of, eventually
from operator_api_server import CRDS, AbsentError, ApiServer, find_binary

from isochrone_operator import resources
from isochrone_operator.api import Api
from isochrone_operator.errors import ClusterError
from isochrone_operator.resources import Resource

CRD = Resource(
    api_version="apiextensions.k8s.io/v1",
    kind="CustomResourceDefinition",
    plural="customresourcedefinitions",
    namespaced=False,
)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Return a running API server; skips where there is none, and says why."""
    try:
        binary = find_binary()
    except AbsentError as error:
        pytest.skip(str(error))
    server = ApiServer(binary=binary, folder=tmp_path_factory.mktemp("api-server"))
    try:
        server.launch()
        asyncio.run(_install(server))
        yield server
    finally:
        server.close()


async def _install(server: ApiServer) -> None:
    async with api_of(server) as api:
        for path in sorted(CRDS.glob("*.yaml")):
            manifest = yaml.safe_load(path.read_text())
            await api.apply(CRD, manifest, manager="test", force=True)
        for resource in resources.OURS:
            await eventually(partial(_is_served, api, resource), what=resource.plural)


async def _is_served(api: Api, resource: Resource) -> bool:
    try:
        await api.list(resource)
    except ClusterError:
        return False
    return True
