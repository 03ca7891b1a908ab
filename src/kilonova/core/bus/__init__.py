"""Commands go down to the nodes, facts come back up: what a bus promises (`interface`), and the transports that keep it."""

from kilonova.core.bus.in_process import InProcessBus
from kilonova.core.bus.interface import Bus, Busy, HandlerTable, NoBroker, Undelivered, Unreachable, never_waits, sender

__all__ = ["Bus", "Busy", "HandlerTable", "InProcessBus", "NoBroker", "Undelivered", "Unreachable", "never_waits", "sender"]
