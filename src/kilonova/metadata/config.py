"""The metadata service's settings, with Nova's names."""

from oslo_config import cfg

from kilonova.core.config import Options

OPTIONS: Options = {
    "api": [
        cfg.IntOpt(
            "metadata_cache_expiration", default=15, min=0, help="Seconds that a server's metadata are kept before they are made anew."
        )
    ],
    "neutron": [
        cfg.BoolOpt(
            "service_metadata_proxy", default=False, help="Whether a signing proxy (Neutron's metadata agent) may ask on behalf of guests."
        ),
        cfg.StrOpt("metadata_proxy_shared_secret", default="", secret=True, help="What the proxy signs server ids with."),
    ],
}
