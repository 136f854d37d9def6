"""Holding what the plan says, for the ports of systems that have no policy for weights.

Called by those baselines after every event. One transfer at a time per instance; what the plan does
not want goes first, once nothing of it is under way, and loads follow in the plan's order.
"""

from isochrone.simulation.baselines.facts import Instance
from isochrone.simulation.baselines.floor import Floor
from isochrone.units import Instant


def place(floor: Floor, now: Instant) -> None:
    """Begin the next transfer on every instance that moves nothing and does not hold its plan."""
    for instance in floor.instances.values():
        if instance.transfer is None:
            _move_next(floor, instance, now)


def _move_next(floor: Floor, instance: Instance, now: Instant) -> None:
    wanted = {
        model.variant: model
        for model in floor.models.values()
        if instance.group in model.groups and instance.pool in model.times
    }
    in_use = {batch.model.variant for batch in instance.running}
    for variant in instance.resident:
        if variant not in wanted and variant not in in_use:
            floor.unload(instance, variant, now)
            return
    for variant, model in wanted.items():
        fits = model.size_bytes[instance.pool] <= instance.free_bytes
        if variant not in instance.resident and fits:
            floor.load(instance, model, model.load_ns[instance.pool], now)
            return
