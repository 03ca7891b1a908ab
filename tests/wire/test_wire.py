"""What crosses between services and to nodes may only grow: new structs, and new fields with defaults.

The recorded forms are the .json files beside this one. After a change that is allowed, `KILONOVA_WIRE=write` records it; a field that
has gone, changed its type or became required shows up in review, and fails here.
"""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

HERE = Path(__file__).parent
MODULES = (
    "compute.rpc",
    "network.rpc",
    "identity.contract",
    "image.contract",
    "placement.contract",
    "network.contract",
    "compute.contract",
    "core.context",
)
Form = dict[str, dict[str, list[Any]]]


def form(module: str) -> Form:
    """struct -> field -> [type, whether it must be there]"""
    loaded = importlib.import_module(f"kilonova.{module}")
    out: Form = {}
    for name, kind in sorted(vars(loaded).items()):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == loaded.__name__:
            fields = msgspec.structs.fields(kind)
            out[name] = {field.encode_name: [_type(field.type), field.required] for field in fields}
    return out


def _type(kind: Any) -> str:
    return str(kind).replace("kilonova.", "") if not isinstance(kind, type) else kind.__name__


def breaks(old: Form, new: Form) -> list[str]:
    """How a reader or a writer of the old form would fail with the new one."""
    found = []
    for struct, fields in old.items():
        if struct not in new:
            found.append(f"{struct} is gone")
            continue
        for field, (kind, required) in fields.items():
            if field not in new[struct]:
                found.append(f"{struct}.{field} is gone")
            elif new[struct][field][0] != kind:
                found.append(f"{struct}.{field} was {kind}, is {new[struct][field][0]}")
            elif new[struct][field][1] and not required:
                found.append(f"{struct}.{field} has become required")
        found += [f"{struct}.{field} is new and has no default" for field in new[struct] if field not in fields and new[struct][field][1]]
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_wire_only_grows(module: str) -> None:
    path = HERE / f"{module}.json"
    new = form(module)
    if os.environ.get("KILONOVA_WIRE") == "write":
        path.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
    old: Form = json.loads(path.read_text())
    assert not breaks(old, new)
    assert old == new, f"{module} has grown: record it with KILONOVA_WIRE=write and look at the difference"


def test_what_breaks_is_seen() -> None:
    old: Form = {"A": {"x": ["int", True], "y": ["str", False]}}
    assert breaks(old, {}) == ["A is gone"]
    assert breaks(old, {"A": {"x": ["int", True]}}) == ["A.y is gone"]
    assert breaks(old, {"A": {"x": ["str", True], "y": ["str", True]}}) == ["A.x was int, is str", "A.y has become required"]
    assert breaks(old, {"A": {**old["A"], "z": ["int", True]}}) == ["A.z is new and has no default"]
    assert breaks(old, {"A": {**old["A"], "z": ["int", False]}, "B": {}}) == []
