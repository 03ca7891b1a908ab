"""Run by each release's own interpreter: every struct that crosses between processes, written by one and read by the other.

    samples.py write FILE        a message of each struct: with all fields filled in, and with the required ones only
    samples.py read FILE         read such a file; one line for each struct that is not understood as it was meant

A struct that the reader does not have is no mistake: nobody sends it such a message before it has said that it knows it. A field that it
does not have is skipped.
"""

import base64
import enum
import importlib
import json
import sys
import types
import typing
from typing import Any

import msgspec

from kilonova.core.bus import wire

MODULES = (
    "compute.rpc", "network.rpc", "identity.contract", "image.contract", "placement.contract", "network.contract", "compute.contract",
    "core.context",
)  # fmt: skip
SIMPLE: dict[Any, Any] = {int: 7, str: "text", bool: True, float: 1.5, bytes: b"\x00\xff", type(None): None}


def structs() -> dict[str, type[msgspec.Struct]]:
    found: dict[str, type[msgspec.Struct]] = {}
    for name in MODULES:
        module = importlib.import_module(f"kilonova.{name}")
        for key, kind in sorted(vars(module).items()):
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__:
                found[f"{name}.{key}"] = kind
    return found


def sample(kind: Any) -> Any:
    """A value of a type, never its default."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in SIMPLE:
        return SIMPLE[kind]
    if kind is Any or kind is object:
        return "anything"
    if origin in (typing.Union, types.UnionType):
        return sample(next(a for a in arguments if a is not type(None)))
    if origin is typing.Annotated:
        return sample(arguments[0])
    if origin is typing.Literal:
        return arguments[-1]
    if origin is tuple:
        return tuple(sample(a) for a in arguments if a is not ...)
    if origin in (list, set, frozenset):
        return origin([sample(arguments[0])])
    if origin is not None and isinstance(origin, type) and issubclass(origin, typing.Mapping):
        return {sample(arguments[0]): sample(arguments[1])}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return list(kind)[-1]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return filled(kind)
    if kind is dict:
        return {"key": "value"}
    raise TypeError(f"{kind}: samples.py does not know how to make one")


def filled(kind: type[msgspec.Struct], *, all_fields: bool = True) -> Any:
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{f.name: sample(hints[f.name]) for f in msgspec.structs.fields(kind) if all_fields or f.required})


def write(path: str) -> None:
    out = {}
    for name, kind in structs().items():
        forms = {}
        for form, made in (("full", filled(kind)), ("least", filled(kind, all_fields=False))):
            data = wire.request("id", made, "req-1", 5.0)
            forms[form] = [base64.b64encode(data).decode(), json.dumps(plain(made), sort_keys=True)]
        out[name] = forms
    with open(path, "w") as file:
        json.dump(out, file)


def plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def lost(sent: Any, understood: Any, at: str) -> list[str]:
    """Where what the reader has differs from what was sent. Fields that only one of them has are none of it."""
    if isinstance(sent, dict) and isinstance(understood, dict):
        return [text for key in sent if key in understood for text in lost(sent[key], understood[key], f"{at}.{key}")]
    if isinstance(sent, list) and isinstance(understood, list) and len(sent) == len(understood):
        return [text for one, other in zip(sent, understood, strict=True) for text in lost(one, other, f"{at}[]")]
    return [] if sent == understood else [f"{at} was {sent}, is read as {understood}"]


def read(path: str) -> int:
    with open(path) as file:
        told = json.load(file)
    known, wrong = structs(), 0
    for name, forms in told.items():
        for form, (data, meant) in forms.items() if name in known else ():
            try:
                request = wire.read_request(base64.b64decode(data))
                message = wire.body(request.name, request.body)
                texts = lost(json.loads(meant), plain(message), name)
                if type(message) is not known[name]:
                    texts.append(f"{name} is read as {type(message).__name__}")
            except Exception as error:
                texts = [f"{name} ({form}): {error!r}"]
            for text in texts:
                print(text)
            wrong += len(texts)
    print(f"{sum(name in known for name in told)} of {len(told)} structs are known")
    return wrong


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        sys.exit(1 if read(sys.argv[2]) else 0)
