import asyncio
import time

import pytest

from kilonova.compute.drivers import DriverError, GuestCrashed, GuestEvent, GuestPaused, GuestSpec, GuestStopped, PowerState
from kilonova.compute.drivers.fake import Fake, FakeConfig, FakeHost

ID = "00000000-0000-4000-8000-000000000001"


def spec(server_id: str = ID, ram_mb: int = 128) -> GuestSpec:
    return GuestSpec(server_id=server_id, name="instance-00000001", vcpus=1, ram_mb=ram_mb, root_gb=1)


async def no_fetch(image_id: str, path: str) -> None:
    raise AssertionError("the fake fetches nothing")


async def started(fake: Fake) -> list[GuestEvent]:
    events: list[GuestEvent] = []

    async def heard(event: GuestEvent) -> None:
        events.append(event)

    await fake.start(heard)
    return events


def test_a_life() -> None:
    async def main() -> None:
        fake = Fake()
        assert await started(fake) == []
        assert await fake.state(ID) is None
        assert (await fake.spawn(spec(), no_fetch)).power_state is PowerState.RUNNING
        assert (await fake.power_off(ID)).power_state is PowerState.SHUTDOWN
        assert (await fake.power_off(ID)).power_state is PowerState.SHUTDOWN
        assert (await fake.power_on(spec())).power_state is PowerState.RUNNING
        await fake.reboot_soft(ID)
        await fake.reboot_hard(spec(ram_mb=256))
        assert [g.power_state for g in await fake.list_guests()] == [PowerState.RUNNING]
        text = await fake.console_output(ID)
        assert "boot 4 of" in text and text.endswith("login: \n")
        assert await fake.console_output(ID, 1) == "instance-00000001 login: \n"
        assert await fake.console_output(ID, 0) == ""
        assert await fake.inventory() == (f"guest {ID}",)
        await fake.destroy(ID)
        await fake.destroy(ID)
        assert await fake.inventory() == ()

    asyncio.run(main())


def test_spawn_again_keeps_the_guest_unless_asked() -> None:
    async def main() -> None:
        fake = Fake()
        await fake.spawn(spec(), no_fetch)
        await fake.spawn(spec(), no_fetch)
        assert fake.host.guests[ID].boots == 1
        await fake.reboot_hard(spec())
        await fake.spawn(spec(), no_fetch, replace_disk=True)
        assert fake.host.guests[ID].boots == 1

    asyncio.run(main())


def test_spawns_fail_when_told() -> None:
    async def main() -> None:
        fake = Fake()
        fake.fail_next(2, "No room.")
        for _ in range(2):
            with pytest.raises(DriverError, match="No room"):
                await fake.spawn(spec(), no_fetch)
        assert await fake.state(ID) is None
        await fake.spawn(spec(), no_fetch)

    asyncio.run(main())


def test_guests_do_things_by_themselves() -> None:
    async def main() -> None:
        fake = Fake()
        events = await started(fake)
        for knob, kind in ((fake.stop_itself, GuestStopped), (fake.crash, GuestCrashed), (fake.pause_itself, GuestPaused)):
            await fake.spawn(spec(), no_fetch)
            await knob(ID)
            await knob(ID)                      # it is not running any more
            state = await fake.state(ID)
            assert type(events[-1]) is kind and state is not None and state.power_state == events[-1].power_state and state.reason
        assert len(events) == 3
        await fake.power_on(spec())
        await fake.destroy(ID)
        await fake.crash(ID)
        assert len(events) == 3

    asyncio.run(main())


def test_delays_use_the_sleep_that_was_given() -> None:
    async def main() -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        fake = Fake(FakeConfig(spawn_delay_s=2.5, power_off_delay_s=9), sleep=sleep)
        await fake.spawn(spec(), no_fetch)
        await fake.power_off(ID, 4)
        await fake.power_off(ID, 4)
        assert slept == [2.5, 4]

    asyncio.run(main())
    with pytest.raises(ValueError, match="sleep"):
        Fake(FakeConfig(spawn_delay_s=1))


def test_the_host_outlives_the_driver() -> None:
    async def main() -> None:
        host = FakeHost()
        first = Fake(host=host)
        await first.spawn(spec(), no_fetch)
        await first.stop()
        for again in (host, FakeHost.load(host.dump())):
            second = Fake(host=again)
            events = await started(second)
            assert [(g.server_id, g.power_state) for g in await second.list_guests()] == [(ID, PowerState.RUNNING)]
            await second.stop_itself(ID)
            assert len(events) == 1
            await second.power_on(spec())
            assert "boot 2" in await second.console_output(ID)
            await second.power_off(ID)
            host.guests[ID].power_state, host.guests[ID].boots = PowerState.RUNNING, 1

    asyncio.run(main())


def test_missing_guests_and_resources() -> None:
    async def main() -> None:
        fake = Fake(FakeConfig(hypervisor_hostname="h7", disk_gb=10))
        for verb in (fake.power_on(spec()), fake.power_off(ID), fake.reboot_soft(ID), fake.reboot_hard(spec()), fake.console_output(ID)):
            with pytest.raises(DriverError, match="no guest on this host"):
                await verb
        await fake.spawn(spec(), no_fetch)
        resources = await fake.resources()
        assert (resources.hypervisor_hostname, resources.disk_gb, resources.free_disk_gb) == ("h7", 10, 9)

    asyncio.run(main())


def test_a_verb_takes_microseconds() -> None:
    async def main() -> float:
        fake = Fake()
        begin = time.perf_counter()
        for _ in range(2000):
            await fake.spawn(spec(), no_fetch)
            await fake.destroy(ID)
        return (time.perf_counter() - begin) / 4000

    assert asyncio.run(main()) < 100e-6
