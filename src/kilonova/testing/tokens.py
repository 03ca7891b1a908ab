"""Tokens without identity, for tests of one service alone: a name is a token, a context is what it stands for."""

import msgspec

from kilonova.core.context import Context
from kilonova.core.errors import Unauthorized

CHAIN = {
    "admin": ("admin", "manager", "member", "reader"),
    "manager": ("manager", "member", "reader"),
    "member": ("member", "reader"),
    "reader": ("reader",),
    "service": ("service",),
}


def context(role: str = "member", project: str = "p1", user: str = "") -> Context:
    """A user of a project with a role and all that it implies."""
    return Context(
        user_id=user or f"{role}-{project}",
        user_name=user or role,
        user_domain_id="default",
        user_domain_name="Default",
        project_id=project,
        project_name=project,
        project_domain_id="default",
        project_domain_name="Default",
        roles=CHAIN[role],
        methods=("password",),
    )


class FakeTokens:
    """authenticate() of a fake identity. Any "<role>:<project>" is a token (admin:p1, member:p2); others are what `add` made them."""

    def __init__(self) -> None:
        self.known: dict[str, Context] = {}

    def add(self, token: str, ctx: Context) -> str:
        self.known[token] = ctx
        return token

    async def authenticate(self, token: str, service_token: str | None = None) -> Context:
        if token in self.known:
            return self.known[token]
        role, _, project = token.partition(":")
        if role not in CHAIN or not project:
            raise Unauthorized
        ctx = context(role, project)
        return msgspec.structs.replace(ctx, service_roles=("service",)) if service_token else ctx

    async def project_exists(self, project_id: str) -> bool:
        return True
