"""Keys and certificates: an authority, what it signs, and requests to it. Elliptic curve P-256; texts are PEM; times are Unix microseconds.

Nothing of a request is believed but its key: names, purpose and lifetime are the signer's.
"""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
DAY_US = 86_400_000_000
SKEW_US = 3_600_000_000
"""Certificates begin an hour ago: clocks differ."""
MOST_PEM = 16_384


class BadRequestForCertificate(ValueError):
    """The text is no certificate signing request, or not one that we sign."""


class WrongPassphrase(ValueError):
    """The key is encrypted with another passphrase, or with one while none was given."""


def new_authority(name: str, now_us: int, passphrase: str = "") -> tuple[str, str]:
    """(certificate, key), the key encrypted if there is a passphrase."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        _begun(subject, subject, key.public_key(), now_us, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _text(made), _key_text(key, passphrase)


def new_request(name: str) -> tuple[str, str]:
    """(request, key) of a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode(), _key_text(key, "")


def sign(
    authority: tuple[str, str], request: str, name: str, now_us: int, days: int, *, passphrase: str = "", server_names: tuple[str, ...] = ()
) -> str:
    """A certificate for the request's key. server_names: it is a server's, of these DNS names; else a client's. Raises
    BadRequestForCertificate, WrongPassphrase."""
    if len(request) > MOST_PEM:
        raise BadRequestForCertificate("The certificate request is too long.")
    try:
        asked = x509.load_pem_x509_csr(request.encode())
        key = asked.public_key()
    except Exception:
        raise BadRequestForCertificate("The certificate request cannot be read.") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1) or not asked.is_signature_valid:
        raise BadRequestForCertificate("The certificate request is not one of a P-256 key, signed with it.")
    certificate = x509.load_pem_x509_certificate(authority[0].encode())
    private = _load(authority[1], passphrase)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server_names else ExtendedKeyUsageOID.CLIENT_AUTH
    made = (
        _begun(subject, certificate.subject, key, now_us, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), critical=False)
    )
    if server_names:
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in server_names]), critical=False)
    return _text(made.sign(private, hashes.SHA256()))


def fingerprint(certificate: str) -> str:
    """SHA-256 of the certificate, in hexadecimal. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256()).hex()


def ends_at(certificate: str) -> int:
    """Raises ValueError."""
    return int(x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc.timestamp()) * 1_000_000


def begins_at(certificate: str) -> int:
    """Raises ValueError."""
    return int(x509.load_pem_x509_certificate(certificate.encode()).not_valid_before_utc.timestamp()) * 1_000_000


def renewal_at(certificate: str) -> int:
    """When two thirds of its life are over."""
    begin, end = begins_at(certificate), ends_at(certificate)
    return begin + (end - begin) * 2 // 3


def is_encrypted(key: str) -> bool:
    return "ENCRYPTED" in key.partition("\n")[0]


def _load(key: str, passphrase: str) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key.encode(), passphrase.encode() if is_encrypted(key) else None)
    except (ValueError, TypeError):
        raise WrongPassphrase("The authority's key cannot be opened.") from None
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now_us: int, days: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now_us - SKEW_US))
        .not_valid_after(_time(now_us + days * DAY_US))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _time(us: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(us // 1_000_000, datetime.UTC)


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_text(key: ec.EllipticCurvePrivateKey, passphrase: str) -> str:
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        how = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how).decode()
