"""Key pairs: made, imported, listed, and nobody else's."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from hypothesis import given
from hypothesis import strategies as st

from kilonova.compute.domain import keypairs as domain
from kilonova.testing.compute import ComputeWorld
from kilonova.testing.tokens import context
from tests.compute.schema import CheckedClient
from tests.compute.test_flavors import client

Run = Callable[..., None]
RSA = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDx8nkQv/zgGgB4rMYmIf+6A4l6Rr+o/6lHBQdW5aYd44bd8JttDCE/F/pNRr0lRE+PiqSPO8nDPHw0010JeMH9gYgnn"
    "FlyY3/OcJ02RhIPyyxYpv9FhY+2YiUkpwFOcLImyrxEsYXpD/0d3ac30bNH6Sw9JD9UZHYcpSxsIbECHw== someone@somewhere"
)
RSA_FINGERPRINT = "1e:2c:9b:56:79:4b:45:77:f9:ca:7a:98:2c:b0:d5:3c"


def body(name: str, **more: Any) -> dict[str, Any]:
    return {"keypair": {"name": name, **more}}


def test_import_show_list_delete_at_every_version(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        for version, made, gone in (("2.1", 200, 202), ("2.2", 201, 204), ("2.10", 201, 204), ("2.35", 201, 204), ("2.92", 201, 204)):
            c = client(w, version=version)
            reply = await c.post("/v2.1/os-keypairs", body("k", public_key=RSA))
            assert (reply.status, reply.json["keypair"]["fingerprint"]) == (made, RSA_FINGERPRINT)
            assert "private_key" not in reply.json["keypair"]
            assert (await c.get("/v2.1/os-keypairs/k")).json["keypair"]["public_key"] == RSA
            assert [k["keypair"]["name"] for k in (await c.get("/v2.1/os-keypairs")).json["keypairs"]] == ["k"]
            assert (await c.post("/v2.1/os-keypairs", body("k", public_key=RSA))).status == 409
            assert (await c.delete("/v2.1/os-keypairs/k")).status == gone
            assert (await c.delete("/v2.1/os-keypairs/k")).status == 404
            assert (await c.get("/v2.1/os-keypairs/k")).status == 404

    compute(story)


def test_generated_key_belongs_together(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w, version="2.10")
        made = (await c.post("/v2.1/os-keypairs", body("k"))).json["keypair"]
        key = serialization.load_pem_private_key(made["private_key"].encode(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        assert key.key_size == 2048
        assert made["private_key"].startswith("-----BEGIN RSA PRIVATE KEY-----")
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        assert made["public_key"].startswith(public)
        assert "private_key" not in (await c.get("/v2.1/os-keypairs/k")).json["keypair"]
        assert (await c.at("2.92").post("/v2.1/os-keypairs", body("k2"))).status == 400

    compute(story)


def test_x509(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w, version="2.2")
        made = (await c.post("/v2.1/os-keypairs", body("cert", type="x509"))).json["keypair"]
        certificate = x509.load_pem_x509_certificate(made["public_key"].encode())
        key, its_certificate, _ = pkcs12.load_key_and_certificates(base64.b64decode(made["private_key"]), None)
        assert key is not None and its_certificate == certificate
        again = (await c.post("/v2.1/os-keypairs", body("again", type="x509", public_key=made["public_key"]))).json["keypair"]
        assert again["fingerprint"] == made["fingerprint"]
        assert again["type"] == "x509"
        assert (await c.post("/v2.1/os-keypairs", body("bad", type="x509", public_key=RSA))).status == 400
        assert (await c.at("2.1").post("/v2.1/os-keypairs", body("bad", type="x509"))).status == 400

    compute(story)


def test_names_and_keys_that_are_refused(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        old, new = client(w, version="2.91"), client(w, version="2.92")
        for name in ("", " k", "k ", "k/1", "k\n", "ключ", "x" * 256):
            assert (await old.post("/v2.1/os-keypairs", body(name, public_key=RSA))).status == 400, name
        assert (await old.post("/v2.1/os-keypairs", body("a@b.c", public_key=RSA))).status == 400
        assert (await new.post("/v2.1/os-keypairs", body("a@b.c", public_key=RSA))).status == 201
        for key in ("zz", "", "ssh-rsa", "ssh-rsa AAAA", RSA[:80], "ssh-ed25519 " + "A" * 70000, "\u0000"):
            reply = await new.post("/v2.1/os-keypairs", body("k", public_key=key))
            assert reply.json["badRequest"]["message"] == "Keypair data is invalid: failed to generate fingerprint", key[:20]
        ed = ed25519.Ed25519PrivateKey.generate().public_key()
        text = ed.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        assert (await new.post("/v2.1/os-keypairs", body("ed", public_key=text))).status == 201

    compute(story)


def test_another_users_keys_are_his_and_an_admins(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        alice = CheckedClient(
            w.edge, {"x-auth-token": w.tokens.add("alice", context(user="alice")), "openstack-api-version": "compute 2.10"}
        )
        bob = CheckedClient(w.edge, {"x-auth-token": w.tokens.add("bob", context(user="bob")), "openstack-api-version": "compute 2.10"})
        admin = client(w, "admin:p9", "2.10")
        await alice.post("/v2.1/os-keypairs", body("k", public_key=RSA))
        assert (await bob.get("/v2.1/os-keypairs/k")).status == 404
        assert (await bob.get("/v2.1/os-keypairs/k?user_id=alice")).status == 403
        assert (await bob.get("/v2.1/os-keypairs?user_id=alice")).status == 403
        assert (await bob.delete("/v2.1/os-keypairs/k?user_id=alice")).status == 403
        assert (await bob.post("/v2.1/os-keypairs", body("k2", public_key=RSA, user_id="alice"))).status == 403
        assert (await admin.get("/v2.1/os-keypairs/k?user_id=alice")).json["keypair"]["user_id"] == "alice"
        assert (await admin.post("/v2.1/os-keypairs", body("k2", public_key=RSA, user_id="alice"))).status == 201
        assert len((await alice.get("/v2.1/os-keypairs")).json["keypairs"]) == 2
        # Before 2.10 the parameter means nothing.
        assert (await admin.at("2.2").get("/v2.1/os-keypairs?user_id=alice")).json == {"keypairs": []}

    compute(story)


def test_quota_and_paging(compute: Run) -> None:
    async def story(w: ComputeWorld) -> None:
        c = client(w, version="2.35")
        for name in ("a", "b", "c"):
            assert (await c.post("/v2.1/os-keypairs", body(name, public_key=RSA))).status == 201
        over = await c.post("/v2.1/os-keypairs", body("d", public_key=RSA))
        assert over.json["forbidden"]["message"] == "Quota exceeded, too many key pairs."
        page = (await c.get("/v2.1/os-keypairs?limit=2")).json
        assert [k["keypair"]["name"] for k in page["keypairs"]] == ["a", "b"]
        following = page["keypairs_links"][0]["href"].removeprefix("http://localhost")
        assert [k["keypair"]["name"] for k in (await c.get(following)).json["keypairs"]] == ["c"]
        assert (await c.get("/v2.1/os-keypairs?marker=zz")).status == 400
        assert (await c.at("2.75").get("/v2.1/os-keypairs?foo=1")).status == 400

    compute(story, settings={("quota", "key_pairs"): 3})


@given(st.one_of(st.text(max_size=200), st.builds(lambda s: "ssh-rsa " + s, st.text(max_size=200))))
def test_any_text_is_a_key_or_is_not(text: str) -> None:
    with pytest.raises(domain.BadPublicKey):
        domain.fingerprint("ssh", text)


@given(st.text(max_size=300))
def test_any_text_is_a_certificate_or_is_not(text: str) -> None:
    with pytest.raises(domain.BadPublicKey):
        domain.fingerprint("x509", text)
