"""Create, show, change, delete and list; who may."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.image.conftest import PATCH, World

Run = Callable[..., None]
GIVEN = "12345678-1234-4123-8123-123456789abc"


def names(reply: Any) -> list[str]:
    assert reply.status == 200, reply
    return [image["name"] for image in reply.json["images"]]


def test_an_image_shows_what_was_given(run: Run) -> None:
    async def story(w: World) -> None:
        body = {
            "id": GIVEN,
            "name": "x",
            "tags": ["b", "a", "b"],
            "min_disk": 2,
            "min_ram": 3,
            "protected": True,
            "os_hidden": True,
            "os_type": "l",
        }
        reply = await w.member.post("/v2/images", body)
        assert reply.status == 201
        assert reply.headers["location"] == f"http://localhost/v2/images/{GIVEN}"
        assert reply.headers["openstack-image-import-methods"] == "glance-direct"
        shown = (await w.member.get(f"/v2/images/{GIVEN}")).json
        assert shown == reply.json
        expected = {"status": "queued", "visibility": "shared", "owner": "p1", "tags": ["b", "a"], "os_type": "l", "size": None}
        assert {k: shown[k] for k in expected} == expected
        assert (shown["min_disk"], shown["min_ram"], shown["protected"], shown["os_hidden"]) == (2, 3, True, True)
        assert shown["created_at"].endswith("Z")
        assert len(shown["created_at"]) == 20

    run(story)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"disk_format": "zzz"}, 400, "disk_format"),
        ({"id": "zz"}, 400, "id"),
        ({"min_ram": -1}, 400, "min_ram"),
        ({"min_ram": 2**40}, 400, "min_ram"),
        ({"min_ram": True}, 400, "min_ram"),
        ({"name": "n" * 256}, 400, "name"),
        ({"tags": ["t" * 256]}, 400, "tags"),
        ({"tags": "a"}, 400, "tags"),
        ({"foo": 1}, 400, "foo"),
        ({"foo": None}, 400, "foo"),
        ({"k" * 256: "v"}, 400, "name of a property"),
        ({"protected": "yes"}, 400, "protected"),
        ({"visibility": "zz"}, 400, "visibility"),
        ({"checksum": "x"}, 403, "read-only"),
        ({"status": "active"}, 403, "read-only"),
        ({"os_glance_import_task": "x"}, 403, "reserved"),
        ({"locations": [{"url": "file:///etc/passwd", "metadata": {}}]}, 403, "locations"),
        ({"owner": "p2"}, 403, "owned by 'p2'"),
        ({"visibility": "public"}, 403, "publicize_image"),
        ([1], 400, "object"),
        ({f"p{i}": "v" for i in range(129)}, 413, "Maximum: 128"),
        ({"tags": [f"t{i}" for i in range(129)]}, 413, "Maximum: 128"),
    ],
)
def test_a_bad_body_says_which_field_and_why(run: Run, body: Any, status: int, words: str) -> None:
    async def story(w: World) -> None:
        reply = await w.member.post("/v2/images", body)
        assert reply.status == status, reply
        assert words in reply.json["message"]
        assert (await w.admin.get("/v2/images")).json["images"] == []

    run(story)


def test_deep_or_broken_json_is_refused(run: Run) -> None:
    async def story(w: World) -> None:
        for raw in (b"{", b"[" * 100_000, b"\xff", b'"x"'):
            reply = await w.member.request("POST", "/v2/images", raw=raw)
            assert reply.status == 400, (raw[:5], reply)
        assert (await w.member.request("POST", "/v2/images", raw=b'{"name": "' + b"x" * (1 << 21) + b'"}')).status == 413

    run(story)


def test_row_24_an_id_is_never_used_twice(run: Run) -> None:
    """Not even after its image was deleted."""

    async def story(w: World) -> None:
        await w.image(id=GIVEN)
        assert (await w.other.post("/v2/images", {"id": GIVEN, "name": "y"})).status == 409
        assert (await w.member.delete(f"/v2/images/{GIVEN}")).status == 204
        assert (await w.member.post("/v2/images", {"id": GIVEN, "name": "y"})).status == 409
        assert (await w.member.get(f"/v2/images/{GIVEN}")).status == 404

    run(story)


def test_patch_changes_all_or_nothing(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image(foo="1")
        reply = await w.patch(
            image, ("replace", "/name", "n"), ("remove", "/foo", None), ("add", "/a~1b~0c", "2"), ("replace", "/tags", ["t"])
        )
        assert reply.status == 200, reply
        assert (reply.json["name"], reply.json["a/b~c"], reply.json["tags"], "foo" in reply.json) == ("n", "2", ["t"], False)
        reply = await w.patch(image, ("replace", "/name", "m"), ("remove", "/nope", None))
        assert (reply.status, "nope" in reply.json["message"]) == (409, True)
        assert (await w.member.get(f"/v2/images/{image}")).json["name"] == "n"
        assert names(await w.member.get("/v2/images?foo=1")) == []
        assert names(await w.member.get("/v2/images?tag=t")) == ["n"]

    run(story)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("replace", "/status", "active"), 403),
        (("replace", "/id", GIVEN), 403),
        (("replace", "/checksum", "x"), 403),
        (("add", "/locations/-", {"url": "file:///etc/passwd", "metadata": {}}), 403),
        (("replace", "/locations", [{"url": "swift+config://x", "metadata": {}}]), 403),
        (("remove", "/locations/0", None), 403),
        (("remove", "/name", None), 403),
        (("replace", "/owner", "p2"), 403),
        (("add", "/os_glance_import_task", "x"), 403),
        (("replace", "name", "x"), 400),
        (("replace", "/a/b", "x"), 400),
        (("replace", "/a//b", "x"), 400),
        (("replace", "/a~b", "x"), 400),
        (("replace", "/min_ram", "x"), 400),
        (("add", "/foo", {"a": 1}), 400),
        (("replace", "/disk_format", "zz"), 400),
    ],
)
def test_row_20_21_25_what_patch_refuses(run: Run, change: tuple[str, str, Any], status: int) -> None:
    """Locations can be neither read nor set."""

    async def story(w: World) -> None:
        image = await w.active()
        before = (await w.member.get(f"/v2/images/{image}")).json
        assert "locations" not in before
        assert "direct_url" not in before
        reply = await w.patch(image, change)
        assert reply.status == status, reply
        assert (await w.member.get(f"/v2/images/{image}")).json == before

    run(story)


def test_row_20_a_status_header_changes_nothing(run: Run) -> None:
    """CVE-2015-5251."""

    async def story(w: World) -> None:
        image = await w.active()
        headers = {**PATCH, "x-image-meta-status": "queued"}
        assert (await w.member.patch(f"/v2/images/{image}", [], headers=headers)).status == 200
        assert await w.status(image) == "active"
        assert (await w.upload(image, b"other")).status == 409

    run(story)


def test_visible_is_not_changeable_and_invisible_does_not_exist(run: Run) -> None:
    async def story(w: World) -> None:
        private, public = await w.image(visibility="private"), await w.image(w.admin, visibility="public")
        own_admins = await w.image(w.admin, owner=None)
        for image, status in ((private, 404), (public, 403), (own_admins, 404)):
            assert (await w.patch(image, ("replace", "/name", "x"), client=w.other)).status == status
            assert (await w.other.delete(f"/v2/images/{image}")).status == status
            assert (await w.upload(image, b"x", w.other)).status == status
            assert (await w.other.put(f"/v2/images/{image}/tags/a")).status == status
            assert (await w.other.post(f"/v2/images/{image}/actions/deactivate")).status == status
            assert (await w.other.post(f"/v2/images/{image}/members", {"member": "p3"})).status == status
            assert (await w.other.get(f"/v2/images/{image}")).status == (200 if status == 403 else 404)
        assert (await w.reader.get(f"/v2/images/{private}")).status == 200
        assert (await w.reader.delete(f"/v2/images/{private}")).status == 403
        assert (await w.anonymous.get(f"/v2/images/{public}")).status == 401
        assert (await w.client("service:p1").get("/v2/images")).status == 403

    run(story)


def test_deleting(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.active(protected=True)
        assert (await w.member.delete(f"/v2/images/{image}")).status == 403
        assert (await w.patch(image, ("replace", "/protected", False))).status == 200
        assert await w.names_stored() == [image]
        assert (await w.member.delete(f"/v2/images/{image}")).status == 204
        assert (await w.member.delete(f"/v2/images/{image}")).status == 404
        assert (await w.member.delete("/v2/images/")).status == 404
        assert (await w.member.get("/v2/images/")).status == 404
        assert await w.names_stored() == []

    run(story)


def test_pages_cover_everything_once_whatever_the_order(run: Run) -> None:
    async def story(w: World) -> None:
        for i in range(7):
            await w.image(**({"name": f"n{i % 3}"} if i else {"name": None}), min_ram=i)
        for order in ("sort=name:asc", "sort=name:desc,min_ram", "sort_key=name&sort_dir=asc", "sort_key=size", "sort=created_at:asc", ""):
            url: str | None = f"/v2/images?limit=2&{order}"
            if "min_ram" in order:
                assert (await w.member.get(url or "")).status == 400
                continue
            seen: list[str] = []
            pages = 0
            while url:
                reply = (await w.member.get(url)).json
                seen += [image["id"] for image in reply["images"]]
                assert reply["first"].startswith("/v2/images?limit=2")
                url, pages = reply.get("next"), pages + 1
            assert len(seen) == len(set(seen)) == 7, order
            assert pages == 4
        ascending = names(await w.member.get("/v2/images?sort=name:asc"))
        assert ascending == [None, "n0", "n0", "n1", "n1", "n2", "n2"]

    run(story)


def test_lists_show_own_public_and_accepted(run: Run) -> None:
    async def story(w: World) -> None:
        for visibility in ("private", "shared", "community"):
            await w.image(name=f"mine-{visibility}", visibility=visibility)
        shared = await w.image(w.other, name="theirs-shared", visibility="shared")
        for visibility in ("private", "community"):
            await w.image(w.other, name=f"theirs-{visibility}", visibility=visibility)
        await w.image(w.admin, name="public", visibility="public")
        assert (await w.other.post(f"/v2/images/{shared}/members", {"member": "p1"})).status == 200
        mine = {"mine-private", "mine-shared", "mine-community"}

        async def listed(query: str = "") -> set[str]:
            return set(names(await w.member.get(f"/v2/images{query}")))

        assert await listed() == mine | {"public"}
        assert await listed("?visibility=shared&member_status=all") == {"mine-shared", "theirs-shared"}
        assert await listed("?member_status=pending") == mine | {"public", "theirs-shared"}
        await w.member.put(f"/v2/images/{shared}/members/p1", {"status": "accepted"})
        assert await listed() == mine | {"public", "theirs-shared"}
        assert await listed("?visibility=community") == {"mine-community", "theirs-community"}
        assert await listed("?visibility=private") == {"mine-private"}
        assert await listed("?visibility=all") == mine | {"public", "theirs-shared", "theirs-community"}
        assert await listed("?owner=p2") == {"theirs-shared"}
        everything = set(names(await w.admin.get("/v2/images?visibility=all")))
        assert everything == mine | {"public", "theirs-shared", "theirs-community", "theirs-private"}

    run(story)


def test_filters(run: Run) -> None:
    async def story(w: World) -> None:
        await w.active(b"x" * 10, name="a", tags=["red", "big"], os_distro="x", min_ram=1)
        await w.active(b"x" * 20, name="b,c", tags=["red"], protected=True)
        await w.image(name="hidden", os_hidden=True)
        await w.image(name="q", disk_format="qcow2")
        for query, expected in {
            "name=a": ["a"],
            'name=in:a,"b,c"': ["a", "b,c"],
            "status=active": ["a", "b,c"],
            "status=in:active,queued": ["a", "b,c", "q"],
            "disk_format=in:qcow2,vdi": ["q"],
            "size=10": ["a"],
            "size_min=11": ["b,c"],
            "size_max=15": ["a"],
            "tag=red&tag=big": ["a"],
            "os_distro=x": ["a"],
            "os_distro=y": [],
            "min_ram=1": ["a"],
            "protected=true": ["b,c"],
            "os_hidden=true": ["hidden"],
            "created_at=gt:2020-01-01T00:00:00Z": ["a", "b,c", "q"],
            "updated_at=lt:2020-01-01T00:00:00Z": [],
            "name=nope'--": [],
        }.items():
            assert sorted(names(await w.member.get(f"/v2/images?{query}"))) == expected, query
        when = (await w.member.get("/v2/images?name=a")).json["images"][0]["created_at"]
        for op, found in {"eq": True, "gte": True, "lte": True, "gt": False, "lt": False, "neq": False}.items():
            assert ("a" in names(await w.member.get(f"/v2/images?created_at={op}:{when}"))) is found, op
        for bad in (
            "limit=-1",
            "limit=x",
            "size_min=x",
            "created_at=gt:x",
            "protected=x",
            "sort_dir=x",
            "sort=name&sort_key=name",
            'name=in:"a',
        ):
            assert (await w.member.get(f"/v2/images?{bad}")).status == 400, bad
        assert (await w.member.get("/v2/images?limit=" + "9" * 30)).status == 400

    run(story)


def test_unicode_goes_in_and_comes_out(run: Run) -> None:
    async def story(w: World) -> None:
        image = await w.image(name="bild-ü-中-🙂", tags=["τ"], ключ="значение")
        shown = (await w.member.get(f"/v2/images/{image}")).json
        assert (shown["name"], shown["tags"], shown["ключ"]) == ("bild-ü-中-🙂", ["τ"], "значение")
        assert (await w.member.put(f"/v2/images/{image}/tags/%C3%BC")).status == 204
        assert names(await w.member.get("/v2/images?tag=%C3%BC")) == ["bild-ü-中-🙂"]
        assert (await w.member.get("/v2/images?name=%ff")).status in (200, 400)

    run(story)


def test_versions_and_errors_wear_what_glance_wears(run: Run) -> None:
    async def story(w: World) -> None:
        for path, status in (("/", 300), ("/versions", 200), ("/v3/images", 300), ("/images", 300)):
            reply = await w.anonymous.get(path)
            assert (reply.status, reply.json["versions"][0]["status"]) == (status, "CURRENT")
        assert (await w.anonymous.get("/v2")).headers["location"] == "http://localhost/v2/"
        assert (await w.member.get("/v2.7/images")).status == 200
        html = await w.member.get("/v2/images/<b>", headers={"accept": "text/html"})
        assert html.headers["content-type"].startswith("text/html")
        assert b"&lt;b&gt;" in html.body
        assert (await w.member.get("/v2/images/x", headers={"accept": ""})).headers["content-type"].startswith("text/plain")
        wrong = await w.member.put("/v2/images", {})
        assert (wrong.status, wrong.headers["allow"]) == (405, "GET, POST")
        for name in ("image", "images", "member", "members", "metadefs/namespace"):
            assert (await w.member.get(f"/v2/schemas/{name}")).status == 200
        assert (await w.member.get("/v2/schemas/nope")).status == 404

    run(story)
