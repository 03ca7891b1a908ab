"""A MariaDB server of one's own."""

import signal
import socket

from tests.engines.process import Server


class MariaDB(Server):
    """Ready in 2 to 5 s. `durable=False` for tests: nothing is synced."""

    name = "mariadb"
    user = "mysql"
    fast_end = signal.SIGTERM

    def __init__(self, *, durable: bool = False, settings: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.data = self.folder / "data"
        lazy = ("innodb_flush_log_at_trx_commit=0", "innodb_flush_method=nosync", "innodb_doublewrite=0", "sync_frm=0")
        self.settings = settings + (() if durable else lazy)

    def url(self, database: str = "mysql") -> str:
        return f"mysql://kilonova:secret@127.0.0.1:{self.port}/{database}"

    def start(self) -> "MariaDB":
        if not self.data.exists():
            self._prepare()
        settings = (
            f"datadir={self.data}",
            f"port={self.port}",
            "bind-address=127.0.0.1",
            f"socket={self.folder}/socket",
            f"pid-file={self.folder}/pid",
            "skip-name-resolve",
            f"init-file={self.folder}/init.sql",
            "max_connections=300",
            "innodb_buffer_pool_size=64M",
            "innodb_log_file_size=32M",
            "performance_schema=off",
            "table_open_cache=400",
            *self.settings,
        )
        self.spawn("/usr/sbin/mariadbd", "--no-defaults", *(f"--{setting}" for setting in settings))
        self.wait()
        return self

    def _prepare(self) -> None:
        sql = "CREATE USER IF NOT EXISTS 'kilonova'@'%' IDENTIFIED BY 'secret'; GRANT ALL ON *.* TO 'kilonova'@'%' WITH GRANT OPTION;"
        self.run("/bin/sh", "-c", f"cat > {self.folder}/init.sql", stdin=sql.replace("; ", ";\n") + "\n")
        self.run(
            "/usr/bin/mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--skip-test-db",
            "--auth-root-authentication-method=normal", "--innodb-log-file-size=32M",
        )  # fmt: skip

    def answers(self) -> bool:
        """A greeting is sent only when it takes connections; the init file has been run by then."""
        try:
            with socket.create_connection((self.address, self.port), 1) as probe:
                greeting = probe.recv(64)
                return len(greeting) > 5 and greeting[4] == 10
        except OSError:
            return False
