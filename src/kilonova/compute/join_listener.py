"""The HTTP application that answers joins, behind `core.server_mutual`. Plain ASGI: it has three paths, and no tokens of users.

GET  /v1/authority   the authority's certificate. Public: the joining machine compares its fingerprint with the token's.
POST /v1/join        Asked -> Joined
POST /v1/renew       RenewalAsked -> Renewed, with the client's certificate
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from kilonova.compute.join_forms import Asked, Authority, Refusal, RenewalAsked
from kilonova.compute.joining import Joining
from kilonova.core.certificates import BadRequestForCertificate
from kilonova.core.config import ConfigError
from kilonova.core.errors import BadRequest, Error, Forbidden, NotFound, TooLarge
from kilonova.core.http import Receive, Scope, Send
from kilonova.core.log import Log

MOST_BYTES = 65_536


class JoinListener:
    def __init__(self, joining: Joining, log: Log) -> None:
        self._joining = joining
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            status, answer = 200, await self._answer(scope, receive)
        except BadRequestForCertificate as error:
            status, answer = 400, Refusal(code="join.request", sentence=str(error))
        except ConfigError as error:
            self._log.error("joins cannot be answered", error=error)
            status, answer = 503, Refusal(code="join.not_set_up", sentence="The controller is not set up for joins; its log says why.")
        except Error as error:
            if error.status >= 500:
                self._log.error("a join failed", path=scope["path"], error=error)
            else:
                self._log.warning("a join was refused", path=scope["path"], reason=error.message, peer=_peer(scope))
            status, answer = error.status, Refusal(code=error.code, sentence=error.message, advice=error.advice.format_map(error.details))
        except Exception as error:
            self._log.error("a join failed unexpectedly", path=scope["path"], error=error)
            status, answer = 500, Refusal(code="join.failed", sentence="The controller failed; its log has the details.")
        body = msgspec.json.encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope, receive: Receive) -> Any:
        match scope["method"], scope["path"]:
            case (("GET" | "HEAD"), "/healthz"):
                return {"service": "join", "status": "ok"}
            case (("GET" | "HEAD"), "/v1/authority"):
                return Authority(certificate=(await self._joining.authority())[0])
            case "POST", "/v1/join":
                return await self._joining.join(await _read(receive, Asked))
            case "POST", "/v1/renew":
                if not scope["client_name"]:
                    raise Forbidden("A renewal needs the certificate that is to be renewed.")
                return await self._joining.renew(scope["client_name"], scope["client_sha256"], await _read(receive, RenewalAsked))
        raise NotFound("There is nothing here.")


async def _read(receive: Callable[[], Awaitable[Any]], kind: type[Any]) -> Any:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise BadRequest("The request ended early.")
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            raise TooLarge("The request is too long.")
        if not message.get("more_body"):
            break
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError:
        raise BadRequest("The request cannot be read.") from None


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
