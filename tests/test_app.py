"""What the composition root makes of a plan."""

import io
from pathlib import Path

from kilonova.app import Cloud
from kilonova.core.log import Sink
from kilonova.core.runtime import Runtime
from kilonova.plan import Plan


def test_hosts_have_agents_only_for_services_that_are_there(tmp_path: Path) -> None:
    def agents(*services: str) -> tuple[int, int]:
        cloud = Cloud(Plan(state=str(tmp_path), services=services, hosts=2), Runtime(), Sink(io.StringIO()), database=":memory:")
        return len(cloud.network_agents), len(cloud.compute_agents)

    assert agents("identity", "placement") == (0, 0)
    assert agents("identity", "network") == (2, 0)
    assert agents("identity", "image", "placement", "network", "compute") == (2, 2)
