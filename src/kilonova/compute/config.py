"""Compute's settings, with Nova's names."""

from oslo_config import cfg

from kilonova.core.config import Options

OPTIONS: Options = {
    "DEFAULT": [
        cfg.StrOpt("compute_driver", default="fake", help="Hypervisor driver: libvirt or fake."),
        cfg.StrOpt("instance_name_template", default="instance-%08x", help="Name of a guest on its hypervisor, from its number."),
        cfg.IntOpt("password_length", default=12, min=6, help="Letters of a generated administrator password."),
        cfg.FloatOpt("initial_cpu_allocation_ratio", default=4.0, min=0.0, help="Virtual CPUs for each physical one."),
        cfg.FloatOpt("initial_ram_allocation_ratio", default=1.0, min=0.0, help="Memory given out for each MiB there is."),
        cfg.FloatOpt("initial_disk_allocation_ratio", default=1.0, min=0.0, help="Disk given out for each GiB there is."),
        cfg.IntOpt("reserved_host_memory_mb", default=512, min=0, help="Memory kept for the host, MiB."),
        cfg.IntOpt("service_down_time", default=60, min=1, help="Seconds without a heartbeat after which a service is down."),
        cfg.IntOpt("report_interval", default=10, min=1, help="Seconds between two heartbeats."),
        cfg.IntOpt("vif_plugging_timeout", default=60, min=0, help="Seconds until a boot fails whose network is not wired. 0: no wait."),
        cfg.IntOpt("max_concurrent_builds", default=16, min=1, help="Guests that a host starts at one time."),
        cfg.StrOpt("default_availability_zone", default="nova", help="Zone of hosts that are in none."),
        cfg.StrOpt("internal_service_availability_zone", default="internal", help="Zone shown for services without hypervisor."),
    ],
    "api": [
        cfg.IntOpt("max_limit", default=1000, min=1, help="Most rows of one list."),
        cfg.BoolOpt(
            "list_records_by_skipping_down_cells",
            default=True,
            help="Whether lists go without the servers of a cell that does not answer; no: such a list is an error.",
        ),
        cfg.IntOpt("cell_timeout", default=10, min=1, help="Seconds that a request waits for one cell's database."),
        cfg.BoolOpt("enable_instance_password", default=True, help="Whether a create tells a generated administrator password."),
    ],
    "join": [
        cfg.BoolOpt("enabled", default=True, help="Whether compute's API processes of a cloud with a broker answer `kilonova join`."),
        cfg.StrOpt(
            "key_file",
            default="",
            help="A file with the passphrase of the certificate authority's key, the same on all controllers; empty: the key lies in the "
            "database in the clear.",
        ),
        cfg.IntOpt("certificate_days", default=90, min=1, max=825, help="Days that a host's certificate is valid."),
    ],
    "cell": [
        cfg.StrOpt(
            "control_transport_url",
            default="",
            secret=True,
            help="On hosts of a cell with a broker of its own: the control plane's, where network and images are; empty: [DEFAULT]'s.",
        )
    ],
    "api_database": [
        cfg.StrOpt(
            "connection",
            default="",
            secret=True,
            help="The API database's URL, when cells have databases of their own; empty: one database for all, with cell0 and cell1 in it.",
        )
    ],
    "quota": [
        cfg.IntOpt("instances", default=10, min=-1, help="Servers for each project; -1: no limit."),
        cfg.IntOpt("cores", default=20, min=-1, help="Virtual CPUs for each project."),
        cfg.IntOpt("ram", default=50 * 1024, min=-1, help="MiB of memory for each project."),
        cfg.IntOpt("metadata_items", default=128, min=-1, help="Metadata items for each server."),
        cfg.IntOpt("injected_files", default=5, min=-1, help="Injected files for each create (before 2.57)."),
        cfg.IntOpt("injected_file_content_bytes", default=10 * 1024, min=-1, help="Bytes of an injected file."),
        cfg.IntOpt("injected_file_path_length", default=255, min=-1, help="Letters of an injected file's path."),
        cfg.IntOpt("key_pairs", default=100, min=-1, help="Key pairs for each user."),
        cfg.IntOpt("server_groups", default=10, min=-1, help="Server groups for each project."),
        cfg.IntOpt("server_group_members", default=10, min=-1, help="Servers for each server group."),
    ],
    "glance": [
        cfg.StrOpt("endpoint_override", default="http://127.0.0.1:9292", help="The image service's public address, for links to images.")
    ],
    "scheduler": [cfg.IntOpt("max_attempts", default=3, min=1, help="Hosts that are tried for one boot.")],
    "filter_scheduler": [
        cfg.ListOpt(
            "enabled_filters",
            default=["ComputeFilter", "AvailabilityZoneFilter", "RequestedHostFilter", "ImagePropertiesFilter", "ResourceFilter"],
            help="Filters in the order they are asked; see kilonova.compute.scheduler.filters.",
        ),
        cfg.ListOpt("weight_classes", default=["RAMWeigher"], help="Weighers whose sum ranks the hosts that are left."),
    ],
    "libvirt": [
        cfg.StrOpt("virt_type", default="auto", choices=["auto", "kvm", "qemu"], help="auto tries whether KVM is usable."),
        cfg.StrOpt("connection_uri", default="auto", help="libvirt's URI; auto: embedded in this process."),
        cfg.StrOpt("cpu_model", default="", help="CPU model of guests; empty: chosen for the virt_type."),
    ],
}
