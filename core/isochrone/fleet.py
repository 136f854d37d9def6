"""What hardware there is, and what it costs.

Values only. Made by ``isochrone.api`` from AcceleratorPool objects and by whoever has looked at
the machine; read by the planner and the simulator.
"""

from dataclasses import dataclass
from enum import Enum

from isochrone.ids import HostId, Namespace, PoolId
from isochrone.units import Bytes, MicroDollarsPerHour


class Vendor(Enum):
    """Whose accelerators a pool offers. ``synthetic`` ones take the profiled time."""

    NVIDIA = "nvidia"
    CPU = "cpu"
    SYNTHETIC = "synthetic"


class Engine(Enum):
    """Who provides a pool's nodes."""

    EXISTING = "existing"
    LOCAL = "local"
    KARPENTER = "karpenter"
    CLUSTER_API = "clusterAPI"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Nodes of one kind. A CPU "accelerator" is a fixed number of whole cores, ``cores``.

    ``cores`` is 1 for accelerators that are not CPUs: the host core that feeds each of them.
    ``allowed_namespaces`` is None when every namespace may use the pool.
    """

    id: PoolId
    vendor: Vendor
    product: str
    memory_bytes: Bytes
    cores: int
    accelerators_per_node: int
    node_price_uph: MicroDollarsPerHour
    nodes_min: int
    nodes_max: int
    engine: Engine
    allowed_namespaces: tuple[Namespace, ...] | None = None

    @property
    def accelerators_max(self) -> int:
        """Accelerators at the node limit."""
        return self.nodes_max * self.accelerators_per_node

    @property
    def accelerator_price_uph(self) -> MicroDollarsPerHour:
        """Price of one accelerator: node price over accelerators per node, rounded up."""
        return -(-self.node_price_uph // self.accelerators_per_node)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine whose cores several local pools share: a bound over all of them together."""

    id: HostId
    cores: int
    pools: tuple[PoolId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Every pool, sorted by id, and the machines that local pools share."""

    pools: tuple[Pool, ...]
    hosts: tuple[Host, ...] = ()

    def pool(self, pool_id: PoolId) -> Pool:
        """Return the pool ``pool_id``; ``KeyError`` when there is none."""
        for pool in self.pools:
            if pool.id == pool_id:
                return pool
        raise KeyError(pool_id)
