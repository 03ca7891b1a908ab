"""Keystone's errors: {"error": {code, title, message}}; an unknown path is plain HTML, a wrong method {"message"}."""

from kilonova.core.envelopes import TITLES
from kilonova.core.errors import Error, PolicyForbids
from kilonova.core.http import Reply, Request
from kilonova.identity.errors import UnsupportedMethod

_NOT_FOUND = (
    b"<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n<p>The requested URL was not found on the server. "
    b"If you entered the URL manually please check your spelling and try again.</p>\n"
)


class IdentityEnvelope:
    def error(self, request: Request, error: Error) -> Reply:
        message = error.message
        if isinstance(error, PolicyForbids):
            message = f"You are not authorized to perform the requested action: {error.details['rule']}."
        return Reply(
            {"error": {"code": error.status, "message": message, "title": TITLES.get(error.status, "Error")}}, error.status, error.headers
        )

    def unknown_path(self, request: Request) -> Reply:
        return Reply(_NOT_FOUND, 404, content_type="text/html; charset=utf-8")

    def wrong_method(self, request: Request, allowed: list[str]) -> Reply:
        return Reply({"message": "The method is not allowed for the requested URL."}, 405, {"allow": ", ".join([*allowed, "OPTIONS"])})

    def unauthorized(self, request: Request, error: Error, identity_url: str) -> Reply:
        reply = self.error(request, error)
        if isinstance(error, UnsupportedMethod):
            reply.body["error"]["identity"] = {"methods": list(error.METHODS)}
        reply.headers = {"www-authenticate": f'Keystone uri="{request.base_url}/v3"'}
        return reply
