"""What the command line of `up` said. `settle` puts it together with configuration files (apart, since oslo.config is slow to load)."""

import msgspec


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """The command line. None: it said nothing."""

    state: str | None = None
    ephemeral: bool = False
    driver: str | None = None
    hosts: int | None = None
    services: tuple[str, ...] | None = None
    bind: str | None = None
    port_offset: int | None = None
    config: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    insecure: bool = False
