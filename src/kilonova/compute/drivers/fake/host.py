"""The machine under a fake driver: its guests, apart from the driver, so that a driver can die and another take over the same host."""

from collections.abc import Callable

import msgspec

from kilonova.compute.drivers import GuestSpec, PowerState


class FakeGuest:
    __slots__ = ("boots", "console", "power_state", "reason", "spec")

    def __init__(self, spec: GuestSpec):
        self.spec = spec
        self.power_state = PowerState.SHUTDOWN
        self.reason = ""
        self.boots = 0
        self.console: list[str] = []


class GuestRow(msgspec.Struct):
    """A guest as it is kept."""

    spec: GuestSpec
    power_state: int
    reason: str
    boots: int
    console: list[str]


def row_of(guest: FakeGuest) -> GuestRow:
    return GuestRow(guest.spec, int(guest.power_state), guest.reason, guest.boots, guest.console)


def guest_of(row: GuestRow) -> FakeGuest:
    guest = FakeGuest(row.spec)
    guest.power_state, guest.reason, guest.boots, guest.console = PowerState(row.power_state), row.reason, row.boots, row.console
    return guest


class FakeHost:
    """Lives on when the driver stops. `changed` is told the id of each guest that came, went or changed (fake/journal.py writes)."""

    def __init__(self) -> None:
        self.guests: dict[str, FakeGuest] = {}
        self.changed: Callable[[str], None] | None = None

    def note(self, server_id: str) -> None:
        if self.changed is not None:
            self.changed(server_id)

    def dump(self) -> bytes:
        """The guests as JSON, for a host that must survive the process."""
        return msgspec.json.encode([row_of(guest) for guest in self.guests.values()])

    @classmethod
    def load(cls, data: bytes) -> "FakeHost":
        host = cls()
        for row in msgspec.json.decode(data, type=list[GuestRow]):
            host.guests[row.spec.server_id] = guest_of(row)
        return host
