"""Glance's errors are webob documents; a path without a known version answers with the list of versions."""

from kilonova.core.envelopes import RESOURCE_NOT_FOUND, TITLES, printable, shared_401, webob
from kilonova.core.errors import Error, PolicyForbids
from kilonova.core.http import Reply, Request
from kilonova.image.versions import document, ours

_TITLES = {**TITLES, 416: "Request Range Not Satisfiable"}


def _document(request: Request, status: int, message: str) -> Reply:
    """JSON for those who accept it and not HTML, as webob chooses."""
    accept = request.header("accept") or ""
    if "application/json" in accept and "html" not in accept and "*/*" not in accept:
        title = _TITLES.get(status, "Error")
        return Reply({"message": f"{message}<br /><br />\n\n\n", "code": f"{status} {title}", "title": title}, status)
    if accept:
        return webob(request, status, "", message)
    text = f"{status} {_TITLES.get(status, 'Error')}\n\n{printable(message)}\n\n"
    return Reply(text.encode(), status, content_type="text/plain; charset=UTF-8")


class ImageEnvelope:
    def error(self, request: Request, error: Error) -> Reply:
        message = error.message
        if isinstance(error, PolicyForbids):
            message = f"You are not authorized to complete {error.details['rule']} action."
        reply = _document(request, error.status, message)
        reply.headers = error.headers
        return reply

    def unknown_path(self, request: Request) -> Reply:
        if ours(request.path):
            return _document(request, 404, RESOURCE_NOT_FOUND)
        return Reply(document(request.base_url), 300)

    def wrong_method(self, request: Request, allowed: list[str]) -> Reply:
        methods = [method for method in allowed if method != "HEAD"]
        reply = _document(request, 405, f"The method {request.method} is not allowed for this resource.")
        reply.headers = {"allow": ", ".join(methods)}
        return reply

    def unauthorized(self, request: Request, error: Error, identity_url: str) -> Reply:
        return shared_401(identity_url)
