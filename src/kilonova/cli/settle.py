"""What `up` and `serve` are to do: the command line first, then configuration files, then what the state remembers, then the default."""

import importlib.util
import ipaddress
import os
import platform
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from oslo_config import cfg

from kilonova.cli.choices import Choices
from kilonova.cli.failure import Failure, plain
from kilonova.cli.state import Mark
from kilonova.core import config
from kilonova.core.config import Options
from kilonova.core.db.config import DATABASE_OPTIONS
from kilonova.core.db.url import BadUrl
from kilonova.core.db.url import parse as parse_url
from kilonova.plan import HYPERVISOR, LOCAL

OPTIONS: Options = {
    "DEFAULT": [
        cfg.StrOpt("state_path", default="", help="The state directory; empty: as --state chooses it."),
        cfg.StrOpt("bind_host", default="127.0.0.1", help="Address that every API listens on."),
        cfg.StrOpt("compute_driver", default="", help="Hypervisor driver: libvirt or fake; empty: libvirt where it can run."),
        cfg.StrOpt("host", default="", help="This machine's name in the cloud. Empty: the system's, in clouds of several processes."),
        cfg.StrOpt("my_ip", default="", help="Address at which other hosts reach this one's tunnels."),
        cfg.BoolOpt("debug", default=False, help="Whether the log tells details."),
        cfg.IntOpt(
            "graceful_shutdown_timeout",
            default=60,
            min=1,
            help="Seconds that requests and commands get to end in when a process of several stops.",
        ),
    ],
    **DATABASE_OPTIONS,
    "ssl": [
        cfg.StrOpt(
            "cert_file", default="", help="Certificate chain (PEM) of the APIs; empty: no TLS on loopback, a generated one elsewhere."
        ),
        cfg.StrOpt("key_file", default="", help="The certificate's private key (PEM)."),
    ],
    "cloud": [
        cfg.ListOpt("services", default=[], help="Services to start; empty: all that there are."),
        cfg.IntOpt("hosts", default=0, min=0, help="Fake hypervisors of this process (driver fake); 0: one."),
        cfg.IntOpt("port_offset", default=0, min=0, max=60000, help="Added to each service's usual port."),
        cfg.StrOpt("public_host", default="", help="Name or address in the catalog's URLs; empty: the one that is bound."),
        cfg.StrOpt("region", default="RegionOne", help="Name of the region."),
        cfg.FloatOpt(
            "drain_time",
            default=1.0,
            min=0,
            help="Seconds that a stopping process of several still takes requests while /healthz says 503, for load balancers to see.",
        ),
        cfg.BoolOpt("insecure", default=False, help="Whether addresses other than loopback may be served without TLS."),
    ],
}


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """Choices and files together. An empty `state`: as the environment and the user have it."""

    state: str
    driver: str
    hosts: int
    services: tuple[str, ...]
    bind: str
    public_host: str
    port_offset: int
    config: tuple[str, ...]
    tls_cert: str
    tls_key: str
    insecure: bool
    region: str
    debug: bool
    broker: bool = False
    """Several processes make up the cloud."""
    node: str = LOCAL
    my_ip: str = ""
    grace_s: int = 60
    """What runs gets so long to end in when one process of several stops."""
    drain_s: float = 1.0


def readable(files: Sequence[str]) -> tuple[str, ...]:
    """Absolute names of configuration files. Raises Failure for one that cannot be read."""
    for name in files:
        try:
            with Path(name).open():
                pass
        except OSError as error:
            raise Failure(f"The configuration file {name} cannot be read: {error.strerror}.", "Name another with --config.") from None
    return tuple(str(Path(name).resolve()) for name in files)


def settle(choices: Choices) -> Settled:
    files = readable(choices.config)
    try:
        conf = config.build([OPTIONS], files)
    except config.ConfigError as error:
        raise Failure(plain(str(error)), "Correct the file.") from None

    def pick(given: Any, group: str, name: str) -> Any:
        return given if given is not None else conf[name] if group == "DEFAULT" else conf[group][name]

    if conf.database.connection:
        try:
            parse_url(conf.database.connection)
        except BadUrl as error:
            raise Failure(f"[database] connection: {error}.", "Correct the file.") from None
    broker = transport_url(files)
    if broker and not conf.database.connection and set(choices.services or ()) != {HYPERVISOR}:
        raise Failure(
            "[DEFAULT] transport_url is for clouds of several processes, and they share a database.", "Set [database] connection."
        )
    bind = str(pick(choices.bind, "DEFAULT", "bind_host"))
    try:
        ipaddress.ip_address(bind)
    except ValueError:
        raise Failure(f"--bind takes an IP address; {bind} is none.", "127.0.0.1 is the default, 0.0.0.0 means every address.") from None
    return Settled(
        state=str(pick(choices.state, "DEFAULT", "state_path")),
        driver=str(pick(choices.driver, "DEFAULT", "compute_driver")).lower().partition(".")[0],
        hosts=int(pick(choices.hosts, "cloud", "hosts")),
        services=tuple(pick(choices.services, "cloud", "services")),
        bind=bind,
        public_host=conf.cloud.public_host or public_host(bind),
        port_offset=int(pick(choices.port_offset, "cloud", "port_offset")),
        config=files,
        tls_cert=str(pick(choices.tls_cert, "ssl", "cert_file")),
        tls_key=str(pick(choices.tls_key, "ssl", "key_file")),
        insecure=choices.insecure or bool(conf.cloud.insecure),
        region=conf.cloud.region,
        debug=bool(conf.debug),
        broker=broker,
        node=conf.host or (socket.gethostname() if broker else LOCAL),
        my_ip=conf.my_ip,
        grace_s=conf.graceful_shutdown_timeout,
        drain_s=conf.cloud.drain_time,
    )


def transport_url(files: Sequence[str]) -> bool:
    """Whether the files name a broker."""
    from kilonova.core.bus.config import OPTIONS as BUS_OPTIONS

    return bool(config.build([{"DEFAULT": BUS_OPTIONS["DEFAULT"]}], files).transport_url) if files else False


def public_host(bind: str) -> str:
    """The host part of URLs for what listens on `bind`: for "every address" the one that this machine would send from."""
    address = ipaddress.ip_address(bind)
    if address.is_unspecified:
        with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("2001:db8::1" if address.version == 6 else "192.0.2.1", 9))  # sends nothing: asks the routing table
                address = ipaddress.ip_address(probe.getsockname()[0])
            except OSError:
                address = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    return f"[{address}]" if address.version == 6 else str(address)


def qemu_binary() -> str:
    return f"qemu-system-{platform.machine()}"


def driver_for(wanted: str, mark: Mark, *, euid: int | None = None, found: Callable[[str], Any] = shutil.which) -> str:
    """libvirt or fake. `found` tells whether a program is there. Raises Failure with what is missing and what to do."""
    if wanted not in ("", "libvirt", "fake"):
        raise Failure(f"{wanted} is not a hypervisor driver.", "There are libvirt and fake.")
    if wanted and mark.driver and wanted != mark.driver:
        raise Failure(
            f"This state was made with the driver {mark.driver}, and its servers belong to it.",
            f"Leave --driver out, or choose another directory for {wanted} with --state.",
        )
    driver = wanted or mark.driver or "libvirt"
    if driver == "fake":
        return driver
    instead = "or try a cloud without real guests: `kilonova up --driver fake`."
    if (os.geteuid() if euid is None else euid) != 0:
        raise Failure("The libvirt driver needs root, since it makes guests and network namespaces.", "Run the command as root, " + instead)
    if found(qemu_binary()) is None or found("qemu-img") is None:
        missing = qemu_binary() if found(qemu_binary()) is None else "qemu-img"
        raise Failure(
            f"QEMU is not installed: there is no {missing}.", "On Debian: `apt-get install qemu-system-x86 qemu-utils`; " + instead
        )
    if importlib.util.find_spec("libvirt") is None:
        raise Failure(
            "The Python bindings of libvirt are not installed.",
            "On Debian: `apt-get install python3-libvirt`, then `make setup`; elsewhere `pip install libvirt-python`; " + instead,
        )
    return driver


def kilonova_conf(settled: Settled, *, state: Path, driver: str, services: Sequence[str], tls: tuple[str, str] | None) -> str:
    """What `up` chose, as a file that --config takes."""
    values: dict[str, dict[str, object]] = {
        "DEFAULT": {"state_path": state, "bind_host": settled.bind, "compute_driver": driver, "debug": settled.debug},
        "ssl": {"cert_file": tls[0], "key_file": tls[1]} if tls else {},
        "cloud": {
            "services": ",".join(services),
            "hosts": max(settled.hosts, 1),
            "port_offset": settled.port_offset,
            "public_host": settled.public_host,
            "region": settled.region,
            "insecure": settled.insecure,
        },
    }
    lines = ["# Written by `kilonova up`: what it chose. Options of your own go into a file that --config names."]
    for group, options in values.items():
        if options:
            lines += ["", f"[{group}]", *(f"{name} = {value}" for name, value in options.items())]
    if settled.config:
        lines += ["", f"# read before: {', '.join(settled.config)}"]
    return "\n".join(lines) + "\n"
