"""kilonova explain: the story of a server, and what each host answered when it was placed."""

from typing import Any

import click
import msgspec

from kilonova.cli.failure import Failure
from kilonova.cli.output import format_option, show_json, show_table, state_option
from kilonova.cli.rest import Refused, Rest
from kilonova.cli.state import choose


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    time: str
    what: str
    result: str = ""
    detail: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one filter said of one host."""

    host: str
    filter: str
    reason: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    server: dict[str, Any]
    timeline: list[Moment]
    hosts: list[Verdict]


@click.command("explain")
@state_option
@format_option
@click.argument("server")
def command(state: str | None, output: str, server: str) -> None:
    """Tell why SERVER (name or id) is where it is, or why it is nowhere: what happened to it, and what each filter said of each host."""
    found = explain(Rest.login(choose(state, "explain")), server)
    if output == "json":
        show_json(found)
        return
    about = found.server
    where = f"on {about['host']}" if about["host"] else "on no host"
    click.echo(f"{about['name']} ({about['id']}) is {about['status']} {where}.")
    if about["fault"]:
        click.echo(f"Fault: {about['fault']}")
    if found.timeline:
        click.echo()
        show_table(("TIME", "WHAT", "RESULT", "DETAIL"), [(m.time, m.what, m.result, m.detail) for m in found.timeline], COLOURS)
    if found.hosts:
        click.echo()
        show_table(("HOST", "FILTER", "REASON"), [(v.host, v.filter, v.reason) for v in found.hosts])
    elif not found.timeline:
        click.echo("Nothing is recorded of it.")


COLOURS = {"Success": "green", "Error": "red"}


def explain(rest: Rest, wanted: str) -> Explanation:
    server = rest.server(wanted)
    path = f"/servers/{server['id']}"
    own = _own(rest, server["id"])
    timeline = _moments(own.get("timeline"))
    if not timeline:
        timeline = actions(rest, path)
    return Explanation(
        server={
            "id": server["id"],
            "name": server["name"],
            "status": server["status"],
            "host": server.get("OS-EXT-SRV-ATTR:host") or "",
            "zone": server.get("OS-EXT-AZ:availability_zone") or "",
            "fault": (server.get("fault") or {}).get("message", ""),
        },
        timeline=timeline,
        hosts=msgspec.convert(own.get("hosts", []), list[Verdict], strict=False),
    )


def _own(rest: Rest, server_id: str) -> dict[str, Any]:
    """What our compute knows beyond OpenStack's API; nothing where the API is another's."""
    for where in (rest, rest.at_root("compute")):
        try:
            return dict(where.get("compute", f"/kilonova/servers/{server_id}/explanation"))
        except Refused as error:
            if error.status != 404:
                raise
    return {}


def _moments(value: Any) -> list[Moment]:
    try:
        return msgspec.convert(value or [], list[Moment], strict=False)
    except msgspec.ValidationError as error:
        raise Failure(f"The compute API explains in a form that this program does not know ({error}).") from None


def actions(rest: Rest, path: str) -> list[Moment]:
    """Instance actions with their events, oldest first."""
    out = []
    for action in reversed(rest.get("compute", f"{path}/os-instance-actions")["instanceActions"]):
        detail = rest.get("compute", f"{path}/os-instance-actions/{action['request_id']}")["instanceAction"]
        out.append(Moment(time=action["start_time"], what=action["action"], result="", detail=action.get("message") or ""))
        for event in detail.get("events") or []:
            note = event.get("details") or event.get("host") or ""
            out.append(Moment(time=event["start_time"], what=f"  {event['event']}", result=event.get("result") or "under way", detail=note))
    return out
