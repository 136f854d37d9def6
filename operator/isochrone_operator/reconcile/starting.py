"""How long the first executor of a group takes to come, where services may sleep.

So a gateway knows whom it can hold until then. Measured from when a plan asks for it to when the leading gateway reports one, in whole seconds; told
with the plan while none is there (``Group.ready_ns``). Pure. Called by ``cycle``.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from isochrone.ids import GroupId
from isochrone.plan import Group, Plan
from isochrone.units import SECOND, Instant, Nanoseconds
from isochrone_operator.reconcile.facts import Facts
from isochrone_operator.reconcile.memory import Start

KEPT_MAX: Final = 64
"""Groups of a cell whose starts are remembered, the first by name."""


def started(
    plan: Plan,
    facts: Facts,
    known: Mapping[str, Start],
    groups: Collection[GroupId],
    *,
    now: Instant,
    longest_ns: Nanoseconds,
) -> tuple[Plan, dict[str, Start]]:
    """Return ``plan`` with when those of ``groups`` are expected that are on their way, and what is known.

    A start of more than ``longest_ns`` waited for something else, and says nothing of the next one.
    """
    kept = {name: it for name, it in sorted(known.items()) if it.took_ns is not None}
    told: list[Group] = []
    for group in plan.groups:
        if group.id not in groups or facts.leader is None:
            told.append(group)
            continue
        start = known.get(group.id, Start())
        if any(it.up and it.group == group.id for it in facts.leader.workers):
            told.append(group)
            kept[group.id] = _come(start, now, longest_ns)
        else:
            told.append(replace(group, ready_ns=start.took_ns))
            kept[group.id] = start if start.since is not None else replace(start, since=now)
    return replace(plan, groups=tuple(told)), dict(sorted(kept.items())[:KEPT_MAX])


def _come(start: Start, now: Instant, longest_ns: Nanoseconds) -> Start:
    if start.since is None:
        return start
    took_ns = -(-(now - start.since) // SECOND) * SECOND
    return Start(took_ns=took_ns if took_ns <= longest_ns else None)
