"""A small stand: that `python -m tests.probe` works, and what its disasters may do to one control node and two hypervisors in seconds."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.probe.__main__ import Probe
from tests.probe.disasters import Disasters
from tests.probe.stand import Stand, standing

SEED = int(os.environ.get("KILONOVA_SEED", "1"))


def story() -> tuple[list[str], int, int]:
    """(what is broken, servers accepted, disasters)"""
    with standing(Stand(controls=1, hypervisors=2, hosts=2), enter=True) as stand:
        probe = Probe(stand, SEED, rate=6)
        d = probe.disasters = Disasters(stand, probe.disasters.chance, probe.tell, pause_s=(0.5, 1.5))
        d.kinds = [(2, lambda: d.kill("api")), (3, lambda: d.kill("node-")), (2, d.full_disk), (2, d.unplug_node), (1, d.jump)]
        d.longest_s, probe.rest_s = 3.0, 90.0
        asyncio.run(probe.run(0.15, calm_s=1.0))
        return probe.broken, sum(asked.accepted for asked in probe.load.told.servers.values()), sum(d.counts.values())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_small_cloud_survives_its_disasters() -> None:
    with ThreadPoolExecutor(1) as pool:
        broken, accepted, disasters = pool.submit(story).result()
    assert broken == []
    assert accepted >= 5 and disasters >= 3
