"""The HTTP application on port 8775, for a proxy that stands before the guests (Neutron's metadata agent).

The proxy names the server in X-Instance-ID and signs it with a secret it shares with us; without that configuration every request is
404. Plain ASGI rather than the edge: whatever path a guest thinks of arrives here. /healthz and /metrics are answered only
to requests that do not come through a proxy (which always names the server).
"""

import hashlib
import hmac

import msgspec

from kilonova.core import metrics
from kilonova.core.errors import Error
from kilonova.core.http import Receive, Scope, Send
from kilonova.metadata.service import MetadataService
from kilonova.network.rpc import MetadataReply


def signature(secret: str, server_id: str) -> str:
    """Hexadecimal HMAC-SHA256, as Neutron's agent makes it."""
    return hmac.new(secret.encode(), server_id.encode(), hashlib.sha256).hexdigest()


class MetadataApp:
    def __init__(self, service: MetadataService) -> None:
        self.service = service
        self.collector = metrics.EdgeCollector("metadata", ())
        self.answered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] in ("/healthz", "/metrics") and not any(key == b"x-instance-id" for key, _ in scope["headers"]):
            await _send(self._own(scope["path"]), send, bodiless=scope["method"] == "HEAD")
            return
        self.answered += 1
        try:
            reply = await self._answer(scope)
        except Error as error:
            self.service.log.error("metadata request failed", path=scope["path"], error=error)
            reply = _plain(error.status if error.status >= 500 else 500, "The metadata are not available now; try again.")
        except Exception as error:
            self.service.log.error("metadata request failed", path=scope["path"], error=error)
            reply = _plain(500, "An unknown error has occurred. Please try your request again.")
        await _send(reply, send, bodiless=scope["method"] == "HEAD")

    def _own(self, path: str) -> MetadataReply:
        if path == "/healthz":
            body = msgspec.json.encode({"service": "metadata", "status": "ok"})
            return MetadataReply(status=200, headers=(("Content-Type", "application/json"),), body=body)
        self.collector.gauges["metadata_proxied"] = ("Requests of metadata proxies answered", self.answered)
        return MetadataReply(
            status=200, headers=(("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),), body=metrics.render(self.collector)
        )

    async def _answer(self, scope: Scope) -> MetadataReply:
        settings = self.service.settings["neutron"]
        if not settings.service_metadata_proxy:
            return _plain(404, "404 Not Found")
        told: dict[str, str] = {}
        for name in ("x-instance-id", "x-tenant-id", "x-instance-id-signature"):
            values = [value.decode("latin-1") for key, value in scope["headers"] if key == name.encode()]
            if not values or not values[0]:
                return _plain(400, f"{name.title()} header is missing from request.")
            if len(values) > 1 or "," in values[0]:
                return _plain(400, f"Multiple {name.title()} headers found within request.")
            told[name] = values[0]
        server_id, secret = told["x-instance-id"], settings.metadata_proxy_shared_secret
        right = hmac.compare_digest(signature(secret, server_id).encode(), told["x-instance-id-signature"].encode())
        if not secret or not right:
            self.service.log.warning("a metadata proxy's signature is wrong", server=server_id[:64])
            return _plain(403, "Invalid proxy request signature.")
        return await self.service.answer(server_id, told["x-tenant-id"], scope["method"], scope["path"])


def _plain(status: int, text: str) -> MetadataReply:
    return MetadataReply(status=status, headers=(("Content-Type", "text/plain; charset=UTF-8"),), body=f"{text}\n".encode())


async def _send(reply: MetadataReply, send: Send, *, bodiless: bool) -> None:
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in reply.headers]
    headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if bodiless else reply.body})
