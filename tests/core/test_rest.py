"""The client of other services, against peers that are functions: what is asked again, what errors say, tokens and their renewal."""

import asyncio
import datetime
import io
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kilonova.core import errors, times
from kilonova.core.config import ConfigError
from kilonova.core.context import Context
from kilonova.core.log import Log, Sink
from kilonova.core.rest import CallerTokens, Login, Peer, ServiceToken, sentence
from kilonova.core.runtime import Runtime

LOGIN = Login(auth_url="http://keystone", username="nova", password="pass-of-nova", project_name="service")


class Clock(Runtime):
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.at_s = 1_700_000_000.0

    def now(self) -> float:
        return self.at_s


def peer(handler: Callable[[httpx.Request], Any], log: io.StringIO | None = None) -> Peer:
    return Peer("http://peer/", "image service", Log("test", Sink(log or io.StringIO())), transport=httpx.MockTransport(handler))


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


@pytest.mark.parametrize("failure", ["refused", "slow", "500", "broken"])
def test_reads_are_tried_twice_unless_late_and_writes_once(failure: str) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if failure == "refused":
            raise httpx.ConnectError("refused", request=request)
        if failure == "slow":
            raise httpx.ReadTimeout("slow", request=request)
        if failure == "broken":
            raise httpx.RemoteProtocolError("closed", request=request)
        return httpx.Response(500, text="<html><title>500</title><body>secret trace</body></html>")

    async def story() -> None:
        for method, count in (("GET", 1 if failure == "slow" else 2), ("POST", 1), ("DELETE", 1)):
            asked.clear()
            with pytest.raises(errors.Unavailable) as raised:
                await peer(handler).ask(method, "/x", {})
            assert asked == [method] * count
            assert raised.value.message.startswith("The image service at http://peer ")
            assert "secret" not in raised.value.message

    run(story)


def test_a_read_that_works_at_the_second_time() -> None:
    answers = [httpx.Response(502), httpx.Response(200, json={"a": 1})]

    async def story() -> None:
        assert (await peer(lambda request: answers.pop(0)).ask("GET", "/x", {})).json(dict[str, int]) == {"a": 1}

    run(story)


def test_redirects_are_not_followed_and_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token goes to the configured address only."""
    monkeypatch.setenv("HTTP_PROXY", "http://thief")
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"location": "http://thief/"})

    async def story() -> None:
        one = peer(handler)
        assert (await one.ask("GET", "/x", {"x-auth-token": "t"})).status == 302
        assert asked == ["http://peer/x"]
        assert one._client.trust_env is False

    run(story)


def test_an_endless_answer_ends() -> None:
    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            while True:
                yield bytes(1 << 20)

    async def story() -> None:
        with pytest.raises(errors.Unavailable, match="too long"):
            await peer(lambda request: httpx.Response(200, stream=Endless())).ask("POST", "/x", {})

    run(story)


def test_nonsense_is_no_answer() -> None:
    async def story() -> None:
        answer = await peer(lambda request: httpx.Response(200, text="<html>")).ask("GET", "/x", {})
        with pytest.raises(errors.Unavailable, match="cannot be understood"):
            answer.json(dict[str, int])

    run(story)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            b"<html><head><title>404</title></head><body><h1>404 Not Found</h1>No image &lt;x&gt;.&lt;br /&gt;<br /></body></html>",
            "No image <x>.",
        ),
        (b'{"error": {"code": 403, "message": "You are\\nnot", "title": "Forbidden"}}', "You are not"),
        (b"401 Unauthorized\n\nThis server\x1b[31m", "401 Unauthorized This server [31m"),
        (b"\xff\xfe", "��"),
        (b"", ""),
        (b"a" * 5000, "a" * 300),
    ],
)
def test_what_an_error_page_says(body: bytes, said: str) -> None:
    assert sentence(body) == said


class FakeKeystone:
    """Logins; each token lasts an hour of the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.logins = 0
        self.status = 201
        self.slow = asyncio.Event()
        self.slow.set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.logins += 1
        number = self.logins
        await self.slow.wait()
        body = json.loads(request.content)
        assert body["auth"]["identity"]["password"]["user"]["password"] == "pass-of-nova"
        if self.status != 201:
            return httpx.Response(self.status, json={"error": {"message": "wrong"}})
        end = self.clock.at_s + 3600
        urls = [("public", "http://p", "R1"), ("internal", "http://i", "R1"), ("internal", "http://other", "R2")]
        endpoints = [{"interface": i, "url": u, "region_id": r, "id": "x"} for i, u, r in urls]
        token = {"expires_at": times.iso_us_z(int(end * 1e6)), "catalog": [{"type": "image", "endpoints": endpoints}]}
        token["project"] = {"id": "p", "name": "service", "domain": {"id": "default", "name": "Default"}}
        return httpx.Response(201, json={"token": token}, headers={"x-subject-token": f"token-{number}"})


def service_token(keystone: FakeKeystone, log: io.StringIO | None = None, region: str = "R2") -> ServiceToken:
    login = Login(auth_url="http://k", username="nova", password="pass-of-nova", project_name="service", region=region)
    return ServiceToken(peer(keystone, log), login, keystone.clock, Log("test", Sink(log or io.StringIO())))


def test_a_token_is_kept_and_renewed_before_its_end() -> None:
    async def story() -> None:
        keystone = FakeKeystone(Clock())
        mine = service_token(keystone)
        assert [await mine.get() for _ in range(3)] == ["token-1"] * 3
        keystone.clock.at_s += 2800
        assert await mine.get() == "token-1"
        keystone.clock.at_s += 100
        assert await mine.get() == "token-2"
        assert await mine.renew("token-1") == "token-2"  # somebody else has renewed it already
        assert await mine.renew("token-2") == "token-3"
        assert mine.domain_id == "default"

    run(story)


def test_one_login_for_all_who_wait() -> None:
    async def story() -> None:
        keystone = FakeKeystone(Clock())
        keystone.slow.clear()
        mine = service_token(keystone)
        waiting = [asyncio.ensure_future(mine.get()) for _ in range(5)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()  # whoever logs in goes away: the next does it
        await asyncio.sleep(0.01)
        keystone.slow.set()
        assert [await task for task in waiting[1:]] == ["token-2"] * 4
        keystone.status, mine._token = 401, ""
        keystone.slow.clear()
        waiting = [asyncio.ensure_future(mine.get()) for _ in range(5)]
        await asyncio.sleep(0.01)
        keystone.slow.set()
        assert all(isinstance(e, errors.Unavailable) for e in await asyncio.gather(*waiting, return_exceptions=True))
        assert keystone.logins == 3

    run(story)


def test_a_wrong_password_is_said_without_the_password() -> None:
    async def story() -> None:
        keystone, log = FakeKeystone(Clock()), io.StringIO()
        keystone.status = 401
        with pytest.raises(errors.Unavailable, match="does not accept this service's own user"):
            await service_token(keystone, log).get()
        assert "[keystone_authtoken]" in log.getvalue() and "pass-of-nova" not in log.getvalue()

    run(story)


def test_the_catalog_by_region() -> None:
    async def story() -> None:
        assert await service_token(FakeKeystone(Clock())).url("image") == "http://other"
        assert await service_token(FakeKeystone(Clock()), region="R1").url("image") == "http://i"
        with pytest.raises(errors.Unavailable, match="no endpoint of the type volume"):
            await service_token(FakeKeystone(Clock())).url("volume")

    run(story)


def test_the_tokens_of_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kilonova.core.rest.MOST_CALLERS", 3)

    async def authenticate(token: str, service_token: str | None = None) -> Context:
        return Context(user_id="u", audit_ids=(f"audit-{token}",), expires_at=int((clock.at_s + 60) * 1e6))

    clock = Clock()
    callers = CallerTokens()

    async def story() -> None:
        remember = callers.remembering(authenticate, clock)
        one = await remember("one", None)
        assert callers.of(one) == "one"
        assert callers.of(one.on_behalf("compute")) is None
        assert callers.of(Context(user_id="u")) is None
        assert callers.of(Context(audit_ids=("unknown",))) is None
        for token in ("two", "three", "four", "four"):
            await remember(token, None)
        assert callers.of(one) is None and len(callers._tokens) == 3
        clock.at_s += 61
        await remember("five", None)
        assert len(callers._tokens) == 1

    run(story)


def certificate(folder: Path) -> tuple[str, str]:
    """A self-signed one for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, begin + datetime.timedelta(36500))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return str(folder / "cert.pem"), str(folder / "key.pem")


def test_certificates_are_checked(tmp_path: Path) -> None:
    """Against cafile; a token never goes to whoever cannot show the right one."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()

    async def story() -> None:
        cert, key = certificate(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        log = Log("test", Sink(io.StringIO()))
        for host, options, good in (
            ("localhost", {"cafile": cert}, True),
            ("127.0.0.1", {"cafile": cert}, False),
            ("localhost", {}, False),
            ("127.0.0.1", {"insecure": True}, True),
        ):
            heard.clear()
            one = Peer(f"https://{host}:{port}", "image service", log, **options)  # type: ignore[arg-type]
            try:
                if good:
                    assert (await one.ask("GET", "/x", {"x-auth-token": "t"})).status == 200
                else:
                    with pytest.raises(errors.Unavailable, match="cannot be reached"):
                        await one.ask("GET", "/x", {"x-auth-token": "t"})
            finally:
                await one.close()
            assert len(heard) == good
        server.close()
        await server.wait_closed()
        for bad in (str(tmp_path / "missing.pem"), str(tmp_path / "key.pem")):
            with pytest.raises(ConfigError, match="cafile = "):
                Peer("https://localhost", "image service", log, cafile=bad)

    run(story)
