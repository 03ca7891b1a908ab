"""Microversions: `OpenStack-API-Version: compute 2.N`. A service says its range in one table; the edge negotiates."""

import functools
import re

import msgspec

from kilonova.core.errors import BadRequest, NotAcceptable
from kilonova.core.http import Request, Version

REMEMBERED_BYTES = 128
"""Longer headers are read anew each time: there are only so many short ones that are right."""
_FORM = re.compile(r"^([1-9][0-9]{0,8})\.([1-9][0-9]{0,8}|0)\Z")


class VersionNotFound(NotAcceptable):
    code = "core.microversion"
    title = "Version {version} is not supported by the API. Minimum is {minimum} and maximum is {maximum}."


class Microversions(msgspec.Struct, frozen=True):
    """`legacy_header` is the older name that some clients still send (X-OpenStack-Nova-API-Version)."""

    service: str
    minimum: Version
    maximum: Version
    legacy_header: str = ""

    def negotiate(self, request: Request) -> Version:
        """The version asked for; the minimum when none is. Raises BadRequest, VersionNotFound."""
        text = request.headers.get(b"openstack-api-version")
        legacy = request.headers.get(_key(self.legacy_header)) if self.legacy_header else None
        if text is None and legacy is None:
            return self.minimum
        short = len(text or b"") + len(legacy or b"") <= REMEMBERED_BYTES
        return (_asked if short else _asked.__wrapped__)(self, text, legacy)

    def headers(self, version: Version) -> dict[str, str]:
        out = {"openstack-api-version": f"{self.service} {show(version)}", "vary": "OpenStack-API-Version"}
        if self.legacy_header:
            out[self.legacy_header.lower()] = show(version)
            out["vary"] += f", {self.legacy_header}"
        return out


@functools.cache
def _key(header: str) -> bytes:
    return header.lower().encode()


@functools.lru_cache(256)
def _asked(known: Microversions, text: bytes | None, legacy: bytes | None) -> Version:
    """By both headers. The same few come again and again."""
    wanted = None
    if text is not None:
        for part in text.decode("latin-1").split(","):
            words = part.split()
            if words and words[0].lower() == known.service:
                wanted = words[1] if len(words) == 2 else ""
    if wanted is None and legacy is not None:
        wanted = legacy.decode("latin-1")
    if wanted is None:
        return known.minimum
    wanted = wanted.strip()
    if wanted.lower() == "latest":
        return known.maximum
    form = _FORM.match(wanted)
    if form is None:
        raise BadRequest(f"API Version String {wanted[:50]} is of invalid format. Must be of format MajorNum.MinorNum.")
    version = (int(form[1]), int(form[2]))
    if not known.minimum <= version <= known.maximum:
        raise VersionNotFound(version=wanted, minimum=show(known.minimum), maximum=show(known.maximum))
    return version


def show(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def parse(text: str) -> Version:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
