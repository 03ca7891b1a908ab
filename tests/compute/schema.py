"""Checks answers against the schema of the negotiated microversion, as Tempest does: most objects allow no other keys.

The data is response_schemas.json; the checker knows the part of JSON Schema that it uses.
"""

import json
import re
import uuid
from pathlib import Path
from typing import Any

from kilonova.core import times
from kilonova.core.microversions import parse
from kilonova.testing.asgi import Client, Response

DATA = json.loads((Path(__file__).parent / "response_schemas.json").read_text())
_PREFIX = re.compile(r"^/v2\.1(/[0-9a-f]{32})?(?=/)")
_KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile("^" + re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(path)) + "/?$")


ROUTES = [(method, _pattern(path), action, rows, path.count("{")) for method, path, action, rows in DATA["routes"]]
ROUTES.sort(key=lambda r: r[4])


def _is(value: Any, kind: str) -> bool:
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, _KINDS[kind])


def errors(schema: Any, value: Any, at: str = "$") -> list[str]:
    if "$ref" in schema:
        return errors(DATA["parts"][schema["$ref"]], value, at)
    out: list[str] = []
    kinds = schema.get("type")
    if kinds is not None and not any(_is(value, k) for k in ([kinds] if isinstance(kinds, str) else kinds)):
        return [f"{at}: {value!r} is not of type {kinds}"]
    if "enum" in schema and value not in schema["enum"]:
        out.append(f"{at}: {value!r} is not one of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        out.append(f"{at}: {value!r} is not {schema['const']!r}")
    for part in schema.get("allOf", ()):
        out += errors(part, value, at)
    for name in ("anyOf", "oneOf"):
        if name in schema and not any(not errors(part, value, at) for part in schema[name]):
            out.append(f"{at}: {value!r} is none of {name}")
    if isinstance(value, str):
        out += _text(schema, value, at)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            out.append(f"{at}: {value} is below {schema['minimum']}")
    elif isinstance(value, list):
        out += _list(schema, value, at)
    elif isinstance(value, dict):
        out += _object(schema, value, at)
    return out


def _text(schema: Any, value: str, at: str) -> list[str]:
    out = []
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        out.append(f"{at}: {value!r} has the wrong length")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        out.append(f"{at}: {value!r} does not match {schema['pattern']}")
    try:
        if schema.get("format") == "uuid":
            uuid.UUID(value)
        elif schema.get("format") == "date-time":
            times.parse(value)
    except ValueError:
        out.append(f"{at}: {value!r} is not a {schema['format']}")
    return out


def _list(schema: Any, value: list[Any], at: str) -> list[str]:
    out = []
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        out.append(f"{at}: {len(value)} elements")
    first = schema.get("prefixItems", [])
    for i, item in enumerate(value):
        part = first[i] if i < len(first) else schema.get("items")
        if isinstance(part, dict):
            out += errors(part, item, f"{at}[{i}]")
    return out


def _object(schema: Any, value: dict[str, Any], at: str) -> list[str]:
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    out = [f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value]
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        out.append(f"{at}: {len(value)} properties")
    for name, item in value.items():
        parts = [properties[name]] if name in properties else [p for regex, p in patterns.items() if re.search(regex, name)]
        if not parts and schema.get("additionalProperties", True) is False:
            out.append(f"{at}: {name} is not allowed")
        elif not parts and isinstance(schema.get("additionalProperties"), dict):
            parts = [schema["additionalProperties"]]
        for part in parts:
            out += errors(part, item, f"{at}.{name}")
    return out


def schema_of(method: str, path: str, action: str, version: str) -> Any:
    """None: the route is none of the data's. Raises AssertionError when it has no answer at this version."""
    plain = _PREFIX.sub("", path.partition("?")[0])
    for known, pattern, its_action, rows, _ in ROUTES:
        if known == method and its_action == action and pattern.match(plain):
            for since, until, ident in rows:
                if (since is None or parse(version) >= parse(since)) and (until is None or parse(version) <= parse(until)):
                    return DATA["schemas"][ident]
            raise AssertionError(f"{method} {path} has no answer at {version}")
    return None


class CheckedClient(Client):
    """A client that looks at every good answer. `seen` counts the answers that were checked."""

    seen = 0

    async def request(self, method: str, path: str, body: Any = None, headers: Any = None, raw: bytes | None = None) -> Response:
        reply = await super().request(method, path, body, headers, raw)
        version = self.headers.get("openstack-api-version", "compute 2.1").rpartition(" ")[2]
        if reply.status < 300 and path.startswith("/v2.1/"):
            action = next(iter(body)) if path.endswith("/action") and isinstance(body, dict) else ""
            schema = schema_of(method, path, action, version)
            if schema is not None:
                CheckedClient.seen += 1
                found = errors(schema, reply.json if reply.body else None)
                assert not found, f"{method} {path} at {version}: {'; '.join(found)}\n{reply}"
        return reply

    def at(self, version: str) -> "CheckedClient":
        return CheckedClient(self.app, {**self.headers, "openstack-api-version": f"compute {version}"}, host=self.host)
