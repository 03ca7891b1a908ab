"""Errors as values with an address. Services raise them; only the edge knows HTTP; each API family has its own envelope.

`title` is the sentence a client reads (strings that clients parse stay OpenStack's); `advice` goes to the log and the command
line only. `code` names the error for machines and documentation.
"""

from typing import Any, NoReturn


class Error(Exception):
    status = 500
    code = "core.error"
    title = "{reason}"
    advice = ""

    def __init__(self, reason: str = "", **details: Any) -> None:
        self.details: dict[str, Any] = {"reason": reason, **details}
        super().__init__(reason)

    @property
    def message(self) -> str:
        return self.title.format_map(self.details)

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that this error brings, e.g. Retry-After."""
        return {}

    def __str__(self) -> str:
        return self.message


class BadRequest(Error):
    status = 400
    code = "core.bad_request"


class Unauthorized(Error):
    status = 401
    code = "core.unauthorized"
    title = "The request you have made requires authentication."


class Forbidden(Error):
    status = 403
    code = "core.forbidden"


class PolicyForbids(Forbidden):
    code = "core.policy"
    title = "Policy doesn't allow {rule} to be performed."


class NotFound(Error):
    status = 404
    code = "core.not_found"


class MethodNotAllowed(Error):
    status = 405
    code = "core.method"
    title = "The method is not allowed for the requested URL."

    @property
    def headers(self) -> dict[str, str]:
        return {"allow": ", ".join(self.details.get("allowed", ()))}


class NotAcceptable(Error):
    status = 406
    code = "core.not_acceptable"


class Conflict(Error):
    status = 409
    code = "core.conflict"


class Gone(Error):
    status = 410
    code = "core.gone"
    title = "This API is no longer available."


class PreconditionFailed(Error):
    status = 412
    code = "core.precondition"


class TooLarge(Error):
    status = 413
    code = "core.too_large"


class UnsupportedMediaType(Error):
    status = 415
    code = "core.media_type"


class RangeNotSatisfiable(Error):
    status = 416
    code = "core.range"


class Internal(Error):
    """What a client hears of a mistake of ours: no detail, but the request id to ask for."""

    code = "core.internal"
    title = "An unexpected error prevented the server from fulfilling your request. Quote {request_id} when asking for help."


class NotImplementedHere(Error):
    status = 501
    code = "core.not_implemented"


class Unavailable(Error):
    status = 503
    code = "core.unavailable"


def fail(error: Error) -> NoReturn:
    """`found or fail(ServerNotFound(server=x))`: a raise that is an expression."""
    raise error
