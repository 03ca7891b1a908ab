"""Replays exchanges recorded from OpenStack (tests/golden/) against our services and compares their shape.

    replay = Replay("placement", Client(edge), token=lambda exchange: "admin:p1", version_header="placement", served=routes_of(edge))
    report = await replay.run(load("placement"))
    report.check(at_least=100)

Ids differ between the recording and us: what stands in a recorded answer and looks like an id becomes ours when it is first seen at the
same place, and from then on in requests. `<NAMES>` in capitals are placeholders: given in `known`, or learned from answers in the same way.

What is compared: status; header names (values of a few); of JSON bodies the key sets, the types, and the values of keys that
behave like enumerations. Exceptions stand in exceptions.yaml, each with its reason. An exception that no longer differs is a failure too.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml  # type: ignore[import-untyped]

from kilonova.core.edge import Edge
from kilonova.testing.asgi import Client, Response

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
ID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|\b[0-9a-f]{32}\b"
PLACEHOLDER = r"<[A-Z][A-Z0-9_]*>"
_IDS = re.compile(ID)
_PLACEHOLDER = re.compile(PLACEHOLDER)

ENUMERATIONS = frozenset(
    {
        "status",
        "visibility",
        "type",
        "code",
        "title",
        "rel",
        "interface",
        "protocol",
        "disk_format",
        "container_format",
        "vm_state",
        "task_state",
        "power_state",
        "OS-EXT-STS:vm_state",
        "OS-EXT-STS:task_state",
        "OS-EXT-STS:power_state",
        "OS-DCF:diskConfig",
        "locked",
        "enabled",
        "protected",
        "binary",
        "state",
        "policy",
        "min_version",
        "max_version",
        "version",
    }
)
UNCOMPARED_HEADERS = frozenset({"content-length", "date", "connection", "server"})
SAME_HEADERS = frozenset({"openstack-api-version", "cache-control", "content-range", "accept-ranges"})


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    note: str
    who: str | None
    method: str
    path: str
    version: str | None
    headers: dict[str, str]
    body: Any
    status: int
    reply_headers: dict[str, str]
    reply_body: Any

    def __str__(self) -> str:
        return f"line {self.number} ({self.note}): {self.method} {self.path}" + (f" at {self.version}" if self.version else "")


class Exception_(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of exceptions.yaml. `send: false` when our other answer would have effects that later lines do not expect."""

    note: str
    path: str
    method: str
    reason: str
    send: bool = True


def load(name: str) -> list[Exchange]:
    out = []
    for number, line in enumerate((GOLDEN / f"{name}.jsonl").read_text().splitlines(), 1):
        raw = json.loads(line)
        asked = raw["req"]
        out.append(
            Exchange(
                number=number,
                note=raw.get("note", ""),
                who=raw.get("who"),
                method=asked["m"],
                path=asked["p"],
                version=asked.get("v"),
                headers=asked.get("h") or {},
                body=asked.get("b"),
                status=raw["status"],
                reply_headers={k.lower(): v for k, v in (raw.get("h") or {}).items()},
                reply_body=raw.get("b"),
            )
        )
    return out


def exceptions(service: str) -> list[Exception_]:
    table = yaml.safe_load((HERE / "exceptions.yaml").read_text()) or {}
    return msgspec.convert(table.get(service) or [], list[Exception_])


def routes_of(edge: Edge) -> Callable[[str, str], bool]:
    """Whether the edge has a route for method and path (of whatever version and action)."""

    def served(method: str, path: str) -> bool:
        path = path.partition("?")[0]
        if edge.mount is not None:
            mounted = edge.mount(path)
            if mounted is None:
                return False
            path = mounted[1]
        found = edge.router.find(path)
        return found is not None and (method in found[0] or (method == "HEAD" and "GET" in found[0]))

    return served


class Report:
    def __init__(self, service: str) -> None:
        self.service = service
        self.matched: list[Exchange] = []
        self.not_served: list[Exchange] = []
        self.excepted: list[Exchange] = []
        self.failures: list[tuple[Exchange, list[str]]] = []
        self.stale: list[str] = []

    def __str__(self) -> str:
        lines = [
            f"{self.service}: {len(self.matched)} agree, {len(self.failures)} differ, {len(self.excepted)} excepted, "
            f"{len(self.not_served)} not served"
        ]
        lines += [f"  not served: {exchange}" for exchange in self.not_served]
        for exchange, differences in self.failures:
            lines.append(f"  DIFFERS {exchange}")
            lines += [f"      {text}" for text in differences]
        lines += [f"  STALE {text}" for text in self.stale]
        return "\n".join(lines)

    def check(self, at_least: int, not_served_at_most: int | None = None) -> None:
        """Fail on a difference without an exception, an exception without a difference, or fewer agreements than there were."""
        assert not self.failures, str(self)
        assert not self.stale, str(self)
        assert len(self.matched) >= at_least, f"only {len(self.matched)} of at least {at_least} agree\n{self}"
        if not_served_at_most is not None:
            assert len(self.not_served) <= not_served_at_most, str(self)


class Replay:
    """client: where requests go. token: the token for an exchange (None: anonymous). version_header: the service's name in
    OpenStack-API-Version. known: recorded string → ours, for ids and placeholders that are known before the first line.
    enumerations: keys whose values must be the same. loose_lists: paths (with [] for an index, "*" at the end matches the rest)
    of lists whose length may differ. prepare: called before each line, may return a changed exchange or None to leave it out."""

    def __init__(
        self,
        service: str,
        client: Client,
        *,
        token: Callable[[Exchange], str | None] = lambda exchange: None,
        version_header: str = "",
        served: Callable[[str, str], bool] = lambda method, path: True,
        known: Mapping[str, str] | None = None,
        enumerations: Iterable[str] = ENUMERATIONS,
        loose_lists: Iterable[str] = (),
        prepare: Callable[[Exchange], Exchange | None] = lambda exchange: exchange,
        default_headers: Mapping[str, str] | None = None,
        uncompared_headers: Iterable[str] = (),
    ) -> None:
        self.service = service
        self.client = client
        self.token = token
        self.version_header = version_header
        self.served = served
        self.known: dict[str, str] = dict(known or {})
        self.enumerations = frozenset(enumerations)
        self.loose_lists = tuple(loose_lists)
        self.prepare = prepare
        self.default_headers = dict(default_headers or {})
        self.uncompared_headers = UNCOMPARED_HEADERS | frozenset(uncompared_headers)
        self._exceptions = exceptions(service)

    # ---- ids

    def ours(self, value: Any) -> Any:
        """A recorded value with every id and placeholder that is known replaced."""
        if isinstance(value, str):
            if value in self.known:
                return self.known[value]
            text = _IDS.sub(lambda m: self.known.get(m[0], m[0]), value)
            return _PLACEHOLDER.sub(lambda m: self.known.get(m[0], m[0]), text)
        if isinstance(value, dict):
            return {self.ours(k): self.ours(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.ours(v) for v in value]
        return value

    def learn(self, recorded: Any, got: Any) -> None:
        """Walk both answers side by side; a new recorded id stands for ours at the same place."""
        if isinstance(recorded, str) and isinstance(got, str):
            if _PLACEHOLDER.fullmatch(recorded):
                self.known.setdefault(recorded, got)
                return
            theirs, mine = _IDS.findall(recorded), _IDS.findall(got)
            if len(theirs) == len(mine):
                for a, b in zip(theirs, mine, strict=True):
                    self.known.setdefault(a, b)
        elif isinstance(recorded, dict) and isinstance(got, dict):
            for key, value in recorded.items():
                if (other := self.ours(key)) in got:
                    self.learn(value, got[other])
        elif isinstance(recorded, list) and isinstance(got, list):
            for a, b in self._pairs(recorded, got):
                self.learn(a, b)

    def _pairs(self, recorded: list[Any], got: list[Any]) -> Iterator[tuple[Any, Any]]:
        """Elements that belong together: by name, key or known id where they have one, else by place."""
        for key in ("id", "uuid", "name", "rel"):
            if not all(isinstance(x, dict) and isinstance(x.get(key), str) for x in (*recorded, *got)):
                continue
            table = {x[key]: x for x in got}
            if len(table) == len(got) and all(self.ours(x[key]) in table for x in recorded):
                yield from ((x, table[self.ours(x[key])]) for x in recorded)
                return
        yield from zip(recorded, got, strict=False)

    # ---- one exchange

    async def send(self, exchange: Exchange) -> Response:
        headers = {**self.default_headers, **{k: self.ours(v) for k, v in exchange.headers.items()}}
        token = self.token(exchange)
        if token is not None:
            headers["x-auth-token"] = token
        if exchange.version is not None and self.version_header:
            headers["openstack-api-version"] = f"{self.version_header} {exchange.version}"
        body = self.ours(exchange.body)
        raw = body.encode() if isinstance(body, str) else None
        lower = {k.lower(): v for k, v in headers.items()}
        return await self.client.request(
            exchange.method, self.ours(exchange.path), None if raw is not None else body, headers=lower, raw=raw
        )

    def differences(self, exchange: Exchange, reply: Response) -> list[str]:
        out = []
        if reply.status != exchange.status:
            out.append(f"status: recorded {exchange.status}, ours {reply.status} {reply.body[:300]!r}")
            return out
        out += self._headers(exchange.reply_headers, reply.headers)
        if exchange.method == "HEAD":
            return out
        recorded, got = _parsed(exchange.reply_body), _parsed(reply.body.decode("utf-8", "replace"))
        if isinstance(recorded, str) and isinstance(got, str):
            return out
        out += self.compare(recorded, got, "$")
        return out

    def _headers(self, recorded: Mapping[str, str], got: Mapping[str, str]) -> list[str]:
        out = []
        for name, value in recorded.items():
            if name in self.uncompared_headers:
                continue
            if name not in got:
                out.append(f"header {name} is missing (recorded {value!r})")
            elif not self._same_header(name, value, got[name]):
                out.append(f"header {name}: recorded {value!r}, ours {got[name]!r}")
        return out

    def _same_header(self, name: str, recorded: str, got: str) -> bool:
        if name == "content-type":
            return recorded.partition(";")[0].strip().lower() == got.partition(";")[0].strip().lower()
        if name in ("allow", "vary"):
            return _words(recorded) <= _words(got)
        return name not in SAME_HEADERS or self.ours(recorded) == got

    def compare(self, recorded: Any, got: Any, path: str) -> list[str]:
        if _kind(recorded) != _kind(got):
            return [f"{path}: recorded {_kind(recorded)} {_short(recorded)}, ours {_kind(got)} {_short(got)}"]
        if isinstance(recorded, dict):
            return self._compare_objects(recorded, got, path)
        if isinstance(recorded, list):
            return self._compare_lists(recorded, got, path)
        key = path.rpartition(".")[2]
        if key in self.enumerations and recorded != got and self.ours(recorded) != got:
            return [f"{path}: recorded {recorded!r}, ours {got!r}"]
        return []

    def _compare_objects(self, recorded: dict[str, Any], got: dict[str, Any], path: str) -> list[str]:
        out = []
        expected = {self.ours(key): (key, value) for key, value in recorded.items()}
        missing, extra = [k for k in expected if k not in got], [k for k in got if k not in expected]
        if missing:
            out.append(f"{path}: missing {', '.join(missing)}")
        if extra:
            out.append(f"{path}: not in the recording: {', '.join(extra)}")
        for key, (_, value) in expected.items():
            if key in got:
                out += self.compare(value, got[key], f"{path}.{key}")
        return out

    def _compare_lists(self, recorded: list[Any], got: list[Any], path: str) -> list[str]:
        out = []
        place = re.sub(r"\[\d+\]", "[]", path)
        loose = any(place == p or (p.endswith("*") and place.startswith(p[:-1])) for p in self.loose_lists)
        if len(recorded) != len(got) and not loose:
            out.append(f"{path}: recorded {len(recorded)} elements, ours {len(got)}")
        for at, (a, b) in enumerate(self._pairs(recorded, got)):
            out += self.compare(a, b, f"{path}[{at}]")
        return out

    # ---- all of them

    async def run(self, exchanges: Iterable[Exchange]) -> Report:
        report = Report(self.service)
        unused = {id(e): e for e in self._exceptions}
        for given in exchanges:
            exchange = self.prepare(given)
            if exchange is None:
                report.not_served.append(given)
                continue
            exception = self._exception(given)
            if exception is not None:
                unused.pop(id(exception), None)
                if not exception.send:
                    report.excepted.append(given)
                    continue
            if exchange.status not in (404, 405) and not self.served(exchange.method, self.ours(exchange.path)):
                report.not_served.append(given)
                continue
            reply = await self.send(exchange)
            if reply.status == exchange.status:
                self.learn(_parsed(exchange.reply_body), _parsed(reply.body.decode("utf-8", "replace")))
                self.learn(exchange.reply_headers, reply.headers)
            found = self.differences(exchange, reply)
            if exception is not None:
                report.excepted.append(given)
                if not found:
                    report.stale.append(f"the exception for {given} is no longer needed")
            elif found:
                report.failures.append((given, found))
            else:
                report.matched.append(given)
        report.stale += [f"no line is {e.note!r} {e.method} {e.path}" for e in unused.values()]
        return report

    def _exception(self, exchange: Exchange) -> Exception_ | None:
        for e in self._exceptions:
            if (e.note, e.method, e.path) == (exchange.note, exchange.method, exchange.path):
                return e
        return None


def _parsed(body: Any) -> Any:
    """JSON where it is JSON, None for nothing, else text."""
    if not isinstance(body, str):
        return body
    if not body:
        return None
    try:
        return json.loads(body)
    except ValueError:
        return body


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _words(value: str) -> set[str]:
    return {word.strip().lower() for word in value.split(",") if word.strip()}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
