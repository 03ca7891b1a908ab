"""Commands go down to the nodes, facts come back up: what a bus promises (`interface`), and the transports that keep it."""

from kilonova.core.bus.in_process import InProcessBus
from kilonova.core.bus.interface import Bus, HandlerTable, Undelivered, Unreachable

__all__ = ["Bus", "HandlerTable", "InProcessBus", "Undelivered", "Unreachable"]
