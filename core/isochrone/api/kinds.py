"""The table of all kinds: what the loader, the CRDs and whoever watches them go by."""

from typing import Final

from isochrone.api.acceleratorpool import AcceleratorPool
from isochrone.api.costbudget import CostBudget
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.model import Model
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.resource import Resource
from isochrone.api.servingplan import ServingPlan

KINDS: Final[dict[str, type[Resource]]] = {
    kind.definition.kind: kind
    for kind in (Model, ModelVariant, AcceleratorPool, InferenceService, ServingPlan, CostBudget)
}
"""Every kind by its name, in the order in which people meet them."""
