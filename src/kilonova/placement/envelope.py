"""Placement's errors: {"errors": [{status, title, detail, request_id, code}]}, with code from version 1.23 on."""

import re
from typing import Any

from kilonova.core.envelopes import TITLES, shared_401
from kilonova.core.errors import Error, NotAcceptable, NotFound, PolicyForbids, UnsupportedMediaType
from kilonova.core.http import Reply, Request
from kilonova.core.microversions import VersionNotFound
from kilonova.placement.errors import UNDEFINED, WrongMethod

_EXPLANATIONS = {
    400: "The server could not comply with the request since it is either malformed or otherwise incorrect.",
    403: "Access was denied to this resource.",
    404: "The resource could not be found.",
    409: "There was a conflict when trying to complete your request.",
    413: "The body of your request was too large for this server.",
    503: "The server is currently unavailable. Please try again at a later time.",
}
_OPENSTACK_CODES = (
    "placement.concurrent",
    "placement.duplicate",
    "placement.inventory.",
    "placement.resource_provider.",
    "placement.query.",
)
_BROKEN = "The server has either erred or is incapable of performing the requested operation."


class PlacementEnvelope:
    def error(self, request: Request, error: Error) -> Reply:
        entry: dict[str, Any] = {"status": error.status, "title": TITLES.get(error.status, "Error"), "detail": _detail(error)}
        if request.version >= (1, 23) and not isinstance(error, VersionNotFound):
            entry["code"] = error.code if error.code.startswith(_OPENSTACK_CODES) else UNDEFINED
        entry["request_id"] = request.request_id
        if isinstance(error, VersionNotFound):
            entry["max_version"], entry["min_version"] = error.details["maximum"], error.details["minimum"]
        return Reply({"errors": [entry]}, error.status, error.headers)

    def unknown_path(self, request: Request) -> Reply:
        return self.error(request, NotFound())

    def wrong_method(self, request: Request, allowed: list[str]) -> Reply:
        return self.error(request, WrongMethod(method=request.method, allowed=[method for method in allowed if method != "HEAD"]))

    def unauthorized(self, request: Request, error: Error, identity_url: str) -> Reply:
        return shared_401(identity_url)


def _detail(error: Error) -> str:
    message = error.message
    if isinstance(error, WrongMethod):
        return f"The method {error.details['method']} is not allowed for this resource. \n\n {message}"
    if isinstance(error, UnsupportedMediaType):
        return f"The request media type {error.details.get('media')} is not supported by this server. \n\n {message}"
    if isinstance(error, NotAcceptable):
        if isinstance(error, VersionNotFound):
            message = f"Invalid microversion: Unacceptable version header: {error.details['version']}"
        return f"The resource could not be generated that was acceptable to your browser (content of type application/json. \n\n {message}"
    if isinstance(error, PolicyForbids):
        message = f"Policy does not allow {error.details['rule']} to be performed."
    elif message.startswith("Invalid input for "):
        message = f"JSON does not validate: {_as_schema(message)}"
    elif message.startswith("API Version String "):
        message = f"Invalid microversion: {message}"
    return f"{_EXPLANATIONS.get(error.status, _BROKEN)}\n\n {message}  "


def _as_schema(message: str) -> str:
    """The two complaints that clients look for, in the words of a JSON schema."""
    missing, unknown = re.search("missing required field `([^`]*)`", message), re.search("contains unknown field `([^`]*)`", message)
    if missing is not None:
        return f"'{missing[1]}' is a required property"
    if unknown is not None:
        return f"Additional properties are not allowed ('{unknown[1][:80]}' was unexpected)"
    return message
