"""kilonova security-check: every item that can fail is seen to pass and to fail, of settings and files as they are."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kilonova.cli.config import tables
from kilonova.cli.security_items import FAIL, ITEMS, NA, PASS, Facts, Stored
from kilonova.cli.state import prepare
from kilonova.cli.tree import kilonova
from kilonova.core import config
from kilonova.core.bus.config import parse_url as broker_url
from kilonova.core.db.url import parse as db_url

BROKER, _ = broker_url("rabbit://kilonova:secret@broker.example:5672/")
LOCAL_BROKER, _ = broker_url("rabbit://kilonova:secret@127.0.0.1:5672/")
GUEST, _ = broker_url("rabbit://broker.example:5672/")
AGENT, _ = broker_url("rabbit://agent.one:secret@broker.example:5672/")
NEVER = {
    "Check-Dashboard", "Check-Block", "Check-Shared", "Check-Key-Manager",  # there is none
    "Check-Identity-06", "Check-Compute-03", "Check-Image-03", "Check-Image-05", "Check-Neutron-03",  # no setting could make it otherwise
}  # fmt: skip


def conf(**values: Any) -> Any:
    """group__option = value"""
    overrides = {tuple(name.split("__")) if "__" in name else ("DEFAULT", name): value for name, value in values.items()}
    return config.build(tables(), (), overrides)  # type: ignore[arg-type]


def facts(**changes: Any) -> Facts:
    return Facts(**{"conf": changes.pop("conf", None) or conf(), "files": (), "state": None, "now_us": 0, **changes})


def file(mode: int) -> Callable[[Path], Facts]:
    def make(folder: Path) -> Facts:
        path = folder / "kilonova.conf"
        path.write_text("[DEFAULT]\n")
        path.chmod(mode)
        return facts(files=(path,), secrets=(path,), owner=os.geteuid())

    return make


def elsewhere(folder: Path) -> Facts:
    """A file of a user that is neither root nor the cloud's; where we may not make one, the cloud's is another."""
    path = folder / "kilonova.conf"
    path.write_text("[DEFAULT]\n")
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    return facts(files=(path,), owner=os.geteuid() + 1)


KEYSTONE = {"keystone_authtoken__auth_url": "https://keystone/v3"}
GLANCE = {**KEYSTONE, "keystone_authtoken__username": "nova", "glance__endpoint_override": "https://glance"}
PROXY = {"neutron__service_metadata_proxy": True}
EXPOSED = {"bind": "0.0.0.0", "public_host": "cloud.example"}
PG = "postgresql://kilonova:secret@db.example/kilonova"
CASES: dict[str, list[tuple[str, Any]]] = {
    "Check-Identity-01": [(NA, facts()), (PASS, file(0o640)), (FAIL, file(0o660)), (FAIL, file(0o602)), (FAIL, elsewhere)],
    "Check-Identity-02": [(NA, facts()), (PASS, file(0o640)), (PASS, file(0o600)), (FAIL, file(0o644)), (FAIL, file(0o660))],
    "Check-Identity-03": [
        (PASS, facts()), (PASS, facts(**EXPOSED, tls=True)), (FAIL, facts(**EXPOSED)), (FAIL, facts(**EXPOSED, insecure=True)),
        (FAIL, facts(public_host="cloud.example")), (NA, facts(agent=True)),
    ],
    "Check-Identity-05": [(PASS, facts()), (FAIL, facts(body_bytes=1 << 30)), (NA, facts(conf=conf(**KEYSTONE)))],
    "Check-Identity-07": [(PASS, facts()), (FAIL, facts(conf=conf(debug=True)))],
    "Check-Identity-08": [(PASS, facts()), (FAIL, facts(conf=conf(token__expiration=864_000)))],
    "Check-Compute-04": [
        (PASS, facts()), (PASS, facts(conf=conf(**KEYSTONE))), (FAIL, facts(conf=conf(keystone_authtoken__auth_url="http://keystone/v3"))),
        (FAIL, facts(conf=conf(**KEYSTONE, keystone_authtoken__insecure=True))),
    ],
    "Check-Compute-05": [
        (PASS, facts()), (PASS, facts(conf=conf(**GLANCE))), (FAIL, facts(conf=conf(**{**GLANCE, "glance__endpoint_override": "http://glance:9292"}))),
        (FAIL, facts(conf=conf(**GLANCE, glance__insecure=True))), (NA, facts(agent=True)),
    ],
    "Check-Kilonova-01": [(NA, facts()), (PASS, file(0o600)), (FAIL, file(0o640)), (FAIL, file(0o604))],
    "Check-Kilonova-02": [(PASS, facts()), (FAIL, facts(conf=conf(identity__password_hash_rounds=4)))],
    "Check-Kilonova-03": [
        (PASS, facts()), (PASS, facts(rules={"a:b": "role:reader"})), (FAIL, facts(rules={"a:b": "@"})), (FAIL, facts(rules={"a:b": ""})),
        (FAIL, facts(policy_problem="policy.yaml cannot be read.")), (FAIL, facts(rules={"a:b": "role:admin or @"})),
        (FAIL, facts(rules={"a:b": "not !"})), (FAIL, facts(rules={"a:b": "rule:x", "x": "@"})), (PASS, facts(rules={"a:b": "rule:x"})),
        (PASS, facts(rules={"a:b": "rule:c", "c": "rule:a:b"})), (PASS, facts(rules={"a:b": "@ and role:reader"})),
        (PASS, facts(rules={"a:b": "!"})),
    ],
    "Check-Kilonova-04": [
        (NA, facts()), (PASS, facts(conf=conf(**PROXY, neutron__metadata_proxy_shared_secret="s" * 20))), (FAIL, facts(conf=conf(**PROXY))),
        (FAIL, facts(conf=conf(**PROXY, neutron__metadata_proxy_shared_secret="short"))),
    ],
    "Check-Kilonova-05": [
        (NA, facts()), (PASS, facts(brokers=LOCAL_BROKER)), (FAIL, facts(brokers=BROKER)),
        (PASS, facts(brokers=BROKER, conf=conf(oslo_messaging_rabbit__ssl=True))),
    ],
    "Check-Kilonova-06": [
        (NA, facts()), (NA, facts(brokers=BROKER)), (PASS, facts(brokers=BROKER, users=("kilonova",))), (FAIL, facts(brokers=GUEST)),
        (FAIL, facts(brokers=BROKER, users=("guest", "kilonova"))), (FAIL, facts(brokers=BROKER, users_problem="It does not answer.")),
    ],
    "Check-Kilonova-07": [
        (NA, facts(brokers=BROKER)), (PASS, facts(brokers=BROKER, stored=Stored(joined=("one",)))),
        (FAIL, facts(brokers=BROKER, stored=Stored(unjoined=("two",)))),
        (FAIL, facts(brokers=BROKER, stored_problem="It does not answer.")),
        (PASS, facts(brokers=AGENT, agent=True)), (FAIL, facts(brokers=BROKER, agent=True)),
    ],
    "Check-Kilonova-08": [
        (NA, facts(brokers=BROKER)), (PASS, facts(brokers=BROKER, conf=conf(broker__management_url="https://a:b@broker.example:15671"))),
        (PASS, facts(brokers=BROKER, conf=conf(broker__management_url="http://a:b@127.0.0.1:15672"))),
        (FAIL, facts(brokers=BROKER, conf=conf(broker__management_url="http://a:b@broker.example:15672"))),
    ],
    "Check-Kilonova-09": [
        (NA, facts()), (NA, facts(databases=(db_url("sqlite:////x.db"),))), (FAIL, facts(databases=(db_url(PG),))),
        (FAIL, facts(databases=(db_url(PG + "?sslmode=require"),))), (PASS, facts(databases=(db_url(PG + "?sslmode=verify-full"),))),
        (PASS, facts(databases=(db_url("postgresql://kilonova@127.0.0.1/kilonova"),))),
        (FAIL, facts(databases=(db_url("mysql://kilonova@db.example/kilonova"),))),
        (PASS, facts(databases=(db_url("mysql://kilonova@db.example/kilonova?ssl_ca=/ca.pem"),))),
    ],
    "Check-Kilonova-10": [
        (NA, facts(brokers=BROKER)), (PASS, facts(brokers=AGENT, agent=True)),
        (FAIL, facts(brokers=AGENT, agent=True, databases=(db_url(PG),))),
    ],
    "Check-Kilonova-11": [
        (NA, facts(brokers=BROKER)), (NA, facts(brokers=BROKER, stored=Stored())),
        (PASS, facts(brokers=BROKER, stored=Stored(key_encrypted=True))), (FAIL, facts(brokers=BROKER, stored=Stored(key_encrypted=False))),
        (FAIL, facts(brokers=BROKER, stored_problem="It does not answer.")),
    ],
    "Check-Kilonova-12": [
        (NA, facts(brokers=BROKER)), (PASS, facts(brokers=BROKER, stored=Stored(joined=("one",)))),
        (FAIL, facts(brokers=BROKER, stored=Stored(joined=("one",), ending=("one",)))),
        (FAIL, facts(brokers=BROKER, stored_problem="It does not answer.")),
    ],
}  # fmt: skip
SAME = {
    "Check-Identity-01": ("Check-Compute-01", "Check-Image-01", "Check-Neutron-01"),
    "Check-Identity-02": ("Check-Compute-02", "Check-Image-02", "Check-Neutron-02"),
    "Check-Identity-03": ("Check-Neutron-05",),
    "Check-Compute-04": ("Check-Image-04", "Check-Neutron-04"),
}
CHECKS = {ident: check for ident, _, check in ITEMS}


@pytest.mark.parametrize("ident", [*CASES, *(other for others in SAME.values() for other in others)])
def test_both_outcomes(ident: str, tmp_path: Path) -> None:
    case = next((first for first, others in SAME.items() if ident in others), ident)
    seen = set()
    for number, (wanted, given) in enumerate(CASES[case]):
        folder = tmp_path / str(number)
        folder.mkdir()
        verdict = CHECKS[ident](given if isinstance(given, Facts) else given(folder))
        assert verdict.result == wanted, (number, verdict)
        assert verdict.reason.endswith(".") and bool(verdict.advice) == (wanted == FAIL), verdict
        assert "secret" not in verdict.reason.replace("The secret", "").replace("with a secret", "")
        seen.add(wanted)
    assert {PASS, FAIL} <= seen


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_files_that_may_not_be_looked_at_are_no_pass() -> None:
    with tempfile.TemporaryDirectory(prefix="kn-check-") as name:
        (Path(name) / "key").write_text("secret")
        child = os.fork()
        if not child:
            try:
                os.setuid(65534)
                os._exit(0 if CHECKS["Check-Kilonova-01"](facts(secrets=(Path(name) / "key",))).result == FAIL else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0


def test_the_file_that_a_joined_host_runs_with_is_the_one_that_is_looked_at(tmp_path: Path) -> None:
    state = prepare(tmp_path / "state")
    state.write("kilonova.conf", "[DEFAULT]\ndebug = true\n")
    state.write("join/kilonova.conf", "[DEFAULT]\ntransport_url = rabbit://agent.one:x@127.0.0.1/\n")
    found = of(run("--state", str(state.path), "--json")[1])
    assert found["Check-Kilonova-07"] == PASS and found["Check-Kilonova-10"] == PASS


def test_every_item_is_tried_or_cannot_fail() -> None:
    tried = {*CASES, *(other for others in SAME.values() for other in others)}
    assert tried | NEVER == set(CHECKS) and not tried & NEVER
    assert len(CHECKS) == len(ITEMS)
    for ident in NEVER:
        assert CHECKS[ident](facts()).result == NA  # a pass has been looked at


# ---------------------------------------------------------------- the command, on files


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(kilonova, ["security-check", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def of(output: str) -> dict[str, str]:
    return {one["id"]: one["result"] for one in json.loads(output)}


def test_a_sound_configuration_passes_and_an_unsound_one_fails(tmp_path: Path) -> None:
    state = prepare(tmp_path / "state")
    sound = tmp_path / "sound.conf"
    sound.write_text(f"[DEFAULT]\nstate_path = {state.path}\n")
    sound.chmod(0o640)
    code, output = run("--config", str(sound), "--json")
    assert code == 0, output
    assert set(of(output).values()) == {PASS, NA}
    (state.path / "policy.yaml").write_text('"os_compute_api:servers:index": "@"\n')
    unsound = tmp_path / "unsound.conf"
    unsound.write_text(
        f"[DEFAULT]\nstate_path = {state.path}\ndebug = true\nbind_host = 0.0.0.0\n"
        "[cloud]\ninsecure = true\n[identity]\npassword_hash_rounds = 4\n"
    )
    unsound.chmod(0o644)
    code, output = run("--config", str(unsound), "--json")
    assert code == 1
    failed = {ident for ident, result in of(output).items() if result == FAIL}
    assert failed == {
        *(f"Check-{service}-02" for service in ("Identity", "Compute", "Image", "Neutron")), "Check-Identity-03", "Check-Identity-07",
        "Check-Neutron-05", "Check-Kilonova-02", "Check-Kilonova-03",
    }  # fmt: skip
    code, output = run("--config", str(unsound))
    assert code == 1 and f"{len(ITEMS)} items: {len(failed)} failed." in output
    assert len(output.splitlines()) == len(ITEMS) + 1


def test_a_hypervisors_classic_file_fails_and_tells_no_password(tmp_path: Path) -> None:
    path = tmp_path / "kilonova.conf"
    path.write_text("[DEFAULT]\ntransport_url = rabbit://kilonova:hunter2@broker.example/\nmy_ip = 192.0.2.1\n")
    path.chmod(0o640)
    code, output = run("--config", str(path), "--json")
    assert code == 1 and "hunter2" not in output
    found = of(output)
    assert found["Check-Kilonova-07"] == FAIL and found["Check-Kilonova-05"] == FAIL and found["Check-Identity-03"] == NA


def test_a_cluster_whose_database_is_silent_is_not_called_sound(tmp_path: Path) -> None:
    path = tmp_path / "kilonova.conf"
    path.write_text(
        "[DEFAULT]\ntransport_url = rabbit://kilonova:hunter2@127.0.0.1:1/\n[database]\npool_timeout = 1\n"
        "connection = postgresql://kilonova:hunter2@127.0.0.1:1/kilonova\n[broker]\nmanagement_url = http://a:hunter2@127.0.0.1:1\n"
    )
    path.chmod(0o640)
    code, output = run("--config", str(path), "--json")
    assert code == 1 and "hunter2" not in output
    assert {ident for ident, result in of(output).items() if result == FAIL} == {
        "Check-Kilonova-06", "Check-Kilonova-07", "Check-Kilonova-11", "Check-Kilonova-12",
    }  # fmt: skip
