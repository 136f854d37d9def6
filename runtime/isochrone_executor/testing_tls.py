"""What tests of encrypted links need: an authority of their own, and certificates good and bad.

Called by tests of this package and of programs that dial executors. Made as the operator makes
them: ECDSA over P-256, one DNS name each, for both ends of TLS. Needs ``cryptography``.
"""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

GATEWAY: Final = "gateway.ns.isochrone.internal"
EXECUTOR: Final = "executor.ns.isochrone.internal"


class Authority:
    """A certificate authority that lives as long as a test."""

    def __init__(self, name: str = "isochrone-ca") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate: Final = (
            _draft(self._name, self._name, self._key.public_key(), timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )

    def pem(self) -> bytes:
        """Return the authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self, folder: Path, name: str, *, expired: bool = False, believed: bytes | None = None
    ) -> Path:
        """Write tls.crt for ``name``, tls.key and ca.crt into ``folder``; return it.

        ``believed`` replaces the authorities in ca.crt, of which this one is else the only one.
        Each file is replaced in one step, as in a mounted Secret.
        """
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        age = timedelta(days=-1) if expired else timedelta(days=30)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _draft(subject, self._name, key.public_key(), age)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        files = {
            "tls.key": key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            "tls.crt": certificate.public_bytes(serialization.Encoding.PEM),
            "ca.crt": self.pem() if believed is None else believed,
        }
        for file, data in files.items():
            partial = folder / f"{file}.partial"
            partial.write_bytes(data)
            partial.rename(folder / file)
        return folder


def client_context(folder: Path) -> ssl.SSLContext:
    """Return a context that shows the certificate in ``folder``, and believes its ca.crt."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


def _draft(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends_in: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(tz=UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=40))
        .not_valid_after(now + ends_in)
    )
