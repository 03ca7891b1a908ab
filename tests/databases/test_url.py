"""URLs of databases as operators write them. Nothing that is said about one quotes its password."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.core.config import ConfigError
from kilonova.core.db.opening import open_database
from kilonova.core.db.url import BadUrl, parse
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime


@pytest.mark.parametrize(
    ("text", "kind", "hosts", "database"),
    [
        ("postgresql://u:p@h/d", "postgresql", (("h", 5432),), "d"),
        ("postgresql+asyncpg://u:p@h1,h2:5433/d", "postgresql", (("h1", 5433), ("h2", 5433)), "d"),
        ("postgresql://u:p@h1:1,h2:2/d", "postgresql", (("h1", 1), ("h2", 2)), "d"),
        ("postgresql://u:p@[::1]:7,[fd00::2]/d", "postgresql", (("::1", 7), ("fd00::2", 5432)), "d"),
        ("mysql+pymysql://u:p@h/d?charset=utf8", "mariadb", (("h", 3306),), "d"),
        ("mariadb://u:p@/d?unix_socket=/run/mysqld/mysqld.sock", "mariadb", (("/run/mysqld/mysqld.sock", 3306),), "d"),
        ("postgresql://u@/d?host=/run/postgresql&port=5433", "postgresql", (("/run/postgresql", 5433),), "d"),
        ("sqlite:////var/lib/k.db", "sqlite", (), "/var/lib/k.db"),
    ],
)
def test_what_is_understood(text: str, kind: str, hosts: tuple[tuple[str, int], ...], database: str) -> None:
    url = parse(text)
    assert (url.kind, url.hosts, url.database) == (kind, hosts, database)


@pytest.mark.parametrize(
    "text",
    [
        "oracle://u:hush@h/d",
        "postgresql://u:hush@h",
        "postgresql://u:hush@h:x/d",
        "postgresql://u:hush@h:99999/d",
        "postgresql://u:hush@,/d",
        "mysql://h/d",
        "sqlite:///",
        "postgresql://u:hush@/d?host=/run&port=x",
        "",
    ],
)
def test_what_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(BadUrl) as caught:
        parse(text)
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"\[database\] connection: "):
        open_database(text, Runtime(), Log("t", Sink()))


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=20))
def test_passwords_come_through_and_are_not_shown(password: str) -> None:
    url = parse(f"postgresql://user:{quote(password, safe='')}@db.example/d")
    assert url.password == password
    assert str(url) == "postgresql://user@db.example:5432/d"
    assert repr(url) == f"<Url {url}>"
