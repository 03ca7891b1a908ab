"""What a join token holds, and what crosses between a machine that joins and a controller. A hypervisor loads this and no database."""

import base64
import binascii

import msgspec

SERVER_NAME = "join.kilonova.internal"
"""In the certificate of whoever answers joins: a controller is known by the cloud's authority, not by its address."""
PREFIX = "kn1-"
"""Of the first form of tokens."""


class BadToken(ValueError):
    """A sentence."""


class JoinToken(msgspec.Struct, frozen=True, array_like=True):
    """`controllers` are host:port; `authority` is the SHA-256 of the authority's certificate; `host` may be empty."""

    controllers: tuple[str, ...]
    authority: bytes
    secret: bytes
    host: str = ""

    def text(self) -> str:
        """One word."""
        packed = msgspec.msgpack.encode(self)
        packed += binascii.crc32(packed).to_bytes(4, "big")
        return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_token(text: str) -> JoinToken:
    """Raises BadToken; a token that was cut off or mistyped is seen by its checksum."""
    text = "".join(text.split())
    if not text.startswith(PREFIX):
        raise BadToken("That is no join token.")
    body = text.removeprefix(PREFIX)
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        found = msgspec.msgpack.decode(packed[:-4], type=JoinToken)
    except ValueError:  # of base64, of text that is not UTF-8, and msgspec's
        raise BadToken("The join token is not complete.") from None
    whole = len(packed) > 4 and binascii.crc32(packed[:-4]).to_bytes(4, "big") == packed[-4:]
    if not whole or not found.controllers or len(found.authority) != 32:
        raise BadToken("The join token is not complete.")
    return found


class Authority(msgspec.Struct, frozen=True, kw_only=True):
    """PEM."""

    certificate: str


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A join. `request` is a certificate signing request (PEM); `secret` hexadecimal."""

    secret: str
    host: str
    my_ip: str
    request: str


class BrokerPlace(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    port: int


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """All that a hypervisor needs. `broker_authority`: certificates (PEM) that may sign the broker's; empty: the system's.
    `client_certificate`: show ours to the broker."""

    certificate: str
    brokers: tuple[BrokerPlace, ...]
    vhost: str
    user: str
    password: str
    ssl: bool
    broker_authority: str = ""
    client_certificate: bool = False


class RenewalAsked(msgspec.Struct, frozen=True, kw_only=True):
    request: str


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    certificate: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    sentence: str
    advice: str = ""
