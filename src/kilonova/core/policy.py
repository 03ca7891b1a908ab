"""Who may do what. oslo.policy parses the rules (OpenStack's names, defaults and file format); we compile them to closures.

oslo.policy's own `enforce` costs about 100 µs a check, a closure 0.3. `tests/core/test_policy.py` tests that both agree. An unknown
rule fails closed: it is an error at start when a route names it, and False when asked for at run time.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import yaml
from oslo_config import cfg
from oslo_policy import _checks, _parser
from oslo_policy.policy import Rules

from kilonova.core.config import Options
from kilonova.core.context import Context

Target = Mapping[str, Any]
Check = Callable[[Context, Target], bool]


POLICY_OPTIONS: Options = {
    "oslo_policy": [
        cfg.StrOpt(
            "policy_file", default="policy.yaml", help="Overrides of policy rules, for all services; relative to the state directory."
        )
    ]
}


class Rule(msgspec.Struct, frozen=True):
    """One rule with its default. `about`: what it guards, as a sentence or the operations it covers."""

    name: str
    check: str
    about: str = ""


class PolicyError(Exception):
    """A rule is unknown, refers to an unknown rule, or does not parse."""


def overrides(path: str) -> dict[str, str]:
    """The rules of a policy.yaml (or .json, which is YAML too); none when there is no file. Raises PolicyError."""
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in found.items()):
        raise PolicyError(f'{path}: it is a mapping of rule names to checks, for example "os_compute_api:servers:show": "role:reader".')
    return found


def lets_everybody(text: str, rules: Mapping[str, str]) -> bool:
    """Whether a check asks nothing of the caller. rules: the file's, for `rule:…`; those that it does not have ask for something."""

    def free(check: Any, above: tuple[str, ...]) -> bool:
        match check:
            case _checks.TrueCheck():
                return True
            case _checks.OrCheck():
                return any(free(part, above) for part in check.rules)
            case _checks.AndCheck():
                return all(free(part, above) for part in check.rules)
            case _checks.NotCheck():
                return not free(check.rule, above)
            case _checks.RuleCheck() if check.match in rules and check.match not in above:
                return free(_parser.parse_rule(rules[check.match]), (*above, check.match))
        return False

    return free(_parser.parse_rule(text), ())


class Policy:
    """The rules of one service: defaults, with a file's overrides on top."""

    def __init__(self, rules: Sequence[Rule], overrides: Mapping[str, str] | None = None) -> None:
        self.texts = {rule.name: rule.check for rule in rules}
        unknown = sorted(set(overrides or {}) - set(self.texts))
        self.unknown_overrides = unknown
        self.texts.update({k: v for k, v in (overrides or {}).items() if k in self.texts})
        self.parsed = Rules.from_dict(self.texts)
        self._compiled: dict[str, Check] = {}
        for name in self.texts:
            self._rule(name, ())

    def _rule(self, name: str, above: tuple[str, ...]) -> Check:
        found = self._compiled.get(name)
        if found is None:
            if name not in self.texts:
                raise PolicyError(f"Policy rule {above[-1] if above else name} refers to the unknown rule {name}.")
            if name in above:
                raise PolicyError(f"Policy rule {name} refers to itself.")
            found = self._compiled[name] = self._compile(self.parsed[name], (*above, name))
        return found

    def _compile(self, check: Any, above: tuple[str, ...]) -> Check:
        if isinstance(check, _checks.TrueCheck):
            return lambda ctx, target: True
        if isinstance(check, _checks.FalseCheck):
            return lambda ctx, target: False
        if isinstance(check, _checks.NotCheck):
            inner = self._compile(check.rule, above)
            return lambda ctx, target: not inner(ctx, target)
        if isinstance(check, (_checks.AndCheck, _checks.OrCheck)):
            parts = [self._compile(rule, above) for rule in check.rules]
            return _all(parts) if isinstance(check, _checks.AndCheck) else _any(parts)
        if isinstance(check, _checks.RuleCheck):
            return self._rule(check.match, above)
        if isinstance(check, _checks.RoleCheck):
            role = check.match.lower()
            if "%(" in role:
                return lambda ctx, target: _fill(check.match, target) in ctx.roles
            return lambda ctx, target: role in ctx.roles
        if isinstance(check, _checks.GenericCheck) and type(check) is _checks.GenericCheck:
            return _field(check.match) if check.kind == "field" else _generic(check.kind, check.match)
        raise PolicyError(f"Policy rule {above[-1]} uses a check of the kind {type(check).__name__}, which is not supported.")

    def __contains__(self, name: str) -> bool:
        return name in self._compiled

    def allows(self, name: str, ctx: Context, target: Target) -> bool:
        check = self._compiled.get(name)
        return check is not None and check(ctx, target)


def _all(parts: list[Check]) -> Check:
    if len(parts) == 2:
        a, b = parts
        return lambda ctx, target: a(ctx, target) and b(ctx, target)
    return lambda ctx, target: all(part(ctx, target) for part in parts)


def _any(parts: list[Check]) -> Check:
    if len(parts) == 2:
        a, b = parts
        return lambda ctx, target: a(ctx, target) or b(ctx, target)
    return lambda ctx, target: any(part(ctx, target) for part in parts)


def credentials(ctx: Context) -> dict[str, Any]:
    """What a check may ask of the caller, in oslo.policy's names."""
    return {
        "user_id": ctx.user_id,
        "project_id": ctx.project_id,
        "tenant_id": ctx.project_id,
        "domain_id": ctx.domain_id,
        "user_domain_id": ctx.user_domain_id,
        "project_domain_id": ctx.project_domain_id,
        "system_scope": ctx.system_scope,
        "system": ctx.system_scope,
        "roles": list(ctx.roles),
        "is_admin": ctx.is_admin,
        "is_admin_project": True,
        "service_roles": list(ctx.service_roles),
    }


def _credential(kind: str) -> Callable[[Context], Any] | None:
    names = {
        "user_id": lambda c: c.user_id,
        "project_id": lambda c: c.project_id,
        "tenant_id": lambda c: c.project_id,
        "tenant": lambda c: c.project_id,
        "domain_id": lambda c: c.domain_id,
        "user_domain_id": lambda c: c.user_domain_id,
        "project_domain_id": lambda c: c.project_domain_id,
        "system_scope": lambda c: c.system_scope,
        "system": lambda c: c.system_scope,
        "is_admin": lambda c: c.is_admin,
        "is_admin_project": lambda c: True,
        "token.domain.id": lambda c: c.domain_id,
        "token.project.domain.id": lambda c: c.project_domain_id,
        "token.user.domain.id": lambda c: c.user_domain_id,
    }
    return names.get(kind)


def _fill(match: str, target: Target) -> str | None:
    try:
        return match % target
    except (KeyError, TypeError, ValueError):
        return None


def _generic(kind: str, match: str) -> Check:
    """`kind:match`: a literal or a credential on the left, a literal or %(name)s of the target on the right, compared as text."""
    key = match[2:-2] if match.startswith("%(") and match.endswith(")s") and match.count("%(") == 1 else None

    def right(target: Target) -> str | None:
        if key is None:
            return _fill(match, target)
        value = target.get(key, _MISSING)
        return None if value is _MISSING else str(value)

    try:
        literal = str(ast.literal_eval(kind))
    except (ValueError, SyntaxError):
        read = _credential(kind)
        if read is None:
            return lambda ctx, target: False

        if "%(" not in match:
            return lambda ctx, target: str(read(ctx)) == match

        def check(ctx: Context, target: Target) -> bool:
            value = read(ctx)
            # A caller without a project and a target without one are not of the same project.
            return value is not None and str(value) == right(target)

        return check
    return lambda ctx, target: literal == right(target)


_MISSING = object()


def _field(match: str) -> Check:
    """Neutron's `field:networks:shared=True`: an attribute of the target has this value; ~ at its start makes it a prefix."""
    name, _, wanted = match.partition(":")[2].partition("=")
    if wanted.startswith("~"):
        return lambda ctx, target: str(target.get(name, "")).startswith(wanted[1:].rstrip(".*$").lstrip("^"))
    return lambda ctx, target: str(target.get(name)) == wanted
