"""How messages look between processes: msgpack of a small envelope around the body.

A body's type travels by name, "service.module.Class" without the package's own ("network.rpc.Plug"), and only structs of `rpc`,
`contract` and a few modules of the core are ever made from a name. An old reader skips fields it does not know, a new one fills in
defaults.

Errors cross as what they are (class, code, status, sentence, details). A reader that has the class raises the same one; another raises
the core's error of that status with the sentence, so that `except NotFound` holds either way. Traces and details of unexpected errors
stay at home.
"""

import functools
import importlib
import re
from typing import Any

import msgspec

from kilonova.core import errors
from kilonova.core.errors import Error

VERSION = 1
PACKAGE = __name__.partition(".")[0]
_KNOWN = re.compile(r"(?:[a-z][a-z0-9_]*\.(?:rpc|contract)|core\.(?:binding|context|bus\.wire))\.[A-Z][A-Za-z0-9_]*")
_ERRORS = re.compile(r"(?:[a-z][a-z0-9_]*\.(?:errors|contract)|core\.(?:errors|operations|bus\.interface))")
_encoder = msgspec.msgpack.Encoder(enc_hook=str)
_BY_STATUS = {
    400: errors.BadRequest, 403: errors.Forbidden, 404: errors.NotFound, 405: errors.MethodNotAllowed, 406: errors.NotAcceptable,
    409: errors.Conflict, 410: errors.Gone, 412: errors.PreconditionFailed, 413: errors.TooLarge, 415: errors.UnsupportedMediaType,
    416: errors.RangeNotSatisfiable, 501: errors.NotImplementedHere, 503: errors.Unavailable,
}  # fmt: skip


class Unreadable(Error):
    """A message that this version cannot read."""

    code = "bus.unreadable"
    title = "A message of type {name} cannot be read here: {reason}"


class RemoteFailed(Error):
    """What the other side says of an error it did not expect: nothing but where to look."""

    code = "bus.remote_failed"
    title = "{address} failed unexpectedly; its log has the details."


class _Remote(Error):
    """Part of errors that another version raised: they keep its sentence and code."""

    @property
    def message(self) -> str:
        return str(self.details["reason"])


class Request(msgspec.Struct, frozen=True):
    """`timeout_s` counts from the sending: who hears it later need not act any more. `id` is also the broker's message id."""

    version: int
    id: str
    name: str
    body: msgspec.Raw
    request_id: str = ""
    timeout_s: float = 60.0


class Failure(msgspec.Struct, frozen=True):
    module: str
    kind: str
    code: str
    status: int
    sentence: str
    details: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error, or a body with its name; no name: None. `working`: not the reply yet, only a sign that somebody is at it."""

    version: int
    name: str = ""
    body: msgspec.Raw = msgspec.Raw()
    error: Failure | None = None
    working: bool = False


WORKING = _encoder.encode(Reply(VERSION, working=True))

_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)
_names: dict[type[Any], str] = {}
_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}


def name_of(kind: type[Any]) -> str:
    name = _names.get(kind)
    if name is None:
        name = _names[kind] = f"{kind.__module__.removeprefix(PACKAGE + '.')}.{kind.__qualname__}"
    return name


def type_of(name: str) -> type[Any]:
    """The struct of this name. Its module is imported if need be. Raises Unreadable."""
    if _KNOWN.fullmatch(name) is None:
        raise Unreadable("no such type of message", name=name[:100])
    module, _, attribute = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(f"{PACKAGE}.{module}"), attribute, None)
    except ModuleNotFoundError:
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct) and name_of(kind) == name):
        raise Unreadable("no such type of message", name=name)
    return kind


def request(ident: str, message: Any, request_id: str, timeout_s: float) -> bytes:
    return _encoder.encode(Request(VERSION, ident, name_of(type(message)), msgspec.Raw(_encoder.encode(message)), request_id, timeout_s))


def read_request(data: bytes) -> Request:
    try:
        return _requests.decode(data)
    except msgspec.DecodeError as error:
        raise Unreadable(str(error), name="request") from None


def body(name: str, data: msgspec.Raw) -> Any:
    decoder = _decoders.get(name)
    if decoder is None:
        decoder = _decoders[name] = msgspec.msgpack.Decoder(type_of(name))
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise Unreadable(str(error), name=name) from None


def reply(value: Any) -> bytes:
    if value is None:
        return _encoder.encode(Reply(VERSION))
    return _encoder.encode(Reply(VERSION, name_of(type(value)), msgspec.Raw(_encoder.encode(value))))


def refusal(error: Error) -> bytes:
    kind = type(error)
    try:
        sentence = error.message
    except (KeyError, ValueError, IndexError):
        sentence = error.code
    module = kind.__module__.removeprefix(PACKAGE + ".")
    return _encoder.encode(Reply(VERSION, error=Failure(module, kind.__qualname__, error.code, error.status, sentence, error.details)))


def read_reply(data: bytes) -> Any:
    """The value; an error is raised."""
    try:
        read = _replies.decode(data)
    except msgspec.DecodeError as error:
        raise Unreadable(str(error), name="reply") from None
    if read.error is not None:
        raise error_of(read.error)
    return body(read.name, read.body) if read.name else None


def error_of(failure: Failure) -> Error:
    """The error that another process raised."""
    kind = _error_class(failure)
    if kind is not None:
        error = kind.__new__(kind)
        Error.__init__(error, **{"reason": "", **failure.details})
        return error
    error = _foreign(failure.status)(failure.sentence)
    error.details = {**failure.details, "reason": failure.sentence}
    error.status, error.code = failure.status, failure.code
    return error


_foreigners: dict[int, type[Error]] = {}


def _foreign(status: int) -> type[Error]:
    if status not in _foreigners:
        known = _BY_STATUS.get(status, Error)
        _foreigners[status] = type(f"Remote{known.__name__}", (_Remote, known), {})
    return _foreigners[status]


def _error_class(failure: Failure) -> type[Error] | None:
    key = (failure.module, failure.kind)
    kind = _classes().get(key)
    if kind is None and _ERRORS.fullmatch(failure.module):
        try:
            importlib.import_module(f"{PACKAGE}.{failure.module}")
        except ModuleNotFoundError:
            return None
    if kind is None:
        _classes.cache_clear()
        kind = _classes().get(key)
    return kind


@functools.cache
def _classes() -> dict[tuple[str, str], type[Error]]:
    """Every error of ours that has been imported."""
    found: dict[tuple[str, str], type[Error]] = {}
    waiting = [Error]
    while waiting:
        kind = waiting.pop()
        if kind.__module__.partition(".")[0] == PACKAGE and not issubclass(kind, _Remote):
            found[kind.__module__.removeprefix(PACKAGE + "."), kind.__qualname__] = kind
        waiting += kind.__subclasses__()
    return found
