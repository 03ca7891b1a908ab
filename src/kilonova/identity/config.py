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
    "keystone_authtoken": [
        cfg.StrOpt("auth_url", default="", help="Another Keystone that says who everybody is; empty: Kilonova's own identity does."),
        cfg.StrOpt("www_authenticate_uri", default="", help="Where clients without a token are sent; empty: auth_url."),
        cfg.StrOpt("auth_type", default="password", choices=["password"], help="How our service user proves who it is."),
        cfg.StrOpt("username", default="", help="Our service user; it needs the role service or admin in its project."),
        cfg.StrOpt("password", default="", secret=True, help="Its password."),
        cfg.StrOpt("project_name", default="service", help="Its project."),
        cfg.StrOpt("user_domain_name", default="Default", help="The user's domain."),
        cfg.StrOpt("project_domain_name", default="Default", help="The project's domain."),
        cfg.StrOpt("region_name", default="", help="The region whose endpoints are used; empty: any."),
        cfg.StrOpt("cafile", default="", help="Certificates (PEM) to check Keystone's with; empty: the system's."),
        cfg.BoolOpt("insecure", default=False, help="Whether Keystone's certificate is left unchecked."),
        cfg.IntOpt("http_connect_timeout", default=10, min=1, help="Seconds to wait for Keystone."),
        cfg.IntOpt(
            "token_cache_time",
            default=10,
            min=-1,
            help="Seconds that an answer about a token is believed: so late a revocation is noticed. 0 or less: Keystone is always asked.",
        ),
        cfg.ListOpt("service_token_roles", default=["service"], help="Roles with which a service may use a user's expired token."),
    ],
}
