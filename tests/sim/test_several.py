"""The ordeal of a cloud of several processes: hand-over of leases and of the lead, an absent broker, processes that sleep and wake up."""

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from kilonova.compute.drivers.fake import Fake
from kilonova.core.db import Transaction
from kilonova.core.leases import Lease
from kilonova.core.operations import Operations
from kilonova.placement.service import PlacementService
from kilonova.testing import ordeal

from .test_ordeal import ROOT, told

FIXED = (3, 237, 20093, 50135, 2376736324)
"""Each has found something once."""


@pytest.mark.parametrize("seed", FIXED)
def test_a_cloud_of_several_processes_keeps_its_promises(seed: int) -> None:
    result = ordeal.run(seed, several=True)
    assert not result.failures, told(result)
    assert result.requests >= 30 * result.minutes
    assert sum(result.faults.values()) >= 5 * result.minutes
    assert result.lives >= 5
    log = "\n".join(result.log)
    for seen in ("operation adopted", "operation was taken over", "leads the network agents no more", "stopped for", "broker away"):
        assert seen in log, f"nothing like {seen!r} happened"


def test_a_fresh_seed() -> None:
    result = ordeal.run(int.from_bytes(os.urandom(4), "big"), several=True)
    assert not result.failures, told(result)


def test_the_digest_depends_on_the_seed_alone() -> None:
    digests = []
    for number in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "tools/sim.py", "--seed", "5", "--minutes", "3", "--several"],
            env={**os.environ, "PYTHONHASHSEED": number}, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        digests.append(done.stdout.splitlines()[-1])
    assert re.fullmatch(r"[0-9a-f]{64}", digests[0])
    assert digests[0] == digests[1] == ordeal.run(5, 3, several=True).digest
    assert ordeal.run(8, 3, several=True).digest != digests[0]


async def nothing(*arguments: Any, **options: Any) -> None:
    return None


async def none(self: Operations, *, everything: bool = False) -> int:
    return 0


async def only_what_is_free(self: Lease, tx: Transaction) -> int | None:
    row = await tx.one(self._get, {"key": self.name})
    return None if row is not None and row[0] != self.owner else await CLAIM(self, tx)


CLAIM = Lease._claim


async def whoever_holds_it(self: PlacementService, ctx: Any, consumer_id: str, *, up_to: int | None = None, for_good: bool = False) -> None:
    await RELEASE(self, ctx, consumer_id, for_good=for_good)


RELEASE = PlacementService.release


@pytest.mark.parametrize(
    ("where", "name", "instead", "found"),
    [
        (Operations, "adopt", none, "not at rest|since"),
        (PlacementService, "release", nothing, "is no server"),
        (Fake, "destroy", nothing, "belongs to no server|runs on"),
        (Lease, "_claim", only_what_is_free, "dataplane of"),
    ],
    ids=["nobody adopts", "allocations stay", "guests stay", "the lead is never taken over"],
)
def test_a_planted_mistake_is_found(where: Any, name: str, instead: Any, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, name, instead)
    seen: list[str] = []
    for seed in range(1, 9):
        seen += ordeal.run(seed, 3, several=True).failures
        if any(re.search(found, text) for text in seen):
            return
    raise AssertionError(f"nothing like {found!r} was found: {seen}")


def test_a_release_by_whoever_was_overtaken_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: it frees what a later runner holds. A runner must be stopped at the right moment for that: one seed of three finds it."""
    monkeypatch.setattr(PlacementService, "release", whoever_holds_it)
    for seed in range(31, 46):
        if any("and holds nothing" in text for text in ordeal.run(seed, several=True).failures):
            return
    raise AssertionError("nobody noticed")
