"""Filter, rank, pick; and explain."""

import random
from collections.abc import Mapping, Sequence

import numpy as np

from kilonova.compute.model import Host, Scheduling
from kilonova.compute.scheduler.filters import Filter
from kilonova.compute.scheduler.snapshot import Floats, Mask, Request, Snapshot
from kilonova.compute.scheduler.weighers import Weigher

EXPLAINED = 50
"""Hosts whose refusal is kept with a server."""


def choose(
    request: Request, hosts: Snapshot, filters: Mapping[str, Filter], weighers: Sequence[Weigher], chance: random.Random
) -> tuple[Host | None, Scheduling]:
    """The best host, or None with a reason for each. Reasons are written only when no host is left (or `explain` asks)."""
    left: Mask = np.ones(len(hosts), dtype=bool)
    for one in filters.values():
        mask = one.mask(request, hosts)
        if mask is not None:
            left = left & mask
    rows = np.flatnonzero(left)
    if not len(rows):
        return None, explain(request, hosts, filters)
    weights: Floats = np.zeros(len(hosts))
    for weigher in weighers:
        weights = weights + weigher.weigh(request, hosts)
    candidates = weights[rows]
    best = rows[candidates >= candidates.max()]
    host = hosts.hosts[int(best[chance.randrange(len(best))] if len(best) > 1 else best[0])]
    return host, Scheduling(chosen=host.host, considered=len(hosts))


def explain(request: Request, hosts: Snapshot, filters: Mapping[str, Filter]) -> Scheduling:
    """For each host the first filter that refuses it, and why; and one sentence for all."""
    rejected: dict[str, tuple[str, str]] = {}
    counts: dict[str, int] = {}
    example: dict[str, str] = {}
    masks = {name: one.mask(request, hosts) for name, one in filters.items()}
    for i, host in enumerate(hosts.hosts):
        for name, one in filters.items():
            mask = masks[name]
            if mask is not None and not mask[i]:
                reason = one.reason(request, hosts, i)
                counts[name] = counts.get(name, 0) + 1
                example.setdefault(name, f"{host.host}: {reason}")
                if len(rejected) < EXPLAINED:
                    rejected[host.host] = (name, reason)
                break
    if not len(hosts):
        summary = "There are no hosts yet."
    else:
        parts = [f"{name} refused {count} of {len(hosts)} ({example[name]})" for name, count in counts.items()]
        summary = "; ".join(parts) + "." if parts else "Every host was tried."
    return Scheduling(considered=len(hosts), rejected=rejected, summary=summary)
