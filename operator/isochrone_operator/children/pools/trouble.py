"""Why a pool gets no nodes from its engine: a reason for programs, a sentence for a person."""

from dataclasses import dataclass
from enum import Enum


class TroubleReason(Enum):
    """Reasons of the pool's condition, and of ``NodesReady`` of services that need the pool."""

    ENGINE_DISABLED = "EngineDisabled"
    """The operator was not allowed to use the pool's engine."""
    LOCAL_ONLY = "LocalOnly"
    """The pool is one of local mode, and means nothing in a cluster."""
    NO_NODES = "NoNodes"
    """No node has what the pool asks for; only of pools that use existing nodes."""
    NODE_POOL_NOT_READY = "NodePoolNotReady"
    """Karpenter says that it cannot use the NodePool: the message is its own."""
    LABEL_RESTRICTED = "LabelRestricted"
    """Karpenter lets nobody set a label that the pool selects by."""
    CAPACITY_TYPE_DIFFERS = "CapacityTypeDiffers"
    """The requirements rule out the capacity type that the price is for."""
    NOT_FOUND = "MachineDeploymentNotFound"
    """No MachineDeployment of that name bears our label."""
    NOT_SCALABLE = "NotScalable"
    """The MachineDeployment may not be scaled by us."""
    MACHINES_NOT_READY = "MachinesNotReady"
    """Cluster API says what is wrong: the message is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTrouble:
    """What is wrong, and what to do. ``blocks``: no node will come before somebody does it."""

    reason: TroubleReason
    message: str
    blocks: bool
