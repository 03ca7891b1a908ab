"""Allocation candidates: every way to place a request on the providers, as a pure function of a snapshot.

A request is a set of groups. The group without a suffix may be spread over a tree; a group with a suffix comes from one provider. All of
one candidate comes from one tree (the anchor) and from the providers that share with it: those with the trait
MISC_SHARES_VIA_AGGREGATE in an aggregate of any provider of the tree. For each tree we list the options of each group, and go through
their product; a combination is kept when the sums still fit and the conditions between groups hold. Everything is lazy: with a limit,
only as much is made as is wanted.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from kilonova.placement.domain.filters import MemberFilter, TraitFilter
from kilonova.placement.model import Provider, Stock
from kilonova.placement.standard_names import SHARING

Amounts = dict[tuple[str, str], int]
"""(provider, class) -> amount"""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    suffix: str = ""
    resources: dict[str, int] = {}
    traits: TraitFilter = TraitFilter()
    members: MemberFilter = MemberFilter()
    in_tree: str | None = None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """isolate: groups with a suffix take different providers. same_subtree: sets of suffixes whose providers lie below one of them.
    nested: more than one provider of a tree may be used (since 1.29)."""

    groups: tuple[Group, ...]
    isolate: bool = False
    root: TraitFilter = TraitFilter()
    same_subtree: tuple[frozenset[str], ...] = ()
    nested: bool = True


class Option(msgspec.Struct, frozen=True):
    """One way to satisfy one group."""

    amounts: Amounts
    providers: tuple[str, ...]


class Candidate(msgspec.Struct, frozen=True):
    """mappings: suffix -> the providers that satisfy the group."""

    amounts: Amounts
    mappings: dict[str, tuple[str, ...]]


class Snapshot:
    """Providers and their inventories at one moment, indexed for searching."""

    def __init__(self, providers: Sequence[Provider], stocks: Iterable[Stock]) -> None:
        self.providers = {p.id: p for p in providers}
        self.traits = {p.id: frozenset(p.traits) for p in providers}
        self.aggregates = {p.id: frozenset(p.aggregates) for p in providers}
        self.stocks: dict[str, dict[str, Stock]] = {p.id: {} for p in providers}
        for stock in stocks:
            if stock.provider_id in self.stocks:
                self.stocks[stock.provider_id][stock.resource_class] = stock
        self.trees: dict[str, list[Provider]] = {}
        for p in providers:
            self.trees.setdefault(p.root_id, []).append(p)
        self._sharing = [p for p in providers if SHARING in self.traits[p.id]]

    def reachable(self, root_id: str) -> list[Provider]:
        """The tree's providers, then those of other trees that share with it."""
        tree = self.trees[root_id]
        if not self._sharing:
            return tree
        spanned = frozenset().union(*(self.aggregates[p.id] for p in tree))
        return tree + [p for p in self._sharing if p.root_id != root_id and not spanned.isdisjoint(self.aggregates[p.id])]

    def fits(self, provider_id: str, resource_class: str, amount: int) -> bool:
        stock = self.stocks[provider_id].get(resource_class)
        return stock is not None and stock.used + amount <= stock.capacity and stock.allows(amount)

    def ancestors(self, provider_id: str) -> Iterator[str]:
        """The provider itself, its parent, and so on up."""
        at: str | None = provider_id
        while at is not None:
            yield at
            found = self.providers.get(at)
            at = found.parent_id if found else None


def search(snapshot: Snapshot, question: Question, *, breadth_first: bool = False) -> Iterator[Candidate]:
    """Candidates, each once, in order of the trees' creation (or one of each tree in turn)."""
    per_tree = [_of_tree(snapshot, question, root_id) for root_id in snapshot.trees]
    found = _in_turn(per_tree) if breadth_first else itertools.chain.from_iterable(per_tree)
    seen: set[object] = set()
    for candidate in found:
        key = (frozenset(candidate.amounts.items()), frozenset(candidate.mappings.items()))
        if key not in seen:
            seen.add(key)
            yield candidate


def _in_turn(iterators: list[Iterator[Candidate]]) -> Iterator[Candidate]:
    while iterators:
        alive = []
        for iterator in iterators:
            candidate = next(iterator, None)
            if candidate is not None:
                yield candidate
                alive.append(iterator)
        iterators = alive


def _of_tree(snapshot: Snapshot, question: Question, root_id: str) -> Iterator[Candidate]:
    if root_id not in snapshot.providers or not question.root.matches(snapshot.traits[root_id]):
        return
    reachable = snapshot.reachable(root_id)
    options: list[list[Option]] = []
    for group in question.groups:
        made = _one_provider(snapshot, group, root_id, reachable) if group.suffix else _spread(snapshot, group, reachable)
        if not made:
            return
        options.append(made)
    for chosen in itertools.product(*options):
        amounts: Amounts = {}
        for option in chosen:
            for key, amount in option.amounts.items():
                amounts[key] = amounts.get(key, 0) + amount
        mappings = {group.suffix: option.providers for group, option in zip(question.groups, chosen, strict=True)}
        if _sums_fit(snapshot, chosen, amounts) and _together(snapshot, question, amounts, mappings):
            yield Candidate(amounts, mappings)


def _one_provider(snapshot: Snapshot, group: Group, root_id: str, reachable: Sequence[Provider]) -> list[Option]:
    out = []
    for p in reachable:
        if not group.resources and p.root_id != root_id:
            continue
        if (
            all(snapshot.fits(p.id, name, amount) for name, amount in group.resources.items())
            and group.traits.matches(snapshot.traits[p.id])
            and group.members.matches(snapshot.aggregates[p.id])
            and _in_tree(snapshot, group, p)
        ):
            out.append(Option({(p.id, name): amount for name, amount in group.resources.items()}, (p.id,)))
    return out


def _spread(snapshot: Snapshot, group: Group, reachable: Sequence[Provider]) -> list[Option]:
    """Each class from any provider; together they have the needed traits, and none has a forbidden one."""
    usable = [
        p
        for p in reachable
        if group.traits.forbidden.isdisjoint(snapshot.traits[p.id]) and _member(snapshot, group, p) and _in_tree(snapshot, group, p)
    ]
    per_class = [[p.id for p in usable if snapshot.fits(p.id, name, amount)] for name, amount in group.resources.items()]
    out = []
    for chosen in itertools.product(*per_class):
        traits = frozenset().union(*(snapshot.traits[p] for p in chosen))
        if group.traits.has_needed(traits):
            amounts = {(p, name): amount for p, (name, amount) in zip(chosen, group.resources.items(), strict=True)}
            out.append(Option(amounts, tuple(dict.fromkeys(chosen))))
    return out


def _member(snapshot: Snapshot, group: Group, p: Provider) -> bool:
    """Membership of a group that may be spread: the provider's own, or its root's for the whole tree."""
    own, root = snapshot.aggregates[p.id], snapshot.aggregates.get(p.root_id, frozenset())
    needed = MemberFilter(group.members.needed)
    return group.members.forbidden.isdisjoint(own | root) and (needed.matches(own) or needed.matches(root))


def _in_tree(snapshot: Snapshot, group: Group, p: Provider) -> bool:
    if group.in_tree is None:
        return True
    inside = snapshot.providers.get(group.in_tree)
    return inside is not None and inside.root_id == p.root_id


def _sums_fit(snapshot: Snapshot, chosen: Sequence[Option], amounts: Amounts) -> bool:
    """Two groups may have chosen the same provider and class."""
    if sum(len(option.amounts) for option in chosen) == len(amounts):
        return True
    for (provider_id, name), amount in amounts.items():
        stock = snapshot.stocks[provider_id][name]
        if stock.used + amount > stock.capacity or amount > stock.max_unit:
            return False
    return True


def _together(snapshot: Snapshot, question: Question, amounts: Amounts, mappings: dict[str, tuple[str, ...]]) -> bool:
    if question.isolate:
        single = [mappings[group.suffix][0] for group in question.groups if group.suffix and group.resources]
        if len(set(single)) != len(single):
            return False
    if not question.nested:
        used = {provider_id for provider_id, _ in amounts}
        if len({snapshot.providers[p].root_id for p in used}) != len(used):
            return False
    return all(_below_one(snapshot, {p for suffix in suffixes for p in mappings.get(suffix, ())}) for suffixes in question.same_subtree)


def _below_one(snapshot: Snapshot, ids: set[str]) -> bool:
    """Whether one of the providers is the ancestor of all others."""
    above = [frozenset(snapshot.ancestors(p)) for p in sorted(ids)]
    return any(all(top in line for line in above) for top in sorted(ids)) or not ids
