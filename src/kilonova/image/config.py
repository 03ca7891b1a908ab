"""Image's settings."""

from oslo_config import cfg

from kilonova.core.config import Options

OPTIONS: Options = {
    "DEFAULT": [
        cfg.IntOpt("image_size_cap", default=1 << 40, min=1, max=1 << 53, help="Bytes of the largest image that may be uploaded."),
        cfg.IntOpt("image_property_quota", default=128, min=-1, help="Custom properties an image may have; -1: any number."),
        cfg.IntOpt("image_tag_quota", default=128, min=-1, help="Tags an image may have; -1: any number."),
        cfg.IntOpt("image_member_quota", default=128, min=-1, help="Projects an image may be shared with; -1: any number."),
        cfg.StrOpt(
            "user_storage_quota",
            default="0",
            regex=r"^\d+\s*(B|KB|MB|GB|TB)?$",
            help="Bytes that the images of a project may have together, with a unit (B, KB, MB, GB, TB: powers of 1024); 0: no limit.",
        ),
        cfg.IntOpt("limit_param_default", default=25, min=1, help="Images on a page when the client does not say how many."),
        cfg.IntOpt("api_limit_max", default=1000, min=1, help="Most images on a page, whatever the client says."),
    ],
    "image_format": [
        cfg.BoolOpt(
            "require_image_format_match",
            default=True,
            help="Refuse an upload whose content is not of the declared disk format. Unsafe content is refused either way.",
        )
    ],
    "glance_store": [
        cfg.StrOpt("default_backend", default="file", help="The identifier of the store, as clients see it."),
        cfg.StrOpt("filesystem_store_datadir", default="", help="The folder of the file store; empty: images/ in the state directory."),
    ],
    "glance": [
        cfg.StrOpt("cafile", default="", help="Certificates (PEM) to check another Glance's with; empty: the system's."),
        cfg.BoolOpt("insecure", default=False, help="Whether another Glance's certificate is left unchecked."),
        cfg.IntOpt("timeout", default=60, min=1, help="Seconds of silence after which another Glance counts as away."),
    ],
}

_UNITS = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def quota_bytes(text: str) -> int:
    """Bytes of a user_storage_quota. 0: no limit."""
    digits = text.strip().rstrip("BKMGT ")
    return int(digits) * _UNITS[text.strip()[len(digits) :].strip()]
