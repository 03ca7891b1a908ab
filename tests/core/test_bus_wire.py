"""What a message and an error look like between processes."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kilonova
from kilonova.compute import rpc
from kilonova.compute.agent import HypervisorFailed
from kilonova.core.bus import wire
from kilonova.core.context import Context
from kilonova.core.errors import Conflict, Error, NotFound, Unavailable
from kilonova.image.errors import ImageNotFound
from kilonova.network import rpc as network_rpc
from kilonova.placement.errors import NoCapacity

FENCE = rpc.Fence(operation="o", generation=3, epoch=7)


def crossed(message: Any) -> Any:
    read = wire.read_request(wire.request("id", message, "req-1", 5.0))
    assert (read.id, read.request_id, read.timeout_s) == ("id", "req-1", 5.0)
    return wire.body(read.name, read.body)


@pytest.mark.parametrize(
    "message",
    [
        rpc.Destroy(fence=FENCE, server_id="s"),
        rpc.Spawn(
            fence=FENCE, guest=rpc.Guest(server_id="s", instance_name="i", vcpus=1, ram_mb=1, root_gb=1, config_drive={"a": b"\0\xff"})
        ),
        network_rpc.HostFacts(host="h", facts=(network_rpc.PortWired(port_id="p"), network_rpc.HostSynced(wired=("p",)))),
        Context(user_id="u", roles=("admin",)),
    ],
)
def test_messages_cross(message: Any) -> None:
    assert crossed(message) == message
    assert wire.read_reply(wire.reply(message)) == message


def test_none_crosses() -> None:
    assert wire.read_reply(wire.reply(None)) is None


def test_names_are_unique_and_stand_for_their_type() -> None:
    names: dict[str, type] = {}
    for module in ("rpc", "contract"):
        for path in sorted(Path(kilonova.__file__).parent.glob(f"*/{module}.py")):
            loaded = importlib.import_module(f"kilonova.{path.parent.name}.{module}")
            for kind in vars(loaded).values():
                if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == loaded.__name__:
                    name = wire.name_of(kind)
                    assert names.setdefault(name, kind) is kind
                    assert wire.type_of(name) is kind
    assert len(names) > 60


@pytest.mark.parametrize(
    "name",
    ["os.system", "compute.service.ComputeService", "compute.rpc.Any", "compute.rpc.Nothing", "nowhere.rpc.X", "core.errors.Error",
     "image.contract.Images", "network.rpc.Plug.__init__", "..rpc.X", "compute.rpc.Spawn\n", ""],
)  # fmt: skip
def test_only_messages_are_made_from_names(name: str) -> None:
    with pytest.raises(wire.Unreadable):
        wire.body(name, msgspec.Raw(b"\x80"))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", b"\x93\x01", b"hello", b"\x81\xa7version\xa1x"])
def test_garbage_is_unreadable(data: bytes) -> None:
    with pytest.raises(wire.Unreadable):
        wire.read_request(data)


def test_an_old_reader_skips_and_a_new_one_fills_in() -> None:
    newer = msgspec.msgpack.encode({"type": "Heartbeat", "host": "h", "mood": "good"})
    assert wire.body("network.rpc.Heartbeat", msgspec.Raw(newer)) == network_rpc.Heartbeat(host="h")
    older = msgspec.msgpack.encode({"fence": FENCE, "server_id": "s", "type": "PowerOff"})
    assert wire.body("compute.rpc.PowerOff", msgspec.Raw(older)).timeout_s == 60.0


def raised(error: Error) -> Error:
    with pytest.raises(Error) as caught:
        wire.read_reply(wire.refusal(error))
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        NotFound("gone"),
        HypervisorFailed("no disk"),
        ImageNotFound(image="i"),
        NoCapacity(provider="p", resource_class="VCPU", wanted=3, free=1),
    ],
)
def test_errors_are_raised_again_as_what_they_are(error: Error) -> None:
    there = raised(error)
    assert type(there) is type(error)
    assert (there.message, there.code, there.status, there.details) == (error.message, error.code, error.status, error.details)


def test_every_error_of_ours_crosses() -> None:
    for found in pkgutil.iter_modules(kilonova.__path__):
        for module in ("errors", "contract"):
            if Path(kilonova.__path__[0], found.name, f"{module}.py").exists():
                importlib.import_module(f"kilonova.{found.name}.{module}")
    wire._classes.cache_clear()
    classes = list(wire._classes().values())
    assert len(classes) > 100
    for kind in classes:
        assert type(raised(kind("x", server="s"))) is kind


def test_an_unknown_error_keeps_status_code_and_sentence() -> None:
    unknown = wire.Failure("future.errors", "Melted", "future.melted", 409, "It has melted.", {"degrees": 40})
    error = wire.error_of(unknown)
    assert isinstance(error, Conflict)
    assert (error.message, str(error), error.code, error.status, error.details["degrees"]) == (
        "It has melted.", "It has melted.", "future.melted", 409, 40,
    )  # fmt: skip
    assert Conflict.code == "core.conflict"
    assert isinstance(wire.error_of(wire.Failure("x", "Y", "z", 503, "s")), Unavailable)
    assert wire.error_of(wire.Failure("x", "Y", "z", 418, "s")).status == 418


def test_details_that_msgpack_does_not_know_become_text() -> None:
    assert raised(NotFound("x", where=Path("/a"))).details["where"] == "/a"
