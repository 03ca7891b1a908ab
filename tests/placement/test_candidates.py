"""Allocation candidates: the search against a brute-force reading of the rules, and the query over the API."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilonova.placement.domain.candidates import Group, Question, Snapshot, search
from kilonova.placement.domain.filters import MemberFilter, TraitFilter
from kilonova.placement.model import Provider, Stock
from kilonova.placement.standard_names import SHARING
from tests.placement.conftest import Run, World

AGG = "a0000000-0000-4000-8000-000000000001"
CLASSES, TRAITS, AGGS = ("VCPU", "DISK_GB"), ("T1", "T2"), ("A1", "A2")

trait_filters = st.builds(
    TraitFilter,
    st.lists(st.frozensets(st.sampled_from(TRAITS), min_size=1, max_size=2), max_size=1).map(tuple),
    st.frozensets(st.sampled_from(TRAITS), max_size=1),
)
member_filters = st.builds(
    MemberFilter,
    st.lists(st.frozensets(st.sampled_from(AGGS), min_size=1, max_size=1), max_size=1).map(tuple),
    st.frozensets(st.sampled_from(AGGS), max_size=1),
)
amounts = st.dictionaries(st.sampled_from(CLASSES), st.integers(1, 2), min_size=1)
rarely = st.sampled_from([False, False, False, True])


@st.composite
def snapshots(draw: st.DrawFn) -> tuple[list[Provider], list[Stock]]:
    """Up to five providers in trees; each later one may hang below an earlier one."""
    providers: list[Provider] = []
    stocks = []
    for at, name in enumerate("abcde"[: draw(st.integers(2, 5))]):
        parent = draw(st.sampled_from([None, *providers]))
        traits = tuple(draw(st.lists(st.sampled_from([*TRAITS, SHARING]), unique=True, max_size=2)))
        aggregates = tuple(draw(st.lists(st.sampled_from(AGGS), unique=True, max_size=2)))
        root = parent.root_id if parent else name
        providers.append(Provider(name, name, 0, parent.id if parent else None, root, traits, aggregates, 0, at, at))
        for resource_class in draw(st.sampled_from([CLASSES, CLASSES, CLASSES[:1], CLASSES[1:], ()])):
            capacity, used = draw(st.integers(2, 5)), draw(st.integers(0, 2))
            stocks.append(Stock(name, resource_class, capacity, 0, 1, 3, draw(st.sampled_from([1, 1, 2])), 1.0, capacity, used, 0))
    return providers, stocks


@st.composite
def questions(draw: st.DrawFn) -> Question:
    suffixes = draw(st.sampled_from([("",), ("1",), ("", "1"), ("1", "2")]))
    groups = []
    for suffix in suffixes:
        in_tree = draw(st.sampled_from(["a", "b"])) if draw(rarely) else None
        traits = draw(trait_filters) if draw(rarely) else TraitFilter()
        members = draw(member_filters) if draw(rarely) else MemberFilter()
        groups.append(Group(suffix=suffix, resources=draw(amounts), in_tree=in_tree, traits=traits, members=members))
    subtree = (frozenset(suffixes),) if suffixes == ("1", "2") and draw(st.booleans()) else ()
    root = draw(trait_filters) if draw(rarely) else TraitFilter()
    return Question(groups=tuple(groups), isolate=draw(rarely), root=root, same_subtree=subtree, nested=draw(st.booleans()))


def brute_force(providers: list[Provider], stocks: list[Stock], q: Question) -> set[Any]:
    """Give every (group, class) any provider at all, and throw out what breaks a rule for every possible anchor."""
    by_id = {p.id: p for p in providers}
    have = {(s.provider_id, s.resource_class): s for s in stocks}
    wanted = [(group, name, amount) for group in q.groups for name, amount in group.resources.items()]
    out = set()
    for chosen in itertools.product(sorted(by_id), repeat=len(wanted)):
        placed = list(zip(wanted, chosen, strict=True))
        sums: dict[tuple[str, str], int] = {}
        mappings: dict[str, list[str]] = {}
        for (group, name, amount), p in placed:
            sums[p, name] = sums.get((p, name), 0) + amount
            if p not in mappings.setdefault(group.suffix, []):
                mappings[group.suffix].append(p)
        if not all(key in have and have[key].used + total <= have[key].capacity and total <= 3 for key, total in sums.items()):
            continue
        if not all(amount % have[p, name].step_size == 0 for (_, name, amount), p in placed):
            continue
        if not all(group_ok(by_id, group, mappings[group.suffix]) for group in q.groups):
            continue
        single = [mappings[g.suffix][0] for g in q.groups if g.suffix]
        if q.isolate and len(set(single)) < len(single):
            continue
        if not q.nested and len({by_id[p].root_id for p, _ in sums}) < len({p for p, _ in sums}):
            continue
        if q.same_subtree and not any(all(above(by_id, top, p) for p in single) for top in single):
            continue
        if any(anchored(providers, root, {p for p, _ in sums}) and q.root.matches(set(by_id[root].traits)) for root in by_id):
            out.add((frozenset(sums.items()), frozenset((s, tuple(ps)) for s, ps in mappings.items())))
    return out


def group_ok(by_id: dict[str, Provider], group: Group, ids: list[str]) -> bool:
    if group.suffix and len(ids) > 1:
        return False
    together = {t for p in ids for t in by_id[p].traits}
    if not all(some & together for some in group.traits.needed):
        return False
    for p in (by_id[i] for i in ids):
        own, root = set(p.aggregates), set(by_id[p.root_id].aggregates)
        reach = own if group.suffix else own | root
        if group.traits.forbidden & set(p.traits) or group.members.forbidden & reach:
            return False
        homes = [own] if group.suffix else [own, root]
        if not any(all(some & home for some in group.members.needed) for home in homes):
            return False
        if group.in_tree is not None and (group.in_tree not in by_id or by_id[group.in_tree].root_id != p.root_id):
            return False
    return True


def above(by_id: dict[str, Provider], top: str, p: str) -> bool:
    parent = by_id[p].parent_id
    return top == p or (parent is not None and above(by_id, top, parent))


def anchored(providers: list[Provider], root: str, used: set[str]) -> bool:
    tree = [p for p in providers if p.root_id == root]
    if not tree:
        return False
    spanned = {a for p in tree for a in p.aggregates}
    return all(p.root_id == root or (SHARING in p.traits and spanned & set(p.aggregates)) for p in providers if p.id in used)


@settings(max_examples=400, deadline=None)
@given(snapshots(), questions())
def test_the_search_finds_what_the_rules_allow(world: tuple[list[Provider], list[Stock]], question: Question) -> None:
    providers, stocks = world
    snapshot = Snapshot(providers, stocks)
    found = [(frozenset(c.amounts.items()), frozenset(c.mappings.items())) for c in search(snapshot, question)]
    assert len(set(found)) == len(found), "each once"
    normal = {(a, frozenset((s, tuple(p)) for s, p in m)) for a, m in found}
    assert normal == brute_force(providers, stocks, question)
    other = [(frozenset(c.amounts.items()), frozenset(c.mappings.items())) for c in search(snapshot, question, breadth_first=True)]
    assert set(other) == set(found)


# ---- over the API


async def ask(w: World, query: str, version: str = "1.39") -> Any:
    reply = await w.client(version).get(f"/allocation_candidates?{query}")
    assert reply.status == 200, reply
    return reply.json


def placed(answer: Any) -> list[dict[str, dict[str, int]]]:
    return [{p: one["resources"] for p, one in request["allocations"].items()} for request in answer["allocation_requests"]]


async def numa_host(w: World, name: str = "host") -> tuple[str, str, str]:
    root = await w.provider(name, traits=("HW_CPU_X86_AVX2",), DISK_GB=100)
    return root, await w.provider(f"{name}-0", root, VCPU=4, MEMORY_MB=1024), await w.provider(f"{name}-1", root, VCPU=4, MEMORY_MB=1024)


def test_a_nested_host(run: Run) -> None:
    async def story(w: World) -> None:
        root, n0, n1 = await numa_host(w)
        answer = await ask(w, "resources=VCPU:2,DISK_GB:5")
        assert placed(answer) == [{n0: {"VCPU": 2}, root: {"DISK_GB": 5}}, {n1: {"VCPU": 2}, root: {"DISK_GB": 5}}]
        assert set(answer["provider_summaries"]) == {root, n0, n1}
        assert answer["provider_summaries"][n0]["parent_provider_uuid"] == root
        assert placed(await ask(w, "resources=VCPU:2,DISK_GB:5", "1.28")) == []
        assert placed(await ask(w, "resources=VCPU:2", "1.28")) == [{n0: {"VCPU": 2}}, {n1: {"VCPU": 2}}]
        both = "resources_a=VCPU:2,MEMORY_MB:512&resources_b=VCPU:2,MEMORY_MB:512&group_policy="
        isolated = await ask(w, both + "isolate")
        assert [request["mappings"] for request in isolated["allocation_requests"]] == [{"_a": [n0], "_b": [n1]}, {"_a": [n1], "_b": [n0]}]
        assert len(placed(await ask(w, both + "none"))) == 4
        assert len(placed(await ask(w, both + "none&same_subtree=_a,_b"))) == 2
        with_root = "resources_a=VCPU:2&required_r=HW_CPU_X86_AVX2&same_subtree=_a,_r"
        assert [r["mappings"] for r in (await ask(w, with_root))["allocation_requests"]] == [
            {"_a": [n0], "_r": [root]},
            {"_a": [n1], "_r": [root]},
        ]
        assert len(placed(await ask(w, "resources=VCPU:1&root_required=HW_CPU_X86_AVX2"))) == 2
        assert placed(await ask(w, "resources=VCPU:1&root_required=!HW_CPU_X86_AVX2")) == []
        assert placed(await ask(w, f"resources=VCPU:1&in_tree={n1}&limit=1")) == [{n0: {"VCPU": 1}}]

    run(story)


def test_a_shared_disk(run: Run) -> None:
    async def story(w: World) -> None:
        nfs = await w.provider("nfs", aggregates=(AGG,), traits=(SHARING,), DISK_GB=1000)
        near = await w.provider("near", aggregates=(AGG,), VCPU=8)
        await w.provider("far", VCPU=8)
        answer = await ask(w, "resources=VCPU:1,DISK_GB:10")
        assert placed(answer) == [{near: {"VCPU": 1}, nfs: {"DISK_GB": 10}}]
        assert set(answer["provider_summaries"]) == {near, nfs}
        assert placed(await ask(w, f"resources=VCPU:1&resources1=DISK_GB:10&member_of1={AGG}")) == [
            {near: {"VCPU": 1}, nfs: {"DISK_GB": 10}}
        ]
        assert placed(await ask(w, f"resources=VCPU:1,DISK_GB:10&in_tree={near}")) == []

    run(story)


@pytest.mark.parametrize(
    ("version", "query", "code"),
    [
        ("1.39", "", "placement.query.missing_value"),
        ("1.39", "resources=VCPU:1&root_required=HW_CPU_X86_AVX&root_required=HW_CPU_X86_SSE", "placement.query.duplicate_key"),
        ("1.39", "resources_a=VCPU:1&same_subtree=_b", "placement.query.bad_value"),
        ("1.39", "resources_a=VCPU:1&same_subtree=,_a", "placement.query.bad_value"),
        ("1.39", "resources_a=VCPU:1&required_b=HW_CPU_X86_AVX", "placement.undefined_code"),
        ("1.39", "resources_a=VCPU:1&resources_b=VCPU:1", "placement.undefined_code"),
        ("1.39", "resources_a=VCPU:1&group_policy=both", "placement.undefined_code"),
        ("1.39", "resources=VCPU:1&limit=0", "placement.undefined_code"),
        ("1.39", "resources=VCPU:1&limit=x", "placement.undefined_code"),
        ("1.39", "resources=VCPU:1&in_tree=x", "placement.undefined_code"),
        ("1.35", "resources_a=VCPU:1&same_subtree=_a", "placement.undefined_code"),
        ("1.34", "resources=VCPU:1&root_required=HW_CPU_X86_AVX", "placement.undefined_code"),
        ("1.32", "resources_a=VCPU:1", "placement.undefined_code"),
        ("1.30", "resources=VCPU:1&in_tree=735d774a-b368-5706-8718-e12f76c91220", "placement.undefined_code"),
        ("1.24", "resources1=VCPU:1", "placement.undefined_code"),
        ("1.24", "required=HW_CPU_X86_AVX", "placement.undefined_code"),
    ],
)
def test_queries_that_are_refused(run: Run, version: str, query: str, code: str) -> None:
    async def story(w: World) -> None:
        reply = await w.client(version).get(f"/allocation_candidates?{query}")
        assert (reply.status, reply.json["errors"][0]["code"]) == (400, code), reply

    run(story)


def test_how_many_and_in_which_order(run: Run) -> None:
    async def story(w: World) -> None:
        _, a, b = await numa_host(w, "x")
        _, d, e = await numa_host(w, "y")
        assert placed(await ask(w, "resources=VCPU:1")) == [{p: {"VCPU": 1}} for p in (a, b, d, e)]
        assert placed(await ask(w, "resources=VCPU:1&limit=3")) == [{p: {"VCPU": 1}} for p in (a, b, d)]

    run(story)


def test_breadth_first_with_a_maximum(run: Run) -> None:
    async def story(w: World) -> None:
        _, a, _ = await numa_host(w, "x")
        _, d, _ = await numa_host(w, "y")
        assert placed(await ask(w, "resources=VCPU:1")) == [{a: {"VCPU": 1}}, {d: {"VCPU": 1}}]

    run(story, allocation_candidates_generation_strategy="breadth-first", max_allocation_candidates=2)


def test_random_order_keeps_the_same_candidates(run: Run) -> None:
    async def story(w: World) -> None:
        ids = [await w.provider(f"h{i}", VCPU=1) for i in range(8)]
        orders = [[next(iter(one)) for one in placed(await ask(w, "resources=VCPU:1"))] for _ in range(6)]
        assert all(sorted(order) == sorted(ids) for order in orders)
        assert len({tuple(order) for order in orders}) > 1

    run(story, randomize_allocation_candidates=True)
