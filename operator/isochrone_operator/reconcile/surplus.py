"""What bears our label and is wanted no more.

Called by ``reconcile`` last, when all that is desired is known. Nothing is surplus that this module
does not understand: builder Jobs are ``jobs``' affair, claims keep what users stored, and Pods and
Leases belong to those who made them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from isochrone.ids import Namespace
from isochrone_operator import names
from isochrone_operator.reconcile.facts import NOTHING_KNOWN, Facts
from isochrone_operator.reconciliation import LeafOrder, Manifest
from isochrone_operator.snapshot import Child, ObjectRef, Snapshot

_KEPT: Final = frozenset({"PersistentVolumeClaim", "Pod", "Lease", "Job", "ServingPlan"})
_CLUSTER_SCOPED: Final = frozenset({"NodePool"})
Identity = tuple[str, str, str]
"""Kind, namespace and name."""


def identity_of(manifest: Manifest) -> Identity:
    """Return what tells ``manifest`` from any other."""
    metadata = manifest.get("metadata")
    fields = metadata if isinstance(metadata, Mapping) else {}
    return (
        str(manifest.get("kind", "")),
        str(fields.get("namespace", "")),
        str(fields.get("name", "")),
    )


def surplus_of(
    snapshot: Snapshot,
    desired: Iterable[Manifest],
    leaves: Sequence[LeafOrder],
    *,
    kept: Mapping[Namespace, frozenset[str]],
    complete: frozenset[Namespace],
    facts: Mapping[str, Facts],
    plan_revisions: Mapping[Namespace, int],
) -> tuple[ObjectRef, ...]:
    """Return what is to be deleted, sorted.

    ``complete``: namespaces whose children are all in ``desired``; elsewhere nothing is surplus.
    ``kept``: groups that are in force now or next. Workers of other groups go when the leading
    gateway obeys a plan without them (``plan_revisions``: the one in the cluster).
    """
    wanted = {identity_of(it) for it in desired}
    wanted |= {("Secret", it.namespace, it.name) for it in leaves}
    # A certificate that is good is ordered by nobody, and stays.
    wanted |= {
        ("Secret", namespace, name)
        for namespace in complete
        for name in (names.GATEWAY_TLS, names.EXECUTOR_TLS)
    }
    # A pool that cannot be read makes no NodePool, and must not lose its nodes for that.
    pools_known = not any(it.ref.kind == "AcceleratorPool" for it in snapshot.unreadable)
    found: list[ObjectRef] = []
    for child in snapshot.children:
        ref = child.ref
        if child.deleting or ref.kind in _KEPT or (ref.kind, ref.namespace, ref.name) in wanted:
            continue
        if ref.kind in _CLUSTER_SCOPED or not ref.namespace:
            if pools_known:
                found.append(ref)
            continue
        namespace = Namespace(ref.namespace)
        if namespace not in complete or _is_builders(child):
            continue
        group = child.labels.get(names.LABEL_GROUP, "")
        if group:
            known = facts.get(namespace, NOTHING_KNOWN)
            if group in kept.get(namespace, frozenset()):
                continue
            if known.serving and known.obeyed < plan_revisions.get(namespace, 0):
                continue
        found.append(ref)
    return tuple(sorted(found))


def _is_builders(child: Child) -> bool:
    return child.labels.get(names.LABEL_COMPONENT) == names.COMPONENT_BUILDER
