"""Ten minutes of faults against a whole cloud, for a fixed set of seeds and some fresh ones; and planted mistakes, which must be found.

.venv/bin/python tools/sim.py --seed N --log FILE      one seed, with its log
.venv/bin/python tools/sim.py --seeds 1000             many
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilonova.compute.drivers import GuestSpec, NicSpec, PowerState
from kilonova.compute.drivers.fake import Fake
from kilonova.compute.drivers.fake.host import FakeGuest
from kilonova.compute.ops import create, stop
from kilonova.compute.store import mappings
from kilonova.core.operations import Operations
from kilonova.hypervisor import Machines
from kilonova.image.drivers.memory import MemoryStore
from kilonova.network.service import NetworkService
from kilonova.placement.service import PlacementService
from kilonova.testing import ordeal
from kilonova.testing.invariants import Watch

ROOT = Path(__file__).parents[2]
FIXED = (6, 21, 2137, 3031, 3045, 20032, 1143920100)
"""Each has found something once."""
FRESH = 3


def told(result: ordeal.Result) -> str:
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    again = f".venv/bin/python tools/sim.py --seed {result.seed} --minutes {result.minutes:g} --log /tmp/sim.log"
    return "\n".join([f"seed {result.seed} at commit {head or 'unknown'}; again: {again}", *result.failures, *result.log[-30:]])


@pytest.mark.parametrize("seed", FIXED)
def test_a_seed_that_found_something_once_finds_nothing_now(seed: int) -> None:
    result = ordeal.run(seed)
    assert not result.failures, told(result)
    minutes = result.minutes
    assert result.requests >= 30 * minutes
    assert sum(result.faults.values()) >= 5 * minutes
    assert ordeal.HOSTS >= 20
    assert result.lives >= 2
    assert result.statuses[202] > 5 * minutes


def test_fresh_seeds() -> None:
    """Other ones each time; a failure says which."""
    for _ in range(FRESH):
        result = ordeal.run(int.from_bytes(os.urandom(4), "big"))
        assert not result.failures, told(result)


def test_the_digest_does_not_depend_on_how_python_hashes() -> None:
    digests = []
    for number in ("1", "2"):
        command = [sys.executable, "tools/sim.py", "--seed", "4", "--minutes", "3"]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": number}, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        digests.append(done.stdout.splitlines()[-1])
    assert re.fullmatch(r"[0-9a-f]{64}", digests[0])
    assert digests[0] == digests[1]
    assert ordeal.run(5, 1).digest != ordeal.run(6, 1).digest


def test_what_was_left_behind_may_keep_its_port_and_runs_but_once() -> None:
    """As in seeds 20032 and 20201: a server is deleted while its host is down, and its user gives its port to another server."""
    watch = Watch(Machines())

    def runs(server_id: str, host: str) -> None:
        nic = NicSpec(port_id="p", mac="fa:16:3e:00:00:01", device_name="tap0")
        guest = FakeGuest(GuestSpec(server_id=server_id, name=server_id, vcpus=1, ram_mb=64, root_gb=1, nics=(nic,)))
        guest.power_state = PowerState.RUNNING
        watch.machines.of(host).guests[server_id] = guest

    runs("old", "host-1")
    runs("new", "host-2")
    assert [text for text in watch.twice() if "both have the port" in text] != []
    watch.left_behind["old"] = "host-1"
    assert list(watch.twice()) == []
    runs("third", "host-3")
    assert list(watch.twice()) == ["servers new and third both have the port p"]
    runs("old", "host-4")
    assert "server old runs on host-1 and on host-4" in list(watch.twice())


# ---- planted mistakes


async def nothing(*arguments: Any, **options: Any) -> None:
    return None


def _allocations_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PlacementService, "release", nothing)


def _ports_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NetworkService, "release", nothing)


def _quota_is_kept(patch: pytest.MonkeyPatch) -> None:
    async def drop(tx: Any, mapping: mappings.Mapping) -> None:
        await tx.run(mappings._DROP_REQUEST, {"id": mapping.server_id})
        await tx.run(mappings._DROP, {"id": mapping.server_id})

    patch.setattr(mappings, "drop", drop)


def _guests_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fake, "destroy", nothing)


def _nobody_adopts(patch: pytest.MonkeyPatch) -> None:
    async def none(self: Operations, *, everything: bool = False) -> int:
        return 0

    patch.setattr(Operations, "adopt", none)


def _a_silent_host_is_believed_dead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(create, "_left" if hasattr(create, "_left") else "_destroyed", nothing)


def _stop_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    async def settled(c: Any, op: Any) -> None:
        await c.cell_db.transact(lambda tx: c.cell_ops.finish(tx, op))

    patch.setattr(stop, "run", settled)


def _a_deleted_image_stays_on_the_disk(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "delete", nothing)


def _a_lost_commit_is_believed_undone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NetworkService, "_doubt", lambda self: None)


PLANTED: tuple[tuple[Callable[[pytest.MonkeyPatch], None], str, int], ...] = (
    (_allocations_stay, "is no server", 1),
    (_ports_stay, "which is not there", 1),
    (_quota_is_kept, "its quota counts", 1),
    (_guests_stay, "belongs to no server|runs on", 1),
    (_nobody_adopts, "not at rest|since", 1),
    (_a_silent_host_is_believed_dead, "runs on", 1),
    (_stop_is_forgotten, "no operation owns it", 1),
    (_a_deleted_image_stays_on_the_disk, "no image has it", 1),
    (_a_lost_commit_is_believed_undone, "dataplane of", 60),
)
"""What is planted, what is said of it, and the seed to begin with: the first that finds it."""


@pytest.mark.parametrize(("plant", "found", "first"), PLANTED, ids=[plant.__name__.strip("_") for plant, _, _ in PLANTED])
def test_a_planted_mistake_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], found: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    seen: list[str] = []
    for seed in range(first, first + 20):
        seen += ordeal.run(seed, 5).failures
        if any(re.search(found, failure) for failure in seen):
            return
    raise AssertionError(f"nothing like {found!r} was found: {seen}")
