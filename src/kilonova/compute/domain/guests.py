"""A server as its hypervisor needs to know it."""

from kilonova.compute import rpc
from kilonova.compute.domain import guest_metadata
from kilonova.compute.model import Server
from kilonova.compute.service import ComputeService
from kilonova.core.context import service_context

_PROPERTIES = ("hw_", "os_", "img_")


async def guest_of(c: ComputeService, server: Server, *, image: rpc.GuestImage | None = None) -> rpc.Guest:
    """image: what its disk is made from; only a new guest needs it."""
    flavor = server.flavor
    drive = None
    if server.config_drive:
        network = await c.network.network_data(service_context("compute"), server.id)
        drive = guest_metadata.config_drive(server, network, c.runtime.token_bytes(512))
    properties = {k: v for k, v in server.image_properties.items() if k.startswith(_PROPERTIES)}
    properties |= {k.replace(":", "_"): v for k, v in flavor.extra_specs.items() if k.startswith(("hw:", "os:"))}
    return rpc.Guest(
        server_id=server.id,
        instance_name=server.instance_name,
        vcpus=flavor.vcpus,
        ram_mb=flavor.ram_mb,
        root_gb=flavor.root_gb,
        ephemeral_gb=flavor.ephemeral_gb,
        swap_mb=flavor.swap_mb,
        image=image,
        nics=tuple(rpc.GuestNic(port_id=n.port_id, mac=n.mac, device_name=n.device_name, mtu=n.mtu) for n in server.nics),
        config_drive=drive,
        properties=properties,
    )
