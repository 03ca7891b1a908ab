"""The tree a guest sees: compute makes the files, the metadata service lists and serves them."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.compute.domain import guest_metadata
from kilonova.compute.model import FixedIp, Flavor, Nic, Scheduling, Server
from kilonova.metadata.tree import Tree

NIC = Nic(
    port_id="p",
    network_id="n",
    network_name="private",
    mac="fa:16:3e:00:00:01",
    device_name="tap1",
    mtu=1450,
    fixed_ips=(FixedIp(ip="10.0.0.5", version=4, floating_ips=("203.0.113.9",)),),
    tag="red",
)
SERVER = Server(
    id="6fb247fc-bf49-47ce-9284-74b13a95c2ee",
    number=7,
    revision=1,
    generation=1,
    project_id="p1",
    user_id="u",
    name="web",
    hostname="web",
    description=None,
    created_at=0,
    updated_at=0,
    launched_at=None,
    terminated_at=None,
    deleted=False,
    state="active",
    task=None,
    power_state=1,
    host="h",
    node="h",
    availability_zone="nova",
    pinned_availability_zone=None,
    flavor=Flavor(id="1", name="m1.tiny", vcpus=1, ram_mb=512, root_gb=1),
    image_id=None,
    image_properties={},
    key_name="k",
    public_key="ssh-rsa AAAA me",
    metadata={"a": "b"},
    tags=(),
    access_ip_v4=None,
    access_ip_v6=None,
    config_drive=False,
    user_data=base64.b64encode(b"#!/bin/sh\n\xff").decode(),
    security_groups=("default", "web"),
    nics=(NIC,),
    scheduler_hints={},
    scheduling=Scheduling(),
    reservation_id="r-1",
    launch_index=0,
    disk_config="MANUAL",
    locked_by=None,
    locked_reason=None,
    fault=None,
)
NETWORK: dict[str, Any] = {"links": [], "networks": [], "services": []}


def tree(**changes: Any) -> Tree:
    return Tree(guest_metadata.files(msgspec.structs.replace(SERVER, **changes), NETWORK, b"x" * 512))


def text(t: Tree, path: str) -> str:
    found = t.find(path)
    assert found is not None, path
    return found.body.decode()


def test_what_cloud_init_and_cirros_ask() -> None:
    t = tree()
    assert text(t, "/").split("\n")[0] == "1.0"
    assert text(t, "/").split("\n")[-1] == "latest"
    assert text(t, "/openstack").split("\n") == [*guest_metadata.OPENSTACK]
    assert text(t, "/openstack/latest/").split("\n") == [
        "meta_data.json",
        "user_data",
        "vendor_data.json",
        "network_data.json",
        "vendor_data2.json",
    ]
    assert text(t, "/openstack/2012-08-10").split("\n") == ["meta_data.json", "user_data"]
    assert text(t, "/2009-04-04").split("\n") == ["meta-data/", "user-data"]
    assert "public-keys/" in text(t, "/2009-04-04/meta-data/").split("\n")
    assert text(t, "/latest/meta-data/public-keys") == "0=k"
    assert text(t, "/latest/meta-data/public-keys/0/") == "openssh-key"
    assert text(t, "/latest/meta-data/public-keys/0/openssh-key") == "ssh-rsa AAAA me"
    assert text(t, "/latest/meta-data/instance-id") == "i-00000007"
    assert text(t, "/latest/meta-data/hostname") == "web.novalocal"
    assert text(t, "/latest/meta-data/local-ipv4") == "10.0.0.5"
    assert text(t, "/latest/meta-data/public-ipv4") == "203.0.113.9"
    assert text(t, "/latest/meta-data/security-groups") == "default\nweb"
    assert text(t, "/latest/meta-data/placement/availability-zone") == "nova"
    found = t.find("/2009-04-04/user-data")
    assert found is not None and found.body == b"#!/bin/sh\n\xff"
    meta = json.loads(text(t, "/openstack/latest/meta_data.json"))
    assert (meta["uuid"], meta["project_id"], meta["meta"], meta["keys"][0]["data"]) == (SERVER.id, "p1", {"a": "b"}, "ssh-rsa AAAA me")
    assert meta["devices"][0]["tags"] == ["red"]


@pytest.mark.parametrize(
    "path",
    [
        "/openstack/1999-01-01",
        "/openstack/latest/zz",
        "/1.0/meta-data/instance-type",
        "/latest/meta-data/public-keys/1",
        "/zz",
        "/latest/meta-data/public-keys/0/_name",
        "/latest/meta-data/hostname/x",
        "/openstack/2012-08-10/network_data.json",
    ],
)
def test_what_is_not_there(path: str) -> None:
    assert tree().find(path) is None


def test_no_user_data_no_key() -> None:
    t = tree(user_data=None, key_name=None, public_key=None)
    assert t.find("/2009-04-04/user-data") is None
    assert t.find("/openstack/latest/user_data") is None
    assert t.find("/latest/meta-data/public-keys") is None
    assert text(t, "/2009-04-04") == "meta-data/"
    assert "public_keys" not in json.loads(text(t, "/openstack/latest/meta_data.json"))


def test_spellings_of_one_path() -> None:
    t = tree()
    for path in (
        "/latest/meta-data/hostname",
        "//latest//meta-data/hostname/",
        "/ec2/latest/meta-data/hostname",
        "/latest/./meta-data/x/../hostname",
        "/latest/meta-data/hostname?x=1",
        "/latest/meta%2Ddata/hostname",
        "/../../latest/meta-data/hostname",
    ):
        assert text(t, path) == "web.novalocal", path


names = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=1, max_size=20)
servers = st.builds(
    lambda **changes: msgspec.structs.replace(SERVER, **changes),
    name=names,
    hostname=st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
    metadata=st.dictionaries(names, st.text(max_size=50), max_size=5),
    key_name=st.none() | st.from_regex(r"[a-zA-Z0-9_ -]{1,10}", fullmatch=True),
    public_key=st.none() | st.just("ssh-ed25519 AAAA"),
    user_data=st.none() | st.binary(max_size=100).map(lambda b: base64.b64encode(b).decode()),
    nics=st.sampled_from([(), (NIC,), (msgspec.structs.replace(NIC, fixed_ips=(), tag=None),)]),
    availability_zone=st.none() | st.just("nova"),
    image_id=st.none() | st.just("155d900f-4e14-4e4c-a73d-069cbf4541e6"),
)


@given(servers)
def test_every_listed_path_exists_and_every_document_parses(server: Server) -> None:
    files = guest_metadata.files(server, NETWORK, b"s" * 512)
    t = Tree(files)
    waiting, leaves = ["openstack", "ec2"], set()
    while waiting:
        folder = waiting.pop()
        for line in text(t, folder).split("\n"):
            child = f"{folder}/{line.partition('=')[0] if folder.endswith('public-keys') else line}"
            if line.endswith("/") or folder in ("ec2", "openstack") or folder.endswith("public-keys"):
                waiting.append(child.rstrip("/"))
            else:
                found = t.find(child)
                assert found is not None and found.body == files[child]
                leaves.add(child)
                if child.endswith(".json"):
                    json.loads(found.body)
    assert leaves == {path for path in files if not path.endswith("/_name")}


def test_user_data_is_held_once() -> None:
    files = guest_metadata.files(SERVER, NETWORK, b"s" * 512)
    assert len({id(body) for path, body in files.items() if path.rpartition("/")[2] in ("user-data", "user_data")}) == 1


@given(servers)
def test_config_drive_holds_documents_that_parse(server: Server) -> None:
    drive = guest_metadata.config_drive(server, NETWORK, b"s" * 512)
    for path, body in drive.items():
        if path.endswith(".json"):
            json.loads(body)
    assert json.loads(drive["ec2/latest/meta-data.json"])["instance-id"] == "i-00000007"


@given(st.text(max_size=60))
def test_any_path_has_an_answer(path: str) -> None:
    found = tree().find(path)
    assert found is None or isinstance(found.body, bytes)
