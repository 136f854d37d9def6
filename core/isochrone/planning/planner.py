"""Problem in, plan out: the whole decision of the control plane, as one list of sentences.

Called by the operator's reconcile and by the command line, which carry the plan out. Pure: dwell
times are the caller's, who says with ``may_improve`` whether a plan that holds may be replaced.
"""

from dataclasses import replace

from isochrone.plan import Plan
from isochrone.planning import exact, greedy
from isochrone.planning.assembly import assemble
from isochrone.planning.candidates import ServiceOptions
from isochrone.planning.explain import explain
from isochrone.planning.judge import violations
from isochrone.planning.options import tables
from isochrone.planning.problem import Problem, serving_order
from isochrone.planning.selection import Selection, bill_uph, running_selection
from isochrone.units import ONE_PPM


def plan(problem: Problem, *, may_improve: bool = True) -> Plan:
    """Return the plan for ``problem``.

    The running plan's choices are kept while they hold and serve as much, unless the new bill is
    lower by `PlannerSettings.switch_saving_ppm`, and ``may_improve`` is True (the caller's minimum
    dwell is over). The revision grows by one when groups or services differ from the running plan.
    """
    options = tables(problem, sorted(serving_order(problem), key=lambda service: service.id))
    running = _holding(problem, options)
    fresh = _solved(problem, options)
    kept = running is not None and not _replaces(problem, fresh, running, may_improve=may_improve)
    chosen = running if kept and running is not None else fresh
    result = _written(problem, options, chosen)
    broken = violations(problem, result)
    assert not broken, f"the planner made a plan that does not hold: {broken}"
    return result


def _solved(problem: Problem, options: tuple[ServiceOptions, ...]) -> Selection:
    """Return the exact answer where there is one that is no worse than the greedy start."""
    start = greedy.solve(problem, options)
    found = exact.solve(problem, options, start)
    if found is None or _standing(problem, start) < _standing(problem, found):
        return start
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
    groups, services = assemble(problem, running)
    written = Plan(
        revision=0,
        groups=groups,
        services=services,
        explanations=(),
        cost_uph=bill_uph(problem, running),
    )
    return None if violations(problem, written) else running


def _replaces(problem: Problem, fresh: Selection, running: Selection, *, may_improve: bool) -> bool:
    """Return whether ``fresh`` serves more important services, or is cheaper by enough."""
    order = serving_order(problem)
    ours = tuple(fresh.choice(service.id) is not None for service in order)
    theirs = tuple(running.choice(service.id) is not None for service in order)
    if ours != theirs:
        return ours > theirs
    old_uph, new_uph = bill_uph(problem, running), bill_uph(problem, fresh)
    saving_ppm = problem.settings.switch_saving_ppm
    return (
        may_improve and new_uph < old_uph and new_uph * ONE_PPM <= old_uph * (ONE_PPM - saving_ppm)
    )


def _written(problem: Problem, options: tuple[ServiceOptions, ...], selection: Selection) -> Plan:
    """Return ``selection`` as a plan, with the revision that it deserves."""
    groups, services = assemble(problem, selection)
    running = problem.running
    result = Plan(
        revision=1 if running is None else running.revision,
        groups=groups,
        services=services,
        explanations=explain(problem, options, selection, groups=groups, services=services),
        cost_uph=bill_uph(problem, selection),
    )
    if running is None:
        return result
    same = (running.groups, running.services, running.cost_uph) == (
        result.groups,
        result.services,
        result.cost_uph,
    )
    return result if same else replace(result, revision=running.revision + 1)
