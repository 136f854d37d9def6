"""The phases of one look at the cluster, each a function of what came before it.

Called by ``reconcile`` alone, in order; holds the snapshot, the time and the settings for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from isochrone.api.inferenceservice import InferenceService
from isochrone.errors import CapacityError
from isochrone.ids import GroupId, Namespace, split_qualified
from isochrone.plan import EMPTY_PLAN, Plan
from isochrone.units import MINUTE, Instant, Nanoseconds
from isochrone_operator import names
from isochrone_operator.children import renewal_due_at
from isochrone_operator.jobs import BuildSteps, build_steps
from isochrone_operator.reconcile import publish
from isochrone_operator.reconcile.choosing import broken, choose
from isochrone_operator.reconcile.facts import NOTHING_KNOWN, Facts, facts_of
from isochrone_operator.reconcile.holding import digest, ways
from isochrone_operator.reconcile.intake import Intake, take_in
from isochrone_operator.reconcile.memory import AWAKE, Memory, memory_of
from isochrone_operator.reconcile.rates import NOTHING_LEARNED
from isochrone_operator.reconcile.starting import started
from isochrone_operator.reconcile.surplus import identity_of, surplus_of
from isochrone_operator.reconcile.targets import Goal, goal_of, plans_of_namespaces
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
        return choose(intake, self.memories, self.now, self.settings.dwell_ns)

    def aim(self, intake: Intake, planned: Planned) -> dict[Namespace, Goal]:
        """Return what each cell aims at: one for every namespace that has services."""
        of_namespace: dict[Namespace, list[InferenceService]] = {
            namespace: [] for namespace in self._namespaces(intake)
        }
        for it in intake.services:
            if it.namespace in of_namespace:
                of_namespace[it.namespace].append(it)
        plans = plans_of_namespaces(planned.plan)
        nothing = replace(planned.plan, groups=(), services=(), explanations=())
        return {
            namespace: goal_of(
                plans.get(namespace, nothing),
                planned.current.get(namespace),
                self.memories.get(namespace, Memory()),
                services,
                lambda namespace=namespace: _inputs(intake, namespace),  # type: ignore[misc]
                lambda part, namespace=namespace: broken(planned, part, namespace),  # type: ignore[misc]
                now=self.now,
                acting_since=self.snapshot.acting_since,
                rollout_ns=self.settings.rollout_ns,
                approval_ns=self.settings.approval_ns,
            )
            for namespace, services in of_namespace.items()
        }

    def _namespaces(self, intake: Intake) -> list[Namespace]:
        """Return the namespaces that have a service, even one that cannot be read.

        Those that are frozen aim at nothing.
        """
        found = {Namespace(it.metadata.namespace) for it in intake.services}
        found |= {
            Namespace(it.ref.namespace)
            for it in self.snapshot.unreadable
            if it.ref.kind == "InferenceService" and it.ref.namespace in self.snapshot.namespaces
        }
        return sorted(found - set(intake.frozen))

    def advance(
        self, intake: Intake, planned: Planned, goals: Mapping[Namespace, Goal]
    ) -> dict[Namespace, Step]:
        """Return one safe step from what is in force towards the goals."""
        targets = {namespace: it.plan for namespace, it in goals.items()}
        crowded = {
            namespace: _crowded(planned.current.get(namespace, EMPTY_PLAN), target, intake)
            for namespace, target in targets.items()
        }
        # What frozen cells hold is not in the fleet to begin with.
        moving = {it: plan for it, plan in planned.current.items() if it not in intake.frozen}
        return advance(moving, targets, self.facts, intake.fleet, crowded)

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
        facts = self.facts.get(namespace, NOTHING_KNOWN)
        told, starting = started(
            step.plan,
            facts,
            goal.memory.starting,
            {
                route.group
                for it in step.plan.services
                if it.service in intake.resting
                for route in it.routes
            },
            now=self.now,
            longest_ns=self.settings.rollout_ns,
        )
        memory = replace(
            goal.memory,
            starting=starting,
            changed_at=self.now if changed else goal.memory.changed_at,
            learned=learned,
            resting={
                split_qualified(it)[1]: rest
                for it, rest in sorted(intake.resting.items())
                if rest != AWAKE and split_qualified(it)[0] == namespace
            },
        )
        made, complaint = None, ""
        try:
            made = publish.published(
                told,
                namespace,
                existing,
                memory,
                fleet=intake.prices,
                catalog=intake.everything,
                newest_revision=facts.newest_revision,
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
            builds.measuring,
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
            if namespace not in cells
            and namespace not in intake.frozen
            and namespace in self.snapshot.namespaces
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
