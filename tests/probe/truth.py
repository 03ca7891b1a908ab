"""What must be true of the stand's cloud: the simulation's invariants (`kilonova.testing.invariants`), read from the real database and from
the hypervisors' journals, and what the logs may say."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from kilonova.app import Cloud
from kilonova.compute.domain import hosts as host_domain
from kilonova.compute.drivers.fake.journal import GuestJournal
from kilonova.compute.model import Flavor
from kilonova.core.db import Database
from kilonova.core.db.opening import open_database
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.hypervisor import Machines
from kilonova.testing import invariants
from kilonova.testing.workload import Told
from tests.cluster.cluster import PASSWORD
from tests.probe.stand import BROKER_PASSWORD, DATABASE_PASSWORD, Program, Stand

MISTAKES = (
    "KeyError", "TypeError", "AttributeError", "AssertionError", "IndexError", "UnboundLocalError", "NameError", "RecursionError",
    "InvalidStateError", "ValidationError", "DecodeError",
)  # fmt: skip
"""Exceptions in a log that no fault of a machine explains."""
NEVER = (PASSWORD, BROKER_PASSWORD, f":{DATABASE_PASSWORD}@", "gAAAA")


class _Resources:
    """What a server of a flavor holds."""

    @staticmethod
    def resources(flavor: Flavor) -> dict[str, int]:
        return host_domain.resources(flavor)


class _View:
    """As much of a Cloud as the invariants look at."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.compute = _Resources()


class Truth:
    """Reads only. `close` it."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.runtime = Runtime()
        self.db = open_database(stand.database_url, self.runtime, Log("truth", Sink(level="error")))
        self._twice: set[str] = set()

    async def close(self) -> None:
        await self.db.stop()
        self.runtime.close()

    def machines(self) -> Machines:
        """From copies of the journals: opening one writes it anew."""
        found = Machines()
        with tempfile.TemporaryDirectory() as folder:
            for program in self.stand.of("node-"):
                file = program.state / "instances" / "fake-guests.jsonl"
                if file.exists():
                    copy = Path(folder) / program.name
                    copy.write_bytes(file.read_bytes())
                    journal = GuestJournal(copy)
                    found.guests.update(journal.hosts)
                    journal.close()
        return found

    def twice(self) -> list[str]:
        """Guests that run twice, now and when we looked before: the journals are not read at one moment."""
        now = set(invariants.Watch(self.machines()).twice())
        found, self._twice = sorted(now & self._twice), now
        return found

    async def at_rest(self, told: Told) -> list[str]:
        view: Any = _View(self.db)
        cloud: Cloud = view
        machines = self.machines()
        rows = [invariants.Row(*row) for row in await self.db.all(invariants.SERVERS)]
        out = [f"operation left: {op}" for op in await invariants.open_operations(cloud)]
        return [*out, *await invariants.servers_at_rest(cloud, machines, told, rows)]

    async def statuses(self) -> Counter[str]:
        rows = [invariants.Row(*row) for row in await self.db.all(invariants.SERVERS)]
        return Counter(row.state for row in rows)

    async def faults(self) -> Counter[str]:
        """Why servers are in ERROR."""
        rows = [invariants.Row(*row) for row in await self.db.all(invariants.SERVERS)]
        return Counter(str(msgspec.to_builtins(row.fault).get("message", row.fault)) for row in rows if row.fault is not None)


# ---- logs


def lines(program: Program) -> Iterator[dict[str, Any]]:
    for file in sorted(program.log_file.parent.glob("*")):
        for line in file.read_text(errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # torn by a kill or a full disk
                continue


def errors(stand: Stand) -> Counter[tuple[str, str]]:
    """(message, first words of the exception) -> how often."""
    return Counter(
        (str(line["message"])[:90], str(line.get("error", ""))[:110])
        for program in stand.programs.values()
        for line in lines(program)
        if line.get("level") == "error"
    )


def mistakes(stand: Stand) -> list[str]:
    """Error lines that no fault explains, and secrets."""
    found = []
    for program in stand.programs.values():
        for line in lines(program):
            kind = str(line.get("error", "")).partition(":")[0]
            if line.get("level") == "error" and (kind in MISTAKES or "never retrieved" in str(line["message"])):
                found.append(f"{program.name}: {line['message']}: {line.get('error')}\n{str(line.get('trace', ''))[-1500:]}")
        text = program.log() + program.out.read_text(errors="replace")
        found += [f"{program.name}: its log has the secret {word[:5]}…" for word in NEVER if word in text]
    return found
