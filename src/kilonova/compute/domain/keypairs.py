"""Key pairs: making them, and telling a public key's fingerprint. Pure but for the chance that a new key needs; generation takes tens of
milliseconds, so callers run it in a thread.

SSH fingerprints are MD5 of the key's bytes (RFC 4716), X.509 ones SHA-1 of the certificate; both as pairs of hex digits with colons.
"""

import base64
import datetime
import hashlib

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

RSA_BITS = 2048
MAX_PUBLIC_KEY_BYTES = 65535
CERTIFICATE_DAYS = 3650
_UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
"""User principal name: how Windows finds the user that a client certificate logs in."""


class BadPublicKey(Exception):
    """The text is no public key of this type."""


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    private_key: str
    public_key: str
    fingerprint: str


def _colons(digest: bytes) -> str:
    return digest.hex(":")


def fingerprint(kind: str, public_key: str) -> str:
    """kind: ssh or x509. Raises BadPublicKey."""
    if len(public_key) > MAX_PUBLIC_KEY_BYTES:
        raise BadPublicKey
    try:
        return _certificate_fingerprint(public_key) if kind == "x509" else _ssh_fingerprint(public_key)
    except (ValueError, IndexError, UnsupportedAlgorithm):
        raise BadPublicKey from None


def _ssh_fingerprint(public_key: str) -> str:
    serialization.load_ssh_public_key(public_key.encode())
    return _colons(hashlib.md5(base64.b64decode(public_key.split()[1]), usedforsecurity=False).digest())


def _certificate_fingerprint(pem: str) -> str:
    return _colons(x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA1()))


def generate_ssh(comment: str = "Generated-by-Kilonova") -> Generated:
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    encoding, openssh = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    public = f"{key.public_key().public_bytes(encoding, openssh).decode()} {comment}"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()
    return Generated(private_key=private, public_key=public, fingerprint=_ssh_fingerprint(public))


def generate_x509(user_id: str, now_s: float) -> Generated:
    """A self-signed client certificate; the private key is PKCS#12 without a password, in base64 (as WinRM users want it)."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user_id[:64])])
    upn = f"{user_id}@localhost".encode()
    if len(upn) > 127:
        upn = upn[:127]
    start = datetime.datetime.fromtimestamp(int(now_s), datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.OtherName(_UPN, b"\x0c" + bytes([len(upn)]) + upn)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    pfx = pkcs12.serialize_key_and_certificates(None, key, certificate, None, serialization.NoEncryption())
    return Generated(private_key=base64.b64encode(pfx).decode(), public_key=pem, fingerprint=_certificate_fingerprint(pem))
