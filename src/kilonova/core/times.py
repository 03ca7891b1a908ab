"""Times on the wire. Inside and in the databases a time is an integer: microseconds since 1970, UTC."""

import datetime
import functools

UTC = datetime.UTC
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)


@functools.lru_cache(4096)
def _second(seconds: int) -> str:
    return (_EPOCH + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def iso(us: int) -> str:
    """2026-01-01T00:00:00Z"""
    return _second(us // 1_000_000) + "Z"


def iso_us(us: int) -> str:
    """2026-01-01T00:00:00.000000 (no zone)"""
    return f"{_second(us // 1_000_000)}.{us % 1_000_000:06d}"


def iso_us_z(us: int) -> str:
    """2026-01-01T00:00:00.000000Z"""
    return f"{_second(us // 1_000_000)}.{us % 1_000_000:06d}Z"


def http_date(us: int) -> str:
    """RFC 9110 date, e.g. Thu, 01 Jan 2026 00:00:00 GMT"""
    return (_EPOCH + datetime.timedelta(seconds=us // 1_000_000)).strftime("%a, %d %b %Y %H:%M:%S GMT")


def parse(text: str) -> int:
    """Microseconds of an ISO 8601 time; without a zone it is UTC. Raises ValueError."""
    when = datetime.datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text.strip())
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    delta = when - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds
