"""What no choice for some services can be cheaper than: a bound that takes no search and no solver.

Each service by itself: the workers that it needs at the very least, and what part of workers its work
takes at the very least where it may share them. Called by ``greedy``, which looks no further once it is
there, and by ``planner``, which asks whether a new plan could save enough. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import floor, gcd, inf

from isochrone.fleet import Pool
from isochrone.ids import Namespace, PoolId
from isochrone.planning.candidates import Candidate, ServiceOptions
from isochrone.planning.company import levels_of
from isochrone.planning.problem import Problem, nodes_needed
from isochrone.planning.queueing import UTILIZATION_LEVELS_PPM
from isochrone.units import MicroDollarsPerHour

_Prices = Mapping[PoolId, MicroDollarsPerHour]


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """Bounds from below: of the bill of whole nodes, and of the price of the accelerators held."""

    bill_uph: MicroDollarsPerHour
    accelerators_uph: MicroDollarsPerHour


def least(problem: Problem, tables: Iterable[ServiceOptions]) -> Least:
    """Return what serving all of ``tables`` costs at the very least; each has a candidate."""
    pools = {pool.id: pool for pool in problem.fleet.pools}
    of_namespace: dict[Namespace, list[ServiceOptions]] = {}
    for table in tables:
        of_namespace.setdefault(table.service.namespace, []).append(table)
    busy_ppm = UTILIZATION_LEVELS_PPM[levels_of(problem.settings) - 1]
    prices = {it: pool.accelerator_price_uph for it, pool in pools.items()}
    # That price is rounded up, and what is paid for in any case is free to use.
    floors = {
        it: 0 if pool.nodes_min else pool.node_price_uph // pool.accelerators_per_node
        for it, pool in pools.items()
    }
    every = [table for them in of_namespace.values() for table in them]
    more_uph = sum(_held_uph(them, floors, busy_ppm) for them in of_namespace.values())
    for table in every:
        nodes_uph = min(_nodes_uph(pools, one) for one in table.candidates)
        more_uph = max(more_uph, nodes_uph)
    node_prices = {it: pool.node_price_uph for it, pool in pools.items()}
    return Least(
        bill_uph=sum(pool.nodes_min * pool.node_price_uph for pool in pools.values())
        + _whole(more_uph, every, node_prices),
        accelerators_uph=sum(_held_uph(them, prices, busy_ppm) for them in of_namespace.values()),
    )


def _held_uph(tables: list[ServiceOptions], prices: _Prices, busy_ppm: int) -> MicroDollarsPerHour:
    """Return the least price of what one namespace holds: for its largest service, or for all its work."""
    largest_uph, work_uph = 0, 0.0
    for table in tables:
        alone_uph, part_uph = inf, inf
        for one in table.candidates:
            price_uph = prices[one.pool]
            if one.parts:
                own_uph = sum(part.replicas * prices[part.pool] for part in one.parts)
                alone_uph, part_uph = min(alone_uph, own_uph), min(part_uph, own_uph)
            elif one.replicas:
                own_uph = one.replicas * price_uph
                alone_uph, part_uph = min(alone_uph, own_uph), min(part_uph, own_uph)
            if one.member is not None:
                # With more members a group is no smaller.
                alone_uph = min(alone_uph, one.shared_replicas * price_uph)
                part_uph = min(part_uph, one.member.work_ppm * price_uph / busy_ppm)
        largest_uph = max(largest_uph, int(alone_uph))
        work_uph += part_uph
    return _whole(max(largest_uph, floor(work_uph)), tables, prices)


def _nodes_uph(pools: Mapping[PoolId, Pool], one: Candidate) -> MicroDollarsPerHour:
    """Return the price of the nodes that ``one`` adds to an empty fleet, by itself."""
    held = [(part.pool, part.replicas) for part in one.parts]
    if not held:
        counts = [one.replicas] if one.replicas else []
        counts += [one.shared_replicas] if one.member is not None else []
        held = [(one.pool, min(counts))]
    return sum(
        (nodes_needed(pools[it], count) - pools[it].nodes_min) * pools[it].node_price_uph
        for it, count in held
    )


def _whole(
    amount_uph: MicroDollarsPerHour, tables: Iterable[ServiceOptions], prices: _Prices
) -> MicroDollarsPerHour:
    """Return the least sum of whole ``prices``, of pools that ``tables`` may use, from ``amount_uph`` on."""
    unit_uph = gcd(
        *(prices[it] for table in tables for one in table.candidates for it in _pools(one))
    )
    return -(-amount_uph // unit_uph) * unit_uph if unit_uph else amount_uph


def _pools(one: Candidate) -> Iterator[PoolId]:
    """Yield the pools whose workers ``one`` may hold."""
    yield from (part.pool for part in one.parts) if one.parts else (one.pool,)
