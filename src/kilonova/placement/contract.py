"""What other services may ask of placement. Compute's scheduler reads `usages`; its verbs `claim` and `release`."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from kilonova.core.context import Context
from kilonova.placement.errors import AlreadyClaimed, ConsumerGone, NoCapacity, ProviderInUse

__all__ = [
    "Allocation", "AlreadyClaimed", "ConsumerGone", "Inventory", "InventoryUsage", "NoCapacity", "Placement", "ProviderInUse",
    "ProviderUsage",
]  # fmt: skip

MAX_UNIT = 2147483647


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Capacity is (total - reserved) * allocation_ratio, rounded down.
    One allocation has min_unit to max_unit of it, a multiple of step_size."""

    resource_class: str
    total: int
    reserved: int = 0
    min_unit: int = 1
    max_unit: int = MAX_UNIT
    step_size: int = 1
    allocation_ratio: float = 1.0


class InventoryUsage(Inventory, frozen=True, kw_only=True):
    capacity: int
    used: int


class ProviderUsage(msgspec.Struct, frozen=True, kw_only=True):
    provider_id: str
    name: str
    inventories: tuple[InventoryUsage, ...]
    generation: int
    traits: tuple[str, ...]
    aggregates: tuple[str, ...] = ()
    parent_id: str | None = None


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """What one consumer holds of one provider."""

    consumer_id: str
    provider_id: str
    resources: dict[str, int]


class Placement(Protocol):
    """Every method wants the role admin or service, of the caller or of the service that acts for him, else PolicyForbids."""

    async def put_provider(
        self, ctx: Context, provider_id: str, name: str, inventories: Sequence[Inventory], traits: Sequence[str]
    ) -> None:
        """Make the root provider be as given; nothing is written when it is so already. Allocations stay. A class that is no longer
        given but in use stays with capacity 0 until it is free. CUSTOM_ traits that an operator set stay; unknown CUSTOM_ names are
        made. Raises BadInventory, UnknownTrait, UnknownClass, DuplicateName."""
        ...

    async def remove_provider(self, ctx: Context, provider_id: str) -> None:
        """No error when it is not there. Raises ProviderInUse, CannotDeleteParent."""
        ...

    async def claim(
        self,
        ctx: Context,
        consumer_id: str,
        provider_id: str,
        resources: Mapping[str, int],
        project_id: str,
        user_id: str,
        *,
        generation: int = 1,
    ) -> None:
        """All or nothing. The same claim again is no error, and becomes the later generation's. Amounts of 0 are left out. Raises
        ConsumerGone, NoCapacity (details: provider, resource_class, wanted, free), and AlreadyClaimed (details: provider) when the consumer
        holds anything else, or of a later generation. generation: of the consumer; who may be overtaken by another claimant of the same
        consumer gives the number by which it can be told who is later (an operation's epoch)."""
        ...

    async def release(self, ctx: Context, consumer_id: str, *, up_to: int | None = None, for_good: bool = False) -> None:
        """Give back everything that the consumer holds, if anything. up_to: only what is of this generation or an earlier one. for_good:
        a claim that comes late is refused (ConsumerGone; remembered for an hour)."""
        ...

    async def transfer(self, ctx: Context, consumer_id: str, to_consumer_id: str) -> None:
        """Everything that one consumer holds becomes another's, who must hold nothing (a move keeps the old host's claim under its own
        id meanwhile). Nothing happens when the first holds nothing. Raises AlreadyClaimed."""
        ...

    async def allocation(self, ctx: Context, consumer_id: str) -> Allocation | None:
        """Of a consumer with several providers (only the REST API makes those) the one whose id sorts first."""
        ...

    async def allocations(self, ctx: Context) -> tuple[Allocation, ...]:
        """Everything that anybody holds, by consumer and provider: for leak checks."""
        ...

    async def usages(self, ctx: Context) -> tuple[ProviderUsage, ...]:
        """Every provider with what it has and what of it is used, in order of creation. Two SELECTs."""
        ...
