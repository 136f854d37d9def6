"""A selection in the making, changed in place: what each further choice would cost, quickly.

Made and used inside one call of ``greedy``, which looks at some hundred thousand choices; the rules
are those of ``variation``, which tries single changes on values, and the judge holds both to account.
"""

from dataclasses import dataclass
from typing import Final

from isochrone.ids import Namespace, PoolId, ServiceId, VariantId
from isochrone.planning.candidates import Candidate
from isochrone.planning.options import shared_cost_uph
from isochrone.planning.problem import (
    Problem,
    accelerators_limit,
    namespace_budget,
    nodes_needed,
)
from isochrone.planning.selection import Choice, HeldKey, Selection, SharedKey
from isochrone.planning.sharing import NO_COMPANY, Company, company_of, company_replicas
from isochrone.units import MicroDollarsPerHour

UNLIMITED: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One more choice: what it adds to the bill, to the price of what is needed, and to workers.

    ``replicas`` is what its group then has, and ``lanes`` what that would be, were parts of workers
    to be had: it is what ``price_uph`` counts.
    """

    candidate: Candidate
    shared: bool
    replicas: int
    lanes: float
    bill_uph: MicroDollarsPerHour
    price_uph: float
    workers: int


class Board:
    """Choices, the workers of shared groups, and what both hold of the fleet."""

    def __init__(self, problem: Problem, selection: Selection) -> None:
        self.bill_uph: MicroDollarsPerHour = 0
        self.price_uph = 0.0
        self.chosen: dict[ServiceId, Step] = {}
        self._problem = problem
        self._settings = problem.settings
        self._pools = {pool.id: pool for pool in problem.fleet.pools}
        self._limits = {
            pool.id: accelerators_limit(problem.fleet, pool) for pool in problem.fleet.pools
        }
        self._pages = {
            pool.id: pool.memory_bytes // problem.settings.page_bytes
            for pool in problem.fleet.pools
        }
        self._hosts = [
            host for host in problem.fleet.hosts if any(it in self._pools for it in host.pools)
        ]
        self._namespaces = {it.id: it.namespace for it in problem.demand.services}
        self._budgets = {it.id: it.objectives.cost_budget_uph for it in problem.demand.services}
        self._ceilings: dict[Namespace, int] = {}
        for namespace in self._namespaces.values():
            if namespace not in self._ceilings:
                ceiling_uph = namespace_budget(problem.demand, namespace)
                self._ceilings[namespace] = UNLIMITED if ceiling_uph is None else ceiling_uph
        self._used: dict[PoolId, int] = dict.fromkeys(self._pools, 0)
        self._spent: dict[Namespace, int] = dict.fromkeys(self._namespaces.values(), 0)
        self._members: dict[SharedKey, dict[ServiceId, Candidate]] = {}
        self._replicas: dict[SharedKey, int] = {}
        self._companies: dict[SharedKey, Company] = {}
        self._lanes: dict[SharedKey, float] = {}
        self._resident: dict[SharedKey, dict[VariantId, int]] = {}
        for pool in problem.fleet.pools:
            self.bill_uph += nodes_needed(pool, 0) * pool.node_price_uph
        for choice in selection.choices:
            self._restore(choice, dict(selection.shared_replicas))

    def selection(self) -> Selection:
        """Return what stands on the board, as a value."""
        choices = [
            Choice(
                candidate=step.candidate,
                shared=step.shared,
                replicas=0 if step.shared else step.replicas,
            )
            for _, step in sorted(self.chosen.items())
        ]
        return Selection(
            choices=tuple(choices), shared_replicas=tuple(sorted(self._replicas.items()))
        )

    def key_of(self, one: Candidate) -> SharedKey:
        """Return the shared group that ``one`` would join."""
        return self._namespaces[one.service], one.pool, one.family

    def members(self, key: SharedKey) -> tuple[ServiceId, ...]:
        """Return who shares the group, in the order in which they came."""
        return tuple(self._members.get(key, ()))

    def tried(self, one: Candidate, *, shared: bool) -> Step | None:
        """Return what serving by ``one`` would add; None where something forbids it."""
        if one.parts:
            return None if shared else self._spread(one)
        if not shared:
            count = one.replicas
            return None if count == 0 else self._step(one, (count, float(count)), (count, count))
        found = self._joined(one)
        if found is None:
            return None
        replicas, lanes = found
        key = self.key_of(one)
        more, wider = replicas - self._replicas.get(key, 0), lanes - self._lanes.get(key, 0.0)
        return self._step(one, found, (more, wider), shared=True)

    def add(self, step: Step) -> None:
        """Take ``step``, which was tried on the board as it is."""
        one = step.candidate
        self.chosen[one.service] = step
        if step.shared:
            assert one.member is not None
            key = self.key_of(one)
            self._members.setdefault(key, {})[one.service] = one
            self._companies[key] = self._companies.get(key, NO_COMPANY).joined(one.member)
            self._replicas[key], self._lanes[key] = step.replicas, step.lanes
            resident = self._resident.setdefault(key, {})
            resident[one.variant] = one.pages
        for part in one.parts:
            self._take((self._namespaces[one.service], part.pool), part.replicas)
        if not one.parts:
            self._take(self.key_of(one)[:2], step.workers)
        self.price_uph += step.price_uph

    def remove(self, service: ServiceId) -> None:
        """Take ``service`` off the board; its shared group shrinks to what the others need."""
        step = self.chosen.pop(service)
        key = self.key_of(step.candidate)
        price_uph = self._pools[step.candidate.pool].accelerator_price_uph
        if step.candidate.parts:
            for part in step.candidate.parts:
                self._take((key[0], part.pool), -part.replicas)
            self.price_uph -= step.candidate.cost_uph
            return
        if not step.shared:
            self._take(key[:2], -step.replicas)
            self.price_uph -= step.lanes * price_uph
            return
        members = self._members[key]
        del members[service]
        before, wide = self._replicas[key], self._lanes[key]
        if not members:
            for table in (
                self._members, self._replicas, self._lanes, self._companies, self._resident
            ):  # fmt: skip
                del table[key]
            self._take(key[:2], -before)
            self.price_uph -= wide * price_uph
            return
        company = company_of(it.member for it in members.values() if it.member is not None)
        found = company_replicas(company, before, self._settings)
        assert found is not None, "a group with a member less holds on as many workers"
        self._companies[key] = company
        self._replicas[key], self._lanes[key] = found
        self._resident[key] = {it.variant: it.pages for it in members.values()}
        self._take(key[:2], found[0] - before)
        self.price_uph -= (wide - found[1]) * price_uph

    def _restore(self, choice: Choice, replicas: dict[SharedKey, int]) -> None:
        """Put on the board what ``choice`` has, as many workers as it has."""
        if choice.candidate.parts:
            self.add(_whole(choice.candidate, bill_uph=0))
            return
        price_uph = self._pools[choice.candidate.pool].accelerator_price_uph
        count, before, wide = choice.replicas, 0, 0.0
        if choice.shared:
            count = replicas[choice.key]
            before, wide = self._replicas.get(choice.key, 0), self._lanes.get(choice.key, 0.0)
        step = Step(
            candidate=choice.candidate,
            shared=choice.shared,
            replicas=count,
            lanes=float(count),
            bill_uph=0,
            price_uph=(count - wide) * price_uph,
            workers=count - before,
        )
        self.add(step)

    def _spread(self, one: Candidate) -> Step | None:
        """Return the step to a mix of pools; None where one of its parts is not to be had."""
        namespace = self._namespaces[one.service]
        if self._spent[namespace] + one.cost_uph > self._ceilings[namespace]:
            return None
        bill_uph = 0
        for part in one.parts:
            pool = self._pools[part.pool]
            used = self._used[part.pool] + part.replicas
            if used > pool.accelerators_max:
                return None
            nodes = nodes_needed(pool, used) - nodes_needed(pool, self._used[part.pool])
            bill_uph += nodes * pool.node_price_uph
        more = {part.pool: part.replicas for part in one.parts}
        for host in self._hosts:
            cores = sum(
                (self._used[it] + more.get(it, 0)) * self._pools[it].cores for it in host.pools
            )
            if cores > host.cores and more.keys() & set(host.pools):
                return None
        return _whole(one, bill_uph=bill_uph)

    def _joined(self, one: Candidate) -> tuple[int, float] | None:
        """Return the workers of the group with ``one`` in it, and the same in parts of workers."""
        if one.member is None:
            return None
        key = self.key_of(one)
        company = self._companies.get(key, NO_COMPANY)
        resident = self._resident.get(key, {})
        pages = sum(resident.values()) + (0 if one.variant in resident else one.pages)
        if pages > self._pages[one.pool]:
            return None
        before = self._replicas.get(key, 0)
        limit = min(self._settings.replicas_max, self._limits[one.pool])
        found = company_replicas(company.joined(one.member), limit, self._settings)
        if found is None:
            return None
        replicas = max(found[0], before)
        if not self._affordable(one, replicas):
            return None
        if replicas > before:
            for other in self._members.get(key, {}).values():
                if not self._affordable(other, replicas):
                    return None
        return replicas, found[1]

    def _affordable(self, one: Candidate, replicas: int) -> bool:
        budget_uph = self._budgets[one.service]
        if budget_uph is None:
            return True
        assert one.member is not None
        cost_uph = shared_cost_uph(
            self._pools[one.pool].accelerator_price_uph,
            work_ppm=one.member.work_ppm,
            pages=one.pages,
            pages_total=self._pages[one.pool],
            replicas=replicas,
        )
        return cost_uph <= budget_uph

    def _step(
        self,
        one: Candidate,
        size: tuple[int, float],
        growth: tuple[int, float],
        *,
        shared: bool = False,
    ) -> Step | None:
        """Return the step to a group of ``size``; None where what it grows by is not to be had.

        Both are workers, and the same in parts of workers.
        """
        more, wider = growth
        pool = self._pools[one.pool]
        bill_uph = 0
        if more:
            used = self._used[one.pool] + more
            if used > pool.accelerators_max or not self._has_cores(one.pool, more):
                return None
            namespace = self._namespaces[one.service]
            spent_uph = self._spent[namespace] + more * pool.accelerator_price_uph
            if spent_uph > self._ceilings[namespace]:
                return None
            nodes = nodes_needed(pool, used) - nodes_needed(pool, used - more)
            bill_uph = nodes * pool.node_price_uph
        return Step(
            candidate=one,
            shared=shared,
            replicas=size[0],
            lanes=size[1],
            bill_uph=bill_uph,
            price_uph=wider * pool.accelerator_price_uph,
            workers=more,
        )

    def _has_cores(self, pool: PoolId, more: int) -> bool:
        """Return whether every machine that ``pool`` lies on has the cores for ``more`` of it."""
        for host in self._hosts:
            if pool in host.pools:
                cores = more * self._pools[pool].cores
                cores += sum(self._used[it] * self._pools[it].cores for it in host.pools)
                if cores > host.cores:
                    return False
        return True

    def _take(self, holder: HeldKey, more: int) -> None:
        if not more:
            return
        namespace, identity = holder
        pool = self._pools[identity]
        used = self._used[identity]
        nodes = nodes_needed(pool, used + more) - nodes_needed(pool, used)
        self._used[identity] = used + more
        self._spent[namespace] += more * pool.accelerator_price_uph
        self.bill_uph += nodes * pool.node_price_uph


def _whole(one: Candidate, *, bill_uph: MicroDollarsPerHour) -> Step:
    """Return the step that puts a mix of pools on the board."""
    return Step(
        candidate=one,
        shared=False,
        replicas=one.replicas,
        lanes=float(one.replicas),
        bill_uph=bill_uph,
        price_uph=float(one.cost_uph),
        workers=sum(part.replicas for part in one.parts),
    )
