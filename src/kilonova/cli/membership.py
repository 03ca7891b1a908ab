"""What a joined machine keeps in its state directory, under `join/`, readable by its owner only.

kilonova.conf    the broker with its password, the host's name and address: what `serve hypervisor` reads
host.pem         the host's certificate and key, in one file so that they change together
authority.pem    the cloud's certificate authority
broker-ca.pem    what may sign the broker's certificate, where it has one
membership.json  the rest; it is written last
"""

import contextlib
import ipaddress
import time
import urllib.parse
from pathlib import Path

import msgspec

from kilonova.cli import join_client
from kilonova.cli.failure import Failure
from kilonova.cli.state import StateDir
from kilonova.compute.join_forms import Joined, JoinToken
from kilonova.core import certificates

FOLDER = "join"


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    controllers: tuple[str, ...]
    my_ip: str = ""
    driver: str = ""


def config_file(path: Path) -> Path:
    """path: of a state directory."""
    return path / FOLDER / "kilonova.conf"


def of(path: Path) -> Membership | None:
    """None: this state is not of a machine that has joined. Raises Failure."""
    try:
        return msgspec.json.decode((path / FOLDER / "membership.json").read_bytes(), type=Membership)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError):
        raise Failure(f"{path / FOLDER / 'membership.json'} cannot be read.", "Join again, with a new token.") from None


def of_same_name(path: Path, host: str) -> Membership | None:
    """None, too, for a membership that cannot be read: who joins writes a new one."""
    with contextlib.suppress(Failure):
        known = of(path)
        return known if known is not None and known.host == host else None
    return None


def enter(state: StateDir, token: JoinToken, *, host: str, my_ip: str, driver: str) -> Membership:
    """Join, and keep what the controller gives. For a host that joins again what is empty stays as it was. Raises Failure; then the state
    is as it was."""
    controller, authority = join_client.find(token)
    known = of_same_name(state.path, host)
    mine, driver = (
        my_ip or (known.my_ip if known else "") or join_client.address_towards(controller),
        driver or (known.driver if known else ""),
    )
    with contextlib.suppress(ValueError):  # if it is none the controller says so
        mine = str(ipaddress.ip_address(mine))
    request, key = certificates.new_request(host)
    joined = join_client.join(token, controller, authority, host=host, my_ip=mine, request=request)
    if joined.broker_authority:
        state.write(f"{FOLDER}/broker-ca.pem", joined.broker_authority)
    state.write(f"{FOLDER}/authority.pem", authority)
    state.write(f"{FOLDER}/host.pem", key + joined.certificate)
    state.write(f"{FOLDER}/kilonova.conf", _config(state.path / FOLDER, joined, host=host, my_ip=mine, driver=driver))
    membership = Membership(host=host, controllers=token.controllers, my_ip=mine, driver=driver)
    state.write(f"{FOLDER}/membership.json", msgspec.json.encode(membership).decode() + "\n")
    return membership


def renewal_due(state: StateDir, now_us: int) -> bool:
    """Whether two thirds of the certificate's life are over."""
    try:
        return now_us >= certificates.renewal_at(_certificate(state))
    except (OSError, ValueError):
        return True


def renew(state: StateDir, membership: Membership) -> int:
    """A new key and certificate; its end in Unix microseconds. Raises Failure; then the old one stays."""
    folder = state.path / FOLDER
    with contextlib.suppress(OSError, ValueError):  # a file that is damaged is told by who uses it
        if (ended := certificates.ends_at(_certificate(state))) < time.time() * 1e6:
            day = time.strftime("%Y-%m-%d", time.gmtime(ended / 1e6))
            raise Failure(f"The certificate of {membership.host} ended on {day}, and renews nothing any more.", join_client.REJOIN)
    request, key = certificates.new_request(membership.host)
    try:
        authority = (folder / "authority.pem").read_text()
    except OSError as error:
        raise Failure(f"{folder / 'authority.pem'} cannot be read: {error.strerror}.", join_client.REJOIN) from None
    answer = join_client.renew(membership.controllers, authority, folder / "host.pem", request)
    ends = certificates.ends_at(answer.certificate)
    state.write(f"{FOLDER}/host.pem", key + answer.certificate)
    return ends


def _certificate(state: StateDir) -> str:
    text = (state.path / FOLDER / "host.pem").read_text()
    return text[text.find("-----BEGIN CERTIFICATE") :]


def _config(folder: Path, joined: Joined, *, host: str, my_ip: str, driver: str) -> str:
    quoted = [urllib.parse.quote(part, safe="") for part in (joined.user, joined.password)]
    places = [f"[{p.host}]:{p.port}" if ":" in p.host else f"{p.host}:{p.port}" for p in joined.brokers]
    places[0] = f"{quoted[0]}:{quoted[1]}@{places[0]}"
    vhost = "" if joined.vhost == "/" else urllib.parse.quote(joined.vhost, safe="")
    lines = [
        "# Written by `kilonova join`.",
        "[DEFAULT]",
        f"transport_url = rabbit://{','.join(places)}/{vhost}",
        f"host = {host}",
        f"my_ip = {my_ip}",
    ]
    if driver:
        lines.append(f"compute_driver = {driver}")
    if joined.ssl:
        lines += ["", "[oslo_messaging_rabbit]", "ssl = true"]
        lines += [f"ssl_ca_file = {folder / 'broker-ca.pem'}"] if joined.broker_authority else []
        lines += [f"ssl_cert_file = {folder / 'host.pem'}"] if joined.client_certificate else []
    return "\n".join(lines) + "\n"
