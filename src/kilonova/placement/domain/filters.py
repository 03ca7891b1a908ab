"""Conditions on a provider's traits and aggregates, as the queries of providers and of allocation candidates say them. Pure."""

from collections.abc import Set as AbstractSet

import msgspec


class TraitFilter(msgspec.Struct, frozen=True):
    """needed: of each set at least one trait; forbidden: none of these."""

    needed: tuple[frozenset[str], ...] = ()
    forbidden: frozenset[str] = frozenset()

    def has_needed(self, traits: AbstractSet[str]) -> bool:
        return all(not some.isdisjoint(traits) for some in self.needed)

    def matches(self, traits: AbstractSet[str]) -> bool:
        return self.forbidden.isdisjoint(traits) and self.has_needed(traits)


class MemberFilter(msgspec.Struct, frozen=True):
    """needed: of each set at least one aggregate; forbidden: none of these."""

    needed: tuple[frozenset[str], ...] = ()
    forbidden: frozenset[str] = frozenset()

    def matches(self, aggregates: AbstractSet[str]) -> bool:
        return self.forbidden.isdisjoint(aggregates) and all(not some.isdisjoint(aggregates) for some in self.needed)
