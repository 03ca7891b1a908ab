"""Tokens: Fernet over msgpack, as Keystone's are in kind (not in layout). 180 to 230 characters.

A token carries ids only. At each use the user, the scope and the effective roles are looked up again (or taken from a cache that holds
for one `revision`), so that a revocation, a disabled user or a lost role takes effect on the next request.
"""

import base64
import hashlib
import re
import struct
from typing import Any

import msgspec
from cryptography.fernet import Fernet, InvalidToken

from kilonova.core.runtime import Runtime
from kilonova.identity.model import Token

_METHODS = ("password", "token", "application_credential", "totp", "external", "mapped")
_SCOPES = ("unscoped", "project", "domain", "system")
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[int, Any, int, int, Any, int, int, list[bytes]]).decode
_ALPHABET = re.compile(r"[A-Za-z0-9_\-]+").fullmatch
"""base64's decoder also takes + and / and passes over strangers: one token would have many spellings."""
VERSION = 1
MAX_LENGTH = 1024


class BadToken(Exception):
    """It was not made with one of our keys, or is damaged."""


def new_key(runtime: Runtime) -> str:
    return base64.urlsafe_b64encode(runtime.token_bytes(32)).decode()


def audit_id(runtime: Runtime) -> str:
    return base64.urlsafe_b64encode(runtime.token_bytes(16)).rstrip(b"=").decode()


def _short(ident: str) -> str | bytes:
    """A hex id as 16 bytes; any other as it is."""
    if len(ident) == 32:
        try:
            raw = bytes.fromhex(ident)
        except ValueError:
            return ident
        if raw.hex() == ident:
            return raw
    return ident


def _long(ident: str | bytes) -> str:
    return ident.hex() if isinstance(ident, bytes) else ident


class TokenCodec:
    """Makes and opens tokens with a list of keys, the primary first."""

    def __init__(self, keys: list[str], runtime: Runtime) -> None:
        self._fernets = [Fernet(key) for key in keys]
        self._runtime = runtime

    def seal(self, token: Token) -> str:
        methods = sum(1 << _METHODS.index(m) for m in token.methods if m in _METHODS)
        audit = [base64.urlsafe_b64decode(a + "==") for a in token.audit_ids]
        data = _pack(
            (
                VERSION,
                _short(token.user_id),
                methods,
                _SCOPES.index(token.scope),
                _short(token.scope_id),
                token.issued_at,
                token.expires_at,
                audit,
            )
        )
        # The public encrypt() reads the clock and the system's randomness itself; a simulated cloud must not.
        sealed = self._fernets[0]._encrypt_from_parts(data, int(self._runtime.now()), self._runtime.token_bytes(16))
        return sealed.rstrip(b"=").decode()

    def open(self, text: str) -> Token:
        if len(text) > MAX_LENGTH or not _ALPHABET(text):
            raise BadToken
        padded = text + "=" * (-len(text) % 4)
        for fernet in self._fernets:
            try:
                data = fernet.decrypt(padded.encode())
            except (InvalidToken, ValueError, struct.error, UnicodeEncodeError):
                continue
            version, user, methods, scope, scope_id, issued, expires, audit = _unpack(data)
            if version != VERSION:
                raise BadToken
            return Token(
                user_id=_long(user),
                methods=tuple(m for i, m in enumerate(_METHODS) if methods >> i & 1),
                scope=_SCOPES[scope],
                scope_id=_long(scope_id),
                issued_at=issued,
                expires_at=expires,
                audit_ids=tuple(base64.urlsafe_b64encode(a).rstrip(b"=").decode() for a in audit),
            )
        raise BadToken


def digest(text: str) -> bytes:
    """What caches are keyed by, so that no token lies in memory twice."""
    return hashlib.sha256(text.encode()).digest()
