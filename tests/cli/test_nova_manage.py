"""nova-manage and nova-status: output and exit statuses that operators' scripts rely on, and one sentence for a wrong database."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kilonova.cli.nova_manage import cell0_connection, pretty
from kilonova.cli.nova_status import FAILURE, SUCCESS, Result, drawn
from kilonova.cli.tree import kilonova
from kilonova.compute.model import Flavor, Host, Scheduling, Server
from kilonova.compute.store import cell_mappings, mappings, servers
from kilonova.compute.store import hosts as host_store
from kilonova.core.db.sqlite import SQLite
from kilonova.core.runtime import Runtime

CELL0 = "00000000-0000-0000-0000-000000000000"


class Place:
    """A nova.conf with an API database and a cell's, and the commands run on them in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.conf = folder / "nova.conf"
        self.write()

    def write(self, api: str = "nova_api.db", cell: str = "nova.db") -> None:
        self.conf.write_text(
            "[DEFAULT]\ntransport_url = rabbit://openstack:RABBIT_PASS@controller:5672/\n"
            f"[api_database]\nconnection = sqlite:///{self.folder}/{api}\n[database]\nconnection = sqlite:///{self.folder}/{cell}\n"
        )

    def run(self, tool: str, *arguments: str) -> tuple[int, str]:
        """Exit status, and what was said."""
        code = kilonova.run([tool, "--config-file", str(self.conf), *arguments])
        said = self._capsys.readouterr()
        return code, said.out + said.err

    def manage(self, *arguments: str) -> tuple[int, str]:
        return self.run("nova-manage", *arguments)

    def made(self) -> str:
        """As the installation guide does it; the UUID of cell1."""
        assert self.manage("api_db", "sync") == (0, "")
        assert self.manage("cell_v2", "map_cell0") == (0, "")
        code, said = self.manage("cell_v2", "create_cell", "--name", "cell1", "--verbose")
        assert code == 0
        assert self.manage("db", "sync") == (0, "")
        return said.splitlines()[-1]

    def on(self, name: str, work: Callable[[SQLite], Any]) -> Any:
        async def main() -> Any:
            db = SQLite(str(self.folder / name), Runtime(), synchronous="OFF")
            try:
                return await work(db)
            finally:
                await db.stop()

        return asyncio.run(main())


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, capsys)


def host(name: str) -> Host:
    return Host(
        id=f"10000000-0000-4000-8000-{hash(name) % 10**12:012}", number=0, host=name, hypervisor_hostname=name, hypervisor_type="QEMU",
        hypervisor_version=1, vcpus=1, ram_mb=1, disk_gb=1, cpu_info={}, host_ip="", availability_zone="nova", disabled=False,
        disabled_reason=None, forced_down=False, seen_at=1, created_at=1,
    )  # fmt: skip


def server(ident: str, **changes: Any) -> Server:
    made = Server(
        id=ident, number=1, revision=1, generation=1, project_id="p", user_id="u", name="n", hostname="n", description=None, created_at=1,
        updated_at=1, launched_at=1, terminated_at=None, deleted=False, state="active", task=None, power_state=1, host="h", node="h",
        availability_zone=None, pinned_availability_zone=None, flavor=Flavor(id="1", name="f", vcpus=2, ram_mb=512, root_gb=1),
        image_id=None, image_properties={}, key_name=None, public_key=None, metadata={}, tags=(), access_ip_v4=None, access_ip_v6=None,
        config_drive=False, user_data=None, security_groups=(), nics=(), scheduler_hints={}, scheduling=Scheduling(), reservation_id="r",
        launch_index=0, disk_config="AUTO", locked_by=None, locked_reason=None, fault=None,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def add_host(place: Place, name: str, db: str = "nova.db") -> None:
    place.on(db, lambda d: d.transact(lambda tx: host_store.insert(tx, host(name))))


def test_the_installation_guide(place: Place) -> None:
    code, said = place.manage("cell_v2", "list_cells")
    assert code == 1
    assert "is empty; make its tables with `nova-manage api_db sync`" in said
    uuid = place.made()
    assert place.manage("cell_v2", "map_cell0") == (0, "Cell0 is already setup\n")
    api, cell = f"sqlite:///{place.folder}/nova_cell0.db", f"sqlite:///{place.folder}/nova.db"
    width = len(api)
    code, said = place.manage("cell_v2", "list_cells")
    assert code == 0
    assert said.splitlines()[1].split("|")[1:-1] == [
        "  Name ", " " * 17 + "UUID" + " " * 17, " " * 14 + "Transport URL" + " " * 15, f" {_middle('Database Connection', width)} ",
        " Disabled ",
    ]  # fmt: skip
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in said.splitlines()[3:-1]]
    assert rows == [["cell0", CELL0, "none:/", api, "False"], ["cell1", uuid, "rabbit://openstack:****@controller:5672/", cell, "False"]]
    assert "RABBIT_PASS" in place.manage("cell_v2", "list_cells", "--verbose")[1]


def _middle(text: str, width: int) -> str:
    return pretty([text], [["x" * width]]).splitlines()[1][2:-2]


def test_create_cell_refuses_what_a_cell_has(place: Place) -> None:
    uuid = place.made()
    code, said = place.manage("cell_v2", "create_cell", "--name", "again")
    assert code == 2
    told = "The specified transport_url and/or database_connection combination already exists for cell"
    assert said.splitlines()[-1] == f"{told} cell1({uuid})."
    code, said = place.manage("cell_v2", "create_cell", "--database_connection", "nonsense", "--transport-url", "rabbit://a:b@c/")
    assert (code, said.startswith("Invalid URL: ")) == (1, True)
    code, _ = place.manage("cell_v2", "create_cell", "--database_connection", "sqlite:////x/y.db", "--transport-url", "http://x")
    assert code == 1
    place.conf.write_text(f"[api_database]\nconnection = sqlite:///{place.folder}/nova_api.db\n")
    told = "Must specify --transport-url if [DEFAULT]/transport_url is not set in the configuration file.\n"
    assert place.manage("cell_v2", "create_cell") == (1, told)


def test_discover_hosts(place: Place) -> None:
    uuid = place.made()
    add_host(place, "compute1")
    ident = host("compute1").id
    assert place.manage("cell_v2", "discover_hosts", "--verbose") == (
        0,
        "Found 2 cell mappings.\n"
        "Skipping cell0 since it does not contain hosts.\n"
        f"Getting computes from cell 'cell1': {uuid}\n"
        f"Checking host mapping for compute host 'compute1': {ident}\n"
        f"Creating host mapping for compute host 'compute1': {ident}\n"
        f"Found 1 unmapped computes in cell: {uuid}\n",
    )
    assert place.manage("cell_v2", "discover_hosts", "--by-service") == (0, "")
    assert place.manage("cell_v2", "discover_hosts", "--strict") == (1, "")
    code, said = place.manage("cell_v2", "list_hosts")
    assert (code, [part.strip() for part in said.splitlines()[3].split("|")[1:-1]]) == (0, ["cell1", uuid, "compute1"])
    other = f"sqlite:///{place.folder}/nova2.db"
    assert place.manage("cell_v2", "create_cell", "--database_connection", other, "--transport-url", "rabbit://a:b@c/2")[0] == 0
    place.write(cell="nova2.db")
    assert place.manage("db", "sync", "--local_cell") == (0, "")
    add_host(place, "compute1", "nova2.db")
    code, said = place.manage("cell_v2", "discover_hosts")
    assert (code, "Duplicate host mapping" in said) == (2, True)


def test_delete_and_update_cell(place: Place) -> None:
    uuid = place.made()
    assert place.manage("cell_v2", "delete_cell", "--cell_uuid", "x") == (1, "Cell with uuid x was not found.\n")
    add_host(place, "compute1")
    place.manage("cell_v2", "discover_hosts")
    assert place.manage("cell_v2", "delete_cell", "--cell_uuid", uuid) == (
        2,
        f"There are existing hosts mapped to cell with uuid {uuid}.\n",
    )
    assert place.manage("cell_v2", "update_cell", "--cell_uuid", uuid, "--disable", "--name", "first") == (0, "")
    rows = place.manage("cell_v2", "list_cells")[1].splitlines()
    assert rows[4].split("|")[1].strip() == "first"
    assert rows[4].split("|")[5].strip() == "True"
    assert place.manage("cell_v2", "update_cell", "--cell_uuid", CELL0, "--disable") == (5, "Cell0 cannot be disabled.\n")
    assert place.manage("cell_v2", "update_cell", "--cell_uuid", uuid, "--disable", "--enable")[0] == 4
    place.on("nova_api.db", lambda d: _map(d, server("s1"), uuid))
    code, said = place.manage("cell_v2", "delete_cell", "--cell_uuid", uuid, "--force")
    assert (code, said) == (3, f"There are existing instances mapped to cell with uuid {uuid}.\n")
    place.on("nova_api.db", lambda d: _forget(d, "s1"))
    assert place.manage("cell_v2", "delete_cell", "--cell_uuid", uuid, "--force") == (0, "")
    assert place.on("nova_api.db", cell_mappings.hosts) == {}


async def _map(db: SQLite, wanted: Server, cell: str) -> None:
    await db.transact(lambda tx: mappings.insert(tx, wanted))
    if cell:
        await db.transact(lambda tx: mappings.place(tx, wanted.id, cell))


async def _forget(db: SQLite, server_id: str) -> None:
    found = await mappings.get(db, server_id)
    assert found is not None
    await db.transact(lambda tx: mappings.drop(tx, found))


def test_verify_instance(place: Place) -> None:
    uuid = place.made()
    for ident, cell in (("there", uuid), ("nowhere", ""), ("lost", "gone"), ("ended", uuid)):
        place.on("nova_api.db", lambda d, ident=ident, cell=cell: _map(d, server(ident), cell))
    place.on("nova.db", lambda d: d.transact(lambda tx: servers.insert(tx, server("there"))))
    place.on("nova.db", lambda d: d.transact(lambda tx: servers.insert(tx, server("ended", number=2, deleted=True))))
    verify = ("cell_v2", "verify_instance", "--uuid")
    assert place.manage(*verify, "there") == (0, f"Instance there is in cell: cell1 ({uuid})\n")
    assert place.manage(*verify, "there", "--quiet") == (0, "")
    assert [place.manage(*verify, ident)[0] for ident in ("nowhere", "unknown", "lost", "ended")] == [1, 1, 2, 3]


def test_map_instances_after_the_api_database_was_lost(place: Place) -> None:
    uuid = place.made()
    for i in range(3):
        made = server(f"s{i}", number=i + 1, created_at=i, deleted=i == 2)
        place.on("nova.db", lambda d, made=made: d.transact(lambda tx: servers.insert(tx, made)))
    assert place.manage("cell_v2", "map_instances", "--cell_uuid", uuid, "--max-count", "1") == (1, "")
    assert place.manage("cell_v2", "map_instances", "--cell_uuid", uuid) == (0, "")
    assert place.manage("cell_v2", "verify_instance", "--uuid", "s1")[0] == 0
    assert place.on("nova_api.db", lambda d: mappings.usage(d, "p")) == {"instances": 2, "cores": 4, "ram_mb": 1024}
    assert place.manage("cell_v2", "map_instances", "--cell_uuid", "x") == (127, "Unable to find cell: x\n")


def test_simple_cell_setup(place: Place) -> None:
    place.manage("api_db", "sync")
    code, said = place.manage("cell_v2", "simple_cell_setup")
    assert (code, said.splitlines()[-1]) == (1, "No hosts found to map to cell, exiting.")
    add_host(place, "compute1")
    code, said = place.manage("cell_v2", "simple_cell_setup")
    assert (code, said) == (0, "Cell0 is already setup\n")
    assert place.manage("cell_v2", "simple_cell_setup")[1].splitlines()[-1] == "All hosts are already mapped to cell(s)."


def test_an_embedded_cloud(place: Place) -> None:
    """Without a file: the state directory, where one database holds all."""
    state = str(place.folder / "state")

    def manage(*arguments: str) -> tuple[int, str]:
        code = kilonova.run(["nova-manage", "--state", state, *arguments])
        said = place._capsys.readouterr()
        return code, said.out + said.err

    code, said = manage("cell_v2", "list_cells")
    assert (code, "holds no database" in said) == (1, True)
    assert manage("api_db", "sync") == (0, "")
    assert manage("db", "sync") == (0, "")
    assert manage("cell_v2", "map_cell0") == (0, "")
    assert manage("cell_v2", "create_cell", "--name", "cell1", "--verbose") == (0, "00000000-0000-0000-0000-000000000001\n")
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in manage("cell_v2", "list_cells")[1].splitlines()[3:-1]]
    assert [row[:3] for row in rows] == [["cell0", CELL0, "none:/"], ["cell1", "00000000-0000-0000-0000-000000000001", ""]]
    assert rows[0][3] == rows[1][3] == f"sqlite:///{state}/kilonova.db"


# ---- wrong databases


def test_swapped_empty_and_foreign_databases(place: Place) -> None:
    place.made()
    place.write(api="nova.db", cell="nova_api.db")
    for arguments in (("cell_v2", "list_cells"), ("api_db", "sync")):
        code, said = place.manage(*arguments)
        assert code == 1
        assert f"The API database sqlite:///{place.folder}/nova.db is a cell's" in said
        assert len(said.splitlines()) == 1
    code, said = place.manage("db", "sync")
    assert (code, "is the API database: the connections of the API database and of the cell are swapped." in said) == (1, True)

    with sqlite3.connect(place.folder / "keystone.db") as keystone:
        for table in ("project", "user", "alembic_version"):
            keystone.execute(f"CREATE TABLE {table} (id INTEGER)")
    place.write(api="keystone.db")
    for arguments in (("cell_v2", "list_cells"), ("api_db", "sync")):
        code, said = place.manage(*arguments)
        assert (code, "is another program's: it holds alembic_version, project, user and nothing of compute's." in said) == (1, True)
    place.write(cell="keystone.db")
    assert place.manage("db", "sync")[0] == 1
    with sqlite3.connect(place.folder / "keystone.db") as keystone:
        assert len(keystone.execute("SELECT name FROM sqlite_master").fetchall()) == 3, "nothing was written into it"


def test_upgrade_check(place: Place) -> None:
    code, said = place.run("nova-status", "upgrade", "check")
    assert code == 2
    assert "| Result: Failure " in said
    uuid = place.made()
    code, said = place.run("nova-status", "upgrade", "check")
    assert code == 1, "there are no tables of placement"
    assert said.splitlines()[3:6] == [
        line.ljust(63) + "|" for line in ("| Check: Cells v2", "| Result: Success", said.splitlines()[5][:63])
    ]
    add_host(place, "compute1")
    code, said = place.run("nova-status", "upgrade", "check")
    assert (code, "1 compute hosts are not mapped" in said.replace("\n", " ")) == (2, True)
    place.manage("cell_v2", "discover_hosts")
    assert place.run("nova-status", "upgrade", "check")[0] == 1
    place.manage("cell_v2", "update_cell", "--cell_uuid", uuid, "--database_connection", f"sqlite:///{place.folder}/nova_api.db")
    code, said = place.run("nova-status", "upgrade", "check")
    assert code == 2
    place.conf.write_text("nonsense")
    assert place.run("nova-status", "upgrade", "check")[0] == 255


def test_forms() -> None:
    assert drawn([("A", Result(SUCCESS)), ("Longer", Result(FAILURE, "word " * 20))]).splitlines() == [
        "+------------------------------------------------------------+",
        "| Upgrade Check Results                                      |",
        "+------------------------------------------------------------+",
        "| Check: A                                                   |",
        "| Result: Success                                            |",
        "| Details: None                                              |",
        "+------------------------------------------------------------+",
        "| Check: Longer                                              |",
        "| Result: Failure                                            |",
        "| Details: word word word word word word word word word word |",
        "|   word word word word word word word word word word        |",
        "+------------------------------------------------------------+",
    ]
    assert pretty(("Name", "X"), []) == "+------+---+\n| Name | X |\n+------+---+"
    assert cell0_connection("mysql+pymysql://nova:p@db/nova?charset=utf8") == "mysql+pymysql://nova:p@db/nova_cell0?charset=utf8"
    assert cell0_connection("sqlite:////var/lib/nova/nova.sqlite") == "sqlite:////var/lib/nova/nova_cell0.sqlite"
