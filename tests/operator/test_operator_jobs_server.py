"""What ``build_steps`` wants, put to a real API server: all is accepted, and stays as it was sent."""

import asyncio
from typing import Any

from children_samples import GPU, KARPENTER, pool
from jobs_world import World, handwritten, service
from operator_access import api_of, make_namespace
from operator_api_server import ApiServer

from isochrone.api.resource import Resource
from isochrone_operator import names
from isochrone_operator.api import Api
from isochrone_operator.drift import covers
from isochrone_operator.jobs import BuildSteps
from isochrone_operator.resources import MODELS, VARIANTS, resource_of


def moved(manifest: Any, namespace: str) -> Any:  # noqa: ANN401 - what a manifest holds has no type
    """Return ``manifest`` in the test's own namespace."""
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}


def sent(resource: Resource, namespace: str) -> dict[str, object]:
    """Return what a person would apply."""
    document = {key: it for key, it in resource.document().items() if key != "status"}
    return document | {"metadata": {"name": resource.metadata.name, "namespace": namespace}}


async def put(api: Api, steps: BuildSteps, namespace: str, seen: set[str]) -> None:
    for wanted in steps.desired:
        manifest = moved(wanted, namespace)
        resource = resource_of(manifest["apiVersion"], manifest["kind"])
        found = await api.apply(resource, manifest, manager=names.FIELD_MANAGER, force=True)
        assert covers(found, manifest), f"{manifest['kind']} {manifest['metadata']['name']} differs"
        seen.add(manifest["kind"])
    for write in steps.statuses:
        resource = resource_of(write.ref.api_version, write.ref.kind)
        metadata = {"name": write.ref.name, "namespace": namespace}
        manifest = {
            "apiVersion": write.ref.api_version,
            "kind": write.ref.kind,
            "metadata": metadata,
            "status": write.status,
        }
        found = await api.apply(
            resource, manifest, manager=names.FIELD_MANAGER, force=True, status=True
        )
        assert covers(found, manifest), f"status of {write.ref.name} differs"


async def live(server: ApiServer) -> None:
    world = World(
        variants={
            "by-hand": handwritten(),
            "measured": handwritten("measured", backend="openvino", precision="int8"),
            "unknown": handwritten("unknown", backend="openvino", precision="int8"),
            "on-gpus": handwritten("on-gpus", backend="cuda-graph", precision="fp16"),
        },
        pools={"cpu": pool(), "a10g": pool("a10g", accelerator=GPU, karpenter=KARPENTER)},
        services=(service(),),
        unlabeled=frozenset({"unknown"}),
        failing=frozenset({"tags-b0-torch-bf16"}),
        crashing=frozenset({"tags-b0-torch-fp32"}),
    )
    seen: set[str] = set()
    async with api_of(server) as api:
        namespace = await make_namespace(api)
        for resource, kind in (
            (world.models["tags"], MODELS),
            *((it, VARIANTS) for it in world.variants.values()),
        ):
            await api.apply(kind, sent(resource, namespace), manager="person", force=True)
        for _ in range(16):
            await put(api, world.look(), namespace, seen)
            for name in sorted(world.jobs):
                if world.jobs[name].active:
                    world.run(name)
        assert seen >= {"PersistentVolumeClaim", "ConfigMap", "Job", "ModelVariant"}
        assert world.condition("tags", "Ready") == "True/SomeVariantsFailed"
        found = await api.get(MODELS, namespace=namespace, name="tags")
        assert found["status"]["variants"] == {"total": 8, "ready": 5}  # type: ignore[index]
        found = await api.get(VARIANTS, namespace=namespace, name="on-gpus")
        assert found["status"]["profiles"][0]["pool"] == "a10g"  # type: ignore[index]
        found = await api.get(VARIANTS, namespace=namespace, name="measured")
        assert found["status"]["accuracy"]["source"] == "Measured"  # type: ignore[index]
        found = await api.get(VARIANTS, namespace=namespace, name="unknown")
        assert found["status"]["accuracyRecord"]["reason"] == "AccuracyUnknown"  # type: ignore[index]


def test_the_api_server_takes_everything_and_changes_none_of_it(api_server: ApiServer) -> None:
    asyncio.run(live(api_server))
