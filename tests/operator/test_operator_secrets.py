"""Secrets are read by their names: what that shows, and that nothing else can be read by it."""

import asyncio
import ssl
import urllib.error
import urllib.request

from operator_access import api_of, eventually, make_namespace
from operator_api_server import ApiServer

from isochrone_operator import names, resources
from isochrone_operator.api import Api
from isochrone_operator.json_values import Json, text
from isochrone_operator.relist import SECRETS_TURNS, Relister
from isochrone_operator.resources import Resource
from isochrone_operator.store import Store, Urgency
from isochrone_operator.watched import Watched

RBAC = "rbac.authorization.k8s.io/v1"
ROLE = Resource(api_version=RBAC, kind="ClusterRole", plural="clusterroles", namespaced=False)
BINDING = Resource(
    api_version=RBAC, kind="ClusterRoleBinding", plural="clusterrolebindings", namespaced=False
)


def relister(api: Api, home: str, store: Store, woken: list[Urgency], *only: str) -> Relister:
    return Relister(
        api=api,
        store=store,
        watched=(Watched(resource=resources.BUDGETS),),
        namespaces=only,
        home=home,
        wake=woken.append,
    )


async def put(api: Api, namespace: str, name: str) -> None:
    metadata = {"namespace": namespace, "name": name, "labels": {"app": "any"}}
    await api.apply(
        resources.SECRETS,
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"tls.key": "YQ=="}},
        manager="test",
        force=True,
    )


def kept(store: Store, namespace: str) -> list[str]:
    return [
        text(it, "metadata", "name")
        for it in store.all(resources.SECRETS)
        if text(it, "metadata", "namespace") == namespace
    ]


def test_ours_are_seen_by_name_and_no_others(api_server: ApiServer) -> None:
    async def run() -> None:
        async with api_of(api_server) as api:
            namespace = await make_namespace(api)
            for name in (names.GATEWAY_TLS, names.EXECUTOR_TLS, names.CA_SECRET, "password"):
                await put(api, namespace, name)
            ours = sorted([names.CA_SECRET, names.EXECUTOR_TLS, names.GATEWAY_TLS])
            for only in ((), (namespace,)):
                store, woken = Store(), list[Urgency]()
                it = relister(api, namespace, store, woken, *only)
                await it.all()
                assert kept(store, namespace) == ours
                assert max(woken) is Urgency.NOW
            await api.delete(resources.SECRETS, namespace=namespace, name=names.GATEWAY_TLS)
            for _turn in range(SECRETS_TURNS):
                await it.one()
            assert kept(store, namespace) == [names.CA_SECRET, names.EXECUTOR_TLS]

    asyncio.run(run())


def asked_as(server: ApiServer, user: str, target: str) -> int:
    """Return the status of what ``user`` is answered."""
    headers = {
        "Authorization": f"Bearer {server.token_file.read_text()}",
        "Impersonate-User": user,
    }
    address = f"{server.url}{target}"
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - this server's own
    context = ssl.create_default_context(cafile=str(server.authority))
    try:
        with urllib.request.urlopen(request, timeout=15, context=context) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_right_to_list_by_name_is_enough_and_shows_no_other_secret(api_server: ApiServer) -> None:
    async def run() -> None:
        async with api_of(api_server) as api:
            namespace = await make_namespace(api)
            user = f"narrow-{namespace}"
            rule = {
                "apiGroups": [""],
                "resources": ["secrets"],
                "resourceNames": [names.GATEWAY_TLS],
                "verbs": ["list"],
            }
            role: Json = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": user}}
            await api.apply(ROLE, {**role, "rules": [rule]}, manager="test", force=True)
            binding: Json = {
                "apiVersion": RBAC,
                "kind": "ClusterRoleBinding",
                "metadata": {"name": user},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": user,
                },
                "subjects": [
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
                ],
            }
            await api.apply(BINDING, binding, manager="test", force=True)

            async def status(target: str) -> int:
                return await asyncio.to_thread(asked_as, api_server, user, target)

            by_name = f"/api/v1/secrets?fieldSelector=metadata.name%3D{names.GATEWAY_TLS}"

            async def allowed() -> bool:
                return await status(by_name) == 200

            await eventually(allowed, what="the role holds")
            assert await status("/api/v1/secrets") == 403
            assert await status("/api/v1/secrets?labelSelector=app%3Dany") == 403
            assert await status("/api/v1/secrets?fieldSelector=metadata.name%3Dpassword") == 403

    asyncio.run(run())
