"""policy.yaml: overrides of rules, for all services of a cloud."""

import asyncio
from pathlib import Path

import pytest

from kilonova.core.policy import PolicyError, overrides
from kilonova.core.runtime import Runtime
from kilonova.testing.cloud import WholeCloud


def test_a_file_that_is_missing_empty_or_wrong(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    assert overrides(str(path)) == {}
    path.write_text("# nothing yet\n")
    assert overrides(str(path)) == {}
    for wrong in ("- a\n", "a: [b\n", "a: 5\n"):
        path.write_text(wrong)
        with pytest.raises(PolicyError, match=r"policy\.yaml"):
            overrides(str(path))


def test_an_override_holds_and_an_unknown_rule_is_told(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text('"os_compute_api:servers:index": "role:admin"\n"no:such:rule": "@"\n')

    async def main() -> None:
        w = WholeCloud(Runtime(), str(tmp_path))
        await w.start()
        demo = w.client("compute", await w.token("demo"))
        admin = w.client("compute", await w.token("admin"))
        assert (await demo.get("/v2.1/servers")).status == 403
        assert (await demo.get("/v2.1/servers/detail")).status == 200
        assert (await admin.get("/v2.1/servers")).status == 200
        assert "no:such:rule" in w.log.getvalue()
        for service in w.cloud.edges:
            for path in ("/healthz", "/metrics"):
                reply = await w.anonymous(service).get(path)
                assert reply.status == 200, (service, path, reply)
        await w.stop()

    asyncio.run(main())
