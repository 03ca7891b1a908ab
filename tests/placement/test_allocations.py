"""Allocations over the API: every form of the body, generations, moves, usages and the reshaper."""

from typing import Any

from tests.placement.conftest import Run, World

C1, C2, C3 = (f"c0000000-0000-4000-8000-00000000000{i}" for i in (1, 2, 3))


def held(resources: dict[str, dict[str, int]], generation: int | None = None, **changes: Any) -> dict[str, Any]:
    body = {
        "allocations": {provider: {"resources": amounts} for provider, amounts in resources.items()},
        "project_id": "p1",
        "user_id": "u1",
        "consumer_generation": generation,
        "consumer_type": "INSTANCE",
    }
    return {**body, **changes}


def less(body: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in body.items() if k not in keys}


async def used(w: World, provider: str) -> dict[str, int]:
    found = (await w.client().get(f"/resource_providers/{provider}/usages")).json["usages"]
    return {name: amount for name, amount in found.items() if amount}


def test_every_form_of_the_body(run: Run) -> None:
    async def story(w: World) -> None:
        p = await w.provider("p", VCPU=100)
        listed = {"allocations": [{"resource_provider": {"uuid": p}, "resources": {"VCPU": 1}}]}
        keyed = held({p: {"VCPU": 1}})
        forms = (
            ("1.0", listed),
            ("1.7", listed),
            ("1.8", {**listed, "project_id": "p", "user_id": "u"}),
            ("1.11", {**listed, "project_id": "p", "user_id": "u"}),
            ("1.12", less(keyed, "consumer_generation", "consumer_type")),
            ("1.27", less(keyed, "consumer_generation", "consumer_type")),
            ("1.28", less(keyed, "consumer_type")),
            ("1.33", less(keyed, "consumer_type")),
            ("1.34", {**less(keyed, "consumer_type"), "mappings": {"": [p]}}),
            ("1.38", {**keyed, "mappings": {"_A": [p]}}),
        )
        for at, (version, body) in enumerate(forms, 1):
            consumer = w.runtime.uuid()
            reply = await w.client(version).put(f"/allocations/{consumer}", body)
            assert reply.status == 204, (version, reply)
            assert await used(w, p) == {"VCPU": at}
            document = (await w.client().get(f"/allocations/{consumer}")).json
            assert document["allocations"][p] == {"generation": at + 1, "resources": {"VCPU": 1}}
            assert document["consumer_type"] == ("INSTANCE" if version == "1.38" else "unknown")
        for version, body in (
            ("1.8", listed),
            ("1.12", listed),
            ("1.11", forms[4][1]),
            ("1.27", forms[6][1]),
            ("1.28", forms[4][1]),
            ("1.33", forms[8][1]),
            ("1.37", forms[9][1]),
            ("1.38", forms[8][1]),
            ("1.12", {**forms[4][1], "allocations": {}}),
            ("1.39", held({p: {}})),
            ("1.39", held({p: {"VCPU": 0}})),
            ("1.39", held({p: {"vcpu": 1}})),
            ("1.39", held({"x": {"VCPU": 1}})),
            ("1.39", held({p: {"VCPU": 1}}, consumer_type="instance")),
            ("1.39", held({p: {"NOPE": 1}})),
        ):
            reply = await w.client(version).put(f"/allocations/{C1}", body)
            assert reply.status == 400, (version, reply)
        assert (await w.client().put("/allocations/zz", keyed)).status == 400

    run(story)


def test_generations_of_a_consumer(run: Run) -> None:
    async def story(w: World) -> None:
        p = await w.provider("p", VCPU=10)
        assert (await w.allocate(C1, {p: {"VCPU": 1}}, 0)).status == 409
        assert (await w.allocate(C1, {p: {"VCPU": 1}}, None)).status == 204
        stale = await w.allocate(C1, {p: {"VCPU": 2}}, None)
        assert (stale.status, stale.json["errors"][0]["code"]) == (409, "placement.concurrent_update")
        assert (await w.allocate(C1, {p: {"VCPU": 2}}, 1, user_id="u2")).status == 204
        document = (await w.client().get(f"/allocations/{C1}")).json
        assert (document["consumer_generation"], document["user_id"]) == (2, "u2")
        assert (await w.allocate(C1, {}, 2)).status == 204
        assert (await w.client().get(f"/allocations/{C1}")).json == {"allocations": {}}
        assert await used(w, p) == {}
        assert (await w.allocate(C1, {p: {"VCPU": 1}}, None)).status == 204
        unversioned = less(held({p: {"VCPU": 3}}), "consumer_generation", "consumer_type")
        assert (await w.client("1.12").put(f"/allocations/{C1}", unversioned)).status == 204
        assert await used(w, p) == {"VCPU": 3}

    run(story)


def test_a_full_provider_swaps_consumers_in_one_step(run: Run) -> None:
    async def story(w: World) -> None:
        p, q = await w.provider("p", VCPU=4), await w.provider("q", VCPU=4)
        assert (await w.allocate(C1, {p: {"VCPU": 4}})).status == 204
        refused = await w.client().post("/allocations", {C1: held({p: {"VCPU": 2}}, 1), C2: held({p: {"VCPU": 3}})})
        assert refused.status == 409
        assert await used(w, p) == {"VCPU": 4}
        moved = await w.client().post("/allocations", {C1: held({q: {"VCPU": 4}}, 1), C2: held({p: {"VCPU": 4}})})
        assert moved.status == 204, moved
        assert (await used(w, p), await used(w, q)) == ({"VCPU": 4}, {"VCPU": 4})
        cleared = await w.client().post("/allocations", {C1: held({}, 2), C2: held({}, 1), C3: held({p: {"VCPU": 4}, q: {"VCPU": 4}})})
        assert cleared.status == 204
        assert set((await w.client().get(f"/resource_providers/{q}/allocations")).json["allocations"]) == {C3}
        assert (await w.client().post("/allocations", {})).status == 400

    run(story)


def test_an_overcommitted_provider_lets_go_but_not_grow(run: Run) -> None:
    async def story(w: World) -> None:
        p = await w.provider("p", VCPU=8)
        assert (await w.allocate(C1, {p: {"VCPU": 8}})).status == 204
        shrunk = await w.client().put(f"/resource_providers/{p}/inventories/VCPU", {"total": 2, "resource_provider_generation": 2})
        assert shrunk.status == 200
        assert (await w.allocate(C1, {p: {"VCPU": 6}}, 1)).status == 204
        assert (await w.allocate(C1, {p: {"VCPU": 7}}, 2)).status == 409
        assert await used(w, p) == {"VCPU": 6}

    run(story)


def test_usages_of_a_project(run: Run) -> None:
    async def story(w: World) -> None:
        p = await w.provider("p", VCPU=100, DISK_GB=100)
        await w.allocate(C1, {p: {"VCPU": 1, "DISK_GB": 5}})
        await w.allocate(C2, {p: {"VCPU": 2}}, consumer_type="MIGRATION", user_id="u2")
        await w.client("1.12").put(f"/allocations/{C3}", less(held({p: {"VCPU": 4}}), "consumer_generation", "consumer_type"))
        client = w.client()
        for query, found in (
            (
                "",
                {
                    "INSTANCE": {"consumer_count": 1, "VCPU": 1, "DISK_GB": 5},
                    "MIGRATION": {"consumer_count": 1, "VCPU": 2},
                    "unknown": {"consumer_count": 1, "VCPU": 4},
                },
            ),
            ("&consumer_type=all", {"all": {"consumer_count": 3, "VCPU": 7, "DISK_GB": 5}}),
            ("&consumer_type=unknown", {"unknown": {"consumer_count": 1, "VCPU": 4}}),
            ("&consumer_type=MIGRATION", {"MIGRATION": {"consumer_count": 1, "VCPU": 2}}),
            ("&user_id=u2", {"MIGRATION": {"consumer_count": 1, "VCPU": 2}}),
            ("&user_id=u3", {}),
        ):
            assert (await client.get(f"/usages?project_id=p1{query}")).json["usages"] == found, query
        assert (await w.client("1.37").get("/usages?project_id=p1")).json["usages"] == {"VCPU": 7, "DISK_GB": 5}
        assert (await w.client("1.37").get("/usages?project_id=p1&consumer_type=all")).status == 400
        assert (await client.get("/usages?project_id=p1&consumer_type=x")).status == 400

    run(story)


def test_the_reshaper_moves_inventory_under_allocations(run: Run) -> None:
    async def story(w: World) -> None:
        root = await w.provider("root", VCPU=8, VGPU=4)
        child = await w.provider("child", root)
        assert (await w.allocate(C1, {root: {"VCPU": 2, "VGPU": 1}})).status == 204
        service = w.client(token="service:p1")

        def body(child_generation: int) -> dict[str, Any]:
            return {
                "inventories": {
                    root: {"resource_provider_generation": 2, "inventories": {"VCPU": {"total": 8}}},
                    child: {"resource_provider_generation": child_generation, "inventories": {"VGPU": {"total": 4}}},
                },
                "allocations": {C1: held({root: {"VCPU": 2}, child: {"VGPU": 1}}, 1)},
            }

        assert (await service.post("/reshaper", body(7))).status == 409
        assert (await used(w, root), await used(w, child)) == ({"VCPU": 2, "VGPU": 1}, {})
        left_behind = {**body(0), "allocations": {}}
        assert (await service.post("/reshaper", left_behind)).json["errors"][0]["code"] == "placement.inventory.inuse"
        assert (await service.post("/reshaper", body(0))).status == 204
        assert (await used(w, root), await used(w, child)) == ({"VCPU": 2}, {"VGPU": 1})
        assert set((await service.get(f"/resource_providers/{root}/inventories")).json["inventories"]) == {"VCPU"}

    run(story)


def test_one_consumer_twice_in_a_request(run: Run) -> None:
    async def story(w: World) -> None:
        p = await w.provider("p", VCPU=100)
        old = less(held({p: {"VCPU": 2}}), "consumer_generation", "consumer_type")
        assert (await w.client("1.13").put(f"/allocations/{C1}", old)).status == 204
        assert (await w.client("1.13").post("/allocations", {C1: old, C1.upper(): old})).status == 400
        twice = {"allocations": [{"resource_provider": {"uuid": x}, "resources": {"VCPU": 3}} for x in (p, p.upper())]}
        assert (await w.client("1.0").put(f"/allocations/{C2}", twice)).status == 204
        assert await used(w, p) == {"VCPU": 5}
        assert (await w.client().put(f"/allocations/{C2}", held({p: {"VCPU": 1}}, 10**30))).status == 400

    run(story)
