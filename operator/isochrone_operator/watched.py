"""Which resources the operator looks at, with which selector: a value made of its settings.

Read by ``handlers`` (which asks kopf to watch them) and by ``relist`` (which lists them).
"""

from dataclasses import dataclass
from typing import Final

from isochrone_operator import names, resources
from isochrone_operator.resources import Resource
from isochrone_operator.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One resource, and which of its objects; an ``optional`` one may be absent from a cluster."""

    resource: Resource
    labels: str = ""
    optional: bool = False


_ALWAYS: Final = (
    *(Watched(resource=it) for it in resources.OURS),
    Watched(resource=resources.NAMESPACES),
    Watched(resource=resources.NODES),
    # Not Secrets: who may watch them by a label may read all of them. ``relist`` asks by name.
    *(
        Watched(resource=it, labels=names.MANAGED_SELECTOR)
        for it in resources.CHILDREN
        if it != resources.SECRETS
    ),
)


def watched(settings: Settings) -> tuple[Watched, ...]:
    """Return everything that an operator with ``settings`` looks at."""
    more: tuple[Watched, ...] = ()
    if settings.karpenter:
        more += (_engine(resources.NODE_POOLS, names.MANAGED_SELECTOR),)
    if settings.cluster_api:
        more += (_engine(resources.MACHINE_DEPLOYMENTS, names.SCALABLE_SELECTOR),)
    return _ALWAYS + more


def _engine(resource: Resource, labels: str) -> Watched:
    return Watched(resource=resource, labels=labels, optional=True)
