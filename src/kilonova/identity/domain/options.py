"""Resource options. An immutable role, project or domain can be neither deleted nor changed, except for that option itself."""

from typing import Any

from kilonova.identity.errors import Immutable


def merged(old: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The old options with the given ones; null takes one away."""
    return {name: value for name, value in {**old, **given}.items() if value is not None}


def keep_immutable(options: dict[str, Any], what: str, ident: str) -> None:
    """Raises Immutable when a deletion must not happen."""
    if options.get("immutable"):
        raise Immutable(verb="delete", what=what, id=ident)


def may_change(options: dict[str, Any], what: str, ident: str, changes: dict[str, Any]) -> None:
    """changes: every attribute that the client sent. Raises Immutable."""
    if not options.get("immutable"):
        return
    given = changes.get("options") or {}
    if set(changes) != {"options"} or "immutable" not in given or given["immutable"]:
        raise Immutable(verb="update", what=what, id=ident)
