"""Providers, their trees, inventories, traits, aggregates and names over the API."""

import asyncio
from typing import Any

import pytest

from kilonova.core.db import Duplicate
from kilonova.placement.domain.providers import duplicate
from kilonova.placement.model import canonical_uuid
from kilonova.placement.routes import accepts_json
from tests.placement.conftest import Run, World

AGGREGATE = "a0000000-0000-4000-8000-000000000001"
OTHER = "a0000000-0000-4000-8000-000000000002"
CONSUMER = "c0000000-0000-4000-8000-000000000001"


async def ids(w: World, query: str, version: str = "1.39") -> list[str]:
    reply = await w.client(version).get(f"/resource_providers?{query}")
    assert reply.status == 200, reply
    return [p["uuid"] for p in reply.json["resource_providers"]]


def code(reply: Any) -> str:
    return str(reply.json["errors"][0]["code"])


def test_trees_move_and_never_loop(run: Run) -> None:
    async def story(w: World) -> None:
        a = await w.provider("a")
        b = await w.provider("b", a)
        d = await w.provider("d", b)
        e = await w.provider("e")
        client = w.client()
        reply = await client.put(f"/resource_providers/{a}", {"name": "a", "parent_provider_uuid": d})
        assert (reply.status, "creating loop" in reply.json["errors"][0]["detail"]) == (400, True)
        moved = await client.put(f"/resource_providers/{b}", {"name": "b", "parent_provider_uuid": e})
        assert (moved.status, moved.json["root_provider_uuid"]) == (200, e)
        assert (await client.get(f"/resource_providers/{d}")).json["root_provider_uuid"] == e
        assert await ids(w, f"in_tree={d}") == [b, d, e]
        assert (await client.delete(f"/resource_providers/{a}")).status == 204
        assert code(await client.delete(f"/resource_providers/{e}")) == "placement.resource_provider.cannot_delete_parent"
        unparented = await client.put(f"/resource_providers/{b}", {"name": "b", "parent_provider_uuid": None})
        assert (unparented.json["parent_provider_uuid"], unparented.json["root_provider_uuid"]) == (None, b)
        assert (await client.put(f"/resource_providers/{b}", {"name": "b2"})).json["root_provider_uuid"] == b
        assert await ids(w, f"in_tree={d}") == [b, d]

    run(story)


def test_two_moves_at_once_make_no_loop(run: Run) -> None:
    async def story(w: World) -> None:
        a, b = await w.provider("a"), await w.provider("b")
        client = w.client()
        replies = await asyncio.gather(
            client.put(f"/resource_providers/{a}", {"name": "a", "parent_provider_uuid": b}),
            client.put(f"/resource_providers/{b}", {"name": "b", "parent_provider_uuid": a}),
        )
        assert sorted(r.status for r in replies) == [200, 400]

    run(story)


def test_before_1_37_a_provider_gets_a_parent_once(run: Run) -> None:
    async def story(w: World) -> None:
        a, b = await w.provider("a"), await w.provider("b")
        old = w.client("1.36")
        assert (await old.put(f"/resource_providers/{a}", {"name": "a", "parent_provider_uuid": b})).status == 200
        reply = await old.put(f"/resource_providers/{a}", {"name": "a", "parent_provider_uuid": None})
        assert (reply.status, "un-parenting" in reply.json["errors"][0]["detail"]) == (400, True)
        assert (await w.client("1.13").put(f"/resource_providers/{a}", {"name": "a", "parent_provider_uuid": None})).status == 400

    run(story)


def test_filters_of_the_list(run: Run) -> None:
    async def story(w: World) -> None:
        a = await w.provider("a", aggregates=(AGGREGATE,), traits=("HW_CPU_X86_AVX",), VCPU=4)
        b = await w.provider("b", aggregates=(AGGREGATE, OTHER), traits=("HW_CPU_X86_AVX2",), VCPU=8)
        d = await w.provider("d")
        assert (await w.allocate(CONSUMER, {a: {"VCPU": 3}})).status == 204
        for query, found in (
            ("", [a, b, d]),
            ("name=b", [b]),
            (f"uuid={a}", [a]),
            (f"uuid={a.replace('-', '')}", [a]),
            (f"member_of={AGGREGATE}", [a, b]),
            (f"member_of={AGGREGATE}&member_of={OTHER}", [b]),
            (f"member_of=in:{AGGREGATE},{OTHER}", [a, b]),
            (f"member_of=!{OTHER}", [a, d]),
            (f"member_of=!in:{AGGREGATE},{OTHER}", [d]),
            ("resources=VCPU:2", [b]),
            ("required=HW_CPU_X86_AVX", [a]),
            ("required=!HW_CPU_X86_AVX", [b, d]),
            ("required=in:HW_CPU_X86_AVX,HW_CPU_X86_AVX2", [a, b]),
            ("required=in:HW_CPU_X86_AVX,HW_CPU_X86_AVX2&required=!HW_CPU_X86_AVX", [b]),
        ):
            assert await ids(w, query) == found, query
        for version, query in (
            ("1.2", f"member_of={AGGREGATE}"),
            ("1.13", f"in_tree={a}"),
            ("1.23", f"member_of={AGGREGATE}&member_of={OTHER}"),
            ("1.31", f"member_of=!{AGGREGATE}"),
            ("1.21", "required=!HW_CPU_X86_AVX"),
            ("1.38", "required=in:HW_CPU_X86_AVX,HW_CPU_X86_AVX2"),
            ("1.39", "required=HW_CPU_X86_AVX,!HW_CPU_X86_AVX"),
            ("1.39", "required=CUSTOM_NOBODY"),
            ("1.39", "required="),
            ("1.39", "resources=VCPU"),
            ("1.39", "resources=VCPU:-1"),
            ("1.39", "resources=NOPE:1"),
            ("1.39", f"member_of={AGGREGATE},{OTHER}"),
            ("1.39", "member_of=x"),
            ("1.39", "uuid=x"),
        ):
            assert (await w.client(version).get(f"/resource_providers?{query}")).status == 400, query

    run(story)


@pytest.mark.parametrize(
    ("version", "method", "path", "status"),
    [
        ("1.0", "GET", "/resource_providers/{p}/aggregates", 404),
        ("1.1", "GET", "/resource_providers/{p}/aggregates", 200),
        ("1.1", "GET", "/resource_classes", 404),
        ("1.2", "GET", "/resource_classes", 200),
        ("1.4", "DELETE", "/resource_providers/{p}/inventories", 405),
        ("1.5", "DELETE", "/resource_providers/{p}/inventories", 204),
        ("1.5", "GET", "/traits", 404),
        ("1.6", "GET", "/traits", 200),
        ("1.6", "GET", "/resource_providers/{p}/traits", 200),
        ("1.8", "GET", "/usages?project_id=p", 404),
        ("1.9", "GET", "/usages?project_id=p", 200),
        ("1.9", "GET", "/allocation_candidates?resources=VCPU:1", 404),
        ("1.10", "GET", "/allocation_candidates?resources=VCPU:1", 200),
        ("1.12", "POST", "/allocations", 404),
        ("1.29", "POST", "/reshaper", 404),
        ("1.0", "GET", "/resource_providers/{p}/inventories", 200),
    ],
)
def test_each_route_since_its_version(run: Run, version: str, method: str, path: str, status: int) -> None:
    async def story(w: World) -> None:
        p = await w.provider("p", VCPU=1)
        reply = await w.client(version).request(method, path.replace("{p}", p), {} if method == "POST" else None)
        assert reply.status == status, reply
        dated = "last-modified" in reply.headers and reply.headers["cache-control"] == "no-cache"
        assert not dated

    run(story)


def test_answers_are_dated_from_1_15(run: Run) -> None:
    async def story(w: World) -> None:
        p = await w.provider("p", VCPU=1)
        for tail in ("", "/inventories", "/inventories/VCPU", "/usages", "/aggregates", "/traits", "/allocations"):
            for version, dated in (("1.14", False), ("1.15", True)):
                reply = await w.client(version).get(f"/resource_providers/{p}{tail}")
                assert (reply.status, "last-modified" in reply.headers, "cache-control" in reply.headers) == (200, dated, dated), tail

    run(story)


def test_kinds_of_content(run: Run) -> None:
    async def story(w: World) -> None:
        client = w.client()
        body = b'{"name": "a"}'
        for headers, status in (
            ({}, 400),
            ({"content-type": "text/plain"}, 415),
            ({"content-type": "application/json; charset=utf-8"}, 200),
        ):
            reply = await client.request("POST", "/resource_providers", raw=body, headers=headers)
            assert reply.status == status, reply
        assert (await client.request("POST", "/resource_providers", raw=b"")).status == 415
        assert (await client.request("POST", "/resource_providers", raw=b"{", headers={"content-type": "application/json"})).status == 400
        assert (await client.get("/resource_providers", headers={"accept": "text/html"})).status == 406
        assert (await client.get("/resource_providers", headers={"accept": "text/html, */*;q=0.1"})).status == 200
        reply = await client.post("/resource_providers", {"name": "b", "nope": 1})
        assert "Additional properties are not allowed ('nope' was unexpected)" in reply.json["errors"][0]["detail"]

    run(story)


def test_accept() -> None:
    assert [accepts_json(a) for a in (None, "", "*/*", "application/json", "application/*;q=0.5", "text/html,application/json")] == [
        True
    ] * 6
    assert [accepts_json(a) for a in ("text/html", "application/json;q=0", "application/xml")] == [False] * 3


def test_under_a_prefix_links_have_it(run: Run) -> None:
    async def story(w: World) -> None:
        root = await w.anonymous.get("/placement")
        assert root.json["versions"][0]["links"] == [{"rel": "self", "href": "/placement"}]
        made = await w.client().post("/placement/resource_providers", {"name": "a"})
        assert made.headers["location"] == f"http://localhost/placement/resource_providers/{made.json['uuid']}"
        assert made.json["links"][0]["href"] == f"/placement/resource_providers/{made.json['uuid']}"
        assert (await w.client().get("/placementx")).status == 404

    run(story)


def test_inventories_one_by_one(run: Run) -> None:
    async def story(w: World) -> None:
        p = await w.provider("p")
        client, path = w.client(), f"/resource_providers/{p}/inventories"
        made = await client.post(path, {"resource_class": "VCPU", "total": 4, "reserved": 1, "allocation_ratio": 1.5})
        assert (made.status, made.json["resource_provider_generation"]) == (201, 1)
        assert (await w.allocate(CONSUMER, {p: {"VCPU": 4}})).status == 204, "int(3 * 1.5) = 4"
        assert (await client.put(f"{path}/VCPU", {"total": 4, "resource_provider_generation": 1})).status == 409
        assert (await client.put(f"{path}/VCPU", {"total": 4})).status == 400
        changed = await client.put(f"{path}/VCPU", {"total": 4, "resource_provider_generation": 2})
        assert (changed.status, changed.json["resource_provider_generation"]) == (200, 3)
        assert (await client.put(f"{path}/VGPU", {"total": 4, "resource_provider_generation": 3})).status == 400
        assert (await client.delete(f"{path}/VGPU")).status == 404
        assert (await client.delete(f"/allocations/{CONSUMER}")).status == 204
        assert (await client.delete(f"{path}/VCPU")).status == 204
        assert (await client.get(path)).json == {"resource_provider_generation": 4, "inventories": {}}
        assert (await client.post(path, {"resource_class": "CUSTOM_NONE", "total": 4})).status == 400
        for version, status in (("1.25", 400), ("1.26", 201)):
            reply = await w.client(version).post(path, {"resource_class": "VCPU", "total": 4, "reserved": 4})
            assert reply.status == status, reply

    run(story)


def test_custom_names_live_as_long_as_they_are_used(run: Run) -> None:
    async def story(w: World) -> None:
        client = w.client()
        assert (await client.put("/resource_classes/CUSTOM_A")).status == 201
        assert (await client.put("/traits/CUSTOM_T")).status == 201
        p = await w.provider("p", traits=("CUSTOM_T",), CUSTOM_A=1)
        assert (await client.delete("/resource_classes/CUSTOM_A")).status == 409
        assert (await w.client("1.6").put("/resource_classes/CUSTOM_A", {"name": "CUSTOM_B"})).status == 409
        assert (await client.delete("/traits/CUSTOM_T")).status == 409
        assert (await client.get("/traits?associated=true")).json["traits"] == ["CUSTOM_T"]
        assert "CUSTOM_T" not in (await client.get("/traits?associated=false")).json["traits"]
        assert (await client.get("/traits?name=startswith:CUSTOM")).json["traits"] == ["CUSTOM_T"]
        assert (await client.get("/traits?name=CUSTOM")).status == 400
        assert (await client.get("/traits?associated=maybe")).status == 400
        assert (await client.delete(f"/resource_providers/{p}/traits")).status == 204
        assert (await client.delete(f"/resource_providers/{p}")).status == 204
        assert (await client.delete("/resource_classes/CUSTOM_A")).status == 204
        assert (await client.delete("/traits/CUSTOM_T")).status == 204
        assert (await client.delete("/traits/CUSTOM_T")).status == 404
        assert (await client.delete("/resource_classes/CUSTOM_A")).status == 404
        assert (await w.client("1.6").put("/resource_classes/VCPU", {"name": "CUSTOM_B"})).status == 400
        listed = (await client.get("/resource_classes")).json["resource_classes"]
        assert (listed[0]["name"], len(listed)) == ("VCPU", 21)

    run(story)


def test_aggregates_before_1_19_ignore_the_generation(run: Run) -> None:
    async def story(w: World) -> None:
        p = await w.provider("p")
        path = f"/resource_providers/{p}/aggregates"
        assert (await w.client("1.18").put(path, [AGGREGATE])).json == {"aggregates": [AGGREGATE]}
        assert (await w.client().get(path)).json == {"aggregates": [AGGREGATE], "resource_provider_generation": 0}
        assert (await w.client("1.18").put(path, [AGGREGATE, AGGREGATE])).status == 400
        assert (await w.client("1.18").put(path, ["x"])).status == 400
        assert (await w.client().put(path, [AGGREGATE])).status == 400

    run(story)


def test_who_may(run: Run) -> None:
    async def story(w: World) -> None:
        for token, status in (("admin:p1", 200), ("service:p1", 200), ("manager:p1", 403), ("reader:p1", 403)):
            assert (await w.client(token=token).get("/resource_providers")).status == status
        for token, status in (("reader:p1", 200), ("reader:p2", 403), ("admin:p2", 200)):
            assert (await w.client(token=token).get("/usages?project_id=p1")).status == status
        for token, status in (("admin:p1", 403), ("service:p1", 400)):
            assert (await w.client(token=token).post("/reshaper", {})).status == status
        assert (await w.anonymous.get("/resource_providers")).status == 401
        assert (await w.anonymous.get("/")).status == 200

    run(story)


def test_uuids_with_and_without_dashes() -> None:
    dashed = "735d774a-b368-5706-8718-e12f76c91220"
    assert canonical_uuid(dashed.replace("-", "").upper()) == dashed
    assert [canonical_uuid(x) for x in ("", "zz", dashed + "0", dashed[:-1], "g" * 32)] == [None] * 5


def test_what_a_refused_row_means() -> None:
    assert duplicate(Duplicate("placement_providers.id"), "u", "n").details["field"] == "uuid"
    assert duplicate(Duplicate("placement_providers.name"), "u", "n").details["field"] == "name"
