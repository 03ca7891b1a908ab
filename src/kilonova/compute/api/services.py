"""/os-services: what runs where, and switching hosts off and on."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kilonova.compute.api import queries, values
from kilonova.compute.domain import services
from kilonova.compute.domain.notice_payloads import service_payload
from kilonova.compute.domain.services import COMPUTE, Service
from kilonova.compute.service import ComputeService
from kilonova.compute.store import hosts as store
from kilonova.compute.store import tallies
from kilonova.core import times
from kilonova.core.context import Context, service_context
from kilonova.core.errors import BadRequest, Conflict, NotFound
from kilonova.core.http import Request

LIST = queries.growing(((2, 1), {"host": queries.anything, "binary": queries.anything}), strict=(2, 75))
Reason = Annotated[str, Meta(min_length=1, max_length=255)]


class Legacy(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    host: Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-._]*$")]
    binary: Reason
    disabled_reason: Reason | None = None


class Legacy2_11(Legacy, kw_only=True, forbid_unknown_fields=True):
    forced_down: bool | str = False


class Update(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    status: Literal["enabled", "disabled"] | None = None
    disabled_reason: Reason | None = None
    forced_down: bool | str | None = None


LEGACY = [((2, 1), Legacy), ((2, 11), Legacy2_11)]


def view(req: Request, service: Service) -> dict[str, Any]:
    document = {
        "binary": service.binary,
        "host": service.host,
        "id": service.id if req.version >= (2, 53) else service.number,
        "zone": service.zone,
        "status": "disabled" if service.disabled else "enabled",
        "state": "up" if service.up else "down",
        "updated_at": times.iso_us(service.seen_at),
        "disabled_reason": service.disabled_reason,
    }
    if req.version >= (2, 11):
        document["forced_down"] = service.forced_down
    return document


async def index(c: ComputeService, ctx: Context, req: Request) -> Any:
    host, binary = req.one("host"), req.one("binary")
    known, unknown = await services.with_silent(c)
    found = [s for s in known if host in (None, "", s.host) and binary in (None, "", s.binary)]
    silent = [h for h in unknown if host in (None, "", h)] if req.version >= (2, 69) and binary in (None, "", COMPUTE) else []
    return {"services": [view(req, s) for s in found] + [{"binary": COMPUTE, "host": h, "status": "UNKNOWN"} for h in silent]}


async def _change(c: ComputeService, ctx: Context, service: Service, **changes: Any) -> Service:
    if service.hypervisor is not None:
        await c.hosts.change(ctx, service.hypervisor, **changes)
        changed = msgspec.structs.replace(service.hypervisor, **changes)
        c.notifier.emit(ctx, "service.update", f"{COMPUTE}:{changed.host}", service_payload(changed))
        return services.of_host(c, changed)
    await c.cells.cell0.db.transact(lambda tx: store.change_daemon(tx, service.id, **changes))
    return msgspec.structs.replace(service, **changes)


async def update_legacy(c: ComputeService, ctx: Context, req: Request, service_id: str, body: Any) -> Any:
    """PUT /os-services/{enable|disable|disable-log-reason|force-down}, before 2.53."""
    if service_id not in ("enable", "disable", "disable-log-reason", "force-down") or (
        service_id == "force-down" and req.version < (2, 11)
    ):
        raise NotFound("Unknown action")
    if service_id == "disable-log-reason" and not body.disabled_reason:
        raise BadRequest("Missing disabled reason field")
    if service_id == "force-down" and body.binary != COMPUTE:
        raise BadRequest(f"Updating a {body.binary} service is not supported. Only nova-compute services can be updated.")
    known, silent = await services.with_silent(c)
    service = next((s for s in known if s.host == body.host and s.binary == body.binary), None)
    if service is None and body.host in silent:
        raise services.unreached(c)
    if service is None:
        raise NotFound(f"Could not find binary {body.binary} on host {body.host}.")
    document: dict[str, Any] = {"host": body.host, "binary": body.binary}
    if service_id == "force-down":
        down = values.flag("forced_down", body.forced_down)
        await _change(c, ctx, service, forced_down=down)
        return {"service": {**document, "forced_down": down}}
    if service_id == "enable":
        await _change(c, ctx, service, disabled=False, disabled_reason=None)
        return {"service": {**document, "status": "enabled"}}
    reason = body.disabled_reason if service_id == "disable-log-reason" else None
    await _change(c, ctx, service, disabled=True, disabled_reason=reason)
    return {"service": {**document, "status": "disabled", **({"disabled_reason": reason} if reason else {})}}


async def _find(c: ComputeService, req: Request, service_id: str) -> Service:
    if req.version >= (2, 53):
        if not values.UUID.match(service_id):
            raise BadRequest(f"Invalid uuid {service_id[:64]}")
        known, silent = await services.with_silent(c)
        found = next((s for s in known if s.id == service_id), None)
        if found is None and silent:
            raise services.unreached(c)
    else:
        if not service_id.isascii() or not service_id.isdigit():
            raise BadRequest(f"Service id {service_id[:64]} is not a whole number.")
        found = next((s for s in await services.every(c) if str(s.number) == service_id), None)
    if found is None:
        raise NotFound(f"Service {service_id[:64]} could not be found.")
    return found


async def update(c: ComputeService, ctx: Context, req: Request, service_id: str, body: Update) -> Any:
    """PUT /os-services/{uuid}, from 2.53 on."""
    service = await _find(c, req, service_id)
    if service.binary != COMPUTE:
        raise BadRequest(f"Updating a {service.binary} service is not supported. Only nova-compute services can be updated.")
    changes: dict[str, Any] = {}
    if body.status is not None:
        changes["disabled"] = body.status == "disabled"
        changes["disabled_reason"] = body.disabled_reason if changes["disabled"] else None
    if body.disabled_reason is not None and body.status != "disabled":
        raise BadRequest("Specifying disabled_reason requires status to be 'disabled' in the same request.")
    if body.forced_down is not None:
        changes["forced_down"] = values.flag("forced_down", body.forced_down)
    if not changes:
        raise BadRequest("No updates were requested. Fields 'status' or 'forced_down' should be specified.")
    return {"service": view(req, await _change(c, ctx, service, **changes))}


async def delete(c: ComputeService, ctx: Context, req: Request, service_id: str) -> None:
    """Forget a host that is gone, with its resource provider. Refused while servers are on it."""
    service = await _find(c, req, service_id)
    if service.hypervisor is None:
        await c.cells.cell0.db.transact(lambda tx: store.delete_daemon(tx, service.id))
        return
    if service.host in await tallies.by_host((await c.hosts.cell_of(service.host)).db):
        raise Conflict("Unable to delete compute service that is hosting instances. Migrate or delete the instances first.")
    await c.placement.remove_provider(service_context("compute", ctx.request_id), service.id)
    await c.hosts.forget(service.hypervisor)
