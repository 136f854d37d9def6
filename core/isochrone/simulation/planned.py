"""The workers that a plan asks for, as a simulated world has them.

Called by ``replay`` and ``isochrone simulate``. A plan document does not say how much memory a pool
has; since the planner made sure that everything fits, each worker gets exactly what its group needs.
"""

from isochrone.ids import WorkerId
from isochrone.plan_document import PlanDocument
from isochrone.simulation.world import WorkerSpec


def planned_workers(document: PlanDocument) -> tuple[WorkerSpec, ...]:
    """Return every worker of the plan, there from the beginning and holding what its group hosts.

    They have the names that local mode gives them: the group's, and a number.
    """
    variants = {variant.id: variant for variant in document.catalog.variants}
    specs = []
    for group in document.plan.groups:
        profiles = [variants[variant].profile(group.pool) for variant in group.variants]
        memory_bytes = sum(
            profile.weights_bytes + profile.workspace_bytes
            for profile in profiles
            if profile is not None
        )
        specs += [
            WorkerSpec(
                worker=WorkerId(f"{group.id}-{number}"),
                group=group.id,
                pool=group.pool,
                memory_bytes=memory_bytes,
                resident=group.variants,
            )
            for number in range(group.replicas)
        ]
    return tuple(specs)
