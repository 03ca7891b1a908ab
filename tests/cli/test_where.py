"""kilonova where: the lines it reads are the route tables, and chains end where the work is done."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from kilonova.cli import where


@pytest.mark.parametrize("path", sorted(where.TOP.glob("*/routes.py")), ids=lambda path: path.parent.name)
def test_every_route_is_read(path: Path) -> None:
    """As if the tables had been imported."""
    service = path.parent.name
    served = importlib.import_module(f"kilonova.{service}.routes").ROUTES
    read = [line for line in where.routes(whole=True) if line.service == service]
    assert {(r.method, r.path, r.action, r.since, r.policy) for r in served} == {
        (line.method, line.path, line.action, line.since, line.policy) for line in read
    }


def test_every_handler_is_found() -> None:
    for line in where.routes(whole=True):
        steps = list(where._handler(line, set()))
        assert steps and not steps[0].place.endswith(":1"), line


def test_a_boot_is_followed_to_the_driver() -> None:
    steps = where.find(["create", "server"])
    kinds = [step.kind for step in steps]
    assert kinds[:3] == ["route", "handler", "op"]
    assert steps[0].place == "POST /servers" and "os_compute_api:servers:create" in steps[0].about
    driver = next(step for step in steps if step.kind == "driver" and step.about.startswith("spawn"))
    agent = next(step for step in steps if step.kind == "agent" and "Spawn" in step.about)
    assert steps.index(agent) < steps.index(driver) and agent.place.startswith("compute/agent/")


def test_actions_are_found_by_their_names() -> None:
    found = [step.place for step in where.find(["os-start"]) if step.kind == "route"]
    assert found == ["POST /servers/{server_id}/action os-start"]


@pytest.mark.parametrize(
    ("words", "text", "found"),
    [
        (["live", "migrate"], "live_migration", True),
        (["live", "migrate"], "os-migrateLive", True),
        (["create", "servers"], "POST /servers create", True),
        (["live"], "delivery", False),
        (["reboot"], "server_reboots", True),
    ],
)
def test_matching(words: list[str], text: str, found: bool) -> None:
    assert where.matches([root for word in words for root in where.roots(word)], text) is found


def test_nothing_found_is_told_and_no_service_is_imported() -> None:
    code = "import sys; from kilonova.__main__ import main; sys.argv = ['kilonova', 'where', 'frobnicate']; "
    code += "status = main(); assert not {'sqlalchemy', 'uvicorn', 'oslo_config'} & set(sys.modules); sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "frobnicate" in done.stderr
