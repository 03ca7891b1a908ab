"""A running cloud's public APIs, asked as its administrator."""

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from kilonova.cli import credentials
from kilonova.cli.failure import Failure
from kilonova.cli.state import StateDir

TIMEOUT_S = 30.0
MICROVERSION = {"compute": "compute 2.96", "placement": "placement 1.39"}


class Refused(Failure):
    """The API answered with an error; `status` is HTTP's."""

    def __init__(self, service: str, status: int, sentence: str) -> None:
        super().__init__(f"The {service} API answered {status}: {sentence}")
        self.status = status


class Rest:
    """`urls`: public endpoint by service type, without a slash at the end."""

    def __init__(self, urls: Mapping[str, str], token: str, context: ssl.SSLContext | None) -> None:
        self.urls = dict(urls)
        self._token = token
        self._context = context
        self._opener = _opener(context)

    @staticmethod
    def login(state: StateDir) -> "Rest":
        """As the admin of clouds.yaml. Raises Failure."""
        login = credentials.stored_login(state)
        context = ssl.create_default_context(cafile=login.cacert or None) if login.auth_url.startswith("https") else None
        user = {"name": login.username, "password": login.password, "domain": {"name": "Default"}}
        scope = {"project": {"name": login.username, "domain": {"name": "Default"}}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        visitor = Rest({"identity": login.auth_url}, "", context)
        headers, document = visitor.ask("POST", "identity", "/auth/tokens", body)
        urls: dict[str, str] = {}
        for service in document["token"].get("catalog", []):
            for endpoint in service["endpoints"]:
                if endpoint["interface"] == "public" and endpoint["region_id"] == login.region:
                    urls.setdefault(service["type"], endpoint["url"].rstrip("/"))
        return Rest(urls, headers["x-subject-token"], context)

    def ask(self, method: str, service: str, path: str, body: Any = None) -> tuple[dict[str, str], Any]:
        """Headers (lower case) and document. Raises Refused, Failure."""
        url = self.urls.get(service)
        if url is None:
            raise Failure(f"This cloud has no {service} service.", "`kilonova status` shows what runs.")
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._token:
            headers["X-Auth-Token"] = self._token
        if service in MICROVERSION:
            headers["OpenStack-API-Version"] = MICROVERSION[service]
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data=data, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as reply:
                raw = reply.read()
                return {name.lower(): value for name, value in reply.headers.items()}, json.loads(raw) if raw else None
        except urllib.error.HTTPError as error:
            raise Refused(service, error.code, _sentence(error.read())) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Failure(f"The {service} API at {url} does not answer ({reason}).", "`kilonova status` shows what runs.") from None

    def at_root(self, service: str) -> "Rest":
        """The same service without the path of its endpoint (/v2.1)."""
        parts = urllib.parse.urlsplit(self.urls[service])
        return Rest({service: f"{parts.scheme}://{parts.netloc}"}, self._token, self._context)

    def get(self, service: str, path: str) -> Any:
        return self.ask("GET", service, path)[1]

    def every(self, service: str, path: str, key: str) -> list[Any]:
        """All pages of a list."""
        out: list[Any] = []
        while path:
            document = self.get(service, path)
            out += document[key]
            following = [link["href"] for link in document.get(f"{key}_links", []) if link.get("rel") == "next"]
            following += [document["next"]] if isinstance(document.get("next"), str) else []
            path = _rest_of(following[0], self.urls[service]) if following and document[key] else ""
        return out

    def server(self, wanted: str) -> dict[str, Any]:
        """A server of any project by name or id. Raises Failure when there is none, or several."""
        try:
            found = self.get("compute", f"/servers/{urllib.parse.quote(wanted, safe='')}")
            return dict(found["server"])
        except Refused as error:
            if error.status not in (400, 404):
                raise
        query = urllib.parse.urlencode({"all_tenants": "1", "name": f"^{_escaped(wanted)}$"})
        named = [server for server in self.every("compute", f"/servers/detail?{query}", "servers") if server["name"] == wanted]
        if len(named) > 1:
            raise Failure(
                f"{len(named)} servers are called {wanted}: {', '.join(server['id'] for server in named)}.", "Say which by its id."
            )
        if not named:
            raise Failure(f"There is no server {wanted}.", "`openstack --os-cloud kilonova server list --all-projects` lists them.")
        return dict(named[0])


def _opener(context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """Never through a proxy: the cloud is on this machine."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _sentence(raw: bytes) -> str:
    """The message in any of OpenStack's error documents."""
    try:
        document = json.loads(raw)
    except ValueError:
        return raw[:200].decode("utf-8", "replace")
    while isinstance(document, dict):
        for key in ("message", "detail"):
            if isinstance(document.get(key), str):
                return str(document[key])
        document = next((value for value in document.values() if isinstance(value, (dict, list))), None)
        if isinstance(document, list):
            document = document[0] if document else None
    return raw[:200].decode("utf-8", "replace")


def _escaped(name: str) -> str:
    """For compute's filter by regular expression."""
    return "".join(c if c.isalnum() or c in "-_ " else "\\" + c for c in name)


def _rest_of(link: str, base: str) -> str:
    """The path below a service's URL that a `next` link names."""
    if link.startswith(base):
        return link[len(base) :]
    parts = urllib.parse.urlsplit(link)
    path = parts.path.removeprefix(urllib.parse.urlsplit(base).path)
    return path + (f"?{parts.query}" if parts.query else "")
