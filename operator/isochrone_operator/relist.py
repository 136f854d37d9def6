"""Full lists of what is watched: a lost event costs a delay and nothing else. Called by ``loop``.

``Relister.all`` lists everything, before this process decides anything and whenever it comes to
lead; ``Relister.one`` lists the next kind in turn, so that each is looked at again every few minutes.
Secrets are not watched: those of ours are asked for by their names, every few turns.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isochrone_operator import names, resources
from isochrone_operator.api import Api
from isochrone_operator.errors import ClusterError, MissingError
from isochrone_operator.json_values import Json, text
from isochrone_operator.store import Store, Urgency
from isochrone_operator.watched import Watched

ONE_EVERY_S: Final = 10.0
"""Two dozen kinds in turn: each about every four minutes."""

SECRETS_TURNS: Final = 2
"""So many turns between two looks at our Secrets: a lost certificate is seen within 20 s."""
PARALLEL_MAX: Final = 4
"""Lists under way at a time: each may be megabytes."""


@dataclass(slots=True, kw_only=True)
class Relister:
    """Lists what ``watched`` says, in all namespaces or in those given."""

    api: Api
    store: Store
    watched: tuple[Watched, ...]
    namespaces: tuple[str, ...]
    home: str
    """The operator's own namespace, where its CA is."""
    wake: Callable[[Urgency], None]
    _turn: int = 0

    async def all(self, progress: Callable[[], None] = lambda: None) -> None:
        """List every kind; ``progress`` is called after each.

        Raises what ``api`` raises; an optional kind may be missing.
        """
        rest = iter(self.watched)

        async def worker() -> None:
            for it in rest:
                await self._list(it)
                progress()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PARALLEL_MAX):
                    group.create_task(worker())
        except* ClusterError as errors:
            raise errors.exceptions[0] from None
        await self._leases()
        await self._secrets()

    async def one(self) -> None:
        """List the next kind in turn."""
        if self._turn % SECRETS_TURNS == 0:
            await self._secrets()
        turn = self._turn % (len(self.watched) + 1)
        self._turn += 1
        if turn < len(self.watched):
            await self._list(self.watched[turn])
        else:
            await self._leases()

    async def _leases(self) -> None:
        """Look for each cell's Lease by its name.

        It is not watched: its holder writes it every second, and only its being there matters.
        """
        for plan in tuple(self.store.all(resources.PLANS)):
            namespace = text(plan, "metadata", "namespace")
            held = self.store.get(resources.LEASES, namespace=namespace, name=names.CELL_LEASE)
            try:
                found = await self.api.lease(namespace=namespace, name=names.CELL_LEASE)
            except MissingError:
                if held is not None:
                    self.wake(self.store.remove(resources.LEASES, held))
            else:
                self.wake(
                    self.store.put(
                        resources.LEASES,
                        {**found, "apiVersion": resources.LEASES.api_version, "kind": "Lease"},
                    )
                )

    async def _secrets(self) -> None:
        """Look at the certificates of all cells, and at the CA, each by its name."""
        found: list[Json] = []
        versions: list[int] = []
        for namespace in self.namespaces or ("",):
            for name in (names.GATEWAY_TLS, names.EXECUTOR_TLS):
                listing = await self.api.list(
                    resources.SECRETS, namespace=namespace, fields=f"metadata.name={name}"
                )
                found += listing.items
                at = listing.resource_version
                versions.append(int(at) if at.isdigit() else 0)
        with contextlib.suppress(MissingError):
            # It is made when it is first needed.
            authority = await self.api.get(
                resources.SECRETS, namespace=self.home, name=names.CA_SECRET
            )
            found.append({**authority, "apiVersion": "v1", "kind": "Secret"})
        self.wake(self.store.listed(resources.SECRETS, tuple(found), at=str(min(versions))))

    async def _list(self, it: Watched) -> None:
        for namespace in self.namespaces if it.resource.namespaced and self.namespaces else ("",):
            try:
                listing = await self.api.list(it.resource, namespace=namespace, labels=it.labels)
            except MissingError as error:
                if it.optional:
                    self.wake(self.store.listed(it.resource, (), at="", namespace=namespace))
                    continue
                if it.resource in resources.OURS:
                    message = (
                        f"the cluster has no {names.GROUP} {it.resource.plural}: "
                        "install the chart isochrone-crds"
                    )
                    raise MissingError(message) from error
                raise
            self.wake(
                self.store.listed(
                    it.resource,
                    listing.items,
                    at=listing.resource_version,
                    namespace=namespace,
                )
            )
