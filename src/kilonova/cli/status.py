"""kilonova status: which cloud runs, where, and whether its APIs answer."""

import datetime
import http.client
import ssl
import urllib.parse
from typing import Any

import click
import msgspec

from kilonova.cli.output import format_option, show_json, show_table, state_option
from kilonova.cli.state import StateDir, choose

TIMEOUT_S = 3.0


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    ok: bool
    reason: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    state: str
    pid: int | None
    started: str | None
    services: dict[str, ServiceStatus]


@click.command("status")
@state_option
@format_option
@click.pass_context
def command(ctx: click.Context, state: str | None, output: str) -> None:
    """Show whether a cloud runs and whether each of its APIs answers. Exit status 1 when one does not."""
    status = look(choose(state, "status"))
    if output == "json":
        show_json(status)
    else:
        click.echo(f"State    {status.state}")
        click.echo(f"Process  {status.pid or 'none: this cloud is not running'}")
        if status.started:
            click.echo(f"Started  {status.started}")
        if status.services:
            click.echo()
            rows = [(name, service.url, "ok" if service.ok else service.reason) for name, service in status.services.items()]
            show_table(("SERVICE", "URL", "ANSWERS"), rows, {"ok": "green"})
    if status.pid is None or not all(service.ok for service in status.services.values()):
        ctx.exit(1)


def look(state: StateDir) -> Status:
    if not state.is_running():
        return Status(state=str(state.path), pid=None, started=None, services={})
    ports = state.read_json("run/ports.json")
    services = {name: probe(serving) for name, serving in ports.items() if isinstance(serving, dict)}
    return Status(state=str(state.path), pid=state.pid(), started=started(state), services=services)


def started(state: StateDir) -> str | None:
    try:
        seconds = (state.run / "pid").stat().st_mtime
    except OSError:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def probe(serving: dict[str, Any]) -> ServiceStatus:
    """GET /healthz, where the service listens."""
    url, host, port = str(serving["url"]), str(serving["host"]), int(serving["port"])
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        connection: http.client.HTTPConnection
        if urllib.parse.urlsplit(url).scheme == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the question is whether it answers, not who it is
            connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/healthz")
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return ServiceStatus(url=url, ok=False, reason=f"no answer: {error}")
    return ServiceStatus(url=url, ok=status == 200, reason="" if status == 200 else f"HTTP {status}")
