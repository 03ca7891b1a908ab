"""Security groups and their rules."""

import ipaddress
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from kilonova.core.context import Context
from kilonova.core.db import Reader
from kilonova.core.http import Request
from kilonova.core.times import iso
from kilonova.network.api import attributes as a
from kilonova.network.api import collection, creation
from kilonova.network.api.attributes import attr
from kilonova.network.api.collection import Resource, View, Views
from kilonova.network.domain import security_groups
from kilonova.network.domain.work import Work
from kilonova.network.errors import SecurityGroupNotFound, SecurityGroupRuleNotFound
from kilonova.network.model import SecurityGroup, SecurityGroupRule
from kilonova.network.service import NetworkService
from kilonova.network.store import rows
from kilonova.network.store.tables import security_groups as groups_table

FEW = 50


def protocol(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"'{a.shown(value)}' is not a protocol")
    return str(value)


def remote_ip_prefix(value: Any) -> str:
    """A prefix as it came, or a single address as a prefix."""
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        found = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"'{a.shown(value)}' is not a valid IP subnet") from None
    return value if "/" in value else f"{value}/{found.prefixlen}"


GROUP = a.Attributes(
    "security_group",
    "security_groups",
    a.ID,
    attr("name", a.name_text, "cufs", a.REQUIRED),
    a.TENANT,
    a.PROJECT,
    attr("stateful", a.boolean, "cuf", True),
    attr("shared", None, "f"),
    attr("security_group_rules"),
    a.TAGS,
    *a.standard(),
)
RULE = a.Attributes(
    "security_group_rule",
    "security_group_rules",
    a.ID,
    attr("security_group_id", a.uuid, "cfs", a.REQUIRED),
    attr("remote_group_id", a.or_none(a.text(36)), "cfs", None),
    attr("direction", a.one_of("ingress", "egress"), "cfs", a.REQUIRED),
    attr("protocol", a.or_none(protocol), "cfs", None),
    attr("port_range_min", a.or_none(a.integer), "cfs", None),
    attr("port_range_max", a.or_none(a.integer), "cfs", None),
    attr("ethertype", a.or_none(a.text(40)), "cfs", "IPv4"),
    attr("remote_ip_prefix", a.or_none(remote_ip_prefix), "cfs", None),
    attr("normalized_cidr"),
    attr("remote_address_group_id", a.one_of(None), "c", None),
    attr("belongs_to_default_sg"),
    a.TENANT,
    a.PROJECT,
    *a.standard(),
)


def rule_view(r: SecurityGroupRule, *, of_default: bool) -> View:
    return {
        "id": r.id,
        "security_group_id": r.security_group_id,
        "tenant_id": r.project_id,
        "project_id": r.project_id,
        "direction": r.direction,
        "ethertype": r.ethertype,
        "protocol": r.protocol,
        "port_range_min": r.port_range_min,
        "port_range_max": r.port_range_max,
        "remote_ip_prefix": r.remote_ip_prefix,
        "remote_group_id": r.remote_group_id,
        "remote_address_group_id": None,
        "normalized_cidr": security_groups.normalized_cidr(r),
        "belongs_to_default_sg": of_default,
        "description": r.description,
        "created_at": iso(r.created_at),
        "updated_at": iso(r.updated_at),
        "revision_number": r.revision,
    }


async def group_views(reader: Reader, found: Sequence[SecurityGroup]) -> Views:
    ids = tuple(group.id for group in found)
    rules = await rows.security_group_rules.where(reader, **({"security_group_id": ids} if len(ids) <= FEW else {}))
    by_group: dict[str, Views] = {group.id: [] for group in found}
    default = {group.id: group.is_default for group in found}
    for rule in rules:
        if rule.security_group_id in by_group:
            by_group[rule.security_group_id].append(rule_view(rule, of_default=default[rule.security_group_id]))
    return [group_view(group, by_group[group.id]) for group in found]


def group_view(g: SecurityGroup, rules: Views) -> View:
    return {
        "id": g.id,
        "name": g.name,
        "tenant_id": g.project_id,
        "project_id": g.project_id,
        "stateful": g.stateful,
        "shared": g.shared,
        "security_group_rules": rules,
        "description": g.description,
        "tags": g.tags,
        "created_at": iso(g.created_at),
        "updated_at": iso(g.updated_at),
        "revision_number": g.revision,
    }


async def rule_views(reader: Reader, found: Sequence[SecurityGroupRule]) -> Views:
    ids = tuple(dict.fromkeys(rule.security_group_id for rule in found))
    groups = await rows.security_groups.where(reader, **({"id": ids} if len(ids) <= FEW else {}))
    by_id = {group.id: group for group in groups}
    out = []
    for rule in found:
        group = by_id.get(rule.security_group_id)
        view = rule_view(rule, of_default=group is not None and group.is_default)
        view["security_group:project_id"] = group.project_id if group else None
        view["security_group:tenant_id"] = view["security_group:project_id"]
        out.append(view)
    return out


def group_scope() -> Any:
    return sa.or_(groups_table.c.project_id == sa.bindparam("scope_project"), groups_table.c.shared.is_(True))


GROUPS = Resource(
    GROUP, rows.security_groups, missing=SecurityGroupNotFound, views=group_views, scope=group_scope, collection="security-groups",
    custom={"shared": lambda values: groups_table.c.shared.in_([value.lower() in ("true", "1") for value in values])},
)  # fmt: skip
RULES = Resource(
    RULE, rows.security_group_rules, missing=SecurityGroupRuleNotFound, views=rule_views, collection="security-group-rules",
    private=("security_group:project_id", "security_group:tenant_id"),
)  # fmt: skip


async def _ensure_default(c: NetworkService, ctx: Context) -> None:
    """Each project that looks has a default group."""
    if ctx.project_id and not await rows.security_groups.where(c.db, default_of=ctx.project_id):
        project_id = ctx.project_id
        await c.write(ctx, lambda w: security_groups.default(w, project_id))


async def list(c: NetworkService, ctx: Context, req: Request) -> Any:
    await _ensure_default(c, ctx)
    return await collection.listing(c, ctx, req, GROUPS)


async def show(c: NetworkService, ctx: Context, req: Request, security_group_id: str) -> Any:
    return await collection.show(c, req, GROUPS, security_group_id)


async def create(c: NetworkService, ctx: Context, req: Request, body: Any) -> Any:
    return await creation.create(c, ctx, req, GROUPS, body, security_groups.create)


async def update(c: NetworkService, ctx: Context, req: Request, security_group_id: str, body: Any) -> Any:
    return await creation.update(c, ctx, req, GROUPS, security_group_id, body, security_groups.update)


async def delete(c: NetworkService, ctx: Context, req: Request, security_group_id: str) -> None:
    await creation.delete(c, ctx, req, GROUPS, security_group_id, security_groups.delete)


async def list_rules(c: NetworkService, ctx: Context, req: Request) -> Any:
    await _ensure_default(c, ctx)
    return await collection.listing(c, ctx, req, RULES)


async def show_rule(c: NetworkService, ctx: Context, req: Request, rule_id: str) -> Any:
    return await collection.show(c, req, RULES, rule_id)


async def create_rule(c: NetworkService, ctx: Context, req: Request, body: Any) -> Any:
    async def target(values: creation.Values) -> creation.Values:
        group = await rows.security_groups.get(c.db, values["security_group_id"])
        if group is None or not (collection.sees_all(ctx) or group.project_id == ctx.project_id or group.shared):
            raise SecurityGroupNotFound(id=a.shown(values["security_group_id"]))
        security_groups.normal(values)
        return {"security_group:project_id": group.project_id, "security_group:tenant_id": group.project_id}

    async def make(w: Work, values: creation.Values) -> SecurityGroupRule:
        return await security_groups.add_rule(w, await security_groups.get(w, values["security_group_id"]), values)

    return await creation.create(c, ctx, req, RULES, body, make, target)


async def delete_rule(c: NetworkService, ctx: Context, req: Request, rule_id: str) -> None:
    await creation.delete(c, ctx, req, RULES, rule_id, security_groups.remove_rule)
