"""What a TLS Secret says: its certificate's name, its time, who issued it. Pure; no key is read.

Called by ``observe`` and ``certificates``.
"""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from isochrone.units import SECOND, Instant
from isochrone_operator.json_values import Json, text, texts
from isochrone_operator.snapshot import Certificate

BUNDLE_MAX: Final = 8
"""Authorities that one bundle may hold: the present one, the next, and a few that run out."""


def read_certificate(secret: Json) -> Certificate:
    """Return what ``secret`` holds; ``ValueError`` says what is wrong with it.

    ``authority`` is empty when no certificate of its ``ca.crt`` issued it.
    """
    data = texts(secret, "data")
    leaf = first(decode(data, "tls.crt"))
    bundle = x509.load_pem_x509_certificates(decode(data, "ca.crt")) if "ca.crt" in data else []
    return Certificate(
        namespace=text(secret, "metadata", "namespace"),
        name=text(secret, "metadata", "name"),
        dns_name=dns_name(leaf),
        not_before=_instant(leaf.not_valid_before_utc),
        not_after=_instant(leaf.not_valid_after_utc),
        authority=issuer(leaf, bundle),
    )


def decode(data: dict[str, str], key: str) -> bytes:
    """Return one value of a Secret; ``ValueError`` when it is absent or no base64."""
    if key not in data:
        message = f"data has no {key}"
        raise ValueError(message)
    try:
        return base64.b64decode(data[key], validate=True)
    except binascii.Error as error:
        message = f"data.{key} is no base64: {error}"
        raise ValueError(message) from error


def first(pem: bytes) -> x509.Certificate:
    """Return the first certificate of ``pem``; ``ValueError`` when there is none."""
    return x509.load_pem_x509_certificates(pem)[0]


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of ``certificate`` in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def issuer(leaf: x509.Certificate, bundle: Sequence[x509.Certificate]) -> str:
    """Return the fingerprint of whichever certificate of ``bundle`` issued ``leaf``, or nothing."""
    for authority in bundle[:BUNDLE_MAX]:
        try:
            leaf.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return fingerprint(authority)
    return ""


def dns_name(certificate: x509.Certificate) -> str:
    """Return the first DNS name that ``certificate`` is for; empty when there is none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.get_values_for_type(x509.DNSName)), "")


def _instant(at: datetime) -> Instant:
    return int(at.astimezone(UTC).timestamp()) * SECOND
