"""Two cells, each with a PostgreSQL database and a broker's virtual host of its own, made with nova-manage; one of them goes away."""

import asyncio
import subprocess
from pathlib import Path

import asyncpg

from tests.cluster.cluster import Api
from tests.cluster.conftest import APIS, Stand
from tests.cluster.test_boots import hosts

OFFSET = 11400


def sql(stand: Stand, *statements: str) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(stand.database.url())
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(main())


class Cells:
    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        for number in (1, 2):
            stand.broker.control("add_vhost", f"cell{number}")
            stand.broker.control("set_permissions", "-p", f"cell{number}", "kilonova", ".*", ".*", ".*")
        sql(stand, *(f"CREATE DATABASE {name}" for name in ("nova_api", "nova_cell0", "nova_cell1", "nova_cell2")))
        with stand.cluster.config.open("a") as config:
            config.write(f"[api_database]\nconnection = {stand.database.url('nova_api')}\n[api]\ncell_timeout = 2\n")

    def broker(self, number: int) -> str:
        return f"{self.stand.broker.url.rstrip('/')}/cell{number}"

    def conf(self, number: int) -> Path:
        """The file of one cell."""
        file = self.stand.folder / f"cell{number}.conf"
        file.write_text(
            f"[DEFAULT]\ntransport_url = {self.broker(number)}\n[database]\nconnection = {self.stand.database.url(f'nova_cell{number}')}\n"
            f"[api_database]\nconnection = {self.stand.database.url('nova_api')}\n"
        )
        return file

    def tool(self, tool: str, config: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        cluster = self.stand.cluster
        command = [cluster.python, "-P", "-m", "kilonova", tool, "--config-file", str(config), *arguments]
        return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=60, check=False)

    def manage(self, config: Path, *arguments: str) -> str:
        done = self.tool("nova-manage", config, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def made(self) -> None:
        first = self.conf(1)
        self.manage(first, "api_db", "sync")
        self.manage(first, "cell_v2", "map_cell0", "--database_connection", self.stand.database.url("nova_cell0"))
        for number in (1, 2):
            self.manage(self.conf(number), "cell_v2", "create_cell", "--name", f"cell{number}")
            self.manage(self.conf(number), "db", "sync")


def test_two_cells(stand: Stand) -> None:
    cells = Cells(stand)
    cells.made()
    cluster = stand.cluster
    front = cluster.start("api0", APIS, offset=OFFSET)
    cluster.start("conductor0", ["conductor"], offset=OFFSET)
    for number in (1, 2):
        own = f"[DEFAULT]\ntransport_url = {cells.broker(number)}\n[cell]\ncontrol_transport_url = {stand.broker.url}\n"
        cluster.start(f"hypervisor{number}", ["hypervisor"], offset=OFFSET, extra=own)
    api = Api({service: front.url(service) for service in ("identity", "image", "compute", "network")})
    ids = api.prepare()
    assert hosts(api)["nova-compute hypervisor2"] == "up"
    there: dict[str, str] = {}
    for _ in range(12):
        server = api.boot(ids)
        there[server] = api.until(server, "ACTIVE")["server"]["OS-EXT-SRV-ATTR:host"]
        if len(set(there.values())) == 2:
            break
    assert sorted(set(there.values())) == ["hypervisor1", "hypervisor2"]
    mapped = cells.manage(cells.conf(1), "cell_v2", "list_hosts")
    assert [line.split("|")[1].strip() for line in mapped.splitlines()[3:-1]] == ["cell1", "cell2"]
    done = cells.tool("nova-status", cells.conf(1), "upgrade", "check")
    assert "| Check: Cells v2" in done.stdout
    assert done.stdout.splitlines()[4].startswith("| Result: Success")
    for host in ("hypervisor1", "hypervisor2"):
        server = next(s for s, where in there.items() if where == host)
        assert api("compute", "POST", f"/v2.1/servers/{server}/action", {"os-stop": None})[0] == 202
        api.until(server, "SHUTOFF")

    sql(
        stand,
        "ALTER DATABASE nova_cell2 ALLOW_CONNECTIONS false",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'nova_cell2'",
    )
    status, answer = api("compute", "GET", "/v2.1/servers/detail")
    assert status == 200
    assert {s["id"]: s["status"] == "UNKNOWN" for s in answer["servers"]} == {s: host == "hypervisor2" for s, host in there.items()}
    gone = next(s for s, where in there.items() if where == "hypervisor2")
    assert api("compute", "GET", f"/v2.1/servers/{gone}")[1]["server"]["status"] == "UNKNOWN"
    status, answer = api("compute", "POST", f"/v2.1/servers/{gone}/action", {"os-start": None})
    assert (status, "is not responding" in str(answer)) == (503, True)
    server = api.boot(ids)
    assert api.until(server, "ACTIVE")["server"]["OS-EXT-SRV-ATTR:host"] == "hypervisor1"

    sql(stand, "ALTER DATABASE nova_cell2 ALLOW_CONNECTIONS true")
    api.until(gone, "SHUTOFF", 40)
    assert api("compute", "DELETE", f"/v2.1/servers/{gone}")[0] == 204
    api.until(gone, "GONE")
