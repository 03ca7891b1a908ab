"""Settings of the bus, under oslo.messaging's names, and the address of a broker."""

import urllib.parse
from collections.abc import Mapping

import msgspec
from oslo_config import cfg

from kilonova.core.config import ConfigError, Options, Settings

OPTIONS: Options = {
    "DEFAULT": [
        cfg.StrOpt(
            "transport_url",
            default="",
            secret=True,
            help="The broker: rabbit://user:password@host:port[,user:password@host:port]/vhost. Empty: one process, no broker.",
        ),
        cfg.StrOpt("control_exchange", default="openstack", help="Exchange that notifications are published to."),
        cfg.IntOpt("executor_thread_pool_size", default=64, min=1, help="Messages of one address that a process handles side by side."),
    ],
    "oslo_messaging_rabbit": [
        cfg.BoolOpt("ssl", default=False, help="Connect with TLS. The broker's certificate and name are always checked."),
        cfg.StrOpt("ssl_ca_file", default="", help="Certificates that may sign the broker's. Empty: the system's."),
        cfg.StrOpt("ssl_cert_file", default="", help="Our own certificate, when the broker asks for one."),
        cfg.StrOpt("ssl_key_file", default="", help="The key of our own certificate."),
        cfg.IntOpt(
            "heartbeat_timeout_threshold",
            default=60,
            min=0,
            help="Seconds without a sign of life after which the broker is taken for dead; 0: never.",
        ),
        cfg.FloatOpt("rabbit_retry_interval", default=1.0, min=0.1, help="Seconds before the first attempt to connect again."),
        cfg.FloatOpt("rabbit_retry_backoff", default=2.0, min=1.0, help="How many times longer each further pause is."),
        cfg.FloatOpt("rabbit_interval_max", default=3.0, min=0.1, help="The longest pause between attempts, in seconds."),
        cfg.IntOpt(
            "rabbit_qos_prefetch_count",
            default=0,
            min=0,
            help="Messages a process takes at once for an address; 0: executor_thread_pool_size.",
        ),
        cfg.IntOpt(
            "queue_length", default=5000, min=1, help="Messages that may wait for an address; more are refused. The same in all processes."
        ),
    ],
    "broker": [
        cfg.StrOpt(
            "management_url",
            default="",
            secret=True,
            help="RabbitMQ's management API, for the users of hosts that join: http(s)://user:password@host:port, a user with the tag "
            "administrator. Empty: rabbitmqctl, on the broker's own machine.",
        ),
        cfg.StrOpt("management_ca_file", default="", help="Certificates that may sign the management API's. Empty: the system's."),
        cfg.StrOpt("rabbitmqctl", default="rabbitmqctl", help="The program that manages users when there is no management_url."),
        cfg.ListOpt("agent_brokers", default=[], help="Brokers (host:port) as joined hosts reach them; empty: those of transport_url."),
        cfg.BoolOpt("agent_ssl", default=False, help="Whether joined hosts connect with TLS although we do not."),
        cfg.StrOpt("agent_ca_file", default="", help="Certificates that may sign the broker's, for joined hosts; empty: ssl_ca_file."),
        cfg.BoolOpt(
            "client_certificates",
            default=False,
            help="Whether joined hosts show the broker their certificates: it must trust the cloud's authority "
            "(`kilonova join-token --authority`).",
        ),
    ],
    "oslo_messaging_notifications": [
        cfg.StrOpt(
            "driver",
            default="noop",
            choices=["noop", "messagingv2", "log"],
            help="Where notifications go: nowhere, to the broker, or to the log.",
        ),
        cfg.StrOpt("transport_url", default="", secret=True, help="The broker of notifications. Empty: that of [DEFAULT]."),
        cfg.BoolOpt("rabbit_quorum_queue", default=True, help="Keep notifications in replicated, durable (quorum) queues."),
    ],
    "notifications": [
        cfg.StrOpt(
            "notification_format",
            default="versioned",
            choices=["versioned", "unversioned", "both"],
            help="Only versioned notifications are sent.",
        ),
        cfg.ListOpt("versioned_notifications_topics", default=["versioned_notifications"], help="Topics of versioned notifications."),
    ],
}


class Broker(msgspec.Struct, frozen=True):
    host: str
    port: int
    user: str
    password: str

    @property
    def place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RabbitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    brokers: tuple[Broker, ...]
    vhost: str = "/"
    ssl: bool = False
    ssl_ca_file: str = ""
    ssl_cert_file: str = ""
    ssl_key_file: str = ""
    heartbeat_s: int = 60
    retry_s: float = 1.0
    retry_backoff: float = 2.0
    retry_max_s: float = 3.0
    prefetch: int = 64
    queue_length: int = 5000


def parse_url(url: str, *, ssl: bool = False) -> tuple[tuple[Broker, ...], str]:
    """Brokers in order, and the virtual host. Hosts without a user have that of the first. Raises ConfigError without a secret in it."""
    scheme, found, rest = url.partition("://")
    if not found or scheme not in ("rabbit", "amqp", "kombu"):
        raise ConfigError("[DEFAULT] transport_url: expected rabbit://user:password@host:port/vhost.")
    places, _, path = rest.partition("/")
    vhost = urllib.parse.unquote(path.partition("?")[0]) or "/"
    user, password = "guest", "guest"
    brokers = []
    for place in places.split(","):
        login, at, where = place.rpartition("@")
        if at:
            name, _, secret = login.partition(":")
            user, password = urllib.parse.unquote(name), urllib.parse.unquote(secret)
        host, _, port = where.rpartition(":") if not where.endswith("]") and ":" in where else (where, "", "")
        host = host.removeprefix("[").removesuffix("]")
        if not host or (port and not port.isdigit()):
            raise ConfigError("[DEFAULT] transport_url: each broker is written user:password@host:port.")
        brokers.append(Broker(host, int(port) if port else 5671 if ssl else 5672, user, password))
    return tuple(brokers), vhost


def rabbit_options(settings: Mapping[str, Settings], url: str = "") -> RabbitOptions:
    """From snapshots of the groups DEFAULT and oslo_messaging_rabbit."""
    default, rabbit = settings["DEFAULT"], settings["oslo_messaging_rabbit"]
    brokers, vhost = parse_url(url or default.transport_url, ssl=rabbit.ssl)
    return RabbitOptions(
        brokers=brokers,
        vhost=vhost,
        ssl=rabbit.ssl,
        ssl_ca_file=rabbit.ssl_ca_file,
        ssl_cert_file=rabbit.ssl_cert_file,
        ssl_key_file=rabbit.ssl_key_file,
        heartbeat_s=rabbit.heartbeat_timeout_threshold,
        retry_s=rabbit.rabbit_retry_interval,
        retry_backoff=rabbit.rabbit_retry_backoff,
        retry_max_s=rabbit.rabbit_interval_max,
        prefetch=rabbit.rabbit_qos_prefetch_count or default.executor_thread_pool_size,
        queue_length=rabbit.queue_length,
    )
