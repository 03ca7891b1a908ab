"""A contract bound to the bus: a stub made from the Protocol on one side, the implementation behind an address on the other.

Both sides read the Protocol's signatures, so nothing is written twice. Arguments travel by name and may grow: a new parameter needs a
default, an old callee does not see it. What a method may take and give is what msgspec carries: structs, tuples, lists, dicts, str, int,
float, bool, bytes, None. Sequences arrive as lists.

Who sends is known from the broker (`bus.sender`), who asks from `ctx`: a callee that must not believe every sender's `ctx` serves its
address on a bus with `admit`.
"""

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from kilonova.core.bus.interface import Bus, Undelivered
from kilonova.core.errors import BadRequest

P = TypeVar("P")
TIMEOUT_S = 60.0
_encode = msgspec.msgpack.Encoder().encode


class Call(msgspec.Struct, frozen=True):
    """`arguments` is msgpack of a map by parameter name."""

    method: str
    arguments: bytes


class Returned(msgspec.Struct, frozen=True):
    value: bytes


class Method:
    """How one method of a contract crosses."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        hints = typing.get_type_hints(function)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        self.name = name
        self.positional: tuple[str, ...] = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        self.rest = ""
        """The ** parameter, which crosses as a map."""
        for parameter in parameters:
            kind = hints[parameter.name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise TypeError(f"{name}: *{parameter.name} cannot cross")
            if parameter.kind is parameter.VAR_KEYWORD:
                self.rest = parameter.name
                fields.append((parameter.name, dict[str, kind], msgspec.field(default_factory=dict)))  # type: ignore[valid-type]
            elif parameter.default is parameter.empty:
                fields.append((parameter.name, kind))
            else:
                fields.append((parameter.name, kind, parameter.default))
        self.known = frozenset(f[0] for f in fields) - {self.rest}
        self.arguments = msgspec.msgpack.Decoder(msgspec.defstruct(f"{name}_arguments", fields, kw_only=True))
        self.result = msgspec.msgpack.Decoder(hints["return"])
        self._fields = tuple(f[0] for f in fields if f[0] != self.rest)

    def pack(self, given: tuple[Any, ...], named: dict[str, Any]) -> bytes:
        """Raises TypeError as a call with these arguments would."""
        if len(given) > len(self.positional):
            raise TypeError(f"{self.name}() takes {len(self.positional)} arguments but {len(given)} were given")
        out = dict(zip(self.positional, given, strict=False))
        rest = {}
        for name, value in named.items():
            if name in self.known:
                if name in out:
                    raise TypeError(f"{self.name}() got multiple values for argument {name!r}")
                out[name] = value
            elif self.rest:
                rest[name] = value
            else:
                raise TypeError(f"{self.name}() got an unexpected keyword argument {name!r}")
        if rest:
            out[self.rest] = rest
        return _encode(out)

    def unpack(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        try:
            read = self.arguments.decode(data)
        except msgspec.DecodeError as error:
            raise BadRequest(f"The arguments of {self.name} cannot be read: {error}") from None
        named = {name: getattr(read, name) for name in self._fields if name not in self.positional}
        if self.rest:
            named.update({k: v for k, v in getattr(read, self.rest).items() if k not in self.known})
        return [getattr(read, name) for name in self.positional], named


def methods(protocol: Callable[..., Any]) -> dict[str, Method]:
    """Of a contract, by name. Made once for each contract: later calls give the same."""
    if protocol not in _methods:
        found = {n: f for n, f in inspect.getmembers(protocol, inspect.iscoroutinefunction) if not n.startswith("_")}
        _methods[protocol] = {name: Method(name, function) for name, function in found.items()}
    return _methods[protocol]


_methods: dict[Callable[..., Any], dict[str, Method]] = {}


def stub(
    protocol: Callable[..., P], bus: Bus, address: str, *, timeout_s: float = TIMEOUT_S, longer: Mapping[str, float] | None = None
) -> P:
    """An object with the contract's methods, each a call over the bus. `longer`: seconds for methods that may take more than others.
    A method with a `timeout_s` of its own is given that much and a little more."""
    namespace = {name: _calling(method, bus, address, (longer or {}).get(name, timeout_s)) for name, method in methods(protocol).items()}
    made = type(f"{protocol.__name__}Stub", (), {name: staticmethod(call) for name, call in namespace.items()})()
    return typing.cast(P, made)


def _calling(method: Method, bus: Bus, address: str, limit_s: float) -> Callable[..., Awaitable[Any]]:
    name, pack, result = method.name, method.pack, method.result.decode
    own = method.positional.index("timeout_s") if "timeout_s" in method.positional else -1

    async def call(*given: Any, **named: Any) -> Any:
        wait_s = limit_s
        if own >= 0:
            asked = named.get("timeout_s", given[own] if own < len(given) else None)
            wait_s = limit_s if asked is None else asked + 5.0
        returned = await bus.call(address, Call(name, pack(given, named)), wait_s)
        return result(returned.value)

    call.__name__ = call.__qualname__ = name
    return call


def serve(bus: Bus, address: str, protocol: Callable[..., Any], implementation: Any) -> None:
    """Answer the contract's calls at an address."""
    table = {name: (method, getattr(implementation, name)) for name, method in methods(protocol).items()}

    async def handle(call: Call) -> Returned:
        found = table.get(call.method)
        if found is None:
            raise Undelivered(address=f"{address} ({call.method})")
        method, function = found
        given, named = method.unpack(call.arguments)
        return Returned(_encode(await function(*given, **named)))

    bus.serve(address, {Call: handle})
