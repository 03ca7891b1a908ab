"""Where a controller answers `kilonova join`: an HTTPS server beside the APIs of compute, in clouds with a broker."""

import ssl
from pathlib import Path

from kilonova.app import Cloud
from kilonova.cli.state import StateDir
from kilonova.compute.config import OPTIONS as COMPUTE_OPTIONS
from kilonova.compute.join_listener import JoinListener
from kilonova.compute.joining import Joining
from kilonova.core import certificates
from kilonova.core.bus.config import OPTIONS as BUS_OPTIONS
from kilonova.core.server import bind
from kilonova.core.server_mutual import MutualServer
from kilonova.core.tasks import Tasks
from kilonova.plan import JOIN_PORT

LOOK_S = 3600.0


class JoinServer:
    def __init__(self, cloud: Cloud, state: StateDir, tasks: Tasks) -> None:
        self._cloud = cloud
        self._state = state
        self._tasks = tasks
        self._joining = Joining(
            api_db=cloud.api_db,
            runtime=cloud.runtime,
            log=cloud.log.child("join"),
            settings=cloud.settings(COMPUTE_OPTIONS)["join"],
            messaging=cloud.settings(BUS_OPTIONS),
        )
        self._server: MutualServer | None = None
        self._file = Path(state.path) / "run" / "join-server.pem"

    async def start(self) -> None:
        """Raises PortTaken, ConfigError."""
        plan = self._cloud.plan
        listener = bind(plan.host, JOIN_PORT + plan.port_offset, "join")
        authority, _ = await self._joining.authority()
        self._state.write("run/join-authority.pem", authority)
        await self._certify()
        name = str(self._file)
        self._server = MutualServer(
            JoinListener(self._joining, self._cloud.log.child("join")), listener, certfile=name, keyfile=name,
            authority=str(self._state.path / "run" / "join-authority.pem"),
        )  # fmt: skip
        await self._server.start(self._tasks, "join")
        self._tasks.every("certificate of the join server", LOOK_S, self._renew)

    async def _certify(self) -> None:
        certificate, key = await self._joining.server_certificate()
        self._state.write("run/join-server.pem", key + certificate)

    async def _renew(self) -> None:
        text = self._file.read_text()
        if self._server is not None and self._cloud.runtime.now_us() >= certificates.renewal_at(text[text.find("-----BEGIN CERT") :]):
            await self._certify()
            try:
                self._server.reload(str(self._file), str(self._file))
            except ssl.SSLError as error:
                self._cloud.log.error("the join server's certificate was not renewed", error=error)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()
