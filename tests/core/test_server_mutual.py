"""The HTTPS server that knows its clients by their certificates: whom it names, what it refuses, and how long it waits."""

import asyncio
import hashlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.core import certificates, server_mutual
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.core.server import HttpServer
from kilonova.core.server_mutual import MutualServer
from kilonova.core.tasks import Tasks

NAME = "join.example"


async def who(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the client's name and fingerprint, when the whole body has come."""
    while (await receive()).get("more_body"):
        continue
    body = json.dumps([scope["client_name"], scope["client_sha256"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


class World:
    def __init__(self, folder: Path, clock: Runtime) -> None:
        self.folder, self.clock, self.port = folder, clock, 0
        self.authority = certificates.new_authority("cloud", clock.now_us())
        self.other = certificates.new_authority("cloud", clock.now_us())
        (folder / "authority.pem").write_text(self.authority[0])

    def chain(self, name: str, signer: tuple[str, str], *, server: bool = False, days: int = 90) -> Path:
        request, key = certificates.new_request(name)
        names = (name,) if server else ()
        path = self.folder / f"{name}.pem"
        path.write_text(key + certificates.sign(signer, request, name, self.clock.now_us(), days, server_names=names))
        return path

    def context(self, own: Path | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cadata=self.authority[0])
        if own is not None:
            made.load_cert_chain(own)
        return made

    async def connect(self, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=NAME)

    async def ask(self, own: Path | None = None) -> list[str]:
        reader, writer = await self.connect(self.context(own))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 200"), head
        found = json.loads(body)
        assert isinstance(found, list)
        return found


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    def runner(story: Callable[[World], Awaitable[None]], *, mutual: bool = True) -> None:
        async def main() -> None:
            clock = Runtime()
            tasks, world = Tasks(clock, Log("test", Sink())), World(tmp_path, clock)
            own = str(world.chain(NAME, world.authority, server=True))
            listener = socket.create_server(("127.0.0.1", 0))
            listener.setblocking(False)
            world.port = listener.getsockname()[1]
            if mutual:
                server: HttpServer = MutualServer(who, listener, certfile=own, keyfile=own, authority=str(tmp_path / "authority.pem"))
            else:
                server = HttpServer(who, listener, ssl_certfile=own, ssl_keyfile=own)
            await server.start(tasks, "join")
            try:
                async with asyncio.timeout(30):
                    await story(world)
            finally:
                await server.stop()
                await tasks.stop()
                clock.close()

        asyncio.run(main())

    return runner


def test_clients_are_named_by_certificates_of_the_authority_only(run: Any) -> None:
    async def story(w: World) -> None:
        assert await w.ask() == ["", ""]
        own = w.chain("agent.one", w.authority)
        der = ssl.PEM_cert_to_DER_cert(own.read_text()[own.read_text().index("-----BEGIN CERT") :])
        assert await w.ask(own) == ["agent.one", hashlib.sha256(der).hexdigest()]
        for wrong in (w.chain("agent.two", w.other), w.chain("agent.three", w.authority, server=True)):  # another's; none of a client's
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                await w.ask(wrong)

    run(story)


@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize(
    ("most", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "DEFAULT@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA"),
        (ssl.TLSVersion.TLSv1_2, "aNULL:eNULL:@SECLEVEL=0"),
    ],
)
def test_old_tls_is_refused(run: Any, most: ssl.TLSVersion, ciphers: str, mutual: bool) -> None:
    async def story(w: World) -> None:
        context = w.context()
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, most
        context.set_ciphers(ciphers)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await w.connect(context)
        context = w.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await w.connect(context)  # 1.2 as it should be is taken
        assert "GCM" in writer.get_extra_info("cipher")[0] or "CHACHA" in writer.get_extra_info("cipher")[0]
        writer.close()

    run(story, mutual=mutual)


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nslow"])
def test_who_does_not_say_what_he_wants_is_hung_up_on(run: Any, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_mutual, "READ_S", 0.3)

    async def story(w: World) -> None:
        reader, writer = await w.connect(w.context())
        writer.write(said)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionError):
                if await reader.read() == b"":
                    raise ConnectionResetError
        writer.close()
        assert await w.ask() == ["", ""]

    run(story)


def test_connections_are_bounded(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_mutual, "MOST", 3)

    async def story(w: World) -> None:
        held = [await w.connect(w.context()) for _ in range(3)]
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            await w.ask()
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.1)
        assert await w.ask() == ["", ""]

    run(story)
