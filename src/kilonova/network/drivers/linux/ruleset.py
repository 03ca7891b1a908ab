"""The loaded policy of a host namespace, kept as parts, and the way from one to the next in one transaction.

`load` writes everything anew and is the truth. `change` takes the difference: plain elements go as netlink messages (0.1 ms),
anything else through libnftables. When a change is refused, nothing of it was done and the parts stay as they were.
"""

from collections.abc import Iterable, Mapping

from kilonova.network.drivers.linux import security_groups
from kilonova.network.drivers.linux.netlink import NetlinkError
from kilonova.network.drivers.linux.nft import Element, Elements, Nft, NftError, SetKind
from kilonova.network.drivers.linux.security_groups import Part

Key = tuple[str, str]
_NOTHING = Part()
_TABLE = "bridge kn"


def _order(element: Element) -> tuple[str, tuple[str, ...], str]:
    return element.set.name, element.key, element.value or ""


def _by_set(elements: Iterable[Element]) -> dict[SetKind, list[Element]]:
    grouped: dict[SetKind, list[Element]] = {}
    for element in sorted(elements, key=_order):
        grouped.setdefault(element.set, []).append(element)
    return grouped


def _element_lines(word: str, elements: Iterable[Element]) -> list[str]:
    lines: list[str] = []
    for kind, members in _by_set(elements).items():
        texts = ", ".join(element.text_key() if word == "delete" else element.text() for element in members)
        lines.append(f"{word} element {kind.family} {kind.table} {kind.name} {{ {texts} }}")
    return lines


def full_script(parts: Mapping[Key, Part]) -> str:
    ordered = [parts[key] for key in sorted(parts)]
    lines = [security_groups.BASE]
    lines += [kind.definition() for part in ordered for kind in part.sets]
    lines += [f"add chain {_TABLE} {name}" for part in ordered for name in part.chains]
    lines += [f"add rule {_TABLE} {name} {rule}" for part in ordered for name, rules in part.chains.items() for rule in rules]
    lines += _element_lines("add", (element for part in ordered for element in part.elements))
    return "\n".join(lines) + "\n"


class Difference:
    """From some parts to others."""

    def __init__(self, before: Iterable[Part], after: Iterable[Part]) -> None:
        olds, news = list(before), list(after)
        self._old_chains = {name: rules for part in olds for name, rules in part.chains.items()}
        self._new_chains = {name: rules for part in news for name, rules in part.chains.items()}
        old_sets = {kind for part in olds for kind in part.sets}
        new_sets = {kind for part in news for kind in part.sets}
        self._added_sets = sorted(new_sets - old_sets)
        self._removed_sets = sorted(old_sets - new_sets)
        old_elements = frozenset[Element]().union(*(part.elements for part in olds))
        new_elements = frozenset[Element]().union(*(part.elements for part in news))
        self.removed = sorted(old_elements - new_elements, key=_order)
        self.added = sorted(new_elements - old_elements, key=_order)

    def empty(self) -> bool:
        return not (self.removed or self.added or self._added_sets or self._removed_sets or self._old_chains != self._new_chains)

    def hot(self) -> bool:
        """Only plain elements change."""
        still = self._old_chains == self._new_chains and not self._added_sets and not self._removed_sets
        return still and all(element.hot() for element in (*self.removed, *self.added))

    def script(self) -> str:
        """Order matters: what refers goes after what it refers to, and is removed before it."""
        old, new = self._old_chains, self._new_chains
        gone = [name for name in old if name not in new]
        changed = [name for name in new if name in old and old[name] != new[name]]
        fresh = [name for name in new if name not in old]
        lines = [kind.definition() for kind in self._added_sets]
        lines += [f"add chain {_TABLE} {name}" for name in fresh]
        lines += [f"flush chain {_TABLE} {name}" for name in changed]
        lines += [f"add rule {_TABLE} {name} {rule}" for name in (*fresh, *changed) for rule in new[name]]
        lines += _element_lines("delete", (element for element in self.removed if element.set not in self._removed_sets))
        lines += _element_lines("add", self.added)
        lines += [f"flush chain {_TABLE} {name}" for name in gone]
        lines += [f"delete chain {_TABLE} {name}" for name in gone]
        lines += [f"delete {'map' if kind.value else 'set'} {kind.family} {kind.table} {kind.name}" for kind in self._removed_sets]
        return "\n".join(lines) + "\n"


class Ruleset:
    def __init__(self, nft: Nft, elements: Elements) -> None:
        self._nft = nft
        self._elements = elements
        self.parts: dict[Key, Part] = {}
        self.transactions = 0
        self.hot_transactions = 0
        self.reloads = 0

    def load(self, parts: Mapping[Key, Part]) -> None:
        """Replace everything atomically: no packet sees a state in between."""
        self._nft.run(full_script(parts))
        self.parts = dict(parts)
        self.transactions += 1

    def change(self, changes: Mapping[Key, Part | None]) -> None:
        """None removes a part. If the kernel holds something else than we think, everything is loaded anew."""
        keys = sorted(changes)
        before = [self.parts.get(key, _NOTHING) for key in keys]
        after = [changes[key] or _NOTHING for key in keys]
        if before == after:
            return
        wanted = {key: part for key, part in self.parts.items() if key not in changes}
        wanted |= {key: part for key, part in changes.items() if part is not None}
        try:
            self._apply(Difference(before, after))
        except (NftError, NetlinkError):
            self.reloads += 1
            self.load(wanted)
        self.parts = wanted

    def _apply(self, difference: Difference) -> None:
        if difference.empty():
            return
        if difference.hot():
            self._elements.change(difference.removed, difference.added)
            self.hot_transactions += 1
        else:
            self._nft.run(difference.script())
        self.transactions += 1
