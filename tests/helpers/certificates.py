"""Certificates made here, by another road than the Pi's own: good ones and such as must fail."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tests.virtual_pi import VirtualPi

TLS = "/etc/celery-pi/tls"
CA, CA_KEY, PAIR = f"{TLS}/ca.crt", f"{TLS}/private/ca.key", f"{TLS}/redis.pem"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A CA that certificates can be made with."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def until(self, end: datetime) -> Authority:
        """The same CA, certified for another time."""
        made = _signed(self.certificate.subject, self.key, self, NOW - DAY, end, authority=True)
        return Authority(self.key, made)


def authority_of(pi: VirtualPi) -> Authority:
    """The machine's own CA."""
    key = load_pem_private_key(pi.run("cat", CA_KEY).stdout.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Authority(key, x509.load_pem_x509_certificate(pi.run("cat", CA).stdout.encode()))


def other_authority(like: Authority) -> Authority:
    """A CA of the same name that the machine does not know."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(key, like.certificate).until(NOW + DAY)


def pair(
    authority: Authority, start: datetime = NOW - DAY, end: datetime = NOW + 90 * DAY
) -> bytes:
    """A server's certificate for the machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "raspberrypi")])
    certificate = _signed(name, key, authority, start, end)
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def days_left(certificate: x509.Certificate) -> float:
    return (certificate.not_valid_after_utc - datetime.now(UTC)) / DAY


def _signed(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: Authority,
    start: datetime,
    end: datetime,
    *,
    authority: bool = False,
) -> x509.Certificate:
    names = [x509.DNSName(name) for name in ("localhost", "raspberrypi", "raspberrypi.local")]
    addresses = [x509.IPAddress(ip_address(text)) for text in ("127.0.0.1", "::1")]
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=end,
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=authority, path_length=None), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False),
        (_usage(authority), True),
        (x509.SubjectAlternativeName([*names, *addresses]), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer.key, hashes.SHA256())


def _usage(authority: bool) -> x509.KeyUsage:
    """Signing, of certificates or of a handshake: strict clients ask for it."""
    no = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **no)
