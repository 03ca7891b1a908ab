"""How a machine joins the cloud as a hypervisor: tokens, certificates, and a broker user of its own. docs/decisions/0010 tells why.

A token is told to an operator once; the database has the digest of its secret. It is good for one join, until it expires, for the host it
names or, if it names none, for a host that is new: a token that was lost takes over nobody.
"""

import hashlib
import ipaddress
import re
from collections.abc import Mapping

from kilonova.compute.errors import CannotJoin, HostMayNotRenew, TokenNotGood
from kilonova.compute.join_forms import SERVER_NAME, Asked, BrokerPlace, Joined, JoinToken, RenewalAsked, Renewed
from kilonova.compute.store import cell_mappings, joins
from kilonova.core import certificates, files
from kilonova.core.bus import agents
from kilonova.core.bus.config import Broker, rabbit_options
from kilonova.core.bus.rabbit_users import BrokerUsers, Permissions
from kilonova.core.certificates import WrongPassphrase
from kilonova.core.config import ConfigError, Settings
from kilonova.core.db import Database, Duplicate, Transaction
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime

SECRET_BYTES = 32
WRITES = r"^amq\.default$"
SERVER_DAYS = 90


def digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


class Joining:
    def __init__(self, *, api_db: Database, runtime: Runtime, log: Log, settings: Settings, messaging: Mapping[str, Settings]) -> None:
        """settings: of [join]. messaging: the groups DEFAULT, oslo_messaging_rabbit and broker."""
        self.api_db = api_db
        self.runtime = runtime
        self.log = log
        self.settings = settings
        self.messaging = messaging
        broker = messaging["broker"]
        self.options = rabbit_options(messaging)
        self.users = BrokerUsers(
            vhost=self.options.vhost,
            management_url=broker.management_url,
            ca_file=broker.management_ca_file,
            rabbitmqctl=broker.rabbitmqctl,
        )
        self._authority: tuple[str, str] | None = None

    # ---- the authority

    async def _passphrase(self) -> str:
        name = self.settings.key_file
        if not name:
            return ""
        try:
            found = (await self.runtime.blocking(files.read_text, name)).strip()
        except OSError as error:
            raise ConfigError(f"[join] key_file: {name} cannot be read: {error.strerror}.") from None
        if not found:
            raise ConfigError(f"[join] key_file: {name} is empty; it must hold a passphrase.")
        return str(found)

    async def authority(self) -> tuple[str, str]:
        """(certificate, key), made when the cloud has none yet."""
        if self._authority is None:
            found = await joins.authority(self.api_db)
            if found is None:
                found = await self._new_authority()
            self._authority = found
        return self._authority

    async def _new_authority(self) -> tuple[str, str]:
        now, passphrase = self.runtime.now_us(), await self._passphrase()
        certificate, key = await self.runtime.blocking(certificates.new_authority, "kilonova", now, passphrase)
        try:
            await self.api_db.transact(lambda tx: joins.insert_authority(tx, certificate, key, now))
        except Duplicate:
            found = await self.api_db.transact(joins.authority)  # what refused ours may not be committed yet
            assert found is not None
            return found
        self.log.info("the cloud has a certificate authority now", sha256=certificates.fingerprint(certificate))
        return certificate, key

    async def _sign(self, request: str, name: str, days: int, server_names: tuple[str, ...] = ()) -> str:
        authority, passphrase, now = await self.authority(), await self._passphrase(), self.runtime.now_us()

        def sign() -> str:
            return certificates.sign(authority, request, name, now, days, passphrase=passphrase, server_names=server_names)

        try:
            return await self.runtime.blocking(sign)
        except WrongPassphrase:
            raise ConfigError("[join] key_file does not open the key of the cloud's certificate authority.") from None

    async def server_certificate(self) -> tuple[str, str]:
        """(certificate, key) for a process that answers joins."""
        request, key = await self.runtime.blocking(certificates.new_request, SERVER_NAME)
        return await self._sign(request, SERVER_NAME, SERVER_DAYS, (SERVER_NAME,)), key

    # ---- tokens

    async def new_token(self, controllers: tuple[str, ...], host: str, ttl_s: int) -> JoinToken:
        """Raises CannotJoin for a host that no machine may be called."""
        if host:
            _check_name(host)
        certificate, _ = await self.authority()
        secret, now = self.runtime.token_bytes(SECRET_BYTES), self.runtime.now_us()
        row = joins.Token(
            digest=digest(secret), host=host, expires_at=now + ttl_s * 1_000_000, used_at=None, used_by="", created_at=now
        )  # fmt: skip
        await self.api_db.transact(lambda tx: joins.insert_token(tx, row))
        return JoinToken(controllers, bytes.fromhex(certificates.fingerprint(certificate)), secret, host)

    # ---- joins

    async def join(self, asked: Asked) -> Joined:
        """Raises TokenNotGood, CannotJoin, CannotManage, BadRequestForCertificate, ConfigError. Whatever can fail before the token is used
        fails before it is used; if the broker refuses the user, the token is as good as before."""
        host = asked.host
        _check_name(host)
        my_ip = _address(asked.my_ip)
        token = await self._known(asked.secret)
        await self._check_host(token, host, my_ip)
        certificate = await self._sign(asked.request, agents.user_of(host), self.settings.certificate_days)
        password = self.runtime.token_bytes(SECRET_BYTES).hex()
        answer = await self._answer(host, certificate, password)
        row = joins.JoinedHost(
            host=host, my_ip=my_ip, certificate_sha256=certificates.fingerprint(certificate),
            certificate_until=certificates.ends_at(certificate), joined_at=self.runtime.now_us(),
        )  # fmt: skip
        before = await self._take(token, row)
        try:
            await self._make_user(host, password, again=before is not None)
        except Exception:
            await self._undo(token, row, before)
            raise
        await self._still(row)
        self.log.info("a hypervisor has joined", host=host, my_ip=my_ip, certificate_sha256=row.certificate_sha256)
        return answer

    async def _known(self, secret: str) -> joins.Token:
        try:
            found = await joins.token(self.api_db, digest(bytes.fromhex(secret)))
        except ValueError:
            found = None
        if found is None:
            raise TokenNotGood("it is not known to this cloud.")
        return found

    async def _take(self, token: joins.Token, row: joins.JoinedHost) -> joins.JoinedHost | None:
        """The token is used, and the host has joined; what it was before. The first write decides: of two with one token one gets it."""

        async def take(tx: Transaction) -> bool:
            if not await joins.use(tx, token.digest, row.host, row.joined_at):
                return False
            await (joins.put_host(tx, row) if token.host else joins.insert_host(tx, row))
            return True

        before = await joins.host(self.api_db, row.host)
        try:
            taken = await self.api_db.transact(take)
        except Duplicate:
            raise _joined_before(row.host) from None
        if not taken:
            raise TokenNotGood(_why_not(await joins.token(self.api_db, token.digest), row.host, row.joined_at))
        return before

    async def _undo(self, token: joins.Token, row: joins.JoinedHost, before: joins.JoinedHost | None) -> None:
        async def undo(tx: Transaction) -> None:
            await joins.give_back(tx, token.digest, row.host)
            await joins.restore(tx, row, before)

        await self.api_db.transact(undo)

    async def _still(self, row: joins.JoinedHost) -> None:
        """Raises CannotJoin when the host was shut out, or joined from elsewhere, while its user was made: `leave` may have come before."""
        found = await joins.host(self.api_db, row.host)
        if found is None or found.left_at is not None:
            await self.runtime.blocking(self.users.delete, agents.user_of(row.host), pool="broker-users")
            raise CannotJoin(f"{row.host} was shut out while it joined.")
        if found.certificate_sha256 != row.certificate_sha256:
            raise CannotJoin(f"Another machine joined as {row.host} at the same moment; its token must name it once more.")

    async def _check_host(self, token: joins.Token, host: str, my_ip: str) -> None:
        now = self.runtime.now_us()
        if token.used_at is not None or token.expires_at <= now or token.host not in ("", host):
            raise TokenNotGood(_why_not(token, host, now))
        if not token.host:
            if await joins.host(self.api_db, host) is not None:
                raise _joined_before(host)
            await self._check_new(host)
        for other in await joins.hosts(self.api_db):
            if other.host != host and other.left_at is None and other.my_ip == my_ip:
                raise CannotJoin(f"{my_ip} is the address of another host; name this machine's own with --my-ip.")

    async def _check_new(self, host: str) -> None:
        """Names that differ in case only are other names to us, and one to people and to name servers."""
        there = sorted({*await cell_mappings.hosts(self.api_db), *(one.host for one in await joins.hosts(self.api_db))})
        for other in there:
            if other.lower() == host.lower():
                raise CannotJoin(
                    f"The cloud has a host {other} already; a token for {host} must name it: `kilonova join-token --host {host}`."
                )

    async def _make_user(self, host: str, password: str, *, again: bool) -> None:
        """again: the user of its life before goes first, and with it the connections of whoever has the old password."""
        own, user = agents.own_queues(host), agents.user_of(host)

        def make() -> None:
            if again:
                self.users.delete(user)
            self.users.put(user, password, Permissions(configure=own, write=WRITES, read=own))

        await self.runtime.blocking(make, pool="broker-users")

    async def _answer(self, host: str, certificate: str, password: str) -> Joined:
        broker, rabbit = self.messaging["broker"], self.messaging["oslo_messaging_rabbit"]
        ssl = self.options.ssl or broker.agent_ssl
        places = tuple(_place(text, ssl=ssl) for text in broker.agent_brokers) or tuple(map(_place_of, self.options.brokers))
        signs = broker.agent_ca_file or rabbit.ssl_ca_file
        try:
            broker_authority = await self.runtime.blocking(files.read_text, signs) if signs else ""
        except OSError as error:
            raise ConfigError(f"[broker] agent_ca_file: {signs} cannot be read: {error.strerror}.") from None
        return Joined(
            certificate=certificate,
            brokers=places,
            vhost=self.options.vhost,
            user=agents.user_of(host),
            password=password,
            ssl=ssl,
            broker_authority=broker_authority,
            client_certificate=broker.client_certificates,
        )

    async def renew(self, name: str, shown_sha256: str, asked: RenewalAsked) -> Renewed:
        """name, shown_sha256: of the certificate that the client has shown, which the authority has signed. Raises HostMayNotRenew."""
        host = agents.host_of(name)
        known = await joins.host(self.api_db, host) if host else None
        good = known is not None and known.left_at is None and shown_sha256 in (known.certificate_sha256, known.previous_sha256)
        if host is None or not good:
            raise HostMayNotRenew(host=host or name)
        certificate = await self._sign(asked.request, name, self.settings.certificate_days)
        sha256, until = certificates.fingerprint(certificate), certificates.ends_at(certificate)
        if not await self.api_db.transact(lambda tx: joins.renewed(tx, host, shown_sha256, sha256, until)):
            raise HostMayNotRenew(host=host)
        self.log.info("a hypervisor's certificate was renewed", host=host, before_sha256=shown_sha256, certificate_sha256=sha256)
        return Renewed(certificate=certificate)

    async def leave(self, host: str) -> bool:
        """From now on the host's broker user and certificate are worth nothing. False: no such host has joined. Raises CannotManage."""
        now = self.runtime.now_us()
        if not await self.api_db.transact(lambda tx: joins.left(tx, host, now)):
            return False
        await self.runtime.blocking(self.users.delete, agents.user_of(host), pool="broker-users")
        self.log.info("a hypervisor has left", host=host)
        return True


def _check_name(host: str) -> None:
    if agents.HOST.fullmatch(host) is None:
        raise CannotJoin("A host's name has letters, digits, dots, dashes and underscores, at most 58; choose another with --host.")
    if agents.RESERVED.fullmatch(host):
        raise CannotJoin(f"{host} is a name of the cloud's own; choose another with --host.")


def _joined_before(host: str) -> CannotJoin:
    return CannotJoin(f"A host {host} has joined before; it needs a token of its own: `kilonova join-token --host {host}`.")


def _address(text: str) -> str:
    try:
        found = ipaddress.IPv4Address(text)
    except ValueError:
        raise CannotJoin("The address of the machine's tunnels is not an IPv4 address; name one with --my-ip.") from None
    if found.is_unspecified or found.is_multicast or found.is_reserved:
        raise CannotJoin(f"{found} is no machine's address; name this one's own with --my-ip.")
    return str(found)


def _why_not(token: joins.Token | None, host: str, now: int) -> str:
    if token is None:
        return "it is not known to this cloud."
    if token.used_at is not None:
        return f"it has been used ({token.used_by}); a token works once."
    if token.expires_at <= now:
        return "it has expired."
    return f"it is for the host {token.host}, not for {host}."


def _place_of(broker: Broker) -> BrokerPlace:
    return BrokerPlace(host=broker.host, port=broker.port)


def _place(text: str, *, ssl: bool) -> BrokerPlace:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+)(?::(\d{1,5}))?", text)
    port = int(found[2]) if found and found[2] else 5671 if ssl else 5672
    if found is None or not 0 < port < 65_536:
        raise ConfigError(f"[broker] agent_brokers: each is written host:port or [IPv6]:port; {text} is not.")
    return BrokerPlace(host=found[1].strip("[]"), port=port)
