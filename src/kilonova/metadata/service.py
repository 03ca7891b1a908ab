"""Who is asking, and what for. `handle` is the dataplane's hook: requests arrive with the network or router they came in on and an
address that anti-spoofing has checked; headers are the guest's own words and are not read."""

from collections import OrderedDict

import msgspec

from kilonova.compute.contract import Compute
from kilonova.core.config import Settings
from kilonova.core.context import Context, service_context
from kilonova.core.log import Log
from kilonova.core.runtime import Runtime
from kilonova.metadata.tree import Tree
from kilonova.network.contract import Network
from kilonova.network.rpc import MetadataReply, MetadataRequest

MOST_KEPT = 1000
"""Servers whose tree is kept; one is some 50 KiB."""
TOO_LARGE = 8192
_NOT_FOUND = MetadataReply(status=404, headers=(("Content-Type", "text/plain; charset=UTF-8"),), body=b"404 Not Found\n")
_WRONG_METHOD = MetadataReply(status=405, headers=(("Allow", "GET, HEAD"),), body=b"405 Method Not Allowed\n")


class Known(msgspec.Struct, frozen=True):
    """A server's tree, and whose it is."""

    project_id: str
    tree: Tree
    until: float


class _Owner(msgspec.Struct):
    project_id: str = ""


class MetadataService:
    name = "metadata"

    def __init__(self, *, compute: Compute, network: Network, runtime: Runtime, log: Log, settings: dict[str, Settings]) -> None:
        self.compute = compute
        self.network = network
        self.runtime = runtime
        self.log = log
        self.settings = settings
        self._kept: OrderedDict[str, Known] = OrderedDict()
        if settings["neutron"].service_metadata_proxy and not settings["neutron"].metadata_proxy_shared_secret:
            log.error("[neutron] metadata_proxy_shared_secret is empty: requests of a metadata proxy are refused")

    async def handle(self, request: MetadataRequest) -> MetadataReply:
        """For a guest. Which server an address belongs to is asked each time: it may be another's a moment later."""
        owner = await self.network.server_of(
            _me(), ip=request.source_ip, network_id=request.network_id or None, router_id=request.router_id or None
        )
        if owner is None:
            return _NOT_FOUND
        return await self.answer(owner.server_id, owner.project_id, request.method, request.path)

    async def answer(self, server_id: str, project_id: str, method: str, path: str) -> MetadataReply:
        """For a server whose identity is established. 404 unless it is the project's."""
        if method not in ("GET", "HEAD"):
            return _WRONG_METHOD
        known = await self._known(server_id)
        if known is None or known.project_id != project_id or len(path) > TOO_LARGE:
            return _NOT_FOUND
        found = known.tree.find(path)
        if found is None:
            return _NOT_FOUND
        return MetadataReply(status=200, headers=(("Content-Type", found.content_type),), body=found.body)

    async def _known(self, server_id: str) -> Known | None:
        now = self.runtime.monotonic()
        known = self._kept.get(server_id)
        if known is not None and now < known.until:
            self._kept.move_to_end(server_id)
            return known
        made = await self.compute.guest_metadata(_me(), server_id)
        if made is None:
            self._kept.pop(server_id, None)
            return None
        owner = msgspec.json.decode(made.files["openstack/latest/meta_data.json"], type=_Owner)
        known = Known(owner.project_id, Tree(made.files), now + self.settings["api"].metadata_cache_expiration)
        self._kept[server_id] = known
        self._kept.move_to_end(server_id)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return known

    @property
    def kept(self) -> int:
        """Trees in the cache."""
        return len(self._kept)


def _me() -> Context:
    return service_context("metadata")
