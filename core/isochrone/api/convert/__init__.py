"""Objects ↔ domain values: from strings that people write to exact integers, and back.

Called by the operator and the command line, after ``load`` or ``read`` have found the objects good.
"""

from isochrone.api.convert.catalogs import catalog, model, variant, variant_object
from isochrone.api.convert.demands import (
    demand,
    namespace_budgets,
    objectives,
    objectives_object,
    service,
)
from isochrone.api.convert.fleets import fleet, pool
from isochrone.api.convert.hosted import carrying, plan_document_of
from isochrone.api.convert.namespaces import NamespaceLabels, selected
from isochrone.api.convert.plans import plan_of, serving_plans

__all__ = [
    "NamespaceLabels",
    "carrying",
    "catalog",
    "demand",
    "fleet",
    "model",
    "namespace_budgets",
    "objectives",
    "objectives_object",
    "plan_document_of",
    "plan_of",
    "pool",
    "selected",
    "service",
    "serving_plans",
    "variant",
    "variant_object",
]
