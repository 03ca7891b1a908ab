"""A hypervisor in memory: no root, no QEMU, a few microseconds a verb, the same answer every time.

`kilonova up --driver fake --hosts 500` runs on it. The guests of a host live in a `FakeHost`, apart from the driver, so that a driver can
die and another take over the same host, as with real ones.
"""

import os
from collections.abc import Awaitable, Callable

import msgspec

from kilonova.compute.drivers import (
    CONSOLE_BYTES,
    DriverError,
    FetchImage,
    GuestCrashed,
    GuestEvent,
    GuestPaused,
    GuestSpec,
    GuestState,
    GuestStopped,
    HostResources,
    OnEvent,
    PowerState,
    StoreImage,
    qcow2,
)
from kilonova.compute.drivers.fake.host import FakeGuest, FakeHost

__all__ = ["Fake", "FakeConfig", "FakeGuest", "FakeHost"]

Sleep = Callable[[float], Awaitable[None]]


class FakeConfig(msgspec.Struct, frozen=True, kw_only=True):
    hypervisor_hostname: str = "fake-1"
    vcpus: int = 64
    ram_mb: int = 256 << 10
    disk_gb: int = 4000
    spawn_delay_s: float = 0.0
    power_off_delay_s: float = 0.0
    """How long a guest takes to obey the power button; longer than the verb's timeout: it is switched off then."""


class Fake:
    """Knobs: `fail_next(n)` makes the next n spawns or snapshots fail; `stop_itself`, `crash` and `pause_itself` are things guests do."""

    def __init__(self, config: FakeConfig | None = None, host: FakeHost | None = None, sleep: Sleep | None = None):
        self.config = config or FakeConfig()
        self.host = host or FakeHost()
        self._sleep = sleep
        self._on_event: OnEvent | None = None
        self._failures = 0
        self._failure = "The fake hypervisor was told to fail."
        if sleep is None and (self.config.spawn_delay_s or self.config.power_off_delay_s):
            raise ValueError("A fake hypervisor with delays needs a sleep function.")

    # ---- knobs

    def fail_next(self, count: int, reason: str = "The fake hypervisor was told to fail.") -> None:
        self._failures, self._failure = count, reason

    async def stop_itself(self, server_id: str) -> None:
        await self._by_itself(GuestStopped(server_id=server_id, reason="The guest shut itself down."))

    async def crash(self, server_id: str) -> None:
        await self._by_itself(GuestCrashed(server_id=server_id, reason="The guest's process ended unexpectedly."))

    async def pause_itself(self, server_id: str) -> None:
        await self._by_itself(GuestPaused(server_id=server_id, reason="The hypervisor paused the guest after an internal error."))

    async def _by_itself(self, event: GuestEvent) -> None:
        guest = self.host.guests.get(event.server_id)
        if guest is None or guest.power_state is not PowerState.RUNNING:
            return
        guest.power_state, guest.reason = event.power_state, event.reason
        self.host.note(event.server_id)
        if self._on_event is not None:
            await self._on_event(event)

    # ---- verbs

    async def start(self, on_event: OnEvent) -> None:
        self._on_event = on_event

    async def stop(self) -> None:
        self._on_event = None

    async def resources(self) -> HostResources:
        c = self.config
        used_gb = sum(g.spec.root_gb + g.spec.ephemeral_gb for g in self.host.guests.values())
        return HostResources(
            hypervisor_hostname=c.hypervisor_hostname,
            hypervisor_type="fake",
            hypervisor_version=1000,
            vcpus=c.vcpus,
            ram_mb=c.ram_mb,
            disk_gb=c.disk_gb,
            free_disk_gb=max(0, c.disk_gb - used_gb),
            virt_type="fake",
            supported_virt_types=("fake",),
            cpu_info={
                "arch": "x86_64",
                "model": "Nehalem",
                "vendor": "Intel",
                "features": ["pge", "clflush"],
                "topology": {"cells": 1, "sockets": 1, "cores": c.vcpus, "threads": 1},
            },
            virt_type_reason="Nothing really runs.",
        )

    async def spawn(self, spec: GuestSpec, fetch_image: FetchImage, *, replace_disk: bool = False) -> GuestState:
        """The image is not fetched: nothing would read it."""
        if self.config.spawn_delay_s and self._sleep is not None:
            await self._sleep(self.config.spawn_delay_s)
        if self._failures:
            self._failures -= 1
            if replace_disk:
                await self.destroy(spec.server_id)
            raise DriverError(self._failure)
        guest = self.host.guests.get(spec.server_id)
        if guest is None or replace_disk:
            guest = self.host.guests[spec.server_id] = FakeGuest(spec)
        return self._run(guest, spec)

    async def destroy(self, server_id: str) -> None:
        if self.host.guests.pop(server_id, None) is not None:
            self.host.note(server_id)

    async def power_on(self, spec: GuestSpec) -> GuestState:
        return self._run(self._guest(spec.server_id), spec)

    async def power_off(self, server_id: str, timeout_s: float = 60.0) -> GuestState:
        guest = self._guest(server_id)
        if guest.power_state is PowerState.RUNNING and self.config.power_off_delay_s and timeout_s and self._sleep is not None:
            await self._sleep(min(timeout_s, self.config.power_off_delay_s))
        guest.power_state, guest.reason = PowerState.SHUTDOWN, ""
        self.host.note(server_id)
        return _state(guest)

    async def reboot_soft(self, server_id: str, timeout_s: float = 120.0) -> GuestState:
        guest = self._guest(server_id)
        await self.power_off(server_id, timeout_s)
        return self._run(guest, guest.spec)

    async def reboot_hard(self, spec: GuestSpec) -> GuestState:
        guest = self._guest(spec.server_id)
        guest.power_state = PowerState.SHUTDOWN
        return self._run(guest, spec)

    async def snapshot(self, server_id: str, store: StoreImage) -> None:
        """An empty disk of the right size, as nothing was ever written."""
        guest = self._guest(server_id)
        with open(os.memfd_create("snapshot"), "wb", buffering=0) as file:
            file.write(qcow2.empty(max(1, guest.spec.root_gb) << 30, None, None))
            if self._failures:
                self._failures -= 1
                raise DriverError(self._failure)
            await store(f"/proc/self/fd/{file.fileno()}")

    async def list_guests(self) -> list[GuestState]:
        return [_state(self.host.guests[server_id]) for server_id in sorted(self.host.guests)]

    async def state(self, server_id: str) -> GuestState | None:
        guest = self.host.guests.get(server_id)
        return None if guest is None else _state(guest)

    async def console_output(self, server_id: str, lines: int | None = None) -> str:
        text = "".join(self._guest(server_id).console)[-CONSOLE_BYTES:]
        if lines is None or lines < 0:
            return text
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""

    async def inventory(self) -> tuple[str, ...]:
        return tuple(f"guest {server_id}" for server_id in sorted(self.host.guests))

    # ---- inside

    def _guest(self, server_id: str) -> FakeGuest:
        guest = self.host.guests.get(server_id)
        if guest is None:
            raise DriverError("The server has no guest on this host.")
        return guest

    def _run(self, guest: FakeGuest, spec: GuestSpec) -> GuestState:
        guest.spec = spec
        if guest.power_state is not PowerState.RUNNING:
            guest.power_state, guest.reason = PowerState.RUNNING, ""
            guest.boots += 1
            guest.console.append(f"boot {guest.boots} of {spec.name}\nfake guest ready\n{spec.name} login: \n")
            del guest.console[:-1000]
        self.host.note(spec.server_id)
        return _state(guest)


def _state(guest: FakeGuest) -> GuestState:
    return GuestState(server_id=guest.spec.server_id, power_state=guest.power_state, reason=guest.reason)
