"""The joining machine's side: it finds out that it speaks to the right cloud before it tells the token's secret.

Whoever answers at the token's address first shows the authority's certificate, over a connection that proves nothing. If its fingerprint is
the token's, everything else goes over connections whose certificate that authority has signed. Until then nothing else that it says is
believed, nor shown: not a second certificate after the first, not a refusal. No database, no event loop.
"""

import hashlib
import http.client
import re
import socket
import ssl
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kilonova.cli.failure import Failure
from kilonova.compute.join_forms import SERVER_NAME, Asked, Authority, Joined, JoinToken, Refusal, RenewalAsked, Renewed
from kilonova.plan import JOIN_PORT

LIMIT_S = 15.0
JOIN_S = 90.0
"""rabbitmqctl may be behind it."""
MOST_BYTES = 1 << 20
WRONG_TIME = (9, 10)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
REJOIN = "Join again, with a token that names this host (`kilonova join-token --host`)."
T = TypeVar("T")


class Silent(Exception):
    """Nobody answers there; the reason."""


def place(text: str) -> tuple[str, int]:
    """host:port, [v6]:port, or either alone. Raises Failure."""
    if re.fullmatch(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", text):
        return text, JOIN_PORT
    found = re.fullmatch(r"(\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+)(?::(\d{1,5}))?", text)
    port = int(found[2] or JOIN_PORT) if found else 0
    if found is None or not 0 < port < 65_536:
        raise Failure(f"{text or 'Nothing'} is no address of a controller.", "It is written HOST, HOST:PORT or [IPV6]:PORT.")
    return found[1].strip("[]"), port


def find(token: JoinToken) -> tuple[str, str]:
    """(a controller that answers, the authority's certificate). Raises Failure."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.minimum_version = ssl.TLSVersion.TLSv1_2
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE  # what comes is compared with the token's fingerprint
    silent = []
    for controller in token.controllers:
        try:
            shown = _ask(controller, blind, "GET", "/v1/authority", None, Authority, LIMIT_S).certificate
        except Silent as error:
            silent.append(f"{controller}: {error}")
            continue
        der = _only_certificate(shown)
        if hashlib.sha256(der).digest() != token.authority:
            raise Failure(
                f"{controller} does not belong to the cloud that this token is of: its certificate authority is another.",
                "Nothing was told to it. Is the address right, and nobody in between? Else make a new token.",
            )
        return controller, ssl.DER_cert_to_PEM_cert(der)
    raise Failure(
        f"No controller answers ({'; '.join(silent)}).",
        "Is a process of the role compute running there, on an address that can be reached?",
    )


def _only_certificate(pem: str) -> bytes:
    """DER. What is trusted is made of these bytes and never of the text: that may hold a second certificate, of which the fingerprint says
    nothing."""
    try:
        return ssl.PEM_cert_to_DER_cert(pem.strip())
    except ValueError:
        return b""


def join(token: JoinToken, controller: str, authority: str, *, host: str, my_ip: str, request: str) -> Joined:
    """Raises Failure."""
    asked = Asked(secret=token.secret.hex(), host=host, my_ip=my_ip, request=request)
    try:
        return _ask(controller, _trusting(authority), "POST", "/v1/join", asked, Joined, JOIN_S)
    except Silent as error:
        raise Failure(f"{controller} does not answer any more: {error}.", "If the token has been used, make another with --host.") from None


def renew(controllers: tuple[str, ...], authority: str, own: Path, request: str) -> Renewed:
    """own: certificate and key in one file. Raises Failure."""
    context = _trusting(authority)
    try:
        context.load_cert_chain(own)
    except OSError as error:
        raise Failure(f"{own} cannot be used: {error.strerror or 'it holds no certificate and its key'}.", REJOIN) from None
    silent = []
    for controller in controllers:
        try:
            return _ask(controller, context, "POST", "/v1/renew", RenewalAsked(request=request), Renewed, LIMIT_S)
        except Silent as error:
            silent.append(f"{controller}: {error}")
    raise Failure(f"No controller answers ({'; '.join(silent)}).", "A hypervisor that runs tries again every hour.")


def address_towards(controller: str) -> str:
    """This machine's own address on the way there."""
    host, port = place(controller)
    try:
        with socket.create_connection((host, port), LIMIT_S) as connection:
            return str(connection.getsockname()[0])
    except OSError as error:
        raise Failure(f"{controller} does not answer: {error.strerror or error}.") from None


def _trusting(authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority)
    return context


def _ask(controller: str, context: ssl.SSLContext, method: str, path: str, body: Any, kind: type[T], limit_s: float) -> T:
    """Raises Silent, and Failure for a refusal by a controller that has proved itself."""
    status, answer = _exchange(controller, context, method, path, msgspec.json.encode(body) if body is not None else None, limit_s)
    try:
        if status == 200:
            return msgspec.json.decode(answer, type=kind)
        if context.verify_mode is not ssl.CERT_NONE:
            refusal = msgspec.json.decode(answer, type=Refusal)
            raise Failure(refusal.sentence, refusal.advice)
    except msgspec.DecodeError:
        pass
    raise Silent(f"it does not answer as a controller does (HTTP status {status})")


def _exchange(controller: str, context: ssl.SSLContext, method: str, path: str, body: bytes | None, limit_s: float) -> tuple[int, bytes]:
    host, port = place(controller)
    connection = http.client.HTTPConnection(host, port, timeout=limit_s)
    try:
        raw = socket.create_connection((host, port), limit_s)
        try:
            connection.sock = context.wrap_socket(raw, server_hostname=SERVER_NAME)
        except BaseException:
            raw.close()
            raise
        connection.request(method, path, body, {"Content-Type": "application/json", "Connection": "close"})
        reply = connection.getresponse()
        return reply.status, reply.read(MOST_BYTES)
    except ssl.SSLCertVerificationError as error:
        advice = "Is somebody in between? Nothing was told to it."
        if error.verify_code in WRONG_TIME:
            advice = "Is this machine's clock right, and the controller's? Nothing was told to it."
        raise Failure(f"{controller} cannot prove that it belongs to the cloud ({error.verify_message}).", advice) from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Silent("".join(filter(str.isprintable, said))[:200]) from None  # part of it may be the other side's words
    finally:
        connection.close()
