"""Network's settings. Sections and names are Neutron's where the meaning is the same."""

from oslo_config import cfg

from kilonova.core.config import Options

QUOTAS = {
    "network": 100,
    "subnet": 100,
    "port": 500,
    "router": 10,
    "floatingip": 50,
    "security_group": 10,
    "security_group_rule": 100,
    "subnetpool": -1,
}

OPTIONS: Options = {
    "DEFAULT": [
        cfg.StrOpt("base_mac", default="fa:16:3e:00:00:00", help="The first three bytes of MAC addresses; the others are random."),
        cfg.IntOpt(
            "global_physnet_mtu", default=1500, min=576, max=65535, help="Largest frame of physical networks; VXLAN takes 50 bytes."
        ),
        cfg.IntOpt("agent_down_time", default=75, min=1, help="Seconds without a heartbeat after which an agent counts as dead."),
        cfg.IntOpt("max_fixed_ips_per_port", default=16, min=1, help="Most addresses of one port."),
        cfg.IntOpt("max_allowed_address_pair", default=10, min=0, help="Most allowed address pairs of one port."),
        cfg.IntOpt("max_dns_nameservers", default=5, min=0, help="Most name servers of one subnet."),
        cfg.IntOpt("max_subnet_host_routes", default=20, min=0, help="Most host routes of one subnet."),
        cfg.IntOpt("max_routes", default=30, min=0, help="Most extra routes of one router."),
        cfg.IntOpt("pagination_max_limit", default=-1, help="Most rows of one page of a list; -1 for no bound."),
        cfg.StrOpt("network_availability_zone", default="nova", help="The zone of networks and routers."),
    ],
    "ml2_type_vxlan": [
        cfg.StrOpt("vni_ranges", default="1:16000000", help="first:last VXLAN network identifier of tenant networks."),
    ],
    "network_agent": [
        cfg.IntOpt("report_interval", default=30, min=1, help="Seconds between two heartbeats."),
        cfg.IntOpt("resync_interval", default=300, min=10, help="Seconds between two full synchronisations of a host."),
        cfg.FloatOpt("batch_window", default=0.05, min=0, help="Seconds that news for other hosts (addresses, groups) are collected."),
    ],
    "network_quotas": [
        cfg.IntOpt(f"quota_{name}", default=default, min=-1, help=f"Most of {name} in one project; -1 for no bound.")
        for name, default in QUOTAS.items()
    ],
}  # fmt: skip
