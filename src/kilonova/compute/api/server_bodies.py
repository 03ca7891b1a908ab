"""Bodies of server requests. A version that adds a field is a subclass; decoding is validation."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Description = Annotated[str, Meta(max_length=255)]
Metadata = dict[Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-_:. ]*$")], Annotated[str, Meta(max_length=255)]]
Tag = Annotated[str, Meta(min_length=1, max_length=60, pattern=r"^[^,/]*$")]
Count = int | str
Flag = bool | str


class GroupRef(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(max_length=255)]


class NetworkRef(msgspec.Struct, kw_only=True):
    uuid: str | None = None
    port: str | None = None
    fixed_ip: str | None = None
    tag: Tag | None = None


class Personality(msgspec.Struct):
    path: str
    contents: str


class BlockDevice(msgspec.Struct, kw_only=True):
    """block_device_mapping_v2. Only local disks are served yet: the image's own, swap and ephemeral."""

    source_type: str = "blank"
    destination_type: str | None = None
    uuid: str | None = None
    boot_index: int | str | None = None
    volume_size: int | str | None = None
    delete_on_termination: Flag = True
    guest_format: str | None = None
    device_name: str | None = None
    device_type: str | None = None
    disk_bus: str | None = None
    no_device: Flag | None = None
    tag: Tag | None = None
    volume_type: str | None = None


class Server(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name
    flavorRef: str | int
    imageRef: str = ""
    adminPass: str | None = None
    metadata: Metadata = {}
    networks: list[NetworkRef] | str | None = None
    key_name: Name | None = None
    user_data: Annotated[str, Meta(max_length=65535)] | None = None
    security_groups: Annotated[list[GroupRef], Meta(max_length=200)] = []
    availability_zone: Name | None = None
    config_drive: Flag | None = None
    min_count: Count = 1
    max_count: Count | None = None
    return_reservation_id: Flag = False
    block_device_mapping: list[Any] = []
    block_device_mapping_v2: list[BlockDevice] = []
    accessIPv4: str | None = None
    accessIPv6: str | None = None
    disk_config: str | None = msgspec.field(default=None, name="OS-DCF:diskConfig")
    personality: list[Personality] = []


class Server2_19(Server, kw_only=True, forbid_unknown_fields=True):
    description: Description | None = None


class Server2_52(Server2_19, kw_only=True, forbid_unknown_fields=True):
    tags: Annotated[list[Tag], Meta(max_length=50)] = []


class Server2_57(Server2_52, kw_only=True, forbid_unknown_fields=True):
    """`personality` is gone: the handler refuses it."""


class Server2_63(Server2_57, kw_only=True, forbid_unknown_fields=True):
    trusted_image_certificates: list[str] | None = None


class Server2_74(Server2_63, kw_only=True, forbid_unknown_fields=True):
    host: Name | None = None
    hypervisor_hostname: Name | None = None


class Server2_90(Server2_74, kw_only=True, forbid_unknown_fields=True):
    hostname: Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-.]*$")] | None = None


def _create(server: Any) -> Any:
    return msgspec.defstruct(
        f"Create_{server.__name__}",
        [
            ("server", server),
            ("hints", dict[str, Any] | None, msgspec.field(default=None, name="os:scheduler_hints")),
            ("old_hints", dict[str, Any] | None, msgspec.field(default=None, name="OS-SCH-HNT:scheduler_hints")),
        ],
        kw_only=True,
        forbid_unknown_fields=True,
    )


CREATE = [
    ((2, 1), _create(Server)),
    ((2, 19), _create(Server2_19)),
    ((2, 52), _create(Server2_52)),
    ((2, 57), _create(Server2_57)),
    ((2, 63), _create(Server2_63)),
    ((2, 74), _create(Server2_74)),
    ((2, 90), _create(Server2_90)),
]


class Update(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET
    accessIPv4: str | None | UnsetType = UNSET
    accessIPv6: str | None | UnsetType = UNSET
    disk_config: str | UnsetType = msgspec.field(default=UNSET, name="OS-DCF:diskConfig")


class Update2_19(Update, kw_only=True, forbid_unknown_fields=True):
    description: Description | None | UnsetType = UNSET


class Update2_90(Update2_19, kw_only=True, forbid_unknown_fields=True):
    hostname: Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-.]*$")] | UnsetType = UNSET


def _update(server: Any) -> Any:
    return msgspec.defstruct(f"Body_{server.__name__}", [("server", server)], forbid_unknown_fields=True)


UPDATE = [((2, 1), _update(Update)), ((2, 19), _update(Update2_19)), ((2, 90), _update(Update2_90))]


class Rebuild(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    imageRef: str
    name: Name | UnsetType = UNSET
    adminPass: str | None = None
    metadata: Metadata | UnsetType = UNSET
    preserve_ephemeral: Flag | None = None
    disk_config: str | UnsetType = msgspec.field(default=UNSET, name="OS-DCF:diskConfig")
    accessIPv4: str | UnsetType = UNSET
    accessIPv6: str | UnsetType = UNSET
    personality: list[Personality] = []


class Rebuild2_19(Rebuild, kw_only=True, forbid_unknown_fields=True):
    description: Description | None | UnsetType = UNSET


class Rebuild2_54(Rebuild2_19, kw_only=True, forbid_unknown_fields=True):
    """key_name null: the server has none any more."""

    key_name: Name | None | UnsetType = UNSET


class Rebuild2_57(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`personality` is gone."""

    imageRef: str
    name: Name | UnsetType = UNSET
    adminPass: str | None = None
    metadata: Metadata | UnsetType = UNSET
    preserve_ephemeral: Flag | None = None
    disk_config: str | UnsetType = msgspec.field(default=UNSET, name="OS-DCF:diskConfig")
    accessIPv4: str | UnsetType = UNSET
    accessIPv6: str | UnsetType = UNSET
    description: Description | None | UnsetType = UNSET
    key_name: Name | None | UnsetType = UNSET
    user_data: Annotated[str, Meta(max_length=65535)] | None | UnsetType = UNSET


class Rebuild2_63(Rebuild2_57, kw_only=True, forbid_unknown_fields=True):
    trusted_image_certificates: list[str] | None = None


class Rebuild2_90(Rebuild2_63, kw_only=True, forbid_unknown_fields=True):
    hostname: Annotated[str, Meta(min_length=2, max_length=63, pattern=r"^[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+$")] | UnsetType = UNSET


class Rebuild2_94(Rebuild2_63, kw_only=True, forbid_unknown_fields=True):
    hostname: Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-._]*$")] | UnsetType = UNSET


def _rebuild(server: Any) -> Any:
    return msgspec.defstruct(f"Body_{server.__name__}", [("rebuild", server)], forbid_unknown_fields=True)


REBUILD = [
    ((2, 1), _rebuild(Rebuild)),
    ((2, 19), _rebuild(Rebuild2_19)),
    ((2, 54), _rebuild(Rebuild2_54)),
    ((2, 57), _rebuild(Rebuild2_57)),
    ((2, 63), _rebuild(Rebuild2_63)),
    ((2, 90), _rebuild(Rebuild2_90)),
    ((2, 94), _rebuild(Rebuild2_94)),
]


class CreateImage(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    metadata: Metadata = {}


class CreateImageAction(msgspec.Struct, forbid_unknown_fields=True):
    create_image: CreateImage = msgspec.field(name="createImage")


class Reboot(msgspec.Struct, forbid_unknown_fields=True):
    type: str


class RebootAction(msgspec.Struct, forbid_unknown_fields=True):
    reboot: Reboot


class ConsoleOutput(msgspec.Struct):
    length: int | str | None = None


class ConsoleOutputAction(msgspec.Struct, forbid_unknown_fields=True):
    output: ConsoleOutput | None = msgspec.field(name="os-getConsoleOutput", default=None)


AnyAction = dict[str, Any]
