"""Keys and certificates: the CA of an installation, and a leaf for each end of each cell's links.

ECDSA P-256. The CA lives in one Secret of the operator's namespace, made by whoever comes first
(create-if-absent; every change is guarded by the resource version, so two replicas never make two).
Rotation has three steps, so that at no time does one end trust what the other does not show:

1. two thirds through the CA's life the *next* one is made and put into every cell's ``ca.crt``;
2. an hour later, when every process has read that, it becomes the one that signs, and ``reconcile``
   orders every leaf anew because its issuer has changed;
3. the old one stays in the bundles until it runs out.

Where the Secret is gone, a new CA is made at once, which signs what is missing; the bundles that cells
have left keep the old one trusted, and what it signed is ordered anew an hour later, as above.

Called by ``apply`` (leaves) and ``loop`` (the CA).
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isochrone.units import SECOND, Instant
from isochrone_operator import names
from isochrone_operator.api import Api
from isochrone_operator.certificates_read import BUNDLE_MAX, decode, fingerprint, first
from isochrone_operator.children.certificates import OVERLAP_NS, SKEW_NS
from isochrone_operator.errors import ConflictError, ExistsError, MissingError
from isochrone_operator.json_values import Json, mapping, text, texts
from isochrone_operator.logs import Log
from isochrone_operator.reconciliation import LeafOrder
from isochrone_operator.resources import SECRETS

LEAF_LIFE: Final = timedelta(days=30)
AUTHORITY_LIFE: Final = timedelta(days=365)
SKEW: Final = timedelta(seconds=SKEW_NS / SECOND)
OVERLAP: Final = timedelta(seconds=OVERLAP_NS / SECOND)
WRITES_MAX: Final = 5
"""Tries against other replicas that write the CA at the same time."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """The key, PKCS #8, not encrypted: the Secret is what guards it."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def certificate_pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The CA as its Secret has it: who signs, who will, and whose leaves are still about."""

    signing: Pair
    upcoming: Pair | None
    former: tuple[x509.Certificate, ...]

    @property
    def bundle_pem(self) -> bytes:
        """Every certificate to be trusted, in an order that does not change with who signs."""
        trusted = [self.signing.certificate]
        trusted += [] if self.upcoming is None else [self.upcoming.certificate]
        trusted += self.former
        ordered = sorted(trusted, key=fingerprint)
        return b"".join(it.public_bytes(serialization.Encoding.PEM) for it in ordered)


def make_authority(now: datetime) -> Pair:
    """Return a new CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"isochrone-ca-{serial:x}"[:64])])
    built = (
        _builder(name, name, key.public_key(), serial, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(key, built)


def make_leaf(authority: Pair, dns_name: str, now: datetime) -> Pair:
    """Return a key and a certificate for ``dns_name``, for both ends of a connection."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns_name[:64])])
    end = min(now + LEAF_LIFE, authority.certificate.not_valid_after_utc)
    built = (
        _builder(
            subject,
            authority.certificate.subject,
            key.public_key(),
            x509.random_serial_number(),
            now,
            end - now,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    return Pair(key, built)


def rotated(authority: Authority, now: datetime) -> Authority:
    """Return ``authority`` one step on in its rotation, or as it is when nothing is due."""
    former = tuple(it for it in authority.former if it.not_valid_after_utc > now)
    signing, upcoming = authority.signing, authority.upcoming
    if upcoming is not None and now - (upcoming.certificate.not_valid_before_utc + SKEW) >= OVERLAP:
        former = (signing.certificate, *former)[: BUNDLE_MAX - 2]
        signing, upcoming = upcoming, None
    elif upcoming is None and now >= _due(signing.certificate):
        upcoming = make_authority(now)
    return Authority(signing=signing, upcoming=upcoming, former=former)


def next_step(authority: Authority) -> datetime:
    """Return when ``rotated`` will have something to do."""
    if authority.upcoming is not None:
        return authority.upcoming.certificate.not_valid_before_utc + SKEW + OVERLAP
    return _due(authority.signing.certificate)


async def tend_authority(
    api: Api, namespace: str, *, now: Instant, log: Log, leaves: Iterable[Json] = ()
) -> tuple[Authority, Json]:
    """Return the CA of this installation and its Secret: made if there is none, rotated if due.

    ``leaves`` are the Secrets of cells: what their bundles trust stays trusted beside a CA made anew.
    Raises ``ConflictError`` when others write it each time, ``ValueError`` when the Secret holds
    something else, and what ``api`` raises.
    """
    at = datetime.fromtimestamp(now / SECOND, UTC)
    for _write in range(WRITES_MAX):
        try:
            secret = await api.get(SECRETS, namespace=namespace, name=names.CA_SECRET)
        except MissingError:
            made = Authority(
                signing=make_authority(at), upcoming=None, former=trusted_by(leaves, at)
            )
            try:
                secret = await api.create(
                    SECRETS, _secret_of(made, namespace), manager=names.FIELD_MANAGER
                )
            except ExistsError:
                # The other replica was faster: its CA it is.
                continue
            log.info(
                "authority_made",
                secret=f"{namespace}/{names.CA_SECRET}",
                also_trusted=len(made.former),
            )
            return made, secret
        held = read_authority(secret)
        wanted = rotated(held, at)
        if wanted == held:
            return held, secret
        body = {
            **_secret_of(wanted, namespace),
            "metadata": {
                **mapping(_secret_of(wanted, namespace), "metadata"),
                "resourceVersion": text(secret, "metadata", "resourceVersion"),
            },
        }
        try:
            secret = await api.replace(SECRETS, body, manager=names.FIELD_MANAGER)
        except (ConflictError, MissingError):
            continue
        log.info("authority_rotated", signs_next=wanted.upcoming is not None)
        return wanted, secret
    message = f"Secret {namespace}/{names.CA_SECRET} is written by others all the time"
    raise ConflictError(message)


def trusted_by(leaves: Iterable[Json], now: datetime) -> tuple[x509.Certificate, ...]:
    """Return the authorities in the bundles of ``leaves``, those that live longest first.

    A bundle that cannot be read vouches for nobody.
    """
    found: dict[str, x509.Certificate] = {}
    for it in leaves:
        try:
            bundle = x509.load_pem_x509_certificates(decode(texts(it, "data"), "ca.crt"))
        except ValueError:
            continue
        found |= {fingerprint(one): one for one in bundle if one.not_valid_after_utc > now}
    ordered = sorted(found, key=lambda key: (found[key].not_valid_after_utc, key), reverse=True)
    return tuple(found[key] for key in ordered[: BUNDLE_MAX - 2])


def read_authority(secret: Json) -> Authority:
    """Return the CA that ``secret`` holds; ``ValueError`` says what is wrong with it."""
    data = texts(secret, "data")
    signing = _pair(data, "tls")
    upcoming = _pair(data, "next") if "next.crt" in data else None
    known = {signing.certificate} | ({upcoming.certificate} if upcoming else set())
    bundle = x509.load_pem_x509_certificates(decode(data, "ca.crt"))
    former = tuple(it for it in bundle if it not in known)
    return Authority(signing=signing, upcoming=upcoming, former=former)


def _pair(data: dict[str, str], stem: str) -> Pair:
    key = serialization.load_pem_private_key(decode(data, f"{stem}.key"), password=None)
    certificate = first(decode(data, f"{stem}.crt"))
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        message = f"data.{stem}.key is no elliptic-curve key: delete the Secret to have a new CA"
        raise ValueError(message)  # noqa: TRY004 - what a file holds is a value, not a type
    if key.public_key() != certificate.public_key():
        message = f"data.{stem}.key does not belong to {stem}.crt: delete the Secret for a new CA"
        raise ValueError(message)
    return Pair(key, certificate)


def leaf_secret(order: LeafOrder, authority: Authority, *, now: Instant) -> Json:
    """Return the Secret that ``order`` asks for, with a fresh key, signed by ``authority``."""
    at = datetime.fromtimestamp(now / SECOND, UTC)
    leaf = make_leaf(authority.signing, order.dns_name, at)
    owner = order.owner
    metadata: dict[str, object] = {
        "namespace": order.namespace,
        "name": order.name,
        "labels": {
            names.LABEL_NAME: names.APP,
            names.LABEL_MANAGED_BY: names.APP,
            names.LABEL_INSTANCE: names.CELL,
            names.LABEL_CELL: names.CELL,
            names.LABEL_COMPONENT: (
                names.COMPONENT_GATEWAY
                if order.name == names.GATEWAY_TLS
                else names.COMPONENT_EXECUTOR
            ),
        },
    }
    if owner is not None:
        metadata["ownerReferences"] = [
            {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "kubernetes.io/tls",
        "data": _encoded(
            {
                "tls.crt": leaf.certificate_pem,
                "tls.key": leaf.key_pem,
                "ca.crt": authority.bundle_pem,
            }
        ),
    }


def stale_bundles(secrets: Iterable[Json], authority: Authority) -> Sequence[Json]:
    """Return those leaf Secrets of ours whose ``ca.crt`` is not the present bundle."""
    present = base64.b64encode(authority.bundle_pem).decode("ascii")
    return [
        it
        for it in secrets
        if text(it, "metadata", "name") in {names.GATEWAY_TLS, names.EXECUTOR_TLS}
        and texts(it, "data").get("ca.crt") != present
    ]


def bundle_patch(authority: Authority) -> Json:
    """Return the merge patch that puts the present bundle into a leaf Secret."""
    return {"data": _encoded({"ca.crt": authority.bundle_pem})}


def _secret_of(authority: Authority, namespace: str) -> Json:
    data = {
        "tls.crt": authority.signing.certificate_pem,
        "tls.key": authority.signing.key_pem,
        "ca.crt": authority.bundle_pem,
    }
    if authority.upcoming is not None:
        data["next.crt"] = authority.upcoming.certificate_pem
        data["next.key"] = authority.upcoming.key_pem
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "namespace": namespace,
            "name": names.CA_SECRET,
            "labels": {names.LABEL_NAME: names.APP, names.LABEL_MANAGED_BY: names.APP},
        },
        "type": "kubernetes.io/tls",
        "data": _encoded(data),
    }


def _encoded(data: dict[str, bytes]) -> dict[str, str]:
    return {key: base64.b64encode(value).decode("ascii") for key, value in data.items()}


def _due(certificate: x509.Certificate) -> datetime:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_before_utc + life * 2 / 3


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    serial: int,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
