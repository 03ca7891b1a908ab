"""Placement's nouns as rows. Fields stand in the order of the tables' columns, so that a row becomes a struct by position."""

import re

import msgspec

from kilonova.placement.contract import Inventory

CUSTOM_NAME = re.compile(r"CUSTOM_[A-Z0-9_]+")
UUID = re.compile(r"[0-9a-f]{32}")
UNKNOWN_OWNER = "00000000-0000-0000-0000-000000000000"
"""Project and user of consumers made before version 1.8, when nobody said them."""
MAX_CAPACITY = 2**62


class Provider(msgspec.Struct, frozen=True):
    """children: how many providers have this one as parent. updated_at: microseconds, of the last change of name, inventory or traits."""

    id: str
    name: str
    generation: int
    parent_id: str | None
    root_id: str
    traits: tuple[str, ...]
    aggregates: tuple[str, ...]
    children: int
    created_at: int
    updated_at: int


class Stock(msgspec.Struct, frozen=True):
    """An inventory row: capacity is precomputed, used is the sum of all allocations of it (an invariant, kept by each transaction)."""

    provider_id: str
    resource_class: str
    total: int
    reserved: int
    min_unit: int
    max_unit: int
    step_size: int
    allocation_ratio: float
    capacity: int
    used: int
    updated_at: int

    def allows(self, amount: int) -> bool:
        """Whether one allocation may have this amount, apart from what is free."""
        return self.min_unit <= amount <= self.max_unit and amount % self.step_size == 0


class Consumer(msgspec.Struct, frozen=True):
    id: str
    project_id: str
    user_id: str
    consumer_type: str | None
    generation: int
    created_at: int
    updated_at: int


class Held(msgspec.Struct, frozen=True):
    """An allocation row."""

    consumer_id: str
    provider_id: str
    resource_class: str
    amount: int
    updated_at: int


def capacity(inventory: Inventory) -> int:
    return max(0, min(int((inventory.total - inventory.reserved) * inventory.allocation_ratio), MAX_CAPACITY))


def canonical_uuid(text: str) -> str | None:
    """Lower case with dashes; None when it is not a UUID. Written with or without dashes, as OpenStack accepts them."""
    plain = text.lower().removeprefix("urn:").removeprefix("uuid:").strip("{}").replace("-", "")
    if UUID.fullmatch(plain) is None:
        return None
    return f"{plain[:8]}-{plain[8:12]}-{plain[12:16]}-{plain[16:20]}-{plain[20:]}"


def is_custom_name(name: str) -> bool:
    return len(name) <= 255 and CUSTOM_NAME.fullmatch(name) is not None
