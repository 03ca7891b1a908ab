"""What Nova no longer serves says so."""

from collections.abc import Callable

from kilonova.compute.api.removed import PATHS
from kilonova.testing.compute import ComputeWorld
from tests.compute.test_flavors import client

Run = Callable[..., None]


def test_removed_urls_and_actions(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        for version in ("2.1", "2.100"):
            c = client(w, version=version)
            for methods, path in PATHS:
                for method in methods.split():
                    reply = await c.request(
                        method, "/v2.1" + path.replace("{", "").replace("}", ""), {} if method in ("POST", "PUT") else None
                    )
                    assert (reply.status, reply.json["computeFault"]["code"]) == (410, 410), (method, path)
            for action in ("resetNetwork", "os-getRDPConsole"):
                assert (await c.post("/v2.1/servers/x/action", {action: None})).status == 410
        assert (await client(w, "nobody").get("/v2.1/os-cells")).status == 401

    compute(story)
