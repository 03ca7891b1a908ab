"""Upload and download of one large image, against a bare uvicorn app in the same run.

    bench/images.py [--mib 1024] [--repeat 3] [--dir DIR]

The bare app writes the same file with the same two hashes on its loop, and reads it in pieces of 256 KiB; it does not wait for the disk.
"bare-fsync" does wait, as ours must before it says 204. Each server is a process of its own on loopback; the client is this process.
Prints one JSON object: MiB/s (median, least and greatest), CPU seconds per GiB, and resident memory before, at most, and after.
"""

import argparse
import asyncio
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from kilonova.core import config
from kilonova.core.db.sqlite import SQLite
from kilonova.core.log import Log, Sink
from kilonova.core.policy import Policy
from kilonova.core.runtime import Runtime
from kilonova.core.server import HttpServer, bind
from kilonova.core.tasks import Tasks
from kilonova.image import drivers
from kilonova.image.config import OPTIONS
from kilonova.image.edge import edge
from kilonova.image.policies import RULES
from kilonova.image.service import ImageService
from kilonova.testing.tokens import FakeTokens

MIB = 1 << 20
PIECE = 256 << 10
KINDS = ("kilonova", "bare", "bare-fsync")


# ---- servers


def bare(folder: Path, sync: bool) -> Any:
    """PUT writes and hashes, GET reads; POST, for the client's sake, says an id."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = folder / "image"
        if scope["method"] == "POST":
            await receive()
            await answer(send, 201, b'{"id": "image"}')
            return
        if scope["method"] == "PUT":
            md5, sha512 = hashlib.md5(usedforsecurity=False), hashlib.sha512()
            with path.open("wb", buffering=0) as file:
                more = True
                while more:
                    message = await receive()
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    md5.update(piece)
                    sha512.update(piece)
                    file.write(piece)
                if sync:
                    os.fsync(file.fileno())
            await answer(send, 204, b"")
            return
        length = str(path.stat().st_size).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        with path.open("rb", buffering=0) as file:
            while piece := file.read(PIECE):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())] if body else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def kilonova(folder: Path, runtime: Runtime, log: Log) -> Any:
    conf = config.build([OPTIONS])
    settings = {group: config.settings(conf, OPTIONS, group) for group in OPTIONS}
    db, policy = SQLite(str(folder / "db"), runtime), Policy(RULES)
    await db.create(ImageService.metadata)
    data = drivers.load("file", str(folder / "images"))
    service = ImageService(db=db, runtime=runtime, log=log, settings=settings, policy=policy, data=data, exclusive=True)
    await service.start()
    return edge(service, authenticate=FakeTokens().authenticate)


async def serve(kind: str, folder: Path) -> None:
    runtime = Runtime()
    log = Log("bench", Sink(level="error"))
    app = await kilonova(folder, runtime, log) if kind == "kilonova" else bare(folder, kind == "bare-fsync")
    server = HttpServer(app, bind("127.0.0.1", 0, "the benchmark"))
    await server.start(Tasks(runtime, log), kind)
    print(server.port, flush=True)
    await asyncio.Event().wait()


# ---- client


class Server:
    def __init__(self, kind: str, folder: Path) -> None:
        folder.mkdir()
        command = [sys.executable, __file__, "--serve", kind, "--dir", str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> dict[str, float]:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        table = dict(line.split(":\t", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
        return {"now": int(table["VmRSS"].split()[0]) / 1024, "peak": int(table["VmHWM"].split()[0]) / 1024}

    def request(self, method: str, path: str, headers: dict[str, str], body: bytes = b"", times: int = 1) -> tuple[int, bytes, int]:
        """(status, first bytes of the body, bytes of the body). The body is sent `times` times."""
        with socket.create_connection(("127.0.0.1", self.port)) as link:
            lines = {"host": "localhost", "x-auth-token": "member:p1", "connection": "close", **headers}
            lines["content-length"] = str(len(body) * times)
            link.sendall("\r\n".join([f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in lines.items()), "", ""]).encode())
            for _ in range(times):
                link.sendall(body)
            buffer = bytearray(MIB)
            head = b""
            while b"\r\n\r\n" not in head:
                head += link.recv(65536)
            head, _, first = head.partition(b"\r\n\r\n")
            count = len(first)
            while got := link.recv_into(buffer):
                if len(first) < 4096:
                    first += bytes(buffer[:got])
                count += got
            return int(head.split()[1]), first, count


def measure(server: Server, chunk: bytes, mib: int) -> dict[str, float]:
    body = json.dumps({"name": "bench", "disk_format": "raw", "container_format": "bare"}).encode()
    status, first, _ = server.request("POST", "/v2/images", {"content-type": "application/json"}, body)
    assert status == 201, first
    path = f"/v2/images/{json.loads(first)['id']}"
    cpu, started = server.cpu_s(), time.perf_counter()
    status, first, _ = server.request("PUT", f"{path}/file", {"content-type": "application/octet-stream"}, chunk, mib)
    upload_s, upload_cpu = time.perf_counter() - started, server.cpu_s() - cpu
    assert status == 204, first
    cpu, started = server.cpu_s(), time.perf_counter()
    status, _, count = server.request("GET", f"{path}/file", {})
    download_s, download_cpu = time.perf_counter() - started, server.cpu_s() - cpu
    assert (status, count) == (200, mib * MIB)
    if path != "/v2/images/image":
        status, first, _ = server.request("DELETE", path, {})
        assert status == 204, first
    return {
        "upload_mib_s": mib / upload_s,
        "download_mib_s": mib / download_s,
        "upload_cpu_s_gib": upload_cpu * 1024 / mib,
        "download_cpu_s_gib": download_cpu * 1024 / mib,
    }


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        out[name] = {"median": round(statistics.median(values), 2), "range": [round(min(values), 2), round(max(values), 2)]}
    return out


def compare(folder: Path, mib: int, repeat: int) -> dict[str, Any]:
    chunk = os.urandom(MIB)
    servers = {kind: Server(kind, folder / kind) for kind in KINDS}
    try:
        before = {kind: server.memory_mib()["now"] for kind, server in servers.items()}
        runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(repeat):
            for kind, server in servers.items():
                os.sync()
                runs[kind].append(measure(server, chunk, mib))
        result: dict[str, Any] = {kind: summary(runs[kind]) for kind in KINDS}
        for kind, server in servers.items():
            result[kind]["memory_mib"] = {"before": round(before[kind], 1), **{k: round(v, 1) for k, v in server.memory_mib().items()}}
    finally:
        for server in servers.values():
            server.stop()
    ours = result["kilonova"]
    for kind in KINDS[1:]:
        result[f"ratio to {kind}"] = {
            name: round(ours[name]["median"] / result[kind][name]["median"], 2) for name in ("upload_mib_s", "download_mib_s")
        }
    return {"mib": mib, "repeat": repeat, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where the files go (a folder that exists); default: a temporary one")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        uvloop.run(serve(given.serve, given.dir))
        return
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        print(json.dumps(compare(Path(folder), given.mib, given.repeat), indent=1))


if __name__ == "__main__":
    main()
