"""Who is asking. A Context crosses contracts and is stored with an operation: it holds ids and roles, never a token."""

import msgspec


class Context(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    user_id: str | None = None
    user_name: str | None = None
    user_domain_id: str | None = None
    user_domain_name: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    project_domain_id: str | None = None
    project_domain_name: str | None = None
    domain_id: str | None = None
    domain_name: str | None = None
    system_scope: str | None = None
    roles: tuple[str, ...] = ()
    service: str | None = None
    """The service that acts on the user's behalf, when one does."""
    service_roles: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    audit_ids: tuple[str, ...] = ()
    expires_at: int = 0
    """When the token ends (microseconds); 0: a service's own identity."""
    request_id: str = ""
    global_request_id: str | None = None

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    def on_behalf(self, service: str) -> "Context":
        """The same user with a service acting for him: what a runner uses long after the request has ended."""
        return msgspec.structs.replace(self, service=service, service_roles=("service",))


def service_context(service: str, request_id: str = "") -> Context:
    """A service's own identity: admin and service in the project `service`."""
    return Context(
        user_name=service,
        user_id=service,
        project_name="service",
        roles=("admin", "service"),
        service=service,
        service_roles=("service",),
        request_id=request_id,
    )


ANONYMOUS = Context()
