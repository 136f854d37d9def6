"""Kind CostBudget: a hard ceiling over what namespaces spend."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from isochrone.api.common import (
    Conditions,
    LabelName,
    LabelSelector,
    Money,
    ObservedGeneration,
)
from isochrone.api.resource import AGE_COLUMN, READY_COLUMN, Column, Definition, Resource, Scope
from isochrone.api.schema import Keyed, Part


class CostBudgetSpec(Part):
    """Whose spending is limited, and to how much."""

    namespace_selector: LabelSelector
    """Namespaces that the ceiling is over, each for itself; `{}` selects all."""
    cost_per_hour: Money
    """The most that each of them may spend, in dollars per hour; where several budgets match, the
    lowest holds."""


class NamespaceCost(Part):
    """What one namespace spends."""

    name: LabelName
    """Name of the namespace."""
    planned: Money
    """What its plan costs, in dollars per hour."""
    observed: Money
    """What it spent in the last window, in dollars per hour."""
    limit: Money
    """Its lowest ceiling, in dollars per hour."""


class CostBudgetStatus(Part):
    """What the namespaces spend now."""

    observed_generation: ObservedGeneration = -1
    """Generation of the spec that this status speaks of; -1 before the first look."""
    namespaces: Annotated[tuple[NamespaceCost, ...], Field(max_length=256), Keyed("name")] = ()
    """What each namespace spends."""
    conditions: Conditions = ()
    """Ready, and while true Reconciling or Stalled."""


class CostBudget(Resource):
    """A hard ceiling over what each selected namespace spends; tenants cannot raise their own."""

    definition: ClassVar[Definition] = Definition(
        kind="CostBudget",
        plural="costbudgets",
        short_name="cbudget",
        scope=Scope.CLUSTER,
        columns=(
            Column(
                name="Limit",
                path=".spec.costPerHour",
                description="The ceiling over each namespace, in dollars per hour.",
            ),
            READY_COLUMN,
            AGE_COLUMN,
        ),
    )

    kind: Literal["CostBudget"] = "CostBudget"
    spec: CostBudgetSpec
    """Whose spending is limited, and to how much."""
    status: CostBudgetStatus = CostBudgetStatus()
    """What the namespaces spend now; written by the operator alone."""
