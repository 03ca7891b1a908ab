"""A PostgreSQL server of one's own; a standby of it."""

import signal
import socket
import time
from pathlib import Path

from tests.engines.process import Server

BIN = Path("/usr/lib/postgresql/15/bin")


class PostgreSQL(Server):
    """Ready in some 2.5 s. `durable=False` for tests: nothing is synced."""

    name = "postgresql"
    user = "postgres"
    fast_end = signal.SIGINT

    def __init__(
        self, *, durable: bool = False, settings: tuple[str, ...] = (), address: str = "127.0.0.1", namespace: str = "", port: int = 0
    ) -> None:
        super().__init__(address=address, namespace=namespace, port=port)
        self.data = self.folder / "data"
        self.durable = durable
        self.settings = settings + (() if durable else ("fsync=off", "synchronous_commit=off", "full_page_writes=off"))

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://kilonova:secret@{self.address}:{self.port}/{database}"

    def start(self) -> "PostgreSQL":
        if not self.data.exists():
            self._prepare()
        settings = (
            f"port={self.port}",
            f"listen_addresses={self.address}",
            f"unix_socket_directories={self.folder}",
            "max_connections=200",
            "shared_buffers=64MB",
            "wal_level=replica",
            "deadlock_timeout=50ms",
            "log_min_messages=warning",
            *self.settings,
        )
        self.spawn(str(BIN / "postgres"), "-D", str(self.data), *(part for setting in settings for part in ("-c", setting)))
        self.wait()
        return self

    def _prepare(self) -> None:
        password = self.folder / "password"
        self.run("/bin/sh", "-c", f"umask 077; cat > {password}", stdin="secret")
        self.run(
            str(BIN / "initdb"), "-D", str(self.data), "-U", "kilonova", "--pwfile", str(password), "-E", "UTF8", "--locale", "C.UTF-8",
            "--no-sync", "--auth-host", "scram-sha-256", "--auth-local", "trust",
        )  # fmt: skip
        open_to = "".join(f"host {what} all all scram-sha-256\n" for what in ("all", "replication"))
        self.run("/bin/sh", "-c", f"cat >> {self.data}/pg_hba.conf", stdin=open_to)

    def standby(self, *, durable: bool = False, address: str = "127.0.0.1", namespace: str = "", port: int = 0) -> "PostgreSQL":
        """A hot standby that streams from this one; not started. It waits for no standby of its own when it is promoted."""
        other = PostgreSQL(settings=() if durable else self.settings, durable=durable, address=address, namespace=namespace, port=port)
        source = f"host={self.address} port={self.port} user=kilonova password=secret"
        other.run(str(BIN / "pg_basebackup"), "-d", source, "-D", str(other.data), "-R", "--checkpoint=fast", "--no-sync")
        other.run("/bin/sed", "-i", "/synchronous_standby_names/d", str(other.data / "postgresql.auto.conf"))
        return other

    def ask(self, sql: str) -> str:
        """One statement through the server's own socket; the answer's columns are separated by |."""
        return self.run(
            str(BIN / "psql"), "-h", str(self.folder), "-p", str(self.port), "-U", "kilonova", "-d", "postgres", "-X", "-At", "-c", sql
        ).strip()

    def wait_for_standbys(self, limit_s: float = 30.0) -> None:
        """From now on what is committed here is on a standby too. Returns when one has caught up."""
        self.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.ask("SELECT pg_reload_conf()")
        until = time.monotonic() + limit_s
        while "sync" not in self.ask("SELECT sync_state FROM pg_stat_replication").split():
            assert time.monotonic() < until, "no standby follows"
            time.sleep(0.1)

    def wait_for_nobody(self) -> None:
        self.ask("ALTER SYSTEM RESET synchronous_standby_names")
        self.ask("SELECT pg_reload_conf()")

    def promote(self) -> None:
        self.run(str(BIN / "pg_ctl"), "promote", "-D", str(self.data), "-w")

    def answers(self) -> bool:
        """A connection that is not refused with `the database system is starting up`."""
        try:
            with socket.create_connection((self.address, self.port), 1) as probe:
                parameters = b"user\0kilonova\0database\0postgres\0\0"
                probe.sendall((len(parameters) + 8).to_bytes(4, "big") + (196608).to_bytes(4, "big") + parameters)
                return probe.recv(1) == b"R"
        except OSError:
            return False
