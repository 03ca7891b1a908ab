"""Query strings: VCPU:2,MEMORY_MB:512 and what is said of traits, aggregates and trees. Each function raises a 400 with the parameter."""

import re
from collections.abc import Collection, Sequence

from kilonova.core.http import Request, Version
from kilonova.placement.domain.filters import MemberFilter, TraitFilter
from kilonova.placement.errors import Invalid, InvalidQuery
from kilonova.placement.model import canonical_uuid

_AMOUNT = re.compile(r"[+-]?[0-9]{1,18}")
_FORM = "?resources=VCPU:2,MEMORY_MB:1024"


def only(req: Request, allowed: Collection[str]) -> None:
    for key, _ in req.query:
        if key not in allowed:
            raise unexpected(key)


def unexpected(key: str) -> InvalidQuery:
    return InvalidQuery(f"Additional properties are not allowed ('{key[:80]}' was unexpected)")


def uuid(name: str, text: str) -> str:
    """Canonical."""
    return canonical_uuid(text) or _no_uuid(name, text)


def _no_uuid(name: str, text: str) -> str:
    raise InvalidQuery(f"'{text[:80]}' is not a 'uuid' for {name}.")


def resources(text: str) -> dict[str, int]:
    if not text.strip():
        raise Invalid(f"Badly formed resources parameter. Expected resources query string parameter in form: {_FORM}. Got: empty string.")
    out: dict[str, int] = {}
    for part in text.split(","):
        name, colon, amount = part.strip().rpartition(":")
        if not colon or not name:
            raise Invalid(
                f"Badly formed resources parameter. Expected resources query string parameter in form: {_FORM}. Got: {text[:200]}."
            )
        if _AMOUNT.fullmatch(amount) is None:
            raise Invalid(f"Requested resource {name} expected positive integer amount. Got: {amount[:40]}.")
        if int(amount) < 1:
            raise Invalid(f"Requested resource {name} requires amount >= 1. Got: {int(amount)}.")
        out[name] = int(amount)
    return out


def traits(name: str, values: Sequence[str], version: Version, *, repeats: bool = True) -> TraitFilter:
    """A,B needs both; !C forbids (1.22); in:D,E needs one of them and the parameter may be repeated (1.39; before, the last counts)."""
    any_of = repeats and version >= (1, 39)
    needed: list[frozenset[str]] = []
    forbidden: list[str] = []
    for value in values if any_of or not repeats else values[-1:]:
        if any_of and value.startswith("in:"):
            needed.append(frozenset(_words(name, value[3:], version)))
            continue
        for word in _words(name, value, version, forbid=version >= (1, 22)):
            if word.startswith("!"):
                forbidden.append(word[1:])
            else:
                needed.append(frozenset([word]))
    both = sorted({word for word in forbidden if frozenset([word]) in needed})
    if both:
        raise Invalid(f"Conflicting required and forbidden traits found in the following traits keys: {name}: ({', '.join(both)})")
    return TraitFilter(tuple(needed), frozenset(forbidden))


def _words(name: str, text: str, version: Version, *, forbid: bool = False) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        plain = word.removeprefix("!") if forbid else word
        if not plain or plain.startswith("!") or ":" in plain:
            raise InvalidQuery(f"Expected '{name}' parameter value of the form: HW_CPU_X86_VMX,CUSTOM_MAGIC. Got: {text[:200]}")
    return words


def members(name: str, values: Sequence[str], version: Version) -> MemberFilter:
    """uuid, or in:uuid,uuid for any of them; repeated: all of the conditions (1.24); ! before it: none of them (1.32)."""
    if len(values) > 1 and version < (1, 24):
        raise Invalid("Multiple member_of parameters are not supported")
    needed: list[frozenset[str]] = []
    forbidden: list[str] = []
    for value in values:
        negative = version >= (1, 32) and value.startswith("!")
        text = value[1:] if negative else value
        several = text.startswith("in:")
        ids = text[3:].split(",") if several else [text]
        if not several and "," in text:
            raise Invalid(f"Multiple values for '{name}' must be prefixed with the 'in:' keyword using the valid microversion.")
        found = [canonical_uuid(ident) for ident in ids]
        known = [ident for ident in found if ident is not None]
        if len(known) != len(ids):
            raise InvalidQuery(f"Expected '{name}' parameter to contain valid UUID(s). Got: {value[:200]}")
        if negative:
            forbidden += known
        else:
            needed.append(frozenset(known))
    return MemberFilter(tuple(needed), frozenset(forbidden))
