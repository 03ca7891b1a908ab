"""An HTTPS server that asks its clients for a certificate and tells the application who they are.

A client without a certificate is let in (the application decides what it may do); one with a certificate that the authority has not signed
is not. `scope["client_name"]` is the certificate's common name, empty without one; `scope["client_sha256"]` its fingerprint.
"""

import asyncio
import hashlib
import socket
import ssl
from typing import Any

from kilonova.core.server import HttpServer, _Protocol

READ_S = 20.0
"""From the handshake until a request is there whole."""
ANSWER_S = 120.0
"""What a connection lives after that."""
MOST = 200
"""Connections at once. Anybody may connect, and none of them is to cost the process the descriptors that it needs for others."""


class _Named(_Protocol):
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.abort()
        else:
            self._timer = self.loop.call_later(READ_S, self._read_by_now)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _read_by_now(self) -> None:
        if self.cycle is None or self.cycle.more_body:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(ANSWER_S, self.transport.abort)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        tls = self.transport.get_extra_info("ssl_object")
        found = tls.getpeercert() if tls is not None else None
        raw = tls.getpeercert(binary_form=True) if found else b""
        names = [value for part in (found or {}).get("subject", ()) for key, value in part if key == "commonName"]
        scope: Any = self.scope
        scope["client_name"] = names[0] if len(names) == 1 else ""
        scope["client_sha256"] = hashlib.sha256(raw or b"").hexdigest() if raw else ""


class MutualServer(HttpServer):
    """certfile, keyfile: ours. authority: a file with the certificate that signs those of clients."""

    def __init__(self, app: Any, listener: socket.socket, *, certfile: str, keyfile: str, authority: str) -> None:
        super().__init__(app, listener, ssl_certfile=certfile, ssl_keyfile=keyfile)
        config = self._server.config
        config.http = _Named
        config.ssl_ca_certs = authority
        config.ssl_cert_reqs = ssl.CERT_OPTIONAL

    def reload(self, certfile: str, keyfile: str) -> None:
        """Another certificate for connections from now on. Reads files."""
        context = self._server.config.ssl
        if context is not None:
            context.load_cert_chain(certfile, keyfile)
