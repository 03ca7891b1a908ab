"""Tokens, certificates and memberships, on SQLite and with a broker that only remembers its users."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from kilonova.compute.config import OPTIONS as COMPUTE
from kilonova.compute.errors import CannotJoin, HostMayNotRenew, TokenNotGood
from kilonova.compute.join_forms import Asked, BadToken, Joined, JoinToken, RenewalAsked, read_token
from kilonova.compute.join_listener import MOST_BYTES, JoinListener
from kilonova.compute.joining import Joining, digest
from kilonova.compute.store import api_tables, cell_mappings, joins
from kilonova.core import certificates, config
from kilonova.core.bus.config import OPTIONS as BUS
from kilonova.core.bus.rabbit_users import CannotManage, Permissions
from kilonova.core.config import ConfigError
from kilonova.core.db.sqlite import SQLite
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime

HOUR_S = 3600
REQUEST, KEY = certificates.new_request("anything")


class Clock(Runtime):
    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


class Users:
    def __init__(self) -> None:
        self.known: dict[str, tuple[str, Permissions]] = {}
        self.done: list[str] = []
        self.broken = False
        self.meanwhile: Callable[[], object] = lambda: None
        """What happens while the broker makes a user."""

    def put(self, user: str, password: str, permissions: Permissions) -> None:
        self.meanwhile()
        if self.broken:
            raise CannotManage("it is away.")
        self.known[user] = (password, permissions)
        self.done.append(f"put {user}")

    def delete(self, user: str) -> None:
        self.known.pop(user, None)
        self.done.append(f"delete {user}")


class World:
    def __init__(self, folder: Path, **overrides: Any) -> None:
        values = {("DEFAULT", "transport_url"): "rabbit://kilonova:secret@broker:5672/v", **overrides.pop("more", {})}
        conf = config.build([COMPUTE, BUS], (), values)
        self.clock = Clock()
        self.db = SQLite(str(folder / "kilonova.db"), self.clock)
        self.log = io.StringIO()
        self.users = Users()
        self.conf = conf
        self.joining = self.another()

    def another(self) -> Joining:
        """As another process would have it."""
        made = Joining(
            api_db=self.db, runtime=self.clock, log=Log("join", Sink(self.log)), settings=config.settings(self.conf, COMPUTE, "join"),
            messaging={group: config.settings(self.conf, BUS, group) for group in BUS},
        )  # fmt: skip
        made.users = self.users  # type: ignore[assignment]
        return made

    async def token(self, host: str = "", ttl_s: int = HOUR_S) -> JoinToken:
        return await self.joining.new_token(("controller:8770",), host, ttl_s)

    async def join(self, token: JoinToken, host: str = "one", my_ip: str = "192.0.2.1", request: str = REQUEST) -> Joined:
        return await self.joining.join(Asked(secret=token.secret.hex(), host=host, my_ip=my_ip, request=request))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., World]:
    def runner(story: Callable[[World], Awaitable[None]], **overrides: Any) -> World:
        async def main() -> World:
            world = World(tmp_path, **overrides)
            await world.db.create(api_tables.metadata)
            try:
                await story(world)
            finally:
                await world.db.stop()
                world.clock.close()
            return world

        return asyncio.run(main())

    return runner


def test_a_join_gives_a_certificate_and_a_user_with_its_own_queues(run: Any) -> None:
    async def story(w: World) -> None:
        token = await w.token()
        joined = await w.join(token)
        password, permissions = w.users.known["agent.one"]
        assert (joined.user, joined.password, joined.vhost) == ("agent.one", password, "v") and len(password) == 64
        assert permissions.write == r"^amq\.default$" and permissions.read == permissions.configure
        made = x509.load_pem_x509_certificate(joined.certificate.encode())
        authority = x509.load_pem_x509_certificate((await w.joining.authority())[0].encode())
        made.verify_directly_issued_by(authority)
        assert made.subject.rfc4514_string() == "CN=agent.one"
        assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [u._name for u in usage] == ["clientAuth"]
        assert bytes.fromhex(certificates.fingerprint((await w.another().authority())[0])) == token.authority
        rows = await w.db.all(api_tables.join_tokens.select().order_by(api_tables.join_tokens.c.digest))
        assert token.secret.hex() not in str(rows) and password not in w.log.getvalue() and token.secret.hex() not in w.log.getvalue()

    run(story)


def test_of_two_with_one_name_one_joins(run: Any) -> None:
    async def story(w: World) -> None:
        tokens = [await w.token() for _ in range(4)]
        outcomes = await asyncio.gather(
            *(w.another().join(Asked(secret=t.secret.hex(), host="one", my_ip="192.0.2.1", request=REQUEST)) for t in tokens),
            return_exceptions=True,
        )
        joined = [one for one in outcomes if isinstance(one, Joined)]
        assert len(joined) == 1 and sum(isinstance(one, CannotJoin) for one in outcomes) == 3
        assert w.users.known["agent.one"][0] == joined[0].password

    run(story)


def test_of_two_with_one_token_one_joins(run: Any) -> None:
    async def story(w: World) -> None:
        token = await w.token()
        outcomes = await asyncio.gather(
            *(w.another().join(Asked(secret=token.secret.hex(), host=f"h{n}", my_ip=f"192.0.2.{n}", request=REQUEST)) for n in range(1, 6)),
            return_exceptions=True,
        )
        assert sum(isinstance(one, Joined) for one in outcomes) == 1
        assert sum(isinstance(one, TokenNotGood) for one in outcomes) == 4
        assert len(w.users.known) == 1 and len(await joins.hosts(w.db)) == 1

    run(story)


def test_tokens_that_are_not_good(run: Any) -> None:
    async def story(w: World) -> None:
        for token, host, said in (
            (await w.token("two"), "one", "for the host two, not for one"),
            (JoinToken((), b"", b"x" * 32), "one", "not known"),
        ):
            with pytest.raises(TokenNotGood, match=said):
                await w.join(token, host)
        with pytest.raises(TokenNotGood, match="not known"):
            await w.joining.join(Asked(secret="zz", host="one", my_ip="192.0.2.1", request=REQUEST))
        late = await w.token(ttl_s=60)
        w.clock.ahead_s = 61.0
        with pytest.raises(TokenNotGood, match="expired"):
            await w.join(late)
        for host in ("", ".one", "a b", "facts", "Facts.x", "conductor", "x" * 59, "one\n", "ä", "a/b"):
            with pytest.raises(CannotJoin):
                await w.join(await w.token(), host)
        for my_ip in ("", "host", "::1", "192.0.2.1/24"):
            with pytest.raises(CannotJoin, match="IPv4"):
                await w.join(await w.token(), "one", my_ip)
        for my_ip in ("0.0.0.0", "224.0.0.1", "255.255.255.255"):  # frames for it would go to nobody, or to everybody
            with pytest.raises(CannotJoin, match="no machine's address"):
                await w.join(await w.token(), "one", my_ip)
        token = await w.token()
        for request in ("", "x" * 20_000, "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"):
            with pytest.raises(certificates.BadRequestForCertificate):
                await w.join(token, request=request)
        assert w.users.known == {} and await joins.hosts(w.db) == []
        await w.join(token)  # none of that has used it

    run(story)


def test_a_token_without_a_host_takes_over_nobody(run: Any) -> None:
    async def story(w: World) -> None:
        first = await w.join(await w.token())
        await w.db.transact(lambda tx: cell_mappings.map_host(tx, "classic", cell_mappings.CELL1, 1))
        for host, said in (
            ("one", "joined before"), ("classic", "has a host classic already"), ("ONE", "has a host one already"),
            ("Classic", "has a host classic already"),
        ):  # fmt: skip
            with pytest.raises(CannotJoin, match=said):
                await w.join(await w.token(), host, "192.0.2.9")
        with pytest.raises(CannotJoin, match="address of another host"):
            await w.join(await w.token(), "two", "192.0.2.1")
        w.users.done.clear()
        again = await w.join(await w.token("one"))
        assert w.users.done == ["delete agent.one", "put agent.one"]  # connections with the old password end
        assert again.password != first.password and w.users.known["agent.one"][0] == again.password
        await w.join(await w.token("classic"), "classic", "192.0.2.9")

    run(story)


def test_a_broker_that_is_away_uses_up_no_token(run: Any) -> None:
    async def story(w: World) -> None:
        token = await w.token()
        w.users.broken = True
        with pytest.raises(CannotManage):
            await w.join(token)
        w.users.broken = False
        before = await w.join(token)
        w.users.broken = True
        with pytest.raises(CannotManage):
            await w.join(await w.token("one"))
        assert [one.certificate_sha256 for one in await joins.hosts(w.db)] == [certificates.fingerprint(before.certificate)]

    run(story)


@pytest.mark.parametrize(
    "settings",
    [{("broker", "agent_brokers"): "broker:x"}, {("broker", "agent_brokers"): "::1"}, {("broker", "agent_ca_file"): "/nowhere/ca.pem"}],
)
def test_settings_that_are_wrong_use_up_no_token(run: Any, settings: dict[tuple[str, str], str]) -> None:
    async def story(w: World) -> None:
        token = await w.token()
        with pytest.raises(ConfigError, match=r"\[broker\] agent_"):
            await w.join(token)
        stored = await joins.token(w.db, digest(token.secret))
        assert stored is not None and stored.used_at is None and w.users.known == {} and await joins.hosts(w.db) == []

    run(story, more=settings)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_who_is_shut_out_while_he_joins_stays_out(run: Any, again: bool, broken: bool) -> None:
    async def story(w: World) -> None:
        shown = certificates.fingerprint((await w.join(await w.token())).certificate) if again else ""
        token, loop = await w.token("one"), asyncio.get_running_loop()
        w.users.broken = broken
        w.users.meanwhile = lambda: asyncio.run_coroutine_threadsafe(w.another().leave("one"), loop).result(20)
        with pytest.raises(CannotManage if broken else CannotJoin, match="away" if broken else "shut out while it joined"):
            await w.join(token)
        assert w.users.known == {}
        assert [one.host for one in await joins.hosts(w.db) if one.left_at is None] == []
        with pytest.raises(HostMayNotRenew):
            await w.joining.renew("agent.one", shown, RenewalAsked(request=REQUEST))

    run(story)


def test_who_joins_while_another_fails_to_stays(run: Any) -> None:
    async def story(w: World) -> None:
        await w.join(await w.token())
        first, second, loop = await w.token("one"), await w.token("one"), asyncio.get_running_loop()
        got: list[Joined] = []

        def meanwhile() -> None:
            w.users.meanwhile = lambda: None
            got.append(asyncio.run_coroutine_threadsafe(w.join(second), loop).result(20))
            w.users.broken = True

        w.users.meanwhile = meanwhile
        with pytest.raises(CannotManage):
            await w.join(first)
        (row,) = await joins.hosts(w.db)
        assert row.certificate_sha256 == certificates.fingerprint(got[0].certificate) and row.left_at is None

    run(story)


def test_renewals_need_the_last_certificate(run: Any) -> None:
    async def story(w: World) -> None:
        first = certificates.fingerprint((await w.join(await w.token())).certificate)
        asked = RenewalAsked(request=REQUEST)
        second = certificates.fingerprint((await w.joining.renew("agent.one", first, asked)).certificate)
        again = certificates.fingerprint((await w.joining.renew("agent.one", first, asked)).certificate)  # the answer was lost
        with pytest.raises(HostMayNotRenew):
            await w.joining.renew("agent.one", second, asked)
        third = certificates.fingerprint((await w.joining.renew("agent.one", again, asked)).certificate)
        with pytest.raises(HostMayNotRenew):
            await w.joining.renew("agent.one", first, asked)
        for name in ("agent.two", "one", "join.kilonova.internal", ""):
            with pytest.raises(HostMayNotRenew):
                await w.joining.renew(name, third, asked)
        assert await w.joining.leave("one") and w.users.known == {}
        assert not await w.joining.leave("two")
        with pytest.raises(HostMayNotRenew):
            await w.joining.renew("agent.one", third, asked)
        with pytest.raises(CannotJoin, match="joined before"):
            await w.join(await w.token())
        await w.join(await w.token("one"))
        with pytest.raises(HostMayNotRenew):
            await w.joining.renew("agent.one", third, asked)

    run(story)


def test_the_authoritys_key_is_encrypted_where_a_passphrase_is_named(run: Any, tmp_path: Path) -> None:
    secret = tmp_path / "join.key"
    secret.write_text("correct horse\n")

    async def story(w: World) -> None:
        _, key = await w.joining.authority()
        assert certificates.is_encrypted(key) and "correct horse" not in key
        await w.join(await w.token())
        secret.write_text("wrong")
        with pytest.raises(ConfigError, match="does not open"):
            await w.join(await w.token(), "two", "192.0.2.2")
        secret.write_text("")
        with pytest.raises(ConfigError, match="is empty"):
            await w.join(await w.token(), "two", "192.0.2.2")
        secret.unlink()
        with pytest.raises(ConfigError, match="cannot be read"):
            await w.join(await w.token(), "two", "192.0.2.2")

    run(story, more={("join", "key_file"): str(secret)})


def test_many_processes_have_one_authority(run: Any) -> None:
    async def story(w: World) -> None:
        found = await asyncio.gather(*(w.another().authority() for _ in range(5)))
        assert len({one[0] for one in found}) == 1

    run(story)


async def ask(listener: JoinListener, method: str, path: str, body: bytes = b"", **scope: str) -> tuple[int, dict[str, Any]]:
    sent: list[Any] = []
    pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)] or [b""]

    async def receive() -> Any:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    await listener({"type": "http", "method": method, "path": path, "client_name": "", "client_sha256": "", **scope}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_the_listener_answers_in_sentences(run: Any) -> None:
    async def story(w: World) -> None:
        listener = JoinListener(w.joining, Log("join", Sink(w.log)))
        assert (await ask(listener, "GET", "/v1/authority"))[1] == {"certificate": (await w.joining.authority())[0]}
        assert (await ask(listener, "GET", "/healthz"))[0] == 200
        for method, path, body, status in (
            ("GET", "/", b"", 404), ("GET", "/v1/join", b"", 404), ("POST", "/v1/join", b"", 400), ("POST", "/v1/join", b"[]", 400),
            ("POST", "/v1/join", b"x" * (MOST_BYTES + 1), 413), ("POST", "/v1/renew", b"{}", 403), ("DELETE", "/v1/authority", b"", 404),
        ):  # fmt: skip
            assert (await ask(listener, method, path, body))[0] == status, (method, path)
        token = await w.token()
        asked = Asked(secret=token.secret.hex(), host="one", my_ip="192.0.2.1", request=REQUEST)
        assert (await ask(listener, "POST", "/v1/join", msgspec.json.encode(asked)))[0] == 200
        status, said = await ask(listener, "POST", "/v1/join", msgspec.json.encode(asked))
        assert status == 403 and said["sentence"].endswith("a token works once.") and said["advice"]
        w.users.broken = True
        other = msgspec.structs.replace(asked, secret=(await w.token()).secret.hex(), host="two", my_ip="192.0.2.2")
        status, said = await ask(listener, "POST", "/v1/join", msgspec.json.encode(other))
        assert status == 503 and "it is away" in said["sentence"]
        broken = JoinListener(None, Log("join", Sink(w.log)))  # type: ignore[arg-type]
        status, said = await ask(broken, "POST", "/v1/join", msgspec.json.encode(asked))
        assert status == 500 and "NoneType" not in str(said)
        assert token.secret.hex() not in w.log.getvalue()

    run(story)


@given(
    controllers=st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=3),
    authority=st.binary(min_size=32, max_size=32),
    secret=st.binary(min_size=1, max_size=64),
    host=st.text(max_size=20),
    at=st.integers(0, 10_000),
    change=st.integers(1, 255),
)
def test_tokens_are_read_as_they_were_written_or_not_at_all(
    controllers: list[str], authority: bytes, secret: bytes, host: str, at: int, change: int
) -> None:
    token = JoinToken(tuple(controllers), authority, secret, host)
    text = token.text()
    assert read_token(text) == token == read_token(f"  {text}\n") and " " not in text
    cut = text[: 4 + at % (len(text) - 4)]
    with pytest.raises(BadToken):
        read_token(cut)
    place = 4 + at % (len(text) - 4)
    other = text[:place] + chr(33 + (ord(text[place]) + change) % 90) + text[place + 1 :]
    if other != text:
        try:
            assert read_token(other) == token  # the last letter may hold bits that count for nothing
        except BadToken:
            return
