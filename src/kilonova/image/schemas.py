"""The documents of /v2/schemas, by what stands behind that path. They are data: what clients read to learn which attributes exist."""

import importlib.resources
from typing import Any

import msgspec

DOCUMENTS: dict[str, Any] = msgspec.json.decode(importlib.resources.files("kilonova.image").joinpath("schemas.json").read_bytes())
DISK_FORMATS: tuple[str, ...] = tuple(f for f in DOCUMENTS["image"]["properties"]["disk_format"]["enum"] if f)
CONTAINER_FORMATS: tuple[str, ...] = tuple(f for f in DOCUMENTS["image"]["properties"]["container_format"]["enum"] if f)
