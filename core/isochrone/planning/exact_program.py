"""The integer program over services, groups, pools and budgets: how it is written down and asked.

Called by ``exact`` and ``decomposed``; the only module that imports CP-SAT.
Deterministic: one worker, a fixed seed, and a limit on work instead of time.

One boolean per (service, candidate, own workers or shared). A shared group (namespace, pool, image)
has a whole number of workers r and one level of utilization u; with work W, the largest unit of work
l, the largest batch or burst D and, of each member, patience K, it holds when W ≤ u·r and
need(u)·l + D ≤ K·r. Both are simple once the level is fixed by a boolean. Patience enters as the
least of each class of percentile, so that the program grows with candidates plus levels, not with
their product (see ``attainment``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Final, TypeAlias

from ortools.sat.python import cp_model

from isochrone.fleet import Pool
from isochrone.ids import Namespace, PoolId, ServiceId
from isochrone.planning.candidates import Candidate, ServiceOptions, by_name
from isochrone.planning.problem import Problem, accelerators_limit, namespace_budget
from isochrone.planning.queueing import UTILIZATION_LEVELS_PPM, level_patience_milli
from isochrone.planning.selection import NOTHING, Choice, HeldKey, Selection, SharedKey, usage
from isochrone.planning.sharing import Member
from isochrone.units import ONE_PPM

Expression: TypeAlias = cp_model.LinearExprT
Values = dict[int, int]
"""A solution, or a part of one: value per index of variable."""
ROUNDING: Final = 0.5
"""Objectives are whole numbers: a bound in floating point is one within less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One boolean of the program and what it stands for."""

    candidate: Candidate
    shared: bool
    chosen: cp_model.IntVar

    @property
    def choice(self) -> Choice:
        """What is chosen where the boolean is true."""
        replicas = 0 if self.shared else self.candidate.replicas
        return Choice(candidate=self.candidate, shared=self.shared, replicas=replicas)


@dataclass(slots=True, kw_only=True)
class Program:
    """The integer program and its handles; made and used inside one call of the planner.

    ``held`` is the accelerators that each namespace holds of each pool, ``bill`` the price of whole
    nodes.
    """

    model: cp_model.CpModel
    picks: list[Pick] = field(default_factory=list)
    served: dict[ServiceId, cp_model.IntVar] = field(default_factory=dict)
    shared_replicas: dict[SharedKey, cp_model.IntVar] = field(default_factory=dict)
    held: dict[HeldKey, Expression] = field(default_factory=dict)
    bill: Expression = 0

    @property
    def everybody(self) -> dict[ServiceId, int]:
        """That every service with candidates is served, as ``minimized`` takes it."""
        return dict.fromkeys(self.served, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the solver found: the least value, what it proved that none can go below, its work.

    ``values`` is None where no solution was found, and ``value`` then means nothing.
    """

    infeasible: bool
    values: Values | None
    value: int
    bound: int
    work: float


def build(
    problem: Problem, options: tuple[ServiceOptions, ...], beside: Selection = NOTHING
) -> Program:
    """Return the program of the services of ``options``, where ``beside`` holds what it holds."""
    program = Program(model=cp_model.CpModel())
    model = program.model
    for table in options:
        if not table.candidates:
            continue
        own: list[cp_model.IntVar] = []
        for number, one in enumerate(table.candidates):
            for shared in (False, True):
                if one.member is None if shared else one.replicas == 0:
                    continue
                name = f"{one.service}#{number}{'s' if shared else ''}"
                pick = Pick(candidate=one, shared=shared, chosen=model.new_bool_var(name))
                program.picks.append(pick)
                own.append(pick.chosen)
        served = model.new_bool_var(f"served {table.service.id}")
        model.add(sum(own) == served)
        program.served[table.service.id] = served
    _add_groups(problem, program, options)
    _add_fleet(problem, program, beside)
    return program


def hint_of(program: Program, start: Selection) -> Values:
    """Return ``start`` as values of the program's variables; the rest is left to the solver."""
    taken = {(c.candidate.service, by_name(c.candidate), c.shared) for c in start.choices}
    hint: Values = {}
    for pick in program.picks:
        one = pick.candidate
        key = (one.service, by_name(one), pick.shared)
        hint[pick.chosen.index] = int(key in taken)
    workers = dict(start.shared_replicas)
    for group, replicas in program.shared_replicas.items():
        hint[replicas.index] = workers.get(group, 0)
    return hint


def selection_of(program: Program, values: Values) -> Selection:
    """Return what a solution chooses."""
    choices = [pick.choice for pick in program.picks if values[pick.chosen.index]]
    choices.sort(key=lambda choice: choice.candidate.service)
    keys: list[SharedKey] = sorted({choice.key for choice in choices if choice.shared})
    return Selection(
        choices=tuple(choices),
        shared_replicas=tuple((key, values[program.shared_replicas[key].index]) for key in keys),
    )


def minimized(
    problem: Problem,
    program: Program,
    objective: Expression,
    *,
    hint: Values,
    served: Mapping[ServiceId, int],
    work_limit: float,
) -> Outcome:
    """Return the least of ``objective`` with ``served`` as it says, looked for from ``hint`` on.

    ``work_limit`` is in the solver's own seconds; the program itself stays as it is.
    """
    model = program.model.clone()
    for name, value in served.items():
        model.add(program.served[name] == value)
    model.clear_hints()
    for index, value in hint.items():
        model.add_hint(model.get_int_var_from_proto_index(index), value)
    model.minimize(objective)
    solver = _solver(problem, work_limit)
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return Outcome(
        infeasible=status == cp_model.INFEASIBLE,
        values=dict(enumerate(solver.response_proto.solution)) if found else None,
        value=round(solver.objective_value) if found else 0,
        bound=max(0, ceil(solver.best_objective_bound - ROUNDING)),
        work=solver.response_proto.deterministic_time,
    )


def _solver(problem: Problem, work_limit: float) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    # The solver would put the default action in the place of the program's own SIGINT handler.
    parameters.catch_sigint_signal = False
    parameters.num_workers = 1
    parameters.random_seed = problem.settings.seed
    parameters.max_deterministic_time = work_limit
    parameters.relative_gap_limit = problem.settings.gap_ppm / ONE_PPM
    # Trying every boolean before the search, and one kind of cuts, took a half of the work of the programs of
    # ``planning.generated``, and made no bound better. (Zero-half cuts do: they prove whole nodes.)
    parameters.cp_model_probing_level = 0
    parameters.add_cg_cuts = False
    return solver


def _add_groups(problem: Problem, program: Program, options: tuple[ServiceOptions, ...]) -> None:
    budgets = {table.service.id: table.service.objectives.cost_budget_uph for table in options}
    namespaces = {table.service.id: table.service.namespace for table in options}
    by_key: dict[SharedKey, list[Pick]] = {}
    for pick in program.picks:
        if pick.shared:
            one = pick.candidate
            key = namespaces[one.service], one.pool, one.family
            by_key.setdefault(key, []).append(pick)
    for key, picks in sorted(by_key.items()):
        _add_group(problem, program, key, picks)
        for pick in picks:
            budget_uph = budgets[pick.candidate.service]
            if budget_uph is not None:
                _add_share_ceiling(problem, program, key, pick, budget_uph)


def _add_group(problem: Problem, program: Program, key: SharedKey, picks: list[Pick]) -> None:
    """Add a shared group: workers, level of utilization, waits and memory."""
    model, settings = program.model, problem.settings
    pool = problem.fleet.pool(key[1])
    limit = min(settings.replicas_max, accelerators_limit(problem.fleet, pool))
    name = "/".join(key)
    replicas = model.new_int_var(0, limit, f"workers {name}")
    program.shared_replicas[key] = replicas
    parts = [_member(pick) for pick in picks]
    unit = _largest(model, f"unit {name}", picks, [part.unit_us for part in parts])
    partial = _largest(model, f"partial {name}", picks, [part.partial_us for part in parts])
    surge = _largest(model, f"surge {name}", picks, [part.surge_us for part in parts])
    work = sum(part.work_ppm * pick.chosen for part, pick in zip(parts, picks, strict=True))
    by_service: dict[ServiceId, list[Expression]] = {}
    for pick in picks:
        least = pick.candidate.shared_replicas * pick.chosen
        by_service.setdefault(pick.candidate.service, []).append(least)
    for terms in by_service.values():
        model.add(replicas >= sum(terms))
    model.add(work <= settings.utilization_max_ppm * replicas)
    levels: list[cp_model.IntVar] = []
    for index, ppm in enumerate(UTILIZATION_LEVELS_PPM):
        if ppm > settings.utilization_max_ppm:
            break
        level = model.new_bool_var(f"level {index} {name}")
        levels.append(level)
        model.add(work <= ppm * replicas).only_enforce_if(level)
    model.add_exactly_one(levels)
    asked = [(part.refused_ppb, False) for part in parts]
    asked += [(part.of_bursts_ppb, True) for part in parts]
    for refused_ppb, burst in sorted(set(asked)):
        same = [
            (part, pick)
            for part, pick in zip(parts, picks, strict=True)
            if (part.of_bursts_ppb if burst else part.refused_ppb) == refused_ppb
        ]
        label = f"{refused_ppb} {'of bursts' if burst else 'of all'} {name}"
        present = model.new_bool_var(f"any {label}")
        most = max(part.patience_us for part, _ in same)
        patience = model.new_int_var(0, most, f"patience {label}")
        total = model.new_int_var(0, most * limit, f"patience of all {label}")
        model.add_multiplication_equality(total, [patience, replicas])
        for part, pick in same:
            model.add_implication(pick.chosen, present)
            model.add(patience <= part.patience_us).only_enforce_if(pick.chosen)
        beside = surge if burst else partial
        for index, level in enumerate(levels):
            needed = level_patience_milli(index, refused_ppb)
            if needed is None:
                model.add_implication(level, present.negated())
                continue
            model.add(needed * unit + 1000 * beside <= 1000 * total).only_enforce_if(
                [level, present]
            )
    _add_memory(problem, program, pool, picks)


def _largest(
    model: cp_model.CpModel, name: str, picks: list[Pick], sizes: list[int]
) -> cp_model.IntVar:
    """Return a variable that is at least the size of every chosen pick."""
    largest = model.new_int_var(0, max(sizes), name)
    for size, pick in zip(sizes, picks, strict=True):
        if size:
            model.add(largest >= size).only_enforce_if(pick.chosen)
    return largest


def _add_memory(problem: Problem, program: Program, pool: Pool, picks: list[Pick]) -> None:
    """Every variant of a shared group is resident on each worker: their pages must fit."""
    total = pool.memory_bytes // problem.settings.page_bytes
    resident: dict[str, cp_model.IntVar] = {}
    pages: dict[str, int] = {}
    for pick in picks:
        variant = pick.candidate.variant
        if variant not in resident:
            resident[variant] = program.model.new_bool_var(f"resident {variant} {pool.id}")
            pages[variant] = pick.candidate.pages
        program.model.add_implication(pick.chosen, resident[variant])
    program.model.add(sum(pages[v] * held for v, held in resident.items()) <= total)


def _add_share_ceiling(
    problem: Problem, program: Program, key: SharedKey, pick: Pick, budget_uph: int
) -> None:
    """Keep what a member pays within its budget.

    It pays by lane share or page share, whichever is larger.
    The lane share does not depend on the workers, and was checked when the candidate was made.
    """
    pool = problem.fleet.pool(key[1])
    total = pool.memory_bytes // problem.settings.page_bytes
    price = pool.accelerator_price_uph * pick.candidate.pages
    if price > 0:
        most = budget_uph * total // price
        program.model.add(program.shared_replicas[key] <= most).only_enforce_if(pick.chosen)


def _add_fleet(problem: Problem, program: Program, beside: Selection) -> None:
    """Whole nodes, machines that pools share, and the budgets of namespaces."""
    model = program.model
    namespaces = {service.id: service.namespace for service in problem.demand.services}
    held: dict[HeldKey, list[Expression]] = {}
    for key, count in usage(beside).held.items():
        held[key] = [count]
    for pick in program.picks:
        if not pick.shared:
            for pool_id, replicas in pick.choice.held:
                holder = namespaces[pick.candidate.service], pool_id
                held.setdefault(holder, []).append(replicas * pick.chosen)
    for group, workers in program.shared_replicas.items():
        held.setdefault(group[:2], []).append(workers)
    used: dict[PoolId, Expression] = {}
    spent: dict[Namespace, list[Expression]] = {}
    for (namespace, pool_id), terms in sorted(held.items()):
        price = problem.fleet.pool(pool_id).accelerator_price_uph
        used[pool_id] = used.get(pool_id, 0) + sum(terms)
        spent.setdefault(namespace, []).append(price * sum(terms))
    bill: list[Expression] = []
    for pool in problem.fleet.pools:
        nodes = model.new_int_var(pool.nodes_min, pool.nodes_max, f"nodes {pool.id}")
        bill.append(pool.node_price_uph * nodes)
        if pool.id in used:
            model.add(used[pool.id] <= pool.accelerators_per_node * nodes)
    _add_ceilings(problem, model, used, spent)
    program.bill = sum(bill)
    program.held = {holder: sum(terms) for holder, terms in held.items()}


def _add_ceilings(
    problem: Problem,
    model: cp_model.CpModel,
    used: dict[PoolId, Expression],
    spent: dict[Namespace, list[Expression]],
) -> None:
    """Keep machines within their cores, and namespaces within their budgets."""
    for host in problem.fleet.hosts:
        cores = [problem.fleet.pool(p).cores * used[p] for p in host.pools if p in used]
        if cores:
            model.add(sum(cores) <= host.cores)
    for namespace, costs in sorted(spent.items()):
        ceiling_uph = namespace_budget(problem.demand, namespace)
        if ceiling_uph is not None:
            model.add(sum(costs) <= ceiling_uph)


def _member(pick: Pick) -> Member:
    assert pick.candidate.member is not None
    return pick.candidate.member
