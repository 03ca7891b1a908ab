"""Routes are data; a path tree finds them (600 paths: about a microsecond, against 250 for trying patterns in turn)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from kilonova.core.http import Version

Handler = Callable[..., Any]

PUBLIC = "!public"
"""The policy of a route that needs no token."""
ANY_TOKEN = "!any"
"""The policy of a route that any valid token may call (OpenStack's empty rule)."""


class Route:
    """One line of a routes.py.

    policy: OpenStack's rule name. Checked at the edge with the caller's own project and user as target, unless `deferred`:
    then the handler must call `req.authorize` (the edge refuses to answer if it did not).
    body: a msgspec type, or versions of it [(since, type), …] ascending; None: no body is read.
    action: the single key of the body of POST …/action.
    since, until: range of microversions, both inclusive.
    stream: the handler reads the body itself; its size is not bounded by the edge.
    """

    __slots__ = ("action", "body", "deferred", "handler", "method", "name", "path", "policy", "query", "since", "status", "stream", "until")

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        policy: str,
        *,
        body: Any = None,
        action: str = "",
        since: Version = (0, 0),
        until: Version = (99, 999),
        status: int = 200,
        deferred: bool = False,
        stream: bool = False,
        name: str = "",
        query: Any = None,
    ) -> None:
        self.method = method
        self.path = path
        self.handler = handler
        self.policy = policy
        self.body: list[tuple[Version, msgspec.json.Decoder[Any]]] = []
        for first, kind in body if isinstance(body, list) else [((0, 0), body)] if body is not None else []:
            self.body.append((first, msgspec.json.Decoder(kind)))
        self.action = action
        self.since = since
        self.until = until
        self.status = status
        self.deferred = deferred
        self.stream = stream
        self.name = name or handler.__name__
        self.query = query

    def decoder(self, version: Version) -> "msgspec.json.Decoder[Any] | None":
        found: msgspec.json.Decoder[Any] | None = None
        for first, decoder in self.body:
            if version >= first:
                found = decoder
        return found

    def serves(self, version: Version) -> bool:
        return self.since <= version <= self.until

    def __repr__(self) -> str:
        return f"<{self.method} {self.path} {self.action}>"


class Stats:
    """What /metrics tells of a route: calls by status class and a histogram of seconds."""

    BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
    __slots__ = ("buckets", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.seconds = 0.0
        self.buckets = [0] * (len(self.BOUNDS) + 1)

    def add(self, status: int, seconds: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.seconds += seconds
        for i, bound in enumerate(self.BOUNDS):
            if seconds <= bound:
                self.buckets[i] += 1
                return
        self.buckets[-1] += 1


class _Node:
    __slots__ = ("children", "methods", "name", "rest", "variable")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.variable: _Node | None = None
        self.name = ""
        self.methods: dict[str, list[Route]] = {}
        self.rest: _Node | None = None


class Router:
    """Path tree. `{name}` matches one segment, `{name:path}` the rest. A literal segment wins over a variable one."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = list(routes)
        self._root = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.path.strip("/").split("/") if route.path.strip("/") else []:
            if segment.startswith("{") and segment.endswith(":path}"):
                node.rest = node.rest or _Node()
                node = node.rest
                node.name = segment[1:-6]
            elif segment.startswith("{"):
                node.variable = node.variable or _Node()
                node = node.variable
                if node.name and node.name != segment[1:-1]:
                    raise ValueError(f"{route!r}: this segment is called {node.name} by another route")
                node.name = segment[1:-1]
            else:
                node = node.children.setdefault(segment, _Node())
        if not route.path.startswith("/"):
            raise ValueError(f"{route!r}: a path starts with /")
        node.methods.setdefault(route.method, []).append(route)

    def find(self, path: str) -> tuple[Mapping[str, list[Route]], dict[str, str]] | None:
        """The methods at this path and the values of its variables, or None. A trailing slash is not significant."""
        stripped = path.strip("/")
        segments = stripped.split("/") if stripped else []
        params: dict[str, str] = {}
        node = self._descend(self._root, segments, 0, params)
        return None if node is None else (node.methods, params)

    def _descend(self, node: _Node, segments: list[str], at: int, params: dict[str, str]) -> _Node | None:
        if at == len(segments):
            return node if node.methods else None
        child = node.children.get(segments[at])
        if child is not None:
            found = self._descend(child, segments, at + 1, params)
            if found is not None:
                return found
        child = node.variable
        if child is not None and segments[at]:
            found = self._descend(child, segments, at + 1, params)
            if found is not None:
                params[child.name] = segments[at]
                return found
        if node.rest is not None and node.rest.methods:
            params[node.rest.name] = "/".join(segments[at:])
            return node.rest
        return None
