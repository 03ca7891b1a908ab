"""kilonova explain: the story of a server, and what each host answered when it was placed."""

from typing import Any

import click
import msgspec

from kilonova.cli.failure import Failure
from kilonova.cli.output import format_option, show_json, show_table, state_option
from kilonova.cli.rest import Refused, Rest
from kilonova.cli.state import choose


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    at: str
    what: str
    details: str | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one filter said of one host."""

    host: str
    filter: str
    reason: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    status: str
    host: str
    fault: str
    summary: str
    """What the scheduler came to, in a sentence."""
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
    click.echo(f"{found.name} ({found.id}) is {found.status} " + (f"on {found.host}." if found.host else "on no host."))
    for label, text in (("Fault", found.fault), ("Scheduler", found.summary)):
        if text:
            click.echo(f"{label}: {text}")
    if found.timeline:
        click.echo()
        show_table(("TIME", "WHAT", "DETAILS"), [(moment.at, moment.what, moment.details) for moment in found.timeline])
    if found.hosts:
        click.echo()
        show_table(("HOST", "FILTER", "REASON"), [(verdict.host, verdict.filter, verdict.reason) for verdict in found.hosts])


def explain(rest: Rest, wanted: str) -> Explanation:
    server = rest.server(wanted)
    own = own_account(rest, server["id"])
    try:
        timeline = msgspec.convert(own.get("timeline") or actions(rest, server["id"]), list[Moment])
        hosts = msgspec.convert(own.get("hosts") or [], list[Verdict])
    except msgspec.ValidationError as error:
        raise Failure(
            f"The compute API explains in a form that this program does not know ({error}).", "Do both have one version?"
        ) from None
    return Explanation(
        id=server["id"],
        name=server["name"],
        status=server["status"],
        host=server.get("OS-EXT-SRV-ATTR:host") or "",
        fault=(server.get("fault") or {}).get("message", ""),
        summary=own.get("summary") or "",
        timeline=timeline,
        hosts=hosts,
    )


def own_account(rest: Rest, server_id: str) -> dict[str, Any]:
    """What our compute knows beyond OpenStack's API; nothing where the API is another's."""
    for where in (rest, rest.at_root("compute")):
        try:
            return dict(where.get("compute", f"/kilonova/servers/{server_id}/explanation"))
        except Refused as error:
            if error.status != 404:
                raise
    return {}


def actions(rest: Rest, server_id: str) -> list[dict[str, Any]]:
    """The public account: instance actions with their events, oldest first."""
    path, out = f"/servers/{server_id}/os-instance-actions", []
    for action in reversed(rest.get("compute", path)["instanceActions"]):
        detail = rest.get("compute", f"{path}/{action['request_id']}")["instanceAction"]
        out.append({"at": action["start_time"], "what": f"{action['action']} asked for", "details": action.get("message")})
        for event in detail.get("events") or []:
            result = event.get("result") or "under way"
            out.append({"at": event["start_time"], "what": f"{event['event']}: {result}", "details": event.get("details")})
    return out
