"""Passwords: bcrypt over base64(SHA-256), so that no two passwords longer than bcrypt's 72 bytes are equal. Hashing runs in threads."""

import base64
import hashlib

import bcrypt

from kilonova.core.runtime import Runtime


def _fold(password: str) -> bytes:
    return base64.b64encode(hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest())


def _hash(password: str, rounds: int, salt: bytes) -> str:
    return bcrypt.hashpw(_fold(password), salt).decode()


def _check(password: str, hashed: str) -> bool:
    try:
        return bcrypt.checkpw(_fold(password), hashed.encode())
    except ValueError:
        return False


def _salt(rounds: int, raw: bytes) -> bytes:
    """bcrypt's own alphabet, from 16 random bytes of ours (its gensalt reads the system's randomness)."""
    table = bytes.maketrans(
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
        b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
    )
    return b"$2b$%02d$" % rounds + base64.b64encode(raw).rstrip(b"=").translate(table)


async def hashed(runtime: Runtime, password: str, rounds: int) -> str:
    return await runtime.blocking(_hash, password, rounds, _salt(rounds, runtime.token_bytes(16)), pool="bcrypt")


async def matches(runtime: Runtime, password: str, stored: str | None, rounds: int) -> bool:
    """Takes as long for a user without a password, or none at all, as for a wrong one."""
    if stored is None:
        nobodys = f"$2b${rounds:02d}$" + "." * 53
        await runtime.blocking(_check, password, nobodys, pool="bcrypt")
        return False
    return await runtime.blocking(_check, password, stored, pool="bcrypt")
