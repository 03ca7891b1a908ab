"""Broker users of agents: `agent.<host>`, one for each host that has joined. All other users command."""

import re

PREFIX = "agent."
HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,56}[A-Za-z0-9])?")
"""What a joined host may be called: its user is the common name of its certificate, which has room for 64 letters."""
RESERVED = re.compile(r"(?:facts|conductor|changed|wired|server_changed)(?:\..*)?", re.I)
"""`network.<host>` would be an address, or a topic, of the control plane."""


def user_of(host: str) -> str:
    return PREFIX + host


def host_of(user: str) -> str | None:
    """The host that a broker's user speaks for; None: it is no agent."""
    return user.removeprefix(PREFIX) if user.startswith(PREFIX) else None


def file_address(host: str, ident: str) -> str:
    """Where an agent gives out a file in pieces. ident: 32 hexadecimal digits."""
    return f"file.{host}.{ident}"


def is_file_of(host: str, address: str) -> bool:
    """Whether the host gives out a file there. Names have dots: `a` may not name what `a.b` gives out."""
    return re.fullmatch(rf"file\.{re.escape(host)}\.[0-9a-f]{{32}}", address) is not None


def own_queues(host: str) -> str:
    """A pattern of the broker for the queues that an agent may declare and read."""
    name = re.escape(host).replace("\\-", "-")
    return rf"^kilonova\.(compute\.{name}|network\.{name}|file\.{name}\.[0-9a-f]{{32}})$"


def from_control(address: str, user: str) -> bool:
    """What an agent hears: everything but other agents, and senders that the broker has not checked."""
    return bool(user) and host_of(user) is None
