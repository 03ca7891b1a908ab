"""One set of statements for each noun's table, and lists by filter.

A row is saved whole, on the condition that its revision is still the one that was read: two writers of one row never lose a change.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa

from kilonova.core.db import Reader, Transaction
from kilonova.core.db.statements import Prepared, inserted, prepared
from kilonova.network import model
from kilonova.network.store import tables

S = TypeVar("S", bound=msgspec.Struct)
CACHED_SHAPES = 512


class Stale(Exception):
    """The row has changed since it was read: read again and decide anew."""


class Rows(Generic[S]):
    """`derive` gives the values of columns that the struct does not have."""

    def __init__(
        self, table: sa.Table, kind: type[S], derive: Callable[[S], dict[str, Any]] | None = None, key: str = "id", kept: bool = False
    ) -> None:
        """kept: they are read far more often than written (core/db/kept.py)."""
        self.table = table
        self.kind = kind
        self._derive = derive
        self._fields = kind.__struct_fields__
        self.columns = [table.c[name] for name in self._fields]
        id_column = table.c[key]
        self._key = id_column
        self.key = key
        self._insert = inserted(table)
        self._kept = kept
        self._get = prepared(sa.select(*self.columns).where(id_column == sa.bindparam("row_key")), kept=kept)
        self._among = prepared(
            sa.select(*self.columns).where(id_column.in_(sa.bindparam("keys", expanding=True))).order_by(id_column), kept=kept
        )
        update = sa.update(table).where(id_column == sa.bindparam("row_key"))
        if "revision" in table.c:
            update = update.where(table.c.revision == sa.bindparam("was_revision"))
        self._update = prepared(update.values({c.name: sa.bindparam(c.name, type_=c.type) for c in table.columns if c.name != key}))
        self._delete = prepared(sa.delete(table).where(id_column == sa.bindparam("row_key")))
        if "revision" in table.c:
            held = sa.update(table).where(id_column.in_(sa.bindparam("row_keys", expanding=True)))
            self._hold = prepared(held.values(revision=table.c.revision))
            named = sa.select(id_column).where(id_column.in_(sa.bindparam("row_keys", expanding=True)))
            self._share = prepared(named.order_by(id_column).with_for_update(read=True))
            at = sa.select(id_column).where(id_column == sa.bindparam("row_key"), table.c.revision == sa.bindparam("at_revision"))
            self._share_at = prepared(at.with_for_update(read=True))
            self._held = prepared(sa.select(id_column).where(id_column == sa.bindparam("row_key")), kept=kept)
        self._shapes: dict[Any, Prepared] = {}

    def _values(self, row: S) -> dict[str, Any]:
        values = {name: getattr(row, name) for name in self._fields}
        if self._derive is not None:
            values.update(self._derive(row))
        return values

    async def insert(self, tx: Transaction, row: S) -> None:
        """Raises Duplicate."""
        await tx.later(self._insert, self._values(row))

    async def insert_many(self, tx: Transaction, rows: Sequence[S]) -> None:
        await tx.many(self._insert, [self._values(row) for row in rows])

    async def save(self, tx: Transaction, old: S, new: S) -> None:
        """Write `new` over `old`. Raises Stale when the row is no longer `old`, and Duplicate."""
        values = self._values(new)
        values["row_key"] = getattr(old, self._key.name)
        if "revision" in self.table.c:
            values["was_revision"] = old.revision  # type: ignore[attr-defined]
        if not await tx.run(self._update, values):
            raise Stale

    async def hold(self, tx: Transaction, *row_ids: str) -> None:
        """Until this transaction ends nobody else changes, holds or shares these rows: for whoever asks that nothing refers to them.
        Raises Stale when one is gone."""
        if tx.alone:
            found = sum([await tx.one(self._held, {"row_key": row_id}) is not None for row_id in row_ids])
        else:
            found = await tx.run(self._hold, {"row_keys": row_ids})
        if found != len(row_ids):
            raise Stale

    async def share(self, tx: Transaction, *row_ids: str) -> None:
        """Until this transaction ends nobody changes, holds or deletes these rows; others may share them: for what refers to them.
        Raises Stale when one is gone."""
        if not tx.shares:
            await self.hold(tx, *row_ids)
        elif len(await tx.all(self._share, {"row_keys": row_ids})) != len(row_ids):
            raise Stale

    async def share_later(self, tx: Transaction, *row_ids: str) -> None:
        """As `share`, in one exchange with what else is put off; only where `tx.joins`. Raises Stale there."""
        await tx.later(self._share, {"row_keys": row_ids}, rows=len(row_ids), otherwise=Stale())

    async def share_as_read(self, tx: Transaction, row_id: str, revision: int) -> None:
        """The same; Stale also when the row has changed since."""
        await tx.later(self._share_at, {"row_key": row_id, "at_revision": revision}, rows=1, otherwise=Stale())

    async def delete(self, tx: Transaction, row_id: str) -> int:
        return await tx.run(self._delete, {"row_key": row_id})

    async def get(self, reader: Reader, row_id: str) -> S | None:
        row = await reader.one(self._get, {"row_key": row_id})
        return self.kind(*row) if row else None

    async def among(self, reader: Reader, keys: Sequence[str]) -> list[S]:
        """Those of these rows that there are."""
        return [self.kind(*row) for row in await reader.all(self._among, {"keys": keys})]

    async def where(self, reader: Reader, *, order: Sequence[str] = ("created_at",), **equal: Any) -> list[S]:
        """All whose columns have these values (a tuple: one of its values), oldest first. The statement is compiled once per shape."""
        return await self._those(reader, order, equal, share=False)

    async def where_shared(self, tx: Transaction, **equal: Any) -> list[S]:
        """`where` and `share` at once. Only where `tx.shares`."""
        return await self._those(tx, ("created_at",), equal, share=True)

    async def _those(self, reader: Reader, order: Sequence[str], equal: Mapping[str, Any], *, share: bool) -> list[S]:
        parts: list[Any] = []
        parameters: dict[str, Any] = {}
        for name, value in equal.items():
            if isinstance(value, tuple):
                if not value:
                    return []
                names = [f"{name}_{i}" for i in range(len(value))]
                parameters.update(zip(names, value, strict=True))
                parts.append((name, len(value)))
            else:
                parameters[name] = value
                parts.append((name, 0))
        shape = (tuple(parts), tuple(order), share)
        statement = self._shapes.get(shape)
        if statement is None:
            element = self._where(parts, order)
            statement = self._remember(shape, element.with_for_update(read=True) if share else element)
        kind = self.kind
        return [kind(*row) for row in await reader.all(statement, parameters)]

    def _remember(self, shape: Any, element: Any) -> Prepared:
        if len(self._shapes) >= CACHED_SHAPES:
            self._shapes.clear()
        found = self._shapes[shape] = prepared(element, kept=self._kept)
        return found

    def _where(self, parts: Sequence[tuple[str, int]], order: Sequence[str]) -> Any:
        clauses: list[Any] = []
        for name, count in parts:
            column = self.table.c[name]
            if count:
                clauses.append(column.in_([sa.bindparam(f"{name}_{i}", type_=column.type) for i in range(count)]))
            else:
                clauses.append(column == sa.bindparam(name, type_=column.type))
        by = [self.table.c[name] for name in order if name in self.table.c]
        return sa.select(*self.columns).where(*clauses).order_by(*by, self._key)

    async def query(self, reader: Reader, shape: Any, build: Callable[[], Any], parameters: Mapping[str, Any]) -> list[S]:
        """A list whose statement `build` makes the first time that its shape is asked for."""
        statement = self._shapes.get(shape)
        if statement is None:
            statement = self._remember(shape, build())
        kind = self.kind
        return [kind(*row) for row in await reader.all(statement, parameters)]


def segment_key(network: model.Network) -> str:
    if network.network_type == "local":
        return f"local/{network.id}"
    if network.network_type == "flat":
        return f"flat/{network.physical_network}"
    place = f"{network.physical_network}/" if network.physical_network else ""
    return f"{network.network_type}/{place}{network.segmentation_id}"


def rule_key(rule: model.SecurityGroupRule) -> str:
    """Everything that makes a rule what it is; a prefix of length 0 and no prefix mean the same."""
    cidr = ipaddress.ip_network(rule.remote_ip_prefix, strict=False) if rule.remote_ip_prefix else None
    prefix = str(cidr) if cidr is not None and cidr.prefixlen else None
    parts = (rule.direction, rule.ethertype, rule.protocol, rule.port_range_min, rule.port_range_max, prefix, rule.remote_group_id)
    return "|".join("" if part is None else str(part) for part in parts)


networks = Rows(tables.networks, model.Network, lambda n: {"segment_key": segment_key(n)}, kept=True)
subnets = Rows(tables.subnets, model.Subnet, kept=True)
ports = Rows(tables.ports, model.Port)
routers = Rows(tables.routers, model.Router)
floating_ips = Rows(tables.floating_ips, model.FloatingIp)
security_groups = Rows(
    tables.security_groups, model.SecurityGroup, lambda g: {"default_of": g.project_id if g.is_default else None}, kept=True
)
security_group_rules = Rows(tables.security_group_rules, model.SecurityGroupRule, lambda r: {"rule_key": rule_key(r)})
subnetpools = Rows(tables.subnetpools, model.SubnetPool)
hosts = Rows(tables.hosts, model.Host, key="host")
agents = Rows(tables.agents, model.Agent)
