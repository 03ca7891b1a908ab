"""The database's URL as operators write it: sqlite:///path, postgresql://user:password@host1,host2:5432/name, mysql+pymysql://….

The driver after the plus sign is that of other programs and is not looked at: there is one for each kind of database here.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

import msgspec

KINDS = {"sqlite": "sqlite", "postgresql": "postgresql", "postgres": "postgresql", "mysql": "mariadb", "mariadb": "mariadb"}
DEFAULT_PORTS = {"postgresql": 5432, "mariadb": 3306}


class BadUrl(ValueError):
    """A sentence that never quotes the URL: there may be a password in it."""


class Url(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    """sqlite, postgresql or mariadb."""
    hosts: tuple[tuple[str, int], ...] = ()
    """In order of preference. A host that begins with a slash is a Unix socket (PostgreSQL: the folder it is in)."""
    user: str = ""
    password: str = ""
    database: str = ""
    """The database's name, or SQLite's file."""
    options: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"<Url {self}>"

    def __str__(self) -> str:
        """Without the password."""
        if self.kind == "sqlite":
            return f"sqlite:///{self.database}"
        return f"{self.kind}://{self.user}@{','.join(address(host, port) for host, port in self.hosts)}/{self.database}"


def masked(text: str) -> str:
    """A URL of a database or a broker with **** in place of each password, as Nova prints them."""
    scheme, separator, rest = text.partition("://")
    credentials, at, places = rest.rpartition("@")
    if not at or ":" not in credentials:
        return text
    if "/" in credentials or ("@" in credentials and "," not in credentials):
        return f"{scheme}{separator}{credentials.partition(':')[0]}:****@{places}"
    return f"{scheme}{separator}{_PASSWORD.sub(_hide, credentials)}@{places}"


_PASSWORD = re.compile(r"(^|,)([^:@,]*):([^@]*)(?=@|$)")


def _hide(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}:****"


def address(host: str, port: int) -> str:
    """How a host is named in logs."""
    return host if host.startswith("/") else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(text: str) -> Url:
    scheme, separator, rest = text.strip().partition("://")
    kind = KINDS.get(scheme.partition("+")[0].lower())
    if not separator or kind is None:
        raise BadUrl("the database's URL begins with sqlite:///, postgresql:// or mysql://")
    rest, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if kind == "sqlite":
        path = unquote(rest[1:]) if rest.startswith("/") else ""
        if not path:
            raise BadUrl("a URL of SQLite names a file: sqlite:////var/lib/kilonova/kilonova.db")
        return Url(kind=kind, database=path, options=options)
    authority, _, name = rest.partition("/")
    credentials, at, places = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    if not name:
        raise BadUrl(f"the database's URL ends with the database's name: {scheme}://user:password@host/kilonova")
    if not at and not user:
        raise BadUrl(f"the database's URL names a user: {scheme}://user:password@host/kilonova")
    socket = options.pop("unix_socket", "") or (options.pop("host", "") if not places else "")
    return Url(
        kind=kind,
        hosts=((unquote(socket), _port(options.pop("port", ""), kind)),) if socket else _hosts(places, kind),
        user=unquote(user),
        password=unquote(password),
        database=unquote(name),
        options=options,
    )


def _port(text: str, kind: str) -> int:
    if text and not text.isdigit():
        raise BadUrl("the port in the database's URL is a number")
    return int(text or DEFAULT_PORTS[kind])


def _hosts(places: str, kind: str) -> tuple[tuple[str, int], ...]:
    """h1,h2:5433,[::1]:5434. A port given last only (h1,h2:5433) is that of the hosts before it that have none."""
    found: list[tuple[str, str]] = []
    for place in places.split(","):
        host, separator, port = place.rpartition(":")
        if not separator or port.endswith("]"):
            host, port = place, ""
        host = unquote(host.strip("[]"))
        if not host or (port and not port.isdigit()) or int(port or 1) not in range(1, 65536):
            raise BadUrl("each host in the database's URL is host or host:port, and several are separated by commas")
        found.append((host, port))
    ports = [port for _, port in found if port]
    default = ports[0] if len(ports) == 1 and found[-1][1] else str(DEFAULT_PORTS[kind])
    return tuple((host, int(port or default)) for host, port in found)
