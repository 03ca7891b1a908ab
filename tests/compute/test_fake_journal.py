"""Fake guests outlive their process: whatever was done to them is there when the file is opened again."""

import asyncio
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilonova.compute.drivers import DriverError, GuestSpec
from kilonova.compute.drivers.fake import Fake, FakeConfig
from kilonova.compute.drivers.fake import journal as journal_module
from kilonova.compute.drivers.fake.journal import GuestJournal


async def no_image(image_id: str, path: str) -> None:
    raise AssertionError("a fake guest has no disk")


def spec(number: int) -> GuestSpec:
    drive = {"openstack/latest/meta_data.json": b"\x00\xff{}"} if number % 2 else None
    return GuestSpec(server_id=f"server-{number}", name=f"instance-{number:08x}", vcpus=1, ram_mb=64, root_gb=1, config_drive=drive)


def driver(journal: GuestJournal, host: str) -> Fake:
    return Fake(FakeConfig(hypervisor_hostname=host), host=journal.of(host))


def kept(journal: GuestJournal) -> dict[str, bytes]:
    return {name: host.dump() for name, host in journal.hosts.items() if host.guests}


VERBS = st.lists(st.tuples(st.sampled_from(["spawn", "destroy", "off", "on", "reboot"]), st.integers(1, 4), st.integers(1, 3)), max_size=40)


@settings(max_examples=40, deadline=None)
@given(verbs=VERBS, rewrite=st.sampled_from([200, 1 << 20]))
def test_reopened_it_is_the_same(tmp_path_factory: pytest.TempPathFactory, verbs: list[tuple[str, int, int]], rewrite: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "instances" / "guests.jsonl"
    before, journal_module.REWRITE_BYTES = journal_module.REWRITE_BYTES, rewrite
    try:
        journal = GuestJournal(path)
        asyncio.run(carry_out(journal, verbs))
        again = GuestJournal(path)
        assert kept(again) == kept(journal)
        journal.close()
        again.close()
    finally:
        journal_module.REWRITE_BYTES = before


async def carry_out(journal: GuestJournal, verbs: list[tuple[str, int, int]]) -> None:
    for verb, number, host in verbs:
        fake, server_id = driver(journal, f"host-{host}"), f"server-{number}"
        if verb == "spawn":
            await fake.spawn(spec(number), no_image)
        elif verb == "destroy":
            await fake.destroy(server_id)
        elif await fake.state(server_id) is not None:
            if verb == "off":
                await fake.power_off(server_id)
            elif verb == "on":
                await fake.power_on(spec(number))
            else:
                await fake.reboot_hard(spec(number))


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "guests.jsonl"
    journal = GuestJournal(path)
    asyncio.run(carry_out(journal, [("spawn", 1, 1), ("spawn", 2, 1)]))
    journal.close()
    path.write_bytes(path.read_bytes()[:-7])
    again = GuestJournal(path)
    assert sorted(again.of("host-1").guests) == ["server-1"]
    asyncio.run(carry_out(again, [("spawn", 3, 1)]))
    again.close()
    assert sorted(GuestJournal(path).of("host-1").guests) == ["server-1", "server-3"]


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    journal = GuestJournal(tmp_path / "instances" / "guests.jsonl")
    assert journal.path.stat().st_mode & 0o077 == 0
    assert journal.path.parent.stat().st_mode & 0o077 == 0


def test_a_full_disk_fails_the_verb_and_tears_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "guests.jsonl"
    journal = GuestJournal(path)
    fake = driver(journal, "h")
    asyncio.run(fake.spawn(spec(1), no_image))
    write, room = os.write, 50

    def full(descriptor: int, data: bytes) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:room])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DriverError, match="cannot be written: No space left"):
            asyncio.run(fake.spawn(spec(2), no_image))
    torn = GuestJournal(copied(path))
    assert list(torn.hosts["h"].guests) == ["server-1"]
    torn.close()
    asyncio.run(fake.spawn(spec(3), no_image))
    again = GuestJournal(copied(path))
    assert kept(again) == kept(journal)
    again.close()
    journal.close()


def copied(path: Path) -> Path:
    other = path.with_name("copy")
    other.write_bytes(path.read_bytes())
    return other
