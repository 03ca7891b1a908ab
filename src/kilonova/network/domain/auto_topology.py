"""A network, a subnet from the default pool, and a router to the default external network: made once for a project that has none."""

from typing import Any

from kilonova.core.db import Reader
from kilonova.network.domain import networks, routers, subnets
from kilonova.network.domain.work import Work
from kilonova.network.errors import AutoAllocationFailure
from kilonova.network.model import Network, Router, SubnetPool
from kilonova.network.store import auto_topologies, rows


async def requirements(reader: Reader) -> tuple[Network, SubnetPool]:
    """Raises AutoAllocationFailure when the cloud's admin has not prepared what it takes."""
    external = await rows.networks.where(reader, is_default=True, external=True)
    if not external:
        raise AutoAllocationFailure("No default router:external network")
    pools = [pool for pool in await rows.subnetpools.where(reader, is_default=True) if pool.shared]
    if not pools:
        raise AutoAllocationFailure("No default pools available")
    return external[0], pools[0]


async def ensure(w: Work, project_id: str) -> str:
    found = await auto_topologies.get(w.tx, project_id)
    if found is not None:
        return found[0]
    external, pool = await requirements(w.tx)
    common: dict[str, Any] = {"project_id": project_id, "description": "", "admin_state_up": True, "availability_zone_hints": ()}
    network = await networks.create(
        w,
        {
            **common,
            "name": "auto_allocated_network",
            "shared": False,
            "router:external": False,
            "is_default": False,
            "mtu": 0,
            "port_security_enabled": True,
        },
    )
    subnet = await subnets.create(
        w, network, {**common, "name": f"auto_allocated_subnet_v{pool.ip_version}", "subnetpool_id": pool.id, "enable_dhcp": True}
    )
    router = await routers.create(w, {**common, "name": "auto_allocated_router", "external_gateway_info": {"network_id": external.id}})
    await routers.add_interface(w, router, await networks.get(w, network.id), subnet, None)
    await auto_topologies.insert(w.tx, project_id, network.id, router.id)
    return network.id


async def delete(w: Work, project_id: str) -> bool:
    row = await auto_topologies.get(w.tx, project_id)
    if row is None:
        return False
    network_id, router_id = row
    router: Router | None = await rows.routers.get(w.tx, router_id)
    if router is not None:
        for port in await routers.interfaces(w, router.id):
            await routers.remove_interface(w, await routers.get(w, router.id), subnet_id=None, port_id=port.id)
        await routers.delete(w, await routers.get(w, router.id))
    network = await rows.networks.get(w.tx, network_id)
    if network is not None:
        await networks.delete(w, network)
    await auto_topologies.delete(w.tx, project_id)
    return True
