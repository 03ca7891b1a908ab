"""The path tree against the obvious way of finding a route."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.core.routing import PUBLIC, Route, Router, Stats


async def handler(c: Any, ctx: Any, req: Any) -> None:
    """Never called."""


def route(method: str, path: str, **options: Any) -> Route:
    return Route(method, path, handler, PUBLIC, **options)


def found(router: Router, path: str, method: str = "GET") -> tuple[str, dict[str, str]] | None:
    hit = router.find(path)
    return None if hit is None else (hit[0][method][0].path, hit[1])


def test_literals_win_and_dead_ends_are_left_again() -> None:
    router = Router([route("GET", p) for p in ("/", "/a/{x}", "/a/b", "/a/{x}/c/{y}", "/a/b/d", "/{z}/e")])
    assert found(router, "/") == found(router, "") == ("/", {})
    assert found(router, "/a/b") == ("/a/b", {})
    assert found(router, "/a/q") == ("/a/{x}", {"x": "q"})
    assert found(router, "/a/b/c/1") == ("/a/{x}/c/{y}", {"x": "b", "y": "1"}), "b is a literal here but not there"
    assert found(router, "/a/e") == ("/a/{x}", {"x": "e"})
    assert found(router, "/q/e") == ("/{z}/e", {"z": "q"})
    assert found(router, "/a") is None
    assert found(router, "/a/b/d/f") is None
    assert found(router, "/a/b/") == ("/a/b", {}), "a slash at the end does not matter"
    assert found(router, "/a//c/1") is None, "a variable is never empty"


def test_the_rest_of_a_path() -> None:
    router = Router([route("GET", "/o/{name:path}"), route("GET", "/o/{name}/meta")])
    assert found(router, "/o/a/b/c") == ("/o/{name:path}", {"name": "a/b/c"})
    assert found(router, "/o/a/meta") == ("/o/{name}/meta", {"name": "a"})


def test_methods_and_versions_of_one_path_stay_together() -> None:
    router = Router([route("GET", "/a"), route("PUT", "/a", until=(2, 9)), route("PUT", "/a", since=(2, 10))])
    methods, _ = router.find("/a") or ({}, {})
    assert sorted(methods) == ["GET", "PUT"]
    assert [r.serves((2, 10)) for r in methods["PUT"]] == [False, True]
    assert [r.serves((2, 9)) for r in methods["PUT"]] == [True, False]


def test_a_segment_has_one_name() -> None:
    with pytest.raises(ValueError, match="called x by another route"):
        Router([route("GET", "/a/{x}"), route("GET", "/a/{y}/b")])
    with pytest.raises(ValueError, match="starts with /"):
        Router([route("GET", "a")])


class Old(msgspec.Struct, forbid_unknown_fields=True):
    a: int


class New(Old):
    b: int = 0


def test_the_body_of_a_version_is_the_newest_not_newer_than_it() -> None:
    versioned = route("POST", "/a", body=[((2, 3), Old), ((2, 7), New)])
    assert versioned.decoder((2, 2)) is None
    for version, kind in (((2, 3), Old), ((2, 6), Old), ((2, 7), New), ((3, 0), New)):
        decoder = versioned.decoder(version)
        assert decoder is not None
        assert type(decoder.decode(b'{"a": 1}')) is kind


def test_stats_count_in_the_right_bucket() -> None:
    stats = Stats()
    for seconds in (0.0005, 0.001, 0.002, 0.3, 100.0):
        stats.add(200, seconds)
    assert stats.statuses == {200: 5}
    assert stats.buckets[0] == 2
    assert stats.buckets[1] == 1
    assert stats.buckets[-1] == 1
    assert sum(stats.buckets) == 5


WORDS = ("a", "b", "c")
templates = st.lists(st.lists(st.sampled_from([*WORDS, "{v}"]), min_size=1, max_size=4), min_size=1, max_size=12)
asked = st.lists(st.sampled_from([*WORDS, "q"]), min_size=1, max_size=5)


@given(templates, asked)
def test_the_tree_finds_what_trying_all_patterns_finds(parts: list[list[str]], path: list[str]) -> None:
    paths = ["/" + "/".join(f"{{v{i}}}" if p == "{v}" else p for i, p in enumerate(segments)) for segments in parts]
    router = Router([route("GET", p) for p in dict.fromkeys(paths)])
    text = "/" + "/".join(path)
    matching = [p for p in paths if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", p), text)]
    got = found(router, text)
    if not matching:
        assert got is None
        return
    assert got is not None
    # Of those that match, the one with a literal at the first place where they differ.
    best = min(matching, key=lambda p: [segment.startswith("{") for segment in p.split("/")])
    assert got[0] == best
    names = [segment[1:-1] for segment in best.split("/") if segment.startswith("{")]
    assert got[1] == {name: path[int(name[1:])] for name in names}
