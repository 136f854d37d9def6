"""The operator's program with a small reconcile of its own, as a process of its own.

It makes one ConfigMap for each CostBudget (cluster-scoped, so in the namespace ``settings.namespace``),
tells how many there are, and removes those of budgets that are gone. Run by the tests of ``main``.
"""

import asyncio
import os
import sys

from isochrone.units import Instant
from isochrone_operator import names
from isochrone_operator.logs import Log, bridge
from isochrone_operator.main import Ports, run
from isochrone_operator.reconciliation import Manifest, Reconciliation, StatusWrite
from isochrone_operator.settings import Settings, parse_settings
from isochrone_operator.snapshot import ObjectRef, Snapshot

PREFIX = "small-"


def small_reconcile(snapshot: Snapshot, now: Instant, settings: Settings) -> Reconciliation:
    """Return one ConfigMap and one status for each budget."""
    assert now > 0
    desired = tuple(_map(budget.metadata.name, settings) for budget in snapshot.budgets)
    wanted = {PREFIX + budget.metadata.name for budget in snapshot.budgets}
    return Reconciliation(
        desired=desired,
        statuses=tuple(
            StatusWrite(
                ref=ObjectRef(
                    api_version="isochrone.dev/v1alpha1",
                    kind="CostBudget",
                    namespace="",
                    name=budget.metadata.name,
                    uid=budget.metadata.uid,
                ),
                status={"observedGeneration": budget.metadata.generation},
            )
            for budget in snapshot.budgets
            if budget.status.observed_generation != budget.metadata.generation
        ),
        surplus=tuple(
            child.ref
            for child in snapshot.children
            if child.ref.kind == "ConfigMap"
            and child.ref.name.startswith(PREFIX)
            and child.ref.name not in wanted
            and not child.deleting
        ),
    )


def _map(name: str, settings: Settings) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": settings.namespace,
            "name": PREFIX + name,
            "labels": {names.LABEL_NAME: names.APP, names.LABEL_MANAGED_BY: names.APP},
        },
        "data": {"budget": name},
    }


if __name__ == "__main__":
    SETTINGS = parse_settings(sys.argv[1:], os.environ)
    LOG = Log(level="debug")
    bridge(LOG)
    PORTS = Ports(metrics=int(os.environ["METRICS"]), health=int(os.environ["HEALTH"]))
    asyncio.run(run(SETTINGS, LOG, ports=PORTS, reconcile=small_reconcile))
