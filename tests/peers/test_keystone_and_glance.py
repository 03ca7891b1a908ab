"""Our compute, placement, network and metadata on a real Keystone and a real Glance, driven with the stock client."""

import json
import time

import pytest

from tests.peers.running import KILONOVA, SERVICE_PASSWORD, Glance, Keystone, Ours, ask, client_environment, openstack

ALICE = "password-of-alice"


@pytest.fixture(scope="module")
def alice(keystone: Keystone, ours_on_theirs: Ours) -> dict[str, str]:
    """The client's environment for an ordinary member of a project with a network."""
    keystone.openstack(
        "project create --domain Default wonderland",
        f"user create --domain Default --password {ALICE} alice",
        "role add --project wonderland --user alice member",
        "flavor create --ram 64 --disk 1 --vcpus 1 nano",
    )
    environment = client_environment(keystone.url, "alice", ALICE, "wonderland")
    openstack(environment, "network create private", "subnet create --network private --subnet-range 10.1.0.0/24 private")
    return environment


@pytest.fixture(scope="module")
def image(alice: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("image") / "disk.raw"
    file.write_bytes(bytes(range(256)) * 4096)
    openstack(alice, f"image create --private --disk-format raw --container-format bare --file {file} tiny")
    return str(show(alice, "image", "tiny")["id"])


def show(environment: dict[str, str], kind: str, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(openstack(environment, f"{kind} show -f json {name}"))
    return found


def until(condition: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_server_lives_and_dies(alice: dict[str, str], image: str, glance: Glance, keystone: Keystone) -> None:
    openstack(alice, "server create --image tiny --flavor nano --network private --wait first")
    server = show(alice, "server", "first")
    assert server["status"] == "ACTIVE"
    assert server["image"] == f"tiny ({image})"
    project = show(keystone.environment(), "project", "wonderland")["id"]
    assert server["project_id"] == project
    openstack(alice, "server image create --name copy --wait first")
    copy = show(alice, "image", "copy")
    assert copy["status"] == "active" and copy["owner"] == project and copy["visibility"] == "private"
    properties = copy["properties"]
    assert isinstance(properties, dict) and properties["base_image_ref"] == image and properties["instance_uuid"] == server["id"]
    assert (glance.folder / "images" / str(copy["id"])).exists()
    openstack(alice, "server delete --wait first")
    gone = json.loads(openstack(alice, "server list -f json"))
    assert gone == []


def test_the_old_image_proxy_speaks_to_the_real_glance(keystone: Keystone, ours_on_theirs: Ours, image: str) -> None:
    url = f"{ours_on_theirs.urls['compute']}/v2.1/images"
    token = keystone.token("alice", ALICE, "wonderland")
    listed = ask("GET", f"{url}/detail?name=tiny", token)
    assert [found["id"] for found in listed.json["images"]] == [image]
    shown = ask("GET", f"{url}/{image}", token).json["image"]
    assert shown["status"] == "ACTIVE" and shown["OS-EXT-IMG-SIZE:size"] == 1 << 20
    put = ask("PUT", f"{url}/{image}/metadata/colour", token, {"meta": {"colour": "red"}})
    assert put.status == 200, put
    assert ask("GET", f"{url}/{image}/metadata", token).json["metadata"]["colour"] == "red"
    assert ask("DELETE", f"{url}/{image}/metadata/colour", token).status == 204
    assert "colour" not in ask("GET", f"{url}/{image}/metadata", token).json["metadata"]


def test_the_callers_own_rights_hold_at_the_real_glance(keystone: Keystone, ours_on_theirs: Ours, image: str) -> None:
    """Another project does not see alice's private image, though our service user would."""
    keystone.openstack(
        "project create --domain Default heart",
        f"user create --domain Default --password {ALICE} queen",
        "role add --project heart --user queen member",
    )
    token = keystone.token("queen", ALICE, "heart")
    compute = ours_on_theirs.urls["compute"]
    assert ask("GET", f"{compute}/v2.1/images/{image}", token).status == 404
    flavor = ask("GET", f"{compute}/v2.1/flavors", token).json["flavors"][0]["id"]
    body = {"server": {"name": "stolen", "imageRef": image, "flavorRef": flavor, "networks": "none"}}
    refused = ask("POST", f"{compute}/v2.1/servers", token, body, X_OpenStack_Nova_API_Version="2.37")
    assert refused.status == 400 and "image" in refused.json["badRequest"]["message"], refused


def test_wrong_and_missing_tokens(keystone: Keystone, ours_on_theirs: Ours) -> None:
    for service, path in (("compute", "/v2.1/servers"), ("network", "/v2.0/ports"), ("placement", "/resource_providers")):
        for token in ("", "gAAAAABnonsense", "with space", "x" * 20000):
            answer = ask("GET", ours_on_theirs.urls[service] + path, token)
            assert answer.status in (401, 431), (service, token[:20], answer)
    answer = ask("GET", ours_on_theirs.urls["network"] + "/v2.0/ports", "nonsense")
    assert answer.headers["www-authenticate"] == f'Keystone uri="{keystone.url}"'


def test_a_revoked_token_is_refused(keystone: Keystone, ours_on_theirs: Ours, alice: dict[str, str]) -> None:
    """Within token_cache_time, which is a second here."""
    token = keystone.token("alice", ALICE, "wonderland")
    servers = ours_on_theirs.urls["compute"] + "/v2.1/servers"
    assert ask("GET", servers, token).status == 200
    assert ask("DELETE", f"{keystone.url}/auth/tokens", keystone.token(), X_Subject_Token=token).status == 204
    time.sleep(1.1)
    assert ask("GET", servers, token).status == 401


def test_a_disabled_user_is_refused(keystone: Keystone, ours_on_theirs: Ours, alice: dict[str, str]) -> None:
    token = keystone.token("alice", ALICE, "wonderland")
    servers = ours_on_theirs.urls["compute"] + "/v2.1/servers"
    assert ask("GET", servers, token).status == 200
    keystone.openstack("user set --disable alice")
    try:
        time.sleep(1.1)
        assert ask("GET", servers, token).status == 401
    finally:
        keystone.openstack("user set --enable alice")


def test_projects_are_looked_up(keystone: Keystone, ours_on_theirs: Ours, alice: dict[str, str]) -> None:
    """Quota sets are for projects that exist."""
    compute, token = ours_on_theirs.urls["compute"], keystone.token()
    project = show(keystone.environment(), "project", "wonderland")["id"]
    assert ask("PUT", f"{compute}/v2.1/os-quota-sets/{project}", token, {"quota_set": {"instances": 7}}).status == 200
    assert ask("PUT", f"{compute}/v2.1/os-quota-sets/{'0' * 32}", token, {"quota_set": {"instances": 7}}).status == 400


def test_a_service_may_use_a_users_expired_token(keystone: Keystone, ours_on_theirs: Ours, alice: dict[str, str]) -> None:
    """Its role says so; a user's token in the same place is of no use. (The token itself is good: what is asked is the second one.)"""
    token = keystone.token("alice", ALICE, "wonderland")
    servers = ours_on_theirs.urls["compute"] + "/v2.1/servers"
    assert ask("GET", servers, token, X_Service_Token=keystone.token("nova", SERVICE_PASSWORD, "service")).status == 200
    assert ask("GET", servers, token, X_Service_Token="nonsense").status == 401


def test_application_credentials(keystone: Keystone, ours_on_theirs: Ours, alice: dict[str, str]) -> None:
    """They work; those that are bound to access rules are refused, since our services would not look at the rules."""
    token = keystone.token("alice", ALICE, "wonderland")
    user = ask("GET", f"{keystone.url}/auth/tokens", token, X_Subject_Token=token).json["token"]["user"]["id"]
    servers = ours_on_theirs.urls["compute"] + "/v2.1/servers"
    rules = [{"path": "/v2.1/flavors", "method": "GET", "service": "compute"}]
    for name, given, status in (("free", {}, 200), ("bound", {"access_rules": rules}, 401)):
        wanted = {"application_credential": {"name": name, "secret": "secret-of-alice", **given}}
        made = ask("POST", f"{keystone.url}/users/{user}/application_credentials", token, wanted)
        assert made.status == 201, made
        proof = {"id": made.json["application_credential"]["id"], "secret": "secret-of-alice"}
        identity = {"methods": ["application_credential"], "application_credential": proof}
        issued = ask("POST", f"{keystone.url}/auth/tokens", body={"auth": {"identity": identity}})
        assert issued.status == 201, issued
        assert ask("GET", servers, issued.headers["x-subject-token"]).status == status, name


def test_a_restart(keystone: Keystone, ours_on_theirs: Ours, alice: dict[str, str], image: str) -> None:
    """Nothing of ours is needed to log in: no passwords, no clouds.yaml."""
    openstack(alice, "server create --image tiny --flavor nano --network private --wait lasting")
    assert not (ours_on_theirs.folder / "state" / "clouds.yaml").exists()
    ours_on_theirs.stop()
    ours_on_theirs.up()
    assert show(alice, "server", "lasting")["status"] == "ACTIVE"
    ours_on_theirs.run(str(KILONOVA), "status", "--state", str(ours_on_theirs.folder / "state"))
    openstack(alice, "server delete --wait lasting")


def test_keystone_away(keystone: Keystone, ours_on_theirs: Ours, alice: dict[str, str]) -> None:
    """Known tokens are good for the cache's time, others get 503; when it is back, all is as before."""
    token = keystone.token("alice", ALICE, "wonderland")
    servers = ours_on_theirs.urls["compute"] + "/v2.1/servers"
    keystone.stop()
    try:
        away = ask("GET", servers, token)
        assert away.status == 503, away
        assert "identity service" in away.body.decode() and "try again" in away.body.decode()
        assert "Traceback" not in away.body.decode()
    finally:
        keystone.serve()
    assert ask("GET", servers, token).status == 200


def test_glance_away(keystone: Keystone, glance: Glance, ours_on_theirs: Ours, image: str) -> None:
    token = keystone.token("alice", ALICE, "wonderland")
    glance.stop()
    try:
        away = ask("GET", f"{ours_on_theirs.urls['compute']}/v2.1/images/{image}", token)
        assert away.status == 503 and "image service" in away.body.decode(), away
    finally:
        glance.serve()
    assert ask("GET", f"{ours_on_theirs.urls['compute']}/v2.1/images/{image}", token).status == 200


def test_no_secret_in_our_log(keystone: Keystone, ours_on_theirs: Ours, alice: dict[str, str]) -> None:
    """Last on purpose: of everything above."""
    time.sleep(1.5)  # the log is written every second
    log = ours_on_theirs.log
    assert "identity service" in log or "another service is away" in log
    assert SERVICE_PASSWORD not in log and ALICE not in log and "gAAAA" not in log
