"""How an API family dresses its errors. Each service has its own `envelope.py`; what several share is here."""

import html
from typing import Protocol

import msgspec

from kilonova.core.errors import Error
from kilonova.core.http import Reply, Request

_encode = msgspec.json.encode
TITLES = {
    300: "Multiple Choices",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    410: "Gone",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    415: "Unsupported Media Type",
    416: "Requested Range Not Satisfiable",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class Envelope(Protocol):
    def error(self, request: Request, error: Error) -> Reply:
        """The reply for an error that a handler or the edge raised."""
        ...

    def unknown_path(self, request: Request) -> Reply: ...

    def wrong_method(self, request: Request, allowed: list[str]) -> Reply: ...

    def unauthorized(self, request: Request, error: Error, identity_url: str) -> Reply: ...


def shared_401(identity_url: str) -> Reply:
    """What the token middleware of every OpenStack service but identity answers."""
    body = {"error": {"code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication."}}
    return Reply(body, 401, {"www-authenticate": f'Keystone uri="{identity_url}"'})


def webob(request: Request, status: int, detail: str, explanation: str = "") -> Reply:
    """webob's error document: JSON when the request accepts it, HTML otherwise."""
    title = TITLES.get(status, "Error")
    accept = request.header("accept") or ""
    if "application/json" in accept:
        text = f"{explanation}<br /><br />\n{detail}\n\n\n" if explanation else detail
        return Reply({"message": text, "code": f"{status} {title}", "title": title}, status)
    page = (
        f"<html>\n <head>\n  <title>{status} {title}</title>\n </head>\n <body>\n  <h1>{status} {title}</h1>\n  "
        f"{html.escape(printable(explanation))}<br /><br />\n{html.escape(printable(detail))}\n\n\n </body>\n</html>"
    )
    return Reply(page.encode(), status, content_type="text/html; charset=UTF-8")


def printable(text: str) -> str:
    """Without what a terminal obeys. For answers that are not JSON, which escapes it."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


RESOURCE_NOT_FOUND = "The resource could not be found."
