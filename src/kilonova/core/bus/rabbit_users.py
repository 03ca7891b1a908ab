"""Users of the broker, made and taken away through RabbitMQ's management API, or through rabbitmqctl on the broker's own machine.

Functions block: call them in a thread. Passwords go in a request's body, or to rabbitmqctl's standard input: never on a command line.
"""

import http.client
import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from typing import Any

import msgspec

from kilonova.core.errors import Unavailable

PORTS = {"http": 15672, "https": 15671}
LIMIT_S = 15.0
LIMITS = {"max-connections": 8, "max-channels": 64}
"""Of each user that is made here."""
CONTROL_S = 60.0
"""rabbitmqctl takes seconds to start."""


class CannotManage(Unavailable):
    code = "bus.cannot_manage"
    title = "The broker's users cannot be managed: {reason}"


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    """Patterns of names, as RabbitMQ takes them."""

    configure: str
    write: str
    read: str


class BrokerUsers(msgspec.Struct, frozen=True, kw_only=True):
    """management_url: http(s)://user:password@host:port, a user with the tag administrator. Empty: rabbitmqctl."""

    vhost: str
    management_url: str = ""
    ca_file: str = ""
    rabbitmqctl: str = "rabbitmqctl"

    def put(self, user: str, password: str, permissions: Permissions) -> None:
        """Made, or given this password and these permissions and no others. Raises CannotManage."""
        if self.management_url:
            self._ask("PUT", f"users/{_quoted(user)}", {"password": password, "tags": ""})
            self._ask("PUT", f"permissions/{_quoted(self.vhost)}/{_quoted(user)}", msgspec.to_builtins(permissions))
            for name, most in LIMITS.items():
                self._ask("PUT", f"user-limits/{_quoted(user)}/{name}", {"value": most})
            return
        if user in self._users():
            self._control("change_password", user, secret=password)
        else:
            self._control("add_user", user, secret=password)
        self._control("set_permissions", "-p", self.vhost, user, permissions.configure, permissions.write, permissions.read)
        self._control("set_user_limits", user, json.dumps(LIMITS))

    def delete(self, user: str) -> None:
        """Gone, and its connections with it; that it was not there is no error. Raises CannotManage."""
        if self.management_url:
            self._ask("DELETE", f"users/{_quoted(user)}", None, absent=True)
        elif user in self._users():
            self._control("delete_user", user)

    def names(self) -> list[str]:
        """Of all users. Raises CannotManage."""
        if self.management_url:
            try:
                return sorted(str(one["name"]) for one in self._ask("GET", "users", None))
            except (LookupError, TypeError):
                raise self._strange() from None
        return sorted(self._users())

    def _users(self) -> list[str]:
        found = json.loads(self._control("list_users", "--formatter", "json") or "[]")
        return [str(one["user"]) for one in found]

    def _control(self, *arguments: str, secret: str = "") -> str:
        if shutil.which(self.rabbitmqctl) is None:
            raise CannotManage("set [broker] management_url; there is no rabbitmqctl here.")
        try:
            done = subprocess.run(
                [self.rabbitmqctl, "-q", *arguments],
                input=secret + "\n" if secret else "", capture_output=True, text=True, timeout=CONTROL_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotManage(f"rabbitmqctl {arguments[0]}: {type(error).__name__}.") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise CannotManage(f"rabbitmqctl {arguments[0]} said: {said[-1][:200] if said else done.returncode}")
        return done.stdout

    def _ask(self, method: str, path: str, body: Any, *, absent: bool = False) -> Any:
        """absent: 404 is as good."""
        try:
            place = urllib.parse.urlsplit(self.management_url)
            port = place.port or PORTS.get(place.scheme, 0)
        except ValueError:
            port = 0
        if not port or not place.hostname:
            raise CannotManage("[broker] management_url is not http(s)://user:password@host:port.")
        host = f"[{place.hostname}]" if ":" in place.hostname else place.hostname
        where = f"{place.scheme}://{host}:{port}/api/{path}"
        login = f"{urllib.parse.unquote(place.username or '')}:{urllib.parse.unquote(place.password or '')}"
        request = urllib.request.Request(where, None if body is None else json.dumps(body).encode(), method=method)
        request.add_header("Authorization", "Basic " + b64encode(login.encode()).decode())
        request.add_header("Content-Type", "application/json")
        context = ssl.create_default_context(cafile=self.ca_file or None) if place.scheme == "https" else None
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirect())
        try:
            with opener.open(request, timeout=LIMIT_S) as reply:
                answer = reply.read()
        except urllib.error.HTTPError as error:
            if absent and error.code == 404:
                return None
            told = {401: "it refused [broker] management_url's user or password", 403: "its user lacks the tag administrator"}
            raise CannotManage(f"{place.hostname}: {told.get(error.code, f'it answers {error.code}')}.") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise CannotManage(f"{place.hostname} does not answer ({reason}).") from None
        try:
            return json.loads(answer) if answer else None
        except ValueError:
            raise self._strange() from None

    def _strange(self) -> CannotManage:
        return CannotManage(f"{urllib.parse.urlsplit(self.management_url).hostname} does not answer as RabbitMQ's management API does.")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the password elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
