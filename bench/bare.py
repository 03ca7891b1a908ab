"""The floors: bare uvicorn apps in a process of their own, which do the least that an answer could need.

    bench/bare.py hello                 200 and two bytes
    bench/bare.py bytes N               200 and N bytes
    bench/bare.py cloud DATABASE        the requests of cloudbench's boots: a POST is one SQLite transaction (FULL), a GET a SELECT
    bench/bare.py login                 POST hashes one password (bcrypt, 12 rounds) in a thread

Prints its port, then serves until it is ended. No router, no policy, no validation, no scheduler; `cloud` answers with tokens and ids that
mean nothing.
"""

import asyncio
import json
import sqlite3
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import bcrypt
import uvloop

from kilonova.core.log import Log, Sink
from kilonova.core.runtime import Runtime
from kilonova.core.server import HttpServer, bind
from kilonova.core.tasks import Tasks

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
JSON = (b"content-type", b"application/json")


async def answer(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, JSON, *headers]})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive: Any) -> bytes:
    data, more = b"", True
    while more:
        message = await receive()
        data, more = data + message.get("body", b""), message.get("more_body", False)
    return data


def fixed(body: bytes) -> App:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, 200, body)

    return app


def login(password: bytes) -> App:
    hashed = bcrypt.hashpw(password, bcrypt.gensalt(12))

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            return await answer(send, 200, b"{}")
        good = await asyncio.to_thread(bcrypt.checkpw, password, hashed)
        return await answer(send, 201 if good else 401, b"{}")

    return app


class BareCloud:
    """Enough of the APIs for `cloudbench -s boots`; a server is ACTIVE as soon as it is written."""

    def __init__(self, database: str) -> None:
        self.port = 0
        self.db = sqlite3.connect(database, isolation_level=None)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE servers (id TEXT PRIMARY KEY, body TEXT)"):
            self.db.execute(statement)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        if path.startswith("/servers"):
            return await self.servers(method, path, receive, send)
        if path == "/v3/auth/tokens":
            catalog = [{"type": kind, "endpoints": [self.endpoint()]} for kind in ("compute", "image", "network")]
            token = {"token": {"project": {"id": "p"}, "user": {"id": "u"}, "catalog": catalog}}
            return await answer(send, 201, json.dumps(token).encode(), (b"x-subject-token", b"t"))
        made: dict[str, Any] = {
            "/flavors": {"flavors": [{"id": "f", "name": "cb-tiny"}]},
            "/v2/images": {"images": [{"id": "i", "status": "active"}]},
            "/v3/projects": {"projects": [{"id": "p"}]},
            "/v3/roles": {"roles": []},
        }
        return await answer(send, 200, json.dumps(made.get(path, {})).encode())

    def endpoint(self) -> dict[str, str]:
        return {"interface": "public", "region": "RegionOne", "url": f"http://127.0.0.1:{self.port}"}

    async def servers(self, method: str, path: str, receive: Any, send: Any) -> None:
        if method == "POST":
            server = json.loads(await body_of(receive))["server"] | {"id": str(uuid.uuid4()), "status": "ACTIVE"}
            self.db.execute("INSERT INTO servers VALUES (?, ?)", (server["id"], json.dumps({"server": server})))
            return await answer(send, 202, json.dumps({"server": {"id": server["id"]}}).encode())
        if method == "DELETE":
            self.db.execute("DELETE FROM servers WHERE id = ?", (path[9:],))
            return await answer(send, 204, b"")
        if len(path) <= 9:
            found = self.db.execute("SELECT id FROM servers ORDER BY id").fetchall()
            return await answer(send, 200, json.dumps({"servers": [{"id": row[0]} for row in found]}).encode())
        row = self.db.execute("SELECT body FROM servers WHERE id = ?", (path[9:],)).fetchone()
        return await answer(send, 200 if row else 404, row[0].encode() if row else b"{}")


def made(kind: str, arguments: list[str]) -> App:
    if kind == "bytes":
        return fixed(b"x" * int(arguments[0]))
    if kind == "cloud":
        return BareCloud(arguments[0])
    if kind == "login":
        return login(b"a long password of the benchmark")
    return fixed(b"{}")


async def serve(app: App) -> None:
    runtime = Runtime()
    log = Log("bench", Sink(sys.stderr, level="error"))
    server = HttpServer(app, bind("127.0.0.1", 0, "the floor"))
    await server.start(Tasks(runtime, log), "floor")
    if isinstance(app, BareCloud):
        app.port = server.port
    print(server.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(made(sys.argv[1], sys.argv[2:])))
