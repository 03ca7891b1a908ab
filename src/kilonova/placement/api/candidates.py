"""/allocation_candidates: reads the query, asks domain/candidates.py, shows the answer as the version has it."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

from kilonova.core.context import Context
from kilonova.core.http import Request, Version
from kilonova.placement.api import query, views
from kilonova.placement.api.providers import check_classes, check_traits
from kilonova.placement.domain.candidates import Candidate, Group, Question, Snapshot, search
from kilonova.placement.domain.filters import TraitFilter
from kilonova.placement.errors import BadQueryValue, Invalid, InvalidQuery, MissingQueryValue, RepeatedQueryKey
from kilonova.placement.service import PlacementService
from kilonova.placement.store import inventories, providers

_SUFFIXED = (("resources", (1, 10)), ("required", (1, 17)), ("member_of", (1, 21)), ("in_tree", (1, 31)))
_WIDE = (("limit", (1, 16)), ("group_policy", (1, 25)), ("root_required", (1, 35)), ("same_subtree", (1, 36)))
_NUMBER, _WORD = re.compile(r"[1-9][0-9]*"), re.compile(r"[a-zA-Z0-9_-]{1,64}")
_LIMIT = re.compile(r"[1-9][0-9]{0,17}")


async def list(c: PlacementService, ctx: Context, req: Request) -> Any:
    question, limit = _question(req), _limit(req)
    await _check(c, question)
    snapshot = Snapshot(await providers.every(c.db), await inventories.every(c.db))
    settings = c.settings["placement"]
    found = search(snapshot, question, breadth_first=settings.allocation_candidates_generation_strategy == "breadth-first")
    if settings.max_allocation_candidates >= 0:
        found = itertools.islice(found, settings.max_allocation_candidates)
    if settings.randomize_allocation_candidates:
        shuffled = [*found]
        c.runtime.random.shuffle(shuffled)
        found = iter(shuffled)
    candidates = [*itertools.islice(found, limit)]
    views.dated(req, c.runtime.now_us())
    return {
        "allocation_requests": [_request(req.version, candidate) for candidate in candidates],
        "provider_summaries": _summaries(req.version, snapshot, question, candidates),
    }


# ---- the query


def _question(req: Request) -> Question:
    version, grouped = req.version, _by_suffix(req)
    subtrees = _subtrees(req, grouped)
    groups = []
    for suffix, values in grouped.items():
        if "resources" not in values and not (suffix and any(suffix in some for some in subtrees)):
            continue
        groups.append(
            Group(
                suffix=suffix,
                resources=query.resources(values["resources"][-1]) if "resources" in values else {},
                traits=query.traits(f"required{suffix}", values["required"], version) if "required" in values else TraitFilter(),
                members=query.members(f"member_of{suffix}", values.get("member_of", []), version),
                in_tree=query.uuid(f"in_tree{suffix}", values["in_tree"][-1]) if "in_tree" in values else None,
            )
        )
    _refuse_orphans(version, grouped, {group.suffix for group in groups})
    return Question(
        groups=tuple(groups),
        isolate=_isolate(req, [group for group in groups if group.suffix and group.resources]),
        root=_root(req),
        same_subtree=tuple(subtrees),
        nested=version >= (1, 29),
    )


def _by_suffix(req: Request) -> dict[str, dict[str, Any]]:
    """suffix -> parameter -> its values. Raises on a parameter that the version does not have."""
    version = req.version
    wide = [name for name, since in _WIDE if version >= since]
    out: dict[str, dict[str, Any]] = {}
    for key, value in req.query:
        if key in wide:
            continue
        for name, since in _SUFFIXED:
            if version >= since and key.startswith(name) and _suffix_ok(version, key[len(name) :]):
                out.setdefault(key[len(name) :], {}).setdefault(name, []).append(value)
                break
        else:
            raise query.unexpected(key)
    return out


def _suffix_ok(version: Version, suffix: str) -> bool:
    if not suffix:
        return True
    if version < (1, 25):
        return False
    return (_WORD if version >= (1, 33) else _NUMBER).fullmatch(suffix) is not None


def _refuse_orphans(version: Version, grouped: dict[str, dict[str, Any]], known: set[str]) -> None:
    if version < (1, 25) and "resources" not in grouped.get("", {}):
        raise InvalidQuery("'resources' is a required property")
    if not any("resources" in values for values in grouped.values()):
        raise MissingQueryValue("There must be at least one resources or resources[$S] parameter.")
    for name in ("required", "member_of", "in_tree"):
        orphans = sorted(name + suffix for suffix, values in grouped.items() if name in values and suffix not in known)
        if orphans:
            raise Invalid(
                f"All {name} parameters must be associated with resources. Found the following orphaned keys: {', '.join(orphans)}"
            )


def _isolate(req: Request, single: Sequence[Group]) -> bool:
    policy = req.one("group_policy")
    if policy not in (None, "none", "isolate"):
        raise InvalidQuery(f"'{policy}' is not one of ['none', 'isolate'] for group_policy.")
    if policy is None and len(single) > 1:
        raise Invalid('The "group_policy" parameter is required when specifying more than one "resources{N}" parameter.')
    return policy == "isolate"


def _root(req: Request) -> TraitFilter:
    values = req.every("root_required")
    if not values:
        return TraitFilter()
    if len(values) > 1:
        raise RepeatedQueryKey(name="root_required")
    return query.traits("root_required", values, req.version, repeats=False)


def _subtrees(req: Request, grouped: dict[str, Any]) -> Sequence[frozenset[str]]:
    out = []
    for value in req.every("same_subtree"):
        some = value.split(",")
        for suffix in some:
            if not suffix:
                raise BadQueryValue("Empty string (unsuffixed group) can not be specified in `same_subtree`")
            if suffix not in grouped:
                raise BadQueryValue(f"Real suffixes should be specified in `same_subtree`: {suffix[:64]} not found in the request groups.")
        out.append(frozenset(some))
    return out


def _limit(req: Request) -> int | None:
    text = req.one("limit")
    if text is None:
        return None
    if _LIMIT.fullmatch(text) is None:
        raise InvalidQuery(f"'{text[:40]}' does not match '^[1-9][0-9]*$' for limit.")
    return int(text)


async def _check(c: PlacementService, question: Question) -> None:
    filters = [question.root, *(group.traits for group in question.groups)]
    for group in question.groups:
        await check_classes(c, group.resources)
    await check_traits(c, [name for f in filters for some in (*f.needed, f.forbidden) for name in sorted(some)])


# ---- the answer


def _request(version: Version, candidate: Candidate) -> dict[str, Any]:
    held: dict[str, dict[str, int]] = {}
    for (provider_id, name), amount in candidate.amounts.items():
        held.setdefault(provider_id, {})[name] = amount
    if version < (1, 12):
        return {"allocations": [{"resource_provider": {"uuid": p}, "resources": resources} for p, resources in held.items()]}
    document: dict[str, Any] = {"allocations": {p: {"resources": resources} for p, resources in held.items()}}
    if version >= (1, 34):
        document["mappings"] = candidate.mappings
    return document


def _summaries(version: Version, snapshot: Snapshot, question: Question, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Of the providers used; from 1.29 of the whole trees that they are in. Until 1.26 with the classes asked for only."""
    used = dict.fromkeys(p for candidate in candidates for some in candidate.mappings.values() for p in some)
    if version >= (1, 29):
        used = dict.fromkeys(p.id for root in dict.fromkeys(snapshot.providers[p].root_id for p in used) for p in snapshot.trees[root])
    asked = {name for group in question.groups for name in group.resources}
    out = {}
    for ident in used:
        provider = snapshot.providers[ident]
        document: dict[str, Any] = {
            "resources": {
                name: {"capacity": stock.capacity, "used": stock.used}
                for name, stock in snapshot.stocks[ident].items()
                if version >= (1, 27) or name in asked
            }
        }
        if version >= (1, 17):
            document["traits"] = provider.traits
        if version >= (1, 29):
            document["parent_provider_uuid"], document["root_provider_uuid"] = provider.parent_id, provider.root_id
        out[ident] = document
    return out
