"""What `join-token`, `join` and `leave` say on standard error, as far as it needs no broker."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from kilonova.cli import leave
from kilonova.cli.failure import Failure
from kilonova.cli.tree import kilonova
from kilonova.compute.join_forms import read_token
from kilonova.core.bus.rabbit_users import CannotManage


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(kilonova, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a cloud whose database is a file, which serves as well as a server's for what is asked here."""
    path = tmp_path / "kilonova.conf"
    path.write_text(
        f"[DEFAULT]\ntransport_url = rabbit://a:b@127.0.0.1:1/\nstate_path = {tmp_path / 'state'}\n"
        f"[database]\nconnection = sqlite:///{tmp_path / 'kilonova.db'}\n"
    )
    assert run("db", "sync", "--config", str(path))[0] == 0
    return path


@pytest.mark.parametrize(
    ("more", "local"),
    [((), True), (("--controller", "127.0.0.1:9"), True), (("--controller", "[::1]"), True), (("--controller", "2001:db8::1"), False)],
)
def test_a_token_that_leads_nowhere_else_is_told(config: Path, more: tuple[str, ...], local: bool) -> None:
    code, word, said = run("join-token", "--config", str(config), *more)
    assert code == 0 and ("on this machine only" in said) == local
    (place,) = read_token(word).controllers
    assert place.endswith(":9" if "127.0.0.1:9" in more else ":8770") and (place == "[2001:db8::1]:8770") != local


@pytest.mark.parametrize("place", ["x:y", "http://a", "a:99999", ""])
def test_an_address_that_is_none_makes_no_token(config: Path, place: str) -> None:
    code, word, said = run("join-token", "--config", str(config), "--controller", place)
    assert code == 1 and word == "" and "is no address of a controller" in said


def test_there_is_nothing_to_renew_where_nobody_has_joined(tmp_path: Path) -> None:
    code, _, said = run("join", "--renew", "--state", str(tmp_path / "none"))
    assert code == 1 and "has not joined a cloud" in said and "kilonova up" not in said


def test_a_host_whose_user_cannot_be_taken_away_is_not_called_shut_out() -> None:
    class Joining:
        async def leave(self, host: str) -> bool:
            raise CannotManage("the broker does not answer.")

    with pytest.raises(
        Failure, match=r"one is not shut out yet: .* broker user is still there, since the broker does not answer\. .*repeat"
    ):
        asyncio.run(leave._shut_out(Joining(), "one"))
