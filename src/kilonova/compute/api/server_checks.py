"""What create, update and rebuild check alike in a server's body, and what an image contributes to a server."""

import base64
import binascii
import ipaddress
from typing import Any

from kilonova.compute import rpc
from kilonova.compute.api.values import UUID
from kilonova.compute.model import Flavor
from kilonova.compute.service import ComputeService
from kilonova.core.context import Context
from kilonova.core.errors import BadRequest, NotFound
from kilonova.image.contract import ImageInfo


def server_name(text: str) -> str:
    name = text.strip()
    if not name or (text != name and not name):
        raise BadRequest(f"Invalid input for field/attribute name. Value: {text[:50]}. '{text[:50]}' should be non-empty")
    if not name.isprintable():
        raise BadRequest("Invalid input for field/attribute name. It holds characters that cannot be printed.")
    return name


def address(field: str, text: str | None, version: int) -> str | None:
    if not text:
        return None
    try:
        return str(ipaddress.IPv4Address(text) if version == 4 else ipaddress.IPv6Address(text))
    except ValueError:
        raise BadRequest(f"Invalid input for field/attribute {field}. Value: {text[:50]}. '{text[:50]}' is not a 'ipv{version}'") from None


def disk_config(text: str | None) -> str:
    value = (text or "MANUAL").upper()
    if value not in ("AUTO", "MANUAL"):
        raise BadRequest(f"Invalid input for field/attribute OS-DCF:diskConfig. Value: {value[:50]}. It is AUTO or MANUAL.")
    return value


def flag(field: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value is None:
        return False
    text = str(value).lower()
    if text in ("true", "1", "yes", "on", "t", "y"):
        return True
    if text in ("false", "0", "no", "off", "f", "n", ""):
        return False
    raise BadRequest(f"Invalid input for field/attribute {field}. Value: {text[:50]}. It is a boolean.")


def user_data(text: str | None) -> None:
    if text is None:
        return
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("Invalid input for field/attribute user_data. It is not base64.") from None


def fits(flavor: Flavor, image: ImageInfo | None) -> None:
    if image is None:
        return
    if flavor.ram_mb < (image.min_ram or 0):
        raise BadRequest("Flavor's memory is too small for requested image.")
    if flavor.root_gb:
        if flavor.root_gb < (image.min_disk or 0):
            raise BadRequest(
                f"Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is {flavor.root_gb << 30} bytes, "
                f"minimum size is {(image.min_disk or 0) << 30} bytes."
            )
        size = max(image.virtual_size or 0, image.size or 0)
        if flavor.root_gb << 30 < size:
            raise BadRequest(
                f"Flavor's disk is too small for requested image. Flavor disk is {flavor.root_gb << 30} bytes, image is {size} bytes."
            )


def image_properties(image: ImageInfo | None) -> dict[str, str]:
    return {} if image is None else {k: str(v) for k, v in image.properties.items() if not k.startswith("os_glance")}


def guest_image(image: ImageInfo | None) -> rpc.GuestImage | None:
    if image is None:
        return None
    return rpc.GuestImage(
        id=image.id,
        disk_format=image.disk_format or "raw",
        size=image.size or 0,
        virtual_size=image.virtual_size,
        os_hash_algo=image.os_hash_algo,
        os_hash_value=image.os_hash_value,
    )


async def bootable(c: ComputeService, ctx: Context, ref: str, missing: str = "Can not find requested image") -> ImageInfo:
    """An image that the caller sees and that holds bytes. Raises BadRequest."""
    if not UUID.match(ref):
        raise BadRequest(
            f"Invalid input for field/attribute imageRef. Value: {ref[:64]}. '{ref[:64]}' is not valid under any of the given schemas"
        )
    try:
        image = await c.images.get(ctx, ref)
    except NotFound:
        raise BadRequest(missing) from None
    if image.status != "active":
        raise BadRequest(f"Image {image.id} is not active.")
    return image
