"""When a certificate of a cell must be issued anew, and when to look again.

Called by ``cell``; ``renewal_due_at`` also by ``reconcile`` for its next look. Keys and signatures
are made by whoever carries a ``LeafOrder`` out: no key is ever here.
"""

from collections.abc import Sequence
from typing import Final

from isochrone.units import HOUR, MINUTE, Instant, Nanoseconds
from isochrone_operator import names
from isochrone_operator.reconciliation import LeafOrder
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Certificate, ObjectRef, Snapshot

SKEW_NS: Final[Nanoseconds] = 5 * MINUTE
"""Certificates begin this much before they are made: clocks differ."""
OVERLAP_NS: Final[Nanoseconds] = HOUR
"""How long a CA is in every bundle before it signs for those that trust another; kubelet takes up to
two minutes."""


def leaf_orders(
    namespace: str,
    owner: ObjectRef,
    snapshot: Snapshot,
    settings: Settings,
    now: Instant,
) -> tuple[LeafOrder, ...]:
    """Return orders for those of a cell's two certificates that are missing or no longer good.

    A certificate is no longer good when two thirds of its life are over, when it names another
    peer, or when another CA issued it than the one in ``names.CA_SECRET`` (as long as the snapshot
    does not show that one, the issuer is not judged). Where its own bundle still trusts its issuer,
    the new CA must first have been known for ``OVERLAP_NS``: until then the other end may not trust it.
    """
    root = _find(snapshot.certificates, settings.namespace, names.CA_SECRET)
    wanted = (
        (names.GATEWAY_TLS, names.gateway_peer(namespace)),
        (names.EXECUTOR_TLS, names.executor_peer(namespace)),
    )
    return tuple(
        LeafOrder(namespace=namespace, name=name, dns_name=dns_name, owner=owner)
        for name, dns_name in wanted
        if not _is_good(_find(snapshot.certificates, namespace, name), dns_name, root, now)
    )


def renewal_due_at(snapshot: Snapshot) -> Instant | None:
    """Return when the first certificate of any cell is due; None when there is none.

    That of the CA is its own keeper's affair.
    """
    cells = (it for it in snapshot.certificates if it.name != names.CA_SECRET)
    return min((_due_at(it) for it in cells), default=None)


def _is_good(
    certificate: Certificate | None, dns_name: str, root: Certificate | None, now: Instant
) -> bool:
    return (
        certificate is not None
        and certificate.dns_name == dns_name
        and now < _due_at(certificate)
        and _is_issuer_good(certificate, root, now)
    )


def _is_issuer_good(certificate: Certificate, root: Certificate | None, now: Instant) -> bool:
    if root is None or certificate.authority == root.authority:
        return True
    return bool(certificate.authority) and now < root.not_before + SKEW_NS + OVERLAP_NS


def _due_at(certificate: Certificate) -> Instant:
    life_ns = certificate.not_after - certificate.not_before
    return certificate.not_before + life_ns * 2 // 3


def _find(certificates: Sequence[Certificate], namespace: str, name: str) -> Certificate | None:
    for certificate in certificates:
        if (certificate.namespace, certificate.name) == (namespace, name):
            return certificate
    return None
