"""Other services as a service under test sees them: their contracts, in memory."""

from typing import Any

import msgspec

from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, NotFound
from kilonova.image.contract import ImageFilters, ImageInfo, NewImage
from kilonova.network.contract import Allocate, FixedIp, Nic, NicRequest, ServerOfAddress, WiringFailed

IMAGE = "155d900f-4e14-4e4c-a73d-069cbf4541e6"
NETWORK = "3cb9bc59-5699-4588-a4b1-b87f96708bc6"
SUBNET = "f8a6e8f8-c2ec-497c-9f23-da9616de54ef"


class FakeNetwork:
    """One network called private. `fail_wiring`: that many servers are never wired."""

    def __init__(self) -> None:
        self.ports: dict[str, tuple[Nic, ...]] = {}
        self.turns: dict[str, int] = {}
        self.fail_wiring = 0
        self.count = 0

    async def validate(
        self, ctx: Context, networks: tuple[NicRequest, ...], auto: str, security_groups: tuple[str, ...], count: int
    ) -> None:
        for wish in networks:
            if wish.network_id is not None and wish.network_id != NETWORK:
                raise BadRequest(f"Network {wish.network_id} could not be found.")

    async def allocate(self, ctx: Context, request: Allocate, timeout_s: float | None = None) -> tuple[Nic, ...]:
        """As an older release: it does not wait."""
        self.turns[request.server_id] = request.turn
        if request.auto == "none":
            self.ports[request.server_id] = ()
        elif request.server_id not in self.ports:
            self.count += 1
            nic = Nic(
                port_id=f"00000000-0000-4000-8000-{self.count:012x}",
                network_id=NETWORK,
                network_name="private",
                mac=f"fa:16:3e:00:{self.count >> 8 & 255:02x}:{self.count & 255:02x}",
                device_name=f"tap{self.count:08x}",
                mtu=1450,
                fixed_ips=(FixedIp(ip=f"10.0.{self.count >> 8 & 255}.{self.count & 255}", subnet_id=SUBNET, version=4),),
            )
            self.ports[request.server_id] = (nic,)
        return self.ports[request.server_id]

    async def wait_wired(self, ctx: Context, server_id: str, timeout_s: float) -> None:
        if self.fail_wiring > 0:
            self.fail_wiring -= 1
            raise WiringFailed(server=server_id, reason="the host's agent says no")

    async def release(self, ctx: Context, server_id: str, *, up_to: int | None = None) -> None:
        if up_to is None or self.turns.get(server_id, 0) <= up_to:
            self.ports.pop(server_id, None)

    async def rebind(self, ctx: Context, server_id: str, host: str) -> tuple[Nic, ...]:
        return self.ports.get(server_id, ())

    async def nics(self, ctx: Context, server_id: str) -> tuple[Nic, ...]:
        return self.ports.get(server_id, ())

    async def nics_of(self, ctx: Context, server_ids: tuple[str, ...]) -> dict[str, tuple[Nic, ...]]:
        return {i: self.ports.get(i, ()) for i in server_ids}

    async def attach(self, ctx: Context, request: Allocate) -> tuple[Nic, ...]:
        return ()

    async def detach(self, ctx: Context, server_id: str, port_id: str) -> bool:
        return False

    async def server_of(
        self, ctx: Context, *, ip: str, network_id: str | None = None, router_id: str | None = None
    ) -> ServerOfAddress | None:
        for server_id, nics in self.ports.items():
            if any(f.ip == ip for n in nics for f in n.fixed_ips):
                return ServerOfAddress(server_id=server_id, project_id="p1")
        return None

    async def network_data(self, ctx: Context, server_id: str) -> dict[str, Any]:
        return {"links": [], "networks": [], "services": []}

    async def server_security_groups(self, ctx: Context, server_id: str) -> tuple[dict[str, Any], ...]:
        return ()

    async def add_security_group(self, ctx: Context, server_id: str, name: str) -> None:
        """Nothing to do."""

    async def remove_security_group(self, ctx: Context, server_id: str, name: str) -> None:
        """Nothing to do."""


class FakeImages:
    """One public image; `put` adds others."""

    def __init__(self) -> None:
        self.images: dict[str, ImageInfo] = {}
        self.put(IMAGE)

    def put(self, image_id: str, **changes: Any) -> None:
        values: dict[str, Any] = {
            "id": image_id, "name": "cirros", "status": "active", "visibility": "public", "owner": "p1", "disk_format": "raw",
            "container_format": "bare", "size": 1 << 20, "virtual_size": 1 << 20, "checksum": None, "os_hash_algo": None,
            "os_hash_value": None, "min_disk": 0, "min_ram": 0,
            "protected": False, "os_hidden": False, "tags": (), "properties": {"architecture": "x86_64"},
            "created_at": 0, "updated_at": 0,
        }  # fmt: skip
        self.images[image_id] = ImageInfo(**{**values, **changes})

    async def get(self, ctx: Context, image_id: str) -> ImageInfo:
        if image_id not in self.images:
            raise NotFound(f"Image {image_id} could not be found.")
        return self.images[image_id]

    async def list(self, ctx: Context, filters: ImageFilters) -> list[ImageInfo]:
        return list(self.images.values())

    async def create(self, ctx: Context, new: NewImage) -> str:
        image_id = new.id or f"00000000-0000-4000-9000-{len(self.images):012x}"
        self.put(
            image_id,
            name=new.name,
            status="queued",
            visibility=new.visibility,
            owner=new.owner or ctx.project_id,
            disk_format=new.disk_format,
            container_format=new.container_format,
            size=None,
            min_disk=new.min_disk,
            min_ram=new.min_ram,
            properties=new.properties,
        )
        return image_id

    async def update(
        self, ctx: Context, image_id: str, properties: dict[str, str], remove: tuple[str, ...] = (), **attributes: str | int | bool | None
    ) -> ImageInfo:
        old = await self.get(ctx, image_id)
        self.put(image_id, properties={k: v for k, v in {**old.properties, **properties}.items() if k not in remove}, **attributes)
        return self.images[image_id]

    async def delete(self, ctx: Context, image_id: str) -> None:
        await self.get(ctx, image_id)
        del self.images[image_id]

    async def read(self, ctx: Context, image_id: str, offset: int, length: int) -> bytes:
        image = await self.get(ctx, image_id)
        return bytes(max(0, min(length, (image.size or 0) - offset)))

    async def local_path(self, ctx: Context, image_id: str) -> str | None:
        return None

    async def write(self, ctx: Context, image_id: str, path: str) -> ImageInfo:
        self.images[image_id] = msgspec.structs.replace(await self.get(ctx, image_id), status="active", size=1 << 20)
        return self.images[image_id]
