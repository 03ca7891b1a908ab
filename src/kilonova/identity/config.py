"""Identity's settings."""

from oslo_config import cfg

from kilonova.core.config import Options

OPTIONS: Options = {
    "DEFAULT": [cfg.IntOpt("max_project_tree_depth", default=5, min=1, help="Levels of projects below a domain.")],
    "token": [
        cfg.IntOpt("expiration", default=3600, min=1, help="Seconds that a token is valid."),
        cfg.IntOpt("allow_expired_window", default=172800, min=0, help="Seconds that a service may still validate an expired token for."),
    ],
    "fernet_tokens": [
        cfg.IntOpt("max_active_keys", default=3, min=1, help="Keys kept for decryption, the primary among them."),
        cfg.IntOpt("rotation_interval", default=86400, min=60, help="Seconds between two key rotations."),
    ],
    "identity": [
        cfg.IntOpt("password_hash_rounds", default=12, min=4, max=18, help="bcrypt's cost: 2^rounds iterations."),
        cfg.IntOpt("max_password_length", default=4096, min=8, help="Characters of the longest password accepted."),
        cfg.StrOpt("default_domain_id", default="default", help="The domain of users and projects that name none."),
    ],
}
