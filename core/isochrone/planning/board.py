"""A selection in the making, changed in place: what each further choice would cost, quickly.

Made and used inside one call of ``greedy``, which looks at some hundred thousand choices, of
``repairing`` or of ``explain``; the rules are those of ``variation``, which tries single changes on
values, and the judge holds both to account.
"""

from copy import copy
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from isochrone.demand import Service
from isochrone.ids import Namespace, PoolId, ServiceId, VariantId
from isochrone.planning.candidates import Candidate
from isochrone.planning.company import (
    NO_COMPANY,
    Company,
    Size,
    alone,
    company_of,
    joined,
    less,
    levels_of,
    pruned,
    size_of,
)
from isochrone.planning.options import shared_cost_uph
from isochrone.planning.problem import (
    Problem,
    accelerators_limit,
    namespace_budget,
    nodes_needed,
)
from isochrone.planning.selection import Choice, Selection, SharedKey
from isochrone.units import MicroDollarsPerHour

UNLIMITED: Final = 1 << 62
_SHARED: Final = True
_OWN: Final = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One candidate, and what is the same for it whatever else stands on the board.

    ``price_uph``: of one accelerator. ``company``: what it brings to a shared group, None where it may
    not share; ``first``: the size of that group were it empty, None where it must not be so large;
    ``sharers_max``: of how many workers that group may be for its service to afford its part.
    """

    candidate: Candidate
    key: SharedKey
    price_uph: MicroDollarsPerHour
    company: Company | None
    first: Size | None
    sharers_max: int


class Step(NamedTuple):
    """One more choice: what it adds to the bill, to the price of what is needed, and to workers.

    ``replicas`` is what its group then has, and ``lanes`` what that would be, were parts of workers
    to be had: it is what ``price_uph`` counts.
    """

    offer: Offer
    shared: bool
    replicas: int
    lanes: float
    bill_uph: MicroDollarsPerHour
    price_uph: float
    workers: int

    @property
    def candidate(self) -> Candidate:
        """What serves."""
        return self.offer.candidate


@dataclass(slots=True)
class _Group:
    """A shared group that has members, in the order in which they came.

    ``level``: where its size was found. ``hosts``: its variants, each with how many members use it, and
    ``pages`` what they take together. ``sharers_max``: the least of its members'.
    """

    members: dict[ServiceId, Offer]
    company: Company
    replicas: int
    lanes: float
    level: int
    hosts: dict[VariantId, int]
    pages: int
    sharers_max: int


class Board:
    """Choices, the workers of shared groups, and what both hold of the fleet."""

    def __init__(self, problem: Problem, selection: Selection) -> None:
        self.bill_uph: MicroDollarsPerHour = 0
        self.price_uph = 0.0
        self.chosen: dict[ServiceId, Step] = {}
        self._levels = levels_of(problem.settings)
        self._pools = {pool.id: pool for pool in problem.fleet.pools}
        self._sharers = {
            pool.id: min(problem.settings.replicas_max, accelerators_limit(problem.fleet, pool))
            for pool in problem.fleet.pools
        }
        self._pages = {
            pool.id: pool.memory_bytes // problem.settings.page_bytes
            for pool in problem.fleet.pools
        }
        self._hosts = [
            host for host in problem.fleet.hosts if any(it in self._pools for it in host.pools)
        ]
        services = {it.id: it for it in problem.demand.services}
        namespaces = [it.namespace for it in problem.demand.services]
        self._ceilings: dict[Namespace, int] = {}
        for namespace in namespaces:
            if namespace not in self._ceilings:
                ceiling_uph = namespace_budget(problem.demand, namespace)
                self._ceilings[namespace] = UNLIMITED if ceiling_uph is None else ceiling_uph
        self._used: dict[PoolId, int] = dict.fromkeys(self._pools, 0)
        self._spent: dict[Namespace, int] = dict.fromkeys(namespaces, 0)
        self._groups: dict[SharedKey, _Group] = {}
        for pool in problem.fleet.pools:
            self.bill_uph += nodes_needed(pool, 0) * pool.node_price_uph
        replicas = dict(selection.shared_replicas)
        for choice in selection.choices:
            self._restore(choice, services[choice.candidate.service], replicas)

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
        shared = sorted((key, group.replicas) for key, group in self._groups.items())
        return Selection(choices=tuple(choices), shared_replicas=tuple(shared))

    @property
    def accelerators_uph(self) -> MicroDollarsPerHour:
        """Price of every accelerator held, whether or not its node is on the bill in any case."""
        return sum(used * self._pools[it].accelerator_price_uph for it, used in self._used.items())

    def members(self, key: SharedKey) -> tuple[ServiceId, ...]:
        """Return who shares the group, in the order in which they came."""
        return tuple(self._groups[key].members) if key in self._groups else ()

    def offer(self, one: Candidate, service: Service) -> Offer:
        """Return ``one``, a way to serve ``service``, as what may be tried often."""
        pool = self._pools[one.pool]
        price_uph = pool.accelerator_price_uph
        company = None if one.member is None else alone(one.member)
        first = None
        if company is not None and one.pages <= self._pages[one.pool]:
            first = size_of(company, self._sharers[one.pool], self._levels)
        return Offer(
            candidate=one,
            key=(service.namespace, one.pool, one.family),
            price_uph=price_uph,
            company=company,
            first=first,
            sharers_max=self._sharers_max(one, price_uph, service.objectives.cost_budget_uph),
        )

    def tried(self, offer: Offer, *, shared: bool) -> Step | None:
        """Return what serving by ``offer`` would add; None where something forbids it."""
        if shared:
            return self._joining(offer)
        one = offer.candidate
        if one.parts:
            return self._spread(offer)
        count = one.replicas
        bill_uph = self._bill_of(offer, count) if count else None
        if bill_uph is None:
            return None
        return Step(offer, shared, count, float(count), bill_uph, count * offer.price_uph, count)

    def add(self, step: Step) -> None:
        """Take ``step``, which was tried on the board as it is."""
        offer, one = step.offer, step.offer.candidate
        self.chosen[one.service] = step
        if step.shared:
            assert offer.company is not None
            group = self._groups.get(offer.key)
            if group is None:
                group = _Group({}, NO_COMPANY, 0, 0.0, 0, {}, 0, UNLIMITED)
                self._groups[offer.key] = group
            group.members[one.service] = offer
            group.company = pruned(joined(group.company, offer.company))
            group.replicas, group.lanes = step.replicas, step.lanes
            group.pages += 0 if one.variant in group.hosts else one.pages
            group.hosts[one.variant] = group.hosts.get(one.variant, 0) + 1
            group.sharers_max = min(group.sharers_max, offer.sharers_max)
        for part in one.parts:
            self._take(offer.key[0], part.pool, part.replicas)
        if not one.parts:
            self._take(offer.key[0], one.pool, step.workers)
        self.price_uph += step.price_uph

    def remove(self, service: ServiceId) -> None:
        """Take ``service`` off the board; its shared group shrinks to what the others need."""
        step = self.chosen.pop(service)
        offer, one = step.offer, step.offer.candidate
        if one.parts:
            for part in one.parts:
                self._take(offer.key[0], part.pool, -part.replicas)
            self.price_uph -= one.cost_uph
            return
        if not step.shared:
            self._take(offer.key[0], one.pool, -step.replicas)
            self.price_uph -= step.lanes * offer.price_uph
            return
        group = self._groups[offer.key]
        before, wide = group.replicas, group.lanes
        del group.members[service]
        if not group.members:
            del self._groups[offer.key]
            self._take(offer.key[0], one.pool, -before)
            self.price_uph -= wide * offer.price_uph
            return
        self._leave(group, offer)
        self._take(offer.key[0], one.pool, group.replicas - before)
        self.price_uph -= (wide - group.lanes) * offer.price_uph

    def without(self, service: ServiceId) -> "Board":
        """Return the board without ``service``; this one stays as it is."""
        other = copy(self)
        other.chosen = dict(self.chosen)
        other._detach(service)  # noqa: SLF001 - a board, too
        other.remove(service)
        return other

    def _detach(self, service: ServiceId) -> None:
        """Have what the removal of ``service`` changes for itself, and no longer with another board."""
        self._used, self._spent = dict(self._used), dict(self._spent)
        self._groups = dict(self._groups)
        key = self.chosen[service].offer.key
        group = self._groups.get(key)
        if group is not None:
            members, hosts = dict(group.members), dict(group.hosts)
            self._groups[key] = replace(group, members=members, hosts=hosts)

    def _leave(self, group: _Group, gone: Offer) -> None:
        """Make ``group`` what it is without ``gone``, whom it has lost."""
        assert gone.company is not None
        variant = gone.candidate.variant
        group.hosts[variant] -= 1
        if not group.hosts[variant]:
            del group.hosts[variant]
            group.pages -= gone.candidate.pages
        if gone.sharers_max == group.sharers_max != UNLIMITED:
            group.sharers_max = min(it.sharers_max for it in group.members.values())
        group.company = less(group.company, gone.company) or company_of(
            it.company for it in group.members.values() if it.company is not None
        )
        found = size_of(group.company, group.replicas, self._levels, group.level)
        assert found is not None, "a group with a member less holds on as many workers"
        group.replicas, group.lanes, group.level = found

    def _restore(self, choice: Choice, service: Service, replicas: dict[SharedKey, int]) -> None:
        """Put on the board what ``choice`` has, as many workers as it has."""
        offer = self.offer(choice.candidate, service)
        if choice.candidate.parts:
            self.add(_whole(offer, bill_uph=0))
            return
        count, before, wide = choice.replicas, 0, 0.0
        if choice.shared:
            count = replicas[choice.key]
            group = self._groups.get(choice.key)
            before, wide = (0, 0.0) if group is None else (group.replicas, group.lanes)
        price_uph = (count - wide) * offer.price_uph
        self.add(Step(offer, choice.shared, count, float(count), 0, price_uph, count - before))

    def _spread(self, offer: Offer) -> Step | None:
        """Return the step to a mix of pools; None where one of its parts is not to be had."""
        one, namespace = offer.candidate, offer.key[0]
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
        return _whole(offer, bill_uph=bill_uph)

    def _joining(self, offer: Offer) -> Step | None:
        """Return the step into the shared group; None where it is not to be had."""
        group = self._groups.get(offer.key)
        if group is None:
            before, wide, found, sharers_max = 0, 0.0, offer.first, UNLIMITED
        else:
            before, wide, sharers_max = group.replicas, group.lanes, group.sharers_max
            found = self._with(group, offer)
        if found is None:
            return None
        replicas, more, bill_uph = before, found.replicas - before, 0
        if more > 0:
            replicas = found.replicas
            bill_or_none = self._bill_of(offer, more) if replicas <= sharers_max else None
            if bill_or_none is None:
                return None
            bill_uph = bill_or_none
        else:
            more = 0
        if replicas > offer.sharers_max:
            return None
        price_uph = (found.lanes - wide) * offer.price_uph
        return Step(offer, _SHARED, replicas, found.lanes, bill_uph, price_uph, more)

    def _with(self, group: _Group, offer: Offer) -> Size | None:
        """Return the size of ``group`` with ``offer`` in it; None where it does not go in."""
        one = offer.candidate
        pages = group.pages + (0 if one.variant in group.hosts else one.pages)
        if offer.company is None or pages > self._pages[one.pool]:
            return None
        company = joined(group.company, offer.company)
        found = size_of(company, self._sharers[one.pool], self._levels, group.level)
        if found is not None:
            group.level = found.level  # where the next look begins
        return found

    def _sharers_max(
        self,
        one: Candidate,
        price_uph: MicroDollarsPerHour,
        budget_uph: MicroDollarsPerHour | None,
    ) -> int:
        """Return of how many workers a shared group may be for the service to afford its part."""
        if budget_uph is None or one.member is None:
            return UNLIMITED
        work_ppm, total = one.member.work_ppm, self._pages[one.pool]
        if shared_cost_uph(price_uph, work_ppm=work_ppm, pages=0, pages_total=total, replicas=0) > (
            budget_uph
        ):
            return 0
        each = price_uph * one.pages
        return budget_uph * total // each if each else UNLIMITED

    def _bill_of(self, offer: Offer, more: int) -> MicroDollarsPerHour | None:
        """Return what ``more`` workers add to the bill; None where they are not to be had."""
        identity = offer.candidate.pool
        pool = self._pools[identity]
        before = self._used[identity]
        used = before + more
        if used > pool.accelerators_max or (self._hosts and not self._has_cores(identity, more)):
            return None
        namespace = offer.key[0]
        if self._spent[namespace] + more * offer.price_uph > self._ceilings[namespace]:
            return None
        return (nodes_needed(pool, used) - nodes_needed(pool, before)) * pool.node_price_uph

    def _has_cores(self, pool: PoolId, more: int) -> bool:
        """Return whether every machine that ``pool`` lies on has the cores for ``more`` of it."""
        for host in self._hosts:
            if pool in host.pools:
                cores = more * self._pools[pool].cores
                cores += sum(self._used[it] * self._pools[it].cores for it in host.pools)
                if cores > host.cores:
                    return False
        return True

    def _take(self, namespace: Namespace, identity: PoolId, more: int) -> None:
        if not more:
            return
        pool = self._pools[identity]
        used = self._used[identity]
        nodes = nodes_needed(pool, used + more) - nodes_needed(pool, used)
        self._used[identity] = used + more
        self._spent[namespace] += more * pool.accelerator_price_uph
        self.bill_uph += nodes * pool.node_price_uph


def _whole(offer: Offer, *, bill_uph: MicroDollarsPerHour) -> Step:
    """Return the step that puts a mix of pools on the board."""
    one = offer.candidate
    workers = sum(part.replicas for part in one.parts)
    return Step(
        offer,
        _OWN,
        one.replicas,
        float(one.replicas),
        bill_uph,
        float(one.cost_uph),
        workers,
    )
