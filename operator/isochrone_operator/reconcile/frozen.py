"""Cells that stay as they are, because something that their plan stands on cannot be read.

An object that this version cannot read is not one that is gone: what runs by it goes on running, its
workers keep their accelerators, and nothing of its cell changes until it can be read. A CostBudget that
cannot be read may be anybody's: until it can be, nobody's plan changes, for budgets are hard. Called by
``intake``.
"""

from collections.abc import Mapping
from typing import Final

from isochrone.api.modelvariant import ModelVariant
from isochrone.api.servingplan import ServingPlan
from isochrone.ids import Namespace, qualify
from isochrone_operator.snapshot import Snapshot

FROZEN: Final = "Frozen"
BUDGET: Final = "CostBudget"
Unread = frozenset[tuple[str, str, str]]
"""Kind, namespace and name of what cannot be read."""


def unread_of(snapshot: Snapshot) -> Unread:
    """Return what of ``snapshot`` cannot be read."""
    return frozenset((it.ref.kind, it.ref.namespace, it.ref.name) for it in snapshot.unreadable)


def frozen_cells(
    plans: Mapping[Namespace, ServingPlan], variants: Mapping[str, ModelVariant], unread: Unread
) -> dict[Namespace, str]:
    """Return for each cell whose plan names something of ``unread`` what that is, in one sentence.

    ``variants`` are those that can be read, by namespace and name.
    """
    found: dict[Namespace, str] = {}
    budgets = sorted(it for it in unread if it[0] == BUDGET)
    for namespace, plan in sorted(plans.items()):
        met = (budgets if plan.spec.groups else []) + [
            it for it in _named(namespace, plan, variants) if it in unread
        ]
        if met:
            kind, _, name = met[0]
            found[namespace] = (
                f"{kind} {name} cannot be read by this version of the operator: what runs stays as "
                "it is, and nothing is planned anew, until it can be; its own conditions say why"
            )
    return found


def _named(
    namespace: Namespace, plan: ServingPlan, variants: Mapping[str, ModelVariant]
) -> list[tuple[str, str, str]]:
    """Return the objects that ``plan`` rests on, each once, in a fixed order."""
    named: dict[tuple[str, str, str], None] = {}
    for group in plan.spec.groups:
        named["AcceleratorPool", "", group.pool] = None
        for name in group.variants:
            named["ModelVariant", namespace, name] = None
            known = variants.get(qualify(namespace, name))
            if known is not None:
                named["Model", namespace, known.spec.model_ref.name] = None
    for service in plan.spec.services:
        if service.routes:
            named["InferenceService", namespace, service.name] = None
    return list(named)
