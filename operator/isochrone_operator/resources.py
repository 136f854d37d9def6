"""The kinds of Kubernetes that the operator and its agent read or write: their place in the API.

A literal table. ``api`` makes paths of it; ``watched`` says which of them the operator looks at.
Imports nothing of ours, so that the agent stays small.
"""

from dataclasses import dataclass
from typing import Final

ISOCHRONE_VERSION: Final = "isochrone.dev/v1alpha1"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Resource:
    """One kind: ``api_version`` as in manifests, ``plural`` as in paths."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """API group; empty for the core."""
        group, slash, _version = self.api_version.rpartition("/")
        return group if slash else ""

    @property
    def version(self) -> str:
        """API version without the group."""
        return self.api_version.rpartition("/")[2]

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL's path: of the collection, or of one object when ``name`` is given."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"
        parts = [root]
        if namespace and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


def _core(kind: str, plural: str, *, namespaced: bool = True) -> Resource:
    return Resource(api_version="v1", kind=kind, plural=plural, namespaced=namespaced)


def _of(api_version: str, kind: str, plural: str, *, namespaced: bool = True) -> Resource:
    return Resource(api_version=api_version, kind=kind, plural=plural, namespaced=namespaced)


MODELS: Final = _of(ISOCHRONE_VERSION, "Model", "models")
VARIANTS: Final = _of(ISOCHRONE_VERSION, "ModelVariant", "modelvariants")
SERVICES_OF_INFERENCE: Final = _of(ISOCHRONE_VERSION, "InferenceService", "inferenceservices")
POOLS: Final = _of(ISOCHRONE_VERSION, "AcceleratorPool", "acceleratorpools", namespaced=False)
BUDGETS: Final = _of(ISOCHRONE_VERSION, "CostBudget", "costbudgets", namespaced=False)
PLANS: Final = _of(ISOCHRONE_VERSION, "ServingPlan", "servingplans")

NAMESPACES: Final = _core("Namespace", "namespaces", namespaced=False)
NODES: Final = _core("Node", "nodes", namespaced=False)
PODS: Final = _core("Pod", "pods")
SERVICES: Final = _core("Service", "services")
CONFIG_MAPS: Final = _core("ConfigMap", "configmaps")
SECRETS: Final = _core("Secret", "secrets")
SERVICE_ACCOUNTS: Final = _core("ServiceAccount", "serviceaccounts")
CLAIMS: Final = _core("PersistentVolumeClaim", "persistentvolumeclaims")
DEPLOYMENTS: Final = _of("apps/v1", "Deployment", "deployments")
JOBS: Final = _of("batch/v1", "Job", "jobs")
LEASES: Final = _of("coordination.k8s.io/v1", "Lease", "leases")
ENDPOINT_SLICES: Final = _of("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
EVENTS: Final = _of("events.k8s.io/v1", "Event", "events")
DISRUPTION_BUDGETS: Final = _of("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICIES: Final = _of("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
ROLES: Final = _of("rbac.authorization.k8s.io/v1", "Role", "roles")
ROLE_BINDINGS: Final = _of("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
NODE_POOLS: Final = _of("karpenter.sh/v1", "NodePool", "nodepools", namespaced=False)
MACHINE_DEPLOYMENTS: Final = _of(
    "cluster.x-k8s.io/v1beta1", "MachineDeployment", "machinedeployments"
)

OURS: Final = (MODELS, VARIANTS, SERVICES_OF_INFERENCE, POOLS, BUDGETS, PLANS)
"""The six kinds of isochrone.dev."""

CHILDREN: Final = (
    PODS,
    SERVICES,
    CONFIG_MAPS,
    SECRETS,
    SERVICE_ACCOUNTS,
    CLAIMS,
    DEPLOYMENTS,
    JOBS,
    ENDPOINT_SLICES,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    ROLES,
    ROLE_BINDINGS,
)
"""What the operator makes in namespaces, but for Leases; watched by its label only."""

RESOURCES: Final = {
    (it.api_version, it.kind): it
    for it in (
        *OURS,
        NAMESPACES,
        NODES,
        *CHILDREN,
        LEASES,
        EVENTS,
        NODE_POOLS,
        MACHINE_DEPLOYMENTS,
    )
}
"""Every kind by what manifests say of it."""


def resource_of(api_version: str, kind: str) -> Resource:
    """Return the resource of a manifest's ``apiVersion`` and ``kind``.

    Raises ``KeyError`` when it is none that the operator may write.
    """
    return RESOURCES[(api_version, kind)]
