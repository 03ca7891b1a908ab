"""Contracts over a bus: every method of every contract, with arguments of every kind."""

import asyncio
import inspect
import time
import types
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilonova.compute.contract import Compute
from kilonova.core import binding
from kilonova.core.bus import Bus, InProcessBus, Undelivered
from kilonova.core.bus.config import RabbitOptions, parse_url
from kilonova.core.bus.rabbitmq import RabbitBus
from kilonova.core.context import Context, service_context
from kilonova.core.errors import BadRequest, Error
from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.identity.contract import Identity
from kilonova.image.contract import Images
from kilonova.network.contract import Network, WiringFailed
from kilonova.placement.contract import Placement
from kilonova.placement.errors import NoCapacity
from tests.engines.rabbitmq import Rabbit, needs_rabbitmq

RUNTIME = Runtime()
LOG = Log("", Sink(now_us=RUNTIME.now_us))
CONTRACTS = (Identity, Images, Placement, Compute, Network)
METHODS = [(contract, name) for contract in CONTRACTS for name in binding.methods(contract)]


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return st.recursive(
            st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2), max_leaves=3
        )
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(a) for a in arguments])
    if origin is tuple and arguments[-1] is ...:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(a) for a in arguments))
    if origin in (list, Sequence):
        return st.lists(values(arguments[0]), max_size=2)
    if origin in (dict, Mapping):
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {f.name: values(f.type) for f in msgspec.structs.fields(kind)}
        return st.builds(kind, **fields)
    simple = {
        type(None): st.none(), bool: st.booleans(), int: st.integers(-(2**63), 2**63 - 1), float: st.floats(allow_nan=False),
        str: st.text(st.characters(codec="utf-8"), max_size=8), bytes: st.binary(max_size=8),
    }  # fmt: skip
    return simple[kind]


class Recorder:
    """Implements every contract: it keeps what it was called with and gives what it was told to."""

    def __init__(self) -> None:
        self.called: list[tuple[str, inspect.BoundArguments]] = []
        self.answer: Any = None

    def of(self, contract: type[Any]) -> Any:
        def method(name: str) -> Callable[..., Awaitable[Any]]:
            signature = inspect.signature(getattr(contract, name))

            async def record(*given: Any, **named: Any) -> Any:
                bound = signature.bind(None, *given, **named)
                bound.apply_defaults()
                self.called.append((name, bound))
                if isinstance(self.answer, Error):
                    raise self.answer
                return self.answer

            return record

        return types.SimpleNamespace(**{name: method(name) for name in binding.methods(contract)})


def arguments_of(contract: type[Any], name: str, draw: st.DataObject) -> tuple[list[Any], dict[str, Any]]:
    function = getattr(contract, name)
    hints = typing.get_type_hints(function)
    given: list[Any] = []
    named: dict[str, Any] = {}
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.name == "timeout_s":
            given.append(3.5)
        elif parameter.kind is parameter.VAR_KEYWORD:
            named.update(draw.draw(st.dictionaries(st.sampled_from(["min_disk", "visibility"]), values(hints[parameter.name]))))
        elif parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = draw.draw(values(hints[parameter.name]), parameter.name)
        else:
            given.append(draw.draw(values(hints[parameter.name]), parameter.name))
    return given, named


async def crosses(bus: Bus, address: str, contract: type[Any], name: str, draw: st.DataObject, recorder: Recorder) -> None:
    bound = binding.stub(contract, bus, address)
    result = typing.get_type_hints(getattr(contract, name))["return"]
    recorder.answer = draw.draw(values(result), "answer")
    given_, named = arguments_of(contract, name, draw)
    recorder.called.clear()
    assert await getattr(bound, name)(*given_, **named) == recorder.answer
    [(called, heard)] = recorder.called
    wanted = inspect.signature(getattr(contract, name)).bind(None, *given_, **named)
    wanted.apply_defaults()
    assert called == name
    assert heard.arguments == wanted.arguments


@pytest.mark.parametrize(("contract", "name"), METHODS, ids=[f"{c.__name__}.{n}" for c, n in METHODS])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(draw=st.data())
def test_every_method_crosses(contract: type[Any], name: str, draw: st.DataObject) -> None:
    async def test() -> None:
        bus, recorder = InProcessBus(RUNTIME, LOG, copy=True), Recorder()
        binding.serve(bus, "c", contract, recorder.of(contract))
        await crosses(bus, "c", contract, name, draw, recorder)
        await bus.stop()

    asyncio.run(test())


def test_all_contracts_are_here() -> None:
    assert len(METHODS) >= 33
    assert all(list(inspect.signature(getattr(c, n)).parameters)[1] in ("ctx", "token", "project_id") for c, n in METHODS)


@needs_rabbitmq
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.data())
def test_every_method_crosses_a_broker(rabbit: Rabbit, draw: st.DataObject) -> None:
    async def test() -> None:
        brokers, vhost = parse_url(rabbit.url)
        buses = [RabbitBus(RabbitOptions(brokers=brokers, vhost=vhost), RUNTIME, LOG) for _ in range(2)]
        prefix, recorder = RUNTIME.uuid_hex(), Recorder()
        for bus in buses:
            await bus.start(10.0)
        for contract in CONTRACTS:
            binding.serve(buses[1], f"{prefix}.{contract.__name__}", contract, recorder.of(contract))
        await buses[1].ready()
        try:
            for contract, name in METHODS:
                await crosses(buses[0], f"{prefix}.{contract.__name__}", contract, name, draw, recorder)
            recorder.answer = NoCapacity(provider="p", resource_class="VCPU", wanted=2, free=1)
            with pytest.raises(NoCapacity, match="VCPU"):
                bound = binding.stub(Placement, buses[0], f"{prefix}.Placement")
                await bound.claim(Context(), "c", "p", {"VCPU": 2}, "project", "user")
        finally:
            for bus in buses:
                await bus.stop()

    asyncio.run(test())


def bound_to(implementation: Any) -> Network:
    bus = InProcessBus(RUNTIME, LOG, copy=True)
    binding.serve(bus, "network", Network, implementation)
    return binding.stub(Network, bus, "network")


def test_errors_cross() -> None:
    recorder = Recorder()
    recorder.answer = WiringFailed("no link", server="s")
    with pytest.raises(WiringFailed, match="no link"):
        asyncio.run(bound_to(recorder.of(Network)).wait_wired(Context(), "s", 1.0))


def test_wrong_calls_fail_as_they_would_without_a_bus() -> None:
    network: Any = bound_to(Recorder().of(Network))
    calls: list[Callable[[], Any]] = [
        lambda: network.nics(Context(), "s", "more"),
        lambda: network.nics(Context(), "s", server_id="s"),
        lambda: network.nics(Context(), "s", colour="red"),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            asyncio.run(call())
    with pytest.raises(AttributeError):
        asyncio.run(network.nothing())
    with pytest.raises(BadRequest, match="nics"):
        asyncio.run(network.nics(Context()))
    with pytest.raises(BadRequest, match="nics"):
        asyncio.run(network.nics(Context(), 5))


class Old(typing.Protocol):
    async def get(self, ctx: Context, name: str) -> int: ...


class New(typing.Protocol):
    async def get(self, ctx: Context, name: str, deep: bool = False) -> int: ...

    async def put(self, ctx: Context, name: str) -> None: ...


class NewService:
    async def get(self, ctx: Context, name: str, deep: bool = False) -> int:
        return 2 if deep else 1

    async def put(self, ctx: Context, name: str) -> None: ...


class OldService:
    async def get(self, ctx: Context, name: str) -> int:
        return 1


def test_old_and_new_understand_each_other() -> None:
    async def test() -> None:
        bus = InProcessBus(RUNTIME, LOG, copy=True)
        binding.serve(bus, "new", New, NewService())
        binding.serve(bus, "old", Old, OldService())
        assert await binding.stub(New, bus, "new").get(Context(), "n", True) == 2
        assert await binding.stub(Old, bus, "new").get(Context(), "n") == 1
        assert await binding.stub(New, bus, "old").get(Context(), "n", deep=True) == 1
        with pytest.raises(Undelivered, match="put"):
            await binding.stub(New, bus, "old").put(Context(), "n")

    asyncio.run(test())


def test_a_call_costs_little() -> None:
    """Without a broker: what the stub and the other side add. The figure that counts is bench/rpc.py's; this only sees a disaster."""
    ctx = service_context("compute")

    async def test() -> float:
        bus = InProcessBus(RUNTIME, LOG)
        binding.serve(bus, "new", New, NewService())
        bound = binding.stub(New, bus, "new")
        best = 1.0
        for _ in range(20):
            began = time.perf_counter()
            for _ in range(200):
                await bound.get(ctx, "name", True)
            best = min(best, (time.perf_counter() - began) / 200)
        return best

    assert asyncio.run(test()) < 50e-6
