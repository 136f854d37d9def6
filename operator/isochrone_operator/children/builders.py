"""What builder Jobs of a namespace need beside themselves: an identity without rights, no network.

Those that fetch, and parse nothing, have a network: a policy of their own lets them out.

Called by ``cell`` and by whatever makes the Jobs: a Model is built before any service names it, so
these belong to the namespace's Models and not to a cell.
"""

from typing import Final

from isochrone.api.model import Model
from isochrone.build_document import is_fetched
from isochrone_operator import names
from isochrone_operator.children.access import service_account
from isochrone_operator.children.networks import builder_policy, fetcher_policy
from isochrone_operator.children.pods import Json, owner_of
from isochrone_operator.snapshot import Snapshot

_CLAIM_SCHEME: Final = "pvc://"
_OWNERS_MAX: Final = 16
"""Owners that one object names: enough that the garbage collector never acts too early."""


def builder_children(namespace: str, snapshot: Snapshot) -> tuple[Json, ...]:
    """Return ServiceAccount and NetworkPolicies of the builders of ``namespace``.

    Empty when it has no Model. The same for every caller, so that two callers are no conflict.
    """
    models = [model for model in snapshot.models if model.metadata.namespace == namespace]
    owners = [owner_of(model, controller=False) for model in models[:_OWNERS_MAX]]
    if not owners:
        return ()
    fetches = any(is_fetched(location) for it in models for location in _locations(it))
    return (
        service_account(names.BUILDER, names.COMPONENT_BUILDER, namespace, owners),
        builder_policy(namespace, owners),
        *((fetcher_policy(namespace, owners),) if fetches else ()),
    )


def source_claims(model: Model) -> tuple[str, ...]:
    """Return the claims that the ``pvc://claim/path`` locations of ``model`` name, sorted."""
    claims = {
        location.removeprefix(_CLAIM_SCHEME).partition("/")[0]
        for location in _locations(model)
        if location.startswith(_CLAIM_SCHEME)
    }
    return tuple(sorted(claims))


def _locations(model: Model) -> list[str]:
    locations = [architecture.artifact.uri for architecture in model.spec.architectures]
    if model.spec.accuracy.validation_set is not None:
        locations.append(model.spec.accuracy.validation_set.uri)
    return locations
