"""What runs on a host: takes commands, has the driver realise them, and reports what has become true."""

from kilonova.network.agent.agent import NetworkAgent

__all__ = ["NetworkAgent"]
