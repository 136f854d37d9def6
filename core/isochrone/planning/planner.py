"""Problem in, plan out: the whole decision of the control plane, as one list of sentences.

Called by the operator's reconcile and by the command line, which carry the plan out. Pure: dwell
times are the caller's, who says with ``may_improve`` whether a plan that holds may be replaced.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Final

from isochrone.plan import Plan
from isochrone.planning import apart, exact, greedy
from isochrone.planning.assembly import unexplained
from isochrone.planning.candidates import ServiceOptions
from isochrone.planning.changing import change_uph
from isochrone.planning.explain import explain
from isochrone.planning.judge import violations
from isochrone.planning.leasts import least
from isochrone.planning.options import tables
from isochrone.planning.problem import WORK_MIN, Problem, serving_order
from isochrone.planning.repairing import mended
from isochrone.planning.selection import Selection, bill_uph, running_selection
from isochrone.units import ONE_PPM

KEPT_MAX: Final = 512
"""Plans of namespaces that are kept, for the next time that the very same question is asked."""


def plan(problem: Problem, *, may_improve: bool = True) -> Plan:
    """Return the plan for ``problem``.

    The running plan's choices are kept while they hold and serve as much, and as far as they do
    where some no longer hold, unless the new bill and
    what the change costs (``changing``) are lower by `PlannerSettings.switch_saving_ppm`, and
    ``may_improve`` is True (the caller's minimum dwell is over). The revision grows by one when
    groups or services differ from the running plan. Of a large problem (see ``apart``) all this holds
    namespace by namespace.
    """
    if not apart.is_large(problem):
        return _numbered(problem, _together(problem, may_improve=may_improve))
    parts = apart.parts_of(problem)
    alone = {it: _alone(part, may_improve) for it, part in parts.items()}
    made = apart.merged(problem, alone)
    if not apart.fits_together(problem, made):
        placed = apart.place_in_order(problem, parts, _holding)
        made = apart.merged(problem, {it: _written(*placed[it]) for it in placed})
        assert apart.fits_together(problem, made), "services were placed where there is no room"
    return _numbered(problem, made)


@lru_cache(maxsize=KEPT_MAX)
def _alone(part: Problem, may_improve: bool) -> Plan:  # noqa: FBT001 - a key of the cache
    """Return the plan of one namespace that has the fleet to itself."""
    return _together(part, may_improve=may_improve)


def _together(problem: Problem, *, may_improve: bool) -> Plan:
    """Return the joint plan for ``problem``, its revision that of the running one."""
    options = tables(problem, sorted(serving_order(problem), key=lambda service: service.id))
    servable = [table for table in options if table.candidates]
    running = _holding(problem, options)
    if running is None or len(running.choices) < len(servable):
        # What broke the plan, or a newcomer, is no reason to move everybody.
        running = mended(problem, options) or running
    if running is None:
        return _written(problem, options, _solved(problem, options))
    if len(running.choices) == len(servable) and not (
        may_improve and _could_save(problem, servable, running)
    ):
        return _written(problem, options, running)  # nothing else can be found that replaces it
    fresh = _solved(problem, options)
    replaced = _replaces(problem, fresh, running, may_improve=may_improve)
    return _written(problem, options, fresh if replaced else running)


def _could_save(problem: Problem, tables: list[ServiceOptions], running: Selection) -> bool:
    """Return whether any plan at all could be cheaper than ``running`` by enough to replace it."""
    old_uph, least_uph = bill_uph(problem, running), least(problem, tables).bill_uph
    if least_uph >= old_uph:
        return False
    old_uph += change_uph(problem, unexplained(problem, running))
    return least_uph * ONE_PPM <= old_uph * (ONE_PPM - problem.settings.switch_saving_ppm)


def _solved(problem: Problem, options: tuple[ServiceOptions, ...]) -> Selection:
    """Return the exact answer where there is one that is no worse than the greedy start."""
    if problem.settings.work_limit < WORK_MIN:
        return greedy.solve(problem, options)
    start = greedy.start(problem, options)
    found = exact.solve(problem, options, start)
    if found is None or _standing(problem, start) < _standing(problem, found):
        return greedy.solve(problem, options)
    return found


def _standing(problem: Problem, selection: Selection) -> tuple[tuple[bool, ...], int]:
    """Return what makes one selection better than another: who goes unserved, then the bill."""
    unserved = tuple(selection.choice(s.id) is None for s in serving_order(problem))
    return unserved, bill_uph(problem, selection)


def _holding(problem: Problem, options: tuple[ServiceOptions, ...]) -> Selection | None:
    """Return the running plan as a selection, if it still breaks no rule."""
    running = running_selection(problem, options)
    if running is None:
        return None
    return None if violations(problem, unexplained(problem, running)) else running


def _replaces(problem: Problem, fresh: Selection, running: Selection, *, may_improve: bool) -> bool:
    """Return whether ``fresh`` serves more important services, or is cheaper by enough."""
    order = serving_order(problem)
    ours = tuple(fresh.choice(service.id) is not None for service in order)
    theirs = tuple(running.choice(service.id) is not None for service in order)
    if ours != theirs:
        return ours > theirs
    old_uph, new_uph = bill_uph(problem, running), bill_uph(problem, fresh)
    if not may_improve or new_uph >= old_uph:
        return False
    new_uph += change_uph(problem, unexplained(problem, fresh))
    old_uph += change_uph(problem, unexplained(problem, running))
    return new_uph * ONE_PPM <= old_uph * (ONE_PPM - problem.settings.switch_saving_ppm)


def _written(problem: Problem, options: tuple[ServiceOptions, ...], selection: Selection) -> Plan:
    """Return ``selection`` as a plan that the judge has found clean, without a revision."""
    bare = unexplained(problem, selection)
    why = explain(problem, options, selection, groups=bare.groups, services=bare.services)
    result = replace(bare, explanations=why)
    broken = violations(problem, result)
    assert not broken, f"the planner made a plan that does not hold: {broken}"
    return result


def _numbered(problem: Problem, result: Plan) -> Plan:
    """Return ``result`` with the revision that it deserves beside the running plan."""
    running = problem.running
    if running is None:
        return replace(result, revision=1)
    same = (running.groups, running.services, running.cost_uph) == (
        result.groups,
        result.services,
        result.cost_uph,
    )
    return replace(result, revision=running.revision + (0 if same else 1))
