"""A PostgreSQL server of one's own; a standby of it."""

import signal
import socket
from pathlib import Path

from tests.engines.process import Server

BIN = Path("/usr/lib/postgresql/15/bin")


class PostgreSQL(Server):
    """Ready in some 2.5 s. `durable=False` for tests: nothing is synced."""

    name = "postgresql"
    user = "postgres"
    fast_end = signal.SIGINT

    def __init__(self, *, durable: bool = False, settings: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.data = self.folder / "data"
        self.settings = settings + (() if durable else ("fsync=off", "synchronous_commit=off", "full_page_writes=off"))

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://kilonova:secret@127.0.0.1:{self.port}/{database}"

    def start(self) -> "PostgreSQL":
        if not self.data.exists():
            self._prepare()
        settings = (
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
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
        self.run("/bin/sh", "-c", f"echo 'host replication all 127.0.0.1/32 scram-sha-256' >> {self.data}/pg_hba.conf")

    def standby(self) -> "PostgreSQL":
        """A hot standby that streams from this one; not started."""
        other = PostgreSQL(settings=self.settings)
        source = f"host=127.0.0.1 port={self.port} user=kilonova password=secret"
        other.run(str(BIN / "pg_basebackup"), "-d", source, "-D", str(other.data), "-R", "--checkpoint=fast", "--no-sync")
        return other

    def promote(self) -> None:
        self.run(str(BIN / "pg_ctl"), "promote", "-D", str(self.data), "-w")

    def answers(self) -> bool:
        """A connection that is not refused with `the database system is starting up`."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                parameters = b"user\0kilonova\0database\0postgres\0\0"
                probe.sendall((len(parameters) + 8).to_bytes(4, "big") + (196608).to_bytes(4, "big") + parameters)
                return probe.recv(1) == b"R"
        except OSError:
            return False
