"""The Linux driver as the agent sees it: asyncio outside, one thread inside the host namespace.

Each verb runs to its end even if its caller is cancelled: half a port would be worse than a late one. One verb at a time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

from kilonova.network import rpc
from kilonova.network.drivers import DriverError, MetadataHandler
from kilonova.network.drivers.linux import metadata, names, netns, rtnl, underlay
from kilonova.network.drivers.linux.config import LinuxConfig
from kilonova.network.drivers.linux.host import Host, Server, reason
from kilonova.network.drivers.linux.nft import Nft, NftError
from kilonova.network.drivers.linux.rtnl import Route

T = TypeVar("T")
P = ParamSpec("P")
_ALL = 0x6B6F


class LinuxDriver:
    def __init__(self, config: LinuxConfig, metadata: MetadataHandler) -> None:
        self._config = config
        self._handler = metadata
        self._host: Host | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[object]] = set()

    async def start(self) -> None:
        if self._host is not None:
            return
        host = Host(self._config, self._handler)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"dataplane-{self._config.host_namespace}")
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, host.open)
        except (OSError, NftError, ValueError, DriverError) as error:
            self._pool.shutdown(wait=False)
            self._pool = None
            raise DriverError(reason(error)) from error
        self._host = host

    async def stop(self) -> None:
        host, pool = self._host, self._pool
        if host is None or pool is None:
            return
        if self._running:
            await asyncio.wait(tuple(self._running))
        self._host = self._pool = None
        for server in host.take_all_servers():
            server.close()
        await asyncio.get_running_loop().run_in_executor(pool, host.close)
        pool.shutdown(wait=False)

    async def teardown(self) -> None:
        await self.stop()
        await asyncio.to_thread(_destroy, self._config)

    async def _do(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        task = asyncio.ensure_future(self._run(function, *arguments, **keywords))
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: "asyncio.Task[object]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()

    async def _run(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        host, pool = self._host, self._pool
        if host is None or pool is None:
            raise DriverError("The driver is not started; call start first.")
        async with self._lock:
            try:
                return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*arguments, **keywords))
            except (OSError, NftError, ValueError, KeyError) as error:
                raise DriverError(reason(error)) from error
            finally:
                await self._settle(host)

    @staticmethod
    async def _settle(host: Host) -> None:
        """Begin to serve what the verb opened, end what it closed."""
        loop = asyncio.get_running_loop()
        opened, host.opened = host.opened, []
        closed, host.closed = host.closed, []
        for server in closed:
            server.close()
        for server in opened:
            if server not in closed:
                await _start(server, loop)

    def _plane(self) -> Host:
        if self._host is None:
            raise DriverError("The driver is not started; call start first.")
        return self._host

    async def sync(self, state: rpc.HostState) -> rpc.HostSynced:
        return await self._do(self._plane().sync, state)

    async def plug(
        self, port: rpc.Port, network: rpc.Network, subnets: tuple[rpc.Subnet, ...], groups: tuple[rpc.SecurityGroup, ...]
    ) -> rpc.PortWired:
        return await self._do(self._plane().plug, port, network, subnets, groups)

    async def unplug(self, port_id: str) -> rpc.PortUnplugged:
        return await self._do(self._plane().unplug, port_id)

    async def put_network(self, network: rpc.Network, subnets: tuple[rpc.Subnet, ...]) -> rpc.NetworkReady:
        return await self._do(self._plane().put_network, network, subnets)

    async def delete_network(self, network_id: str) -> bool:
        return await self._do(self._plane().delete_network, network_id)

    async def put_router(self, router: rpc.Router) -> rpc.RouterReady:
        return await self._do(self._plane().put_router, router)

    async def delete_router(self, router_id: str) -> bool:
        return await self._do(self._plane().delete_router, router_id)

    async def put_group(self, group: rpc.SecurityGroup) -> None:
        await self._do(self._plane().put_group, group)

    async def delete_group(self, group_id: str) -> bool:
        return await self._do(self._plane().delete_group, group_id)

    async def put_remote_ports(self, remote_ports: tuple[rpc.RemotePort, ...]) -> None:
        await self._do(self._plane().put_remote_ports, remote_ports)

    async def delete_remote_ports(self, keys: tuple[tuple[str, str], ...]) -> None:
        await self._do(self._plane().delete_remote_ports, keys)

    async def put_peers(self, peers: tuple[rpc.Peer, ...]) -> None:
        await self._do(self._plane().put_peers, peers)

    async def describe(self) -> rpc.DriverDescription:
        return await self._do(self._plane().describe)

    async def snapshot(self) -> rpc.Snapshot:
        return await asyncio.to_thread(_snapshot, self._config)


async def _start(server: Server, loop: asyncio.AbstractEventLoop) -> None:
    if isinstance(server, metadata.Server):
        await server.start()
    else:
        server.start(loop)


def _owned_namespaces(config: LinuxConfig) -> list[str]:
    found = [name for name in netns.names(config.host_namespace) if names.owned(config.host_namespace, name)]
    if config.underlay is not None and config.underlay.namespace in netns.names(config.underlay.namespace):
        found.append(config.underlay.namespace)
    return sorted(found)


def _snapshot(config: LinuxConfig) -> rpc.Snapshot:
    links: list[str] = []
    tables: list[str] = []
    if netns.exists(config.host_namespace):
        with netns.entered(config.host_namespace), Route() as route, Nft() as nft:
            links = [link.name for link in route.links() if link.name != "lo"]
            tables = [line.removeprefix("table ") for line in nft.run("list tables").splitlines()]
    return rpc.Snapshot(namespaces=tuple(_owned_namespaces(config)), links=tuple(links), tables=tuple(sorted(tables)))


def _destroy(config: LinuxConfig) -> None:
    """Links go explicitly: a process left in a namespace (a guest) would keep them alive otherwise."""
    if netns.exists(config.host_namespace):
        with netns.entered(config.host_namespace), Route() as route, Nft() as nft:
            doomed = [link.name for link in route.links() if link.name != "lo"]
            route.do_all([rtnl.group_link(name, _ALL) for name in doomed])
            with suppress(OSError):
                route.do(rtnl.delete_group(_ALL))
            nft.run("flush ruleset\n")
    for name in netns.names(config.host_namespace):
        if names.owned(config.host_namespace, name):
            netns.remove(name)
    underlay.release(config)
