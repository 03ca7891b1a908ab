"""Which choice wins, which driver is taken and why not, certificates."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from kilonova.cli import tls
from kilonova.cli.choices import Choices
from kilonova.cli.failure import Failure
from kilonova.cli.settle import driver_for, kilonova_conf, public_host, settle
from kilonova.cli.state import Mark, prepare

EVERYTHING = str
NEW = Mark(format=1, id="0", created_at="", version="")


def nothing(name: str) -> None:
    return None


def test_the_command_line_wins_over_files_and_a_later_file_over_an_earlier(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[DEFAULT]\nbind_host = 127.0.0.2\n[cloud]\nport_offset = 5\nregion = A\nservices = identity,image\n")
    (tmp_path / "b").write_text("[cloud]\nregion = B\n[DEFAULT]\ncompute_driver = fake.FakeDriver\n")
    files = (str(tmp_path / "a"), str(tmp_path / "b"))
    found = settle(Choices(config=files, port_offset=7))
    assert (found.bind, found.port_offset, found.region, found.services, found.driver) == (
        "127.0.0.2",
        7,
        "B",
        ("identity", "image"),
        "fake",
    )
    assert settle(Choices()).bind == "127.0.0.1"


def test_what_up_wrote_is_read_back(tmp_path: Path) -> None:
    settled = settle(Choices(bind="127.0.0.3", port_offset=9, insecure=True))
    text = kilonova_conf(settled, state=tmp_path, driver="fake", services=["identity"], tls=("/c", "/k"))
    (tmp_path / "kilonova.conf").write_text(text)
    again = settle(Choices(config=(str(tmp_path / "kilonova.conf"),)))
    assert (again.state, again.bind, again.port_offset, again.driver, again.services) == (
        str(tmp_path),
        "127.0.0.3",
        9,
        "fake",
        ("identity",),
    )
    assert (again.tls_cert, again.tls_key, again.insecure) == ("/c", "/k", True)


def test_wrong_values_are_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("[cloud]\nport_offset = many\n")
    with pytest.raises(Failure, match=r"\[cloud\] port_offset: .*'many'") as caught:
        settle(Choices(config=(str(tmp_path / "c"),)))
    assert "LocationInfo" not in caught.value.message
    (tmp_path / "c").write_text("[database]\nconnection = oracle://u:hush@h/d\n")
    with pytest.raises(Failure, match="begins with sqlite") as caught:
        settle(Choices(config=(str(tmp_path / "c"),)))
    assert "hush" not in caught.value.message


def test_driver() -> None:
    assert driver_for("fake", NEW, euid=1000, found=nothing) == "fake"
    with pytest.raises(Failure, match=r"needs root.*--driver fake"):
        driver_for("", NEW, euid=1000, found=EVERYTHING)
    with pytest.raises(Failure, match=r"QEMU is not installed: there is no qemu-system-.*apt-get install.*--driver fake"):
        driver_for("libvirt", NEW, euid=0, found=nothing)
    with pytest.raises(Failure, match="there is no qemu-img"):
        driver_for("libvirt", NEW, euid=0, found=lambda name: None if name == "qemu-img" else name)
    with pytest.raises(Failure, match="not a hypervisor driver"):
        driver_for("xen", NEW, euid=0, found=EVERYTHING)


def test_a_state_keeps_its_driver() -> None:
    faked = Mark(format=1, id="0", created_at="", version="", driver="fake")
    assert driver_for("", faked, euid=0, found=nothing) == "fake"
    with pytest.raises(Failure, match="made with the driver fake"):
        driver_for("libvirt", faked, euid=0, found=EVERYTHING)


def test_hosts_in_urls() -> None:
    assert public_host("127.0.0.1") == "127.0.0.1" and public_host("::1") == "[::1]"
    assert public_host("0.0.0.0") not in ("0.0.0.0", "")


def test_a_generated_certificate_is_kept_until_it_no_longer_fits(tmp_path: Path) -> None:
    made = prepare(tmp_path / "s")
    cert, key = tls.generated(made, "192.0.2.7", "cloud.example")
    first = Path(cert).read_bytes()
    names = x509.load_pem_x509_certificate(first).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "cloud.example" in names.get_values_for_type(x509.DNSName)
    assert "192.0.2.7" in [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert x509.load_pem_x509_certificate(first).not_valid_after_utc > datetime.datetime.now(datetime.UTC)
    assert Path(key).stat().st_mode & 0o777 == 0o600
    tls.generated(made, "192.0.2.7", "cloud.example")
    assert Path(cert).read_bytes() == first
    tls.generated(made, "192.0.2.8", "cloud.example")
    assert Path(cert).read_bytes() != first
    assert tls.checked(cert, key) == (cert, key)
    with pytest.raises(Failure, match="cannot be read"):
        tls.checked(cert, str(tmp_path / "none"))
    Path(key).write_text("rubbish")
    with pytest.raises(Failure, match="not a PEM certificate"):
        tls.checked(cert, key)
