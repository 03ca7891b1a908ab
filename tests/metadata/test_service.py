"""Who gets whose metadata: by address for guests, by signature for a proxy."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path

from kilonova.core import config
from kilonova.core.context import Context, service_context
from kilonova.core.errors import PolicyForbids, Unavailable
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.metadata import config as metadata_config
from kilonova.metadata.app import MetadataApp, signature
from kilonova.metadata.service import MOST_KEPT, MetadataService
from kilonova.network.contract import ServerOfAddress
from kilonova.network.rpc import MetadataReply, MetadataRequest
from kilonova.testing.asgi import Client, Response
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.fakes import NETWORK, FakeNetwork
from tests.compute.test_servers import boot

SECRET = "a long and quiet secret"


class Clock(Runtime):
    """Time passes when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.later_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later_s


class World:
    def __init__(self, tmp_path: Path, **neutron: object) -> None:
        self.runtime = Clock()
        self.sink = Sink(io.StringIO(), level="warning")
        self.compute = ComputeWorld(self.runtime, self.sink, str(tmp_path / "db"), hosts=1)
        self.network = self.compute.network
        conf = config.build((metadata_config.OPTIONS,), (), {("neutron", name): value for name, value in neutron.items()})
        settings = {g: config.settings(conf, metadata_config.OPTIONS, g) for g in metadata_config.OPTIONS}
        self.log = Log("metadata", self.sink)
        self.service = MetadataService(
            compute=self.compute.compute, network=self.network, runtime=self.runtime, log=self.log, settings=settings
        )
        self.http = Client(MetadataApp(self.service))

    async def ask(self, path: str, ip: str = "10.0.0.1", method: str = "GET", **headers: str) -> MetadataReply:
        told = tuple((k.replace("_", "-"), v) for k, v in headers.items())
        return await self.service.handle(MetadataRequest(network_id=NETWORK, source_ip=ip, method=method, path=path, headers=told))

    async def proxied(
        self, server_id: str, project: str = "p1", signed: str | None = None, path: str = "/latest/meta-data/instance-id"
    ) -> Response:
        headers = {"x-instance-id": server_id, "x-tenant-id": project, "x-instance-id-signature": signed or signature(SECRET, server_id)}
        return await self.http.get(path, headers={k: v for k, v in headers.items() if v != "-"})


def run(tmp_path: Path, story: Callable[[World], Awaitable[None]], **neutron: object) -> None:
    async def main() -> None:
        w = World(tmp_path, **neutron)
        await w.compute.start()
        try:
            await story(w)
        finally:
            await w.compute.stop()

    asyncio.run(main())


PROXY: dict[str, object] = {"service_metadata_proxy": True, "metadata_proxy_shared_secret": SECRET}


def test_a_guest_reads_what_is_its_own(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        member = w.compute.client()
        first, second = await boot(member, metadata={"who": "first"}), await boot(member, metadata={"who": "second"})
        for server, ip in ((first, "10.0.0.1"), (second, "10.0.0.2")):
            reply = await w.ask("/openstack/latest/meta_data.json", ip)
            assert reply.status == 200
            assert server["id"].encode() in reply.body
            assert dict(reply.headers)["Content-Type"] == "application/json"
        assert (await w.ask("/latest/meta-data/zz")).status == 404
        assert (await w.ask("/", "10.0.0.99")).status == 404
        assert (await w.ask("/latest/meta-data/hostname", method="HEAD")).status == 200
        assert (await w.ask("/openstack/latest/password", method="POST")).status == 405
        assert (await w.ask("/" + "x" * 9000)).status == 404

    run(tmp_path, story)


def test_row_80_a_guests_own_headers_mean_nothing(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        member = w.compute.client()
        mine, other = await boot(member), await boot(member)
        reply = await w.ask(
            "/openstack/latest/meta_data.json",
            x_forwarded_for="10.0.0.2",
            x_instance_id=other["id"],
            x_tenant_id="p1",
            x_instance_id_signature=signature(SECRET, other["id"]),
        )
        assert mine["id"].encode() in reply.body
        assert other["id"].encode() not in reply.body

    run(tmp_path, story, **PROXY)


def test_row_80_a_proxys_signature_is_checked(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        server = await boot(w.compute.client())
        assert (await w.proxied(server["id"])).body.startswith(b"i-")
        for wrong in ("0" * 64, "", "x", signature("another secret", server["id"]), signature(SECRET, "other"), "ключ"):
            expected = 400 if wrong == "" else 403
            reply = await w.http.get("/", headers={"x-instance-id": server["id"], "x-tenant-id": "p1", "x-instance-id-signature": wrong})
            assert reply.status == expected, wrong
        assert (await w.proxied(server["id"], project="p2")).status == 404
        assert (await w.proxied("11111111-1111-4111-8111-111111111111")).status == 404
        assert (await w.proxied(server["id"], project="-")).status == 400
        assert (await w.http.get("/")).status == 400
        twice = f"{server['id']}, {server['id']}"
        assert (await w.proxied(twice)).status == 400
        assert (await w.http.request("POST", "/latest", headers={"x-instance-id": server["id"]})).status == 400
        head = await w.http.request(
            "HEAD",
            "/",
            headers={"x-instance-id": server["id"], "x-tenant-id": "p1", "x-instance-id-signature": signature(SECRET, server["id"])},
        )
        assert (head.status, head.body) == (200, b"")
        for path in ("/metrics", "/healthz"):
            assert (await w.proxied(server["id"], path=path)).status == 404

    run(tmp_path, story, **PROXY)


def test_repeated_headers_are_refused(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        server = await boot(w.compute.client())
        good = signature(SECRET, server["id"]).encode()
        headers = [(b"x-instance-id", server["id"].encode()), (b"x-tenant-id", b"p1"), (b"x-instance-id-signature", good)]
        for extra, expected in ((None, 200), (headers[0], 400), (headers[1], 400), (headers[2], 400)):
            sent: list[dict[str, object]] = []

            async def send(message: object, sent: list[dict[str, object]] = sent) -> None:
                assert isinstance(message, dict)
                sent.append(message)

            async def receive() -> dict[str, object]:
                return {"type": "http.request", "body": b""}

            scope = {"type": "http", "method": "GET", "path": "/", "headers": headers + ([extra] if extra else [])}
            await MetadataApp(w.service)(scope, receive, send)
            assert sent[0]["status"] == expected

    run(tmp_path, story, **PROXY)


def test_without_configuration_no_proxy_is_heard(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        server = await boot(w.compute.client())
        assert (await w.proxied(server["id"])).status == 404

    run(tmp_path, story)


def test_an_empty_secret_signs_nothing(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        server = await boot(w.compute.client())
        assert (await w.proxied(server["id"], signed=signature("", server["id"]))).status == 403

    run(tmp_path, story, service_metadata_proxy=True)


def test_answers_are_kept_for_a_while(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        member = w.compute.client()
        server = await boot(member)
        path = "/openstack/latest/meta_data.json"
        first = (await w.ask(path)).body
        await member.post(f"/v2.1/servers/{server['id']}/metadata", {"metadata": {"new": "item"}})
        assert (await w.ask(path)).body == first
        w.runtime.later_s += 16
        assert b'"new":"item"' in (await w.ask(path)).body

    run(tmp_path, story)


def test_an_address_that_moves_on_takes_nothing_with_it(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        member = w.compute.client()
        first, second = await boot(member), await boot(member)
        assert first["id"].encode() in (await w.ask("/openstack/latest/meta_data.json")).body
        w.network.ports[second["id"]], w.network.ports[first["id"]] = w.network.ports[first["id"]], ()
        assert second["id"].encode() in (await w.ask("/openstack/latest/meta_data.json")).body

    run(tmp_path, story)


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    class Anyone(FakeNetwork):
        async def server_of(
            self, ctx: Context, *, ip: str, network_id: str | None = None, router_id: str | None = None
        ) -> ServerOfAddress | None:
            return ServerOfAddress(server_id=ip, project_id="p1")

    async def story(w: World) -> None:
        server = await boot(w.compute.client())
        tree = await w.compute.compute.guest_metadata(service_context("metadata"), server["id"])
        assert tree is not None

        async def same(ctx: Context, server_id: str) -> object:
            return tree

        w.service.network = Anyone()
        w.service.compute = type("Same", (), {"guest_metadata": staticmethod(same)})()
        for i in range(MOST_KEPT + 20):
            assert (await w.ask("/latest/meta-data/hostname", f"ip-{i}")).status == 200
        assert w.service.kept == MOST_KEPT

    run(tmp_path, story)


def test_failures_tell_nothing(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        async def broken(ctx: Context, server_id: str) -> object:
            raise Unavailable("the database is at /secret/place")

        w.service.compute = type("Broken", (), {"guest_metadata": staticmethod(broken)})()
        reply = await w.proxied("11111111-1111-4111-8111-111111111111")
        assert reply.status == 503
        assert b"secret" not in reply.body

    run(tmp_path, story, **PROXY)


def test_only_services_get_metadata_from_compute(tmp_path: Path) -> None:
    async def story(w: World) -> None:
        server = await boot(w.compute.client())
        compute = w.compute.compute
        assert await compute.guest_metadata(service_context("metadata"), server["id"]) is not None
        try:
            await compute.guest_metadata(Context(user_id="u", project_id="p1", roles=("member",)), server["id"])
        except PolicyForbids:
            return
        raise AssertionError("a member has read a guest's metadata")

    run(tmp_path, story)
