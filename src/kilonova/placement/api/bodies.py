"""Request bodies. A later version is a subclass of the one before it, or a new struct where a field became required."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kilonova.placement.contract import MAX_UNIT, Inventory

Name = Annotated[str, Meta(max_length=200)]
Owner = Annotated[str, Meta(min_length=1, max_length=255)]
ClassName = Annotated[str, Meta(pattern=r"^[A-Z0-9_]+$")]
CustomName = Annotated[str, Meta(pattern=r"^CUSTOM_[A-Z0-9_]+$", max_length=255)]
TraitName = Annotated[str, Meta(min_length=1, max_length=255)]
ConsumerType = Annotated[str, Meta(pattern=r"^[A-Z0-9_]+$", min_length=1, max_length=255)]
UuidKey = Annotated[str, Meta(pattern=r"^[0-9a-fA-F-]{36}$")]
Size = Annotated[int, Meta(ge=1, le=MAX_UNIT)]
Amount = Annotated[int, Meta(ge=1, le=2**62)]
Generation = Annotated[int, Meta(ge=-(2**62), le=2**62)]
Resources = Annotated[dict[ClassName, Amount], Meta(min_length=1)]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


# providers


class CreateProvider(Strict, frozen=True, kw_only=True):
    name: Name
    uuid: str | UnsetType = UNSET


class CreateProvider1_14(CreateProvider, frozen=True, kw_only=True):
    parent_provider_uuid: str | None = None


class UpdateProvider(Strict, frozen=True, kw_only=True):
    name: Name


class UpdateProvider1_14(UpdateProvider, frozen=True, kw_only=True):
    parent_provider_uuid: str | None | UnsetType = UNSET


class SetTraits(Strict, frozen=True, kw_only=True):
    traits: list[TraitName]
    resource_provider_generation: Generation


Aggregates = list[str]


class SetAggregates1_19(Strict, frozen=True, kw_only=True):
    aggregates: Aggregates
    resource_provider_generation: Generation


# inventories


class InventoryIn(Strict, frozen=True, kw_only=True):
    total: Size
    reserved: Annotated[int, Meta(ge=0, le=MAX_UNIT)] = 0
    min_unit: Size = 1
    max_unit: Size = MAX_UNIT
    step_size: Size = 1
    allocation_ratio: Annotated[float, Meta(le=3.40282e38)] = 1.0
    resource_provider_generation: Generation | UnsetType = UNSET

    def named(self, resource_class: str) -> Inventory:
        return Inventory(
            resource_class=resource_class,
            total=self.total,
            reserved=self.reserved,
            min_unit=self.min_unit,
            max_unit=self.max_unit,
            step_size=self.step_size,
            allocation_ratio=self.allocation_ratio,
        )


class CreateInventory(InventoryIn, frozen=True, kw_only=True):
    resource_class: ClassName


class SetInventories(Strict, frozen=True, kw_only=True):
    resource_provider_generation: Generation
    inventories: dict[ClassName, InventoryIn]

    def listed(self) -> list[Inventory]:
        return [body.named(name) for name, body in self.inventories.items()]


# classes


class NewClass(Strict, frozen=True, kw_only=True):
    name: CustomName


# allocations


class ProviderRef(Strict, frozen=True, kw_only=True):
    uuid: str


class ListedAllocation(Strict, frozen=True, kw_only=True):
    resource_provider: ProviderRef
    resources: Resources


class SetAllocations(Strict, frozen=True, kw_only=True):
    allocations: Annotated[list[ListedAllocation], Meta(min_length=1)]


class SetAllocations1_8(SetAllocations, frozen=True, kw_only=True):
    project_id: Owner
    user_id: Owner


class KeyedAllocation(Strict, frozen=True, kw_only=True):
    """generation: what GET shows, so that its answer may be sent back; it has no meaning here."""

    resources: Resources
    generation: int | UnsetType = UNSET


class SetAllocations1_12(Strict, frozen=True, kw_only=True):
    allocations: Annotated[dict[UuidKey, KeyedAllocation], Meta(min_length=1)]
    project_id: Owner
    user_id: Owner


class Clearable(Strict, frozen=True, kw_only=True):
    allocations: dict[UuidKey, KeyedAllocation]
    project_id: Owner
    user_id: Owner


class SetAllocations1_28(Clearable, frozen=True, kw_only=True):
    consumer_generation: Generation | None


class SetAllocations1_34(SetAllocations1_28, frozen=True, kw_only=True):
    """mappings: from the allocation candidate; kept by no one."""

    mappings: Annotated[dict[str, Annotated[list[str], Meta(min_length=1)]], Meta(min_length=1)] | UnsetType = UNSET


class SetAllocations1_38(SetAllocations1_34, frozen=True, kw_only=True):
    consumer_type: ConsumerType


Many1_13 = Annotated[dict[UuidKey, Clearable], Meta(min_length=1)]
Many1_28 = Annotated[dict[UuidKey, SetAllocations1_28], Meta(min_length=1)]
Many1_34 = Annotated[dict[UuidKey, SetAllocations1_34], Meta(min_length=1)]
Many1_38 = Annotated[dict[UuidKey, SetAllocations1_38], Meta(min_length=1)]

# reshaper


class Reshape(Strict, frozen=True, kw_only=True):
    inventories: Annotated[dict[UuidKey, SetInventories], Meta(min_length=1)]
    allocations: dict[UuidKey, SetAllocations1_28]


class Reshape1_34(Strict, frozen=True, kw_only=True):
    inventories: Annotated[dict[UuidKey, SetInventories], Meta(min_length=1)]
    allocations: dict[UuidKey, SetAllocations1_34]


class Reshape1_38(Strict, frozen=True, kw_only=True):
    inventories: Annotated[dict[UuidKey, SetInventories], Meta(min_length=1)]
    allocations: dict[UuidKey, SetAllocations1_38]
