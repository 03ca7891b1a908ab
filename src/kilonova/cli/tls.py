"""Certificates for APIs that are served to other machines."""

import datetime
import ipaddress
import socket
import ssl
from pathlib import Path

from kilonova.cli.failure import Failure
from kilonova.cli.state import StateDir

VALID_DAYS = 397
RENEW_DAYS = 14


def checked(cert: str, key: str) -> tuple[str, str]:
    """Absolute names of a pair that belongs together. Raises Failure."""
    if not (cert and key):
        raise Failure("--tls-cert and --tls-key go together.", "Give both, or neither.")
    for name in (cert, key):
        try:
            with Path(name).open("rb"):
                pass
        except OSError as error:
            raise Failure(f"{name} cannot be read: {error.strerror}.", "Name a PEM file with --tls-cert and --tls-key.") from None
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError):
        raise Failure(
            f"{cert} and {key} are not a PEM certificate and its unencrypted key.", "Give a pair that belongs together."
        ) from None
    return str(Path(cert).resolve()), str(Path(key).resolve())


def generated(state: StateDir, bind: str, public_host: str) -> tuple[str, str]:
    """A self-signed pair kept in the state directory: made when there is none for these addresses, or it ends soon."""
    from cryptography import x509

    folder = state.path / "tls"
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = _names(bind, public_host)
    try:
        old = x509.load_pem_x509_certificate(cert.read_bytes())
        have = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        left = old.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        if key.exists() and left.days > RENEW_DAYS and all(name in have for name in names):
            return str(cert), str(key)
    except (OSError, ValueError, x509.ExtensionNotFound):
        pass
    _make(state, names)
    return str(cert), str(key)


def _names(bind: str, public_host: str) -> list[object]:
    from cryptography import x509

    out: list[object] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    for host in (bind, public_host.strip("[]"), socket.gethostname()):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            name: object = x509.DNSName(host)
        else:
            if address.is_unspecified:
                continue
            name = x509.IPAddress(address)
        if name not in out:
            out.append(name)
    return out


def _make(state: StateDir, names: list[object]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"kilonova {state.mark.id}")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([name for name in names if isinstance(name, x509.GeneralName)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    state.write("tls/key.pem", key.private_bytes(encoding, form, serialization.NoEncryption()).decode())
    state.write("tls/cert.pem", certificate.public_bytes(encoding).decode(), mode=0o600)
