"""The phases of one look at the cluster, each a function of what came before it.

Called by ``reconcile`` alone, in order; holds the snapshot, the time and the settings for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from isochrone.errors import CapacityError
from isochrone.ids import GroupId, Namespace, ServiceId, split_qualified
from isochrone.plan import EMPTY_PLAN, Plan, PlanReason
from isochrone.planning import Problem, plan
from isochrone.units import MINUTE, Instant, Nanoseconds
from isochrone_operator import names
from isochrone_operator.children import renewal_due_at
from isochrone_operator.jobs import BuildSteps, build_steps
from isochrone_operator.reconcile import publish
from isochrone_operator.reconcile.facts import NOTHING_KNOWN, Facts, facts_of
from isochrone_operator.reconcile.holding import digest, ways
from isochrone_operator.reconcile.intake import Intake, problem_of, take_in
from isochrone_operator.reconcile.memory import Learned, Memory, memory_of
from isochrone_operator.reconcile.rates import NOTHING_LEARNED, with_learned
from isochrone_operator.reconcile.surplus import identity_of, surplus_of
from isochrone_operator.reconcile.targets import Goal, goal_of, plan_of_namespace
from isochrone_operator.reconcile.telling import Told, tell
from isochrone_operator.reconcile.transition import Step, advance
from isochrone_operator.reconcile.values import Cell, Planned
from isochrone_operator.reconcile.wanted import Wants, wants_of
from isochrone_operator.reconciliation import Reconciliation
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import ObjectRef, Snapshot

LOOK_AGAIN_NS: Final[Nanoseconds] = MINUTE
"""Where cells exist, the longest time between two looks: reports age, certificates run out."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """One look: the snapshot, what is read from it once, and the phases."""

    snapshot: Snapshot
    now: Instant
    settings: Settings
    facts: Mapping[str, Facts]
    memories: Mapping[Namespace, Memory]

    def take_in(self, builds: BuildSteps) -> Intake:
        """Return what can be used of all objects, and what is wrong with some."""
        return take_in(
            self.snapshot, builds.variants, self.facts, self.memories, self.now, self.settings
        )

    def build(self) -> BuildSteps:
        """Return the Jobs that make and measure variants, and what has come of them."""
        return build_steps(self.snapshot, self.now, self.settings)

    def plan(self, intake: Intake) -> Planned:
        """Return the plan that would be best now, beside what is in force."""
        current = {
            namespace: publish.standing(it, intake.prices, intake.everything)
            for namespace, it in sorted(intake.plans.items())
        }
        changed = max((it.changed_at for it in self.memories.values()), default=0)
        settled_at = changed + self.settings.dwell_ns
        may_improve = self.now >= settled_at
        problem = problem_of(intake, publish.running(current))
        learned = dict(intake.learned)
        made = _plan(problem, may_improve)
        short: frozenset[ServiceId] = frozenset()
        for known in (self._remembered, _nothing):
            grown = _unserved_by_traffic(made, problem, intake)
            if not grown:
                break
            # What traffic asks for must never cost a service what it declared: take less.
            short |= grown
            learned |= {it: known(it) for it in grown}
            problem = _with_learned(problem, intake, learned)
            made = _plan(problem, may_improve)
        return Planned(
            plan=made,
            current=current,
            learned=learned,
            short=short,
            wake_at=None if may_improve or not current else settled_at,
        )

    def _remembered(self, service: ServiceId) -> Learned:
        namespace, name = split_qualified(service)
        return self.memories.get(namespace, Memory()).learned.get(name, NOTHING_LEARNED)

    def aim(self, intake: Intake, planned: Planned) -> dict[Namespace, Goal]:
        """Return what each cell aims at: one for every namespace that has services."""
        of_namespace = {
            namespace: [it for it in intake.services if it.metadata.namespace == namespace]
            for namespace in self._namespaces(intake)
        }
        return {
            namespace: goal_of(
                plan_of_namespace(planned.plan, namespace),
                planned.current.get(namespace),
                self.memories.get(namespace, Memory()),
                services,
                lambda namespace=namespace: _inputs(intake, namespace),  # type: ignore[misc]
                now=self.now,
                rollout_ns=self.settings.rollout_ns,
            )
            for namespace, services in of_namespace.items()
        }

    def _namespaces(self, intake: Intake) -> list[Namespace]:
        """Return the namespaces that have a service, even one that cannot be read."""
        found = {Namespace(it.metadata.namespace) for it in intake.services}
        found |= {
            Namespace(it.ref.namespace)
            for it in self.snapshot.unreadable
            if it.ref.kind == "InferenceService" and it.ref.namespace in self.snapshot.namespaces
        }
        return sorted(found)

    def advance(
        self, intake: Intake, planned: Planned, goals: Mapping[Namespace, Goal]
    ) -> dict[Namespace, Step]:
        """Return one safe step from what is in force towards the goals."""
        targets = {namespace: it.plan for namespace, it in goals.items()}
        crowded = {
            namespace: _crowded(planned.current.get(namespace, EMPTY_PLAN), target, intake)
            for namespace, target in targets.items()
        }
        return advance(planned.current, targets, self.facts, intake.fleet, crowded)

    def publish(
        self,
        intake: Intake,
        planned: Planned,
        goals: Mapping[Namespace, Goal],
        steps: Mapping[Namespace, Step],
    ) -> dict[Namespace, Cell]:
        """Return every cell with the ServingPlan that carries its step."""
        return {
            namespace: self._cell(namespace, intake, planned, goals[namespace], step)
            for namespace, step in steps.items()
        }

    def _cell(
        self, namespace: Namespace, intake: Intake, planned: Planned, goal: Goal, step: Step
    ) -> Cell:
        existing = intake.plans.get(namespace)
        before = planned.current.get(namespace, EMPTY_PLAN)
        services = {it.service for it in (*before.services, *step.plan.services)}
        changed = any(ways(before, it) != ways(step.plan, it) for it in sorted(services))
        learned = {
            split_qualified(it)[1]: known
            for it, known in sorted(planned.learned.items())
            if known != NOTHING_LEARNED and split_qualified(it)[0] == namespace
        }
        memory = replace(
            goal.memory,
            changed_at=self.now if changed else goal.memory.changed_at,
            learned=learned,
        )
        made, complaint = None, ""
        try:
            made = publish.published(
                step.plan,
                namespace,
                existing,
                memory,
                fleet=intake.prices,
                catalog=intake.everything,
                newest_revision=self.facts.get(namespace, NOTHING_KNOWN).newest_revision,
            )
        except CapacityError as error:
            complaint = str(error)
        return Cell(goal=goal, step=step, existing=existing, published=made, complaint=complaint)

    def children(
        self, builds: BuildSteps, intake: Intake, cells: Mapping[Namespace, Cell]
    ) -> Wants:
        """Return what cells, groups and pools need."""
        return wants_of(
            self.snapshot,
            intake,
            {it: cell.published for it, cell in cells.items()},
            self.facts,
            builds.nodes_wanted,
            self.now,
            self.settings,
        )

    def statuses(
        self, intake: Intake, planned: Planned, cells: Mapping[Namespace, Cell], wants: Wants
    ) -> Told:
        """Return what to tell people: statuses that differ, and events."""
        return tell(
            self.snapshot, intake, planned, cells, wants, self.facts, self.now, self.settings
        )

    def result(
        self,
        builds: BuildSteps,
        intake: Intake,
        planned: Planned,
        cells: Mapping[Namespace, Cell],
        wants: Wants,
        told: Told,
    ) -> Reconciliation:
        """Return everything as one value, with what is to go."""
        plans = [it.published.manifest for it in cells.values() if it.published is not None]
        # Builders belong to Models and to cells alike: what both name is the same, and named once.
        every = (*builds.desired, *plans, *wants.desired)
        desired = tuple({identity_of(it): it for it in every}.values())
        gone = [
            ObjectRef(
                api_version=it.api_version,
                kind=it.definition.kind,
                namespace=namespace,
                name=it.metadata.name,
                uid=it.metadata.uid,
            )
            for namespace, it in sorted(intake.plans.items())
            if namespace not in cells and namespace in self.snapshot.namespaces
        ]
        in_force = _variants_in_force(planned, cells)
        surplus = surplus_of(
            self.snapshot,
            desired,
            wants.leaves,
            kept=_groups_in_force(planned, cells),
            complete=wants.complete,
            facts=self.facts,
            plan_revisions={it: found.spec.revision for it, found in intake.plans.items()},
        )
        from_builds = [
            it
            for it in builds.surplus
            if it.kind != "ModelVariant" or f"{it.namespace}/{it.name}" not in in_force
        ]
        wakes = [planned.wake_at, intake.wake_at, builds.wake_at, renewal_due_at(self.snapshot)]
        wakes += [cell.goal.wake_at for cell in cells.values()]
        wakes += [self.now + LOOK_AGAIN_NS] if cells else []
        return Reconciliation(
            desired=desired,
            leaves=wants.leaves,
            scales=wants.scales,
            statuses=(*builds.statuses, *told.statuses),
            events=(*builds.events, *told.events),
            surplus=tuple(dict.fromkeys((*gone, *from_builds, *surplus))),
            wake_at=min((it for it in wakes if it is not None), default=None),
        )


def begin(snapshot: Snapshot, now: Instant, settings: Settings) -> Cycle:
    """Return the look at ``snapshot``, with what gateways say and what is remembered of each cell."""
    plans = {
        Namespace(it.metadata.namespace): it
        for it in snapshot.plans
        if not it.metadata.deletion_timestamp and it.metadata.name == names.CELL
    }
    return Cycle(
        snapshot=snapshot,
        now=now,
        settings=settings,
        facts=facts_of(snapshot, plans, now),
        memories={namespace: memory_of(it) for namespace, it in plans.items()},
    )


@lru_cache(maxsize=4)
def _plan(problem: Problem, may_improve: bool) -> Plan:  # noqa: FBT001 - a key of the cache
    """Return the planner's answer; the same question again costs nothing."""
    return plan(problem, may_improve=may_improve)


def _nothing(_service: ServiceId) -> Learned:
    return NOTHING_LEARNED


def _unserved_by_traffic(made: Plan, problem: Problem, intake: Intake) -> frozenset[ServiceId]:
    """Return the services that cannot be planned, and are sized for more than they declare."""
    loads = {it.id: it.load for it in problem.demand.services}
    return frozenset(
        it.service
        for it in made.explanations
        if it.reason is not PlanReason.FEASIBLE and loads[it.service] != intake.own[it.service]
    )


def _with_learned(
    problem: Problem, intake: Intake, learned: Mapping[ServiceId, Learned]
) -> Problem:
    services = tuple(
        replace(it, load=with_learned(intake.own[it.id], learned[it.id]))
        for it in problem.demand.services
    )
    return replace(problem, demand=replace(problem.demand, services=services))


def _inputs(intake: Intake, namespace: Namespace) -> str:
    """Return a digest of all that the plan of ``namespace`` is made from."""
    services = [it for it in intake.demand.services if it.namespace == namespace]
    budgets = [it for it in intake.demand.budgets if it.namespace == namespace]
    variants = [it for it in intake.catalog.variants if split_qualified(it.id)[0] == namespace]
    return digest((services, budgets, variants, intake.fleet))


def _crowded(current: Plan, target: Plan, intake: Intake) -> frozenset[GroupId]:
    """Return the groups whose old and new variants do not fit into a worker together."""
    known = {variant.id: variant for variant in intake.everything.variants}
    pools = {pool.id: pool for pool in intake.prices.pools}
    before = {group.id: group for group in current.groups}
    found: set[GroupId] = set()
    for group in target.groups:
        old = before.get(group.id)
        pool = pools.get(group.pool)
        if old is None or pool is None:
            continue
        size = 0
        for name in sorted({*old.variants, *group.variants}):
            profile = known[name].profile(group.pool) if name in known else None
            size += 0 if profile is None else profile.weights_bytes + profile.workspace_bytes
        if size > pool.memory_bytes:
            found.add(group.id)
    return frozenset(found)


def _groups_in_force(
    planned: Planned, cells: Mapping[Namespace, Cell]
) -> dict[Namespace, frozenset[str]]:
    return {
        namespace: frozenset(
            group.id
            for it in (planned.current.get(namespace, EMPTY_PLAN), cell.step.plan)
            for group in it.groups
        )
        for namespace, cell in cells.items()
    }


def _variants_in_force(planned: Planned, cells: Mapping[Namespace, Cell]) -> frozenset[str]:
    plans = [*planned.current.values(), *(cell.step.plan for cell in cells.values())]
    return frozenset(variant for it in plans for group in it.groups for variant in group.variants)
