"""The exact planner: one integer program over all services, groups, pools and budgets.

The only module that imports the solver. Called by ``planner``; ``greedy`` gives it its start.
Deterministic: one worker, a fixed seed, and a limit on work instead of time.

One boolean per (service, candidate, own workers or shared). A shared group (namespace, pool, image)
has a whole number of workers r and one level of utilization u; with work W, the largest unit of work
l, the largest batch or burst D and, of each member, patience K, it holds when W ≤ u·r and
need(u)·l + D ≤ K·r. Both are simple once the level is fixed by a boolean. Patience enters as the
least of each class of percentile, so that the program grows with candidates plus levels, not with
their product (see ``attainment``).
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Final

from ortools.sat.python import cp_model

from isochrone.fleet import Pool
from isochrone.ids import Namespace, PoolId, ServiceId
from isochrone.planning.candidates import Candidate, ServiceOptions, by_name
from isochrone.planning.narrowing import near, with_start
from isochrone.planning.problem import (
    Problem,
    accelerators_limit,
    namespace_budget,
    serving_order,
)
from isochrone.planning.pruning import cheapest_only
from isochrone.planning.queueing import UTILIZATION_LEVELS_PPM, level_patience_milli
from isochrone.planning.selection import (
    Choice,
    HeldKey,
    Selection,
    SharedKey,
    bill_uph,
    is_running,
)
from isochrone.planning.sharing import Member
from isochrone.units import ONE_PPM, MicroDollarsPerHour

CHUNK: Final = 10
"""Services ranked in one solver call where not all fit: weights up to 2^10 stay exact and small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pick:
    """One boolean of the program and what it stands for."""

    candidate: Candidate
    shared: bool
    chosen: cp_model.IntVar


@dataclass(slots=True, kw_only=True)
class _Program:
    """The integer program and its handles; made and used inside one call of ``solve``."""

    model: cp_model.CpModel
    picks: list[_Pick] = field(default_factory=list)
    served: dict[ServiceId, cp_model.IntVar] = field(default_factory=dict)
    shared_replicas: dict[SharedKey, cp_model.IntVar] = field(default_factory=dict)
    accelerators: list[cp_model.LinearExpr] = field(default_factory=list)
    bill: cp_model.LinearExprT = 0


def solve(
    problem: Problem, options: tuple[ServiceOptions, ...], start: Selection
) -> Selection | None:
    """Return the best selection: most important services, then cost, changes, accuracy, workers.

    ``start`` is one that holds: the search begins there. None where the work limit ran out before
    any answer.
    """
    cheap = tuple(with_start(cheapest_only(problem, table), table, start) for table in options)
    program = _build(problem, cheap)
    hint = _hint(program, start)
    every = dict.fromkeys(program.served, 1)
    status, first = _cheapest(problem, program, every, hint)
    if status == cp_model.INFEASIBLE:
        some = _serve_in_order(problem, program, hint)
        if some is None:
            return None
        every = some
        _, first = _cheapest(problem, program, every, hint)
    if first is None:
        return None
    bill, values = first
    found = _selection(program, values)
    better = _refined(problem, near(problem, options, found), found, bill)
    return found if better is None else better


def cheapest(
    problem: Problem, options: tuple[ServiceOptions, ...], start: Selection
) -> tuple[Selection, MicroDollarsPerHour]:
    """Return the cheapest selection found that serves everybody, and what no such one can go below.

    What benchmarks show; ``solve`` also settles ties. ``start`` serves everybody, and is the answer
    where the work limit ran out before a better one.
    """
    cheap = tuple(with_start(cheapest_only(problem, table), table, start) for table in options)
    program = _build(problem, cheap)
    every = dict.fromkeys(program.served, 1)
    model = program.model
    for name, value in every.items():
        model.add(program.served[name] == value)
    solver = _solver(problem)
    _prepare(model, program.bill, _hint(program, start))
    status = solver.solve(model)
    least_uph = ceil(solver.best_objective_bound - 0.5)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return start, least_uph
    found = _selection(program, dict(enumerate(solver.response_proto.solution)))
    return min(start, found, key=lambda it: bill_uph(problem, it)), least_uph


_Values = dict[int, int]
"""A solution: value per index of variable."""


def _build(problem: Problem, options: tuple[ServiceOptions, ...]) -> _Program:
    program = _Program(model=cp_model.CpModel())
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
                pick = _Pick(candidate=one, shared=shared, chosen=model.new_bool_var(name))
                program.picks.append(pick)
                own.append(pick.chosen)
        served = model.new_bool_var(f"served {table.service.id}")
        model.add(sum(own) == served)
        program.served[table.service.id] = served
    _add_groups(problem, program, options)
    _add_fleet(problem, program)
    return program


def _add_groups(problem: Problem, program: _Program, options: tuple[ServiceOptions, ...]) -> None:
    budgets = {table.service.id: table.service.objectives.cost_budget_uph for table in options}
    namespaces = {table.service.id: table.service.namespace for table in options}
    by_key: dict[SharedKey, list[_Pick]] = {}
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


def _add_group(problem: Problem, program: _Program, key: SharedKey, picks: list[_Pick]) -> None:
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
    by_service: dict[ServiceId, list[cp_model.LinearExprT]] = {}
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
    model: cp_model.CpModel, name: str, picks: list[_Pick], sizes: list[int]
) -> cp_model.IntVar:
    """Return a variable that is at least the size of every chosen pick."""
    largest = model.new_int_var(0, max(sizes), name)
    for size, pick in zip(sizes, picks, strict=True):
        if size:
            model.add(largest >= size).only_enforce_if(pick.chosen)
    return largest


def _add_memory(problem: Problem, program: _Program, pool: Pool, picks: list[_Pick]) -> None:
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
    problem: Problem, program: _Program, key: SharedKey, pick: _Pick, budget_uph: int
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


def _add_fleet(problem: Problem, program: _Program) -> None:
    """Whole nodes, machines that pools share, and the budgets of namespaces."""
    model = program.model
    namespaces = {service.id: service.namespace for service in problem.demand.services}
    held: dict[HeldKey, list[cp_model.LinearExprT]] = {}
    for pick in program.picks:
        if not pick.shared:
            for pool_id, replicas in _as_choice(pick).held:
                holder = namespaces[pick.candidate.service], pool_id
                held.setdefault(holder, []).append(replicas * pick.chosen)
    for key, workers in program.shared_replicas.items():
        held.setdefault(key[:2], []).append(workers)
    used: dict[PoolId, cp_model.LinearExprT] = {}
    spent: dict[Namespace, list[cp_model.LinearExprT]] = {}
    for (namespace, pool_id), terms in sorted(held.items()):
        price = problem.fleet.pool(pool_id).accelerator_price_uph
        used[pool_id] = used.get(pool_id, 0) + sum(terms)
        spent.setdefault(namespace, []).append(price * sum(terms))
    bill: list[cp_model.LinearExprT] = []
    for pool in problem.fleet.pools:
        nodes = model.new_int_var(pool.nodes_min, pool.nodes_max, f"nodes {pool.id}")
        bill.append(pool.node_price_uph * nodes)
        if pool.id in used:
            model.add(used[pool.id] <= pool.accelerators_per_node * nodes)
    _add_ceilings(problem, model, used, spent)
    program.bill = sum(bill)
    program.accelerators = [sum(terms) for terms in held.values()]


def _add_ceilings(
    problem: Problem,
    model: cp_model.CpModel,
    used: dict[PoolId, cp_model.LinearExprT],
    spent: dict[Namespace, list[cp_model.LinearExprT]],
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


def _member(pick: _Pick) -> Member:
    assert pick.candidate.member is not None
    return pick.candidate.member


def _run(
    problem: Problem,
    model: cp_model.CpModel,
    objective: cp_model.LinearExprT,
    hint: _Values,
) -> tuple[cp_model.CpSolverStatus, tuple[int, _Values] | None]:
    """Minimize ``objective``; return the status and, if any was found, its value and solution."""
    _prepare(model, objective, hint)
    solver = _solver(problem)
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return status, None
    values = dict(enumerate(solver.response_proto.solution))
    return status, (round(solver.objective_value), values)


def _prepare(model: cp_model.CpModel, objective: cp_model.LinearExprT, hint: _Values) -> None:
    """Have ``model`` minimize ``objective``, beginning at ``hint``."""
    model.clear_hints()
    for index, value in hint.items():
        model.add_hint(model.get_int_var_from_proto_index(index), value)
    model.minimize(objective)


def _solver(problem: Problem) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    # The solver would put the default action in the place of the program's own SIGINT handler.
    solver.parameters.catch_sigint_signal = False
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = problem.settings.seed
    solver.parameters.max_deterministic_time = problem.settings.work_limit
    solver.parameters.relative_gap_limit = problem.settings.gap_ppm / ONE_PPM
    return solver


_Fixed = dict[ServiceId, int]
"""Who is served (1) and who is not (0)."""


def _hint(program: _Program, start: Selection) -> _Values:
    """Return ``start`` as values of the program's variables; the rest is left to the solver."""
    taken = {(c.candidate.service, by_name(c.candidate), c.shared) for c in start.choices}
    hint: _Values = {}
    for pick in program.picks:
        one = pick.candidate
        key = (one.service, by_name(one), pick.shared)
        hint[pick.chosen.index] = int(key in taken)
    workers = dict(start.shared_replicas)
    for group, replicas in program.shared_replicas.items():
        hint[replicas.index] = workers.get(group, 0)
    return hint


def _cheapest(
    problem: Problem, program: _Program, fixed: _Fixed, hint: _Values
) -> tuple[cp_model.CpSolverStatus, tuple[int, _Values] | None]:
    """Return the least bill that serves as ``fixed`` says, and a solution."""
    model = program.model.clone()
    for name, value in fixed.items():
        model.add(program.served[name] == value)
    return _run(problem, model, program.bill, hint)


def _serve_in_order(problem: Problem, program: _Program, hint: _Values) -> _Fixed | None:
    """Return who is served where not all can be: the first in order whenever any can, and so on."""
    order = [s.id for s in serving_order(problem) if s.id in program.served]
    fixed: _Fixed = {}
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        model = program.model.clone()
        for name, value in fixed.items():
            model.add(program.served[name] == value)
        top = len(chunk) - 1
        loss = sum((1 << (top - rank)) * (1 - program.served[n]) for rank, n in enumerate(chunk))
        _, found = _run(problem, model, loss, hint)
        if found is None:
            return None
        fixed.update((name, found[1][program.served[name].index]) for name in chunk)
    return fixed


def _refined(
    problem: Problem, options: tuple[ServiceOptions, ...], found: Selection, bill: int
) -> Selection | None:
    """Within ``bill``, for the services of ``found``: fewest changes, most accuracy, few workers."""
    program = _build(problem, options)
    model = program.model
    model.add(program.bill <= bill)
    for name, served in program.served.items():
        model.add(served == int(found.choice(name) is not None))
    best = {
        table.service.id: max(one.merit_ppm for one in table.candidates)
        for table in options
        if table.candidates
    }
    losses = [
        (best[pick.candidate.service] - pick.candidate.merit_ppm) * pick.chosen
        for pick in program.picks
    ]
    moved = [pick.chosen for pick in program.picks if not is_running(problem, _as_choice(pick))]
    workers_max = 1 + sum(pool.accelerators_max for pool in problem.fleet.pools)
    loss_max = 1 + sum(
        best[table.service.id] - min(one.merit_ppm for one in table.candidates)
        for table in options
        if table.candidates
    )
    assert workers_max * loss_max * (1 + len(options)) < 1 << 62, "the objective overflows"
    objective = (
        sum(moved) * (loss_max * workers_max)
        + sum(losses) * workers_max
        + sum(program.accelerators)
    )
    _, refined = _run(problem, model, objective, _hint(program, found))
    return None if refined is None else _selection(program, refined[1])


def _as_choice(pick: _Pick) -> Choice:
    replicas = 0 if pick.shared else pick.candidate.replicas
    return Choice(candidate=pick.candidate, shared=pick.shared, replicas=replicas)


def _selection(program: _Program, values: _Values) -> Selection:
    choices = [_as_choice(pick) for pick in program.picks if values[pick.chosen.index]]
    choices.sort(key=lambda choice: choice.candidate.service)
    keys: list[SharedKey] = sorted({choice.key for choice in choices if choice.shared})
    return Selection(
        choices=tuple(choices),
        shared_replicas=tuple((key, values[program.shared_replicas[key].index]) for key in keys),
    )
