"""What `kilonova security-check` looks at: a function for each item of the checklists of OpenStack's Security Guide that applies, under
the guide's ids (Check-Identity-01, …), and items of our own (Check-Kilonova-…) for the broker, the database and joined hosts.

An item gets Facts and gives a Verdict; it neither raises nor changes anything. A pass has been looked at: what could not be looked at, what
no setting could make otherwise, and what there is nothing of here (dashboard, block storage, key manager) is told as n/a, so that the list
can be compared with the guide's. The ids of identity and network are those of docs.openstack.org/security-guide; those of compute and
of image, and how many items others have, were written from memory.
"""

import ipaddress
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kilonova.core.bus import agents
from kilonova.core.bus.config import Broker
from kilonova.core.db.url import Url
from kilonova.core.policy import lets_everybody

PASS, FAIL, NA = "pass", "fail", "n/a"
DAY_US = 86_400_000_000
SOUND_ROUNDS = 10
LARGEST_BODY = 1 << 20
LONGEST_TOKEN_S = 86_400


class Verdict(msgspec.Struct, frozen=True):
    """advice: what to do; of failures only."""

    result: str
    reason: str
    advice: str = ""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud's database says. unjoined: hypervisors without a broker user of their own. key: whether the authority's key is
    encrypted; None: there is no authority. ending: joined hosts whose certificate ends within a week, or has ended."""

    unjoined: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    key_encrypted: bool | None = None
    ending: tuple[str, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    conf: Any
    """Every setting (oslo.config's object)."""
    files: tuple[Path, ...]
    """Configuration files."""
    state: Path | None
    now_us: int
    secrets: tuple[Path, ...] = ()
    """Files that hold keys or passwords."""
    owner: int = 0
    """Who may own configuration files, besides root: the user of the state directory."""
    bind: str = "127.0.0.1"
    public_host: str = "127.0.0.1"
    tls: bool = False
    insecure: bool = False
    brokers: tuple[Broker, ...] = ()
    """Empty: a cloud that is one process."""
    databases: tuple[Url, ...] = ()
    rules: dict[str, str] = {}
    """What policy.yaml overrides."""
    policy_problem: str = ""
    stored: Stored | None = None
    """None: not looked at, because there is no database that several processes share, or `stored_problem`."""
    stored_problem: str = ""
    users: tuple[str, ...] | None = None
    """The broker's users. None: not looked at, because there is no management API, or `users_problem`."""
    users_problem: str = ""
    body_bytes: int = LARGEST_BODY
    agent: bool = False
    """This is the configuration of a hypervisor, not of a controller."""


Check = Callable[[Facts], Verdict]


def good(reason: str) -> Verdict:
    return Verdict(PASS, reason)


def bad(reason: str, advice: str) -> Verdict:
    return Verdict(FAIL, reason, advice)


def na(reason: str) -> Verdict:
    return Verdict(NA, reason)


# ---------------------------------------------------------------- files


def ownership(f: Facts) -> Verdict:
    if not f.files:
        return na("There is no configuration file.")
    wrong = [path for path in f.files if path.stat().st_uid not in (0, f.owner)]
    if wrong:
        return bad(f"{_names(wrong)}: another user owns it, and may change what the cloud does.", "chown root it.")
    open_to = [path for path in f.files if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
    if open_to:
        return bad(f"{_names(open_to)}: others than its owner may write it.", "chmod 640 it.")
    return good("Configuration files belong to root or the cloud's user, and nobody else writes them.")


def permissions(f: Facts) -> Verdict:
    if not f.files:
        return na("There is no configuration file.")
    wrong = [path for path in f.files if path.stat().st_mode & 0o137]
    if wrong:
        return bad(f"{_names(wrong)}: passwords in it can be read by others.", "chmod 640 it.")
    return good("Configuration files have mode 640 or stricter.")


def secrets(f: Facts) -> Verdict:
    try:
        modes = {path: path.stat().st_mode for path in f.secrets if path.exists()}
    except PermissionError as error:
        return bad(f"{error.filename} cannot be looked at by this user.", "Run the command as root or as the cloud's user.")
    wrong = [path for path, mode in modes.items() if mode & 0o077]
    if wrong:
        return bad(f"{_names(wrong)}: others may read what only the cloud should.", "chmod 600 it (and 700 the folder).")
    return good("Keys, passwords and the state are readable by their owner only.") if modes else na("There is no file with keys here.")


# ---------------------------------------------------------------- endpoints


def endpoints(f: Facts) -> Verdict:
    if f.agent:
        return na("A hypervisor serves no API.")
    if f.tls:
        return good("The APIs are served with TLS.")
    if _loopback(f.bind) and _loopback(f.public_host):
        return good("The APIs are served to this machine only.")
    if _loopback(f.bind):
        return bad(f"The catalog sends clients to http://{f.public_host}.", "Set [ssl] cert_file and key_file.")
    asked = " ([cloud] insecure asks for it)" if f.insecure else ""
    return bad(
        f"Passwords and tokens cross the network unencrypted{asked}.", "Set [ssl] cert_file and key_file, and [cloud] insecure = false."
    )


def authentication(f: Facts) -> Verdict:
    """Where tokens are checked."""
    auth = f.conf["keystone_authtoken"]
    if f.agent:
        return na("A hypervisor serves no API.")
    if not auth.auth_url:
        return good("Tokens are checked by Kilonova's own identity, inside the process.")
    if not auth.auth_url.startswith("https://"):
        return bad("Tokens and passwords are sent to Keystone unencrypted.", "Write [keystone_authtoken] auth_url with https://.")
    if auth.insecure:
        return bad(
            "Keystone's certificate is not checked: anybody may pose as it.", "Set [keystone_authtoken] insecure = false, and cafile."
        )
    return good("Keystone is reached over TLS, and its certificate is checked.")


def strategy(f: Facts) -> Verdict:
    return na("A hypervisor serves no API." if f.agent else "Every API asks identity; there is no setting for another strategy.")


def glance(f: Facts) -> Verdict:
    override = f.conf["glance"].endpoint_override
    if f.agent:
        return na("A hypervisor reads images over the broker.")
    if not f.conf["keystone_authtoken"].username:
        return good("Images are read inside the cloud: in one process, or over its broker.")
    if f.conf["glance"].insecure:
        return bad("Glance's certificate is not checked: anybody may pose as it.", "Set [glance] insecure = false, and cafile.")
    if override.startswith("http://") and not _loopback(override.removeprefix("http://").partition("/")[0].partition(":")[0]):
        return bad("Images and tokens cross to Glance unencrypted.", "Write [glance] endpoint_override with https://.")
    return good("Another Glance is reached over TLS, or on this machine.")


# ---------------------------------------------------------------- identity


def own_identity(check: Check) -> Check:
    def only_ours(f: Facts) -> Verdict:
        if f.agent:
            return na("A hypervisor has no users.")
        return na("Another Keystone has the users; see its own checklist.") if f.conf["keystone_authtoken"].auth_url else check(f)

    return only_ours


def body_size(f: Facts) -> Verdict:
    if f.body_bytes > LARGEST_BODY:
        return bad(f"Requests of {f.body_bytes} bytes are read before anybody is known.", "Lower it.")
    return good(f"A request's body has at most {f.body_bytes} bytes.")


def admin_token(f: Facts) -> Verdict:
    return na("There is no admin token, and no setting that makes one.")


def insecure_debug(f: Facts) -> Verdict:
    if f.conf["debug"]:
        return bad("The log tells details.", "Set [DEFAULT] debug = false.")
    return good("Answers never tell why a login failed, and the log tells no details.")


def tokens(f: Facts) -> Verdict:
    life_s = f.conf["token"].expiration
    if life_s > LONGEST_TOKEN_S:
        return bad(
            f"A stolen token is good for {life_s / 3600:.0f} hours.", "Set [token] expiration to a day or less (3600 is the default)."
        )
    return good(f"Tokens are Fernet tokens, good for {life_s} s.")


def hashes(f: Facts) -> Verdict:
    rounds = f.conf["identity"].password_hash_rounds
    if rounds < SOUND_ROUNDS:
        return bad(f"Passwords are hashed with 2^{rounds} rounds only.", f"Set [identity] password_hash_rounds to {SOUND_ROUNDS} or more.")
    return good(f"Passwords are hashed by bcrypt with 2^{rounds} rounds.")


# ---------------------------------------------------------------- policy


def policy(f: Facts) -> Verdict:
    if f.agent:
        return na("A hypervisor serves no API.")
    if f.policy_problem:
        return bad(f.policy_problem, "Correct the file; the cloud does not start with it.")
    open_rules = sorted(name for name, check in f.rules.items() if lets_everybody(check, f.rules))
    if open_rules:
        return bad(
            f"The policy file lets everybody: {', '.join(open_rules[:5])}{' …' if len(open_rules) > 5 else ''}.", "Name a role in it."
        )
    return good(f"{len(f.rules)} rules are overridden, none of them for everybody." if f.rules else "Rules are the defaults.")


def port_scans(f: Facts) -> Verdict:
    return na("Images are not fetched from users' URLs; there is neither copy_from nor web-download.")


def metadata_secret(f: Facts) -> Verdict:
    settings = f.conf["neutron"]
    if f.agent or not settings.service_metadata_proxy:
        return na("No metadata proxy is let in.")
    if len(settings.metadata_proxy_shared_secret) < 16:
        return bad(
            "The secret of metadata proxies is empty or short.", "Set [neutron] metadata_proxy_shared_secret to 16 random letters or more."
        )
    return good("Metadata proxies sign with a secret.")


# ---------------------------------------------------------------- broker and database


def with_broker(check: Check) -> Check:
    return lambda f: check(f) if f.brokers else na("A cloud that is one process has no broker.")


def broker_tls(f: Facts) -> Verdict:
    if f.conf["oslo_messaging_rabbit"].ssl:
        return good("The broker is reached over TLS, and its certificate is checked.")
    if all(_loopback(broker.host) for broker in f.brokers):
        return good("The broker is on this machine.")
    return bad("Commands and passwords cross to the broker unencrypted.", "Set [oslo_messaging_rabbit] ssl = true, and ssl_ca_file.")


def broker_guest(f: Facts) -> Verdict:
    if any(broker.user == "guest" for broker in f.brokers):
        return bad(
            "The cloud uses RabbitMQ's user guest, whose password everybody knows.", "Make a user of its own, and name it in transport_url."
        )
    if f.users_problem:
        return bad(f"Whether the user guest is there is not known: {f.users_problem}", "See to [broker] management_url.")
    if f.users is None:
        return na("The cloud does not use RabbitMQ's user guest; whether it is there cannot be asked without [broker] management_url.")
    if "guest" in f.users:
        return bad("RabbitMQ still has its user guest.", "rabbitmqctl delete_user guest")
    return good("RabbitMQ's user guest is gone.")


def broker_users(f: Facts) -> Verdict:
    """One shared password commands the whole cloud."""
    if f.agent:
        if any(agents.host_of(broker.user) is None for broker in f.brokers):
            return bad(
                f"This hypervisor uses the broker user {f.brokers[0].user}, who commands the whole cloud.",
                "Let it join (`kilonova join-token` on a controller), and change that user's password.",
            )
        return good("This hypervisor has a broker user of its own.")
    if f.stored_problem:
        return bad(f"Who has joined is not known: {f.stored_problem}", "See to [database] connection.")
    if f.stored is None:
        return na("There is no database that says who has joined.")
    if f.stored.unjoined:
        names = f.stored.unjoined
        told = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
        return bad(
            f"{len(names)} hypervisors use the control plane's broker user: whoever reads a file of theirs commands the cloud ({told}).",
            "Let them join (`kilonova join-token --host NAME`), and change that user's password.",
        )
    return good(f"{len(f.stored.joined)} hypervisors have joined, each with a broker user of its own.")


def management(f: Facts) -> Verdict:
    url = f.conf["broker"].management_url
    if not url:
        return na("There is no [broker] management_url.")
    host = url.rpartition("@")[2].partition("/")[0].rpartition(":")[0] or url.rpartition("@")[2]
    if url.startswith("https://") or _loopback(host.strip("[]")):
        return good("The broker's management API is reached over TLS, or on this machine.")
    return bad("The broker's administrator's password crosses the network unencrypted.", "Write [broker] management_url with https://.")


def database_tls(f: Facts) -> Verdict:
    servers = [url for url in f.databases if url.kind != "sqlite"]
    if not servers:
        return na("The database is a file." if not f.agent else "A hypervisor has no database.")
    for url in servers:
        if all(host.startswith("/") or _loopback(host) for host, _ in url.hosts):
            continue
        if not _checked(url):
            what = "sslmode=verify-full and sslrootcert" if url.kind == "postgresql" else "ssl_ca"
            return bad(f"The database {url} is used without TLS, or without a look at its certificate.", f"Add {what} to its URL.")
    return good("Databases are on this machine, or reached over TLS with a look at their certificates.")


def _checked(url: Url) -> bool:
    if url.kind == "postgresql":
        mode = url.options.get("sslmode", "")
        return mode in ("verify-ca", "verify-full") or bool(url.options.get("sslrootcert"))
    return bool(url.options.get("ssl_ca"))


def database_absent(f: Facts) -> Verdict:
    if not f.agent:
        return na("This is a controller.")
    if f.databases:
        return bad("A hypervisor's file names the database, which it has no use for.", "Take [database] connection out of it.")
    return good("A hypervisor does not know the database's password.")


# ---------------------------------------------------------------- joined hosts


def authority_key(f: Facts) -> Verdict:
    if f.stored_problem:
        return bad(f"Whether its key is encrypted is not known: {f.stored_problem}", "See to [database] connection.")
    if f.stored is None or f.stored.key_encrypted is None:
        return na("The cloud has no certificate authority yet.")
    if not f.stored.key_encrypted:
        return bad(
            "The key of the cloud's certificate authority lies in the database in the clear.",
            "Name a file with a passphrase in [join] key_file before the first controller starts.",
        )
    return good("The key of the cloud's certificate authority is encrypted.")


def certificates_end(f: Facts) -> Verdict:
    if f.stored_problem:
        return bad(f"When they end is not known: {f.stored_problem}", "See to [database] connection.")
    if f.stored is None or not f.stored.joined:
        return na("No host has joined.")
    if f.stored.ending:
        return bad(
            f"Certificates of {', '.join(f.stored.ending[:5])} end within a week.",
            "Look at those hosts' logs; `kilonova join --renew` there.",
        )
    return good("No certificate of a joined host ends within a week.")


def _none(what: str) -> Check:
    return lambda f: na(f"There is no {what}.")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


ITEMS: tuple[tuple[str, str, Check], ...] = (
    ("Check-Identity-01", "configuration files belong to root or the cloud's user", ownership),
    ("Check-Identity-02", "configuration files are not readable by others", permissions),
    ("Check-Identity-03", "TLS for identity", endpoints),
    ("Check-Identity-05", "max_request_body_size", own_identity(body_size)),
    ("Check-Identity-06", "admin token", own_identity(admin_token)),
    ("Check-Identity-07", "insecure_debug", own_identity(insecure_debug)),
    ("Check-Identity-08", "Fernet tokens", own_identity(tokens)),
    ("Check-Dashboard", "dashboard (13 items)", _none("dashboard")),
    ("Check-Compute-01", "ownership of configuration files", ownership),
    ("Check-Compute-02", "permissions of configuration files", permissions),
    ("Check-Compute-03", "auth_strategy is keystone", strategy),
    ("Check-Compute-04", "secure protocol for authentication", authentication),
    ("Check-Compute-05", "Glance is reached securely", glance),
    ("Check-Block", "block storage (9 items)", _none("block storage")),
    ("Check-Image-01", "ownership of configuration files", ownership),
    ("Check-Image-02", "permissions of configuration files", permissions),
    ("Check-Image-03", "auth_strategy is keystone", strategy),
    ("Check-Image-04", "secure protocol for authentication", authentication),
    ("Check-Image-05", "no port scans through copy_from", port_scans),
    ("Check-Shared", "shared file systems (8 items)", _none("shared file service")),
    ("Check-Neutron-01", "ownership of configuration files", ownership),
    ("Check-Neutron-02", "permissions of configuration files", permissions),
    ("Check-Neutron-03", "auth_strategy is keystone", strategy),
    ("Check-Neutron-04", "secure protocol for authentication", authentication),
    ("Check-Neutron-05", "TLS for network", endpoints),
    ("Check-Key-Manager", "key manager (5 items)", _none("key manager")),
    ("Check-Kilonova-01", "files with keys and passwords", secrets),
    ("Check-Kilonova-02", "cost of password hashes", own_identity(hashes)),
    ("Check-Kilonova-03", "policy overrides", policy),
    ("Check-Kilonova-04", "secret of metadata proxies", metadata_secret),
    ("Check-Kilonova-05", "TLS to the broker", with_broker(broker_tls)),
    ("Check-Kilonova-06", "RabbitMQ's user guest", with_broker(broker_guest)),
    ("Check-Kilonova-07", "a broker user for each hypervisor", with_broker(broker_users)),
    ("Check-Kilonova-08", "TLS to the broker's management", with_broker(management)),
    ("Check-Kilonova-09", "TLS to the database", database_tls),
    ("Check-Kilonova-10", "hypervisors know no database", with_broker(database_absent)),
    ("Check-Kilonova-11", "the certificate authority's key", with_broker(authority_key)),
    ("Check-Kilonova-12", "certificates of joined hosts", with_broker(certificates_end)),
)
