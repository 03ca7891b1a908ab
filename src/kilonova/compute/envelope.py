"""Nova's errors: {"itemNotFound": {code, message}} by status; unknown paths and methods are webob documents, never 405."""

from kilonova.core.envelopes import RESOURCE_NOT_FOUND, shared_401, webob
from kilonova.core.errors import Error
from kilonova.core.http import Reply, Request

_FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}


class ComputeEnvelope:
    def error(self, request: Request, error: Error) -> Reply:
        name = _FAULTS.get(error.status, "computeFault")
        return Reply({name: {"code": error.status, "message": error.message}}, error.status, error.headers)

    def unknown_path(self, request: Request) -> Reply:
        return webob(request, 404, "", RESOURCE_NOT_FOUND)

    def wrong_method(self, request: Request, allowed: list[str]) -> Reply:
        return webob(request, 404, "", RESOURCE_NOT_FOUND)

    def unauthorized(self, request: Request, error: Error, identity_url: str) -> Reply:
        return shared_401(identity_url)
