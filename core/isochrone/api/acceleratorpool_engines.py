"""Who provides the nodes of an AcceleratorPool: nobody, this machine, Karpenter or Cluster API."""

from enum import Enum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from isochrone.api.common import LabelKey, LabelName, LabelValue, ObjectName, PlainName
from isochrone.api.schema import Part, Rule

INSTANCE_TYPE_KEY: Final = "node.kubernetes.io/instance-type"


class Existing(Part):
    """Nodes that are there already; Isochrone neither makes nor removes any."""


class Local(Part):
    """Cores of the machine that `isochrone up` runs on; pools on one machine share its cores."""


class NodeClassRef(Part):
    """The platform team's NodeClass."""

    group: ObjectName
    """API group, such as karpenter.k8s.aws."""
    kind: PlainName
    """Kind, such as EC2NodeClass."""
    name: ObjectName
    """Name."""


class RequirementOperator(Enum):
    """How a requirement of a Karpenter NodePool compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


class NodeRequirement(Part):
    """One requirement of a Karpenter NodePool, passed on as it is."""

    key: LabelKey
    """Label of the node."""
    operator: RequirementOperator
    """How the label is compared with `values`."""
    values: Annotated[tuple[LabelValue, ...], Field(max_length=32)] = ()
    """What the label is compared with."""


class Karpenter(Part):
    """Nodes by a Karpenter NodePool that Isochrone makes."""

    node_class_ref: NodeClassRef
    """The platform team's NodeClass."""
    requirements: Annotated[tuple[NodeRequirement, ...], Field(min_length=1, max_length=16)]
    """Requirements of the NodePool; one of them names the one instance type."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=(
                f"self.requirements.exists_one(r, r.key == '{INSTANCE_TYPE_KEY}' && "
                "r.operator == 'In' && has(r.values) && size(r.values) == 1)"
            ),
            message=(
                f"one requirement must be {INSTANCE_TYPE_KEY} In with a single value, "
                "so that pricePerHour is true of every node"
            ),
            field_path=".requirements",
            holds=lambda karpenter: _instance_types(karpenter) == 1,
        ),
    )


def _instance_types(karpenter: Karpenter) -> int:
    return sum(
        requirement.key == INSTANCE_TYPE_KEY
        and requirement.operator is RequirementOperator.IN
        and len(requirement.values) == 1
        for requirement in karpenter.requirements
    )


class MachineDeploymentRef(Part):
    """A MachineDeployment that the platform team labeled as ours to scale."""

    name: ObjectName
    """Name."""
    namespace: LabelName
    """Namespace."""


class ClusterApi(Part):
    """Nodes by a Cluster API MachineDeployment that Isochrone scales."""

    machine_deployment_ref: MachineDeploymentRef
    """The MachineDeployment."""
