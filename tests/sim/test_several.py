"""The ordeal of a cloud of several processes: hand-over of leases and of the lead, an absent broker, processes that sleep and wake up."""

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from kilonova.compute.ops import create
from kilonova.core.leases import Lease
from kilonova.core.operations import Operations
from kilonova.testing import ordeal

from .test_ordeal import ROOT, told

FIXED = (3, 11)
"""3 has found ports that a runner made when it woke, of a server that was deleted while it slept."""


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


def test_nobody_who_adopts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(self: Operations, *, everything: bool = False) -> int:
        return 0

    monkeypatch.setattr(Operations, "adopt", none)
    failures = [text for seed in (1, 2, 3) for text in ordeal.run(seed, 5, several=True).failures]
    assert any(re.search("not at rest|since", text) for text in failures), failures


def test_what_a_sleeper_makes_when_it_wakes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*arguments: Any) -> None:
        return None

    monkeypatch.setattr(create, "overtaken", nothing)
    failures = ordeal.run(3, several=True).failures
    assert any("which is not there" in text for text in failures), failures


def test_a_lead_that_nobody_takes_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of the dead never run out."""
    real = Lease._claim

    async def claim(self: Lease, tx: Any) -> int | None:
        row = await tx.one(self._get, {"key": self.name})
        return None if row is not None and row[0] != self.owner else await real(self, tx)

    monkeypatch.setattr(Lease, "_claim", claim)
    failures = [text for seed in (1, 2) for text in ordeal.run(seed, 5, several=True).failures]
    assert failures
