"""clouds.yaml and openrc: any printable password survives YAML and a shell; passwords are kept, never remade."""

import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from kilonova.cli import credentials, state
from kilonova.cli.failure import Failure

printable = st.text(min_size=1, max_size=40).filter(str.isprintable)


@given(printable, printable)
def test_clouds_yaml_is_read_back(admin: str, demo: str) -> None:
    text = credentials.clouds_yaml(auth_url="http://[::1]:5000/v3", region="Région: 1", passwords_by_user={"admin": admin, "demo": demo})
    clouds = yaml.safe_load(text)["clouds"]
    assert clouds["kilonova"]["auth"]["password"] == admin and clouds["kilonova-demo"]["auth"]["password"] == demo
    assert clouds["kilonova-system"]["auth"]["system_scope"] == "all" and "project_name" not in clouds["kilonova-system"]["auth"]
    assert clouds["kilonova"]["region_name"] == "Région: 1" and clouds["kilonova"]["auth"]["auth_url"] == "http://[::1]:5000/v3"


@settings(max_examples=15, deadline=None)
@given(printable)
def test_openrc_is_read_back_by_a_shell(password: str) -> None:
    text = credentials.openrc(user="admin", auth_url="http://127.0.0.1:5000/v3", region="R", password=password)
    read = subprocess.run(["bash", "-c", text + 'printf %s "$OS_PASSWORD"'], capture_output=True, check=True)
    assert read.stdout.decode() == password


def test_passwords_are_chosen_once(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "s")
    first, warnings = credentials.passwords(made, new=True, environment={"KILONOVA_ADMIN_PASSWORD": "mine"})
    assert first["admin"] == "mine" and len(first["demo"]) >= 16 and not warnings
    credentials.write_all(made, auth_url="http://h/v3", region="R", passwords_by_user=first, cacert=None)
    again, warnings = credentials.passwords(made, new=False, environment={"KILONOVA_ADMIN_PASSWORD": "another"})
    assert again == first and "ignored" in warnings[0]
    assert credentials.stored_login(made).password == "mine"
    other, _ = credentials.passwords(state.prepare(tmp_path / "t"), new=True, environment={})
    assert other["admin"] != first["demo"] != other["demo"]


def test_lost_passwords_are_not_made_up(tmp_path: Path) -> None:
    made = state.prepare(tmp_path / "s")
    with pytest.raises(Failure, match="KILONOVA_DEMO_PASSWORD"):
        credentials.passwords(made, new=False, environment={"KILONOVA_ADMIN_PASSWORD": "a"})
    both = {"KILONOVA_ADMIN_PASSWORD": "a", "KILONOVA_DEMO_PASSWORD": "b"}
    assert credentials.passwords(made, new=False, environment=both)[0] == {"admin": "a", "demo": "b"}


@pytest.mark.parametrize("bad", ["", "a\nb", "\x00"])
def test_control_characters_are_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(Failure, match="KILONOVA_ADMIN_PASSWORD"):
        credentials.passwords(state.prepare(tmp_path / "s"), new=True, environment={"KILONOVA_ADMIN_PASSWORD": bad})


@pytest.mark.parametrize("text", ["clouds: [", "clouds: 3", "[]", "clouds:\n  kilonova: {}\n"])
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    made = state.prepare(tmp_path / "s")
    made.clouds_yaml.write_text(text)
    with pytest.raises(Failure, match=r"clouds\.yaml"):
        credentials.stored_login(made)
