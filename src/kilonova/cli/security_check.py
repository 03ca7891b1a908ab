"""kilonova security-check: the checklists of OpenStack's Security Guide, asked of this cloud's configuration and state."""

import time
from pathlib import Path
from typing import Any

import click
import msgspec

from kilonova.cli.failure import Failure, plain
from kilonova.cli.output import is_plain, show_json
from kilonova.cli.state import default_path, open_existing, running

WEEK_US = 7 * 86_400_000_000
SECRETS = (
    "", "clouds.yaml", "admin-openrc", "demo-openrc", "kilonova.db", "kilonova.db-wal", "kilonova.conf", "tls/key.pem", "log/kilonova.log",
    "join", "join/kilonova.conf", "join/host.pem", "run/join-server.pem",
)  # fmt: skip
COLOURS = {"pass": "green", "fail": "red", "n/a": "cyan"}


@click.command("security-check")
@click.option("--config", "config_files", multiple=True, metavar="FILE", help="Configuration file, as the cloud was started with.")
@click.option("--state", metavar="DIR", help="State directory.  [default: the only running cloud's, or the files' state_path]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_context
def command(ctx: click.Context, config_files: tuple[str, ...], state: str | None, as_json: bool) -> None:
    """Go through the checklists of OpenStack's Security Guide: one line an item, with what is wrong and what to do.

    Nothing is changed. Exit status 1 when an item fails.
    """
    from kilonova.cli.security_items import FAIL, ITEMS

    facts = gather(config_files, state)
    told = [(ident, title, check(facts)) for ident, title, check in ITEMS]
    if as_json:
        show_json([{"id": ident, "title": title, **msgspec.to_builtins(verdict)} for ident, title, verdict in told])
    else:
        for ident, title, verdict in told:
            label = verdict.result.ljust(4)
            label = label if is_plain() else click.style(label, fg=COLOURS[verdict.result])
            click.echo(f"{ident:<18} {label} {title}: {verdict.reason} {verdict.advice}".rstrip())
        failed = sum(verdict.result == FAIL for _, _, verdict in told)
        click.echo(f"{len(told)} items: {failed} failed." if failed else f"{len(told)} items: none failed.")
    if any(verdict.result == FAIL for _, _, verdict in told):
        ctx.exit(1)


def gather(config_files: tuple[str, ...], state: str | None) -> Any:
    """Facts. Raises Failure for what keeps the cloud from starting, too."""
    from kilonova.cli.config import tables
    from kilonova.cli.security_items import Facts
    from kilonova.cli.settle import readable, settle
    from kilonova.core import config
    from kilonova.core.bus import agents
    from kilonova.core.http import MAX_BODY

    path = _state(config_files, state)
    own = [path / "join" / "kilonova.conf", path / "kilonova.conf"] if path else []
    files = readable(config_files) or tuple(str(name) for name in own if name.exists())[:1]
    try:
        conf = config.build(tables(), files)
    except config.ConfigError as error:
        raise Failure(plain(str(error)), "`kilonova config check` tells more.") from None
    brokers, databases = _servers(conf)
    joined = any(agents.host_of(broker.user) for broker in brokers)
    agent = bool(brokers) and (joined or not databases)
    settled = settle(_choices(files, agent))
    rules, policy_problem = _policy(path, conf["oslo_policy"].policy_file)
    stored, stored_problem = _stored(conf, files) if brokers and databases else (None, "")
    users, users_problem = _users(conf) if brokers and not agent else (None, "")
    keys = (settled.tls_key, conf["oslo_messaging_rabbit"].ssl_key_file, conf["join"].key_file)
    return Facts(
        conf=conf,
        files=tuple(map(Path, files)),
        state=path,
        now_us=int(time.time() * 1e6),
        secrets=(*(path / name for name in SECRETS if path), *(Path(name) for name in keys if name)),
        owner=path.stat().st_uid if path else 0,
        bind=settled.bind,
        public_host=settled.public_host,
        tls=bool(settled.tls_cert) or not (_loopback(settled.bind) or settled.insecure),
        insecure=settled.insecure,
        brokers=brokers,
        databases=databases,
        rules=rules,
        policy_problem=policy_problem,
        stored=stored,
        stored_problem=stored_problem,
        users=users,
        users_problem=users_problem,
        body_bytes=MAX_BODY,
        agent=agent,
    )


def _servers(conf: Any) -> tuple[Any, Any]:
    """(brokers, databases) that the files name. Raises Failure."""
    from kilonova.core import config
    from kilonova.core.bus.config import parse_url as parse_broker
    from kilonova.core.db import url as db_url

    url, databases = conf["transport_url"], (conf["database"].connection, conf["api_database"].connection)
    try:
        brokers = parse_broker(url, ssl=conf["oslo_messaging_rabbit"].ssl)[0] if url else ()
        return brokers, tuple(db_url.parse(text) for text in databases if text)
    except (config.ConfigError, db_url.BadUrl) as error:
        raise Failure(plain(str(error)), "Correct the file.") from None


def _loopback(host: str) -> bool:
    return host == "::1" or host.startswith("127.")


def _choices(files: tuple[str, ...], agent: bool) -> Any:
    from kilonova.cli.choices import Choices
    from kilonova.plan import HYPERVISOR

    return Choices(config=files, services=(HYPERVISOR,) if agent else None)


def _state(config_files: tuple[str, ...], state: str | None) -> Path | None:
    from kilonova.cli.settle import OPTIONS, readable
    from kilonova.core import config

    if state:
        return open_existing(Path(state).expanduser().resolve()).path
    if config_files:
        try:
            named = config.build([OPTIONS], readable(config_files)).state_path
        except config.ConfigError as error:
            raise Failure(plain(str(error)), "`kilonova config check` tells more.") from None
        try:
            return Path(named).expanduser().resolve() if named and (Path(named).expanduser() / "kilonova.state").exists() else None
        except PermissionError:
            raise Failure(f"{named} cannot be looked into by this user.", "Run the command as root or as the cloud's user.") from None
    alive = running()
    if len(alive) == 1:
        return alive[0].path
    if (default_path() / "kilonova.state").exists():
        return open_existing(default_path()).path
    raise Failure("Which cloud is meant is not known.", "Name its configuration with --config, or its state directory with --state.")


def _policy(path: Path | None, name: str) -> tuple[dict[str, str], str]:
    from kilonova.core.policy import PolicyError, overrides

    where = Path(name) if Path(name).is_absolute() or path is None else path / name
    if path is None and not where.is_absolute():
        return {}, ""
    try:
        return overrides(str(where)), ""
    except PolicyError as error:
        return {}, str(error)


def _stored(conf: Any, files: tuple[str, ...]) -> tuple[Any, str]:
    """What the database says of hypervisors and the authority, or why it does not."""
    from kilonova.cli.nova_databases import Databases, run
    from kilonova.cli.security_items import Stored
    from kilonova.compute.store import cell_mappings, joins
    from kilonova.core import certificates

    now = int(time.time() * 1e6)

    async def look(databases: Databases) -> Stored:
        db = await databases.api()
        hosts = sorted(await cell_mappings.hosts(db))
        joined = [one for one in await joins.hosts(db) if one.left_at is None]
        names = tuple(one.host for one in joined)
        authority = await joins.authority(db)
        return Stored(
            unjoined=tuple(host for host in hosts if host not in names),
            joined=names,
            key_encrypted=certificates.is_encrypted(authority[1]) if authority else None,
            ending=tuple(one.host for one in joined if one.certificate_until < now + WEEK_US),
        )

    try:
        return run(look, files, None), ""
    except Failure as failure:
        return None, failure.message


def _users(conf: Any) -> tuple[tuple[str, ...] | None, str]:
    from kilonova.core.bus.rabbit_users import BrokerUsers, CannotManage

    settings = conf["broker"]
    if not settings.management_url:
        return None, ""
    try:
        users = BrokerUsers(vhost="/", management_url=settings.management_url, ca_file=settings.management_ca_file)
        return tuple(users.names()), ""
    except (CannotManage, OSError) as error:
        return None, str(error)
