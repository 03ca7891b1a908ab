"""Neutron's errors: {"NeutronError": {type, message, detail}}. The type is the error's class, unless it says otherwise."""

from kilonova.core.envelopes import RESOURCE_NOT_FOUND, shared_401, webob
from kilonova.core.errors import Error, PolicyForbids
from kilonova.core.http import Reply, Request

_CORE_KINDS = {400: "HTTPBadRequest", 404: "HTTPNotFound", 413: "HTTPRequestEntityTooLarge", 415: "HTTPUnsupportedMediaType"}


def document(kind: str, message: str) -> dict[str, dict[str, str]]:
    return {"NeutronError": {"type": kind, "message": message, "detail": ""}}


class NetworkEnvelope:
    def error(self, request: Request, error: Error) -> Reply:
        message = error.message
        kind = str(error.details.get("kind") or getattr(error, "kind", "") or type(error).__name__)
        if isinstance(error, PolicyForbids):
            kind, message = "PolicyNotAuthorized", f"rule:{error.details['rule']} is disallowed by policy"
        elif type(error).__module__ == "kilonova.core.errors":
            kind = _CORE_KINDS.get(error.status, "HTTPInternalServerError")
        return Reply(document(kind, message), error.status, error.headers)

    def unknown_path(self, request: Request) -> Reply:
        return webob(request, 404, "", RESOURCE_NOT_FOUND)

    def wrong_method(self, request: Request, allowed: list[str]) -> Reply:
        reply = webob(request, 405, "", "The method is not allowed for this resource.")
        reply.headers = {"allow": ", ".join(allowed)}
        return reply

    def unauthorized(self, request: Request, error: Error, identity_url: str) -> Reply:
        return shared_401(identity_url)
