"""Glance's errors are webob documents; a path without a known version answers with the list of versions."""

from kilonova.core.envelopes import RESOURCE_NOT_FOUND, shared_401, webob
from kilonova.core.errors import Error, PolicyForbids
from kilonova.core.http import Reply, Request
from kilonova.image.versions import document, ours


class ImageEnvelope:
    def error(self, request: Request, error: Error) -> Reply:
        message = error.message
        if isinstance(error, PolicyForbids):
            message = f"You are not authorized to complete {error.details['rule']} action."
        reply = webob(request, error.status, "", message)
        reply.headers = error.headers
        return reply

    def unknown_path(self, request: Request) -> Reply:
        if ours(request.path):
            return webob(request, 404, "", RESOURCE_NOT_FOUND)
        return Reply(document(request.base_url), 300)

    def wrong_method(self, request: Request, allowed: list[str]) -> Reply:
        methods = [method for method in allowed if method != "HEAD"]
        reply = webob(request, 405, "", f"The method {request.method} is not allowed for this resource.")
        reply.headers = {"allow": ", ".join(methods)}
        return reply

    def unauthorized(self, request: Request, error: Error, identity_url: str) -> Reply:
        return shared_401(identity_url)
