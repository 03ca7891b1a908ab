"""Which database, and how patient one is with it. Names are oslo.db's where it has the option."""

from oslo_config import cfg

from kilonova.core.config import Options

DATABASE_OPTIONS: Options = {
    "database": [
        cfg.StrOpt(
            "connection",
            default="",
            secret=True,
            help="The database's URL; empty: SQLite in the state directory. Of several hosts (host1,host2) the writable one is used.",
        ),
        cfg.IntOpt("max_pool_size", default=20, min=2, max=1000, help="Connections of one process at most."),
        cfg.IntOpt("pool_timeout", default=10, min=1, help="Seconds that a request waits for a connection, also while a fail-over lasts."),
        cfg.IntOpt("connection_recycle_time", default=3600, min=1, help="Seconds after which a connection is replaced."),
        cfg.IntOpt("retry_interval", default=3, min=1, help="Seconds between attempts to reach a database that is away, at most."),
        cfg.IntOpt("db_max_retries", default=20, min=1, help="How often a transaction is run again after a deadlock."),
        cfg.IntOpt("connect_timeout", default=5, min=1, help="Seconds that one host is given to answer."),
        cfg.IntOpt("statement_timeout", default=60, min=1, help="Seconds after which a statement is given up."),
        cfg.IntOpt(
            "lock_timeout", default=10, min=1, help="Seconds that a statement waits for another transaction's rows; then it is run again."
        ),
    ]
}
