"""Problem in, plan out. Pure and deterministic; CP-SAT lives in one module, ``exact_program``.

``plan(problem)`` is what the operator and the command line call; ``violations`` judges any plan
anew, and ``diff`` says what changes from one to the next.
"""

from isochrone.planning.diff import GroupChange, PlanDiff, RouteChange, diff
from isochrone.planning.judge import Violation, ViolationKind, violations
from isochrone.planning.planner import plan
from isochrone.planning.problem import PlannerSettings, Problem

__all__ = [
    "GroupChange",
    "PlanDiff",
    "PlannerSettings",
    "Problem",
    "RouteChange",
    "Violation",
    "ViolationKind",
    "diff",
    "plan",
    "violations",
]
